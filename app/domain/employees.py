"""People and the PINs by which terminals know them. A punch belongs to whoever has its PIN: nothing is attached."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final
from uuid import UUID

import orjson
from sqlalchemy import CheckConstraint, ColumnElement, Index, Select, event, or_, select
from sqlmodel import Field, SQLModel

from app import ids, paging
from app.database import Session
from app.domain.tables import build, columns, fetch, instant, tenant_key
from app.errors import AppError


class EmployeePrivilege(StrEnum):
    """What a person may do at a terminal."""

    USER = "USER"
    ADMIN = "ADMIN"


class EmployeeNotFound(AppError):
    """No employee with this id, or with this PIN, belongs to the tenant."""

    code, status = "employee_not_found", 404

    def __init__(self, wanted: UUID | str) -> None:
        name = f"with PIN {wanted[:64]!r}" if isinstance(wanted, str) else ids.show("emp", wanted)
        super().__init__(f"No employee {name}.", path=("input", "id"))


class PinInvalid(AppError):
    """Not what a terminal takes for a PIN."""

    code, status = "pin_invalid", 400

    def __init__(self) -> None:
        super().__init__("A PIN has 1 to 24 letters or digits.", path=("input", "pin"))


class Employee(SQLModel, table=True):
    """One person; the PIN is text, leading zeros kept, unique in the tenant."""

    __tablename__: ClassVar[str] = "employees"
    __table_args__ = (
        CheckConstraint("privilege IN ('USER', 'ADMIN')", name="privilege"),
        Index(None, "tenant_id", "pin", unique=True),
        Index(None, "tenant_id", "name", "id"),
        Index(None, "tenant_id", "external_id"),
    )

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    pin: str
    name: str | None = None
    external_id: str | None = None
    card_number: str | None = None
    privilege: str = EmployeePrivilege.USER
    #: The person in the bodies of events, as JSON: written here once, not with each punch.
    snapshot: str = ""
    created_at: datetime = instant()
    updated_at: datetime = instant()


def shown(employee_id: UUID, name: str | None, external_id: str | None) -> dict[str, str | None]:
    """A person in the body of an event."""
    return {"id": ids.show("emp", employee_id), "name": name, "external_id": external_id}


def snapshot(employee_id: UUID, name: str | None, external_id: str | None) -> str:
    """The same as JSON."""
    return orjson.dumps(shown(employee_id, name, external_id)).decode()


@event.listens_for(Employee, "before_insert")
@event.listens_for(Employee, "before_update")
def _keep_snapshot(_mapper: Any, _connection: Any, employee: Employee) -> None:
    employee.snapshot = snapshot(employee.id, employee.name, employee.external_id)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which people: both conditions hold at once; None is no condition, an empty set matches nothing."""

    #: The start of the PIN, or any part of the name or the external id, in either case.
    search: str | None = None
    external_ids: tuple[str, ...] | None = None


_ROW: Final = columns(Employee)
EVERY: Final = Wanted()
BY_NAME: Final = paging.both_ways("NAME", _ROW.id, _ROW.name)
BY_PIN: Final = paging.both_ways("PIN", _ROW.id, _ROW.pin)
BY_CREATED_AT: Final = paging.both_ways("CREATED_AT", _ROW.id, _ROW.created_at)


_PIN: Final = re.compile(r"[A-Za-z0-9]{1,24}")


def check_pin(pin: str) -> str:
    """`pin`, if terminals can hold it; PinInvalid otherwise. Leading zeros are part of it."""
    if not _PIN.fullmatch(pin):
        raise PinInvalid
    return pin


async def page(session: Session, tenant_id: UUID, asked: paging.Asked[Wanted]) -> paging.Page[Employee]:
    """One page of the tenant's people."""
    return (await paging.fetch(session, tenant_id, _query, asked)).map(_employee)


async def count(session: Session, tenant_id: UUID, wanted: Wanted = EVERY) -> int:
    """How many people the tenant has."""
    return await paging.count(session, _query(tenant_id, wanted))


async def by_ids(session: Session, tenant_id: UUID, employee_ids: Sequence[UUID]) -> dict[UUID, Employee]:
    """Those of them that are the tenant's."""
    query = _query(tenant_id, EVERY).where(paging.among(_ROW.id, employee_ids))
    return {row.id: _employee(row) for row in await (await session.connection()).execute(query)}


async def by_pins(session: Session, tenant_id: UUID, pins: Sequence[str]) -> dict[str, Employee]:
    """Whoever has these PINs now."""
    wanted = "tenant_id = $1 AND pin = ANY ($2::text[])"
    return {found.pin: found for found in await fetch(session, Employee, wanted, tenant_id, list(pins))}


def _query(tenant_id: UUID, wanted: Wanted) -> Select[Any]:
    terms: list[ColumnElement[bool]] = [_ROW.tenant_id == tenant_id]
    if wanted.search:
        terms.append(
            or_(
                _ROW.pin.startswith(wanted.search, autoescape=True),
                _ROW.name.icontains(wanted.search, autoescape=True),
                _ROW.external_id.icontains(wanted.search, autoescape=True),
            )
        )
    if wanted.external_ids is not None:
        terms.append(paging.among(_ROW.external_id, wanted.external_ids))
    return select(*_ROW).where(*terms)


def _employee(row: Any) -> Employee:
    return build(Employee, row)
