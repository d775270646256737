from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from app import ids
from app.database import Database, driver
from app.domain import employees, events, ingest, roster
from app.domain.employees import Employee, EmployeeNotFound, EmployeePrivilege, PinInvalid
from app.domain.events import Logged
from app.domain.ingest import KnownDevice, Reading
from app.domain.punches import DeviceSnapshot, PunchView
from app.domain.roster import Person
from app.errors import AppError, InvalidInput
from protocol.adms.codes import Direction, VerifyMode
from tests.conftest import MakeTenant
from tests.factories import make_device

NINE = datetime(2026, 3, 2, 9, 0, 0)  # noqa: DTZ001  a wall clock


async def known_device(db: Database, tenant_id: UUID) -> KnownDevice:
    device = await make_device(db, tenant_id)
    return KnownDevice(tenant_id, DeviceSnapshot(device.id, device.serial_number, device.name, None), ZoneInfo("UTC"))


def punch(device: KnownDevice, pin: str, local_time: datetime = NINE) -> PunchView:
    return PunchView(
        id=ids.new(),
        device_id=device.device.id,
        pin=pin,
        local_time=local_time,
        time_zone="UTC",
        punched_at=local_time.replace(tzinfo=UTC),
        received_at=datetime.now(UTC),
        direction=Direction.CHECK_IN,
        state_code=0,
        verify_mode=VerifyMode.FACE,
        verify_code=15,
        work_code=None,
        temperature_celsius=None,
        mask_worn=None,
        buffered=False,
        flags=(),
        raw=b"raw",
    )


async def accept(db: Database, device: KnownDevice, *punches: PunchView) -> None:
    reading = Reading(device, datetime.now(UTC), len(punches), list(punches))
    async with db.across("ingest", [device.tenant_id]) as connection:
        await ingest.accept(connection, [reading])


async def upsert(db: Database, tenant_id: UUID, pin: str, **changes: Any) -> Employee:
    async with db.write(tenant_id) as session:
        return (await roster.upsert(session, tenant_id, Person(pin, changes)))[0]


async def delete(db: Database, tenant_id: UUID, employee_id: UUID) -> None:
    async with db.write(tenant_id) as session:
        await roster.delete(session, tenant_id, employee_id)


async def look(db: Database, tenant_id: UUID, *pins: str) -> dict[str, tuple[str | None, str | None, str]]:
    async with db.read(tenant_id) as session:
        found = await employees.by_pins(session, tenant_id, pins)
    return {pin: (row.name, row.external_id, row.privilege) for pin, row in found.items()}


async def logged(db: Database, tenant_id: UUID) -> list[Logged]:
    async with db.read(tenant_id) as session:
        return await events.after(await driver(session), tenant_id, 0, 10_000)


