"""The GraphQL edge of one process: HTTP, event streams and WebSocket under one path, and what their resolvers reach."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from starlette.routing import BaseRoute, Route, WebSocketRoute

from app.broadcast import Bell
from app.database import Database
from app.domain.events import Cursors
from app.domain.feed import Feed
from app.domain.keys import Actor, KeyRing
from app.limits import Limiter
from app.places import Places
from app.settings import Settings
from app.vault import Vault
from schema import cost, schema
from schema.context import Context
from schema.http import GraphQLHttp
from schema.operations import Budget
from schema.socket import SocketLimits, SocketServer
from schema.streams import EventStreams


@dataclass(frozen=True, slots=True)
class Parts:
    """What the application lends."""

    settings: Settings
    db: Database
    vault: Vault
    cursors: Cursors
    bell: Bell
    feed: Feed
    keys: KeyRing


class GraphQLApi:
    """Started after its parts and stopped before them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        settings = parts.settings
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
        self._limiter = Limiter(redis_url, most=settings.api_points, rate=settings.api_restore, largest=cost.MOST)
        self.budget = Budget(self._limiter)
        self.sockets = SocketServer(
            schema,
            parts.keys,
            lambda actor: self._context(actor, f"req_{uuid4().hex}", None),
            public_url=settings.public_url,
            limits=SocketLimits(per_key=settings.sockets_per_key, per_tenant=settings.sockets_per_tenant),
            toll=self.budget.toll,
            places=Places(self._limiter.redis),
        )
        self.streams = EventStreams(self.sockets.runner, self.sockets.held, self.sockets.limits)
        self.http = GraphQLHttp(
            parts.keys.authenticate, self._context, settings.public_url, self.budget, streams=self.streams
        )

    def routes(self) -> list[BaseRoute]:
        """/graphql."""
        return [Route("/graphql", self.http), WebSocketRoute("/graphql", self.sockets)]

    async def start(self) -> None:
        """Begin to watch the keys of open sockets."""
        await self.sockets.start()

    async def stop(self) -> None:
        """Close what is open."""
        await self.sockets.stop()
        await self._limiter.stop()

    def _context(self, actor: Actor, request_id: str, idempotency_header: str | None) -> Context:
        parts = self._parts
        return Context(
            actor=actor,
            db=parts.db,
            vault=parts.vault,
            cursors=parts.cursors,
            settings=parts.settings,
            bell=parts.bell,
            feed=parts.feed,
            request_id=request_id,
            idempotency_header=idempotency_header,
            watching=self.sockets.held.watching,
        )
