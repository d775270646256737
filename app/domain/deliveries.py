"""An event owed to an endpoint: schedule, claim, settle, retry; and its attempts.

A worker claims what is due, for the length of a lease and under a token. Whatever it writes afterwards has to match the
token, so one that lost its lease changes nothing. Every time here is the database's, so workers need not agree on one.

Locks are taken in one order, the endpoint's before its deliveries', and only `settle` waits for a delivery's: that is
what keeps workers, and a tenant that pauses or resumes an endpoint meanwhile, from waiting for each other in a circle.
The worker's verbs take a connection of the purpose "work"; `load`, `renew`, `settle` and `release` one over the claims'
tenants. Those of the lists, at the end, take one tenant's session.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias
from uuid import UUID

from prometheus_client import Gauge
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Index,
    Select,
    select,
    text,
)
from sqlmodel import Field, SQLModel

from app import ids, paging, telemetry
from app.database import Connection, Fetch, Session, driver
from app.domain.events import Cursors, webhook_body
from app.domain.tables import build, columns, instant, tenant_key, within_tenant
from app.errors import AppError, InvalidInput


class DeliveryStatus(StrEnum):
    """PENDING waits for `due_at`; SENDING is held by a worker; the other three are final."""

    PENDING = "PENDING"
    SENDING = "SENDING"
    DELIVERED = "DELIVERED"
    EXHAUSTED = "EXHAUSTED"
    CANCELLED = "CANCELLED"


class Delivery(SQLModel, table=True):
    """The id is what receivers see in X-PunchConnect-Delivery.

    No reference to the event: the only statement that makes deliveries makes them out of the events it inserts.
    """

    __tablename__: ClassVar[str] = "webhook_deliveries"
    __table_args__ = (
        within_tenant("endpoint_id", "webhook_endpoints"),
        CheckConstraint("status IN ('PENDING', 'SENDING', 'DELIVERED', 'EXHAUSTED', 'CANCELLED')", name="status"),
        Index("ix_webhook_deliveries_due", "due_at", postgresql_where=text("status = 'PENDING'")),
        Index("ix_webhook_deliveries_leased", "lease_until", postgresql_where=text("status = 'SENDING'")),
        Index(
            "ix_webhook_deliveries_waiting",
            "tenant_id",
            "endpoint_id",
            "due_at",
            postgresql_where=text("status = 'PENDING'"),
        ),
        Index("ix_webhook_deliveries_urgent", "due_at", postgresql_where=text("status = 'PENDING' AND urgent")),
        Index(
            "ix_webhook_deliveries_replay",
            "tenant_id",
            "replay_id",
            postgresql_where=text("replay_id IS NOT NULL AND status IN ('PENDING', 'SENDING')"),
        ),
        Index("ix_webhook_deliveries_position", "position", "tenant_id"),
        Index(None, "tenant_id", "endpoint_id", "id"),
        {"postgresql_with": {"fillfactor": "70"}},
    )

    tenant_id: UUID = tenant_key(reference=False)
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    endpoint_id: UUID
    position: int = Field(sa_column=Column(BigInteger, nullable=False))
    event_id: UUID
    event_type: str
    status: str = DeliveryStatus.PENDING
    attempt_count: int = 0
    due_at: datetime | None = instant(optional=True)
    lease_until: datetime | None = instant(optional=True)
    #: The replay that made it; None where the event itself did.
    replay_id: UUID | None = None
    #: Somebody waits for the outcome: it is sent before all others, also to an endpoint whose breaker is open.
    urgent: bool = Field(default=False, sa_column_kwargs={"server_default": "false"})
    #: Minted at each claim; every later write must match it, so a worker that lost its lease changes nothing.
    claim_token: UUID | None = None
    created_at: datetime = instant()
    completed_at: datetime | None = instant(optional=True)


class Attempt(SQLModel, table=True):
    """One HTTP try."""

    __tablename__: ClassVar[str] = "webhook_attempts"
    __table_args__ = (
        within_tenant("delivery_id", "webhook_deliveries"),
        # Rows come in the order of this time, nearly: such an index finds the last minute and costs a worker nothing.
        Index(
            None,
            "started_at",
            postgresql_using="brin",
            postgresql_with={"autosummarize": "on", "pages_per_range": "32"},
        ),
    )

    tenant_id: UUID = tenant_key(reference=False)
    delivery_id: UUID = Field(primary_key=True)
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    started_at: datetime = instant()
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    response_body: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that is ours until its lease ends, and the token that proves it."""

    tenant_id: UUID
    id: UUID
    token: UUID


