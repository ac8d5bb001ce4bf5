"""Test-time augmentation: a classifier that averages over learned views of each image."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..augment import LearnedAugment
from ..augment.learnable import check_aug
from ..augment_distribution import AugmentDistribution
from ..params import AugmentParams
from ..utils.describe import model_sha256
from ..utils.errors import InstaAugError, check_number
from ..utils.outputs import check_logits, check_module, warn_of_probabilities
from .aggregation import SCALE_EDGES, aggregate, check_aggregation, scale_bins
from .views import ViewModel, finite, load_setting, look, unchanged

logger = logging.getLogger(__name__)
RULED_OUT = 1e-3  # as likely as the likeliest view of an image, and a vote like any other


class TTAModel(ViewModel):
    """A drop-in classifier: images to logits, averaged over ``n_views`` learned views of each image.

    `recommended` makes the one that won on held-out images. Views and outputs carry no gradient.

    Args:
        classifier: what takes the images that ``aug`` takes, and gives logits ``(B, classes)``.
        aug: the fitted transform.
        n_views: forwards per image, the image itself among them.
        select: ``"top"`` (no chance in it), ``"sample"`` or ``"stratified"``.
        aggregate: ``"mean_prob"``, the log of the mean probability; ``"probability"``, the same with views weighted by φ's
            own probability of them; or another of `aggregation.aggregate`.
        power: γ of ``"power"``.
        temperature: at which views are averaged: logits are divided by it before, and the average is multiplied by it, so that one view
            alone answers as it is. At that at which the classifier's probabilities are calibrated, views of which it is too sure no
            longer outvote the others; `fit` and `recommend` find it, where there are labels.
        scale_weights: six log-weights by size of crop (`aggregation.scale_bins`), for ``"weighted"``.
        include_identity: whether the image itself is one of the views, where there are two or more.
        range_fraction: use only the middle part of every continuous range, in (0, 1]. Views at the ends of a range
            are where the classifier is least sure; `instaaug_transforms.tta.tune` finds what helps on held-out data.
        chunk_size: views per forward at most (at least the views of one image).
        policy: fields to ``n_views`` numbers, ``{"turn_angle": [0, 180]}``: the same views for every image, φ not asked.
        view_offsets: one number per candidate, added to φ's log-probabilities before the ``top`` ones are taken; `fit`
            finds what makes the best sets.
        put_right: m, 1 or True as a rule: φ's m likeliest candidates are applied first, and the policy, of ``n_views / m`` crops
            and mirror images, is made of what comes of each: ``put_right=1, policy={"flip": [0, 1]}`` averages an image that has
            been turned upright and its mirror image. With more than one, ``aggregate="probability"`` weights them.

    Values outside [0, 1] are clamped with a warning (timm's ``validate.py`` warms up with Gaussian noise).

    Raises:
        InstaAugError: an argument that is not one of these. When called: a classifier in training mode, or one that gives
            something else than logits ``(B, classes)`` (any tensor will do for ``"mean_logit"``).
    """

    def __init__(
        self,
        classifier: nn.Module,
        aug: LearnedAugment,
        n_views: int = 10,
        *,
        select: str = "top",
        aggregate: str = "mean_prob",
        power: float = 0.5,
        temperature: float = 1.0,
        scale_weights: Sequence[float] | None = None,
        include_identity: bool = True,
        range_fraction: float = 1.0,
        chunk_size: int = 256,
        policy: Mapping[str, Sequence[float]] | None = None,
        view_offsets: Sequence[float] | None = None,
        put_right: int = 0,
    ) -> None:
        check_module(classifier)
        choice = (n_views, select, include_identity, range_fraction, chunk_size, policy, view_offsets, put_right)
        super().__init__(classifier, aug, *choice)
        check_aggregation(aggregate)
        check_number("power", power, "(0, ∞)")
        check_number("temperature", temperature, "(0, ∞)")
        if (aggregate == "weighted") != (scale_weights is not None):
            raise InstaAugError(
                f"scale_weights: 'weighted' needs them and nothing else does; got {scale_weights} with {aggregate!r}"
            )
        weights = None if scale_weights is None else finite("scale_weights", scale_weights)
        if weights is not None and weights.shape != (len(SCALE_EDGES) + 1,):
            raise InstaAugError(f"scale_weights: expected {len(SCALE_EDGES) + 1} numbers, got {len(scale_weights)}")
        self.register_buffer("scale_weights", weights, persistent=False)
        self.power, self.aggregate, self.temperature = power, aggregate, float(temperature)
        # Sets of views that held-out images chose have offsets, or come by `recommended`: they are known to pay.
        alike = aggregate not in ("probability", "confident", "weighted")
        by_phi = select == "top" and view_offsets is None and policy is None and bool(aug.anchor_families)
        self._to_check = n_views > 1 and alike and by_phi
        columns = math.prod(family.n_candidates for family in aug.anchor_families)
        if by_phi and len(aug.anchor_families) == len(aug.families) and n_views > columns:
            logger.warning(
                "n_views: %d of %d views are repetitions, a forward each: the transform has %d candidates; give no more",
                n_views - columns,
                n_views,
                columns,
            )
        self._known = False  # whether the classifier gives logits: asked once
        self.num_classes = getattr(classifier, "num_classes", None)
        self.pretrained_cfg = getattr(classifier, "pretrained_cfg", {})

    @classmethod
    def recommended(
        cls,
        classifier: nn.Module,
        aug: LearnedAugment,
        result: Any = None,
        *,
        max_forwards: float | None = None,
        **overrides: Any,
    ) -> "TTAModel":
        """The setting that won on held-out images: one plain view, a fixed policy, or learned views.

        Args:
            classifier: as above.
            aug: a transform that `fit` fitted, or whose weights file says what is recommended.
            result: what `fit` or `recommend` gave back; by default what ``aug`` itself remembers.
            max_forwards: of the classifier for an image, φ's own look included, on average: then the best setting that takes no more.
            **overrides: other arguments, ``chunk_size`` say; ``n_views`` only where what is recommended is no fixed views.

        It is logged where ``aug`` was fitted to another classifier, or nothing says to which: what won there need not win here.

        Raises:
            InstaAugError: nothing is known of a recommended setting, or of one that takes so few forwards; or it has another number of
                fixed views.
        """
        check_number("max_forwards", max_forwards, "[1, ∞)", optional=True)
        aug, report = check_aug(aug), getattr(result, "report", result)
        if report is not None and not hasattr(report, "to_json"):
            raise InstaAugError(
                f"result: expected what fit or recommend gave back, or None, got {type(result).__name__}"
            )
        known = aug.recommended if report is None else report.to_json()
        if not known:
            raise InstaAugError(
                "aug: nothing says which setting won on held-out images of yours. Find out, ia.recommend(aug, classifier, data), or "
                "give n_views yourself, TTAModel(classifier, aug, n_views=4)"
            )
        if result is None and known.get("model") is None:
            logger.warning(
                "classifier: what is recommended is what the weights come with, for any classifier; find out whether it helps this one on "
                "images of yours, by ia.recommend or `instaaug recommend`"
            )
        elif result is None and known["model"] != model_sha256(classifier):
            logger.warning(
                "classifier: what is recommended was found on held-out images of another one (its sha256 differs); compare "
                "on this one first, by ia.recommend or `instaaug validate`, or fit again"
            )
        setting = load_setting(_within(max_forwards, known))
        n = setting.get("n_views")
        if setting.get("policy") and "policy" not in overrides and overrides.get("n_views", n) != n:
            raise InstaAugError(
                f"n_views: what is recommended is {n} fixed view(s), got {overrides['n_views']}; leave n_views out, or "
                f"make a setting of your own: TTAModel(classifier, aug, n_views={overrides['n_views']})"
            )
        model = cls(classifier, aug, **(setting | overrides))
        model._to_check = False
        return model

    @property
    def classifier(self) -> nn.Module:
        """The classifier that is averaged."""
        return self.model

    @torch.no_grad()
    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images ``(B, C, H, W)``, as ``aug`` takes them, to ``(B, classes)``: softmax of it is the prediction.

        A single image ``(C, H, W)`` gives ``(classes,)``. ``generator`` is the source of the randomness of ``sample`` and
        ``stratified``; the global one by default.
        """
        return self.chunks(images, lambda part: self._chunk(part, generator))

    def extra_repr(self) -> str:
        at = "" if self.temperature == 1 else f", temperature={self.temperature:g}"
        return f"{super().extra_repr()}, aggregate={self.aggregate!r}{at}"

    def _chunk(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        batch, back = self.aug.prepare(images, strict=False)
        if not self.asks:
            params, distribution, plain = self.policy_views(batch), None, None
        else:
            # What φ saw is what the classifier takes, unless normalisation came between.
            taken = self.aug.normalization is None and images.is_floating_point()
            plain, distribution = look(self.aug, self.model, batch, taken)
            params = self.choose(distribution, generator)
            if self._to_check and not torch.compiler.is_compiling() and len(batch):
                self._warn_of_what_is_ruled_out(params, distribution)
        # Convolutions on a CPU are faster in this layout, whatever the weights' layout.
        layout = batch.contiguous(memory_format=torch.channels_last)
        if plain is None:
            logits = self._answers(layout, back, params)
        else:
            logits = self._other_answers(layout, back, params, plain)
        return self.average(logits, self.log_weights(params, distribution))

    def average(self, logits: Tensor, log_weights: Tensor | None) -> Tensor:
        """Logits ``(n, B, classes)`` of views to ``(B, classes)``; what they weigh is what `log_weights` gives."""
        return aggregate(
            logits, self.aggregate, power=self.power, log_weights=log_weights, temperature=self.temperature
        )

    def _warn_of_what_is_ruled_out(self, params: AugmentParams, distribution: AugmentDistribution) -> None:
        """Say once where many of the views that count alike have next to no probability."""
        self._to_check = False
        parts = distribution.parts
        log_p = sum(parts[family.name].log_prob(params) for family in self.aug.anchor_families)
        share = (log_p < log_p.amax(0) + math.log(RULED_OUT)).float().mean().item()
        if share > 1 / 3:
            logger.warning(
                f"n_views: {100 * share:.0f} % of the {self.n_views} views an image are all but ruled out by φ, and count as much as the "
                "likeliest; weight them by aggregate='probability', draw them by select='sample', or take fewer"
            )

    def _answers(self, batch: Tensor, back: Callable[[Tensor], Any], params: AugmentParams) -> Tensor:
        """Logits ``(n, B, classes)`` of views ``(n, B)``."""
        return self._ask(back(self.make_views(batch, params))).unflatten(0, (params.batch_shape[0], -1))

    def _other_answers(
        self, batch: Tensor, back: Callable[[Tensor], Any], params: AugmentParams, plain: Tensor
    ) -> Tensor:
        """The same where logits ``plain`` (B, classes) of the images themselves are known: these are not looked at again."""
        n, size = params.batch_shape
        if torch.compiler.is_compiling():  # no shape may depend on values
            if not self.include_identity or n == 1 or self.put_right:
                return self._answers(batch, back, params)
            rest = self._answers(batch, back, params.index(slice(1, None)))
            return torch.cat([plain[None].to(rest), rest])
        left = (~unchanged(self.families, params)).flatten().nonzero()[:, 0]  # of n·B
        if not len(left):
            return plain.expand(n, -1, -1)
        some = batch[left % size].contiguous(memory_format=torch.channels_last)
        own = None if self.policy is None else self.families
        found = self._ask(back(self.aug.apply(some, params.flatten().index(left), families=own)))
        return plain.to(found).repeat(n, 1).index_copy_(0, left, found).unflatten(0, (n, -1))

    def _checked(self, outputs: Any) -> Tensor:
        # The mean of anything is a mean; all others are means of probabilities.
        free = self.aggregate == "mean_logit" and isinstance(outputs, Tensor)
        if free:
            return outputs
        outputs = check_logits(outputs)
        if not self._known and not torch.compiler.is_compiling() and len(outputs):
            self._known = True
            warn_of_probabilities(outputs)
        return outputs

    def log_weights(self, params: AugmentParams, distribution: AugmentDistribution | None) -> Tensor | None:
        """What views ``(n, B)`` weigh in the average, ``(n, B)``; None where they weigh the same."""
        if self.scale_weights is not None:
            return self.scale_weights[scale_bins(params)]
        if self.aggregate != "probability":
            return None
        if distribution is None:
            return torch.zeros_like(next(iter(params.values())), dtype=torch.float32)
        return distribution.log_prob(params)


def _within(max_forwards: float | None, known: Mapping[str, Any]) -> Mapping[str, Any]:
    """The best of the settings that held-out images recommend, dearest first, which takes no more forwards."""
    settings = [known["recommended"], *known.get("cheaper", [])]
    if max_forwards is None:
        return settings[0]
    for setting in settings:
        if setting.get("cost", math.inf) <= max_forwards:
            return setting
    raise InstaAugError(
        f"max_forwards: got {max_forwards:g}, and {_known_costs(settings)}; find out what to use, ia.recommend(aug, classifier, data), or "
        "give n_views yourself, TTAModel(classifier, aug, n_views=…)"
    )


def _known_costs(settings: Sequence[Mapping[str, Any]]) -> str:
    """Why none of the settings will do."""
    costs = [setting["cost"] for setting in settings if "cost" in setting]
    if not costs:  # of an old file, or one for any classifier
        return f"what is recommended, n_views={settings[0].get('n_views')}, does not say how many it takes with this classifier"
    return f"of what is recommended the cheapest takes {min(costs):g} forwards an image"
