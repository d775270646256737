"""Deliveries per second of one worker, and how long an event takes from its commit to its receiver.

Everything is real: PostgreSQL with fsync on, the bell over Redis, the worker as `punchconnect work` starts it, with its
log lines. The receiver, a process of its own, answers after a millisecond and writes down when each delivery came.

- drain: N deliveries are due; how fast they arrive, after the first tenth. The floor is the same number of posts,
  signed and sent through the same door by a process that has no database and logs nothing. The peer is procrastinate,
  with as many slots, on the same PostgreSQL. CPU is that of the worker and of PostgreSQL, while they deliver.
- open loop: one event is committed each 10 (5) ms, and rung for; from after the commit to the receiver.

All share the cores, so the ratio is what counts. A repeated or missing delivery ends the run with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import psutil
import uvloop

from app import ids
from app.broadcast import Bell
from app.domain import outbox
from app.domain.addresses import AddressGuard
from app.domain.endpoints import Endpoint, seal_secret
from app.domain.events import Cursors, EventType, Happening, Logged
from app.domain.tables import now
from bench.peers import venv
from bench.receiver import ask, receiving
from bench.stand import Stand, execute, stand
from protocol import webhook
from workers.outbound import Outbound

SECRET: Final = webhook.secret_from(bytes(range(32)))
CONCURRENCY: Final = 50
#: What one endpoint gets of them.
IN_FLIGHT: Final = CONCURRENCY // 2
BODY: Final = b"x" * 640  # about as much as a punch
DATA: Final[dict[str, Any]] = {"pad": "x" * 420}
THINKS: Final = 0.001


def run(short: bool) -> list[dict[str, Any]]:
    """Rows of {name, figure, unit, floor, ratio}; medians of alternating rounds."""
    return uvloop.run(measure(short=short))


async def measure(*, short: bool) -> list[dict[str, Any]]:
    """Short takes about 20 seconds."""
    deliveries, rounds, seconds = (1_500, 2, 2) if short else (10_000, 3, 20)
    async with stand() as rig, AsyncExitStack() as stack:
        far = f"{stack.enter_context(receiving('timing', THINKS))}/hook"
        bench = await _Bench.prepare(rig, far)
        try:
            floors, peers, drains = [], [], []
            for _ in range(rounds):
                floors.append(await _floor(far, deliveries))
                peers += await _peer(rig, far, deliveries // 3)
                drains.append(await bench.drain(deliveries))
            figure = statistics.median(drain.rate for drain in drains)
            rows = [
                {
                    "name": f"one worker, one 1 ms receiver: drain{beside}",
                    "figure": round(figure),
                    "unit": "deliveries/s",
                    "floor": round(statistics.median(other)),
                    "ratio": round(figure / statistics.median(other), 3),
                }
                for beside, other in (("", floors), (", beside procrastinate", peers))
                if other
            ]
            rows += [
                {
                    "name": f"CPU of 1,000 deliveries: {whose}",
                    "figure": round(statistics.median(seconds * 1000 for seconds in spent), 3),
                    "unit": "s",
                }
                for whose, spent in (
                    ("the worker", [drain.worker for drain in drains]),
                    ("PostgreSQL", [drain.database for drain in drains]),
                )
            ]
            async with bench.worker():
                for rate in (100, 200):
                    late = await bench.open_loop(rate, seconds)
                    rows += [
                        {"name": f"{rate}/s: commit to receiver, {name}", "figure": round(value * 1e3, 1), "unit": "ms"}
                        for name, value in late.items()
                    ]
        finally:
            await bench.bell.stop()
    return rows


@dataclass(frozen=True, slots=True)
class _Drain:
    """Deliveries per second, and seconds of CPU that one costs."""

    rate: float
    worker: float
    database: float


class _Bench:
    """One tenant with one endpoint, and what it takes to make things happen to it."""

    def __init__(self, rig: Stand, far: str, tenant_id: UUID) -> None:
        self.rig, self.far, self.tenant_id = rig, far, tenant_id
        self.cursors = Cursors(rig.vault.cursor_key)
        self.bell = Bell(rig.environment["PUNCHCONNECT_REDIS_URL"])

    @classmethod
    async def prepare(cls, rig: Stand, far: str) -> _Bench:
        bench = cls(rig, far, (await rig.add_tenant(0)).id)
        endpoint_id = ids.new()
        sealed = seal_secret(rig.vault, endpoint_id, bench.tenant_id, SECRET)
        async with rig.db.write(bench.tenant_id) as session:
            session.add(Endpoint(tenant_id=bench.tenant_id, id=endpoint_id, url=far, secret_sealed=sealed))
        await bench.bell.start()
        return bench

    async def happen(self, times: int) -> list[Logged]:
        happenings = [Happening(self.tenant_id, EventType.PUNCH_CREATED, DATA, ids.new(), now()) for _ in range(times)]
        async with self.rig.db.across("ingest", [self.tenant_id]) as connection:
            return await outbox.announce(connection, happenings)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[psutil.Process]:
        """`punchconnect work`, until the block ends."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from app.cli import main; main()",
            "work",
            "--concurrency",
            str(CONCURRENCY),
            env=os.environ | self.rig.environment | {"PUNCHCONNECT_LOG_LEVEL": "INFO"},
            stderr=subprocess.DEVNULL,
        )
        try:
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            if await asyncio.wait_for(process.wait(), 20) != 0:
                raise RuntimeError(f"The worker ended with {process.returncode}.")

    async def drain(self, deliveries: int) -> _Drain:
        """While nothing else happens."""
        for _ in range(0, deliveries, 500):
            await self.happen(500)
        database = psutil.Process(self.rig.postgres.pid)
        async with self.worker() as worker:
            while (before := await ask(self.far, "/count")) < deliveries // 10:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            spent = -_cpu(worker), -_cpu(database)
            while (after := await ask(self.far, "/count")) < deliveries:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            spent = spent[0] + _cpu(worker), spent[1] + _cpu(database)
            arrivals = await _arrivals(self.far, deliveries)
        return _Drain(_sustained(arrivals), *(seconds / (after - before) for seconds in spent))

    async def open_loop(self, rate: int, seconds: float) -> dict[str, float]:
        """Seconds from commit to receiver. The pace does not wait for anything."""
        committed: dict[str, float] = {}

        async def one(at: float) -> None:
            await asyncio.sleep(at - time.monotonic())
            [event] = batch = await self.happen(1)
            committed[ids.show("evt", event.id)] = time.monotonic()
            outbox.ring(self.bell, self.rig.vault.bus_key, batch)

        await self.happen(1)
        await _arrivals(self.far, 1)  # the worker is up
        start = time.monotonic() + 0.1
        await asyncio.gather(*(one(start + n / rate) for n in range(int(rate * seconds))))
        arrivals = await _arrivals(self.far, len(committed))
        late = sorted(arrivals[event] - at for event, at in committed.items())
        return {f"p{share}": late[min(len(late) * share // 100, len(late) - 1)] for share in (50, 95, 99)}


def _cpu(process: psutil.Process) -> float:
    """Seconds that it and its children have used."""
    used = 0.0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = one.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used


async def _peer(rig: Stand, far: str, posts: int) -> list[float]:
    """Posts per second of procrastinate; nothing where it cannot be installed."""
    try:
        python = await asyncio.to_thread(venv.python)
    except subprocess.CalledProcessError:
        return []
    await execute(rig.postgres.superuser_url, "DROP DATABASE IF EXISTS peer WITH (FORCE)")
    await execute(rig.postgres.superuser_url, "CREATE DATABASE peer")
    url = urlsplit(rig.postgres.superuser_url)._replace(path="/peer").geturl()
    script = Path(__file__).parent / "peers" / "procrastinate_posts.py"
    process = await asyncio.create_subprocess_exec(
        python,
        script,
        url,
        far,
        str(posts),
        str(CONCURRENCY),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdout.readline()
    process.stdin.write(b"go\n")
    arrivals = await _arrivals(far, posts)
    await process.wait()
    return [_sustained(arrivals)]


async def _arrivals(far: str, wanted: int, patience: float = 120) -> dict[str, float]:
    """When each event came, once `wanted` requests did. Forgets them. RuntimeError when one came twice or none did."""
    deadline = time.monotonic() + patience
    while True:
        found = await ask(far, f"/take/{wanted}")
        if found is not None:
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"{wanted} deliveries did not come in {patience} s.")
        await asyncio.sleep(0.05)
    if len(dict(found)) != len(found):
        raise RuntimeError(f"{len(found) - len(dict(found))} deliveries came twice.")
    return dict(found)


async def _floor(far: str, posts: int) -> float:
    """Posts per second by a process that does nothing else."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.delivery", "post", far, str(posts))
    await process.wait()
    return _sustained(await _arrivals(far, posts))


def _sustained(arrivals: dict[str, float]) -> float:
    """Per second, once the first tenth has come: connections are made and plans are cached by then."""
    times = sorted(arrivals.values())[len(arrivals) // 10 :]
    return (len(times) - 1) / (times[-1] - times[0])


async def _post_all(far: str, posts: int) -> None:
    numbers = iter(range(posts))
    delivery_uuid = ids.new()
    guard = AddressGuard([ip_network("127.0.0.0/8")])

    async def slot(door: Outbound) -> None:
        for _ in numbers:
            headers = webhook.headers(
                event_id=ids.show("evt", ids.new()),
                event_type="punch.created",
                delivery_uuid=delivery_uuid,
                attempt=1,
                timestamp=int(time.time()),
                body=BODY,
                secret=SECRET,
            )
            reply = await door.post(far, headers, BODY)
            assert reply.delivered, reply

    async with Outbound(guard, timeout=timedelta(seconds=10), connections=CONCURRENCY) as door:
        await asyncio.gather(*(slot(door) for _ in range(IN_FLIGHT)))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["post", far, posts]:
            uvloop.run(_post_all(far, int(posts)))
        case arguments:
            for row in run(short="--long" not in arguments):
                beside = f"   floor {row['floor']:,}   ratio {row['ratio']}" if "ratio" in row else ""
                print(f"{row['name']:48} {row['figure']:>8,} {row['unit']}{beside}")
