"""Pictures that do something to the worker that reads them, at a moment that a test chooses."""

import os
import signal
import sys
import time
from pathlib import Path

from pargate.images.decode import Locator


class Slow(Locator):
    """Takes longer than any test waits; the file at `path` says that it has begun."""

    def read(self) -> bytes:
        begun(self.path)
        time.sleep(60)
        return b""


class Killed(Locator):
    """Ends its worker as the system does when memory runs out."""

    def read(self) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""


class Crashing(Locator):
    """Ends its worker as a decoder does that writes where it must not."""

    def read(self) -> bytes:
        os.kill(os.getpid(), signal.SIGSEGV)
        return b""


class Leaving(Locator):
    """Ends its worker as a library does that calls `exit`."""

    def read(self) -> bytes:
        os._exit(3)


class Full(Locator):
    """There is no memory for it."""

    def read(self) -> bytes:
        raise MemoryError("no room")


class HalfTold(Locator):
    """Ends its worker in the middle of its answer."""

    def read(self) -> bytes:
        tell_half()
        os._exit(0)


class HalfToldAndStopped(Locator):
    """Stops its worker in the middle of its answer."""

    def read(self) -> bytes:
        tell_half()
        begun(self.path)
        os.kill(os.getpid(), signal.SIGSTOP)
        return b""


def tell_half() -> None:
    """Write the beginning of an answer: more than a pipe holds, and less than was announced."""
    frame = sys._getframe()
    while frame.f_code.co_name != "spawn_main":
        assert frame.f_back is not None
        frame = frame.f_back
    size = 1 << 20
    os.write(frame.f_locals["answers"].fileno(), b"\x80\x05\x8e" + size.to_bytes(8, "little") + bytes(size // 2))


def begun(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
