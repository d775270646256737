"""Whose terminal is this? An address names a tenant, a serial names a device of it, and only a bound one is heard.

Unknown, pending, suspended and foreign serials all come out as None: the edge cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
from sqlalchemy.exc import IntegrityError

from app import ids
from app.database import Connection, Session, driver
from app.domain import devices, outbox, profiles, sites
from app.domain.devices import Address, Device, DeviceStatus, SerialNumberTaken
from app.domain.events import EventType, Happening, Logged
from app.domain.ingest import KnownDevice
from app.domain.payloads import BoundData
from app.domain.punches import DeviceSnapshot
from app.domain.tables import now
from app.errors import InvalidInput

#: Strangers that may wait in one tenant's list; the next one is refused without being listed.
PENDING_BOUND: Final = 1000

_ROW: Final = f"""
SELECT d.id, d.serial_number, d.name, d.site_id, coalesce(d.time_zone, s.time_zone), d.status, d.registered,
       $3 = ANY (d.bound_addresses), d.sought_address, d.push_version, d.announced_type,
       d.muted, d.dialect, {", ".join(f"d.{column}" for column in profiles.COLUMNS)}
FROM devices d LEFT JOIN sites s ON s.tenant_id = d.tenant_id AND s.id = d.site_id
WHERE d.tenant_id = $1"""  # noqa: S608  only our own column names
_FIND: Final = _ROW + " AND d.serial_number = $2 AND d.status <> 'RETIRED'"
_OF_ID: Final = _ROW + " AND d.id = $2"


async def tenant_of_address(connection: Connection, address_hash: bytes) -> UUID | None:
    """Whose own address this is, by the hash of its token or label. Purpose "lookup"."""
    tenant_id: UUID | None = await connection.fetchval("SELECT tenant_id FROM find_enrollment($1)", address_hash)
    return tenant_id


async def tenant_of_serial(connection: Connection, serial: str, *, approve: bool) -> UUID | None:
    """Whose terminal this may be on the shared address. Purpose "lookup"."""
    tenant_id: UUID | None = await connection.fetchval(
        "SELECT tenant_id FROM find_shared_serial($1, $2)", serial, approve
    )
    return tenant_id


@dataclass(frozen=True, slots=True)
class Knock:
    """What came of a terminal's contact: the device if it may be heard, and the events that this made."""

    device: KnownDevice | None
    logged: Sequence[Logged] = ()


async def knock(connection: Connection, tenant_id: UUID, serial: str, address: Address) -> Knock:
    """Find the device; bind one that the tenant registered; list a stranger as pending. Purpose "ingest"."""
    row = await connection.fetchrow(_FIND, tenant_id, serial, address.value)
    if row is None:
        await _list_stranger(connection, tenant_id, serial, address)
        return Knock(None)
    device_id, _, _, _, zone_name, status, registered, bound, sought, *_ = row
    if status == DeviceStatus.PENDING and registered and zone_name:
        known = _known(tenant_id, row)
        return Knock(known, await _bind(connection, known, address))
    if status != DeviceStatus.ACTIVE or not bound or not zone_name:
        if not bound and sought != address:
            await connection.execute(
                "UPDATE devices SET sought_address = $3 WHERE tenant_id = $1 AND id = $2",
                tenant_id,
                device_id,
                address.value,
            )
        return Knock(None)
    return Knock(_known(tenant_id, row))


async def known(connection: Connection, tenant_id: UUID, device_id: UUID) -> KnownDevice | None:
    """A device by its id, whatever became of it since it was heard. Purpose "ingest"."""
    row = await connection.fetchrow(_OF_ID, tenant_id, device_id, Address.OWN.value)
    return None if row is None else _known(tenant_id, row)


def _known(tenant_id: UUID, row: Sequence[Any]) -> KnownDevice:
    device_id, serial_number, name, site_id, zone_name, _, _, _, _, *others = row
    snapshot = DeviceSnapshot(device_id, serial_number, name, site_id)
    said = (*others[:4], profiles.watched(others[4:]))
    return KnownDevice(tenant_id, snapshot, ZoneInfo(zone_name or "UTC"), *said)


