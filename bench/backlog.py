"""After an outage: every terminal comes back at the same moment with days of punches, to `serve` as it is.

Each terminal shakes hands, then sends its backlog in uploads of a hundred lines, one after the other, on a connection
for each, as firmware does; what is refused or cut short is sent again. Beside that, a process of its own asks for
/healthz ten times a second. Afterwards everything is counted in the database: nothing may be lost or doubled.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson

from app.simulator import WALL_CLOCK, CutShort, Link, Unreachable, serial_numbers
from bench.stand import Stand, free_port, stand

#: terminals, punches of each, tenants; in full and in short.
FULL, SHORT = (500, 2_000, 10), (50, 400, 5)
LINES: Final = 100
#: Seconds before a terminal tries again; firmware waits thirty.
ERROR_DELAY: Final = 1.0
#: Ten times a second, one JSON line at the end.
PROBE: Final = """
import http.client, json, sys, threading, time
host, port = sys.argv[1], int(sys.argv[2])
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
took, failed = [], 0
while not stop.wait(0.1):
    began = time.perf_counter()
    try:
        asking = http.client.HTTPConnection(host, port, timeout=10)
        asking.request("GET", "/healthz")
        failed += asking.getresponse().status != 200
        asking.close()
    except OSError:
        failed += 1
    took.append(time.perf_counter() - began)
