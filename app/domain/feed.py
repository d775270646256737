"""The live feed: what a tenant's log holds after a position, and then what happens, without a gap and without a repeat.

A reader first reads pages of the log. Once it is near the end it takes what the tenant's tail holds; comparing its
position with the tail's and starting to wait happen with no await between them, so nothing can slip through. The tail
listens to the bus, and one question a second for all tails together finds what the bus did not tell. A reader that is
slow holds nothing: it goes on from its position, in the tail if that is still there and in the log if not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar
from uuid import UUID

import structlog

from app.broadcast import Bell, BellStopped
from app.database import Database
from app.domain import events, outbox
from app.domain.events import CursorExpired, Cursors, Logged, Message
from app.domain.tails import Tail
from app.errors import ServiceUnavailable
from app.paging import CursorInvalid

log = structlog.get_logger(__name__)
T = TypeVar("T")

#: Events in one reading of the log.
PAGE: Final = 500
#: Seconds of quiet after which a reader is told that nothing happened.
PULSE: Final = 4.0
#: Seconds between two looks at the heads, while the bell works and while it does not.
LOOK_EVERY: Final = 1.0
LOOK_EVERY_UNHEARD: Final = 0.5
#: Seconds for which a look at the heads allows us to say that nothing newer exists.
SIGHT: Final = 5.0
#: Seconds to wait before asking PostgreSQL again, at first and at most.
BACK_OFF: Final = (0.1, 1.0)
#: Readings of the log at once, so that a crowd coming back leaves connections for others.
READINGS: Final = 4
#: Seconds to leave PostgreSQL alone after a look, and after a doubt that proved empty.
CALM: Final = 0.02


class FeedStart(StrEnum):
    """Where to begin without a cursor."""

    NOW = "NOW"
    BEGINNING = "BEGINNING"


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that follow one another, and how far they lead. Without events it only says how things stand."""

    events: Sequence[Logged]
    #: Everything up to here has been seen by whoever takes this batch.
    position: int
    #: Nothing newer existed at this moment, as far as could be seen.
    caught_up: bool
    #: The end of the log, never before `position`.
    head: int


@dataclass(slots=True)
class FeedCounts:
    """What this process did for its feeds since it started."""

    heard: int = 0  # messages from the bus
    unbelieved: int = 0  # of these, not ours
    readings: int = 0  # of the log
    looks: int = 0  # at the heads


