"""A period sent again to one endpoint, as a job: same event ids, new delivery ids.

The events are in the log whether or not anybody was owed them, so a replay reads the log between two positions that are
fixed when it is asked for. Workers deal it out step by step, so many a second, and no further ahead of the receiver
than a few seconds: a receiver that fails slows its replay down, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Final
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, String, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from app import ids, paging
from app.database import Connection, Session, driver
from app.domain import endpoints
from app.domain.endpoints import EndpointNotFound, EndpointStatus
from app.domain.events import EventType
from app.domain.tables import build, columns, instant, now, tenant_key, within_tenant
from app.errors import AppError, InvalidInput

#: Replays of one tenant that may run at a time.
MOST: Final = 10
#: How many seconds' worth of deliveries may wait for the receiver.
AHEAD: Final = 5
#: Positions that one step looks at: with a filter that lets little through, a step ends without having found enough.
STRETCH: Final = 20_000
#: An event's time is taken before its position is, so their orders differ by less than this.
SLACK: Final = timedelta(minutes=10)


class ReplayStatus(StrEnum):
    """RUNNING until everything has been sent, or given up."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"


class Replay(SQLModel, table=True):
    """What to send again, and how far that is."""

    __tablename__: ClassVar[str] = "webhook_replays"
    __table_args__ = (
        within_tenant("endpoint_id", "webhook_endpoints"),
        CheckConstraint("status IN ('RUNNING', 'COMPLETED', 'CANCELLED')", name="status"),
        Index("ix_webhook_replays_running", "paced_at", postgresql_where=text("status = 'RUNNING'")),
    )

    tenant_id: UUID = tenant_key(reference=False)
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    endpoint_id: UUID
    status: str = ReplayStatus.RUNNING
    since: datetime = instant()
    until: datetime = instant()
    event_types: list[str] = Field(sa_column=Column(ARRAY(String), nullable=False))
    only_undelivered: bool = False
    #: Everything up to here has been dealt out; the last position that is looked at.
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
    last_position: int = Field(sa_column=Column(BigInteger, nullable=False))
    #: Known once the first step has counted.
    total: int | None = None
    #: Deliveries made; of these, ended.
    dealt: int = 0
    done: int = 0
    paced_at: datetime = instant()
    created_at: datetime = instant()
    completed_at: datetime | None = instant(optional=True)


class ReplayNotFound(AppError):
    """No replay with this id belongs to the tenant."""

    code, status = "webhook_replay_not_found", 404

    def __init__(self, replay_id: UUID) -> None:
        super().__init__(f"No webhook replay {ids.show('rep', replay_id)}.")


_ROW: Final = columns(Replay)


async def by_ids(session: Session, tenant_id: UUID, replay_ids: Sequence[UUID]) -> dict[UUID, Replay]:
    """Those of them that are the tenant's."""
    query = select(*_ROW).where(_ROW.tenant_id == tenant_id, paging.among(_ROW.id, replay_ids))
    return {row.id: build(Replay, row) for row in await (await session.connection()).execute(query)}


async def start(
    session: Session,
    tenant_id: UUID,
    endpoint_id: UUID,
    since: datetime,
    until: datetime | None,
    *,
    event_types: Iterable[str] | None,
    only_undelivered: bool,
) -> Replay:
    """Begin to send again what happened from `since` to before `until` (None: now). EndpointNotFound, InvalidInput.

    `event_types` None means those that the endpoint wants. webhook.test is never sent again.
    """
    try:
        endpoint = await endpoints.get(session, tenant_id, endpoint_id)
    except EndpointNotFound as exc:
        exc.path = ("input", "endpointId")
        raise
    if endpoint.status == EndpointStatus.DISABLED:
        raise InvalidInput("This endpoint is disabled: enable it before a replay.", path=("input", "endpointId"))
    begun = now()
    until = begun if until is None else min(until, begun)
    if since >= until:
        raise InvalidInput("A replay's `since` comes before its `until`, and before now.", path=("input", "since"))
    wanted = endpoints.check_types(event_types or ()) or endpoint.event_types or list(EventType)
    connection = await driver(session)
    # The endpoint's lock does not cover the tenant's others: a few more than these may begin at the same moment.
    running = await connection.fetchval(
        "SELECT count(*) FROM webhook_replays WHERE tenant_id = $1 AND status = 'RUNNING'", tenant_id
    )
    if running >= MOST:
        raise InvalidInput(f"{MOST} replays are running. Wait until one has ended.", path=("input",))
    replay = Replay(
        tenant_id=tenant_id,
        endpoint_id=endpoint_id,
        since=since,
        until=until,
        event_types=[event_type for event_type in wanted if event_type != EventType.WEBHOOK_TEST],
        only_undelivered=only_undelivered,
        position=await _before(connection, tenant_id, since - SLACK),
        last_position=await _before(connection, tenant_id, until + SLACK),
        created_at=begun,
        paced_at=begun,
    )
    session.add(replay)
    await session.flush()
    return replay


