import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pargate.core.report import ScanReport
from pargate.policy.explain import entries
from pargate.policy.jsonschema import NAME
from pargate.policy.layers import shipped
from pargate.policy.resolve import resolve

ROOT = Path(__file__).parents[2]
SAVED = ROOT / "tests" / "golden" / "report_v1.json"

Command = Callable[..., Any]

GOOD = "pargate: 1\nname: mine\nrules: [{id: a, probe: attack, triggers: [badnet], max: {excess: 30pp}}]\n"

CHILD = "pargate: 1\nname: child\nextends: org.yaml\n"

WAIVED = GOOD + (
    f"waivers: [{{rule: a, model: 'sha256:{'a' * 64}', reason: accepted-risk, approved_by: me, expires: 2026-12-01}}]\n"
)


@pytest.fixture
def write(place: Path) -> Callable[..., None]:
    """Write files into the working folder, by name."""

    def run(**texts: str) -> None:
        for name, text in texts.items():
            (place / f"{name}.yaml").write_text(text, encoding="utf-8")

    return run


# --- help ---


def test_the_commands_for_policies_are_listed(light: Command) -> None:
    assert "policy" in light("--help").out and "explain" in light("--help").out
    ended = light("policy", "--help")
    assert (ended.code, ended.err) == (0, "")
    for command in ("check", "show", "init", "schema", "diff", "test"):
        assert f"\n  {command} " in ended.out
    assert light("policy").code == 2


@pytest.mark.parametrize("arguments", [["policy", "--help"], ["policy", "check", "--help"], ["explain", "--help"]])
def test_the_help_imports_nothing_heavy(arguments: list[str], place: Path) -> None:
    code = (
        "import sys\n"
        "from pargate.__main__ import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n"
        "    print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    heavy = {"torch", "numpy", "scipy", "PIL", "yaml", "rich", "jinja2"}  # typer loads a part of pydantic itself
    assert ended.stdout.startswith(f"Usage: pargate {arguments[0]} ")
    assert sorted(heavy & set(ended.stderr.split())) == []


# --- check ---


def test_policies_that_are_fine_get_a_line_each(write: Callable[..., None], light: Command) -> None:
    write(a=GOOD, b=WAIVED)
    ended = light("policy", "check", "a.yaml", "b.yaml", "strict", "--now", "2026-12-01")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "✓ a.yaml: mine, 1 rule, 1 comparison, 0 waivers",
        "✓ b.yaml: mine, 1 rule, 1 comparison, 1 waiver",
        "✓ builtin:strict: strict, 7 rules, 34 comparisons, 0 waivers",
    ]
    assert "1 waiver (1 expired)" in light("policy", "check", "b.yaml", "--now", "2026-12-02").said


def test_everything_that_is_wrong_in_all_files_is_said_at_once(write: Callable[..., None], light: Command) -> None:
    write(a=GOOD.replace("30pp", "30"), b=GOOD, c=GOOD.replace("name:", "nam:"))
    ended = light("policy", "check", "a.yaml", "b.yaml", "c.yaml", "nowhere.yaml")
    assert (ended.code, ended.out) == (4, "✓ b.yaml: mine, 1 rule, 1 comparison, 0 waivers\n")
    for words in (
        "a.yaml:3:58: a limit needs its unit: did you mean 30%?",
        "✓ b.yaml: mine",
        "c.yaml:2:1: unknown key 'nam'. Did you mean 'name'?",
        "no such policy: nowhere.yaml",
    ):
        assert words in ended.said


def test_without_a_file_the_policy_of_a_scan_here_is_checked(write: Callable[..., None], light: Command) -> None:
    assert "✓ builtin:baseline" in light("policy", "check").said
    write(pargate=GOOD)
    assert "✓ pargate.yaml: mine" in light("policy", "check").said


