"""One batch per edge of the graph: whatever a page needs of a kind is asked for in one statement, at 10 rows as at 100.

Made anew for every request and every batch of a feed, so nothing here grows old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, TypeVar, cast
from uuid import UUID

from strawberry.dataloader import DataLoader

from app.database import Session, driver
from app.domain import (
    audit,
    commands,
    deliveries,
    devices,
    employees,
    endpoints,
    events,
    keys,
    placements,
    punches,
    reconciliations,
    records,
    replays,
    sites,
    terminal_users,
)
from app.paging import Asked, Page

A = TypeVar("A")
K = TypeVar("K", UUID, str, int)
T = TypeVar("T")
W = TypeVar("W")
#: A list of one parent: whose it is, and what is wanted of it.
Of: TypeAlias = tuple[K, Asked[W]]


class Loader(DataLoader[A, T]):
    """Whoever waits for a key waits alone: when graphql-core cancels the siblings of a field that broke, nobody else
    who waits for the same row is cancelled with them.
    """

    def load(self, key: A) -> Awaitable[T]:
        """What there is of a key."""
        return asyncio.shield(self.begin(key))

    def begin(self, key: A) -> asyncio.Future[T]:
        """The same, for who waits for many and never gives up: one future for all that ask for the key."""
        future = cast("asyncio.Future[T]", super().load(key))
        future.add_done_callback(_heard)
        return future


def _heard(future: asyncio.Future[Any]) -> None:
    """What was loaded ahead and failed may find nobody who asks for it: that is no news for the log."""
    if not future.cancelled():
        future.exception()


class Loaders:
    """What one operation has loaded of one tenant."""

    def __init__(self, read: Callable[[], AbstractAsyncContextManager[Session]], tenant_id: UUID) -> None:
        self._read = read
        self._tenant_id = tenant_id
        #: What was made of a row that many others lead to, by its key: a hundred punches come from few devices.
        self.shown: dict[UUID, Any] = {}
        self.sites = self._by_key(sites.by_ids)
        self.devices = self._by_key(devices.by_ids)
        self.employees = self._by_key(employees.by_ids)
        self.employees_by_pin = self._by_key(employees.by_pins)
        self.punches = self._by_key(punches.by_ids)
        self.raw_punches = self._by_key(punches.raw_by_ids)
        self.device_counts = self._by_key(devices.count_by_site)
        self.punch_counts = self._by_key(punches.count_by_device)
        self.reconciliations = self._by_key(reconciliations.by_devices)
        self.with_rejected = self._by_key(records.with_rejected)
        self.rejected_records = self._by_key(records.rejected_by_ids)
        self.placements = self._by_key(placements.by_pins)
        self.unknown_pins = self._by_key(terminal_users.unknown_pins)
        self.commands = self._by_key(commands.by_ids)
        self.endpoints = self._by_key(endpoints.by_ids)
        self.deliveries = self._by_key(deliveries.by_ids)
        self.replays = self._by_key(replays.by_ids)
        self.attempts = self._by_key(deliveries.attempts_by_delivery)
        self.bodies = self._by_key(_bodies)
        self.keys = self._by_key(keys.by_ids)
        self.audit = self._by_key(audit.by_ids)
        self.devices_of_sites = self._pages(devices.page_by_site)
        self.punches_of_devices = self._pages(punches.page_by_device)
        self.punches_of_pins = self._pages(punches.page_by_pin)
        self.commands_of_devices = self._pages(commands.page_by_device)
        self.rejected_of_devices = self._pages(records.page_rejected_by_device)
        self.deliveries_of_endpoints = self._pages(deliveries.page_by_endpoint)

    def _by_key(
        self, verb: Callable[[Session, UUID, Sequence[K]], Awaitable[Mapping[K, T]]]
    ) -> DataLoader[K, T | None]:
        async def load(wanted: list[K]) -> list[T | None]:
            async with self._read() as session:
                found = await verb(session, self._tenant_id, wanted)
            return [found.get(key) for key in wanted]

        return Loader(load)

    def _pages(
        self, verb: Callable[[Session, UUID, Sequence[K], Asked[W]], Awaitable[list[Page[T]]]]
    ) -> DataLoader[Of[K, W], Page[T]]:
        """Lists that differ only in their parent are read by one statement."""

        async def load(wanted: list[Of[K, W]]) -> list[Page[T]]:
            parents: dict[Asked[W], list[K]] = {}
            for parent, asked in wanted:
                parents.setdefault(asked, []).append(parent)
            found: dict[Of[K, W], Page[T]] = {}
            async with self._read() as session:
                for asked, theirs in parents.items():
                    pages = await verb(session, self._tenant_id, theirs, asked)
                    found.update(zip([(parent, asked) for parent in theirs], pages, strict=True))
            return [found[of] for of in wanted]

        return Loader(load)


async def _bodies(session: Session, tenant_id: UUID, positions: Sequence[int]) -> dict[int, bytes]:
    return await events.bodies(await driver(session), tenant_id, positions)
