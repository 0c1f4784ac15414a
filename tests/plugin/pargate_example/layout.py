"""A checkpoint layout: a text file that names the open_clip folder beside it."""

from dataclasses import replace
from pathlib import Path

from pargate.errors import InputError
from pargate.models.layouts import LAYOUTS
from pargate.models.model import Model


class Pointer:
    """A file with the suffix `.pointer`, whose one line is the name of a folder."""

    pickle = False
    graph = False

    @staticmethod
    def match(source: str) -> bool:
        """Return whether the source is such a file."""
        return source.endswith(".pointer") and Path(source).is_file()

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        """Return the model that the file names, judged as any open_clip folder is."""
        if arch:
            raise InputError(f"--arch {arch} does not go with {source}", "drop it")
        folder = Path(source).parent / Path(source).read_text(encoding="utf-8").strip()
        model = LAYOUTS["open_clip"].open(str(folder), None, keep)
        model.checkpoint = replace(model.checkpoint, source=source)
        return model
