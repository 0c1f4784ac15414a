"""The base class of all documents that pargate writes."""

import re
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from pargate import limits

_LONG = re.compile(rb"[:,\[]\s*-?\d{%d}" % (limits.DIGITS + 1))


class Value(BaseModel):
    """Frozen, without unknown fields, and with finite numbers: a document reads back as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Return the document in JSON; one of more bytes, values or digits than `limits` allow is not read.

        Raises:
            ValidationError: it is too large, or not such a document.
        """
        content = json_data.encode() if isinstance(json_data, str) else bytes(json_data)
        excess = (
            f"larger than {limits.DOCUMENT_BYTES >> 20} MiB"
            if len(content) > limits.DOCUMENT_BYTES
            else f"more than {limits.DOCUMENT_VALUES} values"
            if content.count(b",") > limits.DOCUMENT_VALUES
            else f"a whole number of more than {limits.DIGITS} digits"
            if _LONG.search(content)
            else ""
        )
        if excess:
            problem = InitErrorDetails(type=PydanticCustomError("excess", "{it}", {"it": excess}), loc=(), input=None)
            raise ValidationError.from_exception_data(cls.__name__, [problem])
        return super().model_validate_json(content, **options)
