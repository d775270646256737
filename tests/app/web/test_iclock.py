"""Terminals over real sockets: who is heard, what is taken, and how a refusal looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from app import ids
from app.database import Database
from app.domain import bindings, devices
from app.domain.devices import Device
from app.vault import Vault
from tests.app.web.customers import (
    NINE,
    TEN,
    Customer,
    attlog,
    body,
    eventually,
    lines,
    make_customer,
    options,
    positions,
)
from tests.database import dicts, held, until_blocked
from tests.factories import make_device
from tests.server import Reply, Server, hang_up, read_reply, request


@pytest.fixture(scope="module")
async def server(db: Database, database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, device_domain="in.punch.test", device_body_bytes=2**16) as running:
        yield running


@pytest.fixture
async def device(db: Database, customer: Customer) -> Device:
    return await make_device(db, customer.tenant_id, time_zone="Africa/Casablanca")


# ── what is taken ────────────────────────────────────────────────────────────────────────────────────


async def test_an_upload_is_stored_numbered_and_acknowledged(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    answer = await server.post(customer.url(attlog(device.serial_number)), body(NINE, TEN))

    assert (answer.status, answer.body) == (200, b"OK: 2")
    assert answer.headers["content-type"] == "text/plain"
    assert "date" in answer.headers
    found = await dicts(
        db,
        customer.tenant_id,
        "SELECT pin, local_time, time_zone, punched_at, state_code, verify_code, work_code, buffered, raw "
        "FROM punches ORDER BY local_time",
    )
    assert found[0] == {
        "pin": "17",
        "local_time": datetime(2026, 3, 2, 9),  # noqa: DTZ001
        "time_zone": "Africa/Casablanca",
        "punched_at": datetime(2026, 3, 2, 9, tzinfo=UTC),  # Ramadan: no hour ahead
        "state_code": 0,
        "verify_code": 1,
        "work_code": "0",
        "buffered": True,
        "raw": NINE.encode(),
    }
    assert len(found) == 2
    assert await positions(db, customer.tenant_id) == [(1, "punch.created"), (2, "punch.created")]


async def test_ok_is_said_after_the_commit_and_not_before(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    await server.get(customer.url(f"ping?SN={device.serial_number}"))
    async with held(db, customer.tenant_id):
        answering = asyncio.create_task(server.post(customer.url(attlog(device.serial_number)), body(NINE)))
        await until_blocked(db)
        await asyncio.wait([answering], timeout=0.2)
        early = (answering.done(), await lines(db, customer.tenant_id))
    answer = await answering

    assert early == (False, [])
    assert answer.body == b"OK: 1"
    assert await lines(db, customer.tenant_id) == [NINE]


async def test_a_backlog_of_days_is_taken_piece_by_piece_and_counted_whole(
    db: Database, database_url: str, customer: Customer, device: Device
) -> None:
    backlog = [f"{n}\t2026-03-0{1 + n % 7} 09:00:00\t0\t1\t0" for n in range(9000)]
    async with Server(database_url, ingest_queue=100) as server:
        answer = await server.post(customer.url(attlog(device.serial_number)), body(*backlog, "rubbish", *backlog[:5]))

    assert answer.body == b"OK: 9006"
    stored = await dicts(db, customer.tenant_id, "SELECT raw FROM punches")
    assert sorted(row["raw"].decode() for row in stored) == sorted(backlog)
    assert len({position for position, _ in await positions(db, customer.tenant_id)}) == 9000


async def test_resends_and_parallel_duplicates_are_one_punch_and_one_event(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    target = customer.url(attlog(device.serial_number))

    together = await asyncio.gather(*(server.post(target, body(NINE, TEN)) for _ in range(20)))
    again = await server.post(target, body(TEN, NINE, TEN))

    assert {(answer.status, answer.body) for answer in together} == {(200, b"OK: 2")}
    assert again.body == b"OK: 3"
    assert await lines(db, customer.tenant_id) == [NINE, TEN]
    assert await positions(db, customer.tenant_id) == [(1, "punch.created"), (2, "punch.created")]
    assert await dicts(db, customer.tenant_id, "SELECT raw FROM rejected_records") == []


async def test_punches_that_differ_in_person_second_or_state_are_all_kept(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    different = [
        "17\t2026-03-02 09:00:00\t0\t1",
        "18\t2026-03-02 09:00:00\t0\t1",
        "017\t2026-03-02 09:00:00\t0\t1",
        "17\t2026-03-02 09:00:01\t0\t1",
        "17\t2026-03-02 09:00:00\t1\t1",
        "17\t2026-03-02 09:00:00",
    ]

    answer = await server.post(customer.url(attlog(device.serial_number)), body(*different, "17\t2026-03-02 09:00:00"))

    assert answer.body == b"OK: 7"
    assert sorted(await lines(db, customer.tenant_id)) == sorted(different)


async def test_lines_nobody_can_read_are_kept_counted_and_acknowledged(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    broken = ["rubbish", "17\tyesterday\t0\t1"]
    target = customer.url(attlog(device.serial_number))

    answers = [await server.post(target, body(broken[0], NINE, broken[1])) for _ in range(2)]

    assert [answer.body for answer in answers] == [b"OK: 3", b"OK: 3"]
    assert await lines(db, customer.tenant_id) == [NINE]
    kept = await dicts(db, customer.tenant_id, "SELECT table_name, raw, reason FROM rejected_records ORDER BY raw")
    assert kept == [
        {"table_name": "ATTLOG", "raw": broken[1].encode(), "reason": "time is not YYYY-MM-DD hh:mm:ss"},
        {"table_name": "ATTLOG", "raw": broken[0].encode(), "reason": "no time"},
    ]


async def test_the_operation_log_is_kept_without_its_passwords(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    sent = (
        b"OPLOG 4\t14\t2026-03-02 09:00:00\t0\t0\t0\t0\nUSER PIN=36234\tName=Zoe\tPri=14\tPasswd=Secret9\tCard=133440\n"
    )

    answer = await server.post(customer.url(f"cdata?SN={device.serial_number}&table=OPERLOG&Stamp=9"), sent)

    assert answer.body == b"OK: 2"
    kept = await dicts(db, customer.tenant_id, "SELECT table_name, stamp, body, record_count FROM kept_uploads")
    assert kept == [{"table_name": "OPERLOG", "stamp": "9", "body": sent.replace(b"Secret9", b""), "record_count": 2}]


async def test_templates_and_photos_are_counted_and_thrown_away(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    lines_sent = (
        b"OPLOG 6\t14\t2026-03-02 09:00:00\t1\t0\t0\t0\n"
        b"FP PIN=1\tFID=6\tSize=16\tValid=1\tTMP=VEVNUExBVEU=\n"
        b"USERPIC PIN=1\tFileName=1.jpg\tSize=4\tContent=/9j/4A==\n"
    )
    photo = b"PIN=20260302090000-17.jpg\nSN=X\nsize=6\nCMD=uploadphoto\n\0\xff\xd8\xff\xe0AB"

    log = await server.post(customer.url(f"cdata?SN={device.serial_number}&table=OPERLOG&Stamp=1"), lines_sent)
    picture = await server.post(customer.url(f"cdata?SN={device.serial_number}&table=ATTPHOTO&Stamp=2"), photo)

    assert (log.body, picture.body) == (b"OK: 3", b"OK")
    kept = await dicts(
        db, customer.tenant_id, "SELECT table_name, body, record_count, discarded_count FROM kept_uploads ORDER BY id"
    )
    assert kept == [
        {"table_name": "OPERLOG", "body": lines_sent.split(b"FP")[0], "record_count": 3, "discarded_count": 2},
        {"table_name": "ATTPHOTO", "body": b"", "record_count": 1, "discarded_count": 1},
    ]


async def test_tables_and_endpoints_nobody_knows_are_kept_and_acknowledged(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    serial = device.serial_number

    table = await server.post(customer.url(f"cdata?SN={serial}&table=Novelty&Stamp=1"), b"a=1\nb=2\n")
    endpoint = await server.post(customer.url(f"newthing?SN={serial}&x=1"), b"\x00\x01what")
    result = await server.post(customer.url(f"devicecmd?SN={serial}"), b"ID=1&Return=0&CMD=CHECK")
    ping = await server.get(customer.url(f"ping?SN={serial}"))

    assert [answer.body for answer in (table, endpoint, result, ping)] == [b"OK: 2", b"OK", b"OK", b"OK"]
    kept = await dicts(db, customer.tenant_id, "SELECT table_name, body FROM kept_uploads ORDER BY id")
    assert kept == [
        {"table_name": "Novelty", "body": b"a=1\nb=2\n"},
        {"table_name": "POST newthing", "body": b"SN=%b&x=1\n\x00\x01what" % serial.encode()},
        {"table_name": "devicecmd", "body": b"ID=1&Return=0&CMD=CHECK"},
    ]


@pytest.mark.parametrize(
    "line",
    [
        "17\t0001-01-01 00:00:00\t0\t1",
        "17\t9999-12-31 23:59:59\t0\t1",
        "17\t2026-03-02 09:00:00\t2147483647\t-2147483648",
        "\N{GRINNING FACE}\t2026-03-02 09:00:00\t0\t1",
        "17\t2026-03-02 09:00:00\t0\t1\t" + "9" * 4000,
        "17\t2026-03-02 09:00:00\t0\t1\t0\t0\t0\t1\t36.6\t0",
    ],
)
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles"])
async def test_nothing_a_line_may_hold_keeps_it_from_being_stored(
    server: Server, db: Database, customer: Customer, zone: str, line: str
) -> None:
    device = await make_device(db, customer.tenant_id, time_zone=zone, push_version="2.4.1", announced_type="att")

    answer = await server.post(customer.url(attlog(device.serial_number)), body(line))

    assert (answer.status, answer.body) == (200, b"OK: 1")
    assert await lines(db, customer.tenant_id) == [line]


@pytest.mark.parametrize("path", ["cdata", "cdata/", "cdata.aspx", "cdata.ASPX", "Cdata.php", "/cdata", "cdata.aspx/"])
async def test_every_spelling_of_a_path_is_one_endpoint(
    server: Server, db: Database, customer: Customer, device: Device, path: str
) -> None:
    answer = await server.post(customer.url(f"{path}?sn={device.serial_number}&TABLE=attlog&stamp=1"), body(NINE))

    assert (answer.status, answer.body) == (200, b"OK: 1")
    assert await lines(db, customer.tenant_id) == [NINE]


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "application/push;charset=UTF-8", "x"])
async def test_bytes_are_bytes_whatever_the_content_type_says(
    server: Server, db: Database, customer: Customer, device: Device, content_type: str
) -> None:
    line = "1+7=%41&x\t2026-03-02 09:00:00\t0\t1"

    await server.post(customer.url(attlog(device.serial_number)), body(line), {"Content-Type": content_type})

    assert await lines(db, customer.tenant_id) == [line]


async def test_a_body_in_chunks_is_read_whole(server: Server, db: Database, customer: Customer, device: Device) -> None:
    head = request("POST", customer.url(attlog(device.serial_number)), headers={"Transfer-Encoding": "chunked"})
    sent = body(NINE, TEN)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (sent[:9], sent[9:40], sent[40:]))

    answer = await server.send(head.replace(b"Content-Length: 0\r\n", b"") + chunks + b"0\r\n\r\n")

    assert answer.body == b"OK: 2"
    assert await lines(db, customer.tenant_id) == [NINE, TEN]


async def test_a_head_in_dribbles_and_no_host_is_no_trouble(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    target = customer.url(attlog(device.serial_number))
    raw = f"POST {target} HTTP/1.0\r\nContent-Length: {len(body(NINE))}\r\n\r\n".encode() + body(NINE)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    for start in range(0, len(raw), 40):
        writer.write(raw[start : start + 40])
        await writer.drain()
        await asyncio.sleep(0.002)
    answer = await read_reply(reader)
    await hang_up(writer)

    assert answer.body == b"OK: 1"
    assert await lines(db, customer.tenant_id) == [NINE]


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────


async def test_a_truncated_body_stores_nothing(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    target = customer.url(attlog(device.serial_number))
    whole = request("POST", target, body(NINE, TEN))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    writer.write(whole[: -len(TEN) - 1])  # the first line is whole, the second one missing
    await writer.drain()
    writer.write_eof()
    heard = await reader.read()
    await hang_up(writer)
    after = await server.post(target, body("18\t2026-03-02 11:00:00\t0\t1"))

    assert not heard.startswith(b"HTTP/1.1 200")
    assert b"OK" not in heard
    assert after.body == b"OK: 1"
    assert await lines(db, customer.tenant_id) == ["18\t2026-03-02 11:00:00\t0\t1"]


async def test_a_body_over_the_bound_is_refused_whole(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    target = customer.url(attlog(device.serial_number))
    fits = body(NINE + "\t" + "0" * 1000) + b"\n" * (2**16 - len(NINE) - 1002)

    declared = await server.send(request("POST", target, headers={"Content-Length": str(2**16 + 1)}))
    head = request("POST", target, headers={"Transfer-Encoding": "chunked"}).replace(b"Content-Length: 0\r\n", b"")
    undeclared = await server.send(head + (b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 4 + b"2\r\nxx\r\n0\r\n\r\n")
    just_fits = await server.post(target, fits)

    assert [(answer.status, answer.body) for answer in (declared, undeclared)] == [(413, b"Too large.")] * 2
    assert len(fits) == 2**16
    assert just_fits.body == b"OK: 1"
    assert len(await lines(db, customer.tenant_id)) == 1


async def test_an_encoded_body_is_refused(server: Server, db: Database, customer: Customer, device: Device) -> None:
    target = customer.url(attlog(device.serial_number))

    refused = await server.post(target, body(NINE), {"Content-Encoding": "gzip"})
    taken = await server.post(target, body(TEN), {"Content-Encoding": "identity"})

    assert (refused.status, refused.body) == (415, b"Content-Encoding is not supported.")
    assert taken.body == b"OK: 1"
    assert await lines(db, customer.tenant_id) == [TEN]


@pytest.mark.parametrize("query", ["", "?SN=", "?SN=a%20b", "?SN=A&SN=B", "?SN=" + "x" * 65, "?SN=%00"])
async def test_a_request_without_a_serial_number_is_no_terminals(
    server: Server, customer: Customer, query: str
) -> None:
    answer = await server.post(customer.url(f"cdata{query}"), body(NINE))

    assert (answer.status, answer.body) == (400, b"Not a terminal's request.")


STRANGERS = ["unknown", "pending", "suspended", "retired", "another tenant's", "bound elsewhere", "no such address"]


async def test_every_terminal_that_is_not_ours_is_answered_alike(
    server: Server, db: Database, vault: Vault, customer: Customer
) -> None:
    other = await make_customer(db, vault)
    tenant_id = customer.tenant_id
    serials: dict[str, Device | str] = {
        "unknown": "NEVERSEEN1",
        "pending": (await make_device(db, tenant_id, status="PENDING", registered=False, bound_addresses=[])),
        "suspended": (await make_device(db, tenant_id, status="SUSPENDED")),
        "retired": (await make_device(db, tenant_id, status="RETIRED")),
        "another tenant's": (await make_device(db, other.tenant_id)),
        "bound elsewhere": (await make_device(db, tenant_id, bound_addresses=["shared"])),
        "no such address": (await make_device(db, tenant_id)),
    }
    known = await make_device(db, tenant_id)

    async def ask(stranger: str) -> list[tuple[int, dict[str, str], bytes]]:
        found = serials[stranger]
        serial = found if isinstance(found, str) else found.serial_number
        where = Customer(tenant_id, "nosuchtokennosuchtok", "") if stranger == "no such address" else customer
        replies = [
            await server.get(where.url(f"cdata?SN={serial}&options=all&pushver=2.4.1")),
            await server.post(where.url(attlog(serial)), body(NINE)),
            await server.get(where.url(f"getrequest?SN={serial}")),
            await server.post(where.url(f"devicecmd?SN={serial}"), b"ID=1&Return=0"),
            await server.get(where.url(f"ping?SN={serial}")),
            await server.post(where.url(f"novelty?SN={serial}"), b"x"),
        ]
        return [told(reply, serial) for reply in replies]

    answers = {stranger: await ask(stranger) for stranger in STRANGERS}
    twice = {stranger: await ask(stranger) for stranger in STRANGERS}

    expected = answers["unknown"]
    assert [(status, text) for status, _, text in expected[1:]] == [(403, b"This terminal is not known here.")] * 5
    assert answers == dict.fromkeys(STRANGERS, expected)
    assert twice == answers
    assert await lines(db, tenant_id) == []
    assert await lines(db, other.tenant_id) == []
    assert (await server.post(customer.url(attlog(known.serial_number)), body(NINE))).body == b"OK: 1"


def told(reply: Reply, serial: str) -> tuple[int, dict[str, str], bytes]:
    """All that a reply tells, but for the time and the name that was in the question."""
    headers = {name: value for name, value in reply.headers.items() if name not in {"date", "content-length"}}
    return reply.status, headers, reply.body.replace(serial.encode(), b"SN")


async def test_the_handshake_of_a_stranger_asks_for_no_data(server: Server, customer: Customer, device: Device) -> None:
    stranger = await server.get(customer.url("cdata?SN=STRANGER01&options=all&pushver=2.4.1"))
    known = await server.get(customer.url(f"cdata?SN={device.serial_number}&options=all&pushver=2.4.1"))

    told_stranger, told_known = options(stranger.body), options(known.body)
    assert stranger.status == 200
    assert stranger.body.startswith(b"GET OPTION FROM: STRANGER01\n")
    assert told_stranger["TransFlag"] == "TransData"
    assert told_stranger["Realtime"] == "0"
    assert "TimeZone" not in told_stranger
    assert told_known["TransFlag"] == "TransData AttLog\tOpLog"
    assert told_known["Realtime"] == "1"
    assert told_known["TimeZone"] in {"0", "1"}


async def test_a_stranger_waits_once_in_the_tenants_list(server: Server, db: Database, customer: Customer) -> None:
    await asyncio.gather(*(server.post(customer.url(attlog("STRANGER02")), body(NINE)) for _ in range(10)))

    listed = await dicts(
        db, customer.tenant_id, "SELECT serial_number, status, registered, sought_address FROM devices"
    )
    assert listed == [
        {"serial_number": "STRANGER02", "status": "PENDING", "registered": False, "sought_address": "own"}
    ]


async def test_strangers_beyond_the_bound_are_refused_without_being_listed(
    server: Server, db: Database, customer: Customer
) -> None:
    async with db.across("ingest", [customer.tenant_id]) as connection:
        await connection.execute(
            "INSERT INTO devices (tenant_id, id, serial_number, name, status, registered, created_at, updated_at) "
            "SELECT $1, gen_random_uuid(), 'S' || n, 'S', 'PENDING', false, now(), now() FROM generate_series(1, $2) n",
            customer.tenant_id,
            bindings.PENDING_BOUND - 1,
        )

    answers = [await server.post(customer.url(attlog(f"LATE{n}")), body(NINE)) for n in range(3)]

    assert {answer.status for answer in answers} == {403}
    listed = await dicts(db, customer.tenant_id, "SELECT serial_number FROM devices WHERE serial_number ~ 'LATE'")
    assert listed == [{"serial_number": "LATE0"}]


async def test_a_terminal_that_asks_too_often_is_refused_and_stores_nothing(
    db: Database, database_url: str, vault: Vault
) -> None:
    customer = await make_customer(db, vault)
    device = await make_device(db, customer.tenant_id)
    quiet = await make_device(db, customer.tenant_id)
    punched = [f"17\t2026-03-02 09:00:{second:02}\t0\t1" for second in range(8)]
    async with Server(database_url, device_rate=0.001, device_burst=3) as server:
        answers = [await server.post(customer.url(attlog(device.serial_number)), body(line)) for line in punched]
        neighbour = await server.post(customer.url(attlog(quiet.serial_number)), body(TEN))

    taken = [answer.body == b"OK: 1" for answer in answers]
    assert taken == sorted(taken, reverse=True)
    assert {(a.status, a.body) for a in answers if a.status != 200} == {(429, b"Too many requests.")}
    assert sum(taken) == 4  # the first contact costs nothing: nobody is known yet
    assert neighbour.body == b"OK: 1"
    assert await lines(db, customer.tenant_id) == [*punched[:4], TEN]


async def test_when_too_much_waits_to_be_stored_the_next_upload_is_told_to_come_back(
    db: Database, database_url: str, customer: Customer, device: Device
) -> None:
    target = customer.url(attlog(device.serial_number))
    many = [f"{n}\t2026-03-02 09:00:00\t0\t1" for n in range(100)]
    async with Server(database_url, ingest_queue=100) as server:
        async with held(db, customer.tenant_id):
            waiting = asyncio.create_task(server.post(target, body(*many)))
            await until_blocked(db)
            refused = await server.post(target, body(TEN))
        stored = await waiting
        again = await server.post(target, body(TEN))

    assert (refused.status, refused.body) == (503, b"Try again.")
    assert [answer.body for answer in (stored, again)] == [b"OK: 100", b"OK: 1"]
    assert sorted(await lines(db, customer.tenant_id)) == sorted([*many, TEN])


async def test_while_the_database_is_away_nothing_is_acknowledged() -> None:
    async with Server("postgresql://nobody:x@127.0.0.1:9/none") as server:
        answer = await server.post("/d/token/iclock/cdata?SN=A1&table=ATTLOG", body(NINE))
        hello = await server.get("/d/token/iclock/cdata?SN=A1&options=all")

    assert [(reply.status, reply.body) for reply in (answer, hello)] == [(503, b"Try again.")] * 2


# ── the shared address ───────────────────────────────────────────────────────────────────────────────


async def test_on_the_shared_address_an_operator_of_one_tenant_may_let_registration_decide(
    db: Database, vault: Vault, database_url: str, customer: Customer
) -> None:
    async with db.write(customer.tenant_id) as session:
        await devices.register(session, customer.tenant_id, f"SHARED{customer.label}", time_zone="UTC")
    target = f"/iclock/{attlog('SHARED' + customer.label)}"

    answers = {}
    for mode in ("off", "challenge", "approve"):
        async with Server(database_url, shared_address=mode) as server:
            answers[mode] = (await server.post(target, body(NINE))).status

    assert answers == {"off": 403, "challenge": 403, "approve": 200}
    bound = await dicts(db, customer.tenant_id, "SELECT status, bound_addresses FROM devices")
    assert bound == [{"status": "ACTIVE", "bound_addresses": ["shared"]}]
    assert await lines(db, customer.tenant_id) == [NINE]


async def test_what_is_bound_on_its_own_address_is_not_heard_on_the_shared_one(
    db: Database, database_url: str, customer: Customer, device: Device
) -> None:
    tail = attlog(device.serial_number)
    async with Server(database_url, shared_address="approve") as server:
        refused = await server.post(f"/iclock/{tail}", body(NINE))
        sought = await dicts(db, customer.tenant_id, "SELECT bound_addresses, sought_address FROM devices")
        async with db.write(customer.tenant_id) as session:
            await bindings.approve(session, customer.tenant_id, device.id, {}, shared=True)
        async with asyncio.timeout(20):
            while (await server.post(f"/iclock/{tail}", body(NINE))).status != 200:  # noqa: ASYNC110  until it is asked anew
                await asyncio.sleep(0.1)

    assert refused.status == 403
    assert sought == [{"bound_addresses": ["own"], "sought_address": "shared"}]
    assert await lines(db, customer.tenant_id) == [NINE]


# ── addresses and binding ────────────────────────────────────────────────────────────────────────────


async def test_a_tenants_host_name_is_its_address(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    def at(host: str) -> bytes:
        return request("POST", f"/iclock/{attlog(device.serial_number)}", body(NINE), {"Host": host})

    wrong = [
        await server.send(at(host))
        for host in (
            "in.punch.test",
            f"x.{customer.label}.in.punch.test",
            f"{customer.label}.in.punch.test.evil.example",
            f"{customer.label}x.in.punch.test",
            f"{customer.token}",
        )
    ]
    right = await server.send(at(f"{customer.label.upper()}.In.Punch.TEST:8080"))

    assert {answer.status for answer in wrong} == {403}
    assert right.body == b"OK: 1"
    assert await lines(db, customer.tenant_id) == [NINE]


async def test_a_registered_terminal_is_bound_by_its_first_contact_and_that_is_announced(
    server: Server, db: Database, customer: Customer
) -> None:
    async with db.write(customer.tenant_id) as session:
        device = await devices.register(
            session, customer.tenant_id, "REGISTERED1", name="Gate", time_zone="Africa/Casablanca"
        )

    answers = await asyncio.gather(*(server.get(customer.url("getrequest?SN=REGISTERED1")) for _ in range(8)))
    upload = await server.post(customer.url(attlog("REGISTERED1")), body(NINE))

    assert {(answer.status, answer.body) for answer in answers} == {(200, b"OK")}
    assert upload.body == b"OK: 1"
    status = await dicts(db, customer.tenant_id, "SELECT status, bound_addresses FROM devices")
    assert status == [{"status": "ACTIVE", "bound_addresses": ["own"]}]
    [bound, punched, *_] = await dicts(  # that it is online comes later
        db, customer.tenant_id, "SELECT position, type, body FROM events ORDER BY position"
    )
    assert (bound["position"], bound["type"], punched["position"]) == (1, "device.bound", 2)
    assert orjson.loads(bound["body"])["data"] == {
        "id": ids.show("dev", device.id),
        "serial_number": "REGISTERED1",
        "name": "Gate",
        "site_id": None,
        "time_zone": "Africa/Casablanca",
    }


async def test_two_processes_that_bind_a_terminal_at_once_announce_it_once(
    db: Database, database_url: str, customer: Customer
) -> None:
    async with db.write(customer.tenant_id) as session:
        await devices.register(session, customer.tenant_id, "REGISTERED2", time_zone="UTC")

    async with Server(database_url) as one, Server(database_url) as two:
        await asyncio.gather(*(s.get(customer.url("getrequest?SN=REGISTERED2")) for s in (one, two) * 4))

    assert await positions(db, customer.tenant_id) == [(1, "device.bound"), (2, "device.online")]


async def test_a_suspended_terminal_is_refused_within_seconds_and_heard_again_afterwards(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    target = customer.url(attlog(device.serial_number))
    before = await server.post(target, body(NINE))

    async with db.write(customer.tenant_id) as session:
        await devices.suspend(session, customer.tenant_id, device.id)
    refused = await until(server, "POST", target, 403)
    async with db.write(customer.tenant_id) as session:
        await devices.resume(session, customer.tenant_id, device.id)
    again = await until(server, "POST", target, 200)

    assert (before.body, refused.body, again.body) == (b"OK: 1", b"This terminal is not known here.", b"OK: 1")
    assert await lines(db, customer.tenant_id) == [NINE]


async def until(server: Server, method: str, target: str, status: int) -> Reply:
    """The first answer with this status. What is known of a terminal is believed for two seconds."""
    asked = request(method, target, body(NINE) if method == "POST" else b"")
    async with asyncio.timeout(10):
        while (answer := await server.send(asked)).status != status:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return answer


async def test_a_terminal_that_was_told_to_send_nothing_is_told_to_check_once_it_is_bound(
    server: Server, db: Database, customer: Customer
) -> None:
    stranger = await server.get(customer.url("cdata?SN=EARLY1&options=all&pushver=2.4.1"))
    async with db.write(customer.tenant_id) as session:
        await devices.register(session, customer.tenant_id, "EARLY1", time_zone="UTC")
    polled = await until(server, "GET", customer.url("getrequest?SN=EARLY1"), 200)
    greeted = await server.get(customer.url("cdata?SN=EARLY1&options=all&pushver=2.4.1"))
    await eventually(db, customer.tenant_id, "SELECT muted FROM devices", [{"muted": False}])

    assert options(stranger.body)["TransFlag"] == "TransData"
    assert polled.body.startswith(b"C:")
    assert polled.body.rstrip(b"\r\n").endswith(b":CHECK")
    assert options(greeted.body)["TransFlag"] == "TransData AttLog\tOpLog"


async def test_what_a_terminal_tells_of_itself_is_written_down(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    serial = device.serial_number

    await server.get(customer.url(f"cdata?SN={serial}&options=all&pushver=2.4.1&DeviceType=att"))
    await server.post(customer.url(f"cdata?SN={serial}&table=options"), b"~DeviceName=X903,FWVersion=Ver 1,UserCount=5")
    await server.get(customer.url(f"getrequest?SN={serial}&INFO=Ver%202,6,0,77"))
    await server.post(customer.url(attlog(serial)), body(NINE))

    wanted = {
        "model": "X903",
        "firmware_version": "Ver 2",
        "push_version": "2.4.1",
        "announced_type": "att",
        "dialect": "ATTENDANCE",
        "reported_user_count": 6,
        "reported_punch_count": 77,
        "seen": True,
    }
    query = f"SELECT {', '.join(list(wanted)[:-1])}, last_seen_at IS NOT NULL AS seen FROM devices"
    await eventually(db, customer.tenant_id, query, [wanted])
    again = await server.get(customer.url(f"cdata?SN={serial}&options=all&pushver=2.4.1"))
    assert options(again.body)["ATTLOGStamp"] == "9999"


async def test_the_time_is_told_in_the_terminals_zone(server: Server, db: Database, customer: Customer) -> None:
    device = await make_device(db, customer.tenant_id, time_zone="Asia/Kathmandu")

    answer = await server.get(customer.url(f"cdata?SN={device.serial_number}&type=time"))

    told_time = datetime.fromisoformat(answer.body.decode().removeprefix("Time="))
    assert answer.body.endswith(b"+05:45")
    assert abs((told_time - datetime.now(UTC)).total_seconds()) < 5


async def test_a_path_elsewhere_is_nobodys_and_no_file_is_ever_served(server: Server, customer: Customer) -> None:
    answers = [
        await server.send(request("GET", target))
        for target in (
            "/iclock",
            "/iclock/../healthz",
            f"/d/{customer.token}/other",
            "/iclock/file?SN=A1&url=../../etc/passwd",
            "/iclock/%2e%2e/%2e%2e/etc/passwd?SN=A1",
        )
    ]

    assert [answer.status for answer in answers] == [404, 400, 404, 403, 403]
    assert Path("/etc/passwd").read_bytes()[:20] not in b"".join(answer.body for answer in answers)
