"""People: search, edit, and many at once from a CSV file, looked through before anything is written."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from app import ids, paging
from app.domain import devices, employees, placements, roster
from app.domain.devices import DeviceStatus
from app.domain.employees import EmployeePrivilege
from app.domain.keys import Unauthenticated
from app.domain.placements import PlacementState
from app.domain.roster import Person, PinTaken
from app.errors import AppError, InvalidInput
from app.web.dashboard.desk import Desk, Visit

#: Devices that a person can be put on by choosing from a list.
CHOICE: Final = 100
PLACEABLE: Final = (DeviceStatus.ACTIVE, DeviceStatus.SUSPENDED)
#: People who are written together; the page shows how many parts are done.
PART: Final = 500
#: Where the page has its bars.
PROGRESS: Final = b"<!-- progress -->"
IMPORT_BYTES: Final = 3 * 2**20
MOST_ROWS: Final = 10_000
MOST_SHOWN: Final = 200
COLUMNS: Final = ("pin", "name", "external_id", "card_number", "privilege")


def routes(desk: Desk) -> list[BaseRoute]:
    """/dashboard/employees."""
    return [
        desk.get("/employees", _list),
        desk.post("/employees", _add),
        desk.get("/employees/import", _ask),
        desk.post("/employees/import", _import, IMPORT_BYTES),
        desk.get("/employees/{id}", _one),
        desk.post("/employees/{id}", _save),
        desk.post("/employees/{id}/delete", _delete),
        desk.post("/employees/{id}/placements", _place),
    ]


async def _list(visit: Visit) -> Response:
    return await _listed(visit)


async def _listed(visit: Visit, taken: PinTaken | None = None) -> Response:
    """The list and the form for one more; with what was typed, when somebody has that PIN."""
    visit.actor.may("employees:read")
    search = visit.asked("search")
    asked = visit.ask("employees", employees.BY_PIN.up, employees.Wanted(search=search or None))
    async with visit.parts.db.read(visit.tenant_id) as session:
        page = await employees.page(session, visit.tenant_id, asked)
        total = await employees.count(session, visit.tenant_id)
    return visit.show(
        "employees.html",
        http_status=409 if taken else 200,
        rows=page.rows,
        search=search,
        total=total,
        turns=visit.turns(asked, page),
        taken=taken,
        typed={name: visit.given(name) for name in COLUMNS},
    )


async def _one(visit: Visit) -> Response:
    visit.actor.may("employees:read")
    employee_id = visit.id("emp")
    async with visit.parts.db.read(visit.tenant_id) as session:
        person = (await employees.by_ids(session, visit.tenant_id, [employee_id])).get(employee_id)
        if person is None:
            raise employees.EmployeeNotFound(employee_id)
        placed = (await placements.by_pins(session, visit.tenant_id, [person.pin])).get(person.pin, [])
        places = await devices.by_ids(session, visit.tenant_id, [each.device_id for each in placed])
        asked = paging.Asked(devices.Wanted(statuses=PLACEABLE), devices.BY_NAME.up, paging.Window(size=CHOICE))
        others = (await devices.page(session, visit.tenant_id, visit.desk.online_since(), asked)).rows
    return visit.show(
        "employee.html",
        person=person,
        placed=[(each, places[each.device_id]) for each in placed],
        others=[device for device in others if device.id not in places],
    )


async def _place(visit: Visit) -> Response:
    """Put a person on one more terminal, or take them off one."""
    visit.actor.may("employees:write")
    employee_id, device_id = visit.id("emp"), ids.read("dev", visit.given("device"))
    shown = ids.show("emp", employee_id)
    async with visit.write("employeeUpsert", id=shown, deviceIds=[ids.show("dev", device_id)]) as act:
        person = await roster.hold(act.session, visit.tenant_id, employee_id)
        placed = (await placements.by_pins(act.session, visit.tenant_id, [person.pin])).get(person.pin, [])
        wanted = {each.device_id for each in placed if each.state != PlacementState.REMOVING}
        wanted = wanted - {device_id} if visit.given("do") == "remove" else wanted | {device_id}
        _, logged = await roster.upsert(act.session, visit.tenant_id, Person(person.pin, {}, sorted(wanted)))
    visit.ring(logged)
    return visit.go(f"employees/{shown}", done="saved")


async def _add(visit: Visit) -> Response:
    """One more person. Who has the PIN already is left alone."""
    visit.actor.may("employees:write")
    changes = {name: visit.given(name) or None for name in COLUMNS[1:] if name in visit.form}
    person = _person(visit.given("pin"), changes)
    try:
        async with visit.write("employeeUpsert", pin=person.pin, **_shown(changes)) as act:
            employee, logged = await roster.add(act.session, visit.tenant_id, person)
            act.on("emp", employee.id)
    except PinTaken as exc:
        if not visit.may("employees:read"):
            raise
        return await _listed(visit, exc)
    visit.ring(logged)
    return visit.go("employees", done="saved", search=person.pin)


async def _save(visit: Visit) -> Response:
    """What was changed on the page, and nothing else: the page may be older than the person."""
    visit.actor.may("employees:write")
    employee_id = visit.id("emp")
    shown = ids.show("emp", employee_id)
    changed = {name: visit.given(name) or None for name in COLUMNS[1:] if _is_changed(visit, name)}
    async with visit.write("employeeUpsert", id=shown, **_shown(changed)) as act:
        held = await roster.hold(act.session, visit.tenant_id, employee_id)
        person = _person(held.pin, changed)
        _, logged = await roster.upsert(act.session, visit.tenant_id, person)
    visit.ring(logged)
    return visit.go("employees", done="saved", search=person.pin)


def _is_changed(visit: Visit, name: str) -> bool:
    """Whether a field differs from what the page showed, which the form brings along."""
    return name in visit.form and visit.given(name) != visit.given(f"shown_{name}")


def _shown(changes: dict[str, str | None]) -> dict[str, str | None]:
    names = {"external_id": "externalId", "card_number": "cardNumber"}
    return {names.get(name, name): value for name, value in changes.items()}


async def _delete(visit: Visit) -> Response:
    visit.actor.may("employees:write")
    employee_id = visit.id("emp")
    async with visit.write("employeeDelete", id=ids.show("emp", employee_id)) as act:
        await roster.delete(act.session, visit.tenant_id, employee_id)
    return visit.go("employees", done="deleted")


async def _ask(visit: Visit) -> Response:
    visit.actor.may("employees:write")
    return visit.show("import.html", text="", read=None, written=None)


async def _import(visit: Visit) -> Response:
    """First what the file says, row by row; with `do=import`, the good rows."""
    visit.actor.may("employees:write")
    text = visit.form.get("csv", [""])[0]
    read = read_csv(text)
    if visit.given("do") != "import" or not read.good:
        return visit.show("import.html", text=text, read=read, written=None)
    # What forbids writing at all is a page of its own; this page has begun once its first part is written.
    await _write(visit, read.good[:PART])
    page = visit.show("import.html", text="", read=read, written=len(read.good))
    head, _, rest = bytes(page.body).partition(PROGRESS)
    headers = {name: value for name, value in page.headers.items() if name != "content-length"}
    return StreamingResponse(_progress(visit, read.good, head, rest), media_type="text/html", headers=headers)


async def _progress(visit: Visit, people: Sequence[Person], head: bytes, rest: bytes) -> AsyncIterator[bytes]:
    """The page, as far as the writing has come. Each bar hides the one before: no script is needed."""
    yield head + _bar(min(PART, len(people)), len(people))
    for start in range(PART, len(people), PART):
        try:
            if not await visit.desk.sessions.alive(visit.session):
                raise Unauthenticated("Your key stopped working.")
            await _write(visit, people[start : start + PART])
        except AppError as exc:
            told = f"Stopped: {exc.message} {start} of {len(people)} people were written. Import the file again."
            yield f'<p class="refused" role="alert">{escape(told)}</p></main></body></html>'.encode()
            return
        yield _bar(min(start + PART, len(people)), len(people))
    yield rest


def _bar(done: int, all: int) -> bytes:
    return f'<progress value="{done}" max="{all}" aria-label="People written">{done} of {all}</progress>\n'.encode()


async def _write(visit: Visit, people: Sequence[Person]) -> None:
    async with visit.write("employeeBulkUpsert", employees=[{} for _ in people]) as act:
        written, logged = await roster.upsert_all(act.session, visit.tenant_id, people)
        act.on("emp", *(employee.id for employee in written))
    visit.ring(logged)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be taken, and why."""

    line: int
    cells: Sequence[str]
    reason: str


