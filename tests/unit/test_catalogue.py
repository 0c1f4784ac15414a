import re
from pathlib import Path

import pytest

from pargate.core.results import Metric, Status
from pargate.judge import release as conclusion
from pargate.judge import waivers
from pargate.policy.explain import PAGE, anchor, entries, page
from pargate.policy.layers import shipped
from pargate.policy.resolve import resolve
from pargate.probes.base import PROBES

ROOT = Path(__file__).parents[2]

ENTRIES = entries()


def test_every_rule_of_every_shipped_policy_is_explained() -> None:
    rules = {rule.id for name in shipped() for rule in resolve(name).policy.rules}
    assert {id for id, entry in ENTRIES.items() if entry.kind == "rule"} == rules


def test_advice_is_for_the_reader_of_a_red_build_and_not_for_the_author_of_the_policy() -> None:
    for id, entry in entries().items():
        if entry.kind in ("rule", "probe", "metric"):
            assert not re.search(r"\b(Limit|Write|List in|Name in|Lower it)\b", entry.do), id
    for probe in ("attack", "retrieval", "search", "text"):
        assert "Do not ship" in entries()[probe].do and "pargate clean" in entries()[probe].do


def test_every_probe_metric_and_answer_is_explained() -> None:
    for kind, ids in (("probe", PROBES), ("metric", Metric), ("status", Status)):
        assert {id for id, entry in ENTRIES.items() if entry.kind == kind} == set(map(str, ids))


def test_every_remark_that_judging_makes_is_explained() -> None:
    source = Path(waivers.__file__).read_text(encoding="utf-8")
    made = set(re.findall(r'"(waiver-[a-z-]+|not-compared|previous-unused)"', source))
    made |= {conclusion.BUDGET, conclusion.PROOF, conclusion.NOT_EXAMINED}
    assert made | {"policy-override", "unlearned-trigger"} == {
        id for id, entry in ENTRIES.items() if entry.kind == "remark"
    }


@pytest.mark.parametrize("id", sorted(ENTRIES))
def test_every_entry_says_what_why_and_what_to_do(id: str) -> None:
    entry = ENTRIES[id]
    for text in (entry.meaning, entry.why, entry.do):
        assert text[0].isupper() and text[-1] == "." and "\n" not in text
    assert anchor(id) == f"docs/rules.md#{id}"


def test_the_page_has_one_heading_for_each_id_and_no_others() -> None:
    headings = re.findall(r"^### (.+)$", (ROOT / PAGE).read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == list(ENTRIES)


def test_the_page_says_what_the_catalogue_says() -> None:
    # After a change: python -c "from pargate.policy.explain import page; print(page(), end='')" > docs/rules.md
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page()
