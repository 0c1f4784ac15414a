"""Digests, atomic files, and the content-addressed store of vectors.

A file is written beside its place, flushed and renamed, so that it is complete or absent for every reader. A file that
the system does not replace, such as a bind mount, is overwritten.
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
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pargate import limits
from pargate.errors import InputError, OperationalError

_CHUNK = 1 << 20

SIGNATURE = "model.sig"
"""Name of the signature of all other files in a folder. It covers the checksums, so it lies beside them."""


_READ: ContextVar[dict[str, str] | None] = ContextVar("_READ", default=None)


@contextlib.contextmanager
def recorded() -> Iterator[dict[str, str]]:
    """Yield the SHA-256 of each file that is read within the block, by its absolute path.

    The digest is empty for a file of which only a part was read, and `changed` for one whose content changed between.
    """
    read: dict[str, str] = {}
    token = _READ.set(read)
    try:
        yield read
    finally:
        _READ.reset(token)


def note(path: str | Path, sha256: str) -> None:
    """Add the digest of a file that was read as a whole to what is `recorded`."""
    if (read := _READ.get()) is not None:
        place = os.path.abspath(path)  # noqa: PTH100 - links stay, `..` does not
        read[place] = sha256 if read.get(place, "") in ("", sha256) else "changed"


def open_file(path: str | Path) -> io.BufferedReader:
    """Open a regular file for reading.

    Pipes and devices are refused before they are opened, because a read may never end. A file of mostly holes is
    refused as well: it is an unfinished copy, or claims a false size.

    Raises:
        OSError: the file is missing, unreadable, not a regular file, or mostly holes.
    """
    try:
        _refuse_special(Path(path).stat(), path)
        # If a pipe has replaced the file since, opening it does not wait.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    stream = open(handle, "rb")  # noqa: PTH123, SIM115 - a descriptor, which the caller closes
    try:
        status = os.fstat(handle)
        _refuse_special(status, path)
        _refuse_endless(handle, status.st_size, path)
        _refuse_holes(handle, status.st_size, path)
    except BaseException:
        stream.close()
        raise
    if (read := _READ.get()) is not None:
        read.setdefault(os.path.abspath(path), "")  # noqa: PTH100
    return stream


def _refuse_special(status: os.stat_result, path: str | Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def _refuse_endless(handle: int, size: int, path: str | Path) -> None:
    """Raise if a file without a size has content: the kernel makes it up, as below /proc, and it may never end."""
    if size:
        return
    try:
        made_up = os.read(handle, 1) != b""
    except BlockingIOError:  # it would wait for content
        made_up = True
    if made_up:
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def _refuse_holes(handle: int, size: int, path: str | Path) -> None:
    """Raise if more than half of a large file was never written."""
    if size <= limits.HOLES or not hasattr(os, "SEEK_HOLE"):
        return
    missing = at = 0
    for _ in range(10_000):  # the rest counts as written
        hole = os.lseek(handle, at, os.SEEK_HOLE)
        try:
            at = os.lseek(handle, hole, os.SEEK_DATA)
        except OSError:  # no data follows
            at = size
        missing += at - hole
        if at >= size:
            break
    os.lseek(handle, 0, os.SEEK_SET)
    if missing > max(limits.HOLES, size // 2):
        raise OSError(errno.EINVAL, f"{missing >> 20} MiB of it were never written", str(path))


def read_bytes(path: Path, most: int = limits.FILE_BYTES) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        OSError: as `open_file`, or the file is larger.
    """
    with open_file(path) as stream:
        # Python reserves what is asked for.
        content = stream.read(min(most, os.fstat(stream.fileno()).st_size) + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"larger than {most >> 20} MiB", str(path))
    if _READ.get() is not None:
        note(path, hashlib.sha256(content).hexdigest())
    return content


def sha256_stream(stream: BinaryIO) -> str:
    """Return the hex SHA-256 of the rest of `stream`."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with open_file(path) as stream:
        digest = sha256_stream(stream)
    note(path, digest)
    return digest


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
    """Return UTF-8 JSON with sorted keys and no spaces, so that equal values give equal bytes; refuse NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_of(value: Any) -> str:
    """Return the hex SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def readable(name: str) -> str:
    """Return a path as valid text: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


LFS = b"version https://git-lfs"
"""Start of a git-lfs pointer."""


def refuse_pointer(label: str, head: bytes) -> None:
    """Raise if a file that begins with `head` is a git-lfs pointer.

    Raises:
        InputError: the file is a pointer; `label` names it.
    """
    if head.startswith(LFS):
        raise InputError(f"{label} is a git-lfs pointer, not the file itself", "fetch it: git lfs pull")


def portable(source: str) -> str:
    """Return the source of a model or a policy as text that is the same on every machine.

    A path becomes relative to the repository's root, or to the working folder. A path outside becomes its name and a
    digest of its folder; names on a hub stay.
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
    """Return all files below `folder`, sorted; links to folders are followed.

    Raises:
        InputError: two paths are the same folder.
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
    """Return whether `path`, in a snapshot of the Hugging Face cache, leads to a blob of the same model."""
    real = Path(os.path.realpath(path))  # unlike `resolve`, it accepts a circle of links
    folder = Path(os.path.realpath(path.parent))
    return any(
        above.parent.name == "snapshots"
        and above.parent.parent.name.startswith("models--")
        and real.is_relative_to(above.parent.parent / "blobs")
        for above in (folder, *folder.parents)
    )


