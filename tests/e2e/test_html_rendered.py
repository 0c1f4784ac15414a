"""The pages of reports and audits in a real browser: its width, contrast, console and print, in both colour schemes."""

import base64
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from pargate.core.audit import AuditIndex
from pargate.core.report import ScanReport
from pargate.report import audit_html
from pargate.report.formats.html import render

GOLDEN = Path(__file__).parents[1] / "golden" / "reports"
SITUATIONS = ("passing", "failing", "inconclusive", "waived", "unsafe", "busy")
AUDIT = ("audit", "audited", "audited-broken")
"""The page of all models, of one with a past, and of one that could not be judged."""
NAMES = ("chromium", "chromium-browser", "google-chrome")
DEADLINE_S = 60.0

# The browser speaks its protocol on descriptors 3 and 4, which only a process of its own can have free.
STARTER = """
import fcntl, os, sys
pair = [fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]]
os.dup2(pair[0], 3); os.dup2(pair[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

# Every text of the page with the contrast between its colour and the backgrounds under it, and its size. The texts of
# the bars stand above and below what is drawn, so they too lie on the background of the card.
MEASURE = """
(() => {
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const ground = element => { let layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]); };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const svg = element instanceof SVGElement;
    const behind = ground(element);
    const ink = over(parse(svg ? style.fill : style.color), behind);
    const [a, b] = [light(ink), light(behind)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([node.data.trim().slice(0, 60), contrast, parseFloat(style.fontSize)]);
  }
  const wide = [...document.querySelectorAll("body *")].filter(e => e.checkVisibility() && !e.classList.contains("skip")
    && !e.closest(".skip") && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 120));
  return JSON.stringify({texts: found, inner: innerWidth, scroll: document.documentElement.scrollWidth, wide,
    ground: getComputedStyle(document.body).backgroundColor,
    broken: [...document.images].filter(i => !i.naturalWidth).length, images: document.images.length});
})()
"""


class Browser:
    """One headless browser, driven over its two pipes."""

    def __init__(self, program: str, home: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        self._log = (home / "log").open("wb")
        arguments = [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--remote-debugging-pipe", f"--user-data-dir={home / 'profile'}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", STARTER, str(to_browser), str(from_browser), *arguments],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        os.close(self._out)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        self._log.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        until = time.monotonic() + DEADLINE_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"the browser did not answer within {DEADLINE_S:.0f} s"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser is gone"
            self._rest += part
        one, _, self._rest = self._rest.partition(b"\0")
        return json.loads(one)

    def open(self, page: Path, width: int, scheme: str) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        until = time.monotonic() + DEADLINE_S
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < until, "the page did not load"
            self.events.append(self._read())

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")


def drawing(patch: bool) -> str:
    """A small picture of a house, with or without a patch, as base64 of a PNG."""
    image = Image.new("RGB", (128, 128), (150, 190, 225))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 88, 128, 128), fill=(110, 150, 90))
    draw.rectangle((34, 54, 94, 104), fill=(214, 190, 160))
    draw.polygon(((28, 56), (64, 24), (100, 56)), fill=(150, 70, 60))
    draw.rectangle((56, 76, 72, 104), fill=(90, 60, 50))
    if patch:
        for row in range(4):
            for column in range(4):
                color = ((230, 60, 200), (40, 220, 120), (250, 230, 40))[(row * 3 + column * 5) % 3]
                draw.rectangle((98 + column * 6, 10 + row * 6, 103 + column * 6, 15 + row * 6), fill=color)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def busy() -> ScanReport:
    """A failing report that is as full as one of the built-in policies, with long names and real pictures."""
    document = json.loads((GOLDEN / "failing.json").read_text(encoding="utf-8"))
    document["model"]["source"] = "hf:organisation/a-model-with-a-rather-long-name-" + "x" * 40 + "@" + "0" * 40
    met = next(f for f in document["findings"] if f["rule"] == "patch-backdoors" and f["status"] == "met")
    measured = next(m for m in document["measurements"] if m["id"] == met["measurement"])
    for number in range(9):
        id = f"patch-backdoors/stripes-{number}/unknown"
        label = ["lattice", "yellow-patch", "four-corners", "a trigger with a very long label " * 4][number % 4]
        document["measurements"].append(
            measured | {"id": id, "trigger": measured["trigger"] | {"label": label}},
        )
        document["findings"].append(met | {"measurement": id})
    picture = document["pictures"][0] | {"clean": drawing(False), "stamped": drawing(True)}
    classes = ("church", "school bus", "supercalifragilisticexpialidocious" * 2)
    document["pictures"] = [picture | {"label": name, "clean_prediction": name} for name in classes]
    document["notices"] = ["not among the classes, added as targets: banana.", "שלום and \u202eother directions"]
    return ScanReport.model_validate(document)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"NO BROWSER: none of {', '.join(NAMES)} is here, so the HTML report was not looked at in one")
    found = Browser(program, tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {}
    for name in SITUATIONS:
        stored = GOLDEN / f"{name}.json"
        report = busy() if name == "busy" else ScanReport.from_json(stored.read_bytes())
        made[name] = folder / f"{name}.html"
        made[name].write_text(render(report), encoding="utf-8")
    index = AuditIndex.model_validate_json((GOLDEN.parent / "audits" / "busy.json").read_bytes())
    of = {str(state.standing): state for state in index.models}
    audit = (audit_html.index(index), audit_html.model(index, of["fail"]), audit_html.model(index, of["error"]))
    for name, text in zip(AUDIT, audit, strict=True):
        made[name] = folder / f"{name}.html"
        made[name].write_text(text, encoding="utf-8")
    return made


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", (*SITUATIONS, *AUDIT))
def test_the_page_fits_and_every_text_can_be_read(
    browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    browser.open(pages[name], width, scheme)
    if os.environ.get("PARGATE_SCREENSHOTS"):
        shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        target = Path(os.environ["PARGATE_SCREENSHOTS"]) / f"{name}-{width}-{scheme}.png"
        target.write_bytes(base64.b64decode(shot))
    # What is folded must be readable as well.
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = json.loads(browser.evaluate(MEASURE))
    assert found["inner"] == width
    assert found["scroll"] <= found["inner"] and not found["wide"]
    assert len(found["texts"]) > (20 if name in AUDIT else 40)
    assert not [text for text in found["texts"] if text[1] < 4.5 or text[2] < 11]
    assert found["broken"] == 0 and found["images"] == {"busy": 6, "failing": 4}.get(name, 0)
    # The scheme that was asked for is the one that is shown.
    dark = sum(map(int, found["ground"].removeprefix("rgb(").rstrip(")").split(", "))) < 3 * 128
    assert dark is (scheme == "dark")


@pytest.mark.parametrize("name", (*SITUATIONS, *AUDIT))
def test_the_page_asks_for_nothing_and_the_console_stays_empty(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.open(pages[name], 1280, "light")
    browser.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    said = [
        e
        for e in browser.events
        if e["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    ]
    assert not said
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:image/png;base64,")] == [pages[name].as_uri()]


def test_printed_on_a4_nothing_is_folded_away(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["busy"], 1280, "dark")
    page = browser.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"]
    if os.environ.get("PARGATE_SCREENSHOTS"):
        (Path(os.environ["PARGATE_SCREENSHOTS"]) / "busy.pdf").write_bytes(base64.b64decode(page))
    assert base64.b64decode(page).startswith(b"%PDF")
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert browser.evaluate(
            "[...document.querySelectorAll('details > :not(summary)')].every(e => e.getBoundingClientRect().height > 0)"
        )
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")
