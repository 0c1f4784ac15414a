"""What several report formats say alike: clean text, numbers, order, identity and place of a finding.

Class names, labels, paths and reasons come from models and policies, so every format passes them through `plain`
before it escapes them in its own way. Nothing here knows a format.
"""

import hashlib
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pargate.core.report import ModelInfo, ScanReport, SourceSpan
from pargate.core.results import RANK, UNSAFE_FILE, Bound, Consequence, Finding, Measurement, Metric, Outcome, Status
from pargate.errors import InputError, visible

CUT = "…"

_CONSEQUENCES = list(Consequence)


def plain(text: str, most: int = 2000) -> str:
    """Return `text` with single spaces, as `visible` writes it, of at most `most` characters."""
    # Cut first: a name may be as long as its file, but is never shown at that length.
    shown = visible(" ".join(text[: 4 * most].split()))
    return shown if len(shown) <= most else shown[: most - 1] + CUT


def plural(n: int, one: str) -> str:
    """Return a number with its noun."""
    return f"{n} {one}" if n == 1 else f"{n} {one}s"


def minute(time: str) -> str:
    """Return a time of RFC 3339 to the minute, as people write it."""
    return time[:16].replace("T", " ")


def percent(share: float) -> str:
    """A share or a difference of shares, as 12.3%."""
    return f"{share:.1%}"


def measured(bound: Bound) -> str:
    """Metric, estimate and interval of a bound, as `excess 87.9% [77.6%, 94.6%]`."""
    name = bound.metric.replace("_", " ")
    if not bound.n:
        return f"{name} not measured"
    if bound.estimate is None:
        return f"{name} at most {percent(bound.high)}"
    return f"{name} {percent(bound.estimate)} [{percent(max(bound.low, -1.0))}, {percent(bound.high)}]"


def limit(bound: Bound) -> str:
    """The limit of a bound with its direction, as `≤ 30pp`."""
    against = "" if bound.against == "limit" else f" ({bound.against})"
    return plain(f"{'≤' if bound.upper else '≥'} {bound.limit_text}{against}", 200)


def subject(measurement: Measurement | None) -> str:
    """What a finding is about, as `badnet → banana`."""
    if measurement is None:
        return "not measured"
    if measurement.facts is not None:
        return "file"
    if measurement.trigger is None:
        return "clean carriers"
    target = f" → {measurement.target.name}" if measurement.target else ""
    return plain(f"{measurement.trigger.label}{target}", 200)


def by_id(report: ScanReport) -> dict[str, Measurement]:
    """The measurements by their id."""
    return {measurement.id: measurement for measurement in report.measurements}


def about(finding: Finding, measurements: dict[str, Measurement]) -> str:
    """`subject` of a finding, which may have no measurement."""
    if finding.rule == UNSAFE_FILE:
        return "file"
    return subject(measurements.get(finding.measurement or ""))


def headline(finding: Finding) -> str:
    """One sentence with the rule, the number and the limit; lists of results show no more than it."""
    return plain(f"{finding.rule}: {finding.message}")


def acceptance(finding: Finding) -> str:
    """Why and for how long a waiver accepts a breach; empty where none does."""
    use = finding.waiver
    if use is None:
        return ""
    note = f" ({use.note})" if use.note else ""
    days = plural(use.days_left, "day")
    return plain(f"{use.reason}{note}, approved by {use.approved_by}, until {use.expires}: {days} left")


def rules(report: ScanReport) -> dict[str, dict[str, Any]]:
    """The rules of the policy as it was applied, by their id, in its order."""
    listed = report.policy.document.get("rules")
    return {
        str(rule["id"]): rule
        for rule in (listed if isinstance(listed, list | tuple) else ())
        if isinstance(rule, dict) and rule.get("id")
    }


def worst_first(report: ScanReport) -> list[Finding]:
    """Breaches by their consequence, then what is open, accepted and met; within each in the order of the report."""
    return sorted(report.findings, key=lambda f: (RANK[f.status], _CONSEQUENCES.index(f.consequence)))


def deciding(finding: Finding) -> Bound | None:
    """The bound that gave the finding its status; for an accepted breach the one that is broken."""
    wanted = Status.BREACH if finding.status is Status.WAIVED else finding.status
    return next((bound for bound in finding.bounds if bound.status is wanted), None)


def original(report: ScanReport) -> ModelInfo:
    """Return the model that the command names; the report of a gate may be of what was made of it."""
    first = report.stages[0].examined if report.stages else None
    return first.model if first is not None else report.model


def model_name(report: ScanReport) -> str:
    """Return the name of the model that the command names: the same on every runner, another for every model."""
    return plain(report.subject, 200) or source_name(original(report).source)


