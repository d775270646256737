"""Who shall be on which terminal: carried out whenever it polls, confirmed by what it shows, never by what it says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import orjson
import pytest

from app import ids
from app.database import Database
from app.domain import commands, ingest, placements, roster, terminal_users
from app.domain.commands import Recipient
from app.domain.devices import Device, DeviceNotActive, DeviceNotFound
from app.domain.ingest import KnownDevice
from app.domain.punches import DeviceSnapshot
from app.domain.roster import Person
from protocol.adms.commands import read_results
from protocol.adms.requests import Upload
from tests.conftest import MakeTenant
from tests.database import dicts
from tests.factories import make_device

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


class Terminal:
    """A terminal as far as its words go: it polls, reports and shows lines, all by hand."""

    def __init__(self, db: Database, device: Device) -> None:
        self.db, self.device, self.tenant_id = db, device, device.tenant_id
        self.recipient = Recipient(device.tenant_id, device.id, ZoneInfo("UTC"))
        self.number = ""

    async def poll(self, users: int | None = None) -> str | None:
        async with self.db.across("ingest", [self.tenant_id]) as connection:
            if users is not None:
                await placements.compare(connection, self.recipient, users)
            await placements.plan(connection, self.recipient)
            line = (await commands.hand_out(connection, self.recipient, NOON)).line
        if line is None:
            return None
        _, self.number, text = line.decode().split(":", 2)
        return text

    async def report(self, code: int = 0) -> None:
        async with self.db.across("ingest", [self.tenant_id]) as connection:
            results = read_results(f"ID={self.number}&Return={code}&CMD=DATA".encode())
            settled = await commands.settle(connection, self.recipient, results)
            await placements.follow(connection, self.recipient, settled.ended)

    async def show(self, *lines: str, table: str = "OPERLOG") -> list[str]:
        """Upload lines; the events that came of them."""
        snapshot = DeviceSnapshot(self.device.id, self.device.serial_number, self.device.name, None)
        known = KnownDevice(self.tenant_id, snapshot, ZoneInfo("UTC"))
        body = "".join(line + "\n" for line in lines).encode()
        reading = ingest.read(known, Upload(self.device.serial_number, table, None, body), NOON)
        async with self.db.across("ingest", [self.tenant_id]) as connection:
            return [event.type for event in await ingest.accept(connection, [reading])]

    async def states(self) -> dict[str, str]:
        found = await dicts(
            self.db,
            self.tenant_id,
            f"SELECT pin, state FROM placements WHERE device_id = '{self.device.id}' ORDER BY pin",
        )
        return {row["pin"]: row["state"] for row in found}

    async def reason(self) -> str | None:
        [row] = await dicts(self.db, self.tenant_id, "SELECT reason FROM placements")
        reason: str | None = row["reason"]
        return reason

    async def change(self, statement: str) -> None:
        async with self.db.across("ingest", [self.tenant_id]) as connection:
            await connection.execute(statement)


@pytest.fixture
async def terminal(db: Database, make_tenant: MakeTenant) -> Terminal:
    tenant = await make_tenant()
    return Terminal(db, await make_device(db, tenant.tenant_id))


async def upsert(terminal: Terminal, pin: str = "7", on: Sequence[UUID] | None = None, **changes: Any) -> UUID:
    async with terminal.db.write(terminal.tenant_id) as session:
        person, _ = await roster.upsert(session, terminal.tenant_id, Person(pin, changes, on))
        return person.id


async def place(terminal: Terminal, pin: str = "7", **changes: Any) -> UUID:
    return await upsert(terminal, pin, [terminal.device.id], **changes)


AMINA = "DATA UPDATE USERINFO PIN=7\tName=Amina\tPri=0"
HER_LINE = "USER PIN=7\tName=Amina\tPri=0\tPasswd=\tCard=\tGrp=1\tTZ="


async def test_a_person_is_written_read_back_and_confirmed(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    assert await terminal.states() == {"7": "WANTED"}

    assert await terminal.poll() == AMINA
    await terminal.report()
    assert await terminal.states() == {"7": "WANTED"}
    assert await terminal.poll() == "DATA QUERY USERINFO PIN=7"
    await terminal.show(HER_LINE)
    await terminal.report(1)

    assert await terminal.states() == {"7": "CONFIRMED"}
    assert await terminal.poll() is None


async def test_the_answer_may_come_before_the_line_or_after_it(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    await terminal.poll()
    await terminal.report()
    await terminal.poll()

    await terminal.report(1)  # before its line: it is written once more, which changes nothing
    assert await terminal.poll() == AMINA
    await terminal.report()
    await terminal.show(HER_LINE)

    assert await terminal.states() == {"7": "CONFIRMED"}


async def test_a_line_from_before_the_write_confirms_nothing(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    await terminal.show(HER_LINE)
    await terminal.poll()
    await terminal.show(HER_LINE)
    never_written = await terminal.states()
    await terminal.report()
    await terminal.show(HER_LINE)
    written = await terminal.states()
    await upsert(terminal, name="Brahim")
    await terminal.show(HER_LINE)

    assert (never_written, written) == ({"7": "WANTED"}, {"7": "CONFIRMED"})
    assert await terminal.states() == {"7": "WANTED"}


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("USER PIN=7\tName=Amina\tPri=0\tCard=778899", "CONFIRMED"),
        ("USER PIN=7\tName=\tPri=0\tCard=[15CD5B07]", "CONFIRMED"),
        ("USER PIN=7\tName=Ami\tPri=0\tCard=778899", "CONFIRMED"),  # short memory
        ("USER PIN=7\tName=Brahim\tPri=0\tCard=778899", "WANTED"),
        ("USER PIN=7\tName=Amina\tPri=14\tCard=778899", "WANTED"),
        ("USER PIN=7\tName=Amina\tPri=0\tCard=", "WANTED"),
        ("USER PIN=8\tName=Amina\tPri=0\tCard=778899", "WANTED"),
    ],
)
async def test_what_the_terminal_shows_has_to_be_what_it_took(terminal: Terminal, line: str, state: str) -> None:
    await place(terminal, name="Amina", card_number="778899")
    await terminal.poll()
    await terminal.report()
    await terminal.poll()

    await terminal.show(line)
    await terminal.report(1)

    assert await terminal.states() == {"7": state}


async def test_many_people_are_read_back_by_one_question(terminal: Terminal) -> None:
    people = [Person(str(n), {"name": f"N{n}"}, [terminal.device.id]) for n in range(10, 15)]
    async with terminal.db.write(terminal.tenant_id) as session:
        await roster.upsert_all(session, terminal.tenant_id, people)
    for n in range(10, 15):
        assert await terminal.poll() == f"DATA UPDATE USERINFO PIN={n}\tName=N{n}\tPri=0"
        await terminal.report()

    assert await terminal.poll() == "DATA QUERY USERINFO"
    await terminal.show(*(f"USER PIN={n}\tName=N{n}\tPri=0" for n in range(11, 15)), "USER PIN=99\tName=Stranger")
    await terminal.report(5)

    assert await terminal.states() == {"10": "WANTED"} | {str(n): "CONFIRMED" for n in range(11, 15)}
    assert await terminal.poll() == "DATA UPDATE USERINFO PIN=10\tName=N10\tPri=0"
    async with terminal.db.read(terminal.tenant_id) as session:
        unknown = await terminal_users.unknown_pins(session, terminal.tenant_id, [terminal.device.id])
    assert unknown == {terminal.device.id: ["99"]}


async def test_a_refusal_fails_with_its_reason_and_naming_the_device_tries_again(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    await terminal.poll()
    await terminal.report(-1001)

    assert await terminal.states() == {"7": "FAILED"}
    assert await terminal.reason() == "-1001, out of capacity"
    assert await terminal.poll() is None
    await place(terminal)
    assert (await terminal.states(), await terminal.reason()) == ({"7": "WANTED"}, None)
    assert await terminal.poll() == AMINA


async def test_a_terminal_that_is_busy_is_asked_again_and_not_for_ever(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    for _ in range(placements.MOST_TRIES):
        assert await terminal.poll() == AMINA
        await terminal.report(-1005)

    assert await terminal.poll() is None
    assert await terminal.states() == {"7": "FAILED"}


async def test_what_the_terminal_took_and_does_not_keep_fails_after_some_tries(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    for _ in range(placements.MOST_TRIES):
        assert await terminal.poll() == AMINA
        await terminal.report()
        assert await terminal.poll() == "DATA QUERY USERINFO PIN=7"
        await terminal.report(-1)

    assert await terminal.poll() is None
    assert await terminal.states() == {"7": "FAILED"}


async def test_a_terminal_that_cannot_be_asked_is_not_believed(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    await terminal.poll()
    await terminal.report()
    await terminal.poll()
    await terminal.report(-1002)

    assert await terminal.states() == {"7": "FAILED"}
    assert "cannot be asked" in (await terminal.reason() or "")


async def test_a_person_who_is_not_named_any_more_is_removed_and_the_removal_is_read_back(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    await terminal.poll()
    await terminal.report()
    await terminal.show(HER_LINE)
    await upsert(terminal, on=[])

    assert await terminal.states() == {"7": "REMOVING"}
    assert await terminal.poll() == "DATA DELETE USERINFO PIN=7"
    await terminal.report()
    assert await terminal.states() == {"7": "REMOVING"}
    assert await terminal.poll() == "DATA QUERY USERINFO PIN=7"
    await terminal.report(-1)

    assert await terminal.states() == {}
    assert await dicts(terminal.db, terminal.tenant_id, "SELECT pin FROM terminal_users") == []


async def test_a_person_who_is_still_there_is_removed_again(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    await upsert(terminal, on=[])
    await terminal.poll()
    await terminal.report()
    await terminal.poll()
    await terminal.show(HER_LINE)
    await terminal.report(1)

    assert await terminal.states() == {"7": "REMOVING"}
    assert await terminal.poll() == "DATA DELETE USERINFO PIN=7"


async def test_an_employee_who_is_deleted_is_removed_from_every_terminal(terminal: Terminal) -> None:
    employee_id = await place(terminal, name="Amina")
    async with terminal.db.write(terminal.tenant_id) as session:
        await roster.delete(session, terminal.tenant_id, employee_id)

    assert await terminal.states() == {"7": "REMOVING"}
    assert await terminal.poll() == "DATA DELETE USERINFO PIN=7"
    await terminal.report(-10)  # nobody there: that is what was wanted
    await terminal.poll()
    await terminal.report(-1)
    assert await terminal.states() == {}


async def test_without_devices_placements_are_left_as_they_are(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    await terminal.poll()
    await terminal.report()
    await terminal.show(HER_LINE)

    await upsert(terminal, external_id="hr-7")
    await upsert(terminal, name="Amina")

    assert await terminal.states() == {"7": "CONFIRMED"}


async def test_a_change_is_written_to_every_terminal_of_the_person(terminal: Terminal) -> None:
    await place(terminal, name="Amina", card_number="778899")
    await terminal.poll()
    await terminal.report()
    await terminal.show("USER PIN=7\tName=Amina\tPri=0\tCard=778899")

    await upsert(terminal, card_number=None, privilege="ADMIN")

    assert await terminal.states() == {"7": "WANTED"}
    # The card that we wrote is cleared: it may be lost.
    assert await terminal.poll() == "DATA UPDATE USERINFO PIN=7\tName=Amina\tPri=14\tCard="


async def test_a_command_with_old_data_does_not_come_after_the_one_with_new(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    await terminal.poll()
    old = terminal.number

    await upsert(terminal, name="Amina B.")
    assert await terminal.poll() == "DATA UPDATE USERINFO PIN=7\tName=Amina B.\tPri=0"
    new = terminal.number
    await terminal.change("UPDATE device_commands SET lease_until = now() WHERE lease_until IS NOT NULL")

    assert await terminal.poll() == "DATA UPDATE USERINFO PIN=7\tName=Amina B.\tPri=0"
    assert terminal.number == new
    terminal.number = old
    await terminal.report()  # late, and of what is no longer wanted
    assert await terminal.states() == {"7": "WANTED"}
    assert await terminal.poll() is None


async def test_a_terminal_that_was_away_gets_what_is_wanted_now(terminal: Terminal) -> None:
    await place(terminal, name="First")
    await place(terminal, "8", name="Gone")
    await upsert(terminal, "8", on=[])
    await upsert(terminal, name="Last")

    assert await terminal.poll() == "DATA UPDATE USERINFO PIN=7\tName=Last\tPri=0"
    await terminal.report()
    assert await terminal.poll() == "DATA DELETE USERINFO PIN=8"


async def test_a_write_that_expired_without_a_report_is_tried_again(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    await terminal.poll()
    await terminal.change("UPDATE device_commands SET expires_at = now(), lease_until = now()")
    async with terminal.db.across("ingest", [terminal.tenant_id]) as connection:
        await commands.expire(connection, terminal.tenant_id, 10)

    assert await terminal.poll() == AMINA


async def test_a_terminal_with_fewer_users_than_are_confirmed_is_read_and_filled_again(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    await terminal.poll()
    await terminal.report()
    await terminal.show(HER_LINE)
    assert await terminal.poll(users=1) is None

    assert await terminal.poll(users=0) == "DATA QUERY USERINFO PIN=7"
    assert await terminal.states() == {"7": "CONFIRMED"}
    await terminal.report(-1)

    assert await terminal.states() == {"7": "WANTED"}
    assert await terminal.poll() == AMINA


async def test_what_a_tenant_sends_goes_before_people(terminal: Terminal) -> None:
    await place(terminal, name="Amina")
    async with terminal.db.write(terminal.tenant_id) as session:
        await commands.send(session, terminal.tenant_id, terminal.device.id, "unlockDoor", {"door": 1, "seconds": 5})

    async with terminal.db.across("ingest", [terminal.tenant_id]) as connection:
        assert await commands.waits(connection, terminal.recipient)


async def test_placements_of_another_tenants_or_a_retired_device_are_refused_and_nothing_is_written(
    terminal: Terminal, make_tenant: MakeTenant
) -> None:
    stranger = await make_tenant()
    theirs = await make_device(terminal.db, stranger.tenant_id)
    retired = await make_device(terminal.db, terminal.tenant_id, status="RETIRED")

    for device_id in (theirs.id, uuid4()):
        with pytest.raises(DeviceNotFound) as refused:
            await upsert(terminal, on=[device_id])
        assert refused.value.path == ("input", "deviceIds")
    with pytest.raises(DeviceNotActive):
        await upsert(terminal, on=[retired.id])
    assert await dicts(terminal.db, terminal.tenant_id, "SELECT pin FROM placements") == []
    assert await dicts(terminal.db, terminal.tenant_id, "SELECT pin FROM employees") == []


async def test_a_finger_registered_at_a_terminal_is_announced_once(terminal: Terminal) -> None:
    employee_id = await upsert(terminal, name="Amina")
    line = "OPLOG 6\t0\t2026-03-02 09:00:00\t7\t6\t1124\t0"

    first = await terminal.show(line, "OPLOG 4\t0\t2026-03-02 09:00:00\t0\t0\t0\t0", line)
    again = await terminal.show(line, "OPLOG 6\t0\t2026-03-02 09:00:05\t99\t1\t1124\t0")

    assert (first, again) == (["employee.enrolled"], ["employee.enrolled"])
    bodies = await dicts(terminal.db, terminal.tenant_id, "SELECT body FROM events ORDER BY position")
    data = [orjson.loads(row["body"])["data"] for row in bodies]
    assert data[0]["employee"] == {"id": ids.show("emp", employee_id), "name": "Amina", "external_id": None}
    assert (data[0]["kind"], data[0]["finger"], data[0]["local_time"]) == ("fingerprint", 6, "2026-03-02T09:00:00")
    assert (data[1]["pin"], data[1]["employee"]) == ("99", None)


async def test_a_template_that_nobody_asked_for_tells_that_somebody_registered_and_is_not_kept(
    terminal: Terminal,
) -> None:
    face = "BIODATA Pin=7\tNo=0\tIndex={}\tValid=1\tDuress=0\tType=9\tMajorVer=58\tMinorVer=1\tFormat=0\tTmp=c2VjcmV0"

    first = await terminal.show(face.format(0), face.format(1), table="BIODATA")
    again = await terminal.show(face.format(0), table="BIODATA")
    others = await terminal.show(
        "FP PIN=7\tFID=3\tSize=8\tValid=1\tTMP=c2VjcmV0",
        "OPLOG 6\t0\t2026-07-01 09:00:00\t7\t3\t1124\t0",
        "BIODATA Pin=8\tNo=0\tIndex=0\tType=8\tTmp=c2VjcmV0",
        "BIODATA Pin=8\tNo=0\tIndex=0\tType=99\tTmp=c2VjcmV0",
    )

    assert (first, again, others) == (["employee.enrolled"], [], ["employee.enrolled"] * 2)
    bodies = await dicts(terminal.db, terminal.tenant_id, "SELECT body FROM events ORDER BY position")
    found = [orjson.loads(row["body"])["data"] for row in bodies]
    assert [(data["pin"], data["kind"], data["finger"]) for data in found] == [
        ("7", "face", None),
        ("7", "fingerprint", 3),
        ("8", "palm", None),
    ]
    kept = await dicts(terminal.db, terminal.tenant_id, "SELECT body FROM kept_uploads")
    assert not any(b"c2VjcmV0" in row["body"] for row in kept)
    assert not any("c2VjcmV0" in row["body"] for row in bodies)
