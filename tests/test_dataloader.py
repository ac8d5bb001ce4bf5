import copy
import pickle

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import instaaug_transforms as ia
from instaaug_transforms.utils import modes

from .conftest import make_lively


class Photographs(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 12

    def __getitem__(self, index):
        image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index))
        return self.transform(image), index


def epoch(workers, context, seed=5, **kwargs):
    transform = v2.Compose([make_lively(["crop", "rotate", "hsv"]), v2.Normalize([0.5] * 3, [0.5] * 3)])
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        Photographs(transform), 4, num_workers=workers, multiprocessing_context=context, generator=generator, **kwargs
    )
    return torch.cat([images for images, _ in loader])


SLOW = [pytest.param(context, marks=pytest.mark.slow) for context in ("spawn", "forkserver")]


def test_workers_reproduce_bit_for_bit():
    first = epoch(2, "fork")
    assert torch.equal(epoch(2, "fork"), first) and not first.requires_grad
    assert not torch.equal(epoch(2, "fork", seed=6), first)


def test_a_worker_refuses_weights_on_the_gpu(monkeypatch):
    aug = ia.LearnedAugment(["crop"])
    monkeypatch.setattr(modes, "get_worker_info", object)

    class OnGPU(torch.nn.Parameter):
        is_cuda = True

    aug.predictor.scale = OnGPU(aug.predictor.scale.data)
    with pytest.raises(ia.InstaAugError, match=r"aug.cpu\(\)"):
        aug(torch.rand(3, 16, 16))


@pytest.mark.parametrize("context", ["fork", *SLOW])
def test_persistent_workers_go_on_drawing(context):
    """Epochs differ, as torchvision's transforms do; the same seed gives the same epochs."""

    def two_epochs():
        generator = torch.Generator().manual_seed(5)
        loader = DataLoader(
            Photographs(make_lively(["rotate"])),
            4,
            num_workers=1 if context == "spawn" else 2,
            multiprocessing_context=context,
            generator=generator,
            persistent_workers=True,
        )
        return [torch.cat([images for images, _ in loader]) for _ in range(2)]

    first, second = two_epochs()
    assert not torch.equal(first, second)
    again = two_epochs()
    assert torch.equal(again[0], first) and torch.equal(again[1], second)


class OneImage(Photographs):
    def __getitem__(self, index):
        return self.transform(torch.linspace(0, 1, 768).reshape(3, 16, 16)), torch.utils.data.get_worker_info().id


def test_workers_draw_differently():
    loader = DataLoader(OneImage(make_lively(["rotate"])), 3, num_workers=2, multiprocessing_context="fork")
    batches = list(loader)
    workers = torch.cat([ids for _, ids in batches])
    images = torch.cat([images for images, _ in batches])
    assert set(workers.tolist()) == {0, 1}
    assert len(images.flatten(1).unique(dim=0)) == 12  # one image twelve times, each with its own angle


def test_params_go_through_a_loader():
    """What was drawn can be kept beside the image, collated, and replayed."""
    aug = make_lively(["crop", "rotate"]).requires_grad_(False)

    class Kept(Photographs):
        def __getitem__(self, index):
            image = super().__getitem__(index)[0]
            params = aug.distribution(image).sample()
            return image, aug(image, params=params), {name: field[0] for name, field in params.items()}

    loader = DataLoader(Kept(lambda image: image), 4, num_workers=1, multiprocessing_context="fork")
    for images, augmented, fields in loader:
        assert torch.allclose(aug(images, params=ia.AugmentParams(**fields)), augmented, atol=1e-5)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")
def test_pinned_memory():
    """Pinned where there is an accelerator to pin for; elsewhere PyTorch says so and hands over plain memory."""
    loader = DataLoader(Photographs(make_lively(["rotate"])), 4, pin_memory=True)
    assert all(images.is_pinned() == torch.cuda.is_available() for images, _ in loader)


def _double(aug):
    with torch.no_grad():
        for parameter in aug.parameters():
            parameter.mul_(2)


