"""What undoing is worth through a classifier's own features: fitted without labels, reported on photographs it was not fitted on.

``light`` and ``turn`` are drawn as widely as the family undoes them; ``framing`` puts the photograph, at 40 to 100 % of the side,
anywhere in a frame of its own blurred colours, twice the classifier's side (all simulated). Rivals and K are those of the fit's report.

    python hub/recipes/features_card.py --photos DIR --class-map DIR/classes.txt --undo light --seeds 0 1 2 --workdir work
"""

from pathlib import Path

import torch
from int8 import Int8Copy
from photographs import classifier_of, fitted_on, options_for, split_of
from tabulate import tabulate
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

import instaaug_transforms as ia
from instaaug_transforms.engine import Images, Nuisance, load
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.tta.aggregation import aggregate
from instaaug_transforms.tta.shared import SharedViews
from instaaug_transforms.tta.views import load_setting
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
    parser.add_argument(
        "--draws", type=int, default=1, help="disturbed copies of each photograph, in the fit (%(default)s)"
    )
    parser.add_argument(
        "--int8", action="store_true", help="fit to an int8 copy, see int8.py; the report is the classifier's own"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
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
    arms: list[tuple[str, ia.TTAModel, bool]] = []  # of every seed
    for seed in options.seeds:
        torch.manual_seed(seed)
        predictor = ia.FeaturesPredictor(classifier, side)
        aug = ia.LearnedAugment([family], predictor=predictor, output_size=side if options.undo == "framing" else None)
        config = ia.FitConfig(
            nuisance_probability=options.probability,
            nuisance_draws=options.draws,
            amp=options.amp,
            table_batch_size=64,
            progress=False,
        )
        result = ia.fit(aug, judge, data, nuisance=nuisance, labels=False, config=config, workdir=options.workdir)
        times = f"table {result.table_seconds:.0f} s, fit {result.fit_seconds:.0f} s"
        print(f"\nseed {seed}: {times}\n\n{result.report}\n", flush=True)
        named = {f"{arm.name}, K = {arm.n_views}": arm for arm in result.report.arms if arm.n_views in N_VIEWS}
        named[f"recommended: {result.report.recommended.name}"] = result.report.recommended
        aug.eval()
        for name, arm in named.items():
            if arm.setting is not None and (seed == options.seeds[0] or not name.startswith(("one", "best", "mean"))):
                arms.append((name, ia.TTAModel(classifier, aug, **load_setting(arm.setting)), False))
    right = {
        f"{condition}: {name}": runs
        for condition, disturb in (("disturbed", Nuisance(nuisance, 1.0, 100)), ("as they are", None))
        for name, runs in answers(classifier, arms, val, disturb, options.amp).items()
    }
    lines = []
    for name, runs in right.items():
        mean, condition = torch.stack(runs).mean(0), name.split(":")[0]
        line = [name, f"{100 * mean.mean():.2f}"]
        rivals = (f"{condition}: one view, K = 1", strongest(right, condition), "as they are: one view, K = 1")
        for rival in rivals:
            gain = [100 * value for value in mean_interval((mean - torch.stack(right[rival]).mean(0)).numpy())]
            line.append("{:+.2f} [{:+.2f}, {:+.2f}]".format(*gain))
        lines.append(line)
    print(f"{options.model} at {side} px, {options.undo}, n = {len(val)}, seeds {options.seeds}\n")
    headers = ["photographs", "top-1 %", "over one view", "over best input-free", "over undisturbed"]
    print(tabulate(sorted(lines, key=lambda line: line[0].split(":")[0] != "disturbed"), headers, "github"))


@torch.no_grad()
def answers(
    classifier: torch.nn.Module,
    arms: list[tuple[str, ia.TTAModel, bool]],
    val: Images,
    disturb: Nuisance | None,
    amp: bool,
) -> dict[str, list[Tensor]]:
    """Whether each image of ``val`` is classified rightly, ``(N,)`` for every arm of one name; no view is looked at twice.

    An arm is a name, what averages views, and whether every image gets the views of the image before it.
    """
    shared = SharedViews(classifier, arms[0][1].aug, 64, amp)
    parts: list[list[Tensor]] = [[] for _ in arms]
    rows = torch.arange(len(val)).split(50)
    for index, (images, labels) in zip(rows, val.batches(rows, torch.device("cpu")), strict=True):
        images = images if disturb is None else disturb(images, index)
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            looks = {model.aug: model.aug.predict(images) for _, model, _ in arms if model.asks}
        asked, weights = [], []
        for _, model, shuffled in arms:
            views = model.choose(looks[model.aug], None) if model.asks else model.policy_views(images)
            weighed = model.log_weights(views, looks.get(model.aug) if model.asks else None)
            if shuffled:
                views, weighed = (
                    views.map(lambda field: field.roll(1, 1)),
                    None if weighed is None else weighed.roll(1, 1),
                )
            asked.append(views)
            weights.append(weighed)
        for own, (_, model, _), logits, log_w in zip(parts, arms, shared.logits(images, asked), weights, strict=True):
            own.append((aggregate(logits, model.aggregate, log_weights=log_w).argmax(-1) == labels).double())
    right: dict[str, list[Tensor]] = {}
    for own, (name, _, _) in zip(parts, arms, strict=True):
        right.setdefault(name, []).append(torch.cat(own))
    return right


def strongest(right: dict[str, list[Tensor]], condition: str) -> str:
    """The input-free arm, of any K, that is right most often on what is reported: the hardest rival."""
    names = [name for name in right if name.startswith(f"{condition}: best input-free")]
    return max(names, key=lambda name: torch.stack(right[name]).mean().item())


if __name__ == "__main__":
    main()
