"""A Lightning module that learns how far scikit-learn's digits may turn. ``pip install lightning`` first."""

import torch
import torch.nn.functional as F
from experiments import harness
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import instaaug_transforms as ia

try:
    import lightning
except ImportError as error:
    raise SystemExit("lightning is not installed: pip install lightning") from error


class Module(lightning.LightningModule):
    """Around any [0, 1] images → logits model."""

    def __init__(self, model: torch.nn.Module, lr: float = 1e-3) -> None:
        super().__init__()
        self.model, self.lr = model, lr
        self.objective = ia.InstaAugObjective(ia.LearnedAugment(["rotate"], in_channels=1), ia.EntropyConfig(rate=0.02))

    def training_step(self, batch, index):
        images, labels = batch
        views, sample = self.objective.aug.sample(images)
        loss = self.objective(F.cross_entropy(self.model(views), labels, reduction="none"), sample)
        self.log_dict(self.objective.logs())  # loss, entropies, λ, in band
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)  # φ is among them


data = ".pt of (grey images, labels); digits where left out"
options = harness.parse(None, __doc__, data, smoke={"epochs": 1}, optional="seeds", epochs=8, seeds=[0])
lightning.seed_everything(options.seeds[0])
pixels, labels = map(torch.from_numpy, load_digits(return_X_y=True))  # 1,797 of 8 × 8 pixels, 0 … 16
images = F.pad(F.interpolate(pixels.float().view(-1, 1, 8, 8) / 16, scale_factor=3), [4] * 4)
if options.data:
    images, labels = torch.load(options.data, weights_only=True)
module = Module(ia.timm.create_classifier("test_resnet", num_classes=int(labels.max()) + 1, in_chans=1))
trainer = lightning.Trainer(max_epochs=options.epochs, default_root_dir=options.out, accelerator="auto")
last, n = options.out / "last.ckpt", 64 if options.smoke else None
loader = DataLoader(TensorDataset(images[:n], labels[:n]), 32, shuffle=True)
trainer.fit(module, loader, ckpt_path=last if options.resume else None)
trainer.save_checkpoint(last)
harness.write(options, **module.objective.logs())
ia.viz.save(ia.viz.learned_ranges(module.objective.aug.cpu(), images[:8]), options.out / "learned.png")
