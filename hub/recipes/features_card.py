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
from instaaug_transforms import functional
from instaaug_transforms.augment_distribution import AugmentDistribution
from instaaug_transforms.engine import Images, Nuisance, load
from instaaug_transforms.families import CandidateProduct
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.tta import choose_views
from instaaug_transforms.tta.aggregation import aggregate
from instaaug_transforms.tta.arms import families_for, with_extras
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
    # Named arms of every seed: whether each photograph of val is right.
    right: dict[str, list[Tensor]] = {}
    seen: dict[str, Answers] = {}
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
        for condition, disturb in (("disturbed", Nuisance(nuisance, 1.0, 100)), ("as they are", None)):
            if condition not in seen:
                seen[condition] = Answers(classifier, aug, val, disturb, options.amp)
            looked = seen[condition].look(aug.eval())
            for name, arm in named.items():
                if arm.setting is not None and (
                    seed == options.seeds[0] or not name.startswith(("one", "best", "mean"))
                ):
                    right.setdefault(f"{condition}: {name}", []).append(seen[condition].right(looked, arm.setting))
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


class Answers:
    """A classifier's logits of candidate views of ``val``, each view looked at once, when an arm first asks for it."""

    def __init__(
        self,
        classifier: torch.nn.Module,
        aug: ia.LearnedAugment,
        val: Images,
        disturb: Nuisance | None,
        amp: bool = True,
    ) -> None:
        self.amp = amp
        self.classifier, self.val, self.disturb = classifier, val, disturb
        self.views = with_extras(aug, CandidateProduct(aug.anchor_families).candidates())
        self.families = families_for(aug)
        self.aug, self.known = aug, torch.zeros(len(val), self.views.batch_shape[0], dtype=torch.bool)
        self.logits: Tensor | None = None

    def batches(self):
        """Row numbers and disturbed images."""
        rows = torch.arange(len(self.val)).split(50)
        for index, (images, _) in zip(rows, self.val.batches(rows, torch.device("cpu")), strict=True):
            yield index, images if self.disturb is None else self.disturb(images, index)

    @torch.no_grad()
    def look(self, aug: ia.LearnedAugment) -> AugmentDistribution:
        """What φ says of every image."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.amp):
            raw = [aug.predictor(images) for _, images in self.batches()]
        return AugmentDistribution(aug.families, {name: torch.cat([r[name].float() for r in raw]) for name in raw[0]})

    @torch.no_grad()
    def right(self, looked: AugmentDistribution, setting: dict) -> Tensor:
        """Whether an arm classifies each image rightly, ``(N,)``."""
        if "policy" in setting:
            wanted = ia.AugmentParams(**{name: torch.tensor(column) for name, column in setting["policy"].items()})
            same = [(self.views[name][:, None] - wanted[name]).abs() < 1e-6 for name in wanted]
            columns = torch.stack(same).all(0).float().argmax(0)[:, None].expand(-1, len(self.val))
            log_weights = None
        else:
            offsets = setting.get("view_offsets")
            offsets = None if offsets is None else torch.tensor(offsets)
            params = choose_views(
                looked, setting["n_views"], "top", setting.get("include_identity", True), None, offsets
            )
            columns = CandidateProduct(self.aug.anchor_families).column(params)  # (n, N)
            log_weights = looked.log_prob(params)
        self._answer(columns)
        logits = self.logits[torch.arange(len(self.val)), columns].float()
        how = setting.get("aggregate", "mean_prob")
        return (
            aggregate(logits, how, log_weights=log_weights if how == "probability" else None).argmax(-1)
            == self.val.targets
        ).double()

    def _answer(self, columns: Tensor) -> None:
        needed = torch.zeros_like(self.known)
        needed[torch.arange(len(self.val)), columns] = True
        needed &= ~self.known
        for index, images in self.batches():
            row, column = needed[index].nonzero(as_tuple=True)
            if not len(row):
                continue
            params = self.views.map(lambda field, c=column: field[c])
            views = functional.apply(
                images[row], params, self.families, self.aug.output_size, self.aug.fill, self.aug.interpolation
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=self.amp):
                parts = views.contiguous(memory_format=torch.channels_last).split(64)
                logits = torch.cat([self.classifier(part).float() for part in parts]).half()
            if self.logits is None:
                self.logits = logits.new_zeros(*self.known.shape, logits.shape[1])
            self.logits[index[row], column] = logits
        self.known |= needed


def strongest(right: dict[str, list[Tensor]], condition: str) -> str:
    """The input-free arm, of any K, that is right most often on what is reported: the hardest rival."""
    names = [name for name in right if name.startswith(f"{condition}: best input-free")]
    return max(names, key=lambda name: torch.stack(right[name]).mean().item())


if __name__ == "__main__":
    main()
