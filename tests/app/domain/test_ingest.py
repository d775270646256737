"""Uploads become rows: what is read out of them, and what one transaction makes of many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import orjson
import pytest

from app import ids
from app.database import Database
from app.domain import ingest, roster
from app.domain.devices import Device
from app.domain.events import Logged
from app.domain.ingest import KnownDevice, Reading
from app.domain.punches import DeviceSnapshot
from app.domain.roster import Person
from app.vault import Vault
from protocol.adms.codes import Direction, VerifyMode
from protocol.adms.requests import Upload
from tests.conftest import MakeTenant
from tests.database import held, rows, until_blocked
from tests.factories import make_device, make_endpoint

NOW = datetime(2026, 3, 2, 8, 0, 30, tzinfo=UTC)
GATE = KnownDevice(
    ids.new(), DeviceSnapshot(ids.new(), "GATE1", "Gate", None), ZoneInfo("Europe/Paris"), "2.4.1", "att"
)


def known(device: Device) -> KnownDevice:
    snapshot = DeviceSnapshot(device.id, device.serial_number, device.name, device.site_id)
    return KnownDevice(device.tenant_id, snapshot, ZoneInfo("UTC"))


def attlog(device: KnownDevice, *lines: str) -> Reading:
    return ingest.read(device, Upload("x", "ATTLOG", "1", "\n".join(lines).encode()), NOW)


def punch(device: Device, *numbers: int) -> Reading:
    """One upload with a punch of PIN 17 for each second."""
    return attlog(known(device), *(f"17\t2026-03-02 08:00:{number:02}\t0\t1\t0" for number in numbers))


async def accept(db: Database, *readings: Reading) -> list[Logged]:
    async with db.across("ingest", list({reading.device.tenant_id for reading in readings})) as connection:
        return await ingest.accept(connection, readings)


@pytest.fixture
async def device(db: Database, make_tenant: MakeTenant) -> Device:
    return await make_device(db, (await make_tenant()).tenant_id)


@pytest.fixture
async def own_pool(database_url: str) -> AsyncIterator[Database]:
    """The shared database through one connection of the test's own."""
    database = Database(database_url, pool=1)
    yield database
    await database.stop()


async def logged(db: Database, tenant_id: UUID) -> list[tuple[int, dict[str, Any]]]:
    found = await rows(db, tenant_id, "SELECT position, body FROM events ORDER BY position")
    return [(position, orjson.loads(body)) for position, body in found]


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_line_is_read_in_the_terminals_zone() -> None:
    reading = attlog(GATE, "0017\t2026-03-02 09:00:02\t1\t15\t7\t0\t0\t1\t36.6\t0")

    [read] = reading.punches
    assert (read.pin, read.local_time, read.time_zone) == ("0017", datetime(2026, 3, 2, 9, 0, 2), "Europe/Paris")  # noqa: DTZ001
    assert (read.punched_at, read.received_at) == (datetime(2026, 3, 2, 8, 0, 2, tzinfo=UTC), NOW)
    assert (read.direction, read.state_code, read.work_code) == (Direction.CHECK_OUT, 1, "7")
    assert (read.verify_mode, read.verify_code) == (VerifyMode.FACE, 15)
    assert (read.mask_worn, read.temperature_celsius) == (True, 36.6)
    assert (read.buffered, read.flags) == (False, ())
    assert read.raw == b"0017\t2026-03-02 09:00:02\t1\t15\t7\t0\t0\t1\t36.6\t0"
    assert (reading.count, reading.weight) == (1, 1)


@pytest.mark.parametrize(
    ("wall", "buffered", "flags"),
    [
        ("2026-03-02 08:58:31", False, ()),
        ("2026-03-02 08:58:29", True, ()),
        ("2026-03-02 09:05:30", False, ()),
        ("2026-03-02 09:05:31", False, ("clock_drift",)),
        ("2026-03-03 08:00:00", False, ("clock_drift",)),
        ("2026-03-03 09:00:31", False, ("impossible_time",)),
        ("2000-12-31 23:59:59", True, ("impossible_time",)),
    ],
)
def test_what_comes_late_is_buffered_and_what_cannot_be_is_flagged(
    wall: str, buffered: bool, flags: tuple[str, ...]
) -> None:
    [read] = attlog(GATE, f"17\t{wall}\t0\t1").punches

    assert (read.buffered, read.flags) == (buffered, flags)


def test_unreadable_lines_are_beside_the_punches_and_count_too() -> None:
    reading = attlog(GATE, "rubbish", "17\t2026-03-02 09:00:02\t0\t1", "TABLE=ATTLOG", "")

    assert [read.raw for read in reading.punches] == [b"17\t2026-03-02 09:00:02\t0\t1"]
    assert [(line.table, line.raw, line.reason) for line in reading.rejected] == [("ATTLOG", b"rubbish", "no time")]
    assert (reading.count, reading.weight) == (2, 2)


