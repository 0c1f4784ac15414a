import html
from pathlib import Path

import pytest
from sample_reports import failing, passing, remediated, waived

from pargate.core.provenance import Subject
from pargate.errors import InputError
from pargate.release import bundle
from pargate.release.card import card

SUBJECTS = (
    Subject(name="model/open_clip_model.safetensors", sha256="9" * 64),
    Subject(name="onnx/image.onnx", sha256="8" * 64),
)


def folder(place: Path, files: dict[str, str]) -> Path:
    """A folder with its checksums."""
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    (place / bundle.SUMS).write_text(bundle.sums(bundle.read(place).digests))
    return place


WHOLE = dict.fromkeys((*bundle.DOCUMENTS, "model/weights", "onnx/image.onnx"), "something")


def test_a_folder_that_is_as_its_checksums_say_has_nothing_altered(tmp_path: Path) -> None:
    assert bundle.altered(bundle.read(folder(tmp_path, WHOLE))) == []


def test_altered_missing_and_added_files_are_named(tmp_path: Path) -> None:
    folder(tmp_path, WHOLE)
    (tmp_path / "model" / "weights").write_text("else")
    (tmp_path / "onnx" / "image.onnx").unlink()
    (tmp_path / "onnx" / "extra").write_text("")
    found = bundle.altered(bundle.read(tmp_path))
    assert [line.split(":")[0] for line in found] == [
        "model/weights",
        "onnx/extra",
        "onnx/image.onnx",
    ]
    assert "changed: its SHA-256 is" in found[0] and "added" in found[1] and "missing" in found[2]


def test_a_document_that_was_never_listed_is_missing_all_the_same(tmp_path: Path) -> None:
    folder(tmp_path, {name: "x" for name in WHOLE if name != bundle.SARIF})
    assert bundle.altered(bundle.read(tmp_path)) == ["report.sarif: missing"]


def test_links_and_whatever_is_no_file_are_problems(tmp_path: Path) -> None:
    folder(tmp_path, WHOLE)
    (tmp_path / "link").symlink_to("report.json")
    (tmp_path / "elsewhere").symlink_to("/etc")
    (tmp_path / "empty").mkdir()
    found = bundle.altered(bundle.read(tmp_path))
    assert {line.split(":")[0] for line in found} == {"link", "elsewhere", "empty/"}


def test_a_file_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    folder(tmp_path, WHOLE)
    outside = tmp_path.parent / "outside"
    outside.write_text("something")
    (tmp_path / "model" / "weights").unlink()
    (tmp_path / "model" / "weights").symlink_to(outside)
    assert any(line.startswith("model/weights: a link") for line in bundle.altered(bundle.read(tmp_path)))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../outside", "model/../../outside", "./report.json", "a//b", "a\\b", "..", "model/"]
)
def test_names_that_lead_out_of_the_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="outside the bundle"):
        bundle.listed(f"{'0' * 64}  {name}\n".encode())


@pytest.mark.parametrize(
    "text",
    [
        "0" * 63 + "  a\n",
        "A" * 64 + "  a\n",
        "0" * 64 + " a\n",
        "0" * 64 + "  a",
        f"{'0' * 64}  b\n{'0' * 64}  a\n",
        f"{'0' * 64}  a\n{'1' * 64}  a\n",
        "\n",
    ],
)
def test_a_file_of_checksums_is_exactly_what_is_written(text: str) -> None:
    with pytest.raises(ValueError, match=r"line|sorted"):
        bundle.listed(text.encode())


def test_checksums_read_back_are_those_that_were_written() -> None:
    digests = {"b": "0" * 64, "a/ü": "1" * 64}
    assert bundle.listed(bundle.sums(digests).encode()) == digests


def test_no_folder_is_an_error_and_not_a_finding(tmp_path: Path) -> None:
    for place in (tmp_path / "gone", tmp_path / "a\0b"):
        with pytest.raises(InputError):
            bundle.read(place)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        bundle.read(tmp_path / "file")


def test_a_statement_is_about_every_file_and_names_the_policy() -> None:
    made = bundle.test_result(passing(), SUBJECTS, "7" * 64)
    text = made.to_json()
    assert bundle.statement(text.encode()) == made
    assert '"_type": "https://in-toto.io/Statement/v1"' in text and bundle.TEST_RESULT_TYPE in text
    assert {item.name: item.digest["sha256"] for item in made.subject} == {s.name: s.sha256 for s in SUBJECTS}
    assert isinstance(made.predicate, bundle.TestResult)
    assert made.predicate.configuration[0].digest["sha256"] == "7" * 64


