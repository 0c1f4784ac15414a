"""TorchScript archives, such as OpenAI's own files, are read as data; the program in them is never run."""

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

from pargate import limits
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.models import archive, script
from pargate.models.open import inspect, open_model

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

NUMBERS = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP as OpenAI saved its own: traced, with three numbers among the buffers."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG, quick_gelu=True).eval()
    for name, number in NUMBERS.items():
        model.__dict__.pop(name, None)
        model.register_buffer(name, torch.tensor(number))
    inputs = {"encode_image": (torch.zeros(1, 3, 32, 32),), "encode_text": (torch.zeros(1, 77, dtype=torch.long),)}
    folder = tmp_path_factory.mktemp("openai")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on sizes that become constants
        torch.jit.save(torch.jit.trace_module(model, inputs, check_trace=False), folder / "model.pt")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**CONFIG, "quick_gelu": True}}))
    return folder / "model.pt"


@pytest.fixture(scope="module")
def scripted() -> bytes:
    """A small scripted module."""
    torch.manual_seed(0)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))), buffer)
    return buffer.getvalue()


def read(content: bytes) -> tuple[tuple[archive.StoredTensor, ...], tuple[str, ...]]:
    return archive.read(lambda at, n: content[at : at + n], len(content), "model.pt")


def rewrite(content: bytes, change: dict[str, bytes]) -> bytes:
    """The same archive with members replaced or added, by the part of their names behind the folder."""
    source, buffer = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    root = source.namelist()[0].split("/")[0]
    members = {info.filename: source.read(info) for info in source.infolist()}
    with zipfile.ZipFile(buffer, "w") as target:
        for name, data in (members | {f"{root}/{part}": data for part, data in change.items()}).items():
            packed = zipfile.ZIP_DEFLATED if "/code/" in name else zipfile.ZIP_STORED
            target.writestr(zipfile.ZipInfo(name), data, packed)
    return buffer.getvalue()


def with_module(content: bytes, module: bytes) -> bytes:
    """The archive with another `data.pkl`: protocol 2, and `module` in place of the root's attributes."""
    return rewrite(content, {"data.pkl": b"\x80\2c__torch__\nM\nq\0)\x81q\1" + module + b"."})


def test_the_tensors_are_those_that_torch_loads(traced: Path) -> None:
    with open_model(str(traced)) as model:
        ours = model.network().state_dict()
        theirs = torch.jit.load(traced).state_dict()
        assert {name for name in theirs if name not in ours} == {*NUMBERS, "attn_mask"}
        assert ours.keys() <= theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        notes = " ".join(model.checkpoint.notes)
    assert "the program in the file was not used" in notes
    assert "left out attn_mask" in notes
    assert "left out input_resolution, context_length, vocab_size" in notes


def test_the_vectors_are_those_of_the_program_that_torch_traced(traced: Path) -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    captions = open_clip.tokenize(["a cat", "two dogs", "", "a photo of a red bus"])
    program = torch.jit.load(traced)
    with open_model(str(traced)) as model, torch.no_grad():
        network = model.network()
        assert torch.allclose(network.encode_image(images), program.encode_image(images), atol=1e-5)
        assert torch.allclose(network.encode_text(captions), program.encode_text(captions), atol=1e-5)


