"""pargate: a gate that CLIP-style checkpoints pass, or fail, on measured attack success.

`pargate.scan("model/", policy="baseline")` returns the report that the command prints; docs/python.md is the page.
"""

from typing import TYPE_CHECKING, Any

from pargate.version import __version__

if TYPE_CHECKING:
    from pargate.api import Rate, Report, attack_success, par, rejudge, scan, stamp

__all__ = ["Rate", "Report", "__version__", "attack_success", "par", "rejudge", "scan", "stamp"]


def __getattr__(name: str) -> Any:
    # On first use: importing pargate stays cheap, and torch is not loaded by a version check.
    if name not in __all__:
        raise AttributeError(f"module 'pargate' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("pargate.api"), name)
