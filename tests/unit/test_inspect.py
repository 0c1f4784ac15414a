"""What a source is, seen without loading it: where its files are, what they hold, what is refused."""

import hashlib
import json
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from pargate.cli.console import Console
from pargate.core.model import CONTEXT_LENGTH
from pargate.errors import InputError, OperationalError, PargateError, UnsafeCheckpoint
from pargate.models import config, weights
from pargate.models.located import Located
from pargate.models.open import inspect, open_model

ZOO = Path(__file__).parents[3] / "shared" / "zoo" / "dev"

MODEL: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


def tensors() -> bytes:
    return save({"b.weight": np.arange(6, dtype=np.float16).reshape(2, 3), "a": np.ones(3, np.float32)})


def folder(path: Path, files: dict[str, bytes] | None = None, model: dict[str, Any] = MODEL, **more: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / config.CONFIG_NAME).write_text(json.dumps({"model_cfg": model, **more}))
    for name, content in ({"open_clip_model.safetensors": tensors()} if files is None else files).items():
        (path / name).write_bytes(content)
    return path


def header(entries: dict[str, Any] | str, data: bytes = b"") -> bytes:
    text = entries.encode() if isinstance(entries, str) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refusal(source: Path | str, kind: type[PargateError] = InputError, **options: Any) -> PargateError:
    with pytest.raises(kind) as caught:
        inspect(str(source), **options)
    assert caught.value.message
    assert caught.value.hint, "a message says what to do next"
    return caught.value


# --- forms of a source ---


def test_a_folder_is_described_without_loading_it(tmp_path):
    found = inspect(str(folder(tmp_path)))
    assert found.format == "safetensors"
    assert found.weights == str(tmp_path / "open_clip_model.safetensors")
    assert found.folder == str(tmp_path)
    assert found.architecture == "ViT, 32 px, patch 16, width 16, 2 layers"
    assert found.activation_known
    assert found.parameters == 9
    assert sorted((t.name, t.dtype, t.shape) for t in found.tensors) == [
        ("a", "F32", (3,)),
        ("b.weight", "F16", (2, 3)),
    ]


def test_the_tensors_are_where_safetensors_says(tmp_path):
    values = {f"t{i}": np.random.default_rng(i).standard_normal((i, 3), np.float32) for i in range(5)}
    opened = open_model(str(folder(tmp_path, {"model.safetensors": save(values)})))
    content = opened.take()
    for tensor in opened.tensors:
        count = int(np.prod(tensor.shape))
        found = np.frombuffer(content, "<f4", count, tensor.offset).reshape(tensor.shape)
        np.testing.assert_array_equal(found, values[tensor.name])


def test_a_configuration_of_open_clip_is_called_by_its_name(tmp_path):
    assert inspect(str(folder(tmp_path, model=config.architecture("RN50")))).architecture == "RN50"