async def _bind(connection: Connection, known: KnownDevice, address: Address) -> list[Logged]:
    changed = await connection.execute(
        "UPDATE devices SET status = 'ACTIVE', bound_addresses = array_append(bound_addresses, $3), updated_at = now() "
        "WHERE tenant_id = $1 AND id = $2 AND status = 'PENDING'",
        known.tenant_id,
        known.device.id,
        address.value,
    )
    if changed == "UPDATE 0":  # a twin was quicker
        return []
    return await outbox.announce(connection, [bound_event(known.tenant_id, known.device, known.zone.key)])


def bound_event(tenant_id: UUID, device: DeviceSnapshot, zone_name: str | None) -> Happening:
    """device.bound."""
    data: BoundData = {
        "id": ids.show("dev", device.id),
        "serial_number": device.serial_number,
        "name": device.name,
        "site_id": ids.show("sit", device.site_id) if device.site_id else None,
        "time_zone": zone_name,
    }
    return Happening(tenant_id, EventType.DEVICE_BOUND, data, ids.new(), now())


async def _list_stranger(connection: Connection, tenant_id: UUID, serial: str, address: Address) -> None:
    await connection.execute(
        "INSERT INTO devices "
        "(tenant_id, id, serial_number, name, status, registered, sought_address, created_at, updated_at) "
        "SELECT $1, $2, $3, $3, 'PENDING', false, $4, now(), now() "
        "WHERE (SELECT count(*) FROM devices WHERE tenant_id = $1 AND status = 'PENDING') < $5 "
        "ON CONFLICT DO NOTHING",
        tenant_id,
        ids.new(),
        serial,
        address.value,
        PENDING_BOUND,
    )


async def mute(connection: Connection, tenant_id: UUID, serial: str) -> None:
    """Remember that a terminal that is not bound was told to send nothing. Purpose "ingest"."""
    await connection.execute(
        "UPDATE devices SET muted = true "
        "WHERE tenant_id = $1 AND serial_number = $2 AND status <> 'RETIRED' AND NOT muted",
        tenant_id,
        serial,
    )


async def unconfigure(connection: Connection, tenant_id: UUID, device_id: UUID) -> None:
    """A unit began anew: what it asks for next are its options. Purpose "ingest"."""
    await connection.execute(
        "UPDATE devices SET configured = false WHERE tenant_id = $1 AND id = $2 AND configured", tenant_id, device_id
    )


async def stamps(connection: Connection, tenant_id: UUID, device_id: UUID) -> dict[str, str]:
    """The resume marks that the terminal sent last, by table. Purpose "ingest"."""
    text = await connection.fetchval(
        "SELECT stamps FROM devices WHERE tenant_id = $1 AND id = $2", tenant_id, device_id
    )
    return dict(orjson.loads(text)) if text else {}


@dataclass(slots=True)
class Contact:
    """What a terminal let us know about itself, since it was last written down. None means nothing new."""

    seen_at: datetime
    stamps: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def merge(self, later: Contact) -> None:
        """Add what came later."""
        self.seen_at = max(self.seen_at, later.seen_at)
        self.stamps |= later.stamps
        self.facts |= {name: value for name, value in later.facts.items() if value is not None}


#: What a contact may say about a device: column -> type.
FACTS: Final[Mapping[str, str]] = {
    "model": "text",
    "firmware_version": "text",
    "push_version": "text",
    "announced_type": "text",
    "dialect": "text",
    "muted": "boolean",
    "clock_skew_ms": "integer",
    "clock_hint_ms": "integer",
    "clock_hint_at": "timestamptz",
    "told_offset": "integer",
    "configured": "boolean",
    "language": "text",
    "charset": "text",
    "reported_user_count": "integer",
}

