"""Names of held-out images, small enough for a weights file, and the images of those names."""

import base64
import json
import sys
import zlib

import torch

from ..engine import Images, hold_out
from ..utils.errors import InstaAugError

LARGEST = 2**28  # bytes of names: a small file may unpack to more than memory holds


def pack_names(names: list[str] | None) -> str | None:
    """Names to a text of about six characters each."""
    if names is None:
        return None
    return base64.b64encode(zlib.compress(json.dumps(sorted(names)).encode(), 9)).decode()


def unpack_names(text: str) -> list[str]:
    """The reverse of `pack_names`; `InstaAugError` at anything else."""
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), LARGEST)
        names = json.loads(raw)
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return names
        error: Exception | str = "no list of names"
    except (ValueError, TypeError, zlib.error, RecursionError) as raised:
        error = raised
    raise InstaAugError(f"weights: the names of held-out images in them cannot be read ({error}); fit again")


def held_out_of(data: Images, packed: str | None, seed: int) -> Images:
    """The images of ``data`` that a fit held out: by name if the weights know them, else the tenth that the seed chooses.

    Raises:
        InstaAugError: some of them are not among ``data``.
    """
    if packed is None:
        return hold_out(data, seed, 0.1)[1]  # as files without names were fitted
    names, places = unpack_names(packed), {name: i for i, name in enumerate(data.identities or ())}
    missing = [name for name in names if name not in places]
    if missing:
        raise InstaAugError(
            f"choice-split: {len(missing)} of the {len(names)} images that the fit held out are not there ({missing[0]}, …), and "
            "others may have been fitted on; give the folder that was fitted on, without --max-images, or --choose-on all "
            "with a folder of other images"
        )
    return data.subset(torch.tensor([places[name] for name in names]))


def warn_if_fitted_on(data: Images, packed: str | None) -> None:
    """Say that images are those of the fit, where all that it held out are among them, and others."""
    names = set() if packed is None else set(unpack_names(packed))
    if names and names < set(data.identities or ()):
        print(
            f"data: the {len(names)} images that the fit held out are among these {len(data)}, so the others seem to be those it learned "
            "from, and flatter it; give other images",
            file=sys.stderr,
        )
