"""Token buckets: what a tenant may spend on the API, counted once for all processes.

The bucket lives in Redis and is changed by one atomic script, with Redis's own clock. While Redis is away each process
judges by a smaller bucket of its own: fewer requests pass than should, never any number of them. Callers that wait
share one round trip.

A bucket that was more than half full a moment ago is drawn on without asking, and Redis is told soon: see `AHEAD`. So a
process can take at most that part of it too much, in the moment in which others empty it; it is counted all the same,
and whoever asks next waits for it to come back.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from uuid import UUID

from app.asking import Asker
from app.telemetry import POINTS, REFUSED

#: While Redis is away, each process grants this part of the bucket.
LOCAL_PART: Final = 0.25
LOCAL_BUCKETS: Final = 10_000
#: The part of a bucket that a process takes at most before Redis hears of it; only while it knows, not longer ago than
#: FRESH seconds, that half of it is there. Redis is told after SOON seconds.
AHEAD: Final = 1 / 32
FRESH: Final = 0.25
SOON: Final = 0.01

# KEYS[1] the bucket; ARGV: capacity, points per second, cost, and whether it was taken already: then there may be less
# than nothing left. A negative cost gives back. Answers whether it was granted, and what is left.
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
if cost <= points or ARGV[4] == '1' then
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


@dataclass(slots=True)
class _Known:
    """What is known of a bucket in Redis."""

    points: float
    at: float
    #: Taken since, and not told yet.
    unsaid: float = 0.0


class Limiter:
    """The API's buckets, one per tenant. `url` is Redis's; without one the buckets are this process's own, in full.

    `largest` points are granted at once even by the smaller bucket, if the large one would.
    """

    def __init__(self, url: str | None, *, most: int, rate: float, largest: int) -> None:
        self.most, self.rate = most, rate
        part = 1.0 if url is None else LOCAL_PART
        self._local = Local(max(most * part, min(most, largest)), rate * part)
        #: The process's connection for such questions; others may ask there, too.
        self.redis = None if url is None else Asker(url)
        self._known: OrderedDict[UUID, _Known] = OrderedDict()

    async def stop(self) -> None:
        """Let go of Redis."""
        if self.redis is not None:
            for who in list(self._known):
                self._tell(who)
            await self.redis.stop()

    async def spend(self, who: UUID, cost: float) -> Allowance:
        """Take `cost` points out of `who`'s bucket, if they are there. Never raises, never waits for long."""
        if self.redis is not None:
            left = self._take_ahead(who, cost)
            if left is not None:
                _IN_REDIS.inc(cost)
                return _allowance(True, left, cost, self.most, self.rate)
            self._tell(who)
            answer = await self.redis.ask(*self._spending(who, cost))
            if answer is not None:
                _IN_REDIS.inc(max(0.0, cost))
                self._learn(who, float(answer[1]))
                return _allowance(answer[0] == 1, float(answer[1]), cost, self.most, self.rate)
        _HERE.inc(max(0.0, cost))
        alone = _allowance(*self._local.spend(who, cost), cost, self._local.most, self._local.rate)
        return replace(alone, alone=True)

    def give_back(self, who: UUID, taken: Allowance, points: float) -> None:
        """Return what was taken and not used, to where it came from. Does not wait; lost when Redis has gone since."""
        if points <= 0:
            return
        if taken.alone or self.redis is None:
            self._local.spend(who, -points)
            return
        known = self._known.get(who)
        if known is not None and known.unsaid >= points:
            known.unsaid -= points
            return
        if known is not None:
            known.points += points
        self.redis.tell(*self._spending(who, -points))

    def _take_ahead(self, who: UUID, cost: float) -> float | None:
        """Take `cost` without asking, if that is safe enough. What is left; None when Redis must be asked."""
        known = self._known.get(who)
        if known is None or cost <= 0 or known.unsaid + cost > self.most * AHEAD:
            return None
        waited = time.monotonic() - known.at
        left = min(self.most, known.points + waited * self.rate) - known.unsaid - cost
        if waited > FRESH or left < self.most / 2:
            return None
        if not known.unsaid:
            asyncio.get_running_loop().call_later(SOON, self._tell, who)
        known.unsaid += cost
        return left

    def _tell(self, who: UUID) -> None:
        """Have Redis count what was taken ahead."""
        known = self._known.get(who)
        if known is not None and known.unsaid:
            said, known.unsaid = known.unsaid, 0.0
            known.points -= said
            assert self.redis is not None
            future = self.redis.begin(*self._spending(who, said, taken=True))
            if future is None:
                self._known.pop(who, None)
            else:
                future.add_done_callback(partial(self._told, who))

    def _told(self, who: UUID, future: asyncio.Future[Any]) -> None:
        answer = None if future.cancelled() else future.result()
        if answer is None:
            self._known.pop(who, None)
        else:
            self._learn(who, float(answer[1]))

    def _learn(self, who: UUID, points: float) -> None:
        known = self._known.get(who)
        if known is not None:
            known.points, known.at = points, time.monotonic()
            return
        self._known[who] = _Known(points, time.monotonic())
        if len(self._known) > LOCAL_BUCKETS:
            self._tell(next(iter(self._known)))
            self._known.popitem(last=False)

    def _spending(self, who: UUID, cost: float, *, taken: bool = False) -> tuple[Any, ...]:
        return ("EVAL", _SPEND, 1, f"points:{who}", self.most, self.rate, cost, int(taken))


_IN_REDIS: Final = POINTS.labels("redis")
_HERE: Final = POINTS.labels("local")


def _allowance(granted: bool, points: float, cost: float, most: float, rate: float) -> Allowance:
    if not granted:
        REFUSED.inc()
    return Allowance(
        granted=granted,
        limit=int(most),
        remaining=max(0, int(points)),
        full_in=(most - points) / rate,
        retry_in=0 if granted else max(0.0, min(cost, most) - points) / rate,
        restore=rate,
    )
