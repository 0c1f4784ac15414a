"""How pictures are prepared where only an architecture's name is known: as open_clip does for its own weights."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory, pretrained
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from PIL import Image
from safetensors.numpy import save

from pargate.core.model import Checkpoint, Preprocess
from pargate.errors import InputError
from pargate.images.decode import fit
from pargate.models import config
from pargate.models.located import Located, said_by
from pargate.models.open import inspect
from pargate.models.preprocessing import named, ways

HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
SQUASHED = {
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3, "do_resize": True, "do_rescale": True,
    "rescale_factor": 0.00392156862745098, "do_normalize": True, "size": {"height": 224, "width": 224},
}  # fmt: skip
CUT = {
    "image_mean": list(config.MEAN), "image_std": list(config.STD), "resample": 3, "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 224},
}  # fmt: skip

NAMES = [name for name in config.architectures() if "hf_model_name" not in config.architecture(name)["text_cfg"]]
"""Architectures that pargate reads; others have a text tower of another library."""


def bare(folder: Path, **files: Any) -> Path:
    """A weights file, with JSON files beside it; a tokenizer, where one is wanted, is there."""
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(save({"a": np.ones(3, np.float32)}))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / "model.safetensors"


def refusal(path: Path, arch: str | None) -> InputError:
    with pytest.raises(InputError) as caught:
        inspect(str(path), arch=arch)
    return caught.value


def theirs(name: str, tag: str) -> Preprocess:
    """What open_clip's `create_model` comes to for the weights of a tag, without its download."""
    cfg = merge_preprocess_dict(PreprocessCfg(), pretrained.get_pretrained_cfg(name, tag))
    side = factory.get_model_config(name.removesuffix("-quickgelu"))["vision_cfg"].get("image_size", 224)
    return Preprocess(
        (side, side) if isinstance(side, int) else tuple(side), tuple(cfg["mean"]), tuple(cfg["std"]),
        cfg["interpolation"], cfg["resize_mode"], cfg["fill_color"],
    )  # fmt: skip


# --- open_clip's table ---


def test_the_table_is_that_of_the_installed_open_clip():
    path = Path(config.__file__).with_name("preprocessing.json")
    table = json.loads(path.read_bytes())
    said = (
        f"{path.name} is of open_clip {table['open_clip']}, installed is {open_clip.__version__}: where their weights "
    )
    said += "differ, run python -m benchmarks.preprocessing"
    found = {
        (name, tag): (table["kinds"][kind], quick)
        for name, tags in table["architectures"].items()
        for tag, (kind, quick) in tags.items()
    }
    known = {
        (name, tag): (
            {key: entry[key] if isinstance(entry[key], str) else list(entry[key]) for key in HALF},
            bool(entry.get("quick_gelu")),
        )
        for name, tag in pretrained.list_pretrained()
        for entry in (pretrained.get_pretrained_cfg(name, tag),)
    }
    assert found == known, said
    assert table["architectures"].keys() >= set(open_clip.list_models()), said
    # Whatever else a tag may come to say of preprocessing, the table would have to hold it.
    extra = {key for pair in known for key in pretrained.get_pretrained_cfg(*pair)} & asdict(PreprocessCfg()).keys()
    assert extra == HALF.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_alone_is_read_as_its_weights_are_or_asked_about(tmp_path, name):
    path, tags = bare(tmp_path), [tag for known, tag in pretrained.list_pretrained() if known == name]
    rules = {tag: theirs(name, tag) for tag in tags}
    for tag, rule in rules.items():
        found = inspect(str(path), arch=f"{name}/{tag}")
        assert (found.preprocess, found.preprocess_known, found.activation_known) == (rule, True, True)
        quick = bool(pretrained.get_pretrained_cfg(name, tag).get("quick_gelu")) or name.endswith("-quickgelu")
        assert found.activation == ("quick_gelu" if quick else "gelu")
    if len(set(rules.values())) > 1:
        asked = refusal(path, name)
        assert all(tag in asked.message and str(rules[tag]) in asked.message for tag in tags)
        assert f"--arch {name}/{tags[0]}" in asked.hint
        return
    found = inspect(str(path), arch=name)
    assert found.architecture == name
    assert found.preprocess_known == bool(tags)
    if tags:
        assert found.preprocess == rules[tags[0]]
        assert tags[0] in found.preprocess_from
    else:
        assert (found.preprocess.mean, found.preprocess.std) == (config.MEAN, config.STD)
        assert str(found.preprocess) in found.assumption and name in found.assumption


