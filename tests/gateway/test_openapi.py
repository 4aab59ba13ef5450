"""The OpenAPI document says what the routes do, and API.md says the same for people."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_app.gateway.openapi import document
from stream_app.gateway.routes import OPERATIONS

CONTRACT = (Path(__file__).parents[2] / "stream_app" / "gateway" / "API.md").read_text()
DOCUMENT = document("1.2.3")


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def test_every_reference_leads_to_a_schema() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    references = set(_references(DOCUMENT))
    assert references
    assert {reference.rpartition("/")[2] for reference in references} <= schemas.keys()
    json.dumps(DOCUMENT)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: f"{o.method} {o.path}")
def test_every_parameter_of_a_path_is_described_and_in_it(operation: Any) -> None:
    described = DOCUMENT["paths"][operation.path][operation.method.lower()]
    in_path = {p["name"] for p in described.get("parameters", ()) if p["in"] == "path"}
    assert in_path == set(re.findall(r"\{(\w+)\}", operation.path))
    assert described["summary"]
    statuses = {int(status) for status in described["responses"]}
    assert {*operation.statuses, *operation.errors, 403, 429} <= statuses
    assert (401 in statuses) == operation.needs_token == ("security" in described)


def test_every_route_stands_in_the_contract() -> None:
    for operation in OPERATIONS:
        told = operation.path if operation.path.startswith("/v1") else f"{operation.path}"
        assert told in CONTRACT, told


def test_every_example_of_the_contract_is_json() -> None:
    examples = re.findall(r"^```json\n(.*?)^```", CONTRACT, re.MULTILINE | re.DOTALL)
    assert len(examples) > 10
    for example in examples:
        json.loads(example)
