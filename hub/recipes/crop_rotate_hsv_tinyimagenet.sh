#!/usr/bin/env bash
# Makes crop_rotate_hsv_tinyimagenet (crops, rotation and colour, fitted together) and prints the table of its model card. DATA holds Tiny-ImageNet as
# train/<wnid>/ and val/<wnid>/, CHECKPOINT a timm resnet18 (200 classes, 64 px) trained on the *fit* images alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
python hub/recipes/tinyimagenet_splits.py --data "$DATA"
common=(--model resnet18 --checkpoint "$CHECKPOINT" --data "$DATA" --img-size 64 --amp --seed 0)
instaaug fit "${common[@]}" --split policy --transforms crop,rotate,hsv --predictor conv --entropy crop=0.4,0.5 rotate=-3,-2 hsv=-5.5,-4 --epochs 6 \
    --lr 1e-3 --weight-decay 0.05 --patience 5 --out crop_rotate_hsv_tinyimagenet.safetensors "$@"
python hub/add.py crop_rotate_hsv_tinyimagenet.safetensors crop_rotate_hsv_tinyimagenet
instaaug validate "${common[@]}" --weights crop_rotate_hsv_tinyimagenet --split val --choice-split policy --n-views 1 2 4 10
