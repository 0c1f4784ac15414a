"""Names of models that lie in two places: `BASE+ADAPTER`, the model that an adapter of PEFT makes of its base."""

import os
from pathlib import Path

from pargate import limits
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.files import portable
from pargate.models.located import HUB_PREFIXES

SEPARATOR = "+"

ADAPTER_CONFIG = "adapter_config.json"
"""File that makes a folder an adapter."""


def divided(source: str, folder: Path = Path()) -> tuple[str, str] | None:
    """Return the base and the adapter that `source` names as `BASE+ADAPTER`, or None if it names one model.

    What exists is never divided, and what follows the separator must be an adapter, so that both may contain it. Paths
    are relative to `folder`.

    Raises:
        InputError: it can be divided in two ways.
    """
    if SEPARATOR not in source or os.path.lexists(folder / source):
        return None
    ways = [
        (source[:at], source[at + 1 :])
        for at, letter in enumerate(source)
        if at and letter == SEPARATOR and os.path.isfile(folder / source[at + 1 :] / ADAPTER_CONFIG)  # noqa: PTH113 - no error
    ]
    if len(ways) > 1:  # one of them may name no base
        ways = [way for way in ways if way[0].startswith(HUB_PREFIXES) or os.path.lexists(folder / way[0])] or ways
    if len(ways) > 1:
        raise InputError(
            f"{source} can be divided into a base and an adapter in several ways",
            f"give a path without {SEPARATOR}: a link, or another name",
        )
    return ways[0] if ways else None


def refuse_adapter(folder: Path, advice: str) -> None:
    """Raise if an adapter lies beside weights, which transformers then reads with it; `advice` says what to do.

    Raises:
        UnsafeCheckpoint: as above.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        raise UnsafeCheckpoint(
            f"{folder} means different models to different readers: {ADAPTER_CONFIG} beside the weights makes "
            "transformers load the base that it names, with an adapter, where PEFT is installed",
            advice,
        )


def parts(source: str, folder: Path = Path()) -> list[str]:
    """Return the name of the base and of each adapter on it, or the name of the one model, with paths as in `divided`.

    Raises:
        InputError: as `divided`, or there are too many adapters.
    """
    base, adapters = source, list[str]()
    while two := divided(base, folder):
        base = two[0]
        adapters.insert(0, two[1])
        if len(adapters) > limits.ADAPTERS:
            raise InputError(f"{source[:80]} names more than {limits.ADAPTERS} adapters", "merge some of them first")
    return [base, *adapters]


def portable_name(source: str) -> str:
    """Return the name of a model as text that is the same on every machine, as `files.portable`."""
    return SEPARATOR.join(portable(part) for part in parts(source))
