"""The policy as values: rules, limits, confidence, and settings of the gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from pargate import triggers
from pargate.clean.config import MethodName
from pargate.core.calibration import Calibration, read_table
from pargate.core.names import class_key
from pargate.core.results import Consequence, Metric, Severity
from pargate.core.screen import refused
from pargate.errors import nearest
from pargate.files import SIGNATURE
from pargate.policy.fields import Day, Digest, LimitField, Percentage, PolicyModel, ShareField, Word, Words, YesNo
from pargate.probes.base import PROBES, UNKNOWN, Asked, Probe
from pargate.registry import Plugin
from pargate.triggers import TRIGGERS, Trigger
from pargate.triggers.pack import PREFIX, read_pack

WAIVER_DAYS = 90
"""Most days until a waiver expires, unless the policy says otherwise."""


_OF_MODELS = (
    "images", "classes", "budget", "reference", "packs", "clean", "export", "evidence", "waivers_file", "waivers",
    "tests",
)  # fmt: skip
"""Keys that a policy about pairs cannot have."""


class ImagesSection(PolicyModel):
    """Source and number of images."""

    source: str | None = None
    min: Annotated[int, Field(ge=0)] = 0
    """Fewest images in the source."""
    digest: Digest | None = None
    """Digest over the names and bytes of everything in the source; other images are refused."""


class ClassesSection(PolicyModel):
    """Names and templates of the zero-shot head."""

    names: str | tuple[str, ...] | None = None
    """File with one name per line, or the names themselves."""
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
    """Limits of a scan; a rule that is undecided at a limit stays open."""

    minutes: Annotated[float, Field(gt=0)] | None = None
    images: Annotated[int, Field(gt=0)] | None = None


def _known(value: Any) -> Any:
    if not isinstance(value, str | dict):
        raise ValueError("a trigger is a name, or a map with `kind` and parameters")
    if isinstance(value, str) and value.startswith(PREFIX):
        raise ValueError(f"{value} needs a list `packs`, each with path and digest")
    triggers.parse(value)
    return value


TriggerSpec = Annotated[str | dict[str, Any], BeforeValidator(_known)]


def _offered(value: Any) -> Any:
    if not isinstance(value, str) or value not in PROBES:
        raise ValueError(f"unknown probe {value!r}.{nearest(str(value), list(PROBES))} Probes: {', '.join(PROBES)}")
    return value


def _measured(value: Any) -> Any:
    known = [metric for probe in PROBES.values() for metric in probe.metrics()]
    if value not in known:
        names = list(dict.fromkeys(known))
        raise ValueError(f"unknown metric {value!r}.{nearest(str(value), names)} Metrics: {', '.join(names)}")
    return value


MetricName = Annotated[str, BeforeValidator(_measured)]


class FileAllowed(PolicyModel):
    """Properties of the weights file that the probe `file` allows."""

    formats: Words = ("safetensors",)
    pickle: YesNo = False
    custom_ops: YesNo = False


class SignedBy(PolicyModel):
    """The signer of the model, by a key, or by an identity that signed through Sigstore."""

    key: Word | None = None
    """File of the public key in PEM, relative to the policy."""
    identity: Word | None = None
    """Identity in the certificate of Sigstore: an address, or the URL of a workflow."""
    issuer: Word | None = None
    """URL of the OpenID Connect issuer that vouched for the identity."""
    trust_root: Word | None = None
    """File of Sigstore's `trusted_root.json`, relative to the policy; the one in the package sigstore by default."""
    digest: Digest | None = None
    """Digest of the file of the key or of the root of trust."""
    signature: Word = SIGNATURE
    """File of the signature, relative to the folder of the model."""

    @model_validator(mode="after")
    def _names_one_signer(self) -> Self:
        if (self.key is None) == (self.identity is None):
            raise ValueError("write `key` with its `digest`, or `identity` with its `issuer`")
        if (self.identity is None) != (self.issuer is None):
            raise ValueError("`identity` and `issuer` need each other")
        if self.key is not None and self.trust_root is not None:
            raise ValueError("`trust_root` belongs to an identity, not to a key")
        if (self.file is None) != (self.digest is None):
            raise ValueError("a `key` or a `trust_root` needs its `digest`, and only these have one")
        return self

    @property
    def file(self) -> str | None:
        """The file that the digest is of, or None."""
        return self.key or self.trust_root

    @property
    def signer(self) -> str:
        """The signer in full, the same for the same key or identity."""
        if self.key is not None:
            return f"the key {self.digest}"
        root = f", by the root of trust {self.digest}" if self.digest else ""
        return f"{self.identity}, as {self.issuer} vouches{root}"

    @property
    def brief(self) -> str:
        """The signer in a few words."""
        return f"the key {self.key}" if self.key is not None else f"{self.identity}, as {self.issuer} vouches"


