"""Find the files of a model on disk, and read its configuration; most layouts begin so."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargate.core.model import Preprocess
from pargate.errors import InputError
from pargate.files import leads_to_hub_blob
from pargate.models.config import CONFIG_NAME, check, load_json, preprocess, tokenizer_files
from pargate.models.hugging_face import POOL, TOWER
from pargate.models.preprocessing import PREPROCESSOR_NAME, PROCESSOR_NAME, of_processor, refuse_contradiction

HUGGING_FACE = "hf-hub:"
OPEN_CLIP = "open_clip:"
HUB_PREFIXES = (HUGGING_FACE, OPEN_CLIP)
"""Prefixes of sources on a hub."""

FOUND_SUFFIXES = (".safetensors", ".bin", ".pth")
"""Suffixes that open_clip looks for in a folder where none of `WEIGHT_NAMES` exists, in its order."""

WEIGHT_SUFFIXES = (*FOUND_SUFFIXES, ".pt", ".ckpt")
"""Suffixes of weights files; open_clip reads the last two only if they are named."""

LINKED = {
    ".git/annex/": "fetch it and put it there: git annex get FILE, then git annex unlock FILE",
    ".dvc/cache/": "fetch it and put it there: dvc pull FILE, then dvc unprotect FILE",
}
"""Advice for a link, by a part of the path that it leads to."""

DEFAULTS = "the defaults of open_clip"
"""Origin of the preprocessing where the model does not define it."""


@dataclass(frozen=True, slots=True)
class Located:
    """A weights file and its configuration."""

    weights: Path
    """The file, or the index of its parts."""
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    config_name: str
    """Name of the configuration in messages."""
    preprocess_from: str
    """Origin of the preprocessing, for messages."""
    architecture: str | None = None
    """Name of the architecture, where the source gives one."""
    folder: Path | None = None
    """Folder of the tokenizer's files, or None."""
    activation_known: bool = True
    processor: Path | None = None
    """Path of a `preprocessor_config.json`, which must not contradict the configuration."""
    beside: tuple[Path, ...] = ()
    """Other weights files that another loader could read."""
    layout: str = "open_clip"
    """Name of the layout, as the report of `inspect` says it."""
    notes: tuple[str, ...] = ()
    """Sentences on what was chosen among several files or inferred."""


def configured(path: Path, name: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the `model_cfg`, the `preprocess_cfg` and its origin from a file in open_clip's format.

    Args:
        path: the file.
        name: its name in messages.

    Raises:
        InputError: the file is not in this format.
    """
    document = load_json(path)
    model, overlay = document.get("model_cfg"), document.get("preprocess_cfg") or {}
    if not isinstance(model, dict) or not isinstance(overlay, dict):
        raise InputError(
            f"{name} has no model_cfg: not an open_clip configuration", "name an open_clip model, or restore the file"
        )
    vision, text = model.get("vision_cfg"), model.get("text_cfg")
    if isinstance(vision, dict) and vision.get("pool_type") == POOL:
        raise InputError(f"{name}: open_clip knows no vision_cfg.pool_type {POOL!r}", "restore the file")
    if isinstance(text, dict) and TOWER in text:
        raise InputError(f"{name}: open_clip knows no text_cfg.{TOWER}", "restore the file")
    return model, overlay, said_by(overlay, name)


def said_by(overlay: dict[str, Any], name: str) -> str:
    """Return the origin of the preprocessing: `name`, or the defaults if its `preprocess_cfg` is empty."""
    return name if overlay else f"{DEFAULTS}, since {name} has no preprocess_cfg"


def weights_in(folder: Path) -> list[Path]:
    """Return the weights files of a folder, by their suffixes.

    Raises:
        InputError: the folder cannot be read.
    """
    return [folder / name for name in names_in(folder) if name.casefold().endswith(WEIGHT_SUFFIXES)]


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, sorted.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}", "check its permissions") from error


def in_folder(folder: Path, weights: Path, beside: tuple[Path, ...] = ()) -> Located:
    """Return a weights file with the configuration beside it.

    Raises:
        InputError: there is no configuration, or a file is a link out of the folder.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise InputError(f"{folder} holds no {CONFIG_NAME}", "give an open_clip folder, or a file with --arch")
    for part in (path, weights, *beside):
        stay_inside(folder, part)
    model, overlay, by = configured(path, str(path))
    return Located(weights, model, overlay, str(path), by, folder=folder, processor=processor(folder), beside=beside)


def rules(found: Located) -> tuple[Preprocess, dict[str, str]]:
    """Check a configuration; return the preprocessing, and the digests of the tokenizer's files by name.

    Raises:
        InputError: the configuration cannot be used, or a file beside it contradicts it.
    """
    check(found.model_cfg, found.config_name)
    rule = preprocess(found.model_cfg, found.preprocess_cfg, found.preprocess_from)
    if found.processor is not None:
        name = str(found.processor)
        refuse_contradiction(rule, found.preprocess_from, found.model_cfg, of_processor(found.processor), name)
    return rule, tokenizer_files(found.model_cfg, found.folder, found.config_name)


def processor(folder: Path) -> Path | None:
    """Return the path of the folder's `preprocessor_config.json`, or of what newer transformers write instead."""
    for name in (PREPROCESSOR_NAME, PROCESSOR_NAME):
        path = folder / name
        if path.is_file():
            stay_inside(folder, path)
            return path
    return None


def stay_inside(folder: Path, path: Path) -> None:
    """Raise if a path is a link out of a model's folder, except into the blobs of its hub cache."""
    real = Path(os.path.realpath(path))  # does not fail on circular links
    if not real.is_relative_to(os.path.realpath(folder)) and not leads_to_hub_blob(path):
        fetch = next(
            (advice for part, advice in LINKED.items() if part in real.as_posix()), "put the file itself there"
        )
        raise InputError(f"{path} is a link out of its folder, to {real}", fetch)
