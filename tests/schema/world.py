"""A tenant with one of everything, and punches in any number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from app import ids
from app.database import Database
from app.domain import commands, punches, replays
from app.domain.commands import DeviceCommand
from app.domain.deliveries import Attempt, Delivery
from app.domain.devices import Device
from app.domain.employees import Employee
from app.domain.endpoints import Endpoint
from app.domain.events import Logged
from app.domain.punches import DeviceSnapshot, PunchView
from app.domain.records import RejectedRecord
from app.domain.replays import Replay
from app.domain.sites import Site
from app.vault import Vault
from protocol.adms.codes import Direction, VerifyMode
from tests.factories import make_device, make_endpoint

NINE_O_CLOCK = datetime(2026, 3, 2, 9, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class World:
    """What `make_world` made. Three punches: two of the employee's, one of a stranger's."""

    tenant_id: UUID
    site: Site
    device: Device
    employee: Employee
    punches: list[PunchView]
    rejected: RejectedRecord
    endpoint: Endpoint
    delivery: Delivery
    command: DeviceCommand
    replay: Replay


def make_view(device_id: UUID, number: int = 0, **fields: Any) -> PunchView:
    """A punch, `number` minutes after nine."""
    at = NINE_O_CLOCK + timedelta(minutes=number)
    view = PunchView(
        id=ids.new(),
        device_id=device_id,
        pin="0042",
        local_time=at.replace(tzinfo=None),
        time_zone="UTC",
        punched_at=at,
        received_at=at + timedelta(seconds=2),
        direction=Direction.CHECK_IN,
        state_code=0,
        verify_mode=VerifyMode.FACE,
        verify_code=15,
        work_code=None,
        temperature_celsius=None,
        mask_worn=None,
        buffered=False,
        flags=(),
        raw=f"0042\t2026-03-02 09:{number % 60:02}:00\t0\t15".encode(),
    )
    return replace(view, **fields)


async def add_punches(db: Database, tenant_id: UUID, device: Device, views: Sequence[PunchView]) -> list[Logged]:
    """Punches of one device, committed and announced."""
    seen = DeviceSnapshot(device.id, device.serial_number, device.name, device.site_id)
    async with db.across("ingest", [tenant_id]) as connection:
        return await punches.append(connection.fetch, [(tenant_id, seen, view) for view in views])


async def make_world(db: Database, vault: Vault, tenant_id: UUID) -> World:
    """One of everything."""
    site = Site(tenant_id=tenant_id, name="Casablanca", time_zone="Africa/Casablanca")
    employee = Employee(
        tenant_id=tenant_id, pin="0042", name="Amina", external_id="hr-42", card_number="778899", privilege="ADMIN"
    )
    async with db.write(tenant_id) as session:
        session.add(site)
        session.add(employee)
    device = await make_device(
        db, tenant_id, name="Gate", site_id=site.id, time_zone=None, model="SpeedFace", dialect="ATTENDANCE"
    )
    endpoint = await make_endpoint(db, vault, tenant_id, description="payroll")
    views = [
        make_view(device.id, 0),
        make_view(device.id, 1, direction=Direction.CHECK_OUT, state_code=1),
        make_view(device.id, 2, pin="7", buffered=True, verify_mode=VerifyMode.CARD),
    ]
    await add_punches(db, tenant_id, device, views)
    rejected = await reject(db, tenant_id, device.id, "0042\tgestern, früh".encode("latin-1"))
    async with db.write(tenant_id) as session:
        command = await commands.send(session, tenant_id, device.id, "refreshInfo", {})
        replay = await replays.start(
            session, tenant_id, endpoint.id, NINE_O_CLOCK, None, event_types=None, only_undelivered=False
        )
    delivery = await _first_delivery(db, tenant_id)
    return World(tenant_id, site, device, employee, views, rejected, endpoint, delivery, command, replay)


async def reject(db: Database, tenant_id: UUID, device_id: UUID, raw: bytes) -> RejectedRecord:
    """A line that could not be read."""
    rejected = RejectedRecord(
        tenant_id=tenant_id,
        device_id=device_id,
        table_name="ATTLOG",
        reason="no time",
        raw=raw,
        digest=ids.new().bytes,
    )
    async with db.across("ingest", [tenant_id]) as connection:
        await connection.execute(
            "INSERT INTO rejected_records (tenant_id, id, device_id, table_name, reason, raw, digest, received_at) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7, now())",
            tenant_id,
            rejected.id,
            device_id,
            rejected.table_name,
            rejected.reason,
            rejected.raw,
            rejected.digest,
        )
    return rejected


async def _first_delivery(db: Database, tenant_id: UUID) -> Delivery:
    """The first punch's delivery, with one attempt that timed out."""
    async with db.across("work", [tenant_id]) as connection:
        row = await connection.fetchrow(
            "UPDATE webhook_deliveries SET attempt_count = 1 WHERE tenant_id = $1 AND position = 1 RETURNING *",
            tenant_id,
        )
        attempt = Attempt(tenant_id=tenant_id, delivery_id=row["id"], number=1, duration_ms=10_000, error="timeout")
        await connection.execute(
            "INSERT INTO webhook_attempts (tenant_id, delivery_id, number, started_at, duration_ms, error) "
            "VALUES ($1, $2, 1, now(), $3, $4)",
            tenant_id,
            attempt.delivery_id,
            attempt.duration_ms,
            attempt.error,
        )
    return Delivery(**dict(row))
