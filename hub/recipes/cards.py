"""The arms of a held-out report, on images that it has not seen: what cards print."""

from collections.abc import Sequence

import torch
from tabulate import tabulate
from torch import Tensor

import instaaug_transforms as ia
from instaaug_transforms.engine import Images, Nuisance
from instaaug_transforms.learning.report import HeldOutReport
from instaaug_transforms.tta.aggregation import aggregate
from instaaug_transforms.tta.shared import SharedViews
from instaaug_transforms.tta.views import load_setting
from instaaug_transforms.utils.stats import mean_interval

N_VIEWS = (1, 2, 4)
Arm = tuple[
    str, ia.TTAModel, bool
]  # a name, what averages views, and whether every image gets the views of the one before it


def arms_of(
    report: HeldOutReport,
    aug: ia.LearnedAugment,
    classifier: torch.nn.Module,
    fixed: bool = True,
    views: Sequence[int] | None = None,
) -> list[Arm]:
    """Those of up to four views, or of as many as are recommended, and what is recommended; or one view and those of ``views`` alone.

    With ``fixed`` those too that do not look at the image.
    """
    wanted = set(views or {*N_VIEWS, report.recommended.n_views})
    named = {
        f"{arm.name}, K = {arm.n_views}": arm for arm in report.arms if arm.n_views in wanted or arm.name == "one view"
    }
    if report.recommended.n_views in wanted:
        named[f"recommended: {report.recommended.name}"] = report.recommended
    aug.eval()
    return [
        (name, ia.TTAModel(classifier, aug, **load_setting(arm.setting)), False)
        for name, arm in named.items()
        if arm.setting is not None and (fixed or not name.startswith(("one", "best", "mean")))
    ]


@torch.no_grad()
def answers(
    classifier: torch.nn.Module,
    arms: Sequence[Arm],
    val: Images,
    disturb: Nuisance | None,
    amp: bool,
) -> dict[str, list[Tensor]]:
    """Whether each image of ``val`` is classified rightly, ``(N,)`` for every arm of one name; no view is looked at twice."""
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


def strongest(right: dict[str, list[Tensor]], condition: str, views: str = "") -> str:
    """The input-free arm, of any K or with ``views``, that is right most often on what is reported, the hardest rival; "" for none."""
    names = [name for name in right if name.startswith(f"{condition}: best input-free") and name.endswith(views)]
    return max(names, key=lambda name: torch.stack(right[name]).mean().item(), default="")


def gain(ours: list[Tensor], rival: list[Tensor]) -> str:
    """Points of accuracy, means over runs, with the paired interval over the images."""
    gains = torch.stack(ours).mean(0) - torch.stack(rival).mean(0)
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * value for value in mean_interval(gains.numpy())))


def table(
    classifier: torch.nn.Module, arms: Sequence[Arm], val: Images, nuisance: Nuisance | str | list[str], amp: bool
) -> str:
    """Accuracy of arms, means over those of one name, on ``val`` disturbed and as it is, with paired intervals over the images; and
    ours against the best that does not look, with as many views."""
    right = {
        f"{condition}: {name}": runs
        for condition, disturb in (("disturbed", Nuisance(nuisance, 1.0, 100)), ("as they are", None))
        for name, runs in answers(classifier, arms, val, disturb, amp).items()
    }
    lines, at_equal = [], []
    for name, runs in right.items():
        condition, _, views = name.partition(": ")[0], *name.rpartition(", ")[1:]
        rivals = (f"{condition}: one view, K = 1", strongest(right, condition), "as they are: one view, K = 1")
        lines.append([name, f"{100 * torch.stack(runs).mean():.2f}", *(gain(runs, right[rival]) for rival in rivals)])
        rival = strongest(right, condition, views)
        if name.startswith(f"{condition}: ours,") and rival:
            at_equal.append(f"- {condition}, {views}: ours − {rival.split(': ')[1]}: {gain(runs, right[rival])}")
    columns = ["images", "top-1 %", "over one view", "over best input-free", "over undisturbed"]
    return "\n".join([tabulate(lines, columns, "github"), "", *at_equal])
