"""What disks, networks, editors and bad intent do to files: changes to bytes, and to meaning under a checksum that is right."""

import random
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ODD = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    10**9,
    1e300,
    float("nan"),
    "",
    "x",
    "../../etc/passwd",
    [],
    [[]],
    {},
    {"kind": "conv"},
]


class Boom:
    """Unpickled, it makes a file."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self):
        return Path.touch, (self.sentinel,)


# -- changes to bytes --------------------------------------------------------------------------------------------------


def damage(data: bytes, rng: random.Random) -> bytes:
    """One change of the kinds that disks, networks and editors make, or that somebody makes to do harm."""
    data = bytearray(data)
    kind = rng.randrange(8)
    if kind == 0:
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[rng.randrange(len(data)) :]
    elif kind == 2:
        start = rng.randrange(len(data))
        data[start : start + rng.randint(1, 512)] = bytes(rng.randint(0, 512))
    elif kind == 3:
        data += rng.randbytes(rng.randint(1, 64))
    elif kind == 4:  # where lengths of headers lie
        at = rng.choice([0, 6, 8, 10])
        data[at : at + 8] = struct.pack("<Q", rng.choice([0, 1, 2**31, 2**40, 2**63, 2**64 - 1, rng.getrandbits(20)]))
    elif kind == 5:
        at = rng.randrange(min(len(data), 400))
        data[at : at + 1] = rng.randbytes(rng.randint(2, 9))
    elif kind == 6:
        a, b = (rng.randrange(len(data)) for _ in range(2))
        data[a : a + 16], data[b : b + 16] = data[b : b + 16], data[a : a + 16]
    else:
        return rng.choice([b"", b"\0" * len(data), rng.randbytes(100), b"{}", b"[" * 200_000, bytes(data[::-1])])
    return bytes(data)


# -- changes to meaning, with a checksum that is right -------------------------------------------------------------------


def spoil(value: Any, rng: random.Random) -> Any:
    """A JSON value with something in it replaced, left out or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key, changed = rng.choice(sorted(value)), dict(value)
        what = rng.random()
        if what < 0.15:
            del changed[key]
        elif what < 0.25:
            changed["unheard_of"] = rng.choice(ODD)
        else:
            changed[key] = spoil(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        changed, at = list(value), rng.randrange(len(value))
        if rng.random() < 0.2:
            return changed * 2
        changed[at] = spoil(changed[at], rng)
        return changed
    return rng.choice([odd for odd in ODD if odd != value])


def forge(tensors: dict[str, Tensor], rng: random.Random) -> dict[str, Tensor]:
    """Tensors that do not fit: swapped, missing, of another shape, not finite."""
    names, forged = sorted(tensors), dict(tensors)
    a, b = rng.choice(names), rng.choice(names)
    kind = rng.randrange(6)
    if kind == 0 and tensors[a].shape != tensors[b].shape:
        forged[a], forged[b] = tensors[b], tensors[a]
    elif kind == 1:
        del forged[a]
    elif kind == 2:
        forged[rng.choice(["more", "../../evil", "__class__", "heads.crop.__init__"])] = torch.ones(2)
    elif kind == 3:
        forged[a] = torch.full_like(tensors[a], rng.choice([float("nan"), float("inf"), -float("inf")]))
    elif kind == 4:
        forged[a] = tensors[a].flatten()[:-1] if tensors[a].numel() > 1 else torch.ones(3)
    else:
        forged[a] = torch.zeros(1, *tensors[a].shape)
    return forged