@dataclass(frozen=True, slots=True)
class Job:
    """All that one attempt needs, so that nothing is held open meanwhile."""

    claim: Claim
    endpoint_id: UUID
    event_id: UUID
    event_type: str
    #: The number of this attempt, from 1.
    attempt: int
    #: Attempts that were settled as failures. Fewer than `attempt` - 1 if a worker was lost on the way: that spends a
    #: number, which a receiver may have seen, but nothing of the schedule.
    failures: int
    url: str
    #: What was stored, with its cursor.
    body: bytes
    secret_sealed: bytes
    #: While the grace of a rotation lasts.
    previous_secret_sealed: bytes | None
    #: The one before that, while the grace of its rotation lasts.
    older_secret_sealed: bytes | None = None
    #: One of the last attempts to this endpoint failed, so a success is news.
    unwell: bool = False

    @property
    def lane(self) -> Lane:
        """Where it goes."""
        return self.claim.tenant_id, self.endpoint_id


@dataclass(frozen=True, slots=True)
class Result:
    """What one attempt makes of its delivery: PENDING with `retry_in`, DELIVERED or EXHAUSTED."""

    claim: Claim
    status: DeliveryStatus
    started_at: datetime
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    response_body: str | None = None
    retry_in: timedelta | None = None
    #: The URL that answered 410. Its endpoint is disabled, unless it has been given another URL since.
    gone: str | None = None
    #: As in the job.
    unwell: bool = False


@dataclass(frozen=True, slots=True)
class Patience:
    """With an endpoint that fails: after how many failures in a row its breaker opens (or with one, when more than half
    of its last twenty attempts were), for how long, and after how much time of nothing but failure it is disabled; None
    is never.
    """

    failures: int = 5
    breaker: timedelta = timedelta(seconds=30)
    disable_after: timedelta | None = timedelta(days=5)


PATIENCE: Final = Patience()


