"""The registry of terminals: which tenant a serial belongs to on which address, its zone, when it was last heard."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    DateTime,
    Index,
    Integer,
    Select,
    String,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from app import ids, paging
from app.database import Session, driver
from app.domain import profiles, sites, words
from app.domain.tables import build, columns, fetch, instant, look, now, tenant_key, within_tenant
from app.errors import AppError, InvalidInput


class DeviceStatus(StrEnum):
    """PENDING: seen or registered, not yet bound. Only ACTIVE devices are acknowledged."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"
    RETIRED = "RETIRED"


class Address(StrEnum):
    """Where a terminal dials. Bound on one is not bound on the other."""

    OWN = "own"
    SHARED = "shared"


class DeviceNotFound(AppError):
    """No device with this id, or with this serial number, belongs to the tenant."""

    code, status = "device_not_found", 404

    def __init__(self, wanted: UUID | str) -> None:
        name = f"with serial number {wanted[:64]!r}" if isinstance(wanted, str) else ids.show("dev", wanted)
        super().__init__(f"No device {name}.", path=("input", "id"))


class SerialNumberTaken(AppError):
    """Another device, not retired, has this serial number."""

    code, status = "serial_number_taken", 409


class TimeZoneRequired(AppError):
    """Without a zone the wall clock of a terminal says nothing."""

    code, status = "time_zone_required", 400

    def __init__(self) -> None:
        super().__init__(
            "A device needs a time zone: name one, or a site, whose zone it then has.", path=("input", "timeZone")
        )


class DeviceNotActive(AppError):
    """Only an active device can do this."""

    code, status = "device_not_active", 409


class Device(SQLModel, table=True):
    """One terminal of one tenant."""

    __tablename__: ClassVar[str] = "devices"
    __table_args__ = (
        within_tenant("site_id", "sites"),
        CheckConstraint("status IN ('PENDING', 'ACTIVE', 'SUSPENDED', 'RETIRED')", name="status"),
        # A retired serial may be registered anew, and its history stays.
        Index(None, "tenant_id", "serial_number", unique=True, postgresql_where=text("status <> 'RETIRED'")),
        # On the shared address a serial belongs to at most one tenant.
        Index(
            "uq_devices_shared_serial_number",
            "serial_number",
            unique=True,
            postgresql_where=text("'shared' = ANY (bound_addresses) AND status <> 'RETIRED'"),
        ),
        Index("ix_devices_claims", "serial_number", postgresql_where=text("claim_pin IS NOT NULL")),
        Index("ix_devices_online", "last_seen_at", postgresql_where=text("online AND status <> 'RETIRED'")),
        Index(None, "tenant_id", "name", "id"),
        Index(None, "tenant_id", "site_id"),
        {"postgresql_with": {"fillfactor": "70"}},
    )

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    serial_number: str
    name: str
    site_id: UUID | None = None
    time_zone: str | None = None
    status: str = DeviceStatus.PENDING
    #: True once the tenant named the serial itself: such a device is bound by its first contact.
    registered: bool = False
    bound_addresses: list[str] = Field(
        default_factory=list, sa_column=Column(ARRAY(String), nullable=False, server_default="{}")
    )
    #: Where it last knocked without being bound there; what an approval binds.
    sought_address: str | None = None
    last_seen_at: datetime | None = instant(optional=True)
    model: str | None = None
    firmware_version: str | None = None
    push_version: str | None = None
    #: DeviceType as it was announced ("att", "acc", "pid"): it decides what the later columns of a record mean.
    announced_type: str | None = None
    dialect: str | None = None
    #: Whether its last handshake told it to send nothing, because it was not bound then.
    muted: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default="false"))
    #: The user that proves, on the shared address, that the terminal is at hand; and how often others were tried.
    claim_pin: str | None = None
    claim_expires_at: datetime | None = instant(optional=True)
    claim_tries: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default="0"))
    #: What was last announced of it; `connection_state` says how things stand.
    online: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default="false"))
    clock_skew_ms: int | None = None
    #: See profiles.Watched.
    clock_hint_ms: int | None = None
    clock_hint_at: datetime | None = instant(optional=True)
    told_offset: int | None = None
    callers: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSONB, nullable=False, server_default="{}"))
    configured: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default="false"))
    language: str | None = None
    charset: str | None = None
    two_sources_at: datetime | None = instant(optional=True)
    #: Which memory it has, counted from 1; when the present one began, unless it is the first.
    generation: int = Field(default=1, sa_column=Column(Integer, nullable=False, server_default="1"))
    generation_at: datetime | None = instant(optional=True)
    mark: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    mark_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=False), nullable=True))
    reported_user_count: int | None = None
    reported_punch_count: int | None = None
    flags: list[str] = Field(default_factory=list, sa_column=Column(ARRAY(String), nullable=False, server_default="{}"))
    #: The resume mark that the terminal last sent with an upload, by table; opaque text.
    stamps: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSONB, nullable=False, server_default="{}"))
    created_at: datetime = instant()
    updated_at: datetime = instant()


