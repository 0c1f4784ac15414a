import io
import json
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from junitparser import JUnitXml
from lxml import etree
from referencing import Registry, Resource
from sample_reports import (
    BANANA_BREACH,
    PULL_BREACH,
    SITUATIONS,
    SPITE,
    failing,
    hostile,
    inconclusive,
    passing,
    policy,
    remediated,
    scanned,
    unsafe,
    waived,
)
from sarif import loader

from pargate.core.report import ScanReport, SourceSpan
from pargate.core.results import (
    BUDGET,
    NO_REFERENCE,
    UNFIT_IMAGES,
    Consequence,
    Count,
    Measurement,
    Outcome,
    Remark,
    Status,
    Verdict,
)
from pargate.errors import InputError
from pargate.report import FORMATS, steps
from pargate.report import text as texts
from pargate.report.formats import github, junit, markdown, sarif
from pargate.report.formats import ml_bom as mlbom

GOLDEN = Path(__file__).parents[1] / "golden" / "reports"

SCHEMAS = Path(__file__).parents[3] / "shared" / "schemas"

ENDINGS = {
    "json": "json",
    "sarif": "sarif",
    "junit": "junit.xml",
    "markdown": "md",
    "github": "github.txt",
    "ml-bom": "cdx.json",
}
"""Formats whose golden files are kept here, and how those are named."""

EVERY: dict[str, Callable[[], ScanReport]] = {**SITUATIONS, "hostile": hostile}

every_situation = pytest.mark.parametrize("situation", EVERY)


def schema(name: str) -> Path:
    path = SCHEMAS / name
    if not path.is_file():
        pytest.skip(f"NOT VALIDATED: the official schemas lie beside the repository, and {path} does not exist")
    return path