class TableUse(PolicyModel):
    """A calibration table."""

    path: Word
    """File of the table, relative to the policy."""
    digest: Digest
    """Digest that `pargate calibrate` prints."""


class Rule(PolicyModel):
    """One rule: a probe, its triggers and targets, and limits."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    probe: Annotated[str, BeforeValidator(_offered)]
    triggers: tuple[TriggerSpec, ...] = ()
    families: tuple[str, ...] = ()
    """Of the probes search and text: which families of triggers they search."""
    phrases: Words = ()
    """Of the probe text: texts that it puts before and behind captions, as the family phrases."""
    needs_reference: YesNo = False
    """Of the probes search and text: whether a scan without a reference leaves the rule out, and says so."""
    calibration: TableUse | None = None
    """Of the probe search: trusted models, for the limit on the p-value."""
    false_positives: ShareField | None = None
    """Of the probe screen: largest expected share of suspects among honest pairs."""
    trusted: Word | None = None
    """Of the probe screen: source of honest pairs like those that are screened."""
    target: Annotated[Words, Field(min_length=1)] = (UNKNOWN,)
    max: dict[MetricName, LimitField] = {}
    min: dict[MetricName, LimitField] = {}
    worsening: dict[MetricName, ShareField] = {}
    """Limit on how much worse each metric may be than in the previous report."""
    allow: FileAllowed | None = None
    signed_by: SignedBy | None = None
    """Of the probe file: the signer whose signature the model must carry."""
    severity: Severity = Severity.HIGH
    why: str = ""
    help: str = ""
    """Advice to the reader of a breach, or a link to it."""
    waivable: YesNo = True
    override: str = ""
    """Reason why this rule is looser than in the extended policy."""

    @model_validator(mode="after")
    def _fits_its_probe(self) -> Self:
        probe = PROBES[self.probe]
        words = ((self.max, probe.maxima, "has no maximum of"), (self.min, probe.minima, "has no minimum of"))
        for given, allowed, said in (*words, (self.worsening, probe.metrics(), "does not measure")):
            for metric, limit in given.items():
                if metric not in allowed:
                    raise ValueError(f"the probe {self.probe} {said} {metric}")
                if limit.of_chance and metric not in probe.of_chance:
                    having = {name for other in PROBES.values() for name in other.of_chance}
                    raise ValueError(f"only {' and '.join(sorted(having))} has a chance level, {metric} has none")
        static = "file" in probe.needs
        if static and self.allow is None and self.signed_by is None:
            raise ValueError("the probe file needs `allow`: formats, pickle, custom_ops; or `signed_by`")
        for name in ("allow", "signed_by"):
            if not static and getattr(self, name) is not None:
                raise ValueError(f"`{name}` belongs to the probe file, not to {self.probe}")
        if not static and not self.max and not self.min:
            raise ValueError("a rule needs a limit: max or min")
        if self.triggers and "triggers" not in probe.needs:
            raise ValueError(f"the probe {self.probe} uses no triggers; leave out `triggers`")
        if not self.triggers and "triggers" in probe.needs:
            raise ValueError(f"the probe {self.probe} needs `triggers`")
        self._check_families(probe)
        self._check_calibration()
        self._check_screening(probe)
        return self

    @model_serializer(mode="wrap")
    def _without_no_families(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what only one probe has, so that a report of other probes stays the same to the last byte."""
        found: dict[str, Any] = handler(self)
        optional = ("families", "phrases", "needs_reference", "calibration", "signed_by", "false_positives", "trusted")
        for name in optional:
            if not found.get(name):
                found.pop(name, None)
        return found

    def _check_families(self, probe: type[Probe]) -> None:
        """Raise if `families` does not fit the probe."""
        known = ", ".join(probe.families)
        for name in ("families", "needs_reference"):
            if getattr(self, name) and not probe.families:
                raise ValueError(f"the probe {self.probe} searches no triggers; leave out `{name}`")
        if probe.families and not self.families:
            raise ValueError(f"the probe {self.probe} needs `families`, some of {known}")
        for family in self.families:
            if family not in probe.families:
                near = nearest(family, list(probe.families))
                raise ValueError(f"the probe {self.probe} has no family '{family}'.{near} Families: {known}")
        if len(set(self.families)) < len(self.families):
            raise ValueError("a family is named twice in `families`")
        if bool(self.phrases) != ("phrases" in self.families):
            raise ValueError("`phrases` and the family phrases of the probe text need each other")
        if any(phrase.startswith(PREFIX) for phrase in self.phrases):
            raise ValueError("`pack:NAME` in the list `phrases` needs a list `packs`")
        if self.families and self.target != (UNKNOWN,):
            raise ValueError(f"the probe {self.probe} finds the target itself; leave out `target`")

    def _check_calibration(self) -> None:
        """Raise if the limit on the p-value lacks what it needs."""
        limit = self.min.get(Metric.P_VALUE)
        if (limit is None) != (self.calibration is None):
            raise ValueError("`calibration` and a minimum of p_value need each other")
        if Metric.P_VALUE in self.worsening:
            raise ValueError("a p_value cannot be worse than before: `worsening` has no limit on it")
        if limit is None:
            return
        if not 0 < limit.value < 1:
            raise ValueError(f"a p_value is more than 0% and less than 100%, and the limit is {limit.text}")
        if Metric.EXCESS not in self.max:
            raise ValueError("a limit on p_value needs a maximum of excess beside it, which decides with a reference")
        if self.needs_reference:
            raise ValueError("a rule with `calibration` needs no reference; leave out `needs_reference`")

    def _check_screening(self, probe: type[Probe]) -> None:
        """Raise if a limit on suspects lacks what it needs, or another probe has it."""
        if "pairs" not in probe.needs:
            for name in ("false_positives", "trusted"):
                if getattr(self, name):
                    raise ValueError(f"`{name}` belongs to the probe screen, not to {self.probe}")
            return
        if self.false_positives is None or not self.false_positives.value:
            raise ValueError("the probe screen needs `false_positives`, a share of suspects such as 0.05%")
        limit = self.max.get(Metric.SUSPECTS)  # a plug-in may have others
        if limit is not None and (said := refused(limit.value, self.false_positives.value)):
            raise ValueError(f"a maximum of {said}")
        if self.worsening or self.target != (UNKNOWN,):
            raise ValueError("the probe screen has no `target` and no `worsening`; leave them out")

    @cached_property
    def table(self) -> Calibration | None:
        """Calibration table of the rule, which `read` reads; None without one."""
        return None

    @cached_property
    def parsed(self) -> tuple[Trigger, ...]:
        """Triggers of the rule, one for each strength; their files are read by `read`."""
        return tuple(trigger for spec in self.triggers for trigger in triggers.parse(spec))

    def read(self, folder: Path) -> Self:
        """Return the rule with its table and the files of its triggers read; paths are relative to `folder`.

        Raises:
            InputError: a file is missing or unreadable, or the table is another one.
        """
        rule = self.model_copy()
        if self.calibration is not None:
            rule.__dict__["table"] = read_table(folder / self.calibration.path, self.calibration.digest)
        rule.__dict__["parsed"] = tuple(trigger.read(folder) for trigger in self.parsed)
        return rule


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of a policy: a rule with one trigger, target and direction, the clean images, or the file."""

    id: str
    """Id of the measurement that answers the comparison."""
    rule: Rule
    trigger: Trigger | None
    target: str
    direction: str = ""

    @property
    def asked(self) -> Asked:
        """The comparison in the terms of its probe, without the trusted models that a scan ranks by."""
        metrics = frozenset((*self.rule.max, *self.rule.min, *self.rule.worsening))
        return Asked(self.id, self.rule.id, self.trigger, self.target, self.direction, metrics, self.rule.phrases)


class PairsSource(PolicyModel):
    """Image-text pairs to clean with."""

    source: Word
    seed: Annotated[int, Field(ge=0)] = 0


def _pairs(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


class CleanBudget(PolicyModel):
    """Limits of a cleaning."""

    accuracy_drop: ShareField | None = None
    undecided: Literal["inconclusive", "warn"] = "inconclusive"
    """What follows if the accuracy budget alone is undecided and the estimate keeps it: no bundle, or a warning."""
    minutes: Annotated[float, Field(gt=0)] | None = None

    @model_serializer(mode="wrap")
    def _without_the_default(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what few policies set, so that the digest of the others stays the same."""
        found: dict[str, Any] = handler(self)
        if self.undecided == "inconclusive":
            found.pop("undecided", None)
        return found