def test_other_towers_are_described(tmp_path):
    resnet = {**MODEL, "vision_cfg": {"image_size": [32, 64], "layers": [1, 1, 2, 1], "width": 20}}
    assert inspect(str(folder(tmp_path, model=resnet))).architecture == "ResNet, 32×64 px, layers 1-1-2-1, width 20"
    timm = {**MODEL, "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160}}
    assert inspect(str(folder(tmp_path, model=timm))).architecture == "test_vit, 160 px"


def test_a_file_beside_its_configuration_needs_no_architecture(tmp_path):
    path = folder(tmp_path, {"a.safetensors": tensors(), "b.safetensors": tensors()})
    assert inspect(str(path / "b.safetensors")).weights == str(path / "b.safetensors")


def test_a_bare_file_takes_its_architecture_by_name(tmp_path):
    path = tmp_path / "epoch_3.safetensors"
    path.write_bytes(tensors())
    found = inspect(str(path), arch="ViT-B-32")
    assert found.architecture == "ViT-B-32"
    assert not found.activation_known
    assert found.preprocess.size == (224, 224)
    assert found.preprocess.mean == config.MEAN
    for name in ("ViT-B-32-quickgelu", "RN50x4-quickgelu"):
        quick = inspect(str(path), arch=name)
        assert quick.activation_known
        assert quick.config["quick_gelu"] is True
    assert inspect(str(path), arch="ViT-B/32").architecture == "ViT-B-32"


def test_a_bare_file_without_architecture_is_told_to_give_one(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(tensors())
    assert "--arch" in refusal(tmp_path / "a.safetensors").hint


def test_an_unknown_architecture_is_answered_with_the_closest(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(tensors())
    assert "'ViT-B-32'" in refusal(tmp_path / "a.safetensors", arch="ViT-B-23").message
    assert refusal(tmp_path / "a.safetensors", arch="../../etc/passwd")


def test_an_architecture_for_a_folder_is_refused(tmp_path):
    assert "--arch" in refusal(folder(tmp_path), arch="RN50").message


def test_a_missing_path_is_refused_by_name(tmp_path):
    assert "nowhere" in refusal(tmp_path / "nowhere").message
    assert refusal("a\0b")


def test_a_folder_without_the_needed_files_says_what_was_looked_for(tmp_path):
    assert "is empty" in refusal(tmp_path).message
    (tmp_path / "notes.txt").write_text("x")
    assert config.CONFIG_NAME in refusal(tmp_path).message
    folder(tmp_path, {})
    error = refusal(tmp_path)
    assert "no weights file" in error.message
    assert "open_clip_model.safetensors" in error.hint
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert "no weight_map" in refusal(tmp_path).message


def test_a_folder_with_weights_that_open_clip_takes_only_by_name_asks_for_one(tmp_path):
    names = ["epoch_1.pt", "epoch_2.pt"]
    error = refusal(folder(tmp_path, dict.fromkeys(names, b"PK")))
    assert all(name in error.message for name in names)
    assert f"{tmp_path}#{names[0]}" in error.hint


def test_a_well_known_name_comes_before_others_in_a_folder(tmp_path):
    path = folder(tmp_path, {"open_clip_model.safetensors": tensors(), "training_args.bin": b"x"})
    assert inspect(str(path)).format == "safetensors"


def test_a_hub_source_goes_through_fetch(tmp_path, monkeypatch):
    (tmp_path / "w.safetensors").write_bytes(tensors())
    overlay = {"mean": [0.5, 0.5, 0.5], "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}

    def fetch(source: str) -> Located:
        assert source == "open_clip:RN50/openai"
        return Located(tmp_path / "w.safetensors", config.architecture("RN50"), overlay, source, source, "RN50")

    monkeypatch.setattr("pargate.models.hub.published", fetch)
    found = inspect("open_clip:RN50/openai")
    assert found.architecture == "RN50"
    assert found.activation_known
    assert found.preprocess.resize == "squash"
    assert found.preprocess.mean == (0.5, 0.5, 0.5)
    assert "--arch" in refusal("hf-hub:a/b", arch="RN50").message


def test_a_link_out_of_the_folder_is_refused_but_the_hubs_cache_is_not(tmp_path):
    (tmp_path / "elsewhere").write_bytes(tensors())
    path = folder(tmp_path / "model", {})
    (path / "open_clip_model.safetensors").symlink_to(tmp_path / "elsewhere")
    assert "link out of its folder" in refusal(path).message


@pytest.fixture
def cache(tmp_path):
    """The hub's cache of one repository, with the weights among its blobs."""
    found = tmp_path / "models--a--b"
    (found / "blobs").mkdir(parents=True)
    (found / "blobs" / "beef").write_bytes(tensors())
    return found


def linked(snapshot: Path, target: str | Path) -> Path:
    """An open_clip folder whose weights are a link."""
    snapshot.mkdir(parents=True)
    (folder(snapshot, {}) / "open_clip_model.safetensors").symlink_to(target)
    return snapshot


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_folder_of_the_hubs_cache_may_link_to_its_blobs_at_any_depth(cache, depth):
    snapshot = linked(cache / "snapshots" / "0123" / Path(*["sub"] * depth), "../" * (depth + 2) + "blobs/beef")
    (cache / "blobs" / "config").write_bytes((snapshot / config.CONFIG_NAME).read_bytes())
    (snapshot / config.CONFIG_NAME).unlink()
    (snapshot / config.CONFIG_NAME).symlink_to(cache / "blobs" / "config")
    assert inspect(str(snapshot)).size_bytes == len(tensors())
    assert inspect(str(snapshot / "open_clip_model.safetensors")).size_bytes == len(tensors())


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("models--a--b/snapshots/0123/sub", "../../../../models--c--d/blobs/beef"),  # of another repository
        ("models--a--b/snapshots/0123/sub", "../../../blobs/../elsewhere"),
        ("models--a--b/snapshots/0123/sub", "../../../blobs/onward"),  # a blob that is a link itself
        ("models--a--b/snapshots/0123/sub", "../../../blobs-not/beef"),
        ("models--a--b/snapshots/0123/sub", "../../0456/beef"),
        ("models--a--b/snapshots", "../blobs/beef"),  # no snapshot
        ("models--a--b/other/0123/sub", "../../../blobs/beef"),
        ("a/snapshots/0123/sub", "../../../blobs/beef"),  # no cache of the hub
    ],
)
def test_no_other_link_out_of_the_hubs_cache_is_followed(cache, place, target):
    root = cache.parent
    for spot in ("models--c--d/blobs/beef", "models--a--b/elsewhere", "models--a--b/blobs-not/beef", "a/blobs/beef"):
        (root / spot).parent.mkdir(parents=True, exist_ok=True)
        (root / spot).write_bytes(tensors())
    (cache / "snapshots" / "0456").mkdir(parents=True)
    (cache / "snapshots" / "0456" / "beef").write_bytes(tensors())
    (cache / "blobs" / "onward").symlink_to("../elsewhere")
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    path = root / place
    path.mkdir(exist_ok=True)
    folder(path, {})
    (path / "open_clip_model.safetensors").symlink_to(target)
    assert (path / "open_clip_model.safetensors").exists(), "the link leads to weights that could be read"
    assert "link out of its folder" in refusal(path).message


def test_a_linked_folder_stands_for_the_one_of_the_cache(cache, tmp_path):
    snapshot = linked(cache / "snapshots" / "0123" / "sub", "../../../blobs/beef")
    (tmp_path / "here").symlink_to(snapshot)
    assert inspect(str(tmp_path / "here")).size_bytes == len(tensors())


# --- the bytes that were judged are those that are loaded ---


def test_the_bytes_are_kept_whatever_becomes_of_the_file(tmp_path):
    path = folder(tmp_path)
    opened = open_model(str(path))
    (path / "open_clip_model.safetensors").write_bytes(b"\0" * 7)
    assert bytes(opened.take()) == tensors()
    opened.close()
    with pytest.raises(RuntimeError):
        opened.take()


def test_bytes_that_were_used_up_are_read_again_but_never_others(tmp_path):
    path = folder(tmp_path)
    opened = open_model(str(path))
    opened.take()[:8] = b"\0" * 8
    assert bytes(opened.take()) == tensors()
    (path / "open_clip_model.safetensors").write_bytes(save({"a": np.ones(7, np.float32)}))
    with pytest.raises(InputError, match="changed while pargate ran"):
        opened.take()


def test_inspection_keeps_no_bytes_and_sees_the_same(tmp_path):
    path = str(folder(tmp_path, {"model.safetensors": save({"a": np.ones(3_000_000, np.float32)})}))
    seen, opened = open_model(path, keep=False), open_model(path)
    assert seen.checkpoint == opened.checkpoint
    with pytest.raises(RuntimeError):
        seen.take()


def test_the_digest_is_that_of_the_file_and_differs_with_the_configuration(tmp_path):
    first = inspect(str(folder(tmp_path)))
    again = inspect(str(folder(tmp_path)))
    other = inspect(str(folder(tmp_path, preprocess_cfg={"mean": [0.5, 0.5, 0.5]})))
    assert first.digest == again.digest
    assert first.sha256 == other.sha256
    assert first.digest != other.digest


def test_the_models_of_the_zoo_are_read():
    if not ZOO.is_dir():
        pytest.skip(f"no model folders at {ZOO}")
    for path in sorted(ZOO.iterdir()):
        found = inspect(str(path))
        assert found.parameters > 1_000_000, path.name
        assert found.batch_norm == path.name.startswith("rn-")


# --- files that are not weights ---


@pytest.mark.parametrize(
    ("content", "named", "kind"),
    [
        (b"", "is empty", InputError),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "git-lfs", InputError),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "bare pickle", InputError),
        (b"\x80\x05\x95\x10\0\0\0\0\0\0\0}\x94.", "bare pickle", InputError),
        (b"\x80\x05\x95\x10\0\0\0\0\0\0\0}\x94", "bare pickle", UnsafeCheckpoint),
        (b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.", "os.system", UnsafeCheckpoint),
        (b"cos\nsystem\n(S'true'\ntR.", "os.system", UnsafeCheckpoint),
        (b"(S'true'\nios\nsystem\n.", "os.system", UnsafeCheckpoint),
        (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c\x04true\x85R.", "os.system", UnsafeCheckpoint),
        (b"GGUF\x03\0\0\0\0cos\nsystem\n(S'true'\ntR.", "os.system", UnsafeCheckpoint),
        (b"copyright\n2021\n", "neither safetensors nor", InputError),
        (b"id\nname\n1\ncat\n", "neither safetensors nor", InputError),
        (b"data.pkl".ljust(257, b"\0") + b"ustar\x0000", "tar archive", InputError),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "HDF5", InputError),
        (b"GGUF\x03\0\0\0" + b"\0" * 50, "GGUF", InputError),
        (b"\x93NUMPY\x01\0" + b"\0" * 50, "numpy", InputError),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.5.1", "ONNX", InputError),
        (b"\x1f\x8b\x08\0" + b"\0" * 50, "gzip", InputError),
        (b"<!DOCTYPE html><html>", "web page", InputError),
        (b'{"metadata": {"total_size": 1}}', "JSON", InputError),
        (b'{"size":{"a": 1}}', "JSON", InputError),
        (b"\0" * 5000, "zeros", InputError),
        (b"hello, I am no checkpoint", "neither safetensors nor", InputError),
        (b"x", "neither safetensors nor", InputError),
    ],
)
def test_a_foreign_file_is_refused_by_name_whatever_it_is_called(tmp_path, content, named, kind):
    for name in ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"):
        path = folder(tmp_path / name, {name: content})
        error = refusal(path, kind)
        assert named in error.message
        assert name in error.message


def test_a_git_lfs_pointer_is_told_what_to_do(tmp_path):
    path = folder(tmp_path, {"model.safetensors": b"version https://git-lfs.github.com/spec/v1\n"})
    assert "git lfs pull" in refusal(path).hint


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    path = folder(tmp_path, {})
    os.mkfifo(path / "model.safetensors")
    assert "not a regular file" in refusal(path).message
    assert refusal(path / "model.safetensors", arch="RN50")
    assert "not a regular file" in refusal("/dev/zero", arch="RN50").message


def test_a_folder_where_weights_should_be_is_refused(tmp_path):
    folder(tmp_path, {})
    (tmp_path / "model.safetensors").mkdir()
    assert refusal(tmp_path)


def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = folder(tmp_path)
    (path / "open_clip_model.safetensors").chmod(0)
    if os.access(path / "open_clip_model.safetensors", os.R_OK):
        pytest.skip("this user may read everything")
    assert "Permission denied" in refusal(path).message


# --- safetensors ---


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (tensors()[:-1], "cut short"),
        (tensors()[:40], "cut short within its header"),
        (tensors() + b"\0", "goes on after"),
        (struct.pack("<Q", 1 << 40) + b"{}", "neither"),
        (header({}), "no tensors"),
        (header("{nope"), "not valid JSON"),
        (header('{"a": NaN}'), "not valid JSON"),
        (header("{" + '"a":' * 50_000), "not valid JSON"),
        (header("{" + '"a":[' * 50_000), "not valid JSON"),
        (header('{"a":%s,"a":%s}' % ((json.dumps(entry(0, 4, [1])),) * 2), b"1234"), "twice"),
        (header({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, b"1234"), "overlap"),
        (header({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, b"x" * 12), "gaps"),
        (header({"a": entry(4, 8, [1])}, b"x" * 8), "gaps"),
        (header({"a": entry(0, 4, [2])}, b"1234"), "does not fit"),
        (header({"a": entry(0, 4, [1 << 62, 1 << 62, 4])}, b"1234"), "does not fit"),
        (header({"a": entry(4, 0, [1])}, b"1234"), "does not fit"),
        (header({"a": entry(0, 4, [1], "F4")}, b"1234"), "dtype F4"),
        (header({"a": entry(0, 4, [-1])}, b"1234"), "damaged at a"),
        (header({"a": entry(0, 4, [True])}, b"1234"), "damaged at a"),
        (header({"a": {**entry(0, 4, [1]), "x": 1}}, b"1234"), "damaged at a"),
        (header({"a": 3}), "damaged at a"),
        (header({"__metadata__": {"a": 1}, "a": entry(0, 4, [1])}, b"1234"), "metadata"),
        (header({"a\x1b[31m": entry(0, 4, [1])}, b"1234"), "unprintable"),
        (header({"a" * 600: entry(0, 4, [1])}, b"1234"), "unprintable"),
    ],
)
def test_a_safetensors_file_that_does_not_add_up_is_refused_by_name(tmp_path, content, named):
    error = refusal(folder(tmp_path, {"model.safetensors": content}))
    assert named in error.message
    assert "model.safetensors" in error.message
    assert "\x1b" not in error.message


def test_a_header_of_any_length_is_told_from_other_files(tmp_path):
    # A length may look like a pickle's or a compressed file's first bytes.
    for length in (0x0280, 0x0480, 0x8B1F, 0x3C, 0x7B):
        text = json.dumps({"a": entry(0, 4, [1])}).encode().ljust(length)
        content = struct.pack("<Q", len(text)) + text + b"1234"
        assert inspect(str(folder(tmp_path, {"model.safetensors": content}))).parameters == 1


def test_empty_and_scalar_tensors_are_read(tmp_path):
    content = save({"none": np.ones((0, 3), np.float32), "one": np.array(2, np.float32), "two": np.ones(2, np.int64)})
    shapes = {t.name: t.shape for t in inspect(str(folder(tmp_path, {"model.safetensors": content}))).tensors}
    assert shapes == {"none": (0, 3), "one": (), "two": (2,)}


def test_whatever_happens_to_the_bytes_the_answer_is_in_our_words(tmp_path):
    generator = random.Random(0)
    path = tmp_path / "a.safetensors"
    refused = 0
    for _ in range(400):
        spoilt = bytearray(tensors())
        for _ in range(generator.choice((1, 2, 8))):
            spoilt[generator.randrange(len(spoilt))] = generator.randrange(256)
        path.write_bytes(spoilt)
        try:
            found = weights.read(path, "a.safetensors", keep=True)
        except PargateError as error:
            assert "a.safetensors" in error.message
            refused += 1
        else:
            assert found.content is not None
            assert (found.sha256, bytes(found.content)) == (hashlib.sha256(spoilt).hexdigest(), spoilt)
    assert 0 < refused < 400


# --- configurations ---


def changed(**sections: Any) -> dict[str, Any]:
    return {
        key: {**value, **sections.get(key, {})} if isinstance(value, dict) else sections.get(key, value)
        for key, value in MODEL.items()
    }


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({}, "embed_dim"),
        ({"embed_dim": 8, "vision_cfg": {}}, "text_cfg"),
        ({**MODEL, "vision_cfg": 3}, "vision_cfg"),
        ({**MODEL, "multimodal_cfg": 3}, "multimodal_cfg"),
        (changed(embed_dim=0), "embed_dim"),
        (changed(embed_dim="8"), "embed_dim"),
        (changed(embed_dim=True), "embed_dim"),
        (changed(vision_cfg={"image_size": 100_000}), "image_size"),
        (changed(vision_cfg={"image_size": [32, 4]}), "image_size"),
        (changed(vision_cfg={"layers": 100_000}), "layers"),
        (changed(vision_cfg={"layers": [1] * 9}), "layers"),
        (changed(vision_cfg={"width": 1 << 20}), "width"),
        (changed(text_cfg={"vocab_size": 1 << 30}), "vocab_size"),
        (changed(text_cfg={"context_length": 1 << 20}), "context_length"),
        (changed(text_cfg={"mlp_ratio": 1e9}), "mlp_ratio"),
        (changed(text_cfg={"hf_model_name": "roberta-base"}), "does not read yet"),
        (changed(text_cfg={"act_kwargs": {"a": {"b": 1}}}), "act_kwargs"),
        (changed(text_cfg={"trust_remote_code": True}), "code from elsewhere"),
        (changed(text_cfg={"tokenizer_kwargs": {"trust_remote_code": True}}), "trust_remote_code"),
        (changed(text_cfg={"tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}), "bpe_path"),
        (changed(text_cfg={"tokenizer_kwargs": {"reduction_mask": "syntax"}}), "reduction_mask"),
        (changed(text_cfg={"tokenizer_kwargs": 3}), "tokenizer_kwargs"),
        (changed(text_cfg={"tokenizer_mode": "other"}), "tokenizer_mode"),
        (changed(vision_cfg={"timm_model_name": "hf-hub:evil/model"}), "timm_model_name"),
        (changed(vision_cfg={"timm_model_name": "local-dir:/tmp"}), "timm_model_name"),
    ],
)
def test_a_configuration_out_of_bounds_is_refused_by_field(tmp_path, model, named):
    assert named in refusal(folder(tmp_path, model=model)).message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        ("{}", "model_cfg"),
        ('{"model_cfg": []}', "model_cfg"),
        ('{"model_cfg": {}, "model_cfg": {}}', "twice"),
        ('{"model_cfg": {}, "preprocess_cfg": [1]}', "model_cfg"),
        ('{"model_cfg": {"a": "%s"}}' % ("x" * (1 << 20)), "larger than 1 MiB"),
    ],
)
def test_a_configuration_that_is_no_configuration_is_refused(tmp_path, text, named):
    folder(tmp_path)
    (tmp_path / config.CONFIG_NAME).write_text(text)
    assert named in refusal(tmp_path).message


