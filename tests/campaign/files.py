"""Damaged and forged files: ``python -m tests.campaign.files --cases 10000 --seed 0``.

Weights, rows of a fit, its checkpoints, the manifest and classifiers' checkpoints, each changed at random. Every one must
be refused with `InstaAugError`, or be what it was before; rows may be computed again. Nothing is executed, and memory
stays bounded.
"""

import json
import logging
import pickle
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

import instaaug_transforms as ia
from instaaug_transforms.cli.held_out import pack_names, unpack_names
from instaaug_transforms.engine.rows import Rows
from instaaug_transforms.integrations.timm import load_checkpoint
from instaaug_transforms.learning.checkpoint import load_state, save_state, state_file
from instaaug_transforms.utils import weights

from .damage import ODD, Boom, damage, forge, spoil
from .tally import Tally, main, peak_memory

GROWTH = 512 * 2**20  # bytes that the process may take more than at its start
# -- the kinds of files --------------------------------------------------------------------------------------------------


class Files:
    """One good file of every kind in ``folder``, and how each is damaged and read.

    Args:
        folder: to work in.
        rng: of the changes.
        tally: of what happens.
    """

    def __init__(self, folder: Path, rng: random.Random, tally: Tally) -> None:
        self.folder, self.rng, self.tally = folder, rng, tally
        self.sentinel = folder / "executed"
        torch.manual_seed(0)
        small = ia.ConvPredictor(image_size=16, width=4)
        self.aug = ia.LearnedAugment(["crop", "rotate", "turn"], predictor=small)
        self.weights = folder / "good.safetensors"
        self.aug.save(self.weights, held_out=pack_names([f"n0/{i}.png" for i in range(20)]))
        self.config, self.tensors = weights.read(self.weights)
        self.about = {"entropy": {}, "initial_weight": 0.1, "weight_rate": 0.0}
        self.state = {"predictor": self.tensors, "kept": [self.tensors], "order": None}, {"step": 3, "history": []}
        save_state(folder, self.about, self.state[1], self.state[0])
        self.values = torch.arange(60.0).view(12, 5)
        self.rows().put(slice(0, 4), self.values[:4])
        for start in (4, 8):
            self.rows().put(slice(start, start + 4), self.values[start : start + 4])
        self.model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        torch.save(self.model.state_dict(), folder / "model.pth")
        self.kinds: list[Callable[[], None]] = [
            self.damaged_weights,
            self.forged_config,
            self.forged_tensors,
            self.other_metadata,
            self.damaged_state,
            self.damaged_rows,
            self.manifest,
            self.classifier,
            self.names,
        ]

    def rows(self, folder: str = "rows") -> Rows:
        return Rows(self.folder / folder, 12, (5,), torch.float32, 4, {"of": "this"})

    def refused(self, what: str, read: Callable[[], Any], same: Callable[[Any], bool]) -> None:
        """``read`` must raise our error, or give what is the same as before."""
        try:
            found = read()
        except ia.InstaAugError:
            self.tally.note("refused")
            return
        except Exception as error:
            self.tally.lost.append(f"{what}: {type(error).__name__}: {str(error)[:150]}")
            return
        self.tally.note("same as before")
        self.tally.expect(same(found), f"{what}: was accepted")

    # Weights ------------------------------------------------------------------------------------------------------------

    def same_transform(self, found: ia.LearnedAugment) -> bool:
        mine, given = self.aug.predictor.state_dict(), found.predictor.state_dict()
        return mine.keys() == given.keys() and all(torch.equal(mine[name], given[name]) for name in mine)

    def load(self, path: Path) -> ia.LearnedAugment:
        return ia.LearnedAugment.from_pretrained(path)

    def damaged_weights(self) -> None:
        path = self.folder / "bad.safetensors"
        path.write_bytes(damage(self.weights.read_bytes(), self.rng))
        self.refused("damaged weights", lambda: self.load(path), self.same_transform)

    def forged_config(self) -> None:
        """What is loaded may be another transform, but must be one: it gives an image."""
        path, config = self.folder / "bad.safetensors", spoil(self.config, self.rng)
        if not isinstance(config, dict):
            return
        weights.write(path, config, self.tensors)

        def works(aug: ia.LearnedAugment) -> bool:
            if aug.output_size is not None and max(aug.output_size) > 64:
                return True  # as large as it says
            out = aug(torch.rand(2, 3, 16, 16) if aug.normalization is None else torch.zeros(2, 3, 16, 16))
            if not out.isfinite().all():
                raise AssertionError(f"its images are not finite, {out.aminmax()}")
            return True

        self.refused("forged configuration", lambda: self.load(path), lambda aug: self._runs(works, aug, config))

    def _runs(self, works: Callable[[ia.LearnedAugment], bool], aug: ia.LearnedAugment, config: dict) -> bool:
        try:
            return works(aug)
        except ia.InstaAugError:
            return True
        except Exception as error:
            changed = {
                key: config.get(key) for key in {*config, *self.config} if config.get(key) != self.config.get(key)
            }
            self.tally.lost.append(f"a forged configuration loads and fails: {type(error).__name__} {error}; {changed}")
            return True

    def forged_tensors(self) -> None:
        path, forged = self.folder / "bad.safetensors", forge(self.tensors, self.rng)
        weights.write(path, self.config, forged)
        if forged.keys() == self.tensors.keys() and all(torch.equal(forged[k], self.tensors[k]) for k in forged):
            return
        self.refused("forged tensors", lambda: self.load(path), self.same_transform)

    def other_metadata(self) -> None:
        path = self.folder / "bad.safetensors"
        text = self.rng.choice(
            [
                *(json.dumps(odd) for odd in ODD),
                "[" * 100_000,
                json.dumps({**self.config, "format": self.rng.choice([0, 2, "1", None, 1.5])}),
                json.dumps({**self.config, weights.DIGEST: self.rng.choice(["", None, 3, "0" * 64])}),
                json.dumps({k: v for k, v in self.config.items() if k != "format"}),
            ]
        )
        kept = self.rng.choice([{"config": text}, {"conf": text}, None])
        path.write_bytes(save(load(self.weights.read_bytes()), metadata=kept))
        self.refused("other metadata", lambda: self.load(path), lambda _: False)

    # What a fit keeps ---------------------------------------------------------------------------------------------------

    def damaged_state(self) -> None:
        where = self.folder / "state"
        where.mkdir(exist_ok=True)
        path, good = state_file(where, self.about), state_file(self.folder, self.about)
        if self.rng.random() < 0.5:
            path.write_bytes(damage(good.read_bytes(), self.rng))
        else:
            config, tensors = weights.read(good)
            part = self.rng.choice(["structure", "about"])
            weights.write(path, {**config, part: spoil(config[part], self.rng)}, tensors)
        wanted = json.dumps(self.state[1], sort_keys=True)

        def same(found: Any) -> bool:
            if found is None:
                return False
            values, tensors = found
            return (
                isinstance(tensors, dict | list)
                and json.dumps({k: values.get(k) for k in self.state[1]}, sort_keys=True) == wanted
            )

        self.refused("damaged checkpoint of a fit", lambda: load_state(where, self.about), same)

    def damaged_rows(self) -> None:
        """Whatever happens to the files, what is read in the end are the rows, computed again where need be."""
        where = self.folder / "bad-rows"
        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(self.folder / "rows", where)
        path = where / self.rng.choice(["rows.npy", "checksums.npy", "about.json"])
        precious = self.folder / "precious"
        precious.write_bytes(b"precious")
        what = self.rng.randrange(5)
        if what == 0:
            path.unlink()
        elif what == 1:
            path.write_bytes(pickle.dumps(Boom(self.sentinel)))
        elif what == 2:
            path.unlink()
            path.symlink_to(precious)
        elif what == 3:
            np.save(
                where / "rows.npy", self.rng.choice([self.values.numpy().T, self.values.double().numpy(), np.zeros(3)])
            )
        else:
            path.write_bytes(damage(path.read_bytes(), self.rng))

        def read() -> Tensor:
            rows = self.rows("bad-rows")
            for start in (0, 4, 8):
                part = slice(start, start + 4)
                if not rows.done(part):
                    rows.put(part, self.values[part])
            return rows.tensor()

        self.refused(f"damaged {path.name}", read, lambda found: torch.equal(found, self.values))
        self.tally.expect(
            precious.read_bytes() == b"precious", f"{path.name}: a link was followed and its target changed"
        )

    # What comes with the package ------------------------------------------------------------------------------------------

    def manifest(self) -> None:
        hub = self.folder / "hub"
        hub.mkdir(exist_ok=True)
        entry = {"file": "a.safetensors", "sha256": "0" * 64, "families": ["crop"]}
        good = {"a": entry}
        path, secret = hub / "manifest.json", self.folder / "secret.safetensors"
        shutil.copy(self.weights, secret)
        (hub / "a.safetensors").unlink(missing_ok=True)
        what = self.rng.randrange(5)
        if what == 0:
            path.write_bytes(damage(json.dumps(good).encode(), self.rng))
        elif what == 1:
            path.write_text(json.dumps(spoil(good, self.rng)))
        elif what == 2:  # out of its folder
            path.write_text(
                json.dumps({"a": {**entry, "file": self.rng.choice(["../secret.safetensors", str(secret)])}})
            )
        elif what == 3:
            path.write_text(json.dumps(good))
            (hub / "a.safetensors").symlink_to(secret)
        else:
            path.unlink(missing_ok=True)
        with mock.patch.object(weights, "hub_dir", lambda: hub):
            self.refused("manifest", lambda: self.load("a"), lambda _: False)

    # Classifiers and names ------------------------------------------------------------------------------------------------

    def classifier(self) -> None:
        suffix = self.rng.choice([".pth", ".pt", ".safetensors"])
        path = self.folder / f"bad{suffix}"
        what = self.rng.randrange(4)
        if what == 0:
            path.write_bytes(pickle.dumps(Boom(self.sentinel)))
        elif what == 1:
            torch.save({"state_dict": {"0.weight": Boom(self.sentinel)}}, path)
        elif what == 2:
            torch.save(self.rng.choice([[1, 2], {"a": 1}, torch.ones(2), {}, {"0.weight": torch.ones(1)}]), path)
        else:
            path.write_bytes(damage((self.folder / "model.pth").read_bytes(), self.rng))
        other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        before = {name: value.clone() for name, value in other.state_dict().items()}

        def read() -> nn.Module:
            load_checkpoint(other, path)
            return other

        def same(found: nn.Module) -> bool:
            # torch.save's files have checksums that torch.load does not look at: numbers may be others, names may not.
            return found.state_dict().keys() == before.keys()

        self.refused("checkpoint of a classifier", read, same)

    def names(self) -> None:
        text = self.config["notes"]["held_out"]
        bad = self.rng.choice(
            [
                lambda: damage(text.encode(), self.rng).decode("latin1"),
                lambda: self.rng.choice(ODD),
                lambda: pack_names([1, 2]),
                lambda: text[: self.rng.randrange(len(text))],
            ]
        )()
        self.refused(
            "names of held-out images", lambda: unpack_names(bad), lambda found: all(isinstance(n, str) for n in found)
        )


def campaign(cases: int, seed: int) -> Tally:
    """``cases`` damaged files, the kinds in turn."""
    tally, rng = Tally(seed), random.Random(seed)
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            files = Files(Path(scratch), rng, tally)
            start = peak_memory()
            for case in range(cases):
                files.kinds[case % len(files.kinds)]()
            tally.expect(not files.sentinel.exists(), "something in a file was executed")
            tally.expect(peak_memory() - start < GROWTH, f"memory grew by {(peak_memory() - start) / 2**20:.0f} MiB")
    finally:
        logging.disable(logging.NOTSET)
    tally.cases = tally.faults = cases
    return tally


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(campaign, 10_000, __doc__))
