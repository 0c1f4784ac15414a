"""Digests, atomic files, and the content-addressed store of vectors.

All writing goes through here: a file is written beside its place, flushed and renamed, so that it is
either complete or absent, and two runs that share a folder never see half a file. A file that the system does not
let replace, such as one that is mounted by itself, is overwritten.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pargate.errors import InputError, OperationalError

_CHUNK = 1 << 20

MOST_BYTES = 256 << 20
"""Bound of a file that is read as a whole where nothing narrower is known of it."""

_HOLES = 1 << 30
"""Bytes of a file that may be missing on the disk."""


def open_file(path: str | Path) -> io.BufferedReader:
    """Open a regular file for reading.

    Whatever else is refused before it is opened: a pipe may wait for ever, a device may never end. So is a file that is
    mostly holes: a copy that was not finished, or a small file that claims any size.

    Raises:
        OSError: it is not there, not to be read, not a regular file, or mostly holes.
    """
    try:
        _refuse_special(Path(path).stat(), path)
        # Should a pipe have taken its place meanwhile, nothing waits for its writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    stream = open(handle, "rb")  # noqa: PTH123, SIM115 - a descriptor, which the caller closes
    try:
        status = os.fstat(handle)
        _refuse_special(status, path)
        _refuse_holes(handle, status.st_size, path)
    except BaseException:
        stream.close()
        raise
    return stream


def _refuse_special(status: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def _refuse_holes(handle: int, size: int, path: str | Path) -> None:
    """Raise if more than half of a large file was never written."""
    if size <= _HOLES or not hasattr(os, "SEEK_HOLE"):
        return
    missing = at = 0
    for _ in range(10_000):  # what else is left counts as written
        hole = os.lseek(handle, at, os.SEEK_HOLE)
        try:
            at = os.lseek(handle, hole, os.SEEK_DATA)
        except OSError:  # no data follows
            at = size
        missing += at - hole
        if at >= size:
            break
    os.lseek(handle, 0, os.SEEK_SET)
    if missing > max(_HOLES, size // 2):
        raise OSError(errno.EINVAL, f"{missing >> 20} MiB of it were never written", str(path))


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        OSError: as `open_file`, or it is larger.
    """
    with open_file(path) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most >> 20} MiB", str(path))
    return content


def sha256_stream(stream: BinaryIO) -> str:
    """Hex SHA-256 of everything that is left in `stream`."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open_file(path) as stream:
        return sha256_stream(stream)


def copy_hashed(source: Path, place: Path) -> str:
    """Copy a file's bytes to the new file `place`; return their hex SHA-256.

    Raises:
        OSError: as `open_file`, or the disk is full.
    """
    digest = hashlib.sha256()
    with open_file(source) as stream, place.open("xb") as copy:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            copy.write(chunk)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes. Refuses NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_of(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def readable(name: str) -> str:
    """A path as text that any file can hold: bytes of its name that are not UTF-8 are written out."""
    return name.encode("utf-8", "backslashreplace").decode()


LFS = b"version https://git-lfs"
"""How a file begins that git-lfs left in the place of another."""


def refuse_pointer(label: str, head: bytes) -> None:
    """Raise if a file that begins with `head` is a git-lfs pointer.

    Raises:
        InputError: it is; `label` says which file.
    """
    if head.startswith(LFS):
        raise InputError(f"{label} is a git-lfs pointer, not the file itself", "fetch it: git lfs pull")


def portable(source: str) -> str:
    """Return what a command calls a model or a policy as text that is the same on every machine.

    A path is relative to the repository's root, or to the working folder where there is none. One that lies elsewhere
    becomes its last part and a digest of its folder, so that two of one name differ. Names of a hub stay as they are.
    """
    if re.match("[a-z][a-z_-]+:", source):
        return source
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)
    path = Path(os.path.abspath(source))  # noqa: PTH100 - links stay, `..` does not
    for way in (path, Path(os.path.realpath(path))):
        if way.is_relative_to(root):
            return way.relative_to(root).as_posix()
    return f"{path.name}-{hashlib.sha256(os.fsencode(path.parent)).hexdigest()[:8]}"


def files_below(folder: Path) -> list[Path]:
    """All that is no folder below `folder`, sorted; links to folders are followed.

    Raises:
        InputError: a link leads to a folder that is there already.
        OSError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    found: list[Path] = []
    places: dict[str, str] = {}
    for place, _, names in os.walk(folder, onerror=refuse, followlinks=True):
        before = places.setdefault(os.path.realpath(place), place)
        if before != place:
            raise InputError(f"{readable(place)} is the same folder as {readable(before)}", "remove one of the links")
        found += (Path(place, name) for name in names)
    return sorted(found)


