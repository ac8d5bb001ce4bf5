"""timm's own data pipeline — `create_loader` and `Mixup` — unchanged but for a learned augment.

Three things change in timm's train loop: the loader normalises by mean 0 and std 1 (that is, not at all), `aug.sample` comes
before `Mixup`, and the model carries its normalisation inside. Each view is credited with both mixtures it is part of.

    python examples/timm_pipeline.py --data DIR --model resnet18
"""

from pathlib import Path

import _training
import timm
import torch
import torch.nn.functional as F
from timm.data import Mixup, create_dataset, create_loader
from torchvision.transforms.v2 import functional as TF
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms import viz


def write_random_images(folder: Path) -> Path:
    """A tiny ImageFolder for --smoke."""
    generator = torch.Generator().manual_seed(0)
    for label in ("a", "b"):
        (folder / "train" / label).mkdir(parents=True, exist_ok=True)
        for k in range(16):
            image = TF.to_pil_image(torch.rand(3, 40, 40, generator=generator))
            image.save(folder / "train" / label / f"{k}.png")
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Train for some epochs and show what was learned."""
    parser = _training.parser(__doc__, "timm-out")
    parser.add_argument("--data", type=Path, help="folder that holds train/ (an ImageFolder)")
    parser.add_argument("--model", default="resnet18", help="a timm model (%(default)s)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels (%(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="(%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="even, for Mixup (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="(%(default)s)")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.smoke:
        options.data, options.epochs, options.batch_size = write_random_images(options.out / "data"), 1, 8
        options.model, options.workers = "test_resnet", 0
    if options.data is None:
        parser.error("--data: the folder that holds train/ (or --smoke)")
    seed = options.seeds[0]
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = create_dataset("", root=options.data, split="train", is_training=True)
    size = (3, options.image_size, options.image_size)
    loader = create_loader(
        dataset,
        input_size=size,
        batch_size=options.batch_size,
        is_training=True,
        no_aug=True,  # ours takes the place of random resized crop and colour jitter
        num_workers=options.workers,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        device=device,
        persistent_workers=options.workers > 0,
    )
    classes = len(dataset.reader.class_to_idx)
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=classes)
    model = ia.timm.wrap(timm.create_model(options.model, num_classes=classes)).to(device)
    aug = ia.LearnedAugment(["crop", "hsv"]).to(device)
    objective = ia.InstaAugObjective(aug, estimator="reinforce")
    optimizer = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=1e-3, weight_decay=0.05)
    state = _training.Checkpoint(
        options.out / "state.safetensors", {"model": model, "objective": objective}, [optimizer]
    )
    first, history = state.load() if options.resume else (0, [])
    shown = None
    for epoch in range(first, options.epochs):
        total = 0.0
        for images, labels in tqdm(loader, desc=f"epoch {epoch}", disable=None):
            shown = images[:8].clone()
            views, sample = aug.sample(images)  # before Mixup
            views, soft = mixup(views, labels)
            per_view = F.cross_entropy(model(views), soft, reduction="none")
            optimizer.zero_grad()
            # Mixup pairs image b with image B − 1 − b: each has a part in both losses.
            objective(per_view, sample, credit=per_view + per_view.flip(0)).backward()
            optimizer.step()
            total += per_view.mean().item() / len(loader)
        entry = {"epoch": epoch, "loss": total, "entropy": objective.entropies, "weight": objective.weights}
        history = [*(history or []), entry]
        print(entry)
        state.save(epoch + 1, history)
    _training.write_results(options.out, {"seed": seed, "history": history})
    aug.save(options.out / "augment.safetensors")
    if shown is not None:
        viz.save(viz.learned_ranges(aug, shown), options.out / "learned.png")


if __name__ == "__main__":
    main()
