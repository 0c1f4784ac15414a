"""pargate: a gate that CLIP-style checkpoints pass, or fail, on measured attack success.

`pargate.scan(ScanRequest(...))` returns the same report that the command prints, and
`pargate.judge(report, policy, today=...)` that report under another policy.
"""

from typing import Any

from pargate.version import __version__

__all__ = ["ScanRequest", "__version__", "judge", "scan"]

_PLACES = {
    "scan": "pargate.scanning.run",
    "ScanRequest": "pargate.scanning.run",
    "judge": "pargate.judge.rejudge",
}


def __getattr__(name: str) -> Any:
    # On first use: importing pargate stays cheap, and torch is not loaded by a version check.
    if name not in _PLACES:
        raise AttributeError(f"module 'pargate' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
