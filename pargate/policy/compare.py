"""Comparison of two policies: each change is tighter, looser, or other.

A policy that extends another may loosen nothing, and `policy diff` fails a review that does. A change without a clear
direction is `other`; a change that removes a demand is `looser`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pargate.core.names import class_key
from pargate.core.results import Consequence, Metric, Severity
from pargate.policy.fields import Limit
from pargate.policy.schema import CleanSettings, Policy, Rule

Direction = Literal["tighter", "looser", "other"]

Path = tuple[str | int, ...]

MOST_CHANCE = 0.1
"""Chance level for comparing a share with a multiple of chance: that of ten classes, since the classes are unknown
here. With fewer classes, a multiple of chance demands less."""

_CONSEQUENCES = [Consequence.NOTE, Consequence.WARN, Consequence.FAIL]
_SEVERITIES = [Severity.LOW, Severity.MEDIUM, Severity.HIGH, Severity.CRITICAL]


@dataclass(frozen=True, slots=True)
class Change:
    """One value of a policy that differs from the other's."""

    key: Path
    """Path of the value, with rules by id: `("rules", "patch", "max", "excess")`."""
    old: str
    new: str
    direction: Direction

    @property
    def name(self) -> str:
        """Key as text, its parts joined by dots."""
        return ".".join(map(str, self.key))


def changes(old: Policy, new: Policy) -> list[Change]:
    """Return all differences that can change a verdict, in the order of the schema."""
    return [*_whole(old, new), *_rules(old.rules, new.rules), *_consequences(old, new), *_waivers(old, new)]


def _whole(old: Policy, new: Policy) -> Iterator[Change]:
    yield from _number(("confidence",), old.confidence, new.confidence, "up", lambda v: f"{v * 100:g}%")
    yield from _number(("images", "min"), old.images.min, new.images.min, "up")
    yield from _other(("images", "source"), old.images.source, new.images.source)
    yield from _required(("images", "digest"), old.images.digest, new.images.digest)
    for name in ("names", "templates"):
        was, now = getattr(old.classes, name), getattr(new.classes, name)
        # Naming the classes loosens nothing; exchanging them may, since a missing class is never predicted.
        yield from _other(("classes", name), was, now) if was is None else _required(("classes", name), was, now)
    yield from _other(("budget", "minutes"), old.budget.minutes, new.budget.minutes)
    yield from _other(("budget", "images"), old.budget.images, new.budget.images)
    if old.reference != new.reference:
        # A new reference may have the same backdoor, which hides the excess. Without a reference only controls are
        # left, and they differ from it in both directions.
        yield Change(("reference",), _text(old.reference), _text(new.reference), "looser")
    if old.on_inconclusive != new.on_inconclusive:
        stricter = new.on_inconclusive == "fail"
        yield Change(("on_inconclusive",), old.on_inconclusive, new.on_inconclusive, _way(stricter))
    for severity in Severity:
        before = old.enforce.get(severity, Consequence.FAIL)
        after = new.enforce.get(severity, Consequence.FAIL)
        key = ("enforce", str(severity))
        if severity in old.enforce or any(rule.severity is severity for rule in old.rules):
            yield from _ranked(key, before, after, _CONSEQUENCES)
        else:
            yield from _other(key, before, after)  # no rule has this severity
    yield from _kept(("packs",), *({use.digest: f"{use.path} {use.digest}" for use in p.packs} for p in (old, new)))
    yield from _number(("waiver_days",), old.waiver_days, new.waiver_days, "down")
    yield from _optional(("valid_until",), old.valid_until, new.valid_until, "down")
    yield from _clean_and_export(old, new)


