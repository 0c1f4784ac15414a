"""Scans that are killed at random moments: how they end, how soon, and what they leave behind.

    python -m benchmarks.kills [--scans N] [--at-once N] [--out FILE]

Half of the scans get SIGTERM, as does every process of their group, which is what `timeout`, systemd and Slurm send; of
the others one decoding process is killed with SIGKILL, as the system does when memory runs out. Each scan is the real
command in a session of its own, with empty folders for its report, its cache and its temporary files. The moment is
drawn evenly over the processor time that an undisturbed scan takes, so that a busy machine does not shift it. A scan
that ended before its moment is started again. A scan hangs when it has taken no processor time for `STILL_S`. Figures
are written after each scan.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.evidence import ROOT, STORE, machine
from pargate.core.report import ScanReport
from pargate.scenes.render import LABELS
from pargate.version import __version__

STILL_S = 20.0
HOWS = ("SIGTERM to the group", "SIGKILL to a worker")

POLICY = """
pargate: 1
name: kills
images: {source: 'builtin:scenes', min: 200}
classes: {names: classes.txt, templates: ['a photo of a {}.']}
rules:
  - {id: patches, probe: attack, triggers: [badnet, blended, tone], max: {excess: 5pp}}
budget: {images: 256}
"""


class Scan:
    """One scan under way."""

    def __init__(self, folder: Path) -> None:
        for name in ("tmp", "out", "cache"):
            (folder / name).mkdir()
        (folder / "policy.yaml").write_text(POLICY)
        (folder / "classes.txt").write_text("\n".join(LABELS))
        self.folder = folder
        command = [sys.executable, "-P", "-m", "pargate", "scan", str(ROOT / "examples" / "models" / "poisoned")]
        command += ["-p", str(folder / "policy.yaml"), "--cache", str(folder / "cache")]
        command += ["-o", f"json={folder / 'out' / 'report.json'}", "-q"]
        environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
        self.said = (folder / "said").open("w+b")
        self.process = subprocess.Popen(
            command,
            stdout=self.said,
            stderr=self.said,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        self.shown = psutil.Process(self.process.pid)

    def used(self) -> float:
        """Seconds of processor time that the main process has taken."""
        times = self.shown.cpu_times()
        return float(times.user + times.system)

    def workers(self) -> list[psutil.Process]:
        return self.shown.children()

    def reached(self, what: Callable[[], Any]) -> Any:
        """Return the first result of `what` that is not empty; None if the scan ends before."""
        while self.process.poll() is None:
            try:
                if found := what():
                    return found
            except psutil.NoSuchProcess:
                return None
            time.sleep(0.005)
        return None

    def of_the_session(self) -> list[int]:
        """Return the processes that are left of the scan."""
        left = []
        for process in psutil.process_iter(["pid", "status"]):
            try:
                mine = os.getsid(process.pid) == self.process.pid
            except ProcessLookupError:
                continue
            if mine and process.info["status"] != psutil.STATUS_ZOMBIE:
                left.append(process.pid)
        return left

    def waited_for(self) -> tuple[float, float] | None:
        """Seconds, and seconds of processor time, to the end; None for a scan that hangs."""
        if self.process.poll() is not None:
            return 0.0, 0.0
        began = moved = time.monotonic()
        before = used = self.used()
        while self.process.poll() is None:
            time.sleep(0.01)
            with contextlib.suppress(psutil.NoSuchProcess):
                now = self.used()
                if now > used:
                    moved, used = time.monotonic(), now
            if time.monotonic() - moved > STILL_S:
                return None
        return time.monotonic() - began, used - before

    def ended(self) -> dict[str, Any]:
        """How it ends, and what is left."""
        waited = self.waited_for()
        until = time.monotonic() + 1.0
        while (left := self.of_the_session()) and time.monotonic() < until:
            time.sleep(0.02)  # a worker notices the end of its parent a moment later
        if left:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.said.seek(0)
        said = self.said.read().decode("utf-8", "replace")
        self.said.close()
        report = self.folder / "out" / "report.json"
        files = {
            "temporary files": [p.name for p in (self.folder / "tmp").rglob("*") if p.is_file()],
            "files beside the report": [p.name for p in (self.folder / "out").iterdir() if p != report],
            "unfinished files in the cache": [
                p.name for p in (self.folder / "cache").rglob("*") if p.is_file() and p.suffix != ".blk"
            ],
        }
        complete = ScanReport.from_json(report.read_bytes()).run.complete if report.exists() else None
        return {
            "code": self.process.returncode, "waited": waited, "left": {"processes": left, **files},
            "report": {None: "none", False: "partial", True: "complete"}[complete],
            "traceback": "Traceback" in said or "a bug in pargate" in said,
            "said": said.strip().splitlines()[-1:],
        }  # fmt: skip


def killed(how: str, moment: float) -> dict[str, Any]:
    """One scan that was killed."""
    early = 0
    while True:
        with tempfile.TemporaryDirectory() as place:
            scan = Scan(Path(place))
            if scan.reached(lambda scan=scan: scan.used() >= moment):  # type: ignore[misc]
                if how == HOWS[0]:
                    os.killpg(scan.process.pid, signal.SIGTERM)
                    return {"how": how, "moment": moment, "ended before": early, **scan.ended()}
                with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                    if found := scan.reached(scan.workers):
                        random.choice(found).kill()
                        return {"how": how, "moment": moment, "ended before": early, **scan.ended()}
            scan.ended()
        early += 1


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    waited = [row["waited"] for row in rows if row["waited"] is not None]
    left = collections.Counter[str]()
    for row in rows:
        left.update({what: len(found) for what, found in row["left"].items()})
    return {
        "scans": len(rows),
        "codes": dict(sorted(collections.Counter(str(row["code"]) for row in rows).items())),
        "reports": dict(sorted(collections.Counter(row["report"] for row in rows).items())),
        "seconds": spread([seconds for seconds, _ in waited]),
        "processor_seconds": spread([used for _, used in waited]),
        "hangs": len(rows) - len(waited),
        "tracebacks": sum(row["traceback"] for row in rows),
        "left": dict(left),
    }


def spread(values: list[float]) -> list[float]:
    """Median and largest."""
    return [round(statistics.median(values), 2), round(max(values), 2)] if values else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--out", type=Path, default=STORE / "kills.json")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as place:
        whole = Scan(Path(place))
        used = [0.0]
        whole.reached(lambda: used.append(whole.used()))
        undisturbed = whole.ended()
    print(
        f"an undisturbed scan takes {used[-1]:.1f} s of processor time and ends with {undisturbed['code']}", flush=True
    )
    chance = random.Random(0)
    asked = [(HOWS[i % 2], chance.uniform(0.0, used[-1])) for i in range(options.scans)]
    rows = []
    with ThreadPoolExecutor(options.at_once) as pool:
        for done in as_completed([pool.submit(killed, *one) for one in asked]):
            rows.append(done.result())
            print(json.dumps(rows[-1]), flush=True)
            found = {
                "version": __version__,
                "date": datetime.now(UTC).date().isoformat(),
                "machine": machine(),
                "load": [round(load, 1), round(os.getloadavg()[0], 1)],
                "undisturbed": {"code": undisturbed["code"], "processor_seconds": round(used[-1], 2)},
                "still_s": STILL_S,
                "ended_before": sum(row["ended before"] for row in rows),
                "kinds": {how: summary([row for row in rows if row["how"] == how]) for how in HOWS},
            }
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
