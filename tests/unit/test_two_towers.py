"""Two towers of a CLIP that transformers saved apart: read as one model, written as one, refused where they are not."""

import json
import shutil
from pathlib import Path
from typing import Any

import foreign_layouts as layouts
import pytest
import torch
from safetensors.torch import load, save_file
from test_foreign_layouts import compare
from transformers import CLIPModel

from pargate.cli.app import run
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.models.layouts.two_towers import TwoTowers
from pargate.models.open import inspect, open_model
from pargate.models.scanners import files_of
from pargate.models.two_towers import TEXT, VISION


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    return layouts.clip_model(hidden_size=32)


@pytest.fixture(scope="module")
def folder(clip: CLIPModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both towers; tests must not change it."""
    return layouts.towers_apart(clip, tmp_path_factory.mktemp("towers"))


@pytest.fixture
def place(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may change, without the tokenizer, which takes long to compare with CLIP's own."""
    return Path(shutil.copytree(folder, tmp_path / "m", ignore=shutil.ignore_patterns("tokenizer")))


def settle(path: Path, **changes: Any) -> None:
    """Change settings in a `config.json`."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_assumed_is_said(folder: Path) -> None:
    notes = inspect(str(folder)).notes
    assert "image tower: image_encoder/, text tower: text_encoder/" in notes
    assert any(note.startswith("logit scale: 100") for note in notes)
    with open_model(str(folder)) as model:
        assert model.encoder(device="cpu").spec.logit_scale == pytest.approx(100)


def test_the_digest_is_that_of_both_files(place: Path, folder: Path) -> None:
    before = inspect(str(place))
    assert inspect(str(folder)).digest == before.digest
    for name in ("image_encoder", "text_encoder"):
        file = place / name / "model.safetensors"
        tensors = load(file.read_bytes())
        changed = next(key for key in tensors if key.endswith("projection.weight"))
        save_file({**tensors, changed: tensors[changed] + 1}, file)
        found = inspect(str(place))
        assert found.sha256 != before.sha256
        before = found


def test_towers_under_other_names_are_read(clip: CLIPModel, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "m"
    shutil.copytree(folder / "image_encoder", place / "a")
    shutil.copytree(folder / "text_encoder", place / "b")
    (place / "c").mkdir()
    (place / "c" / "config.json").write_text("{")
    shutil.copy(folder / "feature_extractor" / "preprocessor_config.json", place / "a")
    compare(place, clip)
    assert inspect(str(place)).preprocess_from == str(place / "a" / "preprocessor_config.json")


def test_a_tokenizer_belongs_to_the_encoder_of_its_number(place: Path, folder: Path) -> None:
    (place / "text_encoder").rename(place / "text_encoder_2")
    shutil.copytree(folder / "tokenizer", place / "tokenizer_2")
    (place / "tokenizer").mkdir()
    (place / "tokenizer" / "tokenizer.json").write_text("{}")
    found = inspect(str(place))
    assert (found.tokenizer, found.folder) == ("bpe", str(place / "tokenizer_2"))


def test_both_towers_are_written_as_one_clip(clip: CLIPModel, folder: Path, tmp_path: Path) -> None:
    for name, layout in (("kept", "keep"), ("plain", None)):
        (tmp_path / name).mkdir()
        with open_model(str(folder)) as model:
            written = model.save(tmp_path / name, layout=layout)  # type: ignore[arg-type]
        assert {file.name for file in written} == {path.name for path in (tmp_path / name).iterdir()}
        compare(tmp_path / name, clip)
    again = CLIPModel.from_pretrained(tmp_path / "kept").state_dict()
    theirs = {**clip.state_dict(), "logit_scale": torch.log(torch.tensor(100.0))}
    assert all(torch.equal(again[name], value) for name, value in theirs.items())
    assert inspect(str(tmp_path / "kept")).config == inspect(str(folder)).config


def test_cleaned_towers_are_written_as_one_clip(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["--method", "finetune", "--pairs", "synthetic:8", "--steps", "1", "--batch-size", "4", "--device", "cpu"]
    assert run(["clean", str(folder), "--out", "cleaned", "--format", "keep", *asked]) == 0
    assert inspect("cleaned").layout == "transformers"
    CLIPModel.from_pretrained("cleaned")


# --- what is refused ---------------------------------------------------------------------------------


def test_one_tower_alone_says_what_is_missing(place: Path) -> None:
    shutil.rmtree(place / "image_encoder")
    with pytest.raises(InputError, match=f"holds no {VISION}"):
        inspect(str(place))
    with pytest.raises(InputError, match="the text tower of a CLIP alone") as caught:
        inspect(str(place / "text_encoder"))
    assert "a folder that holds both towers" in caught.value.hint


def test_a_tower_without_projection_is_none(place: Path) -> None:
    settle(place / "text_encoder" / "config.json", architectures=["CLIPTextModel"])
    with pytest.raises(InputError, match=f"holds no {TEXT}"):
        inspect(str(place))
    settle(place / "image_encoder" / "config.json", architectures=["CLIPVisionModel"])
    with pytest.raises(InputError, match="a pipeline of diffusers"):
        inspect(str(place))


def test_several_towers_of_a_kind_are_named(place: Path) -> None:
    shutil.copytree(place / "text_encoder", place / "text_encoder_2")
    with pytest.raises(InputError, match=f"several towers of the class {TEXT}: text_encoder/, text_encoder_2/"):
        inspect(str(place))


def test_towers_of_different_clips_are_refused(place: Path) -> None:
    settle(place / "text_encoder" / "config.json", projection_dim=32)
    with pytest.raises(InputError, match="length 24 in image_encoder/ and 32 in text_encoder/"):
        inspect(str(place))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "x.Y"}}, "run code from elsewhere"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"transformers_weights": "other.safetensors"}, "names another weights file"),
        ({"num_hidden_layers": None}, "has num_hidden_layers null"),
        ({"num_hidden_layers": 10**9}, "layers is '1000000000'"),
        ({"hidden_size": 10**9, "intermediate_size": 10**9}, "width is '1000000000'"),
    ],
)
@pytest.mark.parametrize("tower", ["image_encoder", "text_encoder"])
def test_a_tower_that_asks_for_too_much_is_refused(
    tower: str, changes: dict[str, Any], message: str, place: Path
) -> None:
    settle(place / tower / "config.json", **changes)
    with pytest.raises(InputError, match=message):
        inspect(str(place))


def test_a_tower_without_weights_is_named(place: Path) -> None:
    (place / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"text_encoder holds no model\.safetensors"):
        inspect(str(place))


def test_other_weights_beside_a_tower_are_refused(place: Path) -> None:
    tensors = load((place / "text_encoder" / "model.safetensors").read_bytes())
    beside = place / "text_encoder" / "pytorch_model.bin"
    torch.save({**tensors, "text_model.embeddings.position_ids": torch.arange(77)[None]}, beside)
    assert inspect(str(place)).format == "safetensors"
    torch.save({name: tensor + 1 for name, tensor in tensors.items()}, beside)
    with pytest.raises(UnsafeCheckpoint, match=r"pytorch_model\.bin beside text_encoder/model\.safetensors"):
        inspect(str(place))


@pytest.mark.parametrize("tower", ["image_encoder", "text_encoder"])
def test_an_adapter_in_a_tower_is_refused(tower: str, place: Path) -> None:
    (place / tower / "adapter_config.json").write_text("{}")
    with pytest.raises(UnsafeCheckpoint, match=rf"{tower} means different models to different readers: adapter_config"):
        inspect(str(place))


@pytest.mark.parametrize("beside", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_a_tower_in_several_files_is_refused(index: str, beside: str, place: Path) -> None:
    tower = place / "image_encoder"
    if beside == "pytorch_model.bin":
        torch.save(load((tower / "model.safetensors").read_bytes()), tower / beside)
        (tower / "model.safetensors").unlink()
    (tower / index).write_text("{}")
    with pytest.raises(InputError, match=f"{index}: a tower in several files is not read") as caught:
        inspect(str(place))
    assert "max_shard_size" in caught.value.hint


def test_tensors_in_the_file_of_the_other_tower_are_refused(place: Path) -> None:
    image, text = (place / name / "model.safetensors" for name in ("image_encoder", "text_encoder"))
    images, texts = load(image.read_bytes()), load(text.read_bytes())
    moved = {"text_projection.weight": texts["text_projection.weight"]}
    rest = {name: tensor for name, tensor in texts.items() if name not in moved}
    for one, other, message in (
        (texts, images, r"\(image_encoder/model\.safetensors\) holds text_"),
        (images | moved, rest, r"\(image_encoder/model\.safetensors\) holds text_projection\.weight"),
        (images, {**texts, "visual_projection.weight": torch.zeros(24, 64)}, r"holds visual_projection\.weight"),
        (images, {**texts, "logit_scale": torch.zeros(())}, "holds logit_scale, which is not of its tower"),
    ):
        save_file(one, image)
        save_file(other, text)
        with pytest.raises(InputError, match=message):
            inspect(str(place))


@pytest.mark.parametrize("tower", ["image_encoder", "text_encoder"])
@pytest.mark.parametrize("section", ["vision_config", "text_config"])
def test_a_section_that_transformers_would_read_instead_is_refused(section: str, tower: str, place: Path) -> None:
    settle(place / tower / "config.json", **{section: {"hidden_act": "quick_gelu"}})
    with pytest.raises(InputError, match=f"transformers reads {section} in it"):
        inspect(str(place))


@pytest.mark.parametrize("kind", ["siglip_vision_model", "evil", "clip", None, ["clip_vision_model"]])
@pytest.mark.parametrize("tower", ["image_encoder", "text_encoder"])
def test_a_tower_of_another_kind_is_refused(tower: str, kind: Any, place: Path) -> None:
    settle(place / tower / "config.json", model_type=kind)
    with pytest.raises(InputError, match=rf"{tower}/config\.json: model_type is "):
        inspect(str(place))


def test_a_link_out_of_the_folder_is_refused(place: Path, folder: Path) -> None:
    shutil.rmtree(place / "text_encoder")
    (place / "text_encoder").symlink_to(folder / "text_encoder")
    with pytest.raises(InputError, match="link out of its folder"):
        inspect(str(place))


def test_two_processors_are_not_chosen_between(place: Path) -> None:
    shutil.copytree(place / "feature_extractor", place / "image_processor")
    with pytest.raises(InputError, match="may each say how images are prepared"):
        inspect(str(place))


def test_an_architecture_is_not_asked_for(folder: Path) -> None:
    with pytest.raises(InputError, match="--arch ViT-B-32 does not go with"):
        inspect(str(folder), arch="ViT-B-32")


def test_what_is_no_path_is_no_match() -> None:
    assert not TwoTowers.match("\0")


def test_other_scanners_are_asked_about_both_files(folder: Path) -> None:
    named = {path.relative_to(folder).as_posix() for path in files_of(inspect(str(folder)).weights)}
    assert named == {"image_encoder/model.safetensors", "text_encoder/model.safetensors"}
