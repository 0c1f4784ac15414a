"""What to do after a verdict, for every report and screen."""

import shlex
from collections.abc import Iterator, Sequence

from pargate.core.paired import needed
from pargate.core.report import ScanReport
from pargate.core.results import (
    BUDGET,
    CLASS_NAME,
    NO_REFERENCE,
    UNSAFE_FILE,
    Consequence,
    Finding,
    Measurement,
    Metric,
    Outcome,
    Status,
)
from pargate.core.splits import total
from pargate.report.text import (
    SEARCHES,
    bundle_name,
    by_id,
    confidence,
    original,
    percent,
    plain,
    plural,
    policy_option,
    unfit,
)

MOST_IMAGES = 1_000_000
"""Images that nobody is asked for."""
MOST_FALL = 0.99
"""Largest fall of accuracy for which images are counted."""


def next_steps(report: ScanReport, folder: str = "") -> Iterator[str]:
    """Yield what to do after this verdict; `folder` is that of the bundle, if it is known better than by its name."""
    yield from _after_cleaning(report)
    bundle = folder or bundle_name(report)
    if bundle:
        model = plain(original(report).source)
        if wrong := ", ".join(_broken_by_original(report)):
            yield f"Ship the folder {plain(bundle)}, and not {model}, which is as it was and breaks {wrong}."
        else:
            yield f"Ship the folder {plain(bundle)}: its bytes are what was measured."
        yield f"Check it offline: pargate verify {shlex.quote(plain(bundle))}"
    match report.verdict.status:
        case _ if unfit(report):
            model = plain(original(report).source)
            yield (
                "Give images of the model's own domain with labels (class folders, or a table, tars or Parquet with "
                f"labels) or captions, and its classes: pargate scan {model} --images SOURCE --classes FILE"
            )
            if any(m.chance is not None or m.counts.get(Metric.RECALL) for m in report.measurements):  # it was tested
                yield (
                    "If these are such images, the classes, the architecture or the preprocessing is wrong: "
                    f"pargate inspect {model}"
                )
        case Outcome.PASS | Outcome.REMEDIATED:
            comparisons = plural(len(report.findings), "comparison")
            triggers = plural(len(report.coverage.probed), "trigger")
            yield f"This covers {triggers}, in {comparisons} on these images, and no others: see what was not probed."
            if any(m.stopped == NO_REFERENCE for m in report.measurements):
                yield (
                    "A secret pattern follows no published trigger; a search for it needs a trusted parent: "
                    f"pargate scan {shlex.quote(plain(original(report).source))} --reference PARENT"
                    f"{policy_option(report)}"
                )
        case Outcome.FAIL if any(f.rule == UNSAFE_FILE for f in report.findings):
            yield "Do not load this file; ask its author for safetensors or ONNX."
        case Outcome.FAIL if report.signature is not None and report.signature.problem and not report.coverage.probed:
            yield "Do not use this model: get it, with its signature, from the signer that the policy names."
            rule = shlex.quote(plain(next(iter(report.verdict.decided_by), "fail"), 100))
            yield f"Read what it means: pargate explain {rule}{policy_option(report)}"
        case Outcome.FAIL if any(f.status is Status.BREACH for f in report.findings):
            model = shlex.quote(plain(original(report).source))
            yield "Do not ship this checkpoint; go back to one whose scan passes, or clean it and scan again."
            rule = shlex.quote(plain(next(iter(report.verdict.decided_by), "fail"), 100))
            yield f"Read what it means: pargate explain {rule}{policy_option(report)}"
            if not report.stages:
                yield f"Clean it: pargate clean {model} --pairs PAIRS --out CLEANED"
            measurements = by_id(report)
            broken = [measurements.get(f.measurement or "") for f in report.findings if f.status is Status.BREACH]
            if all(m is not None and m.probe == "utility" for m in broken):
                yield "First check that the images and classes are of the model's own domain: --images, --classes."
            if any(m is not None and m.probe == "search" for m in broken):
                yield (
                    "Keep and share the found trigger: scan with --found DIR, then "
                    "pargate pack create DIR --license ID --out PACK"
                )
            if report.reference is None and any(
                _over_control(f, measurements.get(f.measurement or "")) for f in report.findings
            ):
                yield _trusted_parent(report)
        case _ if not report.run.complete:
            yield "Run again: it resumes from the cache."
        case _ if any(m.stopped == "budget" for m in report.measurements):
            yield "Give it more: --max-minutes, or `budget` in the policy."
        case _ if any(
            b.metric == Metric.P_VALUE and b.status is Status.OPEN for f in report.findings for b in f.bounds
        ):
            yield "Give a trusted parent with --reference, or calibrate more trusted models of this architecture."
        case _ if BUDGET in report.verdict.decided_by:
            pass  # said above
        case _ if undecided := [f for f in report.findings if f.status is Status.OPEN]:
            yield from _after_open(report, undecided)
        case _:
            yield "See the remarks: what makes this verdict is not a measurement."


