"""The commands on a Chinese CLIP and an AltCLIP that tell three colours apart."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import colours
import foreign_layouts as layouts
import pytest
import torch
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from pargate.cli.app import run
from pargate.models.torch.bert import captions
from pargate.models.transformers_folder import located


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both models, images, and a policy; tests must not change what is there."""
    folder = colours.draw(tmp_path_factory.mktemp("colours"))
    for kind, write in layouts.BERTS.items():
        model = layouts.bert_model(kind, num_hidden_layers=1)
        _tell_apart(model, write(model, folder / kind))
        write(model, folder / kind)
    return folder


def _tell_apart(model: Any, folder: Path) -> None:
    """Set the last layer of the text tower so that the caption of a colour has the vector of an image of the colour."""
    found: list[torch.Tensor] = []
    watch = model.text_projection.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    ids = captions(folder, located(folder).model_cfg)(colours.PROMPTS)
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    with torch.no_grad():
        images = model.get_image_features((colours.plain() - mean) / std).pooler_output
        model.get_text_features(input_ids=ids, attention_mask=ids.ne(model.config.text_config.pad_token_id).long())
        watch.remove()
        model.text_projection.weight.copy_(colours.fitted(found[0], images))


def test_a_chinese_clip_goes_through_the_gate_to_a_bundle_that_is_verified(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    out = tmp_path / "release"
    asked = ["-p", "policy.yaml", "--cache", "off", "--device", "cpu", "--out", str(out)]
    assert run(["gate", "chinese_clip", *asked]) == 0
    assert run(["verify", str(out)]) == 0
    for file in (place / "chinese_clip").iterdir():
        assert (out / "model" / file.name).read_bytes() == file.read_bytes()
    done = subprocess.run(
        [sys.executable, out / "onnx" / "example.py", place / "images" / "blue" / "00.png"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split()[1] == "blue"
    (out / "model" / "vocab.txt").write_text("another")
    assert run(["verify", str(out)]) == 1


def test_an_altclip_that_was_cleaned_is_scanned_and_read_by_transformers(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    out = tmp_path / "cleaned"
    few = ["--steps", "2", "--batch-size", "8", "--lr", "1e-6", "--device", "cpu", "--checkpointing"]
    assert run(["clean", "altclip", "--method", "finetune", "--pairs", "synthetic:16", "--out", str(out), *few]) == 0
    assert run(["scan", str(out), "-p", "policy.yaml", "--cache", "off", "--device", "cpu"]) == 0
    kind = layouts.BERT_CLASSES["altclip"][0]
    before, after = (kind.from_pretrained(folder).state_dict() for folder in (place / "altclip", out))
    moved = [name for name, weight in before.items() if not torch.equal(weight, after[name])]
    assert {"visual_projection.weight", "text_projection.weight", "text_model.transformation.weight"} <= set(moved)
