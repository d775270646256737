"""Punches: appended once, listed by cursor. The same device, PIN, local time and state is the same punch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final
from uuid import UUID

from sqlalchemy import Column, DateTime, Index, LargeBinary, SmallInteger, String
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from app import ids
from app.domain.tables import instant, tenant_key, within_tenant


class PunchDirection(StrEnum):
    """What a punch means. The table holds the place in this list, so it only ever grows at the end."""

    CHECK_IN = "CHECK_IN"
    CHECK_OUT = "CHECK_OUT"
    BREAK_OUT = "BREAK_OUT"
    BREAK_IN = "BREAK_IN"
    OVERTIME_IN = "OVERTIME_IN"
    OVERTIME_OUT = "OVERTIME_OUT"
    UNSPECIFIED = "UNSPECIFIED"


class VerifyMode(StrEnum):
    """How a person proved who they are. The table holds the place in this list."""

    PASSWORD = "PASSWORD"  # noqa: S105
    FINGERPRINT = "FINGERPRINT"
    CARD = "CARD"
    FACE = "FACE"
    PALM = "PALM"
    OTHER = "OTHER"


DIRECTIONS: Final = tuple(PunchDirection)
VERIFY_MODES: Final = tuple(VerifyMode)


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
        direction=PunchDirection(data["direction"].upper()),
        state_code=data["state_code"],
        verify_mode=VerifyMode(data["verify_mode"].upper()),
        verify_code=data["verify_code"],
        work_code=data["work_code"],
        temperature_celsius=data["temperature_celsius"],
        mask_worn=data["mask_worn"],
        buffered=data["buffered"],
        flags=tuple(data["flags"]),
    )
