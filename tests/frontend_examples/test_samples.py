"""The samples in five languages, each run as its reader would run it, against a live server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from app.database import Database
from app.domain import devices, tenants
from app.embedded import EmbeddedRedis
from app.simulator import Link
from app.vault import Vault
from protocol import webhook
from tests.docs.samples_page import FOLDER, LANGUAGES
from tests.server import Server

RUN = {"py": [sys.executable], "mjs": ["node"], "sh": ["bash"], "php": ["php"], "rb": ["ruby"]}
WITHIN = 30
ENDINGS = [ending for ending, _, _ in LANGUAGES]
PUNCHES = 130
SECRET = webhook.secret_from(bytes(range(32)))
BODY = '{"id":"evt_01","data":{"name":"Zoë"}}'.encode()


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody with a key."""

    url: str
    key: str

    async def run(self, name: str) -> str:
        return await _run(name, {"PUNCHCONNECT_URL": self.url, "PUNCHCONNECT_KEY": self.key})


async def _run(name: str, given: dict[str, str], stdin: bytes = b"") -> str:
    command = RUN[name.rpartition(".")[2]]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: on Debian, apt-get install nodejs php-cli ruby")
    process = await asyncio.create_subprocess_exec(
        *command,
        str(FOLDER / name),
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **given},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN):
        out, err = await process.communicate(stdin)
    assert process.returncode == 0, err.decode()
    return out.decode()


@pytest.fixture
async def reader(database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault) -> AsyncIterator[Reader]:
    async with db.across("operate") as connection:
        tenant = await tenants.create(connection, vault, "Samples")
    async with db.write(tenant.tenant.id) as session:
        await devices.register(session, tenant.tenant.id, "SAMPLE01", time_zone="UTC")
    async with Server(database_url, redis_url=redis_server.url) as server:
        wall = f"{datetime.now(UTC) - timedelta(minutes=1):%Y-%m-%d %H:%M:%S}"
        lines = "".join(f"{1000 + n}\t{wall}\t0\t15\t0\t0\t0\n" for n in range(PUNCHES))
        link = Link(f"http://127.0.0.1:{server.port}/d/{tenant.enrollment_token}")
        await link.post("/iclock/cdata?SN=SAMPLE01&table=ATTLOG&Stamp=9999", lines.encode())
        yield Reader(f"http://127.0.0.1:{server.port}/graphql", tenant.api_key)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_sample_reads_every_page(ending: str, reader: Reader) -> None:
    lines = (await reader.run(f"pages.{ending}")).splitlines()

    assert sorted(line.split()[-2] for line in lines) == [str(1000 + n) for n in range(PUNCHES)]
    assert {line.split()[-1] for line in lines} == {"CHECK_IN"}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_sample_writes_once(ending: str, reader: Reader) -> None:
    assert [await reader.run(f"write.{ending}") for _ in range(2)] == ["Zineb Zaoui new\n", "Zineb Zaoui again\n"]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_sample_follows_over_a_restart_and_has_each_punch_once(
    ending: str, database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault
) -> None:
    if shutil.which(RUN[ending][0]) is None:
        pytest.skip(f"{RUN[ending][0]} is not installed: on Debian, apt-get install nodejs php-cli ruby")
    async with db.across("operate") as connection:
        tenant = await tenants.create(connection, vault, "Followed")
    async with db.write(tenant.tenant.id) as session:
        await devices.register(session, tenant.tenant.id, "FOLLOW01", time_zone="UTC")
    pins = itertools.count(1000)
    heard: list[str] = []

    async def punch(server: Server) -> str:
        pin, wall = str(next(pins)), f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        link = Link(f"http://127.0.0.1:{server.port}/d/{tenant.enrollment_token}")
        line = f"{pin}\t{wall}\t0\t15\t0\t0\t0\n"
        await link.post("/iclock/cdata?SN=FOLLOW01&table=ATTLOG&Stamp=9999", line.encode())
        return pin

    async def hear(process: asyncio.subprocess.Process, pin: str) -> None:
        assert process.stdout is not None
        while pin not in heard:
            line = await process.stdout.readline()
            assert line, "it ended"
            heard.append(line.split()[1].decode())

    async with AsyncExitStack() as stack:
        stack.enter_context(contextlib.suppress(ProcessLookupError))
        async with Server(database_url, redis_url=redis_server.url) as server:
            process = await asyncio.create_subprocess_exec(
                *RUN[ending],
                str(FOLDER / f"follow.{ending}"),
                env={
                    "PATH": os.environ["PATH"],
                    "LANG": "C.UTF-8",
                    "PUNCHCONNECT_URL": f"http://127.0.0.1:{server.port}/graphql",
                    "PUNCHCONNECT_KEY": tenant.api_key,
                },
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
            # It begins with what comes after it came: punch until it hears one.
            async with asyncio.timeout(WITHIN):
                first = asyncio.create_task(hear(process, "any"))
                while not heard:
                    await punch(server)
                    await asyncio.sleep(0.2)
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
                await hear(process, await punch(server))
        async with Server(database_url, redis_url=redis_server.url, port=server.port) as again:
            # Before it is back, most likely: this is what it has to fetch.
            last = [await punch(again) for _ in range(3)][-1]
            async with asyncio.timeout(WITHIN):
                await hear(process, last)

    assert heard == [str(n) for n in range(int(heard[0]), int(last) + 1)]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_sample_tells_a_good_signature_from_others(ending: str) -> None:
    async def say(body: bytes, *, age: int = 0, more: str = "") -> str:
        stamp = int(time.time()) - age
        signature = webhook.sign_standard(SECRET, "evt_01", stamp, BODY)
        given = {
            "WEBHOOK_SECRET": SECRET,
            "WEBHOOK_ID": "evt_01",
            "WEBHOOK_TIMESTAMP": str(stamp),
            "WEBHOOK_SIGNATURE": more + signature,
        }
        return (await _run(f"verify.{ending}", given, body)).strip()

    assert await say(BODY) == "good"
    assert await say(BODY, more="v1,AAAA ") == "good"
    assert await say(BODY + b" ") == "refused"
    assert await say(BODY, age=3600) == "refused"
