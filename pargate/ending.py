"""How a command begins and ends: signals from the first moment, and the one place that decides the exit code.

Everything else is imported within the one `try`, by `end_with`. Python itself ends with 1 where an import fails, and
libraries written in C do where memory or threads run out; here 1 is a verdict.
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
    b"pargate: a library ended the process; memory, threads or processes are too few\n"
    b"  \xe2\x86\x92 allow more (ulimit -v, ulimit -u, memory and pids of the container). The system's last error"
)

_code: int = ExitCode.BUG
"""What the process ends with; a bug until a command has ended."""


def end_with(load: Callable[[], Callable[[], int]]) -> NoReturn:
    """Import a command with `load`, run it, and end the process with its exit code, or that of what went wrong."""
    global _code
    _obey(_end_at_once)
    if sys.stderr is None:  # closed by whoever started us
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for the whole run
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    # Threads that wait by spinning take the processor from the workers that decode pictures, and from whatever else
    # runs; on two busy cores a layer then took ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # numpy only multiplies small matrices here, for which its own threads cost more than they give.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    atexit.register(_leave)

    def command() -> int:
        _answer_for_libraries()
        run = load()
        sys.unraisablehook = _send_again
        _obey(_raise)
        return run()

    code = settled(command)
    _obey(_end_at_once)
    flushed = settled(_flush)
    _code = code or flushed
    sys.exit(_code)


def settled(command: Callable[[], int]) -> int:
    """Return the exit code of `command`; whatever it raises becomes one message on stderr."""
    try:
        return command()
    except BaseException as error:  # libraries have some that are no `Exception`
        found = explain(error)
        if isinstance(error, BrokenPipeError):
            drop_stdout()
        if not isinstance(error, PeerEnded):
            place = _log(error) if found.exit_code is ExitCode.BUG and found is not error else ""
            say(found, place)
        return found.exit_code


def say(error: PargateError, log: str = "") -> None:
    """Print what went wrong, and what to do."""
    text = "\n".join(PargateError(error.lines, f"{error.hint} with {log}" if log else error.hint).told())
    with contextlib.suppress(OSError, MemoryError):  # the code still says it
        sys.stderr.write(f"pargate: {text}\n")


def _log(error: BaseException) -> str:
    """Write a traceback to a file, not to the screen; its place, or an empty text where none can be written."""
    import tempfile
    import traceback

    trace = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="pargate-", suffix=".log", delete=False, encoding="utf-8") as log:
            log.write(f"pargate {__version__}, Python {sys.version}\n{trace}")
    except OSError:
        return ""
    return log.name


def _obey(handler: Callable[[int, FrameType | None], object]) -> None:
    """Let `handler` answer SIGTERM and Ctrl-C; a shell makes what it starts in the background deaf to the latter."""
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _send_again(dropped: "sys.UnraisableHookArgs") -> None:
    """Send a signal again whose exception was raised where Python drops exceptions, such as in a destructor."""
    import threading

    if not isinstance(dropped.exc_value, Terminated | KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    number = signal.SIGTERM if isinstance(dropped.exc_value, Terminated) else signal.SIGINT
    again = threading.Timer(0.05, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    """Nothing is under way yet, or any more: an import may swallow an exception, or turn it into another."""
    os.write(2, b"pargate: terminated\n" if number == signal.SIGTERM else b"pargate: interrupted\n")
    os._exit(128 + number)


def _flush() -> int:
    if sys.stdout is not None:
        sys.stdout.flush()
    return ExitCode.OK


def drop_stdout() -> None:
    """Point stdout at nothing, so that what is left in it makes no trouble later."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _leave() -> NoReturn:
    """Run last of all that runs at the end, so that nothing in the end of an interpreter changes the code."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(_code)


def _answer_for_libraries() -> None:
    """Let a library that calls `exit` itself end the process with 5, not with the 1 that OpenBLAS and OpenMP give.

    Our own end does not go this way: `_leave` comes before it.
    """
    if sys.platform != "win32":
        import ctypes

        system = ctypes.CDLL(None)
        register = getattr(system, "__cxa_atexit")
        register.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        # The last comes first.
        register(ctypes.cast(system._exit, ctypes.c_void_p), int(ExitCode.OPERATIONAL), None)
        register(ctypes.cast(system.perror, ctypes.c_void_p), _LIBRARY_ENDED, None)
