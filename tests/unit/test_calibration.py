"""Calibration tables, and what the rank of a search among trusted models decides."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from test_search import TARGET, read_rule, searched
from test_session import Stage

from pargate.cli.app import run as run_command
from pargate.core import calibration as form
from pargate.core.calibration import Calibration, Conditions, TrustedModel, digest_of_shapes, read_table, table_digest
from pargate.core.found import PASSES
from pargate.core.model import Checkpoint, TensorInfo
from pargate.core.report import ScanReport
from pargate.core.results import Count, Measurement, Ranked, Searched, Status
from pargate.errors import InputError, PolicyError
from pargate.judge import rejudge
from pargate.judge.bounds import bound
from pargate.judge.judge import alarms
from pargate.judge.judging import Judging
from pargate.policy.compare import changes
from pargate.policy.fields import Limit
from pargate.policy.resolve import read
from pargate.report import FORMATS
from pargate.report.summary import sentence
from pargate.scanning import calibrate as calibrating
from pargate.scanning.calibrate import calibrate, lines, searching
from pargate.scanning.request import ScanRequest
from pargate.scanning.run import _calibrated_by
from pargate.version import __version__

PIN = f"sha256:{'0' * 64}"
RULE = "{id: hidden, probe: search, families: [patch], calibration: {path: t.json, digest: '%s'}, max: {excess: 30pp}, min: {p_value: 5%%}}"  # noqa: E501
PLANTED = searched().run()
SEARCHED_ON = PLANTED.loop.running[0].measurement().searched
MODEL = PLANTED.loop.model.checkpoint


def table(shifts: list[float], **changed: Any) -> Calibration:
    """A table of models of the architecture of `stage`, which has no tensors."""
    assert SEARCHED_ON is not None
    conditions = {"pargate": __version__, "seed": 0, "precision": "fp32", "images": SEARCHED_ON.images, **changed}
    return Calibration(
        conditions=Conditions.model_validate(conditions),
        image_source="shelf",
        passes={"patch": PASSES["patch"]},
        models=tuple(
            TrustedModel(
                name=f"m{number}", sha256=f"{number + 1:064x}", architecture="toy", shapes=digest_of_shapes(MODEL),
                shifts={"patch": shift},
            )
            for number, shift in enumerate(shifts)
        ),
    )  # fmt: skip


def rule(place: Path, found: Calibration) -> str:
    """A rule by a table that is written into `place`."""
    content = found.to_json().encode()
    (place / "t.json").write_bytes(content)
    return RULE.replace("t.json", str(place / "t.json")) % table_digest(content)


def run(place: Path, found: Calibration, **options: Any) -> Stage:
    return searched(rule=rule(place, found), **options).run()


# --- what a rank decides ---


def measured(models: int, as_high: int, images: int = 200) -> Measurement:
    rank = Ranked(table=PIN, families=("patch",), models=models, as_high=as_high)
    return Measurement(
        id="hidden/unknown/patch", rule="hidden", probe="search",
        counts={"attack_success": Count(n=images, successes=0)},
        searched=Searched(shift=1.0, images="0" * 64, ranked=rank),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("models", "as_high", "limit", "images", "p_value", "status"),
    [
        (19, 0, "5%", 200, 0.05, Status.BREACH),
        (19, 1, "5%", 200, 0.1, Status.MET),
        (19, 19, "5%", 200, 1.0, Status.MET),
        (18, 0, "5%", 200, 1 / 19, Status.OPEN),
        (18, 18, "5%", 200, 1.0, Status.OPEN),
        (39, 1, "5%", 200, 0.05, Status.BREACH),
        (99, 0, "1%", 200, 0.01, Status.BREACH),
        (98, 0, "1%", 200, 1 / 99, Status.OPEN),
        (9, 0, "10%", 200, 0.1, Status.BREACH),
        (19, 0, "5%", 32, 0.05, Status.BREACH),
        (19, 0, "5%", 31, 0.05, Status.OPEN),
        (0, 0, "5%", 200, None, Status.OPEN),
    ],
)
def test_what_a_rank_decides(
    models: int, as_high: int, limit: str, images: int, p_value: float | None, status: Status
) -> None:
    least = Limit(text=limit, value=float(limit.rstrip("%")) / 100)
    found = bound("p_value", least, False, measured(models, as_high, images), 0.01, 20)
    assert (found.estimate, found.n, found.status) == (pytest.approx(p_value), models, status)


def test_a_p_value_takes_no_part_of_the_error_of_the_intervals() -> None:
    assert alarms(read_rule(RULE % PIN).policy) == 1


# --- a scan ---


def test_a_planted_model_that_is_moved_further_than_19_trusted_ones_breaks_the_rule(tmp_path: Path) -> None:
    report = run(tmp_path, table([0.01] * 19)).report()
    (finding,) = report.findings
    assert finding.status is Status.BREACH
    assert finding.message == (
        f"found patch 1 px at row 4, column 2 → class {TARGET}: p-value 5.0%, as a searched trigger moves 0 of 19 "
        "trusted models of this architecture as far, below the minimum of 5%."
    )
    assert report.measurements[1].counts["attack_success"].rate > 0.9


def test_a_model_that_is_moved_no_further_than_a_trusted_one_holds_the_rule(tmp_path: Path) -> None:
    (finding,) = run(tmp_path, table([0.01] * 18 + [3.9])).report().findings
    assert finding.status is Status.MET and finding.bounds[0].estimate == pytest.approx(0.1)


def test_a_tie_counts_as_moved_as_far(tmp_path: Path) -> None:
    assert SEARCHED_ON is not None
    (finding,) = run(tmp_path, table([0.01] * 18 + [SEARCHED_ON.shift])).report().findings
    assert finding.bounds[0].estimate == pytest.approx(0.1)


@pytest.mark.parametrize("planted", [True, False])
def test_too_few_trusted_models_decide_nothing(tmp_path: Path, planted: bool) -> None:
    report = run(tmp_path, table([0.01] * 18), planted=planted).report()
    assert report.findings[0].status is Status.OPEN
    assert report.findings[0].message.endswith("not decided against the minimum of 5%, which needs 19 of them.")


def test_a_table_without_the_architecture_decides_nothing(tmp_path: Path) -> None:
    found = table([0.01] * 30)
    other = [model.model_copy(update={"shapes": "f" * 64}) for model in found.models]
    (finding,) = run(tmp_path, found.model_copy(update={"models": tuple(other)}), planted=False).report().findings
    assert finding.status is Status.OPEN and "the table holds no other model of this" in finding.message


def test_the_model_itself_is_not_among_the_trusted_ones_and_that_is_said(tmp_path: Path) -> None:
    found = table([0.01] * 19)
    itself = found.models[0].model_copy(update={"sha256": "0" * 64})
    found = found.model_copy(update={"models": (itself, *found.models[1:])})
    there = run(tmp_path, found)
    assert there.report().findings[0].bounds[0].n == 18
    (said,) = _calibrated_by(there.loop.policy, there.loop.model.checkpoint)
    assert said == "the calibration table of rule hidden holds m itself, which is ranked among the others"


def test_with_a_reference_the_excess_decides_and_the_rank_does_not(tmp_path: Path) -> None:
    for shifts, options in (([3.9] * 19, {}), ([0.01] * 19, {"tuned": True})):
        report = run(tmp_path, table(shifts), reference=True, **options).report()
        (finding,) = report.findings
        assert finding.status is Status.BREACH and [b.metric for b in finding.bounds] == ["excess"]
        assert report.measurements[1].searched.ranked is None


def test_the_largest_shift_over_the_families_of_the_rule_counts() -> None:
    one = table([0.1])
    both = one.models[0].model_copy(update={"shifts": {"patch": 0.1, "blend": 0.7}})
    wide = one.model_copy(update={"models": (both,), "passes": {f: PASSES[f] for f in ("patch", "blend")}})
    assert wide.largest(MODEL, ["patch"]) == (0.1,) and wide.largest(MODEL, ["patch", "blend"]) == (0.7,)


def test_every_format_says_the_p_value_and_its_models(tmp_path: Path) -> None:
    report = run(tmp_path, table([0.01] * 19)).report()
    for name in ("markdown", "html", "sarif", "junit"):
        assert "p-value 5.0%, as a searched trigger moves 0 of 19 trusted models" in FORMATS[name].render(report), name
    assert "p-value 5.0% among trusted models | ≥ 5% | 19 |" in FORMATS["markdown"].render(report)
    page = FORMATS["html"].render(report)
    assert sentence(report).endswith(
        f"images (100.0%) to class {TARGET}, and the embeddings as far as 0 of 19 trusted models. "
        "That is a p-value of 5.0%, and the policy asks for more than 5%."
    )
    assert "19 trusted models" in page and "0 of 19 trusted models as high" in page


# --- tables that do not fit ---


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 3}, "made with seed 3 instead of 0"),
        ({"precision": "bf16"}, "made with precision bf16 instead of fp32"),
        ({"pargate": "0.0.1"}, f"made with pargate 0.0.1 instead of {__version__}"),
        ({"images": "b" * 64}, f"made with images {'b' * 12} instead of "),
    ],
)
def test_a_table_of_another_search_is_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(tmp_path, table([0.01], **changed))


def test_a_table_without_the_family_or_of_another_budget_is_refused(tmp_path: Path) -> None:
    found = table([0.01])
    models = tuple(model.model_copy(update={"shifts": {"blend": 0.1}}) for model in found.models)
    for other in (
        found.model_copy(update={"passes": {"blend": PASSES["blend"]}, "models": models}),
        found.model_copy(update={"passes": {"patch": 7}}),
    ):
        with pytest.raises(InputError, match="and not by this one of patch"):
            run(tmp_path, other)


def altered(content: bytes) -> bytes:
    return content.replace(b"0.01", b"0.02")


@pytest.mark.parametrize(
    ("change", "pinned", "said"),
    [
        (altered, False, "was altered or is another one"),
        (lambda content: content[:-40], True, "is no calibration table: the file"),
        (lambda content: content.replace(b'"m1"', b'"m1", "more": 1'), True, "is no calibration table: models.1.more"),
        (lambda content: content.replace(b'"patch": 0.01', b'"blend": 0.01'), True, "m0 has not one shift for each"),
        (lambda content: content.replace(b"0.01", b"NaN"), True, "is no calibration table"),
        (lambda content: content.replace(f"{2:064x}".encode(), f"{1:064x}".encode()), True, "have the same weights"),
        (lambda content: content.replace(b"calibration/1", b"calibration/2"), True, "is no calibration table: schema"),
    ],
)
def test_an_altered_table_is_refused_in_one_message(
    tmp_path: Path, change: Callable[[bytes], bytes], pinned: bool, said: str
) -> None:
    written = table([0.01, 0.01]).to_json().encode()
    content = change(written)
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        read_table(tmp_path / "t.json", table_digest(content if pinned else written))
    assert len(refused.value.lines) == 1 and refused.value.hint


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the calibration table .*: No such file"):
        read_table(tmp_path / "none.json", PIN)


def test_the_committed_schema_is_what_the_models_say_and_a_table_fits_it() -> None:
    # After a change: write `form.schema()` as JSON with an indent of 1 and a final newline.
    committed = Path(form.__file__).with_name(form.SCHEMA_FILE).read_text()
    assert committed == json.dumps(form.schema(), indent=1) + "\n"
    jsonschema.Draft202012Validator.check_schema(form.schema())
    written = json.loads(table([0.01]).to_json())
    jsonschema.validate(written, form.schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**written, "models": []}, form.schema())
    assert Calibration.model_validate(written) == table([0.01])


# --- the policy ---


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("min: {p_value: 5%}", "x-min: {p_value: 5%}", "need each other"),
        ("calibration", "x-calibration", "need each other"),
        ("max: {excess: 30pp}", "max: {attack_success: 30%}", "needs a maximum of excess beside it"),
        ("max: {", "needs_reference: true, max: {", "leave out `needs_reference`"),
        ("p_value: 5%", "p_value: 0%", "more than 0% and less than 100%"),
        ("p_value: 5%", "p_value: 0.05", "did you mean 5%"),
        ("p_value: 5%", "p_value: 5x chance", "p_value has none"),
        ("max: {", "worsening: {p_value: 5pp}, max: {", "`worsening` has no limit on it"),
        ("excess: 30pp", "excess: 30pp, p_value: 5%", "has no maximum of p_value"),
        (PIN, "sha256:12", "write a digest in full"),
    ],
)
def test_a_rule_that_lacks_what_it_needs_is_refused(old: str, new: str, said: str) -> None:
    text = RULE % PIN
    assert old in text
    with pytest.raises(PolicyError, match=said):
        read_rule(text.replace(old, new))


def test_every_change_of_a_calibration_is_looser() -> None:
    with_table = RULE % PIN
    without = "{id: hidden, probe: search, families: [patch], max: {excess: 30pp}}"
    others = [without, with_table.replace("5%", "10%"), with_table.replace("5%", "1%"), RULE % f"sha256:{'1' * 64}"]
    for other in others:
        for old, new in ((with_table, other), (other, with_table)):
            (change,) = changes(read_rule(old).policy, read_rule(new).policy)
            assert (change.name, change.direction) == ("rules.hidden.calibration", "looser")


def test_the_path_of_a_table_in_a_parent_is_relative_to_the_parent(tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "p.yaml").write_text(f"pargate: 1\nname: org\nrules: [{RULE % PIN}]\n")
    text = "pargate: 1\nname: team\nextends: ./org/p.yaml\n"
    (found,) = read(text, str(tmp_path / "t.yaml"), tmp_path).policy.rules
    assert found.calibration is not None and found.calibration.path == "org/t.json"


def test_a_saved_report_is_judged_by_the_table_that_it_was_ranked_by(tmp_path: Path) -> None:
    there = run(tmp_path, table([0.01] * 19))
    report = ScanReport.from_json(there.report().to_json())
    again = rejudge.judge(report, Judging(there.resolved))
    assert again.findings == report.findings and again.findings[0].status is Status.BREACH
    other = read_rule(rule(tmp_path, table([3.9] * 19)))
    assert rejudge.judge(report, Judging(other)).findings[0].status is Status.OPEN


def test_a_small_attack_success_alone_does_not_hold_a_rule_with_a_table(tmp_path: Path) -> None:
    report = ScanReport.from_json(searched(planted=False).run().report().to_json())
    assert report.findings[0].status is Status.MET
    asked = Judging(read_rule(rule(tmp_path, table([0.01] * 19))))
    assert rejudge.judge(report, asked).findings[0].status is Status.OPEN


# --- pargate calibrate ---


def test_what_a_calibration_searches_reads_no_image_to_measure() -> None:
    asked = searching(["patch", "blend"]).policy.policy
    assert asked.rules[0].families == ("patch", "blend") and asked.budget.images == 1


def fake_models(monkeypatch: pytest.MonkeyPatch, precision: dict[str, str]) -> None:
    """Models that are not there: each name is its weights, and a scan finds a shift of a tenth of the number in it."""

    def inspect(name: str, arch: str | None = None) -> Checkpoint:
        return replace(MODEL, source=name, sha256=f"{name[0]:0>64}", tensors=(TensorInfo("w", "F32", (len(name),)),))

    def scan(request: ScanRequest, emit: Any) -> Any:
        report = PLANTED.report()
        number = str(request.model)[0]
        one = report.measurements[1]
        found = one.model_copy(update={"searched": Searched(shift=int(number) / 10, images="a" * 64)})
        if number == "9":
            found = found.model_copy(update={"searched": None, "stopped": "it has no gradients"})
        run = report.run.model_copy(update={"precision": precision.get(number, "fp32")})
        model = report.model.model_copy(update={"sha256": f"{number:0>64}", "source": str(request.model)})
        return report.model_copy(update={"measurements": (report.measurements[0], found), "run": run, "model": model})

    monkeypatch.setattr(calibrating, "inspect", inspect)
    monkeypatch.setattr(calibrating, "scan", scan)


def test_a_table_holds_one_shift_for_each_model_and_family(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_models(monkeypatch, {})
    found = calibrate(["1", "2", "3x"], ScanRequest("1", searching(["patch"])))
    assert [(model.name, model.shifts) for model in found.models] == [
        ("1", {"patch": 0.1}), ("2", {"patch": 0.2}), ("3x", {"patch": 0.3}),
    ]  # fmt: skip
    assert found.conditions == Conditions(pargate=__version__, seed=0, precision="fp32", images="a" * 64)
    assert lines(found) == [
        "1   toy: largest shift 0.100 (patch)",
        "2   toy: largest shift 0.200 (patch)",
        "3x  toy: largest shift 0.300 (patch)",
        "toy: 2 models, the smallest p-value is 33.3%",
        "toy: 1 model, the smallest p-value is 50.0%",
    ]


def test_the_command_writes_the_table_and_says_how_a_rule_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_models(monkeypatch, {})
    out = tmp_path / "t.json"
    assert run_command(["calibrate", "1", "2", "--families", "patch", "--out", str(out), "--cache", "off"]) == 0
    digest = table_digest(out.read_bytes())
    assert f"calibration: {{path: {out}, digest: '{digest}'}}" in "".join(capsys.readouterr().err.split("\n"))
    assert [model.shifts["patch"] for model in read_table(out, digest).models] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (["1", "2", "1x"], "1x and 1 have the same weights"),
        (["1", "9"], "9 cannot be searched: it has no gradients"),
        (["1", "2"], "2 was searched in bf16, and the model before it in another precision"),
    ],
)
def test_models_that_make_no_table_are_refused(monkeypatch: pytest.MonkeyPatch, models: list[str], said: str) -> None:
    fake_models(monkeypatch, {"2": "bf16"})
    with pytest.raises(InputError, match=said):
        calibrate(models, ScanRequest("1", searching(["patch"])))
