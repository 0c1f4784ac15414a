"""A runner of GitHub's, as far as the `run` steps of our action and workflows can tell.

It takes steps in order, in a real folder, each as `bash --noprofile --norc -eo pipefail FILE` with the files and
variables that a runner gives; what a step prints is read as a runner reads it, so that a workflow command that got out
is seen. Steps with `uses:` are played by functions of the test.
"""

import json
import os
import re
import subprocess
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from expressions import Expressions, hash_files, text_of, truth

Uses = Callable[["Job", dict[str, str]], Mapping[str, str] | None]
"""What stands for an action: gets the job and `with`, gives outputs; raises `StepFailed` to fail."""


class StepFailed(Exception):
    """What an action that is played raises to fail; it may have outputs nevertheless."""

    def __init__(self, said: str = "", outputs: Mapping[str, str] | None = None) -> None:
        super().__init__(said)
        self.outputs = dict(outputs or {})


@dataclass(frozen=True)
class Command:
    """A workflow command that a runner obeys."""

    name: str
    properties: dict[str, str]
    message: str


@dataclass
class Ran:
    """One step."""

    name: str
    outcome: str
    """`success`, `failure` or `skipped`, before `continue-on-error`."""
    conclusion: str
    outputs: dict[str, str] = field(default_factory=dict)
    code: int | None = None
    """Exit code of a `run`."""
    log: str = ""
    commands: list[Command] = field(default_factory=list)
    summary: str = ""
    env: dict[str, str] = field(default_factory=dict)
    """What it put into `GITHUB_ENV`."""
    path: list[str] = field(default_factory=list)
    """What it put into `GITHUB_PATH`."""


def commands_in(log: str) -> list[Command]:
    """What a runner obeys in the output of a step, in order.

    `::name` counts at the start of a line, after blanks too, and the older `##[name]` anywhere in one; a carriage
    return ends a line as well. After `::stop-commands::TOKEN` nothing does until `::TOKEN::`.
    """
    found: list[Command] = []
    token: str | None = None
    for line in re.split(r"\r\n|\r|\n", log):
        command = _command(line)
        if command is None:
            continue
        if token is not None:
            token = None if command.name == token.lower() else token
        elif command.name == "stop-commands":
            token = command.message
        else:
            found.append(command)
    return found


def _command(line: str) -> Command | None:
    text = line.lstrip()
    if text.startswith("::") and "::" in text[2:]:
        said, message = text[2:].split("::", 1)
        between = ","
    elif "##[" in line and "]" in line.partition("##[")[2]:
        said, message = line.partition("##[")[2].split("]", 1)
        between = ";"
    else:
        return None
    name, _, properties = said.partition(" ")
    if not name:
        return None
    pairs = [pair.split("=", 1) for pair in properties.split(between) if "=" in pair]
    return Command(name.lower(), {k.strip(): _unescaped(v) for k, v in pairs}, _unescaped(message))


def _unescaped(text: str) -> str:
    for code, mark in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%3B", ";"), ("%5D", "]")):
        text = text.replace(code, mark)
    return text.replace("%25", "%")


def values_in(text: str) -> dict[str, str]:
    """What a runner reads from `GITHUB_OUTPUT` and `GITHUB_ENV`."""
    values: dict[str, str] = {}
    lines = text.split("\n")
    while lines:
        line = lines.pop(0)
        if not line:
            continue
        equals, heredoc = line.find("="), line.find("<<")
        if equals >= 0 and (heredoc < 0 or equals < heredoc):
            values[line[:equals]] = line[equals + 1 :]
            continue
        assert heredoc > 0, f"no value in {line!r}"
        name, delimiter = line[:heredoc], line[heredoc + 2 :]
        assert delimiter in lines, f"the delimiter of {name} does not come again"
        end = lines.index(delimiter)
        values[name], lines = "\n".join(lines[:end]), lines[end + 1 :]
    return values


