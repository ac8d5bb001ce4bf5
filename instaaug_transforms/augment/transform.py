"""`LearnedAugment`: a torchvision transform whose strength is learned per image."""

from collections.abc import Mapping, Sequence
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torchvision import tv_tensors
from torchvision.transforms import v2

from .. import functional
from ..augment_distribution import AugmentDistribution, AugmentSample
from ..families import AnchorFamily, CandidateProduct, Family, create
from ..families.checks import check_params
from ..functional.compiled import CompiledColour
from ..functional.inputs import Normalization, batched, check_fill, check_size, is_image, plain, to_batch
from ..functional.pictures import cut, pixels
from ..functional.targets import POINT_TYPES, check_proportions, owners, transform_mask, transform_points
from ..params import AugmentParams
from ..predictors import Predictor, create_predictor
from ..utils import distributed
from ..utils.errors import InstaAugError, check_number, check_one_of, check_whole
from ..utils.modes import check_holds_numbers, first_weight, in_worker, run_light
from .checkpoint import Checkpointed
from .learnable import check_leaves, check_sample

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")


class LearnedAugment(Checkpointed, v2.Transform):
    """Predict for each image how far it may be transformed, sample from that range, apply it.

    InstaAug (Miao et al., *Learning Instance-Specific Augmentations by Capturing Local Invariances*, ICML 2023).
    Takes what torchvision's v2 transforms take — PIL images, uint8 or float tensors ``(C, H, W)`` or ``(B, C, H, W)``
    in [0, 1], tv_tensors, any pytree of them — and gives it back in kind; each image of a batch gets its own
    transformation. Labels pass through; masks move with the image, and for a single sample boxes and keypoints too.
    Until it is fitted it stays close to the identity. ``train()`` and ``eval()`` change nothing but φ's own mode:
    sampling goes on in both, as in torchvision.

    Args:
        families: names or `Family` objects: ``"crop"``, ``"rotate"``, ``"hsv"``, or any that is registered.
        in_channels: channels of the images. Of four, alpha is one like the others: it is resampled, blurred and erased as they are.
        p: probability with which an image is transformed at all.
        same_on_batch: one transformation for the whole batch, from the mean of φ's outputs over it.
        normalization: ``(mean, std)`` per channel, where images arrive normalised: undone before, redone after.
        output_size: (height, width) or one side of the result; by default that of the input.
        fill: what a rotation shows from outside the image: a value in [0, 1] (of uint8 images too), one per channel, or
            by kind as in torchvision, ``{tv_tensors.Mask: 255, "others": 0.5}``. Masks get 0 where not named.
        interpolation: of images, ``"bilinear"``, ``"bicubic"`` or ``"nearest"`` (through which ranges cannot be learned),
            or torchvision's `InterpolationMode`. Masks are nearest always.
        predictor: φ, which decides the distribution: a `Predictor`, or the name of one that needs no arguments. ``"patches"``
            is `PatchPredictor`, a small network on a copy of 32 pixels; ``ConvPredictor(image_size=…, width=…)`` is larger;
            ``FeaturesPredictor(classifier)`` reads what a classifier makes of the image. For comparison: ``"global"``, one
            learned distribution for all images; ``"symmetric"``, the same with ranges centred on the identity (Augerino);
            ``ClassPredictor(n_classes)``, one per class, chosen by the label while training.
        backend: whose kernels move pixels and change colours: ``"kornia"``, ``"torch"`` (the package's own), or ``"auto"``,
            Kornia's on accelerators and ours on a CPU. They agree within 1e-5. A PIL image that is only cropped is resized as PIL does it,
            and cut on whole pixels, as torchvision does it, where nothing goes with it and the box has 64 pixels a side or more.
        compile: run the colour families through torch.compile: several times faster from the second call of a size on.
            Where there is no compiler it warns and goes on without.

    Raises:
        InstaAugError: an unknown family, an argument out of range, or ``torch.device("meta")`` around it. When called: images that are no images, hold NaN
            or values outside [0, 1], have another number of channels, or lie on another device than the weights.

    Example:
        >>> aug = LearnedAugment(["crop", "rotate"])
        >>> aug(torch.rand(8, 3, 64, 64)).shape
        torch.Size([8, 3, 64, 64])
    """

    def __init__(
        self,
        families: Sequence[str | Family] = ("crop", "rotate", "hsv"),
        *,
        in_channels: int = 3,
        p: float = 1.0,
        same_on_batch: bool = False,
        normalization: tuple[Sequence[float], Sequence[float]] | None = None,
        output_size: int | Sequence[int] | None = None,
        fill: float | Sequence[float] | Mapping[Any, Any] = 0.0,
        interpolation: str = "bilinear",
        predictor: str | Predictor = "patches",
        backend: str = "auto",
        compile: bool = False,
    ) -> None:
        super().__init__()
        check_holds_numbers()
        self.families = create(families)
        check_whole("in_channels", in_channels, most=1024)
        for family in self.families:
            if family.channels is not None and in_channels not in family.channels:
                raise InstaAugError(
                    f"in_channels: family {family.name!r} is defined on {family.channels} channels, got {in_channels}; leave it out, or "
                    "give such images: v2.RGB() makes three channels of one; of RGBA, leave alpha out"
                )
        check_number("p", p, "[0, 1]")
        check_one_of("same_on_batch", same_on_batch, (True, False))
        interpolation = getattr(interpolation, "value", interpolation)
        check_one_of("interpolation", interpolation, INTERPOLATIONS)
        self.in_channels, self.p, self.same_on_batch = int(in_channels), p, same_on_batch
        self.fill, self.mask_fill = check_fill(fill, in_channels)
        self.interpolation = interpolation
        self.output_size = check_size(output_size)
        self.normalization = Normalization.of(normalization, in_channels)
        self.backend = functional.backends.check(backend)
        self._colour = CompiledColour(self.families) if compile else True
        self.predictor = create_predictor(predictor, self.families, in_channels)
        # What `fit` found on held-out images: the setting to use at test time, and the table that says so.
        self.recommended: dict[str, Any] | None = None

    @property
    def anchor_families(self) -> list[AnchorFamily]:
        """Those of its families that have a table of candidates, in order."""
        return [family for family in self.families if isinstance(family, AnchorFamily)]

    @property
    def device(self) -> torch.device:
        """Where φ's weights are."""
        return first_weight(self.predictor).device

    # -- the distribution and its views ------------------------------------------------------------------------------

    def distribution(self, images: Tensor) -> AugmentDistribution:
        """p(τ | x) of each image of ``(B, C, H, W)`` or ``(C, H, W)``; differentiable in φ where grad is enabled."""
        return self.predict(self.prepare(images)[0])

    def views(
        self, images: Tensor, n: int, select: str = "sample", generator: torch.Generator | None = None
    ) -> tuple[Tensor, AugmentParams]:
        """``n`` views of each image, ``(n, B, C, H, W)``, and their ``(n, B)`` parameters. φ runs once per image.

        A single image ``(C, H, W)`` is a batch of one.

        Args:
            images: ``(B, C, H, W)`` or ``(C, H, W)``.
            n: number of views.
            select: ``"sample"``, ``"top"`` (likeliest crops, evenly spaced quantiles) or ``"stratified"`` (samples
                spread over scales and ranges).
            generator: source of the randomness; by default the global one.
        """
        batch, back = self.prepare(batched(images))
        params = self.predict(batch).select(n, select, generator)
        out = back(self.apply(batch.repeat(n, 1, 1, 1), params.flatten()))
        return out.unflatten(0, (n, -1)), params

    def sample(
        self,
        images: Tensor,
        n: int | str = 1,
        *,
        labels: Tensor | None = None,
        select: str = "sample",
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, AugmentSample]:
        """``n`` views of each image to train on, ``(n·B, C, H, W)``, view-major, and what `InstaAugObjective` needs.

        Views of uniform families carry gradients to φ. Targets go with them as ``y.repeat(n)``.

        Args:
            images: ``(B, C, H, W)``, floats where ranges are to be learned; a single image ``(C, H, W)`` is a batch of one.
            n: views per image; ``"all"`` for every candidate of the anchor families (every combination of several), in
                order and unjittered.
            labels: ``(B,)`` classes, for `ClassPredictor` alone.
            select: ``"sample"``, independent views; or ``"stratified"``, spread over the ranges, which is quieter but
                makes the leave-one-out baseline of anchor families (``estimator="rloo"``) slightly biased.
            generator: source of the randomness; by default the global one.

        Raises:
            InstaAugError: ``n="all"`` without an anchor family, or with too many combinations; what cannot be learned from: ``p``
                < 1, ``same_on_batch``, and, while φ learns, bytes or ``"nearest"`` for ranges and no labels for `ClassPredictor`.
        """
        images = batched(images)
        check_sample(self, images, labels, select)
        batch, back = self.prepare(images)
        raw = distributed.call_with_mean_gradients(self.predictor, *((batch,) if labels is None else (batch, labels)))
        distribution = AugmentDistribution(self.families, raw)
        if n == "all":
            table = CandidateProduct(self.anchor_families)
            column = torch.arange(table.n_candidates, device=batch.device)[:, None].expand(-1, len(batch))
            params = distribution.rsample((table.n_candidates,), generator).replace(**table.take(column))
        else:
            params = distribution.select(n, select, generator)
        views = back(self.apply(batch.repeat(params.batch_shape[0], 1, 1, 1), params.flatten()))
        return views, AugmentSample(params, distribution, batch, enumerated=n == "all")

    def apply(
        self, batch: Tensor, params: AugmentParams, swap: bool = False, families: Sequence[Family] | None = None
    ) -> Tensor:
        """Float images ``(B, C, H, W)`` in [0, 1] transformed by ``(B,)`` parameters.

        With ``swap`` height and width of the result change places, as a quarter turn of a single image asks for.
        ``families`` act in place of the transform's own.
        """
        own = families is None
        if own and not torch.compiler.is_compiling():
            check_params(params, self.families)
        how = {"colour": self._colour if own else True, "backend": self.backend, "swap": swap}
        acting = self.families if own else families
        return functional.apply(batch, params, acting, self.output_size, self.fill, self.interpolation, **how)

    # -- the v2 protocol -----------------------------------------------------------------------------------------------

    def forward(
        self, *inputs: Any, params: AugmentParams | None = None, generator: torch.Generator | None = None
    ) -> Any:
        """Transform a sample or a batch, as any v2 transform.

        Args:
            *inputs: images and whatever goes with them.
            params: replay these ``(B,)`` parameters in place of sampling.
            generator: source of the randomness; by default the global one.
        """
        sampled = params is generator is None
        if len(inputs) == 1 and is_image(inputs[0]):  # no tree to walk
            self.check_inputs([inputs[0]])
            made = self.make_params([inputs[0]]) if sampled else self._make([inputs[0]], params, generator)
            return self.transform(inputs[0], made)
        if sampled:
            return super().forward(*inputs)
        flat, spec = tree_flatten(inputs if len(inputs) > 1 else inputs[0])
        self.check_inputs(flat)
        needed = self._needs_transform_list(flat)
        made = self._make([leaf for leaf, need in zip(flat, needed, strict=True) if need], params, generator)
        return tree_unflatten(
            [self.transform(leaf, made) if need else leaf for leaf, need in zip(flat, needed, strict=True)], spec
        )

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Raise where there is no image, or where parameters or a generator come by position and would be ignored."""
        if not torch.compiler.is_compiling():
            check_leaves(flat_inputs)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Parameters for the leaves to be transformed, from the first image among them."""
        return self._make(flat_inputs, None, None)

    def _make(
        self, leaves: list[Any], params: AugmentParams | None, generator: torch.Generator | None
    ) -> dict[str, Any]:
        image = next(leaf for leaf in leaves if is_image(leaf))
        if params is not None:
            return self._plan(leaves, image, self._checked(params))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not in_worker()):
            if isinstance(image, PIL.Image.Image) and self.predictor.takes_bytes:
                self._check_device(torch.device("cpu"))
                ready = {"image": image, "pixels": (looked_at := pixels(image, self.in_channels))}
            else:
                batch, back = self.prepare(image)
                clip = plain(image).shape[-4] if isinstance(image, tv_tensors.Video) and image.ndim > 3 else 1
                looked_at = batch.unflatten(0, (-1, clip))[:, clip // 2] if clip > 1 else batch  # a clip's middle frame
                ready = {"image": image, "batch": (batch, back)}  # converted and checked already
            distribution = self._distribution(run_light(self.predictor, looked_at), self.same_on_batch)
            params = distribution.rsample((), generator)
            if self.p < 1:
                chosen = distribution.rand(distribution.batch_shape, generator) < self.p
                params = params.where(chosen, distribution.identity())
            if self.same_on_batch:
                params = params.repeat_interleave(len(looked_at))
        return self._plan(leaves, image, params) | ready

    def _plan(self, leaves: list[Any], image: Any, params: AugmentParams) -> dict[str, Any]:
        owned = owners(leaves, params.batch_shape[0])
        clip = isinstance(image, tv_tensors.Video)
        if not (alone := len(leaves) == 1):
            check_proportions(image, leaves)
        return {"params": params, "owners": owned, "swap": self._swaps(image, params), "clip": clip, "alone": alone}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One leaf by the parameters of its sample."""
        made, swap = params["params"], params.get("swap", False)
        ready = params if inpt is params.get("image") else {}
        if isinstance(inpt, PIL.Image.Image) and made.batch_shape == (1,) and not swap and self.backend != "kornia":
            how = (self.in_channels, self.output_size, self.interpolation, ready.get("pixels"), params.get("alone"))
            view = cut(inpt, made, self.families, *how)
            if view is not None:
                return view
        if is_image(inpt):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not in_worker()):
                batch, back = ready.get("batch") or self.prepare(inpt)
                n, frames = made.batch_shape[0], isinstance(inpt, tv_tensors.Video)
                if len(batch) % n or (len(batch) != n > 1 and not frames):
                    raise InstaAugError(
                        f"params: {n} transformations do not go with {len(batch)} images; give one each"
                    )
                times = len(batch) // n
                every = made.repeat_interleave(times) if times > 1 else made
                return back(self.apply(batch, every, swap))
        mine = params.get("owners", {}).get(id(inpt))
        if mine:  # one of the boxes, points or masks of a batch, each of its own image
            made = made.index(slice(mine[0], mine[0] + 1))
            mine.append(mine.pop(0))  # in turn, and again where the same parameters are used again
        if isinstance(inpt, tv_tensors.Mask):
            how = (self.output_size, self.mask_fill, swap, params.get("clip", False))
            return transform_mask(inpt, made.detach(), self.families, *how)
        if isinstance(inpt, POINT_TYPES):
            return transform_points(inpt, made.detach(), self.families, self.output_size, swap)
        raise InstaAugError(f"inputs: cannot transform {type(inpt).__name__}")

    def _swaps(self, image: Any, params: AugmentParams) -> bool:
        """Whether this is a single image whose sides change places; those of a batch keep their canvas."""
        turning = [family for family in self.families if type(family).swaps_sides is not Family.swaps_sides]
        if not turning or torch.compiler.is_compiling() or self.device.type == "meta":  # no shape may depend on values
            return False
        single = not isinstance(image, Tensor) or plain(image).ndim == 3
        return single and any(family.swaps_sides(params) for family in turning)

    def prepare(self, images: Any, strict: bool = True):
        batch, back = to_batch(images, self.in_channels, self.normalization, strict)
        self._check_device(batch.device)
        return batch, back

    def _check_device(self, device: torch.device) -> None:
        weight = first_weight(self.predictor)
        if weight.is_cuda and in_worker():
            raise InstaAugError("aug: its weights are on the GPU, which DataLoader workers cannot use; call aug.cpu()")
        if device != weight.device:
            raise InstaAugError(
                f"images: they are on {device}, the transform's weights on {weight.device}. v2.Compose moves no "
                f"weights: call aug.to({str(device)!r}) yourself, or move the images"
            )

    def predict(self, batch: Tensor, pooled: bool = False) -> AugmentDistribution:
        return self._distribution(self.predictor(batch), pooled)

    def _distribution(self, raw: dict[str, Tensor], pooled: bool) -> AugmentDistribution:
        if pooled:
            raw = {name: value.mean(0, keepdim=True) for name, value in raw.items()}
        return AugmentDistribution(self.families, raw)

    def _checked(self, params: AugmentParams) -> AugmentParams:
        return functional.complete(self.families, check_params(params, self.families, (1,))).to(self.device)

    def extra_repr(self) -> str:
        parts = [f"families={self.families}"]
        defaults = {"p": 1.0, "same_on_batch": False, "output_size": None, "fill": 0.0, "mask_fill": 0}
        defaults["interpolation"] = "bilinear"
        parts += [f"{key}={getattr(self, key)}" for key, default in defaults.items() if getattr(self, key) != default]
        if self.normalization is not None:
            parts.append(f"normalization=({self.normalization.mean}, {self.normalization.std})")
        if self._colour is not True:
            parts.append("compile=True")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"
