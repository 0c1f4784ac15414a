"""Inputs that cost out of all proportion end in seconds, in little memory, with a named cause."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from conftest import Nursery
from hostile import CASES, Hostile

MIB_ABOVE = 1024
"""Addresses that a command may take beyond those of its imports."""
SECONDS = 10
"""Of the processor; a command that waits is given up after `WAIT`."""
WAIT = 60


@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes are those of POSIX")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_a_hostile_input_is_refused_at_little_cost(case: Hostile, place: Path, warm_nursery: Nursery):
    arguments = case.build(place)
    limits = {"RLIMIT_AS": MIB_ABOVE << 20, "RLIMIT_CPU": SECONDS, "RLIMIT_FSIZE": 1 << 28}
    process = warm_nursery.begin(place, tuple(arguments), {}, limits)
    waited = threading.Timer(WAIT, os.kill, (process, signal.SIGKILL))
    waited.start()
    ended = warm_nursery.end()
    waited.cancel()
    assert (ended.code, case.words in ended.said) == (case.code, True), ended.err
    assert "Traceback" not in ended.said
    assert sum(line.startswith("pargate: ") for line in ended.said.splitlines()) == 1
