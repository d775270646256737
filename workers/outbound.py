"""The only door to the internet. What the far end does comes back as a Reply; nothing raises, and the cost is bounded.

Three places keep requests away from addresses that are not public. A name is looked up once per new connection and
refused if any of its addresses is forbidden; the very addresses that were judged are the ones dialled; and every
socket, for a name or a literal, is made by a factory that judges again what it is about to dial. There is no second
look-up that could answer differently.

The requests are httpx's, the transport is aiohttp's: with tens of requests in flight httpx's own pool spends its time
looking for a free connection (bench/outbound.py has the figures). The transport is called without httpx.AsyncClient
around it, which would add more than half as much again for what a webhook must not have: redirects, a cookie jar shared
by all tenants, credentials out of the URL, and a log line with the URL in it.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache, partial
from ssl import SSLContext
from types import TracebackType
from typing import Final, Literal, Self, cast
from weakref import WeakSet

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from httpx_aiohttp import AiohttpTransport

from app.domain.addresses import AddressGuard

#: dns: the name has no address, or none in time. connect: no connection, or it broke before an answer.
#: protocol: not HTTP, or it broke off in the middle of the answer. timeout: the deadline for the whole passed.
Failure = Literal["timeout", "connect", "dns", "tls", "forbidden_address", "redirect", "protocol"]

#: Host name -> its addresses as text. Runs in a thread; OSError when there are none.
Lookup = Callable[[str], Sequence[str]]

MOST_READ: Final = 64 * 1024
MOST_KEPT: Final = 4 * 1024
KEPT_HEADERS: Final = (b"retry-after",)

# Below the five seconds after which common servers (Node, uvicorn) close an idle connection, so that they seldom close
# one just as it is used again.
KEEP_ALIVE: Final = timedelta(seconds=4)
DNS_THREADS: Final = 16

_OUR_HEADERS: Final = (
    (b"User-Agent", b"PunchConnect-Webhooks/1"),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"identity"),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request. `status` is kept beside an error when the answer got as far as that."""

    status: int | None
    error: Failure | None
    duration_ms: int
    #: The first 4 KiB of the body, as sent: compressed if the far end compressed it unasked.
    response_body: bytes = b""
    #: Lower-case names; only those in KEPT_HEADERS.
    response_headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def delivered(self) -> bool:
        """A 2xx whose body ended, or reached 64 KiB, before the deadline."""
        return self.error is None and self.status is not None and 200 <= self.status < 300


class ForbiddenAddress(OSError):
    """The name or the URL leads to an address that may not be dialled."""


class LookupFailed(OSError):
    """The name has no address, or none was found in time."""


@dataclass(slots=True)
class _Trip:
    """What is known so far of one request, also when it ends in an exception."""

    dialled: bool = False
    status: int | None = None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


# The socket factory is called deep inside the connector, perhaps in a task of its own, and says here that it was.
_trip: ContextVar[_Trip] = ContextVar("_trip")


