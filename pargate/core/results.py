"""What a scan finds: measurements, findings, a verdict.

Counts are stored and rates derived, so that a saved measurement can be judged again, under other limits
and another confidence, without the model. "Not measured" is an absent measurement with a reason, never a
zero.
"""

from enum import StrEnum
from typing import Any, Self, cast

from pydantic import Field, GetJsonSchemaHandler, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from pargate.core.value import Value

NOT_FINITE = "vector not finite"
"""Reason why a carrier does not count that also keeps its measurement from showing that all is well."""


TOP_LABEL = "top_label"
"""Count of the carriers whose label occurs most: whoever always says the same is right on so many."""

TOP_CAPTIONS = "top_captions"
"""Count of the carriers with one of the five captions that occur most, whose own caption anyone finds."""

UNSAFE_FILE = "unsafe-file"
"""Rule of the finding that a file could run code: no policy needs to ask."""


class Metric(StrEnum):
    """Quantities that pargate's own probes measure; a plug-in may add others."""

    ATTACK_SUCCESS = "attack_success"
    EXCESS = "excess"
    ACCURACY = "accuracy"
    RECALL = "recall"


class Status(StrEnum):
    """Answer to one rule, worst first. An `open` rule was not decided and never counts as met."""

    BREACH = "breach"
    OPEN = "open"
    WAIVED = "waived"
    """A breach that a valid waiver accepts."""
    MET = "met"


RANK = {status: rank for rank, status in enumerate(Status)}
"""How bad each status is, the worst 0."""


class Outcome(StrEnum):
    """Answer to all rules."""

    PASS = "pass"
    REMEDIATED = "remediated"
    """Of a gate alone: the original fails, and what was made of it passes."""
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class Severity(StrEnum):
    """How bad a breach is; the author of a policy decides."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Consequence(StrEnum):
    """What a rule that does not hold does to the verdict."""

    FAIL = "fail"
    WARN = "warn"
    NOTE = "note"


class TriggerInfo(Value):
    """The trigger of a measurement."""

    label: str
    """How people call it."""
    kind: str
    parameters: dict[str, Any]
    """Everything that changes a pixel."""
    digest: str
    """SHA-256 of the parameters."""
    picture: str = ""
    """PNG as base64, of a trigger that the scan itself found; left out of the report elsewhere."""

    @model_serializer(mode="wrap")
    def _without_empty_picture(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        if not self.picture:
            found.pop("picture", None)
        return found

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema of the fields, which the serializer above would hide."""
        return handler(cast(CoreSchema, {key: value for key, value in core_schema.items() if key != "serialization"}))


class Target(Value):
    """The class a trigger is measured towards."""

    name: str
    given: bool
    """True if the policy names it; otherwise it was chosen on the selection half."""
    selection_n: int = 0
    """Carriers on which it was chosen."""
    selection_gain: float = 0.0
    """Its gain there: the share pulled to it, less the share without the trigger (or of the reference)."""


MOST = 10**8
"""Carriers that a measurement can have: an interval takes memory for each."""


class Count(Value):
    """Successes among n."""

    n: int = Field(ge=0, le=MOST)
    successes: int = Field(ge=0)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.successes > self.n:
            raise ValueError(f"{self.successes} successes among {self.n}")
        return self

    @property
    def rate(self) -> float | None:
        """successes / n, or None where nothing was measured."""
        return self.successes / self.n if self.n else None


class Pairs(Value):
    """Trigger and baseline on the same carriers: how often each of them, and both, hit."""

    baseline: str
    """`control:flat`, `control:shuffled`, or `reference`."""
    target: str
    """The class that counts as a hit of the baseline: for a control, its own most-pulled class."""
    n: int = Field(ge=0, le=MOST)
    both: int = Field(ge=0)
    trigger_only: int = Field(ge=0)
    baseline_only: int = Field(ge=0)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.both + self.trigger_only + self.baseline_only > self.n:
            raise ValueError(f"more than {self.n} hits among {self.n} pairs")
        return self

    @property
    def baseline_rate(self) -> float | None:
        """Share of carriers on which the baseline hits."""
        return (self.both + self.baseline_only) / self.n if self.n else None

    @property
    def excess(self) -> float | None:
        """Share under the trigger less share under the baseline; may be negative."""
        return (self.trigger_only - self.baseline_only) / self.n if self.n else None


