"""Results of a scan: measurements, findings, a verdict.

Counts are stored and rates derived, so that a saved measurement can be judged again without the model, under other
limits and another confidence. A count that was not measured is absent, with a reason, and never zero.
"""

from enum import StrEnum
from typing import Any, Self, cast

from pydantic import Field, GetJsonSchemaHandler, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from pargate import limits
from pargate.core.value import Value

NOT_FINITE = "vector not finite"
"""Reason for excluding an image; a rule with such images is never met."""


CLASS_NAME = "control:class name"
"""Baseline of a text without a reference: the name of a class in its place, the one that moves the most captions."""

NOTHING_FOLLOWS = "from which nothing follows."
"""End of the message of a finding that is open because the model is not shown to recognise the images."""

TOP_LABEL = "top_label"
"""Count of images with the most frequent label: guessing one class for all images is right this often."""

TOP_CAPTIONS = "top_captions"
"""Count of images with one of the five most frequent captions: guessing these for all images is right this often."""

UNSAFE_FILE = "unsafe-file"
"""Rule of the finding that a file could run code; it holds under every policy."""

BUDGET = "accuracy-budget"
"""Id of the remark that a cleaning cost too much accuracy, or that this is undecided."""
UNFIT_IMAGES = "unfit-images"
"""What decides a verdict where the model is not shown to recognise the images, so that nothing follows from them."""


METRIC_NAME = "[a-z][a-z0-9_]{0,63}"
"""Pattern of a metric's name, which stands in logs."""


class Metric(StrEnum):
    """Quantities that pargate's own probes measure; plug-ins may add others."""

    ATTACK_SUCCESS = "attack_success"
    EXCESS = "excess"
    P_VALUE = "p_value"
    ACCURACY = "accuracy"
    RECALL = "recall"
    SUSPECTS = "suspects"


class Status(StrEnum):
    """Answers to one rule, worst first. An `open` rule is undecided and never counts as met."""

    BREACH = "breach"
    OPEN = "open"
    WAIVED = "waived"
    """A breach that a valid waiver accepts."""
    MET = "met"


RANK = {status: rank for rank, status in enumerate(Status)}
"""How bad each status is, the worst 0."""


class Outcome(StrEnum):
    """Answers to all rules."""

    PASS = "pass"
    REMEDIATED = "remediated"
    """Answer of a gate whose original model fails and whose cleaned model passes."""
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"

    @property
    def passes(self) -> bool:
        """Whether the model may ship."""
        return self in (Outcome.PASS, Outcome.REMEDIATED)


class Severity(StrEnum):
    """Severity of a breach; the author of a policy decides."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Consequence(StrEnum):
    """Effect on the verdict of a rule that does not hold."""

    FAIL = "fail"
    WARN = "warn"
    NOTE = "note"


def _of_fields(core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    """Return the schema of a model without its serializer."""
    return handler(cast(CoreSchema, {key: value for key, value in core_schema.items() if key != "serialization"}))


class TriggerInfo(Value):
    """The trigger of a measurement."""

    label: str
    """Name for people."""
    kind: str
    parameters: dict[str, Any]
    """All parameters that can change a pixel."""
    digest: str
    """SHA-256 of the parameters."""
    picture: str = ""
    """PNG as base64, of a trigger that the scan itself found; left out of the report elsewhere."""
    one_drawing: bool = False
    """Whether every image got the same drawing, such as a word or a picture; left out of the report elsewhere."""

    @property
    def recipe(self) -> dict[str, Any]:
        """The parameters that put a found trigger on images as a policy writes them, or a found text into captions."""
        names: tuple[str, ...] = ("red", "green", "blue", "text", "ids", "place")
        if self.picture:
            names = ("mode", "position" if self.parameters.get("mode") == "patch" else "alpha", "sha256")
        return {name: self.parameters[name] for name in names if name in self.parameters}

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        for name in ("picture", "one_drawing"):
            if not found[name]:
                del found[name]
        return found

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema of the fields, which the serializer above would hide."""
        return _of_fields(core_schema, handler)