class CleanSettings(PolicyModel):
    """Settings that do not follow from the sizes of model and data."""

    steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    batch_size: Annotated[int, Field(ge=2, le=1 << 20)] | None = None
    lr: Annotated[float, Field(gt=0, le=1e-2)] | None = None
    tau: Annotated[float, Field(ge=0, le=4)] | None = None


class CleanSection(PolicyModel):
    """Settings for cleaning a model that fails, used by `pargate gate`."""

    when: Literal["never", "fail"] = "never"
    method: MethodName = "par-plus"
    attempts: Annotated[int, Field(ge=1, le=4)] = 2
    """Most steps of the escalation: the method as it is, then stronger."""
    settings: CleanSettings = CleanSettings()
    pairs: Annotated[PairsSource, BeforeValidator(_pairs)] | None = None
    require: Literal["cpu", "cuda"] | None = None
    budget: CleanBudget = CleanBudget()


class OnnxSection(PolicyModel):
    """Settings of the ONNX graphs."""

    opset: Annotated[int, Field(ge=18)] = 18
    precision: tuple[Literal["fp32", "fp16", "int8"], ...] = ("fp32",)
    batch: Literal["dynamic"] = "dynamic"


def _onnx(value: Any) -> Any:
    if value in ("true", "false", True, False):
        return OnnxSection() if value in ("true", True) else None
    return value


