"""Commands that open a model: scan."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pargate.cli.options import (
    ArchOption,
    ModelArgument,
    NoColorOption,
    NoWaiversOption,
    NowOption,
    OutputOption,
    PolicyRefOption,
    StrictOption,
    Terminated,
    cache_folder,
    read_outputs,
)
from pargate.errors import ExitCode, InputError


class PrecisionChoice(StrEnum):
    """Arithmetic of the image tower."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


def scan(
    model: ModelArgument,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            "-p",
            envvar="PARGATE_POLICY",
            metavar="POLICY",
            help="A YAML file or a built-in name. Default: pargate.yaml here, else baseline.",
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            envvar="PARGATE_IMAGES",
            metavar="SOURCE",
            help="Carriers: a folder, class folders, CSV/TSV, WebDataset tars, or builtin:scenes.",
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option("--classes", envvar="PARGATE_CLASSES", metavar="FILE", help="Class names, one per line."),
    ] = None,
    arch: ArchOption = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="MODEL", help="A trusted model, such as the parent: excess is over it."),
    ] = None,
    device: Annotated[str, typer.Option("--device", envvar="PARGATE_DEVICE", help="auto, cpu, or cuda[:N].")] = "auto",
    precision: Annotated[
        PrecisionChoice, typer.Option("--precision", help="Arithmetic of the image tower.")
    ] = PrecisionChoice.AUTO,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the order of carriers and every stamp.")] = 0,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", min=0.0, help="Stop measuring after so long; undecided is not passed."),
    ] = None,
    previous: Annotated[
        Path | None,
        typer.Option(
            "--previous",
            metavar="REPORT.json",
            help="The last release's report, for rules that limit how much worse a model may become.",
        ),
    ] = None,
    policy_ref: PolicyRefOption = None,
    no_waivers: NoWaiversOption = False,
    strict: StrictOption = False,
    now: NowOption = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Put small pictures of moved carriers into the report.")
    ] = True,
    output: OutputOption = None,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache",
            envvar="PARGATE_CACHE",
            metavar="DIR|off",
            help="Where vectors are kept, so that a killed run resumes.",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdict and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every comparison, also the harmless ones.")] = False,
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
    import os
    from datetime import UTC, datetime

    # Before torch is loaded: threads that wait by spinning take the processor from the workers that decode
    # pictures, and from whatever else runs; on two busy cores a layer then took ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # numpy only multiplies small matrices here, for which its own threads cost more than they give.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from pargate.cli.console import Console
    from pargate.cli.reports import exit_code, load_report, open_policy, write
    from pargate.pipeline.scan import ScanRequest, plan
    from pargate.pipeline.scan import scan as run_scan
    from pargate.report import FORMATS

    for name, value in (("--images", images), ("--reference", reference), ("--arch", arch)):
        if value == "":
            raise InputError(f"{name} is empty", "name something, or leave it out; is a variable not set?")
    outputs = read_outputs(output, list(FORMATS))
    console = Console(quiet=quiet, verbose=verbose, color=not no_color)
    started = datetime.now(UTC)
    today = now.date() if now else started.date()
    resolved, reader = open_policy(policy, policy_ref, today, console)
    if max_minutes is not None and max_minutes <= 0:
        raise InputError("--max-minutes must be more than 0")
    request = ScanRequest(
        model=model,
        policy=resolved,
        started=started.isoformat(timespec="seconds"),
        arch=arch,
        images=images,
        classes=classes,
        reference=reference,
        device=device,
        precision=precision.value,
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
    write(outputs, report, console)
    console.report(report)
    if signalled:
        console.note("interrupted: this is what was measured until then")
        return signalled[0]
    return ExitCode.OK if exit_zero else exit_code(report.verdict)
