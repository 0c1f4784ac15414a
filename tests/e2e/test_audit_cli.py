"""Audits through the real command: measured once, judged again, killed and resumed, and hostile names kept harmless."""

import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from pargate.audit.inventory import slug
from pargate.audit.ledger import HEAD, LEDGER, sound
from pargate.cli.app import run
from pargate.core.audit import AuditIndex
from pargate.core.report import ScanReport
from pargate.errors import ExitCode
from pargate.models.open import inspect

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples" / "models"
REPORTS = ROOT / "tests" / "golden" / "reports"
HOSTILE = '$(touch x)\n../../up\n::error::"; exit 0; "<script>alert(1)</script>%0A::error'
"""A name that a shell, a log, a page or a file system could take for something else."""

POLICY = """
pargate: 1
name: toy
classes: {names: [apple, banana, car, fish, house, star, tree, key], templates: ['a photo of a {}.']}
rules:
  - {id: pull, probe: attack, triggers: [{kind: triangles, scale: proportional}], max: {excess: 30pp}}
"""

Command = Callable[..., Any]


def today() -> date:
    return datetime.now(UTC).date()


def prepare(folder: Path) -> None:
    """An inventory of four models, one of which cannot be read, and one of which is waived for ten days."""
    for name in ("clean", "poisoned"):
        shutil.copytree(MODELS / name, folder / "models" / name)
    (folder / "models" / "broken").mkdir()
    (folder / "models" / "broken" / "open_clip_config.json").write_text("{}")
    (folder / "policy.yaml").write_text(POLICY)
    sha = inspect(str(MODELS / "poisoned")).sha256
    waiver = (
        f"waivers:\n  - {{rule: pull, model: 'sha256:{sha}', reason: accepted-risk, approved_by: sec@example.org, "
        f"created: {today()}, expires: {today() + timedelta(days=10)}}}\n"
    )
    (folder / "waived.yaml").write_text(POLICY + waiver)
    models = [
        {"name": "clean", "model": "models/clean", "tags": ["production", "<b>"], "cadence": "7d"},
        {"name": HOSTILE, "model": "models/poisoned", "owner": "::add-mask::a"},
        {"name": "waived", "model": "models/poisoned", "policy": "waived.yaml"},
        {"name": "broken", "model": "models/broken"},
    ]
    defaults = {"policy": "policy.yaml", "owner": "ml@example.org"}
    document = {"inventory": "1", "defaults": defaults, "models": models}
    (folder / "inventory.yaml").write_text(json.dumps(document))  # JSON is YAML


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """The folder of a first audit with two jobs, its exit code, and what it said."""
    folder = tmp_path_factory.mktemp("audit")
    prepare(folder)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PARGATE")}
    # What the environment says of carriers must not reach the scans: no digest of it is in the key.
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PARGATE_IMAGES": "nowhere", "PARGATE_CACHE": "off"}
    command = [sys.executable, "-m", "pargate", "audit", "inventory.yaml", "--out", "out", "--jobs", "2"]
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, encoding="utf-8", check=False, timeout=400
    )
    return folder, done.returncode, done.stdout + done.stderr


@pytest.fixture
def audited(first: tuple[Path, int, str], place: Path) -> Path:
    """A copy of the first audit's folder, in which a command runs."""
    shutil.copytree(first[0], place, dirs_exist_ok=True)
    return place


def index(folder: Path) -> AuditIndex:
    return AuditIndex.model_validate_json((folder / "out" / "index.json").read_bytes())


def states(folder: Path) -> dict[str, Any]:
    return {state.name: state for state in index(folder).models}


def test_a_broken_model_stops_no_other_and_the_worst_decides(first: tuple[Path, int, str]) -> None:
    folder, code, _ = first
    assert code == ExitCode.FAIL
    found = states(folder)
    assert [str(s.standing) for s in found.values()] == ["pass", "fail", "pass", "error"]
    assert found["broken"].exit_code == ExitCode.INPUT and "holds no weights file" in found["broken"].message
    assert {name for name, s in found.items() if s.regression} == {HOSTILE, "broken"}
    assert found[HOSTILE].attack.rate > 0.9 and found["clean"].accuracy.low > 0


