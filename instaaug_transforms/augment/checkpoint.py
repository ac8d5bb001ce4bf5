"""A transform as a file: its configuration and φ's weights."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from ..families import create
from ..functional.inputs import CONVERSIONS
from ..predictors import Predictor, create_predictor, load_predictor
from ..predictors.base import check_built_for, settings_of
from ..utils import hf, weights
from ..utils.errors import InstaAugError

logger = logging.getLogger(__name__)

# Constructor arguments that do not touch what was learned.
CHANGEABLE = frozenset(
    {"p", "same_on_batch", "normalization", "output_size", "fill", "interpolation", "backend", "compile"}
)


class Checkpointed:
    """Mixin of `LearnedAugment`: what is written, and how it is made again."""

    def __setattr__(self, name: str, value: Any) -> None:
        """As for every module; another φ is built for these families, or must be, and what was recommended was not with it."""
        own = getattr(self, "predictor", None) if name == "predictor" else None
        if own is not None and isinstance(value, (str, Predictor)) and value is not getattr(own, "_orig_mod", own):
            if isinstance(value, str) or not hasattr(value, "in_channels"):
                value = create_predictor(value, self.families, self.in_channels).to(self.device)
            check_built_for(value, self.families, self.in_channels)
            self.recommended = None
        super().__setattr__(name, value)

    def config(self) -> dict[str, Any]:
        """What makes this transform again, as JSON values; weights apart."""
        norm = self.normalization
        return {
            "families": [{"name": family.name, "config": family.config()} for family in self.families],
            "in_channels": self.in_channels,
            "predictor": self.predictor.config(),
            "fill": self.fill,
            "mask_fill": self.mask_fill,
            "interpolation": self.interpolation,
            "output_size": self.output_size,
            "normalization": None if norm is None else [norm.mean, norm.std],
            "p": self.p,
            "same_on_batch": self.same_on_batch,
        }

    def save(self, path: str | os.PathLike, **notes: Any) -> None:
        """Write configuration and weights to ``path`` (.safetensors), all at once; ``notes`` are kept beside them.

        Raises:
            InstaAugError: another suffix, a folder that does not exist, or notes that JSON does not know.
        """
        weights.write(path, self._stored(notes), self.predictor.state_dict())

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """As for every module; what a fit recommended is of the weights that it ended with."""
        for name, own in self.predictor.state_dict(prefix=f"{prefix}predictor.").items():
            given = state_dict.get(name)
            if isinstance(given, Tensor) and not (own.is_meta or given.is_meta) and not torch.equal(own, given.to(own)):
                self.recommended = None
        # Of earlier versions, and of parts, there is none.
        super()._load_from_state_dict({f"{prefix}_extra_state": self.get_extra_state(), **state_dict}, prefix, *args)

    def get_extra_state(self) -> Tensor:
        """What candidates and bounds the weights are of, as bytes of JSON."""
        known = {family.name: settings_of(family) for family in self.families}
        return torch.frombuffer(bytearray(json.dumps(known).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Say where weights that fit are of other candidates or bounds: of the angles of `turn`, say."""
        try:
            known = dict(json.loads(bytes(state.to(torch.uint8).tolist())))
        except (
            AttributeError,
            NotImplementedError,
            TypeError,
            ValueError,
        ):  # averaged with others, say, or without numbers
            return
        for family in self.families:
            for key, own in settings_of(family).items():
                given = known.get(family.name, {}).get(key, own)
                if given != own:
                    logger.warning(
                        "state_dict: its weights of %s were learned with %s=%s, and this transform has %s; make it with theirs",
                        *(family.name, key, given, own),
                    )

    def push_to_hub(
        self,
        repo: str,
        *,
        message: str = "Add weights",
        private: bool | None = None,
        license: str | None = None,
        text: str = "",
        **notes: Any,
    ) -> str:
        """Put weights and a model card into a repository of the Hugging Face hub (``pip install "instaaug-transforms[hub]"``).

        The card has the sha256, how to load the file, and the table that the fit made on held-out images.

        Args:
            repo: ``owner/name``; made where it is not there yet.
            message: of the commit.
            private: whether a new repository is.
            license: an identifier of the hub, ``"apache-2.0"`` say.
            text: of your own, for the card.
            **notes: kept in the file and listed in the card.

        Returns:
            What `from_pretrained` takes to load this very commit.

        Raises:
            InstaAugError: no permission, or no way to the hub.
        """
        config = weights.as_read(self._stored(notes))
        file = weights.to_bytes(config, self.predictor.state_dict())
        card = hf.make_card(config, hashlib.sha256(file).hexdigest(), repo, license, text)
        return hf.upload(file, card, repo, message, private)

    def _stored(self, notes: dict[str, Any]) -> dict[str, Any]:
        setting = {} if self.recommended is None else {"recommended": self.recommended}
        return {**self.config(), **setting, "notes": notes}

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        classifier: nn.Module | None = None,
        sha256: str | None = None,
        **overrides: Any,
    ) -> Self:
        """A checkpoint that comes with the package (see `list_weights`), one on the Hugging Face hub, or a file that `save` wrote.

        Args:
            name_or_path: e.g. ``"crop_tinyimagenet"``, ``"mine.safetensors"``, ``"hf-hub:owner/name@revision"``.
            classifier: the one they were fitted with, for weights with ``predictor="features"``.
            sha256: that the file must have; of files on the hub, by default the one in their card.
            **overrides: constructor arguments to change: ``p``, ``same_on_batch``, ``normalization``,
                ``output_size``, ``fill``, ``interpolation``, ``backend``, ``compile``.

        Returns:
            An eval module with frozen weights; ``aug.requires_grad_(True).train()`` to go on fitting it.

        Raises:
            InstaAugError: an unknown name, a file that is damaged, altered or of another kind, or a classifier that is
                missing or another one.
        """
        unknown = sorted(set(overrides) - CHANGEABLE - {"in_channels"})
        if unknown:
            raise InstaAugError(
                f"{unknown[0]}: of weights only {', '.join(sorted(CHANGEABLE))} can be changed, got {unknown[0]}=…"
            )
        config, tensors = weights.read(name_or_path, sha256)
        try:
            channels = config["in_channels"] if "in_channels" in config else config["predictor"]["in_channels"]
        except (KeyError, TypeError) as error:
            raise InstaAugError(f"weights: {name_or_path} does not describe a transform: no {error}") from error
        if overrides.pop("in_channels", channels) != channels:
            raise InstaAugError(
                f"in_channels: the weights {str(name_or_path)!r} look at {channels} channel(s) and cannot change; convert "
                f"the images with {CONVERSIONS.get(channels, 'a transform of yours')}, or fit a LearnedAugment of your own"
            )
        try:
            arguments = {key: config[key] for key in ("output_size", "normalization", "p", "same_on_batch")}
            # Files of 0.1 know neither masks' fill nor another interpolation.
            arguments["fill"] = {"others": config["fill"], tv_tensors.Mask: config.get("mask_fill", 0)}
            arguments["interpolation"] = config.get("interpolation", "bilinear")
            configs = {entry["name"]: entry["config"] for entry in config["families"]}
            configs.get("crop", {}).pop("prior_area", None)  # of 0.1: it changed how entropy was measured, not views
            arguments |= {"in_channels": channels, "predictor": load_predictor(config["predictor"], classifier)}
            aug = cls(create(list(configs), configs), **(arguments | overrides))
            aug.predictor.load_state_dict(tensors)
            aug.recommended = config.get("recommended")
            if not all(tensor.isfinite().all() for tensor in tensors.values()):
                raise ValueError("some of its weights are not finite")
        except InstaAugError:
            raise
        except Exception as error:  # constructors raise anything at values that nobody meant for them
            raise InstaAugError(f"weights: {name_or_path} does not describe this transform: {error}") from error
        return aug.eval().requires_grad_(False)
