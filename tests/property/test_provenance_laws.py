"""Laws of records: what was written reads back equal, and a chain breaks exactly where a link is missing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pargate.core.provenance import Movement, ProvenanceRecord, StepLog, Subject, broken_link

DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
NAMES = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SUBJECTS = st.builds(Subject, name=NAMES, sha256=DIGESTS, size_bytes=st.none() | st.integers(0, 1 << 50))
JSON = st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | NUMBERS | NAMES


@st.composite
def logs(draw: st.DrawFn) -> StepLog:
    count = draw(st.integers(0, 4))
    column = st.lists(NUMBERS, min_size=count, max_size=count).map(tuple)
    return StepLog(steps=tuple(range(count)), values=draw(st.dictionaries(NAMES, column, max_size=3)))


MOVEMENTS = st.builds(Movement, trained=st.booleans(), embedding_shift=NUMBERS, weight_change=NUMBERS)


@st.composite
def records(draw: st.DrawFn) -> ProvenanceRecord:
    words = st.dictionaries(NAMES, NAMES, max_size=3)
    return ProvenanceRecord(
        activity="clean",
        inputs=tuple(draw(st.lists(SUBJECTS, min_size=1, max_size=3))),
        outputs=tuple(draw(st.lists(SUBJECTS, min_size=1, max_size=3))),
        configuration=draw(st.dictionaries(NAMES, JSON, max_size=3)),
        configuration_sha256=draw(DIGESTS),
        reasons=draw(words),
        seed=draw(st.integers(0, 1 << 53)),
        tool=draw(words),
        environment=draw(words),
        started="2026-01-02T03:04:05+00:00",
        finished="2026-01-02T03:05:05+00:00",
        seconds=draw(st.floats(0, 1e9)),
        stopped=draw(NAMES),
        moved=draw(st.dictionaries(st.sampled_from(["image", "text"]), MOVEMENTS)),
        notices=tuple(draw(st.lists(NAMES, max_size=2))),
        log=draw(logs()),
    )


@given(records())
def test_a_record_that_was_written_reads_back_equal(record: ProvenanceRecord) -> None:
    text = record.model_dump_json(by_alias=True, indent=1)
    assert ProvenanceRecord.model_validate_json(text) == record
    assert json.loads(text)["schema"] == "pargate/provenance/1"
    assert ProvenanceRecord.model_validate_json(text).model_dump_json(by_alias=True, indent=1) == text


@given(records())
def test_the_parent_is_the_first_input(record: ProvenanceRecord) -> None:
    assert record.parent_sha256 == record.inputs[0].sha256


def chain(record: ProvenanceRecord, length: int) -> list[ProvenanceRecord]:
    """Records of which each begins with the first output of the one before."""
    made = []
    for number in range(length):
        first = Subject(name="weights", sha256=f"{number:064x}")
        second = Subject(name="weights", sha256=f"{number + 1:064x}")
        made.append(
            record.model_copy(update={"inputs": (first, *record.inputs[1:]), "outputs": (second, *record.outputs[1:])})
        )
    return made


@given(records(), st.integers(0, 6))
def test_a_whole_chain_has_no_broken_link(record: ProvenanceRecord, length: int) -> None:
    assert broken_link(chain(record, length)) is None


@given(records(), st.integers(3, 7), st.data())
def test_a_record_that_is_taken_out_breaks_the_chain_behind_it(
    record: ProvenanceRecord, length: int, data: st.DataObject
) -> None:
    links = chain(record, length)
    missing = data.draw(st.integers(1, length - 2))
    assert broken_link(links[:missing] + links[missing + 1 :]) == missing


@given(records())
def test_a_record_of_other_weights_breaks_the_chain_before_it(record: ProvenanceRecord) -> None:
    first, second, third = chain(record, 3)
    other = second.model_copy(update={"inputs": (Subject(name="weights", sha256="f" * 64),)})
    assert broken_link([first, other, third]) == 1
    assert broken_link([first, third, second]) == 1


GOOD = {
    "schema": "pargate/provenance/1", "activity": "clean", "inputs": [{"name": "x", "sha256": "0" * 64}],
    "outputs": [], "configuration": {}, "configuration_sha256": "0" * 64, "seed": 0, "tool": {}, "environment": {},
    "started": "2026-01-02T03:04:05+00:00", "finished": "2026-01-02T03:04:05+00:00", "seconds": 0, "stopped": "",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schema", "pargate/provenance/2"),
        ("activity", "train"),
        ("configuration_sha256", "A" * 64),
        ("seconds", float("nan")),
        ("inputs", []),
        ("inputs", [{"name": "x", "sha256": "0" * 63}]),
        ("outputs", [{"name": "x", "sha256": "0" * 64, "size_bytes": -1}]),
        ("moved", {"image": {"trained": True, "embedding_shift": float("inf"), "weight_change": 0}}),
        ("log", {"steps": [0, 1], "values": {"loss": [1.0]}}),
        ("log", {"steps": [], "values": {"loss": [1.0]}}),
        ("extra", 1),
    ],
)
def test_a_record_that_says_nonsense_is_refused(name: str, value: object) -> None:
    ProvenanceRecord.model_validate(GOOD)
    with pytest.raises(ValidationError, match=name):
        ProvenanceRecord.model_validate({**GOOD, name: value})
