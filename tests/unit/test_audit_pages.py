"""The pages of an audit, and the plots in them."""

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pargate.core.audit import AuditIndex, Change, ModelState, Point, Previous, Rate
from pargate.report import audit_html, audit_markdown
from pargate.report.trend import APART, BOTTOM, LEFT, RIGHT, SHOWN, TOP, plot

HOSTILE = "<script>alert(1)</script>\"' \u202e\n::error::x @team [a](http://b) | ##[error]"


def rate(successes: int, n: int = 10) -> Rate:
    return Rate(subject=HOSTILE, n=n, successes=successes, low=0.0, high=1.0, level=0.95)


def state(**changes: Any) -> ModelState:
    given: dict[str, Any] = {
        "name": HOSTILE, "slug": "m", "source": HOSTILE, "owner": HOSTILE, "policy": HOSTILE, "tags": (HOSTILE,),
        "standing": "fail", "exit_code": 1, "message": HOSTILE, "hint": HOSTILE, "regression": HOSTILE,
        "overdue": HOSTILE, "inputs": {"model": HOSTILE}, "report": "a" * 64, "attack": rate(5), "accuracy": rate(7),
        "measured_at": "2026-11-01T10:00:00+00:00", "probed": (HOSTILE,), "limits": (HOSTILE,),
        "previous": Previous(sequence=1, time="2026-10-01T10:00:00+00:00", standing="pass", report="b" * 64),
        "changes": (Change(about="model", text=HOSTILE),),
        "history": tuple(
            Point(time=f"2026-1{m}-01T10:00:00+00:00", standing=s, attack=rate(m), accuracy=None)
            for m, s in ((0, "pass"), (1, "fail"))
        ),
    }  # fmt: skip
    return ModelState(**{**given, **changes})


def audit(*models: ModelState, **changes: Any) -> AuditIndex:
    given: dict[str, Any] = {
        "schema": "pargate/audit/1", "audit": "a" * 16, "pargate": "1", "libraries": {"torch": "2"},
        "started": "2026-11-01T10:00:00+00:00", "as_of": "2026-11-01", "seconds": 1.0, "complete": True,
        "inventory": HOSTILE, "inventory_sha256": "c" * 64, "fail_on": "any", "exit_code": 1, "ledger_lines": 3,
        "ledger_head": "d" * 64, "models": models, "gone": (HOSTILE,),
    }  # fmt: skip
    return AuditIndex(**{**given, **changes})


def pages(index: AuditIndex) -> list[str]:
    return [audit_html.index(index), *(audit_html.model(index, s) for s in index.models)]


def texts(index: AuditIndex) -> list[str]:
    return [audit_markdown.index(index), *(audit_markdown.model(index, s) for s in index.models)]


def test_an_index_reads_back_as_it_was_written() -> None:
    index = audit(state(), state(name="b", slug="b", attack=None, previous=None))
    assert AuditIndex.model_validate_json(index.to_json()) == index


def test_no_foreign_text_becomes_part_of_a_page() -> None:
    for page in pages(audit(state())):
        assert "<script" not in page and "\u202e" not in page
        assert page.count("alert(1)") > 5
        assert not re.search(r'(href|src)="(?!#|models/m/index.html|report\.(html|md|json)|\.\./\.\./index.html)', page)
    for text in texts(audit(state())):
        assert "<script" not in text and "[a](" not in text and "##[" not in text and "@team" not in text
        assert not [line for line in text.splitlines() if line.startswith("::")]


def test_a_page_says_that_an_audit_was_interrupted() -> None:
    for page in (audit_html.index(audit(state(), complete=False)), audit_markdown.index(audit(complete=False))):
        assert "nterrupted" in page


def test_a_model_without_measurements_has_a_page_that_says_so() -> None:
    bare = state(
        standing="error", exit_code=5, report="", attack=None, accuracy=None, measured_at="", probed=(), limits=(),
        history=(), inputs={}, changes=(), previous=None,
    )  # fmt: skip
    page = audit_html.model(audit(bare), bare)
    assert "nothing was judged" in page and "No trigger was probed" in page and '<svg class="trend"' not in page


def test_the_worst_model_comes_first_and_words_of_assurance_do_not_come() -> None:
    order = ("fail", "error", "inconclusive", "remediated", "pass")
    index = audit(*(state(name=f"model {s}", slug=s, standing=s) for s in reversed(order)))
    for page in (audit_html.index(index), audit_markdown.index(index)):
        places = [page.index(f"model {standing}") for standing in order]
        assert places == sorted(places)
    for page in [*pages(index), *texts(index)]:
        assert not re.search(
            r"\b(compliant|certified|safe|guarantee[ds]?)\b", re.sub(r"<style>.*?</style>", "", page, flags=re.S)
        )


