"""From features to raw outputs: heads in NumPy, and what weights files hold of them."""

import numpy as np
import pytest
import scipy.special
import torch

from instaaug_transforms.families.base import Features, FeatureSpec
from instaaug_transforms.families.crop import Crop
from instaaug_transforms.families.hsv import HSV

from .test_families_tables import Table

SPEC = FeatureSpec(6, (3, 4), 5)


def features(n=7):
    return Features(torch.randn(n, 6, 3, 4), torch.randn(n, 5))


def heads():
    crop, small = Crop(), Crop(scales=(1.0, 0.5), grids=(1, 2), flips=True)
    return {"anchors": Table(3), "boxes": crop, "mirrored": small, "ranges": HSV()}


def perturbed(family):
    """A head as after a fit."""
    head = family.head(SPEC)
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return head


def gelu(x):
    return x * (1 + scipy.special.erf(x / np.sqrt(2))) / 2


@pytest.mark.parametrize("name", heads())
def test_heads_in_numpy(name):
    """What weights files mean: weights of the last layer count three times."""
    family, given = heads()[name], features()
    head = perturbed(family)
    w = {key: value.detach().double().numpy() for key, value in head.state_dict(keep_vars=True).items()}
    maps, vector = (part.double().numpy() for part in given)
    if name == "ranges":
        hidden = np.maximum(vector @ w["hidden.weight"].T + w["hidden.bias"], 0)
        expected = 3 * hidden @ w["out.weight"].T + w["out.bias"]
    elif name == "anchors":
        reduced = gelu(
            np.einsum("oc,bchw->bohw", w["reduce.weight"][:, :, 0, 0], maps) + w["reduce.bias"][:, None, None]
        )
        hidden = gelu(reduced.reshape(7, -1) @ w["local.weight"].T + w["local.bias"] + vector @ w["context.weight"].T)
        expected = 3 * hidden @ w["out.weight"].T + w["out.bias"] + vector @ w["direct.weight"].T
    else:
        windows, anchors = head.windows.double().numpy(), family.anchors.numpy()
        sides = list(family.scales)
        expected = np.zeros((7, len(anchors)))
        plain = [row for row in range(len(anchors)) if anchors[row, 4] == 0]
        for a, (*box, flip) in enumerate(anchors):
            place = next(i for i in plain if np.array_equal(anchors[i, :4], box))
            scale = np.argmin(np.abs(np.array(sides) - box[2]))
            pooled = maps.reshape(7, 6, 12) @ windows[:, place]
            hidden = np.maximum(pooled @ w["local.weight"].T + w["local.bias"] + vector @ w["context.weight"].T, 0)
            alike = sum(np.isclose(other[2], box[2]) and other[4] == flip for other in anchors)
            constant = w["bias"][int(flip), scale] - np.log(alike) + w["offset"][a]
            expected[:, a] = constant + 3 * hidden @ w["weight"][int(flip), scale]
    assert np.allclose(head(given).detach().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("name", heads())
@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_a_shrunk_head_says_less_about_the_mean(name, strength):
    head, given = perturbed(heads()[name]), features(40)
    before = head(given).detach()
    head.shrink_(strength, before.mean(0))
    expected = before.mean(0) + strength * (before - before.mean(0))
    assert torch.allclose(head(given), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["anchors", "boxes", "mirrored"])
def test_a_shifted_head_adds_the_same_to_the_logits_of_every_image(name):
    head, given = perturbed(heads()[name]), features(40)
    before = head(given).detach()
    by = torch.arange(before.shape[1]) - 1.5
    head.shift_(by)
    assert torch.allclose(head(given), before + by, atol=1e-5)


@pytest.mark.parametrize("name", ["anchors", "boxes", "mirrored"])
def test_a_head_for_losses_starts_at_nothing(name):
    """But for what the image says, which is small."""
    head = heads()[name].head(SPEC)
    head.zero_()
    assert head(features()).abs().max() < 0.3
    with torch.no_grad():
        for key, weight in head.named_parameters():
            if "bias" not in key or key.startswith("reduce"):
                weight.zero_()
    assert head(features()).abs().max() < 1e-5


@pytest.mark.parametrize("name", heads())
def test_fresh_heads_say_nearly_the_same_of_all_images(name):
    """The likeliest candidate has p = 0.9 at first, a range is 2 % wide, whatever the image; but not to the bit."""
    torch.manual_seed(0)
    family = heads()[name]
    with torch.no_grad():
        said = family.head(SPEC)(features(200))
    part = family.distribution(said)
    if name == "ranges":
        widths = torch.stack([(u.hi - u.lo) / (u.bounds[1] - u.bounds[0]) for u in part.fields.values()])
        assert (widths - 0.02).abs().max() < 0.004 and widths.std(1).min() > 1e-6
    else:
        p = part.categorical.probs
        assert (p[:, 0] - 0.9).abs().max() < 0.05 and p.std(0).min() > 1e-6


def test_what_weights_files_hold_of_a_head():
    """Nothing but what is learned, of the sizes that files have had so far: others could not be read."""

    def shapes(name):
        return {key: tuple(value.shape) for key, value in heads()[name].head(SPEC).state_dict().items()}

    assert shapes("anchors") == {
        "reduce.weight": (32, 6, 1, 1), "reduce.bias": (32,), "local.weight": (128, 32 * 12), "local.bias": (128,),
        "context.weight": (128, 5), "direct.weight": (3, 5), "out.weight": (3, 128), "out.bias": (3,),
    }  # fmt: skip
    assert shapes("boxes") == {
        "local.weight": (32, 6), "local.bias": (32,), "context.weight": (32, 5), "weight": (1, 4, 32), "bias": (1, 4), "offset": (30,),
    }  # fmt: skip
    assert shapes("mirrored")["weight"] == (2, 2, 32) and shapes("mirrored")["offset"] == (10,)
    assert shapes("ranges") == {"hidden.weight": (32, 5), "hidden.bias": (32,), "out.weight": (6, 32), "out.bias": (6,)}


def test_a_file_of_boxes_without_offsets_has_none():
    """Those of version 0.1."""
    head, other = (perturbed(Crop()) for _ in range(2))
    state = {name: value for name, value in head.state_dict().items() if name != "offset"}
    other.load_state_dict(state)
    assert (other.offset == 0).all() and torch.equal(other.weight, head.weight)
