"""A customer's server: remembers every request, and answers each path as it is told.

When it closes, it holds every body that it got against the JSON Schema of its type.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self
from uuid import UUID

import orjson

from tests.bodies import check


@dataclass(frozen=True, slots=True)
class Answer:
    """What to say, after `delay` seconds: a whole answer, or, with a fault, none at all.

    `hang` keeps the connection open and silent, `reset` breaks it.
    """

    status: int = 200
    delay: float = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    fault: Literal["hang", "reset"] | None = None


OK = Answer()
HANG = Answer(fault="hang")
RESET = Answer(fault="reset")


@dataclass(frozen=True, slots=True)
class Received:
    """One request. Header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes
    #: time.monotonic() when the last byte of it was here.
    at: float

    @property
    def delivery(self) -> UUID:
        return UUID(self.headers["x-punchconnect-delivery"])

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def attempt(self) -> int:
        return int(self.headers["x-punchconnect-attempt"])

    @property
    def payload(self) -> Any:
        return orjson.loads(self.body)


class Receiver:
    """`async with Receiver() as receiver:`, then point endpoints at `receiver.url("/some-path")`."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        #: The most that were under way at a time.
        self.busiest = 0
        self._busy = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._always: dict[str, Answer] = {}
        self._next: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self._connections: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> Self:
        # Below the range of outgoing connections, none of which can then take the port while a test restarts us.
        for port in range(20_000, 32_768):
            try:
                self._server = await asyncio.start_server(self._talk, "127.0.0.1", self.port or port)
            except OSError:
                if self.port:
                    raise
            else:
                self.port = self.port or port
                return self
        raise OSError("No port is free.")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        if error is None:
            for request in self.requests:
                check(request.body)

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def always(self, answer: Answer, path: str = "/hook") -> None:
        """From now on, once what `then` was told is used up. Without it: 200."""
        self._always[path] = answer

    def then(self, *answers: Answer, path: str = "/hook") -> None:
        """To the next requests, one each."""
        self._next[path].extend(answers)

    def to(self, path: str = "/hook") -> list[Received]:
        """What came to `path`, in order of arrival."""
        return [request for request in self.requests if request.path == path]

    def copies(self) -> Counter[UUID]:
        """How often each delivery came."""
        return Counter(request.delivery for request in self.requests)

    async def until(self, met: Callable[[Receiver], bool], timeout: float = 20) -> None:  # noqa: ASYNC109
        """Return once `met`; TimeoutError otherwise."""
        async with asyncio.timeout(timeout), self._arrived:
            await self._arrived.wait_for(lambda: met(self))

    async def count(self, n: int, timeout: float = 20) -> None:  # noqa: ASYNC109
        """Return once `n` requests came."""
        await self.until(lambda receiver: len(receiver.requests) >= n, timeout)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, EOFError):
                while (request := await _read(reader)) is not None:
                    self.requests.append(request)
                    async with self._arrived:
                        self._arrived.notify_all()
                    queue = self._next[request.path]
                    self._busy += 1
                    self.busiest = max(self.busiest, self._busy)
                    try:
                        await _answer(writer, queue.popleft() if queue else self._always.get(request.path, OK))
                    finally:
                        self._busy -= 1
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            raise
        return None
    line, *fields = head.decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (item.partition(":") for item in fields)}
    body = await reader.readexactly(int(headers["content-length"]))
    return Received(line.split(" ")[1], headers, body, time.monotonic())


async def _answer(writer: asyncio.StreamWriter, answer: Answer) -> None:
    await asyncio.sleep(answer.delay)
    if answer.fault == "hang":
        await asyncio.Event().wait()
    if answer.fault == "reset":
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        raise ConnectionResetError
    fields = {"Content-Length": str(len(answer.body)), **answer.headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
    writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + answer.body)
    await writer.drain()
