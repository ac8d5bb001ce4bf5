"""What models that average views have in common: their checks, their chunks, and how views are chosen."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.transforms import v2

from .. import functional
from ..augment import SELECTIONS, LearnedAugment
from ..augment.learnable import check_aug
from ..augment_distribution import AugmentDistribution
from ..families import Family, create, identity_of
from ..families.checks import check_values
from ..families.crop import crop_within
from ..params import AugmentParams
from ..predictors import FeaturesPredictor
from ..utils.errors import InstaAugError, check_number, check_one_of, check_whole, reason, several
from ..utils.forward import forward
from ..utils.modes import at_rest


class ViewModel(nn.Module):
    """Base of models that take the place of ``model`` and average it over views.

    Args:
        model: what takes the images that ``aug`` takes.
        aug: the fitted transform.
        n_views: forwards per image.
        select: ``"top"`` (no chance in it), ``"sample"`` or ``"stratified"``.
        include_identity: whether the image itself is one of the views, where there are two or more.
        range_fraction: use only the middle part of every continuous range, in (0, 1].
        chunk_size: views per forward at most (at least the views of one image).
        policy: fields to ``n_views`` numbers: the same views for every image; φ is not asked.
        put_right: m: the policy, of ``n_views / m`` numbers, is not of the image but of what each of φ's m likeliest
            candidates makes of it: an upright photograph and its mirror image, say.
        view_offsets: one number per candidate (per combination of several families' candidates), added to φ's
            log-probabilities before the ``top`` ones are taken: candidates of which averages make much come first.
    """

    def __init__(
        self,
        model: nn.Module,
        aug: LearnedAugment,
        n_views: int,
        select: str,
        include_identity: bool,
        range_fraction: float,
        chunk_size: int,
        policy: Mapping[str, Sequence[float]] | None = None,
        view_offsets: Sequence[float] | None = None,
        put_right: int = 0,
    ) -> None:
        super().__init__()
        aug = check_aug(aug)
        check_choice(select, range_fraction, n_views=n_views, chunk_size=chunk_size)
        check_one_of("include_identity", include_identity, (True, False))
        check_whole("put_right", put_right := int(put_right) if isinstance(put_right, bool) else put_right, 0)
        if policy is not None and not isinstance(policy, Mapping):
            raise InstaAugError(f"policy: expected numbers by field, {{'turn_angle': [0, 180]}} say, got {policy!r}")
        self.model, self.aug, self.n_views, self.select = model, aug, n_views, select
        self.include_identity, self.range_fraction, self.chunk_size = include_identity, range_fraction, chunk_size
        self.policy, self.families, self.view_offsets, self.put_right = None, aug.families, None, int(put_right)
        if view_offsets is not None:
            columns = math.prod(family.n_candidates for family in aug.anchor_families)
            self.view_offsets = finite("view_offsets", view_offsets)
            if select != "top" or self.view_offsets.shape != (columns,) or policy or not aug.anchor_families:
                raise InstaAugError(
                    f"view_offsets: expected {columns} numbers, one per candidate, with select='top' and no policy; got "
                    f"{len(self.view_offsets)} with {select!r} and policy={policy}"
                )
        if put_right and (n_views % put_right or policy is None):
            raise InstaAugError(
                f"put_right: expected a number of candidates that divides n_views, {n_views}, and a policy whose views are made of what "
                f"each of them has put right; got {put_right!r} and policy={policy}"
            )
        if policy is not None:
            every = families_after(aug) if put_right else families_beside(aug, "crop")
            if not every:
                raise InstaAugError(
                    "put_right: this transform crops and turns or moves images too, and no policy can follow that; leave put_right out"
                )
            known, length = {field for family in every for field in family.fields}, n_views // (put_right or 1)
            sizes = {name: len(column) if hasattr(column, "__len__") else column for name, column in policy.items()}
            if not policy or set(policy) - known or any(size != length for size in sizes.values()):
                raise InstaAugError(
                    f"policy: expected {length} numbers for each of some fields of {', '.join(sorted(known))}, got {sizes}"
                )
            acting = [f for f in every if any(field in policy for field in f.fields)]
            given = {name: finite(f"policy: {name}", column) for name, column in policy.items()}
            check_values({name: column.cpu() for name, column in given.items()}, acting, "policy")
            self.policy = functional.complete(acting, AugmentParams(**given))
            own = aug.families if put_right else []
            self.families: list[Family] = [*own, *(family for family in acting if family not in own)]
            # A family that changes nothing stays out of a view: it would blend `fill` into edges.
            still = [unchanged([family], self.policy).tolist() for family in acting]
            self.acting: list[list[Family]] = [
                [family for family, rests in zip(acting, still, strict=True) if not rests[i]] for i in range(length)
            ]

    def extra_repr(self) -> str:
        parts = [f"n_views={self.n_views}, select={self.select!r}"]
        if self.policy is not None:
            fixed = {name: column.tolist() for name, column in self.policy.items()}
            parts = [f"n_views={self.n_views}, policy={fixed}"]
        parts += [f"put_right={self.put_right}"] * bool(self.put_right)
        parts += [f"range_fraction={self.range_fraction}"] * (self.range_fraction < 1)
        return ", ".join(parts)

    @property
    def asks(self) -> bool:
        """Whether φ is asked for its views."""
        return self.policy is None or self.put_right > 0

    def chunks(self, images: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """``run`` on as many images at a time as ``chunk_size`` allows; a single image ``(C, H, W)`` is a batch of one."""
        check_eval(self.model)
        if not isinstance(images, Tensor):
            raise InstaAugError(
                f"images: expected a tensor (B, C, H, W) or (C, H, W), got {type(images).__name__}; stack tensors of them, of a "
                "PIL image v2.functional.to_image(image) / 255"
            )
        if torch.jit.is_tracing() and self.asks:
            raise InstaAugError(
                "model: torch.jit.trace keeps what φ asked for the example, and would give every image the same views; use "
                "torch.export.export, ia.export_onnx or torch.compile"
            )
        if images.ndim == 3:
            return self.chunks(images[None], run)[0]
        if torch.compiler.is_exporting():  # how many chunks there are would depend on the batch
            return run(images)
        if not torch.compiler.is_compiling() and not len(images):
            return self.chunks(images.new_zeros(1, *images.shape[1:]), run)[:0]
        with at_rest(self.aug.predictor):  # which may have dropout
            return torch.cat([run(part) for part in images.split(max(1, self.chunk_size // self.n_views))])

    def _ask(self, views: Tensor) -> Tensor:
        """The model's answers about views, checked."""
        if torch.compiler.is_compiling() or views.is_floating_point():
            return self._checked(forward(self.model, views))
        try:
            return self._checked(self.model(views))
        except (RuntimeError, TypeError) as error:
            raise InstaAugError(
                f"images: the classifier gets them as they are given, and does not take bytes ({reason(error)}); give "
                "floats in [0, 1]: images / 255"
            ) from error

    def choose(self, distribution: AugmentDistribution, generator: torch.Generator | None) -> AugmentParams:
        """``(n, B)`` views of a batch that φ has looked at."""
        narrowed = distribution.narrowed(self.range_fraction)
        if self.put_right:
            likeliest = narrowed.select(self.put_right, "top")  # (m, B)
            return combined(likeliest, self.policy.to(self.aug.device))
        return choose_views(narrowed, self.n_views, self.select, self.include_identity, generator, self.view_offsets)

    def make_views(self, batch: Tensor, params: AugmentParams) -> Tensor:
        """Views ``(n·B, C, H, W)`` of parameters ``(n, B)``; of fixed ones by the families that act in each."""
        if self.asks:
            own = None if self.policy is None else self.families
            return self.aug.apply(torch.cat([batch] * params.batch_shape[0]), params.flatten(), families=own)
        each = (self.aug.apply(batch, params.index(i), families=acting) for i, acting in enumerate(self.acting))
        return torch.cat(list(each))

    def policy_views(self, batch: Tensor) -> AugmentParams:
        """The fixed views, ``(n, B)``."""
        return self.policy.to(batch.device).for_each(batch.shape[0]).map(Tensor.contiguous)


def check_choice(select: str, range_fraction: float, **whole: Any) -> None:
    """Raise unless views can be selected so; ``whole`` are what must be integers of 1 or more, by their names."""
    check_one_of("select", select, SELECTIONS)
    for name, value in whole.items():
        check_whole(name, value)
    check_number("range_fraction", range_fraction, "(0, 1]")


def finite(name: str, given: Any) -> Tensor:
    """Numbers as a tensor; raise unless they are several, and finite."""
    numbers = given if isinstance(given, Tensor) and given.ndim else torch.tensor(several(name, given))
    if not bool(numbers.isfinite().all()):
        raise InstaAugError(f"{name}: expected finite numbers, got {numbers.tolist()}")
    return numbers.float()


def combined(first: AugmentParams, then: AugmentParams) -> AugmentParams:
    """``(F·m, B)`` views that do both: what ``first``, ``(m, B)``, does, and then what ``then``, ``(F,)``, does.

    Those of one entry of ``then`` are together. Only fields of crops may be in both.
    """
    (m, size), n = first.batch_shape, then.batch_shape[0]
    both = first.map(lambda field: field.repeat(n, *[1] * (field.ndim - 1)))
    fixed = then.repeat_interleave(m).for_each(size)
    crops = crop_within(both, fixed) if "cx" in first and "cx" in then else {}
    return AugmentParams(**{**both, **fixed, **crops})


def families_after(aug: LearnedAugment) -> list[Family]:
    """What can crop, or mirror, the result of the transform: a family beside its own, or its own crop if no other geometry follows it."""
    beside, crop = families_beside(aug, "crop")[len(aug.families) :], set(create(["crop"])[0].acting_fields)
    geometry = [family for family in aug.families if family.stage == "geometry"]
    return beside or [family for family in geometry if len(geometry) == 1 and crop <= set(family.fields)]


def families_beside(aug: LearnedAugment, *names: str) -> list[Family]:
    """The transform's families and, acting on what these make of an image, others whose fields it does not have."""
    own = {field for family in aug.families for field in family.fields}
    beside = [name for name in names if not own & set(create([name])[0].fields)]
    return [*aug.families, *(create(beside) if beside else [])]


def check_eval(classifier: nn.Module) -> None:
    """Raise where a layer of ``classifier`` would behave as in training: views would normalise, or drop, each other."""
    for name, module in classifier.named_modules():
        # Frozen by torch.jit, a model has no mode any more: it is in eval mode for ever.
        if getattr(module, "training", False) and (isinstance(module, _BatchNorm) or _drops(module)):
            raise InstaAugError(
                f"classifier: it is in training mode, where its {type(module).__name__} {name!r} makes an answer depend on "
                "the other views and on chance; call model.eval() first"
            )


def _drops(module: nn.Module) -> bool:
    rates = (getattr(module, name, 0) or 0 for name in ("p", "drop_prob"))
    return "Drop" in type(module).__name__ and any(rate > 0 for rate in rates)


def choose_views(
    distribution: AugmentDistribution,
    n: int,
    select: str = "top",
    include_identity: bool = True,
    generator: torch.Generator | None = None,
    offsets: Tensor | None = None,
) -> AugmentParams:
    """``(n, B)`` views; with ``include_identity`` and n ≥ 2 the image itself comes first, and only once.

    For ``top`` those of candidates are nested: of n views, all but the first n − 1 others are those of n − 1 views.
    """
    selected = distribution.select(n, select, generator, offsets)
    if not include_identity or n == 1:
        return selected
    plain = distribution.identity().map(lambda field: field[None])
    both = AugmentParams(**{name: torch.cat([plain[name], selected[name]]) for name in selected})
    repeated = same_views(distribution.families, both, plain)
    repeated[0] = False
    if select != "top":
        repeated[1:] = False  # leaving out what was sampled would change the distribution
    # The first n that are no repetition, in their order, then repetitions: places, because sorting has no ONNX translation.
    place = torch.where(repeated, (~repeated).sum(0) + repeated.cumsum(0), (~repeated).cumsum(0)) - 1  # (n + 1, B)
    order = torch.empty_like(place).scatter_(
        0, place, torch.arange(n + 1, device=place.device)[:, None].expand_as(place)
    )
    return both.map(lambda field: field.gather(0, order[:n]))


def same_views(families: Sequence[Family], one: AugmentParams, other: AugmentParams) -> Tensor:
    """Which views of two sets of parameters are the same, of their shape."""
    acting = [name for family in families for name in family.acting_fields]
    return torch.stack([one[name] == other[name] for name in acting]).all(0)


def unchanged(families: Sequence[Family], params: AugmentParams) -> Tensor:
    """Which views leave an image as it is, of the shape of ``params``; fields that are left out are the identity."""
    identity, acting = identity_of(families), [name for family in families for name in family.acting_fields]
    return torch.stack([params[name] == identity[name] for name in acting if name in params]).all(0)


def normalizing(aug: LearnedAugment, classifier: nn.Module) -> nn.Module:
    """The classifier behind a transform that takes normalised images, made one of images in [0, 1]."""
    if aug.normalization is None:
        return classifier
    return nn.Sequential(v2.Normalize(aug.normalization.mean, aug.normalization.std), classifier)


def sees_images(aug: LearnedAugment, classifier: nn.Module, size: Sequence[int]) -> bool:
    """Whether φ's look is ``classifier``'s forward of images of that (height, width): then it is their answer too."""
    predictor, size = aug.predictor, tuple(size)
    return (
        isinstance(predictor, FeaturesPredictor)
        and predictor.classifier is classifier
        and size == (predictor.image_size, predictor.image_size)
        and aug.output_size in (None, size)
    )


def look(
    aug: LearnedAugment, classifier: nn.Module, batch: Tensor, plain: bool = True
) -> tuple[Tensor | None, AugmentDistribution]:
    """The classifier's logits of the images themselves, where φ comes by them on the way, and p(τ | x).

    Args:
        aug: the fitted transform.
        classifier: images to logits.
        batch: prepared images ``(B, C, H, W)``.
        plain: whether these are what the classifier takes.
    """
    if not plain or not sees_images(aug, classifier, batch.shape[-2:]):
        return None, aug.predict(batch)
    predictor = aug.predictor
    tapped = predictor.tap(batch.contiguous(memory_format=torch.channels_last))
    return tapped.logits, AugmentDistribution(aug.families, predictor.decode(*tapped))


def load_setting(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `TTAModel` from a recommended setting, as weights files keep it."""
    known = (
        "n_views",
        "include_identity",
        "aggregate",
        "temperature",
        "policy",
        "select",
        "range_fraction",
        "view_offsets",
        "put_right",
    )
    return {name: setting[name] for name in known if name in setting}
