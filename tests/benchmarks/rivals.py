"""What the transform is compared with, and transforms as they are after a fit."""

import math
from collections.abc import Callable

import kornia.augmentation as K
import torch
import torch.nn.functional as F
from kornia.color import hsv_to_rgb, rgb_to_hsv
from kornia.geometry.transform import rotate, warp_affine
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import to_pil_image

import instaaug_transforms as ia

from ..conftest import make_lively

ALL = ["crop", "rotate", "hsv"]


def fitted(families: list[str], device: torch.device, **kwargs) -> ia.LearnedAugment:
    """Frozen, with ranges that are wide and differ between images: hardly any image is left alone."""
    aug = make_lively(families, **kwargs)
    for head in aug.predictor.heads.values():
        if hasattr(head, "log_n"):  # the whole image as likely as any other scale
            head.bias.detach().zero_()
    return aug.eval().requires_grad_(False).to(device)


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth picture, so that it is as large a JPEG as a photograph is."""
    coarse = torch.rand(3, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
    return to_pil_image(F.interpolate(coarse[None], (height, width), mode="bicubic")[0].clamp(0, 1))


def grid_sample(images: Tensor) -> Callable[[], Tensor]:
    """One affine map per image through torch: the least that any crop or rotation of a batch costs."""
    theta = (0.8 * torch.eye(2, 3)).repeat(len(images), 1, 1)
    theta[:, 0, 1], theta[:, :, 2] = 0.2, 0.1
    theta = theta.to(images.device)

    def call() -> Tensor:
        return F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)

    return call


def per_sample(transform: Callable, images: Tensor) -> Callable[[], Tensor]:
    """What a Dataset does: one image after the other."""
    return lambda: torch.stack([transform(image) for image in images])


def torchvision_chain(size: int) -> Callable:
    """Crop, rotation and colour with the widest ranges that ours has."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomRotation(180, interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=1.0, saturation=1.0, hue=0.5),
        ]
    )


def kornia_chain(size: int) -> Callable:
    """The same for a batch."""
    return K.AugmentationSequential(
        K.RandomResizedCrop((size, size), p=1.0),
        K.RandomRotation(180.0, p=1.0),
        K.ColorJiggle(1.0, 0.0, 1.0, 0.5, p=1.0),
        data_keys=["input"],
    )


def kornia_functions(images: Tensor, params: ia.AugmentParams) -> Tensor:
    """Given crops, angles and colours through Kornia's differentiable functions, one after the other."""
    size = images.shape[-2:]
    height, width = size
    zoom = torch.stack([1 / params.w, 1 / params.h], -1)  # (B, 2)
    corner = torch.stack([(params.cx - params.w / 2) * width, (params.cy - params.h / 2) * height], -1)
    # In→out, pixel centres at whole numbers.
    shift = (0.5 - corner) * zoom - 0.5
    out = warp_affine(images, torch.cat([zoom.diag_embed(), shift.unsqueeze(-1)], -1), size, align_corners=False)
    out = rotate(out, params.angle, align_corners=False)
    hue, saturation, value = rgb_to_hsv(out.clamp(0, 1)).unbind(1)
    turn, depth, light = (params[name][:, None, None] for name in ("hue", "saturation", "value"))
    hue = torch.remainder(hue + 2 * math.pi * turn, 2 * math.pi)
    return hsv_to_rgb(torch.stack([hue, (saturation * depth).clamp(0, 1), (value * light).clamp(0, 1)], 1))
