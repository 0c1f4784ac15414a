"""`python -P -m pargate.github`."""

from collections.abc import Callable

from pargate.ending import end_with


def _load() -> Callable[[], int]:
    from pargate.github.action import main

    return main


if __name__ == "__main__":
    end_with(_load)
