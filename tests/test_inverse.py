"""Views and back again, and segmentation by the mean over views."""

import pytest
import torch
from kornia.geometry.transform import warp_affine
from torch import nn
from torchvision import tv_tensors
from torchvision.models.segmentation import FCN, lraspp_mobilenet_v3_large
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms import functional
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.families.erase import Erase
from instaaug_transforms.families.scale import Scale
from instaaug_transforms.functional.targets import perspective_coefficients, pixel_matrix
from instaaug_transforms.tta.inverse import affine_inverse

from .conftest import make_lively

GEOMETRY = ["crop", "rotate", "translate", "scale", "shear"]


def seeded(n=0):
    return torch.Generator().manual_seed(n)


@pytest.fixture
def smooth():
    return F.resize(torch.rand(5, 3, 5, 6), [40, 52]).clamp(0, 1)


def test_maps_agree_with_torchvisions_inverse_perspective(smooth):
    """Where the way back shrinks a view along one of its axes, it is that of torchvision's antialiased copy, by Kornia."""
    aug, shrunk = make_lively(GEOMETRY), 0
    params = aug.distribution(smooth).sample((4,), seeded())
    back, seen = ia.invert_maps(aug, smooth.expand(4, -1, -1, -1, -1), params, (40, 52))
    matrix = torch.linalg.inv(functional.geometry_matrix(aug.families, params.flatten(), 40, 52))
    assert seen.shape == (4, 5, 1, 40, 52)
    for b, (image, found, share) in enumerate(
        zip(smooth.repeat(4, 1, 1, 1), *(x.flatten(0, 1) for x in (back, seen)), strict=True)
    ):
        whole = (share > 1 - 1e-6).expand(3, -1, -1)
        onto = pixel_matrix(matrix[b], (40, 52), (40, 52))  # view to canvas
        size = [min(n, round(2**0.5 * n * onto[:2, axis].norm().item())) for n, axis in ((40, 1), (52, 0))]
        if size == [40, 52]:
            coefficients = perspective_coefficients(matrix[b], (40, 52), (40, 52))
            expected = F.perspective(image, None, None, coefficients=coefficients, fill=0)
        else:
            shrunk += 1
            from_copy = onto[:2] @ torch.diag(torch.tensor([52 / size[1], 40 / size[0], 1.0], dtype=torch.float64))
            from_copy[:, 2] += from_copy[:, :2].sum(1) / 2 - 0.5  # Kornia's pixel centres are whole numbers
            copy = F.resize(image, size, antialias=True)
            expected = warp_affine(copy[None], from_copy[None].float(), (40, 52), align_corners=False)[0]
        assert (found - expected).abs()[whole].max() < 1e-4
    assert 5 <= shrunk < 20


@pytest.mark.parametrize("size", [(40, 52), (20, 26), (57, 33)])
def test_a_crops_share_of_the_canvas_is_its_box(smooth, size):
    """Views of any resolution: the seen part is the box, what is in it is what the image shows there."""
    aug = make_lively(["crop"], output_size=size)
    views, params = aug.views(smooth, 4, generator=seeded(1))
    back, seen = ia.invert_maps(aug, views, params, (40, 52))
    assert back.shape == (4, 5, 3, 40, 52) and seen.shape == (4, 5, 1, 40, 52)
    assert torch.allclose(seen.mean((2, 3, 4)), params.w * params.h, atol=0.05)
    whole = (seen > 1 - 1e-6).expand(-1, -1, 3, -1, -1)
    assert (back - smooth).abs()[whole].max() < (0.05 if size == (40, 52) else 0.2)
    assert not back[(seen == 0).expand(-1, -1, 3, -1, -1)].any()


