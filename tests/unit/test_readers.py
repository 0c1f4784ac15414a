"""One file, two readers: what torch, safetensors and open_clip load, and what pargate makes of the same file."""

import importlib
import json
import subprocess
import sys
import warnings
from collections import Counter, OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from open_clip import factory
from safetensors.numpy import save

from pargate.errors import InputError, UnsafeCheckpoint
from pargate.models import pickles
from pargate.models.open import inspect, open_model

ROOT = Path(__file__).parents[2]

SHAPES = {"a": (16, 8), "b": (5,), "c": (2, 3)}


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script that makes files of two readings."""
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.readers")


def arrays(start: float) -> dict[str, np.ndarray]:
    return {name: start + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in SHAPES.items()}


CLEAN, POISONED = arrays(1), arrays(1001)


def written(place: Path, files: dict[str, bytes], settings: dict[str, Any]) -> Path:
    """The folder with these files and a configuration."""
    place.mkdir(exist_ok=True)
    (place / "open_clip_config.json").write_text(json.dumps(settings))
    for name, content in files.items():
        (place / name).write_bytes(content)
    return place


def loaded(path: Path, weights_only: bool = True) -> dict[str, np.ndarray]:
    """What open_clip takes, of a folder by its own choice of the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = factory._find_checkpoint_in_dir(path) if path.is_dir() else path
        state = factory.load_state_dict(str(file), weights_only=weights_only)
    return {name: tensor.resolve_neg().numpy() for name, tensor in state.items()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


FORMS = {
    "1 a key without an encoding": "torch takes the poisoned",
    "2 DATA.PKL": "torch takes the poisoned",
    "2 ByteOrder": "torch takes others",
    "2 CODE": "torch takes the clean",
    "3 one key, two dtypes": "torch takes others" if torch.__version__.startswith("2.11.") else "torch takes the clean",
    "4 a seventh argument": "torch takes others",
    "5 members marked as folders": "torch takes others",
    "7 names that open_clip does not look for": "torch takes the poisoned",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weights_only", [True, False])
def test_a_file_of_two_models_is_refused_whichever_torch_takes(readers, tmp_path, form, weights_only):
    files = readers.forms(CLEAN, POISONED, str(tmp_path / "ran"))[form]
    folder = written(tmp_path / "model", files, readers.CONFIG)
    path = folder if len(files) > 1 else folder / "model.pt"
    found = loaded(path, weights_only)
    took = "the clean" if same(found, CLEAN) else "the poisoned" if same(found, POISONED) else "others"
    assert f"torch takes {took}" == FORMS[form]
    with pytest.raises(UnsafeCheckpoint, match=r"two readers|different readers"):
        inspect(str(folder))


def test_a_program_in_capitals_is_found_by_torch_and_refused(readers, tmp_path):
    ((name, content),) = readers.forms(CLEAN, POISONED, "")["2 CODE"].items()
    (tmp_path / name).write_bytes(content)
    assert torch._C.PyTorchFileReader(str(tmp_path / name)).has_record("code/__torch__.py")
    with pytest.raises(UnsafeCheckpoint, match=r"beside data\.pkl it holds CODE"):
        inspect(str(tmp_path / name), arch="ViT-B-32")


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "weights.pt", "weights", "weights.SAFETENSORS"])
def test_safetensors_that_run_code_as_a_pickle_are_refused(readers, tmp_path, name):
    witness = tmp_path / "ran"
    (content,) = readers.forms(CLEAN, POISONED, str(witness))["6 safetensors and a pickle"].values()
    folder = written(tmp_path / "model", {name: content}, readers.CONFIG)
    with pytest.raises(RuntimeError, match="magic number"):
        torch.load(folder / name, weights_only=False)
    assert witness.is_dir(), "torch ran what the file says"
    (folder / "as.safetensors").write_bytes(content)
    assert loaded(folder / "as.safetensors").keys() == CLEAN.keys()
    with pytest.raises(UnsafeCheckpoint, match=r"can run any code.*os\.mkdir"):
        inspect(str(folder / name))
    with pytest.raises(UnsafeCheckpoint, match=r"can run any code.*os\.mkdir"):
        inspect(str(folder / "as.safetensors"))


