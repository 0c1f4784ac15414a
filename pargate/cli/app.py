"""The `pargate` command: one application, and one place where every error becomes an exit code.

Command modules import nothing heavy at the top, so that `--help` stays quick; a test runs the light
commands in an interpreter where importing torch raises.
"""

import os
import signal
import sys
import tempfile
from types import FrameType
from typing import Annotated, NoReturn

import typer

from pargate import ranks
from pargate.cli import audit, clean, doctor, gate, init, model, offline, policy, release, reports, setup
from pargate.cli.options import Terminated
from pargate.errors import EXHAUSTED, ExitCode, PargateError, PeerEnded, first_line
from pargate.version import __version__

app = typer.Typer(
    name="pargate",
    help="Does any trigger steer this CLIP model more often than your policy allows? Fails the build if so.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("scan")(model.scan)
app.command("clean")(clean.clean)
app.command("export")(release.export)
app.command("gate")(gate.gate)
app.command("verify")(offline.verify)
app.add_typer(audit.app, name="audit")
app.command("report")(reports.report)
app.add_typer(policy.app, name="policy")
app.command("explain")(policy.explain)
app.command("inspect")(offline.inspect)
app.command("triggers")(offline.triggers)
app.command("synth")(setup.synth)
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


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def main() -> NoReturn:
    """Run the command line and exit with the code of the table in `errors.py`."""
    signal.signal(signal.SIGTERM, _terminate)
    if sys.stderr is None:  # closed by whoever started us
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for the whole run
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of a command line; whatever goes wrong becomes one message on stderr."""
    command = typer.main.get_command(app)
    try:
        # Not `command.main`, which has its own exit codes for signals and broken pipes.
        with command.make_context("pargate", list(arguments)) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.TyperException as error:
        if arguments:
            # `clean` is what torchrun starts, with the same command for every process.
            if arguments[0] != "clean" or ranks.first_here():
                _say(error.format_message(), "`pargate --help` lists what there is")
        else:
            sys.stderr.write(error.format_message() + "\n")  # the help itself
        return ExitCode.INPUT
    except PeerEnded as ended:
        return ended.exit_code
    except PargateError as error:
        _tell(error)
        return error.exit_code
    except Terminated:
        _say("terminated")
        return ExitCode.SIGTERM
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return ExitCode.SIGINT
    except BrokenPipeError:
        # Whoever read our output has enough; point stdout at nothing so that no flush complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK if {"--help", "--version"} & set(arguments) else ExitCode.OPERATIONAL
    except MemoryError:
        _say("out of memory", "use a machine with more, or fewer classes")
        return ExitCode.OPERATIONAL
    except OSError as error:
        if error.errno not in EXHAUSTED:
            return _bug(error)
        _say(f"{error.strerror}: {error.filename or 'while writing'}", "free some and run again")
        return ExitCode.OPERATIONAL
    except Exception as error:
        return _bug(error)


def _say(message: str, hint: str = "") -> None:
    _tell(PargateError(message, hint))


def _tell(error: PargateError) -> None:
    first, *rest = error.told()
    sys.stderr.write("\n".join([f"pargate: {first}", *rest]) + "\n")


def _bug(error: BaseException) -> int:
    """Write the traceback to a file, not to the screen."""
    import traceback

    trace = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="pargate-", suffix=".log", delete=False, encoding="utf-8") as log:
            log.write(f"pargate {__version__}, Python {sys.version}\n{trace}")
        place = f"please report it with {log.name}"
    except OSError:
        place = "please report it"
    _say(f"a bug in pargate: {type(error).__name__}: {first_line(error)}", place)
    return ExitCode.BUG
