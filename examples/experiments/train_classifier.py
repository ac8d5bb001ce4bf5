"""Train a timm classifier on a folder of images, to have one to fit against: ``OUT/<model>-<seed>.safetensors``.

    python examples/experiments/train_classifier.py --data DIR --split fit --model convnext_atto --image-size 64 --out atto

DIR holds --split, to train on, and --test-split. Random crops of area --min-area to 1, half of them mirrored.
"""

import harness
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

import instaaug_transforms as ia

CROP = ia.LearnedAugment(["crop"])  # applies the random crops; nothing of it is learned


def train(data: harness.LabelledImages, seed: int, options) -> tuple[ia.timm.Classifier, list[dict]]:
    """The classifier and its history."""
    torch.manual_seed(seed)
    generator, size = torch.Generator(), {"img_size": options.image_size} if "vit" in options.model else {}
    model = ia.timm.create_classifier(options.model, num_classes=int(data.targets.max()) + 1, **size)
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=options.weight_decay)
    steps = max(11, options.epochs * -(-len(data) // options.batch_size))
    schedule = OneCycleLR(optimizer, options.lr, total_steps=steps, pct_start=0.15, cycle_momentum=False)

    def order(epoch: int) -> tuple[Tensor, ...]:
        generator.manual_seed(seed * 1000 + epoch)
        torch.manual_seed(seed * 1000 + epoch)  # drop path
        return torch.randperm(len(data), generator=generator).split(options.batch_size)

    def loss(index: Tensor, epoch: int) -> Tensor:
        images, targets = data.batch(index)
        n, least = len(index), options.min_area
        side = (least + (1 - least) * torch.rand(n, generator=generator)).sqrt()
        cx, cy = (side / 2 + (1 - side) * torch.rand(n, generator=generator) for _ in range(2))
        flip = torch.randint(2, (n,), generator=generator).float()
        views = CROP.apply(images, ia.AugmentParams(cx=cx, cy=cy, w=side, h=side, flip=flip))
        with torch.autocast("cpu", torch.bfloat16, enabled=options.amp):
            logits = model(views.contiguous(memory_format=torch.channels_last))
        return F.cross_entropy(logits.float(), targets, label_smoothing=options.smoothing)

    folder = options.out / "stages" / f"{options.model}-{seed}"
    return model, harness.train(loss, order, options.epochs, [model], [schedule], folder, clip=1.0)


def main(arguments: list[str] | None = None) -> None:
    """Train with every seed, write weights and figures."""
    own = {"split": "fit", "test_split": "val", "model": "convnext_atto", "image_size": 64, "epochs": 5, "lr": 2e-3}
    own |= {"batch_size": 128, "weight_decay": 0.05, "min_area": 0.35, "smoothing": 0.1, "amp": False, "seeds": [0]}
    options = harness.parse(arguments, __doc__, "folder that holds the splits", smoke={}, **own)
    folders = (options.data / options.split, options.data / options.test_split)
    most = (256, 64) if options.smoke else (None, None)
    data, test = (harness.read(folder, options.image_size, most=n) for folder, n in zip(folders, most, strict=True))

    def one(name: str, seed: int) -> dict:
        model, history = train(data, seed, options)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.amp):
            right = harness.right(lambda x: model.eval()(x.contiguous(memory_format=torch.channels_last)), test)
        state = {key: tensor.detach().contiguous() for key, tensor in model.model.state_dict().items()}
        save_file(state, options.out / f"{name}-{seed}.safetensors")
        figures = {"top1": 100 * right.double().mean().item(), "n": len(test), "history": history}
        return figures | {"parameters": sum(map(Tensor.numel, state.values())), "seconds": history[-1]["seconds"]}

    harness.sweep(options, [options.model], one, ("top1", "seconds"))


if __name__ == "__main__":
    main()