def test_content_must_fit_the_name(readers, tmp_path):
    zipped, flat = readers.saved({"a": torch.ones(3)}), save(CLEAN)
    wrong = {**dict.fromkeys(["a.safetensors", "a.npz", "a.SAFETENSORS"], zipped),
             **dict.fromkeys(["a.pt", "a.bin", "a.npy", "a"], flat)}  # fmt: skip
    for name, content in wrong.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnsafeCheckpoint, match="loaders go by its name") as caught:
            inspect(str(tmp_path / name), arch="ViT-B-32")
        assert "rename it to end in" in caught.value.hint
    for name, content in {"b.safetensors": flat, "b.ckpt": zipped, "b": zipped}.items():
        (tmp_path / name).write_bytes(content)
        assert inspect(str(tmp_path / name), arch="ViT-B-32").parameters


@pytest.mark.parametrize("comment", [b"", b"more"])
def test_a_zip_behind_other_bytes_is_refused(readers, tmp_path, comment):
    zipped = readers.saved({"a": torch.ones(3)})
    zipped = zipped[:-2] + len(comment).to_bytes(2, "little") + comment
    flat = save({**CLEAN, "z": np.frombuffer(zipped, np.uint8)})
    for name, content in {"a.safetensors": flat, "a.pt": b"#!/bin/sh\n" + zipped}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnsafeCheckpoint, match="ends as a zip archive"):
            inspect(str(tmp_path / name), arch="ViT-B-32")


# --- the files of a folder ---


def stored(value: Any, readers: ModuleType) -> bytes:
    return readers.saved({name: torch.from_numpy(array) for name, array in value.items()})


def test_open_clips_own_choice_of_a_folder_is_read(readers, tmp_path):
    """Of every two names, the file that open_clip takes: shown where both hold the same, refused where they do not."""
    names = [n for n in readers.FOLDER_NAMES if "-of-" not in n and n != "training_args.bin"]
    for number, (one, other) in enumerate((a, b) for a in names for b in names if a < b):
        files = {
            name: save(CLEAN) if name.endswith(".safetensors") else stored(CLEAN, readers) for name in (one, other)
        }
        folder = written(tmp_path / str(number), files, readers.CONFIG)
        chosen = factory._find_checkpoint_in_dir(folder)
        if chosen is None:
            with pytest.raises(InputError, match="several weights files"):
                inspect(str(folder))
            continue
        assert inspect(str(folder)).weights == chosen
        beside = folder / ({one, other} - {Path(chosen).name}).pop()
        beside.write_bytes(save(POISONED) if beside.name.endswith(".safetensors") else stored(POISONED, readers))
        with pytest.raises(UnsafeCheckpoint, match="different models") as caught:
            inspect(str(folder))
        assert beside.name in caught.value.message
        assert chosen in caught.value.hint
        assert inspect(chosen).weights == chosen, "a file that is named is read"


def test_the_same_tensors_in_another_form_are_the_same(readers, tmp_path):
    views = {name: torch.from_numpy(np.asfortranarray(array)) for name, array in CLEAN.items()}
    files = {
        "open_clip_model.safetensors": save(CLEAN),
        "open_clip_pytorch_model.bin": readers.saved({"state_dict": views}),
    }
    folder = written(tmp_path / "model", files, readers.CONFIG)
    with open_model(str(folder)) as opened:
        assert opened.take()[:] == save(CLEAN)
    changed = {**CLEAN, "b": np.nextafter(CLEAN["b"], np.float32(9))}
    for other in (changed, {**CLEAN, "d": CLEAN["a"]}, {"a": CLEAN["a"]}, {**CLEAN, "b": CLEAN["b"].reshape(1, 5)},
                  {**CLEAN, "b": CLEAN["b"].view(np.int32)}):  # fmt: skip
        (folder / "open_clip_pytorch_model.bin").write_bytes(stored(other, readers))
        with pytest.raises(UnsafeCheckpoint, match="holds other tensors"):
            inspect(str(folder))


