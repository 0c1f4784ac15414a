"""What every kind of hostile file has in common: how it is made, asked about and judged."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLEAN = Path(__file__).parents[2] / "examples" / "models" / "clean"
WEIGHTS = "open_clip_model.safetensors"
PICKLED = "open_clip_pytorch_model.bin"
CONFIG = "open_clip_config.json"
CANARY = "ran"
"""Name of the file that every payload would create in the working folder."""

POLICY = "pargate: 1\nname: x\nrules:\n  - {id: a, probe: attack, triggers: [badnet], max: {excess: 30pp}}\n"


@dataclass(frozen=True)
class Case:
    """One hostile input and what has to come of it."""

    name: str
    build: Callable[[Path], list[str]]
    """Fills an empty folder; returns the arguments of the command."""
    codes: tuple[int, ...]
    """Exit codes that are right; several where it depends on the file which reason comes first."""
    words: str = ""
    """What the message holds."""
    heavy: bool = False
    """Whether it takes seconds, and is left to the nightly workflow."""


def bare(name: str, content: bytes, codes: tuple[int, ...], words: str = "", suffix: str = ".pt") -> Case:
    """A file that is given as the model."""

    def build(place: Path) -> list[str]:
        (place / f"model{suffix}").write_bytes(content)
        return ["inspect", f"model{suffix}"]

    return Case(name, build, codes, words)


def in_folder(name: str, content: bytes, codes: tuple[int, ...], words: str = "", file: str = PICKLED) -> Case:
    """Weights beside the configuration of the example."""

    def build(place: Path) -> list[str]:
        model(place, {file: content})
        return ["inspect", "model"]

    return Case(name, build, codes, words)


def model(place: Path, files: dict[str, bytes] | None = None, **changes: Any) -> Path:
    """Make a copy of the example model with other files, or with other fields in parts of its configuration."""
    folder = place / "model"
    folder.mkdir()
    config = json.loads((CLEAN / CONFIG).read_bytes())
    for part, fields in changes.items():
        target = config["model_cfg"]
        target[part] = target[part] | fields if isinstance(fields, dict) else fields
    (folder / CONFIG).write_text(json.dumps(config))
    for name, content in (files or {WEIGHTS: (CLEAN / WEIGHTS).read_bytes()}).items():
        (folder / name).write_bytes(content)
    return folder


def images(place: Path, count: int = 8) -> Path:
    """Make a small folder of two classes."""
    folder = place / "pictures"
    for number in range(count):
        path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((24, 24, 3), number, np.uint8)).save(path)
    return folder


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            made.writestr(info, content)
    return buffer.getvalue()
