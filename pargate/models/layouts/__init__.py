"""Layouts of checkpoints: each module registers one, which recognises its sources and opens them."""

from typing import Any, Protocol

from pargate.models.model import Model
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
