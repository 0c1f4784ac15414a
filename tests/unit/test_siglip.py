"""SigLIP of transformers: its vectors, ids and pixels, how it is written back, and what is refused."""

import json
import re
import shutil
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import foreign_layouts as layouts
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save_file
from sample_reports import remediated
from transformers import SiglipModel

from pargate.clean.request import CleanRequest
from pargate.clean.run import refuse_unkept
from pargate.core.model import unit
from pargate.core.provenance import Subject
from pargate.errors import InputError
from pargate.export.example import tokenizer_of
from pargate.export.folder import _tokenizer as exported_tokenizer
from pargate.images.decode import fit
from pargate.models import origins
from pargate.models.model import check_saved
from pargate.models.open import inspect, open_model
from pargate.models.tokenizer import tokenizer
from pargate.models.torch.siglip import SPACES, Captions
from pargate.release.card import card
from pargate.release.convert import Candidate, convert

CAPTIONS = ["a photo of a cat", "A  Dog's   life!", "two birds & 3 fish", "café 日本 x", "ΑΣ it's_12:30", "cats " * 60,
            "", "  the quick (brown) fox, \n jumps…\x1c", "&amp; <b>", "▁a▁cat", f"a{string.punctuation}b"]  # fmt: skip


@pytest.fixture(scope="module")
def siglip() -> SiglipModel:
    return layouts.siglip_model(size=35)


@pytest.fixture(scope="module")
def folder(siglip: SiglipModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it; tests must not change it."""
    return layouts.siglip_folder(siglip, tmp_path_factory.mktemp("siglip"))


def compare(place: Path, siglip: SiglipModel) -> None:
    """Raise unless pargate's vectors of a folder are those of the model."""
    with open_model(str(place)) as model:
        encoder = model.encoder(device="cpu")
        pixels = np.random.default_rng(0).integers(0, 256, (8, *model.checkpoint.preprocess.size, 3), dtype=np.uint8)
        prepared = (torch.from_numpy(pixels).float() / 127.5 - 1).permute(0, 3, 1, 2)
        with torch.inference_mode():
            texts = siglip.get_text_features(input_ids=encoder.tokenize(CAPTIONS)).pooler_output.numpy()
            images = siglip.get_image_features(prepared).pooler_output.numpy()
        assert np.abs(encoder.encode_texts(CAPTIONS) - unit(texts)).max() <= 1e-5
        assert np.abs(encoder.encode_images(encoder.put(pixels)) - unit(images)).max() <= 1e-5
        assert encoder.spec.logit_scale == pytest.approx(siglip.logit_scale.exp().item())
        assert encoder.spec.logit_bias == pytest.approx(siglip.logit_bias.item())


# --- vectors, ids, pixels ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"hidden_act": "gelu", "layer_norm_eps": 1e-3, "hidden_size": 128, "num_hidden_layers": 1}],
)
def test_a_siglip_has_its_own_vectors(changes: dict[str, Any], tmp_path: Path) -> None:
    siglip = layouts.siglip_model(size=35, **changes)
    place = layouts.siglip_folder(siglip, tmp_path / "m")
    compare(place, siglip)
    found = inspect(str(place))
    assert (found.layout, found.activation, found.context_length) == ("transformers", "gelu", 16)


def test_the_two_forms_of_gelu_are_told_apart(folder: Path, tmp_path: Path) -> None:
    """The vectors of the test above would not show it if both towers ignored the setting."""
    place = layouts.changed(folder, tmp_path / "m", vision_config__hidden_act="gelu")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 35, 35, 3), dtype=np.uint8)
    vectors = []
    for source in (folder, place):
        with open_model(str(source)) as model:
            encoder = model.encoder(device="cpu")
            vectors.append(encoder.encode_images(encoder.put(pixels)))
    assert 1e-6 < np.abs(vectors[0] - vectors[1]).max() < 1e-2


def test_captions_have_the_ids_of_siglips_own_tokenizer(folder: Path) -> None:
    own = layouts.siglip_tokenizer(folder)
    theirs = own(CAPTIONS, padding="max_length", max_length=16, truncation=True)["input_ids"]
    assert Captions(folder, 16)(CAPTIONS).tolist() == theirs


def test_captions_are_padded_and_cut_as_told(folder: Path) -> None:
    words = list(layouts.PIECES)
    assert Captions(folder, 16)(["A photo, of\ta CAT!", "dogs", "cat " * 40]).tolist() == [
        [words.index(word) for word in ("▁a", "▁photo", "▁of", "▁a", "▁cat")] + [1] * 11,
        [words.index("▁dog"), words.index("s")] + [1] * 14,
        [words.index("▁cat")] * 15 + [1],
    ]