@dataclass(frozen=True, slots=True)
class Disabled:
    """An endpoint that has just been disabled; to be announced in the same transaction."""

    tenant_id: UUID
    endpoint_id: UUID
    url: str
    reason: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What a batch of results changed."""

    ids: set[UUID]
    disabled: list[Disabled]


#: An endpoint, with its tenant.
Lane: TypeAlias = tuple[UUID, UUID]

_NO_LIMIT: Final = 2**31 - 1

_CLAIM: Final = "SELECT * FROM take_deliveries($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"


@dataclass(frozen=True, slots=True)
class Caps:
    """How much may be under way at a time: in the caller, and over all workers, for one endpoint and one tenant."""

    endpoint: int = _NO_LIMIT
    tenant: int = _NO_LIMIT
    endpoint_everywhere: int = _NO_LIMIT
    tenant_everywhere: int = _NO_LIMIT


NO_CAPS: Final = Caps()


@dataclass(frozen=True, slots=True)
class Load:
    """What the caller has to do already."""

    #: By endpoint, what counts against its share of the caller's slots.
    busy: Mapping[Lane, int] = field(default_factory=dict)
    #: By endpoint, what has not been posted to the end.
    held: Mapping[Lane, int] = field(default_factory=dict)
    #: The tokens of all that is not written down yet: what bears another one is held by somebody else.
    tokens: Collection[UUID] = ()


IDLE: Final = Load()


async def claim(
    fetch: Fetch, n: int, lease: timedelta, caps: Caps = NO_CAPS, load: Load = IDLE, *, patience: Patience = PATIENCE
) -> list[Claim]:
    """Take up to `n` due deliveries; the attempt counts from here. Safe in any number of workers at once.

    With what is under way no endpoint and no tenant gets more than `caps` allow, but for what somebody waits for at a
    screen. Tenants take turns. An endpoint with an open breaker is left alone.

    `fetch` is `Database.at_once`. Inside a longer transaction, others that claim for the same tenants wait for its end.
    """
    lanes = load.busy.keys() | load.held.keys()
    rows = await fetch(
        _CLAIM,
        n,
        lease,
        caps.endpoint,
        caps.tenant,
        caps.endpoint_everywhere,
        caps.tenant_everywhere,
        [tenant_id for tenant_id, _ in lanes],
        [endpoint_id for _, endpoint_id in lanes],
        [load.busy.get(lane, 0) for lane in lanes],
        [load.held.get(lane, 0) for lane in lanes],
        list(load.tokens),
        patience.breaker,
    )
    return [Claim(*row) for row in rows]


# Written so that each row is looked up by its whole key. Left to itself, and without statistics on young tables, the
# planner joins everything of a tenant with everything else of it.
_LOAD: Final = """
WITH held AS MATERIALIZED (
    SELECT d.* FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS c (tenant_id, id, token)
    JOIN webhook_deliveries d ON d.tenant_id = c.tenant_id AND d.id = c.id AND d.claim_token = c.token
)
SELECT d.tenant_id, d.id, d.claim_token, d.endpoint_id, d.event_id, d.event_type, d.attempt_count,
       CASE WHEN d.attempt_count > 1 THEN (
           SELECT count(*) FROM webhook_attempts a WHERE a.tenant_id = d.tenant_id AND a.delivery_id = d.id
       ) ELSE 0 END,
       e.url, d.position, (SELECT v.body FROM events v WHERE v.tenant_id = d.tenant_id AND v.position = d.position),
       e.secret_sealed, CASE WHEN e.previous_secret_expires_at > now() THEN e.previous_secret_sealed END,
       CASE WHEN e.older_secret_expires_at > now() THEN e.older_secret_sealed END,
       e.status = 'ENABLED' AND e.deleted_at IS NULL, e.failures > 0 OR e.recent <> 0
FROM held d, LATERAL (
    SELECT * FROM webhook_endpoints e WHERE e.tenant_id = d.tenant_id AND e.id = d.endpoint_id OFFSET 0
) AS e
ORDER BY d.due_at, d.id
"""

# Under the endpoint's lock, and from the row as it is then: a resume comes before this, and the delivery stays due, or
# after it, and finds the delivery parked.
_HAND_BACK: Final = """
WITH endpoint AS MATERIALIZED (
    SELECT e.tenant_id, e.id, CASE
        WHEN e.deleted_at IS NOT NULL OR e.status = 'DISABLED' THEN 'CANCELLED'
        WHEN e.status = 'PAUSED' THEN 'PARKED'
        ELSE 'DUE'
    END AS fate
    FROM webhook_endpoints e WHERE (e.tenant_id, e.id) IN (SELECT * FROM unnest($1::uuid[], $4::uuid[]))
    ORDER BY e.tenant_id, e.id FOR SHARE
), shut AS MATERIALIZED (
    SELECT c.tenant_id, c.id, c.token, e.fate
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[]) AS c (tenant_id, id, token, endpoint_id)
    JOIN endpoint e ON e.tenant_id = c.tenant_id AND e.id = c.endpoint_id
)
UPDATE webhook_deliveries d
SET status = CASE shut.fate WHEN 'CANCELLED' THEN 'CANCELLED' ELSE 'PENDING' END,
    due_at = CASE shut.fate WHEN 'DUE' THEN d.due_at END,
    completed_at = CASE shut.fate WHEN 'CANCELLED' THEN now() END,
    attempt_count = d.attempt_count - 1, claim_token = NULL, lease_until = NULL
