"""Punches: appended once, listed by cursor. The same device, PIN, local time and state is the same punch.

In the security dialect the record's number counts, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Index,
    LargeBinary,
    Select,
    SmallInteger,
    String,
    exists,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from app import ids, paging
from app.database import Fetch, Session, driver
from app.domain import outbox
from app.domain.devices import Device
from app.domain.employees import Employee
from app.domain.events import EMPLOYEE, EventType, Happening, Logged, timestamp, write_body
from app.domain.payloads import DeviceData, PunchData
from app.domain.tables import columns, instant, tenant_key, within_tenant
from app.errors import AppError
from protocol.adms.codes import Direction as PunchDirection
from protocol.adms.codes import VerifyMode

# The tables hold a place in these lists: an enum only ever grows at its end.
DIRECTIONS: Final = tuple(PunchDirection)
VERIFY_MODES: Final = tuple(VerifyMode)
_PLACES: Final = {name: place for names in (DIRECTIONS, VERIFY_MODES) for place, name in enumerate(names)}

_APPEND: Final = (
    "SELECT * FROM append_punches("
    "$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)"
)


class Punch(SQLModel, table=True):
    """One record of a terminal, in its words and in ours."""

    __tablename__: ClassVar[str] = "punches"
    __table_args__ = (
        within_tenant("device_id", "devices"),
        Index(
            "uq_punches_record",
            "tenant_id",
            "device_id",
            "pin",
            "local_time",
            "state_code",
            "record_index",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
        Index(None, "tenant_id", "punched_at", "id"),
        Index(None, "tenant_id", "received_at", "id"),
        Index(None, "tenant_id", "device_id", "punched_at", "id"),
        Index(None, "tenant_id", "pin", "punched_at", "id"),
    )

    tenant_id: UUID = tenant_key(reference=False)
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    device_id: UUID
    pin: str
    #: The wall clock of the terminal; `time_zone` is how it was read, `punched_at` what came out.
    local_time: datetime = Field(sa_column=Column(DateTime(timezone=False), nullable=False))
    time_zone: str
    punched_at: datetime = instant()
    received_at: datetime = instant()
    direction: int = Field(sa_column=Column(SmallInteger, nullable=False))
    state_code: int | None = None
    #: Its number in the memory of a unit of the security dialect.
    record_index: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    verify_mode: int = Field(sa_column=Column(SmallInteger, nullable=False))
    verify_code: int | None = None
    work_code: str | None = None
    temperature_celsius: float | None = None
    mask_worn: bool | None = None
    buffered: bool = False
    flags: list[str] = Field(default_factory=list, sa_column=Column(ARRAY(String), nullable=False, server_default="{}"))
    #: The line as the terminal sent it, byte for byte.
    raw: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


@dataclass(slots=True)
class PunchView:
    """A punch as it is shown, from the table or from an event's snapshot."""

    id: UUID
    device_id: UUID
    pin: str
    local_time: datetime
    time_zone: str
    punched_at: datetime
    received_at: datetime
    direction: PunchDirection
    state_code: int | None
    verify_mode: VerifyMode
    verify_code: int | None
    work_code: str | None
    temperature_celsius: float | None
    mask_worn: bool | None
    buffered: bool
    flags: tuple[str, ...]
    #: The line as it came; None when this is a snapshot and nobody has asked for it yet.
    raw: bytes | None = None
    record_index: int | None = None


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """The device of a punch, as its event tells of it."""

    id: UUID
    serial_number: str
    name: str
    site_id: UUID | None


def snapshot(punch: PunchView, device: DeviceSnapshot, employee: Any) -> PunchData:
    """The `data` of punch.created and punch.matched."""
    return {
        "id": ids.show("pun", punch.id),
        "pin": punch.pin,
        "device": _shown(device),
        "employee": employee,
        "punched_at": timestamp(punch.punched_at),
        "local_time": punch.local_time.isoformat(timespec="seconds"),
        "time_zone": punch.time_zone,
        "received_at": timestamp(punch.received_at),
        "direction": punch.direction.value,
        "state_code": punch.state_code,
        "verify_mode": punch.verify_mode.value,
        "verify_code": punch.verify_code,
        "work_code": punch.work_code,
        "temperature_celsius": punch.temperature_celsius,
        "mask_worn": punch.mask_worn,
        "buffered": punch.buffered,
        "flags": list(punch.flags),
    }


@lru_cache(maxsize=4096)
def _shown(device: DeviceSnapshot) -> DeviceData:
    return {
        "id": ids.show("dev", device.id),
        "serial_number": device.serial_number,
        "name": device.name,
        "site_id": ids.show("sit", device.site_id) if device.site_id else None,
    }


