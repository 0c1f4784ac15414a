import json
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pargate.doctor import checks as doctor
from pargate.doctor.checks import CPU, CUDA, EXTRAS, TORCH_FLOOR, Condition, Diagnosis, Fact, ask, examine

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

GPU = {"name": "NVIDIA H100", "memory_bytes": 80 << 30, "error": ""}
TORCH: dict[str, Any] = {"version": "2.15.0+cu132", "cuda": "13.2", "threads": 1, "devices": []}
CLIP = {"version": "3.3.0"}
ONNX: dict[str, Any] = {"version": "1.31.1", "onnx": "1.22.0", "cuda": "13.0", "providers": {CUDA: False, CPU: True}}


def examined(
    torch: Mapping[str, Any] = TORCH,
    clip: Mapping[str, Any] = CLIP,
    onnx: Mapping[str, Any] = ONNX,
    *,
    cache: Path | None = None,
    environ: Mapping[str, str] | None = None,
    ci: bool = False,
    refused: str | None = None,
) -> Diagnosis:
    answers = {"torch": dict(torch), "open_clip": dict(clip), "onnxruntime": dict(onnx)}
    return examine(cache, environ or {}, ci=ci, refused=refused, ask=answers.__getitem__)


def fact(found: Diagnosis, subject: str) -> Fact:
    return next(fact for fact in found.facts if fact.subject == subject)


def ability(found: Diagnosis, task: str) -> tuple[bool, str]:
    return next((a.works, a.reason) for a in found.abilities if a.task == task)


def test_floor_and_extras_are_those_of_the_project() -> None:
    (torch,) = (d for d in PROJECT["dependencies"] if d.startswith("torch>"))
    assert torch.partition(">=")[2] == ".".join(map(str, TORCH_FLOOR))
    named = {
        extra: tuple(re.split(r"[<>=;\[ ]", one)[0] for one in wanted)
        for extra, wanted in PROJECT["optional-dependencies"].items()
    }
    assert {extra: names for extra, names in named.items() if extra in EXTRAS} == EXTRAS
    assert set(named) == set(EXTRAS)


def test_a_machine_without_a_gpu_scans_and_does_not_clean_on_one() -> None:
    found = examined()
    assert found.ready
    assert ability(found, "scan") == (True, "")
    assert ability(found, "clean on a GPU") == (False, "no CUDA device")
    assert fact(found, "GPU").condition is Condition.NOTICE


def test_a_gpu_that_works_is_named() -> None:
    found = examined({**TORCH, "devices": [GPU]}, onnx={**ONNX, "providers": {CUDA: True, CPU: True}})
    assert ability(found, "clean on a GPU") == (True, "cuda:0 NVIDIA H100")
    assert ability(found, "scan graphs on a GPU") == (True, "")
    assert "80 GiB" in fact(found, "GPU").message


def test_a_gpu_that_is_listed_and_cannot_add_is_not_counted() -> None:
    found = examined({**TORCH, "devices": [{**GPU, "error": "no kernel image is available"}]})
    assert fact(found, "GPU").condition is Condition.BROKEN
    assert ability(found, "clean on a GPU") == (False, "no CUDA device")
    assert found.ready


@pytest.mark.parametrize("version", ["2.10.9", "1.13.1+cpu", "unknown"])
def test_a_torch_that_is_too_old_cannot_scan(version: str) -> None:
    found = examined({**TORCH, "version": version})
    assert fact(found, "torch").condition is Condition.BROKEN
    assert "2.11" in fact(found, "torch").hint
    assert not found.ready


@pytest.mark.parametrize("version", ["2.11.0", "2.15.0+cu132", "3.0.0a1"])
def test_a_torch_from_the_floor_on_is_good(version: str) -> None:
    assert examined({**TORCH, "version": version}).ready