FROM shut WHERE d.tenant_id = shut.tenant_id AND d.id = shut.id AND d.claim_token = shut.token
"""


async def load(connection: Connection, cursors: Cursors, claims: Sequence[Claim]) -> list[Job]:
    """What to send for these claims, the longest due first.

    One whose endpoint is paused is parked, one whose endpoint is disabled or deleted is cancelled; neither counts as
    an attempt. One whose token no longer matches is not ours and left out.
    """
    rows = await connection.fetch(_LOAD, *_columns(claims))
    shut = [row for row in rows if not row[14]]
    if shut:
        await connection.execute(_HAND_BACK, *([row[n] for row in shut] for n in range(4)))
    return [
        Job(
            Claim(*row[:3]),
            row[3],
            row[4],
            row[5],
            row[6],
            row[7],
            row[8],
            webhook_body(row[10].encode(), cursors.write(row[0], row[9])),
            row[11],
            row[12],
            row[13],
            row[15],
        )
        for row in rows
        if row[14]
    ]


_RENEW: Final = """
WITH held AS MATERIALIZED (
    SELECT d.tenant_id, d.id FROM webhook_deliveries d
    JOIN unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS c (tenant_id, id, token)
      ON d.tenant_id = c.tenant_id AND d.id = c.id AND d.claim_token = c.token
    FOR NO KEY UPDATE OF d SKIP LOCKED
)
UPDATE webhook_deliveries d SET lease_until = now() + $4
FROM held WHERE d.tenant_id = held.tenant_id AND d.id = held.id
RETURNING d.id
"""


async def renew(connection: Connection, held: Sequence[Claim], lease: timedelta) -> set[UUID]:
    """Hold on to these for another lease; the ids of those that are still ours and that nobody is settling just now."""
    rows = await connection.fetch(_RENEW, *_columns(held), lease)
    return {row[0] for row in rows}


# The endpoints' part of a batch: results in the order in which they came, so that a success ends a row of failures.
# Their locks are taken in one order, and before any delivery's.
_FARE: Final = """
WITH came AS MATERIALIZED (
    SELECT d.tenant_id, d.endpoint_id, r.place, r.failed, r.retry_in, r.gone
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::boolean[], $5::interval[], $6::text[]) WITH ORDINALITY
        AS r (tenant_id, id, token, failed, retry_in, gone, place)
    JOIN webhook_deliveries d ON d.tenant_id = r.tenant_id AND d.id = r.id AND d.claim_token = r.token
), good AS (
    SELECT c.tenant_id, c.endpoint_id, max(c.place) FILTER (WHERE NOT c.failed) AS place FROM came c GROUP BY 1, 2
), fared AS MATERIALIZED (
    SELECT g.tenant_id, g.endpoint_id, g.place IS NOT NULL AS well,
           count(*) FILTER (WHERE c.failed)::integer AS failures, min(c.retry_in) AS retry_in,
           array_remove(array_agg(c.gone), NULL) AS gone
    FROM good g JOIN came c ON c.tenant_id = g.tenant_id AND c.endpoint_id = g.endpoint_id
    WHERE g.place IS NULL OR c.place >= g.place GROUP BY 1, 2, 3
), told AS (
    SELECT k.tenant_id, k.endpoint_id, least(count(*), 20)::integer AS n,
           coalesce(sum(1 << (k.nth - 1)::integer) FILTER (WHERE k.failed AND k.nth <= 20), 0)::integer AS bits
    FROM (
        SELECT c.*, row_number() OVER (PARTITION BY c.tenant_id, c.endpoint_id ORDER BY c.place DESC) AS nth FROM came c
    ) AS k
    GROUP BY 1, 2
), held AS MATERIALIZED (
    SELECT e.tenant_id, e.id, CASE WHEN f.well THEN 0 ELSE e.failures END + f.failures AS failures,
           CASE
               -- It was tried after a while, and is well: what was before is forgotten.
               WHEN f.well AND e.breaker_until IS NOT NULL THEN (1 << least(f.failures, 20)) - 1
               ELSE (((e.recent::bigint << t.n) | t.bits) & 1048575)::integer
           END AS recent,
           CASE WHEN f.well THEN now() ELSE coalesce(e.failing_since, now()) END AS since, f.retry_in,
           CASE
               WHEN e.status = 'DISABLED' OR e.deleted_at IS NOT NULL OR f.failures = 0 THEN NULL
               WHEN e.url = ANY (f.gone) THEN 'The receiver answered 410 Gone.'
               WHEN NOT f.well AND e.failing_since <= now() - $9::interval THEN 'Nothing has arrived for ' || $10 || '.'
           END AS reason
    FROM webhook_endpoints e, fared f, told t
    WHERE e.tenant_id = f.tenant_id AND e.id = f.endpoint_id AND t.tenant_id = e.tenant_id AND t.endpoint_id = e.id
    ORDER BY e.tenant_id, e.id FOR NO KEY UPDATE OF e
)
UPDATE webhook_endpoints e
SET failures = h.failures, recent = h.recent, failing_since = CASE WHEN h.failures > 0 THEN h.since END,
    breaker_until = CASE
        WHEN h.failures >= $7 OR h.failures > 0 AND bit_count(h.recent::bit(20)) > 10 THEN now() + least($8, h.retry_in)
    END,
    status = CASE WHEN h.reason IS NULL THEN e.status ELSE 'DISABLED' END,
    disabled_reason = coalesce(h.reason, e.disabled_reason),
    updated_at = CASE WHEN h.reason IS NULL THEN e.updated_at ELSE now() END
