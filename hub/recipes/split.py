"""From what photos.py has learned of turns and light together to a file for each, and for both.

Photographs are mostly upright and mostly lit as they should be: disturbances were drawn evenly, so a prior is added to what
φ says of "nothing was done".

    python hub/recipes/split.py turn.safetensors turn_photos --families turn
    python hub/recipes/split.py turn_light.safetensors turn_light_photos --families turn light
"""

import argparse
import math
from pathlib import Path

import torch

import instaaug_transforms as ia
from instaaug_transforms.families import CandidateProduct

PRIOR = 0.75  # that a photograph is as it should be: chosen on held-out photographs by prior.py
SETTING = {"n_views": 2, "include_identity": False, "aggregate": "probability"}


@torch.no_grad()
def add_prior(aug: ia.LearnedAugment, prior: float, lit: float) -> None:
    """Make "nothing was done" as likely as ``prior`` before φ looks; photos.py drew it as often as ``lit`` says."""
    for family in aug.anchor_families:
        drawn = (1 - lit) * (family.name == "light")
        drawn += (1 - drawn) / family.n_candidates
        aug.predictor.heads[family.name].out.bias[0] += math.log(prior / (1 - prior)) - math.log(drawn / (1 - drawn))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("name")
    parser.add_argument("--families", nargs="+", required=True)
    parser.add_argument("--lit", type=float, default=1.0, help="as of photos.py (%(default)s)")
    parser.add_argument("--prior", type=float, default=PRIOR, help="(%(default)s)")
    options = parser.parse_args()
    learned = ia.LearnedAugment.from_pretrained(options.weights)
    aug = ia.LearnedAugment(options.families, predictor=ia.EquivariantPredictor())
    known = {name: tensor for name, tensor in learned.state_dict().items() if name in aug.state_dict()}
    aug.load_state_dict(known)
    with torch.no_grad():
        for family in aug.anchor_families:
            head = aug.predictor.heads[family.name]
            if not head.out.weight.any():  # turns alone are told from the summary; what is not used packs to nothing
                for unused in (head.reduce, head.local, head.context):
                    unused.weight.zero_()
    add_prior(aug, options.prior, options.lit)
    aug.recommended = {"recommended": {"arm": "ours", **SETTING}}
    columns = CandidateProduct(aug.anchor_families).n_candidates
    aug.half().save(f"{options.name}.safetensors", candidates=columns, prior=options.prior)


if __name__ == "__main__":
    main()
