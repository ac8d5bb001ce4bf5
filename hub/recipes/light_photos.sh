#!/usr/bin/env bash
# Makes light_photos, from the turn_light.safetensors that turn_light_photos.sh leaves, and prints the table of its model card. PHOTOS as there.
set -euo pipefail
cd "$(dirname "$0")/../.."
python hub/recipes/prior.py --photos "$PHOTOS" --class-map "$PHOTOS/classes.txt" --weights turn_light.safetensors --families light --lit 0.5
python hub/recipes/split.py turn_light.safetensors light_photos --families light --lit 0.5
python hub/add.py light_photos.safetensors light_photos
python hub/recipes/undo_card.py --photos "$PHOTOS" --class-map "$PHOTOS/classes.txt" --weights light_photos
