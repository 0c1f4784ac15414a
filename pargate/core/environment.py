"""The libraries and the machine that a result was measured with."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from pargate.registry import Plugin

LIBRARIES = ("torch", "open_clip_torch", "numpy", "pillow")


def host() -> str:
    """Return the kind of machine: system, architecture, processors; no name."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"


def versions(plugins: Iterable[Plugin] = ()) -> dict[str, str]:
    """Return every library that can decide a result, and the distributions of `plugins`, with their versions."""
    found = {plugin.distribution: plugin.version for plugin in plugins}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
