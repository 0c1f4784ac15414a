"""The model card of a bundle: Markdown for people, and front matter for a model hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from pargate.core.provenance import Subject
from pargate.core.report import ScanReport
from pargate.core.results import Measurement, Metric
from pargate.models.transformers_folder import WEIGHTS
from pargate.release.bundle import MODEL, SUMS, last_moment
from pargate.report.text import original

_FOREIGN = re.compile(r"[^\w .,:;/@%+=()'-]")


def card(report: ScanReport, subjects: Sequence[Subject], max_age_days: int | None) -> str:
    """Return the model card as Markdown."""
    model, policy = report.model, report.policy
    source = original(report)
    until = "" if max_age_days is None else f" The measurements are valid until {last_moment(report, max_age_days)}."
    steps = [
        f"| {s.name}{f' {s.attempt}' if s.attempt else ''} | {_plain(s.summary)} | {s.seconds:.0f} s |"
        for s in report.stages
    ]
    files = [f"| `{_plain(subject.name)}` | `{subject.sha256}` |" for subject in subjects]
    graphs = any(subject.name.startswith("onnx/") for subject in subjects)
    use = (
        "`onnx/example.py IMAGE` classifies an image with numpy, onnxruntime, Pillow and tokenizers alone. "
        if graphs
        else ""
    )
    lines = [
        *_front_matter(report, _library(subjects)),
        "",
        f"# {_plain(Path(source.source).name or source.source)}",
        "",
        f"**{report.verdict.status.upper()}** under the policy {_plain(policy.name)}: {_plain(report.verdict.summary)}",
        "",
        f"Made from {_plain(source.source)} (SHA-256 `{source.sha256}`), {_plain(model.architecture)}, "
        f"{model.parameters / 1e6:.1f} M parameters. Measured {report.run.started} by pargate {report.tool.version}."
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
        f"Probed were {_plain(', '.join(report.coverage.probed)) or 'no triggers'}. This is evidence about these "
        "triggers on these images, and not that there is no backdoor.",
        "",
        *(f"- {_plain(limit)}" for limit in report.coverage.limits),
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

    source = original(report).source

    def result(kind: str, name: str, rate: float) -> EvalResult:
        return EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type=re.sub(r"[^A-Za-z0-9._/-]+", "-", report.images.source)[-100:] or "images",
            dataset_name=_plain(report.images.source)[-100:] or "images",
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
            found = (success, _plain(measurement.trigger.label))
            worst[measurement.rule] = max(worst.get(measurement.rule, found), found)
    for rule, (rate, trigger) in worst.items():
        results.append(result("attack_success_rate", f"Highest attack success of {_plain(rule)} ({trigger})", rate))
    card = ModelCardData(
        model_name=_plain(Path(source).name or source),
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


def _plain(text: str) -> str:
    """Return foreign text as one line without Markdown syntax."""
    return " ".join(_FOREIGN.sub(" ", text.replace("`", "")).split())[:600]
