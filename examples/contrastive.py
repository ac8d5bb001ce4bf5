"""SimCLR with learned crops, in a plain loop: two views of each image, and each answers for both directions of its pair.

    python examples/contrastive.py --data DIR

DIR is an ImageFolder, whose labels are not looked at. `experiments/simclr.py` compares, and probes what was learned.
"""

import torch
from experiments import harness
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import instaaug_transforms as ia
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.learning import contrastive_credit, contrastive_losses

device = "cuda" if torch.cuda.is_available() else "cpu"

own = {"model": "resnet18", "image_size": 64, "epochs": 100, "batch_size": 512, "seeds": [0]}
few, folder = {"model": "test_resnet", "epochs": 1, "batch_size": 16}, "folder of class folders"
options = harness.parse(None, __doc__, folder, smoke=few, optional="smoke", **own)
if options.smoke:
    data = TensorDataset(torch.rand(32, 3, options.image_size, options.image_size), torch.zeros(32))
else:
    data = harness.image_folder(options.data, options.image_size, torch.float32)

reports = []
for seed in options.seeds:
    torch.manual_seed(seed)
    encoder = ia.timm.create_classifier(options.model, num_classes=0)
    width = encoder.model.num_features
    network = nn.Sequential(encoder, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 128)).to(device)
    # Two views that took the same crop must not be the same picture: boxes move within their cells.
    aug = ia.LearnedAugment([Crop("paper_64px", jitter=True), "hsv"]).to(device)
    # The two views of an image share their loss: no baseline may be made of the other one's.
    entropy = ia.EntropyConfig({"crop": (0.88, 0.96)}, rate=0.03)
    objective = ia.InstaAugObjective(aug, entropy, estimator="reinforce", warm_up=False)
    optimizer = torch.optim.Adam([*network.parameters(), *objective.parameters()], lr=1e-3)
    for epoch in range(options.epochs):
        loader = DataLoader(data, options.batch_size, shuffle=True, drop_last=True)
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
harness.write(options, runs=reports)
