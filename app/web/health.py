"""Alive; able to serve; and what the numbers are. A Redis that is away makes us slower, not unready."""

from __future__ import annotations

import asyncio
import hmac
from contextlib import suppress
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app import telemetry
from app.broadcast import Bell
from app.database import Database
from app.domain import deliveries
from app.domain.keys import Unauthenticated
from app.errors import ServiceUnavailable
from app.settings import Settings

#: Seconds after which a database that says nothing is as good as away.
PATIENCE: Final = 3.0


def routes(settings: Settings, db: Database, bell: Bell) -> list[Route]:
    """/healthz, /readyz and /metrics."""

    async def alive(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    asking: asyncio.Task[None] | None = None

    async def ready(_: Request) -> Response:
        nonlocal asking
        if asking is None or asking.done():
            asking = asyncio.create_task(db.ping(), name="readiness")
            asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        # Not cancelled, since that too would wait for the database, to roll back: whoever comes next asks with us.
        answered, _pending = await asyncio.wait([asking], timeout=PATIENCE)
        try:
            if not answered:
                raise ServiceUnavailable("The database says nothing.")
            answered.pop().result()
        except ServiceUnavailable:
            return JSONResponse({"status": "unavailable", "database": "away"}, status_code=503)
        if not bell.healthy:
            return JSONResponse({"status": "degraded", "database": "ok", "redis": "away"})
        return JSONResponse({"status": "ok", "database": "ok", "redis": "ok"})

    async def metrics(request: Request) -> Response:
        token = settings.metrics_token.get_secret_value() if settings.metrics_token else ""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not token or not hmac.compare_digest(given.encode(), token.encode()):
            raise Unauthenticated("Send the PUNCHCONNECT_METRICS_TOKEN as `Authorization: Bearer …`.")
        with suppress(ServiceUnavailable):  # the other numbers are worth having then
            async with db.across("work") as connection:
                await deliveries.watch(connection)
        return Response(generate_latest(telemetry.REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return [Route("/healthz", alive), Route("/readyz", ready), Route("/metrics", metrics)]
