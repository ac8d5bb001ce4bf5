"""Fitted models as files that other runtimes read: ONNX, by PyTorch's own exporter."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..augment import LearnedAugment
from ..augment.learnable import check_aug
from ..functional.inputs import check_size
from ..utils.errors import InstaAugError
from ..utils.files import replace_file
from ..utils.modes import evaluating

INPUT, OUTPUT = "images", "output"


class TopViews(nn.Module):
    """The likeliest views as a module, for exporting the transform alone.

    Args:
        aug: the fitted transform.
        n_views: views per image.

    Raises:
        InstaAugError: no `LearnedAugment`.
    """

    def __init__(self, aug: LearnedAugment, n_views: int = 1) -> None:
        super().__init__()
        self.aug, self.n_views = check_aug(aug), n_views

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` to views ``(n, B, C, h, w)``, likeliest first; nothing in them is random."""
        return self.aug.views(images, self.n_views, "top")[0]


def export_onnx(
    model: nn.Module, path: str | os.PathLike, image_size: int | tuple[int, int], *, dynamic_batch: bool = True
) -> Path:
    """Write ``model`` as one ONNX file; ``torch.onnx.export(…, dynamo=True)`` with its default opset.

    Its input is ``images``, ``(B, C, H, W)`` float32; its ``output`` what ``model`` gives. Exported models check nothing:
    values outside [0, 1] are not clamped, other sizes are refused by the runtime.

    Args:
        model: a `TTAModel` or `SegmentationTTA` with ``select="top"`` or a policy, or `TopViews`, in any mode.
        path: where to, ending in .onnx; weights are inside, so 2 GB at most.
        image_size: height and width, or one side; fixed in the file.
        dynamic_batch: whether B may be any number; otherwise it is 1.

    Raises:
        InstaAugError: onnxscript is not installed, random views, no size in pixels or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix != ".onnx" or not path.parent.is_dir():
        raise InstaAugError(f"path: expected a name that ends in .onnx in a folder that exists, got {str(path)!r}")
    if not isinstance(getattr(model, "aug", None), LearnedAugment):
        raise InstaAugError(f"model: expected a TTAModel, a SegmentationTTA or TopViews, got {type(model).__name__}")
    select = getattr(model, "select", "top") if getattr(model, "policy", None) is None else "top"
    if select != "top":
        raise InstaAugError(
            f"select: random views cannot be exported, got {select!r}; make the model with select='top'"
        )
    try:
        import onnxscript  # noqa: F401 (what torch.onnx writes with)
    except ImportError as error:
        raise InstaAugError("export: pip install 'instaaug-transforms[export]' for ONNX") from error
    size = check_size(image_size, "image_size")
    # A batch of one would be taken for a constant.
    shape = (2 if dynamic_batch else 1, model.aug.in_channels, *size)
    example = torch.zeros(shape, dtype=torch.float32, device=model.aug.device)
    shapes = {"dynamic_shapes": ({0: torch.export.Dim("batch", min=1)},)} if dynamic_batch else {}
    names = {"input_names": [INPUT], "output_names": [OUTPUT]}
    with evaluating(model):
        program = torch.onnx.export(model, (example,), dynamo=True, verbose=False, **names, **shapes)
    if dynamic_batch and isinstance(program.model.graph.inputs[0].shape[0], int):
        raise InstaAugError("dynamic_batch: the model's code fixes its batch while exporting; give dynamic_batch=False")
    replace_file(path, program.model_proto.SerializeToString())
    return path


@torch.no_grad()
def largest_difference(path: str | os.PathLike, model: nn.Module, batches: Iterable[Tensor]) -> tuple[float, float]:
    """Largest difference of outputs between an ONNX file, run by onnxruntime on the CPU, and ``model``; share of equal answers.

    The difference is infinite where one of them is NaN. An answer is the largest of the classes, axis 1: of each image, or of each
    pixel of ``(B, K, H, W)`` maps.

    Args:
        path: what `export_onnx` wrote.
        model: what it wrote it from.
        batches: of images ``(B, C, H, W)``, float in [0, 1].

    Raises:
        InstaAugError: onnxruntime is not installed, or there are no images.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InstaAugError("export: pip install 'instaaug-transforms[export]' for onnxruntime") from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    difference, same, n = 0.0, 0, 0
    with evaluating(model):
        for images in batches:
            ours = model(images).cpu()
            theirs = torch.from_numpy(session.run(None, {INPUT: images.cpu().numpy()})[0])
            apart = torch.where(ours == theirs, 0.0, (ours - theirs).abs())  # of two infinities that are equal, NaN
            difference = max(difference, torch.where(apart.isnan(), torch.inf, apart).max().item())
            same, n = same + (ours.argmax(1) == theirs.argmax(1)).sum().item(), n + ours[:, 0].numel()
    if not n:
        raise InstaAugError("batches: expected at least one image, got none")
    return difference, same / n
