"""`/openapi.json`: the routes and records, for machines."""

from typing import Any, Final

import msgspec

from stream_app.gateway import records
from stream_app.gateway.routes import OPERATIONS, Operation

_REF: Final = "#/components/schemas/{name}"
_MEANINGS: Final = {
    200: "Done",
    202: "Stored; no answer (yet)",
    400: "The click or a parameter cannot be used",
    401: "A token is set, and this request does not show it",
    403: "Called by a foreign name, or by a page of a foreign origin",
    404: "Not there",
    408: "The body came too slowly",
    413: "The body is too large",
    415: "The body is not application/json",
    429: "Too many requests of this address",
    503: "Kafka, the registry or this process cannot do it now: see Retry-After",
}
_EVENTS: Final = {"figures": records.Figures, "answer": records.SampledAnswer}
"""Of the live feed: no answer refers to them, so they are named here."""

_CLICK: Final = {
    "type": "object",
    "required": ["item_id", "event_time"],
    "description": "A click as the click topic takes it, with session_id or visitor_id; unknown fields are kept.",
    "properties": {
        **{
            name: {"type": ["string", "number"]}
            for name in ("session_id", "visitor_id", "item_id", "event_id", "user_id")
        },
        "event_time": {
            "type": ["string", "number"],
            "description": "RFC 3339, or milliseconds since 1970",
        },
        "event_type": {"type": "string", "default": "view_item"},
        "recommendation_id": {"type": "string"},
        "consent": {"type": "boolean", "default": True},
        "properties": {"description": "Whatever else; `title` and `category` are shown"},
    },
    "examples": [
        {
            "session_id": "s-1",
            "item_id": "sku-4711",
            "event_time": "2026-11-24T11:12:13.456Z",
            "event_id": "5b1c6f1e",
        }
    ],
}


def document(version: str) -> dict[str, Any]:
    """OpenAPI 3.1.  version: nextclick's own."""
    types = [operation.answer for operation in OPERATIONS if operation.answer is not None]
    types += [records.ErrorAnswer, *_EVENTS.values()]
    references, components = msgspec.json.schema_components(dict.fromkeys(types), ref_template=_REF)
    schemas = dict(zip(dict.fromkeys(types), references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(
            operation, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nextclick gateway",
            "version": version,
            "description": "Clicks in, recommendations out, over HTTP.  A token, where one is set, is shown as "
            "`Authorization: Bearer ...`.",
        },
        "paths": paths,
        "components": {
            "schemas": {**components, "Click": _CLICK},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    if operation.answer is not None:
        content = {operation.media_type: {"schema": schemas[operation.answer]}}
    else:
        content = {operation.media_type: {"schema": {"type": "string"}}}
    errors = {*operation.errors, 403, 429}
    if operation.needs_token:
        errors.add(401)
    failure = {"application/json": {"schema": schemas[records.ErrorAnswer]}}
    described: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.handler.__name__,
        "responses": {
            str(status): {
                "description": _MEANINGS[status],
                "content": content if status in operation.statuses else failure,
            }
            for status in sorted({*operation.statuses, *errors})
        },
    }
    if operation.parameters:
        described["parameters"] = [
            {
                "name": parameter.name,
                "in": "path" if parameter.is_in_path else "query",
                "required": parameter.is_in_path,
                "description": parameter.text,
                "schema": parameter.schema,
            }
            for parameter in operation.parameters
        ]
    if operation.method == "POST":
        click = {"schema": {"$ref": _REF.format(name="Click")}}
        described["requestBody"] = {"required": True, "content": {"application/json": click}}
    if operation.needs_token:
        described["security"] = [{}, {"token": []}]
    return described
