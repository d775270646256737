"""Who has which PIN, changed. A punch whose PIN finds its person later is announced again, as punch.matched.

Uploads commit beside these changes. Both sides look once they hold the tenant's feed head: an upload that held it first
is seen here, with its punches; one that comes later sees the person. So a punch and its person never miss each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from sqlmodel import select

from app import ids, paging
from app.database import Session, driver
from app.domain import devices, outbox, placements, punches, words
from app.domain.employees import Employee, EmployeeNotFound, EmployeePrivilege, check_pin, shown, snapshot
from app.domain.events import EventType, Happening, Logged
from app.domain.punches import DeviceSnapshot
from app.domain.tables import columns, now
from app.errors import AppError, InvalidInput

#: People in one change, at most.
MOST_AT_ONCE: Final = 1000
#: Devices named for one person, and placements named in one change, at most.
MOST_DEVICES: Final = 500
MOST_PLACEMENTS: Final = 50_000
#: Punches announced in one change, at most: the newest. All of them show their person from then on.
MOST_MATCHED: Final = 1000

_ROW: Final = columns(Employee)


class PinTaken(InvalidInput):
    """Somebody has this PIN."""

    def __init__(self, employee: Employee) -> None:
        super().__init__(f"The PIN {employee.pin} is somebody's already.", path=("input", "pin"))
        self.pin, self.name, self.employee_id = employee.pin, employee.name, employee.id


@dataclass(frozen=True, slots=True)
class Person:
    """What to know of whoever has `pin`. `changes` may name name, external_id, card_number, privilege; None clears.

    `device_ids` are all the devices on which they shall be; None leaves that as it is.
    """

    pin: str
    changes: Mapping[str, Any]
    device_ids: Sequence[UUID] | None = None


def checked(person: Person) -> Person:
    """The person, if an upsert would take them; PinInvalid or InvalidInput otherwise."""
    return replace(person, pin=check_pin(person.pin), changes=_checked(person.changes))


async def upsert(session: Session, tenant_id: UUID, person: Person) -> tuple[Employee, list[Logged]]:
    """Create or change one person; ring with the events afterwards. PinInvalid, InvalidInput."""
    known = checked(person)
    _bound([known])
    found, logged = await _write(session, tenant_id, [known])
    return found[0], logged


async def add(session: Session, tenant_id: UUID, person: Person) -> tuple[Employee, list[Logged]]:
    """Create one person, and change nobody. PinTaken, also when a twin was quicker; PinInvalid, InvalidInput."""
    known = checked(person)
    _bound([known])
    found, logged = await _write(session, tenant_id, [known], new=True)
    return found[0], logged


async def upsert_all(
    session: Session, tenant_id: UUID, people: Sequence[Person]
) -> tuple[list[Employee], list[Logged]]:
    """Create or change up to 1000 people, all or none; they come back in the same order.

    Raises PinInvalid and InvalidInput, with the place of the row in their path.
    """
    if len(people) > MOST_AT_ONCE:
        raise InvalidInput(f"At most {MOST_AT_ONCE} people at once.", path=("input", "employees"))
    known: dict[str, Person] = {}
    for place, person in enumerate(people):
        with in_row(place):
            if check_pin(person.pin) in known:
                raise InvalidInput(f"The PIN {person.pin} is here twice.", path=("input", "pin"))
            known[person.pin] = checked(person)
    _bound(people, "employees")
    paths = {pin: ("input", "employees", str(place), "deviceIds") for place, pin in enumerate(known)}
    return await _write(session, tenant_id, list(known.values()), paths=paths)


@contextmanager
def in_row(place: int) -> Iterator[None]:
    """What is refused in here names its field in this row of many."""
    try:
        yield
    except AppError as exc:
        exc.path = ("input", "employees", str(place), *exc.path[1:])
        raise


def _bound(people: Sequence[Person], field: str = "deviceIds") -> None:
    counts = [len(person.device_ids or ()) for person in people]
    if max(counts, default=0) > MOST_DEVICES or sum(counts) > MOST_PLACEMENTS:
        raise InvalidInput(
            f"At most {MOST_DEVICES} devices for one person, and {MOST_PLACEMENTS} placements at once.",
            path=("input", field),
        )


async def hold(session: Session, tenant_id: UUID, employee_id: UUID) -> Employee:
    """The tenant's employee, whom nobody else changes until the transaction ends. EmployeeNotFound."""
    query = select(Employee).where(_ROW.tenant_id == tenant_id, _ROW.id == employee_id).with_for_update(key_share=True)
    person = (await session.exec(query, execution_options={"populate_existing": True})).one_or_none()
    if person is None:
        raise EmployeeNotFound(employee_id)
    return person


