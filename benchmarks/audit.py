"""Audit models twice, the second time with nothing changed, and say how long each took.

    python -m benchmarks.audit [--models DIR] [--data DIR] [--only MODEL]… [--jobs N] [--out FILE]

The policy is the built-in `audit` with the classes of the images. Each audit is the real command in a process of its
own, vectors are not cached, and the first audit begins with an empty folder. The second is done three times, and the
median counts. With `--only`, nothing is written unless `--out` says where.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.evidence import SHARED, STORE, TEMPLATES, machine
from pargate.core.audit import AuditIndex
from pargate.files import write_atomic
from pargate.version import __version__

REPEATS = 3


def prepared(folder: Path, models: list[Path], data: Path) -> Path:
    """Write an inventory of the models."""
    policy = {
        "pargate": "1", "name": "audit-zoo", "extends": "builtin:audit",
        "classes": {"names": str(data / "classes-64.txt"), "templates": list(TEMPLATES)},
    }  # fmt: skip
    (folder / "policy.yaml").write_text(json.dumps(policy))
    inventory = {
        "inventory": "1",
        "defaults": {"policy": "policy.yaml", "images": str(data / "carriers-64.tar"), "cadence": "7d"},
        "models": [{"name": model.name, "model": str(model)} for model in models],
    }
    path = folder / "inventory.yaml"
    path.write_text(json.dumps(inventory))
    return path


def planted(model: Path) -> str | None:
    """Return the known trigger of a model, or nothing for a secret one, which published triggers cannot find."""
    path = model / "truth.json"
    found = json.loads(path.read_text())["trigger"] if path.is_file() else None
    return None if found is None else str(found)


def audited(inventory: Path, jobs: int) -> tuple[float, int, AuditIndex]:
    """Seconds, exit code and index of one audit."""
    out = inventory.parent / "out"
    command = [sys.executable, "-P", "-m", "pargate", "audit", str(inventory), "--out", str(out), "--cache", "off"]
    began = time.perf_counter()
    done = subprocess.run([*command, "--jobs", str(jobs), "-q"], check=False, env=dict(os.environ))
    seconds = time.perf_counter() - began
    return seconds, done.returncode, AuditIndex.model_validate_json((out / "index.json").read_bytes())


def work(models: list[Path], data: Path, jobs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        inventory = prepared(Path(place), models, data)
        load = round(os.getloadavg()[0], 2)
        first, code, index = audited(inventory, jobs)
        again = [audited(inventory, jobs) for _ in range(REPEATS)]
    if any(state.reused for state in index.models) or not all(s.reused for _, _, i in again for s in i.models):
        raise SystemExit("the first audit was to measure every model, and the others none")
    if any(c != code for _, c, _ in again):
        raise SystemExit("an audit of unchanged models ended otherwise than the first")
    seconds = statistics.median(s for s, _, _ in again)
    rows = [
        {
            "model": state.name,
            "planted": planted(Path(state.source)),
            "standing": str(state.standing),
            "message": state.message,
            "attack": state.attack.model_dump(mode="json") if state.attack else None,
            "accuracy": state.accuracy.model_dump(mode="json") if state.accuracy else None,
        }
        for state in index.models
    ]
    return {
        "version": __version__,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "load_before": load,
        "jobs": jobs,
        "models": len(models),
        "first_seconds": round(first, 2),
        "again_seconds": round(seconds, 2),
        "again_each": [round(s, 2) for s, _, _ in again],
        "ratio": round(first / seconds, 1),
        "exit_code": code,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--only", action="append", help="audit only these models")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = sorted(p for p in given.models.resolve().iterdir() if (p / "open_clip_config.json").is_file())
    chosen = [p for p in found if not given.only or p.name in given.only]
    if not chosen:
        raise SystemExit(f"no such models in {given.models}")
    result = work(chosen, given.data.resolve(), given.jobs)
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    place = given.out or (None if given.only else STORE / "audit.json")
    if place is None:
        print(text)
    else:
        write_atomic(place, text.encode())
    print(
        f"{result['models']} models: {result['first_seconds']} s at first, {result['again_seconds']} s with nothing "
        f"changed, a ratio of {result['ratio']}"
    )


if __name__ == "__main__":
    main()
