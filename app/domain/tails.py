"""A tail: the end of one tenant's log as one process knows it. Readers that are near the end are served from here.

What it holds is always an unbroken run of events that ends at `position`. It grows by what is next in line and by
nothing else; whatever else is heard only raises a doubt, and a doubt is answered by reading the log. No I/O here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from app.domain.events import Logged, Message

#: How much of the end is kept, whichever is less. Who is further behind reads the log.
RING_EVENTS: Final = 1000
RING_BYTES: Final = 2**20


class Tail:
    """Shared by all readers of a tenant in this process; everything here happens between two awaits of theirs."""

    def __init__(self, tenant_id: UUID) -> None:
        self.tenant_id = tenant_id
        #: The last event that is known; None until somebody has read the log.
        self.position: int | None = None
        #: The highest position that anything has told of.
        self.head = 0
        self.readers = 0
        #: Set, and replaced by a fresh one, whenever there is something new.
        self.news = asyncio.Event()
        #: Set while the log should be read.
        self.doubt = asyncio.Event()
        self._ring: deque[Logged] = deque()
        self._bytes = 0

    def since(self, position: int) -> list[Logged] | None:
        """What is known to follow `position`; None when that must be read from the log."""
        if self.position is None:
            return None
        behind = self.position - position
        if behind > len(self._ring):
            return None
        return [self._ring[index] for index in range(-behind, 0)]

    def hear(self, message: Message | None) -> None:
        """Take what the bus said; None is something that nobody could believe."""
        if message is None:
            self.doubt.set()
            return
        self.head = max(self.head, message.last)
        if self.position is None or message.last <= self.position:
            return  # the first reader will compare with `head`; what is known already is no news
        if message.events:
            self._extend(message.events)
        else:
            self.doubt.set()

    def told(self, events: Sequence[Logged]) -> None:
        """Take what this process has just committed, if it is next in line; the bus brings all of it in its turn."""
        self.head = max(self.head, events[-1].position)
        if self.position is not None and events[0].position == self.position + 1:
            self._extend(events)

    def learn(self, after: int, events: Sequence[Logged], head: int) -> None:
        """Take what a reading of the log found: `events` follow `after`, and it ended at `head` or later."""
        end = events[-1].position if events else after
        if self.position is None:
            self.position = max(end, head)
            # A page that stops short of the head ends in the middle of the log: it is no tail.
            if end >= head:
                self._keep(events)
        elif after <= self.position:
            self._extend(events)
        self.raise_head(max(head, end))

    def raise_head(self, head: int) -> None:
        """Somebody saw the log end at `head`: if that is news, it should be read."""
        self.head = max(self.head, head)
        if self.position is not None and self.head > self.position:
            self.doubt.set()

    def forget(self) -> None:
        """Start over: what follows `position` is not kept any more."""
        self.position = None
        self._ring.clear()
        self._bytes = 0
        self._wake()

    def _extend(self, events: Sequence[Logged]) -> None:
        known = self.position or 0
        fresh = [event for event in events if event.position > known]
        if not fresh:
            return
        if any(event.position != known + place for place, event in enumerate(fresh, start=1)):
            self.doubt.set()
            return
        self.position = fresh[-1].position
        self._keep(fresh)
        self._wake()

    def _keep(self, events: Sequence[Logged]) -> None:
        self._ring.extend(events)
        self._bytes += sum(len(event.body) for event in events)
        while len(self._ring) > RING_EVENTS or self._bytes > RING_BYTES:
            self._bytes -= len(self._ring.popleft().body)

    def _wake(self) -> None:
        self.news.set()
        self.news = asyncio.Event()
