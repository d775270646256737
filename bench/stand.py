"""What benchmarks stand on: a real PostgreSQL with fsync on, a Redis-protocol server, tenants, a server process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg

from app import ids, migrations
from app.database import Database
from app.domain import tenants
from app.embedded import EmbeddedPostgres, EmbeddedRedis
from app.simulator import serial_numbers
from app.vault import Vault

SECRET_KEY = "a secret key for benchmarks, long enough to be taken"


@dataclass(frozen=True, slots=True)
class BenchTenant:
    """A tenant with its terminals."""

    id: UUID
    api_key: str
    token: str


@dataclass(slots=True)
class Stand:
    """Servers of one benchmark."""

    postgres: EmbeddedPostgres
    redis: EmbeddedRedis
    db: Database
    vault: Vault
    environment: dict[str, str]
    tenants: list[BenchTenant] = field(default_factory=list)

    async def add_tenant(self, devices: int) -> BenchTenant:
        """A tenant with `devices` active terminals on its own address, named as virtual terminals are."""
        async with self.db.across("operate") as connection:
            created = await tenants.create(connection, self.vault, "Bench")
        tenant = BenchTenant(created.tenant.id, created.api_key, created.enrollment_token)
        async with self.db.across("ingest", [tenant.id]) as connection:
            await connection.executemany(
                "INSERT INTO devices (tenant_id, id, serial_number, name, time_zone, status, registered, "
                "bound_addresses, created_at, updated_at) "
                "VALUES ($1, $2, $3, $3, 'Africa/Casablanca', 'ACTIVE', true, '{own}', now(), now())",
                [(tenant.id, ids.new(), serial) for serial in serial_numbers(devices)],
            )
        self.tenants.append(tenant)
        return tenant


@asynccontextmanager
async def stand() -> AsyncIterator[Stand]:
    """Servers in a temporary directory, migrated, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="punchconnect-bench-") as directory:
        home = Path(directory)
        postgres, redis = EmbeddedPostgres(home / "postgres"), EmbeddedRedis(home / "redis")
        await asyncio.to_thread(postgres.start)
        await asyncio.to_thread(redis.start)
        db = Database(postgres.url)
        try:
            await migrations.upgrade(postgres.url)
            environment = {
                "PUNCHCONNECT_DATABASE_URL": postgres.url,
                "PUNCHCONNECT_REDIS_URL": redis.url,
                "PUNCHCONNECT_SECRET_KEY": SECRET_KEY,
                "PUNCHCONNECT_DEVICE_RATE": "1000000",
                "PUNCHCONNECT_DEVICE_BURST": "1000000",
                "PUNCHCONNECT_API_POINTS": "1000000000",
                "PUNCHCONNECT_API_RESTORE": "1000000000",
                "PUNCHCONNECT_SOCKETS_PER_KEY": "1000000",
                "PUNCHCONNECT_SOCKETS_PER_TENANT": "1000000",
                "PUNCHCONNECT_LOG_LEVEL": "WARNING",
                "PUNCHCONNECT_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
                "PUNCHCONNECT_WEBHOOK_ALLOW_HTTP": "true",
            }
            yield Stand(postgres, redis, db, Vault(SECRET_KEY), environment)
        finally:
            await db.stop()
            await asyncio.to_thread(redis.stop)
            await asyncio.to_thread(postgres.stop)


@dataclass(frozen=True, slots=True)
class Served:
    """A server process."""

    url: str
    pid: int

    def cpu(self) -> float:
        """Seconds of processor time that it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def serving(stand: Stand, factory: str) -> AsyncIterator[Served]:
    """`factory` under uvicorn in a process of its own, as `serve` runs it."""
    port = free_port()
    code = (
        f"import uvicorn; uvicorn.run({factory!r}, factory=True, host='127.0.0.1', port={port}, loop='uvloop', "
        "http='app.web.wire:Http', ws='app.web.wire:Wire', ws_per_message_deflate=False, server_header=False, "
        "proxy_headers=False, access_log=False, log_config=None, backlog=2048)"
    )
    async with process(sys.executable, "-c", code, port=port, environment=stand.environment) as served:
        yield served


@asynccontextmanager
async def server(stand: Stand, factory: str) -> AsyncIterator[str]:
    """The same, for whom its URL is enough."""
    async with serving(stand, factory) as served:
        yield served.url


@asynccontextmanager
async def process(*command: str, port: int, environment: dict[str, str]) -> AsyncIterator[Served]:
    """A command that listens on `port`, once it does."""
    process = await asyncio.create_subprocess_exec(*command, env=os.environ | environment)
    try:
        for _ in range(1200):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.05)
        else:
            raise TimeoutError(f"{command[0]} did not listen in time.")
        yield Served(f"http://127.0.0.1:{port}", process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 15)
        if process.returncode is None:
            process.kill()
            await process.wait()


def free_port() -> int:
    """Below the ephemeral range, where an outgoing connection could take it."""
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("No free port.")


async def execute(url: str, statement: str) -> None:
    """One statement by the owner or the superuser."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
