"""The command `scan`."""

from dataclasses import replace
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
from pargate.errors import ExitCode, InputError, explain

MaxMinutesOption = Annotated[
    float | None,
    typer.Option("--max-minutes", min=0.0, help="Stop measuring after this time; undecided rules do not pass."),
]
PicturesOption = Annotated[
    bool, typer.Option("--pictures/--no-pictures", help="Put small copies of moved images into the report.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be measured, and stop.")]
ExitZeroOption = Annotated[
    bool, typer.Option("--exit-zero", help="Exit with 0 also if the verdict is fail or inconclusive.")
]
TunedOption = Annotated[
    str | None,
    typer.Option(
        "--tuned",
        metavar="MODEL",
        help="MODEL after a short fine-tuning on clean pairs, in place of a reference: a found trigger that no longer "
        "works on it is a breach.",
    ),
]
FoundOption = Annotated[
    str | None,
    typer.Option("--found", metavar="DIR", help="Folder for the triggers that the probe search finds."),
]
DrilledOption = Annotated[
    Path | None,
    typer.Option(
        "--drilled",
        metavar="DRILL.json",
        help="A drill of this model under this policy: the report says which planted backdoors it caught.",
    ),
]


def scan(
    model: ModelArgument,
    policy: PolicyOption = None,
    images: ImagesOption = None,
    classes: ClassesOption = None,
    arch: ArchOption = None,
    reference: ReferenceOption = None,
    tuned: TunedOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    seed: SeedOption = 0,
    max_minutes: MaxMinutesOption = None,
    previous: PreviousOption = None,
    policy_ref: PolicyRefOption = None,
    no_waivers: NoWaiversOption = False,
    strict: StrictOption = False,
    now: NowOption = None,
    pictures: PicturesOption = True,
    found: FoundOption = None,
    drilled: DrilledOption = None,
    output: OutputOption = None,
    cache: CacheOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    no_color: NoColorOption = False,
    dry_run: DryRunOption = False,
    exit_zero: ExitZeroOption = False,
) -> int:
    """Measure the policy's triggers on MODEL, and judge the model.

    The exit code is 0 for pass, 1 for fail and 3 for inconclusive. With 2 (wrong input), 4 (invalid policy) and 5
    (problem of the machine) nothing was judged.
    """
    from pargate.cli.console import Console
    from pargate.cli.reports import exit_code, open_judging, write
    from pargate.report import FORMATS
    from pargate.scanning.request import ScanRequest, ScanSettings
    from pargate.scanning.run import plan
    from pargate.scanning.run import scan as run_scan

    given = {"--images": images, "--reference": reference, "--tuned": tuned, "--arch": arch, "--found": found}
    refuse_empty({"MODEL": model, **given})
    outputs = read_outputs(output, list(FORMATS))
    console = Console(quiet=quiet, verbose=verbose, color=not no_color, outputs=outputs)
    judging = open_judging(console, policy, policy_ref, now=now, waive=not no_waivers, strict=strict, previous=previous)
    if max_minutes is not None and max_minutes <= 0:
        raise InputError("--max-minutes must be more than 0")
    asked = judging.policy.policy
    if found is not None and not any(rule.probe == "search" for rule in asked.rules):
        raise InputError(
            f"--found {found}: the policy {asked.name} has no rule of the probe search, which finds triggers",
            "add one, or leave the option out",
        )
    settings = ScanSettings(device, precision, seed, max_minutes, cache_folder(cache))
    request = ScanRequest(model, judging, arch, images, classes, reference, tuned, settings, pictures=pictures)
    if drilled is not None:
        from pargate.drill.run import read_drill

        request = replace(request, drilled=read_drill(drilled))
    if dry_run:
        console.lines(plan(request))
        return ExitCode.OK
    if found is not None:
        from pargate.scanning.found import make_folder

        make_folder(Path(found))
    signalled: list[ExitCode] = []
    with console.progress() as listener:
        report = run_scan(request, listener, on_interrupt=lambda signal: signalled.append(explain(signal).exit_code))
    missed = write(outputs, report, console)
    console.report(report)
    if found is not None:
        from pargate.scanning.found import write_found

        console.note(f"found triggers written to {found}: {write_found(report, Path(found))}")
    if signalled:
        console.note("interrupted: the report holds what was measured so far")
        return signalled[0]
    return (ExitCode.OK if exit_zero else exit_code(report.verdict)) or missed
