"""Text that several report formats share: clean text, numbers, and the order, identity and place of findings.

Class names, labels, paths and reasons are foreign text, so every format passes them through `plain` before it escapes
them.
"""

import base64
import hashlib
import json
import posixpath
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pargate.core.report import ModelInfo, ScanReport, SourceSpan
from pargate.core.results import (
    LEFT_OUT,
    RANK,
    UNFIT_IMAGES,
    UNSAFE_FILE,
    Bound,
    Consequence,
    Finding,
    Measurement,
    Metric,
    Status,
)
from pargate.errors import InputError, visible

CUT = "…"

PNG = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG."""

SEARCHES = ("search", "text")
"""Probes that find what they measure, and say why where they cannot."""

_CONSEQUENCES = list(Consequence)


def plain(text: str, most: int = 2000) -> str:
    """Return `text` with single spaces, as `visible` writes it, of at most `most` characters."""
    # Cut first: a name may be as long as a file.
    shown = visible(" ".join(text[: 4 * most].split()))
    return shown if len(shown) <= most else shown[: most - 1] + CUT


def plural(n: int, one: str) -> str:
    """Return a number with its noun."""
    return f"{n} {one}" if n == 1 else f"{n} {one}s"


def minute(time: str) -> str:
    """Return an RFC 3339 time to the minute, as `2026-01-31 12:00`."""
    return time[:16].replace("T", " ")


def percent(share: float) -> str:
    """Return a share or a difference of shares, as `12.3%`."""
    return f"{share:.1%}"


def measured(bound: Bound) -> str:
    """Return metric, estimate and interval of a bound, as `excess 87.9% [77.6%, 94.6%]`."""
    name = bound.metric.replace("_", "-" if bound.metric == Metric.P_VALUE else " ")
    if not bound.n:
        return f"{name} not measured"
    if bound.estimate is None:
        return f"{name} at most {percent(bound.high)}"
    if bound.metric == Metric.P_VALUE:
        return f"{name} {percent(bound.estimate)} among trusted models"
    return f"{name} {percent(bound.estimate)} [{percent(max(bound.low, -1.0))}, {percent(bound.high)}]"


def limit(bound: Bound) -> str:
    """Return the limit of a bound with its direction, as `≤ 30pp`."""
    against = "" if bound.against == "limit" else f" ({bound.against})"
    return plain(f"{'≤' if bound.upper else '≥'} {bound.limit_text}{against}", 200)


def subject(measurement: Measurement | None) -> str:
    """Return the trigger and target of a measurement, as `badnet → banana`."""
    if measurement is None:
        return "not measured"
    if measurement.facts is not None:
        return "file"
    if measurement.trigger is None:
        family = measurement.id.rsplit("/", 1)[-1]
        return "clean images" if measurement.probe == "utility" else f"{measurement.probe} ({family})"
    target = f" → {measurement.target.name}" if measurement.target else ""
    return plain(f"{measurement.trigger.label}{target}", 200)


def compared_with(report: ScanReport) -> str:
    """Return what the other model of a report is to the scanned one."""
    copies = any(m.pairs is not None and m.pairs.over_copy for m in report.measurements)
    return "fine-tuned copy" if copies else "reference"


def unfit(report: ScanReport) -> bool:
    """Return whether nothing follows from the scan, because the model is not shown to recognise the images."""
    return UNFIT_IMAGES in report.verdict.decided_by


def classes(report: ScanReport) -> str:
    """Return the number of classes, and of those that the labels of the images name."""
    chance = next((m.chance for m in report.measurements if m.chance), None)
    occur = round(1 / chance) if chance else report.classes.count
    return f"{report.classes.count} classes" + (f" ({occur} occur)" if occur != report.classes.count else "")


def by_id(report: ScanReport) -> dict[str, Measurement]:
    """Return the measurements by id."""
    return {measurement.id: measurement for measurement in report.measurements}


def about(finding: Finding, measurements: dict[str, Measurement]) -> str:
    """Return the `subject` of a finding, which may have no measurement; a green one says if it is of one drawing."""
    if finding.rule == UNSAFE_FILE:
        return "file"
    measurement = measurements.get(finding.measurement or "")
    said = subject(measurement)
    trigger = measurement.trigger if measurement is not None else None
    if trigger is None or not trigger.one_drawing or finding.status is not Status.MET:
        return said
    return f"{said} (this one drawing)"


def headline(finding: Finding) -> str:
    """Return the rule and the message of a finding as one line."""
    return plain(f"{finding.rule}: {finding.message}")


MEANINGS: dict[str, str] = {
    Metric.EXCESS: "Excess is the share of images that the trigger moves to the class, less that of a harmless change "
    "of the same strength, or of the reference.",
    Metric.ATTACK_SUCCESS: "Attack success is the share of images that the trigger moves to the class.",
    Metric.ACCURACY: "Accuracy is the share of labelled images without a trigger that the model names right.",
    Metric.RECALL: "Recall is the share of images whose own caption is among the five nearest.",
}
"""Meaning of a metric for a reader who sees one finding alone."""


def alone(report: ScanReport, finding: Finding) -> str:
    """Return a finding as a text that is understood without the report: rule, numbers, metric, found trigger, model."""
    bound = deciding(finding)
    meaning = MEANINGS.get(bound.metric, "") if bound is not None else ""
    found = recipe(by_id(report).get(finding.measurement or ""))
    return plain(f"{headline(finding)} {meaning} {found} Model: {model_name(report)}.")


def recipe(measurement: Measurement | None) -> str:
    """Return what puts a found trigger on images, or a found text into captions; empty for other measurements."""
    if measurement is None or measurement.probe not in SEARCHES or measurement.trigger is None:
        return ""
    written = measurement.trigger.recipe.items()
    facts = ", ".join(f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in written)
    what = "a PNG, " if measurement.trigger.picture else ""
    nearest = f"; captions with it are nearest to the images {retrieved(measurement)}" if retrieved(measurement) else ""
    return plain(f"Found by the search of the family {measurement.id.rsplit('/', 1)[-1]}: {what}{facts}{nearest}.")


def retrieved(measurement: Measurement) -> str:
    """Return the digests, shortened, of the images that captions with a found text retrieve; empty for others."""
    return ", ".join(digest[:12] for digest in measurement.examples) if measurement.probe == "text" else ""


def png(text: str) -> str:
    """Return the base64 of a PNG encoded again, so that no foreign byte enters a report; empty for other text."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        return ""
    return base64.b64encode(data).decode("ascii") if data.startswith(PNG) else ""