FROM held h WHERE e.tenant_id = h.tenant_id AND e.id = h.id
RETURNING e.tenant_id, e.id, e.url, h.reason
"""

_SETTLE: Final = """
WITH settled AS (
    UPDATE webhook_deliveries d
    SET status = r.status, claim_token = NULL, lease_until = NULL,
        due_at = CASE WHEN r.status = 'PENDING' THEN now() + r.retry_in END,
        completed_at = CASE WHEN r.status <> 'PENDING' THEN now() END
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::interval[],
        $6::timestamptz[], $7::integer[], $8::integer[], $9::text[], $10::text[]
    ) AS r (tenant_id, id, token, status, retry_in, started_at, duration_ms, status_code, error, response_body)
    WHERE d.tenant_id = r.tenant_id AND d.id = r.id AND d.claim_token = r.token
    RETURNING d.tenant_id, d.id, d.attempt_count,
              r.started_at, r.duration_ms, r.status_code, r.error, r.response_body
)
INSERT INTO webhook_attempts
    (tenant_id, delivery_id, number, started_at, duration_ms, status_code, error, response_body)
SELECT * FROM settled
RETURNING delivery_id
"""


async def settle(connection: Connection, results: Sequence[Result], patience: Patience = PATIENCE) -> Settled:
    """Write down what became of a batch, with its attempts: the ids of those that were still ours, and the endpoints
    that this disabled, for the caller to announce.
    """
    disabled: list[Disabled] = []
    if any(result.unwell or result.status != DeliveryStatus.DELIVERED for result in results):
        days = patience.disable_after
        fared = await connection.fetch(
            _FARE,
            *_columns([result.claim for result in results]),
            [result.status != DeliveryStatus.DELIVERED for result in results],
            [result.retry_in for result in results],
            [result.gone for result in results],
            patience.failures,
            patience.breaker,
            days,
            None if days is None else f"{days.total_seconds() / 86400:g} days",
        )
        disabled = [Disabled(*row) for row in fared if row[3] is not None]
    rows = await connection.fetch(
        _SETTLE,
        *_columns([result.claim for result in results]),
        [result.status for result in results],
        [result.retry_in for result in results],
        [result.started_at for result in results],
        [result.duration_ms for result in results],
        [result.status_code for result in results],
        [result.error for result in results],
        [result.response_body for result in results],
    )
    return Settled({row[0] for row in rows}, disabled)


_RELEASE: Final = """
WITH held AS MATERIALIZED (
    SELECT d.tenant_id, d.id FROM webhook_deliveries d
    JOIN unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS c (tenant_id, id, token)
      ON d.tenant_id = c.tenant_id AND d.id = c.id AND d.claim_token = c.token
    FOR NO KEY UPDATE OF d SKIP LOCKED
)
UPDATE webhook_deliveries d
SET status = 'PENDING', claim_token = NULL, lease_until = NULL, attempt_count = d.attempt_count - 1
FROM held WHERE d.tenant_id = held.tenant_id AND d.id = held.id
RETURNING d.id
"""


async def release(connection: Connection, claims: Sequence[Claim]) -> set[UUID]:
    """Give back, still due, what was claimed and not tried; the ids of those that were ours to give."""
    rows = await connection.fetch(_RELEASE, *_columns(claims))
    return {row[0] for row in rows}


async def reap(connection: Connection, limit: int = 1000) -> int:
    """Make due again what a dead worker held; how many these were. Their attempts stay counted."""
    freed: int = await connection.fetchval("SELECT reap_deliveries($1)", limit)
    return freed


async def next_due(connection: Connection) -> timedelta | None:
    """How long until something may be claimed; negative when that is late; None when nothing waits."""
    seconds: float | None = await connection.fetchval("SELECT next_delivery_due()")
    return None if seconds is None else timedelta(seconds=seconds)


async def forget(connection: Connection, older: timedelta, limit: int = 1000) -> int:
    """Remove what ended so long ago, with its attempts: up to `limit` deliveries of each tenant; how many."""
    gone: int = await connection.fetchval("SELECT forget_deliveries($1, $2)", limit, older)
    return gone


async def clock(connection: Connection) -> datetime:
    """What the database takes for now."""
    moment: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return moment


@dataclass(frozen=True, slots=True)
class Backlog:
    """The queue of the whole installation, at one moment."""

    #: How late the oldest is that no breaker holds back, in seconds.
    oldest: float
    due: int
    #: Of these, what waits for an endpoint whose breaker is open.
    held_back: int
    leased: int
    #: Of these, what its worker has held longer than it may.
    expired: int


async def backlog(connection: Connection) -> Backlog:
    """What operators watch."""
    row = await connection.fetchrow("SELECT * FROM count_deliveries()")
    return Backlog(row[0] or 0.0, *row[1:])


_WATCHED: Final = {
    name: Gauge(f"punchconnect_webhook_{metric}", says, registry=telemetry.REGISTRY)
    for name, metric, says in (
        ("oldest", "oldest_due_seconds", "How late the oldest delivery is that no breaker holds back."),
        ("due", "due", "Deliveries that are due."),
        ("held_back", "held_back", "Due deliveries that wait for an endpoint whose breaker is open."),
        ("leased", "leased", "Deliveries that workers hold."),
        ("expired", "expired_leases", "Deliveries that a worker has held longer than it may."),
    )
}


async def watch(connection: Connection) -> None:
    """Put the backlog into the metrics of this process."""
    found = await backlog(connection)
    for name, gauge in _WATCHED.items():
        gauge.set(getattr(found, name))


def _columns(claims: Sequence[Claim]) -> tuple[list[UUID], list[UUID], list[UUID]]:
    return [claim.tenant_id for claim in claims], [claim.id for claim in claims], [claim.token for claim in claims]


class DeliveryNotFound(AppError):
    """No delivery with this id belongs to the tenant."""

    code, status = "webhook_delivery_not_found", 404

    def __init__(self, delivery_id: UUID) -> None:
        super().__init__(f"No webhook delivery {ids.show('whd', delivery_id)}.", path=("input", "id"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which deliveries: all conditions hold at once; None is no condition, an empty set matches nothing."""

    endpoint_ids: tuple[UUID, ...] | None = None
    statuses: tuple[DeliveryStatus, ...] | None = None
    event_types: tuple[str, ...] | None = None
    event_ids: tuple[UUID, ...] | None = None
    created_since: datetime | None = None
    created_before: datetime | None = None


