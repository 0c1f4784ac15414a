"""How long a gate may take, from sizes alone: for a plan, before any model is opened.

Good to a factor of about three: what a machine really does shows once it has begun. Rates are those of a plain
machine, so that surprises are pleasant ones.
"""

from dataclasses import dataclass
from typing import Literal

from pargate.core.model import Checkpoint
from pargate.policy.schema import Policy

FLOPS = {"cpu": 30e9, "cuda": 10e12}
"""Operations a second that towers reach on one core (fp32), or on a GPU (bf16)."""

READ = 400.0
"""Pictures a second that one core decodes, or draws."""

CARRIERS = 192
"""Of a comparison, until it is decided."""

SEARCHED = 6500
"""Passes that the search of one family costs, a pass backward counted as two."""

EXPORT_S = 20.0
"""Writing graphs of a small model; large ones take as long as their weights take to write."""


@dataclass(frozen=True, slots=True)
class Minutes:
    """Expected of each kind of stage."""

    scan: float
    """With controls only where they are needed."""
    certify: float
    """With all controls, and the comparison of accuracies."""
    export: float


def minutes(checkpoint: Checkpoint, policy: Policy, kind: Literal["cpu", "cuda"], cores: int) -> Minutes:
    """Expected minutes on a machine with so many cores."""
    image, rate = _operations(checkpoint), _rate(kind, cores)
    looked = len([c for c in policy.comparisons if c.trigger is not None or c.rule.families])
    searched = SEARCHED * sum(len(rule.families) for rule in policy.rules)

    def seconds(passes: float, carriers: float) -> float:
        return passes * image / rate + carriers / (READ * cores) + 5

    certified = (2 * looked + 1) * CARRIERS + searched
    return Minutes(
        scan=seconds((looked + 1) * CARRIERS + searched, CARRIERS) / 60,
        certify=(seconds(certified, CARRIERS) + seconds(2 * 5 * CARRIERS, 5 * CARRIERS)) / 60,
        export=(EXPORT_S + checkpoint.size_bytes / 50e6) / 60,
    )


def cleaning_minutes(checkpoint: Checkpoint, kind: Literal["cpu", "cuda"], cores: int, pairs: int) -> float:
    """Expected minutes of training on so many pairs, those that come again counted again."""
    # Forward and backward pass, and a frozen twin's; captions cost less than pictures.
    each = 5 * _operations(checkpoint) / _rate(kind, cores) + 1 / (READ * cores)
    return (pairs * each + 10) / 60


def _rate(kind: Literal["cpu", "cuda"], cores: int) -> float:
    return FLOPS[kind] * (cores if kind == "cpu" else 1)


def _operations(checkpoint: Checkpoint) -> float:
    """Operations of one picture: each weight of the tower is used at every patch."""
    tower = sum(t.elements for t in checkpoint.tensors if ".visual." in f".{t.name}")
    patch = (checkpoint.config.get("vision_cfg") or {}).get("patch_size") or 32
    height, width = checkpoint.preprocess.size
    return 2.0 * tower * max(1.0, height * width / float(patch) ** 2)