def test_captions_of_siglip2_have_the_ids_that_transformers_gives_them(siglip: SiglipModel, tmp_path: Path) -> None:
    place = layouts.siglip2_folder(siglip, tmp_path / "m")
    own = layouts.siglip_tokenizer(place)
    theirs = own(CAPTIONS, padding="max_length", max_length=16, truncation=True)["input_ids"]
    with open_model(str(place)) as model:
        ids = model.encoder(device="cpu").tokenize(CAPTIONS)
    assert ids.tolist() == theirs
    compare(place, siglip)


@pytest.mark.parametrize("kind", list(layouts.SIGLIPS))
def test_an_exported_tokenizer_gives_the_same_ids(kind: str, siglip: SiglipModel, tmp_path: Path) -> None:
    place = layouts.SIGLIPS[kind](siglip, tmp_path / "m")
    encoder: Any = SimpleNamespace(tokenize=Captions(place, 16), context=16)
    rule, content = exported_tokenizer(encoder, inspect(str(place)))
    (tmp_path / "tokenizer.json").write_bytes(content)
    ids = encoder.tokenize(CAPTIONS).tolist()
    assert tokenizer(rule, content, kind)(CAPTIONS).tolist() == ids
    assert tokenizer_of(rule.model_dump(), tmp_path)(CAPTIONS).tolist() == ids


def test_spaces_are_those_of_python() -> None:
    told = [n for n in range(0x110000) if chr(n).isspace()]
    assert [n for n in range(0x4000) if re.fullmatch(SPACES, chr(n))] == told


@pytest.mark.parametrize("resample", [2, 3])
def test_pixels_are_those_of_transformers(resample: int, folder: Path, tmp_path: Path) -> None:
    place = layouts.changed(
        folder, tmp_path / "m", "preprocessor_config.json", resample=resample, image_mean=[0.5, 0.4, 0.5]
    )
    rule, prepare = inspect(str(place)).preprocess, layouts.with_pillow("siglip", "Siglip").from_pretrained(place)
    draw = np.random.default_rng(0)
    mean, std = (np.array(values)[:, None, None] for values in (rule.mean, rule.std))
    for width in range(20, 90, 7):
        image = Image.fromarray(draw.integers(0, 256, (41, width, 3), dtype=np.uint8))
        theirs = prepare(image, return_tensors="np").pixel_values[0]
        assert np.array_equal(
            np.rint((theirs * std + mean) * 255).astype(np.uint8).transpose(1, 2, 0), fit(image, rule)
        )


def test_settings_under_a_name_that_only_a_clip_has_count_nothing(folder: Path, tmp_path: Path) -> None:
    place = layouts.changed(folder, tmp_path / "m", text_config_dict={"hidden_act": "relu"})
    assert inspect(str(place)).config == inspect(str(folder)).config


def test_images_are_prepared_as_siglip_does_where_no_file_says(folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "m"))
    (place / "preprocessor_config.json").unlink()
    found = inspect(str(place))
    assert found.preprocess == inspect(str(folder)).preprocess
    assert found.preprocess_from.startswith("the defaults of SiglipImageProcessor")


# --- writing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "layout"), [("SigLIP", None), ("SigLIP2", "keep")])
def test_a_siglip_is_written_back_as_it_came(kind: str, layout: Any, siglip: SiglipModel, tmp_path: Path) -> None:
    place = layouts.SIGLIPS[kind](siglip, tmp_path / "m")
    out = tmp_path / "out"
    out.mkdir()
    with open_model(str(place)) as model:
        written = model.save(out, layout=layout)
        moved = model.moved(out)
    assert {file.name for file in written} == {path.name for path in place.iterdir()}
    again = SiglipModel.from_pretrained(out).eval().state_dict()
    assert all(torch.equal(again[name], value) for name, value in siglip.state_dict().items())
    compare(out, siglip)
    check_saved(written, inspect(str(place)))
    assert Path(moved.checkpoint.weights).is_file()
    config = next(number for number, file in enumerate(written) if file.name == "config.json")
    other = Subject(name="config.json", sha256="0" * 64)
    with pytest.raises(ValueError, match="another configuration"):
        check_saved([*written[:config], other, *written[config + 1 :]], inspect(str(place)))


def test_what_a_gate_writes_opens_as_the_same_model(folder: Path, tmp_path: Path) -> None:
    with open_model(str(folder)) as model:
        convert(model, tmp_path / "out", "2026-01-01T00:00:00+00:00")
        candidate = Candidate.read(tmp_path / "out", model.checkpoint)
        assert candidate.model().checkpoint.config_sha256 == model.checkpoint.config_sha256
    settings = tmp_path / "out" / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace("0.5", "0.4"))
    with pytest.raises(InputError, match="changed while pargate ran"):
        Candidate.read(tmp_path / "out", model.checkpoint).model()


def test_a_model_card_names_the_library_that_reads_the_model() -> None:
    shipped = (Subject(name="model/model.safetensors", sha256="1" * 64, size_bytes=8),)
    text = card(remediated(), shipped, None)
    assert "`model/` is a folder of transformers." in text and "library_name: transformers" in text


