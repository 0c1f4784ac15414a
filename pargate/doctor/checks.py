"""What this machine has, and what therefore works and what does not.

Nothing heavy is imported here: each library is asked in a process of its own (`vitals`), so that one that is broken,
or ends its process, is a finding like any other. Nothing is changed, and nothing is fetched.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pargate.doctor.diagnosis import Ability, Condition, Diagnosis, Fact
from pargate.doctor.machine import of_the_disk, of_the_machine, of_the_runner
from pargate.version import __version__

TORCH_FLOOR = (2, 11)
"""As in pyproject.toml; below 2.10 even the weights-only reader can be made to corrupt memory."""

EXTRAS = {
    "diffusers": ("diffusers", "transformers"),
    "parquet": ("pyarrow",),
    "sign": ("model-signing", "pyopenssl"),
}
"""The distributions of each extra, as in pyproject.toml."""

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

PATIENCE_S = 180.0
"""For one library; from a cold disk torch takes most of a minute."""

Answer = dict[str, Any]
Ask = Callable[[str], Answer]


def ask(question: str) -> Answer:
    """The answer of a process of its own; {"error": …} where it gave none."""
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
    cache: Path | None, environ: Mapping[str, str], *, ci: bool, refused: str | None, ask: Ask = ask
) -> Diagnosis:
    """Look at everything once; `ci` also at what a runner of GitHub has to offer.

    `refused` says why this job must not go on, if it must not. Raises nothing that a broken machine could cause.
    """
    with ThreadPoolExecutor(max_workers=3) as asking:
        torch, clip, onnx = asking.map(ask, ("torch", "open_clip", "onnxruntime"))
    facts = [
        *_of_torch(torch),
        *_of_clip(clip),
        *_of_onnx(onnx, torch),
        *_of_extras(),
        *of_the_machine(torch, environ),
        *of_the_disk(cache),
    ]
    if refused is not None:
        facts.append(Fact(subject="job", condition=Condition.BROKEN, message=refused))
    if ci:
        facts += of_the_runner(environ)
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


def _of_torch(torch: Answer) -> Iterator[Fact]:
    if "error" in torch:
        yield Fact(
            subject="torch",
            condition=Condition.BROKEN,
            message=f"cannot be used: {torch['error']}",
            hint="install it again: pip install --force-reinstall torch",
        )
        return
    floor = ".".join(map(str, TORCH_FLOOR))
    if _too_old(torch["version"]):
        yield Fact(
            subject="torch",
            condition=Condition.BROKEN,
            message=f"{torch['version']} is older than {floor}",
            hint=f"pip install 'torch>={floor}': older ones can be made to corrupt memory by a weights file",
        )
    else:
        built = f"built for CUDA {torch['cuda']}" if torch["cuda"] else "built for processors alone"
        yield Fact(subject="torch", condition=Condition.GOOD, message=f"{torch['version']}, {built}")
    driver = _driver()
    if not torch["devices"]:
        message = "no CUDA device that torch can use" + (f", though a driver is there ({driver})" if driver else "")
        yield Fact(
            subject="GPU",
            condition=Condition.WARNING if driver else Condition.NOTICE,
            message=message,
            hint="compare the CUDA of torch with the newest that the driver supports" if driver else "",
        )
    for number, device in enumerate(torch["devices"]):
        size = f"{device['memory_bytes'] / 2**30:.0f} GiB"
        message = f"cuda:{number} {device['name']}, {size}" + (f", driver {driver}" if driver else "")
        if device["error"]:
            message += f"; it cannot be used: {device['error']}"
        condition = Condition.BROKEN if device["error"] else Condition.GOOD
        yield Fact(subject="GPU", condition=condition, message=message)


def _too_old(torch: str) -> bool:
    found = re.match(r"(\d+)\.(\d+)", torch)
    return found is None or (int(found[1]), int(found[2])) < TORCH_FLOOR


def _driver() -> str:
    """The version of NVIDIA's driver, or an empty text."""
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
        yield Fact(
            subject="open_clip",
            condition=Condition.BROKEN,
            message=f"cannot be used: {clip['error']}",
            hint="pip install --force-reinstall pargate",
        )
    else:
        yield Fact(subject="open_clip", condition=Condition.GOOD, message=clip["version"])