def test_every_architecture_of_open_clip_passes_the_bounds():
    for name, path in config.architectures().items():
        model = config.load_json(path)
        if "vision_cfg" not in model or model["text_cfg"].get("hf_model_name"):
            continue
        config.check(model, name)
        config.preprocess(model, {}, name)


def test_without_open_clip_the_names_cannot_be_known(monkeypatch):
    monkeypatch.setattr(config.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OperationalError, match="not installed"):
        config.architectures()


def test_preprocessing_is_open_clips_default_overlaid_with_the_configuration(tmp_path):
    plain = inspect(str(folder(tmp_path))).preprocess
    assert (plain.size, plain.mean, plain.std) == ((32, 32), config.MEAN, config.STD)
    assert (plain.interpolation, plain.resize, plain.fill) == ("bicubic", "shortest", 0)
    given = {
        "size": 224, "mean": 0.5, "std": [0.1, 0.2, 1], "interpolation": "bilinear", "resize_mode": "longest",
        "fill_color": 7, "mode": None, "unknown": 1,
    }  # fmt: skip
    rule = inspect(str(folder(tmp_path, preprocess_cfg=given))).preprocess
    assert rule.size == (32, 32), "the tower's own, as in open_clip"
    assert (rule.mean, rule.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 1.0))
    assert (rule.interpolation, rule.resize, rule.fill) == ("bilinear", "longest", 7)


