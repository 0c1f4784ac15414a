"""One rule says which spellings are one name."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargate.core.names import class_key, tidy

WORDS = st.lists(
    st.text(alphabet=st.sampled_from("abcxyzéöñåAZ0189-'"), min_size=1, max_size=8), min_size=1, max_size=3
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("yellow_banana", "yellow banana"),
        ("Yellow  Banana ", "yellow banana"),
        ("caf\u00e9", "cafe\u0301"),
        ("banana\u2019s", "banana's"),
        ("\ufeffbanana", "banana"),
        ("ba\u200bnana", "banana"),
        ("banana\u00a0split", "banana split"),
        ("AT&amp;T", "at&t"),
        ("\uff42\uff41\uff4eana", "banana"),
        ("STRASSE", "straße"),
        ("cafÃ©", "café"),
    ],
)
def test_spellings_of_one_name_have_one_key(one: str, other: str) -> None:
    assert class_key(one) == class_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("cat", "cats"), ("t-shirt", "t shirt"), ("crane 1", "crane 2"), ("a", "á")]
)
def test_other_names_have_other_keys(one: str, other: str) -> None:
    assert class_key(one) != class_key(other)


@given(WORDS)
def test_a_key_does_not_depend_on_how_a_name_is_written(words: list[str]) -> None:
    name = " ".join(words)
    key = class_key(name)
    for spelled in ("_".join(words), f"\t{name}\n", unicodedata.normalize("NFD", name), name.upper(), name.lower()):
        assert class_key(spelled) == key
    assert class_key(key) == key


def test_a_tidy_name_keeps_what_scripts_need() -> None:
    assert tidy(" \ufeffgrey\u2028 wolf\u200b") == "grey wolf"
    persian = "\u0645\u06cc\u200c\u062e\u0648"
    assert tidy(persian) == persian
