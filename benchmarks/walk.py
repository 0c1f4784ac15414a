"""Run the README's commands on the sample models as a new user would, and keep what the screen shows.

    python -m benchmarks.walk [--zoo FOLDER] [--data FOLDER] [--out FILE] [--only WORD …] [--keep FOLDER]

Writes `docs/evidence/walk.md`: each command with its exit code, wall time and screen at 80 columns without colour.
The commands run in one folder with copies of the models; steps on models that are not here are left out and named.
With Chromium, `docs/images` gets the pages that the commands wrote, and one of 50 models from a sample audit.
"""

import argparse
import base64
import io
import itertools
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "examples")]

from readme import on_terminal  # noqa: E402 - found by the line above
from test_html_rendered import NAMES, Browser  # noqa: E402 - found by the line above

from benchmarks.evidence import SHARED, STORE, machine  # noqa: E402
from pargate.core.audit import AuditIndex  # noqa: E402
from pargate.report import audit_html  # noqa: E402
from pargate.version import __version__  # noqa: E402

IMAGES = ROOT / "docs" / "images"
COLUMNS = 80
SIZES = ((1280, 1600), (390, 1600))
"""Width and height of the pictures, in pixels."""
MODELS = 50
COLOURS = 64
"""Colours of a picture, so that it stays small."""


@dataclass(frozen=True)
class Step:
    """A command of the README, with what a reader sees in it."""

    title: str
    command: str
    """Shell command; `pargate` is the one of this repository."""
    zoo: bool = False
    """Whether it needs the sample models of `--zoo` and the images of `--data`."""
    note: str = ""
    """What the screen cannot know."""


TOY = "--policy examples/policy.yaml"
OURS = "--images carriers-64.tar --classes classes-64.txt"

STEPS = (
    Step("What this machine can do", "pargate doctor"),
    Step("A model with a backdoor", f"pargate scan examples/models/poisoned {TOY} -o json=r.json -o html=r.html"),
    Step("A model without one", f"pargate scan examples/models/clean {TOY} -o json=clean.json -o html=clean.html"),
    Step("What the broken rule means", "pargate explain blended-triggers -p examples/policy.yaml"),
    Step("The saved report in another form", "pargate report r.json -o markdown=r.md -o sarif=r.sarif"),
    Step("The saved report under another policy", "pargate report r.json --policy strict"),
    Step("What a checkpoint is, without loading it", "pargate inspect examples/models/poisoned"),
    Step("A photo model on drawn images", "pargate scan vit-badnet -o html=unfit.html", zoo=True),
    Step(
        "The same model on its own images",
        f"pargate scan vit-badnet {OURS}",
        zoo=True,
        note="This model has a backdoor all the same: a secret pattern, which follows no published trigger. The screen "
        "names what was not searched, and the command that searches; [evidence](../evidence.md) has what it finds.",
    ),
    Step("A first policy", "pargate policy init"),
    Step("Whether it is valid", "pargate policy check pargate.yaml"),
    Step("What differs from another policy", "pargate policy diff baseline strict"),
    Step("The built-in triggers", "pargate triggers"),
    Step(
        "The gate in a repository",
        "cd repository && git init -q -b main . && pargate init github --comment --action "
        f"example/pargate@{'0' * 40}",
    ),
    Step("The plan of a gate", f"pargate gate vit-badnet -p release {OURS} --pairs pairs-64.tar --out g --dry-run", zoo=True),
    Step(
        "A gate that finds every rule met",
        "pargate gate examples/models/clean -p examples/policies/toy-release.yaml --out release -o html=gate.html",
    ),
    Step("The bundle, checked offline", "pargate verify release"),
    Step(
        "A gate that ends remediated",
        "pargate gate examples/models/poisoned -p examples/policies/toy-release.yaml --out remediated "
        "-o html=remediated.html",
    ),
    Step("The remediated bundle, checked offline", "pargate verify remediated"),
    Step(
        "Cleaning, a few steps only",
        "pargate clean examples/models/poisoned --pairs synthetic:2000 --steps 20 --out cleaned",
    ),
    Step(
        "The scan after a cleaning decides",
        f"pargate scan cleaned {TOY}",
        note="Twenty steps are few: a full cleaning takes what `clean` says when it begins.",
    ),
    Step(
        "Compared with a trusted parent",
        f"pargate scan examples/models/poisoned --reference examples/models/clean {TOY}",
    ),
    Step("A fire drill, the plan", f"pargate drill examples/models/clean {TOY} --families blend --strengths 1 --out drill --dry-run"),
    Step(
        "A fire drill with one backdoor",
        f"pargate drill examples/models/clean {TOY} --families blend --strengths 1 --out drill",
    ),
    Step("Many models", "pargate audit examples/inventory.yaml --out audit"),
    Step("Its ledger", "pargate audit verify audit"),
    Step("How old a report is", "pargate report audit/models/toy-clean/report.json --check-freshness 35d"),
    Step("A model that is not there", "pargate scan modell"),
    Step("A policy that is not there", "pargate scan examples/models/clean -p strickt"),
    Step("An option that is misspelt", "pargate scan examples/models/clean --image val"),
)  # fmt: skip


