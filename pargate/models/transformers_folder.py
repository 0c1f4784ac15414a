"""Find the files of a model of transformers, and read its configuration as open_clip's."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pargate import limits
from pargate.core.choices import SavedLayout
from pargate.core.model import Checkpoint
from pargate.core.provenance import Subject
from pargate.errors import InputError
from pargate.files import read_bytes
from pargate.models import hugging_face
from pargate.models.config import (
    TOKENIZER_FILES,
    VOCABULARY,
    VOCABULARY_FILES,
    config_digest,
    load_json,
    preprocess,
    refuse_other_files,
    tokenizer_files,
)
from pargate.models.located import DEFAULTS, Located, names_in, processor, stay_inside
from pargate.models.preprocessing import PREPROCESSOR_NAME, PROCESSOR_NAME, of_processor
from pargate.models.save import changed, written
from pargate.models.sources import SEPARATOR, refuse_adapter
from pargate.models.tokenizer import is_clips_own

SETTINGS = "config.json"
"""File name of transformers' configurations."""

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files of which transformers reads the first that exists."""

NESTED = ("0_CLIPModel", "0_Transformer")
"""Folders in which sentence-transformers keeps the model."""

LAYOUT = "transformers"

KEPT_ALONE = "open_clip's format cannot express the towers of a SigLIP, a Chinese CLIP or an AltCLIP of transformers"
"""Why a model is written in no other layout than its own."""


def home(folder: Path) -> Path:
    """Return the folder itself, or the one in it that holds the model of sentence-transformers."""
    inside = [folder / name for name in NESTED if (folder / name / SETTINGS).is_file()]
    return inside[0] if inside and not (folder / SETTINGS).is_file() else folder


def model_config(settings: Path) -> dict[str, Any]:
    """Return open_clip's `model_cfg` of a `config.json`.

    Raises:
        InputError: as `hugging_face.model_config`.
    """
    stay_inside(settings.parent, settings)
    return hugging_face.model_config(load_json(settings), str(settings))


def located(folder: Path) -> Located:
    """Return the files of a model of transformers, with its configuration as open_clip's.

    Raises:
        InputError: the folder holds another model, or no weights.
        UnsafeCheckpoint: an adapter lies beside them.
    """
    names = [name for name in WEIGHTS if (folder / name).is_file()]
    if not names:
        others = [name for name in names_in(folder) if name.endswith((".msgpack", ".h5", ".gguf", ".onnx"))]
        raise InputError(
            f"{folder} holds no {' and no '.join(WEIGHTS[::2])}" + (f", only {', '.join(others)}" if others else ""),
            "save the model with save_pretrained, or download its safetensors",
        )
    refuse_adapter(folder, f"move the adapter to a folder of its own, and name both: MODEL{SEPARATOR}ADAPTER")
    return described(folder, *(folder / name for name in names))


def described(folder: Path, weights: Path, *beside: Path) -> Located:
    """Return weights of a model of transformers with the configuration in `folder`, as open_clip's.

    Raises:
        InputError: as `hugging_face.model_config`, or a file is a link out of the folder.
    """
    settings = folder / SETTINGS
    model = model_config(settings)
    for path in (weights, *beside):
        stay_inside(folder, path)
    said = processor(folder)
    text, note = tokenizer(folder, model)
    siglip = hugging_face.is_siglip(model)
    defaults, whose = (hugging_face.SIGLIP_IMAGES, "the defaults of SiglipImageProcessor") if siglip else ({}, DEFAULTS)
    return Located(
        weights,
        {**model, "text_cfg": model["text_cfg"] | text},
        {**defaults, **(of_processor(said) if said else {})},
        str(settings),
        str(said) if said else f"{whose}, since no file beside {SETTINGS} says how images are prepared",
        folder=folder,
        beside=beside,
        layout=LAYOUT,
        notes=(
            f"captions: {note}",
            *([f"written in this layout alone: {KEPT_ALONE}"] if hugging_face.is_kept_alone(model) else []),
        ),
    )


def tokenizer(folder: Path, model: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the fields of a `text_cfg` that follow from the tokenizer, none for CLIP's own, and a note on it.

    Raises:
        InputError: a file is a link out of the folder, or cannot be read; or as `config.refuse_other_files`.
    """
    here = {name for name in TOKENIZER_FILES if (folder / name).is_file()}
    for name in here:
        stay_inside(folder, folder / name)
    refuse_other_files(folder)
    if hugging_face.has_bert(model):
        return _for_bert(folder, model)
    if model["text_cfg"]["vocab_size"] == VOCABULARY and not hugging_face.is_siglip(model):
        if not VOCABULARY_FILES & here:
            return {}, "CLIP's own tokenizer, since none lies beside the weights"
        if is_clips_own(folder):
            return (
                {},
                "the tokenizer beside the weights is CLIP's own; padding behind a caption counts nothing",
            )
    return {"hf_tokenizer_name": "beside the weights"}, "the tokenizer beside the weights"


def _for_bert(folder: Path, model: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the fields of a `text_cfg` for a text tower of transformers, and a note on it.

    Raises:
        InputError: the tokenizer cuts captions to nothing.
    """
    path, context = folder / "tokenizer_config.json", model["text_cfg"]["context_length"]
    said = load_json(path).get("model_max_length") if path.is_file() else None
    if type(said) is int:
        if said < (least := limits.FIELDS["context_length"][0]):
            raise InputError(
                f"{path}: model_max_length is {str(said)[:20]}, but must be at least {least}", "restore the file"
            )
        context = min(context, said)
    kind = model["text_cfg"][hugging_face.TOWER]["model_type"]
    return (
        {"hf_tokenizer_name": "beside the weights", "context_length": context},
        f"the tokenizer beside the weights, at most {context} tokens, for a text tower of transformers ({kind})",
    )


def is_kept(checkpoint: Checkpoint, layout: SavedLayout | None = None) -> bool:
    """Return whether a model is written as transformers writes it: on request, or as open_clip cannot express it."""
    return checkpoint.layout == LAYOUT and (layout == "keep" or hugging_face.is_kept_alone(checkpoint.config))


def check_settings(written: Sequence[Subject], parent: Checkpoint) -> None:
    """Raise if the settings of a model of transformers that `Model.save` wrote differ from those of `parent`.

    Raises:
        ValueError: they differ.
    """
    digests = {file.name: file.sha256 for file in written if file.name in TOKENIZER_FILES}
    if config_digest(parent.config, parent.preprocess, digests) != parent.config_sha256:
        raise ValueError("another configuration")


def save_settings(folder: Path, checkpoint: Checkpoint) -> Iterator[Subject]:
    """Write the settings of a model of transformers as they were, beside its weights; yield each file that was written.

    Raises:
        InputError: they changed since the checkpoint was opened.
    """
    home = Path(str(checkpoint.folder))
    for name in dict.fromkeys((SETTINGS, PREPROCESSOR_NAME, PROCESSOR_NAME, *TOKENIZER_FILES)):
        if (home / name).is_file():
            yield written(folder, name, read_bytes(home / name, limits.TOKENIZER_BYTES))
    # What was written is read again, as the next command will.
    made = located(folder)
    rule = preprocess(made.model_cfg, made.preprocess_cfg, made.preprocess_from)
    digests = tokenizer_files(made.model_cfg, folder, made.config_name)
    if config_digest(made.model_cfg, rule, digests) != checkpoint.config_sha256:
        raise changed(f"a file in {home}")
