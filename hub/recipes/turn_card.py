"""What undoing turns is worth on photographs: the tables of the cards of turn_photos and of a fit on a classifier's features.

Every photograph of ``val`` is turned at random (simulated); the classifier sees each of its four turns once, and all ways of
choosing among them are read off that. With ``--fit``, φ is fitted on the classifier's features of ``fit`` and ``many``
without labels, once per seed, every image turned; without it, the weights named are reported on.

    python hub/recipes/turn_card.py --photos DIR --class-map DIR/classes.txt --size 160
    python hub/recipes/turn_card.py --photos DIR --class-map DIR/classes.txt --size 160 --fit --seeds 0 1 2 --workdir work
    python hub/recipes/turn_card.py --photos TINY --model resnet18 --checkpoint FILE --size 64 --fit --splits train --photographs 20000
"""

import argparse
import math
from pathlib import Path

import torch
from photographs import classifier_of, fitted_on, options_for, read_split
from tabulate import tabulate
from torch import Tensor

import instaaug_transforms as ia
from instaaug_transforms.utils import weights
from instaaug_transforms.utils.stats import mean_interval


@torch.no_grad()
def turned(function, images: Tensor, amp: bool) -> Tensor:
    """``(4, N, …)``: a function of images in [0, 1] at each of the four quarter turns."""
    parts = images.split(64)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        every = [[function(torch.rot90(part.float() / 255, k, (-2, -1))).float() for part in parts] for k in range(4)]
    return torch.stack([torch.cat(turn) for turn in every])


def main() -> None:
    parser = options_for(__doc__)
    parser.add_argument("--weights", default="turn_photos")
    parser.add_argument("--fit", action="store_true", help="fit on the classifier's features instead")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workdir", type=Path, help="keeps the table of a fit")
    options = parser.parse_args()
    classifier, (images, labels) = classifier_of(options), read_split(options, "val")
    probs, every = turned(lambda x: classifier(x).softmax(-1), images, options.amp), torch.arange(len(images))
    turn = torch.randint(4, (len(images),), generator=torch.Generator().manual_seed(100))

    def right(p: Tensor) -> Tensor:
        return (p.argmax(-1) == labels).double()

    rows: dict[str, list[Tensor]] = {}
    for seed in options.seeds:
        aug = fitted(options, classifier, seed) if options.fit else ia.LearnedAugment.from_pretrained(options.weights)
        log_p = turned(lambda x, aug=aug: aug.distribution(x).parts["turn"].categorical.logits, images, options.amp)
        for name, given in (("turned", turn), ("as they are", torch.zeros_like(turn))):
            seen, first = log_p[given, every], probs[given, every]
            view = [probs[(given + k) % 4, every] for k in range(4)]  # what each candidate makes of it
            top, stacked = seen.topk(2, 1), torch.stack(view, 1)
            best = stacked.gather(1, top.indices[:, :, None].expand(-1, -1, stacked.shape[2]))
            shares = top.values.softmax(1)[:, :, None]
            confident = stacked[every, stacked.amax(-1).argmax(1)]
            arms = {"one view": right(first), "mean of four turns": right(stacked.mean(1))}
            arms |= {"most confident of four": right(confident), "ours, K = 1": right(best[:, 0])}
            arms |= {"ours, K = 2": right(best.mean(1)), "ours, K = 2, weighted": right((shares * best).sum(1))}
            arms |= {"upright": right(probs[0]), "orientation right": ((top.indices[:, 0] + given) % 4 == 0).double()}
            if not options.fit:  # for photographs of which no more are upright than not
                likeliest = (seen - torch.tensor([prior_of(options.weights), 0.0, 0.0, 0.0])).argmax(1)
                arms["ours without its prior, K = 1"] = right(stacked[every, likeliest])
                arms["orientation right, without its prior"] = ((likeliest + given) % 4 == 0).double()
            for arm, correct in arms.items():
                rows.setdefault(f"{name}: {arm}", []).append(correct)
    lines = []
    for name, correct in rows.items():
        mean, condition = torch.stack(correct).mean(0).numpy(), name.split(":")[0]
        line = [name, f"{100 * mean.mean():.2f}"]
        for rival in ("one view", "mean of four turns", "upright"):
            other = torch.stack(rows[f"{condition}: {rival}"]).mean(0).numpy()
            gain = [100 * value for value in mean_interval(mean - other)]
            line.append("" if "orientation" in name else f"{gain[0]:+.2f} [{gain[1]:+.2f}, {gain[2]:+.2f}]")
        lines.append(line)
    print(f"{options.model} at {options.size} px, n = {len(images)}, seeds {options.seeds}\n")
    print(tabulate(lines, ["photographs", "top-1 %", "over one view", "over mean of four", "over upright"], "github"))


def prior_of(name: str) -> float:
    """What `TTAModel(view_offsets=…)` takes from the logit of "nothing was done" for turns to be equally likely."""
    prior = weights.read(name)[0]["notes"]["prior"]
    return math.log(3 * prior / (1 - prior))


def fitted(options: argparse.Namespace, classifier: torch.nn.Module, seed: int) -> ia.LearnedAugment:
    """φ on the classifier's features, without labels, every image turned."""
    torch.manual_seed(seed)
    predictor = ia.FeaturesPredictor(classifier, options.size)
    aug = ia.LearnedAugment(["turn"], predictor=predictor)
    data = fitted_on(options)
    config = ia.FitConfig(nuisance_probability=1.0, amp=options.amp, table_batch_size=64, progress=True)
    result = ia.fit(aug, classifier, data, nuisance=["turn"], labels=False, config=config, workdir=options.workdir)
    print(
        f"\nseed {seed}: table {result.table_seconds:.0f} s, fit {result.fit_seconds:.0f} s\n\n{result.report}\n",
        flush=True,
    )
    return aug.eval()


if __name__ == "__main__":
    main()
