import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms import augment

from .conftest import make_lively


class Photographs(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 12

    def __getitem__(self, index):
        image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index))
        return self.transform(image), index


def epoch(workers, context, seed=5, **kwargs):
    transform = v2.Compose([make_lively(["crop", "rotate", "hsv"]), v2.Normalize([0.5] * 3, [0.5] * 3)])
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        Photographs(transform), 4, num_workers=workers, multiprocessing_context=context, generator=generator, **kwargs
    )
    return torch.cat([images for images, _ in loader])


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_reproduce_bit_for_bit(context):
    first = epoch(2, context)
    assert torch.equal(epoch(2, context), first) and not first.requires_grad
    assert not torch.equal(epoch(2, context, seed=6), first)


def test_a_worker_refuses_weights_on_the_gpu(monkeypatch):
    aug = ia.LearnedAugment(["crop"])
    monkeypatch.setattr(augment, "get_worker_info", object)

    class OnGPU(torch.nn.Parameter):
        is_cuda = True

    aug.predictor.trunk[0].weight = OnGPU(aug.predictor.trunk[0].weight.data)
    with pytest.raises(ia.InstaAugError, match=r"aug.cpu\(\)"):
        aug(torch.rand(3, 16, 16))