def test_a_policy_whose_last_day_is_over_is_refused(write: Callable[..., None], light: Command) -> None:
    write(a=GOOD + "valid_until: 2026-12-01\n")
    assert light("policy", "check", "a.yaml", "--now", "2026-12-01").code == 0
    ended = light("policy", "check", "a.yaml", "--now", "2026-12-02")
    assert ended.code == 4
    assert "a.yaml:4:1: the policy mine was valid until 2026-12-01" in ended.said
    assert light("policy", "check", "a.yaml", "--now", "tomorrow").code == 2


# --- show ---


def test_a_policy_is_shown_as_it_is_written(write: Callable[..., None], light: Command) -> None:
    write(a=f"# mine\n{GOOD}")
    assert light("policy", "show", "a.yaml").out == f"# mine\n{GOOD}"
    assert light("policy", "show", "strict").out == shipped()["strict"]


def test_a_resolved_policy_says_where_each_value_comes_from(
    place: Path, write: Callable[..., None], light: Command
) -> None:
    write(org=GOOD, p=CHILD + "rules: [{id: a, max: {excess: 20pp}}]\n")
    ended = light("policy", "show", "--resolved", "p.yaml")
    assert (ended.code, ended.err) == (0, "")
    lines = [line.strip() for line in ended.out.splitlines()]
    for line in ("excess: 20pp  # p.yaml:4", "probe: attack  # org.yaml:3", "confidence: 99%  # default"):
        assert line in lines
    (place / "again.yaml").write_text(ended.out)
    assert light("policy", "check", "again.yaml").code == 0


def test_a_policy_that_is_wrong_is_not_shown(write: Callable[..., None], light: Command) -> None:
    write(a=GOOD.replace("30pp", "30"))
    ended = light("policy", "show", "a.yaml")
    assert (ended.code, ended.out) == (4, "")


def test_a_ref_shows_what_is_committed_and_not_what_a_branch_made_of_it(
    place: Path, write: Callable[..., None], light: Command
) -> None:
    write(a=GOOD)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=place, check=True, capture_output=True)
    write(a=GOOD.replace("30pp", "90pp"))
    assert light("policy", "show", "a.yaml", "--policy-ref", "main").out == GOOD
    assert light("policy", "check", "a.yaml", "--policy-ref", "HEAD").code == 0
    ended = light("policy", "diff", "a.yaml", "a.yaml", "--policy-ref", "main")
    assert (ended.code, ended.out) == (1, "looser   rules.a.max.excess  30pp → 90pp\n")
    missing = light("policy", "show", "a.yaml", "--policy-ref", "mian")
    assert missing.code == 4 and "there is no git ref 'mian' here" in missing.said


# --- init ---


def test_a_first_policy_is_written_and_passes_its_check(place: Path, light: Command) -> None:
    ended = light("policy", "init", "--images", "./val", "--classes", "classes.txt", "--extends", "strict")
    assert (ended.code, ended.out) == (0, "")
    assert "note: ./val is not here yet" in ended.err and "note: classes.txt is not here yet" in ended.err
    assert light("policy", "check", "pargate.yaml").code == 0
    policy = resolve(str(place / "pargate.yaml")).policy
    assert (policy.name, policy.images.source, policy.classes.names) == ("here", "val", "classes.txt")
    assert policy.extends is not None and policy.extends.file == "builtin:strict"
    assert [path.name for path in place.iterdir()] == ["pargate.yaml"]


def test_a_policy_in_another_folder_leads_to_the_same_files(place: Path, light: Command) -> None:
    (place / "ci").mkdir()
    options = ("--name", "no", "--images", "val", "--classes", "https://example.org/a", "--yes")
    assert light("policy", "init", "ci/p.yaml", *options).code == 0
    policy = resolve(str(place / "ci" / "p.yaml")).policy
    assert (policy.name, policy.images.source, policy.classes.names) == ("no", "../val", "https://example.org/a")


