"""Models behind one face: a source is inspected without loading it, then opened as an encoder.

`inspect.open_checkpoint` judges a source and keeps its bytes; `open_encoder` makes the encoder from those
bytes. Only the latter needs torch, or ONNX Runtime for graphs, which are imported when it is called.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pargate.models.inspect import OpenCheckpoint
    from pargate.models.onnx import OnnxEncoder
    from pargate.models.torch.encoder import OpenClipEncoder

__all__ = ["open_encoder", "open_graphs"]


def open_encoder(
    opened: "OpenCheckpoint",
    *,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    activation: Literal["gelu", "quick_gelu"] | None = None,
) -> "OpenClipEncoder":
    """The encoder of an open checkpoint, on `device`: `auto`, `cpu`, `cuda` or `cuda:N`.

    `precision` is that of the image tower. `activation` overrides the configuration, for weights of which
    nobody knows whether they were trained with QuickGELU (`Checkpoint.activation_known`).

    Raises:
        InputError: weights and configuration do not belong together, or the tokenizer is missing.
        OperationalError: no such device, out of memory, or a package is missing.
    """
    from pargate.models.torch import encoder as openclip

    return openclip.open_encoder(opened, device=device, precision=precision, activation=activation)


def open_graphs(opened: "OpenCheckpoint", *, device: str = "auto", threads: int = 0) -> "OnnxEncoder":
    """The encoder of an open folder of graphs (`Checkpoint.format` is `onnx`), on `device`: as above, or `tensorrt`.

    Precision and activation are those that the graphs were written with. `threads` of the processor for one
    operation, 0 for as many as ONNX Runtime thinks best.

    Raises:
        InputError: an unknown device, or ONNX Runtime refuses the graphs.
        OperationalError: no such device, out of memory, or a package is missing.
    """
    from pargate.models import onnx

    return onnx.open_encoder(opened.take_graphs(), device=device, threads=threads)
