"""How much of what light costs a classifier can come back at all: photographs whose light is undone by who knows it.

*Told, of the table* is the candidate that comes nearest to undoing the light that was drawn; *told, exactly* is its inverse, which
is in no table. Neither gives back what was clipped. *Any candidate* is right where one of the table's views is: no φ can do more.

    python hub/recipes/light_limit.py --photos DIR --class-map DIR/classes.txt
"""

import torch
from photographs import classifier_of, options_for, split_of
from tabulate import tabulate
from torch import Tensor

from instaaug_transforms import functional
from instaaug_transforms.engine import Nuisance, load
from instaaug_transforms.families.light import Light
from instaaug_transforms.utils.stats import mean_interval


@torch.no_grad()
def main() -> None:
    options = options_for(__doc__).parse_args()
    classifier, family = classifier_of(options), Light()
    val = load(split_of(options, "val"), "val")
    nuisance, candidates = Nuisance([family], 1.0, 100), family.candidates()
    right: dict[str, list[Tensor]] = {}

    def answers(views: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=options.amp):
            return classifier(views.contiguous(memory_format=torch.channels_last)).float()

    rows = torch.arange(len(val)).split(50)
    for index, (images, labels) in zip(rows, val.batches(rows), strict=True):
        drawn, lit = nuisance.drawn(0, index), nuisance(images, index)

        every = [
            candidates.map(lambda field, a=a, n=len(lit): field[a].expand(n)) for a in range(len(candidates.exposure))
        ]
        logits = torch.stack([answers(functional.apply(lit, params, [family])) for params in every])
        told = logits[drawn[family.index_field].long(), torch.arange(len(lit))]
        inverse = drawn.replace(exposure=-drawn.exposure, white_balance=-drawn.white_balance)
        p = logits.softmax(-1)
        arms = {
            "one view": logits[0],
            "mean of all candidates": p.mean(0),
            "most confident candidate": p[p.amax(-1).argmax(0), torch.arange(len(lit))],
            "told, of the table": told,
            "told, of the table, and the image itself": told.softmax(-1) + p[0],
            "told, exactly": answers(functional.apply(lit, inverse, [family])),
            "undisturbed": answers(images),
        }
        for name, outputs in arms.items():
            right.setdefault(name, []).append((outputs.argmax(-1) == labels).double())
        right.setdefault("any candidate", []).append((logits.argmax(-1) == labels).any(0).double())
    every = {name: 100 * torch.cat(parts) for name, parts in right.items()}
    cost = (every["undisturbed"] - every["one view"]).mean()
    lines = []
    for name, correct in every.items():
        gain = mean_interval((correct - every["one view"]).numpy())
        back = f"{100 * gain[0] / cost:.0f} %"
        lines.append([name, f"{correct.mean():.2f}", "{:+.2f} [{:+.2f}, {:+.2f}]".format(*gain), back])
    print(f"{options.model} at {options.size} px, lit at random (simulated), n = {len(val)}\n")
    headers = ["photographs", "top-1 %", "over one view", "of the cost given back"]
    print(tabulate(lines, headers, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
