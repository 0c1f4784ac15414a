"""Laws of the ledger: no byte of it can change unseen, and no lines can go, come or move."""

import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pargate.audit.ledger import HEAD, LEDGER, append_entry, read
from pargate.core.audit import ModelEntry, Rate

LINES = 5


@cache
def whole() -> tuple[bytes, bytes]:
    """A ledger and its head."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(LINES):
            append_entry(
                folder,
                lambda sequence, previous, n=number: ModelEntry(
                    sequence=sequence, previous=previous, audit="a", time="2026-11-01T00:00:00+00:00",
                    as_of="2026-11-01", model=f"model {n} é", source="m", standing="pass", exit_code=0, message="x",
                    attack=Rate(subject="s", n=10, successes=n, low=0.1, high=0.5, level=0.95),
                ),
            )  # fmt: skip
        return (folder / LEDGER).read_bytes(), (folder / HEAD).read_bytes()


def flaws(content: bytes) -> int:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / LEDGER).write_bytes(content)
        (Path(name) / HEAD).write_bytes(whole()[1])
        return len(read(Path(name)).flaws)


def test_as_it_was_written_it_has_no_flaw() -> None:
    assert flaws(whole()[0]) == 0


@given(st.data())
def test_no_byte_can_change_unseen(data: st.DataObject) -> None:
    content = bytearray(whole()[0])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    assert flaws(bytes(content))


@given(st.data())
def test_it_cannot_be_cut_unseen(data: st.DataObject) -> None:
    content = whole()[0]
    start = data.draw(st.integers(0, len(content) - 1))
    end = data.draw(st.integers(start + 1, len(content)))
    assert flaws(content[:start] + content[end:])


@given(st.lists(st.integers(0, LINES - 1), max_size=LINES + 3))
def test_no_other_choice_or_order_of_its_lines_goes_unseen(order: list[int]) -> None:
    lines = whole()[0].splitlines(keepends=True)
    assert bool(flaws(b"".join(lines[i] for i in order))) == (order != list(range(LINES)))
