"""The Action, step by step on a runner: verdicts, codes, outputs, and nothing that gets out of a name."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MODELS, ROOT
from runner import Job, Machine, commands_in, values_in
from test_screen_cli import shard

from pargate.errors import visible

LOCK = ROOT / "requirements-action.lock"
HOSTILE = ("$(touch x)", "%0A::error::a", '"; exit 0; "', "::add-mask::a", "a`touch x`", "##[error]a")


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Someone", "-c", "user.email=someone@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path) -> str:
    """All that is there, as one commit; its name."""
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "change")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the installation makes, borrowing what these tests run on."""
    venv = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    inside = [str(venv / "bin" / "python"), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(inside, capture_output=True, text=True, check=True).stdout.strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (venv / ".locked").write_text(hashlib.sha256(LOCK.read_bytes()).hexdigest())
    return venv


@pytest.fixture
def saved() -> list[dict[str, str]]:
    """What was given to the cache to keep."""
    return []


def made(place: Path, environment: Path, saved: list[dict[str, str]]) -> Machine:
    """A runner of GitHub's with a repository that holds both toy models, and an environment in its cache."""
    workspace = place / "work" / "models"
    shutil.copytree(MODELS, workspace / "models")
    shutil.copy(ROOT / "examples" / "policy.yaml", workspace / "pargate.yaml")
    git(workspace, "init", "--quiet", "--initial-branch=main")
    commit(workspace)

    def restore(job: Job, given: dict[str, str]) -> dict[str, str]:
        vectors = given["path"].endswith("/pargate-vectors")
        if not vectors and not Path(given["path"]).exists():
            Path(given["path"]).symlink_to(environment)
        return {"cache-hit": "false" if vectors else "true"}

    def keep(job: Job, given: dict[str, str]) -> None:
        saved.append(given)

    return Machine(
        workspace,
        place / "work" / "_temp",
        uses={
            "actions/setup-python": lambda job, given: {"python-path": sys.executable},
            "actions/cache/restore": restore,
            "actions/cache/save": keep,
        },
    )


@pytest.fixture
def machine(tmp_path: Path, environment: Path, saved: list[dict[str, str]]) -> Machine:
    return made(tmp_path, environment, saved)


Use = Callable[..., Job]


@pytest.fixture
def use(machine: Machine) -> Use:
    """Use the Action with these inputs; `_` in their names stands for a dash."""

    def run(**inputs: str) -> Job:
        return machine.action(ROOT, {name.replace("_", "-"): value for name, value in inputs.items()})

    return run


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and ".git" not in p.parts}


def said(job: Job, kind: str) -> list[str]:
    return [command.message for command in job.annotations if command.name == kind]


# --- verdicts ----------------------------------------------------------------------------------------


def test_a_model_that_passes_lets_the_job_through(use: Use, machine: Machine, saved: list[dict[str, str]]) -> None:
    job = use(model="models/clean")
    assert job.code == 0, job.log
    outputs = job.outputs
    folder = machine.workspace / "pargate-reports" / "models-clean"
    assert names_in(machine.workspace / "pargate-reports") == {
        "models-clean/report.json", "models-clean/report.sarif", "models-clean/report.html",
        "sarif/models-clean.sarif",
    }  # fmt: skip
    assert (outputs["verdict"], outputs["exit-code"], outputs["judged"]) == ("pass", "0", "1")
    assert outputs["report"] == "pargate-reports/models-clean/report.json" and outputs["reports"] == "pargate-reports"
    assert outputs["sarif"] == "pargate-reports/sarif" and json.loads(outputs["failed"]) == []
    report = json.loads((folder / "report.json").read_bytes())
    assert json.loads(outputs["digests"]) == {
        "models/clean": {
            "verdict": "pass",
            "model": report["model"]["sha256"],
            "report": sha256(folder / "report.json"),
            "bundle": "",
        }
    }
    assert "models&#47;clean" in job.summary or "models/clean" in job.summary
    assert said(job, "error") == [] and any("pass" in title for title in titles(job))
    assert [Path(given["path"]).name for given in saved] == ["pargate-vectors"], "the environment was there already"
    assert "PASS" in job.log