def leads_to_hub_blob(path: Path) -> bool:
    """Return whether `path` ends among the blobs of the Hugging Face cache whose snapshot holds it, at any depth."""
    real = Path(os.path.realpath(path))  # which takes a circle of links, too
    folder = Path(os.path.realpath(path.parent))
    return any(
        above.parent.name == "snapshots"
        and above.parent.parent.name.startswith("models--")
        and real.is_relative_to(above.parent.parent / "blobs")
        for above in (folder, *folder.parents)
    )


def check_writable(path: Path) -> None:
    """Fail now, before hours of measuring, if `path` could not be written at the end: write it, and remove it.

    A file that is there stays as it is; it is only opened for writing.

    Raises:
        InputError: the folder is missing, not a folder, or not writable, or `path` is a folder or cannot be a name.
    """
    try:
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder", "give the name of a file")
        if _is_special(path):
            return
        if not path.parent.is_dir():
            raise InputError(f"cannot write {path}: the folder {path.parent} does not exist", "create it first")
        if os.path.lexists(path):
            with path.open("r+b"):
                return
        with _replacing(path, durable=True) as stream:
            stream.write(b"\n")
        path.unlink()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", "choose another place") from error
    except ValueError as error:  # a null byte, or half a character
        raise InputError(f"cannot write {path}: it is no name of a file", "choose another place") from error


def _is_special(path: Path) -> bool:
    """Whether a device or a pipe is there, such as /dev/null or a shell's `>(command)`."""
    return path.exists() and not path.is_file()


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write `content` beside `path`, flush it to disk (when `durable`), rename; or into what cannot be replaced.

    Raises:
        OperationalError: the disk is full or the place cannot be written; nothing is left behind.
    """
    try:
        if _is_special(path):
            _pour(path, content)
            return
        try:
            with _replacing(path, durable=durable) as stream:
                stream.write(content)
        except OSError as error:
            if error.errno not in _FIXED or not path.is_file():
                raise
            _pour(path, content)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def write_elsewhere(name: str, content: bytes) -> Path | None:
    """Write what cannot be written where it was asked for to a new file, and say where; None where that fails too.

    The file lies in the working folder or, where that cannot be written, in the one for temporary files; its name ends
    with `name`.
    """
    for folder in (Path.cwd, tempfile.gettempdir):
        with contextlib.suppress(OSError, OperationalError):
            place = Path(folder()) / f"pargate-{secrets.token_hex(4)}-{name}"
            write_atomic(place, content)
            return place
    return None


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A stream into a file beside `path` that becomes `path` when the block ends, and is removed if it fails.

    Raises:
        OperationalError: the disk is full or the place cannot be written; nothing is left behind.
    """
    try:
        with _replacing(path, durable=True) as stream:
            yield stream
    except OSError as error:
        raise _unwritable(path, error) from error


_FIXED = (errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS)
"""What the system says where a file may be written, but not replaced."""


@contextlib.contextmanager
def _replacing(path: Path, *, durable: bool) -> Iterator[BinaryIO]:
    """As `atomic_file`, with the system's own errors."""
    beside = _beside(path)
    try:
        # The mode is given here: some file systems refuse to change it later.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(beside, flags, 0o644), "wb") as stream:
            yield stream
            if durable:
                stream.flush()
                _sync(stream.fileno())
        beside.replace(path)
    except BaseException:  # an interruption leaves nothing behind either
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _beside(path: Path) -> Path:
    """A new name in the folder of `path`; short, since that of `path` may be as long as the file system allows."""
    return path.absolute().parent / f".{path.name[:32]}.{secrets.token_hex(8)}"


def _sync(handle: int) -> None:
    """Flush a file or a folder to disk, where the file system can."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, beside `path`, that becomes `path` when the block ends, and is removed if it fails.

    Everything in it is flushed to disk before it gets its name. Nothing is replaced.

    Raises:
        InputError: something is at `path`, or the folder it is to lie in is missing.
        OperationalError: the disk is full or the place cannot be written; nothing is left behind, except where a
            complete folder cannot be given its name.
    """
    check_new_folder(path)
    beside = _beside(path)
    nameless = False
    try:
        try:
            beside.mkdir(0o755)
        except OSError as error:
            raise _unwritable(path, error) from error
        yield beside
        try:
            _flush_tree(beside)
        except OSError as error:
            raise _unwritable(path, error) from error
        _refuse_taken(path)  # a rename would take the place of an empty folder that appeared meanwhile
        try:
            beside.rename(path)
            _flush(path.absolute().parent)
        except OSError as error:
            nameless = True
            raise OperationalError(
                f"cannot give {path} its name: {error.strerror}", f"all of it is in {path if path.exists() else beside}"
            ) from error
    finally:
        if not nameless:
            shutil.rmtree(beside, ignore_errors=True)


