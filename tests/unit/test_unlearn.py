"""Unlearning given triggers: which images show them, which model sees them, and what a record and a gate say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_towers import RULE, config, model, pairs, run, same_bits, viewer
from torch import Tensor

from pargate.clean.request import CleanRequest, family
from pargate.clean.run import clean, plan
from pargate.clean.train.universal import GIVEN, SHARE, Universal
from pargate.core import stamp
from pargate.core.provenance import ProvenanceRecord
from pargate.errors import InputError
from pargate.images.prefetch import BatchOrder, PairLoader
from pargate.models.open import inspect
from pargate.policy.resolve import read
from pargate.scanning.unlearned import refuse_same_families, told, unlearned
from pargate.seeds import index_keys, uniform
from pargate.triggers import Trigger, parse

MODELS = Path(__file__).parents[2] / "examples" / "models"

CPU = torch.device("cpu")


def trigger(kind: str = "yellow-patch", **parameters: Any) -> Trigger:
    return parse({"kind": kind, **parameters})[0]


GIVEN_TWO = (trigger(size=6), trigger("sig"))


def drawn(count: int, given: tuple[Trigger, ...] = ()) -> Universal:
    return Universal.drawn(count, RULE.size, 0, CPU, given)


KEYS = index_keys(0, "test", np.arange(20_000))


# --- which images show what ---


@pytest.mark.parametrize("count", [0, 4])
def test_a_quarter_of_the_images_shows_a_given_trigger_and_none_of_these_is_perturbed(count: int) -> None:
    numbers = drawn(count, GIVEN_TWO).chosen(KEYS)
    share = 0.02
    assert np.mean(numbers >= count) == pytest.approx(GIVEN, abs=share)
    assert np.mean((numbers >= 0) & (numbers < count)) == pytest.approx(SHARE if count else 0, abs=share)
    for number in range(count, count + 2):
        assert np.mean(numbers == number) == pytest.approx(GIVEN / 2, abs=share)
    assert numbers.max() == count + 1


def test_without_given_triggers_the_perturbations_fall_on_the_images_they_always_fell_on() -> None:
    chance = uniform(KEYS, 2, 1)
    assert np.array_equal(drawn(4).chosen(KEYS), np.where(chance[:, 0] < 0.5, (4 * chance[:, 1]).astype(int), -1))
    given = drawn(4, GIVEN_TWO).chosen(KEYS)
    assert np.array_equal(given[given < 4], drawn(4).chosen(KEYS)[given < 4])


def test_a_stamped_image_has_the_bytes_of_the_trigger_and_the_others_stay() -> None:
    keys = KEYS[:64]
    levels = np.random.default_rng(0).integers(0, 256, (64, *RULE.size, 3), dtype=np.uint8)
    pixels = torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255
    some = drawn(3, GIVEN_TWO)
    found = (some.stamped(pixels, keys) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    expected, numbers = levels.copy(), some.chosen(keys)
    for number, one in enumerate(GIVEN_TWO):
        rows = np.flatnonzero(numbers == 3 + number)
        assert len(rows)
        expected[rows] = stamp.apply(one.draw(RULE.size, [f"{key:016x}" for key in keys[rows]], 0), levels[rows])
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, levels)
    # A part of a batch gets what the whole gives it.
    parts = torch.cat([some.stamped(pixels[i : i + 5], keys[i : i + 5]) for i in range(0, 64, 5)])
    assert torch.equal(parts, some.stamped(pixels, keys))


def seen(settings: Any, universal: Universal) -> tuple[Tensor, Tensor, Tensor]:
    """What the frozen model sees of a batch, the same without triggers, and what the trained model sees."""
    some = pairs()
    view = viewer(settings, some, model(), tuple(universal.given))
    with PairLoader(some, RULE, BatchOrder(some.count, 0, 8), range(1), workers=0) as loader:
        batch = loader.batch(0)
    keys, whole = view.keys(batch.numbers, 0), slice(0, 8)
    pixels = view.pixels(batch, whole, keys, universal)
    images, captions = view.inputs(pixels, batch, whole, keys, 1, universal)
    assert tuple(captions) == batch.captions  # they stay true
    return pixels, view.pixels(batch, whole, keys), images * 0.25 + 0.5


def test_par_shows_the_trigger_to_both_models_and_par_plus_to_the_trained_one_alone() -> None:
    universal = drawn(0, (trigger(size=6),))
    frozen, plain, trained = seen(config(), universal)
    assert not torch.equal(frozen, plain)
    torch.testing.assert_close(trained, frozen)
    frozen, plain, trained = seen(config(method="par-plus", perturbation=0.0, anchor=1.0), universal)
    assert torch.equal(frozen, plain)
    assert (trained - plain).abs().amax(dim=(1, 2, 3)).gt(0.1).any()


@pytest.mark.parametrize("settings", [{}, {"method": "par-plus", "perturbation": 0.0, "unlearning": 1.5, "anchor": 2.0,
                                           "universal": 4}])  # fmt: skip
def test_micro_batches_change_nothing_and_a_run_is_the_same_again(settings: dict[str, Any], tmp_path: Path) -> None:
    whole = run(config(**settings), tmp_path / "a", given=GIVEN_TWO)
    again = run(config(**settings), tmp_path / "b", given=GIVEN_TWO)
    parts = run(config(**settings, micro_batch=3), tmp_path / "c", given=GIVEN_TWO)
    without = run(config(**settings), tmp_path / "d")
    assert same_bits(whole.weights, again.weights)
    # The loss of a later step depends on the gradients of the first. Weights differ more, by Adam's division.
    for name, values in whole.trained.log.values.items():
        assert parts.trained.log.values[name] == pytest.approx(values, rel=1e-3, abs=1e-4)
    assert not same_bits(whole.weights, without.weights)


def test_the_family_of_a_trigger_follows_from_its_stamp() -> None:
    named = {"badnet": "patch", "blended": "blend", "sig": "blend", "wanet": "warp", "tone": "tone"}
    assert {kind: family(trigger(kind), (64, 64), 0) for kind in named} == named
    assert family(trigger("badnet", jpeg_quality=50), (64, 64), 0) == "patch"


# --- the record, the scan and the gate ---


def request(out: Path, *given: Trigger) -> CleanRequest:
    return CleanRequest(
        model=str(MODELS / "poisoned"), pairs="synthetic:16", out=out, started="2026-01-31T00:00:00+00:00",
        overrides={"steps": 1, "batch_size": 8, "precision": "fp32"}, device="cpu", unlearn=given,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cleaned") / "out"
    clean(request(out, trigger(size=6, name="mine/sticker")))
    return out


def test_the_record_names_what_was_unlearned_and_other_records_do_not(cleaned: Path) -> None:
    record = ProvenanceRecord.model_validate_json((cleaned / "provenance.json").read_bytes())
    one = trigger(size=6)
    assert record.configuration["unlearned"] == [{"family": "patch", **one.parameters}]
    assert [(made.name, made.sha256) for made in record.inputs[1:-1]] == [("mine/sticker", one.digest)]
    assert any("not blind" in notice and "mine/sticker" in notice for notice in record.notices)
    assert "unlearned" not in config().model_dump()
    assert config().digest != config(unlearned=({"kind": "badnet"},)).digest


def test_a_plan_names_the_trigger_and_refuses_one_that_does_not_fit(tmp_path: Path) -> None:
    assert "unlearn mine" in plan(request(tmp_path / "out", trigger(size=6, name="mine")))
    with pytest.raises(InputError, match="leaves the image"):
        plan(request(tmp_path / "out", trigger(size=6, position=[63, 0])))


def test_a_scan_says_that_a_model_was_told_and_of_another_model_it_does_not(cleaned: Path, tmp_path: Path) -> None:
    assert "was cleaned with --unlearn and shown triggers (patch)" in told(inspect(str(cleaned)))
    assert told(inspect(str(MODELS / "poisoned"))) == ""
    # A record beside other weights is about another model.
    other = replace(inspect(str(cleaned)), sha256="0" * 64)
    assert unlearned(other) == ()


RULES = """
pargate: 1
name: p
rules:
  - {id: a, probe: attack, triggers: [%s], max: {excess: 30pp}}
  - {id: useful, probe: utility, min: {accuracy: 50%%}}
"""


@pytest.mark.parametrize(("measured", "enough"), [("badnet, yellow-patch", False), ("badnet, wanet", True)])
def test_a_policy_about_the_same_family_alone_is_refused(cleaned: Path, measured: str, enough: bool) -> None:
    policy = read(RULES % measured, "p.yaml", Path()).policy
    if enough:
        refuse_same_families(policy, inspect(str(cleaned)), 0)
    else:
        with pytest.raises(InputError, match="the policy p measures no other family of triggers"):
            refuse_same_families(policy, inspect(str(cleaned)), 0)
    refuse_same_families(policy, inspect(str(MODELS / "poisoned")), 0)


@pytest.mark.parametrize(("families", "enough"), [("patch", False), ("additive", True)])
def test_a_search_counts_by_its_families(cleaned: Path, families: str, enough: bool) -> None:
    rule = f"{{id: s, probe: search, families: [{families}], max: {{excess: 30pp}}}}"
    policy = read(f"pargate: 1\nname: p\nrules: [{rule}]\n", "p.yaml", Path()).policy
    if enough:
        refuse_same_families(policy, inspect(str(cleaned)), 0)
    else:
        with pytest.raises(InputError, match="no other family"):
            refuse_same_families(policy, inspect(str(cleaned)), 0)
