"""Provenance records: one step each, from input files to output files.

Records form a chain: an output of one is an input of the next, matched by SHA-256.
"""

from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pargate.core.value import Value

Digest = Field(pattern=r"^[0-9a-f]{64}$")


class Subject(Value):
    """One file, or one collection that has a digest."""

    name: str
    sha256: str = Digest
    size_bytes: int | None = Field(default=None, ge=0)
    """Size; None for a collection whose size is not known."""

    def resource(self) -> dict[str, Any]:
        """Return the ResourceDescriptor of an in-toto statement (Statement v1)."""
        return {"name": self.name, "digest": {"sha256": self.sha256}}


class StepLog(Value):
    """Log of all steps: one list for each quantity, all of the same length."""

    steps: tuple[int, ...] = ()
    values: dict[str, tuple[float, ...]] = {}

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        for name, column in self.values.items():
            if len(column) != len(self.steps):
                raise ValueError(f"{name} has {len(column)} values for {len(self.steps)} steps")
        return self


class Movement(Value):
    """Distance by which cleaning moved a tower. It proves nothing about a backdoor."""

    trained: bool
    embedding_shift: float
    """Mean squared distance between old and new unit vectors of the same clean image-text pairs, in [0, 4]."""
    weight_change: float
    """Norm of the change of all weights over their norm before."""


class ProvenanceRecord(Value):
    """One step from inputs to outputs."""

    schema_: Literal["pargate/provenance/1"] = Field(default="pargate/provenance/1", alias="schema")
    activity: Literal["clean", "convert", "export"]
    """Kind of step; `convert` writes the same tensors in another file format."""
    inputs: tuple[Subject, ...] = Field(min_length=1)
    """Files read, the parent's weights first."""
    outputs: tuple[Subject, ...]
    """Files written, the new weights first."""
    configuration: dict[str, Any]
    """Every setting, as it was used."""
    configuration_sha256: str = Digest
    reasons: dict[str, str] = {}
    """Sources of settings that differ from the published ones."""
    seed: int
    tool: dict[str, str]
    """Versions of pargate and of every library that can change a result."""
    environment: dict[str, str]
    """Kind of machine, device and threads; no names."""
    started: str
    """RFC 3339, UTC."""
    finished: str
    """RFC 3339, UTC."""
    seconds: float
    stopped: str
    """Reason why the run ended."""
    moved: dict[str, Movement] = {}
    notices: tuple[str, ...] = ()
    log: StepLog = StepLog()

    @property
    def parent_sha256(self) -> str:
        """SHA-256 of the weights that the step started from."""
        return self.inputs[0].sha256


def broken_link(records: list[ProvenanceRecord]) -> int | None:
    """Return the position of the first record whose parent is no output of the record before, or None."""
    for position, (before, after) in enumerate(pairwise(records), start=1):
        if after.parent_sha256 not in {made.sha256 for made in before.outputs}:
            return position
    return None
