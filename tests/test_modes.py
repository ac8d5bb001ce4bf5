import re

import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.engine import Nuisance
from instaaug_transforms.measure import crop_statistics
from instaaug_transforms.tta import arms
from instaaug_transforms.utils.modes import evaluating, frozen


@pytest.mark.parametrize("fails", [False, True])
def test_evaluating_gives_every_module_its_own_mode_back(fails):
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(), nn.Linear(3, 3))).train()
    net[1][0].eval()
    modes = [module.training for module in net.modules()]
    try:
        with evaluating(net) as inside:
            assert inside is net and not any(module.training for module in net.modules())
            net[1].train()
            x = torch.rand(2, 3, requires_grad=True)
            net(x).sum().backward()
            if fails:
                raise KeyError("inside")
    except KeyError:
        pass
    assert modes == [module.training for module in net.modules()]
    assert net[1][1].weight.grad is not None  # unlike `frozen`, it leaves the parameters alone


def test_a_lazy_model_is_named_until_it_has_its_weights():
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with (
        pytest.raises(ia.InstaAugError, match=re.escape("'1.weight' has no size yet; call it on one batch")),
        frozen(net),
    ):
        pass
    net(torch.rand(2, 3, 4, 4))
    with frozen(net):
        assert not any(weight.requires_grad for weight in net.parameters())


def _fit():
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)).eval()
    config = ia.FitConfig(epochs=1, entropy_weights=(0.1,), progress=False)
    ia.fit(ia.LearnedAugment(["turn"]), classifier, torch.rand(12, 3, 8, 8), nuisance=["turn"], config=config)


@pytest.mark.parametrize(
    "work",
    [
        _fit,
        lambda: Nuisance(nn.Identity(), 1.0)(torch.rand(2, 3, 8, 8), torch.arange(2)),
        lambda: arms.auto_augment(2)(torch.rand(2, 3, 8, 8), torch.Generator()),
        lambda: crop_statistics(n=2),
    ],
)
def test_what_is_seeded_on_the_cpu_leaves_the_generators_of_accelerators_alone(work, monkeypatch):
    """`torch.manual_seed` seeds them all, and what forks the generator of the CPU does not put them back."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    work()
    assert not seeded
