import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from pargate.core.report import (
    SCHEMA,
    ClassesInfo,
    Coverage,
    ImagesInfo,
    ModelInfo,
    PolicyInfo,
    Run,
    ScanReport,
    Tool,
)
from pargate.core.results import Count, Measurement, Outcome, PairedCounts, Target, TriggerInfo
from pargate.judge.judge import judge
from pargate.policy.resolve import read
from pargate.policy.schema import Policy
from pargate.report import FORMATS
from pargate.report import schema as schema_module
from pargate.triggers import parse

GOLDEN = Path(__file__).parents[1] / "golden" / "report_v1.json"
"""A report of the first schema version. It must load for ever; rewrite it with PARGATE_REWRITE_GOLDEN=1 only while
that version was never released."""

POLICY = """\
pargate: 1
name: golden
description: one of each
images: {source: 'builtin:scenes', min: 10}
classes: {names: [dog, banana, school bus], templates: ['a photo of a {}.']}
confidence: 99.9%
budget: {minutes: 2.5, images: 4000}
rules:
  - id: patches
    probe: attack
    triggers: [badnet, {kind: sig, delta: [12, 24]}]
    max: {excess: 30pp, attack_success: 50%}
    severity: critical
    why: Because.
  - {id: words, probe: retrieval, triggers: [{kind: watermark, name: 'a/b'}], target: [banana], max: {excess: 10pp}}
  - {id: useful, probe: utility, min: {accuracy: 1.5x chance, recall: 5%}}
on_inconclusive: fail
"""


def measured(id: str, rule: str, spec: Any, probe: str = "attack", **more: Any) -> Measurement:
    trigger = parse(spec)[0]
    return Measurement(
        id=id,
        rule=rule,
        probe=probe,
        trigger=TriggerInfo(
            label=trigger.label, kind=trigger.kind, parameters=trigger.parameters, digest=trigger.digest
        ),
        **more,
    )


def report() -> ScanReport:
    """A report in which every field says something."""
    resolved = read(POLICY, "golden.yaml", Path())
    measurements = (
        Measurement(
            id="clean", rule="", probe="utility", chance=1 / 3, stopped="decided",
            counts={
                "accuracy": Count(n=500, successes=400),
                "recall": Count(n=500, successes=77),
                "top_class": Count(n=512, successes=190),
            },
            excluded={"vector not finite": 1},
        ),
        measured(
            "patches/badnet/unknown", "patches", "badnet",
            target=Target(name="banana", given=False, selection_n=128, selection_gain=0.875),
            counts={
                "attack_success": Count(n=300, successes=270),
                "asr_nt": Count(n=310, successes=280),
                "asr_all": Count(n=384, successes=340),
                "base": Count(n=310, successes=10),
            },
            pairs=PairedCounts(baseline="control:flat", target="dog", n=290, both=2, trigger_only=258, baseline_only=3),
            selection={"attack_success": Count(n=100, successes=90)},
            forward_passes=1024,
            stopped="decided",
            excluded={"shows the target": 74, "hits the target without the trigger": 10},
            examples=("0" * 64, "f" * 64),
        ),
        measured(
            "patches/sig/unknown", "patches", "sig", stopped="budget",
            target=Target(name="school bus", given=False, selection_n=128, selection_gain=-0.015625),
            counts={"attack_success": Count(n=60, successes=1)},
        ),
        measured("words/a/b/banana/image-to-text", "words", {"kind": "watermark", "name": "a/b"}, "retrieval"),
    )  # fmt: skip
    findings, verdict, _ = judge(resolved.policy, measurements, complete=False)
    model = ModelInfo(
        source="./model", sha256="a" * 64, format="safetensors", architecture="ViT-B-32", parameters=151_277_313,
        size_bytes=605_000_000, image_size=(224, 224), activation="quick_gelu", backend="open_clip 3.3.0",
        activation_note="quick_gelu: nothing says which",
        preprocessing={"size": [224, 224], "mean": [0.48, 0.46, 0.41], "resize": "shortest", "fill": 0},
    )  # fmt: skip
    return ScanReport(
        schema=SCHEMA,
        tool=Tool(version="0.1.0", libraries={"torch": "2.11.0", "numpy": "2.1.0"}),
        run=Run(
            id="0123456789abcdef", started="2026-01-31T23:59:59+00:00", seconds=12.345,
            host="Linux x86_64, 2 processors", device="cpu",
            precision="bf16", precision_note="bf16: 1.5 times the rate of fp32 here", threads=2, seed=7,
            complete=False, forward_passes=4096, cache="3 of 9 blocks from /cache",
        ),
        model=model,
        reference=model.model_copy(update={"source": "./parent", "sha256": "b" * 64}),
        images=ImagesInfo(
            source="val-{000..003}.tar", listed=4000, read=511, labelled=3999, captioned=4000,
            unreadable=(("a/1.jpg", "truncated"), ("b/ü.png", "cannot identify the image format")),
            duplicates=1, digest="c" * 64,
        ),
        classes=ClassesInfo(source="policy golden", count=3, templates=("a photo of a {}.",), digest="d" * 64),
        policy=PolicyInfo(
            name="golden", source="golden.yaml", sha256=resolved.sha256,
            document=resolved.policy.model_dump(mode="json"),
        ),
        measurements=measurements,
        findings=tuple(findings),
        verdict=verdict,
        coverage=Coverage(probed=("badnet", "sig"), limits=("Triggers in captions: only image triggers were probed.",)),
        notices=("not among the classes, added as targets: banana.",),
    )  # fmt: skip