def test_labels_come_back_as_labels():
    aug = make_lively(["rotate"])
    labels = torch.randint(0, 7, (2, 1, 9, 9)).repeat_interleave(5, 2).repeat_interleave(5, 3)
    images = labels.expand(-1, 3, -1, -1) / 7
    params = aug.distribution(images).sample((), seeded())
    _, moved = aug(images, tv_tensors.Mask(labels), params=params)
    back, seen = ia.invert_maps(aug, moved, params, (45, 45), mode="nearest")
    assert back.dtype == torch.int64 and set(seen.unique().tolist()) <= {0.0, 1.0}
    inner = (slice(None), slice(None), slice(10, 35), slice(10, 35))
    assert (back == labels)[inner].float().mean() > 0.85


def test_whole_numbers_come_back_to_the_nearest_and_labels_to_the_bit():
    """Maps that are the same everywhere stay so wherever they are seen; a point of a half-size crop lies at its half."""
    aug, images = make_lively(["crop", "rotate"]), torch.rand(3, 3, 20, 28)
    params = aug.distribution(images).sample((4,), seeded())
    grey, label = torch.full((4, 3, 1, 20, 28), 200, dtype=torch.uint8), 2**24 + 1
    back, seen = ia.invert_maps(aug, grey, params, (20, 28))
    assert set(back[seen > 1 - 1e-6].tolist()) == {200}
    back, seen = ia.invert_maps(aug, grey.long() * 0 + label, params, (20, 28), mode="nearest")
    assert set(back[seen == 1].tolist()) == {label} and set(back[seen == 0].tolist()) <= {0}
    box = {"cx": 0.25, "cy": 0.25, "w": 0.5, "h": 0.5}
    half = ia.AugmentParams(**{name: torch.tensor([value]) for name, value in box.items()})
    points = torch.randint(20, (1, 500, 2))
    assert ((ia.invert_points(aug, points, half, (20, 28)) - points / 2).abs() <= 0.5).all()
    odd = points * 0 + torch.tensor([9, 15])  # 4.5 and 7.5: halves go to the even number, as `Tensor.round`
    assert (ia.invert_points(aug, odd, half, (20, 28)) == torch.tensor([4, 8])).all()


@pytest.mark.parametrize("size", [None, (24, 30)])
def test_points_there_and_back(smooth, size):
    aug = make_lively(GEOMETRY, output_size=size)
    points = tv_tensors.KeyPoints(torch.rand(7, 2) * 40, canvas_size=(40, 52))
    for b in range(5):
        image = tv_tensors.Image(smooth[b])
        params = aug.distribution(image).sample((), seeded(b))
        _, moved = aug(image, points, params=params)
        back = ia.invert_points(aug, moved, params, (40, 52))
        assert isinstance(back, tv_tensors.KeyPoints) and back.canvas_size == (40, 52)
        assert torch.allclose(back.as_subclass(torch.Tensor), points.as_subclass(torch.Tensor), atol=1e-2)
    params = aug.distribution(smooth).sample((3,), seeded(9))
    many = ia.invert_points(aug, torch.rand(3, 5, 2, 2, 2), params, (40, 52))
    one = ia.invert_points(aug, torch.zeros(1, 4, 2), params.index(1).index(slice(2, 3)), (40, 52))
    assert many.shape == (3, 5, 2, 2, 2) and one.shape == (1, 4, 2)


def test_maps_are_inverted_as_torch_does_and_a_box_without_width_showed_nothing(smooth):
    matrix = torch.cat([torch.randn(50, 2, 3), torch.tensor([[[0.0, 0, 1]]]).expand(50, 1, 3)], 1)
    exact = torch.linalg.inv(matrix.double())
    assert ((affine_inverse(matrix) - exact).abs().amax((1, 2)) < 1e-5 * exact.abs().amax((1, 2))).all()
    line = ia.AugmentParams(
        cx=torch.full((5,), 0.5), cy=torch.full((5,), 0.5), w=torch.zeros(5), h=torch.full((5,), 0.5)
    )
    assert not any(part.any() for part in ia.invert_maps(ia.LearnedAugment(["crop"]), smooth, line, (40, 52)))


