"""Write a network's weights as safetensors and hash them."""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pargate.core.provenance import Subject
from pargate.errors import OperationalError
from pargate.models.torch.build import DTYPES

ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL")
"""Order of the dtypes in a file that the safetensors library writes, which keeps every value aligned."""

PADDED = 8
"""The header is padded with spaces to a multiple of this."""


def stored_types(network: nn.Module, told: dict[str, str]) -> dict[str, str]:
    """Return the dtype of each weight of a network: that in `told`, or the network's own.

    Raises:
        OperationalError: a weight does not fit into its dtype.
    """
    own = {dtype: name for name, dtype in DTYPES.items()}
    found = {}
    for name, value in network.state_dict().items():
        found[name] = told[name] if told.get(name) in DTYPES else own[value.dtype]
        if not torch.isfinite(value.detach().to(DTYPES[found[name]])).all():
            raise OperationalError(
                f"{name} does not fit into {DTYPES[found[name]]}, the parent's own type",
                "start again with a lower --lr, or with an fp32 parent",
            )
    return found


def save_weights(
    path: Path, state: Mapping[str, Tensor], types: Mapping[str, str], notes: Mapping[str, str] | None = None
) -> Subject:
    """Write weights in the dtypes of `stored_types`; return the file with its digest.

    The bytes are those of the safetensors library, which would copy all tensors first and leave the hashing to a second
    read. `notes` is the `__metadata__` of the file.

    Raises:
        OperationalError: the disk is full.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("wb") as stream:
            for content in _contents(types, state, notes):
                digest.update(content)
                stream.write(content)
                size += len(content)
    except OSError as error:
        raise OperationalError(f"cannot write the weights: {error}", "free space or choose another place") from error
    return Subject(name=path.name, sha256=digest.hexdigest(), size_bytes=size)


def _contents(types: Mapping[str, str], state: Mapping[str, Tensor], notes: Mapping[str, str] | None) -> Iterator[Any]:
    """Yield the header, then the bytes of each tensor."""
    names = sorted(state, key=lambda name: (ORDER.index(types[name]), name))
    header: dict[str, Any] = {"__metadata__": dict(notes)} if notes else {}
    end = 0
    for name in names:
        begin, end = end, end + state[name].numel() * DTYPES[types[name]].itemsize
        header[name] = {"dtype": types[name], "shape": list(state[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % PADDED)
    yield struct.pack("<Q", len(text)) + text
    for name in names:
        value = state[name].detach().to("cpu", DTYPES[types[name]]).contiguous()
        yield value.reshape(-1).view(torch.uint8).numpy().data
