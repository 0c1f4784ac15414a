"""Pairs from a text-to-image model: a tiny one with random weights, made here."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pargate.errors import InputError, OperationalError
from pargate.events import Advanced, Event, Notice
from pargate.images.opening import open_pairs
from pargate.images.sources import diffusion
from pargate.images.sources.diffusion import Recipe, caption, generate

# Of transformers 5.3 itself, about a tokenizer whose files are no JSON.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Deprecated in 0.9.0. BPE:DeprecationWarning:transformers.models.clip.tokenization_clip"
)

RECIPE = Recipe(("cat", "Airplane", "golden retriever"), count=7, seed=1, steps=2, per_shard=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion with a few thousand weights that draws 32 pixels, as a folder."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("text-to-image")
    letters = "abcdefghijklmnopqrstuvwxyz.,'-"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            block_out_channels=(4, 8), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=32, norm_num_groups=2,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        vae=AutoencoderKL(
            block_out_channels=(4, 8), in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=2,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(
            hidden_size=32, intermediate_size=64, num_attention_heads=4, num_hidden_layers=2, vocab_size=len(tokens),
            max_position_embeddings=48, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )),
        tokenizer=CLIPTokenizer.from_pretrained(str(folder), model_max_length=48),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    ).save_pretrained(folder / "model")  # fmt: skip
    return folder / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_pairs_are_drawn_from_captions_and_kept_as_shards(model: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    folder = generate(f"diffusers:{model}", RECIPE, tmp_path, batch=2, emit=events.append)
    assert folder.parent == tmp_path / "diffusers"
    pairs = open_pairs(str(folder), seed=0)
    assert pairs.captions(range(7)) == caption(RECIPE.concepts, 1, range(7))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["pairs"] == 7 and manifest["settings"]["counts"] == {"generated": 7, "blank": 0}
    assert manifest["settings"]["concepts"] == list(RECIPE.concepts) and manifest["settings"]["steps"] == 2
    assert [event.done for event in events if isinstance(event, Advanced)] == [3, 6, 7]
    assert any("is trusted without a scan" in event.message for event in events if isinstance(event, Notice))


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"diffusers:{model}"
    whole = contents(generate(source, RECIPE, tmp_path / "a", batch=2))

    def interrupt(event: Event) -> None:
        if isinstance(event, Advanced) and event.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(source, RECIPE, tmp_path / "b", batch=2, emit=interrupt)
    (folder,) = (tmp_path / "b" / "diffusers").iterdir()
    assert sorted(contents(folder)) == ["000000.json", "000000.tar", "000001.json", "000001.tar"]
    os.truncate(folder / "000001.tar", 700)  # and one that was damaged meanwhile
    drawn = []
    real = diffusion._Drawing.images

    def watched(self: Any, captions: Any, numbers: Any) -> Any:
        drawn.append(numbers[0])
        return real(self, captions, numbers)

    monkeypatch.setattr(diffusion._Drawing, "images", watched)
    assert contents(generate(source, RECIPE, tmp_path / "b", batch=2)) == whole
    assert drawn == [3, 6]
    generate(source, RECIPE, tmp_path / "b", batch=2)
    assert drawn == [3, 6]


def test_everything_that_decides_the_pairs_names_their_folder(model: Path, tmp_path: Path) -> None:
    source, small = f"diffusers:{model}", replace(RECIPE, count=2)
    recipes = [small, replace(small, seed=2), replace(small, guidance=1.0), replace(small, concepts=("cat",)),
               replace(small, side=16), replace(small, stored=16)]  # fmt: skip
    folders = [generate(source, recipe, tmp_path) for recipe in recipes]
    assert len(set(folders)) == 6


def test_blank_pictures_are_not_kept(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = diffusion._Drawing.images

    def censored(self: Any, captions: Any, numbers: Any) -> Any:
        pixels = real(self, captions, numbers)
        pixels[1] = 0
        return pixels

    monkeypatch.setattr(diffusion._Drawing, "images", censored)
    folder = generate(f"diffusers:{model}", replace(RECIPE, count=3), tmp_path)
    told = caption(RECIPE.concepts, 1, range(3))
    assert open_pairs(str(folder), seed=0).captions([0, 1]) == [told[0], told[2]]
    assert json.loads((folder / "manifest.json").read_text())["settings"]["counts"]["blank"] == 1

    def all_censored(self: Any, captions: Any, numbers: Any) -> Any:
        return np.zeros_like(real(self, captions, numbers))

    monkeypatch.setattr(diffusion._Drawing, "images", all_censored)
    with pytest.raises(InputError, match="0 of 2 images are not blank"):
        generate(f"diffusers:{model}", replace(RECIPE, count=2), tmp_path)


def test_captions_are_pure_functions_of_seed_and_number() -> None:
    told = caption(("cat", "Airplane"), 5, range(300))
    assert told[7:9] == caption(("cat", "Airplane"), 5, [7, 8]) != caption(("cat", "Airplane"), 6, [7, 8])
    assert all(("cat" in c) != ("Airplane" in c) and c.endswith(".") for c in told)
    assert not any("a Airplane" in c or "an cat" in c for c in told)
    assert any("an Airplane" in c for c in told) and any("a red cat" in c for c in told)
    assert not any("black and white photo" in c and any(f"{x} " in c for x in ("red", "green")) for c in told)


def test_a_source_that_is_generated_opens_like_any_other(model: Path, tmp_path: Path) -> None:
    source = f"diffusers:{model}"
    with pytest.raises(InputError, match="no cache to keep"):
        open_pairs(source, seed=0)
    assert open_pairs("synthetic:5", seed=0).count == 5
    pairs = open_pairs(source, seed=0, cache=tmp_path, classes=["cat", "dog"], count=2)
    assert pairs.source == source and pairs.count == 2
    assert all("cat" in text or "dog" in text for text in pairs.captions([0, 1]))


# ---- what cannot be used


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"concepts": ()}, "no concepts"),
        ({"count": 1}, "cannot generate 1 pairs"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(RECIPE, **change)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model_index\.json"):
        generate(f"diffusers:{tmp_path}", RECIPE, tmp_path / "cache")
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "weights.bin").write_bytes(b"pickled")
    with pytest.raises(InputError, match="has no safetensors weights"):
        generate(f"diffusers:{tmp_path}", RECIPE, tmp_path / "cache")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="diffusers cannot load"):
        generate(f"diffusers:{tmp_path}", RECIPE, tmp_path / "cache")


def test_a_side_that_the_model_cannot_draw_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot draw from captions"):
        generate(f"diffusers:{model}", replace(RECIPE, side=33), tmp_path)


def test_a_device_that_is_not_there_is_an_operational_error(model: Path, tmp_path: Path) -> None:
    with pytest.raises(OperationalError, match="cannot run on cuda:99"):
        generate(f"diffusers:{model}", RECIPE, tmp_path, device="cuda:99")


def test_without_diffusers_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(OperationalError, match="not installed") as caught:
        generate("diffusers:some/model", RECIPE, tmp_path)
    assert caught.value.hint == "pip install 'pargate[diffusers]'"
