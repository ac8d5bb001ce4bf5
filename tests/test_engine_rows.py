import json
import logging
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch import multiprocessing

import instaaug_transforms as ia
from instaaug_transforms.engine.data import LabelledImages
from instaaug_transforms.engine.rows import Rows, chunks, compute_rows


def store(folder, **changes):
    return Rows(folder, 10, (3,), torch.float32, 4, {"images": "abc", **changes})


PARTS = [slice(0, 4), slice(4, 8), slice(8, 10)]


def test_chunks_survive_a_new_start(tmp_path):
    values = torch.rand(10, 3)
    first = store(tmp_path / "losses")
    first.put(PARTS[0], values[:4])
    del first  # a killed process closes nothing either
    again = store(tmp_path / "losses")
    assert [again.done(part) for part in PARTS] == [True, False, False]
    for part in PARTS[1:]:
        again.put(part, values[part])
    assert all(map(again.done, PARTS)) and torch.equal(again.tensor(), values)
    assert torch.equal(again[torch.tensor([9, 0, 9])], values[[9, 0, 9]])
    assert np.array_equal(np.load(tmp_path / "losses" / "rows.npy", mmap_mode="r"), values.numpy())


def test_rows_of_something_else_are_refused_until_their_folder_is_deleted(tmp_path):
    import shutil

    store(tmp_path / "losses")
    with pytest.raises(ia.InstaAugError, match=r"losses was computed with another images, layers; delete that folder"):
        store(tmp_path / "losses", images="xyz", layers=3)
    shutil.rmtree(tmp_path / "losses")
    store(tmp_path / "losses", images="xyz", layers=3)


def test_half_made_files_are_made_again(tmp_path):
    """Killed before the description was written: nothing of it can be trusted."""
    store(tmp_path / "a").put(PARTS[0], torch.ones(4, 3))
    (tmp_path / "a" / "about.json").unlink()
    assert not store(tmp_path / "a").done(PARTS[0])


@pytest.mark.parametrize("file", ["rows.npy", "checksums.npy", "about.json"])
def test_truncated_files_are_computed_again(tmp_path, file, caplog):
    store(tmp_path / "a").put(PARTS[0], torch.ones(4, 3))
    path = tmp_path / "a" / file
    path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 3])
    with caplog.at_level(logging.WARNING):
        assert not store(tmp_path / "a").done(PARTS[0])
    assert "computed again" in caplog.text


def test_altered_bytes_are_computed_again(tmp_path, caplog):
    kept = store(tmp_path / "a")
    for part in PARTS:
        kept.put(part, torch.ones(part.stop - part.start, 3))
    path = tmp_path / "a" / "rows.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # in the last row
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert [store(tmp_path / "a").done(part) for part in PARTS] == [True, True, False]
    assert "altered" in caplog.text


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_in_memory_and_every_type(dtype):
    values = torch.arange(30).reshape(10, 3).to(dtype)
    kept = Rows(None, 10, (3,), dtype, 7, {})
    for part in (slice(0, 7), slice(7, 10)):
        kept.put(part, values[part])
    for rows in (kept, Rows.of(values)):
        assert torch.equal(rows.tensor(), values) and rows.tensor().dtype == dtype and len(rows) == 10


@pytest.mark.parametrize("on_disk", [False, True])
def test_every_image_goes_through_once_and_in_order(tmp_path, on_disk):
    images, targets = torch.rand(11, 3, 4, 4), torch.arange(11)
    seen = []

    def compute(batch, labels, part):
        seen.append(part)
        return {"mean": batch.mean((1, 2, 3)), "label": labels[:, None]}

    folder = tmp_path if on_disk else None
    rows = compute_rows(
        LabelledImages(images, targets), compute, chunk=4, folder=folder, about={"a": 1}, progress=False
    )
    assert torch.allclose(rows["mean"].tensor(), images.mean((1, 2, 3))) and torch.equal(
        rows["label"].tensor()[:, 0], targets
    )
    first = [slice(0, 1)] if on_disk else []  # tells what may be there already
    assert seen == [*first, slice(0, 4), slice(4, 8), slice(8, 11)]
    if on_disk:
        seen.clear()
        compute_rows(LabelledImages(images, targets), compute, chunk=4, folder=folder, about={"a": 1}, progress=False)
        assert seen == [slice(0, 1)]
        assert json.loads((tmp_path / "rows-0of1-mean" / "about.json").read_text())["a"] == 1


def means_by_two(rank, port, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    images = torch.arange(11, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    asked = []

    def compute(batch, _, part):
        asked.append(part)
        return {"means": (batch * 255).mean((2, 3))}

    rows = compute_rows(
        LabelledImages(images, None), compute, chunk=2, folder=folder, name="m", like={"means": torch.empty(0, 1)}
    )
    kept = rows["means"].tensor()
    dist.destroy_process_group()
    save_file({"kept": kept, "asked": torch.tensor([part.start for part in asked])}, folder / f"{rank}.safetensors")


@pytest.mark.slow
def test_two_processes_share_the_work_and_each_keeps_all_rows_in_its_files(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(means_by_two, (port, tmp_path), nprocs=2)
    for rank in range(2):
        seen = load_file(tmp_path / f"{rank}.safetensors")
        assert seen["asked"].tolist() == list(range(2 * rank, 11, 4))  # every second chunk of two
        assert torch.allclose(seen["kept"][:, 0], torch.arange(11.0), atol=1e-4)
        on_disk = np.load(tmp_path / f"m-{rank}of2-means" / "rows.npy", mmap_mode="r")  # memory stays flat
        assert np.array_equal(on_disk, seen["kept"].numpy())


@pytest.mark.parametrize(("n", "sizes"), [(1, [1]), (63, [63]), (64, [64]), (65, [64, 1]), (130, [64, 64, 2]), (0, [])])
def test_chunks_of_64(n, sizes):
    parts = chunks(n, 64)
    assert [part.stop - part.start for part in parts] == sizes
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
