"""torch.hub: from the checkout, and in the GitHub form from an unpacked archive, with no network."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import instaaug_transforms as ia

ROOT = Path(__file__).parent.parent


@pytest.fixture
def offline(monkeypatch):
    real = socket.socket.connect

    def local_only(self, address):
        assert not isinstance(address, tuple), "the network was touched"
        return real(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


def test_local(offline):
    aug = torch.hub.load(str(ROOT), "learned_augment", source="local")
    assert aug(torch.rand(2, 3, 64, 64)).shape == (2, 3, 64, 64) and not aug.training
    named = torch.hub.load(str(ROOT), "learned_augment", "crop_tinyimagenet", source="local", p=0.5)
    assert named.p == 0.5
    for name in ia.list_weights():  # every checkpoint has an entry point of its own
        alias, aug = torch.hub.load(str(ROOT), name, source="local"), ia.LearnedAugment.from_pretrained(name)
        pairs = zip(alias.state_dict().values(), aug.state_dict().values(), strict=True)
        assert repr(alias) == repr(aug) and all(torch.equal(a, b) for a, b in pairs)
    assert torch.hub.load(str(ROOT), "list_weights", source="local") == ia.list_weights()


SCRIPT = """
import socket, sys, torch
real = socket.socket.connect
def local_only(self, address):
    assert not isinstance(address, tuple), "network"
    return real(self, address)
socket.socket.connect = local_only
torch.hub.set_dir(sys.argv[1])
entries = torch.hub.list("someone/instaaug:main", trust_repo=True, skip_validation=True)
assert {"learned_augment", "list_weights", "crop_tinyimagenet"} <= set(entries), entries
assert "weights" in torch.hub.help("someone/instaaug:main", "learned_augment", trust_repo=True, skip_validation=True)
aug = torch.hub.load("someone/instaaug:main", "learned_augment", trust_repo=True, skip_validation=True, verbose=False)
import instaaug_transforms
assert instaaug_transforms.__file__.startswith(sys.argv[1]), instaaug_transforms.__file__
data = [torch.rand(3, 32, 32) for _ in range(4)]
class Data(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return aug(data[i])
for context in ("fork",):
    batch, = torch.utils.data.DataLoader(Data(), 4, num_workers=1, multiprocessing_context=context)
print(aug(torch.rand(2, 3, 64, 64)).shape, batch.shape)
"""


SPAWNED = """
import sys, torch
if __name__ == "__main__":
    torch.hub.set_dir(sys.argv[1])
    aug = torch.hub.load("someone/instaaug:main", "turn_photos", trust_repo=True, skip_validation=True, verbose=False)
    import instaaug_transforms as ia, tests
    assert ia.__file__.startswith(sys.argv[1]) and tests.mine
    loader = torch.utils.data.DataLoader(
        [torch.rand(3, 32, 32)] * 4, 4, num_workers=1, collate_fn=ia.collate(aug), multiprocessing_context="spawn"
    )
    print([batch.shape for batch in loader])
"""


def unpacked(folder):
    """The files that torch.hub has, where it has them."""
    target = folder / "someone_instaaug_main"
    target.mkdir()
    for name in ("hubconf.py", "instaaug_transforms", "hub"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    return target


@pytest.mark.slow
def test_spawned_workers_find_the_package(tmp_path):
    """As on macOS and Windows, where nothing but torch.hub brings it; and the user's own packages stay what they are."""
    target, own = unpacked(tmp_path), tmp_path / "own"
    for place in (target, own):
        (place / "tests").mkdir(parents=True)
        (place / "tests" / "__init__.py").write_text(f"mine = {place == own}")
    (own / "script.py").write_text(SPAWNED)
    # Without site, which would find an editable installation; its packages are on the path all the same.
    packages = os.pathsep.join(path for path in sys.path if path.endswith("-packages"))
    run = subprocess.run(
        [sys.executable, "-S", "-W", "ignore", own / "script.py", tmp_path],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": packages},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "torch.Size([4, 3, 32, 32])" in run.stdout


@pytest.mark.slow
def test_github_form_from_an_unpacked_archive(tmp_path):
    unpacked(tmp_path)
    # -S would lose the packages; an isolated folder and -P keep this checkout off the path.
    run = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", SCRIPT, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert "torch.Size([2, 3, 64, 64]) torch.Size([4, 3, 32, 32])" in run.stdout