_ROW: Final = columns(Delivery)
EVERY: Final = Wanted()
#: Ids are made in the order of time, near enough.
BY_ID: Final = paging.both_ways("ID", _ROW.id)


async def page(session: Session, tenant_id: UUID, asked: paging.Asked[Wanted]) -> paging.Page[Delivery]:
    """One page of the tenant's deliveries."""
    return (await paging.fetch(session, tenant_id, _query, asked)).map(partial(build, Delivery))


async def page_by_endpoint(
    session: Session, tenant_id: UUID, endpoint_ids: Sequence[UUID], asked: paging.Asked[Wanted]
) -> list[paging.Page[Delivery]]:
    """The same page of the deliveries of each endpoint."""
    pages = await paging.fetch_each(session, tenant_id, _query, asked, parent=_ROW.endpoint_id, keys=endpoint_ids)
    return [found.map(partial(build, Delivery)) for found in pages]


async def by_ids(session: Session, tenant_id: UUID, delivery_ids: Sequence[UUID]) -> dict[UUID, Delivery]:
    """Those of them that are the tenant's."""
    query = _query(tenant_id, EVERY).where(paging.among(_ROW.id, delivery_ids))
    return {row.id: build(Delivery, row) for row in await (await session.connection()).execute(query)}


async def attempts_by_delivery(
    session: Session, tenant_id: UUID, delivery_ids: Sequence[UUID]
) -> dict[UUID, list[Attempt]]:
    """What was tried for each, the first attempt first."""
    row = columns(Attempt)
    query = (
        select(*row)
        .where(row.tenant_id == tenant_id, paging.among(row.delivery_id, delivery_ids))
        .order_by(row.delivery_id, row.number)
    )
    found: dict[UUID, list[Attempt]] = {delivery_id: [] for delivery_id in delivery_ids}
    for attempt in await (await session.connection()).execute(query):
        found[attempt.delivery_id].append(build(Attempt, attempt))
    return found


