"""The published JSON Schema of ``privacy.json``, from the model that writes it."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel

from dpft.runs.schema import MANIFEST_VERSION

__all__ = ["published_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def published_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a model's file.

    It describes the file, in which an absent part is absent: null is allowed nowhere. What a class's
    docstring says of its attributes becomes the description of each property.

    Args:
        model: the manifest.
    """
    schema = model.model_json_schema()
    _forbid_null(schema)
    for node in (schema, *schema.get("$defs", {}).values()):
        _describe(node)
    head = {
        "$schema": _DIALECT,
        "$id": f"urn:dpft:privacy-manifest:{MANIFEST_VERSION}",
        "title": "dpft privacy manifest",
    }
    return {**head, **{key: value for key, value in schema.items() if key not in head}}


def _describe(node: dict[str, Any]) -> None:
    """Split a docstring: its text for the class, each attribute's line for its property."""
    text = node.get("description", "")
    head, _, rest = text.partition("\n\nAttributes:\n")
    attributes, _, _ = rest.partition("\n\nRaises:")
    if head:
        node["description"] = _flat(head.partition("\n\nRaises:")[0])
    for name, description in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
        if name in node.get("properties", {}):
            node["properties"][name]["description"] = _flat(description)


def _flat(text: str) -> str:
    return " ".join(text.replace("``", "").split())


def _forbid_null(node: Any) -> None:
    """Remove null, and defaults that are null, from a schema in place."""
    if isinstance(node, list):
        for item in node:
            _forbid_null(item)
        return
    if not isinstance(node, dict):
        return
    options = node.get("anyOf")
    if isinstance(options, list):
        kept = [option for option in options if option != {"type": "null"}]
        if len(kept) == 1:
            del node["anyOf"]
            node.update(kept[0])
        else:
            node["anyOf"] = kept
    if "default" in node and node["default"] is None:
        del node["default"]
    for value in node.values():
        _forbid_null(value)
