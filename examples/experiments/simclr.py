"""SimCLR with learned crops: two views per image, both directional losses credited to both crops.

Colour jitter and flips are the same for all arms. Encoders are judged by a linear and by a k-NN probe of features averaged over ten
crops of the arm's own; what a probe needs to choose is chosen on held-out train images. --band: entropy of learned crops, of log A.

    python examples/experiments/simclr.py --data DIR --image-size 32 --images 10000 --epochs 20
"""

import harness
import numpy as np
import torch
from harness import LabelledImages
from joint import GLOBAL_RATE, Arm, random_crop
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import instaaug_transforms as ia
from instaaug_transforms import viz
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning import contrastive_credit, contrastive_losses

ARMS = {"random crop": None, "without input": "global", "ours": "conv"}  # predictors


def pretrain(name: str, data: LabelledImages, seed: int, options) -> tuple[Arm, list[dict]]:
    """One arm, whose model is a timm backbone and SimCLR's two-layer projection, and the history."""
    device = torch.device(options.device)
    torch.manual_seed(seed)
    generator, body = torch.Generator(device).manual_seed(seed), ia.timm.create_classifier(options.model, num_classes=0)
    width = body.model.num_features
    project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128))
    model = nn.Sequential(body, project).to(device)
    crop, colour, objective = random_crop(*options.area), ia.LearnedAugment(["hsv"]), None
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)
    if (predictor := ARMS[name]) is not None:
        # Two views that chose the same anchor must not be the same crop.
        looks = ia.ConvPredictor(32) if predictor == "conv" else predictor
        aug = ia.LearnedAugment([Crop("paper_64px", jitter=True)], predictor=looks).to(device)
        # A leave-one-out baseline over the two views would be the very loss that they share. λ has few steps to settle in.
        entropy = ia.EntropyConfig({"crop": tuple(options.band)}, rate=options.weight_rate)
        objective = ia.InstaAugObjective(aug, entropy, estimator="reinforce", warm_up=False)
        rate = 1e-3 * (GLOBAL_RATE if predictor == "global" else 1.0)
        optimizer.add_param_group({"params": list(objective.parameters()), "lr": rate})
    arm = Arm(model, generator, crop, objective)

    def order(epoch: int) -> tuple[Tensor, ...]:
        order = torch.randperm(len(data), generator=generator, device=device).cpu()
        return order.split(options.batch_size)[: len(order) // options.batch_size]

    def loss(index: Tensor, epoch: int) -> Tensor:
        images, _ = data.batch(index, device)
        if objective is None:
            views = torch.cat([crop(images, generator) for _ in range(2)])
        else:
            views, sample = arm.aug.sample(images, 2, generator=generator)
        u = torch.rand(4, len(views), generator=generator, device=device)
        views = torch.where((u[3] < 0.5)[:, None, None, None], views.flip(-1), views)
        jitter = {"hue": 0.2 * (u[0] - 0.5), "saturation": 0.2 + 1.6 * u[1], "value": 0.4 + 1.2 * u[2]}
        with torch.autocast(device.type, torch.bfloat16, enabled=options.amp):
            embedded = model(colour.apply(views, ia.AugmentParams(**jitter)))
        pair = embedded.float().chunk(2)
        per_view = contrastive_losses(*pair, temperature=0.5)
        return per_view.mean() if objective is None else objective(per_view, sample, credit=contrastive_credit(*pair))

    constant, folder = LambdaLR(optimizer, lambda step: 1.0), options.out / "stages" / harness.name_of(name, seed)
    return arm, harness.train(loss, order, options.epochs, arm.modules, [constant], folder, generator, arm.notes)


@torch.no_grad()
def features(arm: Arm, data: LabelledImages, crops: int) -> np.ndarray:
    """``(N, D)``: the backbone's features averaged over crops of the arm's own kind."""
    arm.model.eval()
    parts = []
    for index in torch.arange(len(data)).split(256):
        images, total = data.batch(index, arm.generator.device)[0], 0.0
        for _ in range(crops):
            views = arm.rule(images, arm.generator)
            if arm.aug is not None:
                views = arm.aug(images, generator=arm.generator)
            total = total + arm.model[0](views)
        parts.append(total / crops)
    return torch.cat(parts).cpu().numpy()


def probes(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> dict[str, tuple]:
    """Per probe: share of a held-out tenth of the train features that it gets right, by which it chooses; which test images."""
    tenth = np.where(np.arange(len(train[0])) % 10 == 0, 0, -1)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    nearest = KNeighborsClassifier(metric="cosine", weights="distance")
    few = [k for k in (5, 20, 50) if k < 0.9 * len(tenth)]
    c = {"logisticregression__C": (0.01, 0.1, 1.0, 10.0, 100.0)}
    choices = {"linear": (linear, c), "knn": (nearest, {"n_neighbors": few})}
    searches = {name: GridSearchCV(*choice, cv=PredefinedSplit(tenth)).fit(*train) for name, choice in choices.items()}
    return {name: (search.best_score_, search.predict(test[0]) == test[1]) for name, search in searches.items()}


def main(arguments: list[str] | None = None) -> None:
    """Pretrain and probe every arm with every seed."""
    own = {"model": "test_resnet", "image_size": 32, "images": 10_000, "epochs": 20, "batch_size": 256, "amp": False}
    own |= {"probe_images": 20_000, "band": (0.88, 0.96), "area": (0.08, 1.0), "weight_rate": 0.03, "arms": list(ARMS)}
    own |= {"device": "cuda" if torch.cuda.is_available() else "cpu", "optional": "smoke", "choices": {"arms": ARMS}}
    few, data = {"epochs": 1, "batch_size": 32, "seeds": [0]}, "folder that holds train/ and val/"
    options = harness.parse(arguments, __doc__, data, smoke=few, **own)
    train, test = harness.noise((64, 32), 32, 4)
    if not options.smoke:
        train = harness.read(options.data / "train", options.image_size, most=options.images)
        test = harness.read(options.data / "val", options.image_size, most=10**9)

    def one(name: str, seed: int) -> dict:
        arm, history = pretrain(name, train, seed, options)
        # The images were drawn at random: the first of them are a random choice too.
        probed, crops = train.subset(slice(0, options.probe_images)), 2 if options.smoke else 10
        right = probes(*((features(arm, part, crops), part.targets.numpy()) for part in (probed, test)))
        (held, linear), (held_knn, knn) = right["linear"], right["knn"]
        if name == "ours":
            picture = viz.learned_ranges(arm.aug, test.batch(torch.arange(8), arm.generator.device)[0])
            viz.save(picture, options.out / f"learned-{seed}.png")
        result = {"top1": 100 * float(linear.mean()), "knn": 100 * float(knn.mean()), "held": 100 * held}
        result |= {"held knn": 100 * held_knn, "n": len(test), "correct": linear.astype(int).tolist()}
        return result | {"history": history}

    harness.sweep(options, options.arms, one, ("top1", "knn", "held", "held knn"), "random crop")


if __name__ == "__main__":
    main()
