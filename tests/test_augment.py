import copy
import math
import pickle

import PIL.Image
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms.augment_distribution import AugmentDistribution
from instaaug_transforms.families import create

from .conftest import make_lively


def seeded(n=0):
    return torch.Generator().manual_seed(n)


def test_kinds_come_back_in_kind(lively):
    image = torch.rand(3, 40, 30)
    pil = v2.functional.to_pil_image(image)
    for given in (
        image,
        (image * 255).to(torch.uint8),
        image.bfloat16(),
        pil,
        tv_tensors.Image(image),
        tv_tensors.Video(torch.rand(4, 3, 40, 30)),
        tv_tensors.Video(torch.rand(2, 4, 3, 40, 30)),
    ):
        out = lively(given)
        assert type(out) is type(given)
        if isinstance(given, PIL.Image.Image):
            assert (out.size, out.mode) == (given.size, given.mode)
        else:
            assert out.shape == given.shape and out.dtype == given.dtype


def test_uint8_and_float_agree(lively):
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    as_float = lively(image / 255, generator=seeded())
    assert ((lively(image, generator=seeded()) / 255) - as_float).abs().max() <= 0.51 / 255


def test_labels_are_left_alone(lively, images):
    labels = torch.arange(6)
    out, same = lively(images, labels)
    assert torch.equal(same, labels) and not torch.equal(out, images)
    tree = {"label": labels, "image": tv_tensors.Image(images), "name": ["a"] * 6}
    out = lively(tree)
    assert torch.equal(out["label"], labels) and out["name"] == ["a"] * 6 and isinstance(out["image"], tv_tensors.Image)


def test_each_image_of_a_batch_gets_its_own(lively):
    same = torch.rand(1, 3, 32, 32).expand(5, -1, -1, -1)
    out = lively(same)
    assert all((out[a] - out[b]).abs().mean() > 1e-3 for a in range(5) for b in range(a))


def test_masks_boxes_and_points_move_with_the_image():
    aug = make_lively(["crop", "rotate"])
    image = torch.zeros(3, 64, 64)
    image[:, 20:28, 30:44] = 1
    sample = {
        "image": tv_tensors.Image(image),
        "mask": tv_tensors.Mask((image[0] > 0.5).to(torch.uint8)),
        "boxes": tv_tensors.BoundingBoxes([[30.0, 20.0, 44.0, 28.0]], format="XYXY", canvas_size=(64, 64)),
        "points": tv_tensors.KeyPoints([[37.0, 24.0]], canvas_size=(64, 64)),
        "labels": torch.tensor([3]),
    }
    checked = 0
    for seed in range(40):
        out = aug(sample, generator=seeded(seed))
        seen = out["image"][0] > 0.5
        assert (seen != (out["mask"] > 0)).float().mean() < 0.06
        rows, columns = seen.nonzero(as_tuple=True)
        if len(rows) == 0 or min(rows.min(), columns.min()) == 0 or max(rows.max(), columns.max()) == 63:
            continue  # the object touches the border: clipped
        checked += 1
        extent = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        assert (out["boxes"][0] - extent).abs().max() < 1.6
        centre = torch.stack([columns.float().mean(), rows.float().mean()]) + 0.5
        assert (out["points"][0] - centre).abs().max() < 0.8
        assert torch.equal(out["labels"], sample["labels"])
    assert checked >= 8


def test_parameters_made_once_serve_again(lively):
    """As those of any v2 transform do: boxes of a batch go with their images each time."""
    images = tv_tensors.Image(torch.rand(2, 3, 16, 16))
    where = {"format": "XYXY", "canvas_size": (16, 16)}
    leaves = [images, *(tv_tensors.BoundingBoxes([[1.0, 1, 9, 5]], **where) for _ in range(2))]
    made = lively.make_params(leaves)
    first, again = ([lively.transform(leaf, made) for leaf in leaves] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[1], first[2])


def test_batched_masks(lively, images):
    masks = tv_tensors.Mask((images[:, :1] > 0.5).to(torch.int64))
    _, moved = lively(tv_tensors.Image(images), masks)
    assert moved.shape == masks.shape and moved.dtype == torch.int64 and set(moved.unique().tolist()) <= {0, 1}


