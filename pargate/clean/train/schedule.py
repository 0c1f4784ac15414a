"""The learning rate, as a pure function of the step."""

import math

from pargate.clean.config import CleanConfig

MIDDLE = 0.1
"""PAR: the rate in the middle of the run, as a share of that of the first step (3e-6 of 3e-5)."""

END = 1e-9 / 3e-5
"""PAR: the rate towards which the second half falls, as a share of that of the first step."""


def learning_rate(config: CleanConfig, step: int) -> float:
    """Rate of `step`, counted from 0.

    `par` is the schedule of PAR's code (`train.py`; the paper's flags call its first half a warm-up): a straight line
    *down* to a tenth, then half a cosine; the first step has the largest rate of all. `cosine` climbs over
    `warmup_steps` and then falls to 0 along half a cosine, as CleanCLIP's.

    Raises:
        ValueError: `step` is not one of the run's.
    """
    if not 0 <= step < config.steps:
        raise ValueError(f"step {step} of a run of {config.steps}")
    if config.schedule == "par":
        half = config.steps // 2
        if step < half:
            return config.lr * (1 + (MIDDLE - 1) * step / max(1, half - 1))
        return config.lr * (END + (MIDDLE - END) * _falling((step - half) / (config.steps - half)))
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    return config.lr * _falling((step - config.warmup_steps) / (config.steps - config.warmup_steps))


def _falling(share: float) -> float:
    """Half a cosine from 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * share))
