"""A `LearnedAugment` as a Kornia augmentation: inside `AugmentationSequential`, with ``data_keys``, replay and inverse."""

from typing import Any

import torch
from kornia.augmentation import GeometricAugmentationBase2D
from kornia.constants import Resample
from kornia.geometry.transform import warp_affine
from torch import Tensor

from .. import functional
from ..augment import LearnedAugment
from ..augment.learnable import check_aug
from ..augment_distribution import AugmentDistribution
from ..params import AugmentParams
from ..utils.errors import InstaAugError, check_number
from ..utils.modes import first_weight

UNIFORM = "uniform"  # Kornia draws before it shows the image: φ turns these numbers into parameters when it does


class KorniaAugment(GeometricAugmentationBase2D):
    """A learned augmentation that Kornia's containers treat as one of their geometric ones.

    Images get geometry and colour; masks (nearest neighbour), boxes and keypoints get geometry. Frames of a clip, in
    ``VideoSequential(same_on_frame=True)``, get what the one in the middle asks for. What was drawn is in
    ``_params``, as for any Kornia augmentation: ``sequential(…, params=sequential._params)`` replays it and
    ``sequential.inverse(…)`` undoes the geometry.

    Args:
        aug: the transform; its own ``p`` must be 1 and its ``same_on_batch`` False. Gradients reach its predictor.
        p: probability with which an image is transformed.
        p_batch: probability with which a batch is.
        same_on_batch: one transformation for the whole batch, from the mean of φ's outputs over it.
        keepdim: give ``(C, H, W)`` back for ``(C, H, W)``.

    Raises:
        InstaAugError: a transform with ``p`` < 1 or ``same_on_batch``. When called: what `LearnedAugment` raises; or
            parameters that no image was seen with.

    Example:
        >>> from kornia.augmentation import AugmentationSequential
        >>> seq = AugmentationSequential(wrap(LearnedAugment(["crop"])), data_keys=["input", "mask"])
        >>> [out.shape for out in seq(torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32))]
        [torch.Size([2, 3, 32, 32]), torch.Size([2, 1, 32, 32])]
    """

    def __init__(
        self,
        aug: LearnedAugment,
        p: float = 1.0,
        p_batch: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        aug = check_aug(aug)
        if aug.p < 1 or aug.same_on_batch:
            raise InstaAugError(
                f"aug: needs p=1 and same_on_batch=False, got p={aug.p}, same_on_batch={aug.same_on_batch}; give them to "
                "KorniaAugment instead"
            )
        check_number("p", p, "[0, 1]")
        check_number("p_batch", p_batch, "[0, 1]")
        super().__init__(p=p, p_batch=p_batch, same_on_batch=same_on_batch, keepdim=keepdim)
        self.aug = aug
        self._fields = [field for family in aug.families for field in family.fields]
        weight = first_weight(aug.predictor)
        with torch.no_grad():
            blank = torch.zeros(1, aug.in_channels, 64, 64, device=weight.device)
            self._n_uniforms = aug.predict(blank).n_uniforms

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Uniform numbers ``(B, n)``; the image decides what they mean."""
        n = 1 if self.same_on_batch else batch_shape[0]
        uniform = torch.rand(n, self._n_uniforms, device=self.device).expand(batch_shape[0], -1)
        params = {UNIFORM: uniform}
        if self.aug.output_size is not None:
            params["output_size"] = torch.tensor([self.aug.output_size] * batch_shape[0], dtype=torch.long)
        return params

    def forward(self, input: Tensor, params: dict[str, Tensor] | None = None, **kwargs: Any) -> Tensor:
        """Images ``(B, C, H, W)`` or ``(C, H, W)``, float in [0, 1]; ``params`` replays."""
        batch = self.transform_tensor(input)
        if params is None:
            params = self.forward_parameters(batch.shape)
        self._look(batch, params)
        return super().forward(input, params=params, **kwargs)

    def _look(self, batch: Tensor, params: dict[str, Tensor]) -> None:
        """Fill in the transformation's own parameters, unless they are there (replay)."""
        if any(field in params for field in self._fields):
            return
        if UNIFORM not in params:
            raise InstaAugError(
                f"params: expected what forward_parameters gives or fields of {', '.join(self._fields)}, got "
                f"{', '.join(sorted(params))}"
            )
        uniform, images = params[UNIFORM].to(self.aug.device), self.aug.prepare(batch)[0]
        if self.same_on_batch:
            drawn = self.aug.predict(images, pooled=True).from_uniform(uniform[:1])
            params.update(drawn.repeat_interleave(len(batch)))
            return
        # Kornia gives the frames of a clip the same numbers: all of them get what the one in the middle asks for.
        clip = torch.cat([uniform.new_zeros(1), (uniform[1:] != uniform[:-1]).any(1).float()]).cumsum(0).long()
        frames = clip.bincount()
        middle = frames.cumsum(0) - frames + frames // 2
        distribution: AugmentDistribution = self.aug.predict(images[middle])
        params.update(distribution.from_uniform(uniform[middle]).map(lambda field: field[clip]))

    def _drawn(self, params: dict[str, Tensor]) -> AugmentParams:
        fields = {name: params[name] for name in self._fields if name in params}
        if not fields:
            raise InstaAugError(
                "params: no image has been seen with them, and the image decides the transformation; pass the image with "
                "its masks, boxes and keypoints, or replay the params of such a call"
            )
        return AugmentParams(**fields)

    def compute_transformation(self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any]) -> Tensor:
        """In→out matrices ``(B, 3, 3)`` in Kornia's pixels: whole numbers are pixel centres."""
        drawn, (height, width) = self._drawn(params), input.shape[-2:]
        matrix = functional.geometry_matrix(self.aug.families, drawn, height, width)
        if matrix is None:
            matrix = torch.eye(3, device=input.device).expand(len(input), 3, 3)
        size = self.aug.output_size or (height, width)
        with _exact(input):
            out = _to_pixels(*size, matrix) @ torch.linalg.inv(matrix) @ _to_pixels(height, width, matrix).inverse()
        return out.to(input)

    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Geometry and colour."""
        batch, back = self.aug.prepare(input)
        return back(self.aug.apply(batch, self._drawn(params)))

    def apply_transform_mask(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Geometry alone; nearest neighbour unless ``extra_args`` asks for another resample. ``mask_fill`` outside."""
        aug, mode = self.aug, "bilinear" if flags.get("resample") == Resample.BILINEAR else "nearest"
        fill = float(aug.mask_fill)
        return functional.apply(input, self._drawn(params), aug.families, aug.output_size, fill, mode, colour=False)

    def inverse_transform(
        self,
        input: Tensor,
        flags: dict[str, Any],
        transform: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Back to where the pixels came from; what a crop cut off is 0."""
        mode = "nearest" if flags.get("resample") == Resample.NEAREST else "bilinear"
        size = size or tuple(input.shape[-2:])
        with _exact(input):
            out = warp_affine(input.float(), transform[:, :2].float(), size, mode=mode, align_corners=False)
        return out.to(input.dtype)

    def inverse_masks(self, input: Tensor, params: dict, flags: dict, transform: Tensor | None = None, **kwargs: Any):
        """As Kornia's, nearest neighbour by default."""
        return super().inverse_masks(input, params, {"resample": Resample.NEAREST, **flags}, transform, **kwargs)

    def __repr__(self) -> str:
        options = f"p={self.p}, p_batch={self.p_batch}, same_on_batch={self.same_on_batch}"
        return f"{type(self).__name__}({self.aug!r}, {options})"


def wrap(aug: LearnedAugment, **kwargs: Any) -> KorniaAugment:
    """``aug`` for Kornia's containers; ``kwargs`` are those of `KorniaAugment`."""
    return KorniaAugment(aug, **kwargs)


def _exact(like: Tensor) -> torch.autocast:
    """Half-precision products of matrices move the corners of a photograph by pixels."""
    return torch.autocast(like.device.type, enabled=False)


def _to_pixels(height: int, width: int, like: Tensor) -> Tensor:
    """Coordinates in [−1, 1] to those of Kornia, in pixels."""
    rows = [[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]]
    return torch.tensor(rows, dtype=like.dtype, device=like.device)