def policy_name(report: ScanReport) -> str:
    """Return where the policy comes from, likewise: two policies may call themselves the same."""
    return plain(report.policy.place, 200) or source_name(report.policy.source)


def source_name(source: str) -> str:
    """Return a source without the folders of one machine."""
    source = source.replace("\\", "/")
    if source.startswith("/") or re.match("[A-Za-z]:/", source):
        source = source.rstrip("/").rpartition("/")[2]
    elif not re.match("[a-z][a-z_-]+:", source):
        source = posixpath.normpath(source)
    return plain(source, 200) or "model"


def fingerprints(report: ScanReport) -> list[str]:
    """For each finding, in order, what stays the same from one run and one training to the next.

    Made of the comparison and the model's name alone: with a number or a digest in it, every retraining would open
    its alerts anew.
    """
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for finding in report.findings:
        comparison = (finding.rule, finding.comparison or finding.measurement or "")
        # In a report from before comparisons had ids, those that were not measured differ in their order alone.
        identity = [*comparison, seen[comparison], model_name(report)]
        seen[comparison] += 1
        found.append(hashlib.sha256(json.dumps(identity).encode()).hexdigest())
    return found


def in_repository(place: SourceSpan | None) -> SourceSpan | None:
    """`place` with a normal, relative POSIX path, or None where a repository does not hold its file."""
    if place is None or place.file.startswith("builtin:") or not place.file:
        return None
    path = posixpath.normpath(place.file.replace("\\", "/"))
    if path.startswith(("/", "../")) or path in ("..", ".") or re.match("[A-Za-z]:", path):
        return None
    return place.model_copy(update={"file": path})


def place_of(report: ScanReport, finding: Finding) -> SourceSpan | None:
    """Where the repository's policy writes the limit that decided, or the rule; None for what is built in."""
    keys = [f"rules.{finding.rule}"]
    bound = deciding(finding)
    if bound is not None:
        keys.insert(0, f"{keys[0]}.{'max' if bound.upper else 'min'}.{bound.metric}")
    places = (in_repository(report.policy.origins.get(key)) for key in keys)
    return next((place for place in places if place is not None), None)


def started(report: ScanReport) -> datetime:
    """When the run began, in UTC, to the second.

    Raises:
        InputError: the report says nothing that can be read.
    """
    try:
        moment = datetime.fromisoformat(report.run.started)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"the report says that its run began at '{plain(report.run.started, 40)}', which is no time",
            "give a report as pargate wrote it",
        ) from error


def stages(report: ScanReport) -> Iterator[tuple[str, str]]:
    """What each stage of a gate is called, and what came of it."""
    for stage in report.stages:
        attempt = f" {stage.attempt}" if stage.attempt else ""
        yield f"{stage.name}{attempt}", f"{stage.summary} ({stage.seconds:.0f} s)"


def next_steps(report: ScanReport) -> Iterator[str]:
    """What to do after this verdict, or how far a pass reaches."""
    match report.verdict.status:
        case Outcome.PASS | Outcome.REMEDIATED:
            triggers = plural(len(report.coverage.probed), "trigger")
            yield f"This covers {triggers} on these images, no others; see what was not probed."
        case Outcome.FAIL if any(f.rule == UNSAFE_FILE for f in report.findings):
            yield "Do not load this file; ask its author for safetensors or ONNX."
        case Outcome.FAIL if any(f.status is Status.BREACH for f in report.findings):
            yield "Do not ship this checkpoint; go back to one whose scan passes."
            measurements = by_id(report)
            if report.reference is None and any(
                _over_control(f, measurements.get(f.measurement or "")) for f in report.findings
            ):
                yield (
                    "Whether a pull is planted or natural needs a trusted parent: "
                    f"pargate scan {plain(original(report).source)} --reference PARENT"
                )
        case _ if not report.run.complete:
            yield "Run again: it resumes from the cache."
        case _ if any(m.stopped == "budget" for m in report.measurements):
            yield "Give it more: --max-minutes, or `budget` in the policy."
        case _ if any(f.status is Status.OPEN for f in report.findings):
            yield "Give more, labelled images of the model's own domain: --images SOURCE --classes FILE"
        case _:
            yield "See the remarks: what makes this verdict is not a measurement."


def _over_control(finding: Finding, measurement: Measurement | None) -> bool:
    broken = any(b.metric == Metric.EXCESS and b.status is Status.BREACH for b in finding.bounds)
    pairs = measurement.pairs if measurement else None
    return broken and pairs is not None and pairs.baseline.startswith("control")