def test_what_lies_beside_weights_and_cannot_be_compared_is_named(readers, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    files = {"open_clip_model.safetensors": save(CLEAN), "open_clip_pytorch_model.bin": pointer}
    folder = written(tmp_path / "model", files, readers.CONFIG)
    with pytest.raises(InputError, match=r"open_clip_pytorch_model\.bin.*git-lfs"):
        inspect(str(folder))
    (folder / "open_clip_pytorch_model.bin").unlink()
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth"):
        (folder / name).write_bytes(b"x")
    assert inspect(str(folder)).parameters == 139
    part = written(tmp_path / "parts", {"model-00001-of-00002.safetensors": save(CLEAN)}, readers.CONFIG)
    with pytest.raises(InputError, match="one part"):
        inspect(str(part))


# --- what is not code ---

HARMLESS: dict[str, Any] = {
    "size": torch.Size([3, 64]), "dtype": torch.float16, "device": torch.device("cuda", 1), "set": {"a", 1},
    "counter": Counter("aab"), "bytes": b"abc", "bytearray": bytearray(b"abc"), "float key": {1.5: 2},
    "other keys": {None: 1, (1, (2, 3)): 2, True: 3, b"a": 4}, "complex": 1 + 2j, "layout": torch.strided,
    "nested": [OrderedDict(a=torch.Size([1])), (torch.int8, [torch.device("cpu")])], "scheme": torch.per_tensor_affine,
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_what_the_weights_only_reader_loads_is_left_alone(readers, tmp_path, name):
    state = {key: torch.from_numpy(array) for key, array in CLEAN.items()}
    path = tmp_path / "model.pt"
    torch.save({"extra": HARMLESS[name], "state_dict": state}, path)
    assert same(loaded(path), CLEAN)
    assert [tensor.name for tensor in inspect(str(path), arch="ViT-B-32").tensors] == list(CLEAN)
    torch.save({**state, "extra": HARMLESS[name]}, path)
    with pytest.raises(InputError, match="not a named tensor"):
        inspect(str(path), arch="ViT-B-32")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3, dtype=torch.complex64), torch.ones(3).to(torch.float8_e4m3fn), torch.ones(3).to_sparse(),
        torch.ones(3, dtype=torch.uint16), torch.ones(3, device="meta"),
    ],
    ids=lambda tensor: f"{tensor.dtype} {tensor.layout} {tensor.device}",
)  # fmt: skip
def test_a_tensor_of_another_kind_is_not_read_and_not_accused(tmp_path, tensor):
    torch.save({"a": tensor}, tmp_path / "model.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the indices of sparse ones are validated
        torch.load(tmp_path / "model.pt", weights_only=True)
    with pytest.raises(InputError, match="is not read"):
        inspect(str(tmp_path / "model.pt"), arch="ViT-B-32")


def test_the_names_that_are_permitted_are_those_of_the_weights_only_reader():
    from torch._weights_only_unpickler import _get_allowed_globals

    older = {"torch._utils._rebuild_nested_tensor"}  # gone after 2.11
    ours = {name for name in pickles.KNOWN if not name.startswith("__builtin__.")}
    assert ours - older == set(_get_allowed_globals()) - older


def test_a_tensor_that_was_made_before_cannot_be_changed_by_what_is_left_alone():
    """`_rebuild_device_tensor_from_cpu_tensor` gives its argument back, and `_rebuild_from_type_v2` sets attributes."""
    assert not {name for name in pickles.PLAIN if "rebuild" in name or "Tensor" in name or "Storage" in name}


# --- what is code, whatever else is wrong ---


class Code:
    def __reduce__(self) -> Any:
        return print, ("code ran",)


def test_code_is_named_before_anything_else_that_is_wrong(readers, tmp_path, capsys):
    bare, folder = tmp_path / "bare.pt", tmp_path / "model"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Code()}, bare)
    for options in ({}, {"arch": "ViT-B-32"}, {"arch": "ViT-B-23"}, {"arch": ""}):
        with pytest.raises(UnsafeCheckpoint, match=r"builtin\w*\.print"):
            inspect(str(bare), **options)
    written(folder, {"open_clip_pytorch_model.bin": bare.read_bytes()}, {"model_cfg": 3})
    for change in (lambda: None, (folder / "open_clip_config.json").unlink):
        change()
        with pytest.raises(UnsafeCheckpoint, match=r"builtin\w*\.print"):
            inspect(str(folder))
    assert not capsys.readouterr().out


