"""Libraries and machine of a measurement."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pargate.registry import Plugin

LIBRARIES = ("torch", "open_clip_torch", "numpy", "pillow")

TOWERS = ("timm", "torchvision", "transformers")
"""Libraries that some towers are made of."""

SETTINGS = ("ATEN_", "CUDA_", "DNNL_", "KMP_", "MKL_", "NVIDIA_", "OMP_", "ONEDNN_", "PYTORCH_", "TORCH_")
"""Beginnings of the names of variables that decide how torch computes."""


def host() -> str:
    """Return the kind of machine: system, architecture, processors; no name."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"


def computing() -> list[object]:
    """Return what decides how torch opens a model here: libraries, processor, GPUs, threads and settings."""
    facts = Path("/proc/cpuinfo")
    kinds = ("model name", "flags", "Features")
    lines = facts.read_text(errors="replace").splitlines() if facts.is_file() else [platform.processor()]
    cpus = sorted({line for line in lines if line.startswith(kinds)} or {platform.processor()})
    folder = Path("/proc/driver/nvidia/gpus")
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        versions(libraries=(*LIBRARIES, *TOWERS)), host(), cpus, ours,
        sorted(gpu.name for gpu in folder.iterdir()) if folder.is_dir() else [],
        sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(SETTINGS)),
    ]  # fmt: skip


def versions(plugins: Iterable[Plugin] = (), libraries: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Return the versions of every library that can change a result, and of the distributions of `plugins`."""
    found = {plugin.distribution: plugin.version for plugin in plugins}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
