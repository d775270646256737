"""The door to the internet, against servers that behave as badly as they can."""

from __future__ import annotations

import asyncio
import errno
import gc
import gzip
import os
import secrets
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.domain.addresses import AddressGuard
from tests.app.domain.test_addresses import FORBIDDEN
from workers.outbound import Lookup, Outbound

STRICT = AddressGuard()
LOOPBACK = AddressGuard([ip_network("127.0.0.0/8"), ip_network("::1/128")])
SHORT = timedelta(milliseconds=400)
LONG = timedelta(seconds=30)

# Trusts no one. Reading the usual roots takes longer than most of these tests.
NOBODY = ssl.create_default_context(cadata=None, capath=os.devnull)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class FarEnd:
    """A server on every local address that answers as it is told, and remembers who came."""

    port: int
    connections: int = 0
    open: int = 0
    most_open: int = 0
    requests: list[bytes] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """The next request on a connection, head and body; EOFError when there is none."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.requests.append(head + await reader.readexactly(length))
        self.asked.set()
        return self.requests[-1]


Answer = Callable[[FarEnd, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def always(answer: bytes, *, times: int = 1_000, hang: bool = False) -> Answer:
    """Give this answer to each request, and hang up after `times`, or never."""

    async def give(far: FarEnd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(times):
            await far.request(reader)
            writer.write(answer)
            await writer.drain()
        if hang:
            await asyncio.Event().wait()

    return give


def listening() -> socket.socket:
    """A socket for both families on a free port that no outgoing connection can have."""
    while True:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("::", 20_000 + secrets.randbelow(12_768)))
        except OSError as exc:
            listener.close()
            if exc.errno != errno.EADDRINUSE:
                raise
        else:
            return listener


@asynccontextmanager
async def far_end(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[FarEnd]:
    listener = listening()
    far = FarEnd(listener.getsockname()[1])
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far.connections += 1
        far.open += 1
        far.most_open = max(far.most_open, far.open)
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            with suppress(EOFError, OSError):  # the door hung up
                await answer(far, reader, writer)
        except asyncio.CancelledError:
            pass  # the end of the test
        finally:
            far.open -= 1
            talks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(talk, sock=listener, ssl=tls)
    try:
        yield far
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks)
        await server.wait_closed()


@asynccontextmanager
async def door(
    guard: AddressGuard = LOOPBACK,
    *,
    deadline: timedelta = LONG,
    dns_timeout: timedelta = LONG,
    names_kept: timedelta = timedelta(0),
    connections: int = 50,
    lookup: Lookup | None = None,
    ssl_context: ssl.SSLContext | None = NOBODY,
) -> AsyncIterator[Outbound]:
    """An Outbound whose leavings are looked for: an unclosed socket fails the test."""
    async with Outbound(
        guard,
        timeout=deadline,
        dns_timeout=dns_timeout,
        names_kept=names_kept,
        connections=connections,
        lookup=lookup,
        ssl_context=ssl_context,
    ) as outbound:
        yield outbound
    await asyncio.sleep(0)
    gc.collect()


def leads_to(*addresses: str) -> Lookup:
    """A name service in which every name has these addresses."""
    return lambda _host: addresses


# What is sent


async def test_a_post_arrives_as_it_was_given() -> None:
    body = '{"name":"Zoë"}'.encode()
    async with far_end(always(OK)) as far, door() as outbound:
        reply = await outbound.post(f"{far.url}%2Fx?a=b%20c&d=%7E", {"X-Mine": "1", "Content-Type": "a/b"}, body)

    assert (reply.status, reply.error, reply.response_body, reply.delivered) == (200, None, b"ok", True)
    head, _, sent = far.requests[0].partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    assert first in ("POST /hook%2Fx?a=b%20c&d=%7E HTTP/1.1", "POST /hook%2Fx?a=b%20c&d=~ HTTP/1.1")
    assert dict(line.lower().split(": ", 1) for line in rest) == {
        "host": f"127.0.0.1:{far.port}",
        "user-agent": "punchconnect-webhooks/1",
        "accept": "*/*",
        "accept-encoding": "identity",
        "x-mine": "1",
        "content-type": "a/b",
        "content-length": "15",
    }
    assert sent == body


async def test_connections_are_kept_and_used_again() -> None:
    async with far_end(always(OK)) as far, door() as outbound:
        for _ in range(3):
            assert (await outbound.post(far.url, {}, b"{}")).delivered

    assert (far.connections, len(far.requests)) == (1, 3)


async def test_a_cookie_that_one_tenants_receiver_sets_is_never_sent_back() -> None:
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=secret; Path=/\r\nContent-Length: 0\r\n\r\n"
    async with far_end(always(answer)) as far, door(lookup=leads_to("127.0.0.1")) as outbound:
        for _ in range(2):
            assert (await outbound.post(f"http://hooks.example:{far.port}/", {}, b"{}")).delivered

    assert b"cookie" not in far.requests[1].lower()


async def test_proxies_in_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with far_end(always(OK)) as proxy, far_end(always(OK)) as far, door() as outbound:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        reply = await outbound.post(far.url, {}, b"{}")

    assert reply.delivered
    assert (proxy.connections, far.connections) == (0, 1)


async def test_no_more_go_out_at_once_than_there_are_places_and_waiting_costs_no_deadline() -> None:
    async def slow(far: FarEnd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await far.request(reader)
            await asyncio.sleep(0.3)
            writer.write(OK)

    async with far_end(slow) as far, door(connections=2, deadline=timedelta(seconds=1.4)) as outbound:
        replies = await asyncio.gather(*(outbound.post(far.url, {}, b"{}") for _ in range(10)))

    assert [reply.delivered for reply in replies] == [True] * 10
    assert far.most_open == 2


async def test_idle_connections_to_many_hosts_are_bounded() -> None:
    async def polite(far: FarEnd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"connection: close" not in (await far.request(reader)).lower():
            writer.write(OK)
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await writer.drain()

    async with far_end(polite) as far, door(connections=2) as outbound:
        for host in range(1, 21):
            assert (await outbound.post(f"http://127.0.0.{host}:{far.port}/", {}, b"{}")).delivered

    assert far.connections == 20
    assert far.most_open <= 5


# What comes back


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_delivered(status: int) -> None:
    async with far_end(always(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)) as far, door() as outbound:
        reply = await outbound.post(far.url, {}, b"{}")

    assert (reply.status, reply.error, reply.delivered) == (status, None, True)


@pytest.mark.parametrize("status", [400, 404, 410, 429, 500, 503, 999])
async def test_another_status_is_an_answer_and_no_delivery(status: int) -> None:
    answer = b"HTTP/1.1 %d X\r\nContent-Length: 3\r\nRetry-After: 120\r\nX-Other: 1\r\n\r\nno!" % status
    async with far_end(always(answer)) as far, door() as outbound:
        reply = await outbound.post(far.url, {}, b"{}")

    assert (reply.status, reply.error, reply.delivered) == (status, None, False)
    assert reply.response_body == b"no!"
    assert reply.response_headers == {"retry-after": "120"}


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with far_end(always(OK)) as elsewhere, door() as outbound:
        answer = f"HTTP/1.1 {status} X\r\nLocation: {elsewhere.url}\r\nContent-Length: 0\r\n\r\n".encode()
        async with far_end(always(answer)) as far:
            reply = await outbound.post(far.url, {}, b"{}")

    assert (reply.status, reply.error, reply.delivered) == (status, "redirect", False)
    assert (far.connections, elsewhere.connections) == (1, 0)


async def test_of_a_gigabyte_sixty_four_kibibytes_are_read() -> None:
    sent = 0

    async def endless(far: FarEnd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await far.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 30))
        while sent < 1 << 30:
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536

    async with far_end(endless) as far, door() as outbound:
        reply = await outbound.post(far.url, {}, b"{}")

    assert reply.delivered
    assert reply.response_body == b"x" * 4096
    assert sent < 16 << 20  # what the two kernels' buffers took in before the door was shut


async def test_a_body_that_stops_at_the_limit_without_ending_is_delivered() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 65_536
    async with far_end(always(answer, times=1, hang=True)) as far, door() as outbound:
        reply = await outbound.post(far.url, {}, b"{}")

    assert reply.delivered


async def test_a_body_that_stops_just_short_of_the_limit_is_cut_at_the_deadline() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 65_535
    async with far_end(always(answer, times=1, hang=True)) as far, door(deadline=SHORT) as outbound:
        reply = await outbound.post(far.url, {}, b"{}")

    assert (reply.status, reply.error, reply.delivered) == (200, "timeout", False)


async def test_what_was_not_read_to_its_end_is_not_used_again() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (8 << 20) + bytes(8 << 20)
    async with far_end(always(answer)) as far, door() as outbound:
        for _ in range(2):
            assert (await outbound.post(far.url, {}, b"{}")).delivered

    assert far.connections == 2


async def test_a_compressed_bomb_is_kept_as_it_came() -> None:
    bomb = gzip.compress(bytes(20 << 20), mtime=0)
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
    async with far_end(always(answer)) as far, door() as outbound:
        reply = await outbound.post(far.url, {}, b"{}")

    assert reply.delivered
    assert reply.response_body == bomb[:4096]
    assert b"accept-encoding: identity" in far.requests[0].lower()


# What never comes back


async def test_a_drip_is_cut_at_the_deadline() -> None:
    async def drip(far: FarEnd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)

    async with far_end(drip) as far, door(deadline=SHORT) as outbound, asyncio.timeout(10):
        reply = await outbound.post(far.url, {}, b"{}")

    assert (reply.status, reply.error, reply.delivered) == (200, "timeout", False)
    assert 400 <= reply.duration_ms < 10_000
    assert set(reply.response_body) == set(b"x")


async def test_a_drip_of_headers_is_cut_at_the_deadline() -> None:
    async def drip(far: FarEnd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)

    async with far_end(drip) as far, door(deadline=SHORT) as outbound:
        reply = await outbound.post(far.url, {}, b"{}")

    assert (reply.status, reply.error) == (None, "timeout")


async def test_a_server_that_never_reads_is_cut_at_the_deadline() -> None:
    async def deaf(_far: FarEnd, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with far_end(deaf) as far, door(deadline=SHORT) as outbound:
        reply = await outbound.post(far.url, {}, bytes(900_000))

    assert (reply.status, reply.error) == (None, "timeout")


async def test_an_answer_before_the_request_was_read_is_an_answer() -> None:
    async def hasty(_far: FarEnd, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
        await asyncio.Event().wait()

    async with far_end(hasty) as far, door() as outbound:
        reply = await outbound.post(far.url, {}, bytes(900_000))

    assert (reply.status, reply.error) == (413, None)


async def test_a_port_without_a_server_is_a_failed_connection() -> None:
    listener = listening()  # bound but not listening: nobody else can take it, and it refuses
    with listener:
        async with door() as outbound:
            reply = await outbound.post(f"http://127.0.0.1:{listener.getsockname()[1]}/", {}, b"{}")

    assert (reply.status, reply.error) == (None, "connect")


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (b"", None, "connect"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", None, "protocol"),
        (b"HTTP/1.1 abc OK\r\n\r\n", None, "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", None, "protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", None, "protocol"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n", None, "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", 200, "protocol"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", None, "protocol"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n", 200, "protocol"),
        (b"HTTP/1.1 200 OK\r\nSet-Cookie: \xff\xfe; ;=;\r\nRetry-After: \xff\r\nContent-Length: 0\r\n\r\n", 200, None),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, None),
        (b"HTTP/1.0 200 OK\r\n\r\n", 200, None),
        (b"HTTP/1.1 204 No Content\r\n\r\nthanks", 204, None),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\nthanks", 204, None),
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nthanks\r\n0\r\n\r\n", 204, None),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, None),
        (b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 101, None),
    ],
)
async def test_an_answer_that_is_no_answer_is_named(answer: bytes, status: int | None, error: str | None) -> None:
    async with far_end(always(answer, times=1)) as far, door() as outbound:
        reply = await outbound.post(far.url, {}, b"{}")

    assert (reply.status, reply.error) == (status, error)
    assert reply.delivered is (status in (200, 204) and error is None)
    assert far.connections == 1


@pytest.mark.parametrize("pause", [0, 0.1])
async def test_what_follows_a_204_is_not_taken_for_the_next_answer(pause: float) -> None:
    async def thanks(far: FarEnd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await far.request(reader):
            writer.write(b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(pause)
            writer.write(b"thanks")
            await writer.drain()

    async with far_end(thanks) as far, door() as outbound:
        replies = [await outbound.post(far.url, {}, b"{}") for _ in range(3)]

    assert [(reply.status, reply.error) for reply in replies] == [(204, None)] * 3


async def test_a_connection_reset_in_the_middle_of_the_answer_is_no_delivery() -> None:
    async def reset(far: FarEnd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
        await asyncio.sleep(0.1)
        hang_up(writer)

    async with far_end(reset) as far, door() as outbound:
        reply = await outbound.post(far.url, {}, b"{}")

    assert (reply.status, reply.error, reply.delivered) == (200, "protocol", False)


def hang_up(writer: asyncio.StreamWriter) -> None:
    """Reset the connection rather than close it."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    writer.transport.abort()


