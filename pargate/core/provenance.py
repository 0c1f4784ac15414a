"""Provenance: what was made from what, how, and by which tool; chained by digests.

A record is one step: files in, files out. Records chain where an output of one is an input of the next, by SHA-256.
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
    """None for a collection whose bytes nobody counted."""

    def resource(self) -> dict[str, Any]:
        """in-toto's ResourceDescriptor (Statement v1) of it."""
        return {"name": self.name, "digest": {"sha256": self.sha256}}


class StepLog(Value):
    """What was logged of every step, a list for each quantity; all of one length."""

    steps: tuple[int, ...] = ()
    values: dict[str, tuple[float, ...]] = {}

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        for name, column in self.values.items():
            if len(column) != len(self.steps):
                raise ValueError(f"{name} has {len(column)} values for {len(self.steps)} steps")
        return self


class Movement(Value):
    """How far a tower moved while it was cleaned. A distance proves nothing about a backdoor."""

    trained: bool
    embedding_shift: float
    """Mean squared distance between old and new unit vectors of the same clean pairs, in [0, 4]."""
    weight_change: float
    """Norm of the change of all its weights over their norm before."""


class ProvenanceRecord(Value):
    """One step from inputs to outputs."""

    schema_: Literal["pargate/provenance/1"] = Field(default="pargate/provenance/1", alias="schema")
    activity: Literal["clean", "convert", "export"]
    """`convert`: the same tensors in another file format."""
    inputs: tuple[Subject, ...] = Field(min_length=1)
    """The parent's weights first."""
    outputs: tuple[Subject, ...]
    """The new weights first."""
    configuration: dict[str, Any]
    """Every setting, as it was used."""
    configuration_sha256: str = Digest
    reasons: dict[str, str] = {}
    """Where settings come from that were not published ones."""
    seed: int
    tool: dict[str, str]
    """pargate and every library that decides a result, with versions."""
    environment: dict[str, str]
    """Kind of machine, device and threads; no names."""
    started: str
    finished: str
    """Both RFC 3339, UTC."""
    seconds: float
    stopped: str
    """Why the run ended when it did."""
    moved: dict[str, Movement] = {}
    notices: tuple[str, ...] = ()
    log: StepLog = StepLog()

    @property
    def parent_sha256(self) -> str:
        """Of the weights that this step began with."""
        return self.inputs[0].sha256


def broken_link(records: list[ProvenanceRecord]) -> int | None:
    """Position of the first record that does not begin with what the one before it made, or None."""
    for position, (before, after) in enumerate(pairwise(records), start=1):
        if after.parent_sha256 not in {made.sha256 for made in before.outputs}:
            return position
    return None
