"""The `pargate` command.

Command modules import nothing heavy at the top, so that `--help` stays quick.
"""

import os
import re
import sys
from typing import Annotated

import typer

from pargate.clean import ranks
from pargate.cli import (
    audit,
    calibrate,
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
from pargate.cli.help import NAMES, examples, group_examples
from pargate.ending import drop_stdout, say, settled
from pargate.errors import ExitCode, InputError, nearest
from pargate.version import __version__

COMPLETION = "_PARGATE_COMPLETE"
"""Variable by which a shell asks for completions."""

app = typer.Typer(
    name="pargate",
    help="Does any trigger steer this CLIP model more often than your policy allows? Fails the build if so.",
    no_args_is_help=True,
    context_settings=NAMES,
    **group_examples("pargate scan my-clip", "pargate init github --images val/ --classes classes.txt"),
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(
    "scan",
    **examples(
        "pargate scan my-clip",
        "pargate scan my-clip --images val/ --classes classes.txt -o html=report.html",
        "pargate scan hf-hub:ORG/NAME -p strict --reference hf-hub:ORG/PARENT",
    ),
)(scan.scan)
app.command(
    "clean",
    **examples(
        "pargate clean my-clip --pairs pairs.tar --out cleaned",
        "pargate clean my-clip --pairs synthetic: --out cleaned --method par-plus",
    ),
)(clean.clean)
app.command("export", **examples("pargate export my-clip --out graphs --images val/ --precision fp32"))(export.export)
app.command(
    "gate",
    **examples(
        "pargate gate my-clip -p release --images val/ --classes classes.txt --pairs pairs.tar --out release",
        "pargate gate my-clip -p release --images val/ --pairs pairs.tar --out release --dry-run",
    ),
)(gate.gate)
app.command("verify", **examples("pargate verify release", "pargate verify release -p strict --public-key key.pem"))(
    offline.verify
)
app.add_typer(audit.app, name="audit")
app.command("drill", **examples("pargate drill my-clip --out drill --images val/ --classes classes.txt"))(drill.drill)
app.command(
    "calibrate", **examples("pargate calibrate trusted/* --out table.json --images val/ --classes classes.txt")
)(calibrate.calibrate)
app.command("screen", **examples("pargate screen pairs.tar --model my-clip --out screened"))(screen.screen)
app.command(
    "report",
    **examples(
        "pargate report r.json -o html=report.html",
        "pargate report r.json --policy strict",
        "pargate report r.json --check-freshness 35d",
    ),
)(reports.report)
app.add_typer(policy.app, name="policy")
app.command("explain", **examples("pargate explain patch-triggers"))(policy.explain)
app.command("inspect", **examples("pargate inspect my-clip", "pargate inspect my-clip -o json"))(offline.inspect)
app.command("triggers", **examples("pargate triggers", "pargate triggers --preview triggers.png"))(offline.triggers)
app.add_typer(pack.app, name="pack")
app.command("synth", **examples("pargate synth --out pairs --count 10000"))(synth.synth)
app.add_typer(init.app, name="init")
app.command("doctor", **examples("pargate doctor", "pargate doctor -o json=doctor.json"))(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pargate {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def run(arguments: list[str]) -> int:
    """Return the exit code of a command line; an error becomes one message on stderr."""
    return settled(lambda: _run(arguments))


def _told(error: typer.TyperException, named: str) -> InputError:
    """Return a wrong command line as an error that names the help of its own command.

    An option without its value says no context; `named` is the command then.
    """
    message = error.format_message().replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    # Typer gives the value and the choices in the text alone.
    value, listed, choices = message.partition("' is not one of ")
    if listed:
        message += nearest(value.rpartition("'")[2], re.findall(r"'([^']*)'", choices))
    return InputError(message, f"`{context.command_path if context else named} --help` shows what it takes")


def _named(command: object, arguments: list[str]) -> str:
    """Return the command that the first arguments name, such as `pargate policy check`."""
    words = ["pargate"]
    for word in arguments:
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            break
        words.append(word)
    return " ".join(words)


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        if COMPLETION in os.environ:
            command.main(prog_name="pargate", complete_var=COMPLETION)
        # `command.main` has other exit codes for signals and broken pipes.
        with command.make_context("pargate", list(arguments)) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as stop:
        return stop.exit_code
    except SystemExit as stop:  # of the options and requests for completion
        return stop.code if isinstance(stop.code, int) else ExitCode.OK
    except typer.TyperException as error:
        message, of = error.format_message(), getattr(error, "ctx", None)
        if of is not None and message == of.get_help():  # of a group without a command
            sys.stderr.write(message + "\n")
        # torchrun starts `clean` with the same command line in every process.
        elif arguments[:1] != ["clean"] or ranks.first_here():
            say(_told(error, _named(command, arguments)))
        return ExitCode.INPUT
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    except BrokenPipeError:
        if not {"--help", "-h", "--version", "-V"} & set(arguments):
            raise
        drop_stdout()  # the reader has ended
        return ExitCode.OK
