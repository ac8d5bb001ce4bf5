"""What weights that undo give on photographs, disturbed at random (simulated) and as they are: the card's figures.

python hub/recipes/undo_card.py --photos DIR --class-map DIR/classes.txt --weights turn_light_photos --size 160
"""

import torch
from photographs import classifier_of, options_for, read_split
from tabulate import tabulate
from torch import Tensor

import instaaug_transforms as ia
from instaaug_transforms.engine import Nuisance
from instaaug_transforms.families import CandidateProduct
from instaaug_transforms.tta.arms import greedy
from instaaug_transforms.utils.stats import mean_interval

INPUT_FREE = (1, 2, 4)


def main() -> None:
    parser = options_for(__doc__)
    parser.add_argument("--weights", default="turn_light_photos")
    parser.add_argument("--families", nargs="+", help="of those, the ones that disturb and undo (all)")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument(
        "--searched-on", type=int, default=300, help="photographs of many/ for the input-free search (%(default)s)"
    )
    options = parser.parse_args()
    classifier, (images, labels) = classifier_of(options), read_split(options, "val")
    images = images.float() / 255
    aug = ia.LearnedAugment.from_pretrained(options.weights)
    acting = [
        family for family in aug.anchor_families if family.name in (options.families or [f.name for f in aug.families])
    ]
    product = CandidateProduct(acting)

    @torch.no_grad()
    def probabilities(x: Tensor) -> Tensor:
        parts = x.contiguous(memory_format=torch.channels_last).split(50)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.amp):
            return torch.cat([classifier(part).float() for part in parts]).softmax(-1)

    others, truth = read_split(options, "many")
    some = torch.randperm(len(others), generator=torch.Generator().manual_seed(options.seed))[: options.searched_on]
    others, truth = others[some].float() / 255, truth[some]
    every, lines = product.candidates(), []
    for name in ("disturbed", "as they are"):
        nuisance = Nuisance(acting, 1.0, options.seed)
        known = nuisance(others, torch.arange(len(others))) if name == "disturbed" else others
        candidates = [every.index(torch.full((len(known),), a)) for a in range(product.n_candidates)]
        views = (ia.functional.apply(known, params, acting) for params in candidates)
        losses = torch.stack([-probabilities(view).log()[torch.arange(len(known)), truth] for view in views], 1)
        policy = greedy(losses, max(INPUT_FREE))
        seen = nuisance(images, torch.arange(len(images))) if name == "disturbed" else images
        with torch.no_grad():
            log_p = torch.cat([product.log_p(aug.distribution(part).parts) for part in seen.split(100)])
        top = log_p.topk(2, 1)
        views = [ia.functional.apply(seen, ia.AugmentParams(**product.take(index)), acting) for index in top.indices.T]
        first, second = (probabilities(view) for view in views)
        weights, one = top.values.softmax(1), probabilities(seen)
        arms = {"one view": one, "ours, K = 1": first, "ours, K = 2": first + second}
        arms["ours, K = 2, weighted"] = weights[:, :1] * first + weights[:, 1:] * second
        fixed = {a: every.index(torch.full((len(seen),), a)) for a in set(policy)}
        fixed = {a: probabilities(ia.functional.apply(seen, params, acting)) for a, params in fixed.items()}
        arms |= {f"best input-free, K = {k}": sum(fixed[a] for a in policy[:k]) for k in INPUT_FREE}
        for arm, p in arms.items():
            correct, plain = ((q.argmax(-1) == labels).double().numpy() for q in (p, one))
            gain = [100 * value for value in mean_interval(correct - plain)]
            lines.append([f"{name}: {arm}", f"{100 * correct.mean():.2f}", "{:+.2f} [{:+.2f}, {:+.2f}]".format(*gain)])
    print(f"{options.model} at {options.size} px, {options.weights}, {[f.name for f in acting]}, n = {len(images)}\n")
    print(tabulate(lines, ["photographs", "top-1 %", "over one view"], "github"))


if __name__ == "__main__":
    main()