def test_a_torch_that_cannot_be_imported_is_a_finding() -> None:
    found = examined({"error": "OSError: libcudart.so.13: cannot open shared object file"})
    assert "libcudart" in fact(found, "torch").message
    assert not found.ready
    assert ability(found, "scan")[0] is False


def test_an_open_clip_that_cannot_be_imported_stops_scans() -> None:
    assert not examined(clip={"error": "ImportError: x"}).ready


def test_graphs_need_a_provider_that_runs_and_scans_do_not() -> None:
    found = examined(onnx={"error": "ImportError: x"})
    assert found.ready
    assert ability(found, "export, and scan graphs") == (False, "ImportError: x")


def test_runtimes_for_different_cudas_are_told_apart() -> None:
    found = examined({**TORCH, "cuda": "12.8", "devices": [GPU]})
    assert fact(found, "CUDA").condition is Condition.WARNING
    assert "CUDA 12.8" in fact(found, "CUDA").message
    assert not [f for f in examined().facts if f.subject == "CUDA"]
    assert not [f for f in examined({**TORCH, "cuda": None}).facts if f.subject == "CUDA"]


def test_two_runtimes_in_one_folder_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda name: "1.0")
    found = examined()
    first = next(f for f in found.facts if f.subject == "ONNX Runtime")
    assert first.condition is Condition.WARNING
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in first.hint


def test_more_threads_than_processors_are_a_warning() -> None:
    found = examined({**TORCH, "threads": 10_000}, environ={"OMP_NUM_THREADS": "10000"})
    assert fact(found, "threads").condition is Condition.WARNING
    assert "OMP_NUM_THREADS=10000" in fact(found, "threads").message


def test_the_cache_is_measured(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert "empty" in fact(examined(cache=cache), "cache").message
    (cache / "ab").mkdir(parents=True)
    (cache / "ab" / "x.blk").write_bytes(bytes(3_000_000))
    assert "3 MB in 1 file" in fact(examined(cache=cache), "cache").message
    assert "off" in fact(examined(), "cache").message


def test_a_job_that_must_not_go_on_is_not_ready() -> None:
    found = examined(refused="this change comes from a fork")
    assert (found.ready, ability(found, "scan")[0]) == (False, True)
    assert fact(found, "job").message == "this change comes from a fork"


def test_a_runner_without_its_files_is_not_ready(tmp_path: Path) -> None:
    files = {"GITHUB_OUTPUT": tmp_path / "output", "GITHUB_STEP_SUMMARY": tmp_path / "summary"}
    for file in files.values():
        file.touch()
    environ = {"GITHUB_ACTIONS": "true", "RUNNER_TEMP": str(tmp_path), "GITHUB_WORKSPACE": str(tmp_path)}
    environ |= {name: str(file) for name, file in files.items()}
    assert examined(ci=True, environ=environ).ready
    for name in environ:
        found = examined(ci=True, environ={**environ, name: ""})
        assert (found.ready, name in fact(found, "runner").message) == (False, True)


def test_what_was_found_reads_back_equal() -> None:
    found = examined()
    assert Diagnosis.model_validate_json(found.model_dump_json(by_alias=True)) == found


# --- a process of its own ---


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("raise ImportError('no torch for you')", "ImportError: no torch for you"),
        ("raise OSError('libx.so: cannot open')\n", "OSError: libx.so"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import os; os._exit(7)", "ended the process with 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended the process with -11"),
        ("print('{}')\nraise RuntimeError", "RuntimeError"),
        ("__version__ = '1.0'", "AttributeError"),
    ],
)
def test_a_broken_library_is_an_answer(module: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]))
    assert said in ask("torch")["error"]


def test_onnx_runtime_is_asked_for_what_really_runs() -> None:
    answer = ask("onnxruntime")
    assert answer["providers"][CPU] is True
    assert json.dumps(answer)


def test_a_library_planted_in_the_working_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnx.py").write_text("raise RuntimeError('planted')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert "error" not in ask("onnxruntime"), sys.executable
