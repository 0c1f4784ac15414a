"""The commands on a SigLIP of transformers that tells three colours apart."""

import subprocess
import sys
from pathlib import Path

import colours
import foreign_layouts as layouts
import pytest
import torch
from transformers import SiglipModel

from pargate.cli.app import run
from pargate.models.torch.siglip import Captions


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, images, and a policy; tests must not change what is there."""
    folder = colours.draw(tmp_path_factory.mktemp("colours"))
    _tell_apart(model := layouts.siglip_model(num_hidden_layers=1), layouts.siglip_folder(model, folder / "model"))
    layouts.siglip_folder(model, folder / "model")
    return folder


def _tell_apart(model: SiglipModel, folder: Path) -> None:
    """Set the last layer of the text tower so that the caption of a colour has the vector of an image of the colour."""
    found: list[torch.Tensor] = []
    head = model.text_model.head
    watch = head.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    ids = Captions(folder, 16)(colours.PROMPTS)
    with torch.no_grad():
        images = model.get_image_features(colours.plain() * 2 - 1).pooler_output
        model.get_text_features(input_ids=ids)
        watch.remove()
        layer = colours.fitted(torch.cat([found[0], torch.ones(3, 1)], dim=1), images)
        head.weight.copy_(layer[:, :-1])
        head.bias.copy_(layer[:, -1])


def test_a_siglip_goes_through_the_gate_to_a_bundle_that_is_verified(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    out = tmp_path / "release"
    assert run(["gate", "model", "-p", "policy.yaml", "--cache", "off", "--device", "cpu", "--out", str(out)]) == 0
    assert run(["verify", str(out)]) == 0
    for file in (place / "model").iterdir():
        assert (out / "model" / file.name).read_bytes() == file.read_bytes()
    SiglipModel.from_pretrained(out / "model")
    done = subprocess.run(
        [sys.executable, out / "onnx" / "example.py", place / "images" / "blue" / "00.png"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split()[1] == "blue"
    (out / "model" / "spiece.model").write_bytes(b"another")
    assert run(["verify", str(out)]) == 1


def test_a_siglip_that_was_cleaned_is_scanned_and_read_by_transformers(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    out = tmp_path / "cleaned"
    few = ["--steps", "2", "--batch-size", "8", "--lr", "1e-6", "--device", "cpu", "--checkpointing"]
    assert run(["clean", "model", "--method", "finetune", "--pairs", "synthetic:16", "--out", str(out), *few]) == 0
    assert run(["scan", str(out), "-p", "policy.yaml", "--cache", "off", "--device", "cpu"]) == 0
    before, after = (SiglipModel.from_pretrained(folder).state_dict() for folder in (place / "model", out))
    moved = [name for name, weight in before.items() if not torch.equal(weight, after[name])]
    assert {"vision_model.head.probe", "text_model.head.weight"} <= set(moved)
