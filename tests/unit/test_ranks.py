"""Where a process stands in its run, and who says what is wrong."""

import pytest

from pargate.clean import ranks
from pargate.errors import ExitCode, InputError, PeerEnded

NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def given(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({}, ranks.Place()),
        ({"WORLD_SIZE": ""}, ranks.Place()),
        ({"RANK": "3", "LOCAL_RANK": "3"}, ranks.Place()),
        ({"WORLD_SIZE": "1", "RANK": "0"}, ranks.Place()),
        ({"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1"}, ranks.Place(5, 1, 8)),
        ({"WORLD_SIZE": "2", "RANK": "1"}, ranks.Place(1, 0, 2)),
    ],
)
def test_a_place_is_what_the_variables_say(
    values: dict[str, str], place: ranks.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, **values)
    assert ranks.here() == place


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE is 'abc', not a number"),
        ({"WORLD_SIZE": "2", "RANK": "one"}, "RANK is 'one', not a number"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, RANK missing"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "WORLD_SIZE is 2, RANK 2"),
        ({"WORLD_SIZE": "-1", "RANK": "0"}, "WORLD_SIZE is -1"),
    ],
)
def test_variables_that_make_no_place_are_refused_aloud(
    values: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, **values)
    with pytest.raises(InputError, match=message) as caught:
        ranks.here()
    assert "torchrun" in caught.value.hint and ranks.first_here()


def test_the_first_of_a_machine_tells_and_the_others_end_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, WORLD_SIZE="4", RANK="2", LOCAL_RANK="0")
    with pytest.raises(InputError), ranks.told_by_one():
        raise InputError("wrong")
    given(monkeypatch, RANK="3", LOCAL_RANK="1")
    with pytest.raises(PeerEnded) as caught, ranks.told_by_one():
        raise InputError("wrong")
    assert caught.value.exit_code == ExitCode.INPUT