class DeviceDialect(StrEnum):
    """Which of the two protocols a terminal speaks."""

    ATTENDANCE = "ATTENDANCE"
    SECURITY = "SECURITY"


class DeviceConnectionState(StrEnum):
    """Whether a terminal is in touch."""

    NEVER_SEEN = "NEVER_SEEN"
    ONLINE = "ONLINE"
    OFFLINE = "OFFLINE"


#: A terminal is missed only this long after the contact that it owed us.
PATIENCE: Final = timedelta(seconds=60)


def connection_state(last_seen_at: datetime | None, at: datetime, delay: timedelta) -> DeviceConnectionState:
    """How things stand at `at`, when terminals are asked to call every `delay`."""
    if last_seen_at is None:
        return DeviceConnectionState.NEVER_SEEN
    late = at > last_seen_at + delay + PATIENCE
    return DeviceConnectionState.OFFLINE if late else DeviceConnectionState.ONLINE


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What other tables tell of a device; the names are the flags'."""

    #: Users on it whom nobody knows, records of it that nobody could read, counts that still differ after a round.
    unknown_users: bool
    rejected_records: bool
    count_mismatch: bool


def flags(device: Device, at: datetime, *, drift: timedelta, noted: Noted) -> list[str]:
    """What an operator should look at: by the device itself, and by what other tables tell of it."""
    shown = {
        profiles.CLOCK_DRIFT: profiles.is_off(device.clock_skew_ms, drift),
        profiles.TWO_SOURCES: _lately(device.two_sources_at, at, profiles.TWO_SOURCES_SHOWN),
        profiles.RESET_DETECTED: _lately(device.generation_at, at, profiles.RESET_SHOWN),
        **asdict(noted),
    }
    return [*device.flags, *(flag for flag, is_so in shown.items() if is_so)]


def _lately(moment: datetime | None, at: datetime, span: timedelta) -> bool:
    return moment is not None and at - moment <= span


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which devices: all conditions hold at once; None is no condition, an empty set matches nothing."""

    site_ids: tuple[UUID, ...] | None = None
    statuses: tuple[DeviceStatus, ...] | None = None
    connection: DeviceConnectionState | None = None


_ROW: Final = columns(Device)
EVERY: Final = Wanted()
BY_NAME: Final = paging.both_ways("NAME", _ROW.id, _ROW.name)
BY_CREATED_AT: Final = paging.both_ways("CREATED_AT", _ROW.id, _ROW.created_at)


async def page(
    session: Session, tenant_id: UUID, online_since: datetime, asked: paging.Asked[Wanted]
) -> paging.Page[Device]:
    """One page of the tenant's devices. Those last seen from `online_since` on count as online."""
    query = _every if asked.wanted == EVERY else partial(_query, online_since=online_since)
    return (await paging.fetch(session, tenant_id, query, asked)).map(_seen)