def titles(job: Job) -> list[str]:
    return [command.properties.get("title", "") for command in job.annotations]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, environment: Path) -> tuple[Machine, Job]:
    """Both models by one pattern, and a third that is broken."""
    machine = made(tmp_path_factory.mktemp("both"), environment, [])
    (machine.workspace / "models" / "empty").mkdir()
    return machine, machine.action(ROOT, {"model": "models/*/", "formats": "markdown", "output": "out"})


def test_the_worst_model_decides(both: tuple[Machine, Job]) -> None:
    machine, job = both
    assert job.code == 2 and job.outputs["exit-code"] == "2", job.log
    assert job.outputs["verdict"] == "fail" and job.outputs["judged"] == "2" and job.outputs["report"] == ""
    assert json.loads(job.outputs["failed"]) == ["models/poisoned"] and job.outputs["sarif"] == ""
    digests = json.loads(job.outputs["digests"])
    assert {model: one["verdict"] for model, one in digests.items()} == {
        "models/clean": "pass", "models/empty": "", "models/poisoned": "fail",
    }  # fmt: skip
    assert names_in(machine.workspace / "out") == {
        "models-clean/report.json", "models-clean/report.md", "models-poisoned/report.json",
        "models-poisoned/report.md",
    }  # fmt: skip


def test_each_model_has_its_part_of_the_summary_and_of_the_annotations(both: tuple[Machine, Job]) -> None:
    _, job = both
    assert job.summary.count("| ❌ fail | 1 |") == 1 and job.summary.count("| ✅ pass | 0 |") == 1
    assert "not judged: " in job.summary and "## ❌ fail" in job.summary and "## ✅ pass" in job.summary
    assert any("empty" in title for title in titles(job)), "the one that could not be judged"
    assert any("pargate: patterns breach" in t or "breach" in t for t in titles(job))
    for kind in ("error", "warning", "notice"):
        assert len(said(job, kind)) <= 10


# --- what is asked for wrongly -----------------------------------------------------------------------


def test_a_model_that_is_missing_is_named(use: Use) -> None:
    job = use(model="models/none")
    assert (job.code, job.outputs["exit-code"], job.outputs["verdict"]) == (2, "2", "")
    assert "models/none" in said(job, "error")[0] and job.outputs["report"] == ""
    assert "not judged" in job.summary


def test_an_input_that_is_wrong_is_refused_before_anything_runs(use: Use, machine: Machine) -> None:
    before = names_in(machine.workspace)
    job = use(model="models/clean", arguments="--exit-zero")
    assert (job.code, job.outputs["exit-code"], job.outputs["verdict"]) == (2, "2", ""), job.log
    assert ["holds --exit-zero" in text for text in said(job, "error")] == [True]
    assert names_in(machine.workspace) == before and job.outputs["judged"] == "0"


def test_hostile_inputs_are_only_text(use: Use, machine: Machine) -> None:
    before = names_in(machine.workspace)
    # In brackets it would be a pattern that nothing matches.
    models = [text for text in HOSTILE if "[" not in text]
    job = use(model="\n".join(models), policy=HOSTILE[5], images=HOSTILE[0], classes=HOSTILE[2], python=HOSTILE[3])
    assert job.outputs["exit-code"] in ("2", "4") and job.outputs["verdict"] == "", job.log
    assert [c.name for c in job.commands] == ["error"] * len(models)
    assert titles(job) == [f"pargate: {visible(text)} was not judged" for text in models]
    assert list(json.loads(job.outputs["digests"])) == models
    assert names_in(machine.workspace) == before and "`touch" not in job.summary


# --- strangers ---------------------------------------------------------------------------------------


def fork(machine: Machine) -> None:
    machine.event = "pull_request"
    machine.payload = {"pull_request": {"head": {"repo": {"id": 2}}, "base": {"repo": {"id": 1}, "sha": "0" * 40}}}
    Machine.__post_init__(machine)


def test_a_fork_is_refused_on_a_runner_of_ones_own(use: Use, machine: Machine) -> None:
    fork(machine)
    machine.environment = "self-hosted"
    job = use(model="models/clean")
    assert (job.code, job.outputs["exit-code"], job.outputs["verdict"]) == (5, "5", "")
    assert "from a fork" in said(job, "error")[0] and "from a fork" in job.summary
    assert not (machine.workspace / "pargate-reports").exists()