@dataclass
class Machine:
    """A runner with one repository checked out."""

    workspace: Path
    temp: Path
    """`RUNNER_TEMP`, outside the workspace; its parent takes the files of steps."""
    event: str = "push"
    payload: dict[str, Any] = field(default_factory=dict)
    environment: str = "github-hosted"
    env: dict[str, str] = field(default_factory=dict)
    """Of the workflow."""
    uses: dict[str, Uses] = field(default_factory=dict)
    """By what stands before the `@`: `actions/checkout`. What begins with `./` and is not here is run as it is."""
    actions: dict[str, Path] = field(default_factory=dict)
    """Folders of actions that are run, not played, by what stands before the `@`."""
    github: dict[str, Any] = field(default_factory=dict)
    """More of the context `github`, such as `ref`."""
    vars: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write the event."""
        self.temp.mkdir(parents=True, exist_ok=True)
        self.event_path = self.temp.parent / f"event-{uuid.uuid4().hex}.json"
        self.event_path.write_text(json.dumps(self.payload))

    def context(self) -> dict[str, Any]:
        """The context `github`."""
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=self.workspace, capture_output=True, text=True, check=False
        )
        return {
            "event_name": self.event, "event": self.payload, "workspace": str(self.workspace), "token": "read-only",
            "repository": "owner/models", "repository_owner": "owner", "ref": "refs/heads/main", "ref_name": "main",
            "sha": head.stdout.strip(), "run_id": "1", "run_attempt": "1", "workflow": "test", "job": "test",
            "server_url": "https://github.com", "actor": "someone", "head_ref": "", "base_ref": "",
            "default_branch": "main", **self.github,
        }  # fmt: skip

    def runner(self) -> dict[str, str]:
        """The context `runner`."""
        return {
            "os": "Linux", "arch": "X64", "temp": str(self.temp), "tool_cache": str(self.temp.parent / "tools"),
            "environment": self.environment, "name": "test",
        }  # fmt: skip

    def variables(self) -> dict[str, str]:
        """What every step sees; nothing of whoever runs the tests but where programs are."""
        context, runner = self.context(), self.runner()
        home = self.temp.parent / "home"
        home.mkdir(exist_ok=True)
        return {
            "PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "CI": "true", "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(self.workspace), "GITHUB_EVENT_NAME": self.event,
            "GITHUB_EVENT_PATH": str(self.event_path), "GITHUB_REPOSITORY": context["repository"],
            "GITHUB_SHA": context["sha"], "GITHUB_REF": context["ref"], "GITHUB_REF_NAME": context["ref_name"],
            "GITHUB_RUN_ID": "1", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_SERVER_URL": context["server_url"],
            "GITHUB_JOB": context["job"], "GITHUB_WORKFLOW": context["workflow"],
            "RUNNER_OS": runner["os"], "RUNNER_ARCH": runner["arch"], "RUNNER_TEMP": runner["temp"],
            "RUNNER_TOOL_CACHE": runner["tool_cache"], "RUNNER_ENVIRONMENT": runner["environment"],
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def action(self, folder: Path, inputs: Mapping[str, str]) -> "Job":
        """Run the composite action in `folder` to its end."""
        document = yaml.safe_load((folder / "action.yml").read_text(encoding="utf-8"))
        declared = document.get("inputs", {})
        assert set(inputs) <= set(declared), f"no such inputs: {set(inputs) - set(declared)}"
        given = {name: text_of(inputs.get(name, one.get("default", ""))) for name, one in declared.items()}
        job = Job(self, document["runs"]["steps"], inputs=given, folder=folder, env=self.env)
        job.run()
        job.outputs = {
            name: text_of(job.expressions().filled(one["value"])) for name, one in document.get("outputs", {}).items()
        }
        return job

    def job(
        self,
        workflow: Path,
        name: str,
        *,
        needs: Mapping[str, Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        matrix: Mapping[str, Any] | None = None,
    ) -> "Job":
        """Run one job of a workflow; one whose `if:` does not hold comes back as skipped.

        `needs`: of each job before it `{"result": "success", "outputs": {…}}`.
        """
        document = yaml.safe_load(workflow.read_text(encoding="utf-8"))
        asked = document["jobs"][name]
        on = document.get(True) or document.get("on")  # YAML takes the word for a truth
        call = (on.get("workflow_call") or on.get("workflow_dispatch") or {}) if isinstance(on, dict) else {}
        given = {key: one.get("default", "") for key, one in call.get("inputs", {}).items()} | dict(inputs or {})
        env = {**self.env, **document.get("env", {}), **asked.get("env", {})}
        job = Job(self, asked["steps"], inputs=given, env=env, needs=dict(needs or {}), matrix=dict(matrix or {}))
        if "if" in asked and not job.expressions().holds(asked["if"]):
            job.result = "skipped"
            return job
        if "if" not in asked and any(one["result"] != "success" for one in job.needs.values()):
            job.result = "skipped"
            return job
        job.begin()
        job.run()
        job.outputs = {key: text_of(job.expressions().filled(value)) for key, value in asked.get("outputs", {}).items()}
        return job


@dataclass
class Job:
    """Steps that were run, or will be."""

    machine: Machine
    asked: list[dict[str, Any]]
    inputs: dict[str, Any]
    folder: Path | None = None
    """Of a composite action."""
    env: dict[str, str] = field(default_factory=dict)
    needs: dict[str, Any] = field(default_factory=dict)
    matrix: dict[str, Any] = field(default_factory=dict)
    steps: list[Ran] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    result: str = "success"
    by_id: dict[str, Ran] = field(default_factory=dict)
    """Steps by their `id`."""
    began: bool = False

    @property
    def log(self) -> str:
        """What all steps printed."""
        return "".join(step.log for step in self.steps)

    @property
    def summary(self) -> str:
        """What all steps wrote into the summary."""
        return "".join(step.summary for step in self.steps)

    @property
    def commands(self) -> list[Command]:
        """All that was obeyed."""
        return [command for step in self.steps for command in step.commands]

    @property
    def annotations(self) -> list[Command]:
        """Errors, warnings and notices."""
        return [command for command in self.commands if command.name in ("error", "warning", "notice")]

    @property
    def code(self) -> int:
        """Exit code of the step that failed first, 0 where none did."""
        return next((step.code or 1 for step in self.steps if step.conclusion == "failure"), 0)

    def begin(self) -> None:
        """A job's own values may hold expressions."""
        self.env = {key: text_of(value) for key, value in self.expressions().filled(self.env).items()}

    def expressions(self, env: Mapping[str, str] | None = None) -> Expressions:
        """What may be asked at this point."""
        steps = {
            key: {"outputs": ran.outputs, "outcome": ran.outcome, "conclusion": ran.conclusion}
            for key, ran in self.by_id.items()
        }
        github = self.machine.context()
        if self.folder is not None:
            github["action_path"] = str(self.folder)
        needs_fine = all(one["result"] == "success" for one in self.needs.values())
        # What ended before counts for the job's own `if:`; its steps look at each other alone.
        failed = self.result == "failure" or (not self.began and not needs_fine)
        contexts = {
            "inputs": self.inputs, "steps": steps, "github": github, "runner": self.machine.runner(),
            "env": {**self.env, **(env or {})}, "needs": self.needs, "matrix": self.matrix, "vars": self.machine.vars,
            "secrets": self.machine.secrets, "job": {"status": self.result},
        }  # fmt: skip
        return Expressions(
            contexts,
            {
                "success": lambda: not failed,
                "failure": lambda: failed,
                "always": lambda: True,
                "cancelled": lambda: False,
                "hashFiles": hash_files(self.machine.workspace),
            },
        )

    def run(self) -> None:
        """Take the steps in order."""
        self.began = True
        extra: dict[str, str] = {}
        path: list[str] = []
        for number, asked in enumerate(self.asked):
            ran = self._step(asked, number, extra, path)
            extra |= ran.env
            path[:0] = ran.path
            self.steps.append(ran)
            if "id" in asked:
                self.by_id[asked["id"]] = ran
            if ran.conclusion == "failure":
                self.result = "failure"

    def _step(self, asked: dict[str, Any], number: int, extra: dict[str, str], path: list[str]) -> Ran:
        name = str(asked.get("name") or asked.get("id") or asked.get("uses") or number)
        known = self.expressions(extra)
        if not known.holds(asked.get("if", "success()")):
            return Ran(name, "skipped", "skipped")
        env = {key: text_of(known.filled(value)) for key, value in asked.get("env", {}).items()}
        if "run" in asked:
            ran = self._script(name, asked, {**self.env, **extra, **env}, path)
        else:
            ran = self._used(name, asked)
        if ran.outcome == "failure" and truth(known.filled(asked.get("continue-on-error", False))):
            ran.conclusion = "success"
        return ran

    def _used(self, name: str, asked: dict[str, Any]) -> Ran:
        uses = asked["uses"].split("@")[0]
        given = {key: text_of(value) for key, value in self.expressions().filled(asked.get("with", {})).items()}
        folder = self.machine.actions.get(uses)
        if folder is None and uses.startswith("./") and uses not in self.machine.uses:
            folder = (self.machine.workspace / uses).resolve()
        if folder is not None:
            inner = self.machine.action(folder, given)
            ran = Ran(name, inner.result, inner.result, inner.outputs, inner.code, inner.log, inner.commands)
            ran.summary = inner.summary
            return ran
        assert uses in self.machine.uses, f"the test does not say what {uses} does"
        try:
            outputs = self.machine.uses[uses](self, given)
        except StepFailed as failed:
            return Ran(name, "failure", "failure", failed.outputs, log=f"{failed}\n")
        return Ran(name, "success", "success", dict(outputs or {}))

    def _script(self, name: str, asked: dict[str, Any], env: dict[str, str], path: list[str]) -> Ran:
        folder = self.machine.temp.parent / f"step-{uuid.uuid4().hex}"
        folder.mkdir()
        files = {
            variable: folder / variable
            for variable in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY", "GITHUB_STATE")
        }
        for file in files.values():
            file.touch()
        script = folder / "script.sh"
        script.write_text(text_of(self.expressions(env).filled(asked["run"])), encoding="utf-8")
        shell = {
            "bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            "": ["bash", "-e", str(script)],
        }[asked.get("shell", "")]
        whole = {**self.machine.variables(), **env, **{key: str(file) for key, file in files.items()}}
        if self.folder is not None:
            whole["GITHUB_ACTION_PATH"] = str(self.folder)
        whole["PATH"] = os.pathsep.join([*path, whole["PATH"]])
        inside = text_of(self.expressions(env).filled(asked.get("working-directory", "")))
        done = subprocess.run(
            shell, cwd=self.machine.workspace / inside, env=whole, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, check=False, timeout=900,
        )  # fmt: skip
        log = done.stdout.decode("utf-8", "replace")
        outcome = "success" if done.returncode == 0 else "failure"
        return Ran(
            name, outcome, outcome, values_in(files["GITHUB_OUTPUT"].read_text(encoding="utf-8")), done.returncode, log,
            commands_in(log), files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8"),
            values_in(files["GITHUB_ENV"].read_text(encoding="utf-8")),
            files["GITHUB_PATH"].read_text(encoding="utf-8").split(),
        )  # fmt: skip
