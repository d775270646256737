"""A small installation of real processes to break: servers, workers, a PostgreSQL that syncs, a Redis, a receiver.

Processes are started by the command line, as an operator starts them, and ended by their ids. What customers run
(terminals, subscribers, receivers) lives in the test's own process and outlives every fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx

from app import migrations
from app.database import Database, driver
from app.dev import PARENT
from app.domain import devices, tenants
from app.embedded import EmbeddedPostgres, EmbeddedRedis
from app.simulator import serial_numbers
from app.vault import Vault
from tests.conftest import SECRET_KEY
from tests.receiver import Receiver
from tests.server import listen

ROOT = Path(__file__).parents[2]
#: Seconds for a process to come up, and to end once it was told to.
START, STOP = 40.0, 15.0

ENDPOINT = """
mutation ($url: String!) {
    webhookEndpointCreate(input: {url: $url, eventTypes: ["punch.created"]}) { secret userErrors { message } }
}
"""


class Process:
    """One process of ours, which may be killed, told to stop, and started again as it was."""

    def __init__(self, name: str, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._arguments, self._environment = arguments, environment
        self._process: asyncio.subprocess.Process | None = None

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """As from a shell. It ends with us, however that happens."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "app.cli",
                *self._arguments,
                env=os.environ | self._environment | {"PYTHONPATH": str(ROOT), PARENT: str(os.getpid())},
                cwd=self.log.parent,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def kill(self) -> None:
        """As by a crash."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """As for a deploy; the exit status."""
        return await self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it in its tracks; its connections stay open and silent."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._signal(signal.SIGCONT)

    def _signal(self, sign: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(sign)

    async def _end(self, sign: signal.Signals) -> int:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(sign)
        try:
            return await asyncio.wait_for(self._process.wait(), STOP)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise AssertionError(f"{self.name} had not ended {STOP} s after {sign.name}:\n{self.said()}") from None

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Server(Process):
    """`punchconnect serve` on a port of its own, the same after every restart."""

    def __init__(self, name: str, port: int, environment: dict[str, str], log: Path) -> None:
        super().__init__(name, ["serve", "--port", str(port)], environment, log)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.socket_url = f"ws://127.0.0.1:{port}/graphql"

    async def ready(self) -> None:
        """Return once it can serve."""

        async def asked() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (await client.get(f"{self.url}/readyz")).status_code == 200
            assert self.lives, f"{self.name} ended by itself:\n{self.said()}"
            return False

        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            await until(asked, START, self.said)

    async def graphql(self, key: str, query: str, **variables: Any) -> dict[str, Any]:
        """The data; nothing may have gone wrong."""
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            answer = await client.post(
                f"{self.url}/graphql",
                json={"query": query, "variables": variables},
                headers={"Authorization": f"Bearer {key}"},
            )
        told = answer.json()
        assert "errors" not in told, told
        data: dict[str, Any] = told["data"]
        return data


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant with terminals that it registered, and a receiver of its own."""

    tenant_id: UUID
    api_key: str
    token: str
    serials: Sequence[str]
    receiver: Receiver
    secret: str

    def dial(self, server: Server) -> str:
        """Where its terminals are pointed."""
        return f"{server.url}/d/{self.token}"


