"""Whether parameters made by hand mean something to the families that act on them."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..params import AugmentParams
from ..utils.errors import InstaAugError
from . import known_fields
from .base import Family, Limit

FINITE = Limit()


def check_params(params: Any, families: Sequence[Family], lead: tuple[int, ...] = (1, 2)) -> AugmentParams:
    """``params`` itself. Fields of other families are left aside, so that a transform can replay a part of what another did.

    Values are read on a CPU alone: an accelerator would have to wait for them.

    Args:
        families: they read `fields`; parameters without any of these would leave every image as it is.
        lead: how many leading dimensions will do: 1 for ``(B,)``, 2 for ``(n, B)``.

    Raises:
        InstaAugError: something else, no field of theirs, one of no family, no image, other leading dimensions, or values out of range.
    """
    fields = {field for family in families for field in family.fields}
    if not isinstance(params, AugmentParams):
        inside, got = getattr(params, "params", None), type(params).__name__
        fix = f"; give its parameters, .params{'.index(0) for its first view' * (2 not in lead)}" if inside else ""
    elif not fields & set(params) or 0 in params.batch_shape:
        got, fix = repr(params), ""
    elif len(params.batch_shape) not in lead:
        got, fix = repr(params), "; params.index(0) is the first view of each image"
    elif unknown := [name for name in params if name not in fields and name not in known_fields()]:
        near = difflib.get_close_matches(unknown[0], fields, 1)
        got, fix = f"{unknown[0]!r}, which no family has", f"; did you mean {near[0]!r}?" if near else "; leave it out"
    else:
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):  # which read no values
            check_values(params, families)
        return params
    shapes = " or ".join(("(B,)", "(n, B)")[n - 1] for n in lead)
    raise InstaAugError(
        f"params: expected AugmentParams that lead with {shapes}, one or more, and have fields of {', '.join(sorted(fields))}; got {got}{fix}"
    )


def check_values(fields: Mapping[str, Tensor], families: Sequence[Family], name: str = "params") -> None:
    """Raise where a field of a family has a value that it can do nothing with. What is not on a CPU passes.

    Args:
        fields: from names to numbers.
        families: whose `limits` are to be kept.
        name: of the argument.
    """
    for family in families:
        limits = family.limits()
        for field in family.fields:
            if field not in fields or fields[field].device.type != "cpu" or fields[field].is_complex():
                continue
            limit = limits.get(field, FINITE)
            # Plain numbers: this stands before every view, and of one image reading them is quicker than comparing tensors.
            given = fields[field]
            values = (given if given.ndim == 1 else given.flatten()).tolist()
            bad = [value for value in values if not limit.low <= value <= limit.high]
            bad = bad or [value for value in values if limit.whole and value != int(value)]
            if bad:
                raise InstaAugError(
                    f"{name}: {field} of {family.name!r}: expected {limit}, got {bad[0]:g}{limit.fix and '; '}{limit.fix}"
                )