@pytest.mark.parametrize(
    "pair",
    [
        "ViT-B-32/openai", "RN50/openai", "ViT-B-16-SigLIP/webli", "MobileCLIP-S1/datacompdr", "PE-Core-B-16/meta",
        "ViT-L-14-CLIPA/datacomp1b", "ViT-L-14/laion2b_s32b_b82k",
    ],
)  # fmt: skip
def test_a_picture_becomes_the_input_that_open_clip_makes(tmp_path, monkeypatch, pair):
    name, tag = pair.split("/")
    monkeypatch.setattr(factory, "download_pretrained", lambda *a, **k: "nowhere")
    with torch.device("meta"):
        _, _, transform = factory.create_model_and_transforms(
            name, pretrained=tag, load_weights=False, device="meta", force_quick_gelu=tag == "openai"
        )
    rule = inspect(str(bare(tmp_path)), arch=pair).preprocess
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 417, 3), dtype=np.uint8))
    ours = (fit(image, rule).astype(np.float32) / 255 - np.float32(rule.mean)) / np.float32(rule.std)
    np.testing.assert_array_equal(ours.transpose(2, 0, 1), transform(image).numpy())


def test_a_name_and_a_tag_are_told_from_a_name_with_a_slash():
    assert named("ViT-B/32") == ("ViT-B-32", None)
    assert named("ViT-B/32/openai") == ("ViT-B-32", "openai")
    assert named("ViT-L-14-quickgelu/dfn2b") == ("ViT-L-14-quickgelu", "dfn2b")
    assert named("ViT-L-14/Laion2B-s32b-b82k") == ("ViT-L-14", "laion2b_s32b_b82k"), "as open_clip writes tags"
    assert named("no/such") == ("no-such", None)
    # None of open_clip's names is another name and a tag of it.
    names = set(config.architectures())
    assert not [n for n in names for o in names if n != o and n.removeprefix(f"{o}-") in tags_of(o)]


def tags_of(name: str) -> set[str]:
    return {tag for way in ways(name, None) for tag in way.tags}


def test_a_tag_that_open_clip_does_not_publish_is_answered_with_the_closest(tmp_path):
    asked = refusal(bare(tmp_path), "ViT-B-32/openay")
    assert "Did you mean 'openai'?" in asked.message and "laion2b_s34b_b79k" in asked.hint
    assert "publishes no weights" in refusal(bare(tmp_path), "ViT-S-32/x").hint


def test_a_quickgelu_form_that_open_clip_does_not_list_is_read_as_its_base(tmp_path):
    path = bare(tmp_path)
    quick, plain = (inspect(str(path), arch=f"MobileCLIP-S2{end}") for end in ("-quickgelu", ""))
    assert quick.preprocess == plain.preprocess != Preprocess((256, 256), config.MEAN, config.STD)
    assert (quick.activation, plain.activation) == ("quick_gelu", None)


def test_an_architecture_that_is_newer_than_the_table_is_not_guessed_at(tmp_path, monkeypatch):
    newer = tmp_path / "ViT-New.json"
    newer.write_text(json.dumps(config.architecture("ViT-B-32")))
    known = config.architectures()
    for place in ("config", "preprocessing"):
        monkeypatch.setattr(f"pargate.models.{place}.architectures", lambda: {**known, "ViT-New": newer})
    asked = refusal(bare(tmp_path), "ViT-New")
    assert "does not know how images are prepared for ViT-New" in asked.message
    assert config.CONFIG_NAME in asked.hint


# --- a configuration beside the file ---


def settings(arch: str, preprocess_cfg: dict[str, Any] | None = None, **model: Any) -> dict[str, Any]:
    return {"model_cfg": {**config.architecture(arch), **model}, "preprocess_cfg": preprocess_cfg}


