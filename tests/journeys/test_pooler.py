"""Everything through a PgBouncer in transaction mode: two tenants at once, many processes, few connections.

Statements of one transaction find one connection; everything else may find another one that somebody else just used. So
whatever is left on a connection, or is expected to be there, shows here: another tenant's rows, or a statement that is
not there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from app.database import Database
from app.domain import devices, tenants
from app.vault import Vault
from tests.conftest import SECRET_KEY
from tests.journeys.rig import ENDPOINT, Process, Server, until
from tests.receiver import Receiver
from tests.schema.sockets import acknowledged
from tests.server import listen

PGBOUNCER = shutil.which("pgbouncer") or next(
    (str(path) for path in [Path("/usr/sbin/pgbouncer")] if path.exists()), None
)
NOBODY = 65_534
ROUNDS, AT_ONCE = 12, 6
SITE = 'mutation ($name: String!) { siteCreate(input: {name: $name, timeZone: "UTC"}) { site { name } } }'

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is missing. On Debian: apt install pgbouncer"),
]


@asynccontextmanager
async def pooled(url: str) -> AsyncIterator[str]:
    """The same database behind a PgBouncer with three connections; its URL."""
    parts = urlsplit(url)
    with tempfile.TemporaryDirectory(prefix="punchconnect-pooler-") as name, listen() as place:
        port = place.getsockname()[1]
        place.close()
        directory = Path(name)
        # PgBouncer does not run as root, and whoever it runs as has to read this.
        directory.chmod(0o755)
        (directory / "users.txt").write_text(f'"{parts.username}" "{parts.password}"\n')
        (directory / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={parts.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {directory / 'users.txt'}\n"
            "pool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 200\n"
        )
        log = directory / "log"
        root = os.geteuid() == 0
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                str(PGBOUNCER),
                str(directory / "pgbouncer.ini"),
                stdout=out,
                stderr=out,
                user=NOBODY if root else None,
                group=NOBODY if root else None,
            )
        try:
            await until(lambda: _answers(port), 20, lambda: log.read_text(errors="replace"))
            yield f"postgresql://{parts.username}:{parts.password}@127.0.0.1:{port}{parts.path}"
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


class Customer:
    """A tenant that uses everything at once, and looks at whatever it gets for what is not its own."""

    def __init__(self, created: tenants.Created, mark: str, servers: list[Server], receiver: Receiver) -> None:
        self.key, self.token, self.mark = created.api_key, created.enrollment_token, mark
        self.servers, self.receiver = servers, receiver

    async def begin(self) -> None:
        """An endpoint for its punches."""
        await self.servers[0].graphql(self.key, ENDPOINT, url=self.receiver.url(f"/{self.mark}"))

    async def use(self, worker: int, http: httpx.AsyncClient) -> None:
        """Some rounds of uploads, writes and reads, now at one server and now at the other."""
        for number in range(ROUNDS):
            server = self.servers[number % 2]
            line = f"{worker}{number:03}\t2026-03-02 09:{number:02}:{worker:02}\t0\t15\n".encode()
            target = f"{server.url}/d/{self.token}/iclock/cdata?SN={self.mark}&table=ATTLOG&Stamp=1"
            answer = await http.post(target, content=line)
            assert answer.text.startswith("OK"), (answer.status_code, answer.text)
            made = await server.graphql(self.key, SITE, name=f"{self.mark} {worker}.{number}")
            assert made["siteCreate"]["site"]["name"].startswith(self.mark)
            seen = await server.graphql(
                self.key,
                "{ sites(last: 20) { nodes { name } } devices { nodes { serialNumber storedPunchCount } } "
                "punches(first: 20) { nodes { device { serialNumber } } } viewer { tenant { name } } }",
            )
            assert seen["viewer"]["tenant"]["name"] == self.mark
            assert {site["name"].split()[0] for site in seen["sites"]["nodes"]} == {self.mark}
            assert [device["serialNumber"] for device in seen["devices"]["nodes"]] == [self.mark]
            assert {punch["device"]["serialNumber"] for punch in seen["punches"]["nodes"]} == {self.mark}

    async def count(self, expected: int) -> None:
        """Everything is there once: stored, in the feed over a socket, and delivered."""
        seen = await self.servers[0].graphql(self.key, "{ devices { nodes { storedPunchCount } } }")
        assert seen["devices"]["nodes"] == [{"storedPunchCount": expected}]
        fed: list[str] = []
        async with acknowledged(self.servers[1].socket_url, self.key) as client:
            query = "subscription { punches(from: BEGINNING) { punches { id device { serialNumber } } } }"
            await client.subscribe(query)
            while len(fed) < expected:
                batch = (await client.next())["data"]["punches"]["punches"]
                assert {punch["device"]["serialNumber"] for punch in batch} <= {self.mark}
                fed += [punch["id"] for punch in batch]
        assert len(set(fed)) == expected

        async def delivered() -> bool:
            return set(fed) <= self.delivered()

        await until(delivered, 60, lambda: f"{len(self.delivered())} of {expected} delivered to {self.mark}")
        assert self.delivered() == set(fed)

    def delivered(self) -> set[str]:
        """The ids of the punches that its receiver was told."""
        bodies = [orjson.loads(got.body) for got in self.receiver.requests if got.path == f"/{self.mark}"]
        return {body["data"]["id"] for body in bodies}


async def test_everything_works_behind_a_pooler_in_transaction_mode(
    fresh_database_url: str, vault: Vault, tmp_path: Path
) -> None:
    direct = Database(fresh_database_url)
    await direct.start()
    created = []
    for mark in ("RED1", "BLUE2"):
        async with direct.across("operate") as connection:
            created.append(await tenants.create(connection, vault, mark))
        async with direct.write(created[-1].tenant.id) as session:
            await devices.register(session, created[-1].tenant.id, mark, time_zone="UTC")
    await direct.stop()

    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(pooled(fresh_database_url))
        receiver = await stack.enter_async_context(Receiver())
        environment = {
            "PUNCHCONNECT_DATABASE_URL": url,
            "PUNCHCONNECT_SECRET_KEY": SECRET_KEY,
            "PUNCHCONNECT_STATEMENT_CACHE": "0",
            "PUNCHCONNECT_DEVICE_RATE": "1000",
            "PUNCHCONNECT_DEVICE_BURST": "1000",
            "PUNCHCONNECT_API_POINTS": "10000000",
            "PUNCHCONNECT_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
            "PUNCHCONNECT_WEBHOOK_ALLOW_HTTP": "true",
        }
        servers = []
        for number in range(2):
            with listen() as place:
                port = place.getsockname()[1]
            servers.append(Server(f"server {number}", port, environment, tmp_path / f"server-{number}.log"))
        workers = [Process(f"worker {n}", ["work"], environment, tmp_path / f"worker-{n}.log") for n in range(2)]
        for process in (*servers, *workers):
            await process.start()
            stack.push_async_callback(process.stop)
        for server in servers:
            await server.ready()
        customers = [
            Customer(each, mark, servers, receiver) for each, mark in zip(created, ("RED1", "BLUE2"), strict=True)
        ]
        for customer in customers:
            await customer.begin()
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            await asyncio.gather(*(each.use(worker, http) for each in customers for worker in range(AT_ONCE)))
        for customer in customers:
            await customer.count(ROUNDS * AT_ONCE)
        said = "".join(process.said() for process in (*servers, *workers))

    for word in ("prepared statement", "internal_error", "Traceback"):
        assert word not in said, said[-4000:]