class Target(Value):
    """The class towards which a trigger is measured."""

    name: str
    given: bool
    """Whether the policy names the target; otherwise it was chosen on the selection images."""
    selection_n: int = 0
    """Images on which the target was chosen."""
    selection_gain: float = 0.0
    """Gain on these images: share of hits, less the share without the trigger (or of the reference)."""


class Count(Value):
    """Successes among n."""

    n: int = Field(ge=0, le=limits.IMAGES)
    successes: int = Field(ge=0)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.successes > self.n:
            raise ValueError(f"{self.successes} successes among {self.n}")
        return self

    @property
    def rate(self) -> float | None:
        """Successes / n, or None if n is 0."""
        return self.successes / self.n if self.n else None


TUNED, TUNED_WEAKER = "tuned", "tuned-weaker"
"""Baselines that are a fine-tuned copy of the model. Under the second, another trigger that was found shifts the model
more, and works on the copy too, so that a small attack success shows nothing."""


class PairedCounts(Value):
    """Hits of a trigger and of its baseline on the same images."""

    baseline: str
    """`control:flat`, `control:shuffled`, `CLASS_NAME`, `reference`, `TUNED` or `TUNED_WEAKER`."""
    target: str
    """Class that counts as a hit of the baseline: for a control, the class that it pulls to most."""
    n: int = Field(ge=0, le=limits.IMAGES)
    both: int = Field(ge=0)
    trigger_only: int = Field(ge=0)
    baseline_only: int = Field(ge=0)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.both + self.trigger_only + self.baseline_only > self.n:
            raise ValueError(f"more than {self.n} hits among {self.n} pairs")
        return self

    @property
    def over_copy(self) -> bool:
        """Whether the baseline is a fine-tuned copy of the model."""
        return self.baseline in (TUNED, TUNED_WEAKER)

    @property
    def hits(self) -> Count:
        """Hits of the trigger; the attack success may count more images."""
        return Count(n=self.n, successes=self.both + self.trigger_only)

    @property
    def baseline_hits(self) -> Count:
        """Hits of the baseline."""
        return Count(n=self.n, successes=self.both + self.baseline_only)

    @property
    def excess(self) -> float | None:
        """Share of hits under the trigger less that under the baseline; may be negative."""
        return (self.trigger_only - self.baseline_only) / self.n if self.n else None


NO_REFERENCE = "no reference was given"
GRAPHS_OF_CHECKPOINT = "the checkpoint that these graphs were proven to equal was searched"
LEFT_OUT = (NO_REFERENCE, GRAPHS_OF_CHECKPOINT)
"""Reasons why a comparison of a search is left out of a scan; it has no finding then."""


class Ranked(Value):
    """Rank of a model among the trusted models of its architecture in a calibration table."""

    table: str
    """Digest of the table."""
    families: tuple[str, ...]
    """Families over which the largest shift of each trusted model is taken."""
    models: int = Field(ge=0, le=limits.IMAGES)
    """Number of trusted models, without the model itself."""
    as_high: int = Field(ge=0)
    """Trusted models whose largest shift is at least that of the trigger."""

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.as_high > self.models:
            raise ValueError(f"{self.as_high} as high among {self.models}")
        return self

    @property
    def p_value(self) -> float:
        """(1 + models as high) / (1 + models)."""
        return (1 + self.as_high) / (1 + self.models)

    @property
    def smallest(self) -> float:
        """Smallest p-value that so many models can give."""
        return 1 / (1 + self.models)


class Searched(Value):
    """Result of a search for a trigger, before anything is measured."""

    shift: float
    """‖mean change of the unit embeddings‖² on held-out images."""
    images: str
    """SHA-256 over the digests of the images that were searched on, in their order."""
    ranked: Ranked | None = None
    """Rank of the shift, in a scan without another model whose rule names a calibration table."""


class Signature(Value):
    """Result of checking the signature of a model, before the model was loaded."""

    signer: str
    """Signer that the policy asked for: the digest of a key, or an identity and its issuer."""
    files: int = 0
    """Files that the signature covers, all of which are as it says; 0 if it does not hold."""
    problem: str = ""
    """What is wrong with the signature; empty if it holds and covers every file that was read."""


