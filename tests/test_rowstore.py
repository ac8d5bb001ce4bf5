import numpy as np
import pytest
import torch

import instaaug_transforms as ia
from instaaug_transforms.learning.row_store import RowStore


def store(folder, **changes):
    about = {"images": "abc", **changes}
    return RowStore(folder, "losses", 10, (3,), torch.float32, 4, about)


def test_chunks_survive_a_new_start(tmp_path):
    values = torch.rand(10, 3)
    first = store(tmp_path)
    assert first.share == (10, 0)
    first.put(slice(0, 4), values[:4])
    del first  # a killed process closes nothing either
    again = store(tmp_path)
    assert again.todo() == [slice(4, 8), slice(8, 10)] and again.share == (10, 4)
    for part in again.todo():
        again.put(part, values[part])
    assert again.todo() == [] and torch.equal(again.gather(), values)
    assert np.array_equal(np.load(tmp_path / "losses-0of1.npy", mmap_mode="r"), values.numpy())


def test_rows_of_something_else_are_refused(tmp_path):
    store(tmp_path)
    with pytest.raises(ia.InstaAugError, match=r"losses-0of1.npy was computed with another images, layers"):
        store(tmp_path, images="xyz", layers=3)
    assert store(tmp_path).todo()


def test_half_made_files_are_made_again(tmp_path):
    """Killed before the description was written: nothing of it can be trusted."""
    store(tmp_path).put(slice(0, 4), torch.ones(4, 3))
    (tmp_path / "losses-0of1.json").unlink()
    assert store(tmp_path).share == (10, 0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_in_memory_and_every_type(dtype):
    values = torch.arange(30).reshape(10, 3).to(dtype)
    kept = RowStore(None, "x", 10, (3,), dtype, 7, {})
    for part in kept.todo():
        kept.put(part, values[part])
    assert torch.equal(kept.gather(), values) and kept.gather().dtype == dtype