def test_reading_back_what_was_written_gives_an_equal_report() -> None:
    before = report()
    after = ScanReport.from_json(before.to_json())
    assert after == before
    assert after.to_json() == before.to_json()


def test_a_report_is_read_from_bytes_as_well() -> None:
    assert ScanReport.from_json(report().to_json().encode()) == report()


def test_a_report_is_indented_json_that_ends_with_a_line_break() -> None:
    text = report().to_json()
    assert text.startswith('{\n "schema": "pargate/report/1",\n') and text.endswith("}\n")
    assert json.loads(text)["images"]["unreadable"][1] == ["b/ü.png", "cannot identify the image format"]
    assert FORMATS["json"].render(report()) == text


def test_the_golden_report_is_what_is_written_today() -> None:
    if os.environ.get("PARGATE_REWRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(report().to_json(), encoding="utf-8")
    assert GOLDEN.read_text(encoding="utf-8") == report().to_json()


def test_the_first_report_ever_written_still_loads() -> None:
    old = ScanReport.from_json((GOLDEN.parent / "report_v1_first.json").read_bytes())
    now = report().verdict
    # Images were called carriers.
    assert old.verdict.model_copy(update={"summary": old.verdict.summary.replace("carriers", "images")}) == now
    assert old.findings[0].consequence == "fail" and old.findings[0].waiver is None


PUBLISHED = Path(schema_module.__file__).with_name("pargate-report-1.schema.json")


def test_the_published_schema_is_that_of_the_reports_of_today() -> None:
    if os.environ.get("PARGATE_REWRITE_GOLDEN"):
        PUBLISHED.write_text(json.dumps(schema_module.schema(), indent=1) + "\n", encoding="utf-8")
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == schema_module.schema()


@pytest.mark.parametrize("path", sorted([*GOLDEN.parent.glob("report_*.json"), *GOLDEN.parent.glob("reports/*g.json")]))
def test_reports_old_and_new_satisfy_the_published_schema(path: Path) -> None:
    known = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(path.read_bytes()), known, cls=jsonschema.Draft202012Validator)
    assert not jsonschema.Draft202012Validator(known).is_valid({**json.loads(path.read_bytes()), "verdict": "pass"})


def test_the_golden_report_loads_and_is_judged_as_it_was() -> None:
    found = ScanReport.from_json(GOLDEN.read_bytes())
    policy = Policy.model_validate(found.policy.document)
    findings, verdict, _ = judge(policy, found.measurements, complete=found.run.complete)
    # Words may change from one release to the next; what was found may not.
    decided = [(f.rule, f.measurement, f.status, f.bounds) for f in findings]
    assert decided == [(f.rule, f.measurement, f.status, f.bounds) for f in found.findings]
    assert (verdict.status, verdict.decided_by) == (found.verdict.status, found.verdict.decided_by)
    assert verdict.status is Outcome.FAIL


def test_the_policy_in_a_report_is_the_policy_that_was_applied() -> None:
    policy = Policy.model_validate(report().policy.document)
    assert policy == read(POLICY, "golden.yaml", Path()).policy
    assert policy.confidence == pytest.approx(0.999)


def test_a_report_is_judged_under_other_limits_without_the_model() -> None:
    found = report()
    looser = read(POLICY.replace("30pp", "99pp").replace("50%", "100%"), "other.yaml", Path()).policy
    before = {f.measurement: f.status for f in found.findings}
    findings, _, _ = judge(looser, found.measurements)
    after = {f.measurement: f.status for f in findings}
    assert before["patches/badnet/unknown"] == "breach"
    assert after["patches/badnet/unknown"] == "met"


def test_the_findings_of_a_report_refer_to_its_measurements() -> None:
    found = report()
    ids = [m.id for m in found.measurements]
    assert len(set(ids)) == len(ids)
    assert {f.measurement for f in found.findings if f.measurement} == set(ids)
    assert {f.status for f in found.findings if f.measurement is None} == {"open"}


def altered(change: Any) -> str:
    document = json.loads(report().to_json())
    change(document)
    return json.dumps(document)


ALTERED = [
    lambda d: d.pop("verdict"),
    lambda d: d.update(extra=1),
    lambda d: d["verdict"].update(status="remediated?"),
    lambda d: d["measurements"][0]["counts"]["accuracy"].update(successes=501),
    lambda d: d["measurements"][0]["counts"]["accuracy"].update(successes=-1),
    lambda d: d["measurements"][0]["counts"]["accuracy"].update(n=1e400),
    lambda d: d["measurements"][1]["pairs"].update(both=31),
    lambda d: d["measurements"][1]["pairs"].update(n="many"),
    lambda d: d["findings"][0].update(status="passed"),
    lambda d: d["run"].update(seed=None),
]


@pytest.mark.parametrize("change", ALTERED, ids=range(len(ALTERED)))
def test_what_is_no_report_is_refused(change: Any) -> None:
    with pytest.raises(ValidationError):
        ScanReport.from_json(altered(change))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "not json", '{"schema": "pargate/report/1"}'])
def test_another_document_is_no_report(text: str) -> None:
    with pytest.raises(ValidationError):
        ScanReport.from_json(text)


@pytest.mark.parametrize("schema", ["pargate/report/2", "pargate/report/11", "sarif", ""])
def test_a_report_of_an_unknown_version_is_refused(schema: str) -> None:
    with pytest.raises(ValidationError, match="schema"):
        ScanReport.from_json(altered(lambda d: d.update(schema=schema)))


def test_a_report_without_its_version_is_refused() -> None:
    with pytest.raises(ValidationError, match="schema"):
        ScanReport.from_json(altered(lambda d: d.pop("schema")))
