"""A report as one self-contained HTML page without scripts.

Names from models and policies are foreign text: every value passes `plain` and the template's escaping when it enters
the page. An image is embedded only if it decodes as base64 of a PNG.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from pargate.core.report import ModelInfo, ScanReport
from pargate.core.results import (
    TUNED,
    UNSAFE_FILE,
    Consequence,
    Finding,
    Metric,
    Outcome,
    Status,
)
from pargate.errors import InputError
from pargate.report.formats.base import FORMATS, Format
from pargate.report.groups import EFFECTS, grouped, png, tally
from pargate.report.steps import command_of, next_steps
from pargate.report.summary import sentence
from pargate.report.text import classes, models, plain, stages, started, title, unfit

if TYPE_CHECKING:
    from jinja2 import Environment


HEADLINES = {
    Outcome.PASS: "Pass",
    Outcome.REMEDIATED: "Remediated",
    Outcome.FAIL: "Fail",
    Outcome.INCONCLUSIVE: "Inconclusive",
}


HERO = 2
"""Pairs of pictures beside the verdict; the others have a section of their own."""


@dataclass(frozen=True, slots=True)
class Example:
    """An image without and with a trigger, as base64 of PNG."""

    trigger: str
    label: str
    clean: str
    stamped: str
    before: str
    after: str


def render(report: ScanReport) -> str:
    """Return the page of a report."""
    groups, said = grouped(report), sentence(report)
    # An image that is named wrong without the trigger too shows less well what the trigger does.
    examples = sorted(_examples(report), key=lambda e: e.label != e.before)
    hero = min(HERO, sum(e.label == e.before for e in examples) or HERO)
    return page(
        "report.html.j2",
        report=report,
        name=title(report),
        status=str(report.verdict.status),
        unfit=unfit(report),
        digests=[(name, model.sha256[:12]) for name, model in models(report)],
        classes=classes(report),
        headline=HEADLINES[report.verdict.status],
        meaning=_meaning(report),
        steps=tuple(map(command_of, next_steps(report))),
        stages=tuple(stages(report)),
        tally=tally(report.findings),
        started=_moment(report),
        confidence=str(report.policy.document.get("confidence", "not stated")),
        groups=groups,
        charts=any(c.bars for group in groups for c in group.shown),
        met=sum(len(group.met) for group in groups),
        waived=[(group, c) for group in groups for c in group.shown if c.waiver is not None],
        sentence=said,
        detail="" if said == plain(report.verdict.summary) else report.verdict.summary,
        hero=examples[:hero],
        examples=examples[hero:],
        effects=EFFECTS if report.verdict.status is Outcome.FAIL else {**EFFECTS, Consequence.FAIL: "prevents a pass"},
        provenance=tuple(_provenance(report)),
        origins=[(path, f"{p.file}:{p.line}:{p.column}") for path, p in sorted(report.policy.origins.items())],
        document=tuple(_indented(report.policy.document)),
    )


def page(template: str, **values: Any) -> str:
    """Return a filled template; each value is made plain and escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> "Environment":
    """Return the template engine; it is cached, because compiling templates takes longer than filling them."""
    # Other formats do not need the engine.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("pargate", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _shown(value: Any) -> Any:
    """Return text made plain; markup of the template, and images, stay unchanged."""
    return plain(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _moment(report: ScanReport) -> str:
    try:
        return started(report).strftime("%Y-%m-%d %H:%M UTC")
    except InputError:
        return report.run.started


def _meaning(report: ScanReport) -> str:
    breaches = [f for f in report.findings if f.status is Status.BREACH and f.consequence is Consequence.FAIL]
    match report.verdict.status:
        case _ if unfit(report):
            return (
                "Nothing is known about this model: nothing shows that it recognises the images. This is not a pass: "
                "treat the model as not examined."
            )
        case Outcome.PASS:
            apart = sum(f.status is not Status.MET for f in report.findings)
            but = (
                f", but for {apart} that a waiver or the policy lets pass and that the rules below show"
                if apart
                else ""
            )
            return (
                f"Within the stated confidence, every comparison kept its limit on these images{but}. This is evidence "
                "only about what was probed."
            )
        case Outcome.REMEDIATED:
            return (
                "The original breaks the policy, and its files are as they were. A copy was cleaned by a procedure "
                "that does not use the triggers, and what ships was then scanned on held-out images. This is evidence "
                "only about what was probed."
            )
        case Outcome.INCONCLUSIVE if any(stage.name == "clean" for stage in report.stages):
            return (
                "The original breaks the policy: do not ship it. A copy was cleaned, and it is not shown that the copy "
                "keeps everything that the policy asks for, so no bundle was written. See the sentence above."
            )
        case Outcome.INCONCLUSIVE:
            met = sum(f.status is Status.MET for f in report.findings)
            beside = ""
            if met == len(report.findings) > 0:
                beside = (
                    f" All {met} comparisons of the last scan are met, but the verdict is about more: see the sentence "
                    "above."
                )
            elif met:
                beside = (
                    f" {met} of {len(report.findings)} comparisons are met, but a pass needs all of them: one that is "
                    "not decided may hide a backdoor."
                )
            return (
                "The scan shows neither that every limit holds nor that one is broken. This is not a pass: treat the "
                f"model as not examined.{beside}"
            )
        case Outcome.FAIL:
            if any(f.rule == UNSAFE_FILE for f in report.findings):
                return "The file was refused before the model was run, so nothing about its behaviour was measured."
            if _over(report, breaches, "control"):
                return (
                    "Someone who adds the pattern to an image can steer this model to one class, far more often than "
                    "a comparable harmless pattern does: it behaves like a model with a backdoor. This scan cannot "
                    "show whether that was planted or arose by itself."
                )
            if _over(report, breaches, "reference"):
                return (
                    "Under the same pattern this model is steered to one class far more often than its reference: it "
                    "behaves like a model with a backdoor that the reference does not have."
                )
            if _over(report, breaches, TUNED):
                return (
                    "A search found a pattern that steers this model to one class, and a short fine-tuning on clean "
                    "pairs undoes much of that. Planted pull falls so; natural pull stays."
                )
            if breaches:
                return "The model breaks limits of the policy."
            return "No limit was shown to be broken, but the policy also fails what is not decided or not in order."


def _over(report: ScanReport, findings: Sequence[Finding], baseline: str) -> bool:
    """Return whether these findings break a limit of the excess over such a baseline."""
    pairs = {m.id: m.pairs.baseline for m in report.measurements if m.pairs is not None}
    return any(
        pairs.get(f.measurement or "", "").startswith(baseline)
        and any(b.metric == Metric.EXCESS and b.status is Status.BREACH for b in f.bounds)
        for f in findings
    )


def _examples(report: ScanReport) -> Iterator[Example]:
    labels = {m.id: m.trigger.label for m in report.measurements if m.trigger is not None}
    for picture in report.pictures:
        clean, stamped = png(picture.clean), png(picture.stamped)
        if clean and stamped:
            yield Example(
                trigger=labels.get(picture.measurement, picture.measurement),
                label=picture.label,
                clean=clean,
                stamped=stamped,
                before=picture.clean_prediction,
                after=picture.stamped_prediction,
            )


def _indented(document: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Yield the lines of a document with their depth, since HTML drops leading spaces."""
    for line in json.dumps(document, indent=1, ensure_ascii=False).split("\n"):
        yield len(line) - len(line.lstrip(" ")), line


def _provenance(report: ScanReport) -> Iterator[tuple[str, tuple[tuple[str, str], ...]]]:
    run, images, classes, policy = report.run, report.images, report.classes, report.policy
    for name, model in models(report):
        yield name, _model(model)
    if report.reference is not None:
        yield "Reference model", _model(report.reference)
    unreadable = [("Could not be read", f"{key}: {reason}") for key, reason in images.unreadable[:20]]
    if len(images.unreadable) > 20:
        unreadable.append(("Could not be read", f"and {len(images.unreadable) - 20} more"))
    yield (
        "Images",
        _rows(
            ("Source", images.source),
            ("Read", f"{images.read} of {images.listed} listed"),
            ("Labelled", str(images.labelled)),
            ("With captions", str(images.captioned)),
            ("Duplicates", str(images.duplicates)),
            ("Digest", _digest(images.digest)),
            *unreadable,
        ),
    )
    yield (
        "Classes",
        _rows(
            ("Source", classes.source),
            ("Count", str(classes.count)),
            ("Templates", " · ".join(classes.templates)),
            ("Digest", _digest(classes.digest)),
        ),
    )
    yield "Policy", _rows(("Name", policy.name), ("Source", policy.source), ("Digest", _digest(policy.sha256)))
    yield (
        "Run",
        _rows(
            ("Id", run.id),
            ("Started", run.started),
            ("Took", f"{run.seconds:.1f} s"),
            ("Complete", "yes" if run.complete else "no, it was interrupted"),
            ("Machine", run.host),
            ("Device", run.device),
            ("Precision", f"{run.precision} ({run.precision_note})" if run.precision_note else run.precision),
            ("Threads", str(run.threads)),
            ("Seed", str(run.seed)),
            ("Forward passes", f"{run.forward_passes:,}"),
            ("Cache", run.cache),
        ),
    )
    yield "Tool", _rows(("pargate", report.tool.version), *sorted(report.tool.libraries.items()))


def _model(model: ModelInfo) -> tuple[tuple[str, str], ...]:
    height, width = model.image_size
    activation = f"{model.activation} ({model.activation_note})" if model.activation_note else model.activation
    return _rows(
        ("Source", model.source),
        ("Digest", _digest(model.sha256)),
        ("Format", model.format),
        ("Architecture", model.architecture),
        ("Parameters", f"{model.parameters:,}" if model.parameters else ""),
        ("Size", f"{model.size_bytes:,} bytes"),
        ("Image size", f"{height} × {width} pixels" if height and width else ""),
        ("Preprocessing", json.dumps(model.preprocessing, ensure_ascii=False) if model.preprocessing else ""),
        ("Activation", activation),
        ("Backend", model.backend),
    )


def _digest(text: str) -> str:
    return f"sha256:{text}" if text else ""


def _rows(*rows: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the rows that are not empty."""
    return tuple(row for row in rows if row[1])


FORMATS.add("html")(Format(render, "report.html", "text/html"))