def test_every_model_has_its_pages_and_reports(first: tuple[Path, int, str]) -> None:
    out = first[0] / "out"
    for state in index(first[0]).models:
        folder = out / "models" / state.slug
        pages = {"index.html", "index.md"}
        reports = {"report.html", "report.md", "report.json"} if state.report else set()
        assert {p.name for p in folder.iterdir()} == pages | reports
        if reports:
            assert ScanReport.from_json((folder / "report.json").read_bytes()).verdict.status == state.standing
    assert {p.name for p in out.iterdir()} == {
        "index.html", "index.md", "index.json", "models", "reports", LEDGER, HEAD, "ledger.lock", ".lock",
    }  # fmt: skip


def test_hostile_names_are_text_everywhere(first: tuple[Path, int, str]) -> None:
    folder, _, said = first
    assert not (folder / "x").exists() and not list(folder.parent.glob("up*"))
    assert not [line for line in said.splitlines() if line.lstrip().startswith("::")]
    assert (folder / "out" / "models" / slug(HOSTILE)).is_dir()
    for page in (folder / "out").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text and "<b>" not in text
        assert "default-src 'none'" in text
    for page in (folder / "out").rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text and "\n::" not in text


def test_nothing_changed_means_nothing_is_measured(audited: Path, light: Command) -> None:
    began = time.monotonic()
    ended = light("audit", "inventory.yaml", "--out", "out")  # where importing torch raises
    assert ended.code == ExitCode.FAIL, ended.err
    assert time.monotonic() - began < 30
    found = states(audited)
    assert [s.reused for s in found.values()] == [True, True, True, False]
    assert found["clean"].previous.standing == "pass" and found["clean"].changes == ()
    assert len(found["clean"].history) == 2
    assert not [s for s in found.values() if s.regression]
    assert "nothing it depends on has changed" in (audited / "out/models/clean/index.html").read_text()
    whole = light("audit", "verify", "out", "--head", index(audited).ledger_head)
    assert whole.code == ExitCode.OK and "10 lines" in whole.said and "every report" in whole.said


def test_shards_that_are_merged_give_the_reports_of_one_audit(audited: Path, light: Command) -> None:
    for number in (1, 2):
        # The measurements of the fixture stand for those that each shard makes.
        shard = f"--shard={number}/2"
        done = light("audit", "inventory.yaml", "--out", f"s{number}", shard, "--merge", "out", "--cache", "off")
        index = AuditIndex.model_validate_json((audited / f"s{number}" / "index.json").read_text())
        assert index.shard == f"{number}/2" and len(index.models) == 2, done.err
        assert f"2 models of shard {number}/2" in done.said
    merged = light("audit", "inventory.yaml", "--out", "whole", "--merge", "s1", "--merge", "s2", "--cache", "off")
    assert "scanning" not in merged.err and merged.code == light("audit", "inventory.yaml", "--out", "out").code
    whole, one = (
        AuditIndex.model_validate_json((audited / name / "index.json").read_text()) for name in ("whole", "out")
    )
    assert [m.name for m in whole.models] == [m.name for m in one.models] and whole.shard == ""
    assert len(sound(audited / "whole").entries) == 5
    for state in one.models:
        ours, theirs = (audited / name / "models" / state.slug / "report.json" for name in ("whole", "out"))
        assert ours.exists() == theirs.exists()
        assert not ours.exists() or ours.read_bytes() == theirs.read_bytes()
    assert light("audit", "verify", "whole").code == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--shard", "3/2"), "--shard 3/2 is not a shard"),
        (("--shard", "0/2"), "--shard 0/2 is not a shard"),
        (("--merge", "models"), "there is no ledger in models"),
    ],
)
def test_a_wrong_shard_or_part_is_refused_before_anything_is_judged(
    options: tuple[str, ...], told: str, place: Path, light: Command
) -> None:
    prepare(place)
    done = light("audit", "inventory.yaml", "--out", "new", *options)
    assert (done.code, told in done.err, (place / "new").exists()) == (2, True, False)


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'pargate[ray]'")
def test_a_ray_cluster_gives_the_reports_of_one_machine_though_a_worker_is_killed(audited: Path, warm: Command) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PARGATE")} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pargate", "audit", "inventory.yaml", "--out", "ray", "--executor", "ray"]
    with subprocess.Popen([*command, "--jobs", "2", "--cache", "off"], cwd=audited, env=environment) as running:
        until = time.monotonic() + 120
        workers: list[psutil.Process] = []
        while not workers and time.monotonic() < until:
            below = psutil.Process(running.pid).children(recursive=True)
            workers = [p for p in below if p.name().startswith("ray::run") and p.children()]
            time.sleep(0.1)
        workers[0].kill()
        assert running.wait(timeout=600) == ExitCode.FAIL
    index = AuditIndex.model_validate_json((audited / "ray" / "index.json").read_text())
    assert [str(s.standing) for s in index.models] == ["pass", "fail", "pass", "error"]
    for state in index.models:
        ours, theirs = (audited / name / "models" / state.slug / "report.json" for name in ("ray", "out"))
        assert ours.exists() == theirs.exists()
        if ours.exists():
            one, other = (ScanReport.from_json(path.read_bytes()) for path in (ours, theirs))
            assert one.measurements == other.measurements and one.verdict == other.verdict


