"""How sure weights that undo have to be before they touch a photograph: gains and losses by the prior, on held-out training photographs.

Of the 500 photographs that photos.py holds out, every one is disturbed (simulated), and then left as it is; the likeliest view is
taken, or the two likeliest are averaged, weighted by φ. The prior that split.py adds is chosen here.

    python hub/recipes/prior.py --photos DIR --class-map DIR/classes.txt --weights turn_light.safetensors --families turn
"""

import torch
from photographs import classifier_of, fitted_on, options_for
from photos import HELD
from split import add_prior
from tabulate import tabulate
from torch import Tensor

import instaaug_transforms as ia
from instaaug_transforms.engine import Nuisance
from instaaug_transforms.families import CandidateProduct
from instaaug_transforms.utils.stats import mean_interval

PRIORS = (0.25, 0.5, 0.7, 0.75, 0.8, 0.85, 0.9)


@torch.no_grad()
def main() -> None:
    parser = options_for(__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--families", nargs="+", required=True)
    parser.add_argument("--lit", type=float, default=1.0, help="as of photos.py (%(default)s)")
    options = parser.parse_args()
    classifier, data = classifier_of(options), fitted_on(options)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))[:HELD]
    samples = [data[i] for i in order.tolist()]
    images = torch.stack([image.as_subclass(Tensor) for image, _ in samples]).float() / 255
    labels = torch.tensor([label for _, label in samples])

    def probabilities(x: Tensor) -> Tensor:
        return torch.cat([classifier(part) for part in x.split(50)]).softmax(-1)

    lines = []
    for name in ("disturbed", "as they are"):
        seen = plain = None
        views: dict[int, Tensor] = {}
        for prior in PRIORS:
            aug = ia.LearnedAugment.from_pretrained(options.weights)
            aug.families = [family for family in aug.families if family.name in options.families]
            add_prior(aug, prior, options.lit)
            product = CandidateProduct(aug.anchor_families)
            if seen is None:
                nuisance = Nuisance(aug.anchor_families, 1.0, 5)
                seen = nuisance(images, torch.arange(HELD)) if name == "disturbed" else images
                plain = probabilities(seen)
            parts = [aug.distribution(part).parts for part in seen.split(100)]
            top = torch.cat([product.log_p(part) for part in parts]).topk(2, 1)
            for index in top.indices.unique().tolist():  # each view of each image once
                if index not in views:
                    taken = product.take(torch.full((HELD,), index))
                    views[index] = probabilities(aug.apply(seen, ia.AugmentParams(**taken)))
            two = torch.stack([torch.stack([views[i][n] for i in row]) for n, row in enumerate(top.indices.tolist())])
            weighted = (top.values.softmax(1)[:, :, None] * two).sum(1)
            line = [name, prior]
            for answers in (two[:, 0], weighted):
                right = [(p.argmax(1) == labels).double().numpy() for p in (answers, plain)]
                gain = [100 * value for value in mean_interval(right[0] - right[1])]
                line += [f"{100 * right[0].mean():.2f}", "{:+.2f} [{:+.2f}, {:+.2f}]".format(*gain)]
            lines.append(line)
    print(f"{options.model} at {options.size} px, {options.weights}, {options.families}, {HELD} held-out photographs\n")
    headers = ["photographs", "prior", "K = 1, top-1 %", "over one view", "K = 2 weighted, top-1 %", "over one view"]
    print(tabulate(lines, headers, "github"))


if __name__ == "__main__":
    main()
