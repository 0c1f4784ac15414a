"""Checkpoints in the layouts of other tools: equal to what those tools compute, or refused by name."""

import argparse
import collections
import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import foreign_layouts as layouts
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save_file
from transformers import AutoTokenizer, CLIPModel

from pargate.core.model import TensorInfo, unit
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.images.decode import fit
from pargate.models import hugging_face, origins, shards
from pargate.models.config import base_name
from pargate.models.layouts.bare import FILE
from pargate.models.open import inspect, open_model
from pargate.models.shapes import check, matching
from pargate.models.tokenizer import is_clips_own

CAPTIONS = ["a photo of a cat", "A  Dog's   life!", "two birds & 3 fish", "café", "it's 12:30", "x " * 200, "", "fox,"]
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
SETTINGS = json.dumps({"model_cfg": MODEL, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}).encode()


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    return layouts.clip_model()


@pytest.fixture(scope="module")
def folder(clip: CLIPModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it; tests must not change it."""
    return layouts.transformers_folder(clip, tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Weights of a small open_clip model."""
    torch.manual_seed(1)
    return dict(open_clip.CLIP(**MODEL).state_dict())


def settled(folder: Path, target: Path, **changes: Any) -> Path:
    """A copy whose `config.json` has other settings; a key such as `text_config.hidden_act` leads into a section."""
    shutil.copytree(folder, target)
    document = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (document[section] if section else document)[name] = value
    (target / "config.json").write_text(json.dumps(document))
    return target


def vectors(model: CLIPModel, ids: torch.Tensor, pixels: torch.Tensor) -> tuple[Any, Any]:
    """Unit vectors of captions and images, as transformers computes them."""
    with torch.inference_mode():
        found = [model.get_text_features(input_ids=ids), model.get_image_features(pixels)]
    texts, images = (unit(getattr(part, "pooler_output", part).numpy()) for part in found)
    return texts, images


def compare(place: Path, clip: CLIPModel) -> None:
    """Raise unless pargate's vectors of a folder are those of the model, for 8 captions and 8 images."""
    with open_model(str(place)) as model:
        encoder = model.encoder(device="cpu")
        rule = model.checkpoint.preprocess
        pixels = np.random.default_rng(0).integers(0, 256, (8, *rule.size, 3), dtype=np.uint8)
        mean, std = (torch.tensor(values) for values in (rule.mean, rule.std))
        prepared = ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2)
        ids = layouts.clip_tokenizer()(
            CAPTIONS, return_tensors="pt", padding="max_length", max_length=77, truncation=True
        ).input_ids
        for ours, theirs in zip(encoder.tokenize(CAPTIONS), ids, strict=True):
            end = int((theirs == 49407).int().argmax())
            assert torch.equal(ours[: end + 1], theirs[: end + 1])
        texts, images = vectors(clip, ids, prepared)
        assert np.abs(encoder.encode_texts(CAPTIONS) - texts).max() <= 1e-5
        assert np.abs(encoder.encode_images(encoder.put(pixels)) - images).max() <= 1e-5


# --- transformers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(layouts.FROM_TRANSFORMERS))
def test_a_clip_of_transformers_has_its_own_vectors(name: str, clip: CLIPModel, tmp_path: Path) -> None:
    place = layouts.FROM_TRANSFORMERS[name](clip, tmp_path / "m")
    compare(place, clip)
    found = inspect(str(place))
    assert check(found)
    layout = "towers" if name == "two towers" else "transformers"
    assert (found.layout, found.activation, found.tokenizer) == (layout, "quick_gelu", "bpe")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu"},
        {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3, "intermediate_size": 100, "hidden_size": 96},
    ],
)
def test_settings_of_transformers_are_carried_over(changes: dict[str, Any], tmp_path: Path) -> None:
    clip = layouts.clip_model(**changes)
    compare(layouts.transformers_folder(clip, tmp_path / "m", tokenizer=False), clip)


