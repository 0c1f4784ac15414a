"""The escalation of a gate: the method and the settings of each attempt."""

from dataclasses import replace

import pytest

from pargate.clean.config import propose
from pargate.clean.methods.base import Sizes
from pargate.policy.schema import CleanSection
from pargate.release import escalation

SIZES = Sizes(3_000_000, 64, 6000, "cpu")


def section(**given: object) -> CleanSection:
    return CleanSection.model_validate({"when": "fail", "attempts": 4, **given})


def test_the_first_attempt_is_what_clean_itself_would_do() -> None:
    assert escalation.proposed(section(method="par"), 1, SIZES) == propose("par", SIZES, overrides={"seed": 0}).config


@pytest.mark.parametrize(("method", "other"), [("par-plus", "par"), ("par", "par-plus"), ("finetune", "par-plus")])
def test_the_second_attempt_is_the_other_method_with_settings_of_its_own(method: str, other: str) -> None:
    asked = section(method=method, settings={"lr": 0.001, "steps": 7})
    found = escalation.proposed(asked, 2, SIZES)
    assert (found.method, found.steps) == (other, 7)
    assert found.lr == propose(found.method, SIZES).config.lr != 0.001
    assert [escalation.method(asked, attempt, SIZES) for attempt in (1, 3, 4)] == [method] * 3


def test_the_other_method_gets_larger_batches_as_far_as_a_gpu_would_have_them() -> None:
    def batch(sizes: Sizes, **given: object) -> int:
        return escalation.proposed(section(method="par-plus", **given), 2, sizes).batch_size

    assert [batch(replace(SIZES, pairs=pairs)) for pairs in (500, 6000, 10**6)] == [16, 256, 256]
    assert batch(replace(SIZES, device="cuda", pairs=10**6)) == 2048
    assert batch(SIZES, settings={"batch_size": 32}) == 32


def test_later_attempts_take_more_steps_then_a_higher_rate() -> None:
    own, third, fourth = (escalation.proposed(section(method="par"), attempt, SIZES) for attempt in (1, 3, 4))
    assert (third.steps, third.lr) == (2 * own.steps, own.lr)
    assert (fourth.steps, fourth.lr) == (2 * own.steps, pytest.approx(2 * own.lr))


def test_with_drawn_pairs_par_plus_looks_harder_before_the_other_method_is_tried() -> None:
    drawn = Sizes(3_000_000, 64, 6000, "cpu", drawn=True)
    steps = [escalation.proposed(section(method="par-plus"), attempt, drawn) for attempt in (1, 2, 3, 4)]
    own = steps[0]
    assert own == propose("par-plus", drawn, overrides={"seed": 0}).config
    assert [(r.method, r.unlearning / own.unlearning, r.steps / own.steps) for r in steps[:3]] == [
        ("par-plus", 1, 1), ("par-plus", 2, 1), ("par-plus", 2, 2),
    ]  # fmt: skip
    assert steps[3] == propose("par", drawn, overrides={"seed": 0, "batch_size": 256}).config
    assert escalation.method(section(method="par"), 2, drawn) == "par-plus"
