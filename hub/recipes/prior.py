"""How sure weights that undo have to be before they touch a photograph: gains and losses by the prior, on held-out training photographs.

Of the 500 photographs that photos.py keeps from φ, every one is disturbed (simulated), and then left as it is; the likeliest view is
taken, or several are averaged, weighted by φ. The prior that split.py adds is chosen here.

    python hub/recipes/prior.py --photos DIR --class-map DIR/classes.txt --weights turn_light.safetensors --families turn
"""

import torch
from photographs import classifier_of, options_for, unseen
from split import add_prior
from tabulate import tabulate
from torch import Tensor

import instaaug_transforms as ia
from instaaug_transforms.engine import Nuisance
from instaaug_transforms.families import CandidateProduct
from instaaug_transforms.utils.stats import mean_interval

PRIORS = (0.25, 0.5, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
N_VIEWS = (1, 2, 10)


@torch.no_grad()
def main() -> None:
    parser = options_for(__doc__)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--families", nargs="+", required=True)
    parser.add_argument("--lit", type=float, default=1.0, help="as of photos.py (%(default)s)")
    options = parser.parse_args()
    classifier, samples = classifier_of(options), list(unseen(options))
    images = torch.stack([image.as_subclass(Tensor) for image, _ in samples]).float() / 255
    labels, rows = torch.tensor([label for _, label in samples]), torch.arange(len(samples))
    augs = [ia.LearnedAugment.from_pretrained(options.weights) for _ in PRIORS]
    for aug, prior in zip(augs, PRIORS, strict=True):
        aug.families = [family for family in aug.families if family.name in options.families]
        add_prior(aug, prior, options.lit)
    product = CandidateProduct(augs[0].anchor_families)
    ks = [k for k in N_VIEWS if k <= product.n_candidates]
    plain = torch.cat([classifier(part) for part in images.split(50)]).argmax(1)

    lines = []
    for name in ("disturbed", "as they are"):
        seen = Nuisance(augs[0].anchor_families, 1.0, 5)(images, rows) if name == "disturbed" else images
        alone = plain if name == "as they are" else torch.cat([classifier(part) for part in seen.split(50)]).argmax(1)
        tops = [
            torch.cat([product.log_p(aug.distribution(part).parts) for part in seen.split(100)]).topk(ks[-1], 1)
            for aug in augs
        ]
        # Each view of each image that a prior asks for, once.
        asked = torch.zeros(len(rows), product.n_candidates, dtype=torch.bool)
        for top in tops:
            asked.scatter_(1, top.indices, True)
        answers = torch.zeros(*asked.shape, 1000)
        for pairs in asked.nonzero().split(50):
            image, view = pairs.unbind(1)
            views = augs[0].apply(seen[image], ia.AugmentParams(**product.take(view)))
            answers[image, view] = classifier(views).softmax(-1)
        for prior, top in zip(PRIORS, tops, strict=True):
            line = [name, prior]
            for k in ks:
                weights = top.values[:, :k].softmax(1)[:, :, None]
                mean = (weights * answers[rows[:, None], top.indices[:, :k]]).sum(1)
                right, before = ((said == labels).double().numpy() for said in (mean.argmax(1), alone))
                gain = [100 * value for value in mean_interval(right - before)]
                line += [f"{100 * right.mean():.2f}", "{:+.2f} [{:+.2f}, {:+.2f}]".format(*gain)]
            lines.append(line)
    print(
        f"{options.model} at {options.size} px, {options.weights}, {options.families}, {len(rows)} held-out photographs\n"
    )
    headers = [text for k in ks for text in (f"K = {k}, top-1 %", "over one view")]
    print(tabulate(lines, ["photographs", "prior", *headers], "github"))


if __name__ == "__main__":
    main()
