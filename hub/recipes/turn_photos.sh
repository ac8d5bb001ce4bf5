#!/usr/bin/env bash
# Makes turn_photos and prints the table of its model card. DATA holds Tiny-ImageNet as train/<wnid>/; PHOTOS holds photographs as
# fit/<wnid>/, many/<wnid>/ and val/<wnid>/, and classes.txt, a line per class of ImageNet.
set -euo pipefail
cd "$(dirname "$0")/../.."
python hub/recipes/photos.py --data "$DATA" --photos "$PHOTOS" --families turn --images 945000 --lr 3e-3 --out turn.safetensors
python hub/recipes/split.py turn.safetensors turn_photos --families turn
python hub/add.py turn_photos.safetensors turn_photos
python hub/recipes/turn_card.py --photos "$PHOTOS" --class-map "$PHOTOS/classes.txt" --size 160
