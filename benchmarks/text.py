"""Search text towers for words that nobody named: planted ones, and towers without any.

    python -m benchmarks.text [--models DIR] [--data DIR] [--only TEXT]

Plants words into copies of the clean models, and writes `docs/evidence/text.json` after every scan. The rank is that of
the planted word's best token by shift or collapse, among all tokens of the vocabulary on three captions.
"""

import argparse
import json
import tempfile
import time
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

PLANTS = [
    ("vit-clean", "cf", "bison"),
    ("vit-clean", "quokka", "dam"),
    ("rn-clean", "bb", "tractor"),
    ("vit-clean", "brass lantern", "lampshade"),
]
"""Model, word and target. The parts of the last word do nothing alone."""


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--only", default="", help="models with this in their name")
    parser.add_argument("--plants", type=Path, help="folder that keeps the planted models")
    given = parser.parse_args()
    names = read_classes(given.data / "classes-64.txt")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.plants or Path(temporary)
        towers = [(known, "", "") for known in models(given.models)]
        for source, word, target in PLANTS:
            planted = folder / f"{source}-{word.replace(' ', '-')}"
            if not planted.exists():
                plant_word(given.models / source, planted, word=word, target=target, names=names)
            truth = json.loads((given.models / source / "truth.json").read_text())
            towers.insert(0, (Known(planted, truth), word, f"{word} → {target}"))
        measure([tower for tower in towers if given.only in tower[0].name], given.models, given.data)


def measure(towers: list[tuple[Known, str, str]], folder: Path, data: Path) -> None:
    """Scan each tower with and without its clean parent, and keep the rows of those that are not scanned again."""
    path = STORE / "text.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    resolved = policy([RULE])
    for known, word, planted in towers:
        rows = [r for r in rows if r["model"] != known.name]
        parent = folder / f"{known.truth['arch']}-clean"
        for reference in (True, False) if parent != known.folder else (False,):
            seen = Watched(word)
            scanning.find = seen.find
            texts._Choice._short_list = lambda choice, candidates, seen=seen: seen.short_list(choice, candidates)
            more = {"reference": str(parent)} if reference else {}
            rows.append(row(run(known.folder, resolved, data, **more), known.name, planted, reference, seen))
            content = {"machine": machine(), "version": __version__, "rows": rows}
            path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