def test_corners_of_a_crop_in_closed_form():
    aug = ia.LearnedAugment(["crop"])
    box = {"cx": 0.5, "cy": 0.25, "w": 0.5, "h": 0.5}
    params = ia.AugmentParams(**{k: torch.tensor([v]) for k, v in box.items()})
    corners = torch.tensor([[[0.0, 0.0], [80.0, 40.0]]])
    back = ia.invert_points(aug, corners, params, (40, 80))
    assert torch.allclose(back, torch.tensor([[[20.0, 0.0], [60.0, 20.0]]]), atol=1e-4)


class Pixelwise(nn.Module):
    """A segmentation that depends on a pixel alone: views change nothing of it but the resampling."""

    def forward(self, x):
        return 8 * torch.cat([x, 1 - x], 1)


@pytest.mark.parametrize("select", ["top", "sample", "stratified"])
def test_a_pixelwise_model_gives_the_same_with_views(smooth, select):
    aug, model = make_lively(GEOMETRY), Pixelwise()
    tta = ia.SegmentationTTA(model, aug, n_views=6, select=select)
    out = tta(smooth, generator=seeded())
    plain = model(smooth).log_softmax(1)
    assert out.shape == plain.shape and torch.allclose(out.exp().sum(1), torch.ones(5, 40, 52), atol=1e-4)
    assert (out.exp() - plain.exp()).abs().mean() < 0.01


def test_one_view_is_the_model(smooth):
    model = Pixelwise()
    out = ia.SegmentationTTA(model, make_lively(["crop"]), n_views=1)(smooth)
    assert torch.allclose(out, model(smooth).log_softmax(1), atol=1e-4)


def test_it_is_the_mean_over_views_that_show_a_pixel(smooth):
    """Written out view by view, with a model that is different everywhere."""
    torch.manual_seed(0)
    model, aug = nn.Conv2d(3, 4, 5, padding=2), make_lively(["crop", "rotate"])
    tta = ia.SegmentationTTA(model, aug, n_views=3)
    params = ia.tta.choose_views(aug.distribution(smooth), 3)
    total = weight = 0
    for k in range(3):
        probs = model(aug(smooth, params=params.index(k))).softmax(1)
        shown = aug(torch.ones_like(smooth), params=params.index(k))[
            :, :1
        ]  # what of a pixel is not fill, which is black
        back, _ = ia.invert_maps(aug, probs * shown, params.index(k), (40, 52))
        seen, _ = ia.invert_maps(aug, shown, params.index(k), (40, 52))
        total, weight = total + back, weight + seen
    assert torch.allclose(tta(smooth).exp(), total / weight, atol=1e-5) and not tta(smooth).requires_grad
    assert torch.allclose(ia.SegmentationTTA(model, aug, n_views=3, chunk_size=3)(smooth), tta(smooth), atol=1e-5)


class SaysFill(nn.Module):
    """Sure of class 1 where a pixel is white, which no image is."""

    def forward(self, x):
        white = (x.mean(1, keepdim=True) > 0.9).float() * 60 - 30
        return torch.cat([-white, white], 1)


ERASE = Erase(value=1.0)


@pytest.mark.parametrize(
    "families",
    [
        ["translate"],
        ["rotate"],
        [Scale((0.5, 1.05))],
        ["shear"],
        ["turn"],
        GEOMETRY,
        [ERASE],
        ["crop", "rotate", ERASE],
    ],
)
def test_no_pixel_of_fill_has_a_vote_nor_one_that_is_erased(smooth, families):
    """At the border of an image it had up to four votes in ten: half a pixel of fill is blended in on the way back."""
    aug = make_lively(families, fill=1.0, interpolation="nearest")
    found = ia.SegmentationTTA(SaysFill(), aug, n_views=6, select="sample")(smooth / 2, generator=seeded())
    assert found.exp()[:, 1].max() < 1e-6
    views, _ = aug.views(smooth / 2, 6, generator=seeded())
    assert (views == 1).float().mean() > 0.02  # of which there is enough