async def retry(session: Session, tenant_id: UUID, delivery_id: UUID) -> None:
    """Make an exhausted or waiting delivery due now; ring DELIVERIES afterwards. DeliveryNotFound, InvalidInput."""
    connection = await driver(session)
    endpoint = await connection.fetchrow(
        "SELECT e.status = 'DISABLED', e.deleted_at IS NOT NULL FROM webhook_endpoints e WHERE (e.tenant_id, e.id) = ("
        "SELECT d.tenant_id, d.endpoint_id FROM webhook_deliveries d WHERE d.tenant_id = $1 AND d.id = $2) FOR SHARE",
        tenant_id,
        delivery_id,
    )
    if endpoint is None:
        raise DeliveryNotFound(delivery_id)
    disabled, deleted = endpoint
    if disabled or deleted:
        what = "deleted" if deleted else "disabled"
        raise InvalidInput(f"The endpoint of this delivery is {what}.", path=("input", "id"))
    changed = await connection.execute(
        "UPDATE webhook_deliveries SET status = 'PENDING', due_at = now(), urgent = true, completed_at = NULL "
        "WHERE tenant_id = $1 AND id = $2 AND status IN ('EXHAUSTED', 'PENDING')",
        tenant_id,
        delivery_id,
    )
    if changed == "UPDATE 0":
        raise InvalidInput("Only an exhausted or a waiting delivery can be retried.", path=("input", "id"))


def _query(tenant_id: UUID, wanted: Wanted) -> Select[Any]:
    terms: list[ColumnElement[bool]] = [_ROW.tenant_id == tenant_id]
    if wanted.endpoint_ids is not None:
        terms.append(paging.among(_ROW.endpoint_id, wanted.endpoint_ids))
    if wanted.statuses is not None:
        terms.append(paging.among(_ROW.status, wanted.statuses))
    if wanted.event_types is not None:
        terms.append(paging.among(_ROW.event_type, wanted.event_types))
    if wanted.event_ids is not None:
        terms.append(paging.among(_ROW.event_id, wanted.event_ids))
    if wanted.created_since is not None:
        terms.append(_ROW.created_at >= wanted.created_since)
    if wanted.created_before is not None:
        terms.append(_ROW.created_at < wanted.created_before)
    return select(*_ROW).where(*terms)