def test_an_identity_check_is_kept_and_is_no_punch() -> None:
    reader = KnownDevice(GATE.tenant_id, GATE.device, GATE.zone, "2.4.0", "pid")
    check = "17\t2026-03-02 09:00:02\t0\t15\t0\t0\t0\tAB123\t1"

    reading = attlog(reader, check, "17\t2026-03-02 09:00:03\t0\t15\t0\t0\t0\tAB123\t0")

    assert [read.local_time.second for read in reading.punches] == [3]
    assert [(kept.table, kept.body, kept.count) for kept in reading.kept] == [("ATTLOG", check.encode(), 1)]
    assert reading.count == 2


def test_photos_and_options_are_answered_without_a_count() -> None:
    counts = {
        table: ingest.read(GATE, Upload("x", table, None, b"a=1\nb=2\n"), NOW).count
        for table in ("OPERLOG", "USERINFO", "Novelty", "OPTIONS", "ATTPHOTO")
    }

    assert counts == {"OPERLOG": 2, "USERINFO": 2, "Novelty": 2, "OPTIONS": None, "ATTPHOTO": None}


# ── one transaction ──────────────────────────────────────────────────────────────────────────────────


async def test_a_punch_is_announced_with_its_device(db: Database, device: Device) -> None:
    reading = punch(device, 1)

    [event] = await accept(db, reading)

    [(position, body)] = await logged(db, device.tenant_id)
    assert (position, event.position) == (1, 1)
    assert orjson.loads(event.body) == body
    assert body["type"] == "punch.created"
    assert body["tenant_id"] == ids.show("ten", device.tenant_id)
    assert body["data"]["id"] == ids.show("pun", reading.punches[0].id)
    assert body["data"]["pin"] == "17"
    assert body["data"]["device"] == {
        "id": ids.show("dev", device.id),
        "serial_number": device.serial_number,
        "name": "Gate",
        "site_id": None,
    }
    assert body["data"]["employee"] is None
    assert body["data"]["local_time"] == "2026-03-02T08:00:01"
    assert body["data"]["punched_at"] == "2026-03-02T08:00:01.000Z"
    assert await rows(db, device.tenant_id, "SELECT id FROM punches") == [(reading.punches[0].id,)]


async def test_a_resent_upload_is_one_punch_and_announces_nothing(db: Database, device: Device) -> None:
    first = await accept(db, punch(device, 1, 2))
    again = await accept(db, punch(device, 2, 1, 3))
    third = await accept(db, punch(device, 1, 2, 3))

    assert [len(batch) for batch in (first, again, third)] == [2, 1, 0]
    assert await rows(db, device.tenant_id, "SELECT count(*) FROM punches") == [(3,)]
    assert [position for position, _ in await logged(db, device.tenant_id)] == [1, 2, 3]


async def test_the_same_line_in_two_uploads_of_one_commit_is_one_punch(db: Database, device: Device) -> None:
    announced = await accept(db, punch(device, 1, 1), punch(device, 1), punch(device, 2, 1))

    assert [event.position for event in announced] == [1, 2]
    assert await rows(db, device.tenant_id, "SELECT count(*) FROM punches") == [(2,)]


async def test_the_same_line_in_two_transactions_at_once_is_one_punch(db: Database, device: Device) -> None:
    async with db.across("ingest", [device.tenant_id]) as connection:
        first = await ingest.accept(connection, [punch(device, 1)])
        twin = asyncio.create_task(accept(db, punch(device, 1)))
        await until_blocked(db)
    second = await twin

    assert (len(first), len(second)) == (1, 0)
    assert await rows(db, device.tenant_id, "SELECT count(*) FROM punches") == [(1,)]
    assert [position for position, _ in await logged(db, device.tenant_id)] == [1]


async def test_a_twin_of_a_transaction_that_fails_takes_its_place(db: Database, device: Device) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.across("ingest", [device.tenant_id]) as connection:
            await ingest.accept(connection, [punch(device, 1)])
            twin = asyncio.create_task(accept(db, punch(device, 1)))
            await until_blocked(db)
            raise ZeroDivisionError
    [event] = await twin

    assert event.position == 1
    assert await rows(db, device.tenant_id, "SELECT count(*) FROM punches") == [(1,)]


async def test_many_tenants_share_a_transaction_and_nothing_else(db: Database, make_tenant: MakeTenant) -> None:
    devices = [await make_device(db, (await make_tenant()).tenant_id) for _ in range(5)]

    await accept(db, *(punch(device, second) for second in range(3) for device in devices))

    for device in devices:
        events = await logged(db, device.tenant_id)
        assert [position for position, _ in events] == [1, 2, 3]
        assert {body["tenant_id"] for _, body in events} == {ids.show("ten", device.tenant_id)}
        assert {body["data"]["device"]["serial_number"] for _, body in events} == {device.serial_number}
    transactions = await asyncio.gather(
        *(rows(db, device.tenant_id, "SELECT DISTINCT xmin::text FROM punches") for device in devices)
    )
    assert len({tuple(found) for found in transactions}) == 1


