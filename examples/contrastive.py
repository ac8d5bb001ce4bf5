"""SimCLR with learned crops, in a plain loop: two views of each image, and each answers for both directions of its pair.

    python examples/contrastive.py --data DIR

DIR is an ImageFolder, whose labels are not looked at. `experiments/simclr.py` compares, and probes what was learned.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning import contrastive_credit, contrastive_losses

MODEL, SIZE, EPOCHS, BATCH = "resnet18", 64, 100, 512  # a timm model; pixels
device = "cuda" if torch.cuda.is_available() else "cpu"

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, help="folder of class folders")
parser.add_argument("--out", type=Path, default=Path("contrastive-out"), help="folder for results (%(default)s)")
parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(%(default)s)")
parser.add_argument("--smoke", action="store_true", help="two steps on random images, without --data")
options = parser.parse_args()
if not (options.data or options.smoke):
    parser.error("--data: a folder of class folders (or --smoke)")
options.out.mkdir(parents=True, exist_ok=True)
if options.smoke:
    MODEL, EPOCHS, BATCH = "test_resnet", 1, 16
    data = TensorDataset(torch.rand(32, 3, SIZE, SIZE), torch.zeros(32))
else:
    steps = [v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    data = ImageFolder(str(options.data), v2.Compose(steps))

reports = []
for seed in options.seeds:
    torch.manual_seed(seed)
    encoder = ia.timm.create_classifier(MODEL, num_classes=0)
    width = encoder.model.num_features
    network = nn.Sequential(encoder, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128)).to(device)
    # Two views that took the same crop must not be the same picture: boxes move within their cells.
    aug = ia.LearnedAugment([Crop("paper_64px", jitter=True), "hsv"]).to(device)
    # The two views of an image share their loss: no baseline may be made of the other one's.
    objective = ia.InstaAugObjective(aug, ia.EntropyConfig({"crop": (0.88, 0.96)}, rate=0.03), estimator="reinforce")
    optimizer = torch.optim.Adam([*network.parameters(), *objective.parameters()], lr=1e-3)
    for epoch in range(EPOCHS):
        loader = DataLoader(data, BATCH, shuffle=True, drop_last=True)
        for images, _ in tqdm(loader, desc=f"epoch {epoch + 1}", disable=None):
            views, sample = aug.sample(images.to(device), n=2)  # (2·B, C, H, W), view-major
            pair = network(views).chunk(2)
            per_view = contrastive_losses(*pair, temperature=0.5)
            optimizer.zero_grad()
            objective(per_view, sample, credit=contrastive_credit(*pair, temperature=0.5)).backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {per_view.mean():.3f}, entropy {objective.entropies}, λ {objective.weights}")
    reports.append({"seed": seed, "loss": per_view.mean().item(), "entropy": objective.entropies})
    torch.save(encoder.model.state_dict(), options.out / f"encoder-{seed}.pt")
    aug.save(options.out / f"augment-{seed}.safetensors", seed=seed)
    eight = torch.stack([data[i][0] for i in range(0, len(data), len(data) // 8)][:8])
    ia.viz.save(ia.viz.learned_ranges(aug.cpu(), eight), options.out / f"learned-{seed}.png")
(options.out / "results.json").write_text(json.dumps(reports, indent=1))
