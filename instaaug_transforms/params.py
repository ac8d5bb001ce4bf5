"""`AugmentParams`: one concrete transformation per image, as named tensors that lead with the batch."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .utils.errors import InstaAugError


class AugmentParams(Mapping[str, Tensor]):
    """Parameters of one transformation per image; immutable, and a mapping from field name to tensor.

    Fields are those of the families in use, in the units of the families' docstrings: ``cx, cy, w, h`` (fractions of
    the image), ``flip`` (0 or 1), ``angle`` (degrees, counter-clockwise), ``hue`` (turns), ``saturation``, ``value``.
    A field that is left out means the identity. Read a field as ``params.angle`` or ``params["angle"]``.

    Args:
        **fields: tensors that all lead with the same ``(B,)`` or ``(n, B)``, the shape of the field with the fewest
            dimensions.

    Raises:
        InstaAugError: no field, a field that is no tensor, no batch dimension, or leading shapes that differ.
    """

    __slots__ = ("_fields", "batch_shape")
    batch_shape: torch.Size

    def __init__(self, **fields: Tensor) -> None:
        if not fields:
            raise InstaAugError(
                "AugmentParams got no field; give at least one, e.g. AugmentParams(angle=torch.zeros(1))"
            )
        for name, tensor in fields.items():
            if not isinstance(tensor, Tensor):
                raise InstaAugError(f"AugmentParams field {name!r} must be a tensor, got {type(tensor).__name__}")
        shape = next(iter(fields.values())).shape
        for tensor in fields.values():  # `min(…, key=len)` is no word that torch 2.11's compiler knows
            shape = tensor.shape if tensor.ndim < len(shape) else shape
        if len(shape) not in (1, 2):
            raise InstaAugError(f"AugmentParams fields must lead with (B,) or (n, B), got shape {tuple(shape)}")
        for name, tensor in fields.items():
            if tensor.shape[: len(shape)] != shape:
                raise InstaAugError(
                    f"AugmentParams field {name!r} has shape {tuple(tensor.shape)}, which does not lead with "
                    f"{tuple(shape)}, the shape of the other fields"
                )
        object.__setattr__(self, "_fields", dict(fields))
        object.__setattr__(self, "batch_shape", shape)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"AugmentParams is immutable; make a new one with params.replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("AugmentParams is immutable")

    def __getattr__(self, name: str) -> Tensor:
        if name == "_fields":  # not there yet, while unpickling
            raise AttributeError(name)
        try:
            return self._fields[name]
        except KeyError:
            raise AttributeError(f"these AugmentParams have no field {name!r}; they have {', '.join(self)}") from None

    def __getitem__(self, name: str) -> Tensor:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __reduce__(self) -> tuple:
        return _rebuild, (self._fields,)

    def __eq__(self, other: object) -> bool:  # that of mappings asks tensors for one truth value
        if not isinstance(other, AugmentParams) or set(self) != set(other):
            return False
        return all(torch.equal(tensor, other[name]) for name, tensor in self.items())

    __hash__ = None

    def __repr__(self) -> str:
        return f"AugmentParams({', '.join(self)}; batch_shape={tuple(self.batch_shape)})"

    def map(self, function: Callable[[Tensor], Tensor]) -> "AugmentParams":
        """Apply ``function`` to every field."""
        return AugmentParams(**{name: function(tensor) for name, tensor in self.items()})

    def to(self, *args, **kwargs) -> "AugmentParams":
        """Move every field, as ``Tensor.to``."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def detach(self) -> "AugmentParams":
        """Cut every field from the autograd graph."""
        return self.map(Tensor.detach)

    def index(self, index) -> "AugmentParams":
        """Index the leading dimension(s) of every field: ``params.index(0)`` is view 0 of ``(n, B)`` parameters."""
        return self.map(lambda tensor: tensor[index])

    def flatten(self) -> "AugmentParams":
        """``(n, B)`` to ``(n·B,)``, view-major; ``(B,)`` stays as it is."""
        return self if len(self.batch_shape) == 1 else self.map(lambda tensor: tensor.flatten(0, 1))

    def repeat_interleave(self, times: int) -> "AugmentParams":
        """Each of ``(B,)`` parameters ``times`` times in a row (the frames of a clip, say)."""
        return self.map(lambda tensor: tensor.repeat_interleave(times, dim=0))

    def for_each(self, n: int) -> "AugmentParams":
        """``(V,)`` to ``(V, n)``: the same V views for each of n images. No copy."""
        return self.map(lambda tensor: tensor[:, None].expand(-1, n, *tensor.shape[1:]))

    def replace(self, **fields: Tensor) -> "AugmentParams":
        """A copy in which ``fields`` replace (or join) the present ones."""
        return AugmentParams(**{**self._fields, **fields})

    def where(self, mask: Tensor, other: "AugmentParams") -> "AugmentParams":
        """These parameters where ``mask`` (leading shape) is true, ``other``'s where it is false.

        Raises:
            InstaAugError: other fields, another shape, or a mask that is not of booleans.
        """
        _check_alike("other", self, other)
        if not torch.compiler.is_compiling():
            if (
                not isinstance(mask, Tensor)
                or mask.dtype != torch.bool
                or mask.shape != self.batch_shape[: max(mask.ndim, 1)]
            ):
                given = f"{tuple(mask.shape)} {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
                raise InstaAugError(
                    f"mask: expected booleans {tuple(self.batch_shape)}, one per transformation, got {given}"
                )
            if other.batch_shape != self.batch_shape:
                raise InstaAugError(
                    f"other: expected batch_shape {tuple(self.batch_shape)}, got {tuple(other.batch_shape)}; of one for all, "
                    "other.repeat_interleave(n)"
                )
        return AugmentParams(
            **{
                name: torch.where(mask.reshape(mask.shape + (1,) * (tensor.ndim - mask.ndim)), tensor, other[name])
                for name, tensor in self.items()
            }
        )

    @staticmethod
    def alike(fields: Mapping[str, float], n: int, device: torch.device | str = "cpu") -> "AugmentParams":
        """``(n,)`` parameters, the same numbers for every image."""
        return AugmentParams(**{name: torch.full((n,), value, device=device) for name, value in fields.items()})

    @staticmethod
    def cat(parts: "list[AugmentParams]") -> "AugmentParams":
        """Concatenate along the first dimension.

        Raises:
            InstaAugError: no part, or parts of different fields or sizes.
        """
        if not parts:
            raise InstaAugError("parts: expected one AugmentParams or more, got none")
        for part in parts:
            _check_alike("parts", parts[0], part)
        return AugmentParams(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def _check_alike(name: str, one: Any, other: Any) -> None:
    """Raise unless both are parameters of the same fields, whose shapes differ in batches' first dimension at most."""
    if torch.compiler.is_compiling():
        return
    for given in (one, other):
        if not isinstance(given, AugmentParams):
            raise InstaAugError(f"{name}: expected AugmentParams, got {type(given).__name__}")
    if set(one) != set(other):
        raise InstaAugError(
            f"{name}: expected the same fields, got {', '.join(one)} and {', '.join(other)}; params.replace(…) adds what is missing"
        )
    for field in one:
        if one[field].shape[1:] != other[field].shape[1:]:
            raise InstaAugError(
                f"{name}: expected {field} of equal shapes but for the first dimension, got {tuple(one[field].shape)} and "
                f"{tuple(other[field].shape)}"
            )


def _rebuild(fields: dict[str, Tensor]) -> AugmentParams:
    return AugmentParams(**fields)
