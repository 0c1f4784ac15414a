"""A folder of transformers: a `CLIPModel` with `config.json`, in one file or in shards."""

from pathlib import Path

from pargate.errors import InputError
from pargate.models.config import CONFIG_NAME
from pargate.models.layouts import LAYOUTS
from pargate.models.model import Model, read_located
from pargate.models.transformers_folder import LAYOUT, SETTINGS, home, located


@LAYOUTS.add(LAYOUT)
class Transformers:
    """A folder with a `config.json` of transformers and no configuration of open_clip."""

    pickle = True
    graph = False

    @staticmethod
    def match(source: str) -> bool:
        """Return whether the source is a folder with transformers' configuration, or one of sentence-transformers."""
        try:
            path = Path(source)
            return path.is_dir() and not (path / CONFIG_NAME).is_file() and (home(path) / SETTINGS).is_file()
        except (OSError, ValueError):  # not a valid path
            return False

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        """Return the model, checked."""
        if arch:
            raise InputError(f"--arch {arch} does not go with {source}", f"drop it: {SETTINGS} describes the model")
        return read_located(source, located(home(Path(source))), keep)
