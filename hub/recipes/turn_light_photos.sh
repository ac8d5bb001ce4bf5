#!/usr/bin/env bash
# Makes turn_light_photos, from the turn.safetensors that turn_photos.sh leaves, and prints the table of its model card. DATA and PHOTOS as there.
set -euo pipefail
cd "$(dirname "$0")/../.."
python hub/recipes/photos.py --data "$DATA" --photos "$PHOTOS" --families turn light --images 300000 --lr 1.5e-3 \
    --init turn.safetensors --out started.safetensors
python hub/recipes/photos.py --data "$DATA" --photos "$PHOTOS" --families turn light --images 800000 --lit 0.5 \
    --init started.safetensors --out turn_light.safetensors
python hub/recipes/prior.py --photos "$PHOTOS" --class-map "$PHOTOS/classes.txt" --weights turn_light.safetensors --families turn light --lit 0.5
python hub/recipes/split.py turn_light.safetensors turn_light_photos --families turn light --lit 0.5 --prior 0.85
python hub/add.py turn_light_photos.safetensors turn_light_photos
python hub/recipes/undo_card.py --photos "$PHOTOS" --class-map "$PHOTOS/classes.txt" --weights turn_light_photos
