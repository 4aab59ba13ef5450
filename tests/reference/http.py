"""Reference of the gateway's HTTP interface, from the OpenAPI document that it serves."""

from collections.abc import Iterator
from typing import Any

from stream_app.core import clicks
from stream_app.core import records as core_records
from stream_app.gateway import records
from stream_app.gateway.openapi import document
from tests.reference.source import code, meanings, said_of_json, table

HEAD = """
What `nextclick gateway` answers; the same, for machines, is `/openapi.json`. Everything is JSON in UTF-8, ids in a path are percent-encoded
(`/` as `%2F`). Each error has one form, `{"error": {"kind": "MissingField", "message": "event_time is not given"}}`; its kinds, limits and
examples are told in `stream_app/gateway/API.md`.
"""


def page() -> Iterator[str]:
    """A section per route, then the records that they answer."""
    described = document("")
    yield "# HTTP"
    yield HEAD
    yield from table(
        ("route", "meaning"),
        (
            (f"[`{method} {path}`](#{_anchor(operation)})", operation["summary"])
            for method, path, operation in _operations(described)
        ),
    )
    for method, path, operation in _operations(described):
        yield ""
        yield f"## {method} {path} {{ #{_anchor(operation)} }}"
        yield ""
        yield f"{operation['summary']}."
        yield from _request(operation)
        yield ""
        yield from table(
            ("status", "answer", "meaning"),
            (
                (status, _answer(answer["content"]), answer["description"])
                for status, answer in operation["responses"].items()
            ),
        )
    yield ""
    yield "## Records"
    for name, schema in sorted(described["components"]["schemas"].items()):
        yield ""
        yield f"### {name}"
        yield ""
        if "description" in schema:
            yield schema["description"]
            yield ""
        required = schema.get("required", [])
        told = _meanings(name)
        yield from table(
            ("field", "type", "what it is", "always there"),
            (
                (
                    code(field),
                    _type(kind),
                    said_of_json(told.get(field, "")),
                    "yes" if field in required else "",
                )
                for field, kind in schema["properties"].items()
            ),
        )


def _meanings(name: str) -> dict[str, str]:
    """Of a schema that is made from a record of ours: what the record says of its fields."""
    for module in (records, core_records):
        owner = getattr(module, name, None)
        if owner is not None:
            return meanings(owner)
    return meanings(clicks._WireClick) if name == "Click" else {}


def _operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _anchor(operation: dict[str, Any]) -> str:
    return str(operation["operationId"]).replace("_", "-")


def _request(operation: dict[str, Any]) -> Iterator[str]:
    if "requestBody" in operation:
        yield ""
        yield f"The body is a {_answer(operation['requestBody']['content'])}."
    if "parameters" in operation:
        yield ""
        yield from table(
            ("parameter", "in", "type", "default", "meaning"),
            (
                (
                    code(p["name"]),
                    p["in"],
                    _type(p["schema"]),
                    code(str(p["schema"].get("default", "")).lower()),
                    p["description"],
                )
                for p in operation["parameters"]
            ),
        )


def _answer(content: dict[str, Any]) -> str:
    ((media_type, body),) = content.items()
    return _type(body["schema"]) if media_type == "application/json" else code(media_type)


_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "object": "object",
}


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = schema.get("type")
    if kind is None:
        return "any JSON"
    if kind == "array":
        return f"list of: {_type(schema['items'])}" if "items" in schema else "list"
    kinds = kind if isinstance(kind, list) else [kind]
    bounds = " to ".join(f"{schema[b]:,}" for b in ("minimum", "maximum") if b in schema)
    shown = " or ".join(_WORDS[each] for each in kinds)
    return f"{shown} from {bounds}" if bounds else shown