@pytest.mark.parametrize("counts", [(1, 2), (2, 1)])
async def test_heads_are_locked_in_one_order_whoever_comes_first_in_an_upload(
    db: Database, make_tenant: MakeTenant, counts: tuple[int, int]
) -> None:
    tenants = sorted([(await make_tenant()).tenant_id, (await make_tenant()).tenant_id])
    first, second = [await make_device(db, tenant_id) for tenant_id in tenants]
    readings = [punch(second, *range(counts[1])), punch(first, *range(counts[0]))]

    async with held(db, tenants[0]):
        accepting = asyncio.create_task(accept(db, *readings))
        await until_blocked(db)
        async with db.across("ingest", tenants) as connection:  # the second is still free: nobody waits in a circle
            free = await connection.fetch(
                "SELECT tenant_id FROM feed_heads WHERE tenant_id = $1 FOR UPDATE NOWAIT", tenants[1]
            )
    await accepting

    assert [row[0] for row in free] == [tenants[1]]
    assert [await rows(db, tenant_id, "SELECT position FROM feed_heads") for tenant_id in tenants] == [
        [(counts[0],)],
        [(counts[1],)],
    ]


async def test_every_endpoint_that_wants_it_is_owed_a_delivery(
    db: Database, vault: Vault, device: Device, make_tenant: MakeTenant
) -> None:
    tenant_id = device.tenant_id
    wants_all = await make_endpoint(db, vault, tenant_id)
    wants_punches = await make_endpoint(db, vault, tenant_id, event_types=["punch.created"])
    paused = await make_endpoint(db, vault, tenant_id, status="PAUSED")
    await make_endpoint(db, vault, tenant_id, event_types=["device.bound"])
    await make_endpoint(db, vault, tenant_id, status="DISABLED")
    await make_endpoint(db, vault, tenant_id, deleted_at=NOW)
    await make_endpoint(db, vault, (await make_tenant()).tenant_id)

    [event] = await accept(db, punch(device, 1))
    await accept(db, punch(device, 1))

    owed = await rows(db, tenant_id, "SELECT endpoint_id, event_id, position, status FROM webhook_deliveries")
    assert sorted(owed) == sorted((each.id, event.id, 1, "PENDING") for each in (wants_all, wants_punches, paused))


async def test_bytes_are_kept_once_however_often_they_come(db: Database, device: Device) -> None:
    def reading() -> Reading:
        kept = ingest.read(known(device), Upload("x", "OPERLOG", "7", b"OPLOG 4\t1\t2026-03-02 09:00:00\t0"), NOW)
        kept.rejected = attlog(known(device), "rubbish").rejected
        return kept

    for _ in range(2):
        assert await accept(db, reading(), reading()) == []

    assert await rows(db, device.tenant_id, "SELECT table_name, stamp FROM kept_uploads") == [("OPERLOG", "7")]
    assert await rows(db, device.tenant_id, "SELECT raw FROM rejected_records") == [(b"rubbish",)]


async def test_what_is_salvaged_is_bytes_only(db: Database, device: Device) -> None:
    reading = attlog(known(device), "17\t2026-03-02 08:00:01\t0\t1", "rubbish")

    await accept(db, ingest.salvage(reading, "refused by the database"))

    found = await rows(db, device.tenant_id, "SELECT raw, reason FROM rejected_records ORDER BY raw")
    assert found == [(b"17\t2026-03-02 08:00:01\t0\t1", "refused by the database"), (b"rubbish", "no time")]
    assert await rows(db, device.tenant_id, "SELECT id FROM punches") == []


# ── whose PIN it is ──────────────────────────────────────────────────────────────────────────────────


async def enroll(db: Database, tenant_id: UUID, pin: str, name: str) -> str:
    async with db.write(tenant_id) as session:
        person, _ = await roster.upsert(session, tenant_id, Person(pin, {"name": name}))
    return ids.show("emp", person.id)


async def test_a_punch_is_announced_with_the_person_who_has_its_pin(
    db: Database, device: Device, make_tenant: MakeTenant
) -> None:
    employee_id = await enroll(db, device.tenant_id, "17", "Zoë")
    await enroll(db, (await make_tenant()).tenant_id, "17", "Somebody else's")

    await accept(db, punch(device, 1))

    [(_, body)] = await logged(db, device.tenant_id)
    assert body["data"]["employee"] == {"id": employee_id, "name": "Zoë", "external_id": None}


