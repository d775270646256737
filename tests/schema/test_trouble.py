"""Sockets and event streams of two servers while Redis is in trouble: each sees everything, once and in order.

What else may break (PostgreSQL, the servers themselves) is in tests/journeys/test_live_feed.py, over real processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest
from redis.asyncio import Redis

from app.database import Database
from app.domain import events, outbox
from app.domain.devices import Device
from app.embedded import EmbeddedRedis
from app.vault import Vault
from tests.schema.conftest import Caller, MakeCaller
from tests.schema.feeds import FEED
from tests.schema.sockets import acknowledged
from tests.schema.test_streams import Stream
from tests.schema.world import add_punches, make_view
from tests.server import Server

PATIENCE = 60
PUNCHES = 60


@dataclass
class Trouble:
    """What a fault may break."""

    redis: EmbeddedRedis
    client: Redis
    channel: str
    told: list[bytes]
    #: Every other commit is told to nobody.
    silent: bool = False


Fault = Callable[[Trouble], Awaitable[None]]


async def killed(trouble: Trouble) -> None:
    await asyncio.to_thread(trouble.redis.kill)
    await asyncio.sleep(1)
    await asyncio.to_thread(trouble.redis.start)


async def frozen(trouble: Trouble) -> None:
    trouble.redis.freeze()
    await asyncio.sleep(2.5)
    trouble.redis.thaw()


async def flushed(trouble: Trouble) -> None:
    for _ in range(5):
        await trouble.client.flushall()
        await asyncio.sleep(0.1)


async def without_listeners(trouble: Trouble) -> None:
    for _ in range(5):
        await trouble.client.client_kill_filter(_type="pubsub")
        await asyncio.sleep(0.2)


async def unrung(trouble: Trouble) -> None:
    """As when a server dies between its commit and the ring."""
    trouble.silent = True
    await asyncio.sleep(1)
    trouble.silent = False


async def lying(trouble: Trouble) -> None:
    """Garbage, and true words late, twice and in the wrong order."""
    for _ in range(20):
        for message in (
            b"",
            b"garbage",
            b'{"first":1,"last":9}',
            bytes(70_000),
            *trouble.told[-3:][::-1],
            *trouble.told[:2],
        ):
            await trouble.client.publish(trouble.channel, message)
        await asyncio.sleep(0.05)


@asynccontextmanager
async def streaming(server: Server, key: str) -> AsyncIterator[Stream]:
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(timeout=PATIENCE) as client,
        client.stream(
            "POST", f"http://127.0.0.1:{server.port}/graphql", json={"query": FEED}, headers=headers
        ) as answer,
    ):
        yield Stream(answer)


async def follow(give: Callable[[], Awaitable[dict[str, Any]]], began: asyncio.Event) -> list[str]:
    """The PINs that one subscriber sees. Each batch begins where the one before it ended."""
    first = await give()
    cursor, seen = first["cursor"], [punch["pin"] for punch in first["punches"]]
    began.set()
    while len(seen) < PUNCHES:
        got = await give()
        assert got["previousCursor"] == cursor
        cursor = got["cursor"]
        seen += [punch["pin"] for punch in got["punches"]]
    return seen


@pytest.mark.parametrize(
    "fault", [killed, frozen, flushed, without_listeners, unrung, lying], ids=lambda fault: str(fault.__name__)
)
async def test_everybody_sees_everything_once_and_in_order(  # noqa: PLR0917  fixtures come by name
    database_url: str,
    db: Database,
    vault: Vault,
    caller: Caller,
    device: Device,
    tmp_path_factory: pytest.TempPathFactory,
    fault: Fault,
) -> None:
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis(tmp_path_factory.mktemp("bus")))
        client = Redis.from_url(redis.url)
        stack.push_async_callback(client.aclose)
        servers = [await stack.enter_async_context(Server(database_url, redis_url=redis.url)) for _ in range(2)]
        trouble = Trouble(redis, client, events.channel(caller.tenant_id), [])
        readers: list[asyncio.Task[list[str]]] = []
        for server in servers:
            for kind in ("socket", "socket", "socket", "stream"):
                began = asyncio.Event()
                if kind == "socket":
                    url = f"ws://127.0.0.1:{server.port}/graphql"
                    socket = await stack.enter_async_context(acknowledged(url, caller.api_key))
                    await socket.subscribe(FEED)
                    give: Any = lambda socket=socket: batch_of(socket)  # noqa: E731
                else:
                    give = (await stack.enter_async_context(streaming(server, caller.api_key))).batch
                readers.append(asyncio.create_task(follow(give, began)))
                await began.wait()

        made: list[str] = []
        bell = servers[0].application.bell

        async def write() -> None:
            for number in range(PUNCHES):
                view = make_view(device.id, number, pin=f"{number:04}")
                logged = await add_punches(db, caller.tenant_id, device, [view])
                if not trouble.silent or number % 2:
                    outbox.ring(bell, vault.bus_key, logged)
                trouble.told.append(events.write_message(vault.bus_key, logged))
                made.append(view.pin)
                await asyncio.sleep(0.05)

        async with asyncio.timeout(PATIENCE):
            writing = asyncio.create_task(write())
            await asyncio.sleep(0.5)
            await fault(trouble)
            await writing
            seen = await asyncio.gather(*readers)

    assert seen == [made] * len(readers)


async def batch_of(socket: Any) -> dict[str, Any]:
    """The next batch; the server's pings are answered on the way."""
    while True:
        message = await socket.recv()
        if message["type"] == "next":
            assert "errors" not in message["payload"], orjson.dumps(message)
            found: dict[str, Any] = message["payload"]["data"]["punches"]
            return found
        assert message["type"] == "ping"
        await socket.send({"type": "pong"})


async def test_a_server_has_three_connections_to_redis_and_channels_for_whom_it_has_listeners(
    database_url: str, make_caller: MakeCaller, tmp_path_factory: pytest.TempPathFactory
) -> None:
    callers = [await make_caller() for _ in range(3)]
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(EmbeddedRedis(tmp_path_factory.mktemp("bus")))
        client: Any = Redis.from_url(redis.url)
        stack.push_async_callback(client.aclose)
        server = await stack.enter_async_context(Server(database_url, redis_url=redis.url))

        async def channels(wanted: set[str]) -> None:
            async with asyncio.timeout(PATIENCE):
                while {name.decode() for name in await client.pubsub_channels("feed:*")} != wanted:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        async with AsyncExitStack() as sockets:
            for caller in callers * 3:
                url = f"ws://127.0.0.1:{server.port}/graphql"
                socket = await sockets.enter_async_context(acknowledged(url, caller.api_key))
                await socket.subscribe(FEED)
                await batch_of(socket)
            await channels({events.channel(caller.tenant_id) for caller in callers})
            connections = {each["addr"] for each in await client.client_list()}
            assert len(connections) == 3 + 1  # ours
        await channels(set())
