"""Add a weights file to the checkpoints: ``python hub/add.py FILE NAME``. It is named after its sha256 and listed."""

import argparse
import hashlib
import json
from pathlib import Path

from instaaug_transforms.utils import weights
from instaaug_transforms.utils.files import replace_file

HUB = Path(__file__).parent


def main(arguments: list[str] | None = None) -> None:
    """Copy, name, list; an older file of that name goes away."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="what LearnedAugment.save wrote")
    parser.add_argument("name", help="e.g. crop_tinyimagenet")
    parsed = parser.parse_args(arguments)
    config, _ = weights.read(parsed.file)
    data = parsed.file.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    listing = HUB / "manifest.json"
    known = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else {}
    if parsed.name in known:
        (HUB / known[parsed.name]["file"]).unlink(missing_ok=True)
    file = HUB / f"{parsed.name}-{sha256[:8]}.safetensors"
    replace_file(file, data)
    families = [entry["name"] for entry in config["families"]]
    known[parsed.name] = {
        "file": file.name,
        "sha256": sha256,
        "bytes": len(data),
        "families": families,
        **config["notes"],
    }
    replace_file(listing, (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())
    print(file)


if __name__ == "__main__":
    main()
