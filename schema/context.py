"""What one GraphQL operation knows: who asks, and the doors to everything else. It holds no session.

Sibling resolvers run at once, so each opens its own transaction through `db`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import strawberry

from app import paging
from app.broadcast import Bell
from app.database import Database, Reading
from app.domain.events import Cursors, Logged
from app.domain.feed import Feed
from app.domain.keys import Actor, Unauthenticated
from app.limits import Allowance
from app.settings import Settings
from app.vault import Vault
from schema.loaders import Loaders
from schema.sharing import Live

T = TypeVar("T")


@dataclass(slots=True)
class Context:
    """Made anew for every request, and for every operation of a socket."""

    actor: Actor
    db: Database
    vault: Vault
    #: Of the feed. Those of lists are `pages`.
    cursors: Cursors
    settings: Settings
    bell: Bell
    feed: Feed
    request_id: str
    #: The Idempotency-Key header; None where there are no headers.
    idempotency_header: str | None = None
    #: What resolvers want the HTTP answer to carry.
    response_headers: dict[str, str] = field(default_factory=dict)
    #: False where a subscription can give its last batch again; set to True by who sends, when that batch could not be
    #: completed for want of PostgreSQL.
    unsent: bool | None = None
    #: What this operation costs, and what it leaves of the budget; None where nobody counts.
    cost: int = 0
    allowance: Allowance | None = None
    #: For who waits on purpose: done, with the reason, once the key is no good any more. None where nobody watches.
    watching: Callable[[Actor], AbstractContextManager[asyncio.Future[str]]] | None = None
    #: Set when the server stops: who waits on purpose then answers with what there is. None where a connection that is
    #: cut says so.
    stopping: asyncio.Event | None = None
    #: When the operation is given up; None where it may take its time.
    deadline: asyncio.Timeout | None = None
    #: Set for a subscription that goes on by itself where it once was: begin after this position, whatever was asked.
    resume: int | None = None
    #: What a client that comes back saw last, as a cursor: a subscription goes on after it, whatever was asked.
    last_event_id: str | None = None
    #: Said by a subscription with each batch: its cursor, and whether others may go on together from here.
    cursor: str | None = None
    live: Live | None = None
    #: Opens the session in which this operation reads: one for all its reads, one after another.
    reading: Reading = field(init=False)
    loaders: Loaders = field(init=False)
    pages: paging.Cursors = field(init=False)

    def __post_init__(self) -> None:
        self.db = self.db.within(self.actor.site_ids)
        self.pages = paging.Cursors(self.vault.cursor_key)
        self.reading = self.db.reading(self.actor.tenant_id)
        self.refresh()

    def refresh(self) -> None:
        """Forget what was loaded. A subscription does this before each batch: rows change while it lives.

        The transaction may be the same: what is read in it next is what stands there then.
        """
        self.loaders = Loaders(self.reading.read, self.actor.tenant_id)

    def may_wait(self, seconds: float) -> None:
        """Grant a resolver that waits on purpose so much more time."""
        if self.deadline is not None and (when := self.deadline.when()) is not None:
            self.deadline.reschedule(when + seconds)

    async def while_alive(self, work: Coroutine[None, None, T]) -> T:
        """What `work` returns, which may take long; Unauthenticated as soon as the key is known to have died."""
        if self.watching is None:
            return await work
        with self.watching(self.actor) as ended:
            task = asyncio.ensure_future(work)
            try:
                both: set[asyncio.Future[Any]] = {task, ended}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if ended.done():
                    raise Unauthenticated(ended.result())
                return await task
            finally:
                task.cancel()
                await asyncio.wait({task})

    def ring(self, batch: Sequence[Logged]) -> None:
        """Tell feeds and workers what was just committed. Call it after the transaction's end, never inside."""
        self.feed.ring(batch)


Info: TypeAlias = strawberry.Info[Context, None]