def drops_the_second(how: str) -> Answer:
    """Answers the first request of the first connection, drops the second, and answers all on later connections."""

    async def answer(far: FarEnd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if far.connections > 1:
            return await always(OK)(far, reader, writer)
        await always(OK, times=1)(far, reader, writer)
        await far.request(reader)
        if how == "reset":
            hang_up(writer)
        elif how == "half an answer":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            await writer.drain()
        return None

    return answer


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_kept_connection_that_breaks_unanswered_is_tried_once_more(how: str) -> None:
    async with far_end(drops_the_second(how)) as far, door() as outbound:
        first = await outbound.post(far.url, {}, b"1")
        second = await outbound.post(far.url, {}, b"2")

    assert (first.delivered, second.delivered) == (True, True)
    assert [request[-1:] for request in far.requests] == [b"1", b"2", b"2"]
    assert far.connections == 2


async def test_a_kept_connection_that_breaks_in_the_answer_is_not_tried_again() -> None:
    async with far_end(drops_the_second("half an answer")) as far, door() as outbound:
        await outbound.post(far.url, {}, b"1")
        second = await outbound.post(far.url, {}, b"2")

    assert (second.status, second.error) == (None, "connect")
    assert [request[-1:] for request in far.requests] == [b"1", b"2"]


async def test_a_new_connection_that_breaks_is_not_tried_again() -> None:
    async with far_end(always(b"", times=1)) as far, door() as outbound:
        reply = await outbound.post(far.url, {}, b"{}")

    assert (reply.error, far.connections, len(far.requests)) == ("connect", 1, 1)


async def test_a_caller_that_gives_up_leaves_nothing_open() -> None:
    async with far_end(always(b"", hang=True, times=1)) as far, door() as outbound:
        post = asyncio.create_task(outbound.post(far.url, {}, b"{}"))
        await far.asked.wait()
        post.cancel()
        with pytest.raises(asyncio.CancelledError):
            await post
        assert [s.fileno() for s in outbound._sockets if s.fileno() >= 0] == []


# Where nothing is sent


SPELLINGS = [
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "127.1",
    "0",
    "①②⑦.0.0.1",
    "127。0。0。1",
    "127.0.0.1.",
    "localhost",
    "localhost.",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:0:0:1]",
]