async def test_a_person_is_created_changed_and_cleared_by_pin(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    created = await upsert(db, tenant_id, "0042", name="زينب", external_id="hr-1")
    first = await look(db, tenant_id, "0042", "42")
    changed = await upsert(db, tenant_id, "0042", privilege=EmployeePrivilege.ADMIN)
    second = await look(db, tenant_id, "0042")
    await upsert(db, tenant_id, "0042", name=None, external_id="", privilege=None)
    third = await look(db, tenant_id, "0042")

    assert created.id == changed.id
    assert first == {"0042": ("زينب", "hr-1", "USER")}
    assert second == {"0042": ("زينب", "hr-1", "ADMIN")}
    assert third == {"0042": (None, None, "USER")}


@pytest.mark.parametrize("pin", ["", " 1", "1\t2", "١", "a-b", "x" * 25, "1\n", "\ud800"])
async def test_a_pin_that_no_terminal_takes_is_refused(db: Database, make_tenant: MakeTenant, pin: str) -> None:
    tenant_id = (await make_tenant()).tenant_id

    with pytest.raises(PinInvalid):
        await upsert(db, tenant_id, pin)


@pytest.mark.parametrize("field", [("name", "name"), ("external_id", "externalId"), ("card_number", "cardNumber")])
@pytest.mark.parametrize("text", ["a\tb", "a\r", "a\x7f", "\x00", "x" * 201, "\udc00"])
async def test_a_control_character_is_refused_and_never_stripped(
    db: Database, make_tenant: MakeTenant, field: tuple[str, str], text: str
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    name, shown = field

    with pytest.raises(InvalidInput) as refused:
        await upsert(db, tenant_id, "1", **{name: text})

    assert refused.value.path == ("input", shown)
    assert await look(db, tenant_id, "1") == {}


async def test_many_people_are_written_together_or_not_at_all(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    await upsert(db, tenant_id, "7", name="Before")
    people = [Person(str(n), {"name": f"Name {n}"}) for n in range(1000)]

    async with db.write(tenant_id) as session:
        rows, _ = await roster.upsert_all(session, tenant_id, people)
    with pytest.raises(PinInvalid) as refused:
        async with db.write(tenant_id) as session:
            await roster.upsert_all(session, tenant_id, [Person("1", {"name": "X"}), Person("-", {})])

    assert [(row.pin, row.name) for row in rows] == [(str(n), f"Name {n}") for n in range(1000)]
    assert refused.value.path == ("input", "employees", "1", "pin")
    assert (await look(db, tenant_id, "1"))["1"][0] == "Name 1"


async def test_too_many_people_or_one_twice_are_refused(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    for people in ([Person("1", {}), Person("2", {}), Person("1", {})], [Person(str(n), {}) for n in range(1001)]):
        with pytest.raises(InvalidInput):
            async with db.write(tenant_id) as session:
                await roster.upsert_all(session, tenant_id, people)

    assert await look(db, tenant_id, "1", "2") == {}


async def test_the_same_people_from_both_ends_at_once_do_not_deadlock(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    pins = [f"{n:02}" for n in range(50)]

    async def write(order: list[str], name: str) -> None:
        async with db.write(tenant_id) as session:
            await roster.upsert_all(session, tenant_id, [Person(pin, {"name": name}) for pin in order])

    # Whoever holds the one in the middle lets both come half the way.
    async with db.write(tenant_id) as session:
        await roster.upsert(session, tenant_id, Person("25", {}))
        writers = [asyncio.create_task(write(order, "N")) for order in (pins, pins[::-1])]
        await asyncio.sleep(0.3)
    await asyncio.gather(*writers)

    assert await look(db, tenant_id, *pins) == dict.fromkeys(pins, ("N", None, "USER"))


async def test_a_new_person_is_announced_on_the_punches_that_waited(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    device = await known_device(db, tenant_id)
    early, late = punch(device, "7"), punch(device, "7", NINE + timedelta(hours=8))
    await accept(db, device, late, punch(device, "8"), early)

    person = await upsert(db, tenant_id, "7", name="Zoë")
    again = await upsert(db, tenant_id, "7", name="Zoé")

    created, _, _, *matched = await logged(db, tenant_id)
    assert again.id == person.id
    assert [(event.position, event.type) for event in matched] == [(4, "punch.matched"), (5, "punch.matched")]
    assert [event.data()["id"] for event in matched] == [ids.show("pun", early.id), ids.show("pun", late.id)]
    employee = {"id": ids.show("emp", person.id), "name": "Zoë", "external_id": None}
    assert matched[1].data() == created.data() | {"employee": employee}


async def test_only_the_newest_thousand_punches_are_announced(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    device = await known_device(db, tenant_id)
    waiting = [punch(device, "7", NINE + timedelta(minutes=n)) for n in range(1003)]
    await accept(db, device, *waiting)

    await upsert(db, tenant_id, "7")

    matched = [event.data()["id"] for event in await logged(db, tenant_id) if event.type == "punch.matched"]
    assert matched == [ids.show("pun", one.id) for one in waiting[3:]]


async def test_a_person_who_is_deleted_leaves_the_punches(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    device = await known_device(db, tenant_id)
    person = await upsert(db, tenant_id, "7", name="Zoë")

    await delete(db, tenant_id, person.id)
    await accept(db, device, punch(device, "7"))
    with pytest.raises(EmployeeNotFound):
        await delete(db, tenant_id, person.id)

    assert [event.data()["employee"] for event in await logged(db, tenant_id)] == [None]


async def test_a_person_created_while_punches_commit_never_misses_one(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    device = await known_device(db, tenant_id)

    async def race(pin: str) -> None:
        punches = [punch(device, pin, NINE + timedelta(minutes=n)) for n in range(6)]
        uploads = [accept(db, device, one) for one in punches]
        await asyncio.gather(*uploads[:3], upsert(db, tenant_id, pin, name=pin), *uploads[3:])

    for n in range(25):
        await race(f"R{n}")

    # Each punch is told with its person: when it was created, or when the person was.
    told: dict[str, list[tuple[str, bool]]] = {}
    for event in await logged(db, tenant_id):
        data = event.data()
        told.setdefault(data["id"], []).append((event.type, data["employee"] is not None))
    assert len(told) == 150
    assert {tuple(kind) for kind in told.values()} <= {
        (("punch.created", True),),
        (("punch.created", False), ("punch.matched", True)),
    }


async def test_an_upload_that_waits_for_a_new_person_finds_them(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    device = await known_device(db, tenant_id)

    async with db.write(tenant_id) as session:
        person, _ = await roster.upsert(session, tenant_id, Person("7", {}))
        uploading = asyncio.create_task(accept(db, device, punch(device, "7")))
        await asyncio.sleep(0.2)
        waited = not uploading.done()
    await uploading

    assert waited
    (created,) = await logged(db, tenant_id)
    assert created.data()["employee"]["id"] == ids.show("emp", person.id)


async def test_a_new_person_who_waits_for_an_upload_finds_its_punches(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    device = await known_device(db, tenant_id)
    reading = Reading(device, datetime.now(UTC), 1, [punch(device, "7")])

    async with db.across("ingest", [tenant_id]) as connection:
        await ingest.accept(connection, [reading])
        arriving = asyncio.create_task(upsert(db, tenant_id, "7"))
        await asyncio.sleep(0.2)
        waited = not arriving.done()
    person = await arriving

    assert waited
    created, matched = await logged(db, tenant_id)
    assert created.data()["employee"] is None
    assert (matched.type, matched.data()["employee"]["id"]) == ("punch.matched", ids.show("emp", person.id))


async def test_another_tenants_person_is_not_found(db: Database, make_tenant: MakeTenant) -> None:
    mine, theirs = (await make_tenant()).tenant_id, (await make_tenant()).tenant_id
    person = await upsert(db, theirs, "7", name="Theirs")

    for employee_id in (person.id, ids.new()):
        with pytest.raises(EmployeeNotFound):
            await delete(db, mine, employee_id)
    await upsert(db, mine, "7", name="Mine")

    assert await look(db, theirs, "7") == {"7": ("Theirs", None, "USER")}


async def test_a_person_deleted_while_being_changed_is_created_anew(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    person = await upsert(db, tenant_id, "7", name="Old")

    async with db.write(tenant_id) as session:
        await roster.delete(session, tenant_id, person.id)
        changing = asyncio.create_task(upsert(db, tenant_id, "7", external_id="x"))
        await asyncio.sleep(0.2)
    renewed = await changing

    assert renewed.id != person.id
    assert await look(db, tenant_id, "7") == {"7": (None, "x", "USER")}


def test_refusals_have_their_codes() -> None:
    kinds: list[type[AppError]] = [PinInvalid, EmployeeNotFound, InvalidInput]

    assert [kind.code for kind in kinds] == ["pin_invalid", "employee_not_found", "invalid_input"]