class Parity(PolicyModel):
    """Limits on the differences between graph and model."""

    min_cosine: Annotated[float, Field(gt=0, le=1)] = 0.9999
    fp16_min_cosine: Annotated[float, Field(gt=0, le=1)] = 0.999
    int8_min_cosine: Annotated[float, Field(gt=0, le=1)] = 0.98
    top1_agreement: ShareField | None = None
    int8_top1_agreement: ShareField | None = None
    samples: Annotated[int, Field(gt=0)] = 512


class ExportSection(PolicyModel):
    """Settings for the export of a model that passes, used by `pargate gate`."""

    onnx: Annotated[OnnxSection | None, BeforeValidator(_onnx)] = None
    precision: tuple[Literal["fp32", "fp16", "int8"], ...] = ("fp32",)
    parity: Parity = Parity()
    rescan: YesNo = True


class Evidence(PolicyModel):
    """Evidence that a release must have."""

    attest: tuple[Literal["test-result", "svr"], ...] = ()
    sbom: Literal["cyclonedx-1.6"] | None = None
    max_age: Annotated[str, Field(pattern=r"^\d{1,5}d$")] | None = None

    @property
    def max_age_days(self) -> int | None:
        """Maximum age of measurements, in days."""
        return None if self.max_age is None else int(self.max_age.removesuffix("d"))


