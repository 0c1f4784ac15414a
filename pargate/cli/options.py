"""Options that several commands share, and their parsed values."""

import ctypes
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from pargate.cli import complete
from pargate.core.choices import Executor, Precision
from pargate.errors import InputError, OperationalError, nearest

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A folder of open_clip or transformers, FOLDER#FILE, a checkpoint file with --arch, "
        "hf-hub:ORG/NAME[@REV], open_clip:ARCH/TAG, a folder that `export` wrote, "
        "or BASE+ADAPTER with the folder of a LoRA adapter.",
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
        autocompletion=complete.formats,
        help="Write the report as json, sarif, junit, code-quality, markdown, github, html, ml-bom, badge or "
        "badge-json: json=PATH to a file, json or json=- to stdout. Repeatable.",
    ),
]
PagesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FORMAT[=PATH]",
        autocompletion=complete.only("json", "markdown", "html"),
        help="Write it as json, markdown or html: json=PATH to a file, json or json=- to stdout. Repeatable.",
    ),
]
JsonOption = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="json[=PATH]",
        autocompletion=complete.only("json"),
        help="Write JSON: json=PATH to a file, json or json=- to stdout.",
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
NoWaiversOption = Annotated[bool, typer.Option("--no-waivers", help="Ignore all waivers.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Fail if a waiver accepts nothing.")]


def _day(text: str) -> datetime:
    """Return the day that `--now` names.

    Raises:
        InputError: it names none.
    """
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise InputError(
            f"--now {text[:40]} is not a day", "write the year, the month and the day, as 2026-01-31"
        ) from error


NowOption = Annotated[
    datetime | None,
    typer.Option("--now", metavar="DATE", parser=_day, help="Judge waivers as of this day; default today."),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy",
        "-p",
        envvar="PARGATE_POLICY",
        metavar="POLICY",
        autocompletion=complete.policies,
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
    typer.Option(
        "--reference", metavar="MODEL", help="A trusted model, such as the parent; excess is measured over it."
    ),
]
PreviousOption = Annotated[
    Path | None,
    typer.Option(
        "--previous",
        metavar="REPORT.json",
        help="The last release's report, for rules that limit how much worse a model may become.",
    ),
]


def _device(name: str) -> str:
    """Return a device's name, whose number may not exist; torch, which knows that, is not imported.

    Raises:
        InputError: an unknown kind of device.
        OperationalError: a GPU, and this machine has no driver for one.
    """
    if not re.fullmatch(r"auto|cpu|(cuda|tensorrt)(:\d+)?", name):
        kinds = ["auto", "cpu", "cuda", "tensorrt"]
        raise InputError(f"unknown device '{name}'.{nearest(name, kinds)}", "use auto, cpu, cuda, cuda:N or tensorrt")
    if name not in ("auto", "cpu"):
        refuse_without_driver(name, "use --device cpu or auto")
    return name


def refuse_without_driver(device: str, hint: str) -> None:
    """Raise if this machine has no driver for a GPU.

    Raises:
        OperationalError: it has none.
    """
    if not has_driver():
        raise OperationalError(f"device '{device}' was asked for, but this machine has no driver for a GPU", hint)


def has_driver() -> bool:
    """Return whether a driver for what torch calls CUDA is installed: NVIDIA's, or AMD's for a build with ROCm."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True


DeviceOption = Annotated[
    str, typer.Option("--device", envvar="PARGATE_DEVICE", help="auto, cpu, or cuda[:N].", callback=_device)
]
ExecutorOption = Annotated[
    Executor, typer.Option("--executor", help="local: this machine; ray: a Ray cluster (pargate[ray]).")
]
RayAddressOption = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="HOST:PORT", help="The Ray cluster; a local one is started without it."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the order of images and of every stamp.")]
CacheOption = Annotated[
    str | None,
    typer.Option(
        "--cache",
        envvar="PARGATE_CACHE",
        metavar="DIR|off",
        help="Folder of cached vectors and fetched pairs; a killed run resumes.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdict and errors.")]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Every comparison, also met ones, and the progress of the run.")
]
NoColorOption = Annotated[bool, typer.Option("--no-color", help="Plain text, as with NO_COLOR.")]


PrecisionOption = Annotated[
    Literal["auto", Precision], typer.Option("--precision", help="Arithmetic inside the towers.")
]


def refuse_empty(given: Mapping[str, str | None]) -> None:
    """Raise if an argument or option, by its name on the command line, has an empty value.

    Raises:
        InputError: a value is empty.
    """
    for name, value in given.items():
        if value == "":
            raise InputError(f"{name} is empty", "give a value, or leave it out; check that the variable is set")


def check_executor(executor: Executor, ray_address: str | None) -> None:
    """Raise if an address is given, and no cluster is asked for.

    Raises:
        InputError: as above.
    """
    refuse_empty({"--ray-address": ray_address})
    if ray_address is not None and executor is not Executor.RAY:
        raise InputError("--ray-address is for --executor ray", "give both, or neither")


def read_shard(text: str) -> tuple[int, int]:
    """Return the number of a shard, and of all shards.

    Raises:
        InputError: the text is no shard.
    """
    found = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", text)
    if found is None or int(found[1]) > int(found[2]):
        raise InputError(f"--shard {text[:40]} is not a shard", "give --shard 1/4, 2/4 and so on to 4/4")
    return int(found[1]), int(found[2])


@dataclass(frozen=True, slots=True)
class Output:
    """One requested report: its format and its path; None is stdout."""

    format: str
    path: Path | None


def read_outputs(values: list[str] | None, formats: list[str]) -> list[Output]:
    """Parse the requested reports; refuse a path that cannot be written.

    Raises:
        InputError: the format is unknown, a path cannot be written, or two reports are for stdout.
    """
    from pargate.files import check_writable

    outputs = []
    for value in values or []:
        name, equals, place = value.partition("=")
        if name not in formats:
            raise InputError(f"unknown report format '{name}'.{nearest(name, formats)}", f"one of {', '.join(formats)}")
        if equals and not place:
            raise InputError(f"-o {value}: the path is empty", f"write -o {name}=PATH")
        path = Path(place) if place and place != "-" else None
        if path is not None:
            check_writable(path)
        outputs.append(Output(name, path))
    to_stdout = sum(output.path is None for output in outputs)
    if to_stdout and sys.stdout is None:
        raise InputError("stdout is closed, so no report can go there", "write -o FORMAT=PATH")
    if to_stdout > 1:
        raise InputError("two reports for stdout", "give all but one a path: -o FORMAT=PATH")
    return outputs


def cache_folder(value: str | None) -> Path | None:
    """Return the folder of cached vectors: as given, None for `off`, or the user's cache folder."""
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
