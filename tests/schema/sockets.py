"""A real uvicorn in this process, and a client that sees frames and close codes as they are."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from app.web.wire import Wire

OURS = Subprotocol("graphql-transport-ws")
PATIENCE = 20
MESSAGE_BOUND = 128 * 1024


def free_port() -> socket.socket:
    """A listening socket at a port that nobody had."""
    while True:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", random.randint(20_000, 32_000)))
        except OSError:
            listener.close()
            continue
        return listener


@asynccontextmanager
async def serving(app: Callable[..., Awaitable[None]], **options: Any) -> AsyncIterator[str]:
    """The ws:// address of an ASGI application."""
    listener = free_port()
    config = uvicorn.Config(
        app,
        ws=Wire,
        ws_max_size=MESSAGE_BOUND,
        ws_per_message_deflate=False,
        lifespan="off",
        log_level="critical",
        **options,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server._serve(sockets=[listener]))
    async with asyncio.timeout(PATIENCE):
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    try:
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/graphql"
    finally:
        server.should_exit = True
        await running


class Client:
    """What a client library would hide."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, message: Any) -> None:
        """Text and bytes as they are, anything else as JSON."""
        await self.connection.send(message if isinstance(message, str | bytes) else orjson.dumps(message).decode())

    async def recv(self) -> dict[str, Any]:
        """The next message."""
        async with asyncio.timeout(PATIENCE):
            message: dict[str, Any] = orjson.loads(await self.connection.recv())
        return message

    async def closed(self) -> int:
        """The code with which the server closes, whatever comes before it."""
        async with asyncio.timeout(PATIENCE):
            try:
                while True:
                    await self.connection.recv()
            except ConnectionClosed as exc:
                return exc.rcvd.code if exc.rcvd else 1006

    async def init(self, key: str | None = None) -> None:
        """As far as the acknowledgement."""
        await self.send({"type": "connection_init", "payload": {"authorization": f"Bearer {key}"} if key else None})
        assert await self.recv() == {"type": "connection_ack"}

    async def subscribe(self, query: str, id: str = "1", variables: dict[str, Any] | None = None) -> None:
        """Start an operation."""
        await self.send({"id": id, "type": "subscribe", "payload": {"query": query, "variables": variables}})

    async def next(self, id: str = "1") -> dict[str, Any]:
        """The payload of the operation's next result."""
        message = await self.recv()
        assert (message["id"], message["type"]) == (id, "next"), message
        payload: dict[str, Any] = message["payload"]
        return payload

    async def error(self, id: str = "1") -> dict[str, Any]:
        """The only error with which the operation ends."""
        message = await self.recv()
        assert (message["id"], message["type"], len(message["payload"])) == (id, "error", 1), message
        error: dict[str, Any] = message["payload"][0]
        return error

    async def complete(self, id: str = "1") -> None:
        """The operation ends well."""
        assert await self.recv() == {"id": id, "type": "complete"}


@asynccontextmanager
async def dialled(
    url: str, key: str | None = None, subprotocols: list[Subprotocol] | None = None, **options: Any
) -> AsyncIterator[Client]:
    """A connection after the handshake; `key` goes into its header."""
    headers = {"Authorization": f"Bearer {key}"} if key else None
    wanted = [OURS] if subprotocols is None else subprotocols
    async with connect(
        url, subprotocols=wanted or None, additional_headers=headers, open_timeout=PATIENCE, close_timeout=2, **options
    ) as connection:
        yield Client(connection)


@asynccontextmanager
async def acknowledged(url: str, key: str, **options: Any) -> AsyncIterator[Client]:
    """A connection that may subscribe."""
    async with dialled(url, **options) as client:
        await client.init(key)
        yield client
