"""Give the tensors of a weights file the names that they have in the model.

Training tools put prefixes before the names, OpenAI stored three numbers beside them, and transformers has names of its
own. What is removed or renamed is said in a note. The result is compared with the architecture (`shapes.py`), so that a
wrong guess here ends in a refusal, never in another model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pargate.errors import InputError
from pargate.models import origins
from pargate.models.archive import StoredTensor

WRAPPERS = ("module", "_orig_mod")
"""Parts of names that DDP and torch.compile insert."""

NUMBERS = ("input_resolution", "context_length", "vocab_size", "n_averaged")
"""Numbers that OpenAI's archives and torch's AveragedModel store beside the weights."""

SCALE = "logit_scale"
"""Name of a tensor that every CLIP has, which shows the common prefix of all names."""

TEXT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
"""Beginnings of a text tower's names, which an older open_clip did not put into `text.`."""

ADAPTERS = (".lora_", "lora_A.", "lora_B.", ".base_layer.", "lora_magnitude_vector")
"""Parts of the names of an adapter that was not merged into the weights."""


@dataclass(frozen=True, slots=True)
class Named:
    """Tensors under the names of the model."""

    tensors: tuple[StoredTensor, ...]
    notes: tuple[str, ...]
    """Sentences on what was renamed or left out."""
    stored: tuple[StoredTensor, ...] = ()
    """The same tensors by their names in the library that wrote them."""


def in_model(tensors: Sequence[StoredTensor], config: Mapping[str, Any], source: str) -> Named:
    """Return the tensors of a file by their names in the model of open_clip that `config` describes.

    Raises:
        InputError: as `in_library`, or a model of transformers is incomplete.
    """
    named = in_library(tensors, config, source)
    if not any(tensor.name.startswith("vision_model.") for tensor in named.tensors):
        return replace(named, stored=named.tensors)
    note = "renamed the tensors of transformers, and stacked query, key and value"
    return Named(origins.translated(named.tensors, config, source), (*named.notes, note), named.tensors)


def in_library(tensors: Sequence[StoredTensor], config: Mapping[str, Any], source: str) -> Named:
    """Return the tensors of a file by their names in the model of the library that wrote it, as it is loaded there.

    Raises:
        InputError: two tensors have the same name, or an adapter is not merged.
    """
    found, notes = _unwrapped(tensors, source)
    if adapter := next((name for name in found if any(part in f".{name}" for part in ADAPTERS)), None):
        raise InputError(
            f"{source} holds an adapter that is not merged into the weights: {adapter}",
            "merge it first, with merge_and_unload() of peft, and save the model",
        )
    numbers = [name for name in NUMBERS if name in found and not found[name].shape]
    for name in numbers:
        del found[name]
    if numbers:
        notes.append(f"left out {', '.join(numbers)}: numbers beside the weights")
    found, prefix = _without_prefix(found)
    if prefix:
        notes.append(f"removed the prefix {prefix} from the names")
    if config.get("custom_text") and "text_projection" in found:
        notes.append("moved the text tower's tensors to text., as open_clip does for older files")
        renamed = {f"text.{name}" if name.startswith(TEXT) else name: tensor for name, tensor in found.items()}
        if len(renamed) == len(found):
            found = renamed
    return Named(tuple(replace(tensor, name=name) for name, tensor in found.items()), tuple(notes))


def _unwrapped(tensors: Sequence[StoredTensor], source: str) -> tuple[dict[str, StoredTensor], list[str]]:
    """Return the tensors without the prefixes of DDP and torch.compile, and a note on those.

    Prefixes are removed name by name; open_clip's loader removes the prefix of the first name from all.
    """
    found: dict[str, StoredTensor] = {}
    wrapped = set[str]()
    for tensor in tensors:
        parts = [part for part in tensor.name.split(".") if part != "_orig_mod"]
        while parts[0] == "module" and len(parts) > 1:
            parts = parts[1:]
        name = ".".join(parts)
        if name != tensor.name:
            wrapped |= set(WRAPPERS) & set(tensor.name.split("."))
        if name in found:
            raise InputError(f"{source} holds {name} twice, under different prefixes", "save the weights again")
        found[name] = replace(tensor, name=name)
    told = [f"{part}." for part in WRAPPERS if part in wrapped]
    return found, [f"removed {' and '.join(told)} from the names"] if told else []


def _without_prefix(tensors: dict[str, StoredTensor]) -> tuple[dict[str, StoredTensor], str]:
    """Return the tensors without the prefix that all share, and that prefix."""
    prefixes = [name.removesuffix(SCALE) for name in tensors if f".{name}".endswith(f".{SCALE}")]
    if len(prefixes) != 1 or not all(name.startswith(prefixes[0]) for name in tensors):
        return tensors, ""
    (prefix,) = prefixes
    cut = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return {name: replace(tensor, name=name) for name, tensor in cut.items()}, prefix
