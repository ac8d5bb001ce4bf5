"""What undoing is worth through a classifier's own features: fitted without labels, reported on photographs it was not fitted on.

``light`` and ``turn`` are drawn as widely as the family undoes them; ``framing`` puts the photograph, at 40 to 100 % of the side,
anywhere in a frame of its own blurred colours, twice the classifier's side (all simulated). Rivals and K are those of the fit's report.

    python hub/recipes/features_card.py --photos DIR --class-map DIR/classes.txt --undo light --seeds 0 1 2 --workdir work
"""

from pathlib import Path

import torch
from photographs import classifier_of, options_for, split_of
from tabulate import tabulate
from torch import Tensor
from torch.utils.data import ConcatDataset
from torchvision.transforms.v2 import functional as TF

import instaaug_transforms as ia
from instaaug_transforms.engine import Nuisance, load
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.tta.arms import MostConfident
from instaaug_transforms.utils.stats import mean_interval

N_VIEWS = (1, 2, 4)


class Frame:
    """A photograph ``(C, H, W)`` somewhere in a frame of the same size, at a random part of its side; blurred colours around it.

    Args:
        smallest: the smallest part of the side.
    """

    def __init__(self, smallest: float = 0.4) -> None:
        self.smallest = smallest

    def __repr__(self) -> str:
        return f"Frame({self.smallest})"

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        part, across, down = torch.rand(3).tolist()
        part = self.smallest + (1 - self.smallest) * part
        h, w = round(height * part), round(width * part)
        around = TF.resize(TF.resize(image, [8, 8], antialias=True), [height, width], antialias=True)
        top, left = round((height - h) * down), round((width - w) * across)
        around[:, top : top + h, left : left + w] = TF.resize(image, [h, w], antialias=True)
        return around.clamp(0, 1)


def main() -> None:
    parser = options_for(__doc__)
    parser.add_argument("--undo", choices=("turn", "light", "framing"), required=True)
    parser.add_argument(
        "--probability", type=float, default=1.0, help="that a photograph is disturbed, in the fit (%(default)s)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workdir", type=Path, help="keeps the table of losses")
    options = parser.parse_args()
    classifier, side = classifier_of(options), options.size
    options.size = 2 * side if options.undo == "framing" else side
    family = Crop(scales=(1.0, 0.75, 0.5), grids=(1, 2, 3)) if options.undo == "framing" else options.undo
    nuisance = Frame() if options.undo == "framing" else options.undo
    data = ConcatDataset([split_of(options, split) for split in ("fit", "many")])
    val = load(split_of(options, "val"), "val")
    # Named arms of every seed: whether each photograph of val is right.
    right: dict[str, list[Tensor]] = {}
    for seed in options.seeds:
        torch.manual_seed(seed)
        predictor = ia.FeaturesPredictor(classifier, side)
        aug = ia.LearnedAugment([family], predictor=predictor, output_size=side if options.undo == "framing" else None)
        config = ia.FitConfig(nuisance_probability=options.probability, amp=True, table_batch_size=64, progress=False)
        result = ia.fit(aug, classifier, data, nuisance=nuisance, labels=False, config=config, workdir=options.workdir)
        print(
            f"\nseed {seed}: table {result.table_seconds:.0f} s, fit {result.fit_seconds:.0f} s\n\n{result.report}\n",
            flush=True,
        )
        models = {
            f"recommended ({result.report.recommended.name})": ia.TTAModel.recommended(classifier, aug.eval(), result)
        }
        for arm in result.report.arms:
            if arm.setting is not None and arm.n_views in N_VIEWS and (seed == options.seeds[0] or arm.name == "ours"):
                models[f"{arm.name}, K = {arm.n_views}"] = ia.TTAModel(classifier, aug, **arm.setting)
        if seed == options.seeds[0]:
            models["most confident candidate"] = MostConfident(classifier, aug, aug.anchor_families[0].candidates())
        for name, model in models.items():
            for condition, disturb in (("disturbed", Nuisance(nuisance, 1.0, 100)), ("as they are", None)):
                right.setdefault(f"{condition}: {name}", []).append(correct(model, val, disturb))
    lines = []
    for name, runs in right.items():
        mean, condition = torch.stack(runs).mean(0), name.split(":")[0]
        line = [name, f"{100 * mean.mean():.2f}"]
        for rival in (
            f"{condition}: one view, K = 1",
            f"{condition}: {strongest(right, condition)}",
            "as they are: one view, K = 1",
        ):
            gain = [100 * value for value in mean_interval((mean - torch.stack(right[rival]).mean(0)).numpy())]
            line.append("{:+.2f} [{:+.2f}, {:+.2f}]".format(*gain))
        lines.append(line)
    print(f"{options.model} at {side} px, {options.undo}, n = {len(val)}, seeds {options.seeds}\n")
    headers = ["photographs", "top-1 %", "over one view", "over best input-free", "over undisturbed"]
    print(tabulate(sorted(lines, key=lambda line: line[0].split(":")[0] != "disturbed"), headers, "github"))


def strongest(right: dict[str, list[Tensor]], condition: str) -> str:
    """The input-free arm, of any K, that is right most often on what is reported: the hardest rival."""
    names = [name.split(": ", 1)[1] for name in right if name.startswith(f"{condition}: best input-free")]
    return max(names, key=lambda name: torch.stack(right[f"{condition}: {name}"]).mean().item())


@torch.no_grad()
def correct(model: torch.nn.Module, val, disturb: Nuisance | None) -> Tensor:
    """Whether each image of ``val`` is classified rightly, ``(N,)``."""
    parts = []
    rows = torch.arange(len(val)).split(50)
    for index, (images, labels) in zip(rows, val.batches(rows, torch.device("cpu")), strict=True):
        images = images if disturb is None else disturb(images, index)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images.contiguous(memory_format=torch.channels_last))
        parts.append((logits.float().argmax(-1) == labels).double())
    return torch.cat(parts)


if __name__ == "__main__":
    main()