def test_shared_memory_is_seen_by_other_processes():
    aug = make_lively(["rotate"]).share_memory()
    before = [p.clone() for p in aug.parameters()]
    assert all(p.is_shared() for p in aug.parameters())
    process = torch.multiprocessing.get_context("fork").Process(target=_double, args=(aug,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert all(torch.equal(p, 2 * b) for p, b in zip(aug.parameters(), before, strict=True))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda aug: pickle.loads(pickle.dumps(aug))])
@pytest.mark.parametrize("predictor", ["conv", "global", "symmetric"])
def test_pickle_and_deepcopy_are_independent_copies(copied, predictor):
    aug = ia.LearnedAugment(["rotate", "hsv"], predictor=predictor, normalization=((0.5,) * 3, (0.5,) * 3))
    again = copied(v2.Compose([aug])).transforms[0]
    images = torch.rand(2, 3, 16, 16)
    draw = [a(images, generator=torch.Generator().manual_seed(0)) for a in (aug, again)]
    assert torch.equal(*draw) and repr(again) == repr(aug)
    with torch.no_grad():
        next(again.parameters()).add_(1)
    assert not torch.equal(next(again.parameters()), next(aug.parameters()))


@pytest.mark.parametrize("workers", [0, 1])
def test_whole_batches_are_augmented_where_they_are_collated(workers):
    aug = make_lively(["crop", "hsv"]).requires_grad_(False)
    images, labels = torch.rand(6, 3, 16, 16), torch.arange(6)
    dataset = torch.utils.data.TensorDataset(images, labels)
    loader = DataLoader(dataset, 3, collate_fn=ia.collate(aug), num_workers=workers)
    torch.manual_seed(5)
    batches = list(loader)
    assert [batch.tolist() for _, batch in batches] == [[0, 1, 2], [3, 4, 5]]
    assert all(views.shape == (3, 3, 16, 16) and not views.requires_grad for views, _ in batches)
    if not workers:  # as one call for the batch
        torch.manual_seed(5)
        torch.empty((), dtype=torch.int64).random_()  # the loader's own draw
        assert all(torch.equal(views, aug(images[k : k + 3])) for k, (views, _) in zip((0, 3), batches, strict=True))


class Annotated(torch.utils.data.Dataset):
    """Images with a mask, boxes and points, in a dictionary or a tuple."""

    def __init__(self, as_dict):
        self.as_dict = as_dict
        self.images = torch.rand(3, 3, 16, 24)

    def __len__(self):
        return 3

    def __getitem__(self, i):
        image = self.images[i]
        mask = tv_tensors.Mask((image[0] * 255).long() + 1)
        boxes = tv_tensors.BoundingBoxes([[1, 2, 9, 8], [0, 0, 4, 4]], format="XYXY", canvas_size=(16, 24))
        points = tv_tensors.KeyPoints([[3, 4]], canvas_size=(16, 24))
        if self.as_dict:
            return {
                "image": tv_tensors.Image(image),
                "target": {"mask": mask, "boxes": boxes, "points": points},
                "id": str(i),
            }
        return tv_tensors.Image(image), mask, boxes, points, i


@pytest.mark.parametrize("as_dict", [False, True])
def test_masks_boxes_and_points_go_with_the_images_that_are_collated(as_dict):
    """As they go with each image alone."""
    aug, dataset = make_lively(["crop"], p=1.0).requires_grad_(False), Annotated(as_dict)
    torch.manual_seed(3)
    batch = ia.collate(aug)([dataset[i] for i in range(3)])
    torch.manual_seed(3)
    stacked = torch.stack([dataset.images[i] for i in range(3)])
    params = aug.distribution(stacked).sample()
    for i in range(3):
        one = aug(dataset[i], params=params.index(slice(i, i + 1)))
        if as_dict:
            assert batch["id"] == ["0", "1", "2"]
            pairs = [
                (batch["image"], one["image"]),
                *((batch["target"][key], one["target"][key]) for key in one["target"]),
            ]
        else:
            assert batch[4].tolist() == [0, 1, 2]
            pairs = zip(batch[:4], one[:4], strict=True)
        for together, alone in pairs:
            assert type(together) is torch.Tensor
            assert torch.allclose(together[i].float(), alone.as_subclass(torch.Tensor).float(), atol=1e-5)


