"""What pretrained weights that undo give on photographs, disturbed at random (simulated) and as they are: the card's figures.

`ia.recommend` compares their views with fixed ones on the 500 training photographs that photos.py keeps from φ, half of them disturbed;
every arm of its report is then tried on val/.

    python hub/recipes/undo_card.py --photos DIR --class-map DIR/classes.txt --weights turn_light_photos
"""

from cards import arms_of, table
from photographs import classifier_of, options_for, split_of, unseen

import instaaug_transforms as ia
from instaaug_transforms.engine import load


def main() -> None:
    parser = options_for(__doc__)
    parser.add_argument("--weights", default="turn_light_photos")
    parser.add_argument("--seed", type=int, default=0, help="of what the photographs to choose on suffer")
    options = parser.parse_args()
    classifier = classifier_of(options)
    aug = ia.LearnedAugment.from_pretrained(options.weights)
    nuisance = [family.name for family in aug.families]
    config = ia.FitConfig(amp=options.amp, table_batch_size=64, seed=options.seed, progress=False)
    report = ia.recommend(aug, classifier, unseen(options), config, nuisance=nuisance)
    print(f"{report}\n", flush=True)
    val = load(split_of(options, "val"), "val")
    print(f"{options.model} at {options.size} px, {options.weights}, n = {len(val)}\n")
    print(table(classifier, arms_of(report, aug, classifier), val, nuisance, options.amp))


if __name__ == "__main__":
    main()