def test_what_a_shifted_view_did_not_show_is_answered_by_the_others():
    """In closed form: the view lies seven pixels to the right, so that it shows all but the last seven columns."""
    aug, images = ia.LearnedAugment(["translate"], fill=1.0), torch.rand(2, 3, 20, 28)
    tta = ia.SegmentationTTA(model := nn.Conv2d(3, 4, 3, padding=1), aug, n_views=2)
    plain = model(images).softmax(1)
    shift = ia.AugmentParams(shift_x=torch.tensor([[0.0] * 2, [0.25] * 2]), shift_y=torch.zeros(2, 2))
    tta.choose = lambda distribution, generator: shift
    moved = torch.ones_like(images)
    moved[..., 7:] = images[..., :-7]
    answer = model(moved).softmax(1)[..., 7:]
    expected = torch.cat([(plain[..., :-7] + answer) / 2, plain[..., -7:]], -1)
    assert torch.allclose(tta(images).exp(), expected, atol=1e-5)


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_fixed_views_are_turned_and_turned_back_as_torchvision_does(angle):
    """Of images that are not square, a quarter turn shows the middle, and the image itself answers for the rest."""
    aug, images = make_lively(["turn", "hsv"]), torch.rand(2, 3, 20, 28)
    model = nn.Conv2d(3, 4, 3, padding=1)
    found = ia.SegmentationTTA(model, aug, n_views=2, policy={"turn_angle": [0, angle]})(images)
    whole, answer, shown = (
        model(images).softmax(1),
        F.rotate(model(F.rotate(images, angle)).softmax(1), -angle),
        F.rotate(F.rotate(torch.ones(2, 1, 20, 28), angle), -angle),
    )
    assert torch.allclose(found.exp(), (whole + answer * shown) / (1 + shown), atol=1e-5)
    assert shown.mean() == (1 if angle == 180 else 20 / 28)


def test_fixed_views_may_be_mirrored_beside_a_transform_that_cannot(smooth):
    model = nn.Conv2d(3, 4, 3, padding=1)
    tta = ia.SegmentationTTA(model, make_lively(["rotate"]), n_views=2, policy={"flip": [0, 1]})
    expected = (model(smooth).softmax(1) + F.hflip(model(F.hflip(smooth)).softmax(1))) / 2
    assert torch.allclose(tta(smooth).exp(), expected, atol=1e-5)
    with pytest.raises(ia.InstaAugError, match=r"policy: one of its views must be the image itself.*\{'flip': 0.0\}"):
        ia.SegmentationTTA(model, make_lively(["rotate"]), n_views=2, policy={"flip": [1, 1]})
    with pytest.raises(
        ia.InstaAugError, match=r"policy: expected 4 numbers for each of some fields of anchor, angle, cx"
    ):
        ia.SegmentationTTA(model, make_lively(["rotate"]), policy={"flip": [0, 1]})


def test_a_torchvision_segmentation_model(smooth):
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4).eval()
    tta = ia.SegmentationTTA(model, make_lively(["crop"]), n_views=2)
    assert tta(smooth[:2]).shape == (2, 4, 40, 52)
    with pytest.raises(ia.InstaAugError, match=r"training mode.*model.eval\(\)"):
        tta.train()(smooth[:2])