def test_a_clip_gets_one_transformation(lively):
    frame = torch.rand(3, 32, 32)
    out = lively(tv_tensors.Video(frame.expand(5, -1, -1, -1)))
    assert all(torch.equal(out[t], out[0]) for t in range(5))


def test_params_replay(lively, images):
    views, params = lively.views(images, 3, generator=seeded())
    for k in range(3):
        assert torch.allclose(lively(images, params=params.index(k)), views[k], atol=1e-6)
    assert torch.equal(lively(images, generator=seeded(4)), lively(images, generator=seeded(4)))
    assert not torch.equal(lively(images, generator=seeded(4)), lively(images, generator=seeded(5)))


ALONE = [  # fields by themselves, and what torchvision makes of an image then
    ("crop", {"flip": 1.0}, F.horizontal_flip),
    ("crop", {"anchor": 0}, lambda image: image),
    ("turn", {"turn": 1}, lambda image: image.rot90(1, (-2, -1))),
    ("turn", {"turn_angle": 180.0}, lambda image: image.rot90(2, (-2, -1))),
    ("hsv", {"saturation": 0.0}, lambda image: image.amax(-3, keepdim=True).expand_as(image)),
    ("hsv", {"value": 0.5}, lambda image: F.adjust_brightness(image, 0.5)),
    ("shear", {"shear_y": 0.0}, lambda image: image),
]


@pytest.mark.parametrize(("family", "fields", "made"), ALONE)
def test_fields_that_are_left_out_are_the_identity(family, fields, made, images):
    """Whichever they are, for images, PIL images, boxes and fixed views alike."""
    aug = ia.LearnedAugment([family])
    params = ia.AugmentParams(**{name: torch.full((6,), value) for name, value in fields.items()})
    expected = made(images)
    assert torch.allclose(aug(images, params=params), expected, atol=1e-5)
    assert torch.allclose(aug.apply(images, params), expected, atol=1e-5)
    picture = F.to_pil_image(images[0])
    one = F.pil_to_tensor(aug(picture, params=params.index(slice(0, 1))))
    assert (one.int() - F.pil_to_tensor(F.to_pil_image(expected[0])).int()).abs().max() <= 1
    means = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten()).eval()
    policy = {name: [value] for name, value in fields.items()}
    found = ia.TTAModel(means, aug, 1, policy=policy, aggregate="mean_logit")(images)
    assert torch.allclose(found, means(expected), atol=1e-5)


def test_a_box_is_mirrored_by_its_flip_alone():
    box = tv_tensors.BoundingBoxes([[2, 4, 10, 12]], format="XYXY", canvas_size=(32, 32))
    image = tv_tensors.Image(torch.rand(3, 32, 32))
    _, moved = ia.LearnedAugment(["crop"])(image, box, params=ia.AugmentParams(flip=torch.ones(1)))
    assert moved.tolist() == F.horizontal_flip(box).tolist()


def test_views_of_a_single_image(lively, images):
    for given in (images[0], (images[0] * 255).to(torch.uint8), tv_tensors.Image(images[0])):
        views, params = lively.views(given, 3)
        assert views.shape == (3, 1, 3, 32, 32) and views.dtype == given.dtype and params.batch_shape == (3, 1)