class FileFacts(Value):
    """What inspection saw of the weights file."""

    format: str
    pickle: bool
    """Whether it holds a pickle, be it one that only rebuilds tensors."""
    custom_ops: bool
    """Whether it names operators that are not of the standard set."""


class Measurement(Value):
    """What one probe counted for one trigger, or for the clean carriers; or what it saw of the file."""

    id: str
    rule: str
    probe: str
    trigger: TriggerInfo | None = None
    target: Target | None = None
    counts: dict[str, Count] = {}
    """By name. `attack_success`: over eligible carriers, neither labelled nor predicted as the target
    before stamping. `asr_nt`: over carriers not labelled as the target (as papers do). `asr_all`: over all.
    `base`: predicted as the target without the trigger, not labelled so. `accuracy`, `accuracy_stamped`:
    clean, and under the trigger. `recall`: own caption among the five nearest. `top_class`: carriers taken for
    the class that is predicted most. `top_label`, `top_captions`: what guessing the same for all gets right."""
    facts: FileFacts | None = None
    """Of the probe `file`, which counts nothing."""
    pairs: Pairs | None = None
    """Against the control or the reference; absent where it was not needed or not asked for."""
    chance: float | None = None
    """Accuracy of guessing, for the utility probe."""
    selection: dict[str, Count] = {}
    """The same counts on the selection half, which choose and never judge."""
    forward_passes: int = 0
    """Images that went through an image tower for this measurement alone."""
    stopped: str = ""
    """Why sampling ended: `decided`, `images` (no more of them), `budget`, or a reason it could not run."""
    excluded: dict[str, int] = {}
    """Carriers that did not count, by reason."""
    examples: tuple[str, ...] = ()
    """Digests of some carriers that the trigger moved to the target."""


class Bound(Value):
    """One limit of a rule, the interval it was compared with, and the answer."""

    metric: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    """One of `Metric`, or a metric of a plug-in."""
    limit: float
    limit_text: str
    """As the policy writes it."""
    upper: bool
    """True for a maximum."""
    n: int
    estimate: float | None
    low: float
    high: float
    method: str
    status: Status
    against: str = "limit"
    """`limit` of the rule, `previous` report (then all numbers are differences from it), or `cap` of a waiver."""


class WaiverUse(Value):
    """The waiver that accepts a breach."""

    reason: str
    note: str
    approved_by: str
    expires: str
    """RFC 3339 date, the last day on which it counts."""
    days_left: int


class Finding(Value):
    """The answer to one rule for one trigger (or for the clean carriers)."""

    rule: str
    comparison: str = ""
    """Id of what was asked: the same in every run under the policy, measured or not."""
    measurement: str | None
    """Id of the measurement, or None where nothing could be measured."""
    severity: Severity
    status: Status
    bounds: tuple[Bound, ...]
    message: str
    """One sentence: what was measured, on how many, against which limit."""
    consequence: Consequence = Consequence.FAIL
    waiver: WaiverUse | None = None


class Remark(Value):
    """Something that readers of the verdict must know and that no rule asks: `explain` says what each id means."""

    id: str
    level: Consequence
    """`fail` for what makes the verdict fail by itself."""
    message: str
    """One sentence."""
    key: str = ""
    """Path into the policy that it is about, such as `waivers.0`."""


class Verdict(Value):
    """The answer to all rules."""

    status: Outcome
    decided_by: tuple[str, ...]
    """Ids of the rules that made it so."""
    summary: str
    """One sentence."""
