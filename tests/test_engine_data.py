import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
)
from torchvision.transforms.v2 import functional as F

import instaaug_transforms as ia
from instaaug_transforms.engine import load
from instaaug_transforms.measure import Probe


class Numbered(Dataset):
    """Image i is the number i; labels are known beforehand, and reads are counted."""

    def __init__(self, n=10):
        self.targets, self.reads = list(range(n)), 0
        self.paths = [f"{i}.png" for i in range(n)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        self.reads += 1
        return torch.full((3, 4, 4), i, dtype=torch.uint8), i


def test_a_sampler_says_which_images_there_are():
    images = load(DataLoader(Numbered(), sampler=SubsetRandomSampler([7, 2, 5])))
    assert images.targets.tolist() == [2, 5, 7] and images.identities == ["2.png", "5.png", "7.png"]
    assert (images.in_memory().images[:, 0, 0, 0]).tolist() == [2, 5, 7]


def test_so_does_a_sampler_of_batches():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    loader = DataLoader(Numbered(), batch_sampler=BatchSampler(SubsetRandomSampler([7, 2, 5]), 2, False))
    assert load(loader).targets.tolist() == [2, 5, 7]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_collate_function_that_is_left_out_is_said(caplog):
    images = load(DataLoader(Numbered(), batch_size=2, collate_fn=lambda samples: (torch.zeros(1), torch.zeros(1))))
    assert images.targets.tolist() == list(range(10)) and "collate_fn is not used" in caplog.text
    caplog.clear()
    load(DataLoader(Numbered(), batch_size=2))
    assert not caplog.text


class Mapped(Numbered):
    """Its samples say other labels than its ``targets``."""

    def __getitem__(self, i):
        return super().__getitem__(i)[0], 100 + i


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: Subset(data, [3, 1])])
def test_labels_are_those_of_the_samples(wrap):
    data = wrap(Mapped())
    assert load(data).targets.tolist() == [data[i][1] for i in range(len(data))]


def test_a_dataset_that_gives_another_image_each_time_is_said(caplog):
    class Noisy(Numbered):
        def __getitem__(self, i):
            return torch.rand(3, 4, 4), i

    load(Noisy())
    assert "another image each time" in caplog.text
    caplog.clear()
    load(Numbered())
    assert not caplog.text


def test_images_are_read_when_they_are_asked_for():
    dataset = Numbered(100)
    images = load(dataset)
    few = dataset.reads
    assert few <= 20 and images.targets.tolist() == list(range(100))
    batch, targets = images.batch(torch.tensor([9, 3]))
    assert dataset.reads == few + 2 and targets.tolist() == [9, 3]
    assert torch.allclose(batch[:, 0, 0, 0] * 255, torch.tensor([9.0, 3.0]))


def test_parts_and_sums_of_datasets_keep_their_labels_and_names():
    images = load(ConcatDataset([Subset(Numbered(), [4, 1]), Numbered(3)]))
    assert images.targets.tolist() == [4, 1, 0, 1, 2]
    assert images.identities == ["4.png", "1.png", "0.png", "1.png", "2.png"]


class Pairs(list):
    """No subclass of torch's Dataset: a length, and samples by index."""


def samples(how, n=6):
    images = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 3, 4, 4)
    return Pairs(how(image, i) for i, image in enumerate(images))


class Named(Numbered):
    """Labels are names."""

    def __init__(self):
        super().__init__()
        self.targets = [f"class {i}" for i in self.targets]

    def __getitem__(self, i):
        return super().__getitem__(i)[0], self.targets[i]


HOWS = {
    "tensors": lambda image, i: (image, i),
    "PIL": lambda image, i: (F.to_pil_image(image), i),
    "arrays": lambda image, i: (image.permute(1, 2, 0).numpy(), i),
    "Hugging Face": lambda image, i: {"image": F.to_pil_image(image), "label": i},
    "CIFAR there": lambda image, i: {"img": F.to_pil_image(image), "fine_label": i, "coarse_label": 0},
}


