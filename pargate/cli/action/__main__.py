"""`python -P -m pargate.cli.action`."""

from collections.abc import Callable

from pargate.cli.ending import end_with


def _load() -> Callable[[], int]:
    from pargate.cli.action.use import main

    return main


if __name__ == "__main__":
    end_with(_load)
