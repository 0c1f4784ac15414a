"""What an exception of any kind means: a code of the table, never that of a verdict, and words that help."""

import errno
import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargate import ending
from pargate.ending import settled
from pargate.errors import (
    ExitCode,
    InputError,
    OperationalError,
    PargateError,
    PolicyError,
    Terminated,
    UnsafeCheckpoint,
    explain,
    is_out_of_memory,
    nearest,
)


class PanicException(BaseException):
    """Stands for what Rust raises through pyo3, which is no `Exception`."""


class OutOfMemoryError(RuntimeError):
    """Stands for torch's."""


def no_temporary_folder() -> BaseException:
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
            patch.setattr(tempfile, "tempdir", None)
            tempfile.gettempdir()
    except FileNotFoundError as error:
        return error
    raise AssertionError


def array_too_large() -> BaseException:
    try:
        np.ones(1 << 60, dtype=np.uint8)
    except MemoryError as error:
        return error
    raise AssertionError


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def of_the_system(number: int, *path: str) -> OSError:
    return OSError(number, os.strerror(number), *path)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), 5, "out of memory"),
        (array_too_large(), 5, "Unable to allocate"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 5, "out of memory: libtorch"),
        (ImportError("libx.so: cannot allocate memory in static TLS block"), 5, "out of memory: libx"),
        (caused(ImportError("numpy is broken"), of_the_system(errno.ENOMEM)), 5, "Cannot allocate memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 5, "allocate"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), 5, "CUDA out of memory"),
        (RuntimeError("std::bad_alloc"), 5, "out of memory"),
        (SystemError("error return without exception set"), 5, "out of memory"),
        (RuntimeError("can't start new thread"), 5, "start new thread"),
        (RuntimeError("OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2"), 5, "pthread_create"),
        (of_the_system(errno.EAGAIN), 5, "Resource temporarily unavailable"),
        (of_the_system(errno.EMFILE, "x"), 5, "Too many open files: x"),
        (of_the_system(errno.ENFILE), 5, "Too many open files in system"),
        (of_the_system(errno.ENOSPC, "x"), 5, "No space left on device: x"),
        (RuntimeError("unable to write to file: No space left on device (28)"), 5, "No space left"),
        (of_the_system(errno.EROFS, "x"), 5, "Read-only file system: x"),
        (of_the_system(errno.EIO, "x"), 5, "Input/output error: x"),
        (no_temporary_folder(), 5, "No usable temporary directory"),
        (BrokenPipeError(), 5, "has ended"),
        (ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)), 5, "reset by peer"),
        (TimeoutError("timed out"), 5, "timed out"),
        (ModuleNotFoundError("No module named 'typer'", name="typer"), 5, "No module named 'typer'"),
        (of_the_system(errno.ENAMETOOLONG, "x"), 2, "File name too long: x"),
        (of_the_system(errno.EACCES, "x"), 2, "Permission denied: x"),
        (of_the_system(errno.ELOOP, "x"), 2, "symbolic links: x"),
        (of_the_system(errno.ENOTDIR, "x"), 2, "Not a directory: x"),
        (ImportError("cannot import name 'x' from 'pargate.files'", name="pargate.files"), 70, "a bug in pargate"),
        (PanicException("called `Option::unwrap()` on a `None` value"), 70, "a bug in pargate: PanicException"),
        (SystemExit(1), 70, "a bug in pargate: SystemExit"),
        (SystemExit(0), 70, "a bug in pargate: SystemExit"),
        (GeneratorExit(), 70, "a bug in pargate"),
        (ZeroDivisionError("x"), 70, "a bug in pargate: ZeroDivisionError: x"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(), 143, "terminated"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_kind_of_trouble_has_its_code_and_says_what_it_is(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> int:
        raise error

    monkeypatch.setattr("pargate.ending.os.dup2", lambda *_: None)  # stdout belongs to the tests
    assert settled(command) == code
    err = capsys.readouterr().err
    assert err.startswith("pargate: ") and words in err
    assert "Traceback" not in err and err.count("\n") == 2 - (code in (130, 143) or isinstance(error, BrokenPipeError))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (MemoryError(), "ulimit -v"),
        (of_the_system(errno.EAGAIN), "ulimit -u"),
        (of_the_system(errno.EMFILE), "ulimit -n"),
        (of_the_system(errno.ENOSPC), "--shm-size"),
        (no_temporary_folder(), "--tmpfs /tmp"),
        (of_the_system(errno.EROFS), "TMPDIR"),
    ],
)
def test_trouble_with_the_machine_says_what_to_change(error: BaseException, advice: str) -> None:
    assert advice in explain(error).hint


def test_our_own_errors_stay_as_they_are() -> None:
    for error in (InputError("a"), PolicyError("b"), OperationalError("c"), UnsafeCheckpoint("d")):
        assert explain(error) is error


@given(
    st.text(), st.sampled_from([Exception, RuntimeError, OSError, ImportError, ValueError, KeyError, PanicException])
)
def test_no_words_turn_an_error_into_a_verdict(words: str, kind: type[BaseException]) -> None:
    found = explain(kind(words))
    assert isinstance(found, PargateError)
    assert found.exit_code not in (ExitCode.OK, ExitCode.FAIL, ExitCode.INCONCLUSIVE)
    assert found.message


@given(st.sampled_from(sorted(errno.errorcode)))
def test_no_number_of_the_system_is_a_verdict(number: int) -> None:
    assert explain(of_the_system(number)).exit_code not in (ExitCode.OK, ExitCode.FAIL, ExitCode.INCONCLUSIVE)


def test_memory_is_told_from_other_errors() -> None:
    assert is_out_of_memory(OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(of_the_system(errno.ENOSPC))


def test_an_error_that_leads_to_itself_is_explained_too() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert explain(first).exit_code is ExitCode.BUG


def test_a_message_that_nobody_can_be_given_changes_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> None:
            raise of_the_system(errno.ENOSPC)

    def command() -> int:
        raise InputError("x")

    monkeypatch.setattr(sys, "stderr", Full())
    assert settled(command) == ExitCode.INPUT
    assert not list(Path.cwd().glob("pargate-*.log"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_a_terminal_breaks_a_message_between_words(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"/a/{'very-' * 30}long/path"
    error = InputError(f"cannot read the classes in {path}: No such file", "give one of " + ", ".join(["a-name"] * 40))
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stderr", Terminal())
    ending.say(error)
    lines = sys.stderr.getvalue().splitlines()
    assert lines[0].startswith("pargate: cannot read") and any(path in line for line in lines)
    assert all(len(line) <= columns or line.strip().startswith(path) for line in lines)
    hint = next(number for number, line in enumerate(lines) if line.startswith("  → give one of"))
    quoted = f"    {'a long line of a policy, ' * 20}"
    ending.say(InputError([error.message, quoted, "    ^"]))
    assert quoted in sys.stderr.getvalue().splitlines(), "the mark below it keeps its place"
    assert len(lines) > hint + 1 and all(line.startswith("    a-name") for line in lines[hint + 1 :])


def test_a_pipe_gets_each_line_of_a_message_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    ending.say(InputError("cannot " * 40 + "read", "look"))
    assert sys.stderr.getvalue() == f"pargate: {'cannot ' * 40}read\n  → look\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("EXCESS", " Did you mean 'excess'?"),
        ("vit-b-32", " Did you mean 'ViT-B-32'?"),
        ("zzz", ""),
        ("excss", " Did you mean 'excess'?"),
    ],
)
def test_a_name_is_near_another_in_any_case(name: str, said: str) -> None:
    assert nearest(name, ["excess", "ViT-B-32", "accuracy"]) == said
