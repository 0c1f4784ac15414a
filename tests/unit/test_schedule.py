"""The learning rate of every step, against the formula of PAR's code and that of CleanCLIP's."""

import math
from itertools import pairwise

import numpy as np
import pytest

from pargate.clean.config import CleanConfig
from pargate.clean.train.schedule import learning_rate


def run(steps: int, lr: float = 3e-5, **settings: object) -> CleanConfig:
    whole = {"method": "par", "steps": steps, "batch_size": 2, "micro_batch": 2, "lr": lr, **settings}
    return CleanConfig.model_validate(whole)


def published(i: int, n: int) -> float:
    """`train.py` of PAR, as written there."""
    w = n // 2
    if i < w:
        return float(np.linspace(3e-5, 3e-6, w)[i])
    return 1e-9 + 0.5 * (3e-6 - 1e-9) * (1 + math.cos(math.pi * (i - w) / (n - w)))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 244, 301])
def test_par_follows_the_published_schedule_at_every_step(steps: int) -> None:
    found = [learning_rate(run(steps), i) for i in range(steps)]
    assert found == pytest.approx([published(i, steps) for i in range(steps)], rel=1e-12)


def test_the_first_step_of_par_has_the_largest_rate_of_all() -> None:
    rates = [learning_rate(run(244), i) for i in range(244)]
    assert rates[0] == max(rates) == 3e-5 and rates[-1] > 1e-9
    assert all(after < before * (1 + 1e-12) for before, after in pairwise(rates))


def test_another_rate_keeps_the_shape_of_the_schedule() -> None:
    assert [learning_rate(run(9, lr=6e-4), i) for i in range(9)] == pytest.approx(
        [20 * published(i, 9) for i in range(9)], rel=1e-12
    )


def test_cosine_climbs_over_its_warm_up_and_falls_to_nothing() -> None:
    config = run(110, lr=1e-5, schedule="cosine", warmup_steps=10)
    rates = [learning_rate(config, i) for i in range(110)]
    assert rates[:10] == pytest.approx([1e-6 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1e-5) and rates[60] == pytest.approx(0.5e-5)
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[-1] < 1e-8


def test_cosine_without_warm_up_begins_at_its_rate() -> None:
    rates = [learning_rate(run(4, lr=1.0e-2, schedule="cosine"), i) for i in range(4)]
    assert rates == pytest.approx([0.5e-2 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])


def test_a_warm_up_longer_than_the_run_only_climbs() -> None:
    rates = [learning_rate(run(5, lr=1e-3, schedule="cosine", warmup_steps=50), i) for i in range(5)]
    assert rates == pytest.approx([2e-5, 4e-5, 6e-5, 8e-5, 1e-4])


@pytest.mark.parametrize("step", [-1, 10, 11])
def test_a_step_outside_the_run_has_no_rate(step: int) -> None:
    with pytest.raises(ValueError, match=f"step {step} of a run of 10"):
        learning_rate(run(10), step)


def test_the_rate_depends_on_nothing_but_the_step() -> None:
    config = run(50)
    forth = [learning_rate(config, i) for i in range(50)]
    assert [learning_rate(config, i) for i in reversed(range(50))] == forth[::-1]
