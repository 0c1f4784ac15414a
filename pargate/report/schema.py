"""The JSON Schema of reports, for those who read them with other tools than pargate."""

from typing import Any

from pargate.core.report import SCHEMA, ScanReport


def schema() -> dict[str, Any]:
    """Draft 2020-12, generated from the values themselves; `pargate/report/pargate-report-1.schema.json` is a copy."""
    found = ScanReport.model_json_schema(by_alias=True, mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{SCHEMA.replace('/', ':')}",
        **found,
    }