@dataclass(slots=True)
class _Watch:
    """A tail and the tasks that keep it."""

    tail: Tail
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Feed:
    """All feeds of one process. `follow` is for those who stay, `look` for one reading of the log."""

    def __init__(self, db: Database, bell: Bell, cursors: Cursors, bus_key: bytes, *, pulse: float = PULSE) -> None:
        self._db = db
        self._bell = bell
        self._cursors = cursors
        self._bus_key = bus_key
        self._pulse = pulse
        self._watches: dict[UUID, _Watch] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._readings = asyncio.Semaphore(READINGS)
        self._look_now = asyncio.Event()
        self._looker: asyncio.Task[None] | None = None
        self._seen_at = float("-inf")
        self.counts = FeedCounts()

    async def start(self) -> None:
        """Begin to look after the tails that readers will make."""
        self._looker = asyncio.create_task(self._keep_looking())

    async def stop(self) -> None:
        """End every task. Readers that are still there hear nothing more."""
        tasks = [self._looker] if self._looker else []
        tasks += [task for watch in self._watches.values() for task in watch.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._ending, return_exceptions=True)

    @property
    def watched(self) -> int:
        """How many tenants have readers here."""
        return len(self._watches)

    async def locate(self, tenant_id: UUID, after: str | None, start: FeedStart = FeedStart.NOW) -> int:
        """The position to follow from: the cursor's, or where `start` says.

        CursorInvalid for a cursor that is not ours; CursorExpired when what follows it is not kept any more.
        """
        position = None if after is None else self._cursors.read(tenant_id, after)
        async with self._db.across("feed", [tenant_id]) as connection:
            head = (await events.heads(connection, [tenant_id])).get(tenant_id, 0)
            oldest = await events.oldest(connection, tenant_id)
        beginning = head if oldest is None else oldest - 1
        if position is None:
            return head if start is FeedStart.NOW else beginning
        if position > head:
            raise CursorInvalid
        if position < beginning:
            raise CursorExpired(self._cursors.write(tenant_id, beginning))
        return position

    async def look(self, tenant_id: UUID, after: int, limit: int = PAGE) -> Batch:
        """One page of the log after a position. CursorExpired when what follows it is not kept any more."""
        async with self._readings, self._db.across("feed", [tenant_id]) as connection:
            # The head first: whatever the page then lacks is not there.
            head = (await events.heads(connection, [tenant_id])).get(tenant_id, 0)
            page = await events.after(connection, tenant_id, after, limit)
            if page[0].position != after + 1 if page else head > after:
                oldest = await events.oldest(connection, tenant_id)
                raise CursorExpired(self._cursors.write(tenant_id, head if oldest is None else oldest - 1))
        self.counts.readings += 1
        self._seen_at = asyncio.get_running_loop().time()
        for place, event in enumerate(page, start=after + 1):
            if event.position != place:
                raise AssertionError(f"The log of {tenant_id} has a hole before {event.position}.")
        position = page[-1].position if page else after
        return Batch(page, position, position >= head, max(position, head))

    async def follow(self, tenant_id: UUID, after: int) -> AsyncGenerator[Batch]:
        """Everything after a position, for ever. The first batch comes at once, even without events.

        While nothing happens there is an empty batch every few seconds. PostgreSQL may go away meanwhile: then nothing
        comes until it is back. Raises CursorExpired when the reader fell behind what is kept.
        """
        with self._watching(tenant_id) as tail:
            position = after
            # The first batch is read from the log, whatever the tail knows: what it says of the head must be true.
            known: list[Logged] | None = None
            while True:
                if known is None:
                    batch = await self._insist(tenant_id, position)
                    tail.learn(position, batch.events, batch.head)
                else:
                    batch = self._serve(known, position, tail)
                position = batch.position
                yield batch

                # No await from here to the wait itself.
                news, known = tail.news, tail.since(position)
                if known is not None and not known:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._pulse):
                            await news.wait()
                    known = tail.since(position)

    def _serve(self, known: list[Logged], position: int, tail: Tail) -> Batch:
        """A batch of what the tail held."""
        position = known[-1].position if known else position
        head = max(tail.head, position)
        sighted = asyncio.get_running_loop().time() - self._seen_at < SIGHT
        return Batch(known, position, position == head and sighted, head)

    def ring(self, batch: Sequence[Logged]) -> None:
        """Tell feeds and workers what this process has just committed. After the transaction's end, never inside.

        Readers here need not wait for the bus to say it.
        """
        for tenant_id, logged in events.by_tenant(batch).items():
            if watch := self._watches.get(tenant_id):
                watch.tail.told(logged)
        outbox.ring(self._bell, self._bus_key, batch)

    @contextmanager
    def _watching(self, tenant_id: UUID) -> Iterator[Tail]:
        """The tenant's tail; the first reader makes it, the last one drops it."""
        watch = self._watches.get(tenant_id)
        if watch is None:
            tail = Tail(tenant_id)
            tasks = [asyncio.create_task(self._listen(tail)), asyncio.create_task(self._settle_doubts(tail))]
            watch = self._watches[tenant_id] = _Watch(tail, tasks)
        watch.tail.readers += 1
        try:
            yield watch.tail
        finally:
            watch.tail.readers -= 1
            if not watch.tail.readers:
                del self._watches[tenant_id]
                for task in watch.tasks:
                    task.cancel()
                    self._ending.add(task)
                    task.add_done_callback(self._ending.discard)

    async def _listen(self, tail: Tail) -> None:
        """Tell the tail what the bus says of its tenant."""
        with suppress(BellStopped):
            async with self._bell.listen(events.channel(tail.tenant_id)) as listener:
                while True:
                    heard = await listener.heard()
                    for text in heard.messages:
                        tail.hear(self._believe(tail, text))
                    if heard.missed:
                        # Usually everybody missed it: one look at all heads tells whose tail must read.
                        self._look_now.set()

    def _believe(self, tail: Tail, text: bytes) -> Message | None:
        """The message, if it is ours and we understand it."""
        self.counts.heard += 1
        try:
            message = events.read_message(self._bus_key, tail.tenant_id, text, known=tail.position or 0)
        except Exception:  # signed by us, so another version's: the log has it in words of ours
            log.exception("feed.message_not_understood", tenant_id=str(tail.tenant_id))
            message = None
        self.counts.unbelieved += message is None
        return message

    async def _settle_doubts(self, tail: Tail) -> None:
        """Read the log whenever the tail doubts that it knows its end."""
        while True:
            await tail.doubt.wait()
            tail.doubt.clear()
            if (position := tail.position) is None:
                continue
            try:
                batch = await self._insist(tail.tenant_id, position)
            except Exception as exc:  # its readers will look for themselves, and be told
                if not isinstance(exc, CursorExpired):
                    log.exception("feed.reading_failed", tenant_id=str(tail.tenant_id))
                tail.forget()
                await asyncio.sleep(LOOK_EVERY)
                continue
            tail.learn(position, batch.events, batch.head)
            if not batch.events:
                await asyncio.sleep(CALM)

    async def _keep_looking(self) -> None:
        """Find what the bus did not tell of: one question for all tenants with readers here."""
        while True:
            await asyncio.sleep(CALM)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY if self._bell.healthy else LOOK_EVERY_UNHEARD):
                    await self._look_now.wait()
            self._look_now.clear()
            tenant_ids = list(self._watches)
            if not tenant_ids:
                continue
            try:
                async with self._db.across("feed", tenant_ids) as connection:
                    heads = await events.heads(connection, tenant_ids)
            except ServiceUnavailable:
                continue
            except Exception:
                log.exception("feed.look_failed")
                continue
            self.counts.looks += 1
            self._seen_at = asyncio.get_running_loop().time()
            for tenant_id, head in heads.items():
                if watch := self._watches.get(tenant_id):
                    watch.tail.raise_head(head)

    async def _insist(self, tenant_id: UUID, after: int) -> Batch:
        """`look`, again and again while PostgreSQL is away."""
        return await insist(lambda: self.look(tenant_id, after))


async def insist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat what fails only because PostgreSQL is away, with a jittered back-off, for as long as it takes."""
    pause, longest = BACK_OFF
    while True:
        try:
            return await attempt()
        except ServiceUnavailable:
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(pause * 2, longest)
