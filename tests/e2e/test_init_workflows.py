"""What `pargate init github` writes, run job by job."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MODELS, ROOT
from runner import Job, Machine

from pargate.github.scaffold import AUDIT, GATE, INVENTORY, Options, plan

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ACTION = "someone/pargate"
OWN = {"pull_request": {"number": 7, "head": {"repo": {"id": 1}, "sha": "abc"}, "base": {"repo": {"id": 1}, "sha": ""}}}
FORK = {"pull_request": {"head": {"repo": {"id": 2}}, "base": {"repo": {"id": 1}, "sha": ""}}}

# Makes an environment that borrows the packages of these tests, with an installer that only says what it was asked for.
VENV = """\
#!/bin/sh
if [ "$2" = -m ] && [ "$3" = venv ]; then
  "{python}" -m venv --without-pip "$4" || exit 1
  site=$("$4/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo "{site}" > "$site/borrowed.pth"
  mkdir "$site/pip" && : > "$site/pip/__init__.py"
  echo 'import sys; print("pip", *sys.argv[1:])' > "$site/pip/__main__.py"
else
  exec "{python}" "$@"
fi
"""

Start = Callable[..., Machine]


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Someone", "-c", "user.email=someone@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Store:
    """Artifacts of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reports: list[str] = []
        self.cache: Path | None = None
        """What an earlier audit left to the cache."""

    def upload(self, job: Job, given: dict[str, str]) -> None:
        for line in given["path"].splitlines():
            path = job.machine.workspace / line
            if line.startswith("!"):
                continue
            assert path.exists() or given["if-no-files-found"] != "error"
            place = self.folder / given["name"]
            if path.is_file():
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
            elif path.is_dir():
                shutil.copytree(path, place, dirs_exist_ok=True)

    def download(self, job: Job, given: dict[str, str]) -> None:
        if "pattern" in given:
            for found in self.folder.glob(given["pattern"]):
                shutil.copytree(found, Path(given["path"], found.name))
            return
        shutil.copytree(self.folder / given["name"], given["path"], dirs_exist_ok=True)

    def restore(self, job: Job, given: dict[str, str]) -> None:
        if self.cache is not None:
            shutil.copytree(self.cache, given["path"])

    def file(self, name: str) -> Path:
        (found,) = (self.folder / name).iterdir()
        return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def start(tmp_path: Path, store: Store) -> Start:
    """A fresh machine with the repository checked out, as every job has one."""
    origin, home = tmp_path / "origin.git", tmp_path / "home"
    home.mkdir()
    git(home, "init", "--quiet", "--bare", "--initial-branch=main", str(origin))
    git(home, "init", "--quiet", "--initial-branch=main")
    shutil.copytree(MODELS, home / "models")
    shutil.copy(ROOT / "examples" / "policy.yaml", home / "pargate.yaml")
    python = tmp_path / "python"
    python.write_text(VENV.format(python=sys.executable, site=sysconfig.get_path("purelib")))
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    runs = [0]

    def publish(**options: Any) -> None:
        options = Options(action=f"{ACTION}@{COMMIT}", branch="main", policy="pargate.yaml", **options)
        plan(home, options, force=True).write()
        git(home, "add", "--all")
        git(home, "commit", "--quiet", "--allow-empty", "--message", "change")
        git(home, "push", "--quiet", str(origin), "HEAD:main")

    def check_out(job: Job, given: dict[str, str]) -> None:
        assert given["persist-credentials"] == "False" or given["persist-credentials"] == "false"
        if "repository" in given:
            assert (given["repository"], given["ref"]) == (ACTION, COMMIT)
            (job.machine.workspace / given["path"]).symlink_to(ROOT)

    def prepared(job: Job, given: dict[str, str]) -> dict[str, str]:
        """The cache of the Action's environment."""
        venv = Path(given["path"])
        if venv.name == "audit":
            store.restore(job, given)
        if venv.name in ("audit", "pargate-vectors"):
            return {}
        subprocess.run([str(python), "-I", "-m", "venv", str(venv)], check=True)
        lock = (ROOT / "requirements-action.lock").read_bytes()
        (venv / ".locked").write_text(hashlib.sha256(lock).hexdigest())
        return {"cache-hit": "true"}

    def run(event: str = "push", payload: dict[str, Any] | None = None, **options: Any) -> Machine:
        publish(**options)
        runs[0] += 1
        place = tmp_path / f"machine-{runs[0]}"
        git(home, "clone", "--quiet", str(origin), str(place / "work"))
        return Machine(
            place / "work",
            place / "temp",
            event=event,
            payload=payload or {},
            uses={
                "actions/attest": lambda job, given: None,
                "actions/cache": store.restore,
                "actions/cache/restore": prepared,
                "actions/cache/save": lambda job, given: None,
                "actions/checkout": check_out,
                "actions/download-artifact": store.download,
                "actions/setup-python": lambda job, given: {"python-path": str(python)},
                "actions/upload-artifact": store.upload,
                "github/codeql-action/upload-sarif": lambda job, given: store.reports.append(given["sarif_file"]),
            },
            actions={ACTION: ROOT},
        )

    return run


def job(machine: Machine, name: str, workflow: str = GATE, **needs: Job | str) -> Job:
    """Run one job; those before it by what they ended with."""
    known = {
        key: {"result": one, "outputs": {}} if isinstance(one, str) else {"result": one.result, "outputs": one.outputs}
        for key, one in needs.items()
    }
    return machine.job(machine.workspace / workflow, name, needs=known)


def scanned(machine: Machine) -> None:
    """Let the Action find a model that passes, without work."""

    def scan(one: Job, given: dict[str, str]) -> dict[str, str]:
        assert given["changed-only"] == str(machine.event == "pull_request").lower()
        sarif = one.machine.workspace / "pargate-reports" / "sarif"
        sarif.mkdir(parents=True)
        (sarif / "models-clean.sarif").write_text('{"version": "2.1.0"}')
        return {"verdict": "pass", "sarif": "pargate-reports/sarif", "reports": "pargate-reports"}

    machine.actions.clear()
    machine.uses[ACTION] = scan


def bundling(machine: Machine) -> list[dict[str, str]]:
    """Let the Action make a bundle without work; what it was asked for."""
    asked: list[dict[str, str]] = []

    def gate(one: Job, given: dict[str, str]) -> dict[str, str]:
        asked.append(given)
        bundle = one.machine.workspace / "pargate-reports" / "models-clean" / "bundle"
        bundle.mkdir(parents=True)
        (bundle / "SHA256SUMS").write_text("sums\n")
        (bundle / "a file; $(touch x)").write_text("weights\n")
        return {"reports": "pargate-reports", "verdict": "pass"}

    machine.actions.clear()
    machine.uses[ACTION] = gate
    return asked


# --- the gate ------------------------------------------------------------------------------------------


def test_a_model_that_passes_goes_on_to_its_bundle_and_code_scanning(start: Start, store: Store) -> None:
    machine = start(models=("models/clean",))
    scanned(machine)
    gate = job(machine, "gate")
    assert (gate.result, gate.outputs["verdict"]) == ("success", "pass"), gate.log
    assert {p.name for p in store.folder.iterdir()} == {"pargate-sarif", "pargate-reports"}

    sarif = job(start(models=("models/clean",)), "sarif", gate=gate)
    assert sarif.result == "success", sarif.log
    (folder,) = store.reports
    (report,) = Path(folder).glob("*.sarif")
    assert json.loads(report.read_bytes())["version"] == "2.1.0"
    assert job(start(models=("models/clean",)), "pargate", gate=gate, bundle="success").result == "success"


@pytest.mark.slow
def test_a_model_that_fails_is_red_and_offered_for_cleaning_after_review(start: Start) -> None:
    options = {"models": ("models/poisoned",), "labels": ("self-hosted", "gpu")}
    gate = job(start(**options), "gate")
    assert (gate.result, gate.outputs["verdict"], gate.code) == ("failure", "fail", 1), gate.log
    assert "models" in gate.summary
    assert gate.outputs["sarif"], "findings are kept where they matter most"
    assert job(start(**options), "bundle", gate=gate).result == "skipped"
    assert job(start(**options), "pargate", gate=gate, bundle="skipped").result == "failure"

    machine = start(**options)
    asked = bundling(machine)
    clean = job(machine, "clean", gate=gate)
    assert (clean.result, len(clean.outputs["bundle"])) == ("success", 64)
    assert (asked[0]["command"], asked[0]["arguments"].split(), asked[0]["cache"]) == (
        "gate",
        ["--require", "cuda"],
        "false",
    )
    for event in ("pull_request", "schedule", "pull_request_target"):
        assert job(start(event, FORK, **options), "clean", gate=gate).result == "skipped"


def test_a_fork_gets_the_verdict_and_leaves_nothing_behind(start: Start, store: Store) -> None:
    machine = start("pull_request", FORK, models=("models/clean",))
    scanned(machine)
    gate = job(machine, "gate")
    assert (gate.result, gate.outputs["verdict"]) == ("success", "pass"), gate.log
    assert gate.outputs["sarif"] == ""
    assert not store.folder.exists()
    for name in ("sarif", "bundle"):
        assert job(start("pull_request", FORK, models=("models/clean",)), name, gate=gate).result == "skipped"


# Keeps one comment, as `gh api` would; a comment of somebody else with the same mark is not its own.
GH = """\
#!/bin/sh
echo "$@" >> "{folder}/asked"
case "$*" in
  *--paginate*) if [ -f "{folder}/comment" ]; then echo 42; echo 43; fi ;;
  *) for last; do :; done; cat "${{last#body=@}}" > "{folder}/comment" ;;
esac
"""


def test_a_pull_request_gets_one_comment_that_is_updated(
    start: Start, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gh"
    folder.mkdir()
    (folder / "gh").write_text(GH.format(folder=folder))
    (folder / "gh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    options = {"models": ("models/clean",), "comment": True}
    verdicts = iter(["pass", ""])

    def scan(one: Job, given: dict[str, str]) -> dict[str, str]:
        verdict = next(verdicts)
        if not verdict:
            return {}
        assert "markdown" in given["formats"].split()
        reports = one.machine.workspace / "pargate-reports" / "models-clean"
        reports.mkdir(parents=True)
        (reports / "report.md").write_text("# The report\n")
        return {"verdict": verdict, "reports": "pargate-reports"}

    said = []
    for _ in range(2):
        machine = start("pull_request", OWN, **options)
        machine.actions.clear()
        machine.uses[ACTION] = scan
        gate = job(machine, "gate")
        assert gate.result == "success", gate.log
        comment = job(start("pull_request", OWN, **options), "comment", gate=gate)
        assert comment.result == "success", comment.log
        said.append((folder / "comment").read_text())
    asked = [line for line in (folder / "asked").read_text().splitlines() if "--method" in line]
    assert [line.split()[3:5] for line in asked] == [
        ["POST", "repos/owner/models/issues/7/comments"],
        ["PATCH", "repos/owner/models/issues/comments/42"],
    ]
    first = "<!-- pargate -->\npargate: {} (commit abc, [run](https://github.com/owner/models/actions/runs/1))\n\n"
    assert said == [first.format("pass") + "# The report\n", first.format("no model was judged")]

    store.file("pargate-comment").write_text("another text")
    assert job(start("pull_request", OWN, **options), "comment", gate=gate).result == "failure"
    fork = start("pull_request", FORK, **options)
    fork.actions.clear()
    fork.uses[ACTION] = lambda job, given: {"verdict": "pass"}
    assert job(fork, "gate").outputs["comment"] == ""


def test_a_report_too_long_for_a_comment_is_named(start: Start, store: Store) -> None:
    machine = start("pull_request", OWN, models=("models/clean",), comment=True)
    machine.actions.clear()

    def scan(one: Job, given: dict[str, str]) -> dict[str, str]:
        reports = one.machine.workspace / "pargate-reports" / "models-clean"
        reports.mkdir(parents=True)
        (reports / "report.md").write_text("x" * 65_001)
        return {"verdict": "fail", "reports": "pargate-reports"}

    machine.uses[ACTION] = scan
    gate = job(machine, "gate")
    assert gate.result == "success", gate.log
    assert store.file("pargate-comment").read_text().splitlines()[3:] == [
        "The reports are too long for a comment; the summary of the run shows them."
    ]


def test_a_bundle_is_attested_file_by_file(start: Start, store: Store) -> None:
    machine = start(models=("models/clean",))
    bundling(machine)
    gate = Job(machine, [], {}, outputs={"verdict": "pass", "sarif": ""})
    bundle = job(machine, "bundle", gate=gate)
    assert bundle.result == "success", bundle.log
    attest = job(start(models=("models/clean",)), "attest", bundle=bundle)
    assert attest.result == "success", attest.log
    subjects = (attest.machine.temp / "subjects.txt").read_text().splitlines()
    assert [line.split("  ", 1)[1] for line in subjects] == [
        "models-clean/bundle/SHA256SUMS",
        "models-clean/bundle/a file; $(touch x)",
    ]
    assert subjects[0].startswith(hashlib.sha256(b"sums\n").hexdigest())


@pytest.mark.parametrize("change", ["altered", "missing", "renamed"])
def test_an_artifact_that_is_not_the_one_of_the_job_before_is_refused(start: Start, store: Store, change: str) -> None:
    machine = start(models=("models/clean",))
    bundling(machine)
    bundle = job(machine, "bundle", gate=Job(machine, [], {}, outputs={"verdict": "pass"}))
    file = store.file("pargate-bundle")
    if change == "altered":
        file.write_bytes(file.read_bytes().replace(b"weights", b"weighed"))
    elif change == "missing":
        file.unlink()
    else:
        file.rename(file.with_name("other.tar"))
    attest = job(start(models=("models/clean",)), "attest", bundle=bundle)
    assert [step.outcome for step in attest.steps] == ["success", "failure", "skipped"]
    assert not (attest.machine.temp / "subjects.txt").exists()


@pytest.mark.parametrize(
    "results", [("failure", "skipped"), ("cancelled", "skipped"), ("success", "failure"), ("skipped", "skipped")]
)
def test_the_required_check_is_green_only_where_all_holds(start: Start, results: tuple[str, str]) -> None:
    gate, bundle = results
    assert job(start(models=("models/clean",)), "pargate", gate=gate, bundle=bundle).result == "failure"


# --- the audit -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_audits_follow_each_other_on_a_branch_of_their_own(start: Start, store: Store, tmp_path: Path) -> None:
    def kept(audit: Job) -> Job:
        return job(start("schedule", models=("models/clean",)), "keep", AUDIT, audit=audit)

    first = job(start("schedule", models=("models/clean",)), "audit", AUDIT)
    assert first.result == "success", first.log
    assert "--require-hashes" in first.log and "No ledger yet" in first.log
    assert kept(first).result == "success"
    origin = tmp_path / "origin.git"
    lines = git(origin, "show", "pargate-ledger:ledger.jsonl")
    assert git(origin, "ls-tree", "--name-only", "pargate-ledger").split() == ["ledger.head", "ledger.jsonl"]

    # The next audit finds a model that fails: red, and written down all the same.
    store.cache = first.machine.temp / "audit"
    shutil.rmtree(store.folder)
    second = job(start("schedule", models=("models/clean", "models/poisoned")), "audit", AUDIT)
    assert second.result == "failure"
    assert "clean (nothing changed)" in second.log, "only what is new is measured"
    keep = kept(second)
    assert keep.result == "success", keep.log
    whole = git(origin, "show", "pargate-ledger:ledger.jsonl")
    assert whole.startswith(lines) and '"fail"' in whole.removeprefix(lines)
    assert git(origin, "rev-list", "--count", "pargate-ledger") == "2"

    # A ledger that was begun anew does not take the place of the old one, whoever vouches for it.
    store.cache = second.machine.temp / "audit"
    shutil.rmtree(store.folder)
    machine = start("schedule", models=("models/clean",))
    git(machine.workspace, "update-ref", "-d", "refs/remotes/origin/pargate-ledger")
    anew = job(machine, "audit", AUDIT)
    assert "No ledger yet" in anew.log
    assert kept(anew).result == "failure"
    assert git(origin, "show", "pargate-ledger:ledger.jsonl") == whole


@pytest.mark.nightly
def test_jobs_measure_parts_of_an_audit_which_merges_them(start: Start, store: Store) -> None:
    def started() -> Machine:
        return start("schedule", models=("models/clean", "models/poisoned"), shards=2)

    for shard in (1, 2):
        machine = started()
        part = machine.job(machine.workspace / AUDIT, "measure", matrix={"shard": shard})
        assert "scanning" in part.log
        assert part.result == "success", "the audit gives the verdicts, also of models that fail"
    assert {p.name for p in store.folder.iterdir()} == {"pargate-shard-1", "pargate-shard-2"}
    whole = job(started(), "audit", AUDIT, measure="success")
    assert whole.result == "failure" and whole.outputs["ledger"]
    assert "scanning" not in whole.log, "nothing is measured twice"


def test_evidence_that_is_too_old_makes_the_audit_red(start: Start) -> None:
    machine = start("schedule", models=("models/clean",))
    workflow = machine.workspace / AUDIT
    workflow.write_text(workflow.read_text().replace("-m pargate audit", "-m pargate policy check pargate.yaml # "))
    folder = machine.temp / "audit" / "models" / "clean"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "golden" / "report_v1.json", folder / "report.json")
    audit = job(machine, "audit", AUDIT)
    outcomes = {step.name: step.outcome for step in audit.steps}
    assert outcomes["Refuse evidence that is too old"] == "failure"
    assert "scan again" in audit.log


def test_an_audit_runs_on_the_default_branch_alone(start: Start) -> None:
    machine = start("workflow_dispatch", models=("models/clean",))
    machine.github["ref"] = "refs/heads/topic"
    assert job(machine, "audit", AUDIT).result == "skipped"
    assert (machine.workspace / INVENTORY).exists()
