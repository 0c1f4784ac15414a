"""The command `calibrate`."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from pargate.cli.options import (
    ArchOption,
    CacheOption,
    ClassesOption,
    DeviceOption,
    ImagesOption,
    NoColorOption,
    PrecisionOption,
    QuietOption,
    SeedOption,
    cache_folder,
    refuse_empty,
)
from pargate.errors import ExitCode, InputError, nearest

ModelsArgument = Annotated[
    list[str],
    typer.Argument(metavar="MODELS...", help="Models that you trust, as `scan` takes them.", show_default=False),
]
OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="The table.", show_default=False)]
FamiliesOption = Annotated[
    str | None,
    typer.Option("--families", metavar="A,B", help="Families of triggers of the probe search. Default: all."),
]


def calibrate(
    models: ModelsArgument,
    out: OutOption,
    images: ImagesOption = None,
    classes: ClassesOption = None,
    families: FamiliesOption = None,
    arch: ArchOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    seed: SeedOption = 0,
    cache: CacheOption = None,
    quiet: QuietOption = False,
    no_color: NoColorOption = False,
) -> int:
    """Search trusted models, for rules that rank another among them.

    Scan with the same images, seed and precision. A limit of 5% on the p-value needs 19 models of one architecture.
    """
    from pargate.cli.console import Console
    from pargate.core.calibration import table_digest
    from pargate.core.found import Family
    from pargate.files import check_writable, write_atomic
    from pargate.scanning.calibrate import calibrate as run_calibrate
    from pargate.scanning.calibrate import lines, searching
    from pargate.scanning.request import ScanRequest, ScanSettings

    refuse_empty({"MODELS": min(models), "--images": images, "--arch": arch, "--families": families})
    known = get_args(Family)
    asked = [name.strip() for name in families.split(",")] if families else list(known)
    for name in asked:
        if name not in known or asked.count(name) > 1:
            raise InputError(
                f"--families {families}: '{name}' is named twice, or is no family.{nearest(name, list(known))}",
                f"some of {', '.join(known)}",
            )
    check_writable(out)
    console = Console(quiet=quiet, verbose=False, color=not no_color)
    settings = ScanSettings(device, precision, seed, cache=cache_folder(cache))
    request = ScanRequest(models[0], searching(asked), arch, images, classes, settings=settings)
    with console.progress() as listener:
        table = run_calibrate(models, request, listener)
    content = table.to_json().encode()
    write_atomic(out, content)
    console.lines(lines(table))
    console.note(f"wrote {out}; in a rule: calibration: {{path: {out}, digest: '{table_digest(content)}'}}")
    return ExitCode.OK
