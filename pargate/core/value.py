"""The base of every value that leaves the process."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """Frozen, with no room for unknown fields, and every number finite: what was written reads back equal."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