@pytest.mark.parametrize("how", HOWS)
def test_samples_come_in_many_forms(how):
    images = load(samples(HOWS[how]))
    batch, targets = images.batch(torch.tensor([4, 1]))
    assert targets.tolist() == [4, 1] and (batch[:, :, 0, 0] * 255).tolist() == [[4.0] * 3, [1.0] * 3]
    assert images.in_memory().images.dtype == torch.uint8


def test_arrays_and_lists_of_labels_are_as_good_as_tensors():
    images = np.zeros((5, 3, 4, 4), np.uint8)
    for labels in (np.arange(5), list(range(5)), torch.arange(5)):
        assert load((images, labels)).targets.tolist() == [0, 1, 2, 3, 4]
    assert load(images).targets is None


def test_lists_of_several_numbers_an_image_are_its_targets():
    """They were collated column by column, and refused as no numbers."""
    numbers = [[0.5, 1.0, 0.0], [0.25, 0.0, 1.0]]
    images = torch.rand(2, 3, 4, 4)
    pairs = list(zip(images, numbers, strict=True))
    named = [{"image": image, "labels": tuple(row)} for image, row in pairs]
    for data in ((images, numbers), pairs, named):
        assert load(data).targets.tolist() == numbers
    with pytest.raises(ia.InstaAugError, match="targets must be a tensor of numbers, as many for every image"):
        load((images, [[0], [0, 1]]))


@pytest.mark.parametrize("key", ["target", "y"])
def test_a_label_by_a_name_that_is_not_known_is_said(caplog, key):
    """The fit was to the classifier's own answers, and the labels were left aside without a word."""
    image = torch.rand(3, 4, 4)
    assert load([{"image": image, key: i} for i in range(3)]).targets is None
    assert f"images without labels; if one of '{key}' is the label, call it 'label'" in caplog.text
    caplog.clear()
    load([{"image": image, "id": i, "label": i} for i in range(3)])
    load([{"image": image} for _ in range(3)])
    assert not caplog.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (samples(lambda image, i: {"scan": image, "y": i}), "dictionaries of scan, y; call the image 'image'"),
        (samples(lambda image, i: (i, image)), "got int for an image"),
        (samples(lambda image, i: (image[None], i)), r"got a tensor \(1, 3, 4, 4\) for an image"),
        (samples(lambda image, i: (image, f"class {i}")), "labels must be numbers, got list of str"),
        (Subset(Named(), [0, 3]), "labels must be numbers, got list of str"),
        (ConcatDataset([Named(), Named()]), "labels must be numbers, got list of str"),
        (
            samples(lambda image, i: F.to_pil_image(image).convert("P")),
            r"mode 'P'.*palette; convert it: image.convert\('RGB'\)",
        ),
        ((torch.zeros(2, 3, 4, 4), ["cat", "dog"]), "targets must be a tensor of numbers, .*got list of str"),
        ("photographs", r"got str; of a folder make torchvision.datasets.ImageFolder"),
        ({"train": samples(HOWS["PIL"])}, r"got dict; give one of its splits"),
        ((sample for sample in samples(HOWS["PIL"])), r"got generator; of what can only be iterated make a list"),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_what_holds_no_images_says_what_would(data, message):
    with pytest.raises(ia.InstaAugError, match=f"data: .*{message}"):
        load(data, "data").batch(slice(0, 2))


def test_arrays_of_floats_are_as_exact_in_memory_as_they_were():
    arrays = [np.random.default_rng(i).random((4, 5, 3), dtype=np.float32) for i in range(3)]
    images = load([(array, i) for i, array in enumerate(arrays)]).in_memory().batch(slice(0, 3))[0]
    assert torch.equal(images, torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in arrays]))


def test_what_is_said_of_normalised_images_helps(one_thread):
    """A fit takes images as they are, and so it does for a transform that takes normalised ones: to make such a one is no remedy."""
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    images = torch.rand(8, 3, 16, 16)
    aug = ia.LearnedAugment(["turn"], normalization=(mean, std))
    classifier = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(12, 3)).eval()
    config = ia.FitConfig(epochs=1, progress=False)
    normalised = F.normalize(images, mean, std)
    for data in (normalised, [(image, 0) for image in normalised]):
        with pytest.raises(ia.InstaAugError, match=r"leave v2.Normalize out of the data") as caught:
            ia.fit(aug, classifier, data, nuisance=["turn"], config=config)
        assert "or make LearnedAugment" not in str(caught.value)
    ia.fit(aug, classifier, images, nuisance=["turn"], config=config)