def acceptance(finding: Finding) -> str:
    """Return why and for how long a waiver accepts a breach; empty without a waiver."""
    use = finding.waiver
    if use is None:
        return ""
    note = f" ({use.note})" if use.note else ""
    days = plural(use.days_left, "day")
    return plain(f"{use.reason}{note}, approved by {use.approved_by}, until {use.expires}: {days} left")


def rules(report: ScanReport) -> dict[str, dict[str, Any]]:
    """Return the rules of the applied policy by id, in order."""
    listed = report.policy.document.get("rules")
    return {
        str(rule["id"]): rule
        for rule in (listed if isinstance(listed, list | tuple) else ())
        if isinstance(rule, dict) and rule.get("id")
    }


def left_out(report: ScanReport) -> dict[str, str]:
    """Return the reason for each rule that the scan left out, and that has no part in the verdict, by id."""
    judged = {finding.rule for finding in report.findings}
    return {m.rule: m.stopped for m in report.measurements if m.stopped in LEFT_OUT and m.rule not in judged}


def worst_first(report: ScanReport) -> list[Finding]:
    """Return the findings by status, then by consequence, then in the order of the report."""
    return sorted(report.findings, key=lambda f: (RANK[f.status], _CONSEQUENCES.index(f.consequence)))


def deciding(finding: Finding) -> Bound | None:
    """Return the bound that gave the finding its status; of a waived breach the broken one."""
    wanted = Status.BREACH if finding.status is Status.WAIVED else finding.status
    return next((bound for bound in finding.bounds if bound.status is wanted), None)


def original(report: ScanReport) -> ModelInfo:
    """Return the model that the command names; the report of a gate may describe a cleaned or exported one."""
    first = report.stages[0].examined if report.stages else None
    return first.model if first is not None else report.model


def model_name(report: ScanReport) -> str:
    """Return the name of the model that the command names, the same on every machine."""
    return plain(report.subject, 200) or source_name(original(report).source)


MADE = {"pick": "Cleaned candidate", "certify": "Checkpoint", "rescan": "Graphs"}
"""Names of what a gate made and scanned, by stage."""


def models(report: ScanReport) -> list[tuple[str, ModelInfo]]:
    """Return the models that a report is about, with their names: of a gate the original and what was made from it."""
    if not report.stages:
        return [("Model", report.model)]
    made = [
        (MADE[stage.name], (stage.examined or report).model)
        for stage in report.stages
        # A candidate that does not certify is shown only if the report is about it.
        if stage.name in MADE and (stage.name != "pick" or stage.examined is None)
    ]
    return [("Original", original(report)), *made]


