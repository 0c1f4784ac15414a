"""The command `drill`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from pargate.cli.options import (
    ArchOption,
    CacheOption,
    ClassesOption,
    DeviceOption,
    ImagesOption,
    ModelArgument,
    NoColorOption,
    PagesOption,
    PolicyOption,
    QuietOption,
    SeedOption,
    cache_folder,
    read_outputs,
    refuse_empty,
)
from pargate.errors import ExitCode, InputError

T = TypeVar("T")

NONE = "none"

OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder of the report; a drill that was killed goes on from it.")
]
PairsOption = Annotated[
    str | None,
    typer.Option("--pairs", metavar="SOURCE", help="Image-text pairs to plant with. Default: drawn scenes."),
]
TrustedOption = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="MODEL|none",
        help="Trusted model of all scans. Default: the untouched model, for the copies; none: no model.",
    ),
]
FamiliesOption = Annotated[
    str, typer.Option("--families", metavar="A,B", help="Families of triggers: patch, blend, stripes, wave, colour.")
]
TriggerOption = Annotated[
    str | None,
    typer.Option(
        "--trigger",
        metavar="FILE[:PLACE/MODE]",
        help="Plant this picture instead, such as logo.png:bottom-right/patch or noise.png:blend.",
    ),
]
StrengthsOption = Annotated[
    str | None,
    typer.Option(
        "--strengths",
        metavar="A,B",
        help="Strengths of the triggers; 1 is the published one. Default: 0.5,1,2, or 1 with --trigger.",
    ),
]
RatesOption = Annotated[
    str, typer.Option("--rates", metavar="A,B", help="Poison rates: shares of the training images with the trigger.")
]
TargetsOption = Annotated[int, typer.Option("--targets", min=1, max=100, help="Number of targets, drawn by the seed.")]
MinutesOption = Annotated[float, typer.Option("--minutes", min=0.0, help="Time budget; the report lists what is left.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan with expected minutes, and stop.")]


def drill(
    model: ModelArgument,
    out: OutOption,
    policy: PolicyOption = None,
    images: ImagesOption = None,
    classes: ClassesOption = None,
    pairs: PairsOption = None,
    reference: TrustedOption = None,
    families: FamiliesOption = "patch,blend,stripes",
    trigger: TriggerOption = None,
    strengths: StrengthsOption = None,
    rates: RatesOption = "0.1",
    targets: TargetsOption = 1,
    minutes: MinutesOption = 30.0,
    arch: ArchOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    output: PagesOption = None,
    cache: CacheOption = None,
    quiet: QuietOption = False,
    no_color: NoColorOption = False,
    dry_run: DryRunOption = False,
) -> int:
    """Plant backdoors into copies; count what the policy catches.

    MODEL stays as it is, and copies are removed after their scan. The exit code is 0 when the drill ran, whatever the
    policy caught.
    """
    from pargate.cli.console import Console
    from pargate.cli.reports import open_judging
    from pargate.drill.plants import Choice, own_trigger
    from pargate.drill.run import PAIRS, DrillRequest, planned
    from pargate.drill.run import drill as run_drill
    from pargate.files import write_atomic
    from pargate.report.drill_pages import PAGES, lines
    from pargate.scanning.request import ScanRequest, ScanSettings

    refuse_empty({"MODEL": model, "--images": images, "--reference": reference, "--arch": arch, "--pairs": pairs})
    outputs = read_outputs(output, list(PAGES))
    console = Console(quiet=quiet, verbose=False, color=not no_color, outputs=outputs)
    judging = open_judging(console, policy, None)
    choice = Choice(
        tuple(_listed("--families", families, str)),
        tuple(_listed("--strengths", strengths or ("1" if trigger else "0.5,1,2"), float)),
        tuple(_listed("--rates", rates, float)),
        targets,
        own_trigger(trigger) if trigger else None,
    )
    settings = ScanSettings(device, seed=seed, cache=cache_folder(cache))
    trusted = None if reference == NONE else reference
    scan = ScanRequest(model, judging, arch, images, classes, trusted, settings=settings)
    request = DrillRequest(scan, out, pairs or PAIRS, choice, minutes, alone=reference == NONE)
    if dry_run:
        console.lines(planned(request))
        return ExitCode.OK
    with console.progress() as listener:
        found = run_drill(request, listener)
    for name, render in PAGES.values():
        write_atomic(out / name, render(found).encode())
    for target in outputs:
        text = PAGES[target.format][1](found)
        if target.path is None:
            console.to_stdout(text)
        else:
            write_atomic(target.path, text.encode())
            console.wrote(target)
    console.lines(lines(found))
    console.note(f"report: {out / PAGES['html'][0]}")
    return ExitCode.OK


def _listed(name: str, text: str, kind: Callable[[str], T]) -> list[T]:
    """Return the values of a list such as `A,B`.

    Raises:
        InputError: a value is no number.
    """
    try:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise InputError(f"{name} {text[:80]}: {error}", f"write {name} A,B") from error
