"""Link the images of Tiny-ImageNet's train folder into ``fit/`` (for classifiers) and ``policy/`` (for augmentations).

*policy* holds the images <wnid>_<k>.JPEG with k % 5 == 4 and k ≥ 254: 50 per class, which a classifier trained on *fit*
has never seen. What is there already stays.
"""

import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", type=Path, required=True, help="the folder that holds train/")
data = parser.parse_args().data
count = {"policy": 0, "fit": 0}
for path in (data / "train").rglob("*.JPEG"):
    k = int(path.stem.split("_")[-1])
    split = "policy" if k % 5 == 4 and k >= 254 else "fit"
    link, count[split] = data / split / path.parent.name / path.name, count[split] + 1
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(path.resolve())
print(f"{data}: {count['policy']} images in policy/, {count['fit']} in fit/")