def _clean_and_export(old: Policy, new: Policy) -> Iterator[Change]:
    if old.clean.when != new.clean.when:
        # A cleaned model still has to meet every rule; only an explicit `when: never` is loosened.
        forbidden = "when" in old.clean.model_fields_set
        way: Direction = "tighter" if new.clean.when == "never" else "looser" if forbidden else "other"
        yield Change(("clean", "when"), old.clean.when, new.clean.when, way)
    yield from _limit(("clean", "budget", "accuracy_drop"), old.clean.budget.accuracy_drop,
                      new.clean.budget.accuracy_drop, "down")  # fmt: skip
    yield from _ranked(("clean", "budget", "undecided"), old.clean.budget.undecided, new.clean.budget.undecided,
                       ["warn", "inconclusive"])  # fmt: skip
    yield from _other(("clean", "method"), old.clean.method, new.clean.method)
    yield from _other(("clean", "attempts"), old.clean.attempts, new.clean.attempts)
    for name in CleanSettings.model_fields:
        ends = getattr(old.clean.settings, name), getattr(new.clean.settings, name)
        yield from _other(("clean", "settings", name), *ends)
    yield from _required(("clean", "require"), old.clean.require, new.clean.require)
    before, after = old.export.parity, new.export.parity
    for name in ("min_cosine", "fp16_min_cosine", "int8_min_cosine"):
        yield from _number(("export", "parity", name), getattr(before, name), getattr(after, name), "up")
    for name in ("top1_agreement", "int8_top1_agreement"):
        yield from _limit(("export", "parity", name), getattr(before, name), getattr(after, name), "up")
    yield from _number(("export", "parity", "samples"), before.samples, after.samples, "up")
    if old.export.rescan != new.export.rescan:
        yield Change(("export", "rescan"), str(old.export.rescan), str(new.export.rescan), _way(new.export.rescan))
    missing = [kind for kind in old.evidence.attest if kind not in new.evidence.attest]
    added = [kind for kind in new.evidence.attest if kind not in old.evidence.attest]
    if missing or added:
        shown = (", ".join(old.evidence.attest), ", ".join(new.evidence.attest))
        yield Change(("evidence", "attest"), *shown, _way(not missing))
    yield from _required(("evidence", "sbom"), old.evidence.sbom, new.evidence.sbom)
    days = [int(e.max_age.removesuffix("d")) if e.max_age else None for e in (old.evidence, new.evidence)]
    yield from _optional(("evidence", "max_age"), days[0], days[1], "down")


def _rules(old: Sequence[Rule], new: Sequence[Rule]) -> Iterator[Change]:
    after = {rule.id: rule for rule in new}
    for rule in old:
        key = ("rules", rule.id)
        if rule.id not in after:
            yield Change(key, _short(rule), "", "looser")
            continue
        yield from _rule(key, rule, after[rule.id])
    before = {rule.id for rule in old}
    yield from (Change(("rules", rule.id), "", _short(rule), "tighter") for rule in new if rule.id not in before)


def _consequences(old: Policy, new: Policy) -> Iterator[Change]:
    """Yield changed consequences of rules whose severity changed; `enforce` alone does not show them."""
    after = {rule.id: rule for rule in new.rules}
    for rule in old.rules:
        if rule.id in after and after[rule.id].severity is not rule.severity:
            ends = old.consequence(rule), new.consequence(after[rule.id])
            yield from _ranked(("rules", rule.id, "consequence"), *ends, _CONSEQUENCES)


def _rule(key: Path, old: Rule, new: Rule) -> Iterator[Change]:
    if old.probe != new.probe:
        yield Change((*key, "probe"), old.probe, new.probe, "looser")
    yield from _kept((*key, "triggers"), _triggers(old), _triggers(new))
    yield from _kept((*key, "families"), _named(old.families), _named(new.families))
    if old.needs_reference != new.needs_reference:
        was, now = (str(rule.needs_reference).lower() for rule in (old, new))
        yield Change((*key, "needs_reference"), was, now, _way(old.needs_reference))
    yield from _kept((*key, "phrases"), _named(old.phrases), _named(new.phrases))
    # Each named target is measured by itself, so a named target and the unknown one do not replace each other.
    yield from _kept((*key, "target"), *({class_key(t): t for t in rule.target} for rule in (old, new)))
    yield from _limits((*key, "max"), old.max, new.max, "down")
    before, after = _by_rank(old), _by_rank(new)
    if before != after:
        # A lower limit breaks less often, and a higher one passes with fewer trusted models.
        yield Change((*key, "calibration"), before, after, "looser")
    for metric in dict.fromkeys((*old.min, *new.min)):
        if metric != Metric.P_VALUE:
            yield from _limit((*key, "min", metric), old.min.get(metric), new.min.get(metric), "up")
    yield from _limit((*key, "false_positives"), old.false_positives, new.false_positives, "up")
    yield from _required((*key, "trusted"), old.trusted, new.trusted)
    yield from _limits((*key, "worsening"), old.worsening, new.worsening, "down")
    yield from _ranked((*key, "severity"), old.severity, new.severity, _SEVERITIES)
    if old.waivable != new.waivable:
        yield Change((*key, "waivable"), str(old.waivable).lower(), str(new.waivable).lower(), _way(old.waivable))
    # The name of a file is not compared, but its digest.
    yield from _required((*key, "signed_by"), *(rule.signed_by and rule.signed_by.signer for rule in (old, new)))
    if (old.allow is None) != (new.allow is None):
        was, now = ("" if rule.allow is None else ", ".join(rule.allow.formats) for rule in (old, new))
        yield Change((*key, "allow"), was, now, _way(old.allow is None))
    if old.allow is not None and new.allow is not None:
        formats = _named(new.allow.formats), _named(old.allow.formats)
        yield from _kept((*key, "allow", "formats"), *formats, flipped=True)
        for name in ("pickle", "custom_ops"):
            was, now = getattr(old.allow, name), getattr(new.allow, name)
            if was != now:
                yield Change((*key, "allow", name), str(was).lower(), str(now).lower(), _way(was))


