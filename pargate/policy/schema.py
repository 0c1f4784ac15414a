"""The policy as values: what is asked, with which limits, at which confidence."""

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pargate import triggers
from pargate.core.names import class_key
from pargate.core.results import Consequence, Metric, Severity
from pargate.policy.fields import Day, Digest, LimitField, Percentage, PolicyModel, ShareField, Word, Words, YesNo

UNKNOWN = "unknown"

WAIVER_DAYS = 90
"""How far ahead a waiver may expire, unless the policy says otherwise."""


class ImagesSection(PolicyModel):
    """Which carriers, and how many at least."""

    source: str | None = None
    min: Annotated[int, Field(ge=0)] = 0
    digest: Digest | None = None
    """Over the names and bytes of everything in the source; whoever gives other images is refused, and told theirs."""


class ClassesSection(PolicyModel):
    """Names and templates of the zero-shot head."""

    names: str | tuple[str, ...] | None = None
    """A file, one name per line, or the names themselves."""
    templates: tuple[str, ...] | None = None

    @field_validator("names")
    @classmethod
    def _tell_apart(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(value, tuple):
            first: dict[str, str] = {}
            for name in value:
                if (key := class_key(name)) in first:
                    raise ValueError(f"the class '{name}' is here twice: '{first[key]}' is the same name")
                first[key] = name
            if len(value) < 2 or "" in first:
                raise ValueError("a zero-shot head needs at least two classes, each with a name")
        return value

    @field_validator("templates")
    @classmethod
    def _have_a_place(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for template in value or ():
            if template.count("{}") != 1:
                raise ValueError(f"the template '{template}' needs {{}} once, where the class name goes")
        return value


class Budget(PolicyModel):
    """What a scan may spend; spent and undecided is inconclusive."""

    minutes: Annotated[float, Field(gt=0)] | None = None
    images: Annotated[int, Field(gt=0)] | None = None


def _known(value: Any) -> Any:
    if not isinstance(value, str | dict):
        raise ValueError("a trigger is a name, or a map with `kind` and parameters")
    triggers.parse(value)
    return value


TriggerSpec = Annotated[str | dict[str, Any], BeforeValidator(_known)]

ALLOWED: dict[str, tuple[set[Metric], set[Metric]]] = {
    "attack": ({Metric.ATTACK_SUCCESS, Metric.EXCESS}, set()),
    "retrieval": ({Metric.ATTACK_SUCCESS, Metric.EXCESS}, set()),
    "utility": (set(), {Metric.ACCURACY, Metric.RECALL}),
    "file": (set(), set()),
}
"""Metrics a probe measures: those that may have a maximum, those that may have a minimum."""


class FileAllowed(PolicyModel):
    """What the weights file may be: of the probe `file`."""

    formats: Words = ("safetensors",)
    pickle: YesNo = False
    custom_ops: YesNo = False


class Rule(PolicyModel):
    """One question to the model."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    probe: Literal["attack", "retrieval", "utility", "file"]
    triggers: tuple[TriggerSpec, ...] = ()
    target: Annotated[Words, Field(min_length=1)] = (UNKNOWN,)
    max: dict[Metric, LimitField] = {}
    min: dict[Metric, LimitField] = {}
    worsening: dict[Metric, ShareField] = {}
    """How much worse than in the previous report each metric may be."""
    allow: FileAllowed | None = None
    severity: Severity = Severity.HIGH
    why: str = ""
    help: str = ""
    """Where the reader of a breach finds out what to do."""
    waivable: YesNo = True
    override: str = ""
    """Why this rule may be looser than that of the policy it extends."""

    @model_validator(mode="after")
    def _fits_its_probe(self) -> Self:
        upper, lower = ALLOWED[self.probe]
        measured = ((self.max, upper, "has no maximum of"), (self.min, lower, "has no minimum of"))
        for given, allowed, words in (*measured, (self.worsening, upper | lower, "does not measure")):
            for metric, limit in given.items():
                if metric not in allowed:
                    raise ValueError(f"the probe {self.probe} {words} {metric}")
                if limit.of_chance and metric is not Metric.ACCURACY:
                    raise ValueError(f"only accuracy has a chance level, {metric} has none")
        static = self.probe == "file"
        if static and self.allow is None:
            raise ValueError("the probe file needs `allow`: formats, pickle, custom_ops")
        if not static and self.allow is not None:
            raise ValueError(f"`allow` is of the probe file, not of {self.probe}")
        if not static and not self.max and not self.min:
            raise ValueError("a rule needs a limit: max or min")
        if self.probe in ("utility", "file") and self.triggers:
            raise ValueError(f"the probe {self.probe} puts no trigger on its images; leave out `triggers`")
        if self.probe in ("attack", "retrieval") and not self.triggers:
            raise ValueError(f"the probe {self.probe} needs `triggers`")
        return self


class PairsSource(PolicyModel):
    """Captioned images to clean with."""

    source: Word
    seed: Annotated[int, Field(ge=0)] = 0


def _pairs(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


class CleanBudget(PolicyModel):
    """What cleaning may cost."""

    accuracy_drop: ShareField | None = None
    minutes: Annotated[float, Field(gt=0)] | None = None


class CleanSettings(PolicyModel):
    """What is not left to the sizes of model and data."""

    steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    batch_size: Annotated[int, Field(ge=2, le=1 << 20)] | None = None
    lr: Annotated[float, Field(gt=0, le=1e-2)] | None = None
    tau: Annotated[float, Field(ge=0, le=4)] | None = None


class CleanSection(PolicyModel):
    """Whether and how a model that fails is cleaned; carried out by `pargate gate`."""

    when: Literal["never", "fail"] = "never"
    method: Literal["par", "par-plus", "cleanclip", "finetune"] = "par-plus"
    attempts: Annotated[int, Field(ge=1, le=4)] = 2
    """Rungs of the ladder that are tried at most: the method as it is, then stronger."""
    settings: CleanSettings = CleanSettings()
    pairs: Annotated[PairsSource, BeforeValidator(_pairs)] | None = None
    require: Literal["cpu", "cuda"] | None = None
    budget: CleanBudget = CleanBudget()


class OnnxSection(PolicyModel):
    """How graphs are written."""

    opset: Annotated[int, Field(ge=18)] = 18
    precision: tuple[Literal["fp32", "fp16", "int8"], ...] = ("fp32",)
    batch: Literal["dynamic"] = "dynamic"


def _onnx(value: Any) -> Any:
    if value in ("true", "false", True, False):
        return OnnxSection() if value in ("true", True) else None
    return value


class Parity(PolicyModel):
    """How alike graph and model must be."""

    min_cosine: Annotated[float, Field(gt=0, le=1)] = 0.9999
    fp16_min_cosine: Annotated[float, Field(gt=0, le=1)] = 0.999
    int8_min_cosine: Annotated[float, Field(gt=0, le=1)] = 0.98
    top1_agreement: ShareField | None = None
    int8_top1_agreement: ShareField | None = None
    samples: Annotated[int, Field(gt=0)] = 512


class ExportSection(PolicyModel):
    """What is written beside a model that passes; carried out by `pargate gate`."""

    onnx: Annotated[OnnxSection | None, BeforeValidator(_onnx)] = None
    precision: tuple[Literal["fp32", "fp16", "int8"], ...] = ("fp32",)
    parity: Parity = Parity()
    rescan: YesNo = True


class Evidence(PolicyModel):
    """What a release must be able to show."""

    attest: tuple[Literal["test-result", "svr"], ...] = ()
    sbom: Literal["cyclonedx-1.6"] | None = None
    max_age: Annotated[str, Field(pattern=r"^\d{1,5}d$")] | None = None


class Waiver(PolicyModel):
    """A breach of one rule by one model that somebody accepts for a while."""

    rule: Word
    model: Digest
    reason: Literal["not-exploitable-here", "false-positive", "accepted-risk", "compensating-control", "fix-scheduled"]
    note: str = ""
    approved_by: Word
    created: Day | None = None
    expires: Day
    """The last day on which it counts, in UTC."""
    cap: dict[Metric, ShareField] = {}
    """Above this the waiver itself stops counting."""


class Expected(PolicyModel):
    """What a policy test expects."""

    verdict: Literal["pass", "fail", "inconclusive"] | None = None
    rules: dict[str, Literal["pass", "fail", "inconclusive", "waived"]] = {}

    @model_validator(mode="after")
    def _say_something(self) -> Self:
        if self.verdict is None and not self.rules:
            raise ValueError("a test expects something: verdict, rules, or both")
        return self


class PolicyTest(PolicyModel):
    """A stored report, and how the policy must judge it."""

    report: Word
    now: Day | None = None
    """The day on which it is judged; the day of the report where it is left out."""
    expect: Expected


class Parent(PolicyModel):
    """The policy that this one tightens."""

    file: Word
    digest: Digest | None = None


def _parent(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


class Policy(PolicyModel):
    """A whole policy; once resolved, with everything of those that it extends."""

    pargate: Literal[1] = Field(description="schema version")
    name: str
    description: str = ""
    owners: Words = ()
    """Shown in every failing report."""
    extends: Annotated[Parent, BeforeValidator(_parent)] | None = None
    override: str = ""
    """Why anything outside the rules may be looser than in the policy it extends."""
    labels: dict[str, Words] = {}
    """Copied to reports, without effect on the verdict."""
    images: ImagesSection = ImagesSection()
    classes: ClassesSection = ClassesSection()
    confidence: Annotated[Percentage, Field(gt=0.5, lt=1.0)] = 0.99
    budget: Budget = Budget()
    reference: str | None = None
    rules: tuple[Rule, ...] = Field(min_length=1)
    on_inconclusive: Literal["inconclusive", "fail"] = "inconclusive"
    enforce: dict[Severity, Consequence] = {}
    """What a rule of each severity does to the verdict when it does not hold; left out, all fail."""
    clean: CleanSection = CleanSection()
    export: ExportSection = ExportSection()
    evidence: Evidence = Evidence()
    waivers_file: str | None = None
    waivers: tuple[Waiver, ...] = ()
    waiver_days: Annotated[int, Field(ge=1, le=366)] = WAIVER_DAYS
    valid_until: Day | None = None
    """The last day on which the policy may be used: then somebody looks at it again."""
    tests: tuple[PolicyTest, ...] = ()

    @field_validator("pargate", mode="before")
    @classmethod
    def _version(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("rules")
    @classmethod
    def _have_their_own_ids(cls, value: tuple[Rule, ...]) -> tuple[Rule, ...]:
        seen = set()
        for rule in value:
            if rule.id in seen:
                raise ValueError(f"two rules have the id '{rule.id}'")
            seen.add(rule.id)
        return value

    @model_validator(mode="after")
    def _can_fail(self) -> Self:
        if all(self.consequence(rule) is not Consequence.FAIL for rule in self.rules):
            raise ValueError("no rule can fail: `enforce` turns all of them into warnings or notes")
        return self

    @model_validator(mode="after")
    def _waive_what_may_be_waived(self) -> Self:
        rules = {rule.id: rule for rule in self.rules}
        for waiver in self.waivers:
            rule = rules.get(waiver.rule)
            if rule is None:
                continue  # said when it is judged: the rule may be gone since
            if not rule.waivable:
                raise ValueError(f"the rule '{waiver.rule}' may not be waived")
            unknown = [metric for metric in waiver.cap if metric not in ALLOWED[rule.probe][0] | ALLOWED[rule.probe][1]]
            if unknown:
                raise ValueError(f"the waiver of '{rule.id}' caps {unknown[0]}, which its probe does not measure")
        return self

    def consequence(self, rule: Rule) -> Consequence:
        """What `rule` does to the verdict when it does not hold."""
        return self.enforce.get(rule.severity, Consequence.FAIL)

    def expired(self, today: date) -> bool:
        """Whether somebody should have looked at it again by now."""
        return self.valid_until is not None and today > self.valid_until
