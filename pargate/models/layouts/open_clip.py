"""A folder with weights and their configuration, in the format of open_clip."""

import re
from pathlib import Path

from pargate.errors import InputError
from pargate.models.config import CONFIG_NAME, WEIGHT_NAMES
from pargate.models.foreign import explained
from pargate.models.layouts import LAYOUTS
from pargate.models.located import FOUND_SUFFIXES, in_folder, names_in, weights_in
from pargate.models.model import Model, read_located
from pargate.models.shards import INDEX

TRAINING = (
    "training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.bin", "scheduler.pt", "scaler.pt", "rng_state.pth",
)  # fmt: skip
"""Files that training loops write beside weights; no loader reads them as a model."""


PART = re.compile(r"-\d{5}-of-\d{5}\.")
"""Part of the name of one of several files, of which an index says what they hold."""


@LAYOUTS.add("open_clip")
class OpenClip:
    """An open_clip folder; all weights files in it must hold the same tensors."""

    pickle = True
    graph = False

    @staticmethod
    def match(source: str) -> bool:
        """Return whether the source is a folder with open_clip's configuration."""
        try:
            return (Path(source) / CONFIG_NAME).is_file()
        except (OSError, ValueError):  # not a valid path
            return False

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        """Return the model, checked."""
        if arch:
            raise InputError(
                f"--arch {arch} does not go with the folder {source}",
                f"drop it, or name the weights file in it: {source}#FILE",
            )
        chosen, *beside = _weights_of(Path(source))
        return read_located(source, in_folder(Path(source), chosen, tuple(beside)), keep)


def _weights_of(folder: Path) -> list[Path]:
    """Return the weights file that open_clip would read, and others that another loader could read."""
    names = names_in(folder)
    if CONFIG_NAME not in names:
        raise explained(folder, names)
    found = sorted((name for name in names if name.endswith(FOUND_SUFFIXES)), key=_preference)
    others = [path.name for path in weights_in(folder) if path.name not in TRAINING and not PART.search(path.name)]
    parts = sorted((name for name in names if name.endswith(INDEX)), key=lambda name: _preference(name[: -len(INDEX)]))
    others += parts
    part = bool(found) and PART.search(found[0]) is not None
    if found and (found[0] in TRAINING or (part and not parts)):  # another file is not what open_clip reads
        what = "one part of its weights, without their index" if part else "no model"
        raise InputError(
            f"{folder}: open_clip reads {found[0]}, which is {what}",
            f"name the weights: {folder}#{others[0]}" if others else "copy or download the folder again",
        )
    if not others:
        raise InputError(f"{folder} holds no weights file", f"looked for {', '.join(WEIGHT_NAMES[:4])} and the like")
    told = parts if part else found or (others if len(others) == 1 or parts == others else [])
    chosen = told[0] if told else None
    if chosen is None:
        raise InputError(
            f"{folder} holds several weights files: {', '.join(others)}", f"name one: {folder}#{others[0]}"
        )
    return [folder / name for name in (chosen, *(name for name in others if name != chosen))]


def _preference(name: str) -> tuple[int, bool, str]:
    """Return the sort key by which open_clip chooses a file: its list, then safetensors, then the name."""
    rank = WEIGHT_NAMES.index(name) if name in WEIGHT_NAMES else len(WEIGHT_NAMES)
    return rank, not name.endswith(FOUND_SUFFIXES[0]), name
