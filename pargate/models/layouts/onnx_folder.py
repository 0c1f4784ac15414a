"""A folder of graphs that `pargate export` wrote, or a bundle that holds one."""

from pathlib import Path

from pargate.models import graphs
from pargate.models.config import CONFIG_NAME
from pargate.models.layouts import LAYOUTS
from pargate.models.model import Model


@LAYOUTS.add("onnx_folder")
class OnnxFolder:
    """A folder of graphs without an open_clip configuration."""

    pickle = False
    graph = True

    @staticmethod
    def match(source: str) -> bool:
        """Return whether `source` holds graphs with a description by pargate, and no checkpoint."""
        path = Path(source)
        try:
            return path.is_dir() and not (path / CONFIG_NAME).is_file() and graphs.folder_of(path) is not None
        except (OSError, ValueError):  # not a valid path
            return False

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        """Return the graphs, checked."""
        folder = graphs.folder_of(Path(source))
        assert folder is not None  # it matched
        read = graphs.read(folder, source)
        return Model(read.checkpoint, (), None, keep, read if keep else None)