class Outbound:
    """Sends requests for as many callers as like: `connections` at once, the rest wait outside their deadline.

    It belongs to the event loop of its first request. `lookup` and `ssl_context` replace the system's name service and
    certifi's roots. An idle connection is kept for KEEP_ALIVE, and at most `connections` idle ones.
    """

    def __init__(
        self,
        guard: AddressGuard,
        *,
        timeout: timedelta = timedelta(seconds=10),
        dns_timeout: timedelta = timedelta(seconds=5),
        names_kept: timedelta = timedelta(seconds=10),
        connections: int = 200,
        lookup: Lookup | None = None,
        ssl_context: SSLContext | None = None,
    ) -> None:
        self.timeout = timeout
        self._guard = guard
        self._names = _Names(guard, lookup or look_up, dns_timeout)
        self._names_kept = names_kept
        self._connections = connections
        self._places = asyncio.Semaphore(connections)
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._ssl = ssl_context or httpx.create_ssl_context(trust_env=False)
        self._transport = AiohttpTransport(verify=self._ssl, client=self._session)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. A look-up that hangs is left to its thread."""
        await self._transport.aclose()
        await self._names.close()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Send `body`; whatever the far end does, or fails to do, is in the Reply within `timeout`."""
        async with self._places:
            started = time.perf_counter()
            trip = _Trip()
            token = _trip.set(trip)
            error: Failure | None
            try:
                async with asyncio.timeout(self.timeout.total_seconds()):
                    await self._send(trip, url, headers, body)
                error = "redirect" if trip.status is not None and 300 <= trip.status < 400 else None
            except TimeoutError:
                error = "timeout"
            except (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError, ValueError) as exc:
                error = _failure(exc)
            finally:
                _trip.reset(token)
            duration_ms = round((time.perf_counter() - started) * 1000)
            return Reply(trip.status, error, duration_ms, trip.body, trip.headers)

    async def _send(self, trip: _Trip, url: str, headers: Mapping[str, str], body: bytes) -> None:
        request = _request(_parsed(url), headers, body)
        if self._crowded():
            request.headers["Connection"] = "close"
        try:
            await self._exchange(trip, request)
        except httpx.TransportError as exc:
            # The server closed an idle connection just as we used it: it saw nothing of the request, so ask again.
            if trip.dialled or trip.status is not None or not _dropped_unanswered(exc):
                raise
            await self._exchange(trip, request)

    async def _exchange(self, trip: _Trip, request: httpx.Request) -> None:
        """One request and its answer, read as far as it is wanted, into `trip`."""
        response = await self._transport.handle_async_request(request)
        try:
            trip.status = response.status_code
            trip.headers = {
                name.decode(): value.decode("latin-1")[:200]
                for key, value in response.headers.raw
                if (name := key.lower()) in KEPT_HEADERS
            }
            read = 0
            # The stream itself, not `aiter_bytes`: nothing is decompressed, so nothing can be a bomb.
            chunks = cast("AsyncGenerator[bytes, None]", aiter(cast("httpx.AsyncByteStream", response.stream)))
            async with aclosing(chunks):
                async for chunk in chunks:
                    trip.body += chunk[: MOST_KEPT - len(trip.body)]
                    read += len(chunk)
                    if read >= MOST_READ:
                        break
        finally:
            await response.aclose()  # a connection with unread bytes on it is not kept

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=self._names,
            socket_factory=self._dial,
            ssl=self._ssl,
            ttl_dns_cache=int(self._names_kept.total_seconds()),
            keepalive_timeout=KEEP_ALIVE.total_seconds(),
            limit=0,  # `_places` is the limit; here a caller would wait with its deadline running
        )
        vars(connector)["_factory"] = partial(_Answer, loop=asyncio.get_running_loop())  # there is no other way
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
            read_bufsize=MOST_READ // 4,
        )

    def _dial(self, target: aiohttp.AddrInfoType) -> socket.socket:
        """Make the socket for one address, judged now: the last step before a packet leaves."""
        family, kind, protocol, _, address = target
        if not self._guard.allows(str(address[0])):
            raise ForbiddenAddress("The address is not public.")
        _trip.get().dialled = True
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made

    def _crowded(self) -> bool:
        """As many idle connections as busy ones may be: the pool itself has no bound for those to many hosts."""
        most = 2 * self._connections
        return len(self._sockets) >= most and sum(s.fileno() >= 0 for s in self._sockets) >= most


class _Answer(ResponseHandler):
    """What the far end says on one connection. A 204 has no body, and has ended with its head.

    Some servers write one behind it all the same, which aiohttp would take for a spoilt answer to the next request.
    """

    def data_received(self, data: bytes) -> None:
        """As before, without what a 204 must not have; such a connection is not kept."""
        if data[:12] in _NO_CONTENT and (head := data.partition(b"\r\n\r\n"))[1]:
            if head[2] or _LENGTH.search(head[0]):
                self.force_close()
            data = head[0] + head[1]
        super().data_received(data)


