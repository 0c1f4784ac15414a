"""The checks of `pargate doctor`: what the machine has, and which tasks work on it.

Each heavy library is checked in its own process (`libraries.py`), so that a library that crashes is a finding like any
other. The checks change nothing and fetch nothing.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pargate.core.value import Value
from pargate.version import __version__


class Condition(StrEnum):
    """The condition of a part of the machine."""

    GOOD = "good"
    NOTICE = "notice"
    """Information; everything works."""
    WARNING = "warning"
    """Something may fail or be slow."""
    BROKEN = "broken"


class Fact(Value):
    """The finding of one check."""

    subject: str
    """Package, device or folder that was checked."""
    condition: Condition
    message: str
    """Finding."""
    hint: str = ""
    """What to do; empty if nothing."""


class Ability(Value):
    """A task, and whether it works on this machine."""

    task: str
    works: bool
    reason: str = ""
    """Why the task does not work, or the device that does it."""


class Diagnosis(Value):
    """All findings, in the order in which they are shown."""

    schema_: Literal["pargate/doctor/1"] = Field(alias="schema")
    pargate: str
    """Version of pargate."""
    facts: tuple[Fact, ...]
    abilities: tuple[Ability, ...]
    ready: bool
    """Whether `pargate scan` works here and, under --ci, whether this job may continue."""


TORCH_FLOOR = (2, 11)
"""Lowest version, as in pyproject.toml; below 2.10 a weights file can corrupt memory."""

EXTRAS = {
    "diffusers": ("diffusers", "transformers"),
    "parquet": ("pyarrow",),
    "ray": ("ray",),
    "scanners": ("picklescan", "fickling", "modelscan"),
    "screen": ("faiss-cpu", "scikit-learn"),
    "sign": ("model-signing", "pyopenssl"),
    "transformers": ("transformers",),
}
"""Distributions of each extra, as in pyproject.toml."""

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

PATIENCE_S = 180.0
"""Maximum seconds for one library; from a cold disk torch takes most of a minute."""

LOW_BYTES = 5 << 30
"""Free disk space that a gate of a large model may need, in bytes."""

Answer = dict[str, Any]
Ask = Callable[[str], Answer]


def ask(question: str) -> Answer:
    """Return the answer of a child process, or {"error": …}."""
    command = [sys.executable, "-P", "-m", "pargate.doctor.libraries", question]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {PATIENCE_S:.0f} s"}
    try:
        answer = json.loads(done.stdout.decode(errors="replace").splitlines()[-1])
    except (ValueError, IndexError):
        answer = None
    return answer if isinstance(answer, dict) else {"error": f"importing it ended the process with {done.returncode}"}


def examine(
    cache: Path | None,
    environ: Mapping[str, str],
    *,
    ci: bool,
    refused: str | None,
    ask: Ask = ask,
    tell: Callable[[Fact], None] = lambda fact: None,
) -> Diagnosis:
    """Run all checks; with `ci` also those of a GitHub runner.

    `refused` says why this job must not continue. `tell` is called with each fact once it is known, in order. A broken
    machine raises no error.
    """
    facts: list[Fact] = []

    def add(found: Iterable[Fact]) -> None:
        for fact in found:
            tell(fact)
            facts.append(fact)

    with ThreadPoolExecutor(max_workers=3) as asking:
        answers = asking.map(ask, ("torch", "open_clip", "onnxruntime"))
        torch = next(answers)
        add(_of_torch(torch))
        clip = next(answers)
        add(_of_clip(clip))
        onnx = next(answers)
        add(_of_onnx(onnx, torch))
    add(_of_extras())
    add(of_the_machine(torch, environ))
    add(of_the_disk(cache))
    if refused is not None:
        add([_fact("job", Condition.BROKEN, refused)])
    if ci:
        add(of_the_runner(environ))
    abilities = tuple(_abilities(torch, clip, onnx))
    scans = next(ability.works for ability in abilities if ability.task == "scan")
    stopped = any(fact.condition is Condition.BROKEN and fact.subject in ("job", "runner") for fact in facts)
    return Diagnosis(
        schema="pargate/doctor/1",
        pargate=__version__,
        facts=tuple(facts),
        abilities=abilities,
        ready=scans and not stopped,
    )


def _fact(subject: str, condition: Condition, message: str, hint: str = "") -> Fact:
    return Fact(subject=subject, condition=condition, message=message, hint=hint)


def _ability(task: str, works: bool, reason: str) -> Ability:
    return Ability(task=task, works=works, reason=reason)


def _of_torch(torch: Answer) -> Iterator[Fact]:
    if "error" in torch:
        yield _fact(
            "torch",
            Condition.BROKEN,
            f"cannot be used: {torch['error']}",
            "install it again: pip install --force-reinstall torch",
        )
        return
    floor = ".".join(map(str, TORCH_FLOOR))
    if _too_old(torch["version"]):
        yield _fact(
            "torch",
            Condition.BROKEN,
            f"{torch['version']} is older than {floor}",
            f"pip install 'torch>={floor}': with older versions a weights file can corrupt memory",
        )
    else:
        built = f"built for CUDA {torch['cuda']}" if torch["cuda"] else "built without CUDA"
        yield _fact("torch", Condition.GOOD, f"{torch['version']}, {built}")
    driver = _driver()
    if not torch["devices"]:
        message = "torch can use no CUDA device" + (f", although driver {driver} is installed" if driver else "")
        yield _fact(
            "GPU",
            Condition.WARNING if driver else Condition.NOTICE,
            message,
            "install a torch whose CUDA version the driver supports" if driver else "",
        )
    for number, device in enumerate(torch["devices"]):
        size = f"{device['memory_bytes'] / 2**30:.0f} GiB"
        message = f"cuda:{number} {device['name']}, {size}" + (f", driver {driver}" if driver else "")
        if device["error"]:
            message += f"; it cannot be used: {device['error']}"
        condition = Condition.BROKEN if device["error"] else Condition.GOOD
        yield _fact("GPU", condition, message)


def _too_old(torch: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", torch)
    return found is None or (int(found[1]), int(found[2])) < TORCH_FLOOR


def _driver() -> str:
    """Return the version of NVIDIA's driver, or an empty text."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=20, check=False, text=True, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else ""


