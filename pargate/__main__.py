"""The command `pargate`, and `python -m pargate`."""

import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn

from pargate.ending import end_with


def main() -> NoReturn:
    """Run the command line, and end with the code of the table in `errors.py`."""
    end_with(_load)


def _load() -> Callable[[], int]:
    from pargate.cli.app import run

    return partial(run, sys.argv[1:])


if __name__ == "__main__":
    main()
