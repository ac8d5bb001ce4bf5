"""What users hand over — PIL images, uint8, clips, normalised batches — to float batches in [0, 1], and back."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors

from ..utils.errors import InstaAugError
from .pictures import picture, pixels

# Rounding of resizes and of undone normalisations; a normalised image is far outside.
SLACK = 1e-3
CONVERSIONS = {1: "v2.Grayscale(1)", 3: "v2.RGB()"}


def is_image(leaf: object) -> bool:
    """PIL images, image and video tv_tensors, and tensors that are no tv_tensor."""
    if isinstance(leaf, (PIL.Image.Image, tv_tensors.Image, tv_tensors.Video)):
        return True
    return isinstance(leaf, Tensor) and not isinstance(leaf, tv_tensors.TVTensor)


def plain(leaf: Tensor) -> Tensor:
    """A tv_tensor without its class, a plain tensor as it is. No copy."""
    if not isinstance(leaf, tv_tensors.TVTensor):
        return leaf
    # torch.compile traces indexing of a tv_tensor, which unwraps it, but not as_subclass.
    return leaf[...] if torch.compiler.is_compiling() else leaf.as_subclass(Tensor)


def rewrap(out: Tensor, like: Tensor) -> Tensor:
    """``out`` as the kind of tv_tensor that ``like`` is; a plain tensor where it is none."""
    if not isinstance(like, tv_tensors.TVTensor):
        return out
    # tv_tensors.wrap is closed to torch.compile; kinds without attributes can be made anew.
    for kind in (tv_tensors.Image, tv_tensors.Video, tv_tensors.Mask):
        if torch.compiler.is_compiling() and isinstance(like, kind):
            return kind(out)
    return tv_tensors.wrap(out, like=like)


def check_fill(fill: Any, channels: int) -> tuple[float | tuple[float, ...], float]:
    """torchvision's ``fill`` to that of images — one value or one per channel, in [0, 1] — and that of masks, any number.

    Raises:
        InstaAugError: another kind of value, or one out of range.
    """
    by_kind = dict(fill) if isinstance(fill, Mapping) else {"others": fill, tv_tensors.Mask: 0}
    if unknown := [kind for kind in by_kind if kind not in (tv_tensors.Image, tv_tensors.Mask, "others")]:
        raise InstaAugError(
            f"fill: expected the kinds tv_tensors.Image, tv_tensors.Mask and 'others', got {unknown[0]!r}"
        )
    of_image = by_kind.get(tv_tensors.Image, by_kind.get("others", 0.0))
    # A grey for images is no label: "others" speaks for masks only where images have an entry of their own.
    of_mask = by_kind.get(tv_tensors.Mask, by_kind.get("others", 0) if tv_tensors.Image in by_kind else 0)
    each = tuple(of_image) if isinstance(of_image, Sequence) else (of_image,)
    if not all(isinstance(value, (int, float)) and 0 <= value <= 1 for value in each) or len(each) not in (1, channels):
        raise InstaAugError(
            f"fill: expected a value in [0, 1] or one per channel ({channels}), also of uint8 images, got {of_image}"
        )
    if not isinstance(of_mask, Real):
        raise InstaAugError(f"fill: expected a number for masks, got {of_mask!r}")
    return (each[0] if len(each) == 1 else each), of_mask


def check_size(size: Any, name: str = "output_size") -> tuple[int, int] | None:
    """(height, width) of one side, or of both; None of None.

    Raises:
        InstaAugError: something else than whole pixels.
    """
    if size is None:
        return None
    sides = (size, size) if isinstance(size, Integral) else tuple(size) if hasattr(size, "__len__") else ()
    if len(sides) != 2 or not all(
        isinstance(side, Integral) and not isinstance(side, bool) and side >= 1 for side in sides
    ):
        given = (
            f"a tensor {tuple(size.shape)}; of images give images.shape[-2:]"
            if isinstance(size, Tensor)
            else repr(size)
        )
        raise InstaAugError(f"{name}: expected (height, width), whole pixels ≥ 1, or one side, got {given}")
    return int(sides[0]), int(sides[1])


class Normalization:
    """Undo and redo ``(x − mean) / std``, given per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int | None = None) -> None:
        self.mean, self.std = (tuple(float(number) for number in part) for part in (mean, std))
        n = len(self.mean)
        finite = all(map(math.isfinite, (*self.mean, *self.std))) and all(s > 0 for s in self.std)
        if n != len(self.std) or n not in (1, channels or n) or not finite:
            each = "" if channels is None else f", for {channels} channel(s)"
            raise InstaAugError(
                f"normalization: mean and std need equal lengths, finite numbers and std > 0{each}, got {self.mean} and {self.std}"
            )

    @classmethod
    def of(cls, given: Any, channels: int | None = None) -> "Normalization | None":
        """From what users give: ``(mean, std)``, one that is made already, or None.

        Raises:
            InstaAugError: something else.
        """
        if given is None or isinstance(given, cls):
            return given
        try:
            mean, std = given
            return cls(mean, std, channels)
        except InstaAugError:
            raise
        except (TypeError, ValueError) as error:
            raise InstaAugError(
                f"normalization: expected (mean, std), each of a number per channel, got {given!r}"
            ) from error

    def _columns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(
            torch.tensor(v, dtype=like.dtype, device=like.device).reshape(-1, 1, 1) for v in (self.mean, self.std)
        )

    def undo(self, images: Tensor) -> Tensor:
        """Back to [0, 1]; of halves in full precision, and what they had rounded out of it is cut off."""
        exact = images if images.dtype == torch.float64 else images.float()
        mean, std = self._columns(exact)
        out = exact * std + mean
        if exact.dtype == images.dtype:
            return out
        slack = torch.finfo(images.dtype).eps * exact.abs().amax() * max(self.std)
        return torch.where((out - 0.5).abs() <= 0.5 + slack, out.clamp(0, 1), out)

    def redo(self, images: Tensor) -> Tensor:
        """Mean and standard deviation of the user's pipeline."""
        mean, std = self._columns(images)
        return (images - mean) / std


