"""`Probe`: one model, one set of images, the transformations it is measured under, and a method per measurement."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from ..augment import LearnedAugment
from ..utils.errors import InstaAugError, check_whole
from ..utils.modes import frozen
from .agreement import LearnedReport, learned_ranges
from .equivariance import AlignmentCollector, EquivarianceReport, feature_maps
from .factors import FactorCollector, FactorReport
from .images import NormalizationArgument, prepare
from .invariance import InvarianceCollector, InvarianceReport
from .lie import GENERATORS, LieReport, local_errors
from .session import Session
from .transformations import Transformation, choose
from .warp import Outside, check_fills, fill_name


class Survey(NamedTuple):
    """Reports from the forwards of one pass; ``factors`` is None if no class has two images that differ to the model."""

    invariance: InvarianceReport
    alignment: EquivarianceReport
    factors: FactorReport | None


class Probe:
    """A model, the images it is measured on, and the transformations it is measured under.

    Every method runs the model afresh, in eval mode and frozen; afterwards it is as it was before.

    Args:
        model: images to outputs; [0, 1] images unless ``normalization`` is given. A compiled one is measured as it was before: looking
            into it would compile it anew at every look.
        data: ``(images, labels)`` tensors, images alone, a Dataset or a DataLoader; see `prepare`.
        max_images: at most this many, drawn at random; all by default.
        transformations: names of `STANDARD` or `Transformation` objects; by default all that fit the images.
        fills: what lies outside the image: grey values, ``"mean"``, ``"border"``, ``"reflection"``, ``"wrap"``.
            `invariance` and `alignment` measure each, `factors` and `equivariance` the first.
        layer: what is embedded: any name of ``model.named_modules()``; by default the penultimate layer.
        normalization: ``(mean, std)`` if data arrive normalised and the model wants them so.
        batch_size: images per forward.
        amp: bfloat16 autocast.
        seed: of the draw of images and of everything random in a report.
        progress: show bars; by default if the output is a terminal.

    Attributes:
        images: what is measured on, a `MeasuredImages`; may be given to another probe as data.
        transformations: `Transformation` objects.

    Raises:
        InstaAugError: see `prepare`, `choose` and `check_fills`; or fewer than two images. Methods: what they cannot
            measure with this model, layer or data.

    Example:
        >>> probe = Probe(model, dataset, max_images=500)
        >>> print(probe.invariance().summary(), probe.lie().summary())
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        max_images: int | None = None,
        *,
        transformations: Sequence[str | Transformation] | None = None,
        fills: Outside | Sequence[Outside] = (0.0, "reflection"),
        layer: str | None = None,
        normalization: NormalizationArgument = None,
        batch_size: int = 256,
        amp: bool = False,
        seed: int = 0,
        progress: bool | None = None,
    ) -> None:
        check_whole("batch_size", batch_size)
        self.model, self.fills = getattr(model, "_orig_mod", model), check_fills(fills)
        self.images = prepare(data, max_images, normalization, seed, progress)
        if len(self.images) < 2:
            raise InstaAugError(f"data: distances to other images need at least 2 images, got {len(self.images)}")
        self.transformations = choose(transformations, self.images.images.shape[1])
        self._settings = {"layer": layer, "batch_size": batch_size, "amp": amp, "seed": seed, "progress": progress}

    def invariance(self) -> InvarianceReport:
        """How far does every transformation move embeddings and answers?"""
        return self._one_pass(InvarianceCollector)[0]

    def alignment(self) -> EquivarianceReport:
        """Do embeddings of different images move the same way? `AlignmentCollector` explains the rows."""
        return self._one_pass(AlignmentCollector)[0]

    def factors(self, *, pairs_per_class: int | None = None, metric: str = "cosine") -> FactorReport:
        """Which transformations do the images of a class differ by, as the model sees them? Needs labels.

        For a pair (x, x') of one class, each t is scored by min over magnitudes of dist(f(t(x)), f(x')). A transformation
        with more, or farther, magnitudes has more chances: compare like ranges.

        Args:
            pairs_per_class: at most this many disjoint pairs of each class; all by default.
            metric: ``"cosine"`` or ``"l2"``.
        """
        (report,) = self._one_pass(self._factors(pairs_per_class, metric), n_fills=1)
        if report is None:
            raise InstaAugError("data: images of a class are all the same to the model; give others, or another layer")
        return report

    def survey(self, *, pairs_per_class: int | None = None, metric: str = "cosine") -> Survey:
        """`invariance`, `alignment` and `factors` for the forwards of the first alone; arguments as `factors`."""
        images, collectors = self.images, [InvarianceCollector, AlignmentCollector]
        if images.labelled and int(images.targets.unique(return_counts=True)[1].max()) > 1:
            collectors.append(self._factors(pairs_per_class, metric))
        invariance, alignment, *factors = self._one_pass(*collectors)
        return Survey(invariance, alignment, replace(factors[0], invariance=invariance) if any(factors) else None)

    def equivariance(self, layer: str, *, metric: str = "l2") -> EquivarianceReport:
        """Does a layer's map move as the image does? F(t(x)) against t(F(x)), for the geometric transformations.

        Maps are continued by 0 outside, or wrap if the fill does, and are compared where t(F(x)) shows the inside alone.
        Relative equivariance is (b − d)/b with d = dist(F(t x), t F(x)) and b the mean distance from F(t x) to t F(x') of
        other images: 1 is equivariant. ``relative_unmoved`` leaves F(x) in its place — what an invariant map would have —
        and tells equivariance from insensitivity. (After Lenc & Vedaldi, *Understanding image representations by measuring
        their equivariance and equivalence*, CVPR 2015, with t itself instead of a learned map.)

        Args:
            layer: a name of ``model.named_modules()`` whose output is ``(B, C, h, w)``.
            metric: ``"l2"`` or ``"cosine"``.
        """
        geometric = [t for t in self.transformations if t.kind == "geometry"]
        if not geometric:
            names = ", ".join(t.name for t in self.transformations)
            raise InstaAugError(f"transformations: feature maps need at least one geometric one, got {names}")
        with self._session(layer=layer) as session:
            return feature_maps(session, geometric, self.fills[0], metric)

    def lie(
        self, generators: str | Sequence[str] = GENERATORS, *, fill: Outside = "border", equivariant: bool = False
    ) -> LieReport:
        """How fast do embeddings begin to move? (Gruver et al., *The Lie Derivative for Measuring Learned Equivariance*, 2023)

        L_X f(x) = d/ds|₀ ρ₂(s)⁻¹ f(ρ₁(s) x), by one forward-mode pass, `torch.func.jvp`, per generator;
        LEE(f) = E_x ‖L_X f(x)‖² / D. A pass takes about twice the memory of a forward.

        Args:
            generators: of `GENERATORS`; infinitesimal, so they have no magnitudes.
            fill: how images are continued by one pixel; ``"border"`` adds no edge of its own.
            equivariant: move ``(B, C, h, w)`` maps back by the same generator (ρ₂ = ρ₁), one that moves pixels, before
                comparing; otherwise ρ₂ is the identity and the error is that of invariance.
        """
        names, fill = [generators] if isinstance(generators, str) else list(generators), check_fills(fill)[0]
        with self._session(amp=False) as session:
            return local_errors(session, names, fill, equivariant)

    def learned(self, aug: LearnedAugment, *, steps: int = 41) -> LearnedReport:
        """Does what ``aug`` learned for an image agree with what the model bears?

        Every field of a uniform family (angle, hue, saturation, …) is swept alone over its bounds, by the family's own
        operation. The measured range is that of `kept_interval`, where argmax is the answer: right to half a step. Of families
        with a table of candidates see `LearnedReport`.

        Args:
            aug: a fitted transform with such families; it is given [0, 1] images.
            steps: values per field, at least 3; the identity is tried besides.
        """
        with self._session() as session:
            return learned_ranges(session, aug, steps)

    @contextmanager
    def _session(self, **changes: Any) -> Iterator[Session]:
        with frozen(self.model):
            yield Session(self.model, self.images, **self._settings | changes)

    def _factors(self, pairs_per_class: int | None, metric: str) -> Callable[[Session], FactorCollector]:
        first = fill_name(self.fills[0])  # one fill, so that no transformation is there twice
        return lambda session: FactorCollector(session, self.transformations, first, pairs_per_class, metric)

    def _one_pass(self, *collectors: Callable[[Session], Any], n_fills: int | None = None) -> list[Any]:
        """The reports of several collectors from the same forwards, under the first ``n_fills`` fills."""
        with self._session() as session:
            started = [start(session) for start in collectors]
            for step in session.steps(self.transformations, self.fills[:n_fills]):
                for collector in started:
                    collector.take(step)
            return [collector.report() for collector in started]


def measure_invariance(model: nn.Module, data: Any, max_images: int | None = None, **options: Any) -> InvarianceReport:
    """Measure what a model is invariant to: ``Probe(model, data, max_images, **options).invariance()``."""
    return Probe(model, data, max_images, **options).invariance()