def beside(folder: Path, arch: str, preprocess_cfg: dict[str, Any] | None, **model: Any) -> Path:
    return bare(folder, open_clip_config=settings(arch, preprocess_cfg, **model))


def test_a_configuration_beside_the_file_is_used_with_arch(tmp_path):
    path = beside(tmp_path, "ViT-S-32", HALF)
    found, without = inspect(str(path), arch="ViT-S-32"), inspect(str(path))
    assert found.preprocess == without.preprocess == Preprocess((224, 224), (0.5,) * 3, (0.5,) * 3, "bicubic", "squash")
    assert found.activation_known and found.digest == without.digest
    assert found.preprocess_from.endswith(config.CONFIG_NAME)
    # The name alone leaves the activation open; the configuration says it.
    assert inspect(str(beside(tmp_path, "ViT-S-32", HALF, quick_gelu=True)), arch="ViT-S-32").activation == "quick_gelu"
    # Where the weights of a name differ, the configuration answers.
    assert inspect(str(beside(tmp_path, "ViT-L-14", HALF)), arch="ViT-L-14").preprocess == found.preprocess


@pytest.mark.parametrize(
    ("arch", "model", "preprocess_cfg", "named"),
    [
        ("RN50", "ViT-B-32", None, "embed_dim is 1024 in the one and 512 in the other"),
        ("ViT-B-32-quickgelu", "ViT-B-32", None, "quick_gelu is True in the one and not set in the other"),
        ("ViT-B-32/openai", "ViT-B-32", None, "quick_gelu is True in the one and not set in the other"),
        ("ViT-B-16-SigLIP", "ViT-B-16-SigLIP", None, "mean is (0.48145466, 0.4578275, 0.40821073) in the one and"),
        ("ViT-B-32", "ViT-B-32", {**HALF, "resize_mode": "shortest"}, "std is (0.5, 0.5, 0.5) in the one and"),
        ("ViT-L-14/laion2b_s32b_b82k", "ViT-L-14", {}, "in the one and (0.5, 0.5, 0.5) in the other"),
        ("ViT-H-14/dfn5b", "ViT-H-14-quickgelu", {}, "resize_mode is shortest in the one and squash in the other"),
    ],
)
def test_a_configuration_that_contradicts_arch_is_an_error_that_names_both(
    tmp_path, arch, model, preprocess_cfg, named
):
    said = refusal(beside(tmp_path, model, preprocess_cfg), arch)
    assert f"--arch {arch}" in said.message and config.CONFIG_NAME in said.message
    assert named in said.message


def test_fields_that_say_nothing_are_no_difference(tmp_path):
    path = beside(tmp_path, "ViT-S-32", HALF, quick_gelu=False, custom_text=False, init_logit_bias=None)
    assert inspect(str(path), arch="ViT-S-32").architecture == "ViT-S-32"


def test_a_folder_that_says_nothing_of_preprocessing_is_read_as_open_clip_reads_it_and_says_so(tmp_path):
    found = inspect(str(beside(tmp_path, "ViT-S-32", None).parent))
    assert found.preprocess == Preprocess((224, 224), config.MEAN, config.STD)
    assert not found.preprocess_known and "has no preprocess_cfg" in found.assumption


# --- preprocessor_config.json ---


def processed(folder: Path, settings: dict[str, Any], arch: str = "ViT-S-32") -> Checkpoint:
    return inspect(str(bare(folder, preprocessor_config=settings)), arch=arch)


def test_a_processors_settings_are_read_where_nothing_else_says(tmp_path):
    assert processed(tmp_path, SQUASHED).preprocess == Preprocess((224, 224), (0.5,) * 3, (0.5,) * 3, resize="squash")
    found = processed(tmp_path, CUT, "ViT-L-14")
    assert found.preprocess == Preprocess((224, 224), config.MEAN, config.STD)
    assert found.preprocess_from.endswith("preprocessor_config.json") and found.preprocess_known
    # One that says nothing of it answers nothing.
    assert not processed(tmp_path, {"size": 224}).preprocess_known
    assert "ViT-L-14/openai" in refusal(bare(tmp_path, preprocessor_config={}), "ViT-L-14").hint


