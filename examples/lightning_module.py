"""A Lightning module that learns its augmentation. ``pip install lightning`` first; --smoke needs no data."""

import _training
import timm
import torch
import torch.nn.functional as F

import instaaug_transforms as ia
from instaaug_transforms import viz

try:
    import lightning
except ImportError:  # only `main` says so: the file must import for its documentation to be read
    lightning = None


def make_module(model: torch.nn.Module, lr: float = 1e-3):
    """A LightningModule around any [0, 1] images → logits model."""

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.objective = ia.InstaAugObjective(ia.LearnedAugment(["crop", "hsv"]))

        def training_step(self, batch, index):
            images, labels = batch
            views, sample = self.objective.aug.sample(images)
            loss = self.objective(F.cross_entropy(self.model(views), labels, reduction="none"), sample)
            self.log_dict({f"entropy_{name}": value for name, value in self.objective.entropies.items()})
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=lr)  # φ is among them

    return Module()


def main(arguments: list[str] | None = None) -> None:
    """A few steps on random images: put your DataLoader in place of them."""
    options = _training.parser(__doc__, "lightning-out").parse_args(arguments)
    if lightning is None:
        raise SystemExit("lightning is not installed: pip install lightning")
    options.out.mkdir(parents=True, exist_ok=True)
    lightning.seed_everything(options.seeds[0])
    module = make_module(ia.timm.wrap(timm.create_model("test_resnet", num_classes=3)))
    data = torch.utils.data.TensorDataset(torch.rand(64, 3, 64, 64), torch.randint(3, (64,)))
    trainer = lightning.Trainer(max_epochs=1 if options.smoke else 10, default_root_dir=options.out, accelerator="auto")
    last = options.out / "last.ckpt"
    trainer.fit(module, torch.utils.data.DataLoader(data, 16), ckpt_path=last if options.resume else None)
    trainer.save_checkpoint(last)
    _training.write_results(options.out, {"entropy": module.objective.entropies, "weight": module.objective.weights})
    viz.save(viz.learned_ranges(module.objective.aug.cpu(), data[:8][0]), options.out / "learned.png")


if __name__ == "__main__":
    main()
