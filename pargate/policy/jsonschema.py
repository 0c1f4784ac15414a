"""The JSON Schema of policies, for editors and for `pargate policy schema`.

Editors check one file before it extends another, and read scalars by YAML's rules, while `yaml.py` keeps them as text.
The schema therefore allows a number for a text and leaves out checks of the whole policy. It accepts some files that
`pargate policy check` refuses, and refuses no valid one.
"""

import ast
import inspect
import json
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from pargate.clean.methods.base import METHODS
from pargate.policy import schema as models
from pargate.policy.schema import Policy
from pargate.probes.base import PROBES
from pargate.triggers import TRIGGERS

NAME = "pargate-policy-1.schema.json"

ID = "urn:pargate:policy:1"

_NOTES = {"^x-": True}

_TEXT = ["string", "number", "boolean"]
"""JSON types of a text: YAML reads a class called 7 as a number."""


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a policy file, draft 2020-12."""
    made = Policy.model_json_schema(mode="validation")
    parts = made.pop("$defs")
    _describe(made, Policy)
    for name, part in parts.items():
        _describe(part, getattr(models, name, None))
    _shorten(made, parts)
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        **_walk(made),
        "title": "pargate policy",
        "required": ["pargate", "name"],
        # A policy that extends another needs no rules, and its rules need only an id.
        "anyOf": [
            {"required": ["extends"]},
            {"required": ["rules"], "properties": {"rules": {"items": {"required": ["probe"]}}}},
        ],
        "$defs": {name: _walk(part) for name, part in parts.items()} | {"Trigger": _trigger()},
    }
    whole["properties"]["confidence"]["default"] = "99%"
    whole["$defs"]["Rule"]["required"] = ["id"]
    return whole


def text() -> str:
    """Return the schema as JSON text."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _shorten(policy: dict[str, Any], parts: dict[str, Any]) -> None:
    """Add the short forms that a file may use, such as a name for a map with one key."""
    policy["properties"]["extends"]["anyOf"].insert(0, {"type": "string", "minLength": 1})
    parts["CleanSection"]["properties"]["pairs"]["anyOf"].insert(0, {"type": "string", "minLength": 1})
    parts["ExportSection"]["properties"]["onnx"]["anyOf"].insert(0, {"type": "boolean"})
    rule = parts["Rule"]["properties"]
    rule["triggers"]["items"] = {"$ref": "#/$defs/Trigger"}
    rule["probe"]["enum"] = list(PROBES)
    families = dict.fromkeys(family for probe in PROBES.values() for family in probe.families)
    rule["families"]["items"] = {"enum": list(families)}
    parts["CleanSection"]["properties"]["method"]["enum"] = list(METHODS)
    metrics = list(dict.fromkeys(metric for probe in PROBES.values() for metric in probe.metrics()))
    for limits in (rule["max"], rule["min"], rule["worsening"], parts["Waiver"]["properties"]["cap"]):
        limits["propertyNames"] = {"enum": metrics}


def _walk(node: Any) -> Any:
    """Adapt a node for editors: without titles and empty defaults, with `x-` notes, and with `_TEXT` for texts."""
    if isinstance(node, list):
        return [_walk(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: _walk(value) for key, value in node.items() if key not in ("title", "default", "properties")}
    if "properties" in node:
        found["properties"] = {key: _walk(value) for key, value in node["properties"].items()}
    if isinstance(node.get("default"), str | int | float):
        found["default"] = node["default"]
    if found.get("additionalProperties") is False:
        found["patternProperties"] = _NOTES
    if found.get("type") == "string" and not found.keys() & {"pattern", "format", "enum", "const"}:
        found["type"] = _TEXT
    return found


def _trigger() -> dict[str, Any]:
    """Return the schema of a trigger: a name, or a map with `kind` and the parameters of that kind."""
    kinds = list(TRIGGERS)
    parameters = [
        {
            "if": {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]},
            "then": {
                "properties": {
                    "kind": True,
                    **{
                        field.alias or name: {"description": field.description} if field.description else True
                        for name, field in cls.model_fields.items()
                    },
                },
                "additionalProperties": False,
            },
        }
        for kind, cls in TRIGGERS.items()
    ]
    return {
        "description": "A trigger by name, a map with its kind and parameters (`pargate triggers` lists them), or "
        "`pack:NAME` or `pack:NAME/TRIGGER` of a pack.",
        "anyOf": [
            {"enum": kinds},
            {"type": "string", "pattern": "^pack:."},
            {"type": "object", "properties": {"kind": {"enum": kinds}}, "required": ["kind"]},
        ],
        "allOf": parameters,
    }


def _describe(part: dict[str, Any], model: type[BaseModel] | None) -> None:
    """Add the docstrings of the model's fields, which only its source holds."""
    if model is None or "properties" not in part:
        return
    (body,) = ast.parse(inspect.getsource(model)).body
    lines = body.body if isinstance(body, ast.ClassDef) else []
    for field, said in pairwise(lines):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            words = said.value.value if isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant) else None
            if isinstance(words, str) and field.target.id in part["properties"]:
                part["properties"][field.target.id]["description"] = " ".join(words.split())