@dataclass(slots=True)
class Read:
    """What a file says."""

    good: list[Person] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)


def read_csv(text: str) -> Read:
    """The people in a CSV text whose first line names the columns. InvalidInput when it cannot be read at all."""
    text = text.removeprefix("\ufeff")
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=";" if first.count(";") > first.count(",") else ",", strict=True)
    found, seen = Read(), set[str]()
    try:
        header = [cell.strip().lower().replace(" ", "_") for cell in next(reader, [])]
        if "pin" not in header:
            raise InvalidInput(f"The first line has to name the columns: {', '.join(COLUMNS)}. Only pin is needed.")
        if strange := set(header) - set(COLUMNS):
            raise InvalidInput(f"There is no column {min(strange)[:40]!r}; the columns are {', '.join(COLUMNS)}.")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(found.good) + len(found.bad) >= MOST_ROWS:
                raise InvalidInput(f"A file has at most {MOST_ROWS} rows.")
            try:
                person = _read_row(header, cells, seen)
            except AppError as exc:
                found.bad.append(BadRow(reader.line_num, cells, exc.message))
            else:
                seen.add(person.pin)
                found.good.append(person)
    except csv.Error as exc:
        raise InvalidInput(f"Line {reader.line_num} is not CSV: {exc}.") from None
    return found


def _read_row(header: Sequence[str], cells: Sequence[str], seen: set[str]) -> Person:
    if len(cells) > len(header):
        raise InvalidInput(f"This row has {len(cells)} cells, and there are {len(header)} columns.")
    values = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
    person = _person(values.pop("pin", ""), {name: value or None for name, value in values.items()})
    if person.pin in seen:
        raise InvalidInput(f"The PIN {person.pin} is here twice.")
    return person


def _person(pin: str, changes: dict[str, str | None]) -> Person:
    if "privilege" in changes:
        given = (changes["privilege"] or EmployeePrivilege.USER).upper()
        if given not in set(EmployeePrivilege):
            raise InvalidInput("A privilege is USER or ADMIN.")
        changes["privilege"] = given
    return roster.checked(Person(pin, changes))