def read_snapshot(data: Mapping[str, Any]) -> PunchView:
    """The punch in the `data` of a punch.created event."""
    return PunchView(
        id=ids.read("pun", data["id"]),
        device_id=ids.read("dev", data["device"]["id"]),
        pin=data["pin"],
        local_time=datetime.fromisoformat(data["local_time"]),
        time_zone=data["time_zone"],
        punched_at=datetime.fromisoformat(data["punched_at"]),
        received_at=datetime.fromisoformat(data["received_at"]),
        direction=PunchDirection(data["direction"]),
        state_code=data["state_code"],
        verify_mode=VerifyMode(data["verify_mode"]),
        verify_code=data["verify_code"],
        work_code=data["work_code"],
        temperature_celsius=data["temperature_celsius"],
        mask_worn=data["mask_worn"],
        buffered=data["buffered"],
        flags=tuple(data["flags"]),
    )


async def append(
    fetch: Fetch, arrived: Sequence[tuple[UUID, DeviceSnapshot, PunchView]], speak_for: Sequence[UUID] | None = None
) -> list[Logged]:
    """Insert the punches of many tenants, skip what is already there, announce what is new; the events, by tenant.

    Takes the tenants' feed heads, so nothing that locks anything may follow. With `speak_for`, the tenants, it is a
    transaction by itself: then `fetch` is `Database.at_once`.
    """
    views = [punch for _, _, punch in arrived]
    happenings = [
        Happening(
            tenant_id,
            EventType.PUNCH_CREATED,
            snapshot(punch, device, EMPLOYEE),
            ids.new(),
            punch.received_at,
            punch.pin,
        )
        for tenant_id, device, punch in arrived
    ]
    return await outbox.call(
        fetch,
        _APPEND,
        [tenant_id for tenant_id, _, _ in arrived],
        [punch.id for punch in views],
        [punch.device_id for punch in views],
        [punch.pin for punch in views],
        [punch.local_time for punch in views],
        [punch.time_zone for punch in views],
        [punch.punched_at for punch in views],
        [punch.received_at for punch in views],
        [_PLACES[punch.direction] for punch in views],
        _column([punch.state_code for punch in views]),
        [_PLACES[punch.verify_mode] for punch in views],
        _column([punch.verify_code for punch in views]),
        _column([punch.work_code for punch in views]),
        _column([punch.temperature_celsius for punch in views]),
        _column([punch.mask_worn for punch in views]),
        [punch.buffered for punch in views],
        [",".join(punch.flags) for punch in views],
        [punch.raw for punch in views],
        [happening.id for happening in happenings],
        EventType.PUNCH_CREATED,
        [write_body(happening).decode() for happening in happenings],
        speak_for,
        _column([punch.record_index for punch in views]),
    )


def _column(values: list[Any]) -> list[Any] | None:
    """An array that the database is to read, value by value; none where there is nothing in it."""
    return values if values.count(None) < len(values) else None


class PunchNotFound(AppError):
    """No punch with this id belongs to the tenant."""

    code, status = "punch_not_found", 404

    def __init__(self, punch_id: UUID) -> None:
        super().__init__(f"No punch {ids.show('pun', punch_id)}.")


