"""Every route once: what calls it, what it takes and what it answers; the OpenAPI document is made from this."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stream_app.gateway import records
from stream_app.gateway.endpoints import Endpoints
from stream_app.gateway.guard import ROUTE
from stream_app.gateway.problems import Refused, fault

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

Handler = Callable[[Endpoints, Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    text: str
    schema: dict[str, object]
    is_in_path: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    path: str
    """As in the OpenAPI document; a `{name}` may hold any characters, slashes too."""
    handler: Handler
    summary: str
    answer: type | None
    """Record of the answer, JSON; None: see `media_type`."""
    method: str = "GET"
    media_type: str = "application/json"
    statuses: tuple[int, ...] = (200,)
    errors: tuple[int, ...] = ()
    parameters: tuple[Parameter, ...] = field(default=())
    needs_token: bool = True


def _in_path(name: str, text: str) -> Parameter:
    return Parameter(name, text, {"type": "string"}, is_in_path=True)


def _number(name: str, text: str, default: int, low: int, high: int) -> Parameter:
    return Parameter(
        name, text, {"type": "integer", "default": default, "minimum": low, "maximum": high}
    )


_SESSION: Final = _in_path("session_id", "Session (or visitor) id, percent-encoded.")
_VERSION: Final = _in_path("version", "A model version, or `live`.")
_ITEM: Final = _in_path("item_id", "Item id, percent-encoded.")

OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/v1/clicks",
        handler=Endpoints.post_click,
        summary="Store a click, and wait for the answer to it if asked to",
        answer=records.ClickAnswer,
        statuses=(200, 202),
        errors=(400, 408, 413, 415, 503),
        parameters=(
            Parameter(
                "wait",
                "Milliseconds to wait for the answer, at most gateway.wait_ms_max.  200: it came; 202: the click is "
                "stored, and there is no answer yet.",
                {"type": "integer", "default": 0, "minimum": 0},
            ),
        ),
    ),
    Operation(
        path="/v1/sessions/{session_id}/recommendations",
        handler=Endpoints.get_recommendations,
        summary="The last answer this gateway has seen for a session",
        answer=records.LastRecommendation,
        errors=(404,),
        parameters=(_SESSION,),
    ),
    Operation(
        path="/v1/sessions/{session_id}",
        handler=Endpoints.get_session,
        summary="What a session clicked, was shown, and hit",
        answer=records.SessionAnswer,
        errors=(400, 404, 503),
        parameters=(
            _SESSION,
            Parameter(
                "changelog",
                "Look into the changelog topic as well: slow, one at a time.",
                {"type": "boolean", "default": False},
            ),
        ),
    ),
    Operation(
        path="/v1/live",
        handler=Endpoints.get_live,
        summary="Server-sent events: `history` once, `figures` every second, a sample of `answer`s",
        answer=None,
        media_type="text/event-stream",
        errors=(503,),
    ),
    Operation(
        path="/v1/models",
        handler=Endpoints.get_models,
        summary="Models, the live pointer, and the reports of trainings with the gate's verdicts",
        answer=records.ModelsAnswer,
        errors=(503,),
    ),
    Operation(
        path="/v1/models/{version}/neighbours/{item_id}",
        handler=Endpoints.get_neighbours,
        summary="Nearest items by item2vec",
        answer=records.NeighboursAnswer,
        errors=(400, 404, 503),
        parameters=(_VERSION, _ITEM, _number("limit", "So many at most.", 10, 1, 100)),
    ),
    Operation(
        path="/v1/models/{version}/map",
        handler=Endpoints.get_map,
        summary="The most popular items in two dimensions",
        answer=records.MapAnswer,
        errors=(400, 404, 503),
        parameters=(_VERSION, _number("limit", "So many at most.", 500, 3, 2000)),
    ),
    Operation(
        path="/v1/items",
        handler=Endpoints.get_items,
        summary="Items for a shop window, most popular first",
        answer=records.ItemsAnswer,
        errors=(400, 503),
        parameters=(
            _number("limit", "So many at most.", 60, 1, 500),
            Parameter(
                "ids",
                "These instead: comma-separated, each percent-encoded.",
                {"type": "array", "items": {"type": "string"}},
            ),
        ),
    ),
    Operation(
        path="/metrics",
        handler=Endpoints.get_metrics,
        summary="For Prometheus",
        answer=None,
        media_type="text/plain",
    ),
    Operation(
        path="/healthz",
        handler=Endpoints.get_health,
        summary="Whether the process makes progress: restart it otherwise",
        answer=records.HealthAnswer,
        statuses=(200, 503),
        needs_token=False,
    ),
    Operation(
        path="/readyz",
        handler=Endpoints.get_readiness,
        summary="Whether Kafka answers the gateway",
        answer=records.HealthAnswer,
        statuses=(200, 503),
        needs_token=False,
    ),
)


def routes_of(endpoints: Endpoints) -> list[Route]:
    """Starlette's routes, in the order in which they are tried: behind them come the page's files, so other
    methods of our paths have routes as well."""
    return [
        *(_route(operation, endpoints) for operation in OPERATIONS),
        *(_refusal_of_other_methods(operation) for operation in OPERATIONS),
    ]


def _refusal_of_other_methods(operation: Operation) -> Route:
    async def refuse(request: Request) -> Response:
        request.scope[ROUTE] = operation.path
        raise HTTPException(405, headers={"allow": operation.method})

    return Route(_starlette_path(operation), refuse, methods=list(METHODS))


def _route(operation: Operation, endpoints: Endpoints) -> Route:
    async def call(request: Request) -> Response:
        request.scope[ROUTE] = operation.path
        try:
            return await operation.handler(endpoints, request)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - told in our own form, and in the log
            return fault(error)

    return Route(_starlette_path(operation), call, methods=[operation.method])


def _starlette_path(operation: Operation) -> str:
    path = operation.path
    for parameter in operation.parameters:
        # A version has no slash in it; an id may.
        if parameter.is_in_path and parameter is not _VERSION:
            path = path.replace(f"{{{parameter.name}}}", f"{{{parameter.name}:path}}")
    return path