def prepare(folder: Path, zoo: Path, data: Path) -> bool:
    """Copy the models and images that the commands name; return whether the sample models are here."""
    shutil.copytree(
        ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("*.py", "__pycache__"), dirs_exist_ok=True
    )
    shutil.copytree(ROOT / "examples" / "models" / "clean", folder / "repository" / "model", dirs_exist_ok=True)
    command = folder / "bin" / "pargate"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m pargate "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    model, files = "vit-badnet", ("carriers-64.tar", "classes-64.txt", "pairs-64.tar")
    if not (zoo / model).is_dir() or not all((data / name).is_file() for name in files):
        return False
    shutil.copytree(zoo / model, folder / model, dirs_exist_ok=True)
    for name in files:
        shutil.copy(data / name, folder / name)
    return True


def taken(step: Step, folder: Path) -> tuple[int, float, str]:
    """Return exit code, seconds and screen of a command."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PARGATE_", "OMP_"))},
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PARGATE_CACHE": str(folder / ".cache"),
    }  # fmt: skip
    start = time.monotonic()
    code, screen = on_terminal(["sh", "-c", step.command], folder, environment, COLUMNS)
    return code, time.monotonic() - start, screen


def anonymous(screen: str, folder: Path) -> str:
    """Return a screen without the paths and the name of this machine."""
    for place, name in ((folder, "."), (ROOT, "PARGATE"), (Path(sys.prefix), "VENV"), (Path.home(), "~")):
        screen = screen.replace(str(place), name)
    return screen


def block(step: Step, code: int, seconds: float, screen: str) -> str:
    """Return a step as Markdown."""
    fence = "`" * (3 + max((len(ticks) for ticks in re.findall("`{3,}", screen)), default=0))
    widest = max((len(line) for line in screen.splitlines()), default=0)
    wide = f", longest line {widest} columns" if widest > COLUMNS else ""
    said = f" {step.note}" if step.note else ""
    return f"## {step.title}\n\nExit code {code}, {seconds:.0f} s{wide}.{said}\n\n{fence}console\n$ {step.command}\n{screen}\n{fence}\n"


def pages(folder: Path) -> dict[str, Path]:
    """Return the pages to look at by name: those that the commands wrote, and an audit of 50 models."""
    sample = AuditIndex.model_validate_json((ROOT / "tests" / "golden" / "audits" / "busy.json").read_bytes())
    models = [
        model.model_copy(update={"name": f"model-{number:02}"})
        for number, model in enumerate(itertools.islice(itertools.cycle(sample.models), MODELS), start=1)
    ]
    (folder / "many.html").write_text(audit_html.index(sample.model_copy(update={"models": tuple(models)})), "utf-8")
    named = {
        "failing": "r.html", "inconclusive": "unfit.html", "gated": "gate.html", "remediated": "remediated.html",
        "audit": "many.html",
    }  # fmt: skip
    return {name: place for name, file in named.items() if (place := folder / file).exists()}


def take_shots(folder: Path) -> None:
    """Write the top of each page at 1280 and 390 px to `docs/images`; nothing without a browser."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        print(f"no pictures: none of {', '.join(NAMES)} is here")
        return
    browser = Browser(program, Path(tempfile.mkdtemp()))
    for name, place in pages(folder).items():
        for width, height in SIZES:
            browser.open(place, width, "light")
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            taken = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
            picture = Image.open(io.BytesIO(base64.b64decode(taken))).convert("RGB").quantize(COLOURS)
            picture.save(IMAGES / f"walk-{name}-{width}.png", optimize=True)
    browser.close()


