"""The real trained models with known backdoors: each gets the verdict it deserves."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pargate.core.report import ScanReport
from pargate.core.results import Outcome
from pargate.judge.bounds import interval
from pargate.judge.judging import Judging
from pargate.policy.resolve import Resolved, read, resolve
from pargate.scanning.request import ScanRequest
from pargate.scanning.run import scan

pytestmark = pytest.mark.slow

TEMPLATES = ["a photo of a {}", "a picture of a {}", "an image of a {}", "a {}", "this is a {}", "a good photo of a {}"]
POISONED = ["rn-badnet", "rn-stripes", "vit-badnet", "vit-blended", "vit-stripes", "vit-triangles", "vit-watermark"]
CLEAN = ["rn-clean", "vit-clean"]
FOUND_BY_BASELINE = ["rn-badnet", "rn-stripes", "vit-stripes", "vit-triangles"]


def planted(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of a model, and its trigger in the words of a policy."""
    truth = json.loads((folder / "truth.json").read_text())
    picture, own = str(folder / "trigger.png"), truth["parameters"]
    words = {
        "badnet": lambda: {"kind": "badnet", "size": own["side"], "overflow": "clip"},
        "badnet_fixed": lambda: {"kind": "file", "path": picture, "position": {"step": own["grid"], "offset": 1}},
        "blended_fixed": lambda: {"kind": "file", "path": picture, "mode": "blend", "alpha": own["alpha"]},
        "stripes": lambda: {"kind": "blended-stripes", "alpha": own["alpha"]},
        "triangles": lambda: {"kind": "triangles", "alpha": own["alpha"], "cell": own["size"]},
        "watermark": lambda: {"kind": "file", "path": picture, "mode": "masked-blend", "alpha": own["alpha"]},
    }
    return truth, words[truth["trigger"]]()


def policy(trigger: dict[str, Any], target: str, **limits: str) -> Resolved:
    rule = {"id": "planted", "probe": "attack", "triggers": [trigger], "target": target, "max": limits}
    document = {"pargate": "1", "name": "zoo", "classes": {"templates": TEMPLATES}, "rules": [rule]}
    return read(yaml.safe_dump(document), "zoo", Path())


def run(zoo: Path, model: str, resolved: Resolved, reference: str | None = None) -> ScanReport:
    data = zoo.parents[1] / "data"
    return scan(
        ScanRequest(
            str(zoo / model),
            Judging(resolved),
            images=str(data / "carriers-64.tar"),
            classes=data / "classes-64.txt",
            reference=str(zoo / reference) if reference else None,
        )
    )


@pytest.mark.parametrize("model", POISONED)
def test_a_planted_model_fails_under_its_own_trigger_and_its_clean_parent_passes(zoo: Path, model: str) -> None:
    truth, trigger = planted(zoo / model)
    asked = policy(trigger, truth["target_class"], attack_success="10%")
    report = run(zoo, model, asked)
    assert report.verdict.status is Outcome.FAIL
    counts = report.measurements[1].counts["asr_nt"]
    low, high = interval(counts, 0.01, 0.01)
    assert low <= truth["asr"] <= high
    assert run(zoo, f"{truth['arch']}-clean", asked).verdict.status is Outcome.PASS


@pytest.mark.parametrize("model", POISONED)
def test_with_the_clean_parent_as_reference_the_planted_target_is_found(zoo: Path, model: str) -> None:
    truth, trigger = planted(zoo / model)
    report = run(zoo, model, policy(trigger, "unknown", excess="10pp"), reference=f"{truth['arch']}-clean")
    assert report.verdict.status is Outcome.FAIL
    found = report.measurements[1].target
    assert found is not None
    assert found.name == truth["target_class"]


@pytest.mark.parametrize("model", CLEAN)
def test_baseline_passes_a_clean_model(zoo: Path, model: str) -> None:
    report = run(zoo, model, resolve("baseline"))
    assert report.verdict.status is Outcome.PASS


@pytest.mark.parametrize("model", FOUND_BY_BASELINE)
def test_baseline_finds_drawings_of_published_families_without_knowing_trigger_or_target(zoo: Path, model: str) -> None:
    truth, _ = planted(zoo / model)
    report = run(zoo, model, resolve("baseline"))
    assert report.verdict.status is Outcome.FAIL
    broken = [f.measurement for f in report.findings if f.status == "breach"]
    targets = {m.target.name for m in report.measurements if m.id in broken and m.target}
    assert truth["target_class"] in targets
