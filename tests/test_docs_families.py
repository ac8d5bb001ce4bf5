"""docs/families.md: a table of candidates is one short file, and has at once all that the page says."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import families
from instaaug_transforms.cli.__main__ import main
from instaaug_transforms.families.turn import Turn
from instaaug_transforms.tta import evaluate

pytestmark = pytest.mark.usefixtures("one_thread")

PAGE = (Path(__file__).parent.parent / "docs" / "families.md").read_text(encoding="utf-8")
FILE = re.search(r"```python\n(.*?)```", PAGE, re.S).group(1)


@pytest.fixture
def quarter(monkeypatch):
    """The page's file as a module."""
    monkeypatch.setattr(families, "_REGISTRY", dict(families._REGISTRY))
    module = types.ModuleType("quarter")
    monkeypatch.setitem(sys.modules, "quarter", module)
    exec(compile(FILE, "quarter.py", "exec"), module.__dict__)
    return module.Quarter()


def test_it_is_at_most_sixty_lines():
    assert len(FILE.splitlines()) <= 60 and "class Quarter(ia.AnchorFamily)" in FILE


@pytest.mark.parametrize("shape", [(16, 16), (10, 17)])
def test_it_turns_as_the_packages_own(quarter, shape):
    images, angles = torch.rand(4, 3, *shape), torch.arange(4) * 90.0
    ours = ia.LearnedAugment([quarter])(images, params=ia.AugmentParams(quarter_angle=angles))
    assert torch.allclose(
        ours, ia.LearnedAugment([Turn()])(images, params=ia.AugmentParams(turn_angle=angles)), atol=1e-5
    )


def test_in_python(quarter):
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 4))
    images, labels = torch.rand(12, 3, 8, 8), torch.randint(4, (12,))
    aug, table = ia.LearnedAugment([quarter]), torch.nn.functional.cross_entropy
    losses = ia.build_loss_table(classifier, (images, labels), aug, progress=False)
    expected = [table(classifier(images.rot90(k, (-2, -1))), labels, reduction="none") for k in range(4)]
    assert torch.allclose(losses, torch.stack(expected, 1), atol=1e-5)
    views, sample = aug.sample(images, n="all")
    assert torch.equal(views[12:24], images.rot90(1, (-2, -1))) and sample.n == 4
    config = ia.FitConfig(epochs=1, entropy={"quarter": (0.2, 0.4)}, progress=False)
    result = ia.fit(aug, classifier, (images, labels), config=config)
    assert any("quarter_angle" in (arm.setting or {}).get("policy", {}) for arm in result.report.arms)
    arms = evaluate(classifier, aug, (images, labels), (images, labels), [2], progress=False)
    assert {("greedy policy", 2), ("random views", 2), ("ours", 2)} <= set(arms.arms)
    assert len(ia.viz.likeliest_candidates(aug, images[:2]).axes) == 2 * 5


@pytest.mark.parametrize("name", ["fit", "show"])
def test_options_on_the_page_are_those_used_here(name):
    assert re.search(rf"^instaaug {name} .*--import quarter.py", PAGE, re.M)


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(families, "_REGISTRY", dict(families._REGISTRY))
    monkeypatch.chdir(tmp_path)
    Path("quarter.py").write_text(FILE, encoding="utf-8")
    Path("linear.py").write_text(
        "from torch import nn\ndef make(): return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 4))\n"
    )
    Path("photographs").mkdir()
    for i in range(6):
        F.to_pil_image(torch.rand(3, 40, 32)).save(f"photographs/{i}.png")
    fit = "--transforms quarter --nuisance quarter --data photographs --out quarter.safetensors --model linear.py:make"
    show = "photographs --weights quarter.safetensors --out pictures"
    try:
        assert main(f"fit --import quarter.py {fit} --img-size 32 --epochs 1 --workers 0".split()) == 0
        assert "recommended:" in capsys.readouterr().out
        assert main(f"show --import quarter.py {show}".split()) == 0
        assert Path("pictures/0-candidates.png").is_file()
    finally:
        for name in ("quarter", "linear"):
            sys.modules.pop(name, None)