@pytest.mark.parametrize("unknown", [0, 1])  # of 40, of which 16 are looked at: among them, and between two of them
def test_samples_of_which_some_have_no_label_are_named(unknown):
    """As one without labels it was fitted to the classifier's own answers, and nothing said so."""
    samples = [(torch.rand(3, 4, 4), None if i == unknown else i % 2) for i in range(40)]
    with pytest.raises(ia.InstaAugError, match=r"data: 1 of (16|40) samples .* have no label; leave these samples out"):
        load(samples)
    assert load([(image, None) for image, _ in samples]).targets is None


class Counted(IterableDataset):
    """Which knows how many there are, as WebDataset's may."""

    def __iter__(self):
        return iter([(torch.zeros(3, 4, 4), i) for i in range(3)])

    def __len__(self):
        return 3


@pytest.mark.parametrize("data", [Counted(), DataLoader(Counted()), DataLoader(Counted(), batch_size=None)])
def test_what_can_only_be_iterated_is_named(data):
    with pytest.raises(ia.InstaAugError, match=r"data: .*of what can only be iterated .*list\(data"):
        load(data)
    assert len(load(list(Counted()))) == 3


@pytest.mark.parametrize("labels", [[torch.zeros(1, 4), torch.zeros(2, 4)], [[0], [0, 1]], [0, torch.zeros(2)]])
def test_labels_that_differ_in_number_are_named(labels):
    """Boxes of a detector, say; and images and labels in a list each, which are taken for two samples."""
    for samples in ([(torch.rand(3, 4, 4), label) for label in labels], ([torch.rand(3, 4, 4)] * 2, [0, 1])):
        with pytest.raises(
            ia.InstaAugError, match=r"data: labels must be numbers, as many for every image \(.*one tensor"
        ):
            load(samples)


def test_a_class_that_was_exchanged_is_told_by_the_fingerprint():
    """Of a folder of 32 classes, whose names and labels are the same as before."""
    before, after = (
        [(torch.full((3, 4, 4), value * (10 < i <= 30)), i // 20) for i in range(640)] for value in (0.5, 0.6)
    )
    assert load(before).fingerprint() == load(list(before)).fingerprint() != load(after).fingerprint()


def test_groups_of_several_names_are_named():
    images = load(torch.rand(2, 3, 4, 4))
    with pytest.raises(ia.InstaAugError, match=r"groups: expected a name per image, a number or text, got \[0, 1\]"):
        images.grouped(np.array([[0, 1], [1, 0]]))
    assert images.grouped([("a", 0), ("a", 0)]).groups.tolist() == [0, 0]


class Broken(Numbered):
    """One of its images cannot be read, or holds what is no image."""

    def __init__(self, value):
        super().__init__(40)
        self.value = value

    def __getitem__(self, i):
        if i == 29 and self.value is None:
            raise OSError("broken data stream")
        return torch.full((3, 4, 4), self.value if i == 29 else 0.5), i


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "data: sample 29 cannot be read .OSError: broken data stream"),
        (float("nan"), "number 29 of data holds NaN"),
        (7.0, "got number 29 of data with values from 7 to 7"),
    ],
)
def test_the_image_that_cannot_be_read_is_named(value, message, workers):
    """One in a night's run over a hundred thousand; the 16 that are looked at first are not among them."""
    loader = DataLoader(Broken(value), sampler=SubsetRandomSampler(range(20, 40)), num_workers=workers)
    with pytest.raises(ia.InstaAugError, match=message):
        load(loader).in_memory(False)
    if value is None:
        with pytest.raises(ia.InstaAugError, match=message):
            Probe(nn.Flatten(), loader)


def test_the_image_of_a_tensor_that_is_none_is_named():
    images = torch.full((9, 3, 4, 4), 0.5)
    images[6, 0, 0, 0] = float("nan")
    with pytest.raises(ia.InstaAugError, match=r"number 6 of data of images \(9, 3, 4, 4\) torch.float32 holds NaN"):
        load(images)
