"""timm's own data pipeline — `create_loader` and `Mixup` — unchanged but for a learned augment.

Three things change in timm's train loop: the loader normalises by mean 0 and std 1 (that is, not at all), `aug.sample` comes
before `Mixup`, and the model carries its normalisation inside. Each view is credited with both mixtures it is part of.

    python examples/timm_pipeline.py --data DIR
"""

import timm
import torch
import torch.nn.functional as F
from experiments import harness
from timm.data import Mixup, create_dataset, create_loader
from torchvision.datasets import FakeData
from tqdm import tqdm

import instaaug_transforms as ia

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Batches are even, for Mixup.
own = {"model": "resnet18", "image_size": 64, "epochs": 10, "batch_size": 64, "seeds": [0]}
few, folder = {"model": "test_resnet", "epochs": 1, "batch_size": 8}, "folder that holds train/"
options = harness.parse(None, __doc__, folder, smoke=few, optional="smoke", **own)
if options.smoke:
    dataset, classes = FakeData(32, (3, 40, 40), 2), 2
else:
    dataset = create_dataset("", root=options.data, split="train", is_training=True)
    classes = len(dataset.reader.class_to_idx)

# Ours takes the place of random resized crop and colour jitter; nothing is normalised.
how = {"is_training": True, "no_aug": True, "mean": (0, 0, 0), "std": (1, 1, 1), "device": device, "num_workers": 0}
how["persistent_workers"] = False  # there are none
loader = create_loader(dataset, (3, options.image_size, options.image_size), options.batch_size, **how)
mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=classes)
reports = []
for seed in options.seeds:
    torch.manual_seed(seed)
    model = ia.timm.wrap(timm.create_model(options.model, num_classes=classes)).to(device)
    aug = ia.LearnedAugment(["crop", "hsv"]).to(device)
    objective = ia.InstaAugObjective(aug, estimator="reinforce")
    optimizer = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=1e-3, weight_decay=0.05)
    parts, history = {"model": model, "objective": objective, "optimizer": optimizer}, []
    file = options.out / f"state-{seed}.pt"
    if options.resume and file.exists():
        saved = torch.load(file, weights_only=True)
        history = saved.pop("history")
        for name, state in saved.items():
            parts[name].load_state_dict(state)
    for epoch in range(len(history), options.epochs):
        for images, labels in tqdm(loader, desc=f"epoch {epoch + 1}", disable=None):
            views, sample = aug.sample(images)  # before Mixup
            views, soft = mixup(views, labels)
            per_view = F.cross_entropy(model(views), soft, reduction="none")
            optimizer.zero_grad()
            # Mixup pairs image b with image B − 1 − b: each has a part in both losses.
            objective(per_view, sample, credit=per_view + per_view.flip(0)).backward()
            optimizer.step()
        history.append({"epoch": epoch, "entropy": objective.entropies, "weight": objective.weights})
        print(history[-1])
        torch.save({name: part.state_dict() for name, part in parts.items()} | {"history": history}, file)
    reports.append({"seed": seed, "history": history})
    aug.save(options.out / f"augment-{seed}.safetensors")
    images = next(iter(loader))[0][:8].cpu()
    ia.viz.save(ia.viz.learned_ranges(aug.cpu(), images), options.out / f"learned-{seed}.png")
harness.write(options, runs=reports)
