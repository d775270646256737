"""Group commit: uploads that arrive together share a transaction, and each is answered after it.

A bounded queue; a writer that takes all that waits; a poisoned batch taken apart upload by upload. An upload whose rows
the database refuses is kept as bytes, since refusing it for ever would block the terminal's queue behind it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

import asyncpg
import structlog

from app import telemetry
from app.database import CONFLICTS, Database
from app.domain import ingest
from app.domain.events import Logged
from app.domain.ingest import Reading
from app.errors import ServiceUnavailable

log = structlog.get_logger(__name__)

_TRIES: Final = 3
#: Uploads that are worth a commit beside one under way, and seconds after which any are.
CROWD: Final = 8
PATIENCE: Final = 0.005
#: The rows are at fault, not the moment: the same upload would fail for ever.
REFUSED: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
Ring = Callable[[Sequence[Logged]], None]
Waiting = tuple[Reading, "asyncio.Future[None]"]


class Intake:
    """One process's way into the log. `submit` returns once the upload is durable."""

    def __init__(self, db: Database, ring: Ring, *, bound: int = 50_000, batch: int = 10_000, writers: int = 2) -> None:
        self._db, self._ring = db, ring
        self._bound, self._batch, self._writers = bound, batch, writers
        self._queue: deque[Waiting] = deque()
        self._waiting = 0
        self._wake = asyncio.Event()
        #: Commits that may end any moment: those under way for less than PATIENCE.
        self._soon: set[object] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the writers. Two: while one waits for the disk, the other prepares the next commit, if that is worth
        its while: few uploads soon have the first one, and are cheaper together."""
        self._tasks = [asyncio.create_task(self._write(), name=f"intake-{n}") for n in range(self._writers)]

    async def stop(self) -> None:
        """Commit what waits, then end. Whoever still waits after that is told to come back."""
        last = [future for _, future in self._queue]
        if last:
            await asyncio.wait(last, timeout=10)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, future in self._queue:
            _settle(future, ServiceUnavailable("The server is stopping. Try again."))
        self._queue.clear()

    async def submit(self, reading: Reading) -> None:
        """Return once everything in `reading` is committed; raise ServiceUnavailable if it may not be."""
        weight = max(reading.weight, 1)
        # The first in line is always let in, or one longer than the queue could never be stored.
        if self._waiting and self._waiting + weight > self._bound:
            raise ServiceUnavailable("Too much is waiting to be stored. Try again.")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((reading, future))
        self._waiting += weight
        if not self._soon or len(self._queue) >= CROWD:
            self._wake.set()
        await future

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            batch = self._take()
            if not batch:
                self._wake.clear()
                continue
            commit = object()
            self._soon.add(commit)
            patience = loop.call_later(PATIENCE, self._wait_no_longer_for, commit)
            try:
                await self._commit(batch)
            except asyncio.CancelledError:
                for _, future in batch:
                    _settle(future, ServiceUnavailable("The server is stopping. Try again."))
                raise
            except Exception:  # a writer that dies takes the process's intake with it
                log.exception("intake_failed", uploads=len(batch))
                for _, future in batch:
                    _settle(future, ServiceUnavailable("The upload could not be stored. Try again."))
            finally:
                patience.cancel()
                self._wait_no_longer_for(commit)
                self._waiting -= sum(max(reading.weight, 1) for reading, _ in batch)
                telemetry.WAITING_RECORDS.set(self._waiting)

    def _wait_no_longer_for(self, commit: object) -> None:
        self._soon.discard(commit)
        if self._queue:
            self._wake.set()

    def _take(self) -> list[Waiting]:
        taken: list[Waiting] = []
        rows = 0
        while self._queue and (not taken or rows + self._queue[0][0].weight <= self._batch):
            waiting = self._queue.popleft()
            rows += waiting[0].weight
            taken.append(waiting)
        return taken

    async def _commit(self, batch: Sequence[Waiting]) -> None:
        started = perf_counter()
        try:
            logged = await self._store([reading for reading, _ in batch])
        except ServiceUnavailable as exc:
            for _, future in batch:
                _settle(future, exc)
            return
        except REFUSED as exc:
            await self._one_by_one(batch, exc)
            return
        telemetry.COMMIT_SECONDS.observe(perf_counter() - started)
        telemetry.COMMIT_UPLOADS.observe(len(batch))
        self._ring(logged)
        for _, future in batch:
            _settle(future)

    async def _store(self, readings: Sequence[Reading]) -> list[Logged]:
        tenants = list({reading.device.tenant_id for reading in readings})
        for last in (False,) * (_TRIES - 1) + (True,):
            try:
                logged = await ingest.accept_at_once(self._db.at_once, readings, tenants)
                if logged is None:
                    async with self._db.across("ingest", tenants) as connection:
                        logged = await ingest.accept(connection, readings)
            except CONFLICTS:
                if last:
                    raise ServiceUnavailable("The upload could not be stored just now. Try again.") from None
            else:
                return logged
        raise AssertionError("unreachable")

    async def _one_by_one(self, batch: Sequence[Waiting], cause: Exception) -> None:
        """One upload spoils a batch for all: find it, and keep its bytes instead of its rows."""
        if len(batch) > 1:
            log.warning("batch_poisoned", uploads=len(batch), error=type(cause).__name__)
            for waiting in batch:
                await self._commit([waiting])
            return
        [(reading, future)] = batch
        reason = f"refused by the database: {type(cause).__name__}"
        log.error(
            "upload_salvaged",
            tenant=str(reading.device.tenant_id),
            device=str(reading.device.device.id),
            records=len(reading.punches),
            error=type(cause).__name__,
        )
        try:
            self._ring(await self._store([ingest.salvage(reading, reason)]))
        except ServiceUnavailable as exc:
            _settle(future, exc)
            return
        _settle(future)


def _settle(future: asyncio.Future[None], error: Exception | None = None) -> None:
    """Answer whoever still waits."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
