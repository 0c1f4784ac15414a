"""Models that were cleaned with `--unlearn`: what they were shown is no test of them.

The record of the cleaning lies beside the weights. Whoever removes it hides the cleaning, so this helps the honest.
"""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pargate.clean.request import RECORD_NAME, family
from pargate.core.model import Checkpoint
from pargate.core.provenance import ProvenanceRecord
from pargate.core.results import Consequence
from pargate.errors import InputError
from pargate.files import read_bytes
from pargate.policy.schema import Policy

REMARK = "unlearned-trigger"
"""Id of a gate's remark about such a model."""

SEARCHED = {"patch": "patch", "colour": "tone"}
"""Families of stamps that a search can find, by its own families; the others give blends."""


def unlearned(checkpoint: Checkpoint) -> tuple[dict[str, Any], ...]:
    """Return the triggers that a model or its base was given to unlearn, as its record says; none without a record."""
    try:
        record = ProvenanceRecord.model_validate_json(read_bytes(Path(checkpoint.weights).parent / RECORD_NAME))
    except (OSError, ValidationError):
        return ()
    shown = record.configuration.get("unlearned")
    weights = {checkpoint.sha256, checkpoint.adapter.base_sha256 if checkpoint.adapter else None}
    made = any(output.sha256 in weights for output in record.outputs)
    return tuple(shown) if made and isinstance(shown, list | tuple) else ()


def told(checkpoint: Checkpoint) -> str:
    """Return a notice that a model was given triggers to unlearn; empty if it was not."""
    found = unlearned(checkpoint)
    if not found:
        return ""
    kinds = ", ".join(sorted({str(one.get("family")) for one in found}))
    return (
        f"{checkpoint.source} was cleaned with --unlearn and shown triggers ({kinds}): rules about these do not test it"
    )


def refuse_same_families(policy: Policy, checkpoint: Checkpoint, seed: int) -> None:
    """Raise if a policy can fail for no other family of triggers than those that a model was given to unlearn.

    Raises:
        InputError: as above.
    """
    shown = {one.get("family") for one in unlearned(checkpoint)}
    if not shown:
        return
    size, measured = checkpoint.preprocess.size, set[str]()
    for rule in policy.rules:
        if policy.consequence(rule) is Consequence.FAIL and rule.max:
            measured |= {family(trigger, size, seed) for trigger in rule.parsed}
        if policy.consequence(rule) is Consequence.FAIL and rule.probe == "search" and not rule.needs_reference:
            measured |= {SEARCHED.get(name, "blend") for name in rule.families}
    if measured <= shown:
        raise InputError(
            f"{told(checkpoint)}, and the policy {policy.name} measures no other family of triggers",
            "measure others too: extend builtin:baseline, or add a rule",
        )
