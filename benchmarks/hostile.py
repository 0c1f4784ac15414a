"""Give every hostile file of `tests/hostile/` to the command, and write what came of it into `docs/evidence/hostile.json`.

    python -m benchmarks.hostile [--all] [--fuzz N]

Each file is read in a process of its own, forked from one that has imported what it needs. Seconds are those of the
processor. Memory is the largest resident size of that process and those that it started, read every 10 ms, less that of
the process before it read anything; the tests hold each file to 1 GiB of addresses. `--fuzz` is the number of damaged
copies of each valid file; 0 keeps the counts of the last run. Without `--all`, only the third of the files that the tests try by day is measured.
"""

import argparse
import json
import os
import random
import re
import resource
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from benchmarks.evidence import STORE, machine
from pargate.cli.app import run
from pargate.errors import PargateError
from pargate.version import __version__

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "hostile"))

import test_fuzz as fuzz  # noqa: E402 - found by the line above
from made import CANARY, Case  # noqa: E402
from test_hostile import CASES, EVERY, SECONDS, assert_refused  # noqa: E402

MODEL = str(ROOT / "examples" / "models" / "clean")


def resident(process: int) -> int:
    """Return the largest resident size so far of a process and of those that it started, in KiB."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        others = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return 0
    own = re.search(r"VmHWM:\s+(\d+)", status)
    return (int(own[1]) if own else 0) + sum(resident(int(other)) for other in others)


def measured(case: Case) -> dict[str, Any]:
    """Return the exit code, processor seconds, and whether all that a test asks for holds."""
    with tempfile.TemporaryDirectory() as scratch:
        place, said = Path(scratch) / "here", Path(scratch) / "said"
        place.mkdir()
        os.chdir(place)
        arguments = case.build(place)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            resource.setrlimit(resource.RLIMIT_CPU, (3 * SECONDS, 3 * SECONDS))
            target = os.open(said, os.O_WRONLY | os.O_CREAT)
            os.dup2(target, 1)
            os.dup2(target, 2)
            code = 99
            try:
                code = int(run(arguments))
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        base, peak = resident(child), 0
        while not (ended := os.wait4(child, os.WNOHANG))[0]:
            peak = max(peak, resident(child))
            time.sleep(0.01)
        _, status, used = ended
        code = os.waitstatus_to_exitcode(status)
        try:
            assert_refused(case, code, said.read_text(errors="replace"), place)
            right = True
        except AssertionError:
            right = False
        ran = bool(list(place.rglob(CANARY)))
        os.chdir(ROOT)
    return {
        "code": code, "seconds": round(used.ru_utime + used.ru_stime, 2), "right": right, "ran": ran,
        "mib": max(0, round((peak - base) / 1024)),
    }  # fmt: skip


def fuzzed(count: int) -> dict[str, dict[str, int]]:
    """Return for each kind of file how many damaged copies were refused, read, and ended in any other error."""
    found: dict[str, dict[str, int]] = {}
    for kind, (make, read) in fuzz.KINDS.items():
        valid, counts = make(), Counter({"refused": 0, "read": 0, "other": 0})
        with tempfile.TemporaryDirectory() as scratch:
            for number in range(count):
                try:
                    read(fuzz.damaged(random.Random(f"{kind} {number}"), valid), Path(scratch))
                    counts["read"] += 1
                except PargateError:
                    counts["refused"] += 1
                except Exception as error:  # what the count is for
                    print(kind, number, repr(error))
                    counts["other"] += 1
        found[kind] = dict(counts)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fuzz", type=int, default=fuzz.NIGHT)
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    os.environ["PARGATE_CACHE"] = "off"
    run(["inspect", MODEL, "-o", f"json={os.devnull}"])  # imports what the children share
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for case in CASES if given.all else CASES[::EVERY]:
        row = measured(case) | {"name": case.name}
        groups[case.name.split(":")[0] if ":" in case.name else "pickle"].append(row)
        if not row["right"]:
            print(row, flush=True)
    rows = {
        name: {
            "files": len(found),
            "right": sum(row["right"] for row in found),
            "ran": sum(row["ran"] for row in found),
            "codes": dict(sorted(Counter(str(row["code"]) for row in found).items())),
            "seconds": max(row["seconds"] for row in found),
            "mib": max(row["mib"] for row in found),
        }
        for name, found in sorted(groups.items())
    }
    place = STORE / "hostile.json"
    fuzz_counts = fuzzed(given.fuzz) if given.fuzz else json.loads(place.read_text())["fuzz"]
    content = {"machine": machine(), "version": __version__, "rows": rows, "fuzz": fuzz_counts}
    place.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
