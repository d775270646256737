"""Bad lines between a terminal and us: cut before a byte or after any, out of order, slow and lossy, all at once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import orjson
import pytest

from app.database import Database
from app.domain.devices import Device
from app.simulator import Terminal, simulate
from app.web.wire import Http
from tests.app.web.customers import Customer, attlog, body, eventually, lines
from tests.database import dicts
from tests.factories import make_device
from tests.server import Server, hang_up, listen, request

THREE = [f"{pin}\t2026-03-02 09:00:00\t0\t1\t0" for pin in (17, 18, 19)]
WITHIN = 60


@pytest.fixture(scope="module")
async def server(db: Database, database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, device_rate=10_000, device_burst=10_000) as running:
        yield running


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def line(talk: Talk) -> AsyncIterator[int]:
    """A port on which each connection is handed to `talk`."""
    talking: set[asyncio.Task[None]] = set()

    async def pick_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await talk(reader, writer)
        finally:
            writer.transport.abort()

    place = listen()
    waiting = await asyncio.start_server(pick_up, sock=place)
    try:
        yield place.getsockname()[1]
    finally:
        waiting.close()
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)


async def whole_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
    return head + await reader.readexactly(int(length or b"0"))


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection without a goodbye."""
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def cut(server: Server, raw: bytes, *, hard: bool) -> bytes:
    """Send so much and no more; what the server says to that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(raw)
    await writer.drain()
    if hard:
        reset(writer)
        return b""
    writer.write_eof()
    try:
        return await reader.read()
    finally:
        await hang_up(writer)


# ── cut ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_line_that_is_cut_before_any_byte_stores_nothing_and_the_terminal_tries_again(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    dials = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dials
        dials += 1
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        if dials <= 5:
            reset(back)
            reset(writer)
            return
        back.write(await whole_request(reader))
        writer.write(await there.read())
        await writer.drain()
        await hang_up(back)

    async with line(talk) as port:
        terminal = Terminal(device.serial_number, f"http://127.0.0.1:{port}/d/{customer.token}", speed=1_000)
        records = [terminal.punch(f"{pin:04}").line for pin in range(3)]
        running = asyncio.create_task(terminal.run())
        try:
            async with asyncio.timeout(WITHIN):
                await terminal.drained()
        finally:
            terminal.stop()
            await running

    assert dials > 5
    assert Counter(await lines(db, customer.tenant_id)) == Counter(records)


async def test_a_request_that_is_cut_after_any_of_its_bytes_stores_nothing(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    whole = request("POST", customer.url(attlog(device.serial_number)), body(*THREE))

    for length in range(len(whole)):
        answer = await cut(server, whole[:length], hard=length % 2 == 1)
        assert b"OK" not in answer.partition(b"\r\n\r\n")[2]

    assert await lines(db, customer.tenant_id) == []
    assert (await server.send(whole)).body == b"OK: 3"
    assert await lines(db, customer.tenant_id) == THREE


# ── out of order ─────────────────────────────────────────────────────────────────────────────────────


async def test_what_comes_a_week_late_is_stored_too_and_follows_in_the_feed(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    newer = [f"17\t2026-03-09 09:00:0{n}\t0\t1" for n in range(3)]
    older = [f"17\t2026-03-02 09:00:0{n}\t0\t1" for n in range(3)]
    url = f"cdata?SN={device.serial_number}&table=ATTLOG&Stamp="

    for stamp, batch in (("9", newer), ("3", older), ("9", newer), ("3", older)):
        answer = await server.post(customer.url(url + stamp), body(*batch))
        assert answer.body == b"OK: 3"

    events = await dicts(db, customer.tenant_id, "SELECT position, body FROM events ORDER BY position")
    told = [(row["position"], orjson.loads(row["body"])["data"]["local_time"]) for row in events]
    times = [f"2026-03-{day}T09:00:0{n}" for day in ("09", "02") for n in range(3)]
    assert told == list(enumerate(times, 1))
    assert await lines(db, customer.tenant_id) == [*older, *newer]
    await eventually(db, customer.tenant_id, "SELECT generation, mark FROM devices", [{"generation": 1, "mark": 9}])


async def test_batches_that_overtake_each_other_on_many_connections_are_each_stored_once(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    batches = [[f"{n}\t2026-03-02 09:{minute:02}:00\t0\t1" for n in range(5)] for minute in range(20)]
    order = [*batches, *batches[::2], *batches[::3]]
    random.Random(5).shuffle(order)

    await asyncio.gather(*(server.post(customer.url(attlog(device.serial_number)), body(*batch)) for batch in order))

    assert Counter(await lines(db, customer.tenant_id)) == Counter(line for batch in batches for line in batch)
    positions = [row["position"] for row in await dicts(db, customer.tenant_id, "SELECT position FROM events")]
    assert sorted(positions) == list(range(1, 101))


# ── slow and lossy ───────────────────────────────────────────────────────────────────────────────────


class Hasty(Http):
    """The same, with less patience before the first byte, and as much for each that comes."""

    PATIENCE = 2.0


async def test_a_thousand_records_over_a_bad_mobile_line_end_in_ok_and_hold_up_nobody(
    db: Database, database_url: str, customer: Customer, device: Device
) -> None:
    """32 kbit/s, 300 ms away; one segment in five is lost and comes a while later."""
    other = await make_device(db, customer.tenant_id)
    backlog = [f"{n}\t2026-03-02 09:00:00\t0\t1" for n in range(1000)]
    chance = random.Random(7)
    async with Server(database_url, http=Hasty) as server:

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", server.port)
            whole = await whole_request(reader)
            await asyncio.sleep(0.3)
            for start in range(0, len(whole), 1_200):
                segment = whole[start : start + 1_200]
                await asyncio.sleep(len(segment) / 4_000 + (0.4 if chance.random() < 0.2 else 0))
                back.write(segment)
                await back.drain()
            writer.write(await there.read())
            await writer.drain()
            await hang_up(back)

        async with line(talk) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request("POST", customer.url(attlog(device.serial_number)), body(*backlog)))
            slow = asyncio.create_task(reader.read())
            others = 0
            for second in range(50):
                upload = body(f"17\t2026-03-02 10:00:{second:02}\t0\t1")
                answer = await server.post(customer.url(attlog(other.serial_number)), upload)
                others += answer.body == b"OK: 1" and not slow.done()
            async with asyncio.timeout(WITHIN):
                answer_to_slow = await slow
            await hang_up(writer)

    assert answer_to_slow.endswith(b"OK: 1000")
    assert others == 50
    assert len(await lines(db, customer.tenant_id)) == 1050


# ── all at once ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_fleet_that_comes_back_at_once_is_told_to_wait_and_loses_nothing(
    db: Database, database_url: str, customer: Customer
) -> None:
    """More than the queue holds, from each of thirty terminals, in the same second; who is refused comes back."""
    serials = [(await make_device(db, customer.tenant_id)).serial_number for _ in range(30)]
    async with Server(database_url, ingest_queue=300, ingest_batch=100, device_burst=10_000) as server:
        report = asyncio.create_task(
            simulate(
                f"http://127.0.0.1:{server.port}/d/{customer.token}",
                devices=30,
                serials=serials,
                rate=6_000,
                duration=1,
                scenario="outage",
                speed=300,
                seed=3,
            )
        )
        healthy = []
        while not report.done():
            healthy.append((await server.get("/healthz")).status)
            await asyncio.sleep(0.05)

    done = await report
    sent = Counter(text for terminal in done.terminals for text in terminal.acknowledged_lines)
    assert done.made == done.acknowledged == 6_000
    assert done.refused > 0
    assert set(healthy) == {200}
    assert Counter(await lines(db, customer.tenant_id)) == sent
