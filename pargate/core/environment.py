"""Libraries and machine of a measurement."""

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
    """Return the versions of every library that can change a result, and of the distributions of `plugins`."""
    found = {plugin.distribution: plugin.version for plugin in plugins}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
