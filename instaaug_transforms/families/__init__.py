"""The registry of transformation families. Every module in this folder is imported, so a new file is enough."""

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from typing import Any

from ..utils.errors import InstaAugError
from .anchors import AnchorDistribution, AnchorFamily
from .base import Family, FamilyDistribution, Features, FeatureSpec
from .product import CandidateProduct
from .uniform import UniformFamily

__all__ = [
    "AnchorDistribution",
    "AnchorFamily",
    "CandidateProduct",
    "Family",
    "FamilyDistribution",
    "FeatureSpec",
    "Features",
    "UniformFamily",
    "available",
    "create",
    "identity_of",
    "known_fields",
    "register",
]

_REGISTRY: dict[str, type[Family]] = {}


def register(cls: type[Family]) -> type[Family]:
    """Class decorator: make a family known by its ``name``.

    Raises:
        InstaAugError: another class has that name already, or its stage is unknown.
    """
    known = _REGISTRY.get(cls.name)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise InstaAugError(f"family name {cls.name!r} is taken by {known.__module__}.{known.__qualname__}; rename one")
    if cls.stage not in ("geometry", "colour"):
        raise InstaAugError(f"family {cls.name!r} has stage {cls.stage!r}; allowed are 'geometry' and 'colour'")
    _REGISTRY[cls.name] = cls
    return cls


def available() -> list[str]:
    """The names of the families known, sorted."""
    return sorted(_REGISTRY)


def known_fields() -> set[str]:
    """The fields of all families known."""
    return {field for family in _REGISTRY.values() for field in family.fields}


def create(families: Sequence[str | Family], configs: dict[str, dict[str, Any]] | None = None) -> list[Family]:
    """Names or families to families, in the order in which they act.

    Raises:
        InstaAugError: an unknown name, a family given twice, two families that share a field, or none at all.
    """
    if isinstance(families, (str, Family)) or not isinstance(families, Iterable):
        families = [families]
    made: list[Family] = []
    for family in families:
        if isinstance(family, str):
            if family not in _REGISTRY:
                raise InstaAugError(f"families: unknown family {family!r}; known are {', '.join(available())}")
            family = _REGISTRY[family](**(configs or {}).get(family, {}))
        elif not isinstance(family, Family):
            raise InstaAugError(f"families: expected names or Family objects, got {type(family).__name__}")
        made.append(family)
    if not made:
        raise InstaAugError(f"families: got none; choose from {', '.join(available())}")
    fields = [field for family in made for field in family.fields]
    for what, values in (("family", [family.name for family in made]), ("field", fields)):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise InstaAugError(f"families: {what} {', '.join(twice)} given more than once")
    return sorted(made, key=lambda family: (family.stage != "geometry", family.order))


def identity_of(families: Sequence[Family]) -> dict[str, float]:
    """The value of every field of several families that leaves an image alone."""
    return {name: value for family in families for name, value in family.identity().items()}


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
