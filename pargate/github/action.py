"""The run of the Action: judge all models, and report to the runner.

The process ends with the exit code of the worst model, which is also the output `exit-code`.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pargate.errors import OperationalError, explain
from pargate.github import inputs
from pargate.github import run as models
from pargate.github import runner as workflow
from pargate.github.changes import changed_models
from pargate.github.forks import refused_fork
from pargate.github.inputs import SARIF, Inputs
from pargate.github.run import CODES, ModelRun
from pargate.report import FORMATS

ORDER = (0, 3, 1, 2, 4, 5, 70)
"""Exit codes from best to worst; the code of a signal is worse than all."""

VECTORS_ROOM = 1 << 30
"""Maximum size of the vectors that are cached, in bytes; a repository's caches hold 10 GB in all."""


@dataclass(slots=True)
class Use:
    """The state of one run of the Action."""

    environ: Mapping[str, str]
    workspace: Path
    inputs: Inputs | None = None
    folders: dict[str, str] = field(default_factory=dict)
    """Report folder of each model to judge."""
    judged: list[ModelRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    vectors: Path | None = None
    """Folder of the vectors that the next run reuses."""
    vectors_before: frozenset[Path] = frozenset()


def main() -> int:
    """Run the Action; return the exit code."""
    models.obey_signals()
    use = Use(os.environ.copy(), Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()))
    code = 0
    try:
        prepare(use)
        judge_all(use)
    except BaseException as error:  # some libraries raise exceptions that are not an `Exception`
        found = explain(error)
        code = int(found.exit_code)
        use.trouble.append(f"{found.message} ({found.hint})" if found.hint else found.message)
    forgiven = use.inputs.forgiven if use.inputs else frozenset()
    code = worst([code, *(0 if one.code in forgiven else one.code for one in use.judged)])
    tell(use, code)
    return code


def worst(codes: list[int]) -> int:
    """Return the worst of several exit codes."""
    return max(codes, key=lambda code: ORDER.index(code) if code in ORDER else len(ORDER) + code)


def overall(judged: list[ModelRun]) -> str:
    """Return the worst verdict; at best `inconclusive` if a model could not be judged."""
    found = [one.verdict for one in judged if one.verdict]
    if not found:
        return ""
    if len(found) < len(judged):
        found.append("inconclusive")
    return max(found, key=list(CODES).index)


def prepare(use: Use) -> None:
    """Refuse a fork's change on a self-hosted runner; read the inputs and choose the models.

    Raises:
        InputError: an input is wrong.
        OperationalError: the change comes from a fork and the runner is self-hosted.
    """
    refused = refused_fork(use.environ)
    if refused:
        raise OperationalError(refused)
    given = inputs.read(use.environ, use.workspace)
    chosen = given.models
    if given.changed_only:
        chosen, why = changed_models(given, use.environ, use.workspace)
        use.notes.append(why)
    use.folders = {model: name for model, name in inputs.folders(given.models).items() if model in chosen}
    use.inputs = given
    temporary = use.environ.get("RUNNER_TEMP", "")
    if not use.environ.get("PARGATE_CACHE"):
        use.vectors = Path(temporary, "pargate-vectors") if given.cache and temporary else None
        use.environ = {**use.environ, "PARGATE_CACHE": str(use.vectors or "off")}
        use.vectors_before = frozenset(_blocks(use.vectors))


def judge_all(use: Use) -> None:
    """Judge the chosen models one after another.

    Raises:
        InputError, OperationalError: a report folder cannot be prepared.
        Stopped: the runner cancels the job.
    """
    from pargate.files import write_atomic

    assert use.inputs is not None
    output = use.workspace / use.inputs.output
    sarif = output / SARIF
    if sarif.is_dir() and not sarif.is_symlink():
        for old in sarif.glob("*.sarif"):
            old.unlink()
    for model, name in use.folders.items():
        one = models.judge(model, use.inputs, output / name, use.environ)
        use.judged.append(one)
        made = one.folder / FORMATS["sarif"].file
        if one.verdict and made.is_file():
            sarif.mkdir(exist_ok=True)
            write_atomic(sarif / f"{name}.sarif", made.read_bytes())


def tell(use: Use, code: int) -> None:
    """Write the annotations, the summary and the outputs."""
    from pargate.report.formats.github import command  # it takes long to load

    texts = [one.annotations or _unjudged(one) for one in use.judged]
    texts[:0] = [command("error", said, title="pargate") for said in use.trouble]
    texts += [command("notice", note, title="pargate") for note in use.notes]
    workflow.say("".join(f"{line}\n" for line in workflow.annotations(texts)))
    workflow.summarise(use.environ.get("GITHUB_STEP_SUMMARY", ""), _summary(use))
    workflow.put(use.environ.get("GITHUB_OUTPUT", ""), _outputs(use, code))


def _unjudged(one: ModelRun) -> str:
    from pargate.report.formats.github import command

    said = f"exit code {one.code}: {one.message}"
    return command("error", said, title=f"pargate: {one.model} was not judged")


def _outputs(use: Use, code: int) -> dict[str, str]:
    output = use.inputs.output if use.inputs else ""
    single = use.judged[0] if len(use.judged) == 1 else None
    # The folder as the workflow wrote it, so that the path works in this workspace.
    report = f"{output}/{single.folder.name}/{FORMATS['json'].file}" if single and single.report else ""
    written = bool(output) and any((use.workspace / output / SARIF).glob("*.sarif"))
    digests = {
        one.model: {"verdict": one.verdict, "model": one.weights, "report": one.report, "bundle": one.bundle}
        for one in use.judged
    }
    return {
        "verdict": overall(use.judged),
        "exit-code": str(code),
        "reports": output if use.judged else "",
        "report": report,
        "sarif": f"{output}/{SARIF}" if written else "",
        "digests": json.dumps(digests),
        "failed": json.dumps([one.model for one in use.judged if one.verdict == "fail"]),
        "judged": str(sum(bool(one.verdict) for one in use.judged)),
        "measured": "true" if _worth_keeping(use) else "false",
    }


def _summary(use: Use) -> Iterator[tuple[str, str]]:
    """Yield the sections of the summary, each with a sentence that replaces it if it does not fit."""
    from pargate.report.formats.markdown import VERDICTS, escape

    lines = [f"> {escape(text)}\n" for text in (*use.trouble, *use.notes)]
    if use.judged:
        lines += ["| model | verdict | exit code |", "|---|---|--:|"]
        # The worst first, so that a long list does not lose it.
        for one in sorted(use.judged, key=lambda one: -worst([0, one.code])):
            shown = VERDICTS[one.verdict] if one.verdict else f"not judged: {escape(one.message, 300)}"  # type: ignore[index] # a str enum
            lines.append(f"| {escape(one.model, 200)} | {shown} | {one.code} |")
        if len(lines) > 300:
            lines[300:] = ["", f"and {len(lines) - 300} more; the output `digests` lists all."]
    yield "\n".join(lines) + "\n", ""
    for one in use.judged[:300]:
        if one.markdown:
            left_out = f"The report of {escape(one.model, 200)} is left out: a summary holds at most 900 kB."
            yield one.markdown, left_out + "\n"


def _blocks(folder: Path | None) -> Iterator[Path]:
    if folder is not None and folder.is_dir():
        yield from (path for path in folder.rglob("*") if path.is_file())


def _worth_keeping(use: Use) -> bool:
    """Return whether the vectors changed and are small enough for the runner's cache."""
    now = frozenset(_blocks(use.vectors))
    return now != use.vectors_before and sum(path.stat().st_size for path in now) <= VECTORS_ROOM