@pytest.mark.parametrize(
    "host", [f"[{address}]" if ":" in address else address for address, _ in FORBIDDEN] + SPELLINGS
)
async def test_no_socket_is_made_for_a_forbidden_address_in_a_url(host: str) -> None:
    async with far_end(always(OK)) as far, door(STRICT) as outbound:
        reply = await outbound.post(f"http://{host}:{far.port}/", {}, b"{}")
        made = len(outbound._sockets)

    assert reply.status is None
    # What is no URL does not get as far as an address, and not every system knows `localhost.`.
    assert reply.error in ("forbidden_address", "protocol", "dns")
    assert (far.connections, made) == (0, 0)


@pytest.mark.parametrize("address", [address for address, _ in FORBIDDEN])
async def test_no_socket_is_made_for_a_name_that_leads_to_a_forbidden_address(address: str) -> None:
    async with far_end(always(OK)) as far, door(STRICT, lookup=leads_to(address)) as outbound:
        reply = await outbound.post(f"http://hooks.example:{far.port}/", {}, b"{}")
        made = len(outbound._sockets)

    assert (reply.status, reply.error) == (None, "forbidden_address")
    assert (far.connections, made) == (0, 0)


@pytest.mark.parametrize("addresses", [("127.0.0.1", "10.0.0.1"), ("::1", "127.0.0.1", "fe80::1")])
async def test_one_forbidden_address_among_good_ones_spoils_the_name(addresses: tuple[str, ...]) -> None:
    async with far_end(always(OK)) as far, door(LOOPBACK, lookup=leads_to(*addresses)) as outbound:
        reply = await outbound.post(f"http://hooks.example:{far.port}/", {}, b"{}")

    assert (reply.error, far.connections) == ("forbidden_address", 0)


