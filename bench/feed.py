"""Live punches to many sockets: messages per second, processor time, latency, memory, what is lost, and replay.

Closed loop: a terminal uploads one punch, every subscriber has to see it, then the next. The floor is a bare ASGI
socket application under the same uvicorn that sends a text of the same length to as many clients when it is told to.
The peers are graphql-yoga with graphql-ws, and Mercurius, under Node.js: the same document, the same fields, about the
same bytes. They keep punches in memory alone, where ours are committed before anybody sees them.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import orjson

from app.simulator import Link, serial_numbers
from bench.stand import Served, Stand, free_port, process, serving, stand

DOCUMENT = (
    "subscription ($after: String) { punches(after: $after) { cursor previousCursor caughtUp headLag punches "
    "{ id pin punchedAt localTime direction verifyMode buffered device { name } } } }"
)


REPLAYED = DOCUMENT.replace("($after: String)", "").replace("(after: $after)", "(from: BEGINNING, maxBatch: 100)")
#: Bytes of a message of the floor, about as many as a punch has.
SIZE = 400
FOLDER = Path(__file__).parent / "peers" / "feed"
PEERS = {"graphql-yoga + graphql-ws": "yoga.mjs", "Mercurius": "mercurius.mjs"}


class Client(asyncio.Protocol):
    """A WebSocket client that counts text frames holding `mark` and does nothing else."""

    def __init__(self, host: str, path: str, mark: bytes) -> None:
        self._host, self._path, self._mark = host, path, mark
        self._buffer = b""
        self._open = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.marked = 0
        self.size = 0
        #: The last frame; and, for who keeps them, all that were counted.
        self.last = b""
        self.keep = False
        self.seen = b""
        self.heard: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET {self._path} HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Count."""
        self._buffer += data
        if not self._open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head:
                self.opened.set_exception(RuntimeError(head.decode("latin-1")))
                return
            self._open, self._buffer = True, rest
            self.opened.set_result(None)
        while (frame := self._frame()) is not None:
            self.last = frame
            if self._mark in frame:
                self.marked += 1
                self.size = len(frame)
                self.heard()
                if self.keep:
                    self.seen += frame
            if b'"connection_ack"' in frame and not self.acknowledged.done():
                self.acknowledged.set_result(None)
            elif b'"type":"ping"' in frame:
                self.send({"type": "pong"})
            elif not self.first.done():
                self.first.set_result(None)

    def _frame(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, start = buffer[1] & 127, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + length:
            return None
        self._buffer = buffer[start + length :]
        return buffer[start : start + length]

    def send(self, message: dict[str, Any]) -> None:
        """A masked text frame. The mask is zeros: nobody in between needs confusing."""
        body = orjson.dumps(message)
        head = (
            bytes([0x81, 0x80 | len(body)]) if len(body) < 126 else bytes([0x81, 0xFE]) + len(body).to_bytes(2, "big")
        )
        self._transport.write(head + bytes(4) + body)

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
    await asyncio.wait_for(client.opened, 20)
    return client


async def subscribe(url: str, api_key: str, mark: bytes, variables: dict[str, Any] | None = None) -> Client:
    """A subscriber that holds its first batch; one with variables keeps all that it counts."""
    client = await connect(url, "/graphql", mark)
    client.keep = variables is not None
    client.send({"type": "connection_init", "payload": {"authorization": f"Bearer {api_key}"}})
    await asyncio.wait_for(client.acknowledged, 20)
    client.send({"id": "1", "type": "subscribe", "payload": {"query": DOCUMENT, "variables": variables}})
    await asyncio.wait_for(client.first, 20)
    return client


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


async def rounds(
    clients: list[Client], push: Callable[[int], Awaitable[object]], seconds: float
) -> tuple[float, float]:
    """Closed loop for about `seconds`: (messages per second, median seconds from push to the last client)."""
    spans: list[float] = []
    began = time.perf_counter()
    number = 0
    while time.perf_counter() - began < seconds:
        number += 1
        target, waiting = number, set(range(len(clients)))
        done = asyncio.get_running_loop().create_future()

        def heard(place: int, target: int = target, waiting: set[int] = waiting, done: Any = done) -> None:
            if clients[place].marked >= target:
                waiting.discard(place)
                if not waiting and not done.done():
                    done.set_result(None)

        for place, client in enumerate(clients):
            client.heard = lambda place=place, heard=heard: heard(place)  # type: ignore[misc]
            heard(place)
        started = time.perf_counter()
        await asyncio.gather(push(number), asyncio.wait_for(done, 60))
        spans.append(time.perf_counter() - started)
    return len(clients) * number / (time.perf_counter() - began), statistics.median(spans)


@dataclass(frozen=True, slots=True)
class Contender:
    """A server, its socket path, and how a punch gets into it."""

    name: str
    served: Served
    path: str
    api_key: str
    push: Callable[[str], Awaitable[object]]

    async def follow(self, count: int) -> list[Client]:
        """So many subscribers that hold their first batch."""
        clients: list[Client] = []
        while len(clients) < count:
            some = range(min(50, count - len(clients)))
            if self.path == "/":
                clients += await asyncio.gather(*(connect(self.served.url, self.path, b"MARK") for _ in some))
            else:
                clients += await asyncio.gather(*(subscribe(self.served.url, self.api_key, b'"pin":') for _ in some))
        return clients


@asynccontextmanager
async def contenders(rig: Stand) -> AsyncIterator[list[Contender]]:
    """Ours first, then the floor, then whatever Node.js can run."""
    async with AsyncExitStack() as stack:
        tenant = await rig.add_tenant(1)
        serial = serial_numbers(1)[0]
        ours = await stack.enter_async_context(serving(rig, "app.main:create_app"))
        floor = await stack.enter_async_context(serving(rig, "bench.feed:bare"))
        terminal = Link(f"{ours.url}/d/{tenant.token}", keep_alive=True)
        stack.callback(terminal.abort)

        async def upload(pin: str) -> object:
            line = f"{pin}\t2026-11-20 08:00:00\t0\t15\t0\t0\t0\n".encode()
            return await terminal.post(f"/iclock/cdata?SN={serial}&table=ATTLOG&Stamp=1", line)

        pusher = Link(floor.url, keep_alive=True)
        stack.callback(pusher.abort)

        async def fill(_: str) -> object:
            return await pusher.get(f"/push/{SIZE}")

        found = [
            Contender("ours", ours, "/graphql", tenant.api_key, partial(_in_turn, asyncio.Lock(), upload)),
            Contender("bare socket server", floor, "/", "", partial(_in_turn, asyncio.Lock(), fill)),
        ]
        for name, script in PEERS.items() if installed() else ():
            port = free_port()
            command = ("node", str(FOLDER / script))
            environment = {"PORT": str(port), "NODE_ENV": "production"}
            peer = await stack.enter_async_context(process(*command, port=port, environment=environment))
            link = Link(peer.url, keep_alive=True)
            stack.callback(link.abort)
            push = partial(_in_turn, asyncio.Lock(), partial(_push, link))
            found.append(Contender(name, peer, "/graphql", "none", push))
        yield found


async def _in_turn(lock: asyncio.Lock, push: Callable[[str], Awaitable[object]], pin: str) -> object:
    """One upload at a time, as a terminal does it."""
    async with lock:
        return await push(pin)


async def _push(link: Link, pin: str) -> object:
    return await link.get(f"/push?pin={pin}")


def installed() -> bool:
    """Whether the Node peers can be run; they are installed once, as their lock file says."""
    if shutil.which("npm") is None:
        return False
    if not (FOLDER / "node_modules").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=FOLDER, check=True, stdout=subprocess.DEVNULL)
    return True


