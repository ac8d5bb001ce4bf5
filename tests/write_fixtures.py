"""The files that tests of old versions read: ``python -m tests.write_fixtures 0.3.0`` writes those of a new version.

Weights of every kind of predictor, together with every family; a fit's weights, table and checkpoint; and
``fixtures/<version>.json``, what they said when they were written. `tests/test_old_files.py` reads them for ever; none is
ever written again. They are small: 16 pixels, 4 channels.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch

import instaaug_transforms as ia
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.predictors import ClassPredictor, GlobalPredictor, SymmetricPredictor

from .test_old_files import FIXTURES, Model, said, said_by_checkpoint, said_by_table, some_images


def transforms() -> dict[str, ia.LearnedAugment]:
    """One of every kind of predictor; between them they have every family."""
    crops = Crop(scales=(1.0, 0.5), grids=(1, 2), zooms=(0.9,), flips="centre")
    made = {
        "conv": (["crop", "rotate", "hsv"], ia.ConvPredictor(16, 4)),
        "patches": (["shear"], ia.PatchPredictor(16, 4)),
        "equivariant": (["local_colour"], ia.EquivariantPredictor(64, (8, 8, 8), (0, 0, 1))),
        "features": ([crops, "translate", "scale"], ia.FeaturesPredictor(Model(), 32)),
        "global": (["turn", "light", "blur", "erase"], GlobalPredictor()),
        "symmetric": (["rotate", "hsv"], SymmetricPredictor()),
        "class": (["mean_field_crop"], ClassPredictor(3)),
    }
    made = {name: ia.LearnedAugment(families, predictor=predictor) for name, (families, predictor) in made.items()}
    for aug in made.values():  # as after a fit: what heads say differs between images and candidates
        for parameter in aug.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return made


def main(version: str) -> None:
    if list(FIXTURES.glob(f"{version}[-.]*")):
        raise SystemExit(f"{FIXTURES} holds files of {version}; those stay as they are")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    recorded = {}
    for name, aug in transforms().items():
        aug.save(FIXTURES / f"{version}-{name}.safetensors")
        recorded[name] = said(aug.eval())
    aug, images = ia.LearnedAugment(["turn"], predictor=GlobalPredictor()), some_images(32)
    labels = Model()(images).argmax(1)
    config = ia.FitConfig(
        epochs=2, batch_size=4, table_batch_size=4, progress=False, held_out=0.25, entropy={"turn": (0.3, 0.8)}
    )
    with tempfile.TemporaryDirectory() as scratch:
        table, checkpoint = Path(scratch) / "loss-table-0of1-losses", FIXTURES / f"{version}-checkpoint.safetensors"
        ia.fit(aug, Model(), (images, labels), config=config, workdir=scratch)
        (state,) = Path(scratch).glob("fit-state-*.safetensors")
        shutil.copy(state, checkpoint)
        recorded |= {"table": said_by_table(table), "checkpoint": said_by_checkpoint(checkpoint, Path(scratch))}
        shutil.copytree(table, FIXTURES / f"{version}-table", ignore=shutil.ignore_patterns(".lock"))
    aug.save(FIXTURES / f"{version}-fitted.safetensors")
    recorded |= {"fitted": said(aug.eval())}
    (FIXTURES / f"{version}.json").write_text(json.dumps(recorded, indent=None, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