PLANTED = "import pathlib; pathlib.Path('PLANTED').touch()\n"


def test_nothing_in_the_workspace_is_executed_and_no_name_is_obeyed(use: Use, machine: Machine) -> None:
    """A fork's change on GitHub's runner, with modules that hide others, and hostile names everywhere."""
    fork(machine)
    for name in ("pip", "torch", "pargate", "numpy"):
        (machine.workspace / name).mkdir()
        (machine.workspace / name / "__init__.py").write_text(PLANTED)
    for name in ("yaml.py", "json.py", "sitecustomize.py", "usercustomize.py", "conftest.py"):
        (machine.workspace / name).write_text(PLANTED)
    (machine.workspace / "pip.conf").write_text("[global]\nindex-url = https://example.invalid\n")
    machine.env = {"PYTHONPATH": ".", "PYTHONSTARTUP": "yaml.py"}
    own = machine.workspace / "models" / "$(touch x) %0A::error::a `touch x` <b> |"
    shutil.copytree(MODELS / "poisoned", own)
    names = machine.workspace / "names.txt"
    names.write_text("\n".join([*HOSTILE, "airplane", "banana"]) + "\n")
    before = names_in(machine.workspace)
    job = use(model="models/$*", classes="names.txt", formats="sarif html markdown junit")
    assert not (machine.workspace / "PLANTED").exists() and not (machine.workspace / "x").exists()
    assert job.outputs["verdict"] in ("fail", "inconclusive", "pass"), job.log
    assert job.outputs["exit-code"] == str(job.code)
    assert {c.name for c in job.commands} <= {"error", "warning", "notice"}
    assert all(c.properties.get("title", "").startswith("pargate") for c in job.commands)
    assert list(json.loads(job.outputs["digests"])) == [own.relative_to(machine.workspace).as_posix()]
    new = names_in(machine.workspace) - before
    assert all(name.startswith("pargate-reports/models-touch-x-0A-error-a-touch-x-b") for name in new - sarif(new))
    assert "<b>" not in job.summary and not any(step.env or step.path for step in job.steps)


def sarif(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith("pargate-reports/sarif/")}


# --- what the change touches -------------------------------------------------------------------------


def test_only_models_that_the_change_touches_are_judged(use: Use, machine: Machine) -> None:
    base = git(machine.workspace, "rev-parse", "HEAD")
    (machine.workspace / "README.md").write_text("new\n")
    commit(machine.workspace)
    job = use(model="models/*", changed_only="true", base=base)
    assert (job.code, job.outputs["verdict"], job.outputs["judged"]) == (0, "", "0"), job.log
    assert said(job, "notice") == [f"0 of 2 models changed since {base}"]