async def fan_out(found: list[Contender], subscribers: int, seconds: float) -> list[dict[str, Any]]:
    """Closed loop: messages per second, processor time for each, and from the push to the last client."""
    figures = []
    for one in found:
        clients = await one.follow(subscribers)
        await asyncio.sleep(0.2)
        used, before = one.served.cpu(), sum(client.marked for client in clients)
        rate, span = await rounds(clients, lambda n, one=one: one.push(f"{subscribers:05}x{n:05}"), seconds)  # type: ignore[misc]
        messages = sum(client.marked for client in clients) - before
        figures.append((rate, span, (one.served.cpu() - used) / messages * 1e6, clients[0].size))
        for client in clients:
            client.close()
        await asyncio.sleep(0.5)
    rate, span, cpu, _ = figures[0]
    rows = []
    for one, (their_rate, their_span, their_cpu, size) in list(zip(found, figures, strict=True))[1:]:
        name = f"{subscribers} subscribers, a punch at a time: {one.name} ({size} B)"
        rows += [
            _row(name, rate, "msg/s", their_rate, digits=0),
            _row(f"{name}, server CPU", cpu, "µs/msg", their_cpu),
            _row(f"{name}, upload to last client, median", span * 1000, "ms", their_span * 1000),
        ]
    return rows