def command_of(step: str) -> tuple[str, str]:
    """Return the text of a next step and its command; either may be empty."""
    text, colon, command = step.rpartition(": pargate ")
    if colon:
        return f"{text}:", f"pargate {command}"
    return ("", step) if step.startswith("pargate ") else (step, "")


def _broken_by_original(report: ScanReport) -> list[str]:
    """Return the rules that the model as given breaks, in a gate that cleaned it."""
    first = report.stages[0].examined if report.stages else None
    found = first.findings if first is not None else ()
    return list(dict.fromkeys(f.rule for f in found if f.status is Status.BREACH and f.consequence is Consequence.FAIL))


def _after_cleaning(report: ScanReport) -> Iterator[str]:
    """Yield what to do after a gate that cleaned, and whose verdict is not about a single scan."""
    attempts = max((stage.attempt for stage in report.stages), default=0)
    found = next((stage.drop for stage in reversed(report.stages) if stage.drop is not None), None)
    if not attempts or report.verdict.status.passes:
        return
    model = plain(original(report).source)
    if report.verdict.status is Outcome.INCONCLUSIVE:
        yield f"Do not ship {model}: it breaks {', '.join(_broken_by_original(report)) or 'the policy'}."
    again = f"pargate gate {shlex.quote(model)}{policy_option(report)} --images IMAGES --pairs PAIRS --out DIR"
    if found is None or BUDGET not in report.verdict.decided_by:
        if report.verdict.status is Outcome.FAIL and report.stages[-1].name == "pick":
            yield (
                f"Go back to a checkpoint whose scan passes, or allow more than {plural(attempts, 'attempt')} "
                f"(clean.attempts, at most 4), or clean with other image-text pairs: {again}"
            )
        return
    pairs, fall = found.pairs, max(found.pairs.excess or 0.0, 0.0)
    budget = plain(found.limit_text, 20)
    room = min(found.limit, MOST_FALL) - fall
    changed = max(pairs.trigger_only + pairs.baseline_only, 1) / max(pairs.n, 1)
    wanted = needed(room, confidence(report), changed) if room > 0 else MOST_IMAGES
    if not pairs.n:
        yield f"Give labelled images: without labels no accuracy can be compared: {again}"
    elif found.status is Status.BREACH or wanted >= MOST_IMAGES:
        yield (
            f"Cleaning lost {percent(fall)} of accuracy, and {budget} may be lost. Raise clean.budget.accuracy_drop "
            f"openly, or clean with more or other image-text pairs: {again}"
        )
    else:
        yield (
            f"Give about {total(wanted):,} labelled images in all, of which {wanted:,} certify. If accuracy fell by "
            f"{percent(fall)}, as it seems, that shows that {budget} was kept: {again}"
        )
        yield "Or let such a model ship with a warning: `clean.budget.undecided: warn` in the policy."


def _after_open(report: ScanReport, undecided: Sequence[Finding]) -> Iterator[str]:
    """Yield what would decide open findings."""
    measurements = by_id(report)
    measured = [measurements.get(finding.measurement or "") for finding in undecided]
    waiting = [_needs_reference(f, m) for f, m in zip(undecided, measured, strict=True)]
    if any(waiting):
        yield _trusted_parent(report)
    unable = [m.stopped if m is not None and m.probe in SEARCHES and not m.counts else "" for m in measured]
    yield from (f"{why[0].upper()}{plain(why)[1:]}." for why in dict.fromkeys(filter(None, unable)))
    if not all(needs or why for needs, why in zip(waiting, unable, strict=True)):
        yield "Give more, labelled images of the model's own domain: --images SOURCE --classes FILE"


def _trusted_parent(report: ScanReport) -> str:
    return (
        "Whether a pull is planted or natural needs a trusted parent: "
        f"pargate scan {shlex.quote(plain(original(report).source))} --reference PARENT{policy_option(report)}"
    )


def _needs_reference(finding: Finding, measurement: Measurement | None) -> bool:
    """Return whether an open finding waits for a trusted model, so that more images would not decide it."""
    bound = next((b for b in finding.bounds if b.metric == Metric.EXCESS and b.status is Status.OPEN and b.n), None)
    if measurement is None or bound is None:
        return False
    success = measurement.counts.get(str(Metric.ATTACK_SUCCESS))
    if success is None or (success.rate or 0.0) <= bound.limit:
        return False
    pairs, target = measurement.pairs, measurement.target
    if pairs is None:
        return measurement.probe == "search"
    shared = pairs.baseline.startswith("control") and target is not None and pairs.target == target.name
    return shared or pairs.baseline == CLASS_NAME or pairs.over_copy


def _over_control(finding: Finding, measurement: Measurement | None) -> bool:
    broken = any(b.metric == Metric.EXCESS and b.status is Status.BREACH for b in finding.bounds)
    pairs = measurement.pairs if measurement else None
    return broken and pairs is not None and pairs.baseline.startswith("control")
