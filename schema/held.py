"""Connections that clients hold open, sockets and event streams alike: how many each may have, and which must end.

A long poll is not counted, but ends like them when its key dies.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from app.domain.keys import Actor
from app.domain.tables import now
from app.errors import ServiceUnavailable
from app.places import Places

log = structlog.get_logger(__name__)

FORBIDDEN: Final = 4403
RESTART: Final = 1012
TRY_LATER: Final = 1013

#: Seconds for what is still queued when a connection ends, and for the closing frame.
FLUSH: Final = 1.0
CLOSE: Final = 5.0


class Keys(Protocol):
    """Who knows API keys: app.domain.keys.KeyRing."""

    async def authenticate(self, authorization: str | None) -> Actor: ...

    async def dead(self, key_ids: Collection[UUID]) -> set[UUID]: ...


class Connection(Protocol):
    """One of them. `actor` is None until it has said who it is."""

    actor: Actor | None

    def end(self, code: int, reason: str) -> None:
        """Have it closed, for a reason that is a close code of WebSockets. Only the first word counts."""


class _Watched:
    """Somebody who waits. Told apart by identity."""

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def end(self, code: int, reason: str) -> None:
        """Only the first word counts."""
        if not self.ended.done():
            self.ended.set_result(reason)


class Held:
    """All of one process."""

    def __init__(self, keys: Keys, places: Places, *, per_key: int, per_tenant: int, check_keys_every: float) -> None:
        self.draining = False
        self._keys = keys
        self._places = places
        self._per_key = per_key
        self._per_tenant = per_tenant
        self._check_keys_every = check_keys_every
        self._by_key: Counter[UUID] = Counter()
        self._connections: dict[Connection, asyncio.Task[Any] | None] = {}
        self._watched: set[_Watched] = set()
        self._guard: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch the keys of what is open, and to tell other processes how much that is."""
        await self._places.start()
        self._guard = asyncio.create_task(self._watch_keys())

    async def stop(self) -> None:
        """Close what is open."""
        await self.drain()
        await self._places.stop()
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.gather(self._guard, return_exceptions=True)

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._connections)

    @property
    def admitted(self) -> int:
        """How many of them have said who they are."""
        return self._by_key.total()

    @contextmanager
    def holding(self, connection: Connection) -> Iterator[None]:
        """For as long as it is open, in the task that serves it."""
        self._connections[connection] = asyncio.current_task()
        try:
            yield
        finally:
            del self._connections[connection]

    @contextmanager
    def watching(self, actor: Actor) -> Iterator[asyncio.Future[str]]:
        """For who waits on behalf of a key: done when there is no use in it any more, with the reason."""
        watched = _Watched(actor)
        self._watched.add(watched)
        try:
            yield watched.ended
        finally:
            self._watched.discard(watched)

    async def admit(self, actor: Actor) -> bool:
        """Count one of this key and its tenant, unless they have as many as they may, in all processes together."""
        if not await self._places.take(self._shares(actor)):
            return False
        self._by_key[actor.key_id] += 1
        return True

    def forget(self, actor: Actor) -> None:
        """One that was admitted has ended."""
        self._places.free(self._shares(actor))
        self._by_key[actor.key_id] -= 1
        if not self._by_key[actor.key_id]:
            del self._by_key[actor.key_id]

    def _shares(self, actor: Actor) -> dict[str, int]:
        return {f"key:{actor.key_id}": self._per_key, f"tenant:{actor.tenant_id}": self._per_tenant}

    async def drain(self, over: float = 0) -> None:
        """End every one with 1012, spread over some seconds, and refuse new ones. Clients resume elsewhere."""
        self.draining = True
        connections = list(self._connections)
        random.shuffle(connections)
        for connection in connections:
            connection.end(RESTART, "Restarting: connect again.")
            await asyncio.sleep(over / len(connections))
        if tasks := [task for task in self._connections.values() if task is not None]:
            await asyncio.wait(tasks, timeout=FLUSH + CLOSE)

    async def _watch_keys(self) -> None:
        """End what is held with keys that died: one question for all of them."""
        while True:
            await asyncio.sleep(self._check_keys_every)
            self._end_expired(now())
            try:
                dead = await self._keys.dead({*self._by_key, *(each.actor.key_id for each in self._watched)})
            except ServiceUnavailable:
                continue  # nobody can be asked just now, so nobody is turned away
            except Exception:
                log.exception("sockets.key_check_failed")
                continue
            for connection in self._all() if dead else ():
                if connection.actor is not None and connection.actor.key_id in dead:
                    connection.end(FORBIDDEN, "This API key was revoked or has expired.")

    def _all(self) -> list[Connection | _Watched]:
        return [*self._connections, *self._watched]

    def _end_expired(self, at: datetime) -> None:
        """A token ends by itself: nobody needs to be asked."""
        for connection in self._all():
            actor = connection.actor
            if actor is not None and actor.expires_at is not None and actor.expires_at <= at:
                connection.end(FORBIDDEN, "This key or stream token has expired: connect again with a new one.")