@pytest.mark.parametrize(("end", "pool"), [(2, {}), (49407, {}), (49000, {"pool_type": "eos", "eos_id": 49000})])
def test_the_end_token_is_found_as_transformers_finds_it(
    end: int, pool: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    place = settled(folder, tmp_path / "m", text_config__eos_token_id=end)
    found = inspect(str(place)).config["text_cfg"]
    assert {key: found[key] for key in ("pool_type", "eos_id") if key in found} == pool


def test_settings_under_the_older_name_win(folder: Path, tmp_path: Path) -> None:
    older = json.loads((folder / "config.json").read_text())["text_config"] | {"hidden_act": "gelu"}
    place = settled(folder, tmp_path / "m", text_config_dict=older, vision_config__hidden_act="gelu")
    assert inspect(str(place)).activation == "gelu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config__hidden_act": "gelu"}, "hidden_act is quick_gelu for images and gelu for captions"),
        ({"text_config__hidden_act": "relu", "vision_config__hidden_act": "relu"}, "'relu', which open_clip cannot"),
        ({"vision_config__num_channels": 4}, "4 channels"),
        ({"text_config__eos_token_id": [1, 2]}, "must be one number"),
        ({"text_config__vocab_size": "many"}, "vocab_size is many, but must be one number"),
        ({"text_config__num_attention_heads": 5}, "do not fit each other"),
        ({"text_config__intermediate_size": 10**400}, "a number has 401 digits"),
        ({"vision_config__intermediate_size": 10**63}, "mlp_ratio is"),
        ({"text_config__layer_norm_eps": "small"}, "layer_norm_eps small"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "run code from elsewhere"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"transformers_weights": "other.safetensors"}, "names another weights file"),
        ({"model_type": "clip_vision_model"}, "the image tower of a CLIP alone"),
        ({"model_type": "siglip2"}, "a SigLIP2 for images of any shape"),
        ({"model_type": "chinese_clip"}, r"lacks tensors of the model.*word_embeddings"),
        ({"model_type": "altclip_text_model"}, "the text tower of a CLIP alone"),
        ({"model_type": "bert"}, "of a 'bert', not of a CLIP"),
        ({"model_type": ["clip"]}, "not of a CLIP"),
        ({"text_config": 3}, "text_config is not an object"),
        ({"text_config__max_position_embeddings": 32}, r"positional_embedding \[77, 64\] where the model has \[32"),
    ],
)
def test_what_open_clip_cannot_compute_is_refused(
    changes: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    place = settled(folder, tmp_path / "m", **changes)
    with pytest.raises(InputError, match=message):
        check(inspect(str(place)))


def test_a_tensor_that_is_missing_or_left_over_is_named(folder: Path, tmp_path: Path) -> None:
    place = settled(folder, tmp_path / "m")
    tensors = load((place / "model.safetensors").read_bytes())
    bias = tensors.pop("visual_projection.weight")
    save_file(tensors, place / "model.safetensors")
    with pytest.raises(InputError, match=r"lacks tensors of the model.*visual_projection\.weight"):
        inspect(str(place))
    save_file(
        {**tensors, "visual_projection.weight": bias, "classifier.bias": bias.clone()}, place / "model.safetensors"
    )
    with pytest.raises(InputError, match=r"the model has not.*classifier\.bias"):
        inspect(str(place))


def test_other_weights_beside_are_refused_and_one_can_be_named(folder: Path, tmp_path: Path) -> None:
    place = settled(folder, tmp_path / "m")
    tensors = load((place / "model.safetensors").read_bytes())
    torch.save(tensors, place / "pytorch_model.bin")
    assert inspect(str(place)).format == "safetensors"
    torch.save({**tensors, "logit_scale": torch.tensor(1.0)}, place / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpoint, match=r"pytorch_model\.bin beside model\.safetensors holds other"):
        inspect(str(place))
    assert inspect(f"{place}#pytorch_model.bin").format == "torch-zip"


def test_an_open_clip_model_is_compared_with_that_of_transformers_beside_it(
    clip: CLIPModel, folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "both"
    with open_model(str(folder)) as model:
        place.mkdir()
        model.save(place)
    ours = inspect(str(place))
    clip.save_pretrained(place)
    assert inspect(str(place)).sha256 == ours.sha256
    tensors = load((place / "model.safetensors").read_bytes())
    save_file({**tensors, "logit_scale": torch.tensor(1.0)}, place / "model.safetensors")
    with pytest.raises(UnsafeCheckpoint, match=r"model\.safetensors beside open_clip_model\.safetensors"):
        inspect(str(place))


def test_a_model_is_written_back_as_it_came(clip: CLIPModel, folder: Path, tmp_path: Path) -> None:
    with open_model(str(folder)) as model:
        written = model.save(tmp_path, layout="keep")
    assert {file.name for file in written} == {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    again = CLIPModel.from_pretrained(tmp_path).eval().state_dict()
    assert all(torch.equal(again[name], value) for name, value in clip.state_dict().items())
    compare(tmp_path, clip)


def test_split_is_the_inverse_of_the_map() -> None:
    config = hugging_face.model_config({"model_type": "clip"}, "config.json")
    model = open_clip.CLIP(**MODEL)
    state = model.state_dict()
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 1
    parts = origins.split(state, config)
    assert set(parts) == {name for origin in origins.origins(config).values() for name in origin.names}
    assert parts["text_projection.weight"].shape == (16, 64)
    stacked = torch.cat([parts[f"text_model.encoder.layers.0.self_attn.{part}_proj.weight"] for part in "qkv"])
    assert torch.equal(stacked, state["transformer.resblocks.0.attn.in_proj_weight"])


def test_the_defaults_are_those_of_a_vit_b_32() -> None:
    made = hugging_face.model_config({"model_type": "clip"}, "config.json")
    own = json.loads((Path(open_clip.__file__).parent / "model_configs" / "ViT-B-32-quickgelu.json").read_text())
    assert made == own


def test_pixels_are_those_of_transformers_but_for_a_shift_of_one_row(folder: Path) -> None:
    rule, prepare = inspect(str(folder)).preprocess, layouts.with_pillow("clip", "CLIP").from_pretrained(folder)
    draw = np.random.default_rng(0)
    mean, std = (np.array(values)[:, None, None] for values in (rule.mean, rule.std))
    for width in range(32, 72):
        image = Image.fromarray(draw.integers(0, 256, (32, width, 3), dtype=np.uint8))
        theirs = prepare(image, return_tensors="np").pixel_values[0]
        levels = np.rint((theirs * std + mean) * 255).astype(np.uint8).transpose(1, 2, 0)
        ours = fit(image, rule)
        if (width - 32) % 4 == 3:  # half a pixel: transformers rounds down, open_clip to an even number
            assert np.array_equal(levels[:, 1:], ours[:, :-1])
        else:
            assert np.array_equal(levels, ours)


def test_another_tokenizer_is_read_from_the_folder(folder: Path, tmp_path: Path) -> None:
    assert is_clips_own(folder)
    place = settled(folder, tmp_path / "m")
    document = json.loads((place / "tokenizer.json").read_text())
    merges = document["model"]["merges"]
    document["model"]["merges"] = [merges[1], merges[0], *merges[2:]]
    (place / "tokenizer.json").write_text(json.dumps(document))
    assert not is_clips_own(place)
    assert inspect(str(place)).tokenizer == "beside the weights"
    (place / "tokenizer.json").unlink()
    ids = layouts.clip_tokenizer().get_vocab()
    (place / "vocab.json").write_text(json.dumps(ids))
    (place / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(merge) for merge in merges))
    assert is_clips_own(place)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("added_tokens.json", {"cat": 5}),
        ("special_tokens_map.json", {"additional_special_tokens": ["cat"]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"5": {"content": "cat"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": 3}),
        ("tokenizer_config.json", {"extra_special_tokens": {"a": "cat"}}),
        ("tokenizer_config.json", {"any_token": "cat"}),
        ("tokenizer_config.json", {"pad_token": "!"}),
        ("tokenizer_config.json", {"bos_token": "<|endoftext|>"}),
        ("tokenizer_config.json", {"eos_token": {"content": "<|startoftext|>"}}),
        ("tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"}),
        ("tokenizer.json", {"added_tokens": [{"id": 5, "content": "cat"}]}),
        ("tokenizer.json", {"added_tokens": 3}),
    ],
)
def test_a_tokenizer_with_other_tokens_is_not_clips_own(
    file: str, changes: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    for path in folder.glob("*token*.json"):
        shutil.copy(path, tmp_path)
    assert is_clips_own(tmp_path)
    path = tmp_path / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), **changes}))
    assert not is_clips_own(tmp_path)