def _of_onnx(onnx: Answer, torch: Answer) -> Iterator[Fact]:
    both = [name for name in RUNTIMES if _version(name)]
    if len(both) > 1:
        yield Fact(
            subject="ONNX Runtime",
            condition=Condition.WARNING,
            message="both onnxruntime and onnxruntime-gpu are installed, in one folder: the last one won",
            hint="pip uninstall -y onnxruntime onnxruntime-gpu, then install onnxruntime-gpu alone "
            "(onnxruntime alone where there is no NVIDIA GPU)",
        )
    if "error" in onnx:
        yield Fact(subject="ONNX Runtime", condition=Condition.BROKEN, message=f"cannot be used: {onnx['error']}")
        return
    running = [name for name, runs in onnx["providers"].items() if runs]
    listed = [name for name, runs in onnx["providers"].items() if not runs]
    message = f"{onnx['version']}, runs on {', '.join(running) or 'nothing'}"
    if listed:
        message += f"; built in, but not running here: {', '.join(listed)}"
    yield Fact(
        subject="ONNX Runtime",
        condition=Condition.GOOD if CPU in running else Condition.BROKEN,
        message=message,
    )
    ours, theirs = str(torch.get("cuda") or "").partition(".")[0], str(onnx["cuda"] or "").partition(".")[0]
    if ours and theirs and ours != theirs:
        condition = Condition.WARNING if torch["devices"] else Condition.NOTICE
        yield Fact(
            subject="CUDA",
            condition=condition,
            message=f"torch is built for CUDA {torch['cuda']}, ONNX Runtime for CUDA {onnx['cuda']}",
            hint="graphs run on processors until both are of one major version",
        )


def _version(name: str) -> str:
    """The version of an installed distribution, or an empty text."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _of_extras() -> Iterator[Fact]:
    for extra, names in EXTRAS.items():
        missing = [name for name in names if not _version(name)]
        yield Fact(
            subject=f"pargate[{extra}]",
            condition=Condition.NOTICE if missing else Condition.GOOD,
            message=f"not installed: {', '.join(missing)}"
            if missing
            else ", ".join(f"{n} {_version(n)}" for n in names),
            hint=f"pip install 'pargate[{extra}]', if it is wanted" if missing else "",
        )


def _abilities(torch: Answer, clip: Answer, onnx: Answer) -> Iterator[Ability]:
    trouble = torch.get("error") or clip.get("error") or ""
    if not trouble and _too_old(torch["version"]):
        trouble = f"torch {torch['version']} is too old"
    usable = [f"cuda:{n} {d['name']}" for n, d in enumerate(torch.get("devices", [])) if not d["error"]]
    graphs = onnx.get("providers", {})
    yield Ability(task="scan", works=not trouble, reason=trouble)
    for task in ("scan on a GPU", "clean on a GPU"):
        yield Ability(
            task=task, works=bool(usable) and not trouble, reason=trouble or ", ".join(usable) or "no CUDA device"
        )
    runs = bool(graphs.get(CPU))
    yield Ability(
        task="export, and scan graphs",
        works=runs and not trouble,
        reason=trouble or ("" if runs else onnx.get("error", "ONNX Runtime does not run")),
    )
    on_gpu = bool(graphs.get(CUDA))
    yield Ability(
        task="scan graphs on a GPU",
        works=on_gpu and not trouble,
        reason=trouble or ("" if on_gpu else f"{CUDA} does not run"),
    )
    for task, extra in (
        ("sign", "sign"),
        ("draw pairs by diffusion", "diffusers"),
        ("read pairs from Parquet", "parquet"),
    ):
        there = all(map(_version, EXTRAS[extra]))
        yield Ability(task=task, works=there, reason="" if there else f"pargate[{extra}] is not installed")