_ROW: Final = columns(Punch)
#: The columns of a PunchView, in its order, and where those stand that are shown otherwise than they are stored.
_SHOWN: Final = tuple(_ROW[field.name] for field in fields(PunchView))
_DIRECTION, _VERIFY_MODE, _FLAGS = (_SHOWN.index(_ROW[name]) for name in ("direction", "verify_mode", "flags"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which punches: all conditions hold at once; None is no condition, an empty set matches nothing."""

    device_ids: tuple[UUID, ...] | None = None
    site_ids: tuple[UUID, ...] | None = None
    employee_ids: tuple[UUID, ...] | None = None
    pins: tuple[str, ...] | None = None
    punched_since: datetime | None = None
    punched_before: datetime | None = None
    received_since: datetime | None = None
    received_before: datetime | None = None
    directions: tuple[PunchDirection, ...] | None = None
    verify_modes: tuple[VerifyMode, ...] | None = None
    buffered: bool | None = None
    #: True: only punches whose PIN no employee has; False: only the others.
    unmatched: bool | None = None


EVERY: Final = Wanted()
BY_PUNCHED_AT: Final = paging.both_ways("PUNCHED_AT", _ROW.id, _ROW.punched_at)
BY_RECEIVED_AT: Final = paging.both_ways("RECEIVED_AT", _ROW.id, _ROW.received_at)


async def page(session: Session, tenant_id: UUID, asked: paging.Asked[Wanted]) -> paging.Page[PunchView]:
    """One page of the tenant's punches."""
    return (await paging.fetch(session, tenant_id, _query, asked)).map(_view)


async def page_by_device(
    session: Session, tenant_id: UUID, device_ids: Sequence[UUID], asked: paging.Asked[Wanted]
) -> list[paging.Page[PunchView]]:
    """The same page of the punches of each device."""
    pages = await paging.fetch_each(session, tenant_id, _query, asked, parent=_ROW.device_id, keys=device_ids)
    return [found.map(_view) for found in pages]


async def page_by_pin(
    session: Session, tenant_id: UUID, pins: Sequence[str], asked: paging.Asked[Wanted]
) -> list[paging.Page[PunchView]]:
    """The same page of the punches of each PIN."""
    pages = await paging.fetch_each(session, tenant_id, _query, asked, parent=_ROW.pin, keys=pins)
    return [found.map(_view) for found in pages]


async def by_ids(session: Session, tenant_id: UUID, punch_ids: Sequence[UUID]) -> dict[UUID, PunchView]:
    """Those of them that are the tenant's."""
    query = _query(tenant_id, EVERY).where(paging.among(_ROW.id, punch_ids))
    return {row.id: _view(row) for row in await (await session.connection()).execute(query)}


async def raw_by_ids(session: Session, tenant_id: UUID, punch_ids: Sequence[UUID]) -> dict[UUID, bytes]:
    """The lines as they came, for punches known from a snapshot."""
    rows = await (await driver(session)).fetch(
        "SELECT id, raw FROM punches WHERE tenant_id = $1 AND id = ANY ($2::uuid[])", tenant_id, list(punch_ids)
    )
    return {row[0]: row[1] for row in rows}


async def count_by_device(session: Session, tenant_id: UUID, device_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many punches of each device are kept; a device without any is left out."""
    rows = await (await driver(session)).fetch(
        "SELECT device_id, count(*) FROM punches WHERE tenant_id = $1 AND device_id = ANY ($2::uuid[]) GROUP BY 1",
        tenant_id,
        list(device_ids),
    )
    return {row[0]: row[1] for row in rows}


async def per_minute(session: Session, tenant_id: UUID, since: datetime) -> dict[datetime, int]:
    """How many punches were received in each minute since then; a minute without any is left out."""
    rows = await (await driver(session)).fetch(
        "SELECT date_trunc('minute', received_at), count(*) FROM punches "
        "WHERE tenant_id = $1 AND received_at >= $2 GROUP BY 1 ORDER BY 1",
        tenant_id,
        since,
    )
    return {row[0]: row[1] for row in rows}


def _query(tenant_id: UUID, wanted: Wanted) -> Select[Any]:
    device, employee = columns(Device), columns(Employee)
    terms: list[ColumnElement[bool]] = [_ROW.tenant_id == tenant_id]
    if wanted.device_ids is not None:
        terms.append(paging.among(_ROW.device_id, wanted.device_ids))
    if wanted.site_ids is not None:
        there = select(device.id).where(device.tenant_id == tenant_id, paging.among(device.site_id, wanted.site_ids))
        terms.append(_ROW.device_id.in_(there))
    if wanted.employee_ids is not None:
        theirs = select(employee.pin).where(
            employee.tenant_id == tenant_id, paging.among(employee.id, wanted.employee_ids)
        )
        terms.append(_ROW.pin.in_(theirs))
    if wanted.pins is not None:
        terms.append(paging.among(_ROW.pin, wanted.pins))
    if wanted.punched_since is not None:
        terms.append(_ROW.punched_at >= wanted.punched_since)
    if wanted.punched_before is not None:
        terms.append(_ROW.punched_at < wanted.punched_before)
    if wanted.received_since is not None:
        terms.append(_ROW.received_at >= wanted.received_since)
    if wanted.received_before is not None:
        terms.append(_ROW.received_at < wanted.received_before)
    if wanted.directions is not None:
        terms.append(paging.among(_ROW.direction, [_PLACES[direction] for direction in wanted.directions]))
    if wanted.verify_modes is not None:
        terms.append(paging.among(_ROW.verify_mode, [_PLACES[mode] for mode in wanted.verify_modes]))
    if wanted.buffered is not None:
        terms.append(_ROW.buffered.is_(wanted.buffered))
    if wanted.unmatched is not None:
        known = exists().where(employee.tenant_id == tenant_id, employee.pin == _ROW.pin)
        terms.append(~known if wanted.unmatched else known)
    return select(*_SHOWN).where(*terms)


def _view(row: Any) -> PunchView:
    # By place, not by name: a page has thousands of values. What is behind them says whose list it is in.
    values = list(row)[: len(_SHOWN)]
    values[_DIRECTION] = DIRECTIONS[values[_DIRECTION]]
    values[_VERIFY_MODE] = VERIFY_MODES[values[_VERIFY_MODE]]
    values[_FLAGS] = tuple(values[_FLAGS])
    return PunchView(*values)
