"""How long a saved report takes to be judged again and rendered, from the command's start to its end.

    python benchmarks/reports.py

Writes `docs/evidence/reports.json`. The report is that of a real scan of the poisoned toy model under `baseline`; each
command starts a fresh interpreter, and the interpreter's own start is measured beside it.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STORE = ROOT / "docs" / "evidence"
REPEATS = 11


def seconds(command: list[str]) -> float:
    """Median wall time."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    from pargate.report import FORMATS

    pargate = [sys.executable, "-m", "pargate"]
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "r.json"
        scan = [*pargate, "scan", "examples/models/poisoned", "-p", "baseline", "-o", f"json={saved}", "--cache", "off"]
        subprocess.run(scan, cwd=ROOT, capture_output=True, check=False)
        report = json.loads(saved.read_bytes())
        rows: dict[str, Any] = {
            "interpreter alone": seconds([sys.executable, "-c", ""]),
            "judged under strict": seconds([*pargate, "report", str(saved), "-p", "strict", "-q"]),
        }
        for form in FORMATS:
            rows[f"rendered as {form}"] = seconds([*pargate, "report", str(saved), "-o", f"{form}={folder}/out", "-q"])
        found = {
            "bytes": saved.stat().st_size,
            "findings": len(report["findings"]),
            "repeats": REPEATS,
            "seconds": rows,
        }
    (STORE / "reports.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