def test_every_image_of_a_sample_moves_and_plain_tensors_stay():
    """A pair of views, and a tensor before them that is no image: as sample by sample."""
    aug, images = make_lively(["crop"], p=1.0).requires_grad_(False), torch.rand(3, 3, 16, 16)
    pairs = [
        {"depth": torch.ones(3, 16, 16) * i, "left": tv_tensors.Image(image), "right": tv_tensors.Image(1 - image)}
        for i, image in enumerate(images)
    ]
    batch = ia.collate(aug)(pairs)
    assert all(type(part) is torch.Tensor for part in batch.values())
    assert not torch.equal(batch["left"], images) and torch.allclose(batch["right"], 1 - batch["left"], atol=1e-5)
    assert torch.equal(batch["depth"], torch.stack([pair["depth"] for pair in pairs]))
    clips = [tv_tensors.Video(torch.rand(2, 3, 16, 16)) for _ in range(3)]
    assert ia.collate(aug)(clips).shape == (3, 2, 3, 16, 16)


def test_samples_in_place_of_the_transform_are_named():
    """A DataLoader with collate_fn=ia.collate gave objects for batches."""
    with pytest.raises(ia.InstaAugError, match="aug: expected a LearnedAugment, got list"):
        ia.collate([(torch.rand(3, 8, 8), 0)])


def test_images_of_several_sizes_are_named():
    collate = ia.collate(ia.LearnedAugment(["crop"], output_size=8))
    samples = [(torch.rand(3, 8, width), 0) for width in (9, 8, 9)]
    with pytest.raises(
        ia.InstaAugError, match=r"samples: images of several sizes, \(3, 8, 8\), \(3, 8, 9\), are no batch .*resize"
    ):
        collate(samples)
    with pytest.raises(RuntimeError, match="stack expects"):
        collate([(torch.rand(3, 8, 8), torch.zeros(n)) for n in (1, 2)])


def test_pil_images_that_nothing_stacks_are_named():
    picture = v2.functional.to_pil_image(torch.rand(3, 8, 8))
    with pytest.raises(ia.InstaAugError, match=r"samples: default_collate stacks no PIL images .* v2.ToImage\(\)"):
        ia.collate(ia.LearnedAugment(["crop"]))([(picture, 0), (picture, 1)])

    def broken(batch):
        raise TypeError("something else")

    with pytest.raises(TypeError, match="something else"):
        ia.collate(ia.LearnedAugment(["crop"]), broken)([(torch.rand(3, 8, 8), 0)])


def test_a_collate_function_that_loses_the_masks_is_refused():
    aug, dataset = make_lively(["crop"]).requires_grad_(False), Annotated(False)
    with pytest.raises(ia.InstaAugError, match="samples: <lambda> leaves no place for the masks, boxes or keypoints"):
        ia.collate(aug, lambda batch: torch.stack([sample[0] for sample in batch]))([dataset[i] for i in range(3)])


@pytest.mark.parametrize("kind", [torch.Tensor, tv_tensors.Image, v2.functional.to_pil_image])
def test_images_that_are_not_stacked_are_refused(kind):
    """The first alone was augmented, or all of them as the first asks for."""
    aug = make_lively(["crop"]).requires_grad_(False)
    samples = [(kind(image), label) for label, image in enumerate(torch.rand(3, 3, 16, 16))]
    for collate in (lambda batch: tuple(zip(*batch, strict=True)), lambda batch: [image for image, _ in batch]):
        with pytest.raises(
            ia.InstaAugError, match=r"samples: expected the images of a batch in one tensor .* leaves 3 by"
        ):
            ia.collate(aug, collate)(samples)
        ia.collate(aug, collate)(samples[:1])
    maps = [{"depth": torch.rand(16, 16), "image": tv_tensors.Image(torch.rand(3, 16, 16))} for _ in range(3)]
    assert ia.collate(aug)(maps)["depth"].shape == (3, 16, 16)
