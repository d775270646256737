"""Token buckets: what a tenant may spend on the API, counted once for all processes.

The bucket lives in Redis and is changed by one atomic script, with Redis's own clock. While Redis is away each process
judges by a smaller bucket of its own: fewer requests pass than should, never any number of them. Callers that wait
share one round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import structlog
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import RedisError

from app.telemetry import POINTS, REFUSED

log = structlog.get_logger(__name__)

#: Seconds for one exchange with Redis, connecting included, and how long it is left alone after a failure.
ATTEMPT: Final = 0.25
PAUSE: Final = 1.0
#: Callers in one round trip, and callers that wait; beyond that the local bucket answers.
BATCH: Final = 256
MOST_WAITING: Final = 4_096
#: While Redis is away, each process grants this part of the bucket.
LOCAL_PART: Final = 0.25
LOCAL_BUCKETS: Final = 10_000

# KEYS[1] the bucket; ARGV: capacity, points per second, cost. A negative cost gives back. Answers whether it was
# granted, and what is left.
_SPEND: Final = """
local now = redis.call('TIME')
local at = now[1] + now[2] / 1000000
local most, rate, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('HMGET', KEYS[1], 'points', 'at')
local points = most
if kept[1] and kept[2] then
  points = math.min(most, tonumber(kept[1]) + math.max(0, at - tonumber(kept[2])) * rate)
end
local granted = 0
if cost <= points then
  granted = 1
  points = math.min(most, points - cost)
end
redis.call('HSET', KEYS[1], 'points', string.format('%.6f', points), 'at', string.format('%.6f', at))
redis.call('PEXPIRE', KEYS[1], math.ceil((most - points) / rate * 1000) + 1000)
return {granted, string.format('%.6f', points)}
"""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What became of one request to spend, and what is left."""

    granted: bool
    #: Size of the bucket, in points.
    limit: int
    remaining: int
    #: Seconds until the bucket is full again.
    full_in: float
    #: Seconds until what was asked for is there; 0 when it was granted.
    retry_in: float = 0
    #: Points per second.
    restore: float = 1
    #: Whether this process judged alone.
    alone: bool = False

    def after(self, refund: float) -> Allowance:
        """The same once `refund` points have been given back."""
        remaining = min(self.limit, self.remaining + int(refund))
        return replace(self, remaining=remaining, full_in=max(0.0, self.full_in - refund / self.restore))


def spend(points: float, waited: float, cost: float, *, most: float, rate: float) -> tuple[bool, float]:
    """The rule of the bucket: `points` were left `waited` seconds ago. Whether `cost` is granted, and what is left."""
    points = min(most, points + max(0.0, waited) * rate)
    if cost > points:
        return False, points
    return True, min(most, points - cost)