def test_only_what_is_new_counts_where_that_is_asked(audited: Path, light: Command) -> None:
    assert light("audit", "inventory.yaml", "--out", "out", "--fail-on", "new").code == ExitCode.OK
    (audited / "models" / "broken" / "open_clip_config.json").unlink()
    ended = light("audit", "inventory.yaml", "--out", "out", "--fail-on", "new", "-q")
    assert ended.code == ExitCode.INPUT, "another error than before"
    assert "clean" not in ended.said


def test_a_waiver_that_has_ended_fails_saved_measurements(audited: Path, light: Command) -> None:
    day = today() + timedelta(days=20)
    ended = light("audit", "inventory.yaml", "--out", "out", "--fail-on", "new", "--now", day.isoformat())
    assert ended.code == ExitCode.FAIL
    found = states(audited)
    assert found["waived"].reused and found["waived"].standing == "fail"
    assert found["waived"].regression == "it was pass in the last audit"
    assert "20 days after" in found["clean"].overdue and "overdue" in ended.said
    assert found["waived"].report != found["waived"].measured
    assert light("audit", "verify", "out").code == ExitCode.OK


def test_a_change_of_the_policy_is_named_and_measured_anew(audited: Path, warm: Command) -> None:
    (audited / "inventory.yaml").write_text(
        json.dumps({"inventory": "1", "models": [{"name": "clean", "model": "models/clean", "policy": "policy.yaml"}]})
    )
    (audited / "policy.yaml").write_text(POLICY.replace("30pp", "35pp"))
    ended = warm("audit", "inventory.yaml", "--out", "out")
    assert ended.code == ExitCode.OK, ended.err
    (state,) = index(audited).models
    assert not state.reused
    assert {change.about for change in state.changes} == {"policy", "probes"}
    assert any("rules.pull.max.excess: 30pp before, 35pp now (looser)" in change.text for change in state.changes)
    assert len(index(audited).gone) == 3 and "waived" in (audited / "out" / "index.html").read_text()


def test_a_forged_report_is_not_believed_but_measured_again(audited: Path, warm: Command, light: Command) -> None:
    state = states(audited)["clean"]
    (audited / "inventory.yaml").write_text(
        json.dumps({"inventory": "1", "models": [{"name": "clean", "model": "models/clean", "policy": "policy.yaml"}]})
    )
    path = audited / "out" / "reports" / f"{state.measured}.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    seen = light("audit", "verify", "out")
    assert seen.code == ExitCode.FAIL and "its report was changed" in seen.said
    ended = warm("audit", "inventory.yaml", "--out", "out")
    assert ended.code == ExitCode.OK
    (state,) = index(audited).models
    assert not state.reused and state.remeasured == "the saved report was changed"


def test_a_ledger_that_was_changed_stops_the_audit(audited: Path, light: Command) -> None:
    path = audited / "out" / LEDGER
    path.write_bytes(path.read_bytes().replace(b'"standing":"fail"', b'"standing":"pass"', 1))
    seen = light("audit", "verify", "out")
    assert seen.code == ExitCode.FAIL and "✗ line " in seen.said
    before = (audited / "out" / "index.json").read_bytes()
    ended = light("audit", "inventory.yaml", "--out", "out")
    assert ended.code == ExitCode.INPUT and "was changed" in ended.said
    assert (audited / "out" / "index.json").read_bytes() == before
    assert light("audit", "history", "out").code == ExitCode.INPUT


def test_history_and_trend_print_what_the_ledger_holds(audited: Path, light: Command) -> None:
    told = light("audit", "history", "out")
    assert told.code == ExitCode.OK and len(told.out.splitlines()) == 5 and "audit ended" in told.out
    assert not [line for line in told.out.splitlines() if line.lstrip().startswith("::")]
    (only,) = json.loads(light("audit", "history", "out", "--model", "clean", "-o", "json").out)
    assert only["standing"] == "pass" and only["inputs"]["pargate"]
    trend = light("audit", "trend", "out", "--model", "clean").out
    assert "attack success" in trend and "accuracy" in trend and "n = " in trend


