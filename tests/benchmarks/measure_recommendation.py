"""What a rule of recommendation costs: how far what it recommends falls behind one view, and behind the best arm.

Views of test images are computed once; then, again and again, some images are held out to choose on and the others score the
choice. Arms are one view and searched input-free policies of 2, 4 and 10 views (φ's arms differ from these by what they look at, not by how
they are judged). Digits by default, or any folder of classes with a timm classifier:

    python -m tests.benchmarks.measure_recommendation
    python -m tests.benchmarks.measure_recommendation --noise
    python -m tests.benchmarks.measure_recommendation --sure 3
    python -m tests.benchmarks.measure_recommendation --data DIR/val --model resnet18 --checkpoint FILE --size 64 --max-images 2000
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.learning import recommendation
from instaaug_transforms.learning.harm import paired
from instaaug_transforms.learning.recommendation import choose_arm, comes_into_question
from instaaug_transforms.learning.report import HeldOutArm
from instaaug_transforms.learning.scores import HIGHEST, LOWEST
from instaaug_transforms.tta import arms
from instaaug_transforms.tta.calibration import best_temperature

KS = (1, 2, 4, 10)
HELD_OUT = (60, 100, 150, 400, 1000)


def by_accuracy(errors: float) -> Callable[[list[HeldOutArm]], HeldOutArm]:
    """The most accurate arm, if it is ahead of one view by so many standard errors."""

    def rule(made: list[HeldOutArm]) -> HeldOutArm:
        best = max(made, key=lambda arm: arm.correct.mean())
        gain = best.correct.astype(float) - made[0].correct
        return best if gain.mean() > errors * gain.std() / math.sqrt(len(gain)) else made[0]

    return rule


def by_nll(made: list[HeldOutArm]) -> HeldOutArm:
    """The package's rule, blind to gains of accuracy."""
    single = made[0].correct
    blind = [replace(arm, correct=min(arm.correct, single, key=np.mean)) for arm in made]
    chosen = choose_arm(blind)
    return next(arm for arm, seen in zip(made, blind, strict=True) if seen is chosen)


def wherever_it_leans(made: list[HeldOutArm]) -> HeldOutArm:
    """The rule until now: where NLL is evidence, accuracy may be lower, by one standard error."""
    with patch.object(recommendation, "LEAN", -1.0):
        return choose_arm(made)


def by_lowest(errors: float) -> Callable[[list[HeldOutArm]], HeldOutArm]:
    """Of the arms that come into question the cheapest, if its NLL is within so many standard errors of the lowest."""

    def rule(made: list[HeldOutArm]) -> HeldOutArm:
        able = [arm for arm in made[1:] if comes_into_question(arm, made[0], None, False)] or made[:1]
        best = min(able, key=lambda arm: arm.nll.mean())
        losses = [(arm, *paired(arm.nll, best.nll)) for arm in able]
        return min((arm for arm, loss, error in losses if loss <= errors * error), key=lambda arm: arm.cost)

    return rule


RULES = {
    "either (the package's)": choose_arm,
    "either, accuracy may be lower": wherever_it_leans,
    "either, cheapest in 1 s.e.": by_lowest(1),
    "either, lowest NLL": by_lowest(0),
    "NLL": by_nll,
    "accuracy, 1 s.e.": by_accuracy(1),
    "accuracy, 2 s.e.": by_accuracy(2),
}
RULES |= {"most accurate": by_accuracy(0), "never": lambda made: made[0]}


@torch.no_grad()
def views(classifier: torch.nn.Module, images: Tensor) -> Tensor:
    """Log-probabilities ``(N, V, C)`` of every candidate of input-free search."""
    aug = ia.LearnedAugment(["crop"])
    candidates, families = arms.policy_candidates(aug), arms.families_for(aug)
    rows = []
    for v in range(candidates.batch_shape[0]):
        parts = images.split(128)
        cut = (
            ia.functional.apply(part, candidates.index(torch.full((len(part),), v)), families).contiguous(
                memory_format=torch.channels_last
            )
            for part in parts
        )
        rows.append(torch.cat([classifier(part).log_softmax(-1).half() for part in cut]))
    return torch.stack(rows, 1)


def average(log_p: Tensor, columns: list[int]) -> Tensor:
    return torch.logsumexp(log_p[:, columns].float(), 1) - math.log(len(columns))


