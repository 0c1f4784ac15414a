"""The ledger: what audits wrote stays as it was, or is found to have changed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pargate.audit import ledger
from pargate.audit.ledger import HEAD, LEDGER, append_entry, mend, read, report_path, sound, unfitting
from pargate.core.audit import ModelEntry, Rate, Standing
from pargate.errors import InputError, OperationalError
from pargate.files import locked

LINES = 8


def entry(sequence: int, previous: str, model: str = "m", standing: Standing = Standing.PASS) -> ModelEntry:
    rate = Rate(subject="badnet → banana", n=100, successes=sequence, low=0.0, high=0.5, level=0.95)
    return ModelEntry(
        sequence=sequence, previous=previous, audit="a", time="2026-11-01T00:00:00+00:00", as_of="2026-11-01",
        model=model, source=f"models/{model}", standing=standing, exit_code=0, message="Fine.",
        key="k" * 4, inputs={"model": "x"}, attack=rate,
    )  # fmt: skip


def written(folder: Path, lines: int = LINES) -> Path:
    for number in range(lines):
        append_entry(folder, lambda s, p, n=number: entry(s, p, f"model {n}"))
    return folder


def test_what_was_appended_reads_back_in_order(tmp_path: Path) -> None:
    chain = read(written(tmp_path))
    assert chain.flaws == ()
    assert [e.sequence for e in chain.entries] == list(range(1, LINES + 1))
    assert [e.previous for e in chain.entries] == [ledger.BEGIN, *chain.digests[:-1]]
    assert (tmp_path / HEAD).read_text() == f"{LINES} {chain.head}\n"


def test_a_folder_without_a_ledger_has_an_empty_one(tmp_path: Path) -> None:
    assert read(tmp_path).entries == ()
    assert mend(tmp_path) == ""


# --- attacks -----------------------------------------------------------------------------------------

Lines = list[bytes]


def changed(number: int, key: str, value: object) -> Callable[[Lines], Lines]:
    def attack(lines: Lines) -> Lines:
        data = json.loads(lines[number])
        data[key] = value
        lines[number] = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        return lines

    return attack


def replaced(number: int, old: bytes, new: bytes) -> Callable[[Lines], Lines]:
    def attack(lines: Lines) -> Lines:
        assert old in lines[number]
        lines[number] = lines[number].replace(old, new, 1)
        return lines

    return attack


def dropped(start: int, end: int) -> Callable[[Lines], Lines]:
    return lambda lines: lines[:start] + lines[end:]


def ordered(*order: int) -> Callable[[Lines], Lines]:
    return lambda lines: [lines[i] for i in order]


def inserted(number: int, line: bytes) -> Callable[[Lines], Lines]:
    return lambda lines: [*lines[:number], line, *lines[number:]]


def repeated(number: int) -> Callable[[Lines], Lines]:
    return lambda lines: [*lines[: number + 1], *lines[number:]]


ATTACKS: dict[str, tuple[Callable[[Lines], Lines], set[int]]] = {
    # What happens to the lines, and the numbers of lines of which at least one must be named.
    **{f"verdict of line {n + 1}": (changed(n, "standing", "fail"), {n + 1}) for n in range(LINES)},
    **{f"drop line {n + 1}": (dropped(n, n + 1), {n + 1}) for n in range(LINES)},
    **{f"repeat line {n + 1}": (repeated(n), {n + 2}) for n in range(LINES)},
    **{
        f"swap lines {n + 1} and {n + 2}": (
            ordered(*[{n: n + 1, n + 1: n}.get(i, i) for i in range(LINES)]),
            {n + 1, n + 2},
        )
        for n in range(LINES - 1)
    },
    "time": (changed(3, "time", "2026-10-01T00:00:00+00:00"), {4}),
    "model's name": (changed(2, "model", "another"), {3}),
    "message": (changed(7, "message", "Fine!"), {8}),
    "exit code": (changed(0, "exit_code", 1), {1}),
    "digest of the report": (changed(5, "report", "0" * 64), {6}),
    "a rate": (replaced(4, b'"successes":5', b'"successes":6'), {5}),
    "an interval": (replaced(4, b'"high":0.5', b'"high":0.4'), {5}),
    "previous": (changed(4, "previous", "0" * 64), {5}),
    "sequence": (changed(4, "sequence", 6), {5}),
    "another kind": (changed(6, "kind", "audit"), {7}),
    "an unknown key": (changed(1, "x", 1), {2}),
    "a space": (replaced(3, b'":"', b'": "'), {4}),
    "a number written otherwise": (replaced(3, b'"level":0.95', b'"level":0.950'), {4}),
    "a key twice": (replaced(3, b'"as_of"', b'"as_of":"2026-11-01","as_of"'), {4}),
    "an escape instead of a letter": (replaced(3, b"banana", b"b\\u0061nana"), {4}),
    "a carriage return": (replaced(2, b"}", b"}\r"), {3}),
    "not finite": (replaced(3, b'"high":0.5', b'"high":NaN'), {4}),
    "an empty line": (inserted(4, b""), {5}),
    "a line that is not JSON": (inserted(4, b"hello"), {5}),
    "a line of brackets": (inserted(4, b"[" * 100_000), {5}),
    "a line of bytes": (inserted(4, b"\xff\xfe"), {5}),
    "a byte order mark": (replaced(0, b"{", b"\xef\xbb\xbf{"), {1}),
    "the last three lines": (dropped(5, 8), {6}),
    "all lines but the first": (dropped(1, 8), {2}),
    "all lines": (dropped(0, 8), {1}),
    "turned around": (ordered(*reversed(range(LINES))), {1}),
    "the last line to the front": (ordered(7, *range(7)), {1}),
}


def test_there_are_at_least_fifty_attacks() -> None:
    assert len(ATTACKS) >= 50


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_is_found_and_its_line_named(name: str, tmp_path: Path) -> None:
    path = written(tmp_path) / LEDGER
    attack, lines = ATTACKS[name]
    before = path.read_bytes().splitlines()
    path.write_bytes(b"".join(line + b"\n" for line in attack(list(before))))
    flaws = read(tmp_path).flaws
    assert lines & {flaw.line for flaw in flaws}, flaws
    with pytest.raises(InputError, match=r"was changed"):
        sound(tmp_path)
    with pytest.raises(InputError):
        append_entry(tmp_path, entry)


def test_a_head_kept_elsewhere_finds_a_ledger_that_was_cut_with_its_own_head(tmp_path: Path) -> None:
    path = written(tmp_path) / LEDGER
    kept = read(tmp_path).head
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]))
    shorter = read(tmp_path)
    (tmp_path / HEAD).write_text(f"5 {shorter.digests[-1]}\n")
    assert read(tmp_path).flaws == (), "alone, it looks whole"
    assert "no line has the digest" in str(read(tmp_path, head=kept).flaws[0])


def test_a_head_kept_elsewhere_still_fits_when_the_ledger_has_grown(tmp_path: Path) -> None:
    kept = read(written(tmp_path)).head
    append_entry(tmp_path, entry)
    assert read(tmp_path, head=f"sha256:{kept}").flaws == ()


@pytest.mark.parametrize("head", ["", "8", "x y", "-1 " + "0" * 64, "7 " + "0" * 64, "9 " + "0" * 64, "0 " + "1" * 64])
def test_a_head_that_does_not_fit_is_found(head: str, tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / HEAD).write_text(head)
    assert read(tmp_path).flaws


def test_a_missing_head_is_found(tmp_path: Path) -> None:
    (written(tmp_path) / HEAD).unlink()
    assert f"{HEAD} is missing" in str(read(tmp_path).flaws[0])


def test_lines_that_were_added_without_the_head_are_found(tmp_path: Path) -> None:
    written(tmp_path, 5)
    early = (tmp_path / HEAD).read_text()
    written(tmp_path, 2)
    (tmp_path / HEAD).write_text(early)
    assert {flaw.line for flaw in read(tmp_path).flaws} == {6}


# --- crashes -----------------------------------------------------------------------------------------


def test_a_crash_between_line_and_head_is_no_flaw(tmp_path: Path) -> None:
    written(tmp_path, 5)
    early = (tmp_path / HEAD).read_text()
    written(tmp_path, 1)
    (tmp_path / HEAD).write_text(early)
    assert read(tmp_path).flaws == ()
    append_entry(tmp_path, entry)
    assert len(sound(tmp_path).entries) == 7


def test_a_crash_before_the_first_head_is_no_flaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(folder: Path, sequence: int, digest: str) -> None:
        if sequence:
            raise KeyboardInterrupt
        write_head(folder, sequence, digest)

    write_head = ledger._write_head
    monkeypatch.setattr(ledger, "_write_head", crash)
    with pytest.raises(KeyboardInterrupt):
        append_entry(tmp_path, entry)
    assert len(sound(tmp_path).entries) == 1


@pytest.mark.parametrize("lines", [0, 3])
def test_a_line_that_a_crash_left_unfinished_is_moved_aside_with_a_note(lines: int, tmp_path: Path) -> None:
    path = written(tmp_path, lines) / LEDGER
    with path.open("ab") as stream:
        stream.write(b'{"kind":"mod')
    assert "is unfinished" in str(read(tmp_path).flaws[0])
    _, note = append_entry(tmp_path, entry)
    assert "unfinished" in note
    assert len(sound(tmp_path).entries) == lines + 1
    (aside,) = tmp_path.glob(f"{LEDGER}.unfinished-*")
    assert aside.read_bytes() == b'{"kind":"mod'


def test_a_last_line_that_was_cut_after_its_head_was_written_is_not_mended(tmp_path: Path) -> None:
    path = written(tmp_path) / LEDGER
    path.write_bytes(path.read_bytes()[:-10])
    assert mend(tmp_path) == ""
    with pytest.raises(InputError):
        append_entry(tmp_path, entry)


APPENDING = """
import sys
from pathlib import Path
from tests.unit.test_ledger import entry
from pargate.audit.ledger import append_entry
for number in range(100):
    append_entry(Path(sys.argv[1]), lambda s, p: entry(s, p, f"{sys.argv[2]} {number}"))
