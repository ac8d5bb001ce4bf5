"""A classifier and its augmentation, trained together: what `joint_training.py` and `gpu_tinyimagenet.py` run."""

import copy
import math
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import harness
import torch
import torch.nn.functional as F
from harness import LabelledImages
from safetensors.torch import save_file
from torch import Tensor, nn

import instaaug_transforms as ia
from instaaug_transforms import viz
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning.estimators import exact, rloo
from instaaug_transforms.tta.aggregation import aggregate

Rule = Callable[[Tensor, torch.Generator], Tensor]  # images to augmented images

# What each arm is; "random crop" is not learned, "none" is nothing at all.
ARMS = {
    "none": {},
    "random crop": {},
    "without input": {"families": "crop", "predictor": "global"},
    "ours": {"families": "crop"},
    "mean-field": {"families": "mean_field_crop"},
    "class-specific": {"families": "crop", "predictor": "class"},
    "augerino": {"families": ("rotate", "translate", "scale", "shear"), "predictor": "symmetric"},
    "fixed weight": {"families": "crop", "weight_rate": 0.0},
    "hub": {"hub": True},  # pretrained, and stays as it is
    "from hub": {"families": "crop", "hub": True},
    "held-out losses": {"families": "crop", "halves": True},
}
HUB = "crop_tinyimagenet"
GLOBAL_RATE = 10.0  # free numbers move slower than a network's outputs at the same rate

OPTIONS = {  # of the command line, the same for every arm
    "arms": ["none", "random crop", "without input", "ours"],
    "epochs": 10,
    "plain_epochs": 1,  # without augmentation, at the beginning
    "batch_size": 100,
    "lr": 0.05,
    "weight_decay": 1e-4,
    "predictor_lr": 5e-4,  # a φ that outruns λ settles on one crop before entropy can stop it
    "band": (float, float),  # of the crop's entropy, nats; 0.52 … 0.61 of log A where left out
    "initial_weight": 0.1,
    "weight_rate": 0.03,  # of log λ per step: short runs have few steps to find λ in
    "lookahead": 50.0,  # steps; 0 where entropy is noisy and epochs are short
    "estimator": "rloo",
    "table": "paper_224px",  # of crops
    "area": (0.1, 1.0),  # of the random crop
    "hold_out": 0,  # of every class's images, to choose an arm's strength on
    "views": 10,  # at test time
    "amp": False,
}
CHOICES = {"arms": ARMS, "estimator": ("rloo", "reinforce", "critic"), "table": ("paper_64px", "paper_224px")}


def random_crop(least: float, most: float) -> Rule:
    """RandomResizedCrop of such areas, through this package's own resample: arms differ in the choice of boxes alone."""
    aug = ia.LearnedAugment(["crop"])

    def rule(images: Tensor, generator: torch.Generator) -> Tensor:
        def uniform(low: float, high: float) -> Tensor:
            drawn = torch.rand(len(images), generator=generator, device=generator.device)
            return (low + (high - low) * drawn).to(images.device)

        area, ratio = uniform(least, most), torch.exp(uniform(-math.log(4 / 3), math.log(4 / 3)))
        w, h = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        params = {"cx": w / 2 + (1 - w) * uniform(0, 1), "cy": h / 2 + (1 - h) * uniform(0, 1), "w": w, "h": h}
        return aug.apply(images, ia.AugmentParams(**params))

    return rule


class Arm:
    """A classifier and what augments its images: nothing, a rule, a transform learned with it; or that, and the rule in tests."""

    def __init__(
        self, model: nn.Module, generator: torch.Generator, rule: Rule | None = None, objective=None, critics=()
    ) -> None:
        self.model, self.generator, self.rule, self.objective = model, generator, rule, objective
        self.aug = None if objective is None else objective.aug
        self.critics = nn.ModuleList(critics)  # two, each trained on the images that the other has not seen
        self.modules = [each for each in (model, objective, self.critics) if each]
        self.forward: Callable[..., Tensor] = lambda images, model=model: model(images)

    def loss(
        self, images: Tensor, targets: Tensor, plain: bool = False, half: Tensor | None = None, **by_class
    ) -> Tensor:
        """What is differentiated; ``plain`` batches are not augmented. ``half`` ``(B,)`` says which critic learns an image."""
        sample = None
        if self.aug is not None and not plain:
            images, sample = self.aug.sample(images, generator=self.generator, **by_class)
        elif self.rule is not None and not plain:
            images = self.rule(images, self.generator)
        per_view = F.cross_entropy(self.forward(images).float(), targets, reduction="none")
        if not self.critics:
            return per_view.mean() if sample is None else self.objective(per_view, sample)
        held_out, learned = torch.empty_like(per_view), 0.0
        for k, critic in enumerate(self.critics):
            own = F.cross_entropy(self.forward(images[half == k], critic).float(), targets[half == k], reduction="sum")
            learned = learned + own / len(images)
            with torch.no_grad():
                logits = self.forward(images[half != k], critic).float()
                held_out[half != k] = F.cross_entropy(logits, targets[half != k], reduction="none")
        return learned + (per_view.mean() if sample is None else self.objective(per_view, sample, held_out))

    def notes(self, epoch: int) -> dict[str, float]:
        """Recent entropy, nats, and λ of every family."""
        both = {"entropy": self.objective.entropies, "weight": self.objective.weights} if self.objective else {}
        return {f"{what}_{name}": value for what, values in both.items() for name, value in values.items()}

    @torch.no_grad()
    def predict(self, images: Tensor, views: int, generator: torch.Generator) -> Tensor:
        """Log-probabilities ``(B, classes)``: the mean over views of the arm's own; the image itself for ``views=0``."""
        rule = self.rule or (self.aug and (lambda images, generator: self.aug(images, generator=generator)))
        augmented = [rule(images, generator) for _ in range(views)] if views and rule else [images]
        return aggregate(torch.stack([self.forward(view).float() for view in augmented]), "mean_prob")


