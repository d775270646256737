"""Uploads per second, from the terminal's socket to the OK after the commit, beside what else this machine can do.

- floor: the same server that reads, parses and answers but stores nothing;
- a commit per request: the same server without the queue in front of its transactions;
- pgbench: 100 rows a transaction into the same tables with the same indexes, by a C client without row-level security;
  once only the punches, once everything that an upload leaves behind.

All share two cores with their clients, so only ratios within one run mean anything. Everything is in the transaction:
punches, feed positions, events with their webhook bodies, deliveries of one matching endpoint per tenant.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.domain import ingest
from app.domain.endpoints import Endpoint
from app.domain.ingest import Reading
from app.embedded import _postgres_bin as postgres_bin
from app.main import Application, create_app
from app.simulator import serial_numbers
from app.web.intake import Intake
from bench.load import LoadResult, closed_loop
from bench.stand import Stand, server, stand

_PUNCHES = """INSERT INTO punches (tenant_id, id, device_id, pin, local_time, time_zone, punched_at, received_at,
    direction, state_code, verify_mode, verify_code, buffered, raw)
SELECT '{tenant}'::uuid, uuid7(), '{device}'::uuid, (:base + n)::text, '2026-03-01 08:00:00', 'UTC',
       '2026-03-01 08:00:00Z', now(), 0, 0, 3, 15, true, '\\x3031323334353637383930313233343536373839'
FROM generate_series(1, 100) AS n ON CONFLICT DO NOTHING"""

#: The punches alone, and all rows that an upload of 100 lines leaves behind.
PGBENCH = {
    "punches": f"\\set base random(1, 2000000000)\n{_PUNCHES};\n",
    "all rows": f"""\\set base random(1, 2000000000)
WITH fresh AS ({_PUNCHES} RETURNING id),
head AS (UPDATE feed_heads SET position = position + 100 WHERE tenant_id = '{{tenant}}' RETURNING position),
logged AS (
    INSERT INTO events (tenant_id, position, id, type, body, created_at)
    SELECT '{{tenant}}', head.position - 100 + n, uuid7(), 'punch.created', repeat('x', 720), now()
    FROM head, generate_series(1, 100) AS n RETURNING position, id
)
INSERT INTO webhook_deliveries
    (tenant_id, id, endpoint_id, position, event_id, event_type, status, attempt_count, due_at, created_at)
