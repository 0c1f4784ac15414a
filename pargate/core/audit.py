"""What an audit leaves behind: entries of the ledger, and the index that its pages are drawn from.

Counts and digests are stored, sentences only where they are what was said. An entry is never changed once it is
written; what a later audit thinks of it is in that audit's own index.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from pargate.core.choices import FailOn
from pargate.core.results import MOST
from pargate.core.value import Value
from pargate.errors import visible_json

SCHEMA = "pargate/audit/1"

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Standing(StrEnum):
    """What an audit says of one model: a verdict, or that there is none."""

    PASS = "pass"
    REMEDIATED = "remediated"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"
    ERROR = "error"
    """Nothing was judged: the model, its policy or the machine did not play along."""


class Rate(Value):
    """A share with its interval, and what it is about."""

    subject: str
    """Trigger and target, or the clean carriers."""
    n: int = Field(ge=0, le=MOST)
    successes: int = Field(ge=0)
    low: float
    high: float
    level: float
    """Of the interval, which holds at every number of images; it is not corrected for the number of triggers."""

    @property
    def rate(self) -> float:
        """successes / n."""
        return self.successes / self.n if self.n else 0.0


class Linked(Value):
    """A line of the ledger."""

    sequence: int = Field(ge=1)
    """Number of the line, from 1."""
    previous: Hex
    """SHA-256 of the bytes of the line before, without its end; zeros for the first."""
    audit: str
    """Id of the audit that wrote it."""
    time: str
    """RFC 3339, UTC: when it was written."""
    as_of: str
    """The day on which waivers were judged."""


class ModelEntry(Linked):
    """What an audit found out about one model."""

    kind: Literal["model"] = "model"
    model: str
    """Name in the inventory."""
    source: str
    standing: Standing
    exit_code: int
    message: str
    """One sentence: the verdict, or the error."""
    decided_by: tuple[str, ...] = ()
    """Rules that made the verdict so."""
    key: str = ""
    """Digest of `inputs`; empty where they could not all be had."""
    inputs: dict[str, str] = Field(default_factory=dict)
    """Everything that a measurement depends on, by name: digests, versions, the seed."""
    measured: str = ""
    """SHA-256 of the report as the measuring run wrote it."""
    report: str = ""
    """SHA-256 of the report as it was judged in this audit."""
    attack: Rate | None = None
    """Of the trigger with the highest attack success."""
    accuracy: Rate | None = None
    """On clean carriers."""


class AuditEntry(Linked):
    """The end of an audit that went through its whole inventory."""

    kind: Literal["audit"] = "audit"
    inventory: Hex
    """SHA-256 of the inventory file."""
    fail_on: FailOn
    standings: dict[str, int]
    """How many models have each standing."""
    exit_code: int


Entry = Annotated[ModelEntry | AuditEntry, Field(discriminator="kind")]
ENTRY: TypeAdapter[ModelEntry | AuditEntry] = TypeAdapter(Entry)


class Change(Value):
    """Something that differs from the last finished audit."""

    about: Literal["model", "policy", "probes", "data", "pargate"]
    text: str
    """One sentence."""


class Point(Value):
    """One audit of a model in its past."""

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
    """One model as this audit found it."""

    name: str
    slug: str
    """Name of its folder under `models/`."""
    source: str
    owner: str
    tags: tuple[str, ...] = ()
    policy: str
    """As the inventory names it."""
    standing: Standing
    exit_code: int
    message: str
    hint: str = ""
    regression: str = ""
    """Why this is worse than the last finished audit; empty where it is not."""
    key: str = ""
    inputs: dict[str, str] = Field(default_factory=dict)
    measured: str = ""
    report: str = ""
    measured_at: str = ""
    """RFC 3339, UTC: when the measuring run began."""
    reused: bool = False
    """Whether saved measurements were judged again instead of measuring."""
    remeasured: str = ""
    """Why saved measurements under the same key were not reused."""
    age_days: int | None = None
    """Of the measurements."""
    max_age: str = ""
    """How old the policy lets measurements become, such as `35d`."""
    cadence_days: int | None = None
    """How often the inventory wants the model audited."""
    overdue: str = ""
    """One sentence, where the model was not judged in time."""
    attack: Rate | None = None
    accuracy: Rate | None = None
    images_read: int = 0
    probed: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    """What the scan cannot show."""
    previous: Previous | None = None
    changes: tuple[Change, ...] = ()
    history: tuple[Point, ...] = ()
    """Oldest first, this audit last."""


class AuditIndex(Value):
    """One audit: what all its pages are drawn from."""

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
    """False while models are missing: the audit was interrupted."""
    inventory: str
    inventory_sha256: Hex
    fail_on: FailOn
    exit_code: int
    ledger_lines: int
    ledger_head: str
    """SHA-256 of the last line of the ledger: with it, a ledger that was cut short is found out."""
    models: tuple[ModelState, ...]
    """In the order of the inventory."""
    gone: tuple[str, ...] = ()
    """In the last finished audit, and no longer in the inventory."""

    def to_json(self) -> str:
        """Indented JSON text with a final newline."""
        return visible_json(self.model_dump_json(by_alias=True, indent=1)) + "\n"