def _waivers(old: Policy, new: Policy) -> Iterator[Change]:
    for number, waiver in enumerate(new.waivers):
        if waiver not in old.waivers:
            text = f"{waiver.rule} for {waiver.model[:19]}… until {waiver.expires}"
            yield Change(("waivers", number), "", text, "looser")
    for number, waiver in enumerate(old.waivers):
        if waiver not in new.waivers:
            yield Change(("waivers", number), f"{waiver.rule} until {waiver.expires}", "", "tighter")


# --- kinds of value ----------------------------------------------------------------------------------


def _way(stricter: bool) -> Direction:
    return "tighter" if stricter else "looser"


def _number(
    key: Path, old: Any, new: Any, tighter: Literal["up", "down"], shown: Callable[[Any], str] = str
) -> Iterator[Change]:
    if old != new:
        yield Change(key, shown(old), shown(new), _way((new > old) == (tighter == "up")))


def _optional(key: Path, old: Any, new: Any, tighter: Literal["up", "down"]) -> Iterator[Change]:
    """Yield the change of an optional bound: setting it is tighter, removing it looser."""
    if old is None or new is None:
        if old != new:
            yield Change(key, _text(old), _text(new), _way(old is None))
    else:
        yield from _number(key, old, new, tighter)


def _limit(key: Path, old: Limit | None, new: Limit | None, tighter: Literal["up", "down"]) -> Iterator[Change]:
    if old is not None and new is not None and old.of_chance != new.of_chance:
        yield Change(key, old.text, new.text, _way(old.of_chance and new.value >= old.value * MOST_CHANCE))
    elif (old and old.value) != (new and new.value):
        way = next(_optional(key, old and old.value, new and new.value, tighter))
        yield Change(key, old.text if old else "", new.text if new else "", way.direction)


def _limits(
    key: Path, old: Mapping[Any, Limit], new: Mapping[Any, Limit], tighter: Literal["up", "down"]
) -> Iterator[Change]:
    for metric in dict.fromkeys((*old, *new)):
        yield from _limit((*key, str(metric)), old.get(metric), new.get(metric), tighter)


def _required(key: Path, old: Any, new: Any) -> Iterator[Change]:
    """Yield the change of a demand: adding it is tighter, removing or exchanging it looser."""
    if old != new:
        yield Change(key, _text(old), _text(new), _way(old is None))


def _ranked(key: Path, old: Any, new: Any, order: Sequence[Any]) -> Iterator[Change]:
    if old != new:
        yield Change(key, str(old), str(new), _way(order.index(new) > order.index(old)))


def _named(values: Sequence[str]) -> dict[str, str]:
    return {value: value for value in values}


def _kept(key: Path, old: Mapping[str, str], new: Mapping[str, str], *, flipped: bool = False) -> Iterator[Change]:
    """Yield the change of a list of demands: adding is tighter, removing looser; `flipped` for a list of permissions.

    The change shows only the items that differ.
    """
    missing = [name for value, name in old.items() if value not in new]
    added = [name for value, name in new.items() if value not in old]
    before, after = (added, missing) if flipped else (missing, added)
    if missing or added:
        yield Change(key, ", ".join(before), ", ".join(after), _way(not missing))


def _other(key: Path, old: Any, new: Any) -> Iterator[Change]:
    if old != new:
        yield Change(key, _text(old), _text(new), "other")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _triggers(rule: Rule) -> dict[str, str]:
    """Return the label of each trigger by its identity, which includes the path of a file without a digest."""
    return {f"{t.id} {'' if all(t.pin.values()) else getattr(t, 'path', '')}": t.label for t in rule.parsed}


def _by_rank(rule: Rule) -> str:
    """Return the limit on the p-value and the digest of its table; empty without one."""
    return f"p_value ≥ {rule.min[Metric.P_VALUE].text} by {rule.calibration.digest}" if rule.calibration else ""


def _short(rule: Rule) -> str:
    limits = [f"{m} ≤ {limit.text}" for m, limit in rule.max.items()]
    limits += [f"{m} ≥ {limit.text}" for m, limit in rule.min.items()]
    return f"{rule.probe}: {', '.join(limits) or 'static'}"
