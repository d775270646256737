"""announce(): the one way a fact leaves a transaction. It numbers events, appends them and owes them to endpoints.

Call it last: the rows of `feed_heads` are the last locks taken, in tenant order, which makes positions commit-ordered
and keeps two writers from waiting for each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from app import ids
from app.database import Connection, Session, driver
from app.domain import endpoints
from app.domain.endpoints import EndpointStatus
from app.domain.events import Cursors, EventType, Happening, Logged, by_tenant, channel, write_body, write_message
from app.domain.tables import now
from app.errors import InvalidInput

if TYPE_CHECKING:
    from app.broadcast import Bell

#: Rung when deliveries may have become due; the message says nothing. Not NOTIFY, although that would come with the
#: commit: a commit that notifies takes a lock on the whole cluster, so all tenants' commits would stand in one line.
#: A ring that is lost costs a second, the workers' poll.
DELIVERIES: Final = "deliveries"

# The locks are taken in the order of the sort, before any row is changed.
_ADVANCE = """
WITH wanted AS (SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS w (tenant_id, n)),
locked AS MATERIALIZED (
    SELECT h.tenant_id FROM feed_heads h JOIN wanted USING (tenant_id) ORDER BY h.tenant_id FOR NO KEY UPDATE OF h
)
UPDATE feed_heads h SET position = h.position + w.n
FROM locked JOIN wanted w USING (tenant_id) WHERE h.tenant_id = locked.tenant_id
RETURNING h.tenant_id, h.position, h.roster
"""

# Due even when the endpoint is paused, as the status read here may be changing: the worker parks what it may not
# send, under the endpoint's lock, and a resume finds it there. Parked here, it could slip past a resume for ever.
_APPEND = """
WITH logged AS (
    INSERT INTO events (tenant_id, position, id, type, body, created_at)
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::timestamptz[])
    RETURNING tenant_id, position, id, type
)
INSERT INTO webhook_deliveries
    (tenant_id, id, endpoint_id, position, event_id, event_type, status, attempt_count, due_at, created_at)
SELECT l.tenant_id, uuid7(), e.id, l.position, l.id, l.type, 'PENDING', 0, now(), now()
FROM logged l JOIN webhook_endpoints e ON e.tenant_id = l.tenant_id
WHERE e.deleted_at IS NULL AND e.status <> 'DISABLED' AND (e.event_types = '{}' OR l.type = ANY (e.event_types))
ORDER BY l.tenant_id, l.position
"""

_APPEND_TO = """
WITH logged AS (
    INSERT INTO events (tenant_id, position, id, type, body, created_at) VALUES ($1, $2, $3, $4, $5, $6)
    RETURNING tenant_id, position, id, type
)
INSERT INTO webhook_deliveries
    (tenant_id, id, endpoint_id, position, event_id, event_type, status, attempt_count, due_at, created_at)
SELECT l.tenant_id, $7, $8, l.position, l.id, l.type, 'PENDING', 0, now(), now() FROM logged l
RETURNING id
"""


@dataclass(frozen=True, slots=True)
class Head:
    """A tenant's log after its positions were given out: the last of them, and how often its roster had changed."""

    position: int
    roster: int


async def advance(connection: Connection, counts: dict[UUID, int]) -> dict[UUID, Head]:
    """Give out the next positions of each tenant and lock them until the end of the transaction."""
    rows = await connection.fetch(_ADVANCE, list(counts), list(counts.values()))
    if len(rows) != len(counts):
        raise LookupError("A tenant without a feed head cannot have events.")
    return {row[0]: Head(row[1], row[2]) for row in rows}


async def append(
    connection: Connection, cursors: Cursors, happenings: Sequence[Happening], heads: dict[UUID, Head]
) -> list[Logged]:
    """Write events at positions that `advance` gave out, and a delivery for each endpoint that wants one."""
    counts = Counter(happening.tenant_id for happening in happenings)
    following = {tenant_id: heads[tenant_id].position - n for tenant_id, n in counts.items()}
    logged: list[Logged] = []
    for happening in happenings:
        tenant_id = happening.tenant_id
        following[tenant_id] = position = following[tenant_id] + 1
        body = write_body(happening, cursors.write(tenant_id, position))
        logged.append(Logged(tenant_id, position, happening.id, happening.type, body))
    await connection.execute(
        _APPEND,
        [event.tenant_id for event in logged],
        [event.position for event in logged],
        [event.id for event in logged],
        [event.type for event in logged],
        [event.body.decode() for event in logged],
        [happening.at for happening in happenings],
    )
    return logged


async def announce(connection: Connection, cursors: Cursors, happenings: Sequence[Happening]) -> list[Logged]:
    """Both steps at once, for facts that need nothing from in between. Ring with the result, after the commit."""
    if not happenings:
        return []
    heads = await advance(connection, Counter(happening.tenant_id for happening in happenings))
    return await append(connection, cursors, happenings, heads)


async def send_test(
    session: Session, cursors: Cursors, tenant_id: UUID, endpoint_id: UUID
) -> tuple[UUID, list[Logged]]:
    """A webhook.test event owed to this endpoint and to no other; the delivery's id, and what to ring with.

    Raises EndpointNotFound, and InvalidInput for a disabled endpoint.
    """
    connection = await driver(session)
    endpoint = await endpoints.get(session, tenant_id, endpoint_id)
    if endpoint.status == EndpointStatus.DISABLED:
        raise InvalidInput("This endpoint is disabled: enable it before testing it.", path=("input", "id"))
    data = {"endpoint_id": ids.show("whk", endpoint_id), "url": endpoint.url}
    happening = Happening(tenant_id, EventType.WEBHOOK_TEST, data, ids.new(), now())
    position = (await advance(connection, {tenant_id: 1}))[tenant_id].position
    body = write_body(happening, cursors.write(tenant_id, position))
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


def ring(bell: Bell, bus_key: bytes, batch: Sequence[Logged]) -> None:
    """Tell feeds and workers what was committed. Only after the commit, and whether or not anybody hears it."""
    for tenant_id, logged in by_tenant(batch).items():
        bell.ring(channel(tenant_id), write_message(bus_key, logged))
    if batch:
        bell.ring(DELIVERIES, b"1")
