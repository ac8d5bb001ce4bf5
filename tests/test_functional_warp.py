"""The grid of an affine map."""

import torch
import torch.nn.functional as F

from instaaug_transforms import functional
from instaaug_transforms.functional.warp import sampling_grid

from ._geometry import GEOMETRY, random_params


def test_sampling_grid_is_that_of_torch():
    matrix = functional.geometry_matrix(GEOMETRY, random_params(9), 31, 57)
    grid = sampling_grid(matrix, (31, 57))
    assert torch.allclose(grid, F.affine_grid(matrix[:, :2], [9, 3, 31, 57], align_corners=False), atol=1e-6)
