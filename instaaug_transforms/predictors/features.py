"""An invariance module φ that reads a frozen classifier's own features of the image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..families import Family, Features, FeatureSpec
from ..functional.linear_rgb import GAMMA
from ..utils.errors import InstaAugError, check_number, check_whole
from ..utils.hashing import fingerprint, unwrapped
from ..utils.outputs import check_module
from .base import Predictor, register_predictor
from .copies import shrink
from .taps import Tapped, Taps, count_classes, find_layer

CONFIDENCES = 3
LEVELS_SIDE, LEVELS = 32, (0.02, 0.1, 0.5, 0.9, 0.98)  # of a small copy
STOPS = 8.0  # below white, where darkness is told apart no further


@register_predictor("features")
class FeaturesPredictor(Predictor):
    """Heads on what the classifier already knows of the whole image: a feature map, penultimate features, posterior.

    That forward is paid for anyway where the image itself is among the views (`TTAModel` runs it once for both), and it
    knows far more than a fresh small network. The classifier is not part of this module's weights: it is given again
    when they are loaded, and must be the one they were fitted with.

    Args:
        classifier: images in [0, 1] to logits ``(B, K)``; kept as it is, neither trained, nor moved, nor saved.
        image_size: side of the copy that the classifier sees, pixels: what it was trained on.
        layer: submodule whose output is the feature map; the deepest with at least 8×8 units if left out.
        dropout: of the features that heads read, while fitting.
        levels: whether φ is also told how bright the image is and of what colour, which classifiers take out; where a family
            changes colours, by default.

    Raises:
        InstaAugError: a classifier that is no module, or an argument out of range.
    """

    def __init__(
        self,
        classifier: nn.Module,
        image_size: int = 64,
        layer: str | None = None,
        dropout: float = 0.3,
        levels: bool | None = None,
    ) -> None:
        super().__init__()
        check_module(classifier)
        check_whole("image_size", image_size, most=4096)
        check_number("dropout", dropout, "[0, 1]")
        self.image_size, self.layer, self.dropout, self.levels = int(image_size), layer, dropout, levels
        # A plain tuple hides it from parameters(), state_dict() and to(): it is the user's.
        self._classifier = (classifier,)

    def _build(self, families: Sequence[Family]) -> None:
        if self.levels is None:
            self.levels = any(family.stage == "colour" for family in families)
        device = next(self.classifier.parameters(), torch.empty(0)).device
        blank = torch.full((2, self.in_channels, self.image_size, self.image_size), 0.5, device=device)
        model = unwrapped(self.classifier)  # compiled, it would go past the hooks
        if self.layer:  # named, it need not look like one
            n_classes = count_classes(model, blank)
        else:
            self.layer, n_classes = find_layer(model, blank)
        self._taps = (Taps(model, self.layer, n_classes),)
        tapped = self.tap(blank)
        self._sizes = tapped.map.shape[1:], tapped.penultimate.shape[1], n_classes
        self.map_norm = nn.GroupNorm(1, tapped.map.shape[1])
        self.vector_norm = nn.LayerNorm(tapped.penultimate.shape[1])
        self.drop = nn.Dropout(self.dropout)
        super()._build(families)

    @property
    def classifier(self) -> nn.Module:
        """The classifier whose features φ reads."""
        return self._classifier[0]

    @property
    def classifier_sha256(self) -> str:
        """Of the classifier as it is now: one that is trained along is another after every step."""
        return fingerprint(self.classifier)

    def config(self) -> dict[str, Any]:
        """Kind, constructor arguments besides the classifier, and the sha256 that it must have."""
        names = ("image_size", "layer", "dropout", "levels", "classifier_sha256")
        return {"kind": self.kind, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], classifier: nn.Module | None = None) -> "FeaturesPredictor":
        check_classifier(config, classifier)
        return cls(classifier, config["image_size"], config["layer"], config["dropout"], config.get("levels", False))

    def spec(self) -> FeatureSpec:
        (channels, *side), penultimate, n_classes = self._sizes
        levels = 2 * self.in_channels * len(LEVELS) if self.levels else 0
        return FeatureSpec(channels, tuple(side), penultimate + n_classes + CONFIDENCES + levels)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """fp16 feature map, penultimate features and logits; levels ``(B, C, 5)``."""
        return pack(self.tap(images))

    def features(self, maps: Tensor, penultimate: Tensor, logits: Tensor, levels: Tensor | None = None) -> Features:
        dtype = self.vector_norm.weight.dtype
        # Classes that the classifier rules out have logits of −∞, and 0 · −∞ is not a number.
        log_p = logits.float().clamp(-1e4, 1e4).log_softmax(-1)
        p = log_p.exp()
        best = log_p.topk(min(2, log_p.shape[1])).values.exp()
        confidence = torch.stack([log_p.amax(1), -(p * log_p).sum(1), best[:, 0] - best[:, -1]], 1)
        # √(p·K): of order one however many classes there are.
        posterior = (p * p.shape[1]).sqrt()
        vector = torch.cat([self.vector_norm(penultimate.to(dtype)), posterior, confidence], 1)
        vector = self.drop(vector)
        if levels is not None:
            vector = torch.cat([vector, _in_stops(levels.float()).to(dtype)], 1)
        return Features(self.map_norm(maps.to(dtype)), vector)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images ``(B, C, H, W)`` in [0, 1] to raw outputs ``(B, R)`` per family, fp32."""
        return self.decode(*self.tap(images))

    def tap(self, images: Tensor) -> Tapped:
        """The classifier's one forward: what `decode` takes. Its logits are those of the copy."""
        tapped = self._taps[0](shrink(images, self.image_size))
        return tapped._replace(levels=levels_of(images)) if self.levels else tapped


def pack(tapped: Tapped) -> tuple[Tensor, ...]:
    """What a classifier made of images, in fp16: small enough to keep."""
    largest = torch.finfo(torch.float16).max
    return tuple(part.clamp(-largest, largest).half() for part in tapped if part is not None)


def levels_of(images: Tensor) -> Tensor:
    """Images ``(B, C, H, W)`` in [0, 1] to five quantiles of each channel of a small copy, ``(B, C, 5)``."""
    ordered = shrink(images, LEVELS_SIDE).flatten(2).sort(-1).values  # quantiles have no translation to ONNX
    places = [round(q * (ordered.shape[-1] - 1)) for q in LEVELS]
    return ordered[..., places]


def _in_stops(levels: Tensor) -> Tensor:
    """Levels ``(B, C, L)`` as they are and as light: differences between channels are white balance, and sums exposure."""
    light = torch.log2(levels.clamp(0, 1) ** GAMMA + 2**-STOPS)
    return torch.cat([2 * levels - 1, 1 + 2 * light / STOPS], 1).flatten(1)


def check_classifier(config: Mapping[str, Any], classifier: nn.Module | None) -> nn.Module:
    """The classifier that weights with this configuration need.

    Raises:
        InstaAugError: none was given, or another than they were fitted with.
    """
    if classifier is None:
        raise InstaAugError(
            "classifier: these weights read a classifier's features; give it: from_pretrained(…, classifier=model)"
        )
    if config.get("classifier_sha256") not in (None, fingerprint(classifier)):
        raise InstaAugError(
            "classifier: these weights were fitted on the features of another classifier (its sha256 differs); give that "
            "one, or fit again for this one. TTAModel may still average any other classifier's views"
        )
    return classifier
