"""Logits of views that several ask for: each view of an image goes through the classifier once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..augment import LearnedAugment
from ..augment_distribution import AugmentDistribution
from ..families import identity_of
from ..params import AugmentParams
from ..utils.forward import answers
from ..utils.modes import at_rest
from .arms import families_for
from .views import look


class SharedViews:
    """A frozen classifier that looks at views.

    Args:
        classifier: images in [0, 1] to logits, held in eval mode by the caller.
        aug: whose families, output size and fill act on the views.
        batch_size: views per forward.
        amp: bfloat16 autocast.
    """

    def __init__(self, classifier: nn.Module, aug: LearnedAugment, batch_size: int, amp: bool) -> None:
        self.classifier, self.aug, self.batch_size, self.amp = classifier, aug, batch_size, amp
        self._looked: tuple[Tensor, Tensor | None, AugmentDistribution] | None = None
        self.families = families_for(aug)
        fields = [(i, name) for i, family in enumerate(self.families) for name in family.acting_fields]
        self._names, self._family = [name for _, name in fields], torch.tensor([i for i, _ in fields])
        identity = identity_of(self.families)
        self._neutral = torch.tensor([float(identity[name]) for name in self._names])

    def predict(self, images: Tensor) -> AugmentDistribution:
        """p(τ | x) of a batch, looked at once for all arms."""
        if self._looked is None or self._looked[0] is not images:
            # Under autocast the classifier's forward would not be the one that φ is made for.
            with at_rest(self.aug.predictor):
                self._looked = (images, *look(self.aug, self.classifier, images, not self.amp))
        return self._looked[2]

    def logits(
        self, images: Tensor, asked: Sequence[AugmentParams], known: tuple[AugmentParams, Tensor] | None = None
    ) -> list[Tensor]:
        """Logits ``(n, B, classes)``, on the CPU, for each of ``asked``, ``(n, B)``; what several ask for is looked at once.

        Args:
            images: ``(B, C, H, W)``.
            asked: parameters of views.
            known: ``(V,)`` views of every image that were looked at before, and their logits ``(B, V, classes)``.
        """
        codes = [self._encode(params) for params in asked]  # (n, B, F)
        image = torch.arange(len(images)).expand(sum(map(len, codes)), -1)
        rows = torch.cat([torch.cat(codes), image[..., None].float()], -1).flatten(0, 1)
        distinct, place = rows.unique(dim=0, return_inverse=True)  # sorted: equal views of all images come together
        code, image = distinct[:, :-1], distinct[:, -1].long()
        left, answers = torch.ones(len(code), dtype=torch.bool), None
        for before, logits in self._known(images, known):
            same = torch.cat([before, code]).unique(dim=0, return_inverse=True)[1]
            column = torch.full((int(same.max()) + 1,), -1).scatter(0, same[: len(before)], torch.arange(len(before)))
            column = column[same[len(before) :]]  # of ``before``, -1 where it is none
            answers = logits.new_empty(len(code), logits.shape[-1]) if answers is None else answers
            answers[column >= 0] = logits[image[column >= 0], column[column >= 0]]
            left &= column < 0
        acting = (code != self._neutral).int() @ F.one_hot(self._family).int() > 0  # (U, families)
        acting[:, 0] |= ~acting.any(1)
        kinds, kind = acting.unique(dim=0, return_inverse=True)
        for k, families in enumerate(
            kinds
        ):  # a family that changes nothing stays out: it would blend `fill` into edges
            names = [(f, name) for f, name in enumerate(self._names) if families[self._family[f]]]
            unknown = ((kind == k) & left).nonzero()[:, 0]
            for index in unknown.split(self.batch_size) if len(unknown) else ():
                params = AugmentParams(**{name: code[index, f] for f, name in names}).to(self.aug.device)
                logits = self.view(images[image[index].to(images.device)], params)
                answers = logits.new_empty(len(code), logits.shape[-1]) if answers is None else answers
                answers[index] = logits
        counts = [len(params) * len(images) for params in codes]
        return [part.unflatten(0, (-1, len(images))) for part in answers[place].split(counts)]

    def view(self, images: Tensor, params: AugmentParams) -> Tensor:
        """Logits of one view ``(B,)`` of each image, on the CPU."""
        views = self.aug.apply(images, params, families=self.families)
        return answers(self.classifier, views, self.amp).float().cpu()

    def _known(self, images: Tensor, known: tuple[AugmentParams, Tensor] | None) -> list[tuple[Tensor, Tensor]]:
        """Codes ``(V, F)`` and logits ``(B, V, classes)`` of what was looked at before, by φ on its way too."""
        pairs = [] if known is None else [(self._encode(known[0]), known[1])]
        looked, self._looked = self._looked, None
        if looked is not None and looked[0] is images and looked[1] is not None:
            pairs.append((self._neutral[None], looked[1][:, None].float().cpu()))
        return pairs

    def _encode(self, params: AugmentParams) -> Tensor:
        """What acts in views, as numbers ``(*, F)``; fields that are left out are the identity."""
        columns = [
            params[name].float().cpu() if name in params else neutral.expand(params.batch_shape)
            for name, neutral in zip(self._names, self._neutral, strict=True)
        ]
        return torch.stack(columns, -1) + 0.0  # there is a −0, which is none other than 0


class FlatOutputs(nn.Module):
    """A model's outputs as ``(B, numbers)``; their shape is kept."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.shape = model, ()

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.model(images)
        self.shape = outputs.shape[1:]
        return outputs.reshape(len(outputs), -1)
