"""A fleet playing a scenario, and the account of every record."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.simulator.access import AccessTerminal
from app.simulator.fleet import Fleet, Report
from app.simulator.memory import memories
from app.simulator.records import Quirk
from app.simulator.scenarios import clock_drift, factory_reset, flaky_link, outage, resend_all, rush, steady
from app.simulator.terminal import Terminal

SCENARIOS: Mapping[str, Callable[[Fleet], Awaitable[None]]] = {
    "steady": steady,
    "rush": rush,
    "outage": outage,
    "resend-all": resend_all,
    "clock-drift": clock_drift,
    "factory-reset": factory_reset,
    "flaky-link": flaky_link,
}
#: Which kinds of terminals a fleet has; of `both`, every other one.
DIALECTS: Mapping[str, Sequence[type[Terminal]]] = {
    "attendance": (Terminal,),
    "security": (AccessTerminal,),
    "both": (Terminal, AccessTerminal),
}


class UnknownScenario(ValueError):
    """No scenario has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no scenario {name!r}. Known: {', '.join(SCENARIOS)}.")
        self.name = name


def serial_numbers(devices: int) -> list[str]:
    """The serials that virtual terminals have unless told otherwise: VIRT000001, VIRT000002, …"""
    return [f"VIRT{number:06d}" for number in range(1, devices + 1)]


async def simulate(
    url: str,
    *,
    devices: int = 3,
    rate: float = 1.0,
    duration: float = 60.0,
    scenario: str = "steady",
    serials: Sequence[str] | None = None,
    seed: int | None = None,
    stop: asyncio.Event | None = None,
    progress: Callable[[Report], None] | None = None,
    employees: int = 200,
    drain: float = 120.0,
    speed: float = 1.0,
    keep_alive: bool = False,
    dialect: str = "attendance",
    memory: Path | None = None,
    **terminal: Any,
) -> Report:
    """Play `scenario` with `devices` terminals against `url` and account for every record.

    `rate` punches a second over all terminals for `duration` seconds (`steady` may go on for ever: `math.inf`), by
    PINs 0001 … `employees`. Then no new ones, but the terminals go on until everything is acknowledged, for at most
    `drain` seconds; what is left is in the report. `stop` ends it early, without the drain. `progress` gets the report
    so far, without its lists, every second. `memory` is a file in which the terminals find what they held when the run
    before ended, and keep what they hold. More keywords (`quirks`, `timeout`, `tls`, …) go to each `Terminal`.
    Raises UnknownScenario, MemoryUnusable, or ValueError for an impossible plan or address.
    """
    if scenario not in SCENARIOS:
        raise UnknownScenario(scenario)
    names = list(serials if serials is not None else serial_numbers(devices))[:devices]
    if devices < 1 or len(set(names)) != devices:
        raise ValueError(f"{devices} terminals need as many different serials, and at least one.")
    if not 0 < rate < math.inf or not duration >= 0 or employees < 1:
        raise ValueError("The rate and the number of employees must be positive, the duration not negative.")
    if math.isinf(duration) and scenario != "steady":
        raise ValueError(f"The scenario {scenario!r} needs a duration that ends.")
    terminal = {"sets_clock": True, **terminal}
    if dialect not in DIALECTS:
        raise ValueError(f"There is no dialect {dialect!r}. Known: {', '.join(DIALECTS)}.")
    if odd := set(terminal.get("quirks", ())) - set(Quirk):
        raise ValueError(f"There is no quirk {min(odd)!r}. Known: {', '.join(Quirk)}.")
    kinds = DIALECTS[dialect]
    with memories(memory, names) as flashes:
        terminals = [
            kinds[place % len(kinds)](name, url, speed=speed, keep_alive=keep_alive, memory=flash, **terminal)
            for place, (name, flash) in enumerate(zip(names, flashes, strict=True))
        ]
        fleet = Fleet(
            terminals=terminals,
            pins=[f"{number:04d}" for number in range(1, employees + 1)],
            rate=rate,
            duration=duration,
            drain=drain,
            rng=random.Random(seed),  # noqa: S311 - a plan to repeat, not a secret
            stop=stop or asyncio.Event(),
        )
        started = time.monotonic()

        def report(*, details: bool) -> Report:
            accounts = tuple(terminal.report(details=details) for terminal in terminals)
            return Report(scenario, time.monotonic() - started, accounts)

        async def tell() -> None:
            while progress is not None:
                await asyncio.sleep(1.0)
                progress(report(details=False))

        # A terminal whose `run` raises is a mistake in this file: the group ends everything and shows it.
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(terminal.run(), name=terminal.serial) for terminal in terminals]
            telling = group.create_task(tell())
            await SCENARIOS[scenario](fleet)
            await fleet.settle()
            telling.cancel()
            for virtual in terminals:
                virtual.stop()
            _, late = await asyncio.wait(running, timeout=2.0)
            for task in late:
                task.cancel()
        return report(details=True)
