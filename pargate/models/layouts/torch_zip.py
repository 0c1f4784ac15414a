"""A file that `torch.save` wrote: a zip of raw numbers and one pickle, which is read as data and never executed."""

from pathlib import Path

from pargate.models import weights
from pargate.models.layouts import LAYOUTS
from pargate.models.layouts.bare import locate
from pargate.models.model import Model, read_located


@LAYOUTS.add("torch_zip")
class TorchZip:
    """A weights file with `--arch`, or with its configuration beside it."""

    pickle = True
    graph = False

    @staticmethod
    def match(source: str) -> bool:
        """Return whether the source is a zip archive."""
        return weights.head(Path(source)).startswith(weights.ZIP)

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        """Return the model, checked."""
        return read_located(source, locate(source, arch), keep)