def test_generator_leaves_the_global_state_alone(lively, images):
    before = torch.get_rng_state()
    lively(images, generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_global_seed_reproduces(lively, images):
    torch.manual_seed(7)
    first = lively(images)
    torch.manual_seed(7)
    assert torch.equal(lively(images), first)


def test_p(images):
    aug = make_lively(["rotate"], p=0.0)
    assert torch.equal(aug(images), images)
    aug.p = 0.5
    changed = [not torch.equal(aug(images[:1], generator=seeded(k)), images[:1]) for k in range(200)]
    assert 0.4 < sum(changed) / 200 < 0.6


def test_same_on_batch():
    aug = make_lively(["crop", "rotate", "hsv"], same_on_batch=True)
    image = torch.rand(1, 3, 32, 32)
    out = aug(torch.cat([image, torch.rand(2, 3, 32, 32), image]))
    assert torch.equal(out[0], out[3])


def test_normalization_is_undone_and_redone(lively, images):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalize = v2.Normalize(mean, std)
    aug = copy.deepcopy(lively)
    plain = normalize(aug(images, generator=seeded()))
    aug.normalization = ia.functional.inputs.Normalization(mean, std)
    assert torch.allclose(aug(normalize(images), generator=seeded()), plain, atol=1e-4)


def test_output_size(images):
    aug = make_lively(["crop", "rotate"], output_size=(20, 24))
    assert aug(images).shape == (6, 3, 20, 24)
    assert aug.views(images, 2)[0].shape == (2, 6, 3, 20, 24)
    assert aug(v2.functional.to_pil_image(images[0])).size == (24, 20)
    assert make_lively(["hsv"], output_size=8)(images).shape == (6, 3, 8, 8)


def test_modes_change_nothing_but_the_predictor(lively, images):
    lively.eval()
    assert not torch.equal(lively(images), lively(images))
    lively.train()
    assert not torch.equal(lively(images), lively(images))


def test_selections(lively, images):
    top, params = lively.views(images, 4, "top")
    assert torch.equal(lively.views(images, 4, "top")[0], top)
    p = lively.distribution(images).parts["crop"].categorical.log_prob(params.anchor)
    assert (p[:-1] >= p[1:]).all()
    _, spread = lively.views(images, 200, "stratified", seeded())
    part = lively.distribution(images).parts["crop"]
    counts = torch.stack([(spread.anchor == a).sum(0) for a in range(30)], 1)
    # A systematic sample: never more than one off the expected count.
    assert ((counts.cumsum(1) - 200 * part.categorical.probs.cumsum(1)).abs() <= 1.01).all()
    torch.manual_seed(0)
    (_, first), (_, second) = (lively.views(images, 4, "stratified") for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(lively.views(images, 4, "stratified")[1].angle, first.angle)  # the global generator's
    assert not torch.equal(first.angle, second.angle)
    with pytest.raises(ia.InstaAugError, match="expected one of sample, top, stratified, got 'best'"):
        lively.views(images, 2, "best")


def test_distribution_is_a_torch_distribution(lively, images):
    d = lively.distribution(images)
    assert isinstance(d, torch.distributions.Distribution) and d.batch_shape == (6,)
    params = d.sample((5,), seeded())
    assert params.batch_shape == (5, 6) and not params.angle.requires_grad
    assert d.log_prob(params).shape == (5, 6) and d.entropy().shape == (6,)
    assert d.rsample().angle.requires_grad and not d.has_rsample
    total = sum(d.entropies().values())
    assert torch.allclose(total, d.entropy())
    assert d.log_prob(d.mode).isfinite().all()
    assert torch.allclose(lively(images, params=d.identity()), images, atol=1e-5)


def test_information_of_known_tables():
    """Images that each have a candidate of their own: log of how many; one table for all: none; halves: log 2."""
    families = ia.families.create(["turn", "rotate"])

    def information(likeliest, rotate=torch.zeros(4, 2)):
        raw = torch.full((4, 4), -60.0)
        raw[torch.arange(4), likeliest] = 60.0
        return AugmentDistribution(families, {"turn": raw, "rotate": rotate}).information()

    assert list(information([0, 1, 2, 3])) == ["turn"]
    for likeliest, distinct in (([0, 1, 2, 3], 4), ([2, 2, 2, 2], 1), ([3, 1, 1, 3], 2)):
        assert information(likeliest)["turn"].item() == pytest.approx(math.log(distinct), abs=1e-5)


def test_near_identity_before_a_fit():
    smooth = torch.nn.functional.interpolate(torch.rand(256, 3, 4, 4), size=(32, 32), mode="bicubic").clamp(0, 1)
    aug = ia.LearnedAugment(["crop", "rotate", "hsv"])
    change = (aug(smooth) - smooth).abs().mean((1, 2, 3))
    assert change.median() < 0.04


def test_in_a_compose(lively):
    pipeline = v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), lively, v2.Normalize([0.5] * 3, [0.5] * 3)]
    )
    out = pipeline(PIL.Image.new("RGB", (20, 30), "red"))
    assert out.shape == (3, 30, 20)
    nested = v2.Compose([v2.RandomApply([lively], p=1.0), v2.RandomChoice([lively, v2.RandomHorizontalFlip()])])
    assert nested(torch.rand(3, 16, 16)).shape == (3, 16, 16)