def test_a_file_that_is_there_is_replaced_only_when_asked(write: Callable[..., None], light: Command) -> None:
    write(pargate=GOOD)
    ended = light("policy", "init")
    assert ended.code == 2
    assert "pargate.yaml exists already" in ended.said and "--force" in ended.said
    assert light("policy", "show").out == GOOD
    assert light("policy", "init", "--force").code == 0
    assert light("policy", "show").out != GOOD


def test_a_first_policy_that_could_not_be_read_is_not_written(place: Path, light: Command) -> None:
    ended = light("policy", "init", "--extends", "nowhere")
    assert ended.code == 4 and "no such policy: nowhere" in ended.said
    assert light("policy", "init", "no/such/folder.yaml").code == 2
    assert not list(place.iterdir())


# --- schema ---


def test_the_schema_is_printed_as_it_is_shipped(light: Command) -> None:
    ended = light("policy", "schema")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (ROOT / "policies" / NAME).read_text(encoding="utf-8")


# --- diff ---


def test_what_is_looser_ends_with_one_and_comes_first(write: Callable[..., None], light: Command) -> None:
    write(a=GOOD, b=GOOD.replace("30pp", "40pp") + "confidence: 99.9%\nimages: {source: ./val}\n")
    ended = light("policy", "diff", "a.yaml", "b.yaml")
    assert (ended.code, ended.err) == (1, "")
    assert ended.out.splitlines() == [
        "looser   rules.a.max.excess  30pp → 40pp",
        "tighter  confidence          99% → 99.9%",
        "other    images.source       not set → ./val",
    ]


def test_what_is_not_looser_ends_with_zero(write: Callable[..., None], light: Command) -> None:
    write(a=GOOD, b=GOOD.replace("30pp", "20pp"))
    assert light("policy", "diff", "a.yaml", "b.yaml").code == 0
    ended = light("policy", "diff", "a.yaml", "a.yaml")
    assert (ended.code, ended.out) == (0, "")
    assert "no difference affects a verdict" in ended.said
    assert light("policy", "diff", "a.yaml", "nowhere").code == 4
    assert light("policy", "diff", "a.yaml").code == 2


def test_no_text_of_a_policy_steers_the_terminal(write: Callable[..., None], light: Command) -> None:
    hostile = r'"\e[2J\u202e"'
    write(a=GOOD, b=GOOD.replace("mine", hostile) + f"images: {{source: {hostile}}}\n")
    for ended in (light("policy", "diff", "a.yaml", "b.yaml"), light("policy", "check", "b.yaml")):
        assert "\x1b" not in ended.out + ended.err and "\u202e" not in ended.out + ended.err


# --- test ---


@pytest.fixture
def tested(place: Path) -> Callable[..., None]:
    """Write the policy of the saved report as p.yaml, with one test of it."""

    def run(expect: dict[str, Any], **case: str) -> None:
        report = ScanReport.from_json(SAVED.read_bytes())
        (place / "reports").mkdir(exist_ok=True)
        (place / "reports" / "r.json").write_text(report.to_json(), encoding="utf-8")
        document = {**report.policy.document, "tests": [{"report": "reports/r.json", **case, "expect": expect}]}
        document = {key: value for key, value in document.items() if value is not None}
        (place / "p.yaml").write_text(json.dumps(document, indent=1))

    return run


def test_a_policy_is_tested_on_a_stored_report(tested: Callable[..., None], light: Command) -> None:
    tested({"verdict": "fail", "rules": {"patches": "fail"}})
    ended = light("policy", "test", "p.yaml")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == ["✓ reports/r.json as of 2026-01-31: fail", "1 of 1 test as expected"]


