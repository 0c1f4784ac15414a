"""Read the tensors of a TorchScript archive, such as OpenAI's files, as data.

`torch.jit.save` writes a program (`code/`, `constants.pkl`) and the module's attributes (`data.pkl`). The program is
never run or parsed. The attributes are plain values, tensors and modules within modules, which give a state dict.

`torch.jit.load` gives the same tensors, unless a class has a method `__setstate__`: the one part of a program that runs
while it is loaded. So a program with this word is refused.
"""

import zlib
from collections.abc import Callable, Iterable
from typing import Any

from pargate import limits
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.models.pickles import CONVERT, Module, Tensor, search

CONVERT_SCRIPT = (
    "if you trust where the file comes from, convert it once, on a machine that may be lost: "
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "d = torch.jit.load(sys.argv[1], map_location='cpu').state_dict(); "
    "[d.pop(k, None) for k in ('input_resolution', 'context_length', 'vocab_size')]; "
    'save_file({k: v.contiguous().clone() for k, v in d.items()}, sys.argv[2])" OLD NEW.safetensors; '
    "OpenAI's weights exist without code: open_clip:ViT-B-32-quickgelu/openai"
)
"""Advice for a TorchScript archive that holds more than a module of plain values."""

MEMBERS = ("code/", "constants.pkl", "constants/", "traced_inputs.pkl", "traced_inputs/")
"""Beginnings of the members that torch.jit.save writes for the program and the inputs it was traced with."""

_MASK = "attn_mask"
"""Name of a tensor that a TorchScript archive may hold, which every CLIP computes from its context length."""

UNUSED = (
    "read the tensors of a TorchScript archive; the program in the file was not used, and may compute something else "
    "where another tool runs it"
)
"""Note on a TorchScript archive."""


def refuse_calls(member: Callable[[str], bytes | None], name: str) -> None:
    """Raise if a pickle of a program, which is not used here, could run code in a reader other than TorchScript's.

    `member` returns the bytes of a member, or None if it does not exist.
    """
    for part in ("constants.pkl", "traced_inputs.pkl"):
        if (found := search(member(part) or b"", scripted=True)).names:
            raise UnsafeCheckpoint(f"{name} could run code when it is loaded: {part} in it {found}", CONVERT)


def refuse_setstate(sources: Iterable[tuple[bool, bytes, int]], name: str) -> None:
    """Raise if a program changes the module's attributes while it is loaded.

    Each source is whether it is packed, its bytes, and its length when it is unpacked.
    """
    left = limits.UNWRAPPED_BYTES
    for packed, content, length in sources:
        left -= length
        if left < 0:
            raise InputError(f"{name} holds a program larger than that of any CLIP", CONVERT_SCRIPT)
        try:
            text = zlib.decompressobj(-15).decompress(content, length + 1) if packed else content
        except zlib.error as error:
            raise InputError(
                f"{name} is damaged: its program cannot be unpacked", "copy or download it again"
            ) from error
        if b"__setstate__" in text or len(text) != length:
            raise UnsafeCheckpoint(
                f"{name} is a TorchScript archive whose program may change the tensors as it is loaded (__setstate__)",
                CONVERT_SCRIPT,
            )


def state_dict(value: Any, name: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of a TorchScript module by their names, and notes.

    Parameters, buffers and other attributes are told apart by the program alone. Every tensor is returned except the
    mask, so that what is no weight of a CLIP is refused later by its name.
    """
    if not isinstance(value, Module):
        raise UnsafeCheckpoint(
            f"{name} is a TorchScript archive whose data.pkl holds no module; two readers could see two files",
            CONVERT_SCRIPT,
        )
    found: dict[str, Tensor] = {}
    waiting, masks, seen = [("", value)], False, 0
    while waiting:
        prefix, module = waiting.pop()
        attributes = module.attributes or {}
        seen += 1 + len(attributes)
        # Modules may hold each other, also endlessly.
        if seen > limits.TENSORS or len(prefix) > limits.TENSOR_NAME:
            raise InputError(f"{name} holds more modules than any CLIP", CONVERT_SCRIPT)
        for key, part in attributes.items():
            if isinstance(part, Module):
                waiting.append((f"{prefix}{key}.", part))
            elif isinstance(part, Tensor) and key == _MASK:
                masks = True
            elif isinstance(part, Tensor):
                found[f"{prefix}{key}"] = part
    return found, (UNUSED, *([f"left out {_MASK}, which follows from the context length"] if masks else ()))
