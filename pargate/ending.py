"""The start and end of a command: signal handlers, and the exit code.

`end_with` imports everything else inside one `try`. Python ends with 1 if an import fails, and so do C libraries if
memory or threads run out; for pargate 1 is a verdict.
"""

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from pargate.errors import ExitCode, PargateError, PeerEnded, Terminated, explain
from pargate.version import __version__

_LIBRARY_ENDED = (
    b"pargate: a library ended the process: not enough memory, threads or processes\n"
    b"  \xe2\x86\x92 allow more (ulimit -v, ulimit -u, memory and pids of the container). Last error of the system"
)

_code: int = ExitCode.BUG
"""Exit code of the process; `BUG` until a command has ended."""


_result_lost = False
"""Whether a result could not be written to stdout."""


def end_with(load: Callable[[], Callable[[], int]]) -> NoReturn:
    """Import a command with `load`, run it, and end the process with its exit code or that of its error."""
    global _code
    _handle_signals(_end_at_once)
    if sys.stderr is None:  # closed by the parent process
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for the whole run
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    # Threads that wait by spinning take the cores from the decoding workers; on two busy cores a layer took ten times
    # as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # numpy multiplies only small matrices here, so its own threads cost more than they gain.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    atexit.register(_leave)

    def command() -> int:
        _set_exit_code_of_libraries()
        run = load()
        sys.unraisablehook = _send_again
        _handle_signals(_raise)
        return run()

    code = settled(command)
    _handle_signals(_end_at_once)
    flushed = settled(_flush)
    _code = code or flushed
    sys.exit(_code)


def settled(command: Callable[[], int]) -> int:
    """Return the exit code of `command`; an exception becomes one message on stderr."""
    try:
        return command()
    except BaseException as error:  # some libraries raise exceptions that are not an `Exception`
        found = explain(error)
        if isinstance(error, BrokenPipeError):
            drop_stdout()
        if not isinstance(error, PeerEnded):
            place = _log(error) if found.exit_code is ExitCode.BUG and found is not error else ""
            say(found, place)
        return found.exit_code


def say(error: PargateError, log: str = "") -> None:
    """Print an error and its hint on stderr; a terminal gets whole words and indented hints."""
    first, *others = PargateError(error.lines, f"{error.hint} with {log}" if log else error.hint).told()
    lines = [f"pargate: {first}", *others]
    with contextlib.suppress(OSError, MemoryError):  # the exit code remains
        if sys.stderr.isatty():
            lines = [part for line in lines for part in _broken(line)]
        sys.stderr.write("\n".join(lines) + "\n")


def _broken(line: str) -> list[str]:
    """Return a line of an error in parts that fit the terminal; a quoted line stays whole."""
    if line.startswith("    "):  # a line of a file, with a mark below it
        return [line]
    return fitted(line, 4 if line.startswith("  → ") else 2)


def fitted(line: str, indent: int) -> list[str]:
    """Return a line in parts that fit the terminal, the later ones indented; a longer word stays whole."""
    import shutil
    import textwrap

    width = shutil.get_terminal_size().columns
    return textwrap.wrap(
        line, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False,
        replace_whitespace=False,
    ) or [line]  # fmt: skip


def _log(error: BaseException) -> str:
    """Write a traceback to a file; return its path, or an empty text if it cannot be written."""
    import tempfile
    import traceback

    trace = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="pargate-", suffix=".log", delete=False, encoding="utf-8") as log:
            log.write(f"pargate {__version__}, Python {sys.version}\n{trace}")
    except OSError:
        return ""
    return log.name


def _handle_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    """Set the handler of SIGTERM and SIGINT; SIGINT stays ignored where a shell ignores it for background jobs."""
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _send_again(dropped: "sys.UnraisableHookArgs") -> None:
    """Send a signal again if its exception was raised where Python drops exceptions, such as in a destructor."""
    import threading

    if not isinstance(dropped.exc_value, Terminated | KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    number = signal.SIGTERM if isinstance(dropped.exc_value, Terminated) else signal.SIGINT
    again = threading.Timer(0.05, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """End the process at once, before or after a command; an import may swallow an exception."""
    os.write(2, b"pargate: terminated\n" if number == signal.SIGTERM else b"pargate: interrupted\n")
    os._exit(128 + number)


def _flush() -> int:
    if sys.stdout is not None:
        sys.stdout.flush()
    return ExitCode.OPERATIONAL if _result_lost else ExitCode.OK


def lose_result(error: OSError) -> None:
    """Say that stdout cannot be written; the exit code of the verdict stays, and 0 becomes 5."""
    global _result_lost
    if not _result_lost:
        _result_lost = True
        say(explain(error))
        drop_stdout()


def drop_stdout() -> None:
    """Redirect stdout to the null device, so that its buffer can be flushed later."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _leave() -> NoReturn:
    """End the process with the exit code, as the last exit handler, so that no other one changes it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(_code)


def _set_exit_code_of_libraries() -> None:
    """Make the process end with 5 if a library calls `exit`, not with the 1 of OpenBLAS and OpenMP.

    `_leave` runs before these handlers when a command ends.
    """
    if sys.platform != "win32":
        import ctypes

        system = ctypes.CDLL(None)
        register = getattr(system, "__cxa_atexit")
        register.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        # Handlers run in reverse order.
        register(ctypes.cast(system._exit, ctypes.c_void_p), int(ExitCode.OPERATIONAL), None)
        register(ctypes.cast(system.perror, ctypes.c_void_p), _LIBRARY_ENDED, None)
