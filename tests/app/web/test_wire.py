"""Requests that do not arrive: dripped, broken off, endless, or never begun."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import monotonic

import orjson
import pytest

from app.database import Database
from app.domain.devices import Device
from app.web import wire
from app.web.wire import Http
from tests.app.web.customers import NINE, Customer, attlog, body, lines
from tests.database import dicts, held, until_blocked
from tests.server import PATIENCE, Server, hang_up, read_reply, request


class Hasty(Http):
    """The same, with less patience."""

    PATIENCE = 0.5
    LONGEST = 5.0


@pytest.fixture(scope="module")
async def server(db: Database, database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, http=Hasty) as running:
        yield running


async def said_to(server: Server, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What comes back until the server hangs up; TimeoutError if it does not."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            heard = asyncio.create_task(reader.read())
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    if heard.done():
                        break
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.wait([heard], timeout=pause)
            try:
                return await heard
            except ConnectionError:
                return b""
        finally:
            await hang_up(writer)


async def test_a_connection_that_says_nothing_is_cut(server: Server) -> None:
    assert await said_to(server) == b""


async def test_a_head_that_drips_is_cut(server: Server) -> None:
    started = monotonic()

    answer = await said_to(server, *[b"G", b"E", b"T", b" ", b"/"] * 40, pause=0.1)

    assert b"200" not in answer
    assert monotonic() - started < 15


async def test_empty_lines_for_ever_are_no_request(server: Server) -> None:
    assert await said_to(server, *[b"\r\n"] * 200, pause=0.1) == b""


async def test_a_body_that_drips_is_cut_and_nothing_of_it_is_stored(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    whole = request("POST", customer.url(attlog(device.serial_number)), body(NINE) * 4)

    answer = await said_to(server, whole[:-30], *[b"x"] * 30, pause=0.1)

    assert answer == b""
    assert await lines(db, customer.tenant_id) == []
    assert await dicts(db, customer.tenant_id, "SELECT id FROM rejected_records") == []


async def test_silence_in_the_middle_of_a_body_is_cut(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    whole = request("POST", customer.url(attlog(device.serial_number)), body(NINE))

    assert await said_to(server, whole[:-1]) == b""
    assert await lines(db, customer.tenant_id) == []


async def test_a_slow_line_that_keeps_coming_is_waited_for(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    backlog = body(*[f"{n}\t2026-03-02 09:00:00\t0\t1\t0" for n in range(300)])
    whole = request("POST", customer.url(attlog(device.serial_number)), backlog)
    step = len(whole) // 12 + 1

    answer = await said_to(server, *[whole[at : at + step] for at in range(0, len(whole), step)], pause=0.15)

    assert answer.endswith(b"OK: 300")


async def test_a_head_over_the_bound_is_refused(server: Server) -> None:
    answer = await said_to(
        server,
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n",
        *[b"X-Long: " + b"x" * 8000 + b"\r\n"] * 20,
        b"\r\n",
    )

    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("over", [0, 1])
async def test_a_head_a_byte_over_the_bound_is_refused(
    server: Server, customer: Customer, device: Device, over: int
) -> None:
    ping = customer.url(f"ping?SN={device.serial_number}")
    bare = len(request("GET", ping, headers={"X-Long": ""}))

    answer = await said_to(server, request("GET", ping, headers={"X-Long": "x" * (Http.HEAD - bare + over)}))

    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 431 ")[over])


async def test_a_large_body_that_comes_with_its_head_is_taken(
    server: Server, customer: Customer, device: Device
) -> None:
    lines = body(*[f"{n}\t2026-03-02 09:00:00\t0\t1\t0" for n in range(10_000)])

    answer = await said_to(server, request("POST", customer.url(attlog(device.serial_number)), lines))

    assert len(lines) > 3 * Http.HEAD
    assert answer.endswith(b"OK: 10000")


async def test_what_is_no_http_is_refused_in_the_shape_of_errors_but_for_terminals(
    server: Server, customer: Customer, device: Device
) -> None:
    ping, broken = customer.url(f"ping?SN={device.serial_number}").encode(), b" HTTP/1.1\r\nno colon\r\n\r\n"

    of_a_page = await said_to(server, b"GET /healthz" + broken)
    of_a_terminal = await said_to(server, b"GET " + ping + broken)
    of_nobody = await said_to(server, b"SSH-2.0-OpenSSH_9.2\r\n")

    check_error(of_a_page, 400, "bad_request")
    for answer in (of_a_terminal, of_nobody):
        check_text(answer, 400, b"This is no request that can be read.")


async def test_a_head_over_the_bound_is_refused_in_the_shape_of_errors_but_for_terminals(
    server: Server, customer: Customer, device: Device
) -> None:
    ping, long = customer.url(f"ping?SN={device.serial_number}"), {"X-Long": "x" * Http.HEAD}

    of_a_page = await said_to(server, request("GET", "/healthz", headers=long))
    of_graphql = await said_to(server, request("POST", "/graphql", b"{}", headers=long))
    of_a_long_path = await said_to(server, request("GET", "/docs/" + "x" * Http.HEAD))
    of_a_terminal = await said_to(server, request("GET", ping, headers=long))
    of_nobody = await said_to(server, b"\r\n" * Http.HEAD)

    for answer in (of_a_page, of_graphql, of_a_long_path):
        check_error(answer, 431, "headers_too_large")
    for answer in (of_a_terminal, of_nobody):
        check_text(answer, 431, b"The request's line and headers are over 65536 bytes.")


async def test_who_is_turned_away_may_write_on_for_a_moment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "QUIET", wire.DEAF)
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nX-Long: " + b"x" * Http.HEAD)
            answer = await read_reply(reader)
            for _ in range(3):
                writer.write(b"x" * 1000)
                await writer.drain()
                await asyncio.sleep(0.1)
            cut = reader.at_eof() or writer.is_closing() or reader.exception()
        finally:
            await hang_up(writer)

    assert (answer.status, cut) == (431, None)


def check_error(answer: bytes, status: int, code: str) -> None:
    """Whether it is this refusal, as every error looks."""
    head, _, text = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: application/json" in head
    assert b"content-length: %d" % len(text) in head
    error = orjson.loads(text)["error"]
    assert (error["code"], error["status"]) == (code, status)
    assert error["doc_url"].endswith(f"/docs/errors/{code}")
    assert error["request_id"].encode() in head


def check_text(answer: bytes, status: int, text: bytes) -> None:
    """Whether it is this refusal, as a terminal can read it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"content-type: text/plain" in head
    assert body == text


