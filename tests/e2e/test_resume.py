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


MODULES = """
import sys
from pargate.__main__ import main
try:
    main()
except SystemExit as stop:
    print(stop.code, *sorted({name.partition('.')[0] for name in sys.modules}))
"""
"""Runs a command, and prints its exit code and what it imported."""


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
    # Everything is in the cache now, so that the libraries that take longest to import stay out.
    arguments = command(policy, cache, tmp_path / "cached.json")[3:]
    cached = subprocess.run(
        [sys.executable, "-c", MODULES, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    code, *modules = cached.stdout.splitlines()[-1].split()
    assert code == "3", cached.stderr
    assert measured(tmp_path / "cached.json") == expected
    assert not {"torch", "open_clip", "torchvision", "timm", "transformers"} & set(modules)

    leftovers = [name for _, _, names in os.walk(cache) for name in names if not name.endswith(".blk")]
    assert leftovers in ([], leftovers[:1])  # at most the file that was being written when the run was killed
