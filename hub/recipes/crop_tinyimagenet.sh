#!/usr/bin/env bash
# Makes crop_tinyimagenet and prints the table of its model card. DATA holds Tiny-ImageNet as train/<wnid>/ and
# val/<wnid>/, CHECKPOINT a timm resnet18 (200 classes, 64 px) trained on the *fit* images alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
python examples/tinyimagenet_splits.py --data "$DATA"
python examples/quickstart.py --data "$DATA" --fit-split policy --model resnet18 --checkpoint "$CHECKPOINT" \
    --image-size 64 --amp --views 1 2 4 10 --seeds 0 --out crop_tinyimagenet-out
python hub/add.py crop_tinyimagenet-out/augment-0.safetensors crop_tinyimagenet