@pytest.mark.parametrize("word", ["history", "trend"])
def test_a_terminal_breaks_history_and_trend_between_words(
    audited: Path, light: Command, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = light("audit", word, "out").out
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "60")
    assert run(["audit", word, str(audited / "out")]) == ExitCode.OK
    lines = screen.getvalue().splitlines()
    assert (max(map(len, lines)) <= 60, screen.getvalue().split()) == (True, whole.split())


def test_a_ledger_may_lie_elsewhere(audited: Path, light: Command) -> None:
    (audited / "branch").mkdir()
    for name in (LEDGER, HEAD):
        shutil.move(audited / "out" / name, audited / "branch" / name)
    assert light("audit", "inventory.yaml", "--out", "out", "--ledger", "branch").code == ExitCode.FAIL
    assert not (audited / "out" / LEDGER).exists()
    assert [s.reused for s in states(audited).values()] == [True, True, True, False]
    assert light("audit", "verify", "out", "--ledger", "branch").code == ExitCode.OK


def launch(folder: Path) -> "subprocess.Popen[bytes]":
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PARGATE_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "pargate", "audit", "inventory.yaml", "--out", "out"]
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + 200
    while not condition():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)


def two_models(folder: Path) -> None:
    prepare(folder)
    models = [{"name": n, "model": f"models/{n}", "policy": "policy.yaml"} for n in ("poisoned", "clean")]
    (folder / "inventory.yaml").write_text(json.dumps({"inventory": "1", "models": models}))


def test_a_killed_audit_keeps_what_was_judged_and_hides_no_regression(place: Path, warm: Command) -> None:
    two_models(place)
    ledger = place / "out" / LEDGER
    killed = launch(place)
    wait_for(lambda: ledger.exists() and ledger.read_bytes().endswith(b"\n"), killed)
    killed.kill()
    killed.communicate()
    assert len(sound(place / "out").entries) == 1
    ended = warm("audit", "inventory.yaml", "--out", "out", "--fail-on", "new")
    assert ended.code == ExitCode.FAIL, "what the killed audit found first is still new"
    found = states(place)
    assert (found["poisoned"].reused, found["clean"].reused) == (True, False)
    assert [e.kind for e in sound(place / "out").entries] == ["model", "model", "model", "audit"]
    assert not (place / "out" / ".work").exists()


def test_a_terminated_audit_ends_its_scans_and_says_what_is_missing(place: Path) -> None:
    two_models(place)
    process = launch(place)
    work = place / "out" / ".work"
    wait_for(lambda: any(work.glob("*/*.txt")), process)
    (child,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == ExitCode.SIGTERM, said
    assert not child.is_running()
    found = index(place)
    assert not found.complete and found.models == ()
    assert "interrupted" in (place / "out" / "index.html").read_text()
    assert not work.exists()


def test_a_scan_that_is_killed_for_memory_is_the_error_of_its_model_alone(place: Path) -> None:
    two_models(place)
    models = [{"name": n, "model": f"models/{n}", "policy": "policy.yaml"} for n in ("clean", "broken")]
    (place / "inventory.yaml").write_text(json.dumps({"inventory": "1", "models": models}))
    process = launch(place)
    wait_for(lambda: any((place / "out" / ".work").glob("*/*.txt")), process)
    (child,) = psutil.Process(process.pid).children()
    child.kill()
    process.communicate(timeout=60)
    assert process.returncode == ExitCode.OPERATIONAL, "worse than the input of the other"
    found = states(place)
    assert "SIGKILL" in found["clean"].message and "memory" in found["clean"].hint
    assert found["broken"].exit_code == ExitCode.INPUT and index(place).complete


BAD = """inventory: 1
defaults: {polcy: audit}
models:
  - name: a
    model: models/clean
    cadence: weekly
  - name: a
    modl: models/clean
    revision: main
"""


def test_everything_that_is_wrong_with_an_inventory_is_said_at_once(place: Path, light: Command) -> None:
    (place / "inventory.yaml").write_text(BAD)
    ended = light("audit", "inventory.yaml", "--out", "out")
    assert ended.code == ExitCode.INPUT
    for words in (
        "inventory.yaml:2:12: unknown key 'polcy'. Did you mean 'policy'?",
        "inventory.yaml:6:5: write a number of days, such as 30d",
        "inventory.yaml:7:5: the name 'a' is already used in line 4",
        "inventory.yaml:8:5: unknown key 'modl'. Did you mean 'model'?",
        "the key 'model' is missing",
    ):
        assert words in ended.said
    assert "Traceback" not in ended.said and not (place / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read the inventory inventory.yaml: No such file"),
        ("", "no inventory: it is empty"),
        ("inventory: 2\nmodels: [{name: a, model: b}]", "write `inventory: 1`"),
        ("inventory: 1\nmodels: []", "at least one is needed"),
        ("inventory: 1\ninventory: 1\nmodels: []", "the key 'inventory' is here twice"),
        ("inventory: 1\nmodels: [{name: a, model: b, revision: main}]", "a revision is for hf-hub:ORG/NAME"),
        ("inventory: 1\nmodels: &x [*x]", "anchors and aliases are not used here"),
    ],
)
def test_what_is_no_inventory_is_refused(text: str | None, words: str, place: Path, light: Command) -> None:
    if text is not None:
        (place / "inventory.yaml").write_text(text)
    ended = light("audit", "inventory.yaml", "--out", "out")
    assert ended.code == ExitCode.INPUT and words in ended.said and not (place / "out").exists()