def test_a_word_that_a_tokenizer_adds_has_its_number(folder: Path, tmp_path: Path) -> None:
    place = settled(folder, tmp_path / "m")
    (place / "added_tokens.json").write_text('{"cat": 5}')
    with open_model(str(place)) as model:
        ids = model.encoder(device="cpu").tokenize(["a red cat! dog"])[0]
    theirs = AutoTokenizer.from_pretrained(place)(["a red cat! dog"]).input_ids[0]
    assert ids[: len(theirs)].tolist() == theirs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda placed: {}, "no weight_map"),
        (lambda placed: dict.fromkeys(placed, "../m.safetensors"), "not a file beside it"),
        (lambda placed: dict(list(placed.items())[1:]), "do not belong together"),
        (lambda placed: {**placed, "more": next(iter(placed.values()))}, "do not belong together"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(change: Any, message: str, clip: CLIPModel, tmp_path: Path) -> None:
    place = layouts.sharded(clip, tmp_path / "m")
    path = place / "model.safetensors.index.json"
    placed = shards.index(path)
    path.write_text(json.dumps({"weight_map": change(placed)}))
    with pytest.raises(InputError, match=message):
        inspect(str(place))


# --- training checkpoints ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(layouts.PICKLED))
def test_a_training_checkpoint_is_the_model_in_it(name: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    place = layouts.beside_config(SETTINGS, layouts.PICKLED[name](weights), tmp_path / "m")
    with open_model(str(place)) as model:
        assert check(model.checkpoint)
        assert model.checkpoint.notes
        found = model.network().state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_shards_of_open_clip_are_one_model(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    place = layouts.open_clip_shards(SETTINGS, weights, tmp_path / "m")
    with open_model(str(place)) as model:
        found = model.network().state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())


EXTRAS: dict[str, Any] = {
    "namespace": argparse.Namespace(a=1, items=2),
    "numpy": [np.float32(1.5), np.arange(4), np.array([None, "a"], dtype=object), np.str_("x")],
    "plain": [torch.Size([1]), torch.float16, slice(1, 2), range(3), {1}, frozenset({1}), 1j, b"a", bytearray(b"a")],
    "collections": [collections.Counter("aab"), collections.defaultdict(list, {"a": [1]}), collections.deque([1])],
    "times": [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), datetime.date(2026, 1, 1), datetime.timedelta(1)],
    "paths": [Path("a/b")],
    "keys": {None: 1, (1, 2): 2, 1.5: 3},
}


@pytest.mark.parametrize("name", list(EXTRAS))
def test_harmless_extras_are_skipped(name: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    place = layouts.beside_config(SETTINGS, {"state_dict": weights, "extra": EXTRAS[name]}, tmp_path / "m")
    assert "read state_dict of the file, not extra" in inspect(str(place)).notes


class Own(collections.OrderedDict):  # type: ignore[type-arg]
    """A class of the test's own, whose code loading would import."""


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (lambda w: {"state_dict": w, "extra": Own(a=1)}, UnsafeCheckpoint, "could run code"),
        (lambda w: {"model": w, "ema": dict(w)}, InputError, "several models, raw or averaged: model, ema"),
        (lambda w: {"state_dict": w, "ema": {"shadow": [1]}}, InputError, "raw or averaged: state_dict, ema"),
        (lambda w: {"model": {"a": {"b": {"c": w}}}}, InputError, "no state dict"),
        (lambda w: {**w, "visual.proj.lora_A.weight": torch.zeros(2)}, InputError, "an adapter that is not merged"),
        (lambda w: argparse.Namespace(**{"state_dict": w}), InputError, "no state dict"),
    ],
)
def test_what_is_no_single_model_is_refused(
    value: Any, kind: type[Exception], message: str, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    place = layouts.beside_config(SETTINGS, value(weights), tmp_path / "m")
    with pytest.raises(kind, match=message):
        inspect(str(place))


@pytest.mark.parametrize(
    "change",
    [
        {"init_logit_bias": -10.0},
        {"custom_text": True},
        {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}},
    ],
    ids=["without its bias", "names before custom_text", "counters in half precision"],
)
def test_older_and_rounded_files_are_read_as_open_clip_reads_them(change: dict[str, Any], tmp_path: Path) -> None:
    from open_clip.factory import load_checkpoint

    config = {**MODEL, **change}
    plain = open_clip.CLIP(**{key: value for key, value in config.items() if key not in ("custom_text",)})
    state = {name: value.half() for name, value in plain.state_dict().items() if name != "logit_bias"}
    settings = json.dumps({"model_cfg": config}).encode()
    place = layouts.beside_config(settings, state, tmp_path / "m")
    build = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    wanted: Any = build(**config)
    load_checkpoint(wanted, str(place / "epoch_latest.pt"))
    with open_model(str(place)) as model:
        assert check(model.checkpoint)
        found = model.network().state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.state_dict().items())


