"""Inside Kornia's own containers."""

import kornia.augmentation as K
import pytest
import torch
from kornia.geometry.transform import warp_affine
from torchvision import tv_tensors

import instaaug_transforms as ia
from instaaug_transforms.integrations.kornia import wrap

from .conftest import make_lively


@pytest.fixture
def aug():
    return make_lively(["crop", "rotate", "hsv"])


@pytest.fixture
def smooth():
    return torch.nn.functional.interpolate(torch.rand(4, 3, 5, 6), size=(40, 48), mode="bicubic").clamp(0, 1)


def sequential(aug, keys, *others, **kwargs):
    return K.AugmentationSequential(wrap(aug, **kwargs), *others, data_keys=keys)


def test_it_is_the_same_transformation(aug, smooth):
    """Its fields are AugmentParams: the transform itself, given them, gives the same images."""
    module = wrap(aug)
    out = module(smooth)
    params = ia.AugmentParams(**{name: module._params[name] for name in module._fields if name in module._params})
    assert torch.allclose(out, aug(smooth, params=params), atol=1e-6)
    torch.manual_seed(0)
    spread = [module(smooth)[0] for _ in range(3)]
    assert not torch.allclose(spread[0], spread[1]) and not torch.allclose(spread[1], spread[2])


def test_the_distribution_is_the_learned_one(aug, smooth):
    module = wrap(aug)
    angle = aug.distribution(smooth).parts["rotate"].fields["angle"]
    drawn = []
    for _ in range(300):
        module(smooth)
        drawn.append(module._params["angle"].detach())
    drawn = torch.stack(drawn)
    assert (drawn >= angle.lo - 1e-3).all() and (drawn <= angle.hi + 1e-3).all()
    middle = (angle.lo + angle.hi) / 2
    assert ((drawn.mean(0) - middle).abs() < 4 * (angle.hi - angle.lo) / (12 * 300) ** 0.5).all()


def test_masks_boxes_and_keypoints_follow_the_matrix(smooth):
    """Kornia's own warp by the module's matrix is the oracle."""
    seq = sequential(make_lively(["crop", "rotate"]), ["input", "mask", "bbox_xyxy", "keypoints", "label"])
    masks = (smooth[:, :1] > 0.5).float()
    boxes = torch.tensor([[[8.0, 6.0, 30.0, 28.0]]]).expand(4, -1, -1)
    points = torch.tensor([[[10.0, 12.0], [30.0, 20.0]]]).expand(4, -1, -1)
    out, moved, boxed, pointed, labels = seq(smooth, masks, boxes, points, torch.arange(4))
    matrix = seq.transform_matrix
    expected = warp_affine(smooth, matrix[:, :2], (40, 48), align_corners=False)
    seen = warp_affine(torch.ones_like(smooth), matrix[:, :2], (40, 48), align_corners=False) > 1 - 1e-6
    assert (out - expected).abs()[seen].max() < 1e-4
    nearest = warp_affine(masks, matrix[:, :2], (40, 48), mode="nearest", align_corners=False)
    assert (moved != nearest).float().mean() < 0.002 and set(moved.unique().tolist()) <= {0.0, 1.0}
    closed = torch.cat([points, torch.ones(4, 2, 1)], -1) @ matrix.transpose(1, 2)
    assert torch.allclose(pointed, closed[..., :2], atol=1e-3)
    assert boxed.shape == boxes.shape and not torch.allclose(boxed, boxes) and torch.equal(labels, torch.arange(4))


def test_replay(aug, smooth):
    masks = (smooth[:, :1] > 0.5).float()
    seq = sequential(aug, ["input", "mask"], K.RandomHorizontalFlip(p=0.5))
    first = seq(smooth, masks)
    params = seq._params
    other = seq(smooth, masks)
    again = seq(smooth, masks, params=params)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_inverse_of_images_masks_boxes_and_keypoints(smooth):
    """Rotations alone: what stays inside comes back."""
    seq = sequential(make_lively(["rotate"]), ["input", "mask", "bbox", "keypoints"])
    masks = (smooth[:, :1] > 0.5).float()
    corners = torch.tensor([[[[18.0, 14.0], [28.0, 14.0], [28.0, 24.0], [18.0, 24.0]]]]).expand(4, -1, -1, -1)
    points = torch.tensor([[[20.0, 18.0]]]).expand(4, -1, -1)
    out = seq(smooth, masks, corners, points)
    image, mask, _, point = seq.inverse(*out)
    inner = (slice(None), slice(None), slice(12, 28), slice(16, 32))
    assert (image - smooth)[inner].abs().mean() < 0.01 and (mask != masks)[inner].float().mean() < 0.05
    assert torch.allclose(point, points, atol=1e-3)


def test_a_crop_comes_back_to_its_place(smooth):
    seq = sequential(make_lively(["crop"]), ["input", "mask"])
    out = seq(smooth, torch.ones(4, 1, 40, 48))
    image, covered = seq.inverse(*out)
    inside = (covered > 0.5).expand(-1, 3, -1, -1)
    drawn = seq._params[0].data
    assert torch.allclose(covered.mean((1, 2, 3)), drawn["w"] * drawn["h"], atol=0.05)
    eroded = -torch.nn.functional.max_pool2d(-inside.float(), 5, 1, 2) > 0.5  # borders blend with what was cut off
    assert (image - smooth).abs()[eroded].max() < 0.06 and not image[~inside].abs().gt(0.99).any()


def test_p_and_same_on_batch(smooth):
    aug = make_lively(["rotate"])
    kept = sum(torch.equal(wrap(aug, p=0.5)(smooth[:1]), smooth[:1]) for _ in range(200))
    assert 60 < kept < 140
    module = wrap(aug, same_on_batch=True)
    out = module(torch.cat([smooth[:1], torch.rand(2, 3, 40, 48), smooth[:1]]))
    assert torch.equal(out[0], out[3]) and len(set(module._params["angle"].tolist())) == 1


