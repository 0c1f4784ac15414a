"""Killed runs resume from the cache, and runs that share one do not harm each other."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
POLICY = """
pargate: 1
name: resume
classes: {names: [apple, banana, car, fish, house, star, tree, key], templates: ['a photo of a {}.']}
budget: {images: 448}
rules:
  - id: never-decided
    probe: attack
    triggers: [badnet, blended, {kind: triangles, scale: proportional}, tone]
    target: unknown
    max: {excess: 1%}
    why: Keeps the scan going until its budget is spent.
"""


def command(policy: Path, cache: Path | str, report: Path) -> list[str]:
    return [
        sys.executable, "-m", "pargate", "scan", "examples/models/clean", "-p", str(policy),
        "--cache", str(cache), "--precision", "fp32", "-q", "-o", f"json={report}",
    ]  # fmt: skip


def measured(report: Path) -> list[dict[str, Any]]:
    return json.loads(report.read_text())["measurements"]


def test_a_killed_run_resumes_and_two_runs_may_share_a_cache(tmp_path: Path) -> None:
    policy, cache = tmp_path / "policy.yaml", tmp_path / "cache"
    policy.write_text(POLICY)

    killed = subprocess.Popen(command(policy, cache, tmp_path / "killed.json"), cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(cache.glob("*/*.blk"))) < 8:
        assert killed.poll() is None, "the scan ended before it could be killed"
        assert time.monotonic() < deadline, "no block was stored in two minutes"
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    stored = len(list(cache.glob("*/*.blk")))
    assert not (tmp_path / "killed.json").exists()

    both = [
        subprocess.Popen(command(policy, cache, tmp_path / f"{i}.json"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    for run in both:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 3, errors
    fresh = subprocess.run(command(policy, "off", tmp_path / "fresh.json"), cwd=ROOT, capture_output=True, check=False)
    assert fresh.returncode == 3

    expected = measured(tmp_path / "fresh.json")
    assert measured(tmp_path / "0.json") == expected
    assert measured(tmp_path / "1.json") == expected
    assert len(expected) == 5
    used = json.loads((tmp_path / "0.json").read_text())["run"]["cache"]
    assert int(used.split()[0]) >= min(stored, 8)
    leftovers = [name for _, _, names in os.walk(cache) for name in names if not name.endswith(".blk")]
    assert leftovers in ([], leftovers[:1])  # at most the file that was being written when the run was killed