def test_a_tensor_that_safetensors_left_out_as_tied_is_the_one_it_is_tied_to(
    weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    (tmp_path / "open_clip_config.json").write_bytes(SETTINGS)
    tied = "visual.transformer.resblocks.0.ln_1.weight", "visual.transformer.resblocks.0.ln_2.weight"
    kept = {name: value for name, value in weights.items() if name != tied[1]}
    save_file(kept, tmp_path / "open_clip_model.safetensors", {tied[1]: tied[0]})
    with open_model(str(tmp_path)) as model:
        found = model.network().state_dict()
    assert torch.equal(found[tied[1]], weights[tied[0]])


@pytest.mark.parametrize(("place", "advice"), [(".git/annex/objects", "git annex get"), (".dvc/cache", "dvc pull")])
def test_a_link_to_another_store_says_how_to_fetch_the_file(
    place: str, advice: str, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    folder = layouts.beside_config(SETTINGS, weights, tmp_path / "m")
    store = tmp_path / place
    store.mkdir(parents=True)
    (folder / "epoch_latest.pt").rename(store / "blob")
    (folder / "epoch_latest.pt").symlink_to(store / "blob")
    with pytest.raises(InputError, match="a link out of its folder") as caught:
        inspect(str(folder))
    assert advice in caught.value.hint


# --- files and folders without a configuration -------------------------------------------------------


def state_of(name: str) -> dict[str, torch.Tensor]:
    """The tensors of an architecture of open_clip, without memory."""
    path = Path(open_clip.__file__).parent / "model_configs" / f"{name}.json"
    with torch.device("meta"):
        return dict(open_clip.CLIP(**json.loads(path.read_text())).state_dict())


@pytest.mark.parametrize("name", ["RN50", "ViT-B-32", "ViT-B-16-plus-240"])
def test_an_architecture_is_matched_by_names_and_shapes(name: str) -> None:
    tensors = {
        key: TensorInfo(key, "F32" if value.is_floating_point() else "I64", tuple(value.shape))
        for key, value in state_of(name).items()
    }
    assert {base_name(found) for found in matching(tensors)} == {name}
    del tensors["visual.conv1.weight"]
    assert matching(tensors) == []


@pytest.mark.nightly
def test_a_file_that_does_not_name_its_architecture_is_told_by_its_tensors(tmp_path: Path) -> None:
    state = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in state_of("RN50").items()}
    file = tmp_path / "weights.pt"
    torch.save(state, file)
    found = inspect(str(file))
    assert (found.architecture, found.activation, found.layout) == ("RN50", None, FILE)
    torch.save(layouts.openai(state), file)
    assert inspect(str(file)).activation == "quick_gelu"


@pytest.mark.parametrize(
    ("names", "message", "advice"),
    [
        ([".metadata", "__0_0.distcp"], "torch.distributed", "dcp_to_torch"),
        (["zero_to_fp32.py", "latest"], "DeepSpeed", "zero_to_fp32.py"),
        (["model_index.json"], "a pipeline of diffusers", "whole CLIPModel"),
        (["openvino_model.xml", "openvino_model.bin"], "an OpenVINO model", "converted from"),
        (["x.gguf"], "a GGUF model", "made from"),
        (["saved_model.pb"], "a TensorFlow model", "PyTorch"),
        (["checkpoint-10"], "the output of a Trainer", "checkpoint-10"),
        (["epoch_1.pt", "epoch_latest.pt"], "only epoch_1.pt, epoch_latest.pt", "#epoch_latest.pt --arch"),
    ],
)
def test_a_foreign_folder_is_named_for_what_it_is(names: list[str], message: str, advice: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=message) as caught:
        inspect(str(tmp_path))
    assert advice in caught.value.hint


def test_a_file_of_a_folder_can_be_named(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    place = layouts.beside_config(SETTINGS, weights, tmp_path / "m")
    torch.save({**weights, "logit_scale": torch.tensor(1.0)}, place / "epoch_1.pt")
    with pytest.raises(InputError, match="several weights files") as caught:
        inspect(str(place))
    assert "#epoch_1.pt" in caught.value.hint
    assert inspect(f"{place}#epoch_1.pt").weights == str(place / "epoch_1.pt")
