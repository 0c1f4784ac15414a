"""What ships is written from the tensors that were read, and nothing of the user's file is left in it."""

import json
import random
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from pargate.core.model import Checkpoint
from pargate.errors import InputError
from pargate.models.config import CONFIG_NAME, WEIGHT_NAMES
from pargate.models.open import inspect, open_model
from pargate.release.convert import Candidate, convert
from pargate.release.finish import _refuse_others

MODEL: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
}
STARTED = "2027-01-10T00:00:00+00:00"


def state(dtype: torch.dtype) -> dict[str, Tensor]:
    """Random weights, some of them the awkward numbers of their type."""
    torch.manual_seed(0)
    found = open_clip.CLIP(**MODEL).state_dict()
    for value in found.values():
        if value.dtype == torch.float32 and value.ndim:
            value.copy_(torch.randn_like(value))
            value.view(-1)[:3] = torch.tensor([-0.0, torch.finfo(dtype).tiny / 2, torch.finfo(dtype).max])[
                : value.numel()
            ]
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in found.items()}


def laid_out(tensors: dict[str, Tensor], seed: int) -> bytes:
    """A safetensors file with its tensors in any order, with notes, and with a header of any length."""
    chance = random.Random(seed)
    names = list(tensors)
    chance.shuffle(names)
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "note": "x" * chance.randrange(20)}}
    data = b""
    for name in names:
        alone = save({name: tensors[name].contiguous()})
        length = 8 + int.from_bytes(alone[:8], "little")
        entry, content = json.loads(alone[8:length])[name], alone[length:]
        header[name] = {**entry, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode() + b" " * chance.randrange(9)
    return struct.pack("<Q", len(text)) + text + data


def folder(path: Path, content: bytes, name: str = WEIGHT_NAMES[0]) -> Path:
    path.mkdir()
    (path / CONFIG_NAME).write_text(json.dumps({"model_cfg": MODEL}))
    (path / name).write_bytes(content)
    return path


def converted(source: Path, out: Path) -> bytes:
    with open_model(str(source)) as model:
        convert(model, out, STARTED)
    return (out / WEIGHT_NAMES[0]).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_layout_of_the_same_tensors_becomes_the_same_file(tmp_path, dtype):
    wanted = state(dtype)
    files = [laid_out(wanted, seed) for seed in range(3)]
    files.append(laid_out({f"module.{name}": value for name, value in wanted.items()}, 3))
    found = {converted(folder(tmp_path / f"in{n}", file), tmp_path / f"out{n}") for n, file in enumerate(files)}
    torch.save(wanted, tmp_path / "zip")
    found.add(converted(folder(tmp_path / "in", (tmp_path / "zip").read_bytes(), WEIGHT_NAMES[2]), tmp_path / "out"))
    assert found == {save(wanted)}, "as the safetensors library writes it, with no notes"
    assert found.isdisjoint(files)


def test_the_tensors_that_ship_are_those_that_were_read_bit_for_bit(tmp_path):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        wanted = state(dtype)
        name = str(dtype).removeprefix("torch.")
        converted(folder(tmp_path / name, laid_out(wanted, 7)), tmp_path / f"{name} out")
        shipped = load_file(tmp_path / f"{name} out" / WEIGHT_NAMES[0])
        assert shipped.keys() == wanted.keys()
        for key, value in wanted.items():
            assert (shipped[key].dtype, shipped[key].shape) == (value.dtype, value.shape)
            flat = [t.reshape(-1).view(torch.uint8) for t in (shipped[key], value)] if value.ndim else []
            assert not flat or torch.equal(*flat), key


def test_a_file_that_is_ours_already_ships_as_it_is(tmp_path):
    first = folder(tmp_path / "a", laid_out(state(torch.float16), 0))
    converted(first, tmp_path / "b")
    converted(tmp_path / "b", tmp_path / "c")
    assert inspect(str(tmp_path / "b")).digest == inspect(str(tmp_path / "c")).digest != inspect(str(first)).digest


# --- what was judged is what ships -------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Checkpoint]:
    """A model that a gate wrote, and what it was made of."""
    converted(folder(tmp_path / "a", laid_out(state(torch.float16), 0)), tmp_path / "b")
    return tmp_path / "b", inspect(str(tmp_path / "a"))


def test_what_was_written_is_known_without_reading_it_again(written: tuple[Path, Checkpoint]) -> None:
    place, parent = written
    candidate = Candidate.read(place, parent)
    assert candidate.digest == inspect(str(place)).digest == candidate.model().checkpoint.digest


def test_weights_that_were_replaced_are_not_opened(written: tuple[Path, Checkpoint]) -> None:
    place, parent = written
    (place / WEIGHT_NAMES[0]).write_bytes(save(state(torch.float32)))
    with pytest.raises(InputError, match="changed while pargate ran"):
        Candidate.read(place, parent).model()


def test_a_record_of_another_configuration_is_refused(written: tuple[Path, Checkpoint]) -> None:
    place, parent = written
    with pytest.raises(InputError, match="changed while pargate ran"):
        Candidate.read(place, replace(parent, config={**MODEL, "quick_gelu": True}))


@pytest.mark.parametrize(
    "there",
    [{"model/a": "2"}, {}, {"model/a": "1", "model/b": "1"}, {"model/a": "1", "onnx/image.onnx": "1"}],
    ids=["another", "none", "one more", "a graph"],
)
def test_a_bundle_holds_exactly_what_was_judged(there: dict[str, str]) -> None:
    report: Any = SimpleNamespace(stages=())
    _refuse_others({"model/a": "1", "model/provenance.json": "9"}, {"model/a": "1"}, report, Path("state"))
    with pytest.raises(InputError, match="changed while pargate ran"):
        _refuse_others(there, {"model/a": "1"}, report, Path("state"))
