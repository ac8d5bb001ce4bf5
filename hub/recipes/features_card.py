"""What undoing is worth through a classifier's own features: fitted without labels, reported on photographs it was not fitted on.

``light`` and ``turn`` are drawn as widely as the family undoes them; ``framing`` puts the photograph, at 40 to 100 % of the side,
anywhere in a frame of its own blurred colours, twice the classifier's side (all simulated). Rivals and K are those of the fit's report.
``--taught``: φ learns the mean answer of eight views of the photograph as it was, centre zooms and mirror images, in place of the answer
on the whole of it. No labels either.

    python hub/recipes/features_card.py --photos DIR --class-map DIR/classes.txt --undo light --seeds 0 1 2 --workdir work
"""

from pathlib import Path

import torch
from cards import Arm, arms_of, table
from int8 import Int8Copy
from photographs import classifier_of, fitted_on, options_for, split_of
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as TF

import instaaug_transforms as ia
from instaaug_transforms.engine import load
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.tta.arms import zoom_candidates


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


class Taught(Dataset):
    """Photographs of ``data``, and as targets what ``teacher`` answers on them, ``(N, classes)`` probabilities."""

    def __init__(self, data: Dataset, teacher: torch.nn.Module, amp: bool) -> None:
        images, answers = load(data, "data"), []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
            for part, _ in images.batches(torch.arange(len(images)).split(64)):
                answers.append(teacher(part).float().softmax(1))
        self.data, self.targets = data, torch.cat(answers)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.data[index][0], self.targets[index]


def main() -> None:
    parser = options_for(__doc__)
    parser.add_argument("--undo", choices=("turn", "light", "framing"), required=True)
    parser.add_argument(
        "--probability", type=float, default=1.0, help="that a photograph is disturbed, in the fit (%(default)s)"
    )
    parser.add_argument(
        "--draws", type=int, default=1, help="disturbed copies of each photograph, in the fit (%(default)s)"
    )
    parser.add_argument(
        "--taught", action="store_true", help="the target is the mean answer of zooms and mirror images, see above"
    )
    parser.add_argument(
        "--int8", action="store_true", help="fit to an int8 copy, see int8.py; the report is the classifier's own"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--views", type=int, nargs="+", help="report these K alone (1, 2, 4 and what is recommended)")
    parser.add_argument("--workdir", type=Path, help="keeps the table of losses")
    options = parser.parse_args()
    classifier, side = classifier_of(options), options.size
    options.size = 2 * side if options.undo == "framing" else side
    family = Crop(scales=(1.0, 0.75, 0.5), grids=(1, 2, 3)) if options.undo == "framing" else options.undo
    nuisance = Frame() if options.undo == "framing" else options.undo
    data = fitted_on(options)
    val = load(split_of(options, "val"), "val")
    judge = classifier
    if options.int8:
        some = torch.stack([data[i][0].as_subclass(Tensor) for i in range(0, len(data), max(1, len(data) // 256))])
        judge = Int8Copy(classifier, TF.resize(some, [side, side], antialias=True).float() / 255)
    output_size = side if options.undo == "framing" else None
    if options.taught:
        zooms = zoom_candidates().index(slice(None, None, 2))
        plain = ia.LearnedAugment([family], predictor="global", output_size=output_size).eval()
        teacher = ia.TTAModel(judge, plain, policy=zooms, n_views=8).eval()
        data = Taught(data, teacher, options.amp)
    arms: list[Arm] = []  # of every seed
    for seed in options.seeds:
        torch.manual_seed(seed)
        predictor = ia.FeaturesPredictor(classifier, side)
        aug = ia.LearnedAugment([family], predictor=predictor, output_size=output_size)
        config = ia.FitConfig(
            nuisance_probability=options.probability,
            nuisance_draws=options.draws,
            amp=options.amp,
            table_batch_size=64,
            progress=False,
        )
        result = ia.fit(
            aug, judge, data, nuisance=nuisance, labels=options.taught, config=config, workdir=options.workdir
        )
        times = f"table {result.table_seconds:.0f} s, fit {result.fit_seconds:.0f} s"
        print(f"\nseed {seed}: {times}\n\n{result.report}\n", flush=True)
        arms += arms_of(result.report, aug, classifier, fixed=seed == options.seeds[0], views=options.views)
    print(f"{options.model} at {side} px, {options.undo}, n = {len(val)}, seeds {options.seeds}\n")
    print(table(classifier, arms, val, nuisance, options.amp))


if __name__ == "__main__":
    main()
