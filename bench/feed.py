"""Live punches to many sockets: messages per second and latency, beside a server that only sends bytes.

Closed loop: a terminal uploads one punch, every subscriber has to see it, then the next. The floor is a bare ASGI
socket application under the same uvicorn that sends a text of the same length to as many clients when it is told to.
"""

from __future__ import annotations

import asyncio
import base64
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import orjson

from app.simulator import Link, serial_numbers
from bench.stand import server, stand

DOCUMENT = (
    "subscription { punches { cursor previousCursor caughtUp headLag punches "
    "{ id pin punchedAt localTime direction verifyMode buffered device { name } } } }"
)


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
            if self._mark in frame:
                self.marked += 1
                self.size = len(frame)
                self.heard()
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


async def subscribe(url: str, api_key: str, mark: bytes) -> Client:
    """A subscriber that holds its first batch."""
    client = await connect(url, "/graphql", mark)
    client.send({"type": "connection_init", "payload": {"authorization": f"Bearer {api_key}"}})
    await asyncio.wait_for(client.acknowledged, 20)
    client.send({"id": "1", "type": "subscribe", "payload": {"query": DOCUMENT}})
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
        await asyncio.gather(push(number), asyncio.wait_for(done, 20))
        spans.append(time.perf_counter() - started)
    return len(clients) * number / (time.perf_counter() - began), statistics.median(spans)


async def measure(short: bool) -> list[dict[str, Any]]:
    """Rows of {name, figure, unit, floor, ratio}."""
    seconds = 4.0 if short else 10.0
    rows: list[dict[str, Any]] = []
    async with stand() as rig:
        tenant = await rig.add_tenant(1)
        serial = serial_numbers(1)[0]
        async with server(rig, "app.main:create_app") as ours, server(rig, "bench.feed:bare") as floor:
            terminal = Link(f"{ours}/d/{tenant.token}", keep_alive=True)
            pusher = Link(floor, keep_alive=True)
            for subscribers in (100,) if short else (100, 1000, 5000):
                pin = f"{subscribers}x{os.getpid()}"
                clients = [await subscribe(ours, tenant.api_key, b'"pin":') for _ in range(subscribers)]

                async def upload(number: int, pin: str = pin) -> object:
                    line = f"{pin}x{number}\t2026-11-20 08:00:00\t0\t15\t0\t0\t0\n".encode()
                    return await terminal.post(f"/iclock/cdata?SN={serial}&table=ATTLOG&Stamp=1", line)

                figure, span = await rounds(clients, upload, seconds)
                size = clients[0].size
                for client in clients:
                    client.close()
                clients = [await connect(floor, "/", b"MARK") for _ in range(subscribers)]
                least, least_span = await rounds(clients, lambda _, size=size: pusher.get(f"/push/{size}"), seconds)  # type: ignore[misc]
                for client in clients:
                    client.close()
                name = f"{subscribers} subscribers, a punch at a time"
                rows += [
                    {
                        "name": f"{name}: bare socket server",
                        "figure": round(figure),
                        "unit": "msg/s",
                        "floor": round(least),
                        "ratio": round(figure / least, 2),
                    },
                    {
                        "name": f"{name}: upload to last client, median",
                        "figure": round(span * 1000, 1),
                        "unit": "ms",
                        "floor": round(least_span * 1000, 1),
                        "ratio": round(span / least_span, 2),
                    },
                ]
            terminal.abort()
            pusher.abort()
    return rows


def run(short: bool) -> list[dict[str, Any]]:
    """All rows."""
    return asyncio.run(measure(short))


if __name__ == "__main__":
    for row in run("--short" in sys.argv):
        print(f"{row['name']:<70} {row['figure']:>9} {row['unit']:<6} of {row['floor']:>9}  {row['ratio']:.2f}")
