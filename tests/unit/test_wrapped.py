"""Code in files that are no checkpoints, and what becomes of files whose size the kernel makes up."""

import gzip
import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from pargate import limits
from pargate.core.value import Value
from pargate.errors import LINE, InputError, UnsafeCheckpoint, short
from pargate.files import open_file, read_bytes
from pargate.models import weights
from pargate.models.pickles import search
from pargate.models.wrapped import code_in

CALL = b"\x80\x02cos\nsystem\n(X\x04\0\0\0truetR."


def zipped(content: bytes, name: str = "a.pkl") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, content)
    return buffer.getvalue()


def tarred(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        info = tarfile.TarInfo("a.pkl")
        info.size = len(content)
        made.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_the_globals_and_the_operation_are_named() -> None:
    found = search(CALL)
    assert (found.names, found.call, found.complete) == (("os.system",), "REDUCE", True)
    assert str(found) == "names os.system, and calls by REDUCE"
    assert search(b"\x80\x02K\x01.").names == ()


@pytest.mark.parametrize("wrap", [zipped, tarred, gzip.compress, lambda c: gzip.compress(tarred(zipped(c)))])
def test_code_is_found_in_wrappings_within_one_another(wrap) -> None:
    found = code_in(io.BytesIO(wrap(CALL)))
    assert found is not None and found.found.names == ("os.system",)
    assert code_in(io.BytesIO(wrap(b"\x80\x02K\x01."))) is None


def test_the_search_ends_at_its_depth() -> None:
    deep = CALL
    for _ in range(limits.UNWRAPPED_DEPTH):
        deep = gzip.compress(deep)
    assert code_in(io.BytesIO(deep)) is None
    assert code_in(io.BytesIO(gzip.decompress(deep))) is not None


def test_code_fails_and_a_harmless_file_is_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "evil.zip").write_bytes(zipped(CALL))
    (tmp_path / "fine.zip").write_bytes(zipped(b"\x80\x02N."))
    with pytest.raises(UnsafeCheckpoint, match=r"a\.pkl in it names os\.system, and calls by REDUCE"):
        weights.read(tmp_path / "evil.zip", "evil.zip", keep=False)
    with pytest.raises(InputError):
        weights.read(tmp_path / "fine.zip", "fine.zip", keep=False)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("path", ["/proc/self/environ", "/proc/self/maps", "/proc/mounts"])
def test_what_the_kernel_makes_up_is_no_file(path: str) -> None:
    with pytest.raises(OSError, match="not a regular file"):
        open_file(path)


def test_an_empty_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert read_bytes(tmp_path / "empty") == b""
    assert os.stat(tmp_path / "empty").st_size == 0  # noqa: PTH116 - the size that `open_file` sees


class Note(Value):
    values: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"values":[' + b"1," * limits.DOCUMENT_VALUES + b"1,1]}", "values"),
        (b'{"values":[1' + b"0" * limits.DIGITS + b"]}", "19 digits"),
        (b" " * (limits.DOCUMENT_BYTES + 1), "larger than 64 MiB"),
    ],
)
def test_a_document_is_bounded_before_it_is_parsed(content: bytes, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Note.model_validate_json(content)


def test_a_document_within_its_bounds_is_read() -> None:
    assert Note.model_validate_json('{"values":[9223372036854775807,-1]}').values == (2**63 - 1, -1)


def test_a_line_has_a_length() -> None:
    assert short("x" * LINE) == "x" * LINE
    assert len(short("x" * 10_000_000)) <= LINE + 3
