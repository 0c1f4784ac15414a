import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from sample_reports import CLEAN_PNG, remediated

from pargate.core.report import ScanReport
from pargate.core.results import Bound, Metric, Status
from pargate.report import FORMATS
from pargate.report.bars import axes_of, bar_of
from pargate.report.formats.html import render

GOLDEN = Path(__file__).parents[1] / "golden" / "reports"
SITUATIONS = ("passing", "failing", "inconclusive", "waived", "unsafe")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
HOSTILE = "</script></style><img src=x onerror=alert(1)>\" onload=\"x' y='\u202e\x00\x1b[31m{{ 7*7 }}&amp;"
VOID = {"meta", "img", "br"}
SELF_CLOSED = {"path", "rect", "circle", "line"}


class Page(HTMLParser):
    """Elements with their attributes, and visible text; raises where they are not well nested."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SELF_CLOSED, tag
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def stored(name: str) -> ScanReport:
    return ScanReport.from_json((GOLDEN / f"{name}.json").read_bytes())


def changed(name: str, change: Callable[[dict[str, Any]], object]) -> ScanReport:
    document = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    change(document)
    return ScanReport.model_validate(document)


def tainted(name: str, text: str) -> ScanReport:
    """A report with `text` in every place that a model or a policy fills."""
    fixed = {
        "schema", "status", "severity", "consequence", "level", "metric", "measurement", "id", "probe", "clean",
        "stamped", "rule", "started", "against",
    }  # fmt: skip

    def walk(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: walk(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(v, key) for v in value]
        return f"{value}{text}" if isinstance(value, str) and key not in fixed else value

    document = walk(json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")))
    document["tool"]["name"] = "pargate"
    for rule in document["policy"]["document"].get("rules", ()):
        rule["help"] = text  # no web address, and therefore no link
    return ScanReport.model_validate(document)


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_page_is_what_it_was(name: str) -> None:
    golden = GOLDEN / f"{name}.html"
    page = render(stored(name))
    if os.environ.get("PARGATE_REWRITE_GOLDEN"):
        golden.write_text(page, encoding="utf-8")
    assert golden.read_text(encoding="utf-8") == page == FORMATS["html"].render(stored(name))


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_page_is_well_formed_closed_to_the_world_and_has_its_landmarks(name: str) -> None:
    text = render(stored(name))
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>\n<html lang=") and text.endswith("</html>\n")
    assert [m["content"] for m in page.all("meta") if m.get("http-equiv")] == [POLICY]
    assert not page.all("script") and "<script" not in text.lower() and "@import" not in text and "url(" not in text
    for tag, attributes in page.elements:
        assert not [key for key in attributes if key.startswith("on") or key in ("srcset", "action", "xlink:href")]
        if "src" in attributes:
            assert tag == "img" and str(attributes["src"]).startswith("data:image/png;base64,")
        href = attributes.get("href")
        if href is not None and not href.startswith("#"):
            assert tag == "a" and href.startswith("https://example.org/") and attributes["rel"] == "noreferrer"
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {a["href"] for a in page.all("a") if str(a["href"]).startswith("#")} <= {f"#{id}" for id in ids}
    for landmark in ("main", "header", "footer", "nav", "title", "h1"):
        assert len(page.all(landmark)) == 1, landmark
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") or svg["class"] == "point" for svg in page.all("svg"))


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_finding_with_its_numbers_and_every_limit_of_the_scan_is_there(name: str) -> None:
    report = stored(name)
    page = Page(render(report))
    spoken = [str(svg["aria-label"]) for svg in page.all("svg") if svg.get("aria-label")]
    shown = [finding for finding in report.findings if finding.status is not Status.MET]
    assert len(spoken) == sum(len(finding.bounds) for finding in shown)
    assert sum(a.get("class", "").startswith("comparison ") for a in page.all("article")) == len(shown)
    (table,) = re.findall(r'<table class="met">.*?</table>', render(report), re.DOTALL) or [""]
    spoken += [Page(row).text for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]
    for finding in report.findings:
        assert finding in shown or finding.bounds or finding.message in page.text
        assert finding not in shown or " ".join(finding.message.split()) in page.text
        for bound in finding.bounds:
            numbers = [bound.limit_text, f"{bound.n} image" if finding in shown else str(bound.n)]
            if bound.n and bound.estimate is not None:
                numbers += [f"{v:.1%}".replace("-", "−") for v in (bound.estimate, bound.low, bound.high)]
            assert [line for line in spoken if all(number in line for number in numbers)], numbers
    for sentence in (
        *report.coverage.limits,
        report.verdict.summary,
        *report.notices,
        *(r.message for r in report.remarks),
    ):
        assert sentence in page.text
    for value in (report.model.sha256, report.policy.sha256, report.images.digest, report.run.device, report.run.id):
        assert value in page.text
    for finding in report.findings:
        if finding.waiver is not None:
            assert finding.waiver.approved_by in page.text and f"{finding.waiver.days_left} day" in page.text


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_page_never_promises(name: str) -> None:
    words = Page(render(changed(name, lambda d: d["policy"].update(document={})))).text.lower()
    assert not re.search(r"\b(certified|compliant|no backdoor|is safe|guaranteed?|free of)\b", words)


@pytest.mark.parametrize("name", SITUATIONS)
def test_hostile_text_stays_text(name: str) -> None:
    text = render(tainted(name, HOSTILE))
    honest, page = Page(render(tainted(name, "honest"))), Page(text)
    assert [(tag, list(found)) for tag, found in page.elements] == [
        (tag, list(found)) for tag, found in honest.elements
    ]
    assert "</script" not in text and "<img src=x" not in text and 'onload="' not in text
    assert not set(text) & {"\u202e", "\x00", "\x1b"}
    assert "{{ 7*7 }}&amp;amp;" in text and "</script></style><img src=x onerror=alert(1)>" in page.text


@pytest.mark.parametrize(
    "link",
    ["javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "//example.org", "file:///x", "https:",
     "runbook 7", "https://[", "java\tscript:x", "https://example.org/\u202e"],
)  # fmt: skip
def test_help_that_is_no_web_address_is_no_link(link: str) -> None:
    page = Page(
        render(changed("failing", lambda d: [rule.update(help=link) for rule in d["policy"]["document"]["rules"]]))
    )
    assert all(str(a["href"]).startswith("#") for a in page.all("a"))


def test_a_picture_that_is_none_is_left_out() -> None:
    good = CLEAN_PNG
    gif = base64.b64encode(b"GIF89a").decode()
    for bad in ("", "not base64!", good + '"', good[:-1] + "\n\n", gif, 'x" onerror="alert(1)'):
        report = changed("failing", lambda d, bad=bad: d["pictures"][0].update(stamped=bad))
        assert len(Page(render(report)).all("img")) == 2 * (len(report.pictures) - 1)


def test_the_pattern_that_a_search_found_is_shown_where_it_breaks_a_rule() -> None:
    def found(picture: str, status: str) -> Callable[[dict[str, Any]], object]:
        def change(document: dict[str, Any]) -> None:
            finding = next(f for f in document["findings"] if f["status"] == status and "excess" in f["message"])
            measured = next(m for m in document["measurements"] if m["id"] == finding["measurement"])
            measured["trigger"]["picture"] = picture

        return change

    def shown(picture: str, status: str) -> int:
        return render(changed("failing", found(picture, status))).count("The pattern that the search found, at full")

    assert shown(CLEAN_PNG, "breach") == 1
    assert shown(CLEAN_PNG, "met") == 0
    assert shown("GIF89a", "breach") == 0


def test_many_met_comparisons_are_folded_and_none_is_lost() -> None:
    findings: list[Any] = []

    def more(document: dict[str, Any]) -> None:
        met = next(f for f in document["findings"] if f["status"] == "met" and f["bounds"])
        measured = next(m for m in document["measurements"] if m["id"] == met["measurement"])
        for number in range(9):
            document["measurements"].append(measured | {"id": f"more/{number}"})
            document["findings"].append(met | {"measurement": f"more/{number}"})
        findings.extend(document["findings"])

    page = render(changed("passing", more))
    (table,) = re.findall(r'<table class="met">.*?</table>', page, re.DOTALL)
    assert table.count('<th scope="row">') == sum(len(f["bounds"]) or 1 for f in findings)
    assert f"{len(findings)} comparisons that are met" in page and "<article" not in page


def test_the_hero_has_the_sentence_and_two_pairs_of_pictures_and_the_title_names_the_model() -> None:
    def more(document: dict[str, Any]) -> None:
        document["pictures"] = document["pictures"][:1] * 3

    page = render(changed("failing", more))
    hero = page.split('<section id="verdict"')[1].split("</section>")[0]
    assert "The trigger badnet moves 260 of 290 images (89.7%) to banana" in hero
    assert hero.count("<figure") == 2 and page.count('<figure class="card">') == 3
    assert (
        "<title>Remediated: vit-release, made from checkpoints/vit b-32.safetensors – pargate report</title>"
        in render(remediated())
    )


def test_the_shares_of_the_trigger_and_of_its_control_are_of_the_same_images() -> None:
    page = Page(render(stored("failing"))).text
    assert "260 of 290 images" in page and "5 of 290 images" in page
    assert "270 of 300 images" not in page


def test_a_picture_that_was_wrong_without_the_trigger_is_not_in_the_hero_beside_right_ones() -> None:
    def mistaken(document: dict[str, Any]) -> None:
        document["pictures"][0]["clean_prediction"] = "centipede"

    page = render(changed("failing", mistaken))
    hero, rest = page.split('<section id="verdict"')[1].split("</section>", 1)
    assert hero.count("<figure") == 1 and "centipede" not in hero and "centipede" in rest


def test_the_key_of_the_bars_is_there_only_where_bars_are() -> None:
    key = "How to read the bars"
    assert key in render(stored("failing"))
    assert key not in render(stored("passing")) and key not in render(stored("unsafe"))


def test_inconclusive_beside_met_comparisons_is_explained_where_it_stands() -> None:
    page = Page(render(changed("inconclusive", lambda document: None)))
    assert "2 of 5 comparisons are met, but a pass needs all of them" in page.text


def bound(**more: Any) -> Bound:
    values: dict[str, Any] = {
        "metric": Metric.EXCESS, "limit": 0.3, "limit_text": "30pp", "upper": True, "n": 100, "estimate": 0.1,
        "low": -0.1, "high": 0.2, "method": "", "status": Status.MET,
    }  # fmt: skip
    return Bound(**values | more)


def test_a_bar_puts_everything_in_its_place() -> None:
    (axis,) = axes_of([bound()]).values()
    bar = bar_of(bound(), "control:flat", axis)
    assert (axis.low, axis.high) == (-0.25, 1.0)
    assert (bar.start, bar.width, bar.point) == (12.0, 24.0, 28.0)
    assert (bar.mark.x, bar.zone_start, bar.zone_width) == (44.0, 44.0, 56.0)
    assert bar.name == "Excess over the control" and bar.limit == "at most 30pp"
    assert bar_of(bound(), "reference", axis).name == "Excess over the reference"


def test_a_minimum_has_what_breaks_it_on_the_left() -> None:
    one = bound(metric=Metric.ACCURACY, limit=0.55, limit_text="55%", upper=False, estimate=0.8, low=0.7, high=0.9)
    (axis,) = axes_of([one]).values()
    bar = bar_of(one, "", axis)
    assert (axis.low, axis.high) == (0.0, 1.0)
    assert (bar.zone_start, bar.zone_width, bar.limit) == (0.0, 55.0, "at least 55%")


def test_an_excess_known_from_above_alone_says_so() -> None:
    one = bound(estimate=None, low=-1.0, high=0.04)
    (axis,) = axes_of([one]).values()
    bar = bar_of(one, "", axis)
    assert (axis.low, bar.start, bar.width, bar.point) == (0.0, 0.0, 4.0, None)
    assert bar.estimate == "at most 4.0%"


@pytest.mark.parametrize(
    "one",
    [
        bound(n=0, estimate=None, low=-1.0, high=1.0),
        bound(estimate=-1.0, low=-1.0, high=-1.0),
        bound(estimate=1.0, low=1.0, high=1.0, limit=1.0),
        bound(against="previous", estimate=0.0, low=0.0, high=0.0, limit=0.0),
        bound(against="previous", estimate=-0.02, low=-0.05, high=0.01, limit=-0.03, upper=False),
        bound(against="cap", limit=0.4, limit_text="4" * 300),
    ],
)
def test_no_bar_leaves_its_axis(one: Bound) -> None:
    (axis,) = axes_of([one]).values()
    bar = bar_of(one, "", axis)
    for x in (bar.start, bar.start + bar.width - 0.5, bar.zone_start, bar.mark.x, *(tick.x for tick in bar.ticks)):
        assert 0.0 <= x <= 100.0
    assert bar.zone_start + bar.zone_width <= 100.0
    assert bar.point is None or 0.0 <= bar.point <= 100.0
    assert len(bar.mark.text) < 40
    assert "−0%" not in [tick.text for tick in bar.ticks]


def brightness(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_colours_of_all_three_schemes_can_be_read() -> None:
    style = render(stored("passing")).split("<style>")[1]
    schemes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(schemes) == 3
    pairs = [(ink, ground) for ink in ("ink", "quiet", "link") for ground in ("page", "card")]
    pairs += [(tone, ground) for tone in ("pass", "fail", "open", "waived") for ground in ("card", f"{tone}-soft")]
    pairs += [("quiet", "track"), ("ink", "open-soft"), ("quiet", "open-soft")]
    for colors in schemes:
        for ink, ground in pairs:
            high, low = sorted((brightness(colors[ink]), brightness(colors[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


def test_the_table_of_formats_does_not_load_the_template_engine() -> None:
    code = "import sys, pargate.report; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
