"""Files are complete or absent, equal values give equal bytes, and a damaged block is never used."""

import errno
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargate.errors import InputError, OperationalError
from pargate.files import (
    BlockStore,
    atomic_folder,
    canonical_json,
    check_new_folder,
    check_writable,
    digest_of,
    portable,
    sha256_file,
    write_atomic,
    write_elsewhere,
)

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
VECTORS = np.arange(6, dtype=np.float32).reshape(2, 3)


def disk_full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def refuse(number: int) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return call


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def blocks(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.blk"))


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    first = {"b": [1, {"d": None, "c": 0.5}], "a": "é"}
    second = {"a": "é", "b": [1, {"c": 0.5, "d": None}]}
    assert canonical_json(first) == canonical_json(second) == '{"a":"é","b":[1,{"c":0.5,"d":null}]}'.encode()
    assert digest_of(first) == digest_of(second)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [-float("inf")]}])
def test_canonical_json_refuses_what_json_cannot_hold(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_the_digest_of_a_file_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc") == ABC


def test_writing_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    for content in (b"old", b"new"):
        write_atomic(path, content)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["report.json"]  # noqa: PTH208 - hidden files count


@pytest.mark.parametrize("where", ["os.replace", "os.fsync", "os.fdopen", "os.open"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch, pytest.raises(OperationalError, match=r"report\.json: No space left"):
        patch.setattr(where, disk_full)
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["report.json"]  # noqa: PTH208 - hidden files count


def test_an_interruption_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "report.json", b"new")
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - hidden files count


def test_a_missing_folder_is_reported_when_writing(tmp_path: Path) -> None:
    with pytest.raises(OperationalError, match="No such file"):
        write_atomic(tmp_path / "nowhere" / "report.json", b"new")


def test_a_writable_place_is_accepted_and_left_untouched(tmp_path: Path) -> None:
    check_writable(tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []


def no_folder(tmp_path: Path) -> Path:
    return tmp_path / "nowhere" / "report.json"


def a_folder(tmp_path: Path) -> Path:
    return tmp_path


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    return tmp_path / "file" / "report.json"


@pytest.mark.parametrize(
    ("place", "reason"),
    [(no_folder, "does not exist"), (a_folder, "it is a folder"), (below_a_file, "does not exist")],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    place: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=reason):
        check_writable(place(tmp_path))


def test_a_place_without_space_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(InputError, match="No space left"):
        check_writable(tmp_path / "report.json")


def test_a_file_that_is_there_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    before = path.stat()
    check_writable(path)
    assert path.read_bytes() == b"old"
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_link_that_leads_nowhere_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="cannot write"):
        check_writable(tmp_path / "loop")
    assert (tmp_path / "loop").is_symlink()


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300])
def test_what_no_file_can_be_called_is_refused_before_the_work(name: str, tmp_path: Path) -> None:
    for check in (check_writable, check_new_folder):
        with pytest.raises(InputError, match="cannot write"):
            check(tmp_path / name)
    with pytest.raises(OperationalError, match="cannot write"):
        write_atomic(tmp_path / name, b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EPERM])