async def delete(session: Session, tenant_id: UUID, employee_id: UUID) -> None:
    """Forget a person, here and on every terminal; their punches keep the PIN. EmployeeNotFound."""
    connection = await driver(session)
    pin = await connection.fetchval(
        "DELETE FROM employees WHERE tenant_id = $1 AND id = $2 RETURNING pin", tenant_id, employee_id
    )
    if pin is None:
        raise EmployeeNotFound(employee_id)
    await placements.want(session, tenant_id, (), {pin: ()})
    await outbox.hold(connection, tenant_id)


async def _write(
    session: Session,
    tenant_id: UUID,
    people: Sequence[Person],
    *,
    new: bool = False,
    paths: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> tuple[list[Employee], list[Logged]]:
    created, rows = await _rows(session, tenant_id, [person.pin for person in people])
    if new and (known := rows.keys() - created):
        raise PinTaken(rows[min(known)])
    renamed = False
    changed: list[str] = []
    for person in people:
        row = rows[person.pin]
        before = (row.name, row.external_id)
        shown_before = (row.name, row.card_number, row.privilege)
        for field, value in person.changes.items():
            setattr(row, field, value)
        renamed |= before != (row.name, row.external_id)
        if shown_before != (row.name, row.card_number, row.privilege) and person.pin not in created:
            changed.append(person.pin)
        if person.changes:
            row.updated_at = now()
    await session.flush()
    placed = {person.pin: person.device_ids for person in people if person.device_ids is not None}
    await placements.want(session, tenant_id, changed, placed, paths)
    logged: list[Logged] = []
    if created or renamed:
        await outbox.hold(await driver(session), tenant_id)
        if created:
            logged = await _match(session, tenant_id, {pin: rows[pin] for pin in created})
    return [rows[person.pin] for person in people], logged


async def _rows(session: Session, tenant_id: UUID, pins: Sequence[str]) -> tuple[set[str], dict[str, Employee]]:
    """A row for every PIN, locked, and which are new. In the order of PINs, so that nobody waits in a circle."""
    connection = await driver(session)
    query = (
        select(Employee)
        .where(_ROW.tenant_id == tenant_id, paging.among(_ROW.pin, pins))
        .order_by(_ROW.pin)
        .with_for_update(key_share=True)
    )
    created: set[str] = set()
    while True:
        names = [ids.new() for _ in pins]
        fresh = await connection.fetch(
            "INSERT INTO employees (tenant_id, id, pin, privilege, snapshot, created_at, updated_at) "
            "SELECT $1, id, pin, 'USER', snapshot, now(), now() "
            "FROM unnest($2::uuid[], $3::text[], $4::text[]) AS e (id, pin, snapshot) ORDER BY pin "
            "ON CONFLICT DO NOTHING RETURNING pin",
            tenant_id,
            names,
            list(pins),
            [snapshot(name, None, None) for name in names],
        )
        created |= {row[0] for row in fresh}
        found = await session.exec(query, execution_options={"populate_existing": True})
        rows = {row.pin: row for row in found}
        # One that was in the way may have been deleted before we could lock it: then it is ours to make.
        if len(rows) == len(pins):
            return created, rows


async def _match(session: Session, tenant_id: UUID, people: Mapping[str, Employee]) -> list[Logged]:
    """Announce the newest punches that waited for these people, the oldest of them first."""
    newest = paging.Asked(
        punches.Wanted(pins=tuple(people)), punches.BY_PUNCHED_AT.down, paging.Window(size=MOST_MATCHED)
    )
    waiting = (await punches.page(session, tenant_id, newest)).rows
    if not waiting:
        return []
    places = await devices.by_ids(session, tenant_id, list({punch.device_id for punch in waiting}))
    happenings = []
    for punch in reversed(waiting):
        device, person = places[punch.device_id], people[punch.pin]
        data = punches.snapshot(
            punch,
            DeviceSnapshot(device.id, device.serial_number, device.name, device.site_id),
            shown(person.id, person.name, person.external_id),
        )
        happenings.append(Happening(tenant_id, EventType.PUNCH_MATCHED, data, ids.new(), now()))
    return await outbox.announce(await driver(session), happenings)


def _checked(changes: Mapping[str, Any]) -> dict[str, Any]:
    checked = dict(changes)
    for field, argument, longest in (
        ("name", "name", 200),
        ("external_id", "externalId", 200),
        ("card_number", "cardNumber", 40),
    ):
        if field in checked:
            checked[field] = words.optional_line(checked[field], argument, longest=longest)
    if "privilege" in checked:
        checked["privilege"] = EmployeePrivilege(checked["privilege"] or EmployeePrivilege.USER)
    return checked
