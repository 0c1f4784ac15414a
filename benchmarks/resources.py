"""Give the command inputs that cost out of all proportion, and write what each costs into `docs/evidence/resources.json`.

    python -m benchmarks.resources [--before CHECKOUT] [--only WORD …] [--seconds S]

The inputs are those of the tests (`tests/e2e/hostile.py`). Each is given to the command in a process of its own, with
at most 5 GiB of addresses and `--seconds` of the processor, and is given up after three times as long. Memory is the
largest resident size of the process, less that of `pargate inspect` on the example model. `--before` is a checkout of an older version to be measured as well; without it
the figures of the last run are kept.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STORE = ROOT / "docs" / "evidence" / "resources.json"
ADDRESSES = 5 << 30

sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from hostile import CASES, CLEAN, Build  # noqa: E402 - found by the line above


class Peak(threading.Thread):
    """The largest resident size of a process, read every 20 ms.

    Not that of `wait4`: it survives `exec`, so that it is never below the size of this process.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self.mib = 0

    def run(self) -> None:
        """Read until the process has no memory any more."""
        while True:
            try:
                lines = self._status.read_text().splitlines()
                high = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
            except (OSError, StopIteration):
                return
            self.mib = round(high / 1024)
            time.sleep(0.02)


def measured(build: Build | None, code: Path, seconds: float) -> dict[str, Any]:
    """Exit code (none of a command that was ended), seconds and peak MiB of one command."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        arguments = build(place) if build else ["inspect", str(CLEAN)]
        (place / "tmp").mkdir()
        env = {
            **os.environ,
            "PYTHONPATH": str(code),
            "PARGATE_CACHE": "off",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(place / "tmp"),
        }

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))

        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pargate", *arguments],
            cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            start_new_session=True, preexec_fn=limit,
        )  # fmt: skip
        stop = threading.Timer(3 * seconds, os.killpg, (process.pid, signal.SIGKILL))
        stop.start()
        peak = Peak(process.pid)
        peak.start()
        said = process.stderr.read().decode(errors="replace")
        _, status, used = os.wait4(process.pid, 0)
        took = time.monotonic() - began
        stop.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        return {
            "code": None if process.returncode in (-signal.SIGKILL, -signal.SIGXCPU) else process.returncode,
            "seconds": round(took, 1),
            "processor": round(used.ru_utime + used.ru_stime, 1),
            "mib": peak.mib,
            "said": next((line for line in said.splitlines() if line.startswith("pargate: ")), "")[:160],
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path)
    parser.add_argument("--only", nargs="*", default=[""])
    parser.add_argument("--seconds", type=float, default=60)
    asked = parser.parse_args()
    kept = json.loads(STORE.read_text()) if STORE.is_file() else {"rows": {}}
    rows = kept["rows"]
    versions = {"now": ROOT} | ({"before": asked.before.resolve()} if asked.before else {})
    base = {name: measured(None, code, asked.seconds)["mib"] for name, code in versions.items()}
    for case in CASES:
        if not any(word in case.name for word in asked.only):
            continue
        row = rows.setdefault(case.name, {})
        for name, code in versions.items():
            found = measured(case.build, code, asked.seconds)
            row[name] = {**found, "mib": max(0, found["mib"] - base[name])}
            print(name, case.name, row[name], flush=True)
    names = [case.name for case in CASES]
    whole = {"cpus": os.cpu_count(), "seconds": asked.seconds, "addresses": ADDRESSES, **kept, "base_mib": base["now"]}
    STORE.write_text(json.dumps({**whole, "rows": {n: rows[n] for n in names if n in rows}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