def test_in_a_training_loop(lively, images):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4))
    loss = torch.nn.functional.cross_entropy(model(lively(images)), torch.zeros(6, dtype=torch.long))
    loss.backward()
    assert model[1].weight.grad.abs().sum() > 0 and lively.predictor.heads["rotate"].out.weight.grad.abs().sum() > 0


def test_copies(lively, images):
    for other in (copy.deepcopy(lively), pickle.loads(pickle.dumps(lively))):
        assert torch.equal(other(images, generator=seeded()), lively(images, generator=seeded()))


def test_repr_reads_like_torchvision():
    assert repr(ia.LearnedAugment(["rotate"], p=0.5)) == (
        "LearnedAugment(families=[Rotate(bounds=(-180.0, 180.0))], p=0.5)"
    )


def test_save_and_load(lively, images, tmp_path):
    lively.normalization = ia.functional.inputs.Normalization((0.5,) * 3, (0.5,) * 3)
    lively.p = 0.7
    lively.save(tmp_path / "a.safetensors", note="mine")
    again = ia.LearnedAugment.from_pretrained(tmp_path / "a.safetensors")
    normalized = (images - 0.5) / 0.5
    assert torch.equal(again(normalized, generator=seeded()), lively(normalized, generator=seeded()))
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    assert ia.LearnedAugment.from_pretrained(tmp_path / "a.safetensors", p=1.0).p == 1.0
    lively.save(tmp_path / "b.safetensors", note="mine")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"p": 1.5}, r"p: expected a number in \[0, 1\]"),
        ({"p": "0.5"}, r"p: expected a number in \[0, 1\], got '0.5'"),
        ({"fill": 300}, "fill"),
        ({"families": None}, "families: expected names or Family objects, got NoneType"),
        ({"output_size": (0, 4)}, "output_size"),
        ({"output_size": True}, "output_size: expected .* whole pixels .* got True"),
        ({"output_size": (True, 3)}, "output_size: expected"),
        ({"output_size": torch.zeros(1, 3, 8, 8)}, r"got a tensor \(1, 3, 8, 8\); of images give images.shape\[-2:\]"),
        ({"output_size": 32.0}, r"output_size: expected \(height, width\), whole pixels ≥ 1, or one side, got 32.0"),
        ({"output_size": (32.0, 32)}, "output_size: expected"),
        ({"families": ["hsv"], "in_channels": 1}, r"'hsv' is defined on \(3,\) channels, got 1"),
        ({"normalization": ((0.5,), (0.0,))}, "std > 0"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ia.InstaAugError, match=message):
        ia.LearnedAugment(**kwargs)


@pytest.mark.parametrize("families", [["crop"], ["turn", "light"], ["rotate"]])
def test_no_transform_is_made_without_numbers(families):
    """Some ended in an error of PyTorch's, others had candidates that no weights bring back."""
    made = [create([name])[0] for name in families]
    message = r"torch.device\('meta'\): transforms and families cannot be made .* make them with torch.device\('cpu'\)"
    with torch.device("meta"):
        for make in (lambda: ia.LearnedAugment(families), lambda: ia.LearnedAugment(made), lambda: create(families)):
            with pytest.raises(ia.InstaAugError, match=message):
                make()
        with torch.device("cpu"):
            aug = ia.LearnedAugment(families)
    own = ia.LearnedAugment(families)
    aug.load_state_dict(own.state_dict(), assign=True)
    images, seeds = torch.rand(2, 3, 16, 16), [torch.Generator().manual_seed(0) for _ in range(2)]
    assert torch.equal(aug(images, generator=seeds[0]), own(images, generator=seeds[1]))