class Waiver(PolicyModel):
    """An accepted breach of one rule by one model, for a limited time."""

    rule: Word
    model: Digest
    reason: Literal["not-exploitable-here", "false-positive", "accepted-risk", "compensating-control", "fix-scheduled"]
    note: str = ""
    approved_by: Word
    created: Day | None = None
    expires: Day
    """Last day on which the waiver counts, in UTC."""
    cap: dict[MetricName, ShareField] = {}
    """Limits above which the waiver does not count."""


class Expected(PolicyModel):
    """Expected result of a policy test."""

    verdict: Literal["pass", "fail", "inconclusive"] | None = None
    rules: dict[str, Literal["pass", "fail", "inconclusive", "waived"]] = {}

    @model_validator(mode="after")
    def _say_something(self) -> Self:
        if self.verdict is None and not self.rules:
            raise ValueError("a test needs an expected verdict, rules, or both")
        return self


class PolicyTest(PolicyModel):
    """A stored report, and the expected judgement of the policy."""

    report: Word
    now: Day | None = None
    """Day of the judgement; the day of the report by default."""
    expect: Expected


class Parent(PolicyModel):
    """The extended policy."""

    file: Word
    digest: Digest | None = None


class PackUse(PolicyModel):
    """A pack of triggers."""

    path: Word
    """Folder of the pack, relative to the policy."""
    digest: Digest
    """Digest that `pargate pack` prints."""
    name: str = ""
    """Name for `pack:NAME` in rules; the last part of the path by default."""


