"""Scan the two toy models of this folder: the poisoned one must fail, its clean twin must pass.

    python examples/demo.py

Runs the installed command, as a build would, and checks its exit codes.
"""

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def scan(model: str) -> int:
    """Exit code of `pargate scan` on a model of this folder."""
    command = ["pargate", "scan", f"examples/models/{model}", "--policy", "examples/policy.yaml"]
    print(f"\n$ {' '.join(command)}", flush=True)
    return subprocess.run([sys.executable, "-m", *command], cwd=HERE.parent, check=False).returncode


def main() -> int:
    began = time.monotonic()
    found = {model: scan(model) for model in ("poisoned", "clean")}
    print(f"\nexit codes: poisoned {found['poisoned']}, clean {found['clean']}; {time.monotonic() - began:.0f} s")
    if found != {"poisoned": 1, "clean": 0}:
        print("expected 1 (fail) for the poisoned model and 0 (pass) for the clean one", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
