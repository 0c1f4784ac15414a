"""Name folders that hold no model that pargate reads, for what they are, with what to do."""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from pargate.errors import InputError
from pargate.models.config import CONFIG_NAME, WEIGHT_NAMES
from pargate.models.located import WEIGHT_SUFFIXES

KINDS = (
    ("*.distcp", "a checkpoint of torch.distributed (DCP), in parts",
     "join them: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} weights.pt; then give "
     "weights.pt with --arch"),
    ("zero_to_fp32.py", "a checkpoint of DeepSpeed, in parts",
     "join them: python {folder}/zero_to_fp32.py {folder} OUT; then give the file in OUT with --arch"),
    ("mp_rank_*_model_states.pt", "a checkpoint of DeepSpeed",
     "give {folder}/{file} with --arch, if it is the only one"),
    ("model_index.json", "a pipeline of diffusers, whose text_encoder is one tower of a CLIP alone",
     "give the whole CLIPModel that the tower belongs to: without images nothing can be measured"),
    ("openvino_*.xml", "an OpenVINO model", "give the checkpoint that it was converted from"),
    ("*.mlpackage", "a Core ML model", "give the checkpoint that it was converted from"),
    ("*.mlmodel", "a Core ML model", "give the checkpoint that it was converted from"),
    ("*.gguf", "a GGUF model", "give the safetensors weights that it was made from"),
    ("saved_model.pb", "a TensorFlow model", "give its weights for PyTorch, as safetensors"),
    ("*.msgpack", "a Flax model", "give its weights for PyTorch, as safetensors"),
    ("*.h5", "a Keras or TensorFlow model", "give its weights for PyTorch, as safetensors"),
    ("checkpoint-*", "the output of a Trainer", "name one of its checkpoints: {folder}/{file}"),
)  # fmt: skip
"""Pattern of a name in the folder, what the folder is, and what to do."""

SHOWN = 5
"""Largest number of files that a message names."""


def explained(folder: Path, names: Sequence[str]) -> InputError:
    """Return the error for a folder without a configuration; `names` are the names in it."""
    for pattern, what, advice in KINDS:
        found = [name for name in names if fnmatch(name, pattern)]
        if found:
            return InputError(f"{folder} is {what}", advice.format(folder=folder, file=found[-1]))
    weights = [name for name in names if name.casefold().endswith(WEIGHT_SUFFIXES)]
    if weights:
        more = f" and {len(weights) - SHOWN} more" if len(weights) > SHOWN else ""
        return InputError(
            f"{folder} is not an open_clip folder: it holds no {CONFIG_NAME}, only {', '.join(weights[:SHOWN])}{more}",
            f"name one with its architecture, such as {folder}#{weights[-1]} --arch ViT-B-32",
        )
    return InputError(
        f"{folder} is {'empty' if not names else f'not an open_clip folder: it holds no {CONFIG_NAME}'}",
        f"give a folder with {CONFIG_NAME} and one weights file such as {WEIGHT_NAMES[0]}",
    )
