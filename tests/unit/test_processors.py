"""What follows from stored counts is the same to the last bit on every processor.

A child process stands for another processor: OpenBLAS takes the kernels of an older one, numpy goes without its
vector instructions. Only what this processor can run is tried.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FEATURES: dict[str, bool] = np._core._multiarray_umath.__cpu_features__  # type: ignore[attr-defined]
DISPATCHED: list[str] = np._core._multiarray_umath.__cpu_dispatch__  # type: ignore[attr-defined]

KERNELS = {"Prescott": "SSE3", "Haswell": "FMA3", "SkylakeX": "AVX512_SKX"}
"""Kernels of OpenBLAS, and a feature without which they cannot run."""

CHILD = """\
import hashlib, json, sys
sys.path.insert(0, sys.argv[1])
import test_report
from pargate.core.results import Count, PairedCounts
from pargate.audit.history import attack
from pargate.judge.bounds import excess_interval, interval

ends = [
    [interval(Count(n=n, successes=n * tenth // 10), a, 0.3 * a) for tenth in range(11)]
    + [excess_interval(PairedCounts(baseline="reference", target="", n=n, both=n // 9, trigger_only=n // 3,
                             baseline_only=n // 5), a, 0.3 * a)]
    for n in (32, 77, 500, 4001) for a in (0.05, 0.0004)
]
report = test_report.report()
print(hashlib.sha256(json.dumps([ends, report.to_json(), attack(report).model_dump()]).encode()).hexdigest())
"""


def found(**environment: str) -> str:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS_", "NPY_"))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent)],
        env={**ours, **environment}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.fixture(scope="module")
def here() -> str:
    """The figures with the kernels that this processor gets by itself."""
    return found()


@pytest.mark.parametrize("kernel", KERNELS)
def test_figures_do_not_depend_on_the_kernels_of_the_linear_algebra(here: str, kernel: str) -> None:
    if not FEATURES.get(KERNELS[kernel]):
        pytest.skip(f"this processor cannot run the kernels for {kernel}")
    assert found(OPENBLAS_CORETYPE=kernel) == here


def test_figures_do_not_depend_on_the_vector_instructions_of_the_processor(here: str) -> None:
    usable = [name for name in DISPATCHED if FEATURES.get(name)]
    if not usable:
        pytest.skip("numpy uses no instructions here that it could go without")
    assert found(NPY_DISABLE_CPU_FEATURES=" ".join(usable)) == here