def rewritten(path: Path, text: str) -> str:
    if os.environ.get("PARGATE_REWRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(text.encode())
    return path.read_bytes().decode()


def many(count: int) -> ScanReport:
    """A report with so many breaches, each of a comparison of its own."""
    findings = tuple(
        BANANA_BREACH.model_copy(update={"measurement": f"blended/{i}", "message": f"{i}: {'|' * 100}"})
        for i in range(count)
    )
    return failing().model_copy(update={"findings": findings})


def unread(text: str) -> set[str]:
    """Characters that are not read but obeyed."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n", "\t"}


# All formats


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("format", ENDINGS)
def test_a_golden_file_is_what_is_written_today(situation: str, format: str) -> None:
    text = FORMATS[format].render(SITUATIONS[situation]())
    assert rewritten(GOLDEN / f"{situation}.{ENDINGS[format]}", text) == text


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_saved_report_is_rendered_like_the_one_that_was_saved(situation: str) -> None:
    saved = ScanReport.from_json((GOLDEN / f"{situation}.json").read_bytes())
    for render in (form.render for form in FORMATS.values()):
        assert render(saved) == render(SITUATIONS[situation]())


@every_situation
@pytest.mark.parametrize("format", [f for f in FORMATS if f != "json"])
def test_nothing_that_is_not_read_reaches_a_report(situation: str, format: str) -> None:
    assert not unread(FORMATS[format].render(EVERY[situation]()))


@pytest.mark.parametrize("format", FORMATS)
def test_a_report_ends_with_a_line_break(format: str) -> None:
    assert FORMATS[format].render(failing()).endswith("\n")


def test_the_table_of_formats_does_not_import_the_library_for_bills_of_materials() -> None:
    code = "import sys, pargate.report; sys.exit('cyclonedx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("render", [sarif.render, junit.render, mlbom.render])
@pytest.mark.parametrize("when", ["yesterday", "", "\x00"])
def test_a_report_without_its_time_is_refused_where_the_format_needs_it(
    render: Callable[[ScanReport], str], when: str
) -> None:
    report = failing()
    with pytest.raises(InputError, match="not a time"):
        render(report.model_copy(update={"run": report.run.model_copy(update={"started": when})}))


def test_times_are_given_in_utc() -> None:
    report = failing()
    later = report.model_copy(update={"run": report.run.model_copy(update={"started": "2026-02-01T01:59:59.5+02:00"})})
    assert f"{texts.started(later):%Y-%m-%dT%H:%M:%S}" == "2026-01-31T23:59:59"


def test_the_worst_finding_comes_first_and_a_breach_that_only_warns_after_one_that_fails() -> None:
    found = [(f.status, f.consequence) for f in texts.worst_first(failing())]
    assert found[:3] == [("breach", "fail"), ("breach", "warn"), ("open", "fail")]
    assert {status for status, _ in found[3:]} == {"met"}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("./a/../b/model.safetensors", "b/model.safetensors"),
        ("b\\model.safetensors", "b/model.safetensors"),
        ("/a/b/model.safetensors", "model.safetensors"),
        ("C:\\work\\model/", "model"),
        ("hf-hub:org/name@main", "hf-hub:org/name@main"),
        ("/", "model"),
    ],
)
def test_the_name_of_a_model_is_the_same_on_every_runner(source: str, name: str) -> None:
    report = failing()
    moved = report.model_copy(update={"model": report.model.model_copy(update={"source": source})})
    assert texts.model_name(moved) == name


@pytest.mark.parametrize("format", FORMATS)
def test_a_report_that_found_nothing_is_rendered_all_the_same(format: str) -> None:
    empty = unsafe().model_copy(
        update={"findings": (), "coverage": unsafe().coverage.model_copy(update={"limits": ()})}
    )
    assert FORMATS[format].render(empty)


def test_what_was_not_measured_has_no_number() -> None:
    bound = PULL_BREACH.bounds[0].model_copy(update={"n": 0, "estimate": None, "high": 1.0})
    assert texts.measured(bound) == "excess not measured"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert texts.plain("ab" * 10_000, 100) == ("ab" * 50)[:99] + "…"
    assert texts.plain("ab", 2) == "ab"


@pytest.mark.parametrize(
    ("report", "step"),
    [
        (passing(), "covers 3 triggers"),
        (failing(), "Do not ship"),
        (inconclusive(), "resumes"),
        (waived(), "covers 3 triggers"),
        (unsafe(), "Do not load"),
        (failing().model_copy(update={"reference": None}), "--reference PARENT"),
        (inconclusive().model_copy(update={"run": failing().run}), "budget"),
        (
            scanned(
                measurements=(),
                findings=inconclusive().findings,
                verdict=Verdict(status=Outcome.FAIL, decided_by=(), summary="."),
            ),
            "labelled images",
        ),
        (
            scanned(measurements=(), findings=(), verdict=Verdict(status=Outcome.FAIL, decided_by=(), summary=".")),
            "remarks",
        ),
    ],
)
def test_every_verdict_says_what_to_do_next(report: ScanReport, step: str) -> None:
    assert any(step in line for line in steps.next_steps(report))


# SARIF


def unfit() -> ScanReport:
    verdict = Verdict(status=Outcome.INCONCLUSIVE, decided_by=(UNFIT_IMAGES,), summary="Cannot say: 1 of 128.")
    return inconclusive().model_copy(update={"verdict": verdict, "run": failing().run})


def test_a_report_on_images_that_do_not_fit_is_one_clear_screen() -> None:
    report = unfit()
    triggers = {m.trigger.label for m in report.measurements if m.trigger is not None}
    give = "Give images of the model's own domain with labels"
    assert triggers and any(finding.status is Status.OPEN for finding in report.findings)
    for format in ("markdown", "github"):
        text = FORMATS[format].render(report)
        assert "Cannot say: 1 of 128." in text
        assert not any(trigger in text for trigger in triggers)
    assert give in FORMATS["markdown"].render(report)
    page = FORMATS["html"].render(report)
    assert page.index("Cannot say: 1 of 128.") < page.index(give.replace("'", "&#39;"))
    assert page.index("from which nothing follows") < min(page.index(f"<bdi>{trigger}</bdi>") for trigger in triggers)
    cases = FORMATS["junit"].render(report)
    assert "not decided" not in cases and 'message="Cannot say: 1 of 128."' in cases
    assert texts.unfit(report) and not texts.unfit(inconclusive())


def test_images_without_labels_and_captions_do_not_make_the_preprocessing_a_suspect() -> None:
    counts = {"top_class": Count(n=512, successes=19)}
    clean = unfit().measurements[0].model_copy(update={"counts": counts, "chance": None})
    unlabelled = unfit().model_copy(update={"measurements": (clean, *unfit().measurements[1:])})
    assert any("preprocessing" in step for step in steps.next_steps(unfit()))
    assert not any("preprocessing" in step for step in steps.next_steps(unlabelled))


def test_a_badge_says_verdict_policy_and_day_in_both_forms() -> None:
    from xml.etree import ElementTree

    for report, colour in ((passing(), "brightgreen"), (failing(), "red"), (inconclusive(), "yellow")):
        said = f"{report.verdict.status} · {report.policy.name} · {report.run.started[:10]}"
        assert json.loads(FORMATS["badge-json"].render(report)) == {
            "schemaVersion": 1, "label": "pargate", "message": said, "color": colour,
        }  # fmt: skip
        tree = ElementTree.fromstring(FORMATS["badge"].render(report))
        assert tree.tag.endswith("svg") and tree.get("aria-label") == f"pargate: {said}"
        assert [text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")] == ["pargate", said]


def test_gitlab_gets_an_issue_for_each_finding_that_does_not_hold() -> None:
    for report in (passing(), failing(), waived(), inconclusive(), hostile()):
        issues = json.loads(FORMATS["code-quality"].render(report))
        assert len(issues) == sum(finding.status is not Status.MET for finding in report.findings)
        assert len({issue["fingerprint"] for issue in issues}) == len(issues)
        for issue in issues:
            assert set(issue) == {"description", "check_name", "fingerprint", "severity", "location"}
            assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
            assert issue["location"]["lines"]["begin"] >= 1
            assert issue["location"]["path"] and not issue["location"]["path"].startswith(("/", ".."))
    first = json.loads(FORMATS["code-quality"].render(failing()))[0]
    assert (first["check_name"], first["severity"]) == ("patch-backdoors", "blocker")
    assert first["location"] == {"path": "policies/release gate.yaml", "lines": {"begin": 16}}
    assert all(issue["severity"] == "info" for issue in json.loads(FORMATS["code-quality"].render(waived())))


def test_a_badge_is_well_formed_whatever_a_policy_is_called() -> None:
    from xml.etree import ElementTree

    spite = passing().policy.model_copy(update={"name": '"><script>&' + "x" * 300})
    text = FORMATS["badge"].render(passing().model_copy(update={"policy": spite}))
    assert ElementTree.fromstring(text) is not None and "<script>" not in text


def test_a_verdict_is_annotated_by_what_it_means_for_the_build() -> None:
    for name, kind in (("pass", "::notice"), ("fail", "::error"), ("inconclusive", "::warning")):
        report = {"pass": passing, "fail": failing, "inconclusive": inconclusive}[name]()
        assert any(line.startswith(f"{kind} title=pargate%3A {report.verdict.status}::") for line in commands(report))


def test_a_finding_that_stands_alone_names_the_model_and_says_what_its_metric_is() -> None:
    said = texts.alone(failing(), failing().findings[0])
    assert said.startswith(texts.headline(failing().findings[0]))
    assert "Excess is the share of images that the trigger moves to the class" in said
    assert said.endswith(f"Model: {texts.model_name(failing())}.")


def test_markdown_says_no_row_twice() -> None:
    page = FORMATS["markdown"].render(failing()).replace(markdown.escape(failing().verdict.summary), "", 1)
    decided = [f for f in failing().findings if f.status is not Status.OPEN]
    assert decided and not any(markdown.escape(texts.headline(finding)) in page for finding in decided)


@pytest.mark.parametrize(
    ("subject", "policy", "place"),
    [
        ("models/clip", "builtin:strict", "models/clip/open_clip_config.json"),
        ("models/clip.safetensors", "builtin:strict", "models/clip.safetensors"),
        ("models/clip", "rules/own.yaml", "rules/own.yaml"),
        ("hf-hub:org/clip", "builtin:strict", None),
    ],
)
def test_a_finding_of_a_built_in_rule_points_at_a_file_that_exists(
    subject: str, policy: str, place: str | None
) -> None:
    info = failing().policy.model_copy(update={"place": policy, "source": policy, "origins": {}})
    report = failing().model_copy(update={"subject": subject, "policy": info, "stages": ()})
    found = texts.some_place(report)
    assert (found and found.file) == place
    uris = {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in sarif_run(report)["results"]}
    assert uris == {place or "pargate.yaml"}


def sarif_run(report: ScanReport) -> Any:
    return json.loads(sarif.render(report))["runs"][0]


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [s for item in value.values() for s in strings(item)]
    if isinstance(value, list):
        return [s for item in value for s in strings(item)]
    return [value] if isinstance(value, str) else []


@every_situation
def test_sarif_is_what_the_official_schema_describes(situation: str) -> None:
    document = json.loads(schema("sarif/sarif-schema-2.1.0.json").read_bytes())
    validator = jsonschema.Draft4Validator(document, format_checker=jsonschema.FormatChecker())
    validator.validate(json.loads(sarif.render(EVERY[situation]())))


@every_situation
def test_every_result_holds_what_github_asks_for(situation: str) -> None:
    run = sarif_run(EVERY[situation]())
    rules = run["tool"]["driver"]["rules"]
    for rule in rules:
        assert len(rule["shortDescription"]["text"]) <= 1024 and len(rule["fullDescription"]["text"]) <= 1024
        assert rule["help"]["text"] and len(rule["id"]) <= 255
        assert re.fullmatch(r"\d\.\d", rule["properties"]["security-severity"])
        assert "security" in rule["properties"]["tags"] and len(rule["properties"]["tags"]) <= 10
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]
        assert re.fullmatch(r"[A-Za-z0-9_.~%-][A-Za-z0-9_.~%/-]*", place["artifactLocation"]["uri"])
        region = place["region"]
        assert set(region) == {"startLine", "startColumn", "endLine", "endColumn"}
        assert region["endColumn"] > region["startColumn"] >= 1 and region["endLine"] == region["startLine"] >= 1
        assert re.fullmatch("[0-9a-f]{64}", result["partialFingerprints"]["primaryLocationLineHash"])
        assert result["relatedLocations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert "" not in strings(run)


def test_the_whole_rule_pack_is_listed_whatever_was_found() -> None:
    for report in (passing(), unsafe()):
        ids = [rule["id"] for rule in sarif_run(report)["tool"]["driver"]["rules"]]
        assert ids == [*(rule["id"] for rule in report.policy.document["rules"]), "unsafe-file"]


def test_a_rule_names_each_kind_of_trigger_once_and_no_address_that_is_not_given() -> None:
    kinds = ["blended", {"kind": "stripes"}, {"kind": "stripes", "width": "mixed"}, {"kind": "stripes", "alpha": 0.1}]
    rules = [{"id": "overlays", "probe": "attack", "triggers": kinds, "target": ["unknown"], "max": {"excess": "30pp"}}]
    [rule, _] = sarif_run(scanned(policy=policy(rules), measurements=(), findings=(), verdict=passing().verdict))[
        "tool"
    ]["driver"]["rules"]
    assert rule["help"]["text"].startswith(
        "The probe attack with blended, stripes towards unknown: excess at most 30pp."
    )
    assert "helpUri" not in rule


def test_results_are_what_does_not_simply_hold() -> None:
    assert sarif_run(passing())["results"] == []
    found = [(r["ruleId"], r["kind"], r["level"]) for r in sarif_run(failing())["results"]]
    assert found == [
        ("patch-backdoors", "fail", "error"),
        ("blended", "fail", "warning"),
        ("retrieval-pull", "review", "warning"),
    ]
    assert [r["ruleId"] for r in sarif_run(unsafe())["results"]] == ["unsafe-file"]


def test_the_first_sentence_of_a_result_carries_rule_number_and_limit() -> None:
    first = sarif_run(failing())["results"][0]["message"]["text"].split(". ")[0]
    assert all(part in first for part in ("patch-backdoors", "87.9%", "30pp"))


def test_a_result_points_at_the_limit_that_is_broken() -> None:
    places = [r["locations"][0]["physicalLocation"] for r in sarif_run(failing())["results"]]
    assert places[0]["artifactLocation"]["uri"] == "policies/release%20gate.yaml"
    assert places[0]["region"] == {"startLine": 16, "startColumn": 11, "endLine": 16, "endColumn": 25}
    # Built in: GitHub wants a place all the same, and the policy of the repository is one that exists.
    assert places[1]["artifactLocation"]["uri"] == "policies/release%20gate.yaml"
    assert places[1]["region"] == {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2}
    # The limit's own line is not known, the rule's is.
    assert places[2]["region"]["startLine"] == 19


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("a/./b.yaml", "a/b.yaml"),
        ("a\\b.yaml", "a/b.yaml"),
        ("../b.yaml", None),
        ("a/../../b.yaml", None),
        ("/etc/b.yaml", None),
        ("C:\\b.yaml", None),
        ("builtin:baseline", None),
        ("", None),
    ],
)
def test_only_a_file_of_the_repository_is_pointed_at(file: str, found: str | None) -> None:
    place = texts.in_repository(SourceSpan(file=file, line=1, column=1, end_column=2))
    assert (place.file if place else None) == found


def test_an_accepted_breach_is_shown_as_suppressed() -> None:
    [result] = sarif_run(waived())["results"]
    [suppression] = result["suppressions"]
    assert (suppression["kind"], suppression["status"]) == ("external", "accepted")
    assert "fix-scheduled" in suppression["justification"] and "10 days left" in suppression["justification"]


def marks(report: ScanReport) -> list[str]:
    return [r["partialFingerprints"]["primaryLocationLineHash"] for r in sarif_run(report)["results"]]


def test_a_fingerprint_stays_when_the_model_is_trained_again() -> None:
    before = failing()
    bounds = (PULL_BREACH.bounds[0].model_copy(update={"estimate": 0.5, "low": 0.4, "high": 0.6, "n": 999}),)
    worse = PULL_BREACH.model_copy(update={"bounds": bounds, "message": "other numbers"})
    after = before.model_copy(
        update={
            "findings": (worse, *before.findings[1:]),
            "model": before.model.model_copy(update={"sha256": "9" * 64}),
            "run": before.run.model_copy(update={"id": "another"}),
        }
    )
    assert marks(after) == marks(before)
    other = before.model_copy(update={"model": before.model.model_copy(update={"source": "other.safetensors"})})
    assert not set(marks(other)) & set(marks(before))


def test_every_comparison_has_a_fingerprint_of_its_own() -> None:
    for report in (failing(), inconclusive(), hostile(), many(500)):
        assert len(set(texts.fingerprints(report))) == len(report.findings)
    twice = inconclusive().findings[0]
    unmeasured = inconclusive().model_copy(update={"findings": (twice, twice)})
    assert len(set(marks(unmeasured))) == 2


def test_what_is_about_the_run_is_a_notification() -> None:
    [invocation] = sarif_run(inconclusive())["invocations"]
    assert invocation["executionSuccessful"] is False
    assert [n["descriptor"]["id"] for n in invocation["toolExecutionNotifications"]] == [
        "run-interrupted",
        "inconclusive",
    ]
    [invocation] = sarif_run(waived())["invocations"]
    assert invocation["executionSuccessful"] is True
    expires, unused = invocation["toolExecutionNotifications"]
    assert (expires["level"], unused["level"]) == ("warning", "note")
    assert expires["locations"][0]["physicalLocation"]["region"]["startLine"] == 40
    assert sarif_run(failing())["invocations"][0]["toolExecutionNotifications"][0]["level"] == "note"


def category(report: ScanReport) -> str:
    return str(sarif_run(report)["automationDetails"]["id"])


def test_a_run_is_told_from_those_of_other_models_and_policies() -> None:
    report = failing()
    assert category(report) == "pargate/checkpoints/vit%20b-32.safetensors/policies%2Frelease%20gate.yaml/"
    placed = report.model_copy(update={"subject": "a/model"})
    other = report.policy.model_copy(update={"place": "b/strict.yaml"})
    reports = [placed, placed.model_copy(update={"subject": "b/model"}), placed.model_copy(update={"policy": other})]
    assert [category(r) for r in reports] == [
        "pargate/a/model/policies%2Frelease%20gate.yaml/",
        "pargate/b/model/policies%2Frelease%20gate.yaml/",
        "pargate/a/model/b%2Fstrict.yaml/",
    ]
    assert len({markdown.render(r).partition("\n")[0] for r in reports}) == 3, "each finds its own comment again"
    assert texts.fingerprints(reports[0]) != texts.fingerprints(reports[1])


def test_a_new_training_an_edited_policy_and_a_cleaned_model_stay_in_their_category() -> None:
    report = failing().model_copy(update={"subject": "models/clip"})
    model = report.model.model_copy(update={"source": "/home/runner/clip", "sha256": "f" * 64})
    policy = report.policy.model_copy(update={"sha256": "e" * 64})
    assert category(report.model_copy(update={"model": model, "policy": policy})) == category(report)
    assert category(remediated().model_copy(update={"subject": "models/clip"})) == category(report)


def test_the_report_of_a_gate_is_named_for_the_original_and_not_for_what_was_made_of_it() -> None:
    report = remediated()
    assert report.model.source == "vit-release/onnx"
    assert texts.model_name(report) == texts.model_name(failing()) == "checkpoints/vit b-32.safetensors"


def test_what_ships_and_what_stays_poisoned_are_told_apart() -> None:
    said = list(steps.next_steps(remediated()))
    assert said[0] == (
        "Ship the folder vit-release, and not checkpoints/vit b-32.safetensors, which is as it was and breaks "
        "patch-backdoors."
    )
    assert said[1] == "Check it offline: pargate verify vit-release"
    assert list(steps.next_steps(remediated(), "/out/vit-release"))[1].endswith("pargate verify /out/vit-release")
    assert texts.title(remediated()) == "vit-release, made from checkpoints/vit b-32.safetensors"
    assert [(name, model.sha256[0]) for name, model in texts.models(remediated())] == [
        ("Original", "a"), ("Checkpoint", "9"), ("Graphs", "8"),
    ]  # fmt: skip
    assert texts.models(passing()) == [("Model", passing().model)] and not texts.bundle_name(passing())
    page = FORMATS["html"].render(remediated())
    for fact in ("Original (SHA-256", "Checkpoint (SHA-256", "Graphs (SHA-256", "pargate verify vit-release"):
        assert fact in page


def test_a_gate_whose_budget_is_open_says_what_breaks_and_gives_the_command() -> None:
    report = undecided_budget()
    assert not texts.bundle_name(report)
    first, more, *_ = steps.next_steps(report)
    assert first == "Do not ship checkpoints/vit b-32.safetensors: it breaks patch-backdoors."
    said, command = steps.command_of(more)
    assert "labelled images in all" in said
    assert command == (
        "pargate gate 'checkpoints/vit b-32.safetensors' -p 'policies/release gate.yaml' --images IMAGES --pairs PAIRS "
        "--out DIR"
    )
    assert "The original breaks the policy: do not ship it." in FORMATS["html"].render(report)


def test_no_more_results_are_written_than_github_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif, "MOST_RESULTS", 3)
    run = sarif_run(many(5))
    assert len(run["results"]) == 3
    notes = run["invocations"][0]["toolExecutionNotifications"]
    assert any("2 more results" in note["message"]["text"] for note in notes)


def test_a_finding_of_a_rule_that_the_policy_does_not_list_is_reported_all_the_same() -> None:
    bare = failing().model_copy(update={"policy": failing().policy.model_copy(update={"document": {"rules": [7, {}]}})})
    run = sarif_run(bare)
    assert {"patch-backdoors", "unsafe-file"} <= {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert len(run["results"]) == 3
    assert JUnitXml.fromstring(junit.render(bare).encode())


@every_situation
def test_sarif_tools_reads_the_results(situation: str, tmp_path: Path) -> None:
    path = tmp_path / "report.sarif"
    path.write_text(sarif.render(EVERY[situation]()), encoding="utf-8")
    data = loader.load_sarif_file(str(path))
    assert data.get_distinct_tool_names() == ["pargate"]
    expected = [f for f in EVERY[situation]().findings if f.status is not Status.MET]
    assert data.get_result_count() == len(expected)
    assert {record["Code"] for record in data.get_records()} == {f.rule for f in expected}


# JUnit


def suite(report: ScanReport) -> Any:
    [found] = JUnitXml.fromstring(junit.render(report).encode())
    return found


@every_situation
@pytest.mark.parametrize("name", ["jenkins-junit-10", "ant-junit"])
def test_junit_satisfies_both_schemas(situation: str, name: str) -> None:
    form = etree.XMLSchema(etree.parse(str(schema(f"junit/{name}.xsd"))))
    form.assertValid(etree.parse(io.BytesIO(junit.render(EVERY[situation]()).encode())))


@pytest.mark.parametrize(
    ("situation", "failures", "errors", "skipped", "tests"),
    [
        ("passing", 0, 0, 0, 4),
        ("failing", 1, 1, 1, 5),
        ("inconclusive", 0, 3, 0, 5),
        ("waived", 0, 0, 1, 2),
        ("unsafe", 1, 5, 0, 6),
    ],
)
def test_the_counts_of_a_suite_are_those_of_its_cases(
    situation: str, failures: int, errors: int, skipped: int, tests: int
) -> None:
    found = suite(SITUATIONS[situation]())
    written = (found.failures, found.errors, found.skipped, found.tests)
    assert written == (failures, errors, skipped, tests)
    found.update_statistics()
    assert (found.failures, found.errors, found.skipped, found.tests) == written


def test_a_case_is_a_rule_of_a_probe() -> None:
    cases = {case.name: case for case in suite(failing())}
    assert (cases["blended"].classname, cases["usefulness"].classname) == ("attack", "utility")
    assert cases["patch-backdoors"].result[0].message.startswith("patch-backdoors: badnet → banana: excess 87.9%")
    assert cases["usefulness"].is_passed
    assert suite(failing()).time == 12.345


def test_a_rule_that_nothing_was_found_about_is_an_error_and_no_pass() -> None:
    cases = {case.name: case for case in suite(unsafe())}
    assert cases["unsafe-file"].is_failure
    assert cases["usefulness"].is_error and cases["usefulness"].result[0].message == "Not measured."


def left_out() -> ScanReport:
    """A pass whose search was left out, since no reference was given."""
    search = {"id": "hidden-triggers", "probe": "search", "max": {"excess": "30pp"}, "severity": "high"}
    given = passing()
    unsearched = Measurement(
        id="hidden-triggers/patch/unknown", rule="hidden-triggers", probe="search", stopped=NO_REFERENCE
    )
    rules = [*given.policy.document["rules"], search]
    return given.model_copy(update={"policy": policy(rules), "measurements": (*given.measurements, unsearched)})


def undecided_budget() -> ScanReport:
    """A gate whose rules are all met, and whose accuracy budget is open."""
    return remediated().model_copy(
        update={"verdict": Verdict(status=Outcome.INCONCLUSIVE, decided_by=(BUDGET,), summary="It is not decided.")}
    )


def test_a_rule_that_was_left_out_makes_no_passing_report_red() -> None:
    found = suite(left_out())
    assert (found.failures, found.errors, found.skipped) == (0, 0, 1)
    [case] = [case for case in found if case.name == "hidden-triggers"]
    assert [result.message for result in case.result] == ["Left out: no reference was given."]
    assert json.loads(FORMATS["code-quality"].render(left_out())) == []
    assert [line.split(" ")[0] for line in commands(left_out())] == ["::notice"]
    assert "| – left out | hidden-triggers | | no reference was given | | |" in markdown.render(left_out())


@pytest.mark.parametrize(("status", "failures", "errors"), [(Outcome.FAIL, 1, 0), (Outcome.INCONCLUSIVE, 0, 1)])
def test_a_verdict_that_no_rule_decides_is_red_all_the_same(status: Outcome, failures: int, errors: int) -> None:
    report = undecided_budget()
    report = report.model_copy(update={"verdict": report.verdict.model_copy(update={"status": status})})
    found = suite(report)
    assert (found.failures, found.errors) == (failures, errors)
    [case] = [case for case in found if case.name == BUDGET]
    assert case.result[0].message == "It is not decided."
    [issue] = json.loads(FORMATS["code-quality"].render(report))
    assert issue["check_name"] == BUDGET and "It is not decided." in issue["description"]


@every_situation
def test_junit_is_red_exactly_where_the_verdict_is(situation: str) -> None:
    report = EVERY[situation]()
    found = suite(report)
    assert bool(found.failures + found.errors) is not report.verdict.status.passes


def test_an_accepted_breach_is_skipped_with_its_reason() -> None:
    [result] = next(case for case in suite(waived()) if case.name == "blended").result
    assert "fix-scheduled" in result.message and "SEC-481" in result.message


# GitHub


def commands(report: ScanReport) -> list[str]:
    return github.render(report).splitlines()


@pytest.mark.parametrize("report", [*(make() for make in EVERY.values()), many(300)])
def test_every_line_is_one_command_of_ours(report: ScanReport) -> None:
    for line in commands(report):
        match = re.fullmatch(r"::(error|warning|notice) (?P<properties>[^:]+)::(?P<data>.*)", line)
        assert match, line
        pairs = [pair.split("=", 1) for pair in match["properties"].split(",")]
        assert [key for key, _ in pairs] == ["title", "file", "line", "col", "endLine", "endColumn"][: len(pairs)]
        assert len(pairs) in (1, 6)
        assert len(match["data"]) <= 4096
        assert not re.search("%(?!25|0D|0A)", match["data"])
        assert "##[" not in line


def test_the_tenth_annotation_of_a_kind_counts_the_rest() -> None:
    report = many(300).model_copy(update={"notices": tuple(f"notice {i}" for i in range(20))})
    lines = commands(report)
    for kind in ("error", "warning", "notice"):
        assert sum(line.startswith(f"::{kind} ") for line in lines) <= 10
    assert any("and 291 more of this kind" in line for line in lines)


def test_annotations_come_worst_first_with_the_line_of_the_policy() -> None:
    lines = commands(failing())
    assert lines[0].startswith("::error title=pargate%3A fail::The model breaks patch-backdoors")
    assert lines[1].startswith(
        "::error title=pargate%3A patch-backdoors breach,file=policies/release gate.yaml,line=16,col=11,"
    )
    assert [line.split(" ")[0] for line in lines] == ["::error", "::error", "::warning", "::warning", "::notice"]


def test_percent_signs_survive_the_way_to_github() -> None:
    assert "excess 87.9%25 [77.6%25, 94.6%25]" in commands(failing())[0]


def test_a_message_is_not_cut_within_an_escape() -> None:
    for length in range(1360, 1372):
        report = scanned(
            measurements=(),
            findings=(),
            verdict=Verdict(status=Outcome.FAIL, decided_by=(), summary="x" * (length % 3) + "%" * length),
        )
        data = commands(report)[0].split("::")[2]
        assert len(data) <= 4096
        assert re.fullmatch("x*(%25)*…?", data)


def test_remarks_become_annotations_by_their_level() -> None:
    lines = commands(waived())
    assert [line.split(" ")[0] for line in lines] == ["::warning", "::notice", "::notice", "::notice"]
    assert "line=40" in lines[0]
    failed = waived().model_copy(update={"remarks": (Remark(id="r", level=Consequence.FAIL, message="m"),)})
    assert commands(failed)[0] == "::error title=pargate%3A r::m"


# CycloneDX


def component(report: ScanReport) -> Any:
    return json.loads(mlbom.render(report))["metadata"]["component"]


@every_situation
def test_the_bill_of_materials_is_what_the_official_schema_describes(situation: str) -> None:
    main = json.loads(schema("cyclonedx/bom-1.6.schema.json").read_bytes())
    registry: Any = Registry()
    for name in ("spdx.schema.json", "jsf-0.82.schema.json"):
        resource = Resource.from_contents(json.loads(schema(f"cyclonedx/{name}").read_bytes()))
        registry = registry.with_resource(f"http://cyclonedx.org/schema/{name}", resource)
    checker = jsonschema.FormatChecker()
    jsonschema.Draft7Validator(main, registry=registry, format_checker=checker).validate(
        json.loads(mlbom.render(EVERY[situation]()))
    )


def test_a_bill_of_materials_is_the_same_for_the_same_run() -> None:
    document = json.loads(mlbom.render(failing()))
    assert mlbom.render(failing()) == mlbom.render(failing())
    assert document["metadata"]["timestamp"] == "2026-01-31T23:59:59+00:00"
    other = failing().model_copy(update={"run": failing().run.model_copy(update={"id": "another"})})
    assert json.loads(mlbom.render(other))["serialNumber"] != document["serialNumber"]


def test_the_model_card_gives_rates_with_their_intervals_as_strings() -> None:
    metrics = component(failing())["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    [banana] = [m for m in metrics if m["type"] == "attack-success-rate" and m["slice"].startswith("blended → banana")]
    assert banana["value"] == "0.23"
    assert banana["confidenceInterval"] == {"lowerBound": "0.1482", "upperBound": "0.3104"}
    [accuracy] = [m for m in metrics if m["type"] == "accuracy"]
    assert (accuracy["value"], accuracy["slice"]) == ("0.802", "clean images")
    assert {type(value) for m in metrics for value in m.values()} <= {str, dict}


def test_the_interval_of_a_metric_is_that_of_the_rule_and_not_of_a_waivers_cap() -> None:
    metrics = component(waived())["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert sum(m["type"] == "attack-success-rate" for m in metrics) == 2


def test_the_model_card_says_what_the_scan_cannot_show() -> None:
    limits = component(failing())["modelCard"]["considerations"]["technicalLimitations"]
    assert limits == list(failing().coverage.limits)


def test_a_refused_file_has_no_numbers_and_no_digest() -> None:
    found = component(unsafe())
    assert "hashes" not in found and "quantitativeAnalysis" not in found["modelCard"]
    assert {"name": "pargate:verdict", "value": "fail"} in found["properties"]


def test_a_model_from_the_hub_has_its_package_url() -> None:
    report = failing()
    model = report.model.model_copy(update={"source": "hf-hub:org/name@main"})
    assert component(report.model_copy(update={"model": model}))["purl"] == "pkg:huggingface/org/name@main"


# Markdown


def test_markdown_begins_with_a_hidden_marker_that_no_name_can_end() -> None:
    assert markdown.render(failing()).startswith(
        "<!-- pargate:checkpoints/vit-b-32.safetensors:policies/release-gate.yaml -->\n"
    )
    for source in ("--><b>", "a----b", SPITE):
        model = failing().model.model_copy(update={"source": source})
        first = markdown.render(failing().model_copy(update={"model": model})).split("\n", 1)[0]
        assert re.fullmatch(r"<!-- pargate:[A-Za-z0-9._/:-]* -->", first)
        assert "--" not in first[4:-3]


def table(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


@every_situation
def test_every_row_of_the_table_has_six_cells(situation: str) -> None:
    rows = table(markdown.render(EVERY[situation]()))
    assert len(rows) > 2
    assert {row.count("|") for row in rows} == {7}


def test_the_table_is_worst_first() -> None:
    rows = table(markdown.render(failing()))[2:]
    assert rows[0] == ("| ❌ breach | patch-backdoors | badnet → banana | excess 87.9% [77.6%, 94.6%] | ≤ 30pp | 290 |")
    assert rows[1].startswith("| ❌ breach (warn) | blended") and rows[3].startswith("| ❔ open")


def test_a_waiver_is_listed_with_the_days_it_has_left() -> None:
    text = markdown.render(waived())
    assert "### Waivers" in text and "until 2026-02-10: 10 days left" in text
    assert "⏸ waived" in text and "≤ 40% (cap)" in text


def test_a_huge_report_is_cut_in_a_sentence() -> None:
    report = many(20_000).model_copy(
        update={
            "notices": tuple("|" * 900 for _ in range(2000)),
            "remarks": tuple(Remark(id="r", level=Consequence.NOTE, message="`" * 900) for _ in range(2000)),
            "coverage": failing().coverage.model_copy(update={"limits": ("<" * 900,) * 2000, "probed": ("@",) * 9000}),
        }
    )
    text = markdown.render(report)
    assert len(text.encode()) < 900_000
    left_out = re.search(r"The table is cut: (\d+) more rows", text)
    assert left_out is not None
    assert int(left_out[1]) + len(table(text)) - 2 == 40_000
    assert "</details>" in text and "### What to do next" in text


def test_no_name_becomes_markup() -> None:
    text = markdown.render(hostile())
    foreign = re.sub(r"<!-- pargate:.* -->|</?details>|</?summary>|\*\*|`budget`", "", text)
    assert not set("<>`\\~$@*_") & set(foreign)
    assert "://" not in foreign and "[l]" not in foreign
    for line in foreign.splitlines():
        # A cell, an item, a heading, or a sentence.
        assert re.match(r"\| |\|---|- |##|[A-Z&]|$", line), line


@pytest.mark.parametrize("format", ["markdown", "github", "junit", "sarif", "ml-bom"])
@pytest.mark.parametrize("name", [SPITE, "::error::x", " ##[error]x"])
def test_no_line_of_a_report_is_a_command_of_its_names(format: str, name: str) -> None:
    report = failing().model_copy(
        update={
            "findings": (PULL_BREACH.model_copy(update={"message": name}),),
            "verdict": failing().verdict.model_copy(update={"summary": name}),
            "notices": (name,),
            "remarks": (Remark(id="r", level=Consequence.NOTE, message=name),),
            "coverage": failing().coverage.model_copy(update={"limits": (name,), "probed": (name,)}),
        }
    )
    for line in FORMATS[format].render(report).splitlines():
        assert "##[" not in line
        assert format == "github" or not line.lstrip().startswith("::")


def test_a_hostile_name_cannot_leave_its_element() -> None:
    root = etree.fromstring(junit.render(hostile()).encode())
    tags = {element.tag for element in root.iter()}
    assert tags <= {
        "testsuites", "testsuite", "properties", "property", "testcase", "failure", "error", "skipped",
        "system-out", "system-err",
    }  # fmt: skip
