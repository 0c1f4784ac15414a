"""Options that several commands share, and the small values they turn into."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from pargate.core.choices import Precision
from pargate.errors import InputError, nearest

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="An open_clip folder, a checkpoint file with --arch, hf-hub:ORG/NAME[@REV], open_clip:ARCH/TAG, "
        "or a folder that `export` wrote.",
        show_default=False,
    ),
]
ArchOption = Annotated[
    str | None,
    typer.Option("--arch", metavar="NAME[/TAG]", help="Architecture of a bare checkpoint file, e.g. ViT-B-32."),
]
OutputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FORMAT[=PATH]",
        help="Write the report: json to stdout, json=PATH to a file. Repeatable.",
    ),
]
PolicyRefOption = Annotated[
    str | None,
    typer.Option(
        "--policy-ref",
        metavar="GITREF",
        help="Read the policy, its waivers and --previous from this git ref, not from the working tree.",
    ),
]
NoWaiversOption = Annotated[bool, typer.Option("--no-waivers", help="Judge as if there were no waivers.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Fail where a waiver accepts nothing.")]
NowOption = Annotated[
    datetime | None,
    typer.Option("--now", metavar="DATE", formats=["%Y-%m-%d"], help="Judge waivers as of this day; default today."),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy",
        "-p",
        envvar="PARGATE_POLICY",
        metavar="POLICY",
        help="A YAML file or a built-in name, such as release. Default: pargate.yaml here or above in the repository, "
        "else baseline.",
    ),
]
ImagesOption = Annotated[
    str | None,
    typer.Option(
        "--images",
        envvar="PARGATE_IMAGES",
        metavar="SOURCE",
        help="Images: a folder, class folders, CSV/TSV, WebDataset tars, Parquet, hf:DATASET, or builtin:scenes.",
    ),
]
ClassesOption = Annotated[
    Path | None,
    typer.Option("--classes", envvar="PARGATE_CLASSES", metavar="FILE", help="Class names, one per line."),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option("--reference", metavar="MODEL", help="A trusted model, such as the parent: excess is over it."),
]
PreviousOption = Annotated[
    Path | None,
    typer.Option(
        "--previous",
        metavar="REPORT.json",
        help="The last release's report, for rules that limit how much worse a model may become.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", envvar="PARGATE_DEVICE", help="auto, cpu, or cuda[:N].")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Draws the order of carriers and every stamp.")]
CacheOption = Annotated[
    str | None,
    typer.Option(
        "--cache",
        envvar="PARGATE_CACHE",
        metavar="DIR|off",
        help="Where vectors and fetched pairs are kept, so that a killed run resumes.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdict and errors.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Every comparison, also the harmless ones, and what is being done.")
]
NoColorOption = Annotated[bool, typer.Option("--no-color", help="Plain text, as with NO_COLOR.")]


PrecisionOption = Annotated[
    Literal["auto", Precision], typer.Option("--precision", help="Arithmetic inside the towers.")
]


def refuse_empty(given: Mapping[str, str | None]) -> None:
    """Refuse arguments and options, by the names a user knows, that were given an empty text.

    Raises:
        InputError: one of them is.
    """
    for name, value in given.items():
        if value == "":
            raise InputError(f"{name} is empty", "name something, or leave it out; is a variable not set?")


@dataclass(frozen=True, slots=True)
class Output:
    """One requested report: a format, and where to; None is stdout."""

    format: str
    path: Path | None


def read_outputs(values: list[str] | None, formats: list[str]) -> list[Output]:
    """Requested reports; refuses now what could not be written at the end.

    Raises:
        InputError: unknown format, a place that cannot be written, or two reports for stdout.
    """
    from pargate.files import check_writable

    outputs = []
    for value in values or []:
        name, equals, place = value.partition("=")
        if name not in formats:
            raise InputError(f"unknown report format '{name}'.{nearest(name, formats)}", f"one of {', '.join(formats)}")
        if equals and not place:
            raise InputError(f"-o {value}: no file is named", f"write -o {name}=PATH")
        path = Path(place) if place else None
        if path is not None:
            check_writable(path)
        outputs.append(Output(name, path))
    to_stdout = sum(output.path is None for output in outputs)
    if to_stdout and sys.stdout is None:
        raise InputError("stdout is closed, and a report was asked for there", "write -o FORMAT=PATH")
    if to_stdout > 1:
        raise InputError("two reports for stdout", "give all but one a place: -o FORMAT=PATH")
    return outputs


def cache_folder(value: str | None) -> Path | None:
    """The folder of the store of vectors: as given, `off`, or the user's cache folder where there is a user."""
    if value == "off":
        return None
    if value:
        return Path(value)
    try:
        if sys.platform == "win32":
            base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = str(Path.home() / "Library" / "Caches")
        else:
            base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    except RuntimeError:  # a container's user without a home
        return None
    return Path(base) / "pargate"
