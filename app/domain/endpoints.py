"""Where a tenant wants webhooks: URL, secrets, filter, health."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar, Final
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, Select, String, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from app import ids, paging
from app.database import Session, driver
from app.domain import words
from app.domain.events import EventType
from app.domain.keys import check_grace
from app.domain.tables import build, columns, instant, now, tenant_key
from app.errors import AppError, InvalidInput
from app.vault import Vault

#: Endpoints that one tenant may have: every event of its is matched with all of them.
MOST: Final = 500


class EndpointStatus(StrEnum):
    """PAUSED keeps the backlog; DISABLED is what we do to one that is gone."""

    ENABLED = "ENABLED"
    PAUSED = "PAUSED"
    DISABLED = "DISABLED"


class Endpoint(SQLModel, table=True):
    """One receiver. Deleting marks it: its deliveries stay readable."""

    __tablename__: ClassVar[str] = "webhook_endpoints"
    __table_args__ = (
        CheckConstraint("status IN ('ENABLED', 'PAUSED', 'DISABLED')", name="status"),
        Index("ix_webhook_endpoints_live", "tenant_id", postgresql_where=text("deleted_at IS NULL")),
    )

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    url: str
    description: str | None = None
    status: str = EndpointStatus.ENABLED
    #: Empty means every type.
    event_types: list[str] = Field(
        default_factory=list, sa_column=Column(ARRAY(String), nullable=False, server_default="{}")
    )
    secret_sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    previous_secret_sealed: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    previous_secret_expires_at: datetime | None = instant(optional=True)
    #: The one before that, while its own grace lasts.
    older_secret_sealed: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    older_secret_expires_at: datetime | None = instant(optional=True)
    disabled_reason: str | None = None
    #: Failed attempts since the last success, and since when.
    failures: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    failing_since: datetime | None = instant(optional=True)
    #: The last twenty attempts, the latest in the lowest bit: one is a failure. Written down while there is one.
    recent: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    #: The breaker: until then nothing is sent, afterwards one delivery to see; None while it is closed.
    breaker_until: datetime | None = instant(optional=True)
    created_at: datetime = instant()
    updated_at: datetime = instant()
    deleted_at: datetime | None = instant(optional=True)


def seal_secret(vault: Vault, endpoint_id: UUID, tenant_id: UUID, secret: str) -> bytes:
    """A signing secret as it is stored; opens again only for this endpoint of this tenant."""
    return vault.seal(secret, owner=endpoint_id, purpose=_secret_of(tenant_id))


def open_secret(vault: Vault, endpoint_id: UUID, tenant_id: UUID, sealed: bytes) -> str:
    """The secret as the customer copied it. Raises cryptography's InvalidTag when it is not this endpoint's."""
    return vault.open(sealed, owner=endpoint_id, purpose=_secret_of(tenant_id))


def _secret_of(tenant_id: UUID) -> str:
    return f"webhook secret of {tenant_id}"


class EndpointNotFound(AppError):
    """No endpoint with this id belongs to the tenant."""

    code, status = "webhook_endpoint_not_found", 404

    def __init__(self, endpoint_id: UUID) -> None:
        super().__init__(f"No webhook endpoint {ids.show('whk', endpoint_id)}.", path=("input", "id"))


_ROW: Final = columns(Endpoint)
BY_ID: Final = paging.both_ways("ID", _ROW.id)


async def page(session: Session, tenant_id: UUID, asked: paging.Asked[None]) -> paging.Page[Endpoint]:
    """One page of the tenant's endpoints that are not deleted."""
    return (await paging.fetch(session, tenant_id, _query, asked)).map(partial(build, Endpoint))


async def count(session: Session, tenant_id: UUID) -> int:
    """How many endpoints the tenant has."""
    return await paging.count(session, _query(tenant_id))


async def by_ids(session: Session, tenant_id: UUID, endpoint_ids: Sequence[UUID]) -> dict[UUID, Endpoint]:
    """Those of them that are the tenant's and not deleted."""
    query = _query(tenant_id).where(paging.among(_ROW.id, endpoint_ids))
    return {row.id: build(Endpoint, row) for row in await (await session.connection()).execute(query)}


def _query(tenant_id: UUID, _wanted: None = None) -> Select[Any]:
    return select(*_ROW).where(_ROW.tenant_id == tenant_id, _ROW.deleted_at.is_(None))


async def get(session: Session, tenant_id: UUID, endpoint_id: UUID) -> Endpoint:
    """The tenant's endpoint, held until the transaction ends. Another tenant's is not found either, nor a deleted one.

    Whoever changes deliveries as well takes this lock first.
    """
    lock: Any = {"key_share": True}
    endpoint = await session.get(Endpoint, (tenant_id, endpoint_id), populate_existing=True, with_for_update=lock)
    if endpoint is None or endpoint.deleted_at is not None:
        raise EndpointNotFound(endpoint_id)
    return endpoint


async def create(
    session: Session,
    tenant_id: UUID,
    url: str,
    *,
    description: str | None,
    event_types: Iterable[str],
    check_url: Callable[[str], None],
    vault: Vault,
) -> tuple[Endpoint, str]:
    """A new receiver and its secret, which is shown this once. InvalidInput, and whatever `check_url` raises."""
    check_url(url)
    if await count(session, tenant_id) >= MOST:
        raise InvalidInput(f"A tenant has at most {MOST} webhook endpoints.", path=("input",))
    endpoint_id, secret = ids.new(), new_secret()
    endpoint = Endpoint(
        tenant_id=tenant_id,
        id=endpoint_id,
        url=url,
        description=words.optional_line(description, "description", longest=500),
        event_types=check_types(event_types),
        secret_sealed=seal_secret(vault, endpoint_id, tenant_id, secret),
    )
    session.add(endpoint)
    await session.flush()
    return endpoint, secret


