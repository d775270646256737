"""Whoever follows a feed over a socket in `bench.feed`, the servers that they follow, and how punches get into these.

The floor is a bare ASGI socket application under the same uvicorn that sends a text of the same length to as many
clients when it is told to. The peers are graphql-yoga with graphql-ws and Mercurius under Node.js, and Strawberry as
its documentation has it: the same document, the same fields, about the same bytes. They keep punches in memory alone,
where ours are committed before anybody sees them.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

import orjson

from app.simulator import Link, serial_numbers
from bench.stand import Served, Stand, free_port, process, serving

_FIELDS: Final = (
    "{ cursor previousCursor caughtUp headLag punches "
    "{ id pin punchedAt localTime direction verifyMode buffered device { name } } }"
)
DOCUMENT: Final = f"subscription ($after: String) {{ punches(after: $after) {_FIELDS} }}"
#: Ours may put several punches into one message; for the same number of messages it is asked not to.
ONE_BY_ONE: Final = f"subscription ($after: String) {{ punches(after: $after, maxBatch: 1) {_FIELDS} }}"
REPLAYED: Final = f"subscription {{ punches(from: BEGINNING, maxBatch: 100) {_FIELDS} }}"
#: What each punch in a message has once.
MARK: Final = b'"pin":'
#: Kinds of frames.
TEXT, PING, PONG = 1, 9, 10
#: Bytes of a message of the floor, about as many as a punch has.
SIZE: Final = 400
#: Terminals that can upload at once.
TERMINALS: Final = 16
#: Each upload is of another second, whichever row it is for: a punch that came before reaches nobody.
_SECONDS: Final = itertools.count(1)

FOLDER: Final = Path(__file__).parent / "peers" / "feed"
OURS, FLOOR, STOCK = "ours", "bare socket server", "stock Strawberry"
NODE: Final = {"graphql-yoga + graphql-ws": "yoga.mjs", "Mercurius": "mercurius.mjs"}


class Crowd:
    """Followers of one server who are waited for: when each punch had reached all of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._reached: dict[int, int] = {}
        #: Called once all have seen so many punches.
        self.on_all: Callable[[int], None] = lambda _: None

    def heard(self, client: Client, punches: int) -> None:
        """One more message of a client."""
        for number in range(client.punches - punches + 1, client.punches + 1):
            there = self._reached.get(number, 0) + 1
            if there == self._size:
                self._reached.pop(number, None)
                self.on_all(number)
            else:
                self._reached[number] = there