def test_a_bad_policy_is_the_error_of_its_model_alone(place: Path, light: Command) -> None:
    (place / "p.yaml").write_text("pargate: 1\nname: x\nruls: []\n")
    (place / "inventory.yaml").write_text("inventory: 1\nmodels: [{name: a, model: m, policy: p.yaml}]\n")
    ended = light("audit", "inventory.yaml", "--out", "out")
    assert ended.code == ExitCode.POLICY
    assert "unknown key 'ruls'" in index(place).models[0].message


def test_a_file_that_could_run_code_fails_without_being_loaded(place: Path, light: Command) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, ("touch x",))

    (place / "m.pt").write_bytes(pickle.dumps(Evil()))
    models = [{"name": "a", "model": "m.pt", "arch": "ViT-B-32", "policy": "baseline"}]
    (place / "inventory.yaml").write_text(json.dumps({"inventory": "1", "models": models}))
    assert light("audit", "inventory.yaml", "--out", "out").code == ExitCode.FAIL
    assert index(place).models[0].standing == "fail"
    assert not (place / "x").exists()


@pytest.mark.parametrize("word", ["history", "trend", "verify"])
def test_there_must_be_a_ledger_to_look_into(word: str, place: Path, light: Command) -> None:
    ended = light("audit", word, ".")
    assert ended.code == ExitCode.INPUT and "there is no ledger in" in ended.said


# --- freshness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days_later", "most", "code"),
    [(0, "35d", 0), (35, "35d", 0), (36, "35d", 1), (400, "35d", 1), (-1, "35d", 0), (-2, "35d", 1)],
)
def test_a_report_counts_as_fresh_for_so_many_days(days_later: int, most: str, code: int, light: Command) -> None:
    report = REPORTS / "passing.json"
    day = datetime.fromisoformat(ScanReport.from_json(report.read_bytes()).run.started).date()
    now = (day + timedelta(days=days_later)).isoformat()
    ended = light("report", report, "--check-freshness", most, "--now", now, "-q")
    assert ended.code == code
    assert ended.err == "" and len(ended.out.splitlines()) == 1
    assert f"{report}: {'stale' if code else 'fresh'}: its run began" in ended.out


@pytest.mark.parametrize("text", ["", "d", "35", "0d", "-1d", "3.5d", "35w", "1000000d"])
def test_an_age_that_is_no_number_of_days_is_refused(text: str, light: Command) -> None:
    ended = light("report", REPORTS / "passing.json", "--check-freshness", text)
    assert ended.code == ExitCode.INPUT and "is not a number of days" in ended.said


def test_an_old_report_fails_also_where_its_verdict_would_not_be_a_fail(light: Command, place: Path) -> None:
    (place / "p.yaml").write_text(
        "pargate: 1\nname: x\nrules:\n  - {id: new, probe: attack, triggers: [tone], max: {excess: 30pp}}\n"
    )
    command = ("report", REPORTS / "passing.json", "-p", "p.yaml", "--now", "2031-01-01", "-o", "json=r.json")
    assert light(*command).code == ExitCode.INCONCLUSIVE
    assert light(*command, "--check-freshness", "35d").code == ExitCode.FAIL
    assert (place / "r.json").exists()
