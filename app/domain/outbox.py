"""announce(): the one way a fact leaves a transaction. It numbers events, appends them and owes them to endpoints.

(Punches go the same way from within the call that inserts them: both end in the database's `log_events`.) Call it
last: the rows of `feed_heads` are the last locks taken, in tenant order, which makes positions commit-ordered
and keeps two writers from waiting for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import asyncpg

from app import ids
from app.database import Connection, Fetch, Session, driver
from app.domain import endpoints
from app.domain.deliveries import Disabled
from app.domain.endpoints import EndpointStatus
from app.domain.events import EventType, Happening, Logged, by_tenant, channel, timestamp, write_body, write_message
from app.domain.payloads import EndpointDisabledData, EndpointTestData
from app.domain.tables import now
from app.errors import InvalidInput

if TYPE_CHECKING:
    from app.broadcast import Bell

#: Rung when deliveries may have become due; the message says nothing. Not NOTIFY, although that would come with the
#: commit: a commit that notifies takes a lock on the whole cluster, so all tenants' commits would stand in one line.
#: A ring that is lost costs a second, the workers' poll.
DELIVERIES: Final = "deliveries"
_OF_DEVICES: Final = frozenset({EventType.DEVICE_ONLINE, EventType.DEVICE_OFFLINE, EventType.DEVICE_BOUND})
_NO_HEAD: Final = "A tenant without a feed head cannot have events."

_LOG: Final = "SELECT * FROM log_events($1, $2, $3, $4, $5, $6)"

_APPEND_TO = """
WITH moved AS (
    UPDATE feed_heads SET position = $2 WHERE tenant_id = $1
), logged AS (
    INSERT INTO events (tenant_id, position, id, type, body, created_at) VALUES ($1, $2, $3, $4, $5, $6)
    RETURNING tenant_id, position, id, type
)
INSERT INTO webhook_deliveries
    (tenant_id, id, endpoint_id, position, event_id, event_type, status, attempt_count, due_at, urgent, created_at)
SELECT l.tenant_id, $7, $8, l.position, l.id, l.type, 'PENDING', 0, now(), true, now() FROM logged l
RETURNING id
"""


async def hold(connection: Connection, tenant_id: UUID) -> int:
    """Take the tenant's feed head until the end of the transaction; its last position. LookupError."""
    position: int | None = await connection.fetchval(
        "SELECT position FROM feed_heads WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id
    )
    if position is None:
        raise LookupError(_NO_HEAD)
    return position


async def announce(connection: Connection, happenings: Sequence[Happening]) -> list[Logged]:
    """Number these events, append them, owe them to endpoints. Ring with the result, after the commit. LookupError."""
    if not happenings:
        return []
    return await call(
        connection.fetch,
        _LOG,
        [happening.tenant_id for happening in happenings],
        [happening.id for happening in happenings],
        [happening.type for happening in happenings],
        [happening.pin for happening in happenings],
        [write_body(happening).decode() for happening in happenings],
        [happening.at for happening in happenings],
    )


async def call(fetch: Fetch, statement: str, *arguments: Any) -> list[Logged]:
    """Run a statement that ends in `log_events`; what it logged, by tenant and position."""
    try:
        rows = await fetch(statement, *arguments)
    except asyncpg.NoDataFoundError as exc:
        raise LookupError(_NO_HEAD) from exc
    return [Logged(row[0], row[1], row[2], row[3], row[4].encode()) for row in rows]


async def announce_disabled(connection: Connection, disabled: Sequence[Disabled]) -> list[Logged]:
    """Tell the tenants, by feed and by their other endpoints, that we send nothing more to these. As `announce`."""
    at = now()
    happenings = []
    for endpoint in disabled:
        data: EndpointDisabledData = {
            "endpoint_id": ids.show("whk", endpoint.endpoint_id),
            "url": endpoint.url,
            "reason": endpoint.reason,
            "disabled_at": timestamp(at),
        }
        happenings.append(Happening(endpoint.tenant_id, EventType.WEBHOOK_ENDPOINT_DISABLED, data, ids.new(), at))
    return await announce(connection, happenings)


async def send_test(session: Session, tenant_id: UUID, endpoint_id: UUID) -> tuple[UUID, list[Logged]]:
    """A webhook.test event owed to this endpoint and to no other; the delivery's id, and what to ring with.

    Raises EndpointNotFound, and InvalidInput for a disabled endpoint.
    """
    connection = await driver(session)
    endpoint = await endpoints.get(session, tenant_id, endpoint_id)
    if endpoint.status == EndpointStatus.DISABLED:
        raise InvalidInput("This endpoint is disabled: enable it before testing it.", path=("input", "id"))
    data: EndpointTestData = {"endpoint_id": ids.show("whk", endpoint_id), "url": endpoint.url}
    happening = Happening(tenant_id, EventType.WEBHOOK_TEST, data, ids.new(), now())
    position = await hold(connection, tenant_id) + 1
    body = write_body(happening)
    delivery_id: UUID = await connection.fetchval(
        _APPEND_TO,
        tenant_id,
        position,
        happening.id,
        happening.type.value,
        body.decode(),
        happening.at,
        ids.new(),
        endpoint_id,
    )
    return delivery_id, [Logged(tenant_id, position, happening.id, happening.type, body)]


def devices_channel(tenant_id: UUID) -> str:
    """Rung when a device of the tenant may have come, gone or changed; the message says nothing."""
    return f"devices:{ids.show('ten', tenant_id)}"


def ring(bell: Bell, bus_key: bytes, batch: Sequence[Logged]) -> None:
    """Tell feeds and workers what was committed. Only after the commit, and whether or not anybody hears it."""
    for tenant_id, logged in by_tenant(batch).items():
        bell.ring(channel(tenant_id), write_message(bus_key, logged))
        if any(event.type in _OF_DEVICES for event in logged):
            bell.ring(devices_channel(tenant_id), b"1")
    if batch:
        bell.ring(DELIVERIES, b"1")
