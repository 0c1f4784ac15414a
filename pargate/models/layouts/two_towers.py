"""A folder with the two towers of a CLIP of transformers, each in a folder of its own."""

from pathlib import Path

from pargate.errors import InputError
from pargate.models.config import CONFIG_NAME
from pargate.models.layouts import LAYOUTS
from pargate.models.model import Model, read_located
from pargate.models.transformers_folder import SETTINGS, home
from pargate.models.two_towers import LAYOUT, kinds_in, located


@LAYOUTS.add(LAYOUT)
class TwoTowers:
    """A folder without a configuration of its own, in which folders hold towers with their projections."""

    pickle = True
    graph = False

    @staticmethod
    def match(source: str) -> bool:
        """Return whether the source is a folder in which a folder holds a tower with its projection."""
        try:
            path = Path(source)
            alone = path.is_dir() and not (path / CONFIG_NAME).is_file() and not (home(path) / SETTINGS).is_file()
            return alone and bool(kinds_in(path))
        except (InputError, OSError, ValueError):  # not a valid path, or no configuration
            return False

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        """Return the model, checked."""
        if arch:
            raise InputError(
                f"--arch {arch} does not go with {source}", f"drop it: each {SETTINGS} describes its tower"
            )
        return read_located(source, located(Path(source)), keep)