async def test_time_between_two_requests_is_not_counted(server: Server, customer: Customer, device: Device) -> None:
    ping = request("GET", customer.url(f"ping?SN={device.serial_number}"), headers={"Connection": "keep-alive"})
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            for _ in range(3):
                writer.write(ping)
                assert (await read_reply(reader)).body == b"OK"
                await asyncio.sleep(0.7)
        finally:
            await hang_up(writer)


async def test_the_time_that_an_answer_takes_is_not_the_clients(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    await server.get(customer.url(f"ping?SN={device.serial_number}"))
    async with held(db, customer.tenant_id):
        answering = asyncio.create_task(server.post(customer.url(attlog(device.serial_number)), body(NINE)))
        await until_blocked(db)
        await asyncio.wait([answering], timeout=1.0)
        early = answering.done()

    assert not early
    assert (await answering).body == b"OK: 1"


async def test_old_http_and_pieces_of_unannounced_length_are_taken(
    server: Server, customer: Customer, device: Device
) -> None:
    url, upload = customer.url(attlog(device.serial_number)), body(NINE)
    old = f"POST {url} HTTP/1.0\r\nContent-Length: {len(upload)}\r\n\r\n".encode() + upload
    chunked = (
        f"POST {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"{len(upload):x}\r\n{upload.decode()}\r\n0\r\n\r\n"
    ).encode()

    assert [(await said_to(server, raw)).rpartition(b"\r\n\r\n")[2] for raw in (old, chunked)] == [b"OK: 1"] * 2