def test_what_cannot_be_replaced_is_overwritten(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"longer than what comes")
    monkeypatch.setattr("os.replace", refuse(number))
    check_writable(path)
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_overwritten_where_its_folder_takes_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.open", refuse(errno.EROFS))
    check_writable(path)
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("call", ["os.chmod", "os.fchmod"])
def test_a_file_system_without_modes_takes_files_and_folders(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, refuse(errno.EPERM))
    check_writable(tmp_path / "report.json")
    write_atomic(tmp_path / "report.json", b"new")
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_bytes(b"a")
    assert (tmp_path / "report.json").read_bytes() == b"new"
    assert (tmp_path / "out" / "a").read_bytes() == b"a"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_takes_files_and_folders(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", refuse(number))
    write_atomic(tmp_path / "report.json", b"new")
    with atomic_folder(tmp_path / "out"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "report.json"]


@given(name=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=300))
def test_what_passes_at_the_start_is_written_at_the_end(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("names")
    path = folder / name
    try:
        check_writable(path)
    except InputError:
        assert name in (".", "..") or len(name.encode()) > 255
    else:
        write_atomic(path, b"new")
        assert path.read_bytes() == b"new"
        path.unlink()
    assert list(folder.iterdir()) == []


def test_what_cannot_have_its_place_is_written_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, temporary = tmp_path / "here", tmp_path / "tmp"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    first = write_elsewhere("report.json", b"new")
    assert first is not None and first.parent == here and first.read_bytes() == b"new"
    here.rename(tmp_path / "gone")
    (tmp_path / "gone").joinpath(first.name).unlink()
    (tmp_path / "gone").rmdir()
    second = write_elsewhere("report.json", b"new")
    assert second is not None and second.parent == temporary and second.read_bytes() == b"new"
    temporary.rename(tmp_path / "gone")
    assert write_elsewhere("report.json", b"new") is None


def test_a_stored_block_comes_back_as_it_was(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    assert store.load({"model": "a"}) is None
    store.save({"model": "a"}, VECTORS)
    found = store.load({"model": "a"})
    assert found is not None and found.dtype == np.float32
    assert (found == VECTORS).all()
    assert (store.hits, store.misses, store.damaged) == (1, 1, 0)


def test_another_key_has_another_block(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    store.save({"model": "a"}, VECTORS)
    assert store.load({"model": "b"}) is None


def test_an_empty_block_keeps_its_width(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    store.save(["empty"], VECTORS[:0])
    found = store.load(["empty"])
    assert found is not None and found.shape == (0, 3)


def cut(content: bytes) -> bytes:
    return content[:-1]


def emptied(_: bytes) -> bytes:
    return b""


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def reshaped(content: bytes) -> bytes:
    return content[:32] + np.array([3, 2], dtype="<i8").tobytes() + content[48:]


@pytest.mark.parametrize("damage", [cut, emptied, flipped, reshaped])
def test_a_damaged_block_is_missing_until_it_is_written_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    store.save(["key"], VECTORS)
    (block,) = blocks(tmp_path)
    block.write_bytes(damage(block.read_bytes()))
    assert store.load(["key"]) is None
    assert (store.hits, store.misses, store.damaged) == (0, 1, 1)
    store.save(["key"], VECTORS)
    assert store.load(["key"]) is not None


def test_a_store_that_is_off_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = BlockStore(None)
    store.save(["key"], VECTORS)
    assert store.load(["key"]) is None
    assert list(tmp_path.iterdir()) == []
    assert (store.hits, store.misses, store.damaged) == (0, 0, 0)


def test_a_store_below_a_file_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(OperationalError, match="cannot write the cache") as caught:
        BlockStore(tmp_path / "cache").save(["key"], VECTORS)
    assert "--cache off" in caught.value.hint


def test_two_writers_of_one_block_never_show_half_of_it(tmp_path: Path) -> None:
    large = np.arange(50_000, dtype=np.float32).reshape(500, 100)

    def write(_: int) -> None:
        BlockStore(tmp_path).save(["key"], large)

    def read(_: int) -> bool:
        store = BlockStore(tmp_path)
        found = store.load(["key"])
        return store.damaged == 0 and (found is None or bool((found == large).all()))

    with ThreadPoolExecutor(4) as pool:
        written, intact = pool.map(write, range(40)), pool.map(read, range(40))
        assert list(written) == [None] * 40
        assert all(intact)
    assert len(blocks(tmp_path)) == len(list(tmp_path.rglob("*.*"))) == 1


# --- folders ---


def test_a_folder_appears_whole(tmp_path):
    with atomic_folder(tmp_path / "out") as beside:
        (beside / "in").mkdir()
        (beside / "in" / "file").write_bytes(b"x")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "in" / "file").read_bytes() == b"x"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_that_was_not_finished_leaves_nothing(tmp_path, error):
    with pytest.raises(error), atomic_folder(tmp_path / "out") as beside:
        (beside / "file").write_bytes(b"x")
        raise error
    assert not list(tmp_path.iterdir())


def test_a_folder_replaces_nothing(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    for name in ("link", "empty"):
        with pytest.raises(InputError, match="exists already"), atomic_folder(tmp_path / name):
            pass
    with pytest.raises(InputError, match="exists already"), atomic_folder(tmp_path / "late"):
        (tmp_path / "late").mkdir()
    with pytest.raises(InputError, match="does not exist"), atomic_folder(tmp_path / "no" / "where"):
        pass
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "late", "link"]


def test_a_folder_on_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OperationalError, match="No space"), atomic_folder(tmp_path / "out") as beside:
        (beside / "file").write_bytes(b"x")
    assert not list(tmp_path.iterdir())


def test_a_complete_folder_that_cannot_have_its_name_is_kept(tmp_path, monkeypatch):
    with pytest.raises(OperationalError) as caught, atomic_folder(tmp_path / "out") as beside:
        (beside / "file").write_bytes(b"x")
        monkeypatch.setattr("os.rename", refuse(errno.EPERM))
    (kept,) = tmp_path.iterdir()
    assert (kept / "file").read_bytes() == b"x"
    assert str(kept) in caught.value.hint
    assert "Operation not permitted" in caught.value.message


def test_a_new_folder_is_tried_and_removed(tmp_path, monkeypatch):
    check_new_folder(tmp_path / "out")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("os.rename", refuse(errno.EPERM))
    with pytest.raises(InputError, match="Operation not permitted"):
        check_new_folder(tmp_path / "out")
    assert not list(tmp_path.iterdir())


# --- names that are the same on every machine ---


@pytest.mark.parametrize("way", ["as it is", "absolute", "through a link", "with dots"])
def test_a_path_is_named_from_the_root_of_its_repository(tmp_path, monkeypatch, way):
    root = tmp_path / "repository"
    (root / ".git").mkdir(parents=True)
    (root / "models" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(root)
    source = {
        "as it is": "a",
        "absolute": str(root / "models" / "a"),
        "through a link": str(tmp_path / "link" / "models" / "a"),
        "with dots": "../models/./a/",
    }[way]
    monkeypatch.chdir(root / "models")
    assert portable(source) == "models/a"


def test_without_a_repository_a_path_is_named_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert portable(str(tmp_path / "a" / "model")) == "a/model"
    assert portable("a/../b/model") == "b/model"


def test_paths_elsewhere_of_one_name_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    one, other = portable(str(tmp_path / "a" / "model")), portable("../b/model")
    assert one != other and one.startswith("model-") and "/" not in one
    assert one == portable("../a/model"), "the same place has the same name"


@pytest.mark.parametrize("source", ["hf-hub:org/name@main", "open_clip:RN50/openai", "builtin:baseline"])
def test_names_that_are_no_paths_stay(source):
    assert portable(source) == source
