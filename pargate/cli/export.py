"""The command `export`."""

from enum import StrEnum
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
    PolicyOption,
    PolicyRefOption,
    QuietOption,
    ReferenceOption,
    SeedOption,
    VerboseOption,
    cache_folder,
    refuse_empty,
)
from pargate.errors import ExitCode


class GraphChoice(StrEnum):
    """Precision of graphs."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write; it must not exist.")],
    precision: Annotated[
        list[GraphChoice] | None,
        typer.Option("--precision", help="Precision of the graphs; repeatable. Default: the policy's, else fp32."),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option("--opset", metavar="N", help="Version of the operators. Default: the policy's, else 18."),
    ] = None,
    images: ImagesOption = None,
    classes: ClassesOption = None,
    policy: PolicyOption = None,
    rescan: Annotated[
        bool | None,
        typer.Option("--rescan/--no-rescan", help="Scan the graphs by the policy. Default: as the policy says."),
    ] = None,
    arch: ArchOption = None,
    reference: ReferenceOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    policy_ref: PolicyRefOption = None,
    cache: CacheOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Write MODEL as ONNX graphs that are proven equal to it.

    The exit code is 0 if the graphs are written, 1 if they differ from the checkpoint or break the policy, and 3 if the
    policy is not decided. Nothing is written unless it is 0.
    """
    from pargate.cli.console import Console
    from pargate.cli.reports import exit_code, open_judging
    from pargate.release.export import ExportRequest, summary
    from pargate.release.export import export as run_export
    from pargate.scanning.request import ScanRequest, ScanSettings

    refuse_empty({"MODEL": model, "--images": images, "--reference": reference, "--arch": arch})
    console = Console(quiet=quiet, verbose=verbose, color=not no_color)
    judging = open_judging(console, policy, policy_ref)
    settings = ScanSettings(device, seed=seed, cache=cache_folder(cache))
    asked = ScanRequest(model, judging, arch, images, classes, reference, settings=settings)
    request = ExportRequest(asked, out, tuple(choice.value for choice in precision or ()), opset, rescan)
    with console.progress() as listener:
        made = run_export(request, listener)
    for proven in made.parity:
        console.lines(summary(proven))
    for report in made.reports:
        console.report(report)
    if made.folder is not None:
        console.note(f"written: {made.folder}")
        return ExitCode.OK
    same = all(proven.passed for proven in made.parity)
    judged = "the graphs do" if made.parity else "the model does"
    why = f"{judged} not pass the policy" if same else "the graphs differ from the checkpoint"
    console.lines([f"nothing was written: {why}"])
    return exit_code(made.reports[-1].verdict) if same else ExitCode.FAIL