def test_a_table_of_very_many_models_is_cut_below_what_github_takes() -> None:
    index = audit(*(state(name=f"{i} {HOSTILE * 3}", slug=str(i)) for i in range(2000)), gone=())
    text = audit_markdown.index(index)
    assert len(text.encode()) < 900_000 and "The table is cut" in text


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10)), max_size=SHOWN + 5))
def test_a_plot_stays_within_its_frame_and_in_order(audits: list[tuple[int, int]]) -> None:
    from datetime import UTC, datetime

    points = [
        Point(time=datetime.fromtimestamp(t, UTC).isoformat(), standing="pass", attack=rate(s))
        for t, s in sorted(audits)
    ]
    found = plot("x", points, lambda p: p.attack)
    if not points:
        assert found is None
        return
    assert found is not None and len(found.dots) == min(len(points), SHOWN) == len(found.steps) + 1
    xs = [dot.x for dot in found.dots]
    assert xs == sorted(xs) and xs[0] >= LEFT and xs[-1] <= RIGHT
    assert all(TOP <= dot.high <= dot.y <= dot.low <= BOTTOM for dot in found.dots)


@pytest.mark.parametrize("time", ["", "yesterday", "2026-11-01"])
def test_a_plot_bears_with_times_that_it_cannot_read(time: str) -> None:
    assert plot("x", [Point(time=time, standing="pass", attack=rate(1))] * 2, lambda p: p.attack) is not None


def test_a_page_says_until_when_measurements_count_and_what_they_depend_on() -> None:
    found = state(max_age="35d", inputs={"policy": "1" * 64, "images": "2" * 64, "library torch": "2.11"})
    for page in (audit_html.model(audit(found), found), audit_markdown.model(audit(found), found)):
        assert "35d, until 2026-12-06" in page
    for words in ("1" * 64, "2" * 64, "2.11"):
        assert words in audit_html.model(audit(found), found)


def test_dots_never_overlap_and_accuracy_has_no_colour_of_a_verdict() -> None:
    days = ["2026-01-01", "2026-01-02", "2026-11-01", "2026-11-25"]
    points = [Point(time=f"{day}T00:00:00+00:00", standing="fail", attack=rate(5), accuracy=rate(7)) for day in days]
    found = plot("Attack", points, lambda p: p.attack)
    plain = plot("Accuracy", points, lambda p: p.accuracy, coloured=False)
    assert found is not None and plain is not None
    xs = [dot.x for dot in found.dots]
    assert min(b - a for a, b in itertools.pairwise(xs)) >= APART
    assert {dot.standing for dot in found.dots} == {"fail"} and {dot.standing for dot in plain.dots} == {"none"}
    assert (RIGHT - LEFT) / (SHOWN - 1) >= APART, "nor as many as are drawn"


def test_a_first_audit_flags_nothing_as_worse() -> None:
    reason = "no complete audit has judged it before"
    first = state(previous=None, regression=reason, history=(), overdue="")
    worse = state(regression="it was pass in the last audit")
    for page in pages(audit(first)):
        assert f"First audited here: {reason}" in page and 'class="worse"' not in page
    for page in pages(audit(worse)):
        assert '<p class="worse">Counts as new: it was pass in the last audit</p>' in page
    assert "First audited here" in audit_markdown.model(audit(first), first)
    assert audit_html.conclusion(audit(first)) == "1 model: 1 does not pass."
    assert audit_html.conclusion(audit(worse)).endswith("1 of them worse than in the last audit, or new.")


def test_a_model_that_was_not_judged_says_why_in_the_table() -> None:
    broken = state(standing="error", exit_code=2, message="no model at there", attack=None, accuracy=None)
    table = audit_html.index(audit(broken)).split("<tbody>")[1].split("</tbody>")[0]
    assert '<td colspan="2" data-name="reason">no model at there</td>' in table and "not measured" not in table
    assert 'data-name="reason"' not in audit_html.index(audit(state()))


def test_all_models_are_rows_of_one_table_and_those_that_pass_need_no_card() -> None:
    fine: dict[str, Any] = {"standing": "pass", "exit_code": 0, "regression": "", "overdue": "", "changes": ()}
    passing = [state(name=f"m{n}", slug=f"m{n}", attack=rate(n), **fine) for n in range(4)]
    found = audit(*passing, state(name="bad", slug="bad"))
    page = audit_html.index(found)
    table = page.split("<tbody>")[1].split("</tbody>")[0]
    assert all(f"models/{state.slug}/" in table for state in found.models)
    order = [state.slug for state in audit_html.worst_first(found)]
    assert sorted(order, key=lambda slug: table.index(f"models/{slug}/")) == order
    assert order == ["bad", "m3", "m2", "m1", "m0"], "worst first, then the highest attack success"
    assert page.count('<article class="card model ') == 1