SELECT '{{tenant}}', uuid7(), '{{endpoint}}', position, id, 'punch.created', 'PENDING', 0, now(), now() FROM logged;
""",
}


class _Nothing(Intake):
    """Everything is stored at once: the floor."""

    async def submit(self, reading: Reading) -> None:
        pass


class _Alone(Intake):
    """A transaction for each upload."""

    async def submit(self, reading: Reading) -> None:
        async with self._db.across("ingest", [reading.device.tenant_id]) as connection:
            logged = await ingest.accept(connection, [reading])
        self._ring(logged)


def without_database() -> Application:
    """The server that stores nothing."""
    return _with(_Nothing)


def commit_per_request() -> Application:
    """The server without a queue."""
    return _with(_Alone)


def _with(kind: type[Intake]) -> Application:
    application = create_app()
    application.intake.__class__ = kind
    return application


async def measure(short: bool) -> list[dict[str, Any]]:
    """Rows of {name, figure, unit, floor, ratio}; medians of alternating rounds."""
    seconds, rounds = (2.0, 3) if short else (4.0, 5)
    rows: list[dict[str, Any]] = []
    async with stand() as rig:
        few = [await rig.add_tenant(64)]
        many = [await rig.add_tenant(4) for _ in range(16)]
        await _endpoints(rig)
        async with (
            server(rig, "app.main:create_app") as ours,
            server(rig, "bench.ingest:without_database") as floor,
            server(rig, "bench.ingest:commit_per_request") as alone,
        ):
            for tenants, label in ((few, "1 tenant"), (many, "16 tenants")):
                bases = {"ours": ours, "floor": floor, "alone": alone}
                urls = {name: [f"{base}/d/{tenant.token}" for tenant in tenants] for name, base in bases.items()}
                results = await _alternate(urls, rounds, seconds, len(tenants))
                figures = {name: statistics.median(r.requests_per_second for r in rs) for name, rs in results.items()}
                rows += [
                    _row(f"1 line, 64 terminals, {label}: server without database", figures["ours"], figures["floor"]),
                    _row(f"1 line, 64 terminals, {label}: a commit per request", figures["ours"], figures["alone"]),
                    _late(f"1 line, 64 terminals, {label}: p99", results["ours"], results["floor"]),
                ]
            url = f"{ours}/d/{few[0].token}"
            lines: list[float] = []
            peers: dict[str, list[float]] = {name: [] for name in PGBENCH}
            for _ in range(rounds):
                loaded = await closed_loop(url, terminals=32, lines=100, seconds=seconds, warmup=0.5)
                lines.append(loaded.lines / loaded.seconds)
                for name, script in PGBENCH.items():
                    peers[name].append(max([await _pgbench(rig, script, clients, seconds) for clients in (1, 4)]))
            rows += [
                _row(
                    f"100 lines, 32 terminals, rows/s: pgbench, {name}",
                    statistics.median(lines),
                    statistics.median(peer),
                )
                for name, peer in peers.items()
            ]
    return rows


async def _alternate(
    urls: dict[str, list[str]], rounds: int, seconds: float, tenants: int
) -> dict[str, list[LoadResult]]:
    results: dict[str, list[LoadResult]] = {name: [] for name in urls}
    per_tenant = 64 // tenants
    serials = [serial for serial in serial_numbers(per_tenant) for _ in range(tenants)]
    for number in range(rounds):
        for name, bases in urls.items():
            result = await closed_loop(
                bases, terminals=64, lines=1, seconds=seconds, warmup=0.5, serials=serials, handshake=number == 0
            )
            if result.refused or result.unknown:
                raise RuntimeError(f"{name}: {result.refused} refused, {result.unknown} cut: {result.last_trouble}")
            results[name].append(result)
    return results


async def _endpoints(rig: Stand) -> None:
    """One matching endpoint for each tenant: every punch owes a delivery."""
    for tenant in rig.tenants:
        async with rig.db.write(tenant.id) as session:
            session.add(Endpoint(tenant_id=tenant.id, url="http://127.0.0.1:9/", secret_sealed=b"x"))


async def _pgbench(rig: Stand, script: str, clients: int, seconds: float) -> float:
    """Punches per second of pgbench; the superuser passes row-level security by."""
    tenant = rig.tenants[0]
    async with rig.db.across("ingest", [tenant.id]) as connection:
        device = await connection.fetchval("SELECT id FROM devices LIMIT 1")
        endpoint = await connection.fetchval("SELECT id FROM webhook_endpoints LIMIT 1")
    with tempfile.NamedTemporaryFile("w", suffix=".sql", delete=False) as file:
        file.write(script.format(tenant=tenant.id, device=device, endpoint=endpoint))
    url = rig.postgres.superuser_url.rsplit("/", 1)[0] + "/punchconnect"
    process = await asyncio.create_subprocess_exec(
        postgres_bin() / "pgbench",
        *("-n", "-M", "prepared", "-c", str(clients), "-T", str(max(1, round(seconds))), "-f", file.name),
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    Path(file.name).unlink()
    found = re.search(rb"tps = ([0-9.]+)", out)
    if found is None:
        raise RuntimeError(errors.decode())
    return float(found[1]) * 100


def _row(name: str, figure: float, floor: float) -> dict[str, Any]:
    return {
        "name": name,
        "figure": round(figure),
        "unit": "/s",
        "floor": round(floor),
        "ratio": round(figure / floor, 2),
    }


def _late(name: str, ours: Sequence[LoadResult], floor: Sequence[LoadResult]) -> dict[str, Any]:
    figure, least = (statistics.median(result.p99 for result in results) * 1000 for results in (ours, floor))
    return {
        "name": name,
        "figure": round(figure, 1),
        "unit": "ms",
        "floor": round(least, 1),
        "ratio": round(figure / least, 2),
    }


def run(short: bool) -> list[dict[str, Any]]:
    """All rows."""
    return asyncio.run(measure(short))


if __name__ == "__main__":
    for row in run("--short" in sys.argv):
        print(f"{row['name']:<70} {row['figure']:>9} {row['unit']:<4} of {row['floor']:>9}  {row['ratio']:.2f}")
