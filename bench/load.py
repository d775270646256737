"""Terminals that post back to back. Closed loop: each has one request under way, so the server sets the pace.

Every record is fresh: a PIN is `<run><n>` and the wall clock moves on after each thousand of them, so that two runs
against one database never count a duplicate as work done.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from app.simulator import WALL_CLOCK, CutShort, Link, Unreachable, serial_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

PINS = 1_000


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What happened in the measured seconds. Only whole `OK` answers count as acknowledged."""

    seconds: float
    acknowledged: int  # requests
    lines: int  # acknowledged lines
    refused: int  # requests with another answer
    unknown: int  # requests cut short, or connections that failed
    p50: float  # seconds per acknowledged request
    p99: float
    last_trouble: str | None

    @property
    def requests_per_second(self) -> float:
        return self.acknowledged / self.seconds

    @property
    def lines_per_second(self) -> float:
        return self.lines / self.seconds


@dataclass(slots=True)
class _Tally:
    refused: int = 0
    unknown: int = 0
    latencies: list[float] = field(default_factory=list)
    trouble: str | None = None


def fresh_lines(run: int, start: datetime) -> Iterator[str]:
    """ATTLOG lines that never repeat: `PINS` people a second, from `start` on."""
    while True:
        wall = start.strftime(WALL_CLOCK)
        for number in range(PINS):
            yield f"{run:05d}{number:04d}\t{wall}\t0\t15\t0\t0\t0\t0\t0\t0\t\n"
        start += timedelta(seconds=1)


async def closed_loop(
    url: str | Sequence[str],
    *,
    terminals: int = 64,
    lines: int = 1,
    seconds: float = 10.0,
    warmup: float = 1.0,
    serials: Sequence[str] | None = None,
    handshake: bool = True,
    patience: float = 30.0,
) -> LoadResult:
    """Each of `terminals` posts `lines`-line ATTLOG bodies over one kept connection, one at a time.

    Several URLs (tenants) are taken in turn. The measured `seconds` begin after `warmup`; a body that was not
    acknowledged within `patience` seconds is sent again after 50 ms. Raises RuntimeError when a terminal
    is not greeted.
    """
    urls = [url] if isinstance(url, str) else list(url)
    names = list(serials or serial_numbers(terminals))
    links = [Link(urls[n % len(urls)], keep_alive=True, timeout=patience) for n in range(terminals)]
    run = random.SystemRandom().randrange(100_000)
    yesterday = datetime.now(UTC).replace(tzinfo=None, microsecond=0) - timedelta(days=1)
    tally = _Tally()

    if handshake:
        for link, name in zip(links, names, strict=False):
            answer = await link.get(f"/iclock/cdata?SN={name}&options=all&pushver=2.4.1&DeviceType=att&language=69")
            if not answer.body.startswith(b"GET OPTION FROM:"):
                raise RuntimeError(f"{name} was not greeted: {answer}")

    begins = time.perf_counter() + warmup
    ends = begins + seconds

    async def one(link: Link, name: str) -> None:
        source = fresh_lines(run, yesterday)
        target = f"/iclock/cdata?SN={name}&table=ATTLOG&Stamp=9999"
        clock = time.perf_counter
        body = b""
        try:
            while True:
                body = body or "".join(islice(source, lines)).encode()
                sent = clock()
                if sent >= ends:
                    return
                try:
                    answer = await link.post(target, body)
                except (CutShort, Unreachable) as exc:
                    tally.unknown += 1
                    tally.trouble = f"{type(exc).__name__}: {exc}"
                    await asyncio.sleep(0.05)
                    continue
                heard = clock()
                if answer.status == 200 and answer.body.startswith(b"OK"):
                    body = b""
                    if begins <= heard <= ends:
                        tally.latencies.append(heard - sent)
                else:
                    tally.refused += 1
                    tally.trouble = str(answer)
                    await asyncio.sleep(0.05)
        finally:
            link.abort()

    await asyncio.gather(*(one(link, name) for link, name in zip(links, names, strict=False)))
    latencies = sorted(tally.latencies)
    return LoadResult(
        seconds=seconds,
        acknowledged=len(latencies),
        lines=len(latencies) * lines,
        refused=tally.refused,
        unknown=tally.unknown,
        p50=_quantile(latencies, 0.50),
        p99=_quantile(latencies, 0.99),
        last_trouble=tally.trouble,
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")