def test_among_kornias_own_augmentations(aug, smooth):
    seq = K.AugmentationSequential(
        K.RandomAffine(10.0, p=1.0), wrap(aug), K.ColorJiggle(0.1, 0.1, 0.1, 0.1, p=1.0), data_keys=["input", "mask"]
    )
    out, mask = seq(smooth, torch.ones(4, 1, 40, 48))
    assert out.shape == smooth.shape and mask.shape == (4, 1, 40, 48)
    image_only = K.ImageSequential(wrap(aug), K.RandomHorizontalFlip())
    assert image_only(smooth).shape == smooth.shape
    assert K.AugmentationSequential(wrap(aug), data_keys=["input"], random_apply=1)(smooth).shape == smooth.shape


def test_output_size_and_later_crops(smooth):
    seq = sequential(
        make_lively(["crop"], output_size=(24, 20)), ["input", "mask", "keypoints"], K.CenterCrop((16, 16))
    )
    out, mask, points = seq(smooth, torch.ones(4, 1, 40, 48), torch.tensor([[[24.0, 20.0]]]).expand(4, -1, -1))
    assert out.shape == (4, 3, 16, 16) and mask.shape == (4, 1, 16, 16) and points.shape == (4, 1, 2)


def test_gradients_reach_the_predictor(smooth):
    aug = make_lively(["rotate", "hsv"])
    sequential(aug, ["input"])(smooth).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in aug.predictor.heads.parameters())


def test_autocast_leaves_the_matrix_and_the_way_back_exact():
    """In bf16 the corners of 200 pixels were two pixels off. (Kornia's own products, of boxes and points, still are.)"""
    seq, images = sequential(make_lively(["crop", "rotate"]), ["input"]), torch.rand(2, 3, 200, 240)
    out, params = seq(images), seq._params
    matrix, back = seq.transform_matrix, seq.inverse(out)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(seq(images, params=params), out)
        assert torch.equal(seq.transform_matrix, matrix) and torch.equal(seq.inverse(out), back)


def test_colour_alone_leaves_places_alone(smooth):
    seq = sequential(make_lively(["hsv"]), ["input", "mask", "keypoints"])
    masks, points = (smooth[:, :1] > 0.5).float(), torch.rand(4, 3, 2) * 40
    out, mask, moved = seq(smooth, masks, points)
    assert not torch.equal(out, smooth) and torch.equal(mask, masks) and torch.allclose(moved, points, atol=1e-5)


def test_a_single_image_keeps_its_shape(aug, smooth):
    assert wrap(aug, keepdim=True)(smooth[0]).shape == (3, 40, 48)
    assert wrap(aug)(smooth[0]).shape == (1, 3, 40, 48)


def test_errors(smooth):
    with pytest.raises(ia.InstaAugError, match="give them to KorniaAugment instead"):
        wrap(make_lively(["crop"], p=0.5))
    with pytest.raises(ia.InstaAugError, match=r"before v2.Normalize"):
        wrap(make_lively(["crop"]))(smooth * 3)
    for name in ("p", "p_batch"):
        with pytest.raises(ia.InstaAugError, match=rf"^{name}: expected a number in \[0, 1\], got 2"):
            wrap(make_lively(["crop"]), **{name: 2})
    module = wrap(make_lively(["crop"]))
    with pytest.raises(ia.InstaAugError, match="no image has been seen"):
        module.compute_transformation(smooth, module.forward_parameters(smooth.shape), {})
    with pytest.raises(ia.InstaAugError, match="expected what forward_parameters gives"):
        module(smooth, params={"batch_prob": torch.ones(4)})


def test_repr(aug):
    assert repr(wrap(aug, p=0.5)).startswith("KorniaAugment(LearnedAugment(families=[Crop(")


def test_masks_show_their_own_fill_outside():
    aug = ia.LearnedAugment(["rotate"], fill={tv_tensors.Mask: 255, "others": 0.3})
    with torch.no_grad():
        aug.predictor.heads["rotate"].out.bias.copy_(torch.tensor([-9.0, 1.0]))  # a turn of one size, far from 0
    image, mask = torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    seq = sequential(aug, ["input", "mask"])
    _, moved = seq(image, mask)
    params = ia.AugmentParams(angle=seq._params[0].data["angle"])
    _, expected = aug(image, tv_tensors.Mask(mask), params=params)  # as torchvision has it, by kind
    assert torch.equal(moved, expected.as_subclass(torch.Tensor))
    assert set(moved.unique().tolist()) == {1.0, 255.0}


def test_the_frames_of_a_clip_move_together(smooth):
    """Two clips of five frames: all get what their middle frame asks for; Kornia's own augmentations do as much."""
    aug = make_lively(["rotate"])
    clips = torch.stack([smooth[0] * torch.linspace(0.6, 1, 5)[:, None, None, None], smooth[1].expand(5, -1, -1, -1)])
    module = wrap(aug)
    K.VideoSequential(module, data_format="BTCHW", same_on_frame=True)(clips)
    angle = module._params["angle"].view(2, 5)
    assert (angle == angle[:, :1]).all() and angle[0, 0] != angle[1, 0]
    field = aug.distribution(clips[:, 2]).parts["rotate"].fields["angle"]
    assert (angle[:, 0] >= field.lo - 1e-4).all() and (angle[:, 0] <= field.hi + 1e-4).all()
    K.VideoSequential(module, data_format="BTCHW", same_on_frame=False)(clips)
    assert len(module._params["angle"].unique()) == 10
