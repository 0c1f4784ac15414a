"""Take every model whose backdoor is known through the gate, and say what came of it.

    python -m benchmarks.gate [--models DIR] [--data DIR] [--pairs NAME]… [--only MODEL]…

For each poisoned model × pairs (real ones, or drawn ones alone): the verdict, minutes, attack success of the planted
trigger and clean accuracy before and after, what cleaning cost on the same images, and how alike graphs and model are.
The policy is `baseline`, with one more rule that knows the planted trigger and its target: whoever releases these models
has heard of the attack. The cleaner has not. Each run is kept in `docs/evidence/gate.json` under the digest of all it
depends on, and is not done again, so that the table can grow over several runs. `--again` forgets the runs asked for.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks.evidence import SHARED, STORE, TEMPLATES, Known, machine, models
from pargate.clean.run import sizes_of
from pargate.core.report import Examined, ScanReport
from pargate.files import digest_of, sha256_file, write_atomic
from pargate.images.opening import open_pairs
from pargate.judge.judging import Judging
from pargate.models.open import inspect
from pargate.policy.resolve import Resolved, read
from pargate.release import escalation
from pargate.release.gate import gate
from pargate.release.stages import GateRequest
from pargate.release.verify import verify
from pargate.scanning.request import ScanRequest
from pargate.version import __version__

PLACE = STORE / "gate.json"
PAIRS = {"real": "pairs-64.tar", "synthetic": "synthetic:6000"}
"""As many drawn pairs as there are real ones."""


@dataclass(frozen=True)
class Job:
    """One gate."""

    model: Known
    pairs: str
    data: Path

    @property
    def source(self) -> str:
        named = PAIRS[self.pairs]
        return named if named.startswith("synthetic:") else str(self.data / named)

    def policy(self) -> Resolved:
        """`baseline`, the planted trigger, cleaning, and graphs."""
        rule = {
            "id": "planted", "probe": "attack", "triggers": [self.model.trigger()],
            "target": self.model.truth["target_class"], "max": {"attack_success": "10%"}, "severity": "critical",
        }  # fmt: skip
        document = {
            "pargate": "1", "name": f"zoo-{self.model.name}", "extends": "builtin:baseline", "rules": [rule],
            "classes": {"names": str(self.data / "classes-64.txt"), "templates": list(TEMPLATES)},
            "clean": {
                "when": "fail", "method": "par-plus", "pairs": self.source, "attempts": "2",
                # A third of 2,000 images cannot show less of a model that is right in a quarter of all cases.
                "budget": {"accuracy_drop": "10pp"},
            },
            "export": {"onnx": "true"},
        }  # fmt: skip
        return read(json.dumps(document), "benchmarks/gate.py", Path("/"))

    def key(self) -> str:
        """Digest of everything that decides the result."""
        checkpoint, pairs, policy = inspect(str(self.model.folder)), open_pairs(self.source, seed=0), self.policy()
        rungs = [
            escalation.proposed(policy.policy.clean, attempt, sizes_of(checkpoint, pairs, "cpu")).digest
            for attempt in range(1, policy.policy.clean.attempts + 1)
        ]
        carriers = sha256_file(self.data / "carriers-64.tar")
        return digest_of([__version__, checkpoint.digest, pairs.digest, carriers, policy.sha256, rungs])


def work(job: Job) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "release"
        started = datetime.now(UTC)
        asked = ScanRequest(
            str(job.model.folder),
            Judging(job.policy(), date.today()),  # noqa: DTZ011 - there are no waivers
            images=str(job.data / "carriers-64.tar"),
            pictures=False,
        )
        began = time.perf_counter()
        done = gate(GateRequest(asked, out))
        minutes = (time.perf_counter() - began) / 60
        began = time.perf_counter()
        problems = verify(done.folder, today=started.date()).problems if done.folder is not None else None
        seconds = time.perf_counter() - began
    return {
        "model": job.model.name,
        "pairs": job.pairs,
        "verdict": str(done.report.verdict.status),
        "summary": done.report.verdict.summary,
        "minutes": minutes,
        "verified": None if problems is None else not problems,
        "verify_seconds": seconds,
        "stages": [row for row in stages(done.report)],
        "machine": machine(),
    }


def stages(report: ScanReport) -> list[dict[str, Any]]:
    """Each stage in numbers."""
    found = []
    for stage in report.stages:
        row: dict[str, Any] = {"name": stage.name, "attempt": stage.attempt, "seconds": stage.seconds}
        scanned = stage.examined or (report.examined if stage.name in ("scan", "pick", "certify", "rescan") else None)
        if scanned is not None:
            row |= {"verdict": str(scanned.verdict.status), **counted(scanned)}
        if stage.drop is not None:
            pairs = stage.drop.pairs
            row["drop"] = {
                "n": pairs.n, "drop": pairs.excess, "low": stage.drop.low, "high": stage.drop.high,
                "lost": pairs.trigger_only, "gained": pairs.baseline_only,
            }  # fmt: skip
        if stage.proof is not None:
            row["proof"] = stage.proof.model_dump(exclude={"summary"})
        found.append(row)
    return found


def counted(scanned: Examined) -> dict[str, Any]:
    """Attack success of the planted trigger, and clean accuracy: successes and n."""
    by_rule = {m.rule or m.id: m.counts for m in scanned.measurements}
    planted, clean = by_rule.get("planted", {}).get("attack_success"), by_rule.get("clean", {}).get("accuracy")
    return {
        "success": [planted.successes, planted.n] if planted else None,
        "accuracy": [clean.successes, clean.n] if clean else None,
    }


def said(row: dict[str, Any]) -> str:
    """Return a run on one line."""

    def rate(stage: str, what: str) -> str:
        found = next((s.get(what) for s in reversed(row["stages"]) if s["name"] == stage), None)
        return f"{found[0] / found[1]:.1%}" if found and found[1] else "–"

    last = next((s["name"] for s in reversed(row["stages"]) if "success" in s), "scan")
    return (
        f"{row['model']:14} {row['pairs']:10} {row['verdict']:12} {row['minutes']:5.1f} min  success "
        f"{rate('scan', 'success')} → {rate(last, 'success')}  accuracy {rate('scan', 'accuracy')} → "
        f"{rate(last, 'accuracy')}  verified {row['verified']}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--pairs", action="append", choices=list(PAIRS))
    parser.add_argument("--only", action="append", metavar="MODEL")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    wanted = [
        Job(model, pairs, options.data)
        for pairs in options.pairs or PAIRS
        for model in models(options.models)
        if model.planted and (not options.only or model.name in options.only)
    ]
    for job in wanted:
        kept: dict[str, Any] = json.loads(PLACE.read_text())["runs"] if PLACE.is_file() else {}
        key = job.key()
        if options.again or key not in kept:
            row = work(job)
            # Whatever other processes have kept meanwhile stays.
            kept = json.loads(PLACE.read_text())["runs"] if PLACE.is_file() else {}
            kept[key] = row
            content = {"version": __version__, "runs": dict(sorted(kept.items()))}
            write_atomic(PLACE, (json.dumps(content, indent=1) + "\n").encode())
        print(said(kept[key]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
