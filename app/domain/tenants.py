"""Who pays. A tenant starts on a seven-day trial without a card; its terminals are heard whatever its plan says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar, Final
from uuid import UUID

from sqlalchemy import CheckConstraint
from sqlmodel import Field, SQLModel

from app import ids
from app.database import Connection, Session
from app.domain import audit, enrollments, keys, words
from app.domain.audit import OPERATOR, Author
from app.domain.tables import instant, now
from app.errors import AppError
from app.vault import Vault

TRIAL: Final = timedelta(days=7)


class Plan(StrEnum):
    """Where a tenant stands with us."""

    TRIAL = "TRIAL"
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"


class TenantNotFound(AppError):
    """No tenant has this id."""

    code, status = "tenant_not_found", 404

    def __init__(self, tenant_id: UUID) -> None:
        super().__init__(f"No tenant {ids.show('ten', tenant_id)}.")


class TrialEnded(AppError):
    """The seven days are over, and the plan is not paid yet."""

    code, status = "trial_ended", 402

    def __init__(self, ended_at: datetime) -> None:
        super().__init__(
            f"The trial ended on {ended_at:%Y-%m-%d at %H:%M} UTC, so nothing is written. Terminals are still heard, "
            "and everything can be read. Have the plan activated to go on."
        )


class PlanSuspended(AppError):
    """The operator has suspended the plan."""

    code, status = "plan_suspended", 402

    def __init__(self) -> None:
        super().__init__(
            "The plan is suspended, so nothing is written. Terminals are still heard, and everything can be read. "
            "Have the plan activated to go on."
        )


class Tenant(SQLModel, table=True):
    """A customer. `plan` is what was agreed; `standing` is what that comes to at a moment."""

    __tablename__: ClassVar[str] = "tenants"
    __table_args__ = (CheckConstraint("plan IN ('TRIAL', 'ACTIVE', 'SUSPENDED')", name="plan"),)

    id: UUID = Field(primary_key=True, default_factory=ids.new)
    name: str
    plan: str = Plan.TRIAL
    trial_ends_at: datetime | None = instant(optional=True)
    created_at: datetime = instant()

    def standing(self, at: datetime) -> Plan:
        """SUSPENDED once a trial is over, although nobody has suspended it."""
        return Plan.SUSPENDED if _trial_is_over(self, at) else Plan(self.plan)


@dataclass(frozen=True, slots=True)
class Created:
    """A new tenant, and the secrets that are shown this once."""

    tenant: Tenant
    api_key_id: UUID
    api_key: str
    enrollment_token: str
    enrollment_label: str


def start_trial(name: str) -> Tenant:
    """A new tenant whose trial begins now."""
    started = now()
    return Tenant(name=name, plan=Plan.TRIAL, trial_ends_at=started + TRIAL, created_at=started)


def check_plan(tenant: Tenant, at: datetime) -> None:
    """Return if the tenant may write at this moment; TrialEnded or PlanSuspended otherwise."""
    if tenant.trial_ends_at is not None and _trial_is_over(tenant, at):
        raise TrialEnded(tenant.trial_ends_at)
    if tenant.plan == Plan.SUSPENDED:
        raise PlanSuspended


def _trial_is_over(tenant: Tenant, at: datetime) -> bool:
    return tenant.plan == Plan.TRIAL and tenant.trial_ends_at is not None and tenant.trial_ends_at <= at


async def create(
    connection: Connection,
    vault: Vault,
    name: str,
    *,
    key_name: str = "first key",
    scopes: Sequence[str] = keys.SCOPES,
    author: Author = OPERATOR,
) -> Created:
    """A tenant on trial with an empty log, an address for its terminals and a first key that may do everything.

    Needs the operator's door: `db.across("operate")`. Raises InvalidInput for a name that is none.
    """
    tenant = start_trial(words.line(name, "name", longest=200))
    key, secret = keys.issue(tenant.id, key_name, scopes, None, vault)
    enrollment, token, label = enrollments.issue(tenant.id, vault)
    await connection.execute(
        "INSERT INTO tenants (id, name, plan, trial_ends_at, created_at) VALUES ($1, $2, $3, $4, $5)",
        tenant.id,
        tenant.name,
        str(tenant.plan),
        tenant.trial_ends_at,
        tenant.created_at,
    )
    await connection.execute("INSERT INTO feed_heads (tenant_id) VALUES ($1)", tenant.id)
    await keys.add(connection, key)
    await enrollments.add(connection, enrollment)
    await audit.add(connection, tenant.id, author, "tenantCreate", targets=[("ten", tenant.id)])
    await audit.add(connection, tenant.id, author, "apiKeyCreate", {"scopes": key.scopes}, targets=[("key", key.id)])
    return Created(tenant, key.id, secret, token, label)


async def list_all(connection: Connection) -> list[Tenant]:
    """Every tenant, the oldest first."""
    rows = await connection.fetch("SELECT id, name, plan, trial_ends_at, created_at FROM tenants ORDER BY id")
    return [Tenant(**dict(row)) for row in rows]


async def get_any(connection: Connection, tenant_id: UUID) -> Tenant:
    """Any tenant, for the operator. TenantNotFound."""
    row = await connection.fetchrow(
        "SELECT id, name, plan, trial_ends_at, created_at FROM tenants WHERE id = $1", tenant_id
    )
    if row is None:
        raise TenantNotFound(tenant_id)
    return Tenant(**dict(row))


async def activate(connection: Connection, tenant_id: UUID) -> Tenant:
    """The plan is paid: the trial is over for good. TenantNotFound."""
    return await _settle(connection, tenant_id, Plan.ACTIVE, "NULL", "tenantActivate")


async def suspend(connection: Connection, tenant_id: UUID) -> Tenant:
    """Unpaid: terminals are still heard and everything can be read. TenantNotFound."""
    return await _settle(connection, tenant_id, Plan.SUSPENDED, "trial_ends_at", "tenantSuspend")


async def _settle(connection: Connection, tenant_id: UUID, plan: Plan, trial_ends_at: str, action: str) -> Tenant:
    row = await connection.fetchrow(
        f"UPDATE tenants SET plan = $2, trial_ends_at = {trial_ends_at} WHERE id = $1 "  # noqa: S608
        "RETURNING id, name, plan, trial_ends_at, created_at",
        tenant_id,
        plan.value,
    )
    if row is None:
        raise TenantNotFound(tenant_id)
    await audit.add(connection, tenant_id, OPERATOR, action, targets=[("ten", tenant_id)])
    return Tenant(**dict(row))


async def get(session: Session, tenant_id: UUID) -> Tenant:
    """The tenant itself. TenantNotFound."""
    tenant = await session.get(Tenant, tenant_id)
    if tenant is None:
        raise TenantNotFound(tenant_id)
    return tenant