async def _before(connection: Connection, tenant_id: UUID, moment: datetime) -> int:
    """The last position before `moment`, near enough; found by halving, as positions are dense."""
    oldest, newest = await connection.fetchrow(
        "SELECT coalesce((SELECT min(position) FROM events WHERE tenant_id = $1), 1),"
        " (SELECT position FROM feed_heads WHERE tenant_id = $1)",
        tenant_id,
    )
    low, high = oldest - 1, newest
    while low < high:
        middle = (low + high + 1) // 2
        at = await connection.fetchval(
            "SELECT created_at FROM events WHERE tenant_id = $1 AND position >= $2 ORDER BY position LIMIT 1",
            tenant_id,
            middle,
        )
        low, high = (middle, high) if at is not None and at < moment else (low, middle - 1)
    return int(low)


async def running(connection: Connection, limit: int = 100) -> list[tuple[UUID, UUID]]:
    """Replays that are due for a step, with their tenants: those that waited longest."""
    return [(row[0], row[1]) for row in await connection.fetch("SELECT * FROM running_replays($1)", limit)]


_HOLD: Final = """
SELECT r.*, extract(epoch FROM now() - r.paced_at)::float AS waited, e.status AS endpoint_status,
       e.deleted_at IS NOT NULL AS gone
FROM webhook_replays r JOIN webhook_endpoints e ON e.tenant_id = r.tenant_id AND e.id = r.endpoint_id
WHERE r.tenant_id = $1 AND r.id = $2 AND r.status = 'RUNNING' FOR NO KEY UPDATE OF r SKIP LOCKED
"""

_WANTED: Final = """
FROM events v WHERE v.tenant_id = $1 AND v.position > $2 AND v.position <= $3
  AND v.created_at >= $4 AND v.created_at < $5 AND v.type = ANY ($6::text[])
  AND (NOT $7 OR NOT EXISTS (
      SELECT FROM webhook_deliveries d WHERE d.tenant_id = v.tenant_id AND d.position = v.position
        AND d.endpoint_id = $8 AND d.status IN ('DELIVERED', 'PENDING', 'SENDING')
  ))
"""

_DEAL: Final = f"""
WITH chosen AS MATERIALIZED (
    SELECT v.tenant_id, v.position, v.id, v.type {_WANTED} ORDER BY v.position LIMIT $9
)
INSERT INTO webhook_deliveries (
    tenant_id, id, endpoint_id, position, event_id, event_type, status, attempt_count, due_at, replay_id, created_at
)
SELECT c.tenant_id, uuid7(), $8, c.position, c.id, c.type, 'PENDING', 0, now(), $10, now() FROM chosen c
ORDER BY c.position RETURNING position
"""  # noqa: S608  nothing in it comes from outside

_OPEN: Final = """
SELECT count(*) FROM webhook_deliveries
WHERE tenant_id = $1 AND replay_id = $2 AND status IN ('PENDING', 'SENDING')
"""


async def step(connection: Connection, tenant_id: UUID, replay_id: UUID, rate: float) -> int:
    """Deal out the next of it, at most `rate` a second; how many deliveries that made.

    Nothing when another worker is at it. A replay whose endpoint is gone or disabled is cancelled.
    """
    replay = await connection.fetchrow(_HOLD, tenant_id, replay_id)
    if replay is None:
        return 0
    still_open: int = await connection.fetchval(_OPEN, tenant_id, replay_id)
    dealt, position, total, status = replay["dealt"], replay["position"], replay["total"], ReplayStatus.RUNNING
    terms = (replay["since"], replay["until"], replay["event_types"], replay["only_undelivered"], replay["endpoint_id"])
    if total is None:
        count = "SELECT count(*)" + _WANTED
        total = await connection.fetchval(count, tenant_id, position, replay["last_position"], *terms)
    made: list[Any] = []
    if replay["gone"] or replay["endpoint_status"] == EndpointStatus.DISABLED:
        status = ReplayStatus.CANCELLED
    elif position < replay["last_position"]:
        room = min(rate * min(replay["waited"], 2.0), rate * AHEAD - still_open)
        if room < 1:
            return 0
        end = min(position + STRETCH, replay["last_position"])
        made = await connection.fetch(_DEAL, tenant_id, position, end, *terms, int(room), replay_id)
        position = end if len(made) < int(room) else max(row[0] for row in made)
        dealt, still_open = dealt + len(made), still_open + len(made)
    if status == ReplayStatus.RUNNING and position >= replay["last_position"] and not still_open:
        status, total = ReplayStatus.COMPLETED, dealt
    await connection.execute(
        "UPDATE webhook_replays SET status = $3::text, position = $4, total = $5, dealt = $6, done = $7,"
        " paced_at = now(), completed_at = CASE WHEN $3::text <> 'RUNNING' THEN now() END"
        " WHERE tenant_id = $1 AND id = $2",
        tenant_id,
        replay_id,
        status,
        position,
        total,
        dealt,
        dealt - still_open,
    )
    return len(made)
