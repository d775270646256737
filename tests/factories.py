"""Valid by default; a test says only what matters to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID

from app import ids
from app.database import Database
from app.domain import outbox
from app.domain.devices import Device, DeviceStatus
from app.domain.endpoints import Endpoint, seal_secret
from app.domain.events import EventType, Happening, Logged
from app.domain.tenants import start_trial
from app.vault import Vault
from protocol import webhook
from tests import bodies

_numbers = count(1)

#: Of every endpoint that asks for no other.
SECRET = webhook.secret_from(bytes(range(32)))


@dataclass(frozen=True, slots=True)
class TenantFixture:
    """A tenant that exists, with nothing in it."""

    tenant_id: UUID
    name: str


async def make_tenant(db: Database, name: str | None = None) -> TenantFixture:
    """A tenant on trial with an empty log."""
    tenant = start_trial(name or f"Tenant {next(_numbers)}")
    async with db.across("operate") as connection:
        await connection.execute(
            "INSERT INTO tenants (id, name, plan, trial_ends_at, created_at) VALUES ($1, $2, $3, $4, $5)",
            tenant.id,
            tenant.name,
            tenant.plan,
            tenant.trial_ends_at,
            tenant.created_at,
        )
        await connection.execute("INSERT INTO feed_heads (tenant_id) VALUES ($1)", tenant.id)
    return TenantFixture(tenant.id, tenant.name)


async def make_device(db: Database, tenant_id: UUID, **fields: Any) -> Device:
    """An active device on the tenant's own address, in UTC."""
    defaults: dict[str, Any] = {
        "tenant_id": tenant_id,
        "id": ids.new(),
        "serial_number": f"TEST{next(_numbers):08}",
        "name": "Gate",
        "time_zone": "UTC",
        "status": DeviceStatus.ACTIVE,
        "registered": True,
        "bound_addresses": ["own"],
        "online": True,  # or its first contact is an event
        "created_at": datetime.now(UTC),
    }
    device = Device(**defaults | fields)
    async with db.write(tenant_id) as session:
        session.add(device)
    return device


async def make_endpoint(
    db: Database,
    vault: Vault,
    tenant_id: UUID,
    url: str = "https://receiver.example/hook",
    *,
    secret: str = SECRET,
    previous_secret: str | None = None,
    older_secret: str | None = None,
    **fields: Any,
) -> Endpoint:
    """An enabled endpoint for every type of event."""
    endpoint_id = ids.new()

    def sealed(text: str | None) -> bytes | None:
        return None if text is None else seal_secret(vault, endpoint_id, tenant_id, text)

    defaults: dict[str, Any] = {
        "tenant_id": tenant_id,
        "id": endpoint_id,
        "url": url,
        "secret_sealed": sealed(secret),
        "previous_secret_sealed": sealed(previous_secret),
        "older_secret_sealed": sealed(older_secret),
    }
    endpoint = Endpoint(**defaults | fields)
    async with db.write(tenant_id) as session:
        session.add(endpoint)
    return endpoint


async def happen(
    db: Database, tenant_id: UUID, times: int = 1, type: EventType = EventType.PUNCH_CREATED
) -> list[Logged]:
    """Events, announced and committed, each owed to the endpoints that want it."""
    happenings = [
        Happening(tenant_id, type, bodies.example(type, number), ids.new(), datetime.now(UTC))
        for number in range(times)
    ]
    async with db.across("ingest", [tenant_id]) as connection:
        return await outbox.announce(connection, happenings)