class Rig:
    """`async with Rig(directory) as rig:`. The two databases stay for many journeys, the processes for one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.postgres = EmbeddedPostgres(directory / "postgres")
        self.redis = EmbeddedRedis(directory / "redis")
        self.vault = Vault(SECRET_KEY)
        self.servers: list[Server] = []
        self.workers: list[Process] = []
        self.receivers: list[Receiver] = []
        self._customers: list[UUID] = []
        self._started = 0
        self._environment: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.postgres.start)
        await asyncio.to_thread(self.redis.start)
        await migrations.upgrade(self.postgres.url)
        self.db = Database(self.postgres.url, pool=4)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.clear()
        await self.db.stop()
        await asyncio.to_thread(self.redis.stop)
        await asyncio.to_thread(self.postgres.stop)

    @property
    def processes(self) -> list[Process]:
        return [*self.servers, *self.workers]

    async def staff(self, *, servers: int, workers: int, **settings: str) -> None:
        """Start so many, with these settings besides, and return once the servers are ready."""
        environment = {
            "PUNCHCONNECT_DATABASE_URL": self.postgres.url,
            "PUNCHCONNECT_REDIS_URL": self.redis.url,
            "PUNCHCONNECT_SECRET_KEY": SECRET_KEY,
            "PUNCHCONNECT_DEVICE_RATE": "1000",
            "PUNCHCONNECT_DEVICE_BURST": "1000",
            # A journey asks again and again how far things are.
            "PUNCHCONNECT_API_POINTS": "10000000",
            "PUNCHCONNECT_API_RESTORE": "1000000",
            "PUNCHCONNECT_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
            "PUNCHCONNECT_WEBHOOK_ALLOW_HTTP": "true",
            "PUNCHCONNECT_WEBHOOK_RETRY_DELAYS": "0.5,1,2,2,2,2,2,2,2",
            # What a killed worker held is due again when its lease ends.
            "PUNCHCONNECT_WEBHOOK_TIMEOUT_SECONDS": "2",
            "PUNCHCONNECT_WEBHOOK_LEASE_SECONDS": "5",
        } | {f"PUNCHCONNECT_{name.upper()}": value for name, value in settings.items()}
        self._environment = environment
        for _ in range(servers):
            with listen() as place:
                port = place.getsockname()[1]
            self.servers.append(Server("server", port, environment, self._log("server")))
        self.workers += [Process("worker", ["work"], environment, self._log("worker")) for _ in range(workers)]
        await asyncio.gather(*(process.start() for process in self.processes))
        await asyncio.gather(*(server.ready() for server in self.servers))

    async def clear(self) -> None:
        """End all processes and receivers, mend what a failed journey left broken, and owe nobody anything."""
        living = [process for process in self.processes if process.lives]
        self.servers, self.workers = [], []
        await asyncio.gather(*(process.stop() for process in living))
        await asyncio.to_thread(self.postgres.start)
        await asyncio.to_thread(self.redis.start)
        # The next receiver may get the same port, and must not get what this one is still owed.
        for tenant_id in self._customers:
            async with self.db.write(tenant_id) as session:
                await (await driver(session)).execute("UPDATE webhook_endpoints SET deleted_at = now()")
        self._customers = []
        for receiver in self.receivers:
            await receiver.__aexit__(None, None, None)
        self.receivers = []

    async def add_customer(self, terminals: int) -> Customer:
        """A tenant, so many terminals named as virtual ones are, and an endpoint made through the API."""
        async with self.db.across("operate") as connection:
            created = await tenants.create(connection, self.vault, "Journey")
        tenant_id, serials = created.tenant.id, serial_numbers(terminals)
        async with self.db.write(tenant_id) as session:
            for serial in serials:
                await devices.register(session, tenant_id, serial, time_zone="Africa/Casablanca")
        receiver = await self.add_receiver(tenant_id)
        made = await self.servers[0].graphql(created.api_key, ENDPOINT, url=receiver.url())
        secret = made["webhookEndpointCreate"]["secret"]
        assert secret, made
        return Customer(tenant_id, created.api_key, created.enrollment_token, serials, receiver, secret)

    async def add_receiver(self, tenant_id: UUID) -> Receiver:
        """A customer's server, which outlives every fault; what its tenant is still owed at the end is forgotten."""
        self._customers.append(tenant_id)
        receiver = await Receiver().__aenter__()
        self.receivers.append(receiver)
        return receiver

    async def add_worker(self) -> Process:
        """One more."""
        worker = Process("worker", ["work"], self._environment, self._log("worker"))
        self.workers.append(worker)
        await worker.start()
        return worker

    def _log(self, name: str) -> Path:
        self._started += 1
        return self._directory / f"{self._started}-{name}.log"


async def until(
    met: Callable[[], Awaitable[bool]],
    within: float,
    otherwise: Callable[[], object] = lambda: "Not within time.",
    *,
    every: float = 0.1,
) -> None:
    """Return once `met`, asked `every` so many seconds; AssertionError with what `otherwise` says when it is late."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not await met():
        if loop.time() > deadline:
            raise AssertionError(otherwise())
        await asyncio.sleep(every)
