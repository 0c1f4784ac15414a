"""Tables of trusted models: how far a search moved each, so that another model can be ranked among them.

The statistic of a model is its largest shift: over the families of a rule, the largest ‖mean change of the unit
embeddings‖² that the search reached on the images that it held out. It depends on the model and on `Conditions` alone.
Under the same conditions a model that is as honest as those of the table is as likely as each of them to have the
largest statistic, so that its rank is a conformal p-value (Vovk, Gammerman and Shafer 2005; Bates et al.
2023, "Testing for outliers with conformal p-values").
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pargate import limits
from pargate.core.found import PASSES, Family
from pargate.core.model import Checkpoint
from pargate.core.value import Value
from pargate.errors import InputError, visible_json
from pargate.files import digest_of, read_bytes

SCHEMA = "pargate/calibration/1"

SCHEMA_FILE = "pargate-calibration-1.schema.json"
"""Name of the JSON Schema, which lies beside this module."""

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Conditions(Value):
    """Everything besides the model that a shift depends on."""

    pargate: str
    """Version; another one may search in another way."""
    seed: Annotated[int, Field(ge=0)]
    precision: str
    """Arithmetic of the image tower."""
    images: Hex
    """Digest of the images that were searched on, as `digest_of_images` gives it."""


class TrustedModel(Value):
    """A model of a table."""

    name: str
    sha256: Hex
    """SHA-256 of the weights."""
    architecture: str
    """Architecture, for people."""
    shapes: Hex
    """Digest of the shapes of all tensors, as `digest_of_shapes` gives it; the same for one architecture."""
    shifts: dict[Family, Annotated[float, Field(ge=0)]]
    """Largest shift on held-out images that the search of each family reached."""


class Calibration(Value):
    """The content of a table."""

    schema_: Literal["pargate/calibration/1"] = Field(default="pargate/calibration/1", alias="schema")
    conditions: Conditions
    image_source: str
    """Source of the images, for people."""
    passes: dict[Family, int]
    """Families that were searched, each with the images that went through the tower for it."""
    models: Annotated[tuple[TrustedModel, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not self.passes:
            raise ValueError("it has no families")
        if len({model.sha256 for model in self.models}) < len(self.models):
            raise ValueError("two of its models have the same weights")
        for model in self.models:
            if model.shifts.keys() != self.passes.keys():
                raise ValueError(f"{model.name} has not one shift for each family")
        return self

    def to_json(self) -> str:
        """Return indented JSON text with a final newline."""
        return visible_json(self.model_dump_json(by_alias=True, indent=1)) + "\n"

    def largest(self, checkpoint: Checkpoint, families: Iterable[Family]) -> tuple[float, ...]:
        """Return the largest shift of each other model of the checkpoint's architecture."""
        shapes, wanted = digest_of_shapes(checkpoint), tuple(families)
        return tuple(
            max(model.shifts[family] for family in wanted)
            for model in self.models
            if model.shapes == shapes and model.sha256 != checkpoint.sha256
        )

    def check(self, path: str, families: Iterable[Family], conditions: Conditions) -> None:
        """Raise if the table does not hold what a search of `families` under `conditions` would find.

        Raises:
            InputError: as above; `path` names the table.
        """
        for family in families:
            if self.passes.get(family) != PASSES[family]:
                raise InputError(
                    f"the calibration table {path} was made by a search of {', '.join(self.passes)}, and not by this "
                    f"one of {family}",
                    "make it again with pargate calibrate --families",
                )
        pairs = zip(self.conditions, conditions, strict=True)
        differing = [
            f"{name} {str(was)[:12]} instead of {str(now)[:12]}" for (name, was), (_, now) in pairs if was != now
        ]
        if differing:
            raise InputError(
                f"the calibration table {path} does not fit this scan: it was made with {', '.join(differing)} "
                f"(images of {self.image_source})",
                "scan as the table was made, or make it again with pargate calibrate",
            )


@dataclass(frozen=True, slots=True)
class Trusted:
    """The models of a table that a scanned model is ranked among."""

    table: str
    """Digest of the table."""
    families: tuple[Family, ...]
    """Families of the rule."""
    largest: tuple[float, ...]
    """Largest shift of each model over these families."""


def digest_of_images(digests: Sequence[str]) -> str:
    """Return the hex SHA-256 over the digests of images in their order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def digest_of_shapes(checkpoint: Checkpoint) -> str:
    """Return the hex SHA-256 over the shapes of all tensors of a checkpoint."""
    return digest_of(sorted(tensor.shape for tensor in checkpoint.tensors))


def read_table(path: Path, wanted: str) -> Calibration:
    """Return the table in a file, if it has the digest `wanted`, `sha256:` and 64 hexadecimal digits.

    Raises:
        InputError: the file is missing, altered or no table.
    """
    try:
        content = read_bytes(path, limits.CALIBRATION_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise InputError(f"cannot read the calibration table {path}: {reason}", "make it with pargate calibrate") from (
            error
        )
    found = table_digest(content)
    if found != wanted:
        raise InputError(
            f"the calibration table {path} was altered or is another one: its digest is {found}, not {wanted}",
            "restore it, or review it and change the digest",
        )
    try:
        return Calibration.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        said = str(first["msg"]).removeprefix("Value error, ")
        raise InputError(
            f"{path} is no calibration table: {where}: {said}", "give a file of pargate calibrate"
        ) from error


def table_digest(content: bytes) -> str:
    """Return the digest of a table by the content of its file, as a policy writes it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a table, draft 2020-12."""
    found = Calibration.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{SCHEMA.replace('/', ':')}",
        **found,
    }
