"""Sizes, values and precisions at their extremes: ``python -m tests.campaign.numbers --cases 100000``.

Hypothesis draws images, transforms and raw outputs of φ; what comes out must be finite, in range, and of the right shape
and dtype, entropies, log-probabilities and gradients included.
"""

import math
import sys
from collections.abc import Callable

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from torch import Tensor

import instaaug_transforms as ia
from instaaug_transforms.augment_distribution import AugmentDistribution
from instaaug_transforms.families import create
from instaaug_transforms.tta.aggregation import AGGREGATIONS, aggregate
from instaaug_transforms.tta.views import choose_views

from .tally import Tally, main

FAMILIES = ["crop", "turn", "rotate", "translate", "scale", "shear", "mean_field_crop", "light", "erase", "blur", "hsv"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8]
# Raw outputs of φ: ordinary, saturated, masked, tiny.
RAW = [0.0, 1.0, -1.0, 30.0, -30.0, 88.0, -104.0, 1e4, -1e4, -1e9, 1e9, 3e38, -3e38, 1e-45, math.inf, -math.inf]
PIXELS = [0.0, 1.0, 0.5, 1e-45, 1e-40, 1 / 255, 1 - 2**-24]


def sides() -> st.SearchStrategy[tuple[int, int]]:
    """Height and width, 1 … 513, strips and single pixels among them; few of the large ones, which take long."""
    small = st.integers(1, 40)
    large = st.sampled_from([63, 64, 65, 127, 224, 255, 511, 512, 513])
    return st.one_of(st.tuples(small, small), st.tuples(st.integers(1, 3), large), st.tuples(large, st.integers(1, 3)))


def rows_of(values: list[float], size: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.sampled_from(values), min_size=size, max_size=size)


