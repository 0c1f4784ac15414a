import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pargate import limits
from pargate.errors import PolicyError
from pargate.policy.yaml import SHOWN, Mark, parse

# Text, the place of the trap, and words that name it.
TRAPS = [
    ("a: 1\nb: 2\na: 3\n", (3, 1), "the key 'a' is here twice"),
    ("a: {b: 1, c: 2, b: 3}\n", (1, 17), "the key 'b' is here twice"),
    ('a: 1\n"a": 2\n', (2, 1), "the key 'a' is here twice"),
    ("a: &x 1\nb: *x\n", (1, 4), "anchors and aliases"),
    ("a: 1\nb: *x\n", (2, 4), "anchors and aliases"),
    ("&x a: 1\n", (1, 1), "anchors and aliases"),
    ("a: 1\n<<: {b: 2}\n", (2, 1), "merge keys"),
    ("a: !!int 5\n", (1, 4), "the tag !!int"),
    ("a: !!python/name:os.system x\n", (1, 4), "the tag !!python/name:os.system"),
    ("a: !!python/object/apply:os.system [ls]\n", (1, 4), "the tag !!python/object/apply:os.system"),
    ("a: !mine {b: 1}\n", (1, 4), "the tag !mine"),
    ("a: ! x\n", (1, 4), "the tag !"),
    ("!!map\na: 1\n", (1, 1), "the tag !!map"),
    ("!!str a: 1\n", (1, 1), "the tag !!str"),
    ("a:\n\t- b\n", (2, 1), "a tab; indent with spaces"),
    ("a: 1\n---\nb: 2\n", (2, 1), "a second document"),
    ("a: 1\n...\n---\nb: 2\n", (3, 1), "a second document"),
    ("- a\n- b\n", (1, 1), "its top level is not a mapping"),
    ("# a list\n\n- a\n", (3, 1), "its top level is not a mapping"),
    ("just words\n", (1, 1), "its top level is not a mapping"),
    ("", (1, 1), "it is empty"),
    ("# nothing but a comment\n", (1, 1), "it is empty"),
    ("? [a, b]\n: c\n", (1, 3), "a key must be a word"),
    ("? {a: b}\n: c\n", (1, 3), "a key must be a word"),
    ("a: " + "[" * 40 + "]" * 40 + "\n", (1, 3 + limits.YAML_DEPTH), "nested deeper than 32 levels"),
    ("a: [1, 2\nb: 3\n", (2, 2), "not valid YAML"),
    ("a: 'open\n", (1, 4), "not valid YAML: a bracket or a quote is not closed"),
    ("a: [1,\n\n", (1, 6), "not valid YAML: a bracket or a quote is not closed"),
    ("a: [1\n", (1, 4), "not valid YAML: a bracket or a quote is not closed"),
    ("a: 1\n b: 2\n", (2, 3), "not valid YAML"),
    ("a: @x\n", (1, 4), "not valid YAML"),
]


