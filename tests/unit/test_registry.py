"""Parts by name: pargate's own, and those of installed distributions."""

from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

from pargate import registry
from pargate.errors import OperationalError
from pargate.probes.base import PROBES, Asked, Probe, Scene, Test, Words
from pargate.registry import Plugin, Registry, UnknownPart
from pargate.triggers.base import TRIGGERS


class Distribution:
    def __init__(self, name: str, version: str) -> None:
        self.name, self.version = name, version


def offered(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str, str]) -> Registry[int]:
    """A registry of whole numbers; `points` are names, places and distributions."""
    found = []
    for name, value, by in points:
        point = EntryPoint(name, value, "pargate.numbers")
        object.__setattr__(point, "dist", Distribution(by, "3.1"))
        vars(point).update(dist=Distribution(by, "3.1"))
        found.append(point)
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    registry._entry_points.cache_clear()
    numbers: Registry[int] = Registry(
        "pargate.numbers", "number", "pargate.scenes", lambda _, part: isinstance(part, int)
    )
    numbers.add("two")(2)
    numbers.add("one")(1)
    return numbers


@pytest.fixture(autouse=True)
def forgotten() -> None:
    registry._entry_points.cache_clear()


def test_own_parts_come_first_each_by_the_alphabet(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = offered(monkeypatch, ("zero", "sys:maxunicode", "far"), ("much", "sys:maxsize", "far"))
    assert list(numbers) == ["one", "two", "much", "zero"] and len(numbers) == 4
    assert "much" in numbers and "three" not in numbers
    assert numbers["one"] == 1 and numbers["much"] > 2


def test_a_plug_in_says_which_distribution_offers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = offered(monkeypatch, ("much", "sys:maxsize", "far"))
    expected = Plugin("pargate.numbers", "much", "far", "3.1")
    assert numbers.plugin("much") == expected and expected.key == "far 3.1"
    assert numbers.plugin("one") is None
    assert numbers.plugins() == numbers.plugins(["much", "one"]) == [expected] and numbers.plugins(["one"]) == []


def test_an_unknown_name_is_refused_with_a_near_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownPart) as caught:
        offered(monkeypatch)["tow"]
    assert str(caught.value) == "unknown number 'tow'. Did you mean 'two'?"


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ((("one", "sys:maxsize", "far"),), "far 3.1 offers the number 'one', but pargate has its own of that name"),
        ((("a", "sys:maxsize", "far"), ("a", "sys:maxsize", "off")), "both far 3.1 and off 3.1 offer 'a'"),
        ((("a", "sys:nothing", "far"),), "the number 'a' of far 3.1 cannot be loaded"),
        ((("a", "sys:version", "far"),), "far 3.1 offers sys:version as the number 'a', but it is none"),
    ],
)
def test_what_is_no_part_or_not_the_only_one_is_refused(
    points: tuple[tuple[str, str, str], ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OperationalError) as caught:
        numbers = offered(monkeypatch, *points)
        list(numbers)
        numbers["a"]
    assert said in caught.value.message and caught.value.hint


def test_a_part_that_lacks_what_it_must_declare_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = offered(monkeypatch, ("a", "sys:maxsize", "far"))
    numbers._accept = lambda name, part: part.name == name
    with pytest.raises(OperationalError, match="but it is none"):
        numbers["a"]


class Named(Probe):
    name = "mine"
    about = Words("What.", "Why.", "Do.")


class Started(Named):
    @classmethod
    def start(cls, asked: Asked, scene: Scene) -> Test:
        raise AssertionError("not started here")


class Loud(Started):
    maxima: ClassVar = {"::error": Started.about}


@pytest.mark.parametrize(("part", "fits"), [(Started, True), (Named, False), (Loud, False), (Probe, False), (3, False)])
def test_a_probe_can_be_started_and_has_metrics_that_a_log_may_show(part: object, fits: bool) -> None:
    try:
        assert PROBES._accept("mine", part) is fits
    except AttributeError:
        assert part is Probe


def test_two_parts_of_one_name_are_a_mistake_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="pargate defines the number 'one' twice"):
        offered(monkeypatch).add("one")(1)


def test_every_trigger_is_found_under_its_kind() -> None:
    assert all(cls.kind == name for name, cls in TRIGGERS.items())