def test_open_clips_format_is_refused_for_it(folder: Path, tmp_path: Path) -> None:
    request = CleanRequest(
        str(folder), "synthetic:8", tmp_path / "out", "2026-01-01T00:00:00+00:00", layout="open_clip"
    )
    with pytest.raises(InputError, match="open_clip cannot hold") as caught:
        refuse_unkept(request, inspect(str(folder)))
    assert "leave --format out" in caught.value.hint
    assert any("written in this layout alone" in note for note in inspect(str(folder)).notes)


def test_split_is_the_inverse_of_the_map(folder: Path, siglip: SiglipModel) -> None:
    with open_model(str(folder)) as model:
        network = model.network().state_dict()
        parts = origins.split(network, model.checkpoint.config)
    stored = siglip.state_dict()
    assert parts.keys() == stored.keys()
    assert all(torch.equal(parts[name], value) for name, value in stored.items())
    pooled = stored["vision_model.head.attention.in_proj_weight"]
    assert torch.equal(network["visual.trunk.attn_pool.q.weight"], pooled[:64])
    assert torch.equal(network["visual.trunk.attn_pool.kv.weight"], pooled[64:])


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_config__hidden_act": "quick_gelu"}, "quick_gelu, which no SigLIP uses"),
        ({"vision_config__vision_use_head": False}, "no pooling head"),
        ({"text_config__projection_size": 32}, "length 64 for images and 32 for captions"),
        ({"text_config__hidden_act": "relu"}, "'relu', which open_clip cannot compute"),
        ({"vision_config__num_channels": 1}, "1 channels"),
        ({"model_type": "siglip2"}, "images of any shape"),
        ({"model_type": "siglip_vision_model"}, "the image tower of a CLIP alone"),
    ],
)
def test_a_configuration_that_has_no_counterpart_is_refused(
    changes: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        inspect(str(layouts.changed(folder, tmp_path / "m", **changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_max_length": 32}, "pads captions to 32 tokens"),
        ({"extra_special_tokens": ["<new>"]}, "adds '<new>' to its vocabulary"),
        ({"eos_token": {"content": "<end>"}}, "does not hold the token '<end>'"),
        ({"padding_side": "up"}, "cannot use the tokenizer"),
        ({"added_tokens_decoder": 3}, "cannot use the tokenizer"),
    ],
)
def test_a_tokenizer_that_is_not_siglips_is_refused(
    changes: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    place = layouts.changed(folder, tmp_path / "m", "tokenizer_config.json", **changes)
    with open_model(str(place)) as model, pytest.raises(InputError, match=message):
        model.encoder(device="cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no vocabulary", "cannot use the tokenizer"),
        (b"", "cannot use the tokenizer"),
        (layouts.spiece().replace(b"\x12\x05\x18\x01", b"\x12\x05\x18\x02"), "not the kind of vocabulary"),
    ],
)
def test_a_vocabulary_that_is_not_siglips_is_refused(
    content: bytes, message: str, folder: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "m"))
    (place / "spiece.model").write_bytes(content)
    with open_model(str(place)) as model, pytest.raises(InputError, match=message):
        model.encoder(device="cpu")


def test_a_vocabulary_that_is_missing_is_named(siglip: SiglipModel, folder: Path, tmp_path: Path) -> None:
    without = Path(shutil.copytree(folder, tmp_path / "m"))
    (without / "spiece.model").unlink()
    with pytest.raises(InputError, match="does not lie beside the weights"):
        inspect(str(without))
    other = layouts.siglip2_folder(siglip, tmp_path / "other")
    place = layouts.changed(other, tmp_path / "own", "tokenizer_config.json", tokenizer_class="SiglipTokenizer")
    with open_model(str(place)) as model, pytest.raises(InputError, match=r"whose spiece\.model does not lie beside"):
        model.encoder(device="cpu")


def test_a_tensor_of_another_shape_is_refused(folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "m"))
    tensors = load((place / "model.safetensors").read_bytes())
    name = "vision_model.head.attention.in_proj_bias"
    save_file({**tensors, name: torch.zeros(100)}, place / "model.safetensors")
    with pytest.raises(InputError, match="in_proj_bias does not hold the projections"):
        inspect(str(place))


def test_the_pooling_is_unknown_in_a_configuration_of_open_clip(folder: Path, tmp_path: Path) -> None:
    config = inspect(str(folder)).config
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    shutil.copy(folder / "model.safetensors", tmp_path / "open_clip_model.safetensors")
    with pytest.raises(InputError, match="open_clip knows no"):
        inspect(str(tmp_path))


def test_weights_of_transformers_do_not_fit_a_tower_of_timm(folder: Path, tmp_path: Path) -> None:
    config = {
        "embed_dim": 64, "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160},
        "text_cfg": {"context_length": 16, "vocab_size": 120, "width": 96, "heads": 4, "layers": 2},
    }  # fmt: skip
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    shutil.copy(folder / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"the model has not|lacks tensors"):
        inspect(str(tmp_path))
