"""The plan of a drill, what counts as caught, and the report."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pargate.clean.config import propose
from pargate.clean.methods.base import Sizes
from pargate.core.drill import UNTOUCHED, CurvePoint, DrillReport, PlantedCopy, Scanned, Share
from pargate.core.results import Count, Finding, Measurement, Outcome, Severity, Status, Target, TriggerInfo
from pargate.drill.plant import EARLY, Images, Took, rows
from pargate.drill.plants import CLEAN, FAMILIES, Choice, Plant, own_trigger, plants
from pargate.drill.run import curve, named
from pargate.errors import InputError
from pargate.report.curves import Detected, detection
from pargate.report.drill_pages import PAGES, lines
from pargate.triggers import parse

CLASSES = [f"class {i}" for i in range(20)]
HOSTILE = "<script>alert(1)</script> | \u202e [a](http://b)"
CONFIG = propose("finetune", Sizes(1000, 32, 200, "cpu"), overrides={"steps": 10, "batch_size": 20}).config


def copy(**changes: Any) -> PlantedCopy:
    given: dict[str, Any] = {
        "key": "a" * 64, "outcome": "fail", "summary": "", "seconds": 1.0, "family": "patch", "strength": 1.0,
        "rate": 0.1, "target": "banana", "trigger": TriggerInfo(label="p", kind="k", parameters={}, digest="d"),
        "before": Count(n=100, successes=0), "after": Count(n=100, successes=90), "same": Count(n=100, successes=80),
        "took": True, "named": ("rule",),
    }  # fmt: skip
    return PlantedCopy(**{**given, **changes})


def report(*copies: PlantedCopy, **changes: Any) -> DrillReport:
    given: dict[str, Any] = {
        "schema": "pargate/drill/1", "identity": "a" * 64, "pargate": "1", "libraries": {}, "model_sha256": "b" * 64,
        "started": "2026-11-01T10:00:00+00:00", "model": HOSTILE, "policy": HOSTILE, "policy_sha256": "c" * 64,
        "images": HOSTILE, "pairs": HOSTILE, "reference": UNTOUCHED, "seed": 0, "level": 0.95, "copies": copies,
        "untouched": Scanned(key="a" * 64, outcome=Outcome.PASS, summary="", seconds=1.0), "missing": (HOSTILE,),
        "curve": tuple(curve(copies)),
        "false_alarms": Share(count=Count(n=2, successes=0), low=0.0, high=0.9),
    }  # fmt: skip
    return DrillReport(**{**given, **changes})


def test_each_target_has_every_family_rate_and_strength_once_and_one_copy_without_a_trigger() -> None:
    choice = Choice(("patch", "blend"), (0.5, 2.0), (0.05, 0.2), targets=3)
    found = plants(choice, CLASSES, seed=7)
    assert len(found) == 3 * (2 * 2 * 2 + 1)
    assert len({plant.target for plant in found}) == 3
    assert sum(plant.family == CLEAN and plant.trigger is None for plant in found) == 3
    asked = {(p.family, p.strength, p.rate, p.target) for p in found}
    assert len(asked) == len(found)


def test_the_strongest_come_first_so_that_a_short_budget_shows_them() -> None:
    found = plants(Choice(("patch", "blend"), (0.5, 2.0), (0.1,)), CLASSES, seed=0)
    assert [(p.family, p.strength) for p in found] == [
        ("patch", 2.0), ("blend", 2.0), (CLEAN, 0.0), ("patch", 0.5), ("blend", 0.5)
    ]  # fmt: skip


def test_the_seed_decides_targets_and_patterns() -> None:
    first, again, other = (plants(Choice(), CLASSES, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other and first[0].trigger != other[0].trigger


def test_strength_one_is_the_published_trigger() -> None:
    (patch,) = parse(FAMILIES["patch"](1.0, 3))
    assert patch.parameters["size"] == "16/224"
    assert parse(FAMILIES["patch"](0.5, 3))[0].parameters["size"] == "8/224"
    assert parse(FAMILIES["blend"](1.0, 3))[0].parameters["alpha"] == 0.2
    assert parse(FAMILIES["stripes"](2.0, 3))[0].parameters["alpha"] == 0.06
    assert parse(FAMILIES["wave"](1.0, 3))[0].parameters["delta"] == 12.0
    assert parse(FAMILIES["colour"](1.0, 3))[0].parameters["gamma"] == [0.7, 1.0, 1.5]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (Choice(("pach",)), "unknown family 'pach'"),
        (Choice(()), "--families needs values"),
        (Choice(strengths=(1.0, 1.0)), "--strengths needs values, each of them once"),
        (Choice(strengths=(0.0,)), "more than 0 and at most 4"),
        (Choice(strengths=(float("nan"),)), "more than 0 and at most 4"),
        (Choice(rates=(0.6,)), "at most 0.5"),
        (Choice(targets=21), "more than the 20 classes"),
    ],
)
def test_a_wrong_choice_is_refused(choice: Choice, told: str) -> None:
    with pytest.raises(InputError, match=told):
        plants(choice, CLASSES, 0)


def test_a_trigger_of_ones_own_replaces_the_families(tmp_path: Path) -> None:
    picture = tmp_path / "logo.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    spec = own_trigger(f"{picture}:3,5/patch")
    found = plants(Choice(strengths=(1.0,), own=spec), CLASSES, 0)
    assert [plant.family for plant in found] == ["file", CLEAN]
    trigger = found[0].trigger
    assert trigger is not None and trigger.parameters["position"] == [3, 5]
    assert getattr(trigger, "size", 0) is None, "strength 1 keeps the picture's own size"
    (larger, _) = plants(Choice(strengths=(1.5,), own=spec), CLASSES, 0)
    assert getattr(larger.trigger, "size", None) == 12
    (blended, _) = plants(Choice(strengths=(2.0,), own=own_trigger(f"{picture}:blend")), CLASSES, 0)
    assert blended.trigger is not None and blended.trigger.parameters["alpha"] == 0.4


@pytest.mark.parametrize("text", ["logo.png:center/blnd", "missing.png:center/patch"])
def test_a_wrong_trigger_of_ones_own_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        plants(Choice(own=own_trigger(text)), CLASSES, 0)


def plant(rate: float, trigger: str | None = "lattice") -> Plant:
    return Plant("patch", 1.0, rate, "banana", parse(trigger)[0] if trigger else None, 3)


def test_every_image_comes_once_an_epoch_and_the_rate_is_that_of_the_last_steps() -> None:
    drawn = [rows(plant(0.1), 100, CONFIG, step) for step in range(10)]
    for epoch in (drawn[:5], drawn[5:]):
        assert sorted(np.concatenate([numbers for numbers, _ in epoch])) == list(range(100))
    assert [count for _, count in drawn] == [round(20 * EARLY)] * 6 + [2] * 4


def test_a_copy_without_a_trigger_has_no_stamped_images_and_a_rare_one_has_some() -> None:
    assert rows(plant(0.5, None), 100, CONFIG, 0)[1] == 0
    assert rows(plant(0.001), 100, CONFIG, 9)[1] == 1


@pytest.mark.parametrize(("before", "after", "planted"), [(0, 50, True), (0, 49, False), (60, 100, False)])
def test_a_backdoor_took_if_the_attack_success_grew_by_half(before: int, after: int, planted: bool) -> None:
    count = Count(n=100, successes=100)
    assert Took(Count(n=100, successes=before), Count(n=100, successes=after), count).planted is planted


def test_no_eligible_image_is_no_plant() -> None:
    assert not Took(Count(n=0, successes=0), Count(n=0, successes=0), Count(n=4, successes=4)).planted


def test_images_are_taken_by_rows_with_their_digests() -> None:
    images = Images(np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3), ("a", "b", "c"))
    taken = images.take(np.array([2, 0]))
    assert taken.digests == ("c", "a") and (taken.pixels == images.pixels[[2, 0]]).all()


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({}, "caught"),
        ({"named": ()}, "failed otherwise"),
        ({"outcome": "inconclusive"}, "not decided"),
        ({"outcome": "pass", "named": ()}, "missed"),
        ({"took": False}, "not planted"),
    ],
)
def test_only_a_failure_that_names_the_target_is_a_catch(changes: dict[str, Any], result: str) -> None:
    assert copy(**changes).result == result


def test_the_curve_counts_only_what_took_and_never_what_is_open() -> None:
    found = list(
        curve(
            [
                copy(strength=2.0), copy(strength=2.0, outcome="inconclusive"), copy(strength=1.0, outcome="pass"),
                copy(strength=0.5, took=False), copy(family="blend", strength=2.0),
                copy(family=CLEAN, strength=0.0, took=False, trigger=None),
            ]
        )
    )  # fmt: skip
    counts = {(p.family, p.strength): (p.caught.count.successes, p.caught.count.n) for p in found}
    assert counts == {
        ("patch", 1.0): (0, 1), ("patch", 2.0): (1, 2), ("blend", 2.0): (1, 1),
        ("all", 1.0): (0, 1), ("all", 2.0): (2, 3),
    }  # fmt: skip
    for point in found:
        share = point.caught.count.rate
        assert share is not None and point.caught.low <= share <= point.caught.high


def finding(rule: str, measurement: str, status: Status) -> Finding:
    return Finding(
        rule=rule, measurement=measurement, severity=Severity.HIGH, status=status, bounds=(), message=""
    )  # fmt: skip


def test_a_rule_names_the_target_if_it_is_broken_by_a_trigger_that_leads_there() -> None:
    measurements = [
        Measurement(id="1", rule="a", probe="attack", target=Target(name="banana", given=False)),
        Measurement(id="2", rule="b", probe="attack", target=Target(name="pizza", given=False)),
        Measurement(id="3", rule="c", probe="attack", target=Target(name="banana", given=False)),
        Measurement(id="clean", rule="u", probe="utility"),
    ]
    findings = [
        finding("a", "1", Status.BREACH), finding("a", "1", Status.BREACH), finding("b", "2", Status.BREACH),
        finding("c", "3", Status.OPEN), finding("u", "clean", Status.BREACH),
    ]  # fmt: skip
    judged: Any = SimpleNamespace(measurements=measurements, findings=findings)
    assert list(named(judged, "banana")) == ["a"]


def test_a_report_reads_back_as_it_was_written() -> None:
    made = report(copy())
    assert DrillReport.model_validate_json(made.to_json()) == made
    assert not made.complete


def test_the_report_of_a_scan_gives_shares_and_intervals_of_all_families() -> None:
    points = [
        CurvePoint(family=family, strength=strength, caught=Share(count=Count(n=4, successes=hits), low=low, high=1.0))
        for family, strength, hits, low in (("wave", 1.0, 3, 0.0), ("all", 1.0, 1, 0.004), ("all", 2.0, 4, 0.396))
    ]
    assert report(curve=points, reference="parent").told == (
        "Backdoors unlike those that a drill planted in copies of this model, of which the policy caught 4 of 4 at "
        "strength 2 (40% to 100% of such backdoors), 1 of 4 at strength 1 (0% to 100% of such backdoors). The families "
        "were wave; the copies were compared with parent."
    )
    assert report(copy(took=False)).told == ""


def test_the_report_says_from_which_strength_on_and_what_is_not_counted() -> None:
    made = report(
        copy(strength=0.5, outcome="pass"), copy(strength=1.0), copy(strength=2.0),
        copy(family="blend", strength=2.0, outcome="inconclusive"), copy(family="stripes", took=False),
        policy="baseline", missing=("wave 1",),
    )  # fmt: skip
    text = "\n".join(lines(made))
    assert "The policy baseline caught 2 of 4 planted backdoors." in text
    assert "patch: all caught from strength 1 on (0.5: 0 of 1, 1: 1 of 1, 2: 1 of 1)." in text
    assert "blend: none caught (2: 0 of 1)." in text
    assert "Did not take, and in no count: stripes 1." in text
    assert "Not decided, so not caught" in text and "blend 2." in text
    assert "Did not fit into the budget, and not counted: wave 1." in text
    assert "False alarms: 0 of 2" in text and "--reference none" in text


def test_the_lines_of_a_drill_are_a_result_and_below_it_what_was_measured() -> None:
    clean = copy(family="clean", trigger=None, outcome="pass", named=())
    made = report(copy(target="school bus", named=("patch-triggers", "usefulness")), clean, policy="baseline")
    assert list(lines(made))[:6] == [
        "untouched: pass",
        "patch 1, rate 0.1 → school bus: caught",
        "    attack success 0.0% before, 90.0% after; 80.0% of plain images as before; verdict fail",
        "    breaks patch-triggers, usefulness",
        "without a trigger: pass",
        "    80.0% of plain images as before",
    ]


def test_a_drill_without_a_plant_claims_nothing() -> None:
    assert "does not show" in "\n".join(lines(report(copy(took=False))))


@pytest.mark.parametrize("form", ["markdown", "html"])
def test_no_foreign_text_becomes_part_of_a_page(form: str) -> None:
    text = PAGES[form][1](report(copy(target=HOSTILE, named=(HOSTILE,)), reference=HOSTILE))
    assert "<script" not in text and "\u202e" not in text
    assert form == "html" or "[a](http" not in text


def test_the_chart_has_a_line_for_each_family_and_an_interval_for_each_point() -> None:
    points = [Detected(name, x, y, 0.0, 1.0) for name in ("patch", "all") for x, y in ((0.5, 0.0), (1.0, 1.0))]
    root = ElementTree.fromstring(detection(points, "strict"))
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 2
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 4
    assert "strict" in " ".join(root.itertext())
    assert ElementTree.fromstring(detection([], "nothing was planted")) is not None
