"""The published JSON Schema: manifests conform to it, broken ones do not; its version tells of changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dpft.runs.manifest import Manifest
from dpft.runs.schema import MANIFEST_VERSION

from .builders import make_manifest, ordinary_parts, private_parts, stopped_parts, unclaimed_parts

GOLDEN = Path(__file__).parents[2] / "golden" / "manifest.schema.json"
ALL_PARTS = [private_parts, ordinary_parts, unclaimed_parts, stopped_parts]


def conforms(document: dict[str, Any]) -> bool:
    valid: bool = Draft202012Validator(Manifest.json_schema()).is_valid(document)
    return valid


def test_the_schema_is_the_published_one() -> None:
    """If this fails on purpose: raise ``MANIFEST_VERSION``, and write the new schema to the golden file.

    python -m dpft show --schema > tests/golden/manifest.schema.json
    """
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert golden["$id"] == f"urn:dpft:privacy-manifest:{MANIFEST_VERSION}"
    assert Manifest.json_schema() == golden


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(Manifest.json_schema())
    assert "null" not in json.dumps(Manifest.json_schema())


def test_every_group_and_field_is_described() -> None:
    schema = Manifest.json_schema()
    for name, node in {"manifest": schema, **schema["$defs"]}.items():
        assert node["description"], name
        assert "\n" not in node["description"]
        assert "Attributes" not in node["description"]
        for field, found in node["properties"].items():
            assert found["description"], (name, field)
    assert schema["$defs"]["Guarantee"]["properties"]["epsilon"]["description"].startswith("ε of the steps")


@pytest.mark.parametrize("parts", ALL_PARTS)
def test_round_trip_and_schema(parts: Any) -> None:
    manifest = Manifest(**parts())
    document = json.loads(manifest.to_json())
    assert Manifest.model_validate(document) == manifest
    assert document == manifest.to_dict()
    assert conforms(document)
    assert not conforms({**document, "seed": 7})
    assert not conforms({**document, "statement": ""})
    assert not conforms({**document, "guarantee": None})
    for name in Manifest.json_schema()["required"]:
        assert not conforms({key: value for key, value in document.items() if key != name})


def test_the_schema_refuses_an_infinite_or_missing_epsilon() -> None:
    document = make_manifest().to_dict()
    for bad in (None, "Infinity", -1.0):
        assert not conforms({**document, "guarantee": {**document["guarantee"], "epsilon": bad}})
