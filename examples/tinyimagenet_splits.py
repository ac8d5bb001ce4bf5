"""Link the images of Tiny-ImageNet's train folder into ``fit/`` (for classifiers) and ``policy/`` (for augmentations).

*policy* holds the images <wnid>_<k>.JPEG with k % 5 == 4 and k ≥ 254: 50 per class, which a classifier trained on *fit*
has never seen.
"""

import argparse
from pathlib import Path

from tqdm import tqdm


def main(arguments: list[str] | None = None) -> None:
    """Make both folders beside ``train/``; what is there already stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds train/")
    data = parser.parse_args(arguments).data
    images = sorted((data / "train").rglob("*.JPEG"))
    if not images:
        parser.error(f"--data: no JPEG images in {data / 'train'}")
    for path in tqdm(images, desc="linking", unit="image", disable=None):
        k = int(path.stem.split("_")[-1])
        split = "policy" if k % 5 == 4 and k >= 254 else "fit"
        link = data / split / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())
    print(f"{data}: {len(list((data / 'policy').rglob('*.JPEG')))} images in policy/, the rest in fit/")


if __name__ == "__main__":
    main()