async def test_the_socket_is_judged_even_when_the_name_was_not() -> None:
    async with far_end(always(OK)) as far, door(STRICT, lookup=leads_to("127.0.0.1")) as outbound:
        outbound._names._guard = LOOPBACK  # the first guard is blind
        reply = await outbound.post(f"http://hooks.example:{far.port}/", {}, b"{}")

    assert (reply.error, far.connections) == ("forbidden_address", 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_loopback_is_reached_where_it_is_allowed(host: str) -> None:
    async with far_end(always(OK)) as far, door(LOOPBACK) as outbound:
        reply = await outbound.post(f"http://{host}:{far.port}/", {}, b"{}")

    assert (reply.delivered, far.connections) == (True, 1)


async def test_a_name_that_changes_its_mind_lands_where_it_was_judged() -> None:
    asked: list[str] = []

    def rebinding(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) % 2 else ["10.0.0.1"]

    close = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with far_end(always(close, times=1)) as far, door(LOOPBACK, lookup=rebinding) as outbound:
        replies = [await outbound.post(f"http://hooks.example:{far.port}/", {}, b"{}") for _ in range(4)]

    assert [reply.error for reply in replies] == [None, "forbidden_address", None, "forbidden_address"]
    assert asked == ["hooks.example"] * 4  # once each: nothing is looked up between judging and dialling
    assert far.connections == 2


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/hook",
        "http://",
        "https:///x",
        "http://[::1",
        "http://a:b:c/",
        "ws://127.0.0.1/",
        "ftp://127.0.0.1/",
        "http://exa mple/",
        "http://xn--/",
        "http://127.0.0.1:99999/",
        "http://" + "a" * 300 + ".example/",
    ],
)
async def test_what_is_no_url_for_a_post_raises_nothing_and_goes_nowhere(url: str) -> None:
    async with door(STRICT, lookup=leads_to()) as outbound:
        reply = await outbound.post(url, {}, b"{}")
        made = len(outbound._sockets)

    assert reply.status is None
    assert reply.error in ("protocol", "dns", "forbidden_address")
    assert made == 0


