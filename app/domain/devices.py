"""The registry of terminals: which tenant a serial belongs to on which address, its zone, when it was last heard."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Index, String, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from app import ids
from app.domain.tables import instant, tenant_key, within_tenant


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
    clock_skew_ms: int | None = None
    reported_user_count: int | None = None
    reported_punch_count: int | None = None
    flags: list[str] = Field(default_factory=list, sa_column=Column(ARRAY(String), nullable=False, server_default="{}"))
    #: The resume mark that the terminal last sent with an upload, by table; opaque text.
    stamps: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSONB, nullable=False, server_default="{}"))
    created_at: datetime = instant()
    updated_at: datetime = instant()