async def test_a_person_enrolled_between_the_insert_and_the_head_is_found(db: Database, device: Device) -> None:
    tenant_id = device.tenant_id
    async with db.write(tenant_id) as session:  # holds the head until it commits
        person, waiting = await roster.upsert(session, tenant_id, Person("17", {"name": "Zoë"}))
        accepting = asyncio.create_task(accept(db, punch(device, 1)))
        await until_blocked(db)
    await accepting

    assert waiting == []  # the upload had not committed
    [(position, body)] = await logged(db, tenant_id)
    assert (position, body["type"]) == (1, "punch.created")
    assert body["data"]["employee"] == {"id": ids.show("emp", person.id), "name": "Zoë", "external_id": None}


async def test_a_person_enrolled_while_an_upload_holds_the_head_is_matched_afterwards(
    db: Database, device: Device
) -> None:
    tenant_id = device.tenant_id
    async with db.across("ingest", [tenant_id]) as connection:
        await ingest.accept(connection, [punch(device, 1)])
        enrolling = asyncio.create_task(enroll(db, tenant_id, "17", "Zoë"))
        await until_blocked(db)
    employee_id = await enrolling

    events = await logged(db, tenant_id)
    assert [(position, body["type"]) for position, body in events] == [(1, "punch.created"), (2, "punch.matched")]
    assert [body["data"]["employee"] and body["data"]["employee"]["id"] for _, body in events] == [None, employee_id]
    assert events[0][1]["data"]["id"] == events[1][1]["data"]["id"]


async def test_a_person_renamed_before_the_head_is_taken_has_the_new_name(db: Database, device: Device) -> None:
    await enroll(db, device.tenant_id, "17", "Zoe")
    async with held(db, device.tenant_id):
        accepting = asyncio.create_task(accept(db, punch(device, 1)))
        await until_blocked(db)
        renaming = asyncio.create_task(enroll(db, device.tenant_id, "17", "Zoë"))
        await until_blocked(db, 2)
    await asyncio.gather(accepting, renaming)

    [(_, body)] = await logged(db, device.tenant_id)
    assert body["data"]["employee"]["name"] in {"Zoe", "Zoë"}  # whoever had the head first


# ── whose rows these are ─────────────────────────────────────────────────────────────────────────────


async def test_an_upload_for_a_tenant_that_was_not_named_is_refused_whole(
    db: Database, device: Device, make_tenant: MakeTenant
) -> None:
    other = await make_tenant()

    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with db.across("ingest", [other.tenant_id]) as connection:
            await ingest.accept(connection, [punch(device, 1)])

    assert await rows(db, device.tenant_id, "SELECT id FROM punches") == []


async def test_at_once_it_speaks_only_for_the_tenants_it_names_and_leaves_no_role_behind(
    own_pool: Database, device: Device, make_tenant: MakeTenant
) -> None:
    other = await make_tenant()

    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await ingest.accept_at_once(own_pool.at_once, [punch(device, 1)], [other.tenant_id])
    logged = await ingest.accept_at_once(own_pool.at_once, [punch(device, 1)], [device.tenant_id])
    [after] = await own_pool.at_once("SELECT current_user = session_user, current_setting('app.tenant_ids', true)")

    assert [event.position for event in logged or ()] == [1]
    assert tuple(after) == (True, "")


async def test_at_once_nothing_is_done_with_an_upload_that_is_more_than_punches(db: Database, device: Device) -> None:
    mixed = attlog(known(device), "17\t2026-03-02 08:00:01\t0\t1", "not a record")

    assert await ingest.accept_at_once(db.at_once, [punch(device, 2), mixed], [device.tenant_id]) is None
    assert await rows(db, device.tenant_id, "SELECT id FROM punches") == []


async def test_a_punch_cannot_point_at_another_tenants_device(
    db: Database, device: Device, make_tenant: MakeTenant
) -> None:
    other = await make_tenant()
    theirs = KnownDevice(other.tenant_id, known(device).device, ZoneInfo("UTC"))

    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await accept(db, attlog(theirs, "17\t2026-03-02 08:00:01\t0\t1"))

    assert await rows(db, other.tenant_id, "SELECT id FROM punches") == []
    assert await rows(db, other.tenant_id, "SELECT position FROM feed_heads") == [(0,)]


async def test_two_tenants_with_the_same_serial_and_the_same_punch_both_keep_it(
    db: Database, make_tenant: MakeTenant
) -> None:
    ours, theirs = [
        await make_device(db, (await make_tenant()).tenant_id, serial_number="TWINSERIAL") for _ in range(2)
    ]

    await accept(db, punch(ours, 1), punch(theirs, 1))

    assert await rows(db, ours.tenant_id, "SELECT device_id FROM punches") == [(ours.id,)]
    assert await rows(db, theirs.tenant_id, "SELECT device_id FROM punches") == [(theirs.id,)]
