"""Graphs of a CLIP that other tools exported, in one file or two, with their configuration beside them or `--arch`."""

import os
from pathlib import Path

from pargate.errors import InputError
from pargate.models import foreign_graphs
from pargate.models.config import CONFIG_NAME
from pargate.models.graphs import DESCRIPTION, folder_of
from pargate.models.layouts import LAYOUTS
from pargate.models.layouts.bare import by_name
from pargate.models.layouts.open_clip import TRAINING
from pargate.models.located import Located, in_folder, weights_in
from pargate.models.model import Model
from pargate.models.transformers_folder import SETTINGS, described


@LAYOUTS.add("onnx_graphs")
class OnnxGraphs:
    """A graph, or a folder of graphs without weights of another kind."""

    pickle = True  # files of any name may hold them
    graph = False

    @staticmethod
    def match(source: str) -> bool:
        """Return whether `source` is a graph by its name, or a folder of graphs without a checkpoint."""
        path = Path(source)
        try:
            if not path.is_dir():
                return path.name.endswith(foreign_graphs.SUFFIX) and path.is_file()
            held = [file for file in weights_in(path) if file.name not in TRAINING]
            return not held and folder_of(path) is None and foreign_graphs.home(path) is not None
        except (InputError, OSError, ValueError):  # not a valid path, or not readable
            return False

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        """Return the graphs, checked."""
        path = Path(source)
        place = path if path.is_file() else foreign_graphs.home(path)
        assert place is not None  # it matched
        files = foreign_graphs.chosen(place)
        read = foreign_graphs.read(source, files, _configured(place, files["image"], source, arch))
        return Model(read.checkpoint, (), None, keep, read if keep else None)


def _configured(place: Path, file: Path, source: str, arch: str | None) -> Located:
    """Return the configuration of graphs: that of `arch`, or the one beside them."""
    if os.path.lexists(file.parent / DESCRIPTION):
        raise InputError(f"{source} is one of two graphs that pargate export wrote", f"name them both: {file.parent}")
    folder = foreign_graphs.settings_of(place)
    if arch:
        return by_name((folder or file.parent) / file.name, arch)
    if folder is None:
        raise InputError(
            f"{source} does not say how images and captions are prepared: no {DESCRIPTION} of pargate, no "
            f"{CONFIG_NAME} and no {SETTINGS} lies beside its graphs",
            "give open_clip's name of the architecture, such as --arch ViT-B-32/openai, or put the configuration, "
            "image processor and tokenizer of the checkpoint there",
        )
    return in_folder(folder, file) if (folder / CONFIG_NAME).is_file() else described(folder, file)
