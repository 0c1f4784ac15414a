"""Drill clean sample models: which planted backdoors do the shipped policies catch?

    python -m benchmarks.drill [--models NAMES] [--policies NAMES] [--strengths A,B] [--data DIR] [--out DIR]

Writes `docs/evidence/drill.json` after every drill. With the same `--out`, a killed run goes on. The policy `search` is
the rule of `benchmarks.search` alone.
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.evidence import SHARED, STORE, machine, policy
from benchmarks.search import RULE
from pargate.drill.plants import Choice
from pargate.drill.run import DrillRequest, drill
from pargate.events import Event, Notice
from pargate.judge.judging import Judging
from pargate.policy.resolve import Resolved, resolve
from pargate.scanning.request import ScanRequest, ScanSettings
from pargate.version import __version__


def told(event: Event) -> None:
    if isinstance(event, Notice):
        print(event.message, flush=True)


def chosen(name: str) -> Resolved:
    return policy([RULE]) if name == "search" else resolve(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="vit-clean,rn-clean")
    parser.add_argument("--policies", default="baseline,strict")
    parser.add_argument("--strengths", default="1,2")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--out", type=Path, default=Path("build/drills"))
    given = parser.parse_args()
    path = STORE / "drill.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.models.split(","):
        for rules in given.policies.split(","):
            started = datetime.now(UTC)
            scan = ScanRequest(
                str(SHARED / "zoo" / "dev" / name),
                Judging(chosen(rules), started.date()),
                images=str(given.data / "carriers-64.tar"),
                classes=given.data / "classes-64.txt",
                settings=ScanSettings("cpu"),
            )
            choice = Choice(strengths=tuple(float(s) for s in given.strengths.split(",")))
            pairs = str(given.data / "pairs-64.tar")
            found = drill(DrillRequest(scan, given.out / f"{name}-{rules}", pairs, choice, minutes=600), told)
            document = json.loads(found.to_json())
            # Names alone: folders say nothing to readers elsewhere.
            document |= {"model": name, "policy": rules, "images": "carriers-64.tar", "pairs": "pairs-64.tar"}
            rows = [row for row in rows if (row["model"], row["policy"]) != (name, rules)] + [document]
            content = {"machine": machine(), "version": __version__, "rows": rows}
            path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
