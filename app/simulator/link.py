"""One HTTP connection of a virtual terminal, over plain TCP, with the faults that a bad line has."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

ANSWER_LIMIT = 4 << 20  # bytes of one answer's body; commands are limited to 900 KB by the vendor

#: Seconds between two attempts to find somebody there at all.
REDIAL = 0.25


class Unreachable(Exception):
    """No connection could be made: the server has seen nothing of this request."""


class CutShort(Exception):
    """The request left, and no whole answer came back: the server may or may not have acted on it."""


class Fault(StrEnum):
    """What a bad line does to one request."""

    DIAL = "dial"  # no connection
    REQUEST = "request"  # cut in the middle of the request
    ANSWER = "answer"  # the request arrives whole, its answer does not


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. `head` is the raw status line and header lines, `body` is decoded from its framing."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of this name, whatever its case."""
        value = _header(self.head, name.lower().encode())
        return None if value is None else value.decode("latin-1")

    def __str__(self) -> str:
        first = self.body.split(b"\n", 1)[0][:60].decode("utf-8", "replace").strip()
        return f"{self.status} {first}".strip()


@dataclass(frozen=True, slots=True)
class Address:
    """Where a terminal was told to go: `http(s)://host[:port][/prefix]`. The prefix stays in front of `/iclock/`."""

    host: str
    port: int
    tls: bool
    prefix: str
    authority: str  # as it is written in the Host header

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises ValueError on anything but an http or https URL with a host."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is not a terminal's server address: expected http://host[:port][/prefix].")
        tls = parts.scheme == "https"
        return cls(
            host=parts.hostname,
            port=parts.port or (443 if tls else 80),
            tls=tls,
            prefix=parts.path.rstrip("/").removesuffix("/iclock"),
            authority=parts.netloc.rpartition("@")[2],
        )


class Link:
    """One device's HTTP connection, one request at a time. Closing (as old firmware does) or kept alive.

    A kept connection that the server closed between two requests is replaced before the next one leaves.
    """

    def __init__(
        self,
        url: str,
        *,
        keep_alive: bool = False,
        timeout: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = Address.parse(url)
        self.keep_alive = keep_alive
        self.timeout = timeout  # seconds for the dial, and again for the exchange
        self.fault: Callable[[], Fault | None] = lambda: None  # asked before each request
        self._tls = (tls or ssl.create_default_context()) if self.address.tls else None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        connection = "keep-alive" if keep_alive else "close"
        self._headers = (
            f" HTTP/1.1\r\nHost: {self.address.authority}\r\nUser-Agent: iClock Proxy/1.09\r\n"
            f"Connection: {connection}\r\nAccept: */*\r\n"
        ).encode()
        self._get = f"GET {self.address.prefix}".encode()
        self._post = f"POST {self.address.prefix}".encode()

    async def get(self, target: str) -> Answer:
        """GET `target` (`/iclock/...`). Raises Unreachable or CutShort."""
        return await self._exchange(b"%b%b%b\r\n" % (self._get, target.encode(), self._headers))

    async def post(self, target: str, body: bytes) -> Answer:
        """POST `body`, without a Content-Type, as the firmware does. Raises Unreachable or CutShort."""
        return await self._exchange(
            b"%b%b%bContent-Length: %d\r\n\r\n%b" % (self._post, target.encode(), self._headers, len(body), body)
        )

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes included."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _exchange(self, request: bytes) -> Answer:
        fault = self.fault()
        if fault is Fault.DIAL:
            self.abort()
            raise Unreachable("the line is down")
        streams = self._streams
        if streams is None or streams[0].at_eof() or streams[1].is_closing():
            self.abort()
            streams = await self.dial()
        reader, writer = streams
        kept = False
        try:
            async with asyncio.timeout(self.timeout):
                if fault is Fault.REQUEST:
                    writer.write(request[: len(request) // 2])
                    await writer.drain()
                    raise EOFError("cut in the middle of the request")
                writer.write(request)
                if len(request) > 65_536:
                    await writer.drain()
                answer, reusable = await _read_answer(reader)
                if fault is Fault.ANSWER:
                    raise EOFError("the answer was lost")
                kept = self.keep_alive and reusable
        except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as exc:
            raise CutShort(f"{type(exc).__name__}: {exc}".removesuffix(": ")) from exc
        finally:
            if not kept:
                self.abort()
        return answer

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect anew. Raises Unreachable."""
        try:
            async with asyncio.timeout(self.timeout):
                self._streams = await asyncio.open_connection(self.address.host, self.address.port, ssl=self._tls)
        except OSError as exc:
            raise Unreachable(f"{type(exc).__name__}: {exc}".removesuffix(": ")) from exc
        return self._streams


async def reach(url: str, patience: float) -> None:
    """Return once somebody listens where terminals were told to go.

    Raises Unreachable when nobody did for `patience` seconds, ValueError for an impossible address.
    """
    clock = asyncio.get_running_loop().time
    link, deadline = Link(url, timeout=patience), clock() + patience
    while True:
        try:
            await link.dial()
        except Unreachable:
            if clock() >= deadline:
                raise
            await asyncio.sleep(REDIAL)
        else:
            return
        finally:
            link.abort()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    """The next whole answer, and whether the connection may carry another request afterwards."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1."):
            raise ValueError("not an HTTP answer")
        status = int(head[9:12])
        if status >= 200:  # 1xx only announces the real one
            break
    reusable = head.startswith(b"HTTP/1.1") and (_header(head, b"connection") or b"").lower() != b"close"
    if (_header(head, b"transfer-encoding") or b"").lower() == b"chunked":
        return Answer(status, head, await _read_chunks(reader)), reusable
    if (length := _header(head, b"content-length")) is not None:
        return Answer(status, head, await reader.readexactly(_bounded(int(length)))), reusable
    if status in {204, 304}:
        return Answer(status, head, b""), reusable
    body = bytearray()
    while piece := await reader.read(65_536):
        body += piece
        _bounded(len(body))
    return Answer(status, head, bytes(body)), False


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";", 1)[0], 16):
        body += await reader.readexactly(_bounded(len(body) + size) - len(body))
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers
    return bytes(body)


def _bounded(size: int) -> int:
    if not 0 <= size <= ANSWER_LIMIT:
        raise ValueError(f"an answer of {size} bytes")
    return size


def _header(head: bytes, name: bytes) -> bytes | None:
    lower = head.lower()
    start = lower.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    return head[start : head.index(b"\r\n", start)].strip()
