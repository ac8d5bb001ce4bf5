"""Adding to hue and multiplying saturation and value, without a branch, and by hand backward.

On a CPU a choice among three formulas (`torch.where`) takes as long as twenty additions, and the gradients of `maximum` and
`clamp` are made of such choices. The formula here has none; its backward is written out, of arithmetic alone.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 2**16  # pixels at a time on the CPU: planes that the allocator need not ask the system for each time
SMALLEST = 1e-12  # chroma below which a pixel is grey
EPS = 1e-8  # of the largest channel, for the saturation of black


def shift_hsv(images: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """``(B, 3, H, W)`` in [0, 1] with hue added, in turns, and saturation and value multiplied, ``(B, 1, 1)`` each.

    As `kornia.color.rgb_to_hsv`, the change, and `kornia.color.hsv_to_rgb`.
    """
    _, top, chroma, *_, turns = _decompose(images, hue)
    depth = (chroma / top.clamp(min=EPS) * saturation).clamp(0, 1)
    top = (top * value).clamp(0, 1)
    depth = depth * top
    # A channel is full within 1/6 of a turn of its own hue, and lacks ``depth`` from 1/3 of a turn on.
    apart = _apart(turns).abs().clamp(1 / 6, 1 / 3)
    lit = torch.addcmul((top + depth).unsqueeze(1), depth.unsqueeze(1), apart, value=-6)
    # Rounding leaves channels just below 0, of which who takes roots next would make NaN.
    return lit.clamp(0, 1)


def shift_hsv_in_pieces(images: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The same, faster on a CPU: its many passes go over pieces that stay in the cache. Differentiable once."""
    return _InPieces.apply(images, hue, saturation, value)


def _decompose(images: Tensor, hue: Tensor) -> tuple[Tensor, ...]:
    """Smallest and largest channel, their difference and its inverse; a, d (below) and the sign of hue; hue in turns."""
    red, green, blue = images.unbind(1)  # (B, H, W) each
    top = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = top - low
    per_chroma = chroma.clamp(min=SMALLEST).reciprocal()
    # Hue is sign · distance from red, in sixths of a turn. Let a = |green − blue| / chroma and d = (top − red) / chroma.
    # The distance is a where red is the largest channel (d = 0), 3 − a where it is the smallest (d = 1), 1 + d where it
    # is between (a = 1): a + d·(3 − 2a) in every case.
    across = green - blue
    if torch.compiler.is_exporting():  # ONNX has no copysign
        sign = torch.where(across < 0, -1.0, 1.0).to(across.dtype)
    else:
        sign = torch.copysign(torch.ones((), dtype=across.dtype, device=across.device), across.detach())
    a, d = across * sign * per_chroma, (top - red) * per_chroma
    turns = torch.addcmul(hue, sign, torch.addcmul(a, d, torch.rsub(a, 3, alpha=2)), value=1 / 6)
    return low, top, chroma, per_chroma, a, d, sign, turns


def _apart(turns: Tensor) -> Tensor:
    """``(B, 3, H, W)``: from each channel's own hue to ``turns``, the short way round, in [−½, ½]."""
    own = torch.tensor([0.0, 1 / 3, 2 / 3], dtype=turns.dtype, device=turns.device)[:, None, None]
    apart = turns.unsqueeze(1) - own
    return apart.sub_(apart.round())