def batched(images: Tensor) -> Tensor:
    """A tensor of images as it is, a single image ``(C, H, W)`` as a batch of one.

    Raises:
        InstaAugError: no tensor, or clips.
    """
    if not isinstance(images, Tensor):
        raise InstaAugError(
            f"images: expected a tensor (B, C, H, W) or (C, H, W), got {type(images).__name__}; convert it with "
            "v2.functional.to_image"
        )
    if images.ndim > 4:
        raise InstaAugError(
            f"images: expected (B, C, H, W) or (C, H, W), got {tuple(images.shape)}; of clips, give the frames: images.flatten(0, -4)"
        )
    return images[None] if images.ndim == 3 else images


def to_batch(
    leaf: object, channels: int, normalization: Normalization | None, strict: bool = True
) -> tuple[Tensor, Callable[[Tensor], object]]:
    """A leaf to a float batch ``(N, C, H, W)`` in [0, 1], and the way back to the leaf's own kind.

    A clip ``(…, T, C, H, W)`` becomes N = …·T frames. Unless ``strict``, values outside [0, 1] are clamped with a warning.

    Raises:
        InstaAugError: not an image, other channels than the predictor's, no pixels, NaN, or values outside [0, 1].
    """
    if isinstance(leaf, PIL.Image.Image):
        batch, back = to_batch(pixels(leaf, channels)[0].contiguous(), channels, None)
        return batch, lambda out: picture(back(out))
    if not isinstance(leaf, Tensor):
        raise InstaAugError(f"image: expected a PIL image or a tensor, got {type(leaf).__name__}")
    tensor = plain(leaf)
    given = f"a tensor of shape {tuple(tensor.shape)} and dtype {tensor.dtype}"
    if not tensor.is_floating_point() and tensor.dtype != torch.uint8:
        raise InstaAugError(
            f"image: expected float in [0, 1] or uint8, got {given}; of 16 bits images.float() / 65535, of 8 images.to(torch.uint8). If these are labels, pass the "
            "images first — aug(images, labels) — or wrap the images in tv_tensors.Image"
        )
    if tensor.ndim < 3 or (tensor.ndim > 4 and not isinstance(leaf, tv_tensors.Video)):
        raise InstaAugError(f"image: expected (C, H, W) or (B, C, H, W), clips as tv_tensors.Video, got {given}")
    if tensor.shape[-3] != channels:
        if tensor.shape[-1] == channels:
            raise InstaAugError(
                f"image: this transform was made for {channels} channel(s), got {given}, whose channels come last; give images.movedim(-1, -3)"
            )
        fix = CONVERSIONS.get(channels, "a transform of yours")
        if (channels, tensor.shape[-3]) == (3, 4):  # v2.RGB() leaves tensors of four channels as they are
            fix = "images[..., :3, :, :], which leaves alpha out"
        raise InstaAugError(
            f"image: this transform was made for {channels} channel(s), got {given}; convert the images first with "
            f"{fix}, or fit LearnedAugment(..., in_channels={tensor.shape[-3]}) to them"
        )
    if 0 in tensor.shape:
        raise InstaAugError(f"image: expected at least one image with at least one pixel, got {given}")
    lead, dtype = tensor.shape[:-3], tensor.dtype
    if dtype == torch.uint8:
        batch = as_floats(tensor)
    else:
        batch = normalization.undo(tensor) if normalization is not None else tensor
        batch = check_range(batch, normalization is not None, given, strict)
    if batch.ndim != 4:
        batch = batch.reshape(-1, *batch.shape[-3:])

    def back(out: Tensor) -> object:
        if dtype == torch.uint8:
            out = as_bytes(out.detach())
        elif normalization is not None:
            out = normalization.redo(out).to(dtype)
        if len(lead) != 1:
            out = out.reshape(*lead, *out.shape[-3:])
        return rewrap(out, leaf)

    return batch, back


