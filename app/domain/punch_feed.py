"""The feed as punches. What is not a punch, or not a wanted one, is left out, and positions move on all the same.

The filter is the one of the list of punches, asked of each punch as it is read: whose PIN it is and at which site the
device stands are looked up then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from app import paging
from app.database import Database
from app.domain.devices import Device
from app.domain.employees import Employee
from app.domain.events import EventType
from app.domain.feed import Batch, Feed, insist
from app.domain.punches import EVERY, PunchView, Wanted, read_snapshot
from app.domain.tables import columns

T = TypeVar("T")

#: Seconds after which a batch is due even when nothing was wanted. With the feed's pulse it stays below 15.
CHECKPOINT: Final = 10.0
#: Pages of the log that one pull looks through for something wanted before it answers with how far it came.
PULLED_PAGES: Final = 20

#: A punch and its position.
Chosen: TypeAlias = tuple[int, PunchView]


@dataclass(frozen=True, slots=True)
class PunchBatch:
    """Wanted punches that follow one another in the feed, and how far they lead."""

    punches: Sequence[PunchView]
    position: int
    caught_up: bool
    #: Positions between `position` and the end of the log.
    lag: int
    #: The position of the first punch.
    first: int | None = None
    #: Of the same moment as the one before it: both are parts of one batch.
    goes_on: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What a filter must know beyond the punch itself, as it is now."""

    #: Devices at the wanted sites.
    devices: frozenset[UUID] = frozenset()
    #: PINs of the wanted employees.
    pins: frozenset[str] = frozenset()
    #: PINs of the punches at hand that some employee has.
    matched: frozenset[str] = frozenset()


NO_FACTS: Final = Facts()


class Sieve:
    """A filter, ready to be asked many times."""

    def __init__(self, wanted: Wanted, within: Sequence[UUID] | None = None) -> None:
        if within is not None:
            here = within if wanted.site_ids is None else [key for key in wanted.site_ids if key in within]
            wanted = replace(wanted, site_ids=tuple(here))
        self._wanted = wanted
        self._devices = _set(wanted.device_ids)
        self._pins = _set(wanted.pins)
        self._directions = _set(wanted.directions)
        self._verify_modes = _set(wanted.verify_modes)

    def admits(self, punch: PunchView, facts: Facts) -> bool:
        """Whether all conditions hold."""
        wanted = self._wanted
        return (
            (self._devices is None or punch.device_id in self._devices)
            and (self._pins is None or punch.pin in self._pins)
            and (self._directions is None or punch.direction in self._directions)
            and (self._verify_modes is None or punch.verify_mode in self._verify_modes)
            and (wanted.punched_since is None or punch.punched_at >= wanted.punched_since)
            and (wanted.punched_before is None or punch.punched_at < wanted.punched_before)
            and (wanted.received_since is None or punch.received_at >= wanted.received_since)
            and (wanted.received_before is None or punch.received_at < wanted.received_before)
            and (wanted.buffered is None or punch.buffered is wanted.buffered)
            and (wanted.site_ids is None or punch.device_id in facts.devices)
            and (wanted.employee_ids is None or punch.pin in facts.pins)
            and (wanted.unmatched is None or (punch.pin not in facts.matched) is wanted.unmatched)
        )

    async def choose(self, db: Database, tenant_id: UUID, batch: Batch) -> list[Chosen]:
        """The wanted punches of a batch. ServiceUnavailable when a fact is needed and the database is away."""
        found = [
            (event.position, read_snapshot(event.data()))
            for event in batch.events
            if event.type == EventType.PUNCH_CREATED
        ]
        facts = await self._facts(db, tenant_id, [punch for _, punch in found]) if found else NO_FACTS
        return [(position, punch) for position, punch in found if self.admits(punch, facts)]

    async def _facts(self, db: Database, tenant_id: UUID, punches: Sequence[PunchView]) -> Facts:
        wanted = self._wanted
        if wanted.site_ids is None and wanted.employee_ids is None and wanted.unmatched is None:
            return NO_FACTS
        device, employee = columns(Device), columns(Employee)
        async with db.read(tenant_id) as session:
            connection = await session.connection()
            devices = select(device.id).where(device.tenant_id == tenant_id)
            people = select(employee.pin).where(employee.tenant_id == tenant_id)
            there: frozenset[UUID] = frozenset()
            theirs: frozenset[str] = frozenset()
            known: frozenset[str] = frozenset()
            if wanted.site_ids is not None:
                there = await _all(connection, devices.where(paging.among(device.site_id, wanted.site_ids)))
            if wanted.employee_ids is not None:
                theirs = await _all(connection, people.where(paging.among(employee.id, wanted.employee_ids)))
            if wanted.unmatched is not None:
                pins = [punch.pin for punch in punches]
                known = await _all(connection, people.where(paging.among(employee.pin, pins)))
        return Facts(there, theirs, known)


