"""The progress of importing torch and open_clip, which takes from seconds to a minute before a model opens."""

import sys
import threading
import time
from collections.abc import Callable

from pargate import events

MODULES = 2970
"""Number of modules of a process that has imported torch 2.15 and open_clip 3.3; other versions differ little."""

LAST = "open_clip"
"""Package that is imported last."""


class Imports:
    """A thread that tells how far the import is, from the begin of the stage `open` to the next event.

    Modules load at nearly equal pace, so their number tells the time that is left. A stage that imports nothing, since
    all vectors are cached or the packages are loaded, tells nothing.
    """

    def __init__(self, tell: Callable[[int, int, float], None], every: float) -> None:
        """Call `tell(done, total, left)` every so many seconds: modules, and the expected seconds that are left."""
        self._tell = tell
        self._every = every
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, event: events.Event) -> None:
        """Start or stop by an event of the run."""
        self.close()
        if isinstance(event, events.StageStarted) and event.stage == "open" and LAST not in sys.modules:
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop, and wait for the thread, so that it draws nothing behind the next event."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        first, began = len(sys.modules), time.monotonic()
        total = MODULES - first
        while not self._stop.wait(self._every):
            done = len(sys.modules) - first
            if 0 < done < total:
                self._tell(done, total, (time.monotonic() - began) * (total - done) / done)
