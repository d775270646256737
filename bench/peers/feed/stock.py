"""Strawberry's subscriptions as its documentation has them: its ASGI view, an async generator, broadcaster in between.

GET /push?pin=…&count=… makes punches and hands them, as one batch, to everybody who follows.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

import strawberry
from broadcaster import Broadcast
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from strawberry.asgi import GraphQL
from strawberry.extensions import ParserCache, ValidationCache
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL

_PUNCHED: Final = datetime(2026, 11, 20, 7, tzinfo=UTC)
_broadcast: Final = Broadcast("memory://")
_positions: Final = itertools.count(1)


@strawberry.enum
class PunchDirection(Enum):
    CHECK_IN = "CHECK_IN"


@strawberry.enum
class VerifyMode(Enum):
    FACE = "FACE"


@strawberry.type
class Device:
    name: str


@strawberry.type
class Punch:
    id: strawberry.ID
    pin: str
    punched_at: datetime
    local_time: datetime
    direction: PunchDirection
    verify_mode: VerifyMode
    buffered: bool
    device: Device | None


@strawberry.type
class PunchBatch:
    cursor: str
    previous_cursor: str | None
    caught_up: bool
    head_lag: int
    punches: list[Punch]


@strawberry.type
class Query:
    ok: bool = True


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def punches(self, after: str | None = None) -> AsyncGenerator[PunchBatch]:
        async with _broadcast.subscribe(channel="punches") as subscriber:
            yield PunchBatch(cursor=_cursor(0), previous_cursor=None, caught_up=True, head_lag=0, punches=[])
            async for event in subscriber:  # type: ignore[union-attr]
                yield event.message  # type: ignore[misc,union-attr]


def _cursor(position: int) -> str:
    return f"AQAAAAA{position:A>21}"


def _made(pin: str, count: int) -> PunchBatch:
    positions = list(itertools.islice(_positions, count))
    punches = [
        Punch(
            id=strawberry.ID(f"pun_{position:026}"),
            pin=pin,
            punched_at=_PUNCHED,
            local_time=datetime(2026, 11, 20, 8),  # noqa: DTZ001  a wall clock has no zone
            direction=PunchDirection.CHECK_IN,
            verify_mode=VerifyMode.FACE,
            buffered=True,
            device=Device(name="VIRT000001"),
        )
        for position in positions
    ]
    previous, last = _cursor(positions[0] - 1), _cursor(positions[-1])
    return PunchBatch(cursor=last, previous_cursor=previous, caught_up=True, head_lag=0, punches=punches)


async def _push(request: Request) -> Response:
    batch: Any = _made(request.query_params["pin"], int(request.query_params.get("count", 1)))
    await _broadcast.publish(channel="punches", message=batch)
    return PlainTextResponse("OK")


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    async with _broadcast:
        yield


def create_app() -> Starlette:
    """The whole application."""
    schema = strawberry.Schema(Query, subscription=Subscription, extensions=[ParserCache, ValidationCache])
    view: GraphQL[Any, None] = GraphQL(schema, subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL])
    routes = [Route("/push", _push), WebSocketRoute("/graphql", view), Mount("/graphql", view)]
    return Starlette(routes=routes, lifespan=_lifespan)
