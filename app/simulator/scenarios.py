"""What a fleet lives through."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta

from app.simulator.fleet import Fleet
from app.simulator.link import Fault


async def steady(fleet: Fleet) -> None:
    """Punches all the time at the rate, a little uneven as people are."""
    count = 0

    def offsets() -> Iterator[float]:
        nonlocal count
        while math.isinf(fleet.duration) or count < fleet.planned:
            yield (count + fleet.rng.random()) / fleet.rate
            count += 1

    await fleet.play(offsets())


async def rush(fleet: Fleet) -> None:
    """Shift start: nine in ten come within the middle tenth or so of the time, all of them checking in."""
    middle, width = fleet.duration / 2, fleet.duration / 30
    times = [
        min(max(fleet.rng.gauss(middle, width), 0.0), fleet.duration)
        if fleet.rng.random() < 0.9
        else fleet.rng.uniform(0.0, fleet.duration)
        for _ in range(fleet.planned)
    ]
    await fleet.play(iter(sorted(times)), state=0)


async def outage(fleet: Fleet) -> None:
    """Three days without network: the whole plan piles up in the terminals, with the past days' times, and then goes
    out in large uploads at the first contact."""
    await fleet.greeted()  # the clock and the zone come from the server
    for terminal in fleet.terminals:
        terminal.unplug()
    punches = []
    for _ in range(fleet.planned):
        terminal = fleet.rng.choice(fleet.terminals)
        now = terminal.wall_time()
        hour, state = fleet.rng.choice(((8, 0), (12, 2), (13, 3), (17, 1)))
        at = now.replace(hour=0, minute=0, second=0) - timedelta(days=fleet.rng.randrange(3))
        at += timedelta(hours=hour, seconds=round(fleet.rng.gauss(0, 900)))
        punches.append((at if at < now else at - timedelta(days=1), state, terminal))
    for at, state, terminal in sorted(punches, key=lambda punch: punch[0]):
        fleet.punch(terminal, at, state)
    for terminal in fleet.terminals:
        terminal.plug_in()


async def resend_all(fleet: Fleet) -> None:
    """A steady day; once everything is acknowledged, every terminal forgets its position and sends it all again."""
    await steady(fleet)
    if await fleet.settle():
        for terminal in fleet.terminals:
            terminal.forget_position()


async def clock_drift(fleet: Fleet) -> None:
    """Clocks that are off, by a quarter of an hour and more, every other one behind. No Date header sets them right: a
    command does."""
    await fleet.greeted()
    for place, terminal in enumerate(fleet.terminals):
        minutes = 15 * (place // 2 + 1)
        terminal.put_off_clock(timedelta(minutes=minutes if place % 2 == 0 else -minutes))
    await steady(fleet)


async def factory_reset(fleet: Fleet) -> None:
    """Half of the plan; once it is acknowledged, every terminal is reset and counts from the start; then the rest."""
    whole = fleet.duration
    fleet.duration = whole / 2
    await steady(fleet)
    if await fleet.settle():
        for terminal in fleet.terminals:
            terminal.factory_reset()
    fleet.duration = whole - whole / 2
    await steady(fleet)


async def flaky_link(fleet: Fleet) -> None:
    """A line that drops one request in three, before it left, in the middle, or its answer. In the end it holds."""

    def fault() -> Fault | None:
        return fleet.rng.choice(list(Fault)) if fleet.rng.random() < 1 / 3 else None

    for terminal in fleet.terminals:
        terminal.link.fault = fault
    await steady(fleet)
    for terminal in fleet.terminals:
        terminal.link.fault = lambda: None
