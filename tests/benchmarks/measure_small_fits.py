"""What fits to few images gain and cost, by the true labels of fresh images: as their nuisance leaves them, and as they are.

Drawn faces, stripes and scikit-learn's digits, and a small network for each. A fit to a few images more, without their labels where there is
a nuisance, recommends; what it recommends answers for images that nothing has seen.

    python -m tests.benchmarks.measure_small_fits --images 60 150 300 600 --seeds 0 1 2 3

Or images and a classifier of your own, whose options are those of `measure_harm`:

    python -m tests.benchmarks.measure_small_fits --data DIR/policy --test DIR/val --model resnet18 --checkpoint FILE --size 64 --images 150 400 1000
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.data import default_collate
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms.engine.nuisance import Nuisance
from instaaug_transforms.families.turn import Turn
from tests.benchmarks.measure_few_images import digits, faces, network
from tests.benchmarks.measure_harm import add_folders, from_folders
from tests.benchmarks.measure_label_harm import gratings

Drawn = tuple[Tensor, Tensor]
Prepared = tuple[nn.Module, Drawn, Drawn]
TRAIN, POOL, FRESH, STEPS, BATCH = 400, 1500, 2000, 200, 64
tilts = Turn(angles=(0.0, 40.0, 20.0, -20.0, -40.0))

# Drawn how; families; nuisance; its probability.
CASES: dict[str, tuple[Callable[[int, torch.Generator], Drawn], list, list | None, float]] = {
    "faces, turned": (faces, ["turn"], ["turn"], 0.5),
    "faces, turned, 0.8": (faces, ["turn"], ["turn"], 0.8),
    "faces, tilted, 0.8": (faces, [tilts], [tilts], 0.8),
    "faces, lit": (faces, ["light"], ["light"], 0.5),
    "faces, crops": (faces, ["crop"], None, 0.0),
    "digits, turned": (digits, ["turn"], ["turn"], 0.5),
    "stripes, turned": (gratings, ["turn"], ["turn"], 0.5),
}


# Through a classifier of one's own.
OWN: dict[str, tuple[list, list | None, float]] = {
    "turned": (["turn"], ["turn"], 0.5),
    "lit": (["light"], ["light"], 0.5),
    "crops": (["crop"], None, 0.0),
}


@cache
def prepared(draw: Callable[[int, torch.Generator], Drawn]) -> Prepared:
    """The network after 200 steps on images as they are; a pool of images to fit on; and fresh ones."""
    images, labels = draw(10**9 if draw is digits else TRAIN + POOL + FRESH, torch.Generator().manual_seed(1000))
    n = len(images) // 3 if draw is digits else TRAIN
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    for _ in range(STEPS):
        index = torch.randint(n, (BATCH,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[index]), labels[index]).backward()
        optimizer.step()
    end = n + (n if draw is digits else POOL)
    return model.eval().requires_grad_(False), (images[n:end], labels[n:end]), (images[end:], labels[end:])


def fitted(case: str, n: int, seed: int, given: Prepared | None = None) -> dict[str, object]:
    """One fit: points over one view on fresh images, disturbed as in the fit and as they are."""
    if given is None:
        draw, families, nuisance, probability = CASES[case]
        given = prepared(draw)
    else:
        families, nuisance, probability = OWN[case]
    model, (images, labels), (fresh, right) = given
    index = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:n]
    torch.manual_seed(seed)
    aug = ia.LearnedAugment(families, predictor=ia.FeaturesPredictor(model, image_size=images.shape[-1]))
    config = ia.FitConfig(progress=False, seed=seed, nuisance_probability=probability or 0.5)
    data = images[index] if nuisance else (images[index], labels[index])
    result = ia.fit(aug, model, data, config=config, nuisance=nuisance)
    answers = ia.TTAModel.recommended(model, aug, result)
    found = {"case": case, "n": n, "seed": seed, "recommended": result.report.recommended.name}
    numbers = torch.arange(len(fresh))
    sets = {"as they are": fresh}
    if nuisance:
        sets["disturbed"] = Nuisance(nuisance, 1.0, 999)(fresh, numbers, 0)
    with torch.no_grad():
        for name, seen in sets.items():
            after, before = (torch.cat([f(part).argmax(1) for part in seen.split(500)]) for f in (answers, model))
            gain = (after == right).double() - (before == right).double()
            found[name] = 100 * gain.mean().item()
    found["seconds"] = result.table_seconds + result.fit_seconds
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row per case and number of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[60, 150, 300, 600], help="to fit on (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="(%(default)s)")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *OWN])
    add_folders(parser)
    parser.add_argument("--out", type=Path, help="file that every fit adds a line to, as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = defaultdict(list)
    given, cases = None, options.cases or list(OWN if options.data else CASES)
    if options.data:
        classifier, data, test = from_folders(options, POOL, 0)
        images, labels = default_collate([data[i] for i in range(len(data))])
        given = classifier, (images.float() / 255, labels), (test[0].float() / 255, test[1])
    for case, n, seed in tqdm([(c, n, s) for s in options.seeds for c in cases for n in options.images]):
        rows[case, n].append(found := fitted(case, n, seed, given))
        if options.out:
            with options.out.open("a") as file:
                file.write(json.dumps(found) + "\n")
    print(tabulate([row(*key, fits) for key, fits in rows.items()], "keys", "github", floatfmt="+.1f"))


def row(case: str, n: int, fits: list[dict]) -> dict[str, object]:
    """Means over seeds, and the worst of images as they are."""
    gains = {name: [fit[name] for fit in fits if name in fit] for name in ("disturbed", "as they are")}
    names = [fit["recommended"] for fit in fits]
    shown = ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names)))
    means = {name: np.mean(values) if values else None for name, values in gains.items()}
    seconds = round(np.mean([fit["seconds"] for fit in fits]))
    return {"case": case, "images": n, **means, "worst": min(gains["as they are"]), "recommended": shown, "s": seconds}


if __name__ == "__main__":
    main()
