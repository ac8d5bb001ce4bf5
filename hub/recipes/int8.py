"""An int8 copy of a classifier, run by onnxruntime: on processors without bfloat16 a loss table takes a quarter of the time.

Losses of the copy rank an image's views as the classifier's own do (its answers are compared by `agreement`); φ learns from
them, and everything that is reported is reported on the classifier itself.
"""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn


class _Batches(CalibrationDataReader):
    def __init__(self, images: Tensor) -> None:
        self.batches = iter(images.split(32))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch.numpy()}


class Int8Copy(nn.Module):
    """Images in [0, 1] to logits, as the classifier's but for roundings.

    Args:
        classifier: to copy, in eval mode.
        images: some hundred images ``(N, C, H, W)`` in [0, 1], from which ranges of activations are read.
    """

    def __init__(self, classifier: nn.Module, images: Tensor) -> None:
        super().__init__()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain, ready, out = (str(Path(folder) / f"{name}.onnx") for name in ("plain", "ready", "int8"))
            free = {"images": {0: "batch"}}
            torch.onnx.export(classifier, (images[:2],), plain, dynamo=False, input_names=["images"], dynamic_axes=free)
            quant_pre_process(plain, ready)
            kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
            quantize_static(ready, out, _Batches(images), per_channel=True, **kinds)
            self.file = Path(out).read_bytes()
        # What tells it from other classifiers: tables and checkpoints are kept by a module's tensors.
        self.register_buffer("content", torch.frombuffer(bytearray(self.file), dtype=torch.uint8))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])

    def forward(self, images: Tensor) -> Tensor:
        (logits,) = self.session.run(None, {"images": images.contiguous().numpy()})
        return torch.from_numpy(logits)


@torch.no_grad()
def agreement(classifier: nn.Module, copy: nn.Module, images: Tensor, targets: Tensor) -> dict[str, float]:
    """Of the losses of both on ``(N, C, H, W)`` images: their correlation, and accuracy of each, percent."""
    logits = [torch.cat([model(part) for part in images.split(64)]) for model in (classifier, copy)]
    losses = torch.stack([F.cross_entropy(one, targets, reduction="none") for one in logits])
    right = [100 * (one.argmax(1) == targets).double().mean().item() for one in logits]
    return {"correlation": losses.corrcoef()[0, 1].item(), "classifier": right[0], "int8": right[1]}
