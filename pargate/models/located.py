"""The files of a model on disk, and what its configuration says: what most layouts find before weights are read."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pargate.errors import InputError
from pargate.files import leads_to_hub_blob
from pargate.models.config import CONFIG_NAME, load_json
from pargate.models.preprocessing import PREPROCESSOR_NAME

HUGGING_FACE = "hf-hub:"
OPEN_CLIP = "open_clip:"
HUB_PREFIXES = (HUGGING_FACE, OPEN_CLIP)
"""How sources begin that lie on a hub."""

FOUND_SUFFIXES = (".safetensors", ".bin", ".pth")
"""Weights that open_clip takes of a folder where `WEIGHT_NAMES` has none: the first kind first, each kind by name."""

WEIGHT_SUFFIXES = (*FOUND_SUFFIXES, ".pt", ".ckpt")
"""Files that hold weights; open_clip takes the last two only where they are named."""

DEFAULTS = "the defaults of open_clip"
"""What says how images are prepared where nothing else does."""


@dataclass(frozen=True, slots=True)
class Located:
    """A weights file, and how it is read."""

    weights: Path
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    config_name: str
    """What messages call the configuration."""
    preprocess_from: str
    """What says how images are prepared."""
    architecture: str | None = None
    """Its name, where the source says one."""
    folder: Path | None = None
    """Folder of the tokenizer's files, where there is one."""
    activation_known: bool = True
    processor: Path | None = None
    """A `preprocessor_config.json` that must not contradict the configuration."""
    beside: tuple[Path, ...] = ()
    """Other weights that a loader could take."""


def configured(path: Path, name: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the `model_cfg` and the `preprocess_cfg` of a file in open_clip's format, and what says the latter.

    Args:
        path: the file.
        name: what messages call it.

    Raises:
        InputError: it is not such a file.
    """
    document = load_json(path)
    model, overlay = document.get("model_cfg"), document.get("preprocess_cfg") or {}
    if not isinstance(model, dict) or not isinstance(overlay, dict):
        raise InputError(
            f"{name} has no model_cfg: not an open_clip configuration", "name an open_clip model, or restore the file"
        )
    return model, overlay, said_by(overlay, name)


def said_by(overlay: dict[str, Any], name: str) -> str:
    """Return what says how images are prepared: `name`, if its `preprocess_cfg` does."""
    return name if overlay else f"{DEFAULTS}, since {name} has no preprocess_cfg"


def weights_in(folder: Path) -> list[Path]:
    """Return the files of a folder that hold weights by their names.

    Raises:
        InputError: it cannot be read.
    """
    return [folder / name for name in names_in(folder) if name.casefold().endswith(WEIGHT_SUFFIXES)]


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, sorted.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}", "check its permissions") from error


def in_folder(folder: Path, weights: Path, beside: tuple[Path, ...] = ()) -> Located:
    """Return weights that lie beside their configuration.

    Raises:
        InputError: there is none, or a file is a link out of the folder.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise InputError(f"{folder} holds no {CONFIG_NAME}", "give an open_clip folder, or a file with --arch")
    for part in (path, weights, *beside):
        _stay_inside(folder, part)
    model, overlay, by = configured(path, str(path))
    return Located(weights, model, overlay, str(path), by, folder=folder, processor=processor(folder), beside=beside)


def processor(folder: Path) -> Path | None:
    """Return the folder's `preprocessor_config.json`, where it has one."""
    path = folder / PREPROCESSOR_NAME
    if not path.is_file():
        return None
    _stay_inside(folder, path)
    return path


def _stay_inside(folder: Path, path: Path) -> None:
    """Refuse a link out of a model's folder, except into the blobs of the hub's cache that it belongs to."""
    real = Path(os.path.realpath(path))  # which takes a circle of links, too
    if not real.is_relative_to(os.path.realpath(folder)) and not leads_to_hub_blob(path):
        raise InputError(f"{path} is a link out of its folder, to {real}", "put the file itself there")
