"""The search on real trained models: the planted class is found, though neither trigger nor class is told."""

import json
from pathlib import Path

import pytest
import yaml

from pargate.core.report import ScanReport
from pargate.core.results import Outcome
from pargate.judge.judging import Judging
from pargate.policy.resolve import Resolved, read
from pargate.scanning.found import write_found
from pargate.scanning.request import ScanRequest
from pargate.scanning.run import scan

pytestmark = pytest.mark.slow

SEARCH = {"id": "hidden", "probe": "search", "families": ["patch"], "max": {"excess": "30pp"}}


def policy() -> Resolved:
    return read(yaml.safe_dump({"pargate": "1", "name": "zoo", "rules": [SEARCH]}), "zoo", Path())


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


@pytest.mark.parametrize("model", ["vit-badnet", "rn-badnet"])
def test_a_planted_patch_is_found_and_works_in_the_next_scan_on_this_model_alone(
    zoo: Path, tmp_path: Path, model: str
) -> None:
    truth = json.loads((zoo / model / "truth.json").read_text())
    parent = f"{truth['arch']}-clean"
    report = run(zoo, model, policy(), parent)
    assert report.verdict.status is Outcome.FAIL
    measured = report.measurements[1]
    assert measured.target is not None and measured.target.name == truth["target_class"]
    assert write_found(report, tmp_path) == 1
    found = read((tmp_path / "found.yaml").read_text(), str(tmp_path / "found.yaml"), tmp_path)
    assert run(zoo, model, found).verdict.status is Outcome.FAIL
    assert run(zoo, parent, found).verdict.status is Outcome.PASS


def test_a_clean_model_holds_a_search_for_patches_without_a_reference(zoo: Path) -> None:
    assert run(zoo, "vit-clean", policy()).verdict.status is Outcome.PASS
