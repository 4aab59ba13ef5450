"""The ASGI application: routes, what stands before them, and the page."""

from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from stream_app.adapters.gateway_instruments import GatewayInstruments
from stream_app.gateway.endpoints import Endpoints
from stream_app.gateway.guard import Envelope, Guard
from stream_app.gateway.openapi import document
from stream_app.gateway.problems import Refused, on_http_exception, on_refused
from stream_app.gateway.routes import routes_of
from stream_app.settings import GatewaySettings

PAGE: Final = Path(__file__).parent / "page"


def build_app(
    settings: GatewaySettings, instruments: GatewayInstruments, endpoints: Endpoints
) -> ASGIApp:
    """Outermost first: headers and counts, CORS (a refusal must be readable too), the guard, the routes."""
    described = msgspec.json.encode(document(version("nextclick")))

    async def get_openapi(_request: Request) -> Response:
        return Response(described, media_type="application/json")

    return Starlette(
        routes=[
            *routes_of(endpoints),
            Route("/openapi.json", get_openapi),
            Mount("/", StaticFiles(directory=PAGE, html=True, check_dir=False)),
        ],
        middleware=[
            Middleware(Envelope, instruments=instruments),
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type"],
                max_age=600,
            ),
            Middleware(Guard, settings=settings, instruments=instruments),
        ],
        exception_handlers={Refused: on_refused, HTTPException: on_http_exception},
    )