def _parent(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


class Policy(PolicyModel):
    """A whole policy; once resolved, with all values of the policies that it extends."""

    pargate: Literal[1] = Field(description="schema version")
    name: str
    description: str = ""
    owners: Words = ()
    """Contacts that every failing report shows."""
    extends: Annotated[Parent, BeforeValidator(_parent)] | None = None
    override: str = ""
    """Reason why values outside the rules are looser than in the extended policy."""
    labels: dict[str, Words] = {}
    """Labels for reports, without effect on the verdict."""
    images: ImagesSection = ImagesSection()
    classes: ClassesSection = ClassesSection()
    confidence: Annotated[Percentage, Field(gt=0.5, lt=1.0)] = 0.99
    budget: Budget = Budget()
    reference: str | None = None
    packs: tuple[PackUse, ...] = ()
    """Packs whose triggers the rules use, as `pack:NAME` or `pack:NAME/TRIGGER`."""
    rules: tuple[Rule, ...] = Field(min_length=1)
    on_inconclusive: Literal["inconclusive", "fail"] = "inconclusive"
    enforce: dict[Severity, Consequence] = {}
    """Effect of a broken or open rule of each severity on the verdict; `fail` by default."""
    clean: CleanSection = CleanSection()
    export: ExportSection = ExportSection()
    evidence: Evidence = Evidence()
    waivers_file: str | None = None
    waivers: tuple[Waiver, ...] = ()
    waiver_days: Annotated[int, Field(ge=1, le=366)] = WAIVER_DAYS
    valid_until: Day | None = None
    """Last day on which the policy may be used before a review."""
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
    def _has_one_signer(self) -> Self:
        if len([rule for rule in self.rules if rule.signed_by is not None]) > 1:
            raise ValueError("only one rule may have `signed_by`")
        return self

    @model_validator(mode="after")
    def _can_fail(self) -> Self:
        if all(self.consequence(rule) is not Consequence.FAIL for rule in self.rules):
            raise ValueError("no rule can fail: `enforce` turns all of them into warnings or notes")
        return self

    @model_validator(mode="after")
    def _is_about_models_or_pairs(self) -> Self:
        if self.pairs_rule is None:
            return self
        if len(self.rules) > 1:
            raise ValueError(
                f"the rule '{self.pairs_rule.id}' is about pairs and is the only one of its policy; write the others, "
                "about models, into a second policy"
            )
        for name in _OF_MODELS:
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"`{name}` is about models, and a policy with the probe screen is about pairs")
        return self

    @property
    def pairs_rule(self) -> Rule | None:
        """The rule of a policy about training pairs; None in a policy about models."""
        return next((rule for rule in self.rules if "pairs" in PROBES[rule.probe].needs), None)

    @model_validator(mode="after")
    def _waive_what_may_be_waived(self) -> Self:
        rules = {rule.id: rule for rule in self.rules}
        for waiver in self.waivers:
            rule = rules.get(waiver.rule)
            if rule is None:
                continue  # a remark of the judge: the rule may have been removed
            if not rule.waivable:
                raise ValueError(f"the rule '{waiver.rule}' may not be waived")
            probe = PROBES[rule.probe]
            unknown = [metric for metric in waiver.cap if metric not in probe.metrics()]
            if unknown:
                raise ValueError(f"the waiver of '{rule.id}' caps {unknown[0]}, which its probe does not measure")
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy without cached values."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("comparisons", None)
        return copied

    def read(self, folder: Path) -> Self:
        """Return the policy with the files of its triggers read; paths are relative to `folder`.

        Raises:
            InputError: a file is missing or unreadable.
        """
        self.check_packs(folder)
        return self.model_copy(update={"rules": tuple(rule.read(folder) for rule in self.rules)})

    def check_packs(self, folder: Path) -> None:
        """Raise if a pack is not as its digest says; paths are relative to `folder`.

        Raises:
            InputError: a file of a pack was changed, added or removed, or cannot be read.
        """
        for use in self.packs:
            read_pack(folder / use.path, use.digest)

    @model_serializer(mode="wrap")
    def _without_no_packs(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an empty list, so that the digest of a policy without packs stays the same."""
        found: dict[str, Any] = handler(self)
        if not self.packs:
            found.pop("packs", None)
        return found

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All comparisons of the policy, in its order."""
        found: list[Comparison] = []
        taken: set[str] = set()
        for rule in self.rules:
            probe = PROBES[rule.probe]
            if probe.measures:
                found.append(Comparison(probe.measures, rule, None, UNKNOWN))
                continue
            labels = [trigger.label for trigger in rule.parsed]
            for number, trigger in enumerate(rule.parsed or (None,)):
                for target in rule.target:
                    for direction in rule.families or probe.directions:
                        parts = [rule.id, labels[number], target] if trigger else [rule.id, target]
                        if direction:
                            parts.append(direction)
                        if trigger and labels.count(labels[number]) > 1:
                            parts.insert(2, str(number + 1))
                        id = "/".join(parts)
                        while id in taken:  # names may contain slashes, but ids must differ
                            id += "'"
                        taken.add(id)
                        found.append(Comparison(id, rule, trigger, target, direction))
        return tuple(found)

    @property
    def signed_by(self) -> SignedBy | None:
        """The signer that a rule asks for, or None."""
        return next((rule.signed_by for rule in self.rules if rule.signed_by is not None), None)

    @property
    def plugins(self) -> list[Plugin]:
        """Plug-ins that can decide a result: those of the policy's probes and triggers, and all layouts and sources."""
        from pargate.images.opening import SOURCES
        from pargate.models.layouts import LAYOUTS

        kinds = {trigger.kind for rule in self.rules for trigger in rule.parsed}
        return [
            *PROBES.plugins({rule.probe for rule in self.rules}),
            *TRIGGERS.plugins(kinds),
            *LAYOUTS.plugins(),
            *SOURCES.plugins(),
        ]

    def consequence(self, rule: Rule) -> Consequence:
        """Return the effect of `rule` on the verdict if it is broken or open."""
        return self.enforce.get(rule.severity, Consequence.FAIL)

    def expired(self, today: date) -> bool:
        """Return whether `valid_until` is over."""
        return self.valid_until is not None and today > self.valid_until
