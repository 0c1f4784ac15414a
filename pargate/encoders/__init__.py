"""Models behind one face: a source is inspected without loading it, then opened as an encoder.

`inspect.open_checkpoint` judges a source and keeps its bytes; `open_encoder` makes the encoder from those
bytes. Only the latter needs torch, which is imported when it is called.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pargate.encoders.inspect import OpenCheckpoint
    from pargate.encoders.openclip import OpenClipEncoder

__all__ = ["open_encoder"]


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
    from pargate.encoders import openclip

    return openclip.open_encoder(opened, device=device, precision=precision, activation=activation)
