"""One door to models: whatever a user names is opened here, by the layout that it has."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pargate.core.model import Checkpoint
from pargate.errors import InputError
from pargate.models import weights
from pargate.models.layouts import LAYOUTS, Layout
from pargate.models.located import weights_in
from pargate.models.model import Model
from pargate.models.save import changed


def inspect(source: str | Model, *, arch: str | None = None) -> Checkpoint:
    """Return what a model is; where `source` names it, its bytes are read once and not kept.

    Raises:
        InputError: nothing there, or nothing that can be read as a CLIP model.
        UnsafeCheckpoint: the weights file could run code when loaded in the usual way, or other loaders would get
            another model.
        OperationalError: the machine, or a hub, did not play along.
    """
    return source.checkpoint if isinstance(source, Model) else open_model(source, arch=arch, keep=False).checkpoint


@contextlib.contextmanager
def opened(source: str | Model, *, arch: str | None = None) -> Iterator[Model]:
    """Open a model for a while; one that is open already stays open.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `inspect`.
    """
    if isinstance(source, Model):
        yield source
        return
    with open_model(source, arch=arch) as model:
        yield model


def source_of(source: str | Model) -> str:
    """Return what the user called a model."""
    return source.checkpoint.source if isinstance(source, Model) else source


def open_model(source: str, *, arch: str | None = None, keep: bool = True, digest: str | None = None) -> Model:
    """Return the model named by `source`, judged and ready to be loaded, its bytes in memory if `keep`.

    Args:
        source: an open_clip folder, a weights file (with `arch`, or with its configuration beside it), a folder of
            graphs that `pargate export` wrote or a bundle that holds one, or a hub's `hf-hub:ORG/NAME[@REV]` or
            `open_clip:ARCH/TAG`, which is downloaded.
        arch: open_clip's name of the architecture, for a file without a configuration.
        keep: False for the facts alone.
        digest: what `Checkpoint.digest` must be, where that is known.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `inspect`; or it is not the one that `digest` says.
    """
    layout = _layout(source)
    if arch and layout.graph:
        raise InputError(f"--arch {arch} does not go with the graphs in {source}", "drop it: they say what they are")
    try:
        model = layout.open(source, arch, keep)
    except InputError:
        if layout.pickle:
            _refuse_code(Path(source))
        raise
    if digest not in (None, model.checkpoint.digest):
        raise changed(source)
    return model


def _layout(source: str) -> Layout:
    """Return the layout of a source; of one that none knows, the layout that says what is wrong with it."""
    found = next((name for name in LAYOUTS if LAYOUTS[name].match(source)), None)
    return LAYOUTS[found or ("open_clip" if _is_folder(source) else "bare")]


def _is_folder(source: str) -> bool:
    try:
        return Path(source).is_dir()
    except (OSError, ValueError):  # no name of a file
        return False


def _refuse_code(path: Path) -> None:
    """Refuse files that could run code, also where something else is wrong with the source."""
    try:
        files = [path] if path.is_file() else weights_in(path)
    except (InputError, OSError, ValueError):
        return
    for file in files:
        with contextlib.suppress(InputError):
            weights.read(file, str(file), keep=False)