@pytest.mark.parametrize("scheme", ["ws", "tcp", "ftp"])
async def test_only_http_is_spoken(scheme: str) -> None:
    async with far_end(always(OK)) as far, door() as outbound:
        reply = await outbound.post(f"{scheme}://127.0.0.1:{far.port}/", {}, b"{}")

    assert (reply.status, reply.error, far.connections) == (None, "protocol", 0)


# Names


async def test_a_name_without_an_address_is_a_dns_failure() -> None:
    def unknown(_host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for lookup in (unknown, leads_to()):
        async with door(lookup=lookup) as outbound:
            reply = await outbound.post("http://hooks.example/", {}, b"{}")
        assert (reply.status, reply.error) == (None, "dns")


async def test_a_name_that_hangs_holds_one_thread_and_no_other_name() -> None:
    release = threading.Event()
    asked: list[str] = []

    def lookup(host: str) -> list[str]:
        asked.append(host)
        if host == "slow.example":
            release.wait()
        return ["127.0.0.1"]

    async with far_end(always(OK)) as far, door(lookup=lookup, dns_timeout=timedelta(seconds=1)) as outbound:
        try:
            slow = [outbound.post(f"http://slow.example:{far.port}/{n}", {}, b"{}") for n in range(20)]
            failed = await asyncio.gather(*slow)
            again = await outbound.post(f"http://slow.example:{far.port}/", {}, b"{}")
            other = await outbound.post(f"http://quick.example:{far.port}/", {}, b"{}")
        finally:
            release.set()

    assert [reply.error for reply in [*failed, again]] == ["dns"] * 21
    assert other.delivered
    assert asked == ["slow.example", "quick.example"]


async def test_a_name_is_kept_for_a_while() -> None:
    asked: list[str] = []

    def lookup(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    close = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    async with far_end(always(close, times=1)) as far, door(lookup=lookup, names_kept=LONG) as outbound:
        for _ in range(3):
            assert (await outbound.post(f"http://hooks.example:{far.port}/", {}, b"{}")).delivered

    assert (asked, far.connections) == (["hooks.example"], 3)


# TLS


@dataclass
class Certificate:
    """A server's side with a certificate that signed itself, and a client's side that trusts it."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    names_asked: list[str | None]


def certificate(folder: Path, name: str = "hooks.example", *, days: int = 1) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    path = folder / "server.pem"
    path.write_bytes(
        pem
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    asked: list[str | None] = []

    def note_name(_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        asked.append(name)

    server.sni_callback = note_name
    return Certificate(server, ssl.create_default_context(cadata=pem.decode()), asked)


async def test_host_and_server_name_stay_although_an_address_is_dialled(tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    async with (
        far_end(always(OK), tls.server) as far,
        door(lookup=leads_to("127.0.0.1"), ssl_context=tls.client) as outbound,
    ):
        reply = await outbound.post(f"https://hooks.example:{far.port}/", {}, b"{}")

    assert reply.delivered
    assert tls.names_asked == ["hooks.example"]
    assert f"\r\nhost: hooks.example:{far.port}\r\n".encode() in far.requests[0].lower()


async def test_a_certificate_that_signed_itself_is_refused(tmp_path: Path) -> None:
    async with far_end(always(OK), certificate(tmp_path).server) as far, door(ssl_context=None) as outbound:
        reply = await outbound.post(f"https://127.0.0.1:{far.port}/", {}, b"{}")

    assert (reply.status, reply.error, far.requests) == (None, "tls", [])


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    async with (
        far_end(always(OK), tls.server) as far,
        door(lookup=leads_to("127.0.0.1"), ssl_context=tls.client) as outbound,
    ):
        reply = await outbound.post(f"https://other.example:{far.port}/", {}, b"{}")

    assert (reply.status, reply.error, far.requests) == (None, "tls", [])


async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    tls = certificate(tmp_path, days=-1)
    async with far_end(always(OK), tls.server) as far, door(ssl_context=tls.client) as outbound:
        reply = await outbound.post(f"https://127.0.0.1:{far.port}/", {}, b"{}")

    assert (reply.status, reply.error, far.requests) == (None, "tls", [])


async def test_a_server_that_does_not_speak_tls_is_a_tls_failure() -> None:
    async def plain(_far: FarEnd, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with far_end(plain) as far, door() as outbound:
        reply = await outbound.post(f"https://127.0.0.1:{far.port}/", {}, b"{}")

    assert (reply.status, reply.error) == (None, "tls")


async def test_a_handshake_that_hangs_is_cut_at_the_deadline() -> None:
    async with far_end(always(b"", hang=True)) as far, door(deadline=SHORT) as outbound:
        reply = await outbound.post(f"https://127.0.0.1:{far.port}/", {}, b"{}")

    assert (reply.status, reply.error) == (None, "timeout")


# The end


async def test_the_door_closes_and_nothing_is_left(tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    program = """
import asyncio, gc, ssl, sys
from ipaddress import ip_network
from app.domain.addresses import AddressGuard
from workers.outbound import Outbound

async def main(plain, secure, pem):
    context = ssl.create_default_context(cafile=pem)
    async with Outbound(AddressGuard([ip_network("127.0.0.0/8")]), ssl_context=context) as door:
        posts = [door.post(url, {}, b"{}") for url in (plain, secure) for _ in range(3)]
        print([reply.status for reply in await asyncio.gather(*posts)])

asyncio.run(main(*sys.argv[1:]))
gc.collect()
"""
    async with far_end(always(OK)) as plain, far_end(always(OK), tls.server) as secure:
        arguments = [plain.url, f"https://127.0.0.1:{secure.port}/", str(tmp_path / "server.pem")]
        run = await asyncio.to_thread(
            subprocess.run,
            # Development mode has asyncio and aiohttp report whatever was not closed.
            [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", program, *arguments],
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert (run.returncode, run.stdout, run.stderr) == (0, "[200, 200, 200, 200, 200, 200]\n", "")
