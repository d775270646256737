"""Deliveries as they move on, as long as somebody watches. Workers ring with the ids; the table tells how they stand.

A ring may be lost, so every few seconds the attempts of the last minute are looked through as well. What was shown is
remembered, so that whatever is heard or found twice is shown once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeAlias
from uuid import UUID

from app import ids
from app.broadcast import Bell
from app.database import Database, driver
from app.domain import deliveries
from app.domain.deliveries import Delivery, DeliveryStatus
from app.domain.feed import insist

#: Seconds between two looks at the table, and between two answers to rings.
LOOK_EVERY: Final = 4.0
CALM: Final = 0.2
#: How long after its end an attempt may come to be written down and seen.
OVERLAP: Final = timedelta(seconds=45)
#: How much longer ago it may have begun.
LONGEST: Final = timedelta(seconds=60)
#: Deliveries that are remembered as shown, and found by one look; those read whole at once; ids in one ring.
MOST: Final = 20_000
CHUNK: Final = 100
RING: Final = 250

_ENDED: Final = """
SELECT a.delivery_id, max(a.number) FROM webhook_attempts a
JOIN webhook_deliveries d ON d.tenant_id = a.tenant_id AND d.id = a.delivery_id
WHERE a.tenant_id = $1 AND a.started_at >= $2::timestamptz - $3::interval
  AND a.started_at + a.duration_ms * interval '1 millisecond' >= $2
  AND ($4::uuid[] IS NULL OR d.endpoint_id = ANY ($4))
GROUP BY 1 LIMIT $5
"""

#: What of a delivery is followed.
Standing: TypeAlias = tuple[str, int, datetime | None]


def channel(tenant_id: UUID) -> str:
    """Rung with the ids of deliveries that moved, 16 bytes each."""
    return f"deliveries:{ids.show('ten', tenant_id)}"


def ring(bell: Bell, tenant_id: UUID, delivery_ids: Sequence[UUID]) -> None:
    """Call it after the commit."""
    for start in range(0, len(delivery_ids), RING):
        bell.ring(channel(tenant_id), b"".join(one.bytes for one in delivery_ids[start : start + RING]))


def read_ring(message: bytes) -> list[UUID]:
    """The ids; none for what is no ring of ours."""
    if len(message) % 16 or len(message) > RING * 16:
        return []
    return [UUID(bytes=message[start : start + 16]) for start in range(0, len(message), 16)]


async def follow(
    db: Database, bell: Bell, tenant_id: UUID, endpoint_ids: Collection[UUID] | None = None
) -> AsyncGenerator[Delivery]:
    """Each delivery to these endpoints that moves on from now, as it then is; None: to all of the tenant's.

    PostgreSQL may go away meanwhile: then nothing comes until it is back.
    """
    shown: OrderedDict[UUID, Standing] = OrderedDict()
    loop = asyncio.get_running_loop()
    async with bell.listen(channel(tenant_id)) as listener:
        began = since = await insist(partial(_now, db, tenant_id))
        looked_at = loop.time()
        while True:
            heard = await listener.heard(max(0.0, LOOK_EVERY - (loop.time() - looked_at)))
            moved = dict.fromkeys(one for message in heard.messages for one in read_ring(message))
            if heard.missed or loop.time() - looked_at >= LOOK_EVERY:
                at, ended = await insist(partial(_look, db, tenant_id, since, endpoint_ids))
                moved |= dict.fromkeys(one for one, number in ended.items() if _is_news(shown.get(one), number))
                since, looked_at = max(began, at - OVERLAP), loop.time()
            for delivery in await _changed(db, tenant_id, moved, endpoint_ids, shown):
                yield delivery
            await asyncio.sleep(CALM)


async def _changed(
    db: Database,
    tenant_id: UUID,
    moved: Iterable[UUID],
    endpoint_ids: Collection[UUID] | None,
    shown: OrderedDict[UUID, Standing],
) -> list[Delivery]:
    """Those of them that do not stand as they were shown; they count as shown from now on."""
    changed = []
    wanted = list(moved)
    for start in range(0, len(wanted), CHUNK):
        found = await insist(partial(_read, db, tenant_id, wanted[start : start + CHUNK]))
        for delivery in (found[one] for one in wanted[start : start + CHUNK] if one in found):
            stands = (delivery.status, delivery.attempt_count, delivery.due_at)
            if (endpoint_ids is None or delivery.endpoint_id in endpoint_ids) and shown.get(delivery.id) != stands:
                shown[delivery.id] = stands
                shown.move_to_end(delivery.id)
                changed.append(delivery)
    while len(shown) > MOST:
        shown.popitem(last=False)
    return changed


async def _now(db: Database, tenant_id: UUID) -> datetime:
    async with db.read(tenant_id) as session:
        at: datetime = await (await driver(session)).fetchval("SELECT clock_timestamp()")
        return at


def _is_news(shown: Standing | None, number: int) -> bool:
    """Whether a delivery that was shown so has to be looked at, as its attempt of this number has ended."""
    return shown is None or shown[1] < number or shown[0] == DeliveryStatus.SENDING


async def _look(
    db: Database, tenant_id: UUID, since: datetime, endpoint_ids: Collection[UUID] | None
) -> tuple[datetime, dict[UUID, int]]:
    """The time, and the deliveries of which an attempt ended since, with its number."""
    wanted = None if endpoint_ids is None else list(endpoint_ids)
    async with db.read(tenant_id) as session:
        connection = await driver(session)
        at = await connection.fetchval("SELECT clock_timestamp()")
        rows = await connection.fetch(_ENDED, tenant_id, since, LONGEST, wanted, MOST)
    return at, {row[0]: row[1] for row in rows}


async def _read(db: Database, tenant_id: UUID, delivery_ids: Sequence[UUID]) -> dict[UUID, Delivery]:
    async with db.read(tenant_id) as session:
        return await deliveries.by_ids(session, tenant_id, delivery_ids)
