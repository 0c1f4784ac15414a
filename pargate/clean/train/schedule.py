"""The learning rate, as a pure function of the step."""

import math

from pargate.clean.config import CleanConfig

MIDDLE = 0.1
"""Rate in the middle of PAR's schedule, as a share of that of the first step (3e-6 of 3e-5)."""

END = 1e-9 / 3e-5
"""Rate at the end of PAR's schedule, as a share of that of the first step."""


def learning_rate(config: CleanConfig, step: int) -> float:
    """Return the rate of `step`, counted from 0.

    `par` is the schedule of PAR's code (`train.py`): linear *down* to a tenth, then half a cosine. `cosine` is that of
    CleanCLIP: linear up over `warmup_steps`, then half a cosine to 0.

    Raises:
        ValueError: `step` is not a step of the run.
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
    """Return half a cosine, from 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * share))