@pytest.mark.parametrize(("text", "place", "words"), TRAPS, ids=range(len(TRAPS)))
def test_every_trap_is_refused_by_name_with_its_place_and_a_caret(
    text: str, place: tuple[int, int], words: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        parse(text, "p.yaml")
    first, source, caret = caught.value.message.split("\n")
    assert first.startswith(f"p.yaml:{place[0]}:{place[1]}: ")
    assert words in first
    assert caught.value.hint or "not valid YAML" not in first
    lines = text.splitlines()
    assert source.strip() == (lines[place[0] - 1].strip() if place[0] <= len(lines) else "")
    assert caret == "    " + " " * (place[1] - 1) + "^"


def test_the_deepest_nesting_that_is_allowed_is_read() -> None:
    brackets = limits.YAML_DEPTH - 1  # the mapping around them is the first level
    found = parse(f"a: {'[' * brackets}{']' * brackets}\n", "p").data["a"]
    for _ in range(brackets - 1):
        (found,) = found
    assert found == []


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_a_file_of_brackets_is_refused_at_once(opening: str) -> None:
    # Left to the YAML library, this one takes minutes or the whole stack.
    text = "a: " + opening * (200_000 // len(opening))
    began = time.monotonic()
    with pytest.raises(PolicyError):
        parse(text, "p")
    assert time.monotonic() - began < 20


def test_a_file_of_more_than_a_mebibyte_is_refused_before_it_is_read() -> None:
    with pytest.raises(PolicyError, match="p is larger than 1 MiB"):
        parse("a: " + "ä" * (limits.YAML_BYTES // 2), "p")
    comment = "#" + "x" * (limits.YAML_BYTES - 7)
    assert parse(f"{comment}\na: 1\n", "p").data == {"a": "1"}


def test_a_control_character_is_refused() -> None:
    with pytest.raises(PolicyError, match="p is not valid YAML: unacceptable character"):
        parse("a: \x1b[31mred\n", "p")


SCALARS = [
    "no", "yes", "on", "off", "true", "False", "1_000", "12:30", "010", "0x1F", "0b1", "1e3", "1.0", ".inf", ".nan",
    "2027-01-31", "5%", "30pp", "5x chance", "=", "Null", "NULL", "16/224",
]  # fmt: skip


@pytest.mark.parametrize("scalar", SCALARS)
def test_a_scalar_stays_the_text_that_it_is(scalar: str) -> None:
    assert parse(f"a: {scalar}\nb: [{scalar}]\n", "p").data == {"a": scalar, "b": [scalar]}


def test_only_what_is_written_as_nothing_is_nothing() -> None:
    found = parse("a:\nb: ~\nc: null\nd: ''\ne: 'null'\nf: \"~\"\n", "p").data
    assert found == {"a": None, "b": None, "c": None, "d": "", "e": "null", "f": "~"}


def test_a_quoted_merge_key_is_a_word_like_any_other() -> None:
    assert parse("'<<': 1\n", "p").data == {"<<": "1"}


def test_keys_stay_text_as_well() -> None:
    assert parse("1: a\nno: b\nnull: c\n", "p").data == {"1": "a", "no": "b", "null": "c"}


def test_folded_and_literal_blocks_are_read_as_yaml_says() -> None:
    assert parse("a: >-\n  one\n  two\nb: |\n  x\n  y\n", "p").data == {"a": "one two", "b": "x\ny\n"}


def test_every_key_and_item_knows_its_place() -> None:
    marks = parse("a:\n  - x\n  - {b: 1}\nc: 2\n", "p").marks
    assert marks[("a",)] == Mark(1, 1)
    assert marks[("a", 0)] == Mark(2, 5)
    assert marks[("a", 1, "b")] == Mark(3, 6)
    assert marks[("c",)] == Mark(4, 1)


def test_a_path_without_a_place_has_that_of_its_nearest_parent() -> None:
    document = parse("a:\n  b: 1\n", "p")
    assert document.mark(("a", "b", "gone", 3)) == Mark(2, 3)
    assert document.mark(("nowhere",)) == Mark(1, 1)


def test_windows_line_ends_do_not_move_the_caret() -> None:
    with pytest.raises(PolicyError) as caught:
        parse("a: 1\r\nb: 2\r\na: 3\r\n", "p")
    assert caught.value.message == "p:3:1: the key 'a' is here twice\n    a: 3\n    ^"


def test_a_very_long_line_is_shown_around_the_place_only() -> None:
    with pytest.raises(PolicyError) as caught:
        parse("a: {" + "x" * 1000 + ": 1, b: 2, b: 3, " + "y" * 1000 + ": 4}\n", "p")
    first, source, caret = caught.value.message.split("\n")
    assert "the key 'b' is here twice" in first
    assert len(source) <= 4 + SHOWN
    assert source[caret.index("^") :].startswith("b: 3")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab:-{}[]&*!|>'\"%@`#?,<~\n\t \\0é", max_size=60))
@example("a: |2\n x\n")
@example("%YAML 9.9\n---\na: 1\n")
@example('a: "\\xZZ"\n')
def test_whatever_the_text_the_answer_is_data_or_one_of_our_errors(text: str) -> None:
    try:
        document = parse(text, "p")
    except PolicyError as error:
        assert error.message.startswith("p")
    else:
        assert isinstance(document.data, dict)
        assert document.marks[()] == document.mark(())
