"""The `pargate` command.

Command modules import nothing heavy at the top, so that `--help` stays quick.
"""

import sys
from typing import Annotated

import typer

from pargate.clean import ranks
from pargate.cli import (
    audit,
    clean,
    doctor,
    drill,
    export,
    gate,
    init,
    offline,
    pack,
    policy,
    reports,
    scan,
    screen,
    synth,
)
from pargate.ending import drop_stdout, say, settled
from pargate.errors import ExitCode, InputError
from pargate.version import __version__

app = typer.Typer(
    name="pargate",
    help="Does any trigger steer this CLIP model more often than your policy allows? Fails the build if so.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("scan")(scan.scan)
app.command("clean")(clean.clean)
app.command("export")(export.export)
app.command("gate")(gate.gate)
app.command("verify")(offline.verify)
app.add_typer(audit.app, name="audit")
app.command("drill")(drill.drill)
app.command("screen")(screen.screen)
app.command("report")(reports.report)
app.add_typer(policy.app, name="policy")
app.command("explain")(policy.explain)
app.command("inspect")(offline.inspect)
app.command("triggers")(offline.triggers)
app.add_typer(pack.app, name="pack")
app.command("synth")(synth.synth)
app.add_typer(init.app, name="init")
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pargate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def run(arguments: list[str]) -> int:
    """Return the exit code of a command line; an error becomes one message on stderr."""
    return settled(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        # `command.main` has other exit codes for signals and broken pipes.
        with command.make_context("pargate", list(arguments)) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.TyperException as error:
        if arguments:
            # torchrun starts `clean` with the same command line in every process.
            if arguments[0] != "clean" or ranks.first_here():
                say(
                    InputError(
                        error.format_message().replace("Value error, ", ""),
                        "`pargate --help` lists the commands",
                    )
                )
        else:
            sys.stderr.write(error.format_message() + "\n")  # the help itself
        return ExitCode.INPUT
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except BrokenPipeError:
        if not {"--help", "--version"} & set(arguments):
            raise
        drop_stdout()  # the reader has ended
        return ExitCode.OK
