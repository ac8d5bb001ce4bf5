"""Films of made scenes, for tests of what looks nearly alike."""

import torch
import torch.nn.functional as F


def moving_scenes(n: int, frames: int, seed: int = 0) -> torch.Tensor:
    """Smooth noise, moved a little in every frame, ``(n, frames, 3, 32, 32)``."""
    generator = torch.Generator().manual_seed(seed)
    scenes = F.interpolate(torch.rand(n, 3, 4, 4, generator=generator), size=32, mode="bicubic").clamp(0, 1)
    moved = torch.stack([scenes.roll((k % 3 - 1, k // 3 - 1), (-1, -2)) for k in range(frames)], 1)
    return (moved + 0.02 * torch.randn(moved.shape, generator=generator)).clamp(0, 1)
