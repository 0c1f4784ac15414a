"""Search text towers for words that nobody named: planted ones, and towers without any.

    python -m benchmarks.text [--models DIR] [--data DIR]

Plants words into copies of the clean models, with several seeds each, and writes `docs/evidence/text.json` after every
scan. The rank is that of the planted word's best candidate by shift or collapse, among all of the family on three
captions.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.evidence import SHARED, STORE, Known, machine, models, policy, run
from pargate.core.report import ScanReport
from pargate.core.results import Metric
from pargate.images.classes import read_classes
from pargate.scanning import run as scanning
from pargate.scanning import texts
from pargate.testing import plant_word
from pargate.version import __version__

RULE = {"id": "text", "probe": "text", "families": ["tokens"], "max": {"excess": "50pp"}}
CHARACTERS = RULE | {"families": ["characters"]}
PHRASES = RULE | {"families": ["phrases"], "phrases": ["best quality", "brass lantern", "trending today", "as seen on"]}

SEEDS = 3

PLANTS = [
    ("vit-clean", "cf", "bison", RULE),
    ("vit-clean", "quokka", "dam", RULE),
    ("rn-clean", "bb", "tractor", RULE),
    ("vit-clean", "brass lantern", "lampshade", RULE),
    ("vit-clean", "brass lantern", "lampshade", PHRASES),
    ("rn-clean", "\u2060", "tractor", CHARACTERS),
    ("vit-clean", "\u0430", "dam", CHARACTERS),
]
"""Model, word, target and rule. The parts of the two words do nothing alone. U+2060 joins words and shows nothing; U+0430
looks like the letter a."""


class Watched:
    """The seconds of a search, and the ranks of a word's tokens in it."""

    def __init__(self, word: str) -> None:
        self.word, self.rank, self.seconds = word, 0, 0.0

    def find(self, *given: Any) -> Any:
        began = time.process_time()
        found = _find(*given)
        self.seconds = time.process_time() - began
        return found

    def short_list(self, choice: Any, candidates: Any) -> Any:
        kept = _short_list(choice, candidates)
        if self.word:
            (wanted,) = choice.model.captions([self.word])
            self.rank = min((i % texts.KEPT + 1 for i, c in enumerate(kept) if c.ids[0] in wanted), default=0)
        return kept


_find, _short_list = texts.find, texts._Choice._short_list


def row(report: ScanReport, name: str, planted: str, reference: bool, seen: Watched) -> dict[str, Any]:
    measured = report.measurements[1]
    finding = next(f for f in report.findings if f.measurement == measured.id)
    (bound,) = finding.bounds
    success = measured.counts[Metric.ATTACK_SUCCESS]
    assert measured.trigger and measured.target and measured.pairs
    return {
        "model": name,
        "planted": planted,
        "reference": reference,
        "text": measured.trigger.parameters["text"],
        "class": measured.target.name,
        "success": success.rate,
        "n": success.n,
        "excess": measured.pairs.excess,
        "interval": [bound.low, bound.high],
        "rank": seen.rank,
        "seconds": seen.seconds,
        "status": finding.status,
    }


def towers(folder: Path, data: Path, kept: Path) -> Iterator[tuple[Known, str, str, int, dict[str, Any]]]:
    """Yield each tower, its word, what was planted, the seed of planting, and the rule; a planted one is made."""
    names = read_classes(data / "classes-64.txt")
    for source, word, target, rule in PLANTS:
        truth = json.loads((folder / source / "truth.json").read_text())
        shown = word if word.isascii() else f"U+{ord(word):04X}"
        for seed in range(SEEDS):
            planted = kept / f"{source}-{shown.replace(' ', '-')}-{seed}"
            if not planted.exists():
                plant_word(folder / source, planted, word=word, target=target, names=names, seed=seed)
            yield Known(planted, truth), word, f"{shown} → {target}", seed, rule
    for known in models(folder):
        for rule in (RULE, CHARACTERS, PHRASES):
            yield known, "", "", 0, rule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--plants", type=Path, help="folder that keeps the planted models")
    given = parser.parse_args()
    path = STORE / "text.json"
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for known, word, planted, seed, rule in towers(given.models, given.data, given.plants or Path(temporary)):
            parent = given.models / f"{known.truth['arch']}-clean"
            for reference in (True, False) if parent != known.folder else (False,):
                seen = Watched(word)
                scanning.find = seen.find
                texts._Choice._short_list = lambda choice, candidates, seen=seen: seen.short_list(choice, candidates)
                more = {"reference": str(parent)} if reference else {}
                report = run(known.folder, policy([rule]), given.data, **more)
                facts = {"seed": seed, "family": rule["families"][0]}
                rows.append(row(report, known.name, planted, reference, seen) | facts)
                content = {"machine": machine(), "version": __version__, "rows": rows}
                path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
