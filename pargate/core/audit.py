"""Documents of an audit: the entries of the ledger, and the index behind the pages.

An entry never changes once it is written; later audits record their own results in their own index.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from pargate import limits
from pargate.core.choices import FailOn
from pargate.core.value import Value
from pargate.errors import visible_json

SCHEMA = "pargate/audit/1"

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Standing(StrEnum):
    """Result of an audit for one model: a verdict, or an error."""

    PASS = "pass"
    REMEDIATED = "remediated"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"
    ERROR = "error"
    """Nothing was judged, because of the model, its policy or the machine."""


class Rate(Value):
    """A share with its interval."""

    subject: str
    """Trigger and target, or the clean images."""
    n: int = Field(ge=0, le=limits.IMAGES)
    successes: int = Field(ge=0)
    low: float
    high: float
    level: float
    """Confidence of the interval, anytime-valid but not corrected for the number of triggers."""

    @property
    def rate(self) -> float:
        """Successes / n; 0 if n is 0."""
        return self.successes / self.n if self.n else 0.0


class Linked(Value):
    """A line of the ledger."""

    sequence: int = Field(ge=1)
    """Number of the line, from 1."""
    previous: Hex
    """SHA-256 of the previous line, without its line end; zeros for the first line."""
    audit: str
    """Id of the audit that wrote the line."""
    time: str
    """Time of writing, RFC 3339, UTC."""
    as_of: str
    """Day on which waivers were judged."""


class ModelEntry(Linked):
    """The result of an audit for one model."""

    kind: Literal["model"] = "model"
    model: str
    """Name in the inventory."""
    source: str
    standing: Standing
    exit_code: int
    message: str
    """One sentence: the verdict, or the error."""
    decided_by: tuple[str, ...] = ()
    """Rules that decided the verdict."""
    key: str = ""
    """Digest of `inputs`; empty if one of them is unknown."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """Everything that a measurement depends on, by name: digests, versions, the seed."""
    measured: str = ""
    """SHA-256 of the report of the measuring run."""
    report: str = ""
    """SHA-256 of the report as judged in this audit."""
    attack: Rate | None = None
    """Attack success of the most successful trigger."""
    accuracy: Rate | None = None
    """Accuracy on clean images."""


class AuditEntry(Linked):
    """The end of an audit that covered its whole inventory."""

    kind: Literal["audit"] = "audit"
    inventory: Hex
    """SHA-256 of the inventory file."""
    fail_on: FailOn
    standings: dict[str, int]
    """Number of models with each standing."""
    exit_code: int


Entry = Annotated[ModelEntry | AuditEntry, Field(discriminator="kind")]
ENTRY: TypeAdapter[ModelEntry | AuditEntry] = TypeAdapter(Entry)


class Change(Value):
    """A difference from the last finished audit."""

    about: Literal["model", "policy", "probes", "data", "pargate"]
    text: str
    """One sentence."""


class Point(Value):
    """One audit in the history of a model."""

    time: str
    standing: Standing
    attack: Rate | None = None
    accuracy: Rate | None = None


class Previous(Value):
    """The model's entry of the last finished audit."""

    sequence: int
    time: str
    standing: Standing
    report: str


class ModelState(Value):
    """The state of one model in this audit."""

    name: str
    slug: str
    """Name of its folder under `models/`."""
    source: str
    owner: str
    tags: tuple[str, ...] = ()
    policy: str
    """Policy in the words of the inventory."""
    standing: Standing
    exit_code: int
    message: str
    hint: str = ""
    regression: str = ""
    """Reason why the model is worse than in the last finished audit; empty if it is not."""
    key: str = ""
    inputs: dict[str, str] = Field(default_factory=dict)
    measured: str = ""
    report: str = ""
    measured_at: str = ""
    """Start of the measuring run, RFC 3339, UTC."""
    reused: bool = False
    """Whether saved measurements were judged again."""
    remeasured: str = ""
    """Reason why saved measurements under the same key were not reused."""
    age_days: int | None = None
    """Age of the measurements, in days."""
    max_age: str = ""
    """Maximum age of measurements in the policy, such as `35d`."""
    cadence_days: int | None = None
    """Days between audits of the model, from the inventory."""
    overdue: str = ""
    """One sentence, if the model was not judged in time."""
    attack: Rate | None = None
    accuracy: Rate | None = None
    images_read: int = 0
    probed: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    """Statements about what the scan cannot show."""
    previous: Previous | None = None
    changes: tuple[Change, ...] = ()
    history: tuple[Point, ...] = ()
    """Audits of the model, oldest first, this one last."""


class AuditIndex(Value):
    """One audit: the content of all its pages."""

    schema_: Literal["pargate/audit/1"] = Field(alias="schema")
    audit: str
    """Id."""
    pargate: str
    libraries: dict[str, str]
    started: str
    """RFC 3339, UTC."""
    as_of: str
    seconds: float
    complete: bool
    """Whether all models were audited; False if the audit was interrupted."""
    inventory: str
    inventory_sha256: Hex
    fail_on: FailOn
    exit_code: int
    ledger_lines: int
    ledger_head: str
    """SHA-256 of the last line of the ledger, which reveals a truncated ledger."""
    models: tuple[ModelState, ...]
    """Models in the order of the inventory."""
    gone: tuple[str, ...] = ()
    """Models of the last finished audit that the inventory no longer lists."""
    shard: str = ""
    """Number of the shard and of all shards, such as `2/4`; empty for an audit of all models."""

    def to_json(self) -> str:
        """Return indented JSON text with a final newline."""
        return visible_json(self.model_dump_json(by_alias=True, indent=1)) + "\n"
