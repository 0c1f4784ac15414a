"""The model card of a bundle: Markdown for people, and front matter for a model hub."""

import re
from collections.abc import Sequence

from pargate.core.provenance import Subject
from pargate.core.report import ScanReport
from pargate.core.results import Measurement, Metric
from pargate.models.transformers_folder import WEIGHTS
from pargate.release.bundle import MODEL, SUMS, last_moment
from pargate.report.formats.markdown import escape
from pargate.report.text import bundle_name, original, plain, source_name


def card(report: ScanReport, subjects: Sequence[Subject], max_age_days: int | None) -> str:
    """Return the model card as Markdown."""
    policy, source = report.policy, original(report)
    probed = escape(", ".join(report.coverage.probed), 10_000) or "no triggers"
    until = "" if max_age_days is None else f" The measurements are valid until {last_moment(report, max_age_days)}."
    steps = [
        f"| {s.name}{f' {s.attempt}' if s.attempt else ''} | {escape(s.summary)} | {s.seconds:.0f} s |"
        for s in report.stages
    ]
    files = [f"| {escape(subject.name)} | `{subject.sha256}` |" for subject in subjects]
    graphs = any(subject.name.startswith("onnx/") for subject in subjects)
    use = (
        "`onnx/example.py IMAGE` classifies an image with numpy, onnxruntime, Pillow and tokenizers alone. "
        if graphs
        else ""
    )
    lines = [
        *_front_matter(report, _library(subjects)),
        "",
        f"# {escape(_name(report))}",
        "",
        f"**{report.verdict.status.upper()}** under the policy {escape(policy.name)}: {escape(report.verdict.summary)}",
        "",
        f"Made from {escape(source_name(source.source))} (SHA-256 `{source.sha256}`), {escape(source.architecture)}, "
        f"{source.parameters / 1e6:.1f} M parameters. Measured {report.run.started} by pargate {report.tool.version}."
        f"{until}",
        "",
        f"{use}`model/` is a folder of {_library(subjects)}.",
        "",
        "## What was done",
        "",
        "| stage | result | took |",
        "|---|---|--:|",
        *steps,
        "",
        "## What this cannot show",
        "",
        f"Probed were {probed}. This is evidence about these triggers on these images, and not that there is no "
        "backdoor.",
        "",
        *(f"- {escape(limit)}" for limit in report.coverage.limits),
        "",
        "## Check it",
        "",
        "```sh",
        "pargate verify .              # offline, without torch",
        f"sha256sum --check {SUMS}   # the bytes alone",
        "```",
        "",
        "| file | SHA-256 |",
        "|---|---|",
        *files,
        "",
    ]
    return "\n".join(lines)


def _library(subjects: Sequence[Subject]) -> str:
    """Return the library that reads the checkpoint."""
    return "transformers" if any(subject.name == f"{MODEL}/{WEIGHTS[0]}" for subject in subjects) else "open_clip"


def _front_matter(report: ScanReport, library: str) -> list[str]:
    """Return the lines that a hub reads: kind of model, and results of the last scan as `model-index`."""
    from huggingface_hub import EvalResult, ModelCardData

    images = _base(report.images.source)

    def result(kind: str, name: str, rate: float) -> EvalResult:
        return EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type=re.sub(r"[^A-Za-z0-9._/-]+", "-", images) or "images",
            dataset_name=images or "images",
            metric_type=kind,
            metric_name=name,
            metric_value=rate,
        )

    results = []
    worst: dict[str, tuple[float, str]] = {}
    for measurement in report.measurements:
        accuracy, success = _rate(measurement, Metric.ACCURACY), _rate(measurement, Metric.ATTACK_SUCCESS)
        if measurement.trigger is None and accuracy is not None:
            results.append(result("accuracy", "Accuracy without a trigger", accuracy))
        if measurement.trigger is not None and success is not None:
            found = (success, plain(measurement.trigger.label, 200))
            worst[measurement.rule] = max(worst.get(measurement.rule, found), found)
    for rule, (rate, trigger) in worst.items():
        results.append(result("attack_success_rate", f"Highest attack success of {plain(rule, 200)} ({trigger})", rate))
    card = ModelCardData(
        model_name=_name(report),
        pipeline_tag="zero-shot-image-classification",
        library_name=library,
        tags=["clip", "pargate", f"pargate-{report.verdict.status}"],
        eval_results=results or None,
    )
    return ["---", *card.to_yaml().splitlines(), "---"]


def _rate(measurement: Measurement, metric: Metric) -> float | None:
    """Return the rate of a count to four digits, or None if it was not measured."""
    count = measurement.counts.get(str(metric))
    return None if count is None or count.rate is None else round(count.rate, 4)


def _name(report: ScanReport) -> str:
    """Return the name of the bundle, or of the model if no scan was of the bundle."""
    return bundle_name(report) or _base(original(report).source)


def _base(source: str) -> str:
    """Return the last part of a source, without the folders of the machine that measured."""
    return source_name(source).rpartition("/")[2][-100:]
