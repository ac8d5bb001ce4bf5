"""The quickstart's embedded problem: scikit-learn's handwritten digits and a small classifier trained on them."""

import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms import families, functional
from instaaug_transforms.learning.data import LabelledImages

GEOMETRY = families.create(["crop", "rotate"])


def digits(seed: int) -> dict[str, LabelledImages]:
    """All 1,797 digits at 32 px, shuffled and split: classifier 700, policy 400, choice 100, test 597."""
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 16  # (N, 1, 8, 8)
    images = F.pad(images, (2, 2, 2, 2))  # room to turn
    images = F.interpolate(images, size=(32, 32), mode="bicubic").clamp(0, 1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], torch.tensor(raw.target)[order]
    sizes = {"classifier": 700, "policy": 400, "choice": 100, "test": 597}
    parts = zip(images.split(list(sizes.values())), labels.split(list(sizes.values())), strict=True)
    return {name: LabelledImages(*part) for name, part in zip(sizes, parts, strict=True)}


def rotated(images: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Each image turned by an angle of U[−degrees, degrees]."""
    angle = (2 * torch.rand(len(images), generator=generator) - 1) * degrees
    return functional.apply(images, ia.AugmentParams(angle=angle), GEOMETRY)


def nuisance(data: LabelledImages, seed: int) -> LabelledImages:
    """Simulated: turned by up to ±40°, shifted by up to 8 % of the frame, drawn at 0.7 to 1.1 of the size."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(data), generator=generator)

    side = 1 / uniform(0.7, 1.1)
    fields = {"cx": 0.5 + side * uniform(-0.08, 0.08), "cy": 0.5 + side * uniform(-0.08, 0.08), "w": side, "h": side}
    params = ia.AugmentParams(**fields, angle=uniform(-40, 40))
    # The box may be larger than the image here, which crops never are: resample with black outside.
    matrix = functional.geometry_matrix(GEOMETRY, params, *data.images.shape[-2:])
    return LabelledImages(functional.resample(data.images, matrix, tuple(data.images.shape[-2:])), data.targets)


def train_classifier(data: LabelledImages, seed: int, epochs: int = 60) -> ia.timm.Classifier:
    """timm's ``test_resnet`` (0.4 M parameters) on digits turned by up to ±60°."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ia.timm.wrap(timm.create_model("test_resnet", num_classes=10, in_chans=1))
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = epochs * -(-len(data) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in tqdm(range(epochs), desc="train the classifier", unit="epoch", disable=None):
        for index in torch.randperm(len(data), generator=generator).split(64):
            images = rotated(data.images[index], 60, generator).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(model(images), data.targets[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()
