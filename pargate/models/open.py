"""Open a model by its name or path, with the layout that matches."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from pargate.core.model import Checkpoint
from pargate.files import recorded
from pargate.models.layouts import open_source
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
            such a folder, a hub's `hf-hub:ORG/NAME[@REV]` or `open_clip:ARCH/TAG`, which is downloaded, or
            `BASE+ADAPTER`, one of these and the folder of an adapter of PEFT.
        arch: open_clip's name of the architecture, for a file without a configuration.
        keep: whether the bytes stay in memory; False for the facts alone.
        digest: the expected `Checkpoint.digest`, where it is known.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `inspect`; or the digest is another one.
    """
    with recorded() as read:
        model = open_source(source, arch, keep)
    model.checkpoint = replace(model.checkpoint, files=read)
    if digest not in (None, model.checkpoint.digest):
        raise changed(source)
    return model
