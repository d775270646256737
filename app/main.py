"""Composition root: settings in, ASGI application out.

Terminals and GraphQL over HTTP go past the framework, everything else through Starlette. What is built at the start is
closed in reverse at the end, and none of it must be reachable for the process to start: a database that is away is
waited for.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app import telemetry
from app.broadcast import Bell
from app.database import Database
from app.domain import command_feed
from app.domain.events import Cursors
from app.domain.feed import Feed
from app.domain.keys import KeyRing
from app.errors import AppError, doc_url
from app.settings import Settings
from app.vault import Vault
from app.web import assets, dashboard, health, pages, playground, schemas
from app.web.iclock import Iclock
from app.web.intake import Intake
from app.web.middleware import HostNotAllowed, Hosts, Receive, Scope, Send, refuse, request_id
from schema.api import GraphQLApi, Parts

#: Objects that may be new before the collector looks at them.
YOUNG: Final = 200_000


class Application:
    """Everything that one server process holds."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.vault = Vault(settings.secret_key.get_secret_value())
        self.cursors = Cursors(self.vault.cursor_key)
        self.db = Database(
            settings.database_url.get_secret_value(),
            pool=settings.database_pool,
            statement_cache=settings.statement_cache,
            statement_timeout=settings.database_timeout_seconds,
        )
        self.bell = Bell(settings.redis_url.get_secret_value() if settings.redis_url else None)
        self.feed = Feed(self.db, self.bell, self.cursors, self.vault.bus_key)
        self.keys = KeyRing(self.db, self.vault)
        self.intake = Intake(self.db, self.feed.ring, bound=settings.ingest_queue, batch=settings.ingest_batch)
        moved = partial(command_feed.ring, self.bell)
        self.iclock = Iclock(settings, self.db, self.vault, intake=self.intake, ring=self.feed.ring, moved=moved)
        self.graphql = GraphQLApi(
            Parts(settings, self.db, self.vault, self.cursors, bell=self.bell, feed=self.feed, keys=self.keys)
        )
        self._desk = dashboard.Desk(
            dashboard.Parts(settings, self.db, self.vault, self.cursors, bell=self.bell, feed=self.feed, keys=self.keys)
        )
        self._hosts = Hosts(settings.allowed_hosts)
        self._pages = Starlette(
            routes=[
                Route("/", self._home),
                *health.routes(settings, self.db, self.bell),
                *self.graphql.routes(),
                *pages.routes(),
                *schemas.routes(settings),
                *assets.routes(),
                *playground.routes(settings),
                *dashboard.routes(self._desk),
            ],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: self._page_error, AppError: self._page_error},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not self._hosts.allows(scope):
                await refuse(send, HostNotAllowed("This host name is not answered to."), self.settings.public_url)
                return
            if self.iclock.matches(scope):
                await self.iclock(scope, receive, send)
                return
            if scope["path"] == "/graphql":  # what is asked most often goes past the framework as well
                await self.graphql.http(scope, receive, send)
                return
        elif scope["type"] == "websocket" and not self._hosts.allows(scope):
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._pages(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[dict[str, str]]:
        async with AsyncExitStack() as stack:
            for part in (self.db, self.bell, self.feed, self.intake, self.iclock, self.graphql):
                await part.start()
                stack.push_async_callback(part.stop)
            yield {"public_url": self.settings.public_url}

    async def _home(self, _request: Request) -> Response:
        url = self.settings.public_url.rstrip("/")
        return JSONResponse({"name": "PunchConnect", "graphql_url": f"{url}/graphql", "docs_url": f"{url}/docs/"})

    async def _page_error(self, request: Request, exc: Exception) -> Response:
        status = exc.status_code if isinstance(exc, HTTPException) else 500
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(status, "bad_request" if status < 500 else "internal_error")
        messages = {404: "There is nothing here.", 405: f"This address does not take {request.method}."}
        message = messages.get(status, "This cannot be answered.")
        if isinstance(exc, AppError):
            status, code, message = exc.status, exc.code, exc.message
        # With 405 that is Allow.
        headers = dict(exc.headers or {}) if isinstance(exc, HTTPException) else {}
        if dashboard.is_looked_at(request):
            return await self._desk.stray(request, status, code, message, headers)
        name = request_id()
        error: dict[str, Any] = {
            "code": code,
            "message": message,
            "status": status,
            "doc_url": doc_url(self.settings.public_url, code),
            "request_id": name,
        }
        return JSONResponse({"error": error}, status, headers={**headers, "X-Request-Id": name})


def _set_aside() -> None:
    """Have the collector leave alone what lives as long as the process: 150,000 objects, mostly the schema's.

    A request makes thousands of objects and lets go of them by itself. With the collector's own thresholds every few
    requests pay for a look at everything there is; with a tenth of ours, at what others who are being answered hold.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 5, 5)


def create_app() -> Application:
    """What uvicorn calls in each process."""
    settings = Settings()
    telemetry.configure(settings.log_level, settings.log_format)
    application = Application(settings)
    _set_aside()
    return application
