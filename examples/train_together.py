"""Train a classifier together with its augmentation, in a plain loop: three lines are new.

    python examples/train_together.py --data DIR

DIR holds `train/` and `val/`, ImageFolders both. Reported on val: one view, and the mean over ten learned ones.
"""

import torch
import torch.nn.functional as F
from experiments import harness
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import instaaug_transforms as ia

device = "cuda" if torch.cuda.is_available() else "cpu"

own = {"model": "resnet18", "image_size": 64, "epochs": 10, "batch_size": 64, "seeds": [0]}
few, folders = {"model": "test_resnet", "epochs": 1, "batch_size": 16}, "folder that holds train/ and val/"
options = harness.parse(None, __doc__, folders, smoke=few, optional="smoke", **own)
size, batch_size = options.image_size, options.batch_size
if options.smoke:
    train, classes = TensorDataset(torch.rand(32, 3, size, size), torch.arange(32) % 2), 2
    val = train
else:
    train, val = (harness.image_folder(options.data / split, size, torch.float32) for split in ("train", "val"))
    classes = len(train.classes)


@torch.no_grad()
def accuracy(model: torch.nn.Module) -> float:
    """Top-1 on val, percent."""
    right = [model(images.to(device)).argmax(1).cpu() == labels for images, labels in DataLoader(val, batch_size)]
    return 100 * torch.cat(right).float().mean().item()


reports = []
for seed in options.seeds:
    torch.manual_seed(seed)
    model = ia.timm.create_classifier(options.model, num_classes=classes).to(device)
    aug = ia.LearnedAugment(["crop", "rotate", "hsv"]).to(device)
    objective = ia.InstaAugObjective(aug)  # 1
    groups = [{"params": model.parameters()}, {"params": objective.parameters(), "lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, weight_decay=0.05)
    for epoch in range(options.epochs):
        loader = DataLoader(train, batch_size, shuffle=True, drop_last=True)
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
harness.write(options, runs=reports)