def test_what_ends_otherwise_is_said_with_what_was_expected(tested: Callable[..., None], light: Command) -> None:
    tested({"verdict": "pass", "rules": {"patches": "waived", "pathces": "pass", "useful": "fail"}}, now="2026-02-01")
    ended = light("policy", "test", "p.yaml")
    assert (ended.code, ended.err) == (1, "")
    lines = ended.out.splitlines()
    assert lines[0] == "✗ reports/r.json as of 2026-02-01: fail"
    assert lines[1] == "    verdict: expected pass, got fail"
    assert lines[2].startswith("    patches: expected waived, got fail. badnet")
    assert lines[3] == "    pathces: expected pass, but there is no such rule. Did you mean 'patches'?"
    assert lines[-1] == "0 of 1 test as expected"


def test_a_waiver_counts_on_the_day_of_the_test(place: Path, tested: Callable[..., None], light: Command) -> None:
    tested({"rules": {"patches": "waived"}}, now="2026-02-01")
    document = json.loads((place / "p.yaml").read_text())
    document["rules"][0]["triggers"] = ["badnet"]  # the other one was not measured, and that no waiver accepts
    waiver = {"rule": "patches", "model": f"sha256:{'a' * 64}", "reason": "accepted-risk", "approved_by": "me",
              "expires": "2026-02-01"}  # fmt: skip
    (place / "p.yaml").write_text(json.dumps({**document, "waivers": [waiver]}))
    assert light("policy", "test", "p.yaml").code == 0
    document["tests"][0]["now"] = "2026-02-02"
    (place / "p.yaml").write_text(json.dumps({**document, "waivers": [waiver]}))
    assert light("policy", "test", "p.yaml").code == 1


def test_a_policy_without_tests_and_reports_that_are_none_are_errors(
    place: Path, tested: Callable[..., None], light: Command
) -> None:
    ended = light("policy", "test", "strict")
    assert ended.code == 2 and "the policy strict has no tests" in ended.said
    tested({"verdict": "fail"})
    (place / "reports" / "r.json").write_text("{}")
    assert light("policy", "test", "p.yaml").code == 2
    (place / "reports" / "r.json").unlink()
    ended = light("policy", "test", "p.yaml")
    assert ended.code == 2 and "cannot read the report reports/r.json" in ended.said


# --- explain ---


@pytest.mark.parametrize("id", ["waiver-unused", "open", "retrieval", "badnet-rand"])
def test_an_id_is_explained(id: str, light: Command) -> None:
    ended = light("explain", id)
    assert (ended.code, ended.err) == (0, "")
    entry = entries()[id]
    for text in (entry.meaning, f"Why it matters: {entry.why}", f"What to do: {entry.do}", f"docs/rules.md#{id} of"):
        assert text in ended.out


def test_a_rule_of_ones_own_is_explained_in_the_words_of_its_policy(write: Callable[..., None], light: Command) -> None:
    more = "why: Stickers are cheap., help: 'https://example.org/stickers', waivable: false, max:"
    write(p=GOOD.replace("id: a", "id: stickers").replace("max:", more))
    ended = light("explain", "stickers", "-p", "p.yaml")
    assert (ended.code, ended.err) == (0, "")
    for text in (
        "stickers (rule, high)",
        "why: Stickers are cheap.",
        "holds if excess is at most 30pp",
        "may not be waived",
        "help: https://example.org/stickers",
        "attack (probe)",
        entries()["attack"].do,
        "docs/rules.md#attack",
    ):
        assert text in ended.out
    assert light("explain", "stickers").code == 2
    write(pargate=GOOD.replace("id: a", "id: stickers"))
    assert light("explain", "stickers").code == 0


def test_a_broken_policy_here_does_not_hide_what_a_remark_means(write: Callable[..., None], light: Command) -> None:
    write(pargate="pargate: 1\n")
    assert light("explain", "waiver-expired").code == 0
    assert light("explain", "something").code == 4
    assert light("explain", "met", "-p", "pargate.yaml").code == 4


def test_an_unknown_id_is_answered_with_the_closest(light: Command) -> None:
    ended = light("explain", "waiver-expird")
    assert (ended.code, ended.out) == (2, "")
    assert "unknown id 'waiver-expird'. Did you mean 'waiver-expired'?" in ended.said