"""


def test_two_processes_that_append_at_once_give_one_whole_chain(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", APPENDING, str(tmp_path)]
    both = [subprocess.Popen([*command, name], cwd=root) for name in ("a", "b")]
    assert [process.wait(120) for process in both] == [0, 0]
    entries = sound(tmp_path).entries
    assert len(entries) == 200
    for name in ("a", "b"):
        own = [e.model for e in entries if isinstance(e, ModelEntry) and e.model.startswith(name)]
        assert own == [f"{name} {n}" for n in range(100)]


def test_a_lock_that_another_process_holds_is_waited_for_or_refused(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "x"),
        pytest.raises(OperationalError, match="another process holds"),
        locked(tmp_path / "x", wait=False),
    ):
        pass
    with locked(tmp_path / "x", wait=False):
        pass


# --- reports -----------------------------------------------------------------------------------------


def test_a_report_that_changed_or_is_gone_is_found_by_its_entry(tmp_path: Path) -> None:
    import hashlib

    content = b"{}"
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "reports").mkdir()
    found = entry(3, ledger.BEGIN).model_copy(update={"report": digest, "measured": digest})
    assert "is missing" in str(unfitting(tmp_path, [found])[0])
    report_path(tmp_path, digest).write_bytes(content)
    assert unfitting(tmp_path, [found]) == []
    report_path(tmp_path, digest).write_bytes(b"{ }")
    (flaw,) = unfitting(tmp_path, [found])
    assert (flaw.line, "was changed" in flaw.text) == (3, True)
