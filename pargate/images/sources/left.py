"""Read a list of the pairs that a screening leaves: another source, and the names of the pairs that are left out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from pargate.core.value import Value
from pargate.errors import InputError
from pargate.files import read_bytes, readable
from pargate.images.dataset import Dataset, Listed, Split
from pargate.images.opening import SOURCES, Source, Wanted, open_wanted


class LeftPairs(Value):
    """The pairs of a source without some."""

    schema_: Literal["pargate/left/1"] = Field(alias="schema")
    source: str
    """The source, with an absolute path."""
    sha256: str
    """Digest of the source's pairs."""
    without: tuple[str, ...]
    """Names of the pairs that are left out."""


@SOURCES.add("left")
class Left(Source):
    """The pairs of another source without those that a list names."""

    suffixes = (".pairs",)

    def list(self, wanted: Wanted, paths: Sequence[Path]) -> Dataset:
        """Return the pairs that are left; raise if the source changed since it was screened."""
        (path,) = paths
        if not wanted.pairs:
            raise InputError(f"{path} is a list of image-text pairs", "give images")
        try:
            left = LeftPairs.model_validate_json(read_bytes(path))
        except ValidationError as error:
            raise InputError(f"{path} is no list that `pargate screen` wrote", "screen the pairs again") from error
        if Path(left.source).suffix == path.suffix:
            raise InputError(f"{path} names {readable(left.source)}, another such list", "screen the pairs themselves")
        found = open_wanted(replace(wanted, source=left.source))
        if not isinstance(found, Listed) or found.digest != left.sha256:
            raise InputError(
                f"{readable(left.source)} is not as it was when it was screened for {path}", "screen the pairs again"
            )
        without = frozenset(left.without)
        if unknown := without - set(found.keys):
            raise InputError(
                f"{path} names {readable(min(unknown))}, which {readable(left.source)} lacks", "screen it again"
            )
        kept = frozenset(found.keys) - without
        if not kept:
            raise InputError(f"{path} leaves no pair", "choose other pairs")
        some = found.take(Split("left", 0, kept, left.sha256))
        return replace(some, source=wanted.source, files=(*found.files, (path.name, path)))
