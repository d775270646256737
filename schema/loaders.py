"""One batch per edge of the graph: whatever a page needs of a kind is asked for in one statement, at 10 rows as at 100.

Made anew for every request and every batch of a feed, so nothing here grows old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeAlias, TypeVar
from uuid import UUID

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
L = TypeVar("L")
T = TypeVar("T")
W = TypeVar("W")
#: A list of one parent: whose it is, and what is wanted of it.
Of: TypeAlias = tuple[K, Asked[W]]
ByKey: TypeAlias = Callable[[Session, UUID, Sequence[K]], Awaitable[Mapping[K, T]]]
Pages: TypeAlias = Callable[[Session, UUID, Sequence[K], Asked[W]], Awaitable[list[Page[T]]]]


class Loader(Generic[A, T]):
    """Asks for many keys at once, and for each of them once.

    Whoever waits for a key waits alone: when siblings of a field that broke are cancelled, nobody else who waits for
    the same row is cancelled with them.
    """

    def __init__(self, fetch: Callable[[list[A]], Awaitable[Sequence[T | BaseException]]]) -> None:
        self._fetch = fetch
        self._found: dict[A, asyncio.Future[T]] = {}
        #: Keys that will be asked for together, and who does it.
        self._next: list[A] = []
        self._task: asyncio.Task[None] | None = None

    def load(self, key: A) -> Awaitable[T]:
        """What there is of a key."""
        found = self._begin(key)
        return found if found.done() else asyncio.shield(found)

    def ahead(self, keys: Iterable[A]) -> set[asyncio.Future[Any]]:
        """Ask for these. What to wait for until they are there; it raises nothing."""
        waiting: set[asyncio.Future[Any]] = set()
        for key in keys:
            found = self._found.get(key)
            if found is None:
                self._begin(key)
            elif not found.done():
                waiting.add(found)
        if self._next and self._task is not None:
            waiting.add(self._task)
        return waiting

    def ready(self, key: A) -> asyncio.Future[T] | None:
        """What there is of a key, if that is known."""
        found = self._found.get(key)
        return found if found is not None and found.done() else None

    def _begin(self, key: A) -> asyncio.Future[T]:
        found = self._found.get(key)
        if found is None:
            loop = asyncio.get_running_loop()
            found = self._found[key] = loop.create_future()
            if not self._next:
                self._task = loop.create_task(self._load())
            self._next.append(key)
        return found

    async def _load(self) -> None:
        await asyncio.sleep(0)  # others who run now may want more
        keys, self._next = self._next, []
        try:
            rows = await self._fetch(keys)
            for key, row in zip(keys, rows, strict=True):
                if isinstance(row, BaseException):
                    self._fail(key, row)
                else:
                    self._found[key].set_result(row)
        except Exception as exc:  # whoever waits is told
            for key in keys:
                self._fail(key, exc)
        except BaseException:
            for key in keys:
                self._found.pop(key).cancel()
            raise

    def _fail(self, key: A, exc: BaseException) -> None:
        self._found[key].set_exception(exc)
        self._found[key].exception()  # loaded ahead and asked for by nobody, it is no news for the log


class _Lazy(Generic[L]):
    """A loader that is made when it is first asked for: an operation uses few of them."""

    def __init__(self, make: Callable[[Loaders], L]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, loaders: Loaders, owner: type) -> L:
        made: L = self._make(loaders)
        loaders.__dict__[self._name] = made
        return made


def _by_key(verb: Callable[[], ByKey[K, T]]) -> _Lazy[Loader[K, T | None]]:
    def make(loaders: Loaders) -> Loader[K, T | None]:
        # Not `loaders` itself: it and its loaders would hold each other, and all that was loaded.
        rows, read, tenant_id = verb(), loaders.read, loaders.tenant_id

        async def load(wanted: list[K]) -> list[T | None]:
            async with read() as session:
                found = await rows(session, tenant_id, wanted)
            return [found.get(key) for key in wanted]

        return Loader(load)

    return _Lazy(make)


def _pages(verb: Callable[[], Pages[K, W, T]]) -> _Lazy[Loader[Of[K, W], Page[T]]]:
    """Lists that differ only in their parent are read by one statement."""

    def make(loaders: Loaders) -> Loader[Of[K, W], Page[T]]:
        rows, read, tenant_id = verb(), loaders.read, loaders.tenant_id

        async def load(wanted: list[Of[K, W]]) -> list[Page[T]]:
            parents: dict[Asked[W], list[K]] = {}
            for parent, asked in wanted:
                parents.setdefault(asked, []).append(parent)
            found: dict[Of[K, W], Page[T]] = {}
            async with read() as session:
                for asked, theirs in parents.items():
                    pages = await rows(session, tenant_id, theirs, asked)
                    found.update(zip([(parent, asked) for parent in theirs], pages, strict=True))
            return [found[of] for of in wanted]

        return Loader(load)

    return _Lazy(make)


class Loaders:
    """What one operation has loaded of one tenant.

    (In a lambda, unlike beside it, the name of a module is not that of the loader above.)
    """

    def __init__(self, read: Callable[[], AbstractAsyncContextManager[Session]], tenant_id: UUID) -> None:
        self.read = read
        self.tenant_id = tenant_id
        #: What was made of a row that many others lead to, by its key: a hundred punches come from few devices.
        self.shown: dict[UUID, Any] = {}

    sites = _by_key(lambda: sites.by_ids)
    devices = _by_key(lambda: devices.by_ids)
    employees = _by_key(lambda: employees.by_ids)
    employees_by_pin = _by_key(lambda: employees.by_pins)
    punches = _by_key(lambda: punches.by_ids)
    raw_punches = _by_key(lambda: punches.raw_by_ids)
    device_counts = _by_key(lambda: devices.count_by_site)
    punch_counts = _by_key(lambda: punches.count_by_device)
    reconciliations = _by_key(lambda: reconciliations.by_devices)
    with_rejected = _by_key(lambda: records.with_rejected)
    rejected_records = _by_key(lambda: records.rejected_by_ids)
    placements = _by_key(lambda: placements.by_pins)
    unknown_pins = _by_key(lambda: terminal_users.unknown_pins)
    commands = _by_key(lambda: commands.by_ids)
    endpoints = _by_key(lambda: endpoints.by_ids)
    deliveries = _by_key(lambda: deliveries.by_ids)
    replays = _by_key(lambda: replays.by_ids)
    attempts = _by_key(lambda: deliveries.attempts_by_delivery)
    bodies = _by_key(lambda: _bodies)
    keys = _by_key(lambda: keys.by_ids)
    audit = _by_key(lambda: audit.by_ids)
    devices_of_sites = _pages(lambda: devices.page_by_site)
    punches_of_devices = _pages(lambda: punches.page_by_device)
    punches_of_pins = _pages(lambda: punches.page_by_pin)
    commands_of_devices = _pages(lambda: commands.page_by_device)
    rejected_of_devices = _pages(lambda: records.page_rejected_by_device)
    deliveries_of_endpoints = _pages(lambda: deliveries.page_by_endpoint)


async def _bodies(session: Session, tenant_id: UUID, positions: Sequence[int]) -> dict[int, bytes]:
    return await events.bodies(await driver(session), tenant_id, positions)
