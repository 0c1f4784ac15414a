"""Layouts of checkpoints: each module registers one, which recognises its sources and opens them."""

import contextlib
from pathlib import Path
from typing import Any, Protocol

from pargate import limits
from pargate.errors import InputError
from pargate.models import weights
from pargate.models.located import names_in, weights_in
from pargate.models.model import Model
from pargate.models.sources import parts
from pargate.models.transformers_folder import SETTINGS
from pargate.models.two_towers import kinds_in
from pargate.registry import Registry


class Layout(Protocol):
    """A layout of a checkpoint on disk or on a hub."""

    pickle: bool
    """Whether its files may hold pickles, which are searched for code if the source cannot be opened."""
    graph: bool
    """Whether it holds graphs, which name their architecture themselves."""

    def match(self, source: str) -> bool:
        """Return whether a source has this layout; read no more than its first bytes."""
        ...

    def open(self, source: str, arch: str | None, keep: bool) -> Model:
        """Return the model, checked; `arch` is the value of `--arch`, and `keep` whether its bytes stay in memory.

        Raises:
            InputError, UnsafeCheckpoint, OperationalError: as `pargate.models.open.open_model`.
        """
        ...


def _is_layout(name: str, part: Any) -> bool:
    traits = (getattr(part, "pickle", None), getattr(part, "graph", None))
    return all(isinstance(trait, bool) for trait in traits) and callable(part.match) and callable(part.open)


LAYOUTS: Registry[Layout] = Registry("pargate.layouts", "checkpoint layout", "pargate.models.layouts", _is_layout)
"""Layouts by name; pargate's own are tried first."""


def open_source(source: str, arch: str | None, keep: bool) -> Model:
    """Return the model that a source names, by the layout that it has.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `pargate.models.open.open_model`.
    """
    source = _named_file(source)
    layout = _layout(source)
    if arch and layout.graph:
        raise InputError(f"--arch {arch} does not go with the graphs in {source}", "drop it: they name it themselves")
    try:
        return layout.open(source, arch, keep)
    except InputError:
        if layout.pickle:
            for part in parts(source):
                _refuse_code(Path(part))
        raise


def _named_file(source: str) -> str:
    """Return the path of a file that is named as `FOLDER#FILE`, or the source itself."""
    folder, mark, name = source.rpartition("#")
    return str(Path(folder) / name) if mark and name and _is_folder(folder) and not _is_folder(source) else source


def _layout(source: str) -> Layout:
    """Return the layout of a source, or if none matches, the layout whose error explains why."""
    found = next((name for name in LAYOUTS if LAYOUTS[name].match(source)), None)
    return LAYOUTS[found or ("open_clip" if _is_folder(source) else "bare")]


def _is_folder(source: str) -> bool:
    try:
        return Path(source).is_dir()
    except (OSError, ValueError):  # not a valid path
        return False


WRAPPERS = (".pkl", ".pickle", ".joblib", ".npy", ".npz", ".zip", ".tar", ".nemo", ".gz", ".bz2", ".xz")
"""Suffixes of files that are no weights, and that may hold pickles."""


def _wrappers_in(folder: Path) -> list[Path]:
    return [folder / name for name in names_in(folder) if name.casefold().endswith(WRAPPERS)]


def _towers_in(folder: Path) -> list[Path]:
    """Return the folders that have a configuration in a folder with a tower of transformers, among the first names."""
    names = names_in(folder)[: limits.TOWER_FOLDERS] if kinds_in(folder) else []
    return [folder / name for name in names if (folder / name / SETTINGS).is_file()]


def _refuse_code(path: Path) -> None:
    """Raise if the files of a source that cannot be opened could run code."""
    try:
        if path.is_file():
            files = [path]
        else:
            files = [file for place in (path, *_towers_in(path)) for file in (*weights_in(place), *_wrappers_in(place))]
    except (InputError, OSError, ValueError):
        return
    for file in files:
        with contextlib.suppress(InputError):
            weights.read(file, str(file), keep=False)