def check_writable(path: Path) -> None:
    """Raise if `path` cannot be written, before hours of measuring; an existing file is not changed.

    Raises:
        InputError: the folder is missing or not writable, or `path` is a folder or not a valid name.
    """
    try:
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder", "give the path of a file")
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
        raise InputError(f"cannot write {path}: it is not a valid file name", "choose another place") from error


def _is_special(path: Path) -> bool:
    """Return whether `path` is a device or a pipe, such as /dev/null or a shell's `>(command)`."""
    return path.exists() and not path.is_file()


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write `content` to `path` atomically; flush it to disk if `durable`. Devices and pipes are written directly.

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
    """Write `content` to a new file whose name ends with `name`; return its path, or None if that fails.

    The file lies in the working folder or else in the temporary folder.
    """
    for folder in (Path.cwd, tempfile.gettempdir):
        with contextlib.suppress(OSError, OperationalError):
            place = Path(folder()) / f"pargate-{secrets.token_hex(4)}-{name}"
            write_atomic(place, content)
            return place
    return None


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a stream to a file beside `path` that becomes `path` when the block ends, and is removed if it fails.

    Raises:
        OperationalError: the disk is full or the place cannot be written; nothing is left behind.
    """
    try:
        with _replacing(path, durable=True) as stream:
            yield stream
    except OSError as error:
        raise _unwritable(path, error) from error


_FIXED = (errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of files that can be written but not replaced."""


@contextlib.contextmanager
def _replacing(path: Path, *, durable: bool) -> Iterator[BinaryIO]:
    """Yield a stream as `atomic_file`, but raise the system's errors."""
    beside = _beside(path)
    try:
        # Some file systems refuse to change the mode later.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(beside, flags, 0o644), "wb") as stream:
            yield stream
            if durable:
                stream.flush()
                _sync(stream.fileno())
        beside.replace(path)
    except BaseException:  # also after a signal
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _beside(path: Path) -> Path:
    """Return a new short name in the folder of `path`, since the name of `path` may have the maximum length."""
    return path.absolute().parent / f".{path.name[:32]}.{secrets.token_hex(8)}"


def _sync(handle: int) -> None:
    """Flush a file or a folder to disk if the file system supports it."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` that becomes `path` when the block ends, and is removed if it fails.

    Its files are flushed to disk before the rename.

    Raises:
        InputError: `path` exists, or its parent folder is missing.
        OperationalError: the disk is full or the place cannot be written; nothing is left behind, except a complete
            folder that cannot be renamed.
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
        _refuse_taken(path)  # a rename would replace an empty folder that appeared since
        try:
            beside.rename(path)
            _flush(path.absolute().parent)
        except OSError as error:
            nameless = True
            raise OperationalError(
                f"cannot rename the folder to {path}: {error.strerror}",
                f"all files are in {path if path.exists() else beside}",
            ) from error
    finally:
        if not nameless:
            shutil.rmtree(beside, ignore_errors=True)


def check_new_folder(path: Path) -> None:
    """Raise if the folder `path` cannot be created, before hours of work.

    Raises:
        InputError: `path` exists, or its parent folder is missing or not writable.
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
        raise InputError(f"cannot write {path}: it is not a valid folder name", "choose another place") from error


def _refuse_taken(path: Path) -> None:
    if os.path.lexists(path):
        raise InputError(f"{path} exists already", "give a new folder, or remove it first")


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
    # Linux flushes through any handle, Windows only through a writable one.
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        _sync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file at `path`, alone among all processes; the empty file stays.

    Raises:
        OperationalError: the file cannot be created or, without `wait`, another process holds the lock.
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
        os.close(handle)  # this also releases the lock


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int, wait: bool) -> None:
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                return
            except OSError:
                if not wait:  # with `wait`, Windows gives up after ten tries
                    raise
else:
    import fcntl

    def _lock(handle: int, wait: bool) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def append(path: Path, content: bytes) -> None:
    """Append `content` to a file and flush it to disk; the caller holds a lock.

    Raises:
        OperationalError: the disk is full or the place cannot be written; the file is unchanged.
    """
    try:
        with path.open("ab", buffering=0) as stream:
            end = stream.tell()
            try:
                if stream.write(content) != len(content):
                    raise OSError(errno.ENOSPC, "no space left")
                _sync(stream.fileno())
            except OSError:
                stream.truncate(end)
                raise
    except OSError as error:
        raise _unwritable(path, error) from error


def _pour(path: Path, content: bytes) -> None:
    """Overwrite a device, a pipe or a file that cannot be replaced."""
    try:
        with path.open("wb") as stream:
            stream.write(content)
            stream.flush()
            _sync(stream.fileno())
    except BrokenPipeError:
        return  # the reader has ended


@dataclass(slots=True)
class BlockStore:
    """Vectors on disk, keyed by the digest of all their inputs.

    A block is the SHA-256 of its content, its shape and its float32 rows: a damaged block is computed again, so blocks
    are not flushed one by one. Anyone who can write to the folder can forge a block, so the report says if a store was
    used.
    """

    folder: Path | None
    hits: int = 0
    misses: int = 0
    damaged: int = 0

    def _path(self, key: str) -> Path | None:
        return self.folder / key[:2] / f"{key}.blk" if self.folder else None

    def load(self, parts: Sequence[Any] | dict[str, Any]) -> NDArray[np.float32] | None:
        """Return the block stored under the digest of `parts`, or None."""
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

    def forget(self, parts: Sequence[Any] | dict[str, Any]) -> None:
        """Remove the block stored under the digest of `parts`, if there is one."""
        path = self._path(digest_of(parts))
        if path is not None:
            path.unlink(missing_ok=True)