class Cases:
    """One property each; `draw` is Hypothesis's."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.families = {name: create([name])[0] for name in FAMILIES}
        # A transform per family and number of channels: making one takes longer than a case.
        self.made: dict[tuple, ia.LearnedAugment] = {}

    def transform(self, names: tuple[str, ...], channels: int) -> ia.LearnedAugment:
        if (names, channels) not in self.made:
            small = ia.ConvPredictor(image_size=16, width=4)
            self.made[names, channels] = ia.LearnedAugment(names, in_channels=channels, predictor=small)
        return self.made[names, channels]

    def names(self, draw: Callable, channels: int) -> tuple[str, ...]:
        allowed = [
            name for name in FAMILIES if not self.families[name].channels or channels in self.families[name].channels
        ]
        names = draw(st.lists(st.sampled_from(allowed), min_size=1, max_size=3, unique=True))
        if "mean_field_crop" in names and "crop" in names:
            names.remove("mean_field_crop")
        return tuple(sorted(names, key=FAMILIES.index))

    def raw(self, draw: Callable, name: str, batch: int) -> Tensor:
        family = self.families[name]
        size = family.n_candidates if hasattr(family, "n_candidates") else 2 * len(family.fields)
        values = torch.tensor(draw(rows_of(RAW, 4)))
        if draw(st.booleans()):  # ordinary numbers, a few of them extreme
            raw = torch.randn(batch, size, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31))))
            raw.flatten()[: len(values)] = values[: raw.numel()]
        else:
            raw = values[torch.arange(batch * size) % 4].view(batch, size)
        if hasattr(family, "n_candidates"):
            # Not everything may be ruled out, nor may two candidates be infinitely likely.
            raw[raw == math.inf] = 1e9
            raw[:, draw(st.integers(0, size - 1))] = draw(st.sampled_from([0.0, 1.0, -1e9]))
        return raw

    def distributions(self, draw: Callable) -> None:
        """Raw outputs of any size: samples inside the bounds; entropies, densities and gradients finite."""
        name, batch = draw(st.sampled_from(FAMILIES)), draw(st.sampled_from([0, 1, 2, 5]))
        family, raw = self.families[name], self.raw(draw, name, batch).requires_grad_()
        # What an infinite raw output says is certain; its slope is 0 or none.
        finite = bool(raw.isfinite().all())
        dist, n = AugmentDistribution([family], {name: raw}), draw(st.sampled_from([1, 3, 70]))
        how = draw(st.sampled_from(["sample", "top", "stratified"]))
        params = dist.select(n, how)
        assert params.batch_shape == (n, batch)
        for field, value in params.items():
            assert value.isfinite().all(), (name, field, raw)
        for field, (low, high) in getattr(family, "bounds", {}).items():
            slack = 1e-5 * (high - low)
            assert ((params[field] >= low - slack) & (params[field] <= high + slack)).all(), (name, field)
        entropy, log_p = dist.entropy(), dist.log_prob(params.detach())
        assert entropy.shape == (batch,) and log_p.shape == (n, batch)
        assert not entropy.isnan().any() and (entropy <= family.max_entropy() + 1e-4).all(), (name, entropy, raw)
        assert not log_p.isnan().any(), (name, raw)
        if family.has_rsample:
            assert not finite or entropy.isfinite().all(), (name, entropy, raw)
            assert not finite or log_p.isfinite().all(), (name, log_p, raw)
        else:
            assert entropy.isfinite().all() and (entropy >= -1e-6).all()
            if how == "sample":  # what is impossible is never drawn
                assert log_p.isfinite().all(), (name, log_p, raw)
        if batch and finite:
            (entropy.sum() + log_p.clamp(min=-1e4).sum()).backward()
            assert raw.grad.isfinite().all(), (name, raw, raw.grad)
        views = choose_views(dist, n, how)
        assert views.batch_shape == (n, batch) and dist.mode.batch_shape == (batch,)

    def images(self, draw: Callable) -> None:
        """Images of any size, precision and content, through sampled or extreme transformations."""
        (height, width), channels = draw(sides()), draw(st.sampled_from([1, 3, 4]))
        batch, dtype = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from(DTYPES))
        aug = self.transform(self.names(draw, channels), channels)
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
        images = torch.rand(batch, channels, height, width, generator=generator)
        values = draw(rows_of(PIXELS, 3))
        images.flatten()[:3] = torch.tensor(values)[: images.numel()]
        images = (images * 255).to(torch.uint8) if dtype == torch.uint8 else images.to(dtype)
        aug.output_size = draw(st.one_of(st.none(), sides().map(lambda size: (min(size[0], 65), min(size[1], 65)))))
        aug.interpolation = draw(st.sampled_from(["bilinear", "bicubic", "nearest"]))
        raw = {family.name: self.raw(draw, family.name, batch).nan_to_num(0, 1e9, -1e9) for family in aug.families}
        params = AugmentDistribution(aug.families, raw).select(1, "sample", generator).index(0)
        given = images[0] if batch == 1 and draw(st.booleans()) else images
        out = aug(given, params=params)
        turned = given.ndim == 3 and aug.output_size is None and "turn" in raw
        size = aug.output_size or (height, width)
        about = (
            [f.name for f in aug.families],
            aug.interpolation,
            tuple(given.shape),
            aug.output_size,
            dtype,
            dict(params),
        )
        assert out.dtype == dtype and out.shape[:-2] == given.shape[:-2], about
        assert out.shape[-2:] == size or (turned and out.shape[-2:] == size[::-1]), (out.shape, about)
        assert out.isfinite().all(), about
        assert out.min() >= -1e-4 and out.max() <= (255 if dtype == torch.uint8 else 1 + 2e-3), (
            out.min(),
            out.max(),
            about,
        )

    def predictors(self, draw: Callable) -> None:
        """φ's look at images of any size, and gradients of views back to its weights."""
        (height, width), channels = draw(sides()), draw(st.sampled_from([1, 3]))
        aug = self.transform(self.names(draw, channels), channels)
        aug.output_size, aug.interpolation = None, "bilinear"
        images = torch.rand(draw(st.sampled_from([1, 2])), channels, height, width)
        if draw(st.booleans()):
            images = torch.full_like(images, draw(st.sampled_from(PIXELS)))  # no variance for any norm
        views, sample = aug.sample(images, n=draw(st.sampled_from([1, 2])))
        aug.zero_grad(set_to_none=True)
        (views.square().mean() - sample.distribution.entropy().mean()).backward()
        assert views.isfinite().all()
        for name, parameter in aug.predictor.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), (
                name,
                [f.name for f in aug.families],
                images.shape,
            )

    def averages(self, draw: Callable) -> None:
        """Logits of views, classes ruled out among them, to an average that is a distribution."""
        n, batch, classes = draw(st.integers(1, 12)), draw(st.sampled_from([0, 1, 3])), draw(st.integers(1, 6))
        values = [v for v in RAW if v != math.inf]
        logits = torch.tensor(draw(rows_of(values, 7)))[torch.arange(n * batch * classes) % 7].view(n, batch, classes)
        logits[..., draw(st.integers(0, classes - 1))] = draw(st.sampled_from([0.0, 1.0]))  # one class is possible
        dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
        for how in AGGREGATIONS:
            weights = (
                torch.tensor(draw(rows_of([0.0, -1.0, -50.0, 3.0], n)))[:, None]
                if how in ("weighted", "probability")
                else None
            )
            out = aggregate(logits.to(dtype), how, log_weights=weights)
            assert out.shape == (batch, classes) and out.dtype == torch.float32
            p = out.softmax(-1)
            assert not p.isnan().any(), (how, logits, out)
            assert torch.allclose(p.sum(-1), torch.ones(batch), atol=1e-4), (how, logits, out)


def campaign(cases: int, seed: int) -> Tally:
    """``cases`` in all; the cheaper properties have more of them."""
    tally = Tally(seed)
    every = Cases(tally)
    shares = {every.distributions: 0.45, every.averages: 0.25, every.images: 0.25, every.predictors: 0.05}
    for prop, share in shares.items():
        explore(prop, max(1, round(cases * share)), seed, tally)
    tally.faults = tally.cases
    return tally


def explore(prop: Callable[[Callable], None], count: int, seed: int, tally: Tally) -> None:
    """One property, ``count`` times."""

    @seeded(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        tally.cases += 1
        torch.manual_seed(seed)
        try:
            prop(data.draw)
        except Exception as error:
            tally.lost.append(f"{prop.__name__}: {type(error).__name__}: {str(error)[:400]}")

    run()


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(campaign, 100_000, __doc__))
