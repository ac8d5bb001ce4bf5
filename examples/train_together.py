"""Train a classifier together with its augmentation, in a plain loop: three lines are new.

    python examples/train_together.py --data DIR

DIR holds `train/` and `val/`, ImageFolders both. Reported on val: one view, and the mean over ten learned ones.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from tqdm import tqdm

import instaaug_transforms as ia

MODEL, SIZE, EPOCHS, BATCH = "resnet18", 64, 10, 64  # a timm model; pixels
device = "cuda" if torch.cuda.is_available() else "cpu"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="folder that holds train/ and val/")
parser.add_argument("--out", type=Path, default=Path("train-out"), help="folder for results (%(default)s)")
parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(%(default)s)")
parser.add_argument("--smoke", action="store_true", help="two steps on random images, without --data")
options = parser.parse_args()
if not (options.data or options.smoke):
    parser.error("--data: the folder that holds train/ and val/ (or --smoke)")
options.out.mkdir(parents=True, exist_ok=True)
if options.smoke:
    MODEL, EPOCHS, BATCH, classes = "test_resnet", 1, 16, 2
    train = val = TensorDataset(torch.rand(32, 3, SIZE, SIZE), torch.arange(32) % 2)
else:
    steps = [v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    train, val = (ImageFolder(str(options.data / split), v2.Compose(steps)) for split in ("train", "val"))
    classes = len(train.classes)


@torch.no_grad()
def accuracy(model: torch.nn.Module) -> float:
    """Top-1 on val, percent."""
    right = [model(images.to(device)).argmax(1).cpu() == labels for images, labels in DataLoader(val, BATCH)]
    return 100 * torch.cat(right).float().mean().item()


reports = []
for seed in options.seeds:
    torch.manual_seed(seed)
    model = ia.timm.create_classifier(MODEL, num_classes=classes).to(device)
    aug = ia.LearnedAugment(["crop", "rotate", "hsv"]).to(device)
    objective = ia.InstaAugObjective(aug)  # 1
    groups = [{"params": model.parameters()}, {"params": objective.parameters(), "lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, weight_decay=0.05)
    for epoch in range(EPOCHS):
        loader = DataLoader(train, BATCH, shuffle=True, drop_last=True)
        for images, labels in tqdm(loader, desc=f"epoch {epoch + 1}", disable=None):
            views, sample = aug.sample(images.to(device))  # 2
            per_view = F.cross_entropy(model(views), labels.to(device), reduction="none")
            optimizer.zero_grad()
            objective(per_view, sample).backward()  # 3, in place of per_view.mean().backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: entropy {objective.entropies}, λ {objective.weights}")
    averaged = ia.TTAModel(model.eval(), aug.eval(), n_views=10)
    reports.append({"seed": seed, "n": len(val), "entropy": objective.entropies, "weight": objective.weights})
    reports[-1] |= {"single view": accuracy(model), "ten learned views": accuracy(averaged)}
    print(reports[-1])
    aug.save(options.out / f"augment-{seed}.safetensors", seed=seed)
    eight = torch.stack([val[i][0] for i in range(0, len(val), max(1, len(val) // 8))][:8])
    ia.viz.save(ia.viz.learned_ranges(aug.cpu(), eight), options.out / f"learned-{seed}.png")
(options.out / "results.json").write_text(json.dumps({"runs": reports}, indent=1))
