"""Whether a figure repeats: one scan again and again, each in a process of its own, on the machine as it is and under load.

    python benchmarks/repeats.py [--models DIR] [--data DIR] [--repeats N] [--before DIR --pairs N] [--out FILE]

Writes `docs/evidence/repeats.json`. The reports of one model are compared in full, less times and what follows from
them. `--before` is a checkout of an earlier version, whose scans are run in turn with this one's and compared by the
seconds of processors that they took, which other work disturbs least.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
STORE = ROOT / "docs" / "evidence"
MODELS = ("vit-clean", "rn-clean")
BUSY = 2
"""Loops that run beside a scan under load."""


def scanned(code: Path, model: Path, data: Path) -> dict[str, Any]:
    """Return the report of a scan by the version of pargate in `code`."""
    environment = {**os.environ, "PYTHONPATH": str(code)}
    command = [
        sys.executable, "-W", "ignore", "-m", "pargate", "scan", str(model), "--images", str(data / "carriers-64.tar"),
        "--classes", str(data / "classes-64.txt"), "--seed", "0", "--cache", "off", "--policy", "baseline", "-q", "-o", "json",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:  # no policy of a repository is near
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1, 3):
        raise SystemExit(done.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def timeless(report: dict[str, Any]) -> str:
    """Return a report without its times."""
    run = {name: value for name, value in report["run"].items() if name not in ("id", "started", "seconds")}
    return json.dumps({**report, "run": run}, sort_keys=True)


def spent() -> float:
    """Processor seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Run processes that only use the processor."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def repeated(model: Path, data: Path, repeats: int) -> dict[str, Any]:
    """Compare repeats on the machine as it is and under load."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for name, loops in (("as it is", 0), ("under load", BUSY)):
        with busy(loops):
            rows[name] = [scanned(ROOT, model, data) for _ in range(repeats)]
        print(model.name, name, flush=True)
    reports = [report for some in rows.values() for report in some]
    first = reports[0]
    return {
        "model": model.name,
        "repeats": {name: len(some) for name, some in rows.items()},
        "seconds": {name: [report["run"]["seconds"] for report in some] for name, some in rows.items()},
        "different": len({timeless(report) for report in reports}),
        "precision": first["run"]["precision"],
        "note": first["run"]["precision_note"],
        "images": first["images"]["read"],
        "passes": first["run"]["forward_passes"],
        "verdict": first["verdict"]["status"],
    }


def compared(model: Path, data: Path, before: Path, pairs: int) -> dict[str, Any]:
    """Processor seconds of an earlier version's scans over those of this one's, run in turn."""
    ratios, different = [], set()
    for _ in range(pairs):
        began = spent()
        old = scanned(before, model, data)
        between = spent()
        scanned(ROOT, model, data)
        ratios.append((between - began) / (spent() - between))
        different.add((old["run"]["precision"], old["images"]["read"], old["run"]["forward_passes"]))
    return {"model": model.name, "ratios": ratios, "median": statistics.median(ratios), "before": sorted(different)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=STORE / "repeats.json")
    asked = parser.parse_args()
    data = asked.data.resolve()
    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "processors": os.cpu_count(),
        "load": [round(number, 1) for number in os.getloadavg()],
        "rows": [repeated((asked.models / name).resolve(), data, asked.repeats) for name in MODELS],
    }
    if asked.before is not None:
        found["cost"] = [
            compared((asked.models / name).resolve(), data, asked.before.resolve(), asked.pairs) for name in MODELS
        ]
    asked.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
