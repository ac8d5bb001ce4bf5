import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, SubsetRandomSampler
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms.measure import prepare
from instaaug_transforms.utils.hashing import fingerprint


class Pictures(Dataset):
    classes = ("cat", "dog")

    def __init__(self, n=20, normalised=False):
        self.images = torch.randint(255, (n, 3, 8, 8), dtype=torch.uint8)
        self.normalised, self.read = normalised, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.read.append(i)
        if self.normalised:
            return (self.images[i] / 255 - 0.5) / 0.2, i % 2
        return F.to_pil_image(self.images[i]), i % 2


def test_only_what_is_measured_is_read():
    data = Pictures()
    images = prepare(data, 6, seed=1, progress=False)
    assert sorted(data.read) == images.index.tolist() and len(images) == 6
    assert torch.equal(images.images, data.images[images.index]) and images.targets.tolist() == [
        i % 2 for i in images.index
    ]
    assert images.class_name(1) == "dog" and images.labelled
    assert torch.equal(prepare(DataLoader(data), 6, seed=1, progress=False).index, images.index)
    assert not torch.equal(prepare(data, 6, seed=2, progress=False).index, images.index)


def test_normalised_images_come_back_to_the_unit_range():
    plain, normalised = Pictures(), Pictures(normalised=True)
    normalised.images = plain.images
    for data in (normalised, torch.stack([normalised[i][0] for i in range(20)])):
        images = prepare(data, normalization=((0.5,) * 3, (0.2,) * 3), progress=False)
        assert torch.allclose(images.images, plain.images / 255, atol=1e-6)
        assert images.images.min() >= 0 and images.images.max() <= 1
        again = (plain.images / 255 - 0.5) / 0.2
        assert torch.allclose(images.to_model(images.images), again, atol=1e-5)


def test_normalised_images_in_arrays_and_lists_come_back_too():
    normalised = Pictures(6, normalised=True)
    samples = [normalised[i] for i in range(6)]
    arrays = np.stack([image for image, _ in samples]), np.array([label for _, label in samples])
    for data in (samples, arrays, [torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])]):
        images = prepare(data, normalization=((0.5,) * 3, (0.2,) * 3), progress=False)
        assert torch.allclose(images.images, normalised.images / 255, atol=1e-6)
        assert images.targets.tolist() == [0, 1, 0, 1, 0, 1]


def test_only_what_is_measured_is_read_of_samples_that_are_no_dataset():
    class Samples:
        __init__, __len__, __getitem__ = Pictures.__init__, Pictures.__len__, Pictures.__getitem__

    data = Samples()
    assert sorted(prepare(data, 6, progress=False).index.tolist()) == sorted(data.read)


def test_images_alone_and_what_was_prepared():
    images = prepare(torch.rand(9, 1, 4, 4))
    assert not images.labelled and len(prepare(images, 4)) == 4 and prepare(images) is images
    assert prepare(images, 4).index.tolist() == prepare(torch.rand(9, 1, 4, 4), 4).index.tolist()


def test_fingerprint_sees_pixels_labels_and_order():
    def mark(*data):
        images = prepare(data)
        return fingerprint(images.images, images.targets)

    x, y = torch.rand(5, 3, 4, 4), torch.arange(5)
    assert mark(x, y) == mark(x.clone(), y.clone())
    assert len({mark(x, y), mark(x.flip(0), y), mark(x, y.flip(0))}) == 3


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ((torch.rand(3, 3, 4, 4), torch.rand(3)), {}, r"class indices \(N,\)"),
        (torch.rand(3, 3, 4, 4) * 9, {}, r"values must lie in \[0, 1\]"),
        (torch.rand(3, 3, 4, 4) * 9, {"normalization": ((0.5,) * 3, (0.2,) * 3)}, r"values must lie in \[0, 1\]"),
        (torch.rand(3, 3, 4, 4), {"max_images": 1}, "max_images"),
        (
            torch.rand(3, 3, 4, 4),
            {"normalization": ((0.5,) * 2, (0.2,) * 2)},
            r"normalization: .* for 3 channel\(s\), got \(0.5, 0.5\)",
        ),
        ("nowhere", {}, "got str"),
    ],
)
def test_errors(data, arguments, message):
    with pytest.raises(ia.InstaAugError, match=message):
        prepare(data, **arguments)


def test_bytes_are_not_normalised_and_not_undone():
    images = torch.randint(255, (6, 3, 8, 8), dtype=torch.uint8)
    for data in ((images, None), Pictures(6)):
        measured = prepare(data, normalization=((0.5,) * 3, (0.2,) * 3), progress=False)
        assert measured.images.dtype == torch.uint8 and measured.images.float().std() > 50
        again = (measured.images / 255 - 0.5) / 0.2
        assert torch.allclose(measured.to_model(measured.images / 255), again, atol=1e-5)


def test_a_sampler_says_what_is_measured():
    loader = DataLoader(Pictures(), sampler=SubsetRandomSampler([3, 11, 8]))
    assert prepare(loader, progress=False).index.tolist() == [3, 8, 11]
    assert set(prepare(loader, 2, progress=False).index.tolist()) < {3, 8, 11}


def test_processes_of_a_loader_read():
    data = Pictures()
    state = torch.random.get_rng_state()
    images = prepare(DataLoader(data, num_workers=2), 6, seed=1, progress=False)
    assert not data.read and torch.equal(images.images, data.images[images.index])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_dictionaries_are_samples_too():
    class Dictionaries(Pictures):
        def __getitem__(self, i):
            image, label = super().__getitem__(i)
            return {"image": image, "label": label}

    measured = prepare(Dictionaries(), progress=False)
    assert measured.targets.tolist() == [i % 2 for i in range(20)] and measured.images.shape == (20, 3, 8, 8)


def test_labels_from_below_zero_are_refused():
    with pytest.raises(ia.InstaAugError, match=r"class indices \(N,\), from 0, got .* from -1"):
        prepare((torch.rand(4, 3, 8, 8), torch.tensor([0, 1, -1, 2])))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.bool])
def test_labels_are_whole_numbers_of_any_kind(dtype):
    """As MNIST's files have them, bytes; or true and false, of two classes."""
    images, labels, model = torch.rand(6, 3, 8, 8), torch.arange(6) % 2, nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    data = images, labels.to(dtype)
    report = ia.measure_invariance(model, data, transformations="rotate", progress=False)
    with torch.no_grad():
        true = model(images).softmax(1)[torch.arange(6), labels]
    (sweep, _) = report.sweeps
    assert np.allclose(sweep.values["p_true"][sweep.identity], true, atol=1e-6)
    assert {row["class"] for row in report.per_class()} == {"0", "1"}