def bundle_name(report: ScanReport) -> str:
    """Return the name of the folder that a gate wrote; empty if it wrote none, or no scan was of what it wrote."""
    scans = [stage.examined or report for stage in report.stages if stage.name in ("certify", "rescan")]
    if not scans or not report.verdict.status.passes:
        return ""
    return source_name(scans[-1].model.source).rpartition("/")[0]


def title(report: ScanReport) -> str:
    """Return the name of what the verdict is about: the model, or the bundle that was made from it."""
    bundle = bundle_name(report)
    return f"{bundle}, made from {model_name(report)}" if bundle else model_name(report)


def policy_name(report: ScanReport) -> str:
    """Return where the policy comes from, the same on every machine; two policies may have one name."""
    return plain(report.policy.place, 200) or source_name(report.policy.source)


def source_name(source: str) -> str:
    """Return a source without absolute folders."""
    source = source.replace("\\", "/")
    if source.startswith("/") or re.match("[A-Za-z]:/", source):
        source = source.rstrip("/").rpartition("/")[2]
    elif not re.match("[a-z][a-z_-]+:", source):
        source = posixpath.normpath(source)
    return plain(source, 200) or "model"


def fingerprints(report: ScanReport) -> list[str]:
    """Return an identity for each finding, in order, that stays the same for other runs and other weights.

    It depends on the comparison and the model's name alone, so that a retrained model opens no new alerts.
    """
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for finding in report.findings:
        comparison = (finding.rule, finding.comparison or finding.measurement or "")
        # In old reports without ids of comparisons, unmeasured ones differ in their order alone.
        identity = [*comparison, seen[comparison], model_name(report)]
        seen[comparison] += 1
        found.append(hashlib.sha256(json.dumps(identity).encode()).hexdigest())
    return found


def in_repository(place: SourceSpan | None) -> SourceSpan | None:
    """Return `place` with a normal, relative POSIX path; None if its file is not in a repository."""
    if place is None or place.file.startswith("builtin:") or not place.file:
        return None
    path = posixpath.normpath(place.file.replace("\\", "/"))
    if path.startswith(("/", "../")) or path in ("..", ".") or re.match("[A-Za-z]:", path):
        return None
    return place.model_copy(update={"file": path})


def place_of(report: ScanReport, finding: Finding) -> SourceSpan | None:
    """Return the place of the deciding limit or of the rule in the repository's policy; None if it is built in."""
    keys = [f"rules.{finding.rule}"]
    bound = deciding(finding)
    if bound is not None:
        keys.insert(0, f"{keys[0]}.{'max' if bound.upper else 'min'}.{bound.metric}")
    places = (in_repository(report.policy.origins.get(key)) for key in keys)
    return next((place for place in places if place is not None), None)


def some_place(report: ScanReport) -> SourceSpan | None:
    """Return the first line of a file of the repository that the report is about: the policy, or the model.

    None if both come from elsewhere.
    """
    model = report.subject or original(report).source
    if not re.search(r"\.[A-Za-z][A-Za-z0-9]*$", model) and not re.match("[a-z][a-z_-]+:", model):
        model = posixpath.join(model, "open_clip_config.json")
    files = (report.policy.place or report.policy.source, "" if ":" in model else model)
    places = (in_repository(SourceSpan(file=file, line=1, column=1, end_column=2)) for file in files)
    return next((place for place in places if place is not None), None)


def started(report: ScanReport) -> datetime:
    """Return when the run began, in UTC, to the second.

    Raises:
        InputError: the report has no valid time.
    """
    try:
        moment = datetime.fromisoformat(report.run.started)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"the start of the run in the report is not a time: '{plain(report.run.started, 40)}'",
            "give a report that pargate wrote",
        ) from error


def stages(report: ScanReport) -> Iterator[tuple[str, str]]:
    """Yield the name and the result of each stage of a gate."""
    for stage in report.stages:
        attempt = f" {stage.attempt}" if stage.attempt else ""
        yield f"{stage.name}{attempt}", f"{stage.summary} ({stage.seconds:.0f} s)"


def confidence(report: ScanReport) -> float:
    """Return the confidence of the applied policy, or 99% if the report gives none that is one."""
    given = re.fullmatch(r"(\d\d(?:\.\d{1,6})?)%", str(report.policy.document.get("confidence", "")))
    return max(0.5, float(given[1]) / 100) if given else 0.99


def policy_option(report: ScanReport) -> str:
    """Return the option that names the policy in a command; empty for the policy that is found anyway."""
    source = report.policy.place or report.policy.source
    name = source.removeprefix("builtin:")
    return "" if name in ("baseline", "pargate.yaml") else f" -p {shlex.quote(plain(name, 200))}"
