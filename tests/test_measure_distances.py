import pytest
import torch
from scipy.spatial.distance import cdist

import instaaug_transforms as ia
from instaaug_transforms.measure.distances import distance, mean_to_others, relative

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("metric", "scipys"), [("cosine", "cosine"), ("l2", "euclidean")])
def test_all_pairs_are_scipys(metric, scipys):
    z, moved = torch.randn(40, 16) + 1, torch.randn(40, 16) + 1
    table = torch.tensor(cdist(z.double(), moved.double(), scipys), dtype=torch.float32)
    assert torch.allclose(distance(z, moved, metric), table.diagonal(), atol=1e-5)
    others = (table.sum(1) - table.diagonal()) / 39
    assert torch.allclose(mean_to_others(z, moved, metric, chunk=7), others, atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_equal_embeddings_are_at_exactly_zero(metric):
    z = torch.randn(20, 512) * 1e3
    assert distance(z, z.clone(), metric).abs().max() == 0
    assert (relative(mean_to_others(z, z, metric), distance(z, z, metric)) == 1).all()


def test_cosine_ignores_size_and_l2_does_not():
    z = torch.randn(5, 8)
    assert distance(z, 3 * z, "cosine").max() < 1e-6
    assert torch.allclose(distance(z, 3 * z, "l2"), 2 * z.norm(dim=1))


def test_embeddings_that_are_all_the_same_have_no_scale():
    for z in (torch.zeros(4, 3), torch.ones(4, 3)):
        for metric in ("cosine", "l2"):
            assert relative(mean_to_others(z, z, metric), distance(z, z, metric)).isnan().all()


def test_errors():
    with pytest.raises(ia.InstaAugError, match="at least 2 images, got 1"):
        mean_to_others(torch.ones(1, 3), torch.ones(1, 3), "l2")
    with pytest.raises(ia.InstaAugError, match="one of cosine, l2, got 'l1'"):
        distance(torch.ones(1, 3), torch.ones(1, 3), "l1")


@pytest.mark.parametrize("offset", [10.0, 300.0])
def test_embeddings_that_lie_close_together_far_from_zero_keep_their_distances(offset):
    z, moved = offset + 0.01 * torch.randn(60, 32), offset + 0.01 * torch.randn(60, 32)
    table = torch.tensor(cdist(z.double(), moved.double()), dtype=torch.float32)
    expected = (table.sum(1) - table.diagonal()) / 59
    assert torch.allclose(mean_to_others(z, moved, "l2"), expected, rtol=1e-3)
