"""The JSON Schema of reports."""

from typing import Any

from pargate.core.report import SCHEMA, ScanReport


def schema() -> dict[str, Any]:
    """Return the JSON Schema, draft 2020-12, of `ScanReport`."""
    found = ScanReport.model_json_schema(by_alias=True, mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{SCHEMA.replace('/', ':')}",
        **found,
    }
