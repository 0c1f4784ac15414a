"""The libraries and the machine that a result was measured with."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("torch", "open_clip_torch", "numpy", "pillow")


def host() -> str:
    """Kind of machine: system, architecture, processors; no name."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"


def versions() -> dict[str, str]:
    """Every library that can decide a result, with its version."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
