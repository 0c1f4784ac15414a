"""A report as a machine-learning bill of materials: CycloneDX 1.6, JSON.

cyclonedx-python-lib has no types for the model card, so it is added to the JSON of the library. In a model card all
numbers are strings. The library is imported late, because it takes long to load.
"""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from pargate.core.report import ModelInfo, ScanReport
from pargate.core.results import Measurement, Metric
from pargate.errors import visible_json
from pargate.report import text as texts
from pargate.report.formats.base import FORMATS, Format

if TYPE_CHECKING:
    from cyclonedx.model.component import Component, Pedigree

TYPES: dict[str, str] = {
    Metric.ATTACK_SUCCESS: "attack-success-rate",
    Metric.EXCESS: "attack-success-rate-excess",
    Metric.ACCURACY: "accuracy",
    Metric.RECALL: "recall",
}
"""Names of the metrics in a model card."""


def render(report: ScanReport) -> str:
    """Return CycloneDX 1.6 as JSON, equal for equal reports.

    Raises:
        InputError: the start of the run is not a time.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output.json import JsonV1Dot6

    pargate = Component(
        type=ComponentType.APPLICATION, name="pargate", version=texts.plain(report.tool.version), bom_ref="pargate"
    )
    bom = Bom(
        serial_number=uuid5(NAMESPACE_URL, f"pargate:run:{report.run.id}"),
        metadata=BomMetaData(
            timestamp=texts.started(report), tools=ToolRepository(components=[pargate]), component=_component(report)
        ),
    )
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"]["component"]["modelCard"] = _model_card(report)
    return visible_json(json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True)) + "\n"


def _component(report: ScanReport) -> "Component":
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    # A refused file may have no digest.
    digest = report.model.sha256 if re.fullmatch("[0-9a-f]{64}", report.model.sha256) else ""
    hub = re.fullmatch(r"hf-hub:(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)(@(?P<revision>[\w.-]+))?", report.model.source)
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=texts.source_name(report.model.source),
        bom_ref="model",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else [],
        pedigree=_pedigree(report),
        purl=PackageURL("huggingface", hub["owner"], hub["name"], hub["revision"]) if hub else None,
        properties=[
            Property(name=f"pargate:{name}", value=texts.plain(value)) for name, value in _properties(report) if value
        ],
    )


def _pedigree(report: ScanReport) -> "Pedigree | None":
    """Return the ancestors of a cleaned or exported model, the nearest first."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType, Pedigree

    parents = [(s.record.activity, s.record.inputs[0]) for s in report.stages if s.record is not None]
    if not parents:
        return None
    # The library sorts them by name, so the name begins with a number.
    return Pedigree(
        ancestors=[
            Component(
                type=ComponentType.MACHINE_LEARNING_MODEL,
                name=f"{number}: {texts.plain(parent.name)}, before {activity}",
                bom_ref=f"ancestor-{number}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=parent.sha256)],
            )
            for number, (activity, parent) in enumerate(reversed(parents), start=1)
        ]
    )


def _properties(report: ScanReport) -> Iterator[tuple[str, str]]:
    model, run = report.model, report.run
    yield "verdict", report.verdict.status
    yield "summary", report.verdict.summary
    yield "run", run.id
    yield "complete", str(run.complete).lower()
    yield "seed", str(run.seed)
    yield "device", run.device
    yield "precision", run.precision
    yield "policy", report.policy.name
    yield "policy:sha256", report.policy.sha256
    yield "source", model.source
    yield "format", model.format
    yield "size-bytes", str(model.size_bytes)
    yield "parameters", str(model.parameters or "")
    yield "activation", model.activation
    yield "images", report.images.source
    yield "images:sha256", report.images.digest
    yield "classes", report.classes.source
    yield "classes:sha256", report.classes.digest
    if report.reference is not None:
        yield "reference", report.reference.source
        yield "reference:sha256", report.reference.sha256
    for library, version in report.tool.libraries.items():
        yield f"library:{texts.plain(library)}", version
    for finding in report.findings:
        yield "finding", f"{finding.status}: {texts.headline(finding)}"


def _model_card(report: ScanReport) -> dict[str, Any]:
    card: dict[str, Any] = {"modelParameters": _parameters(report.model)}
    metrics = [*_metrics(report)]
    if metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    if report.coverage.limits:
        card["considerations"] = {"technicalLimitations": [texts.plain(limit) for limit in report.coverage.limits]}
    return card


def _parameters(model: ModelInfo) -> dict[str, Any]:
    if not model.architecture:
        return {}
    height, width = model.image_size
    return {
        "task": "zero-shot image classification",
        "modelArchitecture": texts.plain(model.architecture),
        "inputs": [{"format": f"RGB image, {height}×{width} px"}, {"format": "text"}],
        "outputs": [{"format": "vector"}],
    }


def _metrics(report: ScanReport) -> Iterator[dict[str, Any]]:
    """Yield each measured metric, with the interval that a rule was judged by."""
    bounds = {(f.measurement, b.metric): b for f in report.findings for b in f.bounds if b.against == "limit"}
    for measurement in report.measurements:
        part = texts.subject(measurement)
        if measurement.trigger is not None:  # one trigger may have several measurements
            part = texts.plain(f"{part}, {measurement.id}", 400)
        others = {metric for id, metric in bounds if id == measurement.id} - TYPES.keys()
        for metric in (*TYPES, *sorted(others)):
            value = _value(measurement, metric)
            if value is None:
                continue
            name = TYPES.get(metric) or texts.plain(metric.replace("_", "-"))
            entry: dict[str, Any] = {"type": name, "value": _number(value), "slice": part}
            bound = bounds.get((measurement.id, metric))
            if bound is not None and bound.n:
                entry["confidenceInterval"] = {"lowerBound": _number(bound.low), "upperBound": _number(bound.high)}
            yield entry


def _value(measurement: Measurement, metric: str) -> float | None:
    if metric == Metric.EXCESS:
        return measurement.pairs.excess if measurement.pairs else None
    count = measurement.counts.get(metric)
    return count.rate if count else None


def _number(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


FORMATS.add("ml-bom")(Format(render, "report.cdx.json", "application/vnd.cyclonedx+json"))