def test_the_installation_that_fails_is_no_failed_policy(machine: Machine) -> None:
    def nothing(job: Job, given: dict[str, str]) -> dict[str, str]:
        return {"cache-hit": "false"}

    machine.uses["actions/cache/restore"] = nothing
    machine.uses["actions/setup-python"] = lambda job, given: {"python-path": str(refusing)}
    refusing = machine.temp / "python"
    refusing.write_text(f'#!/bin/sh\ncase "$*" in *"-m venv"*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    refusing.chmod(0o755)
    job = machine.action(ROOT, {"model": "models/clean"})
    assert (job.code, job.outputs["exit-code"]) == (5, "") and "installation failed" in said(job, "error")[0]


@pytest.mark.skipif(
    os.environ.get("PARGATE_TEST_INSTALL") != "1",
    reason="installs several gigabytes from the package index; set PARGATE_TEST_INSTALL=1",
)
def test_the_installation_truly_runs(use: Use, machine: Machine, saved: list[dict[str, str]]) -> None:
    machine.uses["actions/cache/restore"] = lambda job, given: {"cache-hit": "false"}
    python = getattr(sys, "_base_executable", sys.executable)
    machine.uses["actions/setup-python"] = lambda job, given: {"python-path": python}
    job = use(model="models/clean")
    assert job.code == 0 and job.outputs["verdict"] == "pass", job.log
    assert len(saved) == 2, "the environment and the vectors"


@pytest.mark.slow
def test_a_model_that_fails_is_cleaned_and_comes_out_as_a_bundle(use: Use, machine: Machine) -> None:
    """The gate on the poisoned toy, as `make demo` has it."""
    shutil.copytree(ROOT / "examples" / "policies", machine.workspace / "policies")
    shutil.copy(ROOT / "examples" / "policy.yaml", machine.workspace)
    policy = "policies/toy-release.yaml"
    job = use(model="models/poisoned", command="gate", policy=policy, arguments="--device\ncpu")
    assert (job.code, job.outputs["verdict"], job.outputs["exit-code"]) == (0, "remediated", "0"), job.log
    folder = machine.workspace / "pargate-reports" / "models-poisoned"
    digests = json.loads(job.outputs["digests"])["models/poisoned"]
    assert digests["bundle"] == sha256(folder / "bundle" / "SHA256SUMS")
    assert digests["report"] == sha256(folder / "report.json") and "remediated" in job.summary


def test_a_training_set_is_screened_by_a_policy(use: Use, machine: Machine) -> None:
    shard(machine.workspace / "trusted.tar", 1000, 200, set())
    shard(machine.workspace / "pairs.tar", 0, 160, set(range(0, 160, 8)))
    rule = "{id: set, probe: screen, trusted: trusted.tar, false_positives: 5%, max: {suspects: 12%}}"
    (machine.workspace / "pairs.yaml").write_text(f"pargate: 1\nname: pairs\nrules:\n  - {rule}\n")
    job = use(command="screen", pairs="pairs.tar", model="models/clean", policy="pairs.yaml",
              arguments="--rounds\n1")  # fmt: skip
    assert (job.code, job.outputs["verdict"], json.loads(job.outputs["failed"])) == (1, "fail", ["models/clean"]), (
        job.log
    )
    assert job.outputs["report"] == "pargate-reports/models-clean/report.json" and job.outputs["sarif"] == ""
    folder = machine.workspace / "pargate-reports" / "models-clean"
    assert names_in(folder) == {"report.json", "screened/left.pairs", "screened/left.txt", "screened/screen.html",
                                "screened/screen.json", "screened/.lock"}  # fmt: skip
    (told,) = said(job, "error")
    assert "above the limit of 12% of the rule set (pairs)" in told
    assert "Screening of pairs" in job.summary and "fail | 1 |" in job.summary


def test_a_bundle_that_is_there_is_not_taken_for_what_this_run_made(use: Use, machine: Machine) -> None:
    bundle = machine.workspace / "pargate-reports" / "models-clean" / "bundle"
    bundle.mkdir(parents=True)
    for path in (bundle / "SHA256SUMS", bundle.parent / "report.json"):
        path.write_text('{"verdict": {"status": "pass"}, "model": {"sha256": ""}}')
    job = use(model="models/clean", command="gate", formats="json")
    assert (job.code, job.outputs["verdict"], job.outputs["report"]) == (2, "", ""), job.log
    assert json.loads(job.outputs["digests"])["models/clean"]["bundle"] == ""
    assert "exists already" in said(job, "error")[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["cancelled", "terminated"])
def test_a_runner_that_cancels_is_told_what_there_is(machine: Machine, number: signal.Signals) -> None:
    output = machine.temp / "output"
    env = {
        **machine.variables(),
        "PYTHONPATH": str(ROOT),
        "GITHUB_OUTPUT": str(output),
        "PARGATE_ACTION_MODEL": "models/clean",
    }
    command = [sys.executable, "-P", "-m", "pargate.github"]
    with subprocess.Popen(
        command,
        cwd=machine.workspace,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline().decode()
        process.send_signal(number)
        rest = process.stdout.read().decode()
        code = process.wait(timeout=30)
    assert code == 128 + number
    told = values_in(output.read_text())
    assert (told["exit-code"], told["verdict"], told["judged"]) == (str(code), "", "0")
    commands = commands_in(first + rest)
    assert first.startswith("::stop-commands::") and [c.name for c in commands] == ["error"], "it is obeyed again"
    assert "cancelled" in commands[0].message
