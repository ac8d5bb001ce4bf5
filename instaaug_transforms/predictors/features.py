"""An invariance module φ that reads a frozen classifier's own features of the image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..families import Family, Features, FeatureSpec
from ..utils.errors import InstaAugError
from ..utils.hashing import fingerprint
from .conv import shrink
from .taps import Tapped, Taps, find_layer

CONFIDENCES = 3


class FeaturesPredictor(nn.Module):
    """Heads on what the classifier already knows of the whole image: a feature map, penultimate features, posterior.

    That forward is paid for anyway where the image itself is among the views (`TTAModel` runs it once for both), and it
    knows far more than a fresh small network. The classifier is not part of this module's weights: it is given again
    when they are loaded, and must be the one they were fitted with.

    Args:
        families: families whose heads are built.
        classifier: images in [0, 1] to logits ``(B, K)``; kept as it is.
        in_channels: channels of the images.
        image_size: side of the copy that the classifier sees, pixels: what it was trained on.
        layer: submodule whose output is the feature map; by `find_layer` where None.
        dropout: of the features that heads read, while fitting.
    """

    def __init__(
        self,
        families: Sequence[Family],
        classifier: nn.Module,
        in_channels: int = 3,
        image_size: int = 64,
        layer: str | None = None,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.in_channels, self.image_size, self.dropout = in_channels, image_size, dropout
        device = next(classifier.parameters(), torch.empty(0)).device
        blank = torch.full((2, in_channels, image_size, image_size), 0.5, device=device)
        found, n_classes, _ = find_layer(classifier, blank)
        self.layer = layer or found
        # A plain tuple hides it from parameters(), state_dict() and to(): it is the user's.
        self._tapped = (Taps(classifier, self.layer, n_classes),)
        tapped = self._tapped[0](blank)
        channels, penultimate = tapped.map.shape[1], tapped.penultimate.shape[1]
        self.map_norm = nn.GroupNorm(1, channels)
        self.vector_norm = nn.LayerNorm(penultimate)
        self.drop = nn.Dropout(dropout)
        spec = FeatureSpec(channels, tuple(tapped.map.shape[-2:]), penultimate + n_classes + CONFIDENCES)
        self.heads = nn.ModuleDict({family.name: family.head(spec) for family in families})
        self.classifier_sha256 = fingerprint(classifier)

    @property
    def classifier(self) -> nn.Module:
        """The classifier whose features φ reads."""
        return self._tapped[0].classifier

    def config(self) -> dict[str, Any]:
        """Constructor arguments besides families and classifier, as JSON values, and what the classifier must be."""
        names = ("in_channels", "image_size", "layer", "dropout", "classifier_sha256")
        return {name: getattr(self, name) for name in names}

    def look(self, images: Tensor) -> tuple[Tensor, ...]:
        """What φ sees of ``(B, C, H, W)`` images whatever its weights, small enough to keep: fp16 features."""
        largest = torch.finfo(torch.float16).max
        return tuple(part.clamp(-largest, largest).half() for part in self.tap(images))

    def read(self, maps: Tensor, penultimate: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """What `look` gave to raw outputs ``(B, R)`` per family, fp32."""
        with torch.autocast(maps.device.type, enabled=False):
            log_p = logits.float().log_softmax(-1)
            p = log_p.exp()
            best = log_p.topk(2).values.exp()
            confidence = torch.stack([log_p.amax(1), -(p * log_p).sum(1), best[:, 0] - best[:, 1]], 1)
            # √(p·K): of order one however many classes there are.
            posterior = (p * p.shape[1]).sqrt()
            vector = torch.cat([self.vector_norm(penultimate.float()), posterior, confidence], 1)
            features = Features(self.map_norm(maps.float()), self.drop(vector))
            return {name: head(features) for name, head in self.heads.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images ``(B, C, H, W)`` in [0, 1] to raw outputs ``(B, R)`` per family, fp32."""
        return self.read(*self.tap(images))

    def tap(self, images: Tensor) -> Tapped:
        """The classifier's one forward: what `read` takes. Its logits are those of the copy."""
        return self._tapped[0](shrink(images, self.image_size))


def check_classifier(config: dict[str, Any], classifier: nn.Module | None) -> nn.Module:
    """The classifier that weights with this configuration need.

    Raises:
        InstaAugError: none was given, or another than they were fitted with.
    """
    if classifier is None:
        raise InstaAugError(
            "classifier: these weights read a classifier's features; give it: from_pretrained(…, classifier=model)"
        )
    if fingerprint(classifier) != config["classifier_sha256"]:
        raise InstaAugError(
            "classifier: these weights were fitted on the features of another classifier (its sha256 differs); give that "
            "one, or fit again for this one. TTAModel may still average any other classifier's views"
        )
    return classifier
