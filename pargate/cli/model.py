"""Commands that open a model: scan."""

from pathlib import Path
from typing import Annotated

import typer

from pargate.cli.options import (
    ArchOption,
    CacheOption,
    ClassesOption,
    DeviceOption,
    ImagesOption,
    ModelArgument,
    NoColorOption,
    NoWaiversOption,
    NowOption,
    OutputOption,
    PolicyOption,
    PolicyRefOption,
    PrecisionOption,
    PreviousOption,
    QuietOption,
    ReferenceOption,
    SeedOption,
    StrictOption,
    VerboseOption,
    cache_folder,
    read_outputs,
    refuse_empty,
)
from pargate.errors import ExitCode, InputError, Terminated


def scan(
    model: ModelArgument,
    policy: PolicyOption = None,
    images: ImagesOption = None,
    classes: ClassesOption = None,
    arch: ArchOption = None,
    reference: ReferenceOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    seed: SeedOption = 0,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", min=0.0, help="Stop measuring after so long; undecided is not passed."),
    ] = None,
    previous: PreviousOption = None,
    policy_ref: PolicyRefOption = None,
    no_waivers: NoWaiversOption = False,
    strict: StrictOption = False,
    now: NowOption = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Put small pictures of moved carriers into the report.")
    ] = True,
    found: Annotated[
        Path | None,
        typer.Option("--found", metavar="DIR", help="Write triggers that a rule of the probe search finds there."),
    ] = None,
    output: OutputOption = None,
    cache: CacheOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    no_color: NoColorOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be measured, and stop.")] = False,
    exit_zero: Annotated[
        bool, typer.Option("--exit-zero", help="End with 0 also when the verdict is fail or inconclusive.")
    ] = False,
) -> int:
    """Measure the attack success of the policy's triggers on MODEL, and judge it.

    Ends with 0 for pass, 1 for fail, 3 for inconclusive; 2, 4 and 5 say that nothing was judged: wrong
    input, invalid policy, or trouble with the machine.
    """
    from datetime import UTC, datetime

    from pargate.cli.console import Console
    from pargate.cli.reports import exit_code, load_report, open_policy, write
    from pargate.report import FORMATS
    from pargate.scanning.run import ScanRequest, plan
    from pargate.scanning.run import scan as run_scan

    refuse_empty({"MODEL": model, "--images": images, "--reference": reference, "--arch": arch})
    outputs = read_outputs(output, list(FORMATS))
    console = Console(quiet=quiet, verbose=verbose, color=not no_color)
    started = datetime.now(UTC)
    today = now.date() if now else started.date()
    resolved, reader = open_policy(policy, policy_ref, today, console)
    if max_minutes is not None and max_minutes <= 0:
        raise InputError("--max-minutes must be more than 0")
    if found is not None and not any(rule.families for rule in resolved.policy.rules):
        raise InputError(
            f"--found {found}: the policy {resolved.policy.name} has no rule of the probe search, which finds triggers",
            "add one, or leave the option out",
        )
    request = ScanRequest(
        model=model,
        policy=resolved,
        started=started.isoformat(timespec="seconds"),
        arch=arch,
        images=images,
        classes=classes,
        reference=reference,
        device=device,
        precision=precision,
        seed=seed,
        max_minutes=max_minutes,
        cache=cache_folder(cache),
        today=today,
        waive=not no_waivers,
        strict=strict,
        previous=load_report(previous, reader) if previous else None,
        pictures=pictures,
    )
    if dry_run:
        console.lines(plan(request))
        return ExitCode.OK
    signalled: list[ExitCode] = []

    def remember(signal: KeyboardInterrupt) -> None:
        signalled.append(ExitCode.SIGTERM if isinstance(signal, Terminated) else ExitCode.SIGINT)

    with console.progress() as listener:
        report = run_scan(request, listener, on_interrupt=remember)
    missed = write(outputs, report, console)
    console.report(report)
    if found is not None:
        from pargate.scanning.found import write_found

        console.note(f"found triggers written to {found}: {write_found(report, found)}")
    if signalled:
        console.note("interrupted: this is what was measured until then")
        return signalled[0]
    return (ExitCode.OK if exit_zero else exit_code(report.verdict)) or missed
