"""What `pargate doctor` can see without any library: processors, disks, and the runner of a job."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pargate.doctor.diagnosis import Condition, Fact

LOW_BYTES = 5 << 30
"""Of free disk; a bundle of a large model, its graphs and the state of a cleaning take this much."""


def of_the_machine(torch: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Fact]:
    """Processors and threads; `torch` is its answer, for the threads that it uses."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    message = f"{processors} processors"
    if "threads" in torch:
        message += f", torch uses {torch['threads']} threads"
    if environ.get("OMP_NUM_THREADS"):
        message += f" (OMP_NUM_THREADS={environ['OMP_NUM_THREADS']})"
    many = torch.get("threads", 0) > processors
    yield Fact(
        subject="threads",
        condition=Condition.WARNING if many else Condition.GOOD,
        message=message,
        hint=f"set OMP_NUM_THREADS={processors}: more threads than processors wait for each other" if many else "",
    )


def of_the_disk(cache: Path | None) -> Iterator[Fact]:
    """The cache, and the room beside it and here."""
    if cache is None:
        yield Fact(subject="cache", condition=Condition.NOTICE, message="off: every scan measures anew")
    else:
        size, files = _size(cache)
        held = f"{size / 1e6:.0f} MB in {files} file{'' if files == 1 else 's'}" if files else "empty"
        yield Fact(subject="cache", condition=Condition.GOOD, message=f"{cache}: {held}")
    here = Path.cwd()
    for name, folder in (("cache disk", cache), ("working folder", here)):
        place = next((p for p in (folder, *folder.absolute().parents) if p.is_dir()), None) if folder else None
        if place is None:
            continue
        free = shutil.disk_usage(place).free
        low, writable = free < LOW_BYTES, os.access(place, os.W_OK)
        message = f"{free / 2**30:.1f} GiB free" + ("" if writable else f"; {place} cannot be written")
        hint = "free some: a gate of a large model may need it" if low else ""
        if not writable:
            hint = "choose another with --cache" if name == "cache disk" else "work where you may write"
        condition = Condition.WARNING if low or not writable else Condition.GOOD
        yield Fact(subject=name, condition=condition, message=message, hint=hint)


def _size(folder: Path) -> tuple[int, int]:
    size = files = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(Path(place) / name).st_size
            except OSError:
                continue  # another run moved it
            files += 1
    return size, files


def of_the_runner(environ: Mapping[str, str]) -> Iterator[Fact]:
    """What a job of GitHub Actions has to offer, without which results would get lost."""
    missing = [] if environ.get("GITHUB_ACTIONS") == "true" else ["GITHUB_ACTIONS"]
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "RUNNER_TEMP", "GITHUB_WORKSPACE"):
        value = environ.get(name)
        if not value or not os.access(value, os.W_OK):
            missing.append(name)
    kind = environ.get("RUNNER_ENVIRONMENT") or "of a kind that it does not say"
    if missing:
        yield Fact(
            subject="runner",
            condition=Condition.BROKEN,
            message=f"not set, or not writable: {', '.join(missing)}",
            hint="--ci is for jobs of GitHub Actions; leave it out elsewhere",
        )
    else:
        yield Fact(subject="runner", condition=Condition.GOOD, message=f"{environ.get('RUNNER_OS', '')} {kind}".strip())
    if not sys.flags.safe_path:
        yield Fact(
            subject="Python",
            condition=Condition.WARNING,
            message="a file torch.py of the repository would pass for the library",
            hint="start it as `python -P -m pargate`",
        )