def test_the_numbers_show_an_unnamed_file_to_be_openais(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pargate.models.layouts import bare

    monkeypatch.setattr(bare, "matching", lambda tensors: ["ViT-B-32"])
    module = nn.Module()
    for name, value in {"logit_scale": torch.ones(()), "vocab_size": torch.tensor(5)}.items():
        module.register_buffer(name, value)
    torch.jit.save(torch.jit.script(module), tmp_path / "m.pt")
    found = bare.locate(str(tmp_path / "m.pt"), None)
    assert found.model_cfg["quick_gelu"]
    assert found.activation_known


def test_a_scripted_module_is_read_with_its_buffers(scripted: bytes) -> None:
    tensors, notes = read(scripted)
    theirs = torch.jit.load(io.BytesIO(scripted)).state_dict()
    assert {tensor.name: tensor.shape for tensor in tensors} == {k: tuple(v.shape) for k, v in theirs.items()}
    assert notes == (script.UNUSED,)


def test_a_program_that_acts_while_it_is_loaded_is_refused(scripted: bytes) -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        @torch.jit.export
        def __getstate__(self) -> tuple[torch.Tensor, bool]:
            return self.weight, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
            self.weight = state[0] * 2
            self.training = state[1]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Doubled()), buffer)
    with pytest.raises(UnsafeCheckpoint, match="__setstate__"):
        read(buffer.getvalue())
    with pytest.raises(UnsafeCheckpoint, match="__setstate__"):
        read(rewrite(scripted, {"code/__torch__/x.py": b"def __setstate__(self, state: Tensor): ..."}))


def test_a_call_beside_the_tensors_is_refused(scripted: bytes) -> None:
    class Call:
        def __reduce__(self) -> tuple[object, ...]:
            return print, ("ran",)

    call = pickle.dumps(Call(), 2)
    for member in ("data.pkl", "constants.pkl", "traced_inputs.pkl"):
        with pytest.raises(UnsafeCheckpoint, match=r"print"):
            read(rewrite(scripted, {member: call}))


def test_a_state_dict_beside_a_program_is_two_models(scripted: bytes) -> None:
    with pytest.raises(UnsafeCheckpoint, match="holds no module"):
        read(rewrite(scripted, {"data.pkl": b"\x80\2}."}))


def test_a_class_of_a_program_without_the_program_is_unsafe(scripted: bytes) -> None:
    source, buffer = zipfile.ZipFile(io.BytesIO(scripted)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for info in source.infolist():
            if "/code/" not in info.filename and "constants" not in info.filename:
                target.writestr(zipfile.ZipInfo(info.filename), source.read(info))
    with pytest.raises(UnsafeCheckpoint, match="__torch__"):
        read(buffer.getvalue())


@pytest.mark.parametrize(
    ("module", "error", "why"),
    [
        (b"Nb", InputError, "a state of its own form"),
        (b"}X\1\0\0\0a}sb}b", UnsafeCheckpoint, "twice"),
        (b"}X\3\0\0\0a.bNsb", InputError, "a state of its own form"),
        # A module that holds itself, once and twice.
        (b"}X\1\0\0\0ah\1sb", InputError, "more modules"),
        (b"}(X\1\0\0\0ah\1X\1\0\0\0bh\1ub", InputError, "more modules"),
        # A module that is filled in as a dict.
        (b"X\1\0\0\0aNs", UnsafeCheckpoint, "other than a dict"),
        # A class that is called with an argument, and by another operation.
        (b"h\0N\x85\x81", UnsafeCheckpoint, "NEWOBJ"),
        (b"h\0)R", UnsafeCheckpoint, "arguments that torch would not write"),
    ],
)
def test_a_module_that_torch_would_not_write_is_refused(
    scripted: bytes, module: bytes, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        read(with_module(scripted, module))


def test_attributes_of_one_dict_that_many_modules_share_are_bounded(
    scripted: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OPERATIONS", 1000)
    names = b"".join(b"X\1\0\0\0" + bytes([letter]) + b"N" for letter in range(97, 117))
    shared = b"}q\2(" + names + b"u" + b"h\0)\x81h\2b" * 60
    with pytest.raises(InputError, match="more attributes than any CLIP"):
        read(with_module(scripted, shared))


def test_a_program_that_unpacks_without_end_is_refused(scripted: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNWRAPPED_BYTES", 1 << 16)
    with pytest.raises(InputError, match="larger than that of any CLIP"):
        read(rewrite(scripted, {"code/__torch__/x.py": bytes(1 << 17)}))


def test_a_file_of_torchscript_is_inspected_as_a_model(traced: Path) -> None:
    found = inspect(str(traced))
    assert found.config["quick_gelu"]
    assert found.format == "torch-zip"