@pytest.mark.parametrize(
    "given",
    [
        {"resize_mode": "other"}, {"interpolation": "random"}, {"fill_color": 256}, {"fill_color": "x"},
        {"mean": [1, 2]}, {"mean": ["a", "b", "c"]}, {"std": [0, 1, 1]}, {"mean": [1e9, 1, 1]}, {"mode": "L"},
        {"mean": [123.675, 116.28, 103.53]}, {"mean": [-0.1, 0, 0]}, {"std": [58.4, 57.1, 57.4]}, {"std": 1e-9},
        {"mean": True}, {"size": 0}, {"size": [64, -64]}, {"size": "64"}, {"interpolation": "nearest"},
    ],
)  # fmt: skip
def test_preprocessing_that_open_clip_has_no_meaning_for_is_refused(tmp_path, given):
    refusal(folder(tmp_path, preprocess_cfg=given))


def test_the_defaults_are_open_clips_own():
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    assert (config.MEAN, config.STD) == (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    assert CLIPVisionCfg().image_size == config.IMAGE_SIZE
    assert (CLIPTextCfg().context_length, CLIPTextCfg().vocab_size) == (CONTEXT_LENGTH, config.VOCABULARY)


# --- tokenizers ---


def test_a_hugging_face_tokenizer_must_lie_beside_the_weights(tmp_path):
    model = changed(text_cfg={"hf_tokenizer_name": "timm/ViT-B-16-SigLIP"})
    path = folder(tmp_path, model=model)
    error = refusal(path)
    assert "timm/ViT-B-16-SigLIP" in error.message
    assert "tokenizer.json" in error.hint
    (path / "tokenizer.json").write_text("{}")
    first = inspect(str(path))
    (path / "tokenizer.json").write_text('{"a": 1}')
    assert inspect(str(path)).digest != first.digest, "another tokenizer reads other captions"
    (path / "tokenizer_config.json").write_text('{"auto_map": {}}')
    assert "auto_map" in refusal(path).message


@pytest.mark.parametrize(
    ("options", "said"),
    [({}, "gelu"), ({"act_kwargs": None}, "gelu"), ({"act_kwargs": {"approximate": "none"}}, "gelu"),
     ({"act_kwargs": {"approximate": "tanh"}}, "gelu, approximated by tanh")],
)  # fmt: skip
def test_inspect_says_which_form_of_gelu_a_model_has(
    options: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {**MODEL, "vision_cfg": {**MODEL["vision_cfg"], **options}}
    checkpoint = inspect(str(folder(tmp_path / "m", model=model)))
    Console(quiet=False, verbose=False, color=False).checkpoint(checkpoint)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("activation")]
    assert line.split("  ")[-1].strip() == said