class FileFacts(Value):
    """Facts about the weights file from inspection."""

    format: str
    pickle: bool
    """Whether the file holds a pickle, even one that only rebuilds tensors."""
    custom_ops: bool
    """Whether the file uses operators outside the standard set."""
    signature: Signature | None = None
    """Result for the signature of the model, or of the one that it was made from; left out if none was asked for."""

    @model_serializer(mode="wrap")
    def _without_no_signature(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        if self.signature is None:
            found.pop("signature", None)
        return found

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema of the fields, which the serializer above would hide."""
        return _of_fields(core_schema, handler)


class Measurement(Value):
    """Counts of one probe for one trigger or for the clean images, or facts about the weights file."""

    id: str
    rule: str
    probe: str
    trigger: TriggerInfo | None = None
    target: Target | None = None
    counts: dict[str, Count] = {}
    """Counts by name. `attack_success`: over eligible images, neither labelled nor predicted as the target without
    the trigger. `asr_nt`: over images not labelled as the target (as in papers). `asr_all`: over all. `base`:
    predicted as the target without the trigger, not labelled so. `accuracy`, `accuracy_stamped`: without and with the
    trigger. `recall`: own caption among the five nearest. `top_class`: images of the most frequent prediction.
    `top_label`, `top_captions`: images that one guess for all gets right."""
    facts: FileFacts | None = None
    """Facts from the probe `file`, which counts nothing."""
    pairs: PairedCounts | None = None
    """Paired counts against the control or the reference; absent where no rule needed them."""
    chance: float | None = None
    """Accuracy of guessing, for the utility probe."""
    selection: dict[str, Count] = {}
    """The same counts on the selection images, which choose the target and never measure."""
    forward_passes: int = 0
    """Images that went through an image tower for this measurement alone."""
    stopped: str = ""
    """Reason why sampling ended: `decided`, `images` (all used), `budget`, or why it could not run."""
    excluded: dict[str, int] = {}
    """Images that did not count, by reason."""
    examples: tuple[str, ...] = ()
    """Digests of some images that the trigger moved to the target, or that a text retrieves."""
    searched: Searched | None = None
    """Result of the search that found the trigger; left out of the report elsewhere."""

    @model_serializer(mode="wrap")
    def _without_no_search(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        if self.searched is None:
            found.pop("searched", None)
        return found

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the schema of the fields, which the serializer above would hide."""
        return _of_fields(core_schema, handler)


class Bound(Value):
    """One limit of a rule, the interval compared with it, and the answer."""

    metric: str = Field(pattern=f"^{METRIC_NAME}$")
    """One of `Metric`, or a metric of a plug-in."""
    limit: float
    limit_text: str
    """Limit as the policy writes it."""
    upper: bool
    """Whether the limit is a maximum."""
    n: int
    estimate: float | None
    low: float
    high: float
    method: str
    status: Status
    against: str = "limit"
    """`limit` of the rule, `previous` report (all numbers are then differences from it), or `cap` of a waiver."""


class WaiverUse(Value):
    """The waiver that accepts a breach."""

    reason: str
    note: str
    approved_by: str
    expires: str
    """Last day on which the waiver counts, as an RFC 3339 date."""
    days_left: int


class Finding(Value):
    """The answer to one rule for one trigger (or for the clean images)."""

    rule: str
    comparison: str = ""
    """Id of the comparison: the same in every run under the policy, measured or not."""
    measurement: str | None
    """Id of the measurement, or None if nothing could be measured."""
    severity: Severity
    status: Status
    bounds: tuple[Bound, ...]
    message: str
    """One sentence: measured value, number of images, limit."""
    consequence: Consequence = Consequence.FAIL
    waiver: WaiverUse | None = None


class Remark(Value):
    """A statement beside the verdict that no rule makes; `pargate explain` describes each id."""

    id: str
    level: Consequence
    """Effect on the verdict; `fail` makes it fail by itself."""
    message: str
    """One sentence."""
    key: str = ""
    """Path of the policy key concerned, such as `waivers.0`."""


class Verdict(Value):
    """The answer to all rules."""

    status: Outcome
    decided_by: tuple[str, ...]
    """Ids of the rules that decided the status."""
    summary: str
    """One sentence."""
