"""Open a model by its name or path, with the layout that matches."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pargate.core.model import Checkpoint
from pargate.errors import InputError
from pargate.files import recorded
from pargate.models import weights
from pargate.models.layouts import LAYOUTS, Layout
from pargate.models.located import names_in, weights_in
from pargate.models.model import Model
from pargate.models.save import changed


def inspect(source: str | Model, *, arch: str | None = None) -> Checkpoint:
    """Return the facts about a model; the bytes of a named one are read once and not kept.

    Raises:
        InputError: the source does not exist, or is not a readable CLIP model.
        UnsafeCheckpoint: the weights file could run code when loaded in the usual way, or other loaders would read
            another model.
        OperationalError: the machine or a hub failed.
    """
    return source.checkpoint if isinstance(source, Model) else open_model(source, arch=arch, keep=False).checkpoint


@contextlib.contextmanager
def opened(source: str | Model, *, arch: str | None = None) -> Iterator[Model]:
    """Open a model for the duration of a context; a `Model` stays open.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `inspect`.
    """
    if isinstance(source, Model):
        yield source
        return
    with open_model(source, arch=arch) as model:
        yield model


def source_of(source: str | Model) -> str:
    """Return the name of a model, as the user gave it."""
    return source.checkpoint.source if isinstance(source, Model) else source


def open_model(source: str, *, arch: str | None = None, keep: bool = True, digest: str | None = None) -> Model:
    """Return the model named by `source`, checked and ready to be loaded.

    Args:
        source: an open_clip folder, one of transformers, a file in a folder as `FOLDER#FILE`, a weights file (with
            `arch`, or with its configuration beside it), a graph or a folder of graphs (likewise), a bundle that holds
            such a folder, or a hub's `hf-hub:ORG/NAME[@REV]` or `open_clip:ARCH/TAG`, which is downloaded.
        arch: open_clip's name of the architecture, for a file without a configuration.
        keep: whether the bytes stay in memory; False for the facts alone.
        digest: the expected `Checkpoint.digest`, where it is known.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `inspect`; or the digest is another one.
    """
    source = _named_file(source)
    layout = _layout(source)
    if arch and layout.graph:
        raise InputError(f"--arch {arch} does not go with the graphs in {source}", "drop it: they name it themselves")
    try:
        with recorded() as read:
            model = layout.open(source, arch, keep)
    except InputError:
        if layout.pickle:
            _refuse_code(Path(source))
        raise
    model.checkpoint = replace(model.checkpoint, files=read)
    if digest not in (None, model.checkpoint.digest):
        raise changed(source)
    return model


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


def _refuse_code(path: Path) -> None:
    """Raise if the files of a source that cannot be opened could run code."""
    try:
        files = [path] if path.is_file() else [*weights_in(path), *_wrappers_in(path)]
    except (InputError, OSError, ValueError):
        return
    for file in files:
        with contextlib.suppress(InputError):
            weights.read(file, str(file), keep=False)
