"""The command `doctor`; torch runs in another process, because it may be broken."""

import os
from typing import Annotated

import typer

from pargate.cli.options import JsonOption, NoColorOption, cache_folder, read_outputs
from pargate.errors import ExitCode


def doctor(
    ci: Annotated[
        bool,
        typer.Option("--ci", help="Also check the runner; refuse a fork's pull request on a self-hosted one."),
    ] = False,
    output: JsonOption = None,
    cache: Annotated[
        str | None,
        typer.Option("--cache", envvar="PARGATE_CACHE", metavar="DIR|off", help="The cache to check."),
    ] = None,
    no_color: NoColorOption = False,
) -> int:
    """Show what this machine has, and what works on it.

    The exit code is 0 if `pargate scan` works here, and 5 if it does not, or if under --ci this job must not continue.
    """
    from pargate.cli.console import Console
    from pargate.doctor.checks import examine
    from pargate.github.forks import refused_fork

    outputs = read_outputs(output, ["json"])
    console = Console(quiet=False, verbose=False, color=not no_color, outputs=outputs)
    refused = refused_fork(os.environ) if ci else None
    found = examine(cache_folder(cache), os.environ, ci=ci, refused=refused, tell=console.fact)
    console.abilities(found)
    console.json(outputs, found.model_dump_json(indent=1, by_alias=True))
    return ExitCode.OK if found.ready else ExitCode.OPERATIONAL