def check_new_folder(path: Path) -> None:
    """Fail now, before hours of work, if the folder `path` could not be made at the end: make it, and remove it.

    Raises:
        InputError: something is at `path`, or the folder it is to lie in is missing or cannot be written.
    """
    _refuse_taken(path)
    beside = _beside(path)
    try:
        if not path.absolute().parent.is_dir():
            raise InputError(f"cannot write {path}: the folder {path.parent} does not exist", "create it first")
        beside.mkdir()
        try:
            beside.rename(path)
        except BaseException:
            beside.rmdir()
            raise
        path.rmdir()
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", "choose another place") from error
    except ValueError as error:  # a null byte, or half a character
        raise InputError(f"cannot write {path}: it is no name of a folder", "choose another place") from error


def _refuse_taken(path: Path) -> None:
    if os.path.lexists(path):
        raise InputError(f"{path} exists already", "name a folder that does not, or remove it first")


def _unwritable(path: Path, error: OSError | ValueError) -> OperationalError:
    reason = getattr(error, "strerror", None) or error
    return OperationalError(f"cannot write {path}: {reason}", "free space or choose another place")


def _flush_tree(folder: Path) -> None:
    for entry in sorted(folder.iterdir()):
        _flush_tree(entry) if entry.is_dir() else _flush(entry)
    _flush(folder)


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # Windows has no handle for a folder
    # Linux flushes through any handle, Windows only through one that may write.
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        _sync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file at `path`, alone among all processes; it stays there, empty, and means nothing by itself.

    Raises:
        OperationalError: it cannot be made, or, without `wait`, another process holds it.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OperationalError(f"cannot lock {path}: {error.strerror}", "choose another place") from error
    try:
        try:
            _lock(handle, wait)
        except OSError as error:
            raise OperationalError(f"another process holds {path}", "wait until it has ended") from error
        yield
    finally:
        os.close(handle)  # which also lets go of the lock


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int, wait: bool) -> None:
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                return
            except OSError:
                if not wait:  # with it, Windows gives up after ten tries
                    raise
else:
    import fcntl

    def _lock(handle: int, wait: bool) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def append(path: Path, content: bytes) -> None:
    """Add `content` to the end of a file and flush it to disk; the caller holds a lock.

    Raises:
        OperationalError: the disk is full or the place cannot be written; the file ends where it did.
    """
    try:
        with path.open("ab", buffering=0) as stream:
            end = stream.tell()
            try:
                if stream.write(content) != len(content):
                    raise OSError(errno.ENOSPC, "no space left for the whole of it")
                _sync(stream.fileno())
            except OSError:
                stream.truncate(end)
                raise
    except OSError as error:
        raise _unwritable(path, error) from error


def _pour(path: Path, content: bytes) -> None:
    """Write into what is there: a device or a pipe, which must not be replaced, or a file that cannot be."""
    try:
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            _sync(stream.fileno())
    except BrokenPipeError:
        return  # whoever reads has enough


@dataclass(slots=True)
class BlockStore:
    """Vectors on disk, keyed by everything that determines them.

    A block is its shape and float32 rows preceded by the SHA-256 of both: blocks that were cut short or
    changed by chance are recomputed, which is also why they need not be flushed one by one. It is no defence
    against someone who can write to the folder, who can forge a digest too; the report therefore says when a
    store was used.
    """

    folder: Path | None
    hits: int = 0
    misses: int = 0
    damaged: int = 0

    def _path(self, key: str) -> Path | None:
        return self.folder / key[:2] / f"{key}.blk" if self.folder else None

    def load(self, parts: Sequence[Any] | dict[str, Any]) -> NDArray[np.float32] | None:
        """The block stored under the digest of `parts`, or None."""
        path = self._path(digest_of(parts))
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError:
            self.misses += 1
            return None
        head, body = content[:32], content[32:]
        if hashlib.sha256(body).digest() != head:
            self.damaged += 1
            self.misses += 1
            return None
        rows, columns = np.frombuffer(body[:16], dtype="<i8")
        self.hits += 1
        return np.frombuffer(body[16:], dtype="<f4").reshape(int(rows), int(columns))

    def save(self, parts: Sequence[Any] | dict[str, Any], vectors: NDArray[np.float32]) -> None:
        """Store float32 [n, d] under the digest of `parts`."""
        path = self._path(digest_of(parts))
        if path is None:
            return
        body = np.array(vectors.shape, dtype="<i8").tobytes() + vectors.astype("<f4").tobytes()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OperationalError(
                f"cannot write the cache {self.folder}: {error.strerror}",
                "choose another with --cache DIR, or --cache off",
            ) from error
        write_atomic(path, hashlib.sha256(body).digest() + body, durable=False)