print(json.dumps({"took": sorted(took), "failed": failed}))
"""


@dataclass(slots=True)
class Tally:
    """What the terminals saw."""

    acknowledged: int = 0  # lines
    again: int = 0  # uploads
    troubles: dict[str, int] = field(default_factory=dict)


@asynccontextmanager
async def serve(rig: Stand, processes: int) -> AsyncIterator[tuple[int, int]]:
    """`punchconnect serve`, as an operator starts it; its port and process id."""
    port = free_port()
    arguments = ("-m", "app.cli", "serve", "--port", str(port), "--processes", str(processes))
    environment = {name: value for name, value in rig.environment.items() if "DEVICE_" not in name}
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=os.environ | environment)
    try:
        link = Link(f"http://127.0.0.1:{port}", timeout=5)
        for _ in range(600):
            with contextlib.suppress(CutShort, Unreachable):
                if (await link.get("/readyz")).status == 200:
                    break
            await asyncio.sleep(0.1)
        # Both processes, and not only the one that was asked.
        await asyncio.sleep(3)
        yield port, process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def come_back(url: str, serial: str, count: int, tally: Tally) -> None:
    """One terminal, from its handshake until nothing is left."""
    start = datetime(2026, 3, 1, 6)  # noqa: DTZ001  a wall clock
    moments = (start + timedelta(seconds=97 * n) for n in range(count))
    lines = [f"{n % 200:04d}\t{at:{WALL_CLOCK}}\t{n % 2}\t15\t0\t0\t0\t0\t0\t0\t\n" for n, at in enumerate(moments)]
    bodies = [
        (f"/iclock/cdata?SN={serial}&table=ATTLOG&Stamp={part + LINES}", "".join(lines[part : part + LINES]).encode())
        for part in range(0, count, LINES)
    ]
    link = Link(url, timeout=60)
    greeting = f"/iclock/cdata?SN={serial}&options=all&pushver=2.4.1&DeviceType=att&language=69"
    await _insist(lambda: link.get(greeting), b"GET OPTION FROM:", tally)
    for target, body in bodies:
        await _insist(lambda target=target, body=body: link.post(target, body), b"OK", tally)
        tally.acknowledged += body.count(b"\n")


async def _insist(ask: Any, expected: bytes, tally: Tally) -> None:
    while True:
        try:
            answer = await ask()
            if answer.status == 200 and answer.body.startswith(expected):
                return
            trouble = str(answer)
        except (CutShort, Unreachable) as exc:
            trouble = f"{type(exc).__name__}: {exc}"
        tally.again += 1
        tally.troubles[trouble] = tally.troubles.get(trouble, 0) + 1
        await asyncio.sleep(ERROR_DELAY)


async def watch_memory(pid: int, seen: list[tuple[float, int]]) -> None:
    """The memory of a process and its children, in MiB that are not shared with files, twice a second."""
    while True:
        with contextlib.suppress(OSError):
            seen.append((time.monotonic(), sum(_anonymous(one) for one in (pid, *_children(pid))) // 1024))
        await asyncio.sleep(0.5)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _anonymous(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))


async def measure(short: bool) -> list[dict[str, Any]]:
    """Rows of {name, figure, unit}; RuntimeError when something was lost or doubled."""
    terminals, count, tenants = SHORT if short else FULL
    tally, memory = Tally(), list[tuple[float, int]]()
    async with stand() as rig:
        for _ in range(tenants):
            await rig.add_tenant(terminals // tenants)
        async with serve(rig, 2) as (port, pid):
            probe = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", PROBE, "127.0.0.1", str(port)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            watching = asyncio.create_task(watch_memory(pid, memory))
            began = time.monotonic()
            await asyncio.gather(
                *(
                    come_back(f"http://127.0.0.1:{port}/d/{tenant.token}", serial, count, tally)
                    for tenant in rig.tenants
                    for serial in serial_numbers(terminals // tenants)
                )
            )
            seconds = time.monotonic() - began
            watching.cancel()
            said, _ = await probe.communicate(b"")
        stored, announced, incomplete = await _stored(rig, count)
    wanted = terminals * count
    if (tally.acknowledged, stored, announced, incomplete) != (wanted, wanted, wanted, 0):
        raise RuntimeError(
            f"{wanted} punches, {tally.acknowledged} acknowledged, {stored} stored, {announced} announced; "
            f"{incomplete} terminals incomplete: {tally.troubles}"
        )
    health = orjson.loads(said)
    took: Sequence[float] = health["took"]
    early = [size for at, size in memory if at <= began + seconds / 4]
    what = f"{terminals} terminals x {count:,} punches at once"
    rows = [
        (f"{what}: until all are acknowledged", round(seconds, 1), "s"),
        (f"{what}: punches", round(wanted / seconds), "/s"),
        (f"{what}: lost or doubled", 0, ""),
        (f"{what}: uploads sent again", tally.again, ""),
        (f"{what}: /healthz, median", round(took[len(took) // 2] * 1000, 1), "ms"),
        (f"{what}: /healthz, slowest of {len(took)}", round(took[-1] * 1000, 1), "ms"),
        (f"{what}: /healthz failed", health["failed"], ""),
        (f"{what}: memory of two processes, most in the first quarter", max(early), "MiB"),
        (f"{what}: memory of two processes, most of all", max(size for _, size in memory), "MiB"),
        (f"{what}: memory of two processes, at the end", memory[-1][1], "MiB"),
    ]
    return [{"name": name, "figure": figure, "unit": unit} for name, figure, unit in rows]


async def _stored(rig: Stand, count: int) -> tuple[int, int, int]:
    """Punches, events of them, and terminals that have not exactly their own."""
    stored = announced = incomplete = 0
    for tenant in rig.tenants:
        async with rig.db.across("ingest", [tenant.id]) as connection:
            rows = await connection.fetch("SELECT device_id, count(*) AS n FROM punches GROUP BY 1")
            announced += await connection.fetchval("SELECT count(*) FROM events WHERE type = 'punch.created'")
        stored += sum(row["n"] for row in rows)
        incomplete += sum(row["n"] != count for row in rows)
    return stored, announced, incomplete


def run(short: bool) -> list[dict[str, Any]]:
    """All rows."""
    return asyncio.run(measure(short))


if __name__ == "__main__":
    for row in run("--short" in sys.argv):
        print(f"{row['name']:<90} {row['figure']:>9} {row['unit']}")
