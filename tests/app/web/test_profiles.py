"""Terminals over real sockets whose clock is off, that share a serial number, or whose memory began anew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.database import Database
from app.domain.devices import Device
from tests.app.web.customers import Customer, attlog, body, eventually, lines, options
from tests.database import dicts
from tests.factories import make_device
from tests.server import Server, request

ZONE = ZoneInfo("Asia/Kolkata")
HELLO = "cdata?SN={}&options=all&pushver=2.4.1&DeviceType=att"


@pytest.fixture(scope="module")
async def server(db: Database, database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, trusted_proxies="127.0.0.9/32") as running:
        yield running


@pytest.fixture
async def device(db: Database, customer: Customer) -> Device:
    return await make_device(db, customer.tenant_id, time_zone=ZONE.key)


def shown(**off: float) -> str:
    """What a clock that is off by this much shows."""
    return f"{datetime.now(ZONE) + timedelta(**off):%Y-%m-%d %H:%M:%S}"


async def flags(db: Database, customer: Customer) -> list[list[str]]:
    found = await dicts(db, customer.tenant_id, "SELECT flags FROM punches ORDER BY received_at, local_time")
    return [row["flags"] for row in found]


# ── the clock ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_clock_that_is_ahead_is_measured_flagged_and_cleared_once_it_is_right(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    url = customer.url(attlog(device.serial_number))
    measured = "SELECT round(clock_skew_ms / 60000.0)::int AS minutes FROM devices"

    await server.post(url, body(f"17\t{shown(minutes=20)}\t0\t1"))
    await eventually(db, customer.tenant_id, measured, [{"minutes": 20}])
    await server.post(url, body("17\t2026-01-01 08:00:00\t0\t1"))
    await server.post(url, body(f"17\t{shown()}\t0\t1"))
    await eventually(db, customer.tenant_id, measured, [{"minutes": 0}])
    await server.post(url, body("17\t2026-01-01 08:00:01\t0\t1"))

    assert await flags(db, customer) == [["clock_drift"], ["clock_drift"], [], []]


async def test_a_units_state_tells_its_clock_whichever_way_it_is_off(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    serial = device.serial_number

    await server.post(customer.url(f"cdata?SN={serial}&table=rtstate"), body(f"time={shown(hours=-2)}\tsensor=00"))
    await server.post(customer.url(f"cdata?SN={serial}&table=rtlog"), body(f"time={shown(hours=-3)}\tpin=17\tindex=1"))

    assert await flags(db, customer) == [["clock_drift"]]
    await eventually(
        db, customer.tenant_id, "SELECT round(clock_skew_ms / 60000.0)::int AS m FROM devices", [{"m": -120}]
    )


async def test_where_the_clocks_change_a_terminal_is_told_to_ask_for_its_zone_and_is_set(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    """As if its last handshake had been before the change."""
    serial = device.serial_number
    greeted = await server.get(customer.url(HELLO.format(serial)))
    await eventually(db, customer.tenant_id, "SELECT told_offset FROM devices", [{"told_offset": 330}])
    async with db.across("ingest", [customer.tenant_id]) as connection:
        await connection.execute("UPDATE devices SET told_offset = 270")
    async with Server(server.settings.database_url.get_secret_value()) as fresh:
        check = await fresh.get(customer.url(f"getrequest?SN={serial}"))
        number = check.body.split(b":")[1].decode()
        await fresh.post(customer.url(f"devicecmd?SN={serial}"), f"ID={number}&Return=0&CMD=CHECK\n".encode())
        again = await fresh.get(customer.url(HELLO.format(serial)))
        clock = await fresh.get(customer.url(f"getrequest?SN={serial}"))
        nothing = await fresh.get(customer.url(f"getrequest?SN={serial}"))

    assert check.body.endswith(b":CHECK")
    assert [options(reply.body)["TimeZone"] for reply in (greeted, again)] == ["330", "330"]
    told = datetime.fromisoformat(clock.body.decode().partition("DateTime=")[2]).replace(tzinfo=ZONE)
    assert abs((told - datetime.now(ZONE)).total_seconds()) < 30
    assert nothing.body == b"OK"
    assert await dicts(db, customer.tenant_id, "SELECT told_offset FROM devices") == [{"told_offset": 330}]


# ── two of them ──────────────────────────────────────────────────────────────────────────────────────


async def test_two_terminals_with_one_serial_number_are_flagged_and_so_are_their_punches(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    url = customer.url(attlog(device.serial_number))
    for second, source in enumerate(("127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2")):
        upload = body(f"17\t2026-03-02 09:00:0{second}\t0\t1")
        answer = await server.send(request("POST", url, upload), source=source)
        assert answer.body == b"OK: 1"

    assert await flags(db, customer) == [[], [], ["two_sources"], ["two_sources"]]
    [row] = await dicts(db, customer.tenant_id, "SELECT two_sources_at, callers->>'source' AS source FROM devices")
    assert row["two_sources_at"] is not None
    assert row["source"] == "127.0.0.2 url"


async def test_a_proxy_that_is_trusted_says_where_a_terminal_calls_from_and_another_does_not(
    server: Server, db: Database, customer: Customer
) -> None:
    async def call(device: Device, proxy: str) -> Any:
        for claimed in ("192.0.2.1", "203.0.113.5", "192.0.2.1"):
            headers = {"X-Forwarded-For": f"198.51.100.7, {claimed}"}
            raw = request("GET", customer.url(f"ping?SN={device.serial_number}"), headers=headers)
            await server.send(raw, source=proxy)
        query = "SELECT two_sources_at IS NOT NULL AS two, callers->>'source' AS source FROM devices WHERE id = $1"
        async with db.across("ingest", [customer.tenant_id]) as connection:
            return tuple(await connection.fetchrow(query, device.id))

    behind, direct = [await make_device(db, customer.tenant_id) for _ in range(2)]

    assert await call(behind, "127.0.0.9") == (True, "192.0.2.1 url")
    assert await call(direct, "127.0.0.1") == (False, "127.0.0.1 url")


# ── a memory that began anew ─────────────────────────────────────────────────────────────────────────


async def test_after_a_factory_reset_nothing_is_skipped_lost_or_doubled(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    serial = device.serial_number
    old = [f"17\t2026-03-02 09:00:{second:02}\t0\t1" for second in range(10)]
    new = [f"17\t2026-03-03 09:00:{second:02}\t0\t1" for second in range(2)]
    await server.get(customer.url(f"getrequest?SN={serial}&INFO=Ver,2,0,10,192.0.2.9"))
    await server.post(customer.url(f"cdata?SN={serial}&table=ATTLOG&Stamp=10"), body(*old))
    await eventually(db, customer.tenant_id, "SELECT stamps->>'ATTLOG' AS s FROM devices", [{"s": "10"}])

    # It lost its memory, and held two new records before it called again.
    stale = await server.get(customer.url(HELLO.format(serial)))
    check = await server.get(customer.url(f"getrequest?SN={serial}&INFO=Ver,0,0,2,192.0.2.9"))
    again = await server.get(customer.url(HELLO.format(serial)))
    for lost_answer in range(2):  # the first answer is lost
        upload = body(*new, *(old[:3] if lost_answer else []))  # and somebody restored a part of the old records
        answer = await server.post(customer.url(f"cdata?SN={serial}&table=ATTLOG&Stamp=2"), upload)
        assert answer.body == b"OK: %d" % (5 if lost_answer else 2)

    assert options(stale.body)["ATTLOGStamp"] == "10"
    assert check.body.endswith(b":CHECK")
    assert options(again.body)["ATTLOGStamp"] == "0"
    assert await lines(db, customer.tenant_id) == [*old, *new]
    wanted = {"generation": 2, "since": True, "stamp": "2", "mark": 2, "reported_punch_count": 2}
    query = (
        "SELECT generation, generation_at IS NOT NULL AS since, stamps->>'ATTLOG' AS stamp, mark, reported_punch_count "
        "FROM devices"
    )
    await eventually(db, customer.tenant_id, query, [wanted])


async def test_a_board_that_numbers_its_records_from_the_start_again_keeps_them_all(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    """The same person, state and number: only the time differs."""
    url = customer.url(f"cdata?SN={device.serial_number}&table=rtlog")
    records = {number: f"time=2026-03-02 09:00:0{number}\tpin=17\tinoutstatus=0\tindex={number}" for number in (1, 2)}
    later = f"time={shown()}\tpin=17\tinoutstatus=0\tindex=1"

    await server.post(url, body(records[1], records[2]))
    for _ in range(2):
        await server.post(url, body(later))
    await server.post(url, body(records[1], records[2]))

    assert await lines(db, customer.tenant_id) == [records[1], records[2], later]
    [row] = await dicts(db, customer.tenant_id, "SELECT generation, two_sources_at FROM devices")
    assert row == {"generation": 2, "two_sources_at": None}


async def test_a_terminal_that_only_sends_everything_again_has_the_memory_that_it_had(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    serial = device.serial_number
    for number in (1, 2, 3, 1, 2, 3):
        line = f"17\t2026-03-02 09:00:0{number}\t0\t1"
        await server.post(customer.url(f"cdata?SN={serial}&table=ATTLOG&Stamp={number}"), body(line))

    assert len(await lines(db, customer.tenant_id)) == 3
    await eventually(db, customer.tenant_id, "SELECT generation, mark FROM devices", [{"generation": 1, "mark": 3}])


# ── what a tenant is told ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upload_over_the_bound_is_a_rejected_record_of_its_device_once(
    db: Database, database_url: str, customer: Customer, device: Device, chunked: bool
) -> None:
    url = customer.url(attlog(device.serial_number))
    upload = b"17\t2026-03-02 09:00:00\t0\t1\n" * 3000
    raw = request("POST", url, upload)
    if chunked:
        head = f"POST {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw = head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(upload), upload)
    async with Server(database_url, device_body_bytes=2**16) as server:
        answers = [await server.send(raw) for _ in range(3)]
        stranger = await server.send(raw.replace(device.serial_number.encode(), b"STRANGER000X"))

    assert {(reply.status, reply.body) for reply in (*answers, stranger)} == {(413, b"Too large.")}
    assert await lines(db, customer.tenant_id) == []
    [rejected] = await dicts(db, customer.tenant_id, "SELECT device_id, table_name, reason, raw FROM rejected_records")
    assert rejected["device_id"] == device.id
    assert rejected["table_name"] == "ATTLOG"
    assert rejected["reason"].startswith("an upload over the bound of 65536 bytes (DEVICE_BODY_BYTES)")
    length = b"in chunks" if chunked else str(len(upload)).encode()
    assert rejected["raw"] == b"POST table=ATTLOG stamp=9999 length=" + length