async def latency(found: list[Contender], subscribers: int, seconds: float) -> list[dict[str, Any]]:
    """Open loop, five punches a second: from the upload's first byte to each client's message."""
    figures = []
    for one in found:
        clients = await one.follow(subscribers)
        spans: list[float] = []
        sent: list[float] = []

        def heard(client: Client, spans: list[float] = spans, sent: list[float] = sent) -> None:
            spans.append(time.perf_counter() - sent[client.marked - 1])

        for client in clients:
            client.heard = partial(heard, client)
            client.marked = 0
        began = time.perf_counter()
        pushes: list[asyncio.Future[object]] = []
        for number in range(int(seconds * 5)):
            await asyncio.sleep(max(0.0, began + number / 5 - time.perf_counter()))
            sent.append(time.perf_counter())
            pushes.append(asyncio.ensure_future(one.push(f"{subscribers:05}y{number:05}")))
        await asyncio.gather(*pushes)
        async with asyncio.timeout(30):
            while len(spans) < len(sent) * subscribers:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        spans.sort()
        figures.append((spans[len(spans) // 2], spans[len(spans) * 99 // 100]))
        for client in clients:
            client.close()
        await asyncio.sleep(0.5)
    rows = []
    for one, (p50, p99) in list(zip(found, figures, strict=True))[1:]:
        name = f"{subscribers} subscribers, 5 punches/s, upload to client: {one.name}"
        rows += [
            _row(f"{name}, p50", figures[0][0] * 1000, "ms", p50 * 1000),
            _row(f"{name}, p99", figures[0][1] * 1000, "ms", p99 * 1000),
        ]
    return rows


async def memory(found: list[Contender], sockets: int) -> list[dict[str, Any]]:
    """What a subscriber to whom nothing happens costs."""
    figures = []
    for one in found:
        before = _resident(one.served)
        clients = await one.follow(sockets)
        await asyncio.sleep(1)
        figures.append((_resident(one.served) - before) / sockets)
        for client in clients:
            client.close()
        await asyncio.sleep(0.5)
    return [
        _row(f"{sockets} idle subscribers, memory of each: {one.name}", figures[0], "kB", theirs)
        for one, theirs in list(zip(found, figures, strict=True))[1:]
    ]


async def loss(found: list[Contender], away: float) -> list[dict[str, Any]]:
    """Punches that a client never sees: while it is away and comes back with its cursor."""
    figures = []
    for one in found:
        if one.path == "/":
            figures.append(0)
            continue
        (client,) = await one.follow(1)
        await one.push("loss0")
        while not client.marked:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        cursor = orjson.loads(client.last)["payload"]["data"]["punches"]["cursor"]
        client.close()
        for number in range(10):
            await one.push(f"loss{number + 1}")
            await asyncio.sleep(away / 10)
        again = await subscribe(one.served.url, one.api_key, b'"pin":', {"after": cursor})
        await one.push("loss11")
        async with asyncio.timeout(20):
            while b'"loss11"' not in again.last:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        figures.append(11 - again.seen.count(b'"pin":'))
        again.close()
    return [
        {**_row(f"lost over {away:g} s away, of 11: {one.name}", figures[0], "", theirs, digits=0), "ratio": ""}
        for one, theirs in list(zip(found, figures, strict=True))[1:]
        if one.path != "/"
    ]


async def churn(one: Contender, cycles: int) -> list[dict[str, Any]]:
    """Subscribers that come and are cut off without a word: what the server keeps of them."""
    await _cut_off(one, 200)  # what the first ones warm up stays
    await asyncio.sleep(2)
    memory, files = _resident(one.served), _files(one.served)
    for _ in range(cycles // 100):
        await _cut_off(one, 100)
    await asyncio.sleep(3)
    return [
        _row(f"{cycles} subscribers cut off: growth of the server", (_resident(one.served) - memory) / 1024, "MB", 20),
        _row("the same, connections left", _files(one.served) - files, "", 0, digits=0),
    ]


async def _cut_off(one: Contender, count: int) -> None:
    for client in await one.follow(count):
        client.close()


def _files(served: Served) -> int:
    return len(list(Path(f"/proc/{served.pid}/fd").iterdir()))


_FILL = """
INSERT INTO events (tenant_id, position, id, type, body, created_at)
SELECT e.tenant_id, e.position + n, gen_random_uuid(), e.type, e.body, e.created_at
FROM events e, generate_series(1, $2) AS n WHERE e.tenant_id = $1 AND e.position = $3;
"""


async def replay(rig: Stand, ours: Contender, punches: int) -> list[dict[str, Any]]:
    """From the beginning, in batches of 100: punches per second to one client, and how much the server grows."""
    tenant = rig.tenants[0]
    server, _, _ = rig.postgres.superuser_url.rpartition("/")
    owner = await asyncpg.connect(f"{server}/{rig.postgres.url.rpartition('/')[2]}")
    try:
        head = await owner.fetchval("SELECT position FROM feed_heads WHERE tenant_id = $1", tenant.id)
        await owner.execute(_FILL, tenant.id, punches, head)
        await owner.execute("UPDATE feed_heads SET position = position + $2 WHERE tenant_id = $1", tenant.id, punches)
    finally:
        await owner.close()
    client = await connect(ours.served.url, "/graphql", b'"headLag":0,')
    client.send({"type": "connection_init", "payload": {"authorization": f"Bearer {ours.api_key}"}})
    await asyncio.wait_for(client.acknowledged, 20)
    before = most = _resident(ours.served)
    used, began = ours.served.cpu(), time.perf_counter()
    client.send({"id": "1", "type": "subscribe", "payload": {"query": REPLAYED}})
    while not client.marked:
        await asyncio.sleep(0.05)
        most = max(most, _resident(ours.served))
    took = time.perf_counter() - began
    client.close()
    return [
        _row(f"replay of {punches + head:,} punches: wanted", (punches + head) / took, "/s", 20_000, digits=0),
        _row("the same, server CPU", (ours.served.cpu() - used) / (punches + head) * 1e6, "µs", 50),
        _row("the same, growth of the server", (most - before) / 1024, "MB", 50),
    ]


def _resident(served: Served) -> int:
    """kB."""
    status = Path(f"/proc/{served.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def _row(name: str, figure: float, unit: str, floor: float, *, digits: int = 1) -> dict[str, Any]:
    ratio = round(figure / floor, 2) if floor else ""
    return {"name": name, "figure": round(figure, digits), "unit": unit, "floor": round(floor, digits), "ratio": ratio}


async def measure(short: bool) -> list[dict[str, Any]]:
    """Rows of {name, figure, unit, floor, ratio}: ours, and the floor or peer that the name ends with."""
    rows: list[dict[str, Any]] = []
    async with stand() as rig, contenders(rig) as found:
        for subscribers in (100,) if short else (100, 1000, 5000):
            rows += await fan_out(found, subscribers, 3.0 if short else 8.0)
        rows += await latency(found, 200 if short else 1000, 4.0 if short else 12.0)
        rows += await loss(found, 1.0 if short else 10.0)
        rows += await memory(found, 500 if short else 5000)
        rows += await churn(found[0], 500 if short else 10_000)
        rows += await replay(rig, found[0], 30_000 if short else 1_000_000)
    return rows


def run(short: bool) -> list[dict[str, Any]]:
    """All rows."""
    return asyncio.run(measure(short))


if __name__ == "__main__":
    for row in run("--short" in sys.argv):
        print(f"{row['name']:<70} {row['figure']:>9} {row['unit']:<6} of {row['floor']:>9}  {row['ratio']}")
