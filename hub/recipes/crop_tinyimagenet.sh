#!/usr/bin/env bash
# Makes crop_tinyimagenet (crops, 30 anchors, 64 px copies) and prints the table of its model card. DATA holds Tiny-ImageNet as
# train/<wnid>/ and val/<wnid>/, CHECKPOINT a timm resnet18 (200 classes, 64 px) trained on the *fit* images alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
python hub/recipes/tinyimagenet_splits.py --data "$DATA"
common=(--model resnet18 --checkpoint "$CHECKPOINT" --data "$DATA" --img-size 64 --amp --seed 0)
instaaug fit "${common[@]}" --split policy --transforms crop --predictor conv --epochs 15 --entropy crop=0.45,0.55 crop=0.6,0.7 crop=0.75,0.85 \
    --lr 1e-3 --weight-decay 0.05 --patience 5 --out crop_tinyimagenet.safetensors "$@"
python hub/add.py crop_tinyimagenet.safetensors crop_tinyimagenet
instaaug validate "${common[@]}" --weights crop_tinyimagenet --split val --choice-split policy --n-views 1 2 4 10
