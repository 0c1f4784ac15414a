"""The command that looks at the machine: doctor. Torch is asked in another process, and may be broken."""

import os
from typing import Annotated

import typer

from pargate.cli.options import NoColorOption, OutputOption, cache_folder, read_outputs
from pargate.errors import ExitCode


def doctor(
    ci: Annotated[
        bool,
        typer.Option("--ci", help="Also look at the runner; refuse a fork's pull request on a self-hosted one."),
    ] = False,
    output: OutputOption = None,
    cache: Annotated[
        str | None,
        typer.Option("--cache", envvar="PARGATE_CACHE", metavar="DIR|off", help="The cache to look at."),
    ] = None,
    no_color: NoColorOption = False,
) -> int:
    """Say what this machine has, and what will and will not work.

    Ends with 0 when `pargate scan` can work here, with 5 when it cannot, or under --ci when this job must not go on.
    """
    from pargate.cli.console import Console
    from pargate.doctor.checks import examine
    from pargate.github.forks import refused_fork

    outputs = read_outputs(output, ["json"])
    console = Console(quiet=False, verbose=False, color=not no_color)
    refused = refused_fork(os.environ) if ci else None
    found = examine(cache_folder(cache), os.environ, ci=ci, refused=refused)
    console.json(outputs, found.model_dump_json(indent=1, by_alias=True))
    console.diagnosis(found)
    return ExitCode.OK if found.ready else ExitCode.OPERATIONAL