def _of_clip(clip: Answer) -> Iterator[Fact]:
    if "error" in clip:
        yield _fact(
            "open_clip", Condition.BROKEN, f"cannot be used: {clip['error']}", "pip install --force-reinstall pargate"
        )
    else:
        yield _fact("open_clip", Condition.GOOD, clip["version"])


def _of_onnx(onnx: Answer, torch: Answer) -> Iterator[Fact]:
    both = [name for name in RUNTIMES if _version(name)]
    if len(both) > 1:
        yield _fact(
            "ONNX Runtime",
            Condition.WARNING,
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install onnxruntime-gpu alone "
            "(onnxruntime alone where there is no NVIDIA GPU)",
        )
    if "error" in onnx:
        yield _fact("ONNX Runtime", Condition.BROKEN, f"cannot be used: {onnx['error']}")
        return
    running = [name for name, runs in onnx["providers"].items() if runs]
    listed = [name for name, runs in onnx["providers"].items() if not runs]
    message = f"{onnx['version']}, runs on {', '.join(running) or 'nothing'}"
    if listed:
        message += f"; built in, but not running here: {', '.join(listed)}"
    yield _fact("ONNX Runtime", Condition.GOOD if CPU in running else Condition.BROKEN, message)
    ours, theirs = str(torch.get("cuda") or "").partition(".")[0], str(onnx["cuda"] or "").partition(".")[0]
    if ours and theirs and ours != theirs:
        condition = Condition.WARNING if torch["devices"] else Condition.NOTICE
        yield _fact(
            "CUDA",
            condition,
            f"torch is built for CUDA {torch['cuda']}, ONNX Runtime for CUDA {onnx['cuda']}",
            "graphs run on the CPU until both have the same major version",
        )