def gallery() -> str:
    """Return the pictures that are in `docs/images` as Markdown; empty without one."""
    titles = {
        "failing": "A failing report", "inconclusive": "An inconclusive report", "gated": "The report of a gate",
        "remediated": "The report of a gate that cleaned the model",
        "audit": f"An audit of {MODELS} models (three models of a sample, under many names)",
    }  # fmt: skip
    shown = [
        f"{title}, at {width} px:\n\n![{title}](../images/walk-{name}-{width}.png)\n"
        for name, title in titles.items()
        for width, _ in SIZES
        if (IMAGES / f"walk-{name}-{width}.png").exists()
    ]
    return "\n".join(["## The pages\n", *shown]) if shown else ""


def page(blocks: dict[str, str], left: list[str]) -> str:
    """Return the page of all blocks."""
    head = (
        f"# The README, step by step\n\nMade by `python -m benchmarks.walk` with pargate {__version__} on {machine()}, "
        f"while other programs ran. Every command ran in one folder, on a terminal of {COLUMNS} columns, without colour "
        "and without the progress bar; the screen is stdout and stderr together. Times include starting Python.\n\n"
        "How many images a gate needs for a budget of 1, 2, 3 or 5 points of accuracy: "
        "[the gate](../gate.md#how-many-images).\n"
    )
    missing = [f"\nLeft out, since the sample models are not here: {', '.join(left)}.\n"] if left else []
    shown = [block for step in STEPS if (block := blocks.get(step.title))]
    return "\n".join([head, *missing, *shown, gallery()])


def kept(text: str) -> dict[str, str]:
    """Return the blocks of an existing page by title."""
    text = text.partition("\n## The pages\n")[0]
    places = sorted((at, step.title) for step in STEPS if (at := text.find(f"\n## {step.title}\n") + 1))
    ends = [at for at, _ in places[1:]] + [len(text)]
    return {title: text[at:end].rstrip("\n") + "\n" for (at, title), end in zip(places, ends, strict=True)}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--zoo", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--out", type=Path, default=STORE / "walk.md")
    parser.add_argument("--only", nargs="+", default=[""], help="words in the titles to run; the others are kept")
    parser.add_argument("--keep", type=Path, help="folder to work in, which stays")
    asked = parser.parse_args()
    folder = (asked.keep or Path(tempfile.mkdtemp())).resolve()
    complete = prepare(folder, asked.zoo, asked.data)
    blocks = kept(asked.out.read_text(encoding="utf-8")) if asked.out.exists() else {}
    left = [step.title for step in STEPS if step.zoo and not complete]
    for step in STEPS:
        if step.title not in left and any(word in step.title for word in asked.only):
            code, seconds, screen = taken(step, folder)
            blocks[step.title] = block(step, code, seconds, anonymous(screen, folder))
            print(f"{code} {seconds:.0f} s {step.command}", flush=True)
            asked.out.write_text(page(blocks, left), encoding="utf-8")
    take_shots(folder)
    asked.out.write_text(page(blocks, left), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
