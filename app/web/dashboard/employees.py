"""People: search, edit, and many at once from a CSV file, looked through before anything is written."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.responses import Response
from starlette.routing import BaseRoute

from app import ids
from app.domain import employees, roster
from app.domain.employees import EmployeePrivilege
from app.domain.roster import Person
from app.errors import AppError, InvalidInput
from app.web.dashboard.desk import Desk, Visit

IMPORT_BYTES: Final = 3 * 2**20
MOST_ROWS: Final = 10_000
MOST_SHOWN: Final = 200
COLUMNS: Final = ("pin", "name", "external_id", "card_number", "privilege")


def routes(desk: Desk) -> list[BaseRoute]:
    """/dashboard/employees."""
    return [
        desk.get("/employees", _list),
        desk.post("/employees", _save),
        desk.get("/employees/import", _ask),
        desk.post("/employees/import", _import, IMPORT_BYTES),
        desk.get("/employees/{id}", _one),
        desk.post("/employees/{id}/delete", _delete),
    ]


async def _list(visit: Visit) -> Response:
    visit.actor.may("employees:read")
    search = visit.asked("search")
    asked = visit.ask("employees", employees.BY_PIN.up, employees.Wanted(search=search or None))
    async with visit.parts.db.read(visit.tenant_id) as session:
        page = await employees.page(session, visit.tenant_id, asked)
        total = await employees.count(session, visit.tenant_id)
    return visit.show("employees.html", rows=page.rows, search=search, total=total, turns=visit.turns(asked, page))


async def _one(visit: Visit) -> Response:
    visit.actor.may("employees:read")
    employee_id = visit.id("emp")
    async with visit.parts.db.read(visit.tenant_id) as session:
        person = (await employees.by_ids(session, visit.tenant_id, [employee_id])).get(employee_id)
    if person is None:
        raise employees.EmployeeNotFound(employee_id)
    return visit.show("employee.html", person=person)


async def _save(visit: Visit) -> Response:
    visit.actor.may("employees:write")
    changes = {name: visit.given(name) or None for name in COLUMNS[1:] if name in visit.form}
    person = _person(visit.given("pin"), changes)
    async with visit.write("employeeUpsert", pin=person.pin, **_shown(changes)) as act:
        employee, logged = await roster.upsert(act.session, visit.tenant_id, person)
        act.on("emp", employee.id)
    visit.ring(logged)
    return visit.go("employees", done="saved", search=person.pin)


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
    for start in range(0, len(read.good), roster.MOST_AT_ONCE):
        part = read.good[start : start + roster.MOST_AT_ONCE]
        async with visit.write("employeeBulkUpsert", employees=[{} for _ in part]) as act:
            people, logged = await roster.upsert_all(act.session, visit.tenant_id, part)
            act.on("emp", *(employee.id for employee in people))
        visit.ring(logged)
    return visit.show("import.html", text="", read=read, written=len(read.good))


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