def _version(name: str) -> str:
    """Return the version of an installed distribution, or an empty text."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _of_extras() -> Iterator[Fact]:
    for extra, names in EXTRAS.items():
        missing = [name for name in names if not _version(name)]
        yield _fact(
            f"pargate[{extra}]",
            Condition.NOTICE if missing else Condition.GOOD,
            f"not installed: {', '.join(missing)}" if missing else ", ".join(f"{n} {_version(n)}" for n in names),
            f"if you need it: pip install 'pargate[{extra}]'" if missing else "",
        )


def _abilities(torch: Answer, clip: Answer, onnx: Answer) -> Iterator[Ability]:
    trouble = torch.get("error") or clip.get("error") or ""
    if not trouble and _too_old(torch["version"]):
        trouble = f"torch {torch['version']} is too old"
    usable = [f"cuda:{n} {d['name']}" for n, d in enumerate(torch.get("devices", [])) if not d["error"]]
    graphs = onnx.get("providers", {})
    yield _ability("scan", not trouble, trouble)
    for task in ("scan on a GPU", "clean on a GPU"):
        yield _ability(task, bool(usable) and not trouble, trouble or ", ".join(usable) or "no CUDA device")
    runs = bool(graphs.get(CPU))
    yield _ability(
        "export, and scan graphs",
        runs and not trouble,
        trouble or ("" if runs else onnx.get("error", "ONNX Runtime does not run")),
    )
    on_gpu = bool(graphs.get(CUDA))
    yield _ability(
        "scan graphs on a GPU", on_gpu and not trouble, trouble or ("" if on_gpu else f"{CUDA} does not run")
    )
    for task, extra in (
        ("sign", "sign"),
        ("generate image-text pairs by diffusion", "diffusers"),
        ("read images from Parquet", "parquet"),
        ("screen image-text pairs", "screen"),
        ("read tokenizers and text towers of transformers", "transformers"),
    ):
        there = all(map(_version, EXTRAS[extra]))
        yield _ability(task, there, "" if there else f"pargate[{extra}] is not installed")


def of_the_machine(torch: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[Fact]:
    """Yield the finding on processors and threads."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    message = f"{processors} processors"
    if "threads" in torch:
        message += f", torch uses {torch['threads']} threads"
    if environ.get("OMP_NUM_THREADS"):
        message += f" (OMP_NUM_THREADS={environ['OMP_NUM_THREADS']})"
    many = torch.get("threads", 0) > processors
    yield _fact(
        "threads",
        Condition.WARNING if many else Condition.GOOD,
        message,
        f"set OMP_NUM_THREADS={processors}: more threads than processors wait for each other" if many else "",
    )


def of_the_disk(cache: Path | None) -> Iterator[Fact]:
    """Yield the findings on the cache and on the free disk space."""
    if cache is None:
        yield _fact("cache", Condition.NOTICE, "off: every scan measures everything")
    else:
        size, files = _size(cache)
        held = f"{size / 1e6:.0f} MB in {files} file{'' if files == 1 else 's'}" if files else "empty"
        yield _fact("cache", Condition.GOOD, f"{cache}: {held}")
    here = Path.cwd()
    for name, folder in (("cache disk", cache), ("working folder", here)):
        place = next((p for p in (folder, *folder.absolute().parents) if p.is_dir()), None) if folder else None
        if place is None:
            continue
        free = shutil.disk_usage(place).free
        low, writable = free < LOW_BYTES, os.access(place, os.W_OK)
        message = f"{free / 2**30:.1f} GiB free" + ("" if writable else f"; {place} cannot be written")
        hint = "free space: a gate of a large model may need it" if low else ""
        if not writable:
            hint = "choose another with --cache" if name == "cache disk" else "change to a folder that you can write"
        condition = Condition.WARNING if low or not writable else Condition.GOOD
        yield _fact(name, condition, message, hint)


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
    """Yield the findings on a GitHub runner, without which results would be lost."""
    missing = [] if environ.get("GITHUB_ACTIONS") == "true" else ["GITHUB_ACTIONS"]
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "RUNNER_TEMP", "GITHUB_WORKSPACE"):
        value = environ.get(name)
        if not value or not os.access(value, os.W_OK):
            missing.append(name)
    kind = environ.get("RUNNER_ENVIRONMENT") or "of unknown kind"
    if missing:
        yield _fact(
            "runner",
            Condition.BROKEN,
            f"not set, or not writable: {', '.join(missing)}",
            "use --ci in jobs of GitHub Actions only",
        )
    else:
        yield _fact("runner", Condition.GOOD, f"{environ.get('RUNNER_OS', '')} {kind}".strip())
    if not sys.flags.safe_path:
        yield _fact(
            "Python",
            Condition.WARNING,
            "a file torch.py in the repository would replace the library",
            "start it as `python -P -m pargate`",
        )
