"""Do no harm where views change the label, or the classifier is sure of wrong answers: what `ia.fit` recommends on images as they are, against one view, by the true labels.

Drawn images, 24 pixels wide, and a small network that is trained on 3,000 of them first; or noise, and weights that are chance. A fit to
others recommends, and answers on 1,000 that neither has seen.

    python -m tests.benchmarks.measure_label_harm --seeds 11 12 13
"""

import argparse
import math
from collections.abc import Callable, Sequence

import torch
from tabulate import tabulate
from torch import Tensor, nn

import instaaug_transforms as ia
from instaaug_transforms.utils.stats import mean_interval

from .measure_recommendation import Sure

SIDE = 24
Drawn = tuple[Tensor, Tensor]


def gratings(n: int, generator: torch.Generator) -> Drawn:
    """Stripes; the label is which of four ways they run."""
    labels = torch.randint(4, (n,), generator=generator)
    angle = (labels + 0.6 * (torch.rand(n, generator=generator) - 0.5)) * math.pi / 4
    phase, pace = 2 * math.pi * torch.rand(n, generator=generator), 0.4 + 0.5 * torch.rand(n, generator=generator)
    places = torch.arange(SIDE) - SIDE / 2
    along = angle.cos()[:, None, None] * places + angle.sin()[:, None, None] * places[:, None]
    waves = 0.5 + 0.25 * torch.sin(pace[:, None, None] * along + phase[:, None, None])
    return _noisy(waves[:, None].expand(-1, 3, -1, -1), 0.7, generator), labels


def hands(n: int, generator: torch.Generator) -> Drawn:
    """An L, any way up, anywhere; the label is whether it is mirrored."""
    labels = torch.randint(2, (n,), generator=generator)
    images = 0.3 * torch.rand(n, 3, 1, 1, generator=generator).repeat(1, 1, SIDE, SIDE)
    letter = torch.zeros(9, 6)
    letter[:, :2], letter[7:] = 1, 1
    for image, label in zip(images, labels, strict=True):
        shape = letter.flip(1) if label else letter
        turns, top, left = torch.randint(SIDE - 9, (3,), generator=generator).tolist()
        shape = shape.rot90(turns)
        image[:, top : top + shape.shape[0], left : left + shape.shape[1]] += 0.5 * shape
    return _noisy(images, 0.1, generator), labels


def shades(n: int, generator: torch.Generator) -> Drawn:
    """Grey texture; the label is which of four steps of brightness it has."""
    labels = torch.randint(4, (n,), generator=generator)
    level = (labels + 0.5) / 4 + 0.065 * torch.randn(n, generator=generator)
    texture = 0.7 + 0.3 * torch.rand(n, 3, SIDE, SIDE, generator=generator)
    return _noisy(level[:, None, None, None] * texture, 0.1, generator), labels


def _noisy(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    return (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def mirror(image: Tensor) -> Tensor:
    """A nuisance that changes the label of `hands`."""
    return image.flip(-1)


# Drawn how; families; nuisance; images to fit on; whether with their labels.
CASES: list[tuple[Callable[[int, torch.Generator], Drawn], Sequence[str], object, int, bool]] = [
    (gratings, ["turn"], None, 300, True),
    (gratings, ["turn"], ["turn"], 300, False),
    (hands, ["crop"], None, 300, True),
    (hands, ["crop"], mirror, 200, False),
    (hands, ["erase"], mirror, 200, False),
    (shades, ["light"], None, 300, True),
    (shades, ["light"], ["light"], 300, False),
    (shades, ["light"], None, 24, True),
    (Sure.noise, ["turn"], None, 200, True),
]


def trained(drawn: Callable[[int, torch.Generator], Drawn]) -> nn.Module:
    """A small classifier of such images."""
    if drawn is Sure.noise:
        return Sure()
    torch.manual_seed(0)
    images, labels = drawn(3000, torch.Generator().manual_seed(1))
    layers: list[nn.Module] = []
    for n_in, n_out in ((3, 8), (8, 16), (16, 16)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * (SIDE // 8) ** 2, int(labels.max()) + 1))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(16):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13], help="of the images fitted to")
    names = sorted({drawn.__name__ for drawn, *_ in CASES})
    parser.add_argument("--images", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    rows, models = [], {}
    for drawn, families, nuisance, n, labelled in [case for case in CASES if case[0].__name__ in options.images]:
        model = models.setdefault(drawn, trained(drawn))
        images, labels = drawn(1000, torch.Generator().manual_seed(2))
        right = (model(images).argmax(1) == labels).double()
        for seed in options.seeds:
            data = drawn(n, torch.Generator().manual_seed(seed))
            torch.manual_seed(0)
            aug = ia.LearnedAugment(families)
            config = ia.FitConfig(progress=False)
            result = ia.fit(aug, model, data if labelled else data[0], nuisance=nuisance, config=config)
            ours = (ia.TTAModel.recommended(model, aug, result)(images).argmax(1) == labels).double()
            gain = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * g for g in mean_interval((ours - right).numpy())))
            chosen, name = (
                result.report.recommended,
                nuisance.__name__ if callable(nuisance) else ", ".join(nuisance or []),
            )
            rows.append([drawn.__name__, families[0], name, n, "yes" if labelled else "no", seed])
            rows[-1] += [f"{100 * right.mean():.1f}", f"{chosen.name}, K = {chosen.n_views}", gain]
            print(*rows[-1], sep=" | ", flush=True)
    columns = ["images", "candidates", "nuisance", "fitted on", "labels", "seed", "one view, %", "recommended"]
    print("\n" + tabulate(rows, [*columns, "over one view, as they are"], "github", disable_numparse=True))


if __name__ == "__main__":
    main()
