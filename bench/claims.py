"""How long a claim takes when the table is full: 100 endpoints of 20 tenants, all with a backlog, in front of many
deliveries that ended long ago, and beside some that other workers hold. Long is 100,000 due before 1,000,000 finished.

What is claimed is settled before the next claim, and such rounds are timed too: before anything has ended, with all
that ended, and after the table has been at work for a while, each round with as many new deliveries. By then there are
dead rows, and autovacuum has run or has not. At the end deliveries are removed as the retention has it.

`python -m bench.claims --long --work 1800` lets the table be at work for half an hour, at PACE: whether dead rows grow.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import uvloop

from app import ids
from app.domain import deliveries
from app.domain.deliveries import Caps, DeliveryStatus, Result
from app.domain.endpoints import Endpoint, seal_secret
from bench.stand import Stand, execute, stand
from protocol import webhook

SECRET: Final = webhook.secret_from(bytes(range(32)))
PIECE: Final = 100_000
#: Those of a worker of 50 slots, with the shares and caps that are the default.
CAPS: Final = Caps(12, 25, 50, 500)
#: What other workers hold meanwhile.
HELD: Final = 200
ROUNDS: Final = 150
#: Deliveries that come, and end, in a second of the table's work.
PACE: Final = 1_000
_DEAD: Final = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'webhook_deliveries'"
_FILL: Final = """
INSERT INTO webhook_deliveries
    (tenant_id, id, endpoint_id, position, event_id, event_type, status, attempt_count, due_at, created_at,
     completed_at)
SELECT l.tenant_id, uuid7(), l.id, n, gen_random_uuid(), 'punch.created', $4::text, 0,
       CASE WHEN $4::text = 'PENDING' THEN now() END, now(), CASE WHEN $4::text <> 'PENDING' THEN now() END