async def page_by_site(
    session: Session, tenant_id: UUID, site_ids: Sequence[UUID], asked: paging.Asked[Wanted]
) -> list[paging.Page[Device]]:
    """The same page of the devices of each site."""
    pages = await paging.fetch_each(session, tenant_id, _every, asked, parent=_ROW.site_id, keys=site_ids)
    return [found.map(_seen) for found in pages]


async def count(session: Session, tenant_id: UUID, online_since: datetime, wanted: Wanted = EVERY) -> int:
    """How many devices the tenant has."""
    return await paging.count(session, _query(tenant_id, wanted, online_since))


async def count_by_site(session: Session, tenant_id: UUID, site_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many devices each site has; a site without any is left out."""
    rows = await (await driver(session)).fetch(
        "SELECT site_id, count(*) FROM devices WHERE tenant_id = $1 AND site_id = ANY ($2::uuid[]) GROUP BY 1",
        tenant_id,
        list(site_ids),
    )
    return {row[0]: row[1] for row in rows}


async def by_ids(session: Session, tenant_id: UUID, device_ids: Sequence[UUID]) -> dict[UUID, Device]:
    """Those of them that are the tenant's."""
    wanted = "tenant_id = $1 AND id = ANY ($2::uuid[])"
    return {found.id: found for found in await fetch(session, Device, wanted, tenant_id, list(device_ids))}


async def find_serial(session: Session, tenant_id: UUID, serial: str) -> Device | None:
    """The tenant's device with this serial number; of several retired ones, the last."""
    query = (
        select(*_ROW)
        .where(_ROW.tenant_id == tenant_id, _ROW.serial_number == serial)
        .order_by(_ROW.status == DeviceStatus.RETIRED, _ROW.id.desc())
        .limit(1)
    )
    row = (await (await session.connection()).execute(query)).one_or_none()
    return None if row is None else _device(row)


_SERIAL: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


async def get(session: Session, tenant_id: UUID, device_id: UUID) -> Device:
    """The tenant's device, held until the transaction ends. Another tenant's is not found either."""
    lock: Any = {"key_share": True}
    device = await session.get(Device, (tenant_id, device_id), populate_existing=True, with_for_update=lock)
    if device is None:
        raise DeviceNotFound(device_id)
    return device


async def register(
    session: Session,
    tenant_id: UUID,
    serial_number: str,
    *,
    name: str | None = None,
    site_id: UUID | None = None,
    time_zone: str | None = None,
) -> Device:
    """Expect a terminal: its first contact binds it. One that knocked before it was registered is completed.

    Raises InvalidInput, SiteNotFound, TimeZoneUnknown, TimeZoneRequired, SerialNumberTaken.
    """
    if not _SERIAL.fullmatch(serial_number):
        raise InvalidInput(
            "A serial number has 1 to 64 letters, digits, dots, hyphens or underscores.",
            path=("input", "serialNumber"),
        )
    connection = await driver(session)
    # A stranger may knock, or be retired, in the very moment: whichever was first, the row is there or is ours.
    for _ in range(3):
        created = await connection.fetchval(
            "INSERT INTO devices (tenant_id, id, serial_number, name, status, registered, created_at, updated_at) "
            "VALUES ($1, $2, $3, $3, 'PENDING', false, now(), now()) ON CONFLICT DO NOTHING RETURNING id",
            tenant_id,
            ids.new(),
            serial_number,
        )
        device_id = created or await connection.fetchval(
            "SELECT id FROM devices WHERE tenant_id = $1 AND serial_number = $2 AND status <> 'RETIRED'",
            tenant_id,
            serial_number,
        )
        if device_id is not None:
            device = await get(session, tenant_id, device_id)
            if device.status != DeviceStatus.RETIRED:
                break
    else:
        raise SerialNumberTaken("This serial number is being registered elsewhere just now.")
    if device.registered or device.status != DeviceStatus.PENDING:
        raise SerialNumberTaken(
            f"The serial number {serial_number} belongs to {ids.show('dev', device.id)} already.",
            path=("input", "serialNumber"),
        )
    device.registered = True
    given = {"name": name, "site_id": site_id, "time_zone": time_zone}
    return await change(session, device, {field: value for field, value in given.items() if value is not None})


async def update(session: Session, tenant_id: UUID, device_id: UUID, changes: Mapping[str, Any]) -> Device:
    """Change `name`, `site_id` and `time_zone`, those that are named; None clears. A cleared name is the serial number.

    Raises DeviceNotFound, InvalidInput, SiteNotFound, TimeZoneUnknown, TimeZoneRequired.
    """
    return await change(session, await get(session, tenant_id, device_id), changes)


async def change(session: Session, device: Device, changes: Mapping[str, Any]) -> Device:
    """As `update`, for a device at hand. It has to end up with a zone unless it is a stranger that still waits."""
    if "name" in changes:
        name = changes["name"]
        device.name = device.serial_number if name is None else words.line(name, "name", longest=200)
    if "site_id" in changes:
        site_id = changes["site_id"]
        if site_id is not None:
            await sites.get(session, device.tenant_id, site_id, field="siteId", keep=True)
        device.site_id = site_id
    if "time_zone" in changes:
        zone = changes["time_zone"]
        device.time_zone = None if zone is None else sites.check_zone(zone)
    waits = device.status == DeviceStatus.PENDING and not device.registered
    if device.time_zone is None and device.site_id is None and not waits:
        raise TimeZoneRequired
    device.updated_at = now()
    await session.flush()
    return device


async def suspend(session: Session, tenant_id: UUID, device_id: UUID) -> Device:
    """Stop hearing an active device; it keeps its records meanwhile. Suspending twice changes nothing."""
    return await _move(session, tenant_id, device_id, DeviceStatus.ACTIVE, DeviceStatus.SUSPENDED)


async def resume(session: Session, tenant_id: UUID, device_id: UUID) -> Device:
    """Hear a suspended device again. Resuming an active one changes nothing."""
    return await _move(session, tenant_id, device_id, DeviceStatus.SUSPENDED, DeviceStatus.ACTIVE)


async def retire(session: Session, tenant_id: UUID, device_id: UUID) -> Device:
    """Take a device out of service for good. Its punches stay, and its serial number may be registered anew."""
    device = await get(session, tenant_id, device_id)
    if device.status != DeviceStatus.RETIRED:
        device.status, device.updated_at = DeviceStatus.RETIRED, now()
        await session.flush()
    return device


async def _move(
    session: Session, tenant_id: UUID, device_id: UUID, before: DeviceStatus, after: DeviceStatus
) -> Device:
    device = await get(session, tenant_id, device_id)
    if device.status == after:
        return device
    if device.status != before:
        raise DeviceNotActive(f"This device is {device.status}, not {before}.", path=("input", "id"))
    device.status, device.updated_at = after, now()
    await session.flush()
    return device


def _every(tenant_id: UUID, _wanted: Wanted) -> Select[Any]:
    return select(*_ROW).where(_ROW.tenant_id == tenant_id)


def _query(tenant_id: UUID, wanted: Wanted, online_since: datetime) -> Select[Any]:
    terms: list[ColumnElement[bool]] = [_ROW.tenant_id == tenant_id]
    if wanted.site_ids is not None:
        terms.append(paging.among(_ROW.site_id, wanted.site_ids))
    if wanted.statuses is not None:
        terms.append(paging.among(_ROW.status, wanted.statuses))
    match wanted.connection:
        case DeviceConnectionState.NEVER_SEEN:
            terms.append(_ROW.last_seen_at.is_(None))
        case DeviceConnectionState.ONLINE:
            terms.append(_ROW.last_seen_at >= online_since)
        case DeviceConnectionState.OFFLINE:
            terms.append(_ROW.last_seen_at < online_since)
        case None:
            pass
    return select(*_ROW).where(*terms)


def _device(row: Any) -> Device:
    return build(Device, row)


def _seen(row: Any) -> Device:
    return look(Device, row)