def test_code_is_found_in_archives_that_are_wrong_in_another_way(readers, tmp_path):
    members = readers.members_of(readers.saved({"a": torch.zeros(1), "x": Code()}))
    program = members["archive/data.pkl"]
    for number, (changed, method) in enumerate([
        ({**members, "archive/byteorder": b"big"}, 0),
        ({**members, "archive/version": b""}, 0),
        ({"evil.pkl": program}, 0),
        ({"evil.pkl": program}, 8),
        ({"a/x.npy": b"", "a/data.pkl": program}, 0),
        ({**members, "archive/data.pkl": b"\x80\x02X\1\0\0\0a0" + program[2:]}, 0),
    ]):  # fmt: skip
        archive = readers.archive_of(changed)
        for record in archive.records:
            record.method = method
        path = tmp_path / f"{number}.pt"
        path.write_bytes(archive.write(None))
        with pytest.raises(UnsafeCheckpoint, match=r"could run code.*builtin\w*\.print"):
            inspect(str(path), arch="ViT-B-32")


def test_a_checkpoint_of_an_old_torch_is_not_accused_of_code_that_it_does_not_hold(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    torch.load(path, weights_only=True)
    with pytest.raises(InputError, match="bare pickle") as caught:
        inspect(str(path), arch="ViT-B-32")
    assert "weights_only=True" in caught.value.hint
    torch.save({"a": torch.ones(3), "x": Code()}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UnsafeCheckpoint, match=r"bare pickle.*can run any code.*print"):
        inspect(str(path), arch="ViT-B-32")


# --- the kind ---


def test_names_that_open_clip_cuts_are_refused_unless_all_have_the_prefix(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({f"module.{name}": array for name, array in CLEAN.items()}))
    assert same(loaded(path), CLEAN)
    assert inspect(str(path), arch="ViT-B-32").parameters == 139
    path.write_bytes(save({"module.a": CLEAN["a"], "visual.b": CLEAN["b"]}))
    assert loaded(path).keys() == {"a", "b"}, "open_clip cuts what is no prefix, too"
    with pytest.raises(UnsafeCheckpoint, match="begins with module"):
        inspect(str(path), arch="ViT-B-32")
    path.write_bytes(save({"state_dict": CLEAN["a"]}))
    with pytest.raises(InputError, match="state_dict"):
        inspect(str(path), arch="ViT-B-32")


@pytest.mark.slow
def test_what_is_accepted_of_generated_files_is_what_the_loaders_get():
    command = [sys.executable, "-m", "benchmarks.readers", "--cases", "2000", "--seed", "32", "--no-evidence"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [line.split(None, 1) for line in ended.stdout.splitlines()[1:] if line.strip()]
    counts = Counter({name: int(number) for number, name in lines})
    assert counts["accepted"] > 400, "most changes leave files that nobody reads, but not all"
    assert counts["accepted, not loaded"] < counts["accepted"] / 50
    for kind in ("zip", "pickle", "safetensors", "folder", "bytes"):
        assert counts[f"{kind}: accepted, loaded"] > 10
        assert sum(counts[f"{kind}: refused as {why}, loaded"] for why in ("unsafe", "wrong input")) > 10
