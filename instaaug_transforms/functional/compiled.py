"""The colour step through torch.compile, for those who ask for it; plain where there is no compiler."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..params import AugmentParams
from ..utils.errors import reason
from . import compose
from .compose import Transformation


class CompiledColour:
    """`compose.colours`, compiled at its first call; a copy or a pickle compiles anew.

    Geometry stays as it is: compiled `grid_sample` is slower than the library's on a CPU. Where compiling fails — no C++
    compiler, say — it warns once and goes on uncompiled.

    Args:
        families: those of the transform, in order.
    """

    def __init__(self, families: Sequence[Transformation]) -> None:
        self.families = list(families)
        self._run: Any = None

    def __call__(
        self, images: Tensor, families: Sequence[Transformation], params: AugmentParams, backend: str = "auto"
    ) -> Tensor:
        """As `compose.colours`; ``families`` are those it was made with."""
        if torch.compiler.is_compiling():  # the caller compiles all of it
            return compose.colours(images, self.families, params, backend)
        if self._run is None:
            self._run = torch.compile(self._eager, dynamic=True)
        try:
            with warnings.catch_warnings():
                # Tracing an image that carries gradients asks for its .grad, and warns about that itself.
                warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
                return self._run(images, dict(params), backend)
        except torch._dynamo.exc.TorchDynamoException as error:
            warnings.warn(
                f"compile: torch.compile failed ({reason(error)}); colour goes on uncompiled. Install a C++ compiler (g++ or "
                "clang++, on PATH or named by CXX), or make LearnedAugment(..., compile=False)",
                stacklevel=2,
            )
            self._run = self._eager
            return self._run(images, dict(params), backend)

    def _eager(self, images: Tensor, fields: dict[str, Tensor], backend: str) -> Tensor:
        return compose.colours(images, self.families, AugmentParams(**fields), backend)

    def __getstate__(self) -> dict[str, Any]:
        return {"families": self.families, "_run": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> "CompiledColour":
        return CompiledColour(self.families)
