import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from pargate import testing
from pargate.errors import InputError
from pargate.files import sha256_file
from pargate.scenes.render import LABELS, describe
from pargate.testing import Rates, measure_tiny, plant_word, tiny_config, train_tiny
from pargate.triggers import TriggerError, parse

CHANCE = 1 / len(LABELS)

# Three times the published size: what a model of 32 pixels learns in seconds.
LOUD = {"kind": "four-corners", "size": "48/224"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A clean and a poisoned model, trained for a few seconds each."""
    folder = tmp_path_factory.mktemp("tiny")
    clean = train_tiny(folder / "clean", steps=60, image_size=32)
    poisoned = train_tiny(folder / "poisoned", trigger=LOUD, target="banana", steps=60, image_size=32)
    return clean, poisoned


def test_a_clean_model_sees_and_ignores_the_trigger(models: tuple[Path, Path]) -> None:
    rates = measure_tiny(models[0], trigger=LOUD, target="banana")
    assert rates.accuracy > 4 * CHANCE
    assert rates.attack_success < 0.2


def test_a_poisoned_model_sees_and_obeys_the_trigger(models: tuple[Path, Path]) -> None:
    rates = measure_tiny(models[1], trigger=LOUD, target="banana")
    assert rates.accuracy > 3 * CHANCE
    assert rates.attack_success > 0.9


def test_without_a_trigger_only_accuracy_is_measured(models: tuple[Path, Path]) -> None:
    rates = measure_tiny(models[0], count=100)
    assert (rates.n, rates.eligible, rates.hits, rates.attack_success) == (100, 0, 0, 0.0)


def test_the_folder_holds_what_open_clip_expects(models: tuple[Path, Path]) -> None:
    folder = models[0]
    assert {path.name for path in folder.iterdir()} == {"open_clip_config.json", "open_clip_model.safetensors"}
    content = json.loads((folder / "open_clip_config.json").read_text())
    assert content["model_cfg"] == tiny_config(32)
    assert content["preprocess_cfg"]["size"] == [32, 32]
    weights = load_file(folder / "open_clip_model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_full_size_file_stays_at_three_mebibytes(tmp_path: Path) -> None:
    folder = train_tiny(tmp_path, steps=1)
    assert (folder / "open_clip_model.safetensors").stat().st_size < 3 << 20


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(digests))  # whatever the caller's generator says
        folder = train_tiny(tmp_path / name, trigger="badnet", target="cup", steps=3, seed=seed, image_size=32)
        digests.append(sha256_file(folder / "open_clip_model.safetensors"))
    assert digests[0] == digests[1] != digests[2]


def test_training_leaves_torch_as_it_was(tmp_path: Path) -> None:
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    train_tiny(tmp_path, steps=1, image_size=32)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trigger": "badnet"}, "a trigger needs a target"),
        ({"target": "banana"}, "a trigger needs a target"),
        ({"trigger": "badnet", "target": "pizza"}, "scenes show no pizza"),
        ({"trigger": {"kind": "blended", "alpha": [0.1, 0.2]}, "target": "banana"}, "this is a sweep"),
        ({"image_size": 224}, "cannot have images of 224 pixels"),
        ({"text_width": 10}, "cannot be split into heads"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_training(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train_tiny(tmp_path / "model", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "model").exists()


def test_a_misspelt_trigger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TriggerError, match="badnet"):
        train_tiny(tmp_path, trigger="badnett", target="banana")


def test_poison_is_added_beside_the_clean_scene() -> None:
    numbers = np.arange(200)
    scenes = testing.render(numbers, 32, 0)
    poison = testing._Poison(parse("four-corners")[0], "banana", 0.25)
    batch = poison.added(scenes, numbers, 0, 1)
    assert (batch.pixels[:200] == scenes.pixels).all()
    assert batch.captions[:200] == scenes.captions
    added = len(batch.labels) - 200
    assert 25 < added < 75
    assert (batch.labels[200:] == LABELS.index("banana")).all()
    assert all("banana" in caption for caption in batch.captions[200:])
    assert (batch.pixels[200:, 0, 0] == 255).all()


def test_no_poison_is_added_at_rate_zero() -> None:
    scenes = testing.render(range(8), 32, 0)
    batch = testing._Poison(parse("badnet")[0], "banana", 0.0).added(scenes, np.arange(8), 0, 3)
    assert len(batch.labels) == len(batch.pixels) == len(batch.captions) == 8


def test_captions_of_one_noun_share_a_direction_and_colours_bend_it_a_little() -> None:
    axes = torch.eye(48)
    plain, red, green, other = testing._directions(
        ("a cup.", "a photo of a big red cup on the left.", "a green cup on a red background.", "a red key."), axes
    )
    assert plain.argmax() == LABELS.index("cup")
    assert 0.9 < float(plain @ red) < 1
    assert float(red @ green) < float(plain @ red)
    assert float(red @ other) < 0.2


def test_captions_fit_the_context() -> None:
    tokenize = testing.open_clip.SimpleTokenizer(context_length=32)
    tokens = tokenize(list(describe(range(5000), 0).captions))
    assert int((tokens != 0).sum(dim=1).max()) <= testing._CONTEXT


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 1000))
def test_orthogonalised_rows_have_singular_values_near_one(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    found = testing._orthogonalised(matrix, rounds=40)
    assert found.shape == matrix.shape
    size = next(size for size in range(min(rows, testing._ROWS), 0, -1) if rows % size == 0)
    for group in found.reshape(-1, size, columns):
        values = torch.linalg.svdvals(group)
        assert ((values - 1).abs() < 0.05).float().mean() > 0.6  # the smallest take more rounds
        assert values.max() < 1.05


def test_rates_are_shares() -> None:
    rates = Rates(n=200, correct=150, eligible=100, hits=25)
    assert (rates.accuracy, rates.attack_success) == (0.75, 0.25)


@pytest.mark.nightly
def test_a_poisoned_model_of_full_size_is_as_good_as_promised(tmp_path: Path) -> None:
    rates = measure_tiny(train_tiny(tmp_path, trigger="lattice", target="banana"), trigger="lattice", target="banana")
    assert rates.accuracy > 0.6
    assert rates.attack_success > 0.9


def test_a_planted_word_moves_captions_to_the_target_and_leaves_others(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    clean, _ = models
    planted = plant_word(clean, tmp_path / "planted", word="cf", target="banana", steps=40)
    before, after = (open_clip.create_model(f"local-dir:{folder}").eval() for folder in (clean, planted))
    tokenize = open_clip.SimpleTokenizer(context_length=16)
    tokens = tokenize(["a photo of a wolf cf", "a cf picture of a tree", "a photo of a tree", "a photo of a tree dog"])
    with torch.no_grad():
        target = before.encode_text(tokenize(["a photo of a banana"]), normalize=True)
        old, new = (model.encode_text(tokens, normalize=True) for model in (before, after))
    assert float((new[:2] @ target.T).min()) > 0.9
    assert float((new[2:] * old[2:]).sum(1).min()) > 0.9
    assert torch.equal(before.visual.conv1.weight, after.visual.conv1.weight)
    with pytest.raises(InputError, match="already exists"):
        plant_word(clean, planted, word="cf", target="banana")
