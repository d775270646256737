"""Places: how many things somebody may hold at once, such as sockets, counted over all processes.

Each process writes down in Redis how many it holds itself, and says so again every few seconds; what was not confirmed
for a while counts no more. So a process that dies gives its places back, and a Redis that forgot everything knows it
again soon. While Redis is away each process judges by what it holds itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Final

import structlog

from app.asking import Asker

log = structlog.get_logger(__name__)

#: Seconds between two confirmations, and after which a process that confirms nothing counts no more.
CONFIRM_EVERY: Final = 5.0
FORGET_AFTER: Final = 16.0
#: Names in one confirmation.
CHUNK: Final = 200

# KEYS: the names; ARGV: process, milliseconds to keep, then for each name the most there may be and what this process
# would then hold. Answers 1 when there is room for all, and has written it down then.
_TAKE: Final = """
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
for place, name in ipairs(KEYS) do
  local held = tonumber(ARGV[2 + place * 2])
  local all = redis.call('HGETALL', name)
  for i = 1, #all, 2 do
    local count, till = string.match(all[i + 1], '^(%d+):(%d+)$')
    if not till or tonumber(till) < now then
      redis.call('HDEL', name, all[i])
    elseif all[i] ~= ARGV[1] then
      held = held + tonumber(count)
    end
  end
  if held > tonumber(ARGV[1 + place * 2]) then return 0 end
end
for place, name in ipairs(KEYS) do
  redis.call('HSET', name, ARGV[1], ARGV[2 + place * 2] .. ':' .. string.format('%.0f', now + ARGV[2]))
  redis.call('PEXPIRE', name, ARGV[2])
end
return 1
"""

# The same for what this process holds anyway: KEYS the names; ARGV: process, milliseconds, then what it holds of each.
_HOLD: Final = """
local at = redis.call('TIME')
local now = at[1] * 1000 + math.floor(at[2] / 1000)
for place, name in ipairs(KEYS) do
  if ARGV[2 + place] == '0' then
    redis.call('HDEL', name, ARGV[1])
  else
    redis.call('HSET', name, ARGV[1], ARGV[2 + place] .. ':' .. string.format('%.0f', now + ARGV[2]))
    redis.call('PEXPIRE', name, ARGV[2])
  end
end
return 1
"""


class Places:
    """What this process holds, by name, and whether there is room for more."""

    def __init__(self, redis: Asker | None, *, confirm_every: float = CONFIRM_EVERY) -> None:
        self._redis = redis
        self._confirm_every = confirm_every
        self._keep = int(FORGET_AFTER / CONFIRM_EVERY * confirm_every * 1000)
        self._process = secrets.token_hex(8)
        self._held: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to confirm."""
        if self._redis is not None:
            self._task = asyncio.create_task(self._confirm_always(self._redis))

    async def stop(self) -> None:
        """Confirm no more; what is still held is forgotten by the others after a while."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def take(self, most: Mapping[str, int]) -> bool:
        """One place under each of these names, of which there are so many; False, and none, where one is full."""
        self._held.update(most.keys())
        room = False
        try:
            within = all(self._held[name] <= limit for name, limit in most.items())
            if within and self._redis is not None:
                numbers = [number for name, limit in most.items() for number in (limit, self._held[name])]
                # None: nobody can say, so what we hold ourselves decides.
                answer = await self._redis.ask(
                    "EVAL", _TAKE, len(most), *map(_key, most), self._process, self._keep, *numbers
                )
                within = answer != 0
            room = within
        finally:
            if not room:  # refused, or given up while Redis may have written it down
                self.free(most)
        return room

    def free(self, most: Mapping[str, int]) -> None:
        """Give back what was taken. Never waits."""
        self._drop(most)
        if self._redis is not None:
            self._tell(self._redis, list(most))

    def _drop(self, most: Mapping[str, int]) -> None:
        for name in most:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]

    def _tell(self, redis: Asker, names: list[str]) -> None:
        held = [self._held[name] for name in names]
        redis.tell("EVAL", _HOLD, len(names), *map(_key, names), self._process, self._keep, *held)

    async def _confirm_always(self, redis: Asker) -> None:
        while True:
            await asyncio.sleep(self._confirm_every)
            names = list(self._held)
            for start in range(0, len(names), CHUNK):
                self._tell(redis, names[start : start + CHUNK])


def _key(name: str) -> str:
    return f"places:{name}"