async def update(
    session: Session,
    tenant_id: UUID,
    endpoint_id: UUID,
    changes: Mapping[str, Any],
    *,
    check_url: Callable[[str], None],
) -> Endpoint:
    """Change `url`, `description`, `event_types` and `status`, those that are named; None clears the middle two.

    A pause parks what waits, enabling makes it due. Raises EndpointNotFound, InvalidInput, whatever `check_url` raises.
    """
    endpoint = await get(session, tenant_id, endpoint_id)
    if "url" in changes:
        url = changes["url"]
        if url is None:
            raise InvalidInput("An endpoint cannot be without a URL.", path=("input", "url"))
        check_url(url)
        endpoint.url = url
        _forget_failures(endpoint)
    if "description" in changes:
        endpoint.description = words.optional_line(changes["description"], "description", longest=500)
    if "event_types" in changes:
        endpoint.event_types = check_types(changes["event_types"] or ())
    if "status" in changes:
        await _turn(session, endpoint, changes["status"])
    endpoint.updated_at = now()
    await session.flush()
    return endpoint


async def delete(session: Session, tenant_id: UUID, endpoint_id: UUID) -> None:
    """Send nothing more there. What waits is cancelled; deliveries and their attempts stay readable."""
    endpoint = await get(session, tenant_id, endpoint_id)
    endpoint.deleted_at = endpoint.updated_at = now()
    await session.flush()
    await (await driver(session)).execute(
        "UPDATE webhook_deliveries SET status = 'CANCELLED', due_at = NULL, completed_at = now() "
        "WHERE tenant_id = $1 AND endpoint_id = $2 AND status = 'PENDING'",
        tenant_id,
        endpoint_id,
    )


async def rotate_secret(
    session: Session, tenant_id: UUID, endpoint_id: UUID, grace: timedelta, vault: Vault
) -> tuple[Endpoint, str]:
    """A new secret, shown this once; the one before it signs as well until the grace period ends.

    A secret that an earlier rotation replaced signs until its own grace ends; beside the new one there are two such at
    most, the latest. Without grace no other signs from now on.
    """
    check_grace(grace)
    endpoint = await get(session, tenant_id, endpoint_id)
    secret, at = new_secret(), now()
    if not grace:
        endpoint.older_secret_sealed = endpoint.older_secret_expires_at = None
    elif _later(endpoint.previous_secret_expires_at, at):
        # The answer that told the previous one may have been lost: its receiver still has the one before.
        endpoint.older_secret_sealed = endpoint.previous_secret_sealed
        endpoint.older_secret_expires_at = endpoint.previous_secret_expires_at
    elif not _later(endpoint.older_secret_expires_at, at):
        endpoint.older_secret_sealed = endpoint.older_secret_expires_at = None
    endpoint.previous_secret_sealed = endpoint.secret_sealed if grace else None
    endpoint.previous_secret_expires_at = at + grace if grace else None
    endpoint.secret_sealed = seal_secret(vault, endpoint_id, tenant_id, secret)
    endpoint.updated_at = at
    await session.flush()
    return endpoint, secret


def _later(moment: datetime | None, than: datetime) -> bool:
    return moment is not None and moment > than


def new_secret() -> str:
    """A signing secret as the Standard Webhooks libraries take it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def check_types(event_types: Iterable[str]) -> list[str]:
    """The event types, each once, in the order of the list of all; InvalidInput for one that does not exist."""
    wanted = set(event_types)
    if strange := wanted.difference(EventType):
        raise InvalidInput(
            f"There is no event type {min(strange)[:64]!r}; the types are {', '.join(EventType)}.",
            path=("input", "eventTypes"),
        )
    return [event_type.value for event_type in EventType if event_type in wanted]


def _forget_failures(endpoint: Endpoint) -> None:
    """Somebody did something about it: it is tried anew."""
    endpoint.failures, endpoint.recent, endpoint.failing_since, endpoint.breaker_until = 0, 0, None, None


async def _turn(session: Session, endpoint: Endpoint, status: str | None) -> None:
    """Under the endpoint's lock, which the worker takes as well before it parks anything."""
    if status not in (EndpointStatus.ENABLED, EndpointStatus.PAUSED):
        raise InvalidInput("Set an endpoint to ENABLED or PAUSED.", path=("input", "status"))
    if endpoint.status == status:
        return
    endpoint.status, endpoint.disabled_reason = EndpointStatus(status), None
    _forget_failures(endpoint)
    await session.flush()
    due, when = ("now()", "due_at IS NULL") if status == EndpointStatus.ENABLED else ("NULL", "due_at IS NOT NULL")
    await (await driver(session)).execute(
        f"UPDATE webhook_deliveries SET due_at = {due} "  # noqa: S608  one of the two above
        f"WHERE tenant_id = $1 AND endpoint_id = $2 AND status = 'PENDING' AND {when}",
        endpoint.tenant_id,
        endpoint.id,
    )
