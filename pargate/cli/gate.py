"""The command `gate`."""

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
from pargate.core.choices import RequiredDevice
from pargate.errors import ExitCode

OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="The bundle to write; it must not exist.")]
PairsOption = Annotated[
    str | None,
    typer.Option("--pairs", metavar="SOURCE", help="Image-text pairs for cleaning. Default: the policy's."),
]
RequireOption = Annotated[
    RequiredDevice | None,
    typer.Option("--require", help="Do not clean without this device. Default: the policy's."),
]
SignKeyOption = Annotated[
    Path | None,
    typer.Option("--sign-key", metavar="PEM", help="Sign the bundle with this private key; needs pargate[sign]."),
]
KeepStateOption = Annotated[
    bool,
    typer.Option("--keep-state", help="Keep OUT.unfinished after a verdict, for a gate under another policy."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan with expected minutes, and stop.")]


def gate(
    model: ModelArgument,
    out: OutOption,
    policy: PolicyOption = None,
    pairs: PairsOption = None,
    require: RequireOption = None,
    images: ImagesOption = None,
    classes: ClassesOption = None,
    arch: ArchOption = None,
    reference: ReferenceOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    seed: SeedOption = 0,
    previous: PreviousOption = None,
    policy_ref: PolicyRefOption = None,
    no_waivers: NoWaiversOption = False,
    strict: StrictOption = False,
    now: NowOption = None,
    output: OutputOption = None,
    sign_key: SignKeyOption = None,
    keep_state: KeepStateOption = False,
    cache: CacheOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    no_color: NoColorOption = False,
    dry_run: DryRunOption = False,
) -> int:
    """Turn MODEL into a proven bundle, or refuse it.

    The gate scans MODEL; if it fails and the policy allows, it cleans and scans again; then it exports, proves and
    scans what ships. The exit code is 0 if a bundle is written (pass or remediated), 1 for fail and 3 for inconclusive.
    A killed gate resumes.
    """
    from pargate.cli.console import Console
    from pargate.cli.reports import exit_code, open_judging, write
    from pargate.release.gate import gate as run_gate
    from pargate.release.gate import plan
    from pargate.release.stages import GateRequest
    from pargate.report import FORMATS
    from pargate.scanning.request import ScanRequest, ScanSettings

    refuse_empty({"MODEL": model, "--images": images, "--reference": reference, "--arch": arch, "--pairs": pairs})
    outputs = read_outputs(output, list(FORMATS))
    console = Console(quiet=quiet, verbose=verbose, color=not no_color, outputs=outputs)
    judging = open_judging(console, policy, policy_ref, now=now, waive=not no_waivers, strict=strict, previous=previous)
    if sign_key is not None:
        from pargate.models.signing import check_key

        check_key(sign_key)
    settings = ScanSettings(device, precision, seed, cache=cache_folder(cache))
    asked = ScanRequest(model, judging, arch, images, classes, reference, settings=settings)
    request = GateRequest(asked, out, pairs, require, keep_state, sign_key)
    if dry_run:
        console.lines(plan(request))
        return ExitCode.OK
    with console.progress() as listener:
        done = run_gate(request, listener)
    missed = write(outputs, done.report, console)
    console.gated(done.report, done.folder, done.kept, holds=done.kept_holds)
    return exit_code(done.report.verdict) or missed
