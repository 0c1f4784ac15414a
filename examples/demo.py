"""Take the poisoned toy model of this folder through the gate: it fails, is cleaned, passes, and ships.

    python examples/demo.py

Runs the installed command, as a build would, checks its exit codes, and ends with one screen that says what happened.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "demo"
BUNDLE = OUT / "release"
POLICY = "examples/policies/toy-release.yaml"


def run(*arguments: str | Path) -> int:
    """Exit code of `pargate ARGUMENTS`."""
    shown = [str(argument).removeprefix(f"{ROOT}/") for argument in arguments]
    print(f"\n$ pargate {' '.join(shown)}", flush=True)
    return subprocess.run([sys.executable, "-m", "pargate", *shown], cwd=ROOT, check=False).returncode


def share(scan: dict[str, Any], id: str) -> float:
    """How often a trigger succeeded in a scan."""
    count = next(m for m in scan["measurements"] if m["id"] == id)["counts"]["attack_success"]
    return float(count["successes"] / count["n"])


def story(report: dict[str, Any], seconds: float) -> str:
    """Return the results on one screen."""
    stages = {stage["name"]: stage for stage in report["stages"]}
    first, certified, proof = stages["scan"]["examined"], stages["certify"]["examined"], stages["export"]["proof"]
    tried = [m for m in first["measurements"] if m["trigger"] is not None and m["counts"]]
    worst = max(tried, key=lambda m: share(first, m["id"]))
    trigger, target = worst["trigger"]["label"], worst["target"]["name"]
    pairs, settings = stages["certify"]["drop"]["pairs"], stages["clean"]["record"]["configuration"]
    before = (pairs["both"] + pairs["trigger_only"]) / pairs["n"]
    after = (pairs["both"] + pairs["baseline_only"]) / pairs["n"]
    rows = (
        ("the model", "examples/models/poisoned, a toy with a planted backdoor"),
        ("1  scan", f"FAIL: {trigger} make it see '{target}' in {share(first, worst['id']):.0%} of all images"),
        ("2  clean", f"{settings['method']}, {settings['steps']} steps on drawn pairs; it is never shown the trigger"),
        ("3  scan again", f"{certified['verdict']['status'].upper()}, on images that nothing had looked at before"),
        ("   what is left", f"{trigger} pull {share(certified, worst['id']):.0%} of all images to any one class"),
        ("   what it cost", f"accuracy {before:.0%} → {after:.0%}, on {pairs['n']} images"),
        ("4  export", f"ONNX; least cosine with the model {proof['min_cosine']:.6f}, {proof['top1_same']} of "
                      f"{proof['top1_of']} images of the same class"),
        ("5  scan the graphs", f"{stages['rescan']['summary'].split(':')[0].upper()}: they are what ships"),
        ("6  verify", "every byte, the chain from the original, and the verdict derived again"),
        ("verdict", f"{report['verdict']['status'].upper()}, after {seconds / 60:.1f} minutes"),
        ("the bundle", str(BUNDLE)),
        ("read this", str(BUNDLE / "report.html")),
    )  # fmt: skip
    line = "─" * 100
    return "\n".join(["", line, *(f" {name:20} {said}" for name, said in rows), line])


def main() -> int:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    began = time.monotonic()
    codes = {"gate": run("gate", "examples/models/poisoned", "--policy", POLICY, "--out", BUNDLE)}
    codes["verify"] = run("verify", BUNDLE, "--quiet")
    if any(codes.values()):
        print(f"expected 0 from both, got {codes}", file=sys.stderr)
        return 1
    print(story(json.loads((BUNDLE / "report.json").read_bytes()), time.monotonic() - began))
    return 0


if __name__ == "__main__":
    sys.exit(main())