def train(
    name: str, model: nn.Module, data: LabelledImages, options: Namespace, seed: int, folder: Path | None = None
) -> tuple[Arm, list[dict]]:
    """One of `ARMS`, all epochs or those that a checkpoint in ``folder`` leaves; and the history."""
    device, recipe = data.images.device, {"predictor": "conv", "weight_rate": options.weight_rate} | ARMS[name]
    torch.manual_seed(seed)
    model = model.to(device, memory_format=torch.channels_last)
    # The paper's classifiers want SGD, φ wants Adam.
    sgd = {"lr": options.lr, "momentum": 0.9, "weight_decay": options.weight_decay, "nesterov": True}
    optimizers: list[torch.optim.Optimizer] = [torch.optim.SGD(model.parameters(), **sgd)]
    by_class = None
    if families := recipe.get("families"):
        by_class = ia.predictors.ClassPredictor(int(data.targets.max()) + 1) if name == "class-specific" else None
        crop = [Crop(options.table)] if families == "crop" else families
        aug = ia.LearnedAugment(crop, predictor=by_class or recipe["predictor"]).to(device)
    if "hub" in recipe:
        aug = ia.LearnedAugment.from_pretrained(HUB).to(device).requires_grad_(bool(families))
    rule, objective, entropy = random_crop(*options.area), None, {}
    if families:
        if options.band and families == "crop":
            entropy["crop"] = tuple(nats / aug.families[0].max_entropy() for nats in options.band)
        how = ia.EntropyConfig(entropy, options.initial_weight, "dual", recipe["weight_rate"], options.lookahead)
        objective = ia.InstaAugObjective(aug, how, estimator=options.estimator, warm_up=not options.plain_epochs)
        rate = options.predictor_lr * (1.0 if recipe["predictor"] == "conv" else GLOBAL_RATE)
        optimizers.append(torch.optim.AdamW(objective.parameters(), lr=rate))
    generator = torch.Generator(device=device).manual_seed(seed)
    if name == "hub":
        rule = lambda images, generator: aug(images, generator=generator)  # noqa: E731
    # The class-specific arm is tested as the paper tests it.
    rule = rule if name in ("random crop", "class-specific", "hub") else None
    critics = [copy.deepcopy(model) for _ in range(2 if "halves" in recipe else 0)]
    optimizers += [torch.optim.SGD(critic.parameters(), **sgd) for critic in critics]
    arm = Arm(model, generator, rule, objective, critics)
    per_epoch, inside = len(data) // options.batch_size, []

    def forward(images: Tensor, model: nn.Module = model) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=options.amp and model.training):
            return model(images.contiguous(memory_format=torch.channels_last))

    def order(epoch: int) -> tuple[Tensor, ...]:  # a function of seed and epoch
        shuffle = torch.Generator().manual_seed(1000 * seed + epoch)
        return torch.randperm(len(data), generator=shuffle).to(device).split(options.batch_size)[:per_epoch]

    def loss(index: Tensor, epoch: int) -> Tensor:
        images, labels = data.batch(index, device)
        flip = torch.rand(len(images), generator=generator, device=device) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)  # every arm has it
        also = {"labels": labels} if by_class else {}
        return arm.loss(images, labels, epoch < options.plain_epochs, index % 2, **also)

    def in_band() -> bool:  # whether the running mean of every family's entropy lies in its band
        means = objective.entropies if objective else {}
        return bool(means) and all(low <= means[k] <= high for k, (low, high) in objective.controller.bands.items())

    def notes(epoch: int) -> dict[str, float]:
        share, learned = {"steps_in_band": sum(inside) / per_epoch}, objective and epoch >= options.plain_epochs
        inside.clear()
        if not learned:
            return {}
        share |= {name: value for name, value in objective.logs().items() if name.startswith("information")}
        if epoch % 5 == 4 and aug.anchor_families and by_class is None:
            share |= {f"signal_{n}": signal(arm, data, n) for n in (1, 4, "all")}
        return arm.notes(epoch) | share

    arm.forward = forward
    steps = options.epochs * per_epoch
    schedules = [harness.warmup_cosine(optimizer, steps, steps // 20) for optimizer in optimizers]
    optimizers[-1].register_step_post_hook(lambda *_: inside.append(in_band()))
    return arm, harness.train(loss, order, options.epochs, arm.modules, schedules, folder, generator, notes)


def signal(arm: Arm, data: LabelledImages, n: int | str, batches: int = 12, size: int = 64) -> float:
    """|mean|² over variance of φ's gradient from one batch, entropy left out: by leave-one-out, or exact for ``n="all"``.

    Both without bias from ``batches`` of them: 0, or less, where it cannot be told from noise. The same images for every ``n``.
    """
    found, generator = [], torch.Generator(arm.aug.device).manual_seed(0)
    training = arm.model.training
    arm.model.eval()
    part_name = arm.aug.anchor_families[0].name
    for index in torch.arange(len(data))[:: max(1, len(data) // (batches * size))][: batches * size].split(size):
        images, labels = data.batch(index, arm.aug.device)
        views, sample = arm.aug.sample(images, n, generator=generator)
        with torch.no_grad():
            logits = arm.forward(views.detach()).float()
            losses = F.cross_entropy(logits, labels.repeat(len(views) // len(images)), reduction="none")
        losses, part = losses.unflatten(0, (-1, len(images))), sample.distribution.parts[part_name]
        if n == "all":
            value = exact(losses, part.categorical.logits)
        else:
            value = rloo(losses, part.log_prob(sample.params), losses.mean(), len(images))
        wanted = [parameter for parameter in arm.aug.parameters() if parameter.requires_grad]
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(value.mean(), wanted)]))
    arm.model.train(training)
    gradients = torch.stack(found).double()
    total, mean = gradients.square().sum(1).mean(), gradients.mean(0).square().sum()
    squared = (len(found) * mean - total) / (len(found) - 1)
    return (squared / (total - squared)).item()


def jobs_of(arms, areas=(), bands=()) -> dict[str, tuple[str, dict]]:
    """What `sweep` runs: the random crop with every least area, whatever has a band with each of them; defaults where none are given."""
    jobs: dict[str, tuple[str, dict]] = {}
    for arm in arms:
        own = [(f"{least:g}", {"area": (least, 1.0)}) for least in areas or ()] if arm == "random crop" else []
        if ARMS[arm].get("families") == "crop":
            own = [(band, {"band": tuple(map(float, band.split(",")))}) for band in bands or ()]
        jobs |= {f"{arm} {label}".rstrip(): (arm, options) for label, options in own or [("", {})]}
    return jobs


def test(arm: Arm, data: LabelledImages, views: int, seed: int) -> Tensor:
    """Which images are right, ``(N,)``: ``views`` of the arm's own augmentation averaged; 0 for the image itself."""
    arm.model.eval()
    generator = torch.Generator(data.images.device).manual_seed(seed)
    return harness.right(lambda images: arm.predict(images, views, generator), data)


def sweep(
    options, make: Callable[..., nn.Module], data: LabelledImages, held: LabelledImages, jobs, more=None, choice=None
) -> None:
    """Every job — a name, its arm and its own options — with every seed, reported against the random crop.

    With images for the ``choice`` of strengths, each job is scored on them too.
    """

    def one(job: str, seed: int) -> dict:
        torch.manual_seed(seed)
        (name, own), file = jobs[job], harness.name_of(job, seed)
        settings, model = Namespace(**vars(options) | own), make(num_classes=int(data.targets.max()) + 1)
        arm, history = train(name, model, data, settings, seed, options.out / "stages" / file)
        right = {"single": test(arm, held, 0, seed), "top1": test(arm, held, options.views, seed)}
        seen = {"train": test(arm, data, 0, seed)} | ({"choice": test(arm, choice, 0, seed)} if choice else {})
        result = {key: 100 * value.double().mean().item() for key, value in (right | seen).items()}
        state = {key: tensor.contiguous() for key, tensor in arm.model.model.state_dict().items()}
        save_file(state, options.out / f"classifier-{file}.safetensors")
        if arm.aug is not None:
            images = held.batch(slice(0, None, max(1, len(held) // 8)))[0][:8]
            viz.save(viz.learned_ranges(arm.aug.cpu().eval(), images), options.out / f"learned-{file}.png")
            arm.aug.save(options.out / f"augment-{file}.safetensors", seed=seed)
        result |= {"n": len(held), "seconds": history[-1]["seconds"], "history": history, **own}
        correct = {"correct": right["top1"].int().tolist(), "correct_single": right["single"].int().tolist()}
        return result | correct | (more(name, arm) if more else {})

    against = next((job for job, (name, _) in jobs.items() if name == "random crop"), None)
    runs = harness.sweep(options, jobs, one, ("top1", "single", *(["choice"] if choice else [])), against)
    one_view = [run | {"correct": run["correct_single"]} for run in runs]
    print(f"\nat one view:\n\n{harness.show(harness.seed_table(one_view, ('single',), against))}")
