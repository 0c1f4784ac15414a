"""The command `report`, and what commands that write reports share."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pargate.cli import complete
from pargate.cli.options import (
    NoColorOption,
    NoWaiversOption,
    NowOption,
    Output,
    OutputOption,
    PolicyRefOption,
    PreviousOption,
    QuietOption,
    StrictOption,
    VerboseOption,
    read_outputs,
)
from pargate.ending import drop_stdout, say
from pargate.errors import ExitCode, InputError, OperationalError, explain

if TYPE_CHECKING:
    from pargate.cli.console import Console
    from pargate.core.report import ScanReport
    from pargate.core.results import Verdict
    from pargate.judge.judging import Judging
    from pargate.policy.layers import Reader
    from pargate.policy.resolve import Resolved


def report(
    saved: Annotated[Path, typer.Argument(metavar="REPORT.json", help="A report that -o json wrote.")],
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            "-p",
            metavar="POLICY",
            autocompletion=complete.policies,
            help="Judge the measurements again under this policy.",
        ),
    ] = None,
    previous: PreviousOption = None,
    policy_ref: PolicyRefOption = None,
    no_waivers: NoWaiversOption = False,
    strict: StrictOption = False,
    now: NowOption = None,
    check_freshness: Annotated[
        str | None,
        typer.Option("--check-freshness", metavar="DAYS", help="Fail if the run began longer ago, such as 35d."),
    ] = None,
    output: OutputOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Show a saved report in other formats, or judge it again.

    The exit code is 0 without --policy, else that of the new verdict; and 1 if the report is too old for
    --check-freshness.
    """
    from pargate.cli.console import Console
    from pargate.report import FORMATS
    from pargate.report.text import started

    outputs = read_outputs(output, list(FORMATS))
    console = Console(quiet=quiet, verbose=verbose, color=not no_color, outputs=outputs)
    if policy is None:
        given = {"--policy-ref": policy_ref, "--previous": previous, "--no-waivers": no_waivers, "--strict": strict}
        for name, value in given.items():
            if value:
                raise InputError(f"{name} needs --policy", "add --policy POLICY, or leave it out")
    most = None if check_freshness is None else _days(check_freshness)
    found = load_report(saved)
    age = (day(now) - started(found).date()).days if most is not None else 0
    stale = most is not None and not -1 <= age <= most
    if policy is not None:
        # Rendering alone needs no statistics, which take long to load.
        from pargate.judge.rejudge import judge

        found = judge(
            found,
            open_judging(console, policy, policy_ref, now=now, waive=not no_waivers, strict=strict, previous=previous),
        )
    missed = write(outputs, found, console)
    asks_age_alone = most is not None and policy is None
    if not asks_age_alone and not any(target.path is None for target in outputs):
        console.report(found)
    if most is not None:
        console.lines([f"{saved}: {_freshness(age, most)}"])
    if stale:
        return ExitCode.FAIL
    return (ExitCode.OK if policy is None else exit_code(found.verdict)) or missed


def _days(text: str) -> int:
    """Parse a number of days such as `35d`."""
    number = text.removesuffix("d")
    if number == text or not number.isascii() or not number.isdecimal() or not 0 < int(number[:6]) < 100_000:
        raise InputError(f"--check-freshness {text[:40]} is not a number of days", "write it as 35d")
    return int(number)


def _freshness(age: int, most: int) -> str:
    """Return whether a run that began `age` days ago is from the last `most` days, in words."""
    if age < -1:
        return f"stale: its run began {-age} days in the future"
    if age > most:
        return f"stale: its run began {age} days ago, more than {most}; scan again"
    return f"fresh: its run began {max(age, 0)} days ago, of at most {most}"


def reader_at(ref: str | None) -> "Reader":
    """Return the reader of files: at a git ref, or of the working tree."""
    from pargate.files import read_bytes
    from pargate.policy.layers import from_git

    return from_git(ref) if ref is not None else read_bytes


def open_policy(name: str | None, ref: str | None, today: date, console: "Console") -> "tuple[Resolved, Reader]":
    """Return the policy of a command on models, which must be valid today, and the reader of its files."""
    from pargate.policy.resolve import refuse_expired, refuse_pairs, resolve

    reader = reader_at(ref)
    resolved = resolve(name, reader)
    if name is None and not resolved.remark:
        console.note(f"policy: {resolved.policy.name}, found in {resolved.source}" + (f" at {ref}" if ref else ""))
    refuse_expired(resolved, today)
    refuse_pairs(resolved)
    return resolved, reader


def day(now: datetime | None) -> date:
    """Return the day of a judgement: that of --now, or today in UTC."""
    return (now or datetime.now(UTC)).date()


def open_judging(
    console: "Console",
    policy: str | None,
    policy_ref: str | None,
    *,
    now: datetime | None = None,
    waive: bool = True,
    strict: bool = False,
    previous: Path | None = None,
) -> "Judging":
    """Return what the options of a command say about the verdict."""
    from pargate.judge.judging import Judging

    resolved, reader = open_policy(policy, policy_ref, day(now), console)
    return Judging(resolved, day(now), waive, strict, load_report(previous, reader) if previous else None)


def load_report(path: Path, reader: "Reader | None" = None) -> "ScanReport":
    """Read a saved report.

    Raises:
        InputError: the file is missing, or not a report that this pargate reads.
    """
    from pydantic import ValidationError

    from pargate.core.report import ScanReport
    from pargate.files import read_bytes, refuse_pointer

    try:
        content = (reader or read_bytes)(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise InputError(f"cannot read the report {path}: {reason}", "give a report that -o json wrote") from error
    refuse_pointer(str(path), content)
    try:
        return ScanReport.from_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{path} is not a pargate report: {where}: {first['msg']}", "give a report that -o json wrote"
        ) from error


def write(outputs: list[Output], found: "ScanReport", console: "Console") -> ExitCode:
    """Write each requested format to its path, or else to another one that is printed.

    Returns:
        0, or 5 if a report could not be written to its path.
    """
    from pargate.files import write_atomic, write_elsewhere
    from pargate.report import FORMATS

    code = ExitCode.OK
    for target, text in [(target, FORMATS[target.format].render(found)) for target in outputs]:
        try:
            if target.path is None:
                console.to_stdout(text)
            else:
                write_atomic(target.path, text.encode())
                console.wrote(target)
        except (OSError, OperationalError) as error:
            if target.path is None:
                drop_stdout()
            place = write_elsewhere(f"report.{target.format}", text.encode())
            kept = f"the report is in {place.absolute()}" if place else "it could not be written elsewhere"
            say(OperationalError(explain(error).message, kept))
            code = ExitCode.OPERATIONAL
    return code


def exit_code(verdict: "Verdict") -> ExitCode:
    """Return the exit code of a verdict."""
    from pargate.core.results import Outcome

    return {
        Outcome.PASS: ExitCode.OK,
        Outcome.REMEDIATED: ExitCode.OK,
        Outcome.FAIL: ExitCode.FAIL,
        Outcome.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
    }[verdict.status]
