"""Many virtual terminals, the people who use them, and what they did."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.simulator.records import Record, TerminalReport
from app.simulator.terminal import Terminal


@dataclass(frozen=True, slots=True)
class Report:
    """What a fleet did. Records: `made == acknowledged + unacknowledged`. Requests: accepted, refused or unknown."""

    scenario: str
    seconds: float
    terminals: tuple[TerminalReport, ...]

    def _sum(self, name: str) -> int:
        return sum(getattr(terminal, name) for terminal in self.terminals)

    @property
    def devices(self) -> int:
        return len(self.terminals)

    @property
    def made(self) -> int:
        return self._sum("made")

    @property
    def acknowledged(self) -> int:
        return self._sum("acknowledged")

    @property
    def unacknowledged(self) -> int:
        return self._sum("unacknowledged")

    @property
    def resent(self) -> int:
        return self._sum("resent")

    @property
    def requests(self) -> int:
        return self._sum("requests")

    @property
    def accepted(self) -> int:
        return self._sum("accepted")

    @property
    def refused(self) -> int:
        return self._sum("refused")

    @property
    def unknown(self) -> int:
        return self._sum("unknown")

    @property
    def unreachable(self) -> int:
        return self._sum("unreachable")

    @property
    def last_trouble(self) -> str | None:
        """One terminal's last failure, for the sentence that explains what is left; None when there was none."""
        return next((t.last_trouble for t in self.terminals if t.last_trouble is not None), None)

    def as_dict(self) -> dict[str, str | int | float]:
        """The report without its lists, ready for JSON."""
        return {
            "scenario": self.scenario,
            "devices": self.devices,
            "made": self.made,
            "acknowledged": self.acknowledged,
            "resent": self.resent,
            "refused": self.refused,
            "unknown": self.unknown,
            "unacknowledged": self.unacknowledged,
            "unreachable": self.unreachable,
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class Fleet:
    """Terminals that are switched on, the people who use them, and the plan: `rate` x `duration` punches in all."""

    terminals: Sequence[Terminal]
    pins: Sequence[str]
    rate: float  # punches per second over all terminals
    duration: float  # seconds
    drain: float  # seconds to wait for the last acknowledgement
    rng: random.Random
    stop: asyncio.Event

    @property
    def planned(self) -> int:
        return round(self.rate * self.duration)

    def punch(self, terminal: Terminal | None = None, at: datetime | None = None, state: int | None = None) -> Record:
        """Somebody punches somewhere; never the same person, second and state twice, as that is one punch only."""
        terminal = terminal or self.rng.choice(self.terminals)
        at = at or terminal.wall_time()
        state = _state_at(at) if state is None else state
        while terminal.has_punch(pin := self.rng.choice(self.pins), at, state):
            at += timedelta(seconds=1)
        verify = self.rng.choices((15, 1, 4), (6, 3, 1))[0]  # face, fingerprint, card
        return terminal.punch(pin, at, state, verify)

    async def play(self, offsets: Iterator[float], state: int | None = None) -> None:
        """Punch at each of `offsets`, seconds from now in rising order, until they or the patience end."""
        start = time.monotonic()
        for offset in offsets:
            if self.stop.is_set():
                return
            await self._rest(start + offset - time.monotonic())
            if not self.stop.is_set():
                self.punch(state=state)

    async def settle(self) -> bool:
        """Whether every record was acknowledged within the drain time. A stop ends the wait."""
        return await self._all(Terminal.drained)

    async def greeted(self) -> bool:
        """Whether every terminal got its options within the drain time. A stop ends the wait."""
        return await self._all(Terminal.greeted)

    async def _all(self, reached: Callable[[Terminal], Awaitable[None]]) -> bool:
        async def everyone() -> None:
            for terminal in self.terminals:
                await reached(terminal)

        waits = asyncio.create_task(everyone()), asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait(waits, timeout=self.drain, return_when=asyncio.FIRST_COMPLETED)
            return waits[0].done()
        finally:
            for wait in waits:
                wait.cancel()

    async def _rest(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)  # behind the plan: let the terminals work all the same
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stop.wait()


def _state_at(at: datetime) -> int:
    """Check in until eleven, break out until half past twelve, break in until three, then check out."""
    minute = at.hour * 60 + at.minute
    return 0 if minute < 660 else 2 if minute < 750 else 3 if minute < 900 else 1