def as_floats(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 or floats in [0, 1] as floats in [0, 1]."""
    return images.to(dtype).div_(255) if images.dtype == torch.uint8 else images.to(dtype)


def as_bytes(images: Tensor) -> Tensor:
    """Floats in [0, 1] as uint8, to the nearest; what is uint8 stays."""
    return images if images.dtype == torch.uint8 else images.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def check_range(batch: Tensor, normalized: bool, given: str, strict: bool = True, fix: str | None = None) -> Tensor:
    """``batch`` where every value is finite and in [0, 1]; else raise, or clamp and warn unless ``strict``.

    Skipped while compiling: it reads values. ``fix`` is what to do about it, where that is not what a transform's caller can do.
    """
    if torch.compiler.is_compiling() or batch.device.type == "meta":
        return batch
    low, high = (value.item() for value in torch.aminmax(batch.detach()))
    if low != low or high != high:
        raise InstaAugError(f"image: {given} holds NaN; find where it comes from, e.g. with torch.isnan(images)")
    if low >= -SLACK and high <= 1 + SLACK:
        return batch
    fix = fix or (
        "normalization=(mean, std) does not undo what was done to these images"
        if normalized
        else "augment before v2.Normalize, or make LearnedAugment(..., normalization=(mean, std)) — "
        "from_pretrained(..., normalization=(mean, std)) takes it too; divide 0…255 floats by 255"
    )
    message = f"image: values must lie in [0, 1], got {given} with values from {low:.3g} to {high:.3g}; {fix}"
    if strict:
        raise InstaAugError(message)
    warnings.warn(f"{message}. They are clamped", stacklevel=2)
    return batch.clamp(0, 1)