def judge(all_log_p: Tensor, labels: Tensor, n: int, repeats: int, seed: int, as_they_are: bool) -> list[list[str]]:
    """A line per rule: mean over repeats of accuracy over one view and over the best arm, of the worst of both, and of forwards.

    Views are averaged at the temperature that one view of the held-out images needs; or ``as_they_are``.
    """
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in RULES}
    generator = torch.Generator().manual_seed(seed)
    for _ in range(repeats):
        held, rest = torch.randperm(len(labels), generator=generator).tensor_split([n])
        needed = 1.0 if as_they_are else best_temperature(all_log_p[held, 0], labels[held])
        at = min(max(needed, LOWEST), HIGHEST)
        log_p = all_log_p if at == 1 else (all_log_p.float() / at).log_softmax(-1)
        losses = -log_p.gather(2, labels[:, None, None].expand(-1, log_p.shape[1], 1)).squeeze(2).float()
        plain = torch.nn.functional.nll_loss(all_log_p[held, 0].float(), labels[held])
        tells = as_they_are or bool(plain <= math.log(log_p.shape[2]))
        first, second = held.tensor_split(2)
        searched = {half: arms.greedy(losses[rows], max(KS)) for half, rows in ((0, second), (1, first))}
        everywhere, made, scores = arms.greedy(losses[held], max(KS)), [], []
        for k in (0, *KS):
            columns = [[0], [0]] if k == 0 else [searched[0][:k], searched[1][:k]]
            log_q = torch.cat([average(log_p[rows], c) for rows, c in zip((first, second), columns, strict=True)])
            log_q = (log_q / best_temperature(log_q, labels[held])).log_softmax(-1)
            nll = -log_q.gather(1, labels[held][:, None]).squeeze(1).numpy()
            right = (log_q.argmax(1) == labels[held]).numpy()
            name, n_views = ("best input-free", k) if k else ("one view", 1)
            made.append(HeldOutArm(name, n_views, n_views, right, nll, {}, nll_tells=tells))
            use = everywhere[:k] or [0]
            scores.append(100 * (average(log_p[rest], use).argmax(1) == labels[rest]).double().mean().item())
        for name, rule in RULES.items():
            chosen = rule(made)
            score = next(score for arm, score in zip(made, scores, strict=True) if arm is chosen)
            found[name].append((score - scores[0], score - max(scores), chosen.n_views))
    lines = []
    for name, rows in found.items():
        over_one, over_best, forwards = np.array(rows).T
        cells = (over_one.mean(), over_one.min(), over_best.mean(), np.quantile(over_best, 0.05))
        lines.append([name, n, *(f"{cell:+.2f}" for cell in cells), f"{forwards.mean():.1f}"])
    return lines


def digits(seed: int) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """A small network trained on 500 of scikit-learn's digits, and the others."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    images = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1).clamp(0, 1)
    labels, order = (
        torch.tensor(data.target),
        torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)),
    )
    torch.manual_seed(seed)
    layers = [torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, 2, 1), torch.nn.ReLU()]
    classifier = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(2048, 10))
    optimizer = torch.optim.Adam(classifier.parameters(), 1e-3)
    for _ in range(30):
        for batch in order[:500][torch.randperm(500)].split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(classifier(images[batch]), labels[batch]).backward()
            optimizer.step()
    return classifier.eval(), images[order[500:]].contiguous(), labels[order[500:]]


class Sure(torch.nn.Module):
    """Two classes of noisy pictures by their colour, and by weights that are chance: two of three answers are right, and all of them sure."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = 0.4 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))

    def forward(self, images: Tensor) -> Tensor:
        told = (images * self.weights).sum((1, 2, 3)) + 60 * (images[:, 0].mean((1, 2)) - 0.5)
        return torch.stack([-told, told], 1)

    @staticmethod
    def noise(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(2, (n,), generator=generator)
        images = 0.5 + 0.15 * torch.randn(n, 3, 32, 32, generator=generator)
        images[:, 0] += 0.05 * (2 * labels[:, None, None] - 1)
        return images.clamp(0, 1), labels


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a folder of classes; scikit-learn's digits if left out")
    parser.add_argument(
        "--noise", action="store_true", help="noise through weights that are chance, which is sure of itself"
    )
    parser.add_argument(
        "--sure", type=float, default=1.0, help="times the logits: how much too sure a classifier is made"
    )
    parser.add_argument("--as-they-are", action="store_true", help="average views at no temperature, as until now")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--checkpoint")
    parser.add_argument("--class-map", help="a line per class of the classifier")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--max-images", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.noise:
        classifier, (images, labels) = (
            Sure(),
            Sure.noise(options.max_images, torch.Generator().manual_seed(options.seed)),
        )
    elif options.data is None:
        classifier, images, labels = digits(options.seed)
    else:
        from instaaug_transforms.cli.class_map import read_class_map
        from instaaug_transforms.cli.image_files import ImageFiles

        resize = v2.Compose([v2.Resize(options.size), v2.CenterCrop(options.size), v2.ToImage()])
        classes = None if options.class_map is None else read_class_map(options.class_map)
        files = ImageFiles(options.data, resize, classes)
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(options.seed))[: options.max_images]
        images = torch.stack([files[i][0].as_subclass(Tensor) for i in order.tolist()]).float() / 255
        labels = torch.tensor(files.targets)[order]
        n_classes = int(labels.max()) + 1 if classes is None else len(classes)
        classifier = ia.timm.create_classifier(options.model, options.checkpoint, num_classes=n_classes).eval()
    log_p, lines = (options.sure * views(classifier, images).float()).log_softmax(-1), []
    for n in HELD_OUT:
        if n <= 0.6 * len(labels):
            lines += judge(log_p, labels, n, options.repeats, options.seed, options.as_they_are)
    headers = ["rule", "held out", "over one view", "worst", "over the best arm", "5 % quantile", "forwards"]
    print(f"{len(labels)} images, {options.repeats} repeats, seed {options.seed}; points of top-1\n")
    print(tabulate(lines, headers, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
