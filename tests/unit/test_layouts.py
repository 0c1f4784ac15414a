"""Which layout a source has, and that a plug-in can add one without taking what pargate reads itself."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from pargate.errors import InputError, OperationalError
from pargate.models import config
from pargate.models.config import CONFIG_NAME
from pargate.models.layouts import LAYOUTS
from pargate.models.located import Located
from pargate.models.model import Model, read_located
from pargate.models.open import inspect

WEIGHTS = save({"a": np.ones(3, np.float32)})


class Twin:
    """Weights in a file called `twin.safetensors`, of a ViT-B-32."""

    pickle = False
    graph = False

    @staticmethod
    def match(source: str) -> bool:
        return (Path(source) / "twin.safetensors").is_file()

    @staticmethod
    def open(source: str, arch: str | None, keep: bool) -> Model:
        model = config.architecture("ViT-B-32")
        return read_located(
            source, Located(Path(source) / "twin.safetensors", model, {}, source, source, "ViT-B-32"), keep
        )


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(group: str) -> dict[str, EntryPoint]:
        return {"twin": EntryPoint("twin", "test_layouts:Twin", group)}

    monkeypatch.setattr("pargate.registry._entry_points", points)
    monkeypatch.setattr(LAYOUTS, "_loaded", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "twin.safetensors").write_bytes(WEIGHTS)
    return tmp_path


def test_every_layout_of_ours_is_entered_and_says_its_traits() -> None:
    assert list(LAYOUTS) == [
        "adapter",
        "bare",
        "hub",
        "hub_tag",
        "onnx_folder",
        "onnx_graphs",
        "open_clip",
        "torch_zip",
        "towers",
        "transformers",
    ]
    assert [name for name in LAYOUTS if LAYOUTS[name].graph] == ["onnx_folder"]
    pickled = ["adapter", "bare", "onnx_graphs", "open_clip", "torch_zip", "towers", "transformers"]
    assert [name for name in LAYOUTS if LAYOUTS[name].pickle] == pickled


def test_a_plug_in_opens_what_pargate_does_not_know(folder: Path, plugin: None) -> None:
    found = inspect(str(folder))
    assert (found.architecture, found.format) == ("ViT-B-32", "safetensors")


def test_without_it_the_folder_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="not an open_clip folder"):
        inspect(str(folder))


def test_a_plug_in_does_not_take_an_open_clip_folder(folder: Path, plugin: None) -> None:
    (folder / CONFIG_NAME).write_text(json.dumps({"model_cfg": config.architecture("RN50")}))
    assert inspect(str(folder)).architecture == "RN50"


def test_a_part_without_traits_is_no_layout(folder: Path, plugin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Twin, "graph")
    with pytest.raises(OperationalError, match="but it is none"):
        inspect(str(folder))
