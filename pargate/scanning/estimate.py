"""Estimate the duration of a scan and of a gate from sizes alone, before any model is opened.

The estimate is good to a factor of about three. The rates are those of a slow machine, so that most runs end sooner.
"""

from dataclasses import dataclass
from typing import Literal, cast

from pargate.core.found import PASSES, Family
from pargate.core.model import Checkpoint
from pargate.policy.schema import Policy

FLOPS = {"cpu": 30e9, "cuda": 10e12}
"""Floating-point operations per second of the towers on one core (fp32) or on a GPU (bf16)."""

READ = 400.0
"""Images per second that one core decodes or draws."""

IMAGES = 192
"""Images until a comparison is decided."""

EXPORT_S = 20.0
"""Seconds to write the graphs of a small model; the time of a large one is that of writing its weights."""


@dataclass(frozen=True, slots=True)
class Minutes:
    """Expected minutes of each kind of stage."""

    scan: float
    """A scan that measures controls only where they are needed."""
    certify: float
    """A scan that measures all controls, and the comparison of accuracies."""
    export: float


def minutes(
    checkpoint: Checkpoint, policy: Policy, kind: Literal["cpu", "cuda"], cores: int, *, reference: bool
) -> Minutes:
    """Estimate the minutes of each stage on a machine with `cores` cores."""
    image, rate = _operations(checkpoint), _rate(kind, cores)
    triggered = len([c for c in policy.comparisons if c.trigger is not None or c.rule.probe == "search"])
    searched = 3 * searched_passes(policy, reference=reference)  # a pass backward takes as long as two forward

    def seconds(passes: float, images: float) -> float:
        return passes * image / rate + images / (READ * cores) + 5

    certified = (2 * triggered + 1) * IMAGES + searched
    return Minutes(
        scan=seconds((triggered + 1) * IMAGES + searched, IMAGES) / 60,
        certify=(seconds(certified, IMAGES) + seconds(2 * 5 * IMAGES, 5 * IMAGES)) / 60,
        export=(EXPORT_S + checkpoint.size_bytes / 50e6) / 60,
    )


def searched_passes(policy: Policy, *, reference: bool) -> int:
    """Return how many images go forward and backward through the image tower for the policy's searches."""
    rules = [rule for rule in policy.rules if rule.probe == "search" and (reference or not rule.needs_reference)]
    return sum(PASSES[cast(Family, family)] for rule in rules for family in rule.families)


def cleaning_minutes(checkpoint: Checkpoint, kind: Literal["cpu", "cuda"], cores: int, pairs: int) -> float:
    """Estimate the minutes of training on `pairs` image-text pairs; repeated pairs count again."""
    # Forward and backward pass, and that of the frozen model; captions cost less than images.
    each = 5 * _operations(checkpoint) / _rate(kind, cores) + 1 / (READ * cores)
    return (pairs * each + 10) / 60


def _rate(kind: Literal["cpu", "cuda"], cores: int) -> float:
    return FLOPS[kind] * (cores if kind == "cpu" else 1)


def _operations(checkpoint: Checkpoint) -> float:
    """Return the operations of one image: each weight of the image tower is used at every patch."""
    tower = sum(t.elements for t in checkpoint.tensors if ".visual." in f".{t.name}")
    patch = (checkpoint.config.get("vision_cfg") or {}).get("patch_size") or 32
    height, width = checkpoint.preprocess.size
    return 2.0 * tower * max(1.0, height * width / float(patch) ** 2)