_NO_CONTENT: Final = (b"HTTP/1.1 204", b"HTTP/1.0 204")
_LENGTH: Final = re.compile(rb"\r\n(?:content-length:[ \t]*0*[1-9]|transfer-encoding:)", re.IGNORECASE)


@lru_cache(maxsize=4096)
def _parsed(url: str) -> httpx.URL:
    """httpx.InvalidURL. The same few are posted to again and again, and reading one is a tenth of a post."""
    parsed = httpx.URL(url)
    if parsed.scheme not in ("http", "https"):
        raise httpx.UnsupportedProtocol(f"There is no way to post to {parsed.scheme!r}.")
    return parsed


def _request(url: httpx.URL, headers: Mapping[str, str], body: bytes) -> httpx.Request:
    """What httpx makes of `content`, with all headers said at once: it would copy them three times to add its own."""
    named = [
        (b"Host", url.netloc),
        (b"Content-Length", b"%d" % len(body)),
        *_OUR_HEADERS,
        *((name.encode(), value.encode()) for name, value in headers.items()),
    ]
    request = httpx.Request("POST", url, headers=named, stream=httpx.ByteStream(body))
    request.headers.encoding = "utf-8"  # said here, it is not guessed each time
    request.read()
    return request


class _Names(AbstractResolver):
    """Looks names up in threads of its own, so that a customer's slow name server holds up nobody else's work."""

    def __init__(self, guard: AddressGuard, lookup: Lookup, timeout: timedelta) -> None:
        self._guard = guard
        self._lookup = lookup
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(DNS_THREADS, thread_name_prefix="dns")
        self._running: dict[str, asyncio.Future[Sequence[str]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Every address of the name; ForbiddenAddress if one may not be dialled, LookupFailed if there is none."""
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                addresses = await asyncio.shield(self._look_up(host))
        except (OSError, ValueError) as exc:
            raise LookupFailed("The name was not found.") from exc
        if not addresses:
            raise LookupFailed("The name has no address.")
        # One bad answer among good ones is how a name is made to pass here and land elsewhere.
        if not all(self._guard.allows(address) for address in addresses):
            raise ForbiddenAddress("The name leads to an address that is not public.")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    def _look_up(self, host: str) -> asyncio.Future[Sequence[str]]:
        """The look-up under way for this name, or a new one: a name that hangs holds one thread, not sixteen."""
        running = self._running.get(host)
        if running is None:
            running = asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host)
            self._running[host] = running
            running.add_done_callback(lambda _: self._running.pop(host, None))
        return running

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def look_up(host: str) -> list[str]:
    """The system's answer, each address once, in its order."""
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)))


def _cause(exc: Exception) -> BaseException:
    """aiohttp's own exception: httpx's beside it is the transport's translation, and a coarse one."""
    return exc.__cause__ if isinstance(exc, httpx.TransportError) and exc.__cause__ is not None else exc


def _failure(exc: Exception) -> Failure:
    match _cause(exc):
        case aiohttp.ClientConnectorError(os_error=ForbiddenAddress()):
            return "forbidden_address"
        case aiohttp.ClientConnectorDNSError():
            return "dns"
        case aiohttp.ClientSSLError():
            return "tls"
        case aiohttp.ClientConnectionError() | OSError():
            return "connect"
        case _:
            return "protocol"


def _dropped_unanswered(exc: Exception) -> bool:
    """The connection went away before a byte of the answer."""
    match _cause(exc):
        case aiohttp.ClientConnectorError():
            return False
        case aiohttp.ServerDisconnectedError(message="Server disconnected"):  # else it holds the head as far as it came
            return True
        case aiohttp.ClientOSError() | aiohttp.ClientConnectionResetError():
            return True
        case _:
            return False