class Local:
    """Buckets of this process, bounded in number; one that was forgotten is full."""

    def __init__(self, most: float, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.rate = most, rate
        self._clock = clock
        self._buckets: OrderedDict[UUID, tuple[float, float]] = OrderedDict()

    def spend(self, who: UUID, cost: float) -> tuple[bool, float]:
        """Whether it is granted, and what is left."""
        now = self._clock()
        points, at = self._buckets.get(who, (self.most, now))
        granted, points = spend(points, now - at, cost, most=self.most, rate=self.rate)
        self._buckets[who] = (points, now)
        self._buckets.move_to_end(who)
        if len(self._buckets) > LOCAL_BUCKETS:
            self._buckets.popitem(last=False)
        return granted, points


class Limiter:
    """The API's buckets, one per tenant. `url` is Redis's; without one the buckets are this process's own, in full.

    `largest` points are granted at once even by the smaller bucket, if the large one would.
    """

    def __init__(self, url: str | None, *, most: int, rate: float, largest: int) -> None:
        self.most, self.rate = most, rate
        part = 1.0 if url is None else LOCAL_PART
        self._local = Local(max(most * part, min(most, largest)), rate * part)
        self._redis = None if url is None else _Redis(url)

    async def stop(self) -> None:
        """Let go of Redis."""
        if self._redis is not None:
            await self._redis.stop()

    async def spend(self, who: UUID, cost: float) -> Allowance:
        """Take `cost` points out of `who`'s bucket, if they are there. Never raises, never waits for long."""
        answer = await self._redis.spend(who, self.most, self.rate, cost) if self._redis is not None else None
        if answer is not None:
            POINTS.labels("redis").inc(max(0.0, cost))
            return _allowance(*answer, cost, self.most, self.rate)
        POINTS.labels("local").inc(max(0.0, cost))
        alone = _allowance(*self._local.spend(who, cost), cost, self._local.most, self._local.rate)
        return replace(alone, alone=True)

    def give_back(self, who: UUID, taken: Allowance, points: float) -> None:
        """Return what was taken and not used, to where it came from. Does not wait; lost when Redis has gone since."""
        if points <= 0:
            return
        if taken.alone or self._redis is None:
            self._local.spend(who, -points)
        else:
            self._redis.give_back(who, self.most, self.rate, points)


def _allowance(granted: bool, points: float, cost: float, most: float, rate: float) -> Allowance:
    if not granted:
        REFUSED.inc()
    return Allowance(
        granted=granted,
        limit=int(most),
        remaining=int(points),
        full_in=(most - points) / rate,
        retry_in=0 if granted else max(0.0, min(cost, most) - points) / rate,
        restore=rate,
    )


_Answer = tuple[bool, float]


class _Redis:
    """One connection; whatever waits goes out together."""

    def __init__(self, url: str) -> None:
        self._options: dict[str, Any] = {
            **parse_url(url),
            "socket_timeout": None,
            "socket_connect_timeout": ATTEMPT,
            "health_check_interval": 0,
            "retry": None,
            "retry_on_timeout": False,
            "protocol": 2,
            "decode_responses": False,
            "driver_info": None,
        }
        self._class: type[AbstractConnection] = self._options.pop("connection_class", Connection)
        self._connection: AbstractConnection | None = None
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[_Answer | None] | None]] = []
        self._task: asyncio.Task[None] | None = None
        self._away_until = -math.inf
        self._away = False

    async def spend(self, who: UUID, most: float, rate: float, cost: float) -> _Answer | None:
        """Whether it was granted and what is left; None when Redis cannot say."""
        if len(self._waiting) >= MOST_WAITING or time.monotonic() < self._away_until:
            return None
        future: asyncio.Future[_Answer | None] = asyncio.get_running_loop().create_future()
        self._offer(who, (most, rate, cost), future)
        return await future

    def give_back(self, who: UUID, most: float, rate: float, points: float) -> None:
        """The same without an answer."""
        if len(self._waiting) < MOST_WAITING and time.monotonic() >= self._away_until:
            self._offer(who, (most, rate, -points), None)

    async def stop(self) -> None:
        """A moment for what waits, then the end."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=ATTEMPT)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._hang_up()

    def _offer(self, who: UUID, numbers: tuple[float, ...], future: asyncio.Future[_Answer | None] | None) -> None:
        self._waiting.append((("EVAL", _SPEND, 1, f"points:{who}", *numbers), future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                async with asyncio.timeout(ATTEMPT):
                    await self._exchange(batch)
            except Exception as exc:  # whatever it was, requests go on
                await self._failed(exc, batch)
            except BaseException:
                _give_up(batch)
                raise

    async def _exchange(self, batch: list[tuple[tuple[Any, ...], asyncio.Future[_Answer | None] | None]]) -> None:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._class(**self._options)
            await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_packed_command(connection.pack_commands([command for command, _ in batch]))
        for _, future in batch:
            granted, points = await connection.read_response()
            if future is not None and not future.done():
                future.set_result((granted == 1, float(points)))
        if self._away:
            self._away = False
            log.info("limits_restored")

    async def _failed(self, exc: Exception, batch: list[Any]) -> None:
        if not self._away:
            self._away = True
            log.warning("limits_lost", error=f"{type(exc).__name__}: {exc}")
        self._away_until = time.monotonic() + PAUSE
        _give_up(batch)
        _give_up(self._waiting)
        self._waiting.clear()
        await self._hang_up()

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            writer = connection._writer  # noqa: SLF001
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
            if writer is not None:
                writer.transport.abort()


def _give_up(batch: list[tuple[tuple[Any, ...], asyncio.Future[_Answer | None] | None]]) -> None:
    for _, future in batch:
        if future is not None and not future.done():
            future.set_result(None)