# What tells of the memory is left out where it was seen before the memory began anew: it may be written after that.

_NOTE: Final = f"""
WITH contacts AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::jsonb[], $5::jsonb[])
    AS c (tenant_id, id, seen_at, stamps, facts)
), locked AS MATERIALIZED (
    SELECT d.tenant_id, d.id FROM devices d JOIN contacts USING (tenant_id, id)
    ORDER BY d.tenant_id, d.id FOR NO KEY UPDATE OF d
)
UPDATE devices d SET last_seen_at = greatest(d.last_seen_at, c.seen_at),
    stamps = CASE WHEN c.seen_at < d.generation_at THEN d.stamps ELSE d.stamps || c.stamps END,
    mark = CASE WHEN c.seen_at < d.generation_at THEN d.mark ELSE greatest(d.mark, (c.facts->>'mark')::bigint) END,
    mark_at = CASE
        WHEN c.seen_at < d.generation_at THEN d.mark_at
        WHEN (c.facts->>'mark')::bigint >= coalesce(d.mark, 0) THEN (c.facts->>'mark_at')::timestamp
        ELSE d.mark_at
    END,
    reported_punch_count = CASE
        WHEN c.seen_at < d.generation_at THEN d.reported_punch_count
        ELSE coalesce((c.facts->>'reported_punch_count')::integer, d.reported_punch_count)
    END,
    {", ".join(f"{name} = coalesce((c.facts->>'{name}')::{kind}, d.{name})" for name, kind in FACTS.items())}
FROM locked JOIN contacts c USING (tenant_id, id) WHERE d.tenant_id = locked.tenant_id AND d.id = locked.id
"""  # noqa: S608  only our own column names


async def note(connection: Connection, contacts: Mapping[tuple[UUID, UUID], Contact]) -> None:
    """Write down many contacts, by (tenant, device). Purpose "ingest"."""
    await connection.execute(
        _NOTE,
        [tenant_id for tenant_id, _ in contacts],
        [device_id for _, device_id in contacts],
        [contact.seen_at for contact in contacts.values()],
        [orjson.dumps(contact.stamps).decode() for contact in contacts.values()],
        [orjson.dumps(contact.facts).decode() for contact in contacts.values()],
    )


async def approve(
    session: Session,
    tenant_id: UUID,
    device_id: UUID,
    changes: Mapping[str, Any],
    *,
    shared: bool,
) -> tuple[Device, list[Logged]]:
    """Bind a device where it last knocked, after `changes` (see devices.update); ring with the events afterwards.

    `shared` says whether approval is what binds on the shared address; elsewhere a claim does. Raises what
    devices.update raises, and SerialNumberTaken where another tenant's device is bound to the shared address.
    """
    device = await devices.get(session, tenant_id, device_id)
    sought = device.sought_address or Address.OWN
    knocks_elsewhere = device.status == DeviceStatus.ACTIVE and sought not in device.bound_addresses
    if device.status != DeviceStatus.PENDING and not knocks_elsewhere:
        raise InvalidInput(f"This device is {device.status}: nothing waits for approval.", path=("input", "id"))
    if sought == Address.SHARED and not shared:
        raise InvalidInput(
            "This terminal knocks on the shared address, where a claim binds it, not an approval.", path=("input", "id")
        )
    device.status, device.registered = DeviceStatus.ACTIVE, True
    device.bound_addresses = [*device.bound_addresses, sought]
    try:
        await devices.change(session, device, changes)
    except IntegrityError as exc:
        raise SerialNumberTaken(
            "On the shared address this serial number is in use already.", path=("input", "id")
        ) from exc
    zone = device.time_zone
    if zone is None and device.site_id is not None:
        zone = (await sites.get(session, tenant_id, device.site_id)).time_zone
    snapshot = DeviceSnapshot(device.id, device.serial_number, device.name, device.site_id)
    return device, await outbox.announce(await driver(session), [bound_event(tenant_id, snapshot, zone)])
