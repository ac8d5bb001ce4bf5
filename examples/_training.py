"""What the training examples share: options, checkpoints in safetensors, results as one JSON."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instaaug_transforms import weights


def parser(description: str, out: str, data: str | None = None) -> argparse.ArgumentParser:
    """The options that every training example takes; ``data`` is the help of ``--data``."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data is not None:
        made.add_argument("--data", type=Path, required=True, help=data)
    made.add_argument("--out", type=Path, default=Path(out), help="folder for results (%(default)s)")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(0 1 2)")
    made.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    made.add_argument("--smoke", action="store_true", help="a few steps, to see that everything runs")
    return made


class Checkpoint:
    """One training run in one .safetensors file: modules, optimiser, generators, step, and any JSON notes.

    Args:
        path: the file; its folder exists.
        modules: by name; their state_dicts hold tensors alone.
        optimizers: their states are kept by parameter number.
        generators: sources of the run's randomness.
    """

    def __init__(
        self,
        path: Path,
        modules: dict[str, nn.Module],
        optimizers: Sequence[torch.optim.Optimizer],
        *generators: torch.Generator,
    ) -> None:
        self.path, self.modules, self.optimizers, self.generators = path, modules, optimizers, generators

    def save(self, step: int, notes: Any = None) -> None:
        """Write everything, all at once."""
        tensors = {f"{name}/{k}": t for name, module in self.modules.items() for k, t in module.state_dict().items()}
        for i, optimizer in enumerate(self.optimizers):
            for number, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer{i}/{number}/{k}": torch.as_tensor(t) for k, t in state.items() if t is not None}
        tensors |= {f"generator/{i}": g.get_state() for i, g in enumerate(self.generators)}
        # safetensors refuses tensors that share memory.
        weights.write(self.path, {"step": step, "notes": notes}, {k: t.clone() for k, t in tensors.items()})

    def load(self) -> tuple[int, Any]:
        """Put everything back; the step and the notes. (0, None) where there is no file yet."""
        if not self.path.is_file():
            return 0, None
        config, tensors = weights.read(self.path)
        for name, module in self.modules.items():
            module.load_state_dict(_below(tensors, name))
        for i, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in _below(tensors, f"optimizer{i}").items():
                number, name = key.split("/")
                state.setdefault(int(number), {})[name] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        for i, generator in enumerate(self.generators):
            generator.set_state(tensors[f"generator/{i}"])
        return config["step"], config["notes"]


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(f"{prefix}/")}


def write_results(folder: Path, results: Any) -> None:
    """``results.json`` in ``folder``, all at once."""
    weights.replace_file(folder / "results.json", (json.dumps(results, indent=1) + "\n").encode())


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: a linear climb, then a cosine to zero."""
    return min(1.0, (step + 1) / max(warmup, 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's learning rate to ``factor`` times the one it was made with."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("base_lr", group["lr"]) * factor


def read_results(folder: Path) -> Any:
    """What `write_results` wrote."""
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))