def _pieces(images: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images and pixels of about `CHUNK` pixels each, for ``(B, 3, 1, H·W)``."""
    batch, pixels = images.shape[0], images.shape[-1]
    step, parts = max(1, CHUNK // pixels), -(-pixels // CHUNK)
    length = -(-pixels // parts)
    for first in range(0, batch, step):
        for start in range(0, pixels, length):
            yield slice(first, first + step), slice(start, start + length)


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: Tensor, *amounts: Tensor) -> Tensor:
        ctx.save_for_backward(images, *amounts)
        # What is given back is no view: others may write into it, as timm's Mixup does.
        result = torch.empty_like(images, memory_format=torch.contiguous_format)
        pixels, out = (tensor.flatten(2).unsqueeze(2) for tensor in (images, result))  # (B, 3, 1, H·W)
        for some, part in _pieces(pixels):
            _shift_into(out[some, ..., part], pixels[some, ..., part], *(amount[some] for amount in amounts))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        images, *amounts = ctx.saved_tensors
        pixels, grads = images.flatten(2).unsqueeze(2), grad.flatten(2).unsqueeze(2)
        by_pixel = torch.empty_like(pixels, memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else None
        sums = [torch.zeros_like(amount) for amount in amounts]
        for some, part in _pieces(pixels):
            target = None if by_pixel is None else by_pixel[some, ..., part]
            by_amount = _slopes(pixels[some, ..., part], grads[some, ..., part], *(a[some] for a in amounts), target)
            for total, slope in zip(sums, by_amount, strict=True):
                total[some] += slope
        return None if by_pixel is None else by_pixel.view(images.shape), *sums


def _shift_into(out: Tensor, images: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> None:
    """`shift_hsv` in as few passes and places as it takes, where nobody needs what lies between."""
    red, green, blue = images.unbind(1)
    top = torch.maximum(red, green)
    torch.maximum(top, blue, out=top)
    chroma = torch.minimum(red, green)
    torch.minimum(chroma, blue, out=chroma)
    torch.sub(top, chroma, out=chroma)
    inverse = chroma.clamp(min=SMALLEST).reciprocal_()
    across = green - blue
    rest = torch.copysign(torch.tensor(3.0, dtype=across.dtype), across)
    across.mul_(inverse)  # a, with the sign of hue
    rest.sub_(across, alpha=2)
    turns = across.addcmul_(torch.sub(top, red).mul_(inverse), rest)
    torch.add(hue - hue.round(), turns, alpha=1 / 6, out=turns)
    depth = chroma.div_(torch.clamp(top, min=EPS, out=inverse)).mul_(saturation).clamp_(0, 1)
    depth.mul_(top.mul_(value).clamp_(0, 1))
    # Half a turn less the distance from each channel's own hue, of turns that are above 0: what is negative has negative fractions.
    # Kept off both ends of its range by more than rounding comes to, it leaves every channel in [0, 1].
    own = torch.tensor([2.0, 5 / 3, 4 / 3], dtype=out.dtype)[:, None, None]
    torch.add(turns.unsqueeze(1), own, out=out)
    rounding = 2 * torch.finfo(out.dtype).eps
    out.frac_().sub_(0.5).abs_().clamp_(1 / 6 + rounding, 1 / 3 - rounding)
    torch.sub(top, depth, alpha=2, out=top)
    torch.addcmul(top.unsqueeze(1), depth.unsqueeze(1), out, value=6, out=out)


def _within(grad: Tensor, value: Tensor, low: float, high: float) -> Tensor:
    """``grad`` where ``value`` lies between, else 0: the backward of a clamp, by a kernel that is vectorised."""
    return torch.ops.aten.hardtanh_backward(grad, value, low, high)


def _slopes(
    images: Tensor, grad: Tensor, hue: Tensor, saturation: Tensor, value: Tensor, by_pixel: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The chain rule through `shift_hsv`: slopes of hue, saturation and value, ``(B, 1, 1)``; those of images to ``by_pixel``."""
    low, top, chroma, per_chroma, a, d, sign, turns = _decompose(images, hue)
    per_top = top.clamp(min=EPS).reciprocal_()
    plain_depth, lit = chroma.mul_(per_top), top * value
    deep = plain_depth * saturation
    strength, light = deep.clamp(0, 1), lit.clamp(0, 1)
    apart = _apart(turns)
    distance = apart.abs()
    to_turns = _dot(_within(grad, distance, 1 / 6, 1 / 3), apart.sign_()).mul_(strength).mul_(light)  # times −6
    every = grad[:, 0] + grad[:, 1]
    every += grad[:, 2]
    to_depth = torch.sub(every, _dot(grad, distance.clamp_(1 / 6, 1 / 3)), alpha=6)
    to_lit = _within(every.addcmul_(to_depth, strength), lit, 0, 1)
    to_deep = _within(to_depth.mul_(light), deep, 0, 1)
    slopes = -6 * to_turns.sum((1, 2), keepdim=True), _summed(to_deep, plain_depth), _summed(to_lit, top)
    if by_pixel is None:
        return slopes
    to_plain = to_deep.mul_(saturation).mul_(per_top)
    less = to_turns.mul_(sign)  # what a and d are to lower the distance from red by
    to_a = torch.addcmul(less.neg(), less, d, value=2)
    less_d = torch.rsub(a, 3, alpha=2).mul_(less)
    # 1 / chroma is in both a and d.
    through = a.mul_(to_a).addcmul_(less_d, d, value=-1)
    to_chroma = torch.addcmul(to_plain, through, per_chroma, value=-1)
    less_d.mul_(per_chroma)
    to_top = to_lit.mul_(value).addcmul_(to_plain, plain_depth, value=-1).sub_(less_d).add_(to_chroma)
    to_across = to_a.mul_(sign).mul_(per_chroma)
    red, green, _ = images.unbind(1)
    # Of channels that tie for the largest (smallest), the first counts, as in Kornia's.
    largest = _first(top - red, top - green)
    smallest = _first(red - low, green - low)
    for target, most, least in zip(by_pixel.unbind(1), largest, smallest, strict=True):
        torch.mul(to_top, most, out=target).addcmul_(to_chroma, least, value=-1)
    by_pixel[:, 0] += less_d
    by_pixel[:, 1] += to_across
    by_pixel[:, 2] -= to_across
    return slopes


def _first(of_red: Tensor, of_green: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """1 for the first channel that lies nothing apart from the largest, or smallest, and 0 for others; changes both."""
    not_red = of_red.sign_()
    green = (not_red - of_green.sign_()).clamp_(min=0)
    return 1 - not_red, green, not_red - green


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Sum over channels of a product, ``(B, H, W)``."""
    out = first[:, 0] * second[:, 0]
    return out.addcmul_(first[:, 1], second[:, 1]).addcmul_(first[:, 2], second[:, 2])


def _summed(first: Tensor, second: Tensor) -> Tensor:
    """Sum over pixels of a product, ``(B, 1, 1)``."""
    return torch.linalg.vecdot(first.flatten(1), second.flatten(1))[:, None, None]