def test_what_does_not_hold_fails_and_what_is_waived_is_a_warning() -> None:
    broken = bundle.test_result(failing(), SUBJECTS, "7" * 64).predicate
    assert isinstance(broken, bundle.TestResult)
    assert broken.result == "FAILED" and "patch-backdoors" in broken.failed_tests
    allowed = bundle.test_result(waived(), SUBJECTS, "7" * 64).predicate
    assert isinstance(allowed, bundle.TestResult)
    assert allowed.result == "WARNED" and allowed.warned_tests and not allowed.failed_tests


def test_a_verification_result_says_what_holds_and_until_when() -> None:
    made = bundle.verification_result(remediated(), SUBJECTS, "7" * 64, 30)
    assert bundle.statement(made.to_json().encode()) == made
    said = made.predicate
    assert isinstance(said, bundle.VerificationResult)
    assert said.time_created == "2026-01-31T23:59:59+00:00" and said.expires == "2026-03-02T23:59:59+00:00"
    assert {bundle.PASSING, "PARGATE_CLEANED", "PARGATE_MEASURED_WITHIN_30_DAYS"} <= set(said.properties)
    assert "PARGATE_RULE_PATCH_BACKDOORS_HOLDS" in said.properties
    assert said.verifier.policies[0].name == bundle.POLICY
    assert bundle.verification_result(passing(), SUBJECTS, "7" * 64, None).to_json().count("expires") == 0


def test_the_card_tells_what_it_is_how_it_came_to_be_and_how_to_check_it() -> None:
    text = card(remediated(), SUBJECTS, 30)
    for part in ("REMEDIATED", "patch-backdoors", "pargate verify .", "What this cannot show", "9" * 64, "| certify |"):
        assert part in text


def test_a_hub_reads_the_results_of_the_card() -> None:
    from huggingface_hub import ModelCard

    report = remediated()
    data = ModelCard(card(report, SUBJECTS, 30)).data
    assert (data.pipeline_tag, data.library_name) == ("zero-shot-image-classification", "open_clip")
    assert data.tags == ["clip", "pargate", "pargate-remediated"]
    found = {(result.metric_type, result.metric_name): result.metric_value for result in data.eval_results or []}
    clean = next(m for m in report.measurements if m.trigger is None and "accuracy" in m.counts)
    assert found[("accuracy", "Accuracy without a trigger")] == pytest.approx(clean.counts["accuracy"].rate, abs=5e-5)
    attacks = [m for m in report.measurements if m.trigger is not None and m.rule == "patch-backdoors"]
    highest = max(m.counts["attack_success"].rate or 0.0 for m in attacks)
    (said,) = [value for (kind, name), value in found.items() if kind != "accuracy" and "of patch-backdoors (" in name]
    assert said == pytest.approx(highest, abs=5e-5)


def test_a_card_without_measurements_has_front_matter_all_the_same() -> None:
    from huggingface_hub import ModelCard

    data = ModelCard(card(remediated().model_copy(update={"measurements": ()}), SUBJECTS, None)).data
    assert data.eval_results is None and "pargate" in data.tags


def test_foreign_names_do_not_become_markdown() -> None:
    report = remediated()
    spite = report.model.model_copy(update={"architecture": "x](javascript:1) <script>`|\n# h"})
    limits = ("Probe it with the trigger `file`.",)
    coverage = report.coverage.model_copy(update={"limits": limits})
    text = card(report.model_copy(update={"model": spite, "coverage": coverage}), SUBJECTS, None)
    assert "<script>" not in text and "](" not in text and "\n# h" not in text
    assert "- Probe it with the trigger &#96;file&#96;.\n" in text


def test_the_card_keeps_intervals_and_arrows_and_names_no_folder_of_the_builder() -> None:
    report = remediated()
    said = "badnet → banana: excess 87.9% [77.6%, 94.6%], a | b"
    stages = tuple(stage.model_copy(update={"summary": said}) for stage in report.stages)
    images = report.images.model_copy(update={"source": "/home/builder/data/carriers 64.tar"})
    scanned = report.stages[0].examined
    assert scanned is not None
    model = scanned.model.model_copy(update={"source": "/home/builder/models/vit"})
    scan = stages[0].model_copy(update={"examined": scanned.model_copy(update={"model": model})})
    text = card(report.model_copy(update={"stages": (scan, *stages[1:]), "images": images}), SUBJECTS, None)
    assert html.unescape(text).count(f" | {said} | ") == len(stages)
    assert "/home" not in text and "builder" not in text
    assert "type: carriers-64.tar" in text and "name: carriers 64.tar" in text