def split(batch: Batch, chosen: Sequence[Chosen], most: int) -> Iterator[PunchBatch]:
    """The batch in parts of at most `most` punches; the last one leads to the end of the batch. At least one part."""
    for start in range(0, max(len(chosen), 1), most):
        part = chosen[start : start + most]
        position = part[-1][0] if start + most < len(chosen) else batch.position
        caught_up = batch.caught_up and position == batch.position
        first = part[0][0] if part else None
        lag = batch.head - position
        yield PunchBatch([punch for _, punch in part], position, caught_up, lag, first, goes_on=start > 0)


class PunchFeed:
    """One reader's view of a tenant's feed: its filter, the only sites it sees, how many punches it takes at once."""

    def __init__(
        self,
        feed: Feed,
        db: Database,
        tenant_id: UUID,
        *,
        within: Sequence[UUID] | None,
        wanted: Wanted = EVERY,
        most: int = 50,
    ) -> None:
        self._feed = feed
        self._db = db
        self._tenant_id = tenant_id
        self._sieve = Sieve(wanted, within)
        self._most = most

    async def follow(self, after: int, *, quiet: bool = False) -> AsyncGenerator[PunchBatch]:
        """What follows a position, for ever: the first batch at once, and one at least every 15 seconds.

        `quiet` is for who knows already that there was no more: nothing is said before there is news, or a checkpoint
        is due. Raises CursorExpired when the reader fell behind what is kept.
        """
        clock = asyncio.get_running_loop().time
        due, told = clock() + (CHECKPOINT if quiet else 0), quiet
        async with aclosing(self._feed.follow(self._tenant_id, after)) as batches:
            async for batch in batches:
                chosen = await insist(partial(self._choose, batch))
                # What nobody wants is passed over in silence, but who waits is told at once that there is no more.
                if chosen or clock() >= due or (batch.caught_up and not told):
                    for part in split(batch, chosen, self._most):
                        due, told = clock() + CHECKPOINT, part.caught_up
                        yield part

    async def collect(self, after: int, wait: float = 0, *, stopping: asyncio.Event | None = None) -> PunchBatch:
        """The next batch after a position; when it would be empty, what comes within `wait` seconds.

        Once `stopping` is set there is no more waiting: what there is, is answered, as when the time is over.
        Raises ServiceUnavailable without the database, CursorExpired when what follows is not kept any more.
        """
        deadline = asyncio.get_running_loop().time() + wait
        batch = await self._feed.look(self._tenant_id, after)
        chosen = await self._choose(batch)
        for _ in range(PULLED_PAGES):
            if chosen or batch.caught_up:
                break
            batch = await self._feed.look(self._tenant_id, batch.position)
            chosen = await self._choose(batch)
        if not chosen and wait > 0:
            follow = self._feed.follow(self._tenant_id, batch.position)
            with suppress(TimeoutError):
                async with (
                    asyncio.timeout_at(deadline) as limit,
                    _over_once(stopping, limit),
                    aclosing(follow) as batches,
                ):
                    async for fresh in batches:
                        picked = await self._choose(fresh)
                        # Both or neither: the deadline must not pass over what was not yet looked through.
                        batch, chosen = fresh, picked
                        if chosen:
                            break
        return next(split(batch, chosen, self._most))

    async def _choose(self, batch: Batch) -> list[Chosen]:
        return await self._sieve.choose(self._db, self._tenant_id, batch)


@asynccontextmanager
async def _over_once(stopping: asyncio.Event | None, limit: asyncio.Timeout) -> AsyncIterator[None]:
    """Have `limit` run out once `stopping` is set."""
    if stopping is None:
        yield
        return

    def end(_: asyncio.Future[Any]) -> None:
        if not limit.expired():
            limit.reschedule(asyncio.get_running_loop().time())

    told = asyncio.ensure_future(stopping.wait())
    told.add_done_callback(end)
    try:
        yield
    finally:
        told.remove_done_callback(end)
        told.cancel()


def _set(values: Iterable[T] | None) -> frozenset[T] | None:
    return None if values is None else frozenset(values)


async def _all(connection: AsyncConnection, query: Select[Any]) -> frozenset[Any]:
    return frozenset((await connection.execute(query)).scalars())