@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"size": 224, "crop_size": 224, "do_center_crop": True}, "shortest"),
        ({"size": 224, "do_center_crop": False, "crop_size": 192}, "squash"),
        ({"size": 224}, "squash"),
        ({"size": {"shortest_edge": 224}, "do_center_crop": True}, "shortest"),
        ({"size": {"height": 224, "width": 224}, "crop_size": {"height": 224, "width": 224}}, "squash"),
        ({"crop_size": 224}, "shortest"),
        ({"do_normalize": False}, "shortest"),
        ({}, "shortest"),
    ],
)
def test_sizes_are_understood_in_every_form(tmp_path, settings, mode):
    found = processed(tmp_path, settings).preprocess
    assert (found.size, found.resize) == ((224, 224), mode)
    assert found.mean == ((0.0,) * 3 if "do_normalize" in settings else config.MEAN)


@pytest.mark.parametrize(
    "wrong",
    [
        {"resample": 1}, {"resample": 0}, {"resample": True}, {"resample": 99}, {"image_mean": [123.7, 116.3, 103.5]},
        {"image_std": [0, 0, 0]}, {"image_std": [58.4, 57.1, 57.4]}, {"do_rescale": False}, {"rescale_factor": 1},
        {"rescale_factor": "x"}, {"do_resize": False}, {"size": {"shortest_edge": 256}}, {"size": 0}, {"size": "big"},
        {"size": {"longest_edge": 224}}, {"size": {"height": 384, "width": 384}}, {"crop_size": {"shortest_edge": 2}},
        {"size": {"height": True, "width": 224}}, {"size": None, "crop_size": "big"},
    ],
)  # fmt: skip
def test_what_no_open_clip_model_does_is_refused_by_name(tmp_path, wrong):
    said = refusal(bare(tmp_path, preprocessor_config={**CUT, **wrong}), "ViT-S-32")
    assert "preprocessor_config.json" in said.message and said.hint


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (SQUASHED, "mean is (0.48145466, 0.4578275, 0.40821073) in the one and (0.5, 0.5, 0.5) in the other"),
        ({**CUT, "resample": 2}, "interpolation is bicubic in the one and bilinear in the other"),
        ({**CUT, "size": 336, "crop_size": 336}, "size is (224, 224) in the one and (336, 336) in the other"),
        ({**CUT, "size": {"height": 224, "width": 224}}, "resize_mode is shortest in the one and squash in the other"),
    ],
)
def test_two_files_that_contradict_each_other_are_both_named(tmp_path, wrong, named):
    path = bare(tmp_path, preprocessor_config=wrong, open_clip_config=settings("ViT-S-32"))
    for source, arch in ((path.parent, None), (path, None), (path, "ViT-S-32")):
        said = refusal(source, arch)
        assert config.CONFIG_NAME in said.message and "preprocessor_config.json" in said.message
        assert named in said.message
    # Of a bare file, open_clip's table is the other side.
    (tmp_path / config.CONFIG_NAME).unlink()
    assert "open_clip's table, for openai" in refusal(path, "ViT-B-32").message


def test_two_files_that_agree_but_for_rounding_are_accepted(tmp_path):
    path = bare(
        tmp_path, preprocessor_config={**CUT, "image_mean": [0.4815, 0.4578, 0.4082]},
        open_clip_config=settings("ViT-S-32"),
    )  # fmt: skip
    assert inspect(str(path)).preprocess.mean == config.MEAN


def test_a_hubs_two_files_are_compared_as_well(tmp_path, monkeypatch):
    path = bare(tmp_path, preprocessor_config=SQUASHED)
    name, beside = "hf-hub:a/b", tmp_path / "preprocessor_config.json"
    there = Located(path, config.architecture("ViT-S-32"), {}, name, said_by({}, name), processor=beside)
    monkeypatch.setattr("pargate.models.hub.repository", lambda source: there)
    with pytest.raises(InputError, match="hf-hub:a/b has no preprocess_cfg"):
        inspect("hf-hub:a/b")