FROM generate_series(1, $3::integer) AS n, unnest($1::uuid[], $2::uuid[]) AS l (tenant_id, id)
"""


def run(short: bool, work: float | None = None) -> list[dict[str, Any]]:
    """Rows of {name, figure, unit}. `work` are the seconds that the table is at work."""
    return uvloop.run(measure(short=short, work=work))


async def measure(*, short: bool, work: float | None = None) -> list[dict[str, Any]]:
    """Claims of 50, with the shares of a worker of 50 slots; each is settled before the next."""
    due, finished, seconds = (20_000, 100_000, 5.0) if short else (100_000, 1_000_000, 60.0)
    async with stand() as rig:
        lanes = [lane for _ in range(20) for lane in await _endpoints(rig)]
        await _fill(rig, lanes, due, DeliveryStatus.PENDING)
        for _ in range(HELD // 50):
            await deliveries.claim(rig.db.at_once, 50, timedelta(hours=1))
        empty = await _rounds(rig)
        await _fill(rig, lanes, finished, DeliveryStatus.DELIVERED)
        full = await _rounds(rig)
        worked, dead = await _work(rig, lanes, work or seconds)
        old = await _rounds(rig)
        ended, removing = await _forget(rig)
    size = f"{due:,} due, {finished:,} finished"
    rows: list[dict[str, Any]] = [
        {
            "name": f"claim of 50, {name}: p{share}",
            "figure": round(sorted(claim for claim, _ in rounds)[ROUNDS * share // 100] * 1e3, 1),
            "unit": "ms",
        }
        for name, rounds in (
            (f"{due:,} due, nothing finished", empty),
            (size, full),
            (f"{size}, after {worked:,} more", old),
        )
        for share in (50, 99)
    ]
    rows += [
        {
            "name": f"claimed and settled, {name}, beside nothing finished",
            "figure": round(50 * ROUNDS / sum(whole for _, whole in rounds)),
            "unit": "deliveries/s",
            "floor": round(50 * ROUNDS / sum(whole for _, whole in empty)),
            "ratio": round(sum(whole for _, whole in empty) / sum(whole for _, whole in rounds), 2),
        }
        for name, rounds in ((size, full), (f"after {worked:,} more", old))
    ]
    rows += [
        {"name": f"dead rows while it worked: {name}", "figure": figure, "unit": "rows"}
        for name, figure in (
            ("most in the first half", max(dead[: len(dead) // 2 or 1])),
            ("most in the second half", max(dead[len(dead) // 2 :])),
            ("at the end", dead[-1]),
        )
    ]
    rows.append({"name": "removed by the retention", "figure": round(ended / removing), "unit": "deliveries/s"})
    return rows


async def _endpoints(rig: Stand) -> list[tuple[UUID, UUID]]:
    tenant_id = (await rig.add_tenant(0)).id
    made = [ids.new() for _ in range(5)]
    async with rig.db.write(tenant_id) as session:
        for endpoint_id in made:
            sealed = seal_secret(rig.vault, endpoint_id, tenant_id, SECRET)
            session.add(Endpoint(tenant_id=tenant_id, id=endpoint_id, url="https://r.example/", secret_sealed=sealed))
    return [(tenant_id, endpoint_id) for endpoint_id in made]


async def _fill(rig: Stand, lanes: list[tuple[UUID, UUID]], rows: int, status: DeliveryStatus) -> None:
    tenants, endpoints = [lane[0] for lane in lanes], [lane[1] for lane in lanes]
    for _ in range(0, rows, PIECE):
        async with rig.db.across("ingest", list(set(tenants))) as connection:
            await connection.execute("SET LOCAL statement_timeout = 0")
            each = min(rows, PIECE) // len(lanes)
            await connection.execute(_FILL, tenants, endpoints, each, status, timeout=300)


async def _work(rig: Stand, lanes: list[tuple[UUID, UUID]], seconds: float) -> tuple[int, list[int]]:
    """So long, as many deliveries come as end, at most PACE; how many, and how many rows were dead, every second."""
    worked, dead = 0, [0]
    begun = time.monotonic()
    some = [lanes[n::2] for n in (0, 1)]
    while (spent := time.monotonic() - begun) < seconds:
        if worked > spent * PACE:
            await asyncio.sleep(worked / PACE - spent)
        await _fill(rig, some[worked // 50 % 2], 50, DeliveryStatus.PENDING)
        await _round(rig)
        worked += 50
        if spent >= len(dead):
            if not len(dead) % 60:
                print(f"{len(dead)} s: {worked:,} deliveries, {dead[-1]:,} dead rows", file=sys.stderr, flush=True)
            async with rig.db.across("lookup") as connection:
                dead.append(await connection.fetchval(_DEAD))
    return worked, dead


async def _forget(rig: Stand) -> tuple[int, float]:
    """How many were removed, and in how many seconds: ten steps of a sweep."""
    started, gone = time.perf_counter(), 0
    for _ in range(10):
        async with rig.db.across("work") as connection:
            gone += await deliveries.forget(connection, timedelta(0))
    return gone, time.perf_counter() - started


async def _rounds(rig: Stand) -> list[tuple[float, float]]:
    """After a checkpoint: the first to touch a page writes all of it to the log, which is no matter of what is full."""
    await execute(rig.postgres.superuser_url, "CHECKPOINT")
    return [await _round(rig) for _ in range(ROUNDS)]


async def _round(rig: Stand) -> tuple[float, float]:
    """Seconds of one claim, and with its settling."""
    started = time.perf_counter()
    claims = await deliveries.claim(rig.db.at_once, 50, timedelta(seconds=30), CAPS)
    took = time.perf_counter() - started
    async with rig.db.across("work", list({held.tenant_id for held in claims})) as connection:
        done = [Result(held, DeliveryStatus.DELIVERED, datetime.now(UTC), 1, status_code=200) for held in claims]
        await deliveries.settle(connection, done)
    return took, time.perf_counter() - started


if __name__ == "__main__":
    arguments = sys.argv[1:]
    work = float(arguments[arguments.index("--work") + 1]) if "--work" in arguments else None
    for row in run("--long" not in arguments, work):
        print(f"{row['name']:80} {row['figure']:>8} {row['unit']} {row.get('ratio', '')}")
