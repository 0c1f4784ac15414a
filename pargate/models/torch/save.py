"""Write an open model's weights as safetensors."""

import contextlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pargate.errors import OperationalError
from pargate.models.inspect import WEIGHT_NAMES, OpenCheckpoint
from pargate.models.shapes import plain_names
from pargate.models.torch.build import DTYPES


def stored(opened: OpenCheckpoint, model: nn.Module) -> dict[str, Tensor]:
    """The weights of a model by name, in the parent's own dtypes.

    Raises:
        OperationalError: one does not fit into its dtype.
    """
    dtypes = {name: tensor.dtype for name, tensor in plain_names(opened.tensors, opened.checkpoint.source).items()}
    values = {}
    for name, value in model.state_dict().items():
        dtype = DTYPES.get(dtypes.get(name, ""), value.dtype)
        values[name] = value.detach().to("cpu", dtype).contiguous().clone()
        if not torch.isfinite(values[name]).all():
            raise OperationalError(
                f"{name} does not fit into {dtype}, the parent's own type",
                "begin anew with a lower --lr, or with an fp32 parent",
            )
    return values


def save_weights(folder: Path, values: dict[str, Tensor]) -> None:
    """Weights as safetensors.

    Raises:
        OperationalError: the disk is full.
    """
    try:
        save_file(values, folder / WEIGHT_NAMES[0])
    except Exception as error:  # safetensors has an error of its own for what the system says
        raise OperationalError(f"cannot write the weights: {error}", "free space or choose another place") from error
    with contextlib.suppress(OSError):  # a file system without modes
        (folder / WEIGHT_NAMES[0]).chmod(0o644)  # made private by default
