"""A file that `torch.save` wrote: a zip of raw numbers and one pickle, which is read as data and never run."""

from pathlib import Path

from pargate.models import weights
from pargate.models.layouts import LAYOUTS
from pargate.models.layouts.bare import locate
from pargate.models.model import Model, judge


@LAYOUTS.add("torch_zip")
class TorchZip:
    """A weights file with `--arch`, or with its configuration beside it."""

    pickle = True
    graph = False

    @staticmethod
    def match(source: str) -> bool:
        """Return whether a zip archive lies there."""
        return weights.head(Path(source)).startswith(weights.ZIP)

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        """Return the model, judged."""
        return judge(source, locate(source, arch), keep)
