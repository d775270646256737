"""Who pays. A tenant starts on a seven-day trial without a card; its terminals are heard whatever its plan says."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar, Final
from uuid import UUID

from sqlalchemy import CheckConstraint
from sqlmodel import Field, SQLModel

from app import ids
from app.domain.tables import instant, now

TRIAL: Final = timedelta(days=7)


class Plan(StrEnum):
    """Where a tenant stands with us."""

    TRIAL = "TRIAL"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"


class Tenant(SQLModel, table=True):
    """A customer."""

    __tablename__: ClassVar[str] = "tenants"
    __table_args__ = (CheckConstraint("plan IN ('TRIAL', 'ACTIVE', 'SUSPENDED')", name="plan"),)

    id: UUID = Field(primary_key=True, default_factory=ids.new)
    name: str
    plan: str = Plan.TRIAL
    trial_ends_at: datetime | None = instant(optional=True)
    created_at: datetime = instant()


def start_trial(name: str) -> Tenant:
    """A new tenant whose trial begins now."""
    started = now()
    return Tenant(name=name, plan=Plan.TRIAL, trial_ends_at=started + TRIAL, created_at=started)
