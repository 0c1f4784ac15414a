"""Screen a set on this machine, and on a local Ray cluster of two workers of which one is killed; compare what is written.

    python -m benchmarks.cluster [--models DIR] [--data DIR]

Needs `pargate[ray]`. Each screening is the real command with one thread and an empty cache. The worker is killed in its
first shard, as soon as it has opened the model. Writes `docs/evidence/cluster.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.evidence import SHARED, STORE, machine
from pargate.version import __version__

WORKERS = 2
WITHIN_S = 600


def screened(source: Path, model: Path, out: Path, *, ray: bool) -> tuple[float, int]:
    """Screen a set; on a cluster, kill a worker in the midst. Return the seconds, and the number of killed workers."""
    command = [sys.executable, "-P", "-m", "pargate", "screen", str(source), "--model", str(model), "--out", str(out),
               "--device", "cpu", "--cache", "off", "-q", "--executor", "ray" if ray else "local"]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PARGATE")} | {"OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as running:
        killed = _kill_one(psutil.Process(running.pid)) if ray else 0
        if code := running.wait(WITHIN_S):
            raise SystemExit(f"the screening ended with {code}")
    return time.perf_counter() - began, killed


def _kill_one(driver: psutil.Process) -> int:
    """Kill the worker that opens the model last, as soon as it decodes: it is in the midst of its first shard."""
    seen: list[psutil.Process] = []
    until = time.monotonic() + WITHIN_S
    while len(seen) < WORKERS and driver.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        for worker in driver.children(recursive=True):
            if worker not in seen and worker.name().startswith("ray::work") and worker.children():
                seen.append(worker)
        time.sleep(0.05)
    for worker in seen[WORKERS - 1 :]:
        worker.kill()
    return len(seen[WORKERS - 1 :])


def differing(one: Path, other: Path) -> list[str]:
    """Return the names of files that differ in two folders of screenings, but for the time of their start."""
    names = sorted({path.name for path in (*one.iterdir(), *other.iterdir())} - {".lock"})
    return [name for name in names if _content(one / name) != _content(other / name)]


def _content(path: Path) -> list[bytes]:
    if not path.is_file():
        return []
    return [line for line in path.read_bytes().splitlines() if not line.startswith(b' "started": ')]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    given = parser.parse_args()
    source, model = (given.data / "pairs-64.tar").resolve(), (given.models / "vit-clean").resolve()
    with tempfile.TemporaryDirectory() as place:
        one, other = Path(place, "local"), Path(place, "ray")
        alone, _ = screened(source, model, one, ray=False)
        together, killed = screened(source, model, other, ray=True)
        report: Any = json.loads((other / "screen.json").read_bytes())
        found = {
            "version": __version__, "machine": machine(), "model": model.name, "pairs": report["count"],
            "suspects": len(report["suspects"]), "workers": WORKERS, "killed": killed,
            "files": sorted(path.name for path in one.iterdir() if path.name != ".lock"),
            "differing": differing(one, other), "seconds": round(alone, 1), "ray_seconds": round(together, 1),
        }  # fmt: skip
    (STORE / "cluster.json").write_text(json.dumps(found, indent=1) + "\n")
    print(found)


if __name__ == "__main__":
    main()
