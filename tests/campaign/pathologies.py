"""Data and classifiers that nothing can be learned from: ``python -m tests.campaign.pathologies``.

One class, labels at random, a classifier that always says the same, or NaN, a loss that only narrows ranges: a fit ends,
its weights are finite, or an error says what is wrong; and what it recommends is never worse than one plain view.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import instaaug_transforms as ia

from .tally import Tally, main

Build = Callable[[int], tuple[nn.Module, Tensor, Tensor]]


class Says(nn.Module):
    """Logits by a function of the means of the channels."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.scale = function, nn.Parameter(torch.tensor(4.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self.scale * images.mean((2, 3)))


def images(seed: int) -> tuple[Tensor, Tensor]:
    """Thirty images of three classes, told by colour."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(30) % 3
    pixels = torch.rand(30, 3, 16, 16, generator=generator) * 0.5
    pixels[torch.arange(30), labels] += 0.5
    return pixels, labels


def cases() -> dict[str, tuple[Build, str]]:
    """By name: what is fitted to what, and whether that works, is refused as not finite, or either."""

    def sees(function: Callable[[Tensor], Tensor], relabel: Callable[[Tensor], Tensor] = lambda y: y) -> Build:
        return lambda seed: (Says(function), images(seed)[0], relabel(images(seed)[1]))

    nan, inf = float("nan"), float("inf")
    return {
        "one class": (sees(lambda m: m, torch.zeros_like), "works"),
        "labels at random": (sees(lambda m: m, lambda y: y[torch.randperm(30)]), "works"),
        "labels one off": (sees(lambda m: m, lambda y: (y + 1) % 3), "works"),
        "a constant classifier": (sees(lambda m: 0 * m), "works"),
        "a classifier sure of one class": (sees(lambda m: 0 * m + torch.tensor([1e4, 0, 0])), "works"),
        "classes ruled out": (sees(lambda m: torch.cat([m, m[:, :1] - inf], 1)), "works"),
        "only one class known": (sees(lambda m: m[:, :1], torch.zeros_like), "works"),
        "NaN": (sees(lambda m: m * nan), "refused"),
        "NaN for some images": (sees(lambda m: torch.where(m[:, :1] > 2, nan, m)), "refused"),
        "infinite": (sees(lambda m: m * inf), "either"),
        "the right class ruled out": (sees(lambda m: torch.cat([m[:, :2], m[:, :1] - inf], 1)), "either"),
    }


def campaign(times: int, seed: int) -> Tally:
    """Every pathology with every kind of fit, for ``times`` seeds."""
    tally = Tally(seed)
    kinds: dict[str, tuple[list[str], dict, dict]] = {
        "crop": (["crop"], {}, {}),
        "turn, undone": (["turn"], {}, {"nuisance": ["turn"]}),
        "ranges": (["rotate"], {}, {}),
        "crop and range": (["crop", "rotate"], {}, {}),
    }
    for number in range(seed, seed + times):
        for name, (build, outcome) in cases().items():
            for kind, (families, options, more) in kinds.items():
                tally.cases, tally.faults = tally.cases + 1, tally.faults + 1
                torch.manual_seed(number)
                classifier, pixels, labels = build(number)
                aug = ia.LearnedAugment(families, predictor=ia.ConvPredictor(16, 4))
                config = ia.FitConfig(epochs=2, batch_size=8, max_steps=6, progress=False, **options)
                about = f"{name}, {kind}"
                try:
                    result = ia.fit(aug, classifier, (pixels, labels), config=config, **more)
                except ia.InstaAugError as error:
                    known = outcome != "works" and ("NaN" in str(error) or "finite" in str(error))
                    tally.expect(known, f"{about}: refused with {error}")
                    tally.note("refused")
                    continue
                except Exception as error:
                    tally.lost.append(f"{about}: {type(error).__name__} {error}")
                    continue
                fitted = all(parameter.isfinite().all() for parameter in aug.parameters())
                tally.expect(fitted and outcome != "refused", f"{about}: was fitted, weights finite: {fitted}")
                if result.report is not None:
                    plain, used = result.report.arms[0], result.report.recommended
                    tally.expect(
                        used.correct.mean() >= plain.correct.mean(), f"{about}: recommends what is worse than one view"
                    )
                collapse(aug, classifier, pixels, about, tally)
    return tally


def collapse(aug: ia.LearnedAugment, classifier: nn.Module, pixels: Tensor, about: str, tally: Tally) -> None:
    """After the fit: views, averages, and the file."""
    out = ia.TTAModel(classifier.eval(), aug, 2)(pixels[:4])
    tally.expect(not out.isnan().any(), f"{about}: averages are NaN")
    with tempfile.TemporaryDirectory() as folder:
        aug.save(Path(folder) / "a.safetensors")
        back = ia.LearnedAugment.from_pretrained(Path(folder) / "a.safetensors")
        tally.expect(
            torch.equal(back.predictor(pixels)[aug.families[0].name], aug.predictor(pixels)[aug.families[0].name]),
            about,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(campaign, 3, __doc__))