class InDictionary(nn.Module):
    """Maps of half the size under the key of torchvision's models."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x):
        return {"out": self.layer(x)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_no_images_and_weights_of_any_precision(smooth, dtype):
    """No images have maps of the shape that images have; models of other types get views in theirs."""
    model = InDictionary().to(dtype).eval()
    tta = ia.SegmentationTTA(model, make_lively(["crop"]), n_views=1)
    assert tta(smooth[:0]).shape == (0, 4, 40, 52)
    plain = F.resize(model(smooth.to(dtype))["out"].float(), [40, 52], antialias=False).softmax(1)
    assert (tta(smooth).exp() - plain).abs().max() < (0.02 if dtype == torch.bfloat16 else 1e-5)


def test_coarse_logits_are_enlarged_before_the_softmax():
    """As torchvision's models do: probabilities of few pixels, enlarged, move edges to the side of the surer class."""
    torch.manual_seed(0)
    coarse, images = InDictionary(), torch.rand(3, 3, 32, 36)
    nn.init.normal_(coarse.layer.weight)
    full = FCN(coarse, nn.Identity()).eval()
    flips = ia.LearnedAugment([Crop(scales=(1,), grids=(1,), flips=True)])
    found = ia.SegmentationTTA(coarse, flips, n_views=2)(images).exp()
    with torch.no_grad():
        whole = [full(images)["out"].softmax(1), F.hflip(full(F.hflip(images))["out"].softmax(1))]
    assert torch.allclose(found, sum(whole) / 2, atol=1e-5)


def test_a_segmentation_model_that_takes_no_bytes_says_so(smooth):
    tta = ia.SegmentationTTA(nn.Conv2d(3, 4, 1), make_lively(["crop"]))
    with pytest.raises(ia.InstaAugError, match=r"images: the classifier gets them as they are given.*images / 255"):
        tta((smooth * 255).byte())


@pytest.mark.parametrize("angle", [90.0, 180.0, 270.0])
def test_back_from_a_quarter_turn_that_swapped_the_sides_of_one_image(angle):
    aug, image = ia.LearnedAugment(["turn"]), tv_tensors.Image(torch.rand(3, 40, 52))
    points = tv_tensors.KeyPoints(torch.rand(7, 2) * 40, canvas_size=(40, 52))
    params = ia.AugmentParams(turn_angle=torch.tensor([angle]))
    view, moved = aug(image, points, params=params)
    turned = F.rotate(points, angle, expand=True)
    assert view.shape == (3, *turned.canvas_size) and torch.allclose(moved.data, turned.data, atol=1e-3)
    assert torch.allclose(ia.invert_points(aug, moved, params, (40, 52)).data, points.data, atol=1e-3)
    back, seen = ia.invert_maps(aug, view[None].as_subclass(torch.Tensor), params, (40, 52))
    assert seen.min() == 1 and torch.allclose(back[0], image.data, atol=1e-5)
    again = params.map(lambda field: field.repeat(2))  # images of a batch keep their canvas
    corners = F.rotate(tv_tensors.KeyPoints([[16.0, 10.0]], canvas_size=(40, 52)), angle).data.expand(2, 1, 2)
    assert torch.allclose(ia.invert_points(aug, corners, again, (40, 52)), torch.tensor([[[16.0, 10]]] * 2), atol=1e-3)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"n_views": 0}, "n_views"), ({"select": "best"}, "select"), ({"range_fraction": 0.0}, "range_fraction")],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ia.InstaAugError, match=message):
        ia.SegmentationTTA(Pixelwise(), make_lively(["crop"]), **kwargs)


def test_views_by_hand_are_ttachs_d4():
    """Quarter turns and mirror images of square images, there and back, without anything learned."""
    aug = ia.LearnedAugment(["crop", "rotate"])
    images = torch.rand(2, 3, 24, 24)
    whole = {name: torch.full((2,), float(value)) for name, value in (("cx", 0.5), ("cy", 0.5), ("w", 1), ("h", 1))}
    for flip in (0.0, 1.0):
        for quarter in range(4):
            turn = {"flip": torch.full((2,), flip), "angle": torch.full((2,), 90.0 * quarter)}
            params = ia.AugmentParams(**whole, **turn)
            view = aug(images, params=params)
            expected = (images.flip(-1) if flip else images).rot90(quarter, (-2, -1))
            assert torch.allclose(view, expected, atol=1e-4)
            back, seen = ia.invert_maps(aug, view, params, (24, 24))
            assert torch.allclose(back[..., 1:-1, 1:-1], images[..., 1:-1, 1:-1], atol=1e-4)
            assert (seen[..., 1:-1, 1:-1] > 1 - 1e-4).all()
