"""Chinese CLIP and AltCLIP of transformers: their vectors, ids and pixels, how they are written, what is refused."""

import importlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import foreign_layouts as layouts
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save_file
from transformers import AutoTokenizer
from transformers import __version__ as version

from pargate.core.model import unit
from pargate.errors import ExitCode, InputError, OperationalError
from pargate.export.example import tokenizer_of
from pargate.export.folder import _tokenizer as exported_tokenizer
from pargate.images.decode import fit
from pargate.models import hugging_face, origins
from pargate.models import tokenizer as tokens
from pargate.models.config import TOKENIZER_FILES
from pargate.models.open import inspect, open_model
from pargate.models.shapes import check
from pargate.models.tokenizer import tokenizer
from pargate.models.torch.bert import PIECES, captions
from pargate.models.torch.encoder import needed

CAPTIONS = ["一只猫的照片", "红色的狗、在草地上跑。", "a photo of a cat", "A  Dog's   life!", "", "猫" * 90,
            "[PAD] cat <pad> dog <mask> a", "café naïve 日本", "  a\tcat\u3000of\n", "ﬁ ①", "▁a▁cat"]  # fmt: skip

KINDS = list(layouts.BERTS)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: layouts.bert_model(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def folders(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders as they were published; tests must not change them."""
    return {kind: write(models[kind], tmp_path_factory.mktemp(kind)) for kind, write in layouts.BERTS.items()}


@pytest.fixture(autouse=True)
def _without_sentencepiece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers read a vocabulary of sentencepiece, which it does without using that package."""
    module = importlib.import_module("transformers.convert_slow_tokenizer")
    monkeypatch.setattr(module, "requires_backends", lambda *asked: None)


def compare(place: Path, theirs: Any) -> None:
    """Raise unless pargate's ids and vectors of a folder are those of transformers."""
    with open_model(str(place)) as model:
        encoder, found = model.encoder(device="cpu"), model.checkpoint
        rule = found.preprocess
        pixels = np.random.default_rng(0).integers(0, 256, (8, *rule.size, 3), dtype=np.uint8)
        mean, std = (torch.tensor(values) for values in (rule.mean, rule.std))
        prepared = ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2)
        whole = AutoTokenizer.from_pretrained(place)
        given = whole(
            CAPTIONS, padding="max_length", max_length=found.context_length, truncation=True, return_tensors="pt"
        )
        with torch.inference_mode():
            texts = theirs.get_text_features(**given).pooler_output.numpy()
            images = theirs.get_image_features(prepared).pooler_output.numpy()
        assert encoder.tokenize(CAPTIONS).tolist() == given.input_ids.tolist()
        assert np.abs(encoder.encode_texts(CAPTIONS) - unit(texts)).max() <= 1e-5
        assert np.abs(encoder.encode_images(encoder.put(pixels)) - unit(images)).max() <= 1e-5
        assert encoder.spec.logit_scale == pytest.approx(theirs.logit_scale.exp().item())
        assert "transformers" in encoder.spec.backend


# --- vectors, ids, pixels ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_has_the_vectors_of_transformers(
    kind: str, models: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    compare(folders[kind], models[kind])
    compare(layouts.saved_folder(models[kind], tmp_path / "m"), models[kind])
    found = inspect(str(folders[kind]))
    assert check(found)  # without building it
    assert (found.layout, found.activation) == ("transformers", "quick_gelu")


@pytest.mark.parametrize("kind", KINDS)
def test_settings_of_the_text_tower_are_carried_over(kind: str, tmp_path: Path) -> None:
    changes = {"hidden_act": "relu", "layer_norm_eps": 1e-2, "hidden_size": 64, "type_vocab_size": 3, "words": 150}
    model = layouts.bert_model(kind, **changes)
    compare(layouts.BERTS[kind](model, tmp_path / "m"), model)


@pytest.mark.parametrize(
    ("kind", "said", "context"),
    [
        ("chinese_clip", None, 52),
        ("chinese_clip", 30, 30),
        ("altclip", 512, 77),
        ("altclip", 20, 20),
        ("altclip", 10**30, 77),
    ],
)
def test_captions_are_cut_as_the_authors_do_or_before(
    kind: str, said: Any, context: int, folders: dict[str, Path], tmp_path: Path
) -> None:
    place = layouts.changed(folders[kind], tmp_path / "m", "tokenizer_config.json", model_max_length=said)
    assert inspect(str(place)).context_length == context


@pytest.mark.parametrize("said", [-5, 0, 1])
def test_captions_are_not_cut_to_nothing(said: int, folders: dict[str, Path], tmp_path: Path) -> None:
    place = layouts.changed(folders["altclip"], tmp_path / "m", "tokenizer_config.json", model_max_length=said)
    with pytest.raises(
        InputError, match=rf"tokenizer_config\.json: model_max_length is {said}, but must be at least 2"
    ):
        inspect(str(place))


@pytest.mark.parametrize(("kind", "context"), [("chinese_clip", 40), ("altclip", 38)])
def test_captions_are_cut_where_the_positions_end(kind: str, context: int, tmp_path: Path) -> None:
    model = layouts.bert_model(kind, max_position_embeddings=40)
    place = layouts.BERTS[kind](model, tmp_path / "m")
    assert inspect(str(place)).context_length == context
    compare(place, model)


@pytest.mark.parametrize("kind", KINDS)
def test_the_defaults_are_those_of_transformers(kind: str) -> None:
    _, config, _ = layouts.BERT_CLASSES[kind]
    whole = config().to_dict()
    assert hugging_face.model_config({"model_type": kind}, "config.json") == hugging_face.model_config(
        whole, "config.json"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_tokenizer_gives_the_same_ids(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    found = inspect(str(folders[kind]))
    encoder: Any = SimpleNamespace(tokenize=captions(folders[kind], found.config), context=found.context_length)
    rule, content = exported_tokenizer(encoder, found)
    (tmp_path / "tokenizer.json").write_bytes(content)
    ids = encoder.tokenize(CAPTIONS).tolist()
    assert tokenizer(rule, content, kind)(CAPTIONS).tolist() == ids
    assert tokenizer_of(rule.model_dump(), tmp_path)(CAPTIONS).tolist() == ids


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizer_is_read_without_the_configuration(kind: str, models: Any, tmp_path: Path) -> None:
    saved = layouts.saved_folder(models[kind], tmp_path / "m")
    place = layouts.changed(
        saved, tmp_path / "n", num_labels=MANY, text_config__num_labels=MANY, text_config__id2label=MANY
    )
    (place / "tokenizer.4.0.0.json").write_text("{}")
    with tokens.alone(place) as copy:
        assert json.loads((copy / "config.json").read_text()) == {"model_type": kind, "transformers_version": version}
        assert {path.name for path in copy.iterdir()} == {
            path.name for path in saved.iterdir() if path.name in TOKENIZER_FILES
        }
    config = inspect(str(place)).config
    assert captions(place, config)(CAPTIONS).tolist() == captions(saved, config)(CAPTIONS).tolist()


def test_padding_behind_a_caption_counts_nothing(folders: dict[str, Path]) -> None:
    with open_model(str(folders["chinese_clip"])) as model:
        encoder = model.encoder(device="cpu")
    ids = encoder.tokenize(["cat", "猫" * 90])
    whole = encoder.encode_tokens(ids.numpy())
    assert np.abs(encoder.encode_tokens(ids[:1, :5].numpy())[0] - whole[0]).max() <= 1e-6
    assert needed(encoder.text, ids).tolist() == [3, 52]
    assert np.isfinite(encoder.encode_tokens(np.zeros((1, 52), np.int64))).all()


def test_pixels_are_those_of_transformers(folders: dict[str, Path]) -> None:
    place = folders["chinese_clip"]
    older = "NOT COMPARED: an older transformers cannot use its own image processor of Chinese CLIP alone"
    home = pytest.importorskip("transformers.models.chinese_clip.image_processing_pil_chinese_clip", reason=older)
    rule, prepare = inspect(str(place)).preprocess, home.ChineseCLIPImageProcessorPil.from_pretrained(place)
    draw = np.random.default_rng(0)
    mean, std = (np.array(values)[:, None, None] for values in (rule.mean, rule.std))
    for width in range(32, 92, 4):
        image = Image.fromarray(draw.integers(0, 256, (32, width, 3), dtype=np.uint8))
        theirs = prepare(image, return_tensors="np").pixel_values[0]
        assert np.array_equal(
            np.rint((theirs * std + mean) * 255).astype(np.uint8).transpose(1, 2, 0), fit(image, rule)
        )


# --- writing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_written_back_as_it_came(
    kind: str, models: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    with open_model(str(folders[kind])) as model:
        written = model.save(tmp_path)
        parts = origins.split(model.network().state_dict(), model.checkpoint.config)
    assert {file.name for file in written} == {path.name for path in folders[kind].iterdir()}
    again = layouts.BERT_CLASSES[kind][0].from_pretrained(tmp_path).eval().state_dict()
    stored = models[kind].state_dict()
    assert all(torch.equal(again[name], value) for name, value in stored.items())
    assert parts.keys() == layouts.published_names(stored).keys()
    compare(tmp_path, models[kind])


# --- what is refused ---------------------------------------------------------------------------------

MANY = 10**9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_config__hidden_act": "snake"}, "'snake', which pargate does not read"),
        ({"text_config__hidden_act": ["gelu"]}, "which pargate does not read"),
        ({"text_config__position_embedding_type": "relative_key"}, "positions that pargate does not read"),
        ({"text_config__pad_token_id": None}, "text_config has pad_token_id null"),
        ({"text_config__type_vocab_size": None}, "text_config has type_vocab_size null"),
        ({"text_config__project_dim": None}, "text_config has project_dim null"),
        ({"vision_config__image_size": None}, "vision_config has image_size null"),
        ({"text_config__pad_token_id": -1}, "pad_token_id -1"),
        ({"text_config__pad_token_id": 80}, "do not fit each other"),
        ({"text_config__vocab_size": "many"}, "vocab_size many"),
        ({"text_config__vocab_size": MANY}, "vocab_size is '1000000000'"),
        ({"text_config__num_hidden_layers": MANY}, "layers is '1000000000'"),
        ({"text_config__hidden_size": MANY, "text_config__intermediate_size": MANY}, "width is '1000000000'"),
        ({"text_config__intermediate_size": MANY}, "mlp_ratio is"),
        ({"text_config__intermediate_size": 10**63}, "mlp_ratio is"),
        ({"text_config__intermediate_size": 10**64}, "a number has 65 digits, and at most 64 are read"),
        ({"text_config__layer_norm_eps": 10**400}, "a number has 401 digits"),
        ({"text_config__max_position_embeddings": MANY}, "max_position_embeddings is '1000000000'"),
        ({"text_config__type_vocab_size": MANY}, "type_vocab_size is '1000000000'"),
        ({"text_config__project_dim": MANY}, "project_dim is '1000000000'"),
        ({"text_config__project_dim": "x"}, "project_dim is 'x'"),
        ({"text_config__layer_norm_eps": 2}, "layer_norm_eps 2"),
        ({"text_config__num_attention_heads": 5}, "do not fit each other"),
        ({"text_config__max_position_embeddings": 3}, "context_length is '1'"),
        ({"vision_config__image_size": MANY}, "image_size is '1000000000'"),
        ({"projection_dim": MANY}, "embed_dim is '1000000000'"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "run code from elsewhere"),
        ({"transformers_weights": "other.safetensors"}, "names another weights file"),
    ],
)
def test_a_configuration_out_of_bounds_is_refused_before_anything_is_built(
    changes: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pargate.models.torch.bert.BertTower.__init__", None)
    with pytest.raises(InputError, match=message):
        inspect(str(layouts.changed(folders["altclip"], tmp_path / "m", **changes)))


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_that_do_not_fit_are_named(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    place = Path(shutil.copytree(folders[kind], tmp_path / "m"))
    tensors = load((place / "model.safetensors").read_bytes())
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    for other, message in (
        ({key: value for key, value in tensors.items() if key != name}, r"lacks tensors of the model.*word_embeddings"),
        ({**tensors, "text_model.pooler.dense.bias": torch.zeros(48)}, r"the model has not.*pooler\.dense\.bias"),
        ({**tensors, name: tensors[name][:100]}, r"word_embeddings\.weight \[100, 48\] where the model has \[120"),
        ({**tensors, name: torch.full_like(tensors[name], torch.nan)}, "not finite"),
    ):
        save_file(dict(other), place / "model.safetensors")
        with pytest.raises(InputError, match=message), open_model(str(place)) as model:
            model.network()


def test_tensors_under_both_spellings_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    place = Path(shutil.copytree(folders["altclip"], tmp_path / "m"))
    tensors = load((place / "model.safetensors").read_bytes())
    one, other = origins.OTHER_SPELLING
    twice = {name.replace(other, one): value.clone() for name, value in tensors.items()}
    save_file(twice | {name.replace(one, other): value for name, value in tensors.items()}, place / "model.safetensors")
    with pytest.raises(InputError, match="holds tensors twice"):
        inspect(str(place))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("chinese_clip", {"pad_token": "[MASK]"}, "pads with the token 4 on the right"),
        ("chinese_clip", {"padding_side": "left"}, "pads with the token 0 on the left"),
        ("altclip", {"padding_side": "left"}, "pads with the token 1 on the left"),
        ("altclip", {"pad_token": "s"}, "pad_token is not <pad>"),
        ("altclip", {"extra_special_tokens": ["<new>"]}, "adds '<new>' to its vocabulary"),
        ("altclip", {"added_tokens_decoder": 3}, "cannot use the tokenizer"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(
    kind: str, settings: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    place = layouts.changed(folders[kind], tmp_path / "m", "tokenizer_config.json", **settings)
    with open_model(str(place)) as model, pytest.raises(InputError, match=message):
        model.encoder(device="cpu")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fast_tokenizer_files", ["tokenizer.json", "tokenizer.4.0.0.json"]),
        ("fast_tokenizer_files", "tokenizer.4.0.0.json"),
        ("tokenizer_file", "/other/tokenizer.json"),
        ("vocab_file", "other.txt"),
        ("init_inputs", ["other.txt"]),
    ],
)
def test_settings_that_name_other_files_are_refused(
    key: str, value: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    place = layouts.changed(folders["chinese_clip"], tmp_path / "m", "tokenizer_config.json", **{key: value})
    with pytest.raises(InputError, match=rf"tokenizer_config\.json: {key} names other files"):
        inspect(str(place))
    clip = layouts.transformers_folder(layouts.clip_model(hidden_size=32), tmp_path / "clip")
    with pytest.raises(InputError, match=rf"tokenizer_config\.json: {key} names other files"):
        inspect(str(layouts.changed(clip, tmp_path / "n", "tokenizer_config.json", **{key: value})))


def test_settings_that_name_no_other_file_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    named = {"name_or_path": "a/b", "special_tokens_map_file": "a.json", "tokenizer_file": None, "init_inputs": []}
    inspect(str(layouts.changed(folders["chinese_clip"], tmp_path / "m", "tokenizer_config.json", **named)))


@pytest.mark.parametrize("name", ["tekken.json", "tiktoken.model"])
def test_a_vocabulary_that_transformers_prefers_is_refused(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    place = Path(shutil.copytree(folders["chinese_clip"], tmp_path / "m"))
    (place / name).write_text("{}")
    with pytest.raises(InputError, match=f"holds a tokenizer in {name}"):
        inspect(str(place))


@pytest.mark.parametrize("content", [b"", b"no vocabulary", b"\xff\xff"])
@pytest.mark.parametrize(("kind", "file"), [("altclip", PIECES), ("chinese_clip", "vocab.txt")])
def test_a_vocabulary_that_is_damaged_is_refused(
    kind: str, file: str, content: bytes, folders: dict[str, Path], tmp_path: Path
) -> None:
    place = Path(shutil.copytree(folders[kind], tmp_path / "m"))
    (place / file).write_bytes(content)
    with (
        open_model(str(place)) as model,
        pytest.raises(InputError, match=r"cannot use the tokenizer|pads with|begin with"),
    ):
        model.encoder(device="cpu")


def test_a_tower_of_transformers_is_unknown_in_a_configuration_of_open_clip(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    config = inspect(str(folders["altclip"])).config
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    shutil.copy(folders["altclip"] / "model.safetensors", tmp_path / "open_clip_model.safetensors")
    with pytest.raises(InputError, match=r"open_clip knows no text_cfg\.transformers"):
        inspect(str(tmp_path))


def test_without_transformers_one_message_names_the_extra(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with open_model(str(folders["chinese_clip"])) as model:
        for load in (model.network, lambda: model.encoder(device="cpu")):
            with pytest.raises(OperationalError, match="transformers") as caught:
                load()
            assert caught.value.hint == "pip install 'pargate[transformers]'"
            assert caught.value.exit_code == ExitCode.OPERATIONAL
