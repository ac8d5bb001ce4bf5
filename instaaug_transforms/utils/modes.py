"""Modes for a while: eval, frozen parameters, full precision; and what a seed decides."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import get_worker_info

from .errors import InstaAugError
from .outputs import check_module


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode inside; afterwards, also after an exception, every submodule is in the mode it was in before."""
    check_module(model, "model")
    modes = {module: getattr(module, "training", False) for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield model
    finally:
        for module, training in modes.items():
            module.training = training


_TURN = threading.RLock()


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """As `evaluating`, for a model that several threads ask: those that find it in training mode take turns.

    Nothing while compiling, which knows no locks.
    """
    if torch.compiler.is_compiling():
        yield
        return
    with _TURN:
        if any(module.training for module in model.modules()):
            with evaluating(model):
                yield
            return
    yield


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode and no parameter gradients inside; modes, requires_grad, gradients and buffers as before afterwards.

    Gradients still flow to the input. The state comes back after an exception too.

    Raises:
        InstaAugError: a lazy module that has seen no input.
    """
    check_module(model, "model")
    lazy = next((name for name, weight in model.named_parameters() if is_lazy(weight)), None)
    if lazy is not None:
        raise InstaAugError(f"classifier: its weight {lazy!r} has no size yet; call it on one batch of images first")
    needs_grad = {parameter: parameter.requires_grad for parameter in model.parameters()}
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    with evaluating(model):
        try:
            for parameter in needs_grad:
                parameter.requires_grad_(False)
            yield model
        finally:
            for parameter, needed in needs_grad.items():
                parameter.requires_grad_(needed)
            with torch.no_grad():
                for buffer, before in buffers.items():
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The weights that training changes: those that are not frozen, or all of them where all are, as `from_pretrained` gives them."""
    every = list(module.parameters())
    return [weight for weight in every if weight.requires_grad] or every


def sums_of_squares(weights: Iterable[Tensor]) -> list[float]:
    """One number per weight, which another one follows where an update has changed it."""
    return torch.stack([weight.detach().double().square().sum() for weight in weights]).tolist()


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed the global generators of the CPU and of ``device``; `torch.manual_seed` seeds those of every accelerator too."""
    torch.random.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def permutation(n: int, seed: int) -> Tensor:
    """0 … n − 1 in an order that the seed alone decides."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def in_worker() -> bool:
    """Whether this is a DataLoader worker; never while compiling, which cannot ask."""
    return not torch.compiler.is_compiling() and get_worker_info() is not None


def run_light(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """``module(images)``, named tensors, in inference mode, which records least, where nobody can want a gradient of it."""
    wanted = torch.is_grad_enabled() and not in_worker()
    if torch.compiler.is_compiling() or (wanted and (images.requires_grad or _learns(module))):
        return module(images)
    with torch.inference_mode():
        outputs = module(images)
    return {name: value.clone() for name, value in outputs.items()}  # autograd may save a copy, not the original


def first_weight(module: nn.Module) -> nn.Parameter | None:
    """The first of its parameters, whose device and type stand for all of them; None where it has none."""
    return next(_weights(module), None)


def _weights(module: nn.Module) -> Iterator[nn.Parameter]:
    """As `parameters()`, which spells out every name: one image at a time would pay for that."""
    stack = [module]
    while stack:
        part = stack.pop()
        yield from (weight for weight in part._parameters.values() if weight is not None)
        stack.extend(child for child in reversed(part._modules.values()) if child is not None)


def _learns(module: nn.Module) -> bool:
    """Whether any weight takes a gradient; all of them are asked where none does, so this is a loop and nothing more."""
    stack = [module]
    for part in stack:
        for weight in part._parameters.values():
            if weight is not None and weight.requires_grad:
                return True
        stack += [child for child in part._modules.values() if child is not None]
    return False


def without_autocast(device: torch.device) -> AbstractContextManager:
    """fp32 inside; nothing to enter where autocast is off, or where there are no numbers."""
    on = torch.compiler.is_compiling() or (device.type != "meta" and torch.is_autocast_enabled(device.type))
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def check_holds_numbers() -> None:
    """Raise where what is made now would hold no numbers: candidates and masks are in no file of weights that could bring them."""
    if torch.get_default_device().type == "meta":
        raise InstaAugError(
            "torch.device('meta'): transforms and families cannot be made without numbers, for candidates are not among the weights; make "
            "them with torch.device('cpu'), which takes milliseconds, or LearnedAugment.from_pretrained(file)"
        )
