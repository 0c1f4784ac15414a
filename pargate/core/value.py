"""The base class of all documents that pargate writes."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """Frozen, without unknown fields, and with finite numbers: a document reads back as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
