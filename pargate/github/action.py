"""All models, and what the runner is told of them.

Ends with the code of the worst model, which is the output `exit-code` too; neither a format nor an annotation changes
it.
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
from pargate.github.changes import touched
from pargate.github.forks import refused_fork
from pargate.github.inputs import SARIF, Asked
from pargate.github.run import CODES, Judged
from pargate.report import FORMATS

ORDER = (0, 3, 1, 2, 4, 5, 70)
"""Exit codes from good to bad; any other is that of a signal and worse."""

VECTORS_ROOM = 1 << 30
"""Bytes of measured vectors that are worth keeping: a repository's caches hold 10 GB, the environment included."""


@dataclass(slots=True)
class Use:
    """One use of the Action."""

    environ: Mapping[str, str]
    workspace: Path
    asked: Asked | None = None
    folders: dict[str, str] = field(default_factory=dict)
    """Of the models to judge."""
    judged: list[Judged] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    vectors: Path | None = None
    """Where measured vectors are kept for another run."""
    vectors_before: frozenset[Path] = frozenset()


def main() -> int:
    """Do all of it; the exit code."""
    models.obey_signals()
    use = Use(os.environ.copy(), Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()))
    code = 0
    try:
        prepare(use)
        judge_all(use)
    except BaseException as error:  # libraries have some that are no `Exception`
        found = explain(error)
        code = int(found.exit_code)
        use.trouble.append(f"{found.message} ({found.hint})" if found.hint else found.message)
    forgiven = use.asked.forgiven if use.asked else frozenset()
    code = worst([code, *(0 if one.code in forgiven else one.code for one in use.judged)])
    tell(use, code)
    return code


def worst(codes: list[int]) -> int:
    """The worst of several exit codes."""
    return max(codes, key=lambda code: ORDER.index(code) if code in ORDER else len(ORDER) + code)


def overall(judged: list[Judged]) -> str:
    """The worst verdict; where a model could not be judged it is no better than `inconclusive`."""
    found = [one.verdict for one in judged if one.verdict]
    if not found:
        return ""
    if len(found) < len(judged):
        found.append("inconclusive")
    return max(found, key=list(CODES).index)


def prepare(use: Use) -> None:
    """Refuse what must not run, and find out what to judge.

    Raises:
        InputError: an input is wrong.
        OperationalError: a stranger's change on a runner of one's own.
    """
    refused = refused_fork(use.environ)
    if refused:
        raise OperationalError(refused)
    asked = inputs.read(use.environ, use.workspace)
    chosen = asked.models
    if asked.changed_only:
        chosen, why = touched(asked, use.environ, use.workspace)
        use.notes.append(why)
    use.folders = {model: name for model, name in inputs.folders(asked.models).items() if model in chosen}
    use.asked = asked
    temporary = use.environ.get("RUNNER_TEMP", "")
    if not use.environ.get("PARGATE_CACHE"):
        use.vectors = Path(temporary, "pargate-vectors") if asked.cache and temporary else None
        use.environ = {**use.environ, "PARGATE_CACHE": str(use.vectors or "off")}
        use.vectors_before = frozenset(_blocks(use.vectors))


def judge_all(use: Use) -> None:
    """Every model that was chosen, one after the other.

    Raises:
        InputError, OperationalError: the folder for the reports cannot be made ready.
        Stopped: the runner cancels.
    """
    from pargate.files import write_atomic

    assert use.asked is not None
    output = use.workspace / use.asked.output
    sarif = output / SARIF
    if sarif.is_dir() and not sarif.is_symlink():
        for old in sarif.glob("*.sarif"):
            old.unlink()
    for model, name in use.folders.items():
        one = models.judge(model, use.asked, output / name, use.environ)
        use.judged.append(one)
        made = one.folder / FORMATS["sarif"].file
        if one.verdict and made.is_file():
            sarif.mkdir(exist_ok=True)
            write_atomic(sarif / f"{name}.sarif", made.read_bytes())


def tell(use: Use, code: int) -> None:
    """Annotations, summary and outputs."""
    from pargate.report.formats.github import command  # here: it takes long to load

    texts = [one.annotations or _unjudged(one) for one in use.judged]
    texts[:0] = [command("error", said, title="pargate") for said in use.trouble]
    texts += [command("notice", note, title="pargate") for note in use.notes]
    workflow.say("".join(f"{line}\n" for line in workflow.annotations(texts)))
    workflow.summarise(use.environ.get("GITHUB_STEP_SUMMARY", ""), _summary(use))
    workflow.put(use.environ.get("GITHUB_OUTPUT", ""), _outputs(use, code))


def _unjudged(one: Judged) -> str:
    from pargate.report.formats.github import command

    said = f"exit code {one.code}: {one.message}"
    return command("error", said, title=f"pargate: {one.model} was not judged")


def _outputs(use: Use, code: int) -> dict[str, str]:
    output = use.asked.output if use.asked else ""
    single = use.judged[0] if len(use.judged) == 1 else None
    # As the caller wrote the folder, so that a path works for whoever reads it in this workspace.
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
    """Parts of the summary, each with what stands for it where there is no room."""
    from pargate.report.formats.markdown import VERDICTS, escape

    lines = [f"> {escape(text)}\n" for text in (*use.trouble, *use.notes)]
    if use.judged:
        lines += ["| model | verdict | exit code |", "|---|---|--:|"]
        # The worst first: it must not be lost where there are many.
        for one in sorted(use.judged, key=lambda one: -worst([0, one.code])):
            shown = VERDICTS[one.verdict] if one.verdict else f"not judged: {escape(one.message, 300)}"  # type: ignore[index] # a str enum
            lines.append(f"| {escape(one.model, 200)} | {shown} | {one.code} |")
        if len(lines) > 300:
            lines[300:] = ["", f"and {len(lines) - 300} more; the output `digests` has them all."]
    yield "\n".join(lines) + "\n", ""
    for one in use.judged[:300]:
        if one.markdown:
            left_out = f"The report of {escape(one.model, 200)} is left out here: a summary holds 900 kB, no more."
            yield one.markdown, left_out + "\n"


def _blocks(folder: Path | None) -> Iterator[Path]:
    if folder is not None and folder.is_dir():
        yield from (path for path in folder.rglob("*") if path.is_file())


def _worth_keeping(use: Use) -> bool:
    """Whether vectors were measured that the runner's cache does not hold yet, and not too many."""
    now = frozenset(_blocks(use.vectors))
    return now != use.vectors_before and sum(path.stat().st_size for path in now) <= VECTORS_ROOM
