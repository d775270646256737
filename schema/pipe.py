"""What is to be sent on one connection, in order, with bounds.

Where the server lends its wire, frames that many share are written to the transport at once, with no task in between;
otherwise, and while the client is slow, they queue here and one task sends them. Who waits for room (`put`) has its
messages in a short queue; who does not wait (`offer`) has a bounded buffer of its own and is refused beyond it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from schema.sharing import Member, Piece

#: In `scope["extensions"]`: the connection that a request came by, for writing without waiting.
WIRE: Final = "punchconnect.wire"

#: Looks at a stuck connection within the time that it may be stuck.
LOOKS: Final = 6


class Wire(Protocol):
    """What a server lends: app.web.wire.Wire and app.web.wire.Body."""

    writable: asyncio.Event

    def write_text(self, payload: bytes) -> None:
        """One message, or one piece of a body, buffered without bound. Nothing once the connection is closing."""

    def backlog(self) -> int:
        """Bytes that the client has not taken yet."""


class Stuck(Exception):
    """The client takes nothing any more."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one member of a group, on one connection."""

    frames: int = 256
    size: int = 2**20
    age: float = 10


@dataclass(slots=True, eq=False)
class _Waiting:
    payload: bytes
    member: PipeMember | None = None
    start: int = 0
    since: float = 0.0


class Pipe:
    """One connection's. `stall` are the seconds after which a client that takes nothing is given up.

    Where no wire is lent, `write` sends, and waits for room.
    """

    def __init__(
        self,
        wire: Wire | None,
        write: Callable[[bytes], Awaitable[None]],
        *,
        queue: int,
        stall: float,
        bounds: Bounds,
    ) -> None:
        self._wire = wire
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._most = queue
        self._stall = stall
        self._bounds = bounds
        self._queue: deque[_Waiting] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._closing = False

    def put_nowait(self, payload: bytes) -> bool:
        """Send it, unless too much waits already."""
        if len(self._queue) >= self._most:
            return False
        self._add(_Waiting(payload))
        return True

    async def put(self, payload: bytes) -> None:
        """Send it, in its turn."""
        while not self.put_nowait(payload):
            self._room.clear()
            await self._room.wait()

    def offer(self, member: PipeMember, payload: bytes, start: int) -> bool:
        """Send it for a member whose position was `start`; False when its buffer is full, and then it is empty."""
        wire = self._wire
        if wire is not None and not self._queue and wire.writable.is_set():
            wire.write_text(payload)
            return True
        at = self._loop.time()
        mine = member.waiting
        oldest = next((each for each in self._queue if each.member is member), None) if mine else None
        if (
            mine >= self._bounds.frames
            or member.size + len(payload) > self._bounds.size
            or (oldest is not None and at - oldest.since > self._bounds.age)
        ):
            self.forget(member)
            return False
        member.waiting += 1
        member.size += len(payload)
        self._add(_Waiting(payload, member, start, at))
        return True

    def forget(self, member: PipeMember) -> None:
        """Drop what waits for a member, and set it back to where that began."""
        mine = [each for each in self._queue if each.member is member]
        if mine:
            member.position = mine[0].start
            self._queue = deque(each for each in self._queue if each.member is not member)
            member.waiting = member.size = 0
            self._room.set()

    def close(self) -> None:
        """Let `send` end once everything is sent."""
        self._closing = True
        self._news.set()

    async def send(self) -> None:
        """Send whatever waits. Stuck when the client takes nothing; what `write` raises when it is gone."""
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._news.clear()
                await self._news.wait()
                continue
            if self._wire is None:
                await self._send_slowly()
            else:
                await self._writable(self._wire)
                while self._queue and self._wire.writable.is_set():
                    self._wire.write_text(self._pop().payload)

    def _add(self, waiting: _Waiting) -> None:
        if self._wire is not None and not self._queue and self._wire.writable.is_set():
            self._wire.write_text(waiting.payload)
            return
        self._queue.append(waiting)
        self._news.set()

    def _pop(self) -> _Waiting:
        waiting = self._queue.popleft()
        if waiting.member is not None:
            waiting.member.waiting -= 1
            waiting.member.size -= len(waiting.payload)
        if len(self._queue) < self._most:
            self._room.set()
        return waiting

    async def _send_slowly(self) -> None:
        """Where the wire is not lent."""
        payload = self._pop().payload
        try:
            async with asyncio.timeout(self._stall):
                await self._write(payload)
        except TimeoutError:
            raise Stuck from None

    async def _writable(self, wire: Wire) -> None:
        left, moved = wire.backlog(), self._loop.time()
        while not wire.writable.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._stall / LOOKS):
                    await wire.writable.wait()
            if wire.backlog() < left:
                left, moved = wire.backlog(), self._loop.time()
            elif self._loop.time() - moved >= self._stall:
                raise Stuck


class PipeMember(Member):
    """A member of a group, on a connection. `head` is its message up to the result, `tail` what follows it."""

    def __init__(self, pipe: Pipe, position: int, head: bytes, tail: bytes) -> None:
        super().__init__(position)
        self.waiting = self.size = 0
        self._pipe = pipe
        self._head = head
        self._tail = tail

    def take(self, text: bytes, piece: Piece) -> bool:
        """Written, or in its buffer."""
        return self._pipe.offer(self, self._head + text + self._tail, self.position)