class Client(asyncio.Protocol):
    """A WebSocket client that counts what holds `mark` and does nothing else."""

    def __init__(self, host: str, path: str, mark: bytes) -> None:
        self._host, self._path, self._mark = host, path, mark
        self._buffer = b""
        self._open = False
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.acknowledged: asyncio.Future[None] = loop.create_future()
        self.first: asyncio.Future[None] = loop.create_future()
        self.gone = False
        #: Messages with the mark, how often they had it, and the size of the last.
        self.messages = self.punches = self.size = 0
        #: The last frame; and, for who keeps them, all that were counted.
        self.last = b""
        self.kept: list[bytes] | None = None
        self.heard: Callable[[Client, int], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast("asyncio.Transport", transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits for a first word waits in vain."""
        self.gone = True
        for future in (self.opened, self.acknowledged, self.first):
            if not future.done():
                future.cancel()

    def data_received(self, data: bytes) -> None:
        """Count."""
        if self._buffer:
            data = self._buffer + data
        if not self._open:
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                self._buffer = data
                return
            if b" 101 " not in head:
                self.opened.set_exception(RuntimeError(head.decode("latin-1")))
                return
            self._open, data = True, rest
            self.opened.set_result(None)
        at, size = 0, len(data)
        while size - at >= 2:
            length, start = data[at + 1] & 127, at + 2
            if length >= 126:
                start = at + (4 if length == 126 else 10)
                length = int.from_bytes(data[at + 2 : start], "big")
            if size < start + length:
                break
            opcode, at = data[at] & 15, start + length
            if opcode == PING:
                self._write(PONG, data[start:at])
            else:
                self._take(data[start:at])
        self._buffer = data[at:]

    def _take(self, frame: bytes) -> None:
        self.last = frame
        punches = frame.count(self._mark)
        if punches:
            self.messages += 1
            self.punches += punches
            self.size = len(frame)
            if self.heard is not None:
                self.heard(self, punches)
            if self.kept is not None:
                self.kept.append(frame)
        elif b'"connection_ack"' in frame and not self.acknowledged.done():
            self.acknowledged.set_result(None)
        elif b'"type":"ping"' in frame:
            self.send({"type": "pong"})
            return
        if self.acknowledged.done() and b'"next"' in frame and not self.first.done():
            self.first.set_result(None)

    def send(self, message: dict[str, Any]) -> None:
        """A text frame."""
        self._write(TEXT, orjson.dumps(message))

    def _write(self, opcode: int, body: bytes) -> None:
        """A masked frame. The mask is zeros: nobody in between needs confusing."""
        size = bytes([0x80 | len(body)]) if len(body) < 126 else b"\xfe" + len(body).to_bytes(2, "big")
        self._transport.write(bytes([0x80 | opcode]) + size + bytes(4) + body)

    def pause(self) -> None:
        """Read nothing more for now."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def close(self) -> None:
        """Without ceremony."""
        self._transport.abort()


async def connect(url: str, path: str, mark: bytes) -> Client:
    """An open socket."""
    parts = urlsplit(url)
    host, port = str(parts.hostname), parts.port or 80
    _, client = await asyncio.get_running_loop().create_connection(
        lambda: Client(f"{host}:{port}", path, mark), host, port
    )
    await asyncio.wait_for(client.opened, 30)
    return client


async def introduce(url: str, api_key: str, mark: bytes) -> Client:
    """A socket that said who it is."""
    client = await connect(url, "/graphql", mark)
    client.send({"type": "connection_init", "payload": {"authorization": f"Bearer {api_key}"}})
    await asyncio.wait_for(client.acknowledged, 30)
    return client


@dataclass(frozen=True, slots=True)
class Contender:
    """A server, its socket path, and how punches get into it: (PIN, how many at once, which of the terminals)."""

    name: str
    served: Served
    path: str
    api_key: str
    upload: Callable[[str, int, int], Awaitable[object]]

    async def push(self, pin: str, count: int = 1, terminal: int = 0) -> object:
        """So many punches in one upload; returns when it was answered."""
        return await self.upload(pin, count, terminal)

    async def subscribe(self, document: str = DOCUMENT, variables: dict[str, Any] | None = None) -> Client:
        """A follower that holds its first batch."""
        client = await introduce(self.served.url, self.api_key, MARK)
        client.send({"id": "1", "type": "subscribe", "payload": {"query": document, "variables": variables}})
        await asyncio.wait_for(client.first, 30)
        return client

    async def follow(self, count: int, document: str = DOCUMENT) -> list[Client]:
        """So many followers."""
        if self.name != OURS:
            document = DOCUMENT
        clients: list[Client] = []
        while len(clients) < count:
            some = range(min(50, count - len(clients)))
            if self.path == "/":
                clients += await asyncio.gather(*(connect(self.served.url, self.path, b"MARK") for _ in some))
            else:
                clients += await asyncio.gather(*(self.subscribe(document) for _ in some))
        return clients


@asynccontextmanager
async def contenders(rig: Stand, names: Sequence[str], *, redis: bool = False) -> AsyncIterator[list[Contender]]:
    """Those of the names that can be run here, ours first. With `redis` the peers hand punches on through Redis."""
    async with AsyncExitStack() as stack:
        found: list[Contender] = []
        serials = serial_numbers(TERMINALS)
        environment = {"REDIS_URL": rig.redis.url} if redis else {}
        if OURS in names:
            tenant = rig.tenants[0] if rig.tenants else await rig.add_tenant(TERMINALS)
            served = await stack.enter_async_context(serving(rig, "app.main:create_app"))
            terminals = _links(stack, f"{served.url}/d/{tenant.token}")

            async def upload(pin: str, count: int, terminal: int) -> object:
                second = next(_SECONDS)
                when = f"2026-11-{1 + second // 86_400 % 20:02} {_clock(second)}"
                names = [pin] if count == 1 else [f"{pin}{number:03}" for number in range(count)]
                lines = "".join(f"{name}\t{when}\t0\t15\t0\t0\t0\n" for name in names)
                link, lock = terminals[terminal % TERMINALS]
                target = f"/iclock/cdata?SN={serials[terminal % TERMINALS]}&table=ATTLOG&Stamp=1"
                async with lock:
                    return await link.post(target, lines.encode())

            found.append(Contender(OURS, served, "/graphql", tenant.api_key, upload))
        if FLOOR in names:
            served = await stack.enter_async_context(serving(rig, "bench.followers:bare"))
            pushers = _links(stack, served.url)

            async def fill(_pin: str, _count: int, terminal: int) -> object:
                link, lock = pushers[terminal % TERMINALS]
                async with lock:
                    return await link.get(f"/push/{SIZE}")

            found.append(Contender(FLOOR, served, "/", "", fill))
        for name, script in NODE.items():
            if name in names and installed():
                port = free_port()
                given = {"PORT": str(port), "NODE_ENV": "production", **environment}
                peer = process("node", str(FOLDER / script), port=port, environment=given)
                found.append(_peer(stack, name, await stack.enter_async_context(peer)))
        if STOCK in names:
            served = await stack.enter_async_context(serving(rig, "bench.peers.feed.stock:create_app"))
            found.append(_peer(stack, STOCK, served))
        yield found


def _clock(second: int) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(second % 86_400))


def _links(stack: AsyncExitStack, url: str) -> list[tuple[Link, asyncio.Lock]]:
    """A connection for each terminal, which does one thing at a time."""
    links = [Link(url, keep_alive=True) for _ in range(TERMINALS)]
    for link in links:
        stack.callback(link.abort)
    return [(link, asyncio.Lock()) for link in links]


def _peer(stack: AsyncExitStack, name: str, served: Served) -> Contender:
    links = _links(stack, served.url)

    async def push(pin: str, count: int, terminal: int) -> object:
        link, lock = links[terminal % TERMINALS]
        async with lock:
            return await link.get(f"/push?pin={pin}&count={count}")

    return Contender(name, served, "/graphql", "none", push)


def installed() -> bool:
    """Whether the Node peers can be run; they are installed once, as their lock file says."""
    if shutil.which("npm") is None:
        return False
    if not (FOLDER / "node_modules").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)
    return True


def bare() -> Any:
    """The floor's server: sockets wait; GET /push/<length> sends a text of that length to all of them."""
    sockets: set[Any] = set()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept", "subprotocol": "graphql-transport-ws"})
            sockets.add(send)
            while (await receive())["type"] != "websocket.disconnect":
                pass
            sockets.discard(send)
        else:
            text = "MARK" + "x" * (int(scope["path"].rpartition("/")[2]) - 4)
            for one in list(sockets):
                await one({"type": "websocket.send", "text": text})
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"OK"})

    return application
