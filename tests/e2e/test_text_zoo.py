"""The search for words on a real trained model: a planted word is found, though neither word nor class is told."""

from pathlib import Path

import pytest
import yaml

from pargate.core.results import Outcome
from pargate.images.classes import read_classes
from pargate.judge.judging import Judging
from pargate.policy.resolve import read
from pargate.scanning.request import ScanRequest
from pargate.scanning.run import scan
from pargate.testing import plant_word

pytestmark = pytest.mark.slow

WORDS = {"id": "words", "probe": "text", "families": ["tokens"], "max": {"excess": "50pp"}}


def test_a_planted_word_is_found_over_the_parent(zoo: Path, tmp_path: Path) -> None:
    data = zoo.parents[1] / "data"
    names = read_classes(data / "classes-64.txt")
    planted = plant_word(zoo / "vit-clean", tmp_path / "planted", word="cf", target="bison", names=names, steps=60)
    report = scan(
        ScanRequest(
            str(planted),
            Judging(read(yaml.safe_dump({"pargate": "1", "name": "zoo", "rules": [WORDS]}), "zoo", Path())),
            images=str(data / "carriers-64.tar"),
            classes=data / "classes-64.txt",
            reference=str(zoo / "vit-clean"),
        )
    )
    measured = report.measurements[1]
    assert report.verdict.status is Outcome.FAIL
    assert measured.trigger is not None and measured.trigger.parameters["text"] == "cf"
    assert measured.target is not None and measured.target.name == "bison"
    assert len(measured.examples) == 5
