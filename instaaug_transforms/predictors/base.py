"""The protocol of an invariance module φ, and the registry by which files name theirs.

`encode` is what φ sees of an image whatever its weights, small enough to keep (a copy of 64 pixels, say): a fit computes
it once. `decode` turns that into the families' raw outputs, and is what is learned.
"""

import inspect
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..families import Family, Features, FeatureSpec
from ..utils.errors import InstaAugError
from ..utils.modes import evaluating, first_weight, without_autocast

_REGISTRY: dict[str, type["Predictor"]] = {}


def register_predictor(kind: str) -> Callable[[type["Predictor"]], type["Predictor"]]:
    """Class decorator: make a predictor known by its ``kind``, so that files that hold one can be loaded.

    Raises:
        InstaAugError: another class has that kind already.
    """

    if not isinstance(kind, str):
        raise InstaAugError(f"kind: expected the name in brackets, @register_predictor('mine'), got {kind!r}")

    def add(cls: type["Predictor"]) -> type["Predictor"]:
        known = _REGISTRY.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise InstaAugError(
                f"predictor kind {kind!r} is taken by {known.__module__}.{known.__qualname__}; choose another"
            )
        cls.kind, _REGISTRY[kind] = kind, cls
        return cls

    return add


class Predictor(nn.Module):
    """φ: images to the raw outputs of every family.

    A predictor of one's own is a registered subclass with `encode`, `spec` and `features`; its constructor arguments are
    JSON values kept as attributes of the same name. `LearnedAugment` calls `build`, which adds a head per family. What
    looks at no features, as `GlobalPredictor`, overrides `build` and `decode` instead.

    Attributes:
        kind: the name it is registered by, written into files.
        takes_bytes: whether it takes uint8 images as well as floats in [0, 1].
        heads: one module per family name, after `build`.
    """

    kind: ClassVar[str]
    takes_bytes: ClassVar[bool] = False

    def build(self, families: Sequence[Family], in_channels: int = 3) -> "Predictor":
        """Add what depends on the families; once. Returns itself.

        Raises:
            InstaAugError: it belongs to a transform already.
        """
        if hasattr(self, "in_channels"):
            raise InstaAugError(
                f"predictor: this {type(self).__name__} belongs to a transform already; make one for each transform"
            )
        self.in_channels = in_channels
        self._build(families)
        self.built_for = tuple(families)
        return self

    def _build(self, families: Sequence[Family]) -> None:
        spec = self.spec()
        self.heads = nn.ModuleDict({family.name: family.head(spec) for family in families})

    @abstractmethod
    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """What φ sees of ``(B, C, H, W)`` images in [0, 1] whatever its weights; tensors that lead with ``(B,)``."""

    @abstractmethod
    def spec(self) -> FeatureSpec:
        """Sizes of what `features` gives; called once ``in_channels`` is known."""

    @abstractmethod
    def features(self, *encoded: Tensor) -> Features:
        """What `encode` gave to what the heads read."""

    def decode(self, *encoded: Tensor) -> dict[str, Tensor]:
        """What `encode` gave to raw outputs ``(B, R)`` per family, fp32."""
        with without_autocast(encoded[0].device):
            dtype = first_weight(self.heads).dtype
            features = self.features(*encoded)
            if features.map.dtype != dtype or features.vector.dtype != dtype:
                features = Features(*(part.to(dtype) for part in features))
            return {name: head(features).float() for name, head in self.heads.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images ``(B, C, H, W)`` in [0, 1] to raw outputs ``(B, R)`` per family, fp32."""
        return self.decode(*self.encode(images))

    def multiplications(self, side: int = 64) -> int:
        """How many multiplications a look at one image of ``side`` × ``side`` pixels takes, heads included, copies not."""
        from torch.utils.flop_counter import FlopCounterMode

        weight = first_weight(self)
        dtype = torch.uint8 if self.takes_bytes else torch.float32
        blank = torch.zeros(1, self.in_channels, side, side, dtype=dtype, device=weight.device)
        with FlopCounterMode(display=False) as counter, evaluating(self), torch.no_grad():
            self(blank)
        return counter.get_total_flops() // 2  # an addition goes with each

    @property
    def reads_labels(self) -> bool:
        """Whether ``forward`` takes ``labels`` too, ``(B,)``, while training."""
        return False

    def config(self) -> dict[str, Any]:
        """Kind and constructor arguments, as JSON values."""
        arguments = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        named = [a.name for a in arguments if a.kind not in (a.VAR_POSITIONAL, a.VAR_KEYWORD)]
        return {"kind": self.kind, **{name: getattr(self, name) for name in named}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], classifier: nn.Module | None = None) -> "Predictor":
        """The reverse of `config`. ``classifier`` is for predictors that read one's features."""
        return cls(**{name: value for name, value in config.items() if name != "kind"})


def create_predictor(predictor: "str | Predictor", families: Sequence[Family], in_channels: int) -> Predictor:
    """A predictor or the name of one that needs no arguments, built for these families.

    Raises:
        InstaAugError: an unknown name, or an object that is no predictor.
    """
    if isinstance(predictor, str):
        if predictor not in _REGISTRY:
            raise InstaAugError(f"predictor: unknown name {predictor!r}; known are {', '.join(sorted(_REGISTRY))}")
        try:
            predictor = _REGISTRY[predictor]()
        except TypeError as error:
            cls = _REGISTRY[predictor]
            needed = ", ".join(list(inspect.signature(cls).parameters)[:1])
            raise InstaAugError(
                f"predictor: {predictor!r} needs arguments; give an object, {cls.__name__}({needed}=…)"
            ) from error
    if not isinstance(predictor, Predictor):
        raise InstaAugError(
            f"predictor: expected a name ({', '.join(sorted(_REGISTRY))}) or a Predictor, got "
            f"{type(predictor).__name__}; subclass instaaug_transforms.predictors.Predictor"
        )
    return predictor.build(families, in_channels)


def check_built_for(predictor: Predictor, families: Sequence[Family], in_channels: int) -> None:
    """Raise where a predictor was built for other families, candidates, bounds or channels; what does not say so passes."""
    known, wanted = (
        {family.name: settings_of(family) for family in each}
        for each in (getattr(predictor, "built_for", families), families)
    )
    other = sorted(name for name in known.keys() | wanted.keys() if known.get(name) != wanted.get(name))
    if other or predictor.in_channels != in_channels:
        raise InstaAugError(
            f"predictor: this {type(predictor).__name__} was built for another transform, with other {', '.join(other) or 'channels'}; give "
            "a new one, which is built for this transform, or LearnedAugment(families, predictor=…)"
        )


def settings_of(family: Family) -> dict[str, Any]:
    """What the meaning of learned weights depends on, as JSON values."""
    settings = {name: value for name, value in family.config().items() if not name.startswith("initial_")}
    return json.loads(json.dumps(settings))


def load_predictor(config: Mapping[str, Any], classifier: nn.Module | None = None) -> Predictor:
    """The predictor that a file describes, not built yet.

    Raises:
        InstaAugError: an unknown kind, or weights that need another classifier than this one.
    """
    if not isinstance(config, Mapping):
        raise InstaAugError(f"weights: 'predictor' should be an object in the file's configuration, got {config!r}")
    config = dict(config)
    kind = config.pop("kind", None) or _kind_of_0_1(config)
    config.pop("in_channels", None)
    if kind not in _REGISTRY:
        raise InstaAugError(
            f"weights: they hold a predictor of kind {kind!r}, which is not known here; import the module that registers it "
            f"first. Known are {', '.join(sorted(_REGISTRY))}"
        )
    return _REGISTRY[kind].from_config(config, classifier)


def _kind_of_0_1(config: dict[str, Any]) -> str:
    """Files of version 0.1 tell their predictors apart by what is configured."""
    if "classifier_sha256" in config:
        return "features"
    if "image_size" in config:
        return "conv"
    n_classes, symmetric = config.pop("n_classes", None), config.pop("symmetric", False)
    if n_classes is not None:
        config["n_classes"] = n_classes
        return "class"
    return "symmetric" if symmetric else "global"
