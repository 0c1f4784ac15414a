"""The steps of this repository's own workflows, as far as they need neither a network nor a minute."""

import hashlib
import os
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from runner import Job, Machine, StepFailed

WORKFLOWS = ROOT / ".github" / "workflows"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "workspace").mkdir()
    return Machine(
        tmp_path / "workspace",
        tmp_path / "temp",
        uses={
            "actions/checkout": lambda job, given: None,
            "actions/setup-python": lambda job, given: None,
            "actions/upload-artifact": lambda job, given: None,
            "actions/attest": lambda job, given: None,
            "pypa/gh-action-pypi-publish": lambda job, given: None,
        },
    )


@pytest.mark.parametrize(
    ("both", "result"),
    [
        ({"verdict": "fail", "exit-code": "1", "failed": '["examples/models/poisoned"]'}, "success"),
        ({"verdict": "fail", "exit-code": "1", "failed": '["examples/models/clean"]'}, "failure"),
        ({"verdict": "pass", "exit-code": "0", "failed": "[]"}, "failure"),
        ({"verdict": "", "exit-code": "5", "failed": "[]"}, "failure"),
    ],
    ids=["as-it-should", "the-other-one", "nothing-found", "nothing-judged"],
)
def test_ci_demands_that_the_poisoned_model_fails(machine: Machine, both: dict[str, str], result: str) -> None:
    uses = iter([{"verdict": "pass", "exit-code": "0"}, both])
    failed = [False, both["exit-code"] != "0"]

    def gate(job: Job, given: dict[str, str]) -> dict[str, str]:
        outputs = next(uses)
        if failed.pop(0):
            raise StepFailed("policy failed", outputs)
        return outputs

    machine.uses["./"] = gate
    assert machine.job(WORKFLOWS / "ci.yml", "gate").result == result


def test_all_is_green_only_if_every_job_is(machine: Machine) -> None:
    for results, expected in ((["success"] * 2, "success"), (["success", "skipped"], "failure")):
        needs = {str(n): {"result": result, "outputs": {}} for n, result in enumerate(results)}
        assert machine.job(WORKFLOWS / "ci.yml", "all-green", needs=needs).result == expected
    document = yaml.safe_load((WORKFLOWS / "ci.yml").read_text())
    assert set(document["jobs"]["all-green"]["needs"]) == set(document["jobs"]) - {"all-green"}


def test_what_is_published_is_what_was_built(machine: Machine) -> None:
    def download(job: Job, given: dict[str, str]) -> None:
        (machine.workspace / "dist").mkdir(exist_ok=True)
        (machine.workspace / "dist" / "pargate.whl").write_bytes(b"other" if tampered else b"built")

    machine.uses["actions/download-artifact"] = download
    digests = f"{hashlib.sha256(b'built').hexdigest()}  pargate.whl"
    needs = {name: {"result": "success", "outputs": {"digests": digests}} for name in ("build", "attest")}
    for job in ("attest", "publish"):
        for tampered in (False, True):
            ended = machine.job(WORKFLOWS / "release.yml", job, needs=needs)
            assert ended.result == ("failure" if tampered else "success")
            assert ended.steps[-1].outcome == ("skipped" if tampered else "success")


# Plays docker: writes down what it was asked for, and ends a scan with the code of the test.
DOCKER = """\
#!/bin/sh
echo "$@" >> "{folder}/asked"
case "$1 $2" in
  "run --rm") exit {code} ;;
  "login ghcr.io") test "$(cat)" = read-only ;;
  "image inspect") echo "ghcr.io/owner/models@sha256:abc" ;;
esac
"""


@pytest.mark.parametrize(("code", "result"), [(1, "success"), (0, "failure"), (5, "failure")])
def test_an_image_is_pushed_only_if_it_finds_the_backdoor(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, result: str
) -> None:
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "docker").write_text(DOCKER.format(folder=folder, code=code))
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    machine.github |= {"ref_name": "v1.2.3", "repository": "Owner/Models"}
    needs = {name: {"result": "success", "outputs": {}} for name in ("build", "attest")}
    ended = machine.job(WORKFLOWS / "release.yml", "image", needs=needs)
    assert ended.result == result, ended.log
    pushed = [line for line in (folder / "asked").read_text().splitlines() if line.startswith("push")]
    assert pushed == (["push ghcr.io/owner/models:1.2.3"] if code == 1 else [])
    if code == 1:
        assert ended.outputs == {"name": "ghcr.io/owner/models", "digest": "sha256:abc"}


def test_the_workflow_to_call_takes_full_commits_alone(machine: Machine) -> None:
    given: list[dict[str, str]] = []

    def gate(job: Job, inputs: dict[str, str]) -> dict[str, str]:
        given.append(inputs)
        return {"verdict": "pass", "digests": "{}", "reports": ""}

    machine.uses["./.pargate-action"] = gate
    inputs = {"model": "$(touch x)", "repository": "o/r", "commit": "0" * 40}
    ended = machine.job(WORKFLOWS / "gate.yml", "gate", inputs=inputs)
    assert ended.result == "success" and ended.outputs == {"verdict": "pass", "digests": "{}"}
    assert given[0]["model"] == "$(touch x)" and given[0]["changed-only"] == "false"
    for commit in ("main", "0" * 39, "0" * 40 + "\nx", '"; exit 0; "'):
        assert machine.job(WORKFLOWS / "gate.yml", "gate", inputs={**inputs, "commit": commit}).result == "failure"
    assert len(given) == 1 and list(machine.workspace.iterdir()) == []


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.stem)
def test_every_job_is_limited(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    assert document["permissions"] == {}
    for job in document["jobs"].values():
        assert "timeout-minutes" in job and "permissions" in job
        for step in job["steps"]:
            assert "checkout" not in step.get("uses", "") or step["with"]["persist-credentials"] is False
            assert "${{" not in step.get("run", "")
