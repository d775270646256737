"""/schemas/: what webhook bodies look like, for people and generators."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.domain import payloads
from app.domain.events import EventType
from app.settings import Settings

# They say nothing about anybody, and a tool in a browser may want them.
_HEADERS = {"Access-Control-Allow-Origin": "*", "Cache-Control": "public, max-age=3600"}


def routes(settings: Settings) -> list[Route]:
    """/schemas/, a list of all, and /schemas/<event type>.json."""

    def address(event_type: EventType) -> str:
        return f"{settings.public_url.rstrip('/')}/schemas/{event_type.value}.json"

    async def index(_: Request) -> Response:
        return JSONResponse({event_type.value: address(event_type) for event_type in EventType}, headers=_HEADERS)

    def one(event_type: EventType) -> Route:
        body = {"$id": address(event_type), **payloads.schema(event_type)}

        async def show(_: Request) -> Response:
            return JSONResponse(body, headers=_HEADERS, media_type="application/schema+json")

        return Route(f"/schemas/{event_type.value}.json", show)

    return [Route("/schemas/", index), *map(one, EventType)]
