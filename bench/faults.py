"""What may break between an event and its receiver, at full size: the rows of tests/workers/faults.py that are long.

Real processes, started by the command line, with the settings that are the default. The receiver is a process of its
own, checks both signatures of each request and answers after some milliseconds; it outlives every fault. What counts is
what the database says was committed: each of its deliveries has to come, and nothing else. Whatever is lost, unknown or
badly signed ends the run with an error; so does what comes twice where that must not be.

`python -m bench.faults 2 4` runs these rows in short, `--long` at full size; `--times N` tells how often row 3 kills,
or how many seconds row 9 goes on instead of ten minutes. Row 9 compares waits: its ratio counts, and only on a machine
that does nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import redis
import uvloop

from app.broadcast import Bell
from app.database import driver
from app.domain import devices, outbox, tenants
from app.errors import ServiceUnavailable
from app.simulator import CutShort, Link, Unreachable, serial_numbers
from bench.receiver import ask, receiving
from tests import factories
from tests.journeys.rig import START, Process, Rig, until

#: Those of the product, where a journey is in a hurry; and the rows need no more log than a warning.
SETTINGS: Final = {
    "webhook_timeout_seconds": "10",
    "webhook_lease_seconds": "30",
    "webhook_retry_delays": "10,60,300,1800,7200,43200,86400,86400,86400",
}
LEASE: Final = 30.0
#: Seconds within which everything has to have arrived after the last fault.
DRAIN: Final = 240.0
BATCHES_A_SECOND: Final = 5
LINES: Final = 10
KILLS: Final = 500
Row = dict[str, Any]


def run(short: bool) -> list[Row]:
    """Rows of {name, figure, unit}."""
    return uvloop.run(measure(list(ROWS), short=short))


async def measure(numbers: Sequence[int], *, short: bool, times: int | None = None) -> list[Row]:
    """Of these rows."""
    found: list[Row] = []
    for number in numbers:
        print(f"row {number} …", file=sys.stderr, flush=True)
        rows = await ROWS[number](Size(short=short, times=times))
        rows = [{**row, "name": f"row {number}: {row['name']}"} for row in rows]
        for row in rows:  # the next one may fail
            beside = f"   without {row['floor']:,}   ratio {row['ratio']}" if "ratio" in row else ""
            print(f"{row['name']:100} {row['figure']:>9,} {row['unit']}{beside}", file=sys.stderr, flush=True)
        found += rows
    return found


@dataclass(frozen=True, slots=True)
class Size:
    """Full, or a tenth of it."""

    short: bool
    times: int | None = None

    def of(self, full: int) -> int:
        return full // 10 if self.short else full


@dataclass(slots=True)
class Scene:
    """An installation, a receiver, and the tenants that it receives for."""

    rig: Rig
    far: str
    tenants: list[UUID] = field(default_factory=list)

    async def add_tenant(self, path: str = "/hook", endpoints: int = 1) -> UUID:
        tenant_id = (await factories.make_tenant(self.rig.db)).tenant_id
        for _ in range(endpoints):
            await factories.make_endpoint(self.rig.db, self.rig.vault, tenant_id, f"{self.far}{path}")
        self.tenants.append(tenant_id)
        return tenant_id

    async def happen(self, events: int, seconds: float) -> None:
        """So many events, evenly over the time and the tenants, each rung for as a server does."""
        bell = Bell(self.rig.redis.url)
        await bell.start()
        begun, done, turn = time.monotonic(), 0, 0
        try:
            while done < events:
                wanted = round(events * min(1.0, (time.monotonic() - begun) / seconds)) if seconds else events
                while done < wanted:
                    some = min(max(1, wanted - done), 100)
                    tenant_id, turn = self.tenants[turn % len(self.tenants)], turn + 1
                    try:
                        batch = await factories.happen(self.rig.db, tenant_id, some)
                    except ServiceUnavailable:
                        await asyncio.sleep(0.2)  # whether it was committed is for the database to say
                        continue
                    outbox.ring(bell, self.rig.vault.bus_key, batch)
                    done += some
                await asyncio.sleep(1 / BATCHES_A_SECOND)
        finally:
            await bell.stop()

    async def rows(self, query: str) -> list[Any]:
        """Of all tenants, each asked as it may ask."""
        found: list[Any] = []
        for tenant_id in self.tenants:
            async with self.rig.db.read(tenant_id) as session:
                found += await (await driver(session)).fetch(query)
        return found

    async def leased_by_the_dead(self) -> int:
        """Attempts that were begun and never written down."""
        [[lost]] = await self.rows(
            "SELECT coalesce(sum(attempt_count), 0) - (SELECT count(*) FROM webhook_attempts) FROM webhook_deliveries"
        )
        return int(lost)

    async def judge(self, what: str, *, once: bool = False, counted: bool = True, since: float = 0) -> Judged:
        """Wait until the database says that all was delivered; then hold what came against it, of this time.

        With `once` nothing may come twice, and with `counted` nothing as the same attempt.
        """

        async def delivered() -> bool:
            with contextlib.suppress(ServiceUnavailable):
                return not await self.rows(
                    "SELECT 1 WHERE EXISTS (SELECT 1 FROM webhook_deliveries WHERE status = 'PENDING') "
                    "OR EXISTS (SELECT 1 FROM webhook_deliveries WHERE status = 'SENDING')"
                )
            return False

        def otherwise() -> str:
            return "\n".join(process.said()[-2000:] for process in self.rig.processes)

        await until(delivered, DRAIN, otherwise, every=0.5)
        owed = {
            str(row[0]): row[1].timestamp()
            for row in await self.rows("SELECT id, created_at FROM webhook_deliveries")
            if row[1].timestamp() >= since
        }
        came: list[tuple[str, int, float, bool]] = await ask(self.far, "/take")
        copies = Counter(delivery for delivery, *_ in came)
        lost, unknown = owed.keys() - copies.keys(), copies.keys() - owed.keys()
        bad = sum(not signed for *_, signed in came)
        doubled = copies.total() - len(copies)
        if lost or unknown or bad or (once and doubled):
            raise RuntimeError(
                f"{what}: {len(lost)} lost, {len(unknown)} unknown, {bad} badly signed, {doubled} doubled."
            )
        if counted and len({(delivery, attempt) for delivery, attempt, *_ in came}) != len(came):
            raise RuntimeError(f"{what}: something came twice as the same attempt.")
        first: dict[str, float] = {}
        for delivery, _, at, _ in came:
            first.setdefault(delivery, at - owed[delivery])
        return Judged(what, len(owed), doubled, sorted(first.values()), [at for *_, at, _ in came])


@dataclass(frozen=True, slots=True)
class Judged:
    """Nothing was lost."""

    what: str
    deliveries: int
    doubled: int
    #: Seconds from the commit to the first request, the shortest first.
    waits: Sequence[float]
    arrivals: Sequence[float]

    def told(self, *more: tuple[str, float, str]) -> list[Row]:
        p99 = self.waits[len(self.waits) * 99 // 100]
        figures = (
            (f"{self.deliveries:,} deliveries: lost", 0, "deliveries"),
            ("came again", self.doubled, "requests"),
            ("commit to receiver, p99", round(p99, 2), "s"),
            ("commit to receiver, slowest", round(self.waits[-1], 2), "s"),
            *more,
        )
        return [{"name": f"{self.what}, {name}", "figure": figure, "unit": unit} for name, figure, unit in figures]


@asynccontextmanager
async def _scene(
    *, servers: int = 0, workers: int = 0, thinks: float = 0.002, log_level: str = "WARNING"
) -> AsyncIterator[Scene]:
    with tempfile.TemporaryDirectory(prefix="punchconnect-faults-") as directory:
        async with AsyncExitStack() as stack:
            rig = await stack.enter_async_context(Rig(Path(directory)))
            far = stack.enter_context(receiving("witness", thinks))
            await rig.staff(servers=servers, workers=workers, log_level=log_level, **SETTINGS)
            if workers:
                await _warm_up(Scene(rig, far))
            yield Scene(rig, far)


async def _warm_up(scene: Scene) -> None:
    """Return once deliveries go out."""
    await scene.add_tenant()
    await scene.happen(100, 2)
    await scene.judge("warming up", once=True)


# The rows.


async def nothing_breaks(size: Size) -> list[Row]:
    async with _scene() as scene:
        for _ in range(20):
            await scene.add_tenant(endpoints=5)
        await scene.happen(size.of(20_000), 0)
        begun = time.monotonic()
        await scene.rig.staff(servers=0, workers=2, log_level="WARNING", **SETTINGS)
        judged = await scene.judge("20 tenants with 5 endpoints", once=True)
        return judged.told(("until all is there", round(time.monotonic() - begun, 1), "s"))


async def workers_are_killed(size: Size) -> list[Row]:
    async with _scene(workers=4) as scene:
        await scene.add_tenant()
        kills, chance = size.of(30), random.Random(2)  # noqa: S311
        happening = asyncio.create_task(scene.happen(size.of(20_000), 2.0 * kills))
        for _ in range(kills):
            await asyncio.sleep(2)
            victim = chance.choice(scene.rig.workers)
            await victim.kill()
            await victim.start()
        await happening
        judged = await scene.judge(f"{kills} workers killed")
        held = await scene.leased_by_the_dead()
        if judged.doubled > held:
            raise RuntimeError(f"{judged.doubled} came again, and the dead held {held}.")
        return judged.told(("held by workers that died", held, "deliveries"))


async def servers_are_killed(size: Size) -> list[Row]:
    lanes, kills = 2, size.times or size.of(KILLS)
    async with _scene(servers=2 * lanes, workers=1) as scene:
        async with scene.rig.db.across("operate") as connection:
            created = await tenants.create(connection, scene.rig.vault, "Killed")
        tenant_id, serials = created.tenant.id, serial_numbers(lanes)
        async with scene.rig.db.write(tenant_id) as session:
            for serial in serials:
                await devices.register(session, tenant_id, serial, time_zone="Africa/Casablanca")
        await factories.make_endpoint(
            scene.rig.db, scene.rig.vault, tenant_id, f"{scene.far}/hook", event_types=["punch.created"]
        )
        scene.tenants.append(tenant_id)
        acknowledged: set[str] = set()

        async def upload(server: int, serial: str, pin: str) -> bool:
            lines = "".join(f"{pin}\t2026-03-{day:02d} 08:00:00\t0\t1\n" for day in range(1, LINES + 1))
            line = Link(f"{scene.rig.servers[server].url}/d/{created.enrollment_token}", timeout=20)
            try:
                answer = await line.post(f"/iclock/cdata?SN={serial}&table=ATTLOG&Stamp=1", lines.encode())
            except (CutShort, Unreachable):
                return False
            if answer.status == 200:
                acknowledged.add(pin)
            return answer.status == 200

        async def lane(place: int) -> None:
            chance = random.Random(kills * lanes + place)  # noqa: S311
            for n in range(place, kills, lanes):
                one, other = 2 * place + n // lanes % 2, 2 * place + 1 - n // lanes % 2
                victim = scene.rig.servers[one]
                await victim.ready()
                sending = asyncio.create_task(upload(one, serials[place], str(n + 1)))
                await asyncio.sleep(chance.uniform(0.0, 0.06))
                await victim.kill()
                answered = await sending
                await victim.start()
                if not answered and chance.random() < 0.5:
                    await scene.rig.servers[other].ready()
                    await upload(other, serials[place], str(n + 1))

        await asyncio.gather(*(lane(place) for place in range(lanes)))
        judged = await scene.judge(f"{kills} times a server killed around its commit")
        punches = await scene.rows("SELECT pin, local_time FROM punches")
        events = await scene.rows("SELECT 1 FROM events WHERE type = 'punch.created'")
        whole = Counter(row[0] for row in punches)
        if (
            len(set(map(tuple, punches))) != len(punches)
            or len(events) != len(punches)
            or judged.deliveries != len(events)
        ):
            raise RuntimeError(f"{len(punches)} punches, {len(events)} events, {judged.deliveries} deliveries.")
        if set(whole.values()) != {LINES} or not acknowledged <= whole.keys():
            raise RuntimeError("An upload was stored in part, or acknowledged and not stored.")
        return judged.told(
            ("acknowledged", len(acknowledged), "uploads"),
            ("committed without an acknowledgement", len(whole.keys() - acknowledged), "uploads"),
        )


async def postgres_is_stopped(size: Size) -> list[Row]:
    async with _scene(workers=2) as scene:
        await scene.add_tenant()
        stops = 2 if size.short else 5
        happening = asyncio.create_task(scene.happen(size.of(10_000), 12.0 * stops))
        back = []
        for _ in range(stops):
            await asyncio.sleep(7)
            await asyncio.to_thread(scene.rig.postgres.stop, "immediate")
            await asyncio.sleep(1)
            await asyncio.to_thread(scene.rig.postgres.start)
            back.append(time.time())
        await happening
        # A claim is not waited for until it is on the disk: one that was forgotten is made again, with its number.
        judged = await scene.judge(f"PostgreSQL stopped at once {stops} times", counted=False)
        again = max(min(at for at in judged.arrivals if at > moment) - moment for moment in back)
        return judged.told(("from its return to the next request, at most", round(again, 2), "s"))


async def redis_goes_away(size: Size) -> list[Row]:
    async with _scene(workers=2) as scene:
        await scene.add_tenant()
        away = float(size.of(60))
        happening = asyncio.create_task(scene.happen(size.of(10_000), away + 10))
        await asyncio.sleep(3)
        with redis.Redis.from_url(scene.rig.redis.url) as client:
            client.flushall()
        await asyncio.to_thread(scene.rig.redis.kill)
        await asyncio.sleep(away)
        await asyncio.to_thread(scene.rig.redis.start)
        await happening
        return (await scene.judge(f"Redis flushed, then away for {away:.0f} s", once=True)).told()


async def workers_are_restarted(size: Size) -> list[Row]:
    async with _scene(workers=4, thinks=0.05, log_level="INFO") as scene:
        await scene.add_tenant()
        happening = asyncio.create_task(scene.happen(size.of(20_000), 60 if not size.short else 15))
        exits: list[float] = []
        while not happening.done():
            for n, worker in enumerate(scene.rig.workers):
                await until(partial(_has_started, worker, 1 + len(exits) // 4), START, worker.said)
                await asyncio.sleep(1)
                begun = time.monotonic()
                if await worker.stop() != 0:
                    raise RuntimeError(f"Worker {n} did not end well:\n{worker.said()[-2000:]}")
                exits.append(time.monotonic() - begun)
                await worker.start()
        await happening
        judged = await scene.judge(f"{len(exits)} workers told to stop, one after the other", once=True)
        return judged.told(("slowest to end", round(max(exits), 2), "s"))


async def _has_started(worker: Process, times: int) -> bool:
    """Told to stop before it minds signals, it would end like any other program."""
    return worker.said().count("worker_started") >= times


async def neighbours_hang(size: Size) -> list[Row]:
    async with _scene(workers=1) as scene:
        for _ in range(19):
            await scene.add_tenant()
        healthy, calm, trouble = list(scene.tenants), *((6, 6) if size.short else (60, size.times or 600))
        waits = []
        for sick, seconds in ((False, calm), (True, trouble)):
            if sick:
                tenant_id = (await factories.make_tenant(scene.rig.db)).tenant_id
                for _ in range(50):
                    await factories.make_endpoint(scene.rig.db, scene.rig.vault, tenant_id, f"{scene.far}/hang")
                for _ in range(size.of(1_000) // 100):
                    await factories.happen(scene.rig.db, tenant_id, 100)
                scene.tenants = [tenant_id]
                await until(partial(_has_begun, scene), START)
            scene.tenants = healthy
            begun = time.time()
            await scene.happen(19 * 5 * seconds, seconds)
            waits.append((await scene.judge("the healthy ones", once=True, since=begun)).waits)
        at = [{n: waited[len(waited) * n // 100] for n in (50, 99)} for waited in waits]
        return [
            {
                "name": f"19 tenants beside one with 50 endpoints that hang: commit to receiver, p{n}",
                "figure": round(at[1][n] * 1e3, 1),
                "unit": "ms",
                "floor": round(at[0][n] * 1e3, 1),
                "ratio": round(at[1][n] / at[0][n], 2),
            }
            for n in (50, 99)
        ]


async def _has_begun(scene: Scene) -> bool:
    return len(await scene.rows("SELECT 1 FROM webhook_deliveries WHERE status = 'SENDING'")) >= 20


ROWS: Final[dict[int, Callable[[Size], Awaitable[list[Row]]]]] = {
    1: nothing_breaks,
    2: workers_are_killed,
    3: servers_are_killed,
    4: postgres_is_stopped,
    5: redis_goes_away,
    6: workers_are_restarted,
    9: neighbours_hang,
}


if __name__ == "__main__":
    arguments = sys.argv[1:]
    times = int(arguments[arguments.index("--times") + 1]) if "--times" in arguments else None
    numbers = [int(word) for word in arguments if word.isdigit() and word != str(times)] or list(ROWS)
    uvloop.run(measure(numbers, short="--long" not in arguments, times=times))
