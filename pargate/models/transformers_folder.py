"""Find the files of a `CLIPModel` that transformers saved, and read its configuration as open_clip's."""

from pathlib import Path
from typing import Any

from pargate.errors import InputError
from pargate.models import hugging_face
from pargate.models.config import TOKENIZER_FILES, VOCABULARY, VOCABULARY_FILES, load_json
from pargate.models.located import DEFAULTS, Located, names_in, processor, stay_inside
from pargate.models.preprocessing import of_processor
from pargate.models.tokenizer import is_clips_own

SETTINGS = "config.json"
"""File name of transformers' configurations."""

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files of which transformers reads the first that exists."""

NESTED = ("0_CLIPModel", "0_Transformer")
"""Folders in which sentence-transformers keeps the model."""

LAYOUT = "transformers"


def home(folder: Path) -> Path:
    """Return the folder itself, or the one in it that holds the model of sentence-transformers."""
    inside = [folder / name for name in NESTED if (folder / name / SETTINGS).is_file()]
    return inside[0] if inside and not (folder / SETTINGS).is_file() else folder


def located(folder: Path) -> Located:
    """Return the files of a `CLIPModel`, with its configuration as open_clip's.

    Raises:
        InputError: the folder holds another model, or no weights.
    """
    settings = folder / SETTINGS
    stay_inside(folder, settings)
    model = hugging_face.model_config(load_json(settings), str(settings))
    said, names = processor(folder), [name for name in WEIGHTS if (folder / name).is_file()]
    if not names:
        others = [name for name in names_in(folder) if name.endswith((".msgpack", ".h5", ".gguf", ".onnx"))]
        raise InputError(
            f"{folder} holds no {' and no '.join(WEIGHTS[::2])}" + (f", only {', '.join(others)}" if others else ""),
            "save the model with save_pretrained, or download its safetensors",
        )
    for name in names:
        stay_inside(folder, folder / name)
    tokenizer, note = _tokenizer(folder, model["text_cfg"]["vocab_size"])
    return Located(
        folder / names[0],
        {**model, "text_cfg": model["text_cfg"] | tokenizer},
        of_processor(said) if said else {},
        str(settings),
        str(said) if said else f"{DEFAULTS}, since no file beside {SETTINGS} says how images are prepared",
        folder=folder,
        beside=tuple(folder / name for name in names[1:]),
        layout=LAYOUT,
        notes=(f"captions: {note}",),
    )


def _tokenizer(folder: Path, vocabulary: int) -> tuple[dict[str, Any], str]:
    """Return the field of a `text_cfg` that names the tokenizer, none for CLIP's own, and a note on it."""
    here = {name for name in TOKENIZER_FILES if (folder / name).is_file()}
    for name in here:
        stay_inside(folder, folder / name)
    if vocabulary == VOCABULARY:
        if not VOCABULARY_FILES & here:
            return {}, "CLIP's own tokenizer, since none lies beside the weights"
        if is_clips_own(folder):
            return {}, "the tokenizer beside the weights is CLIP's own; the padding behind a caption's end is never read"
    return {"hf_tokenizer_name": "beside the weights"}, "the tokenizer beside the weights"
