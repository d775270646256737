"""The feed as it happens. A route of its own streams it to the page, with the session's cookie; `/graphql` sees none.

The browser resumes by itself: the id of each message is the feed's cursor, which it sends back after a break.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from app import ids, paging
from app.domain import devices, employees, punches
from app.domain.events import timestamp
from app.domain.feed import FeedStart
from app.domain.punch_feed import PunchBatch, PunchFeed
from app.domain.punches import PunchView
from app.domain.tables import now
from app.errors import RateLimited, ServiceUnavailable
from app.paging import CursorInvalid
from app.web.dashboard.desk import Desk, Visit
from app.web.wire import ENDING, WIRE, Body

#: Seconds between two looks at whether the key of an open stream still works.
CHECK_EVERY: Final = 2.0
#: Seconds in which an open stream ends by itself once the server stops.
FLUSH: Final = 1.0
#: Punches on the page when it opens, and minutes in its chart.
SHOWN: Final = 30
MINUTES: Final = 30


def routes(desk: Desk) -> list[BaseRoute]:
    """The first page, and its stream."""
    streams: Counter[UUID] = Counter()

    async def stream(visit: Visit) -> Response:
        return await _stream(visit, streams)

    return [desk.get("/", _page), desk.get("/live/events", stream, page=False)]


async def _page(visit: Visit) -> Response:
    if not visit.may("punches:read"):
        return visit.go("plan")
    since = now() - timedelta(minutes=MINUTES)
    # The cursor first: what is committed between the two is shown twice and dropped by its id, never missed.
    position = await visit.parts.feed.locate(visit.tenant_id, None, FeedStart.NOW)
    cursor = visit.parts.cursors.write(visit.tenant_id, position)
    asked = paging.Asked(punches.EVERY, punches.BY_RECEIVED_AT.down, paging.Window(size=SHOWN))
    async with visit.parts.db.read(visit.tenant_id) as session:
        latest = (await punches.page(session, visit.tenant_id, asked)).rows
        rate = await punches.per_minute(session, visit.tenant_id, since)
        online = await devices.count(
            session,
            visit.tenant_id,
            visit.desk.online_since(),
            devices.Wanted(statuses=(devices.DeviceStatus.ACTIVE,), connection=devices.DeviceConnectionState.ONLINE),
        )
        active = await devices.count(
            session,
            visit.tenant_id,
            visit.desk.online_since(),
            devices.Wanted(statuses=(devices.DeviceStatus.ACTIVE,)),
        )
    rows = await shown(visit, list(reversed(latest)))
    minutes = [{"minute": int(at.timestamp()), "count": n} for at, n in rate.items()]
    data = orjson.dumps({"punches": rows, "rate": minutes, "minutes": MINUTES}).decode()
    return visit.show("live.html", data=data, cursor=cursor, online=online, active=active)


async def _stream(visit: Visit, streams: Counter[UUID]) -> Response:
    visit.actor.may("punches:read")
    key_id = visit.actor.key_id
    if streams[key_id] >= visit.parts.settings.sockets_per_key:
        raise RateLimited("This key has too many live pages open: close some.")
    after = visit.request.headers.get("last-event-id") or visit.asked("after")
    try:
        position = await visit.parts.feed.locate(visit.tenant_id, after or None, FeedStart.NOW)
    except CursorInvalid:
        position = await visit.parts.feed.locate(visit.tenant_id, None, FeedStart.NOW)

    async def messages() -> AsyncGenerator[bytes]:
        streams[key_id] += 1
        cutting = asyncio.create_task(_cut_who_lingers(visit))
        try:
            yield b"retry: 1000\n\n"
            async with _watched(visit, position) as batches:
                async for batch in batches:
                    yield await _message(visit, batch)
            # Cut off without a word, the browser comes back by itself, to a server that is there.
            if not _stops(visit):
                yield b"event: ended\ndata: {}\n\n"
        finally:
            if not _stops(visit):  # else what was written last has to leave, too
                cutting.cancel()
            streams[key_id] -= 1
            if not streams[key_id]:
                del streams[key_id]

    headers = {
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    }
    return StreamingResponse(messages(), media_type="text/event-stream", headers=headers)


@asynccontextmanager
async def _watched(visit: Visit, position: int) -> AsyncIterator[AsyncGenerator[PunchBatch]]:
    """What follows a position, until the session's key stops working or the server stops."""
    feed = PunchFeed(visit.parts.feed, visit.parts.db, visit.tenant_id, within=visit.actor.site_ids)

    async def batches() -> AsyncGenerator[PunchBatch]:
        async with aclosing(feed.follow(position)) as source:
            coming: asyncio.Task[PunchBatch] | None = None
            ending = asyncio.ensure_future(_ending(visit).wait())
            try:
                while True:
                    coming = coming or asyncio.ensure_future(anext(source))
                    await asyncio.wait({coming, ending}, timeout=CHECK_EVERY, return_when=asyncio.FIRST_COMPLETED)
                    if _stops(visit):
                        return
                    if not await _alive(visit):
                        return
                    if coming.done():
                        batch, coming = coming.result(), None
                        yield batch
            finally:
                left = [task for task in (coming, ending) if task is not None]
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)

    async with aclosing(batches()) as found:
        yield found


def _ending(visit: Visit) -> asyncio.Event:
    """What is set when the server stops; nothing ever sets it on a server that is not ours."""
    ending: asyncio.Event = visit.request.scope.get(ENDING) or asyncio.Event()
    return ending


def _stops(visit: Visit) -> bool:
    return _ending(visit).is_set()


async def _cut_who_lingers(visit: Visit) -> None:
    """Once the server stops: a browser that takes nothing any more must not hold it up."""
    await _ending(visit).wait()
    await asyncio.sleep(FLUSH)
    answer: Body | None = visit.request.scope.get("extensions", {}).get(WIRE)
    if answer is not None:
        answer.cut(at_once=True)


async def _alive(visit: Visit) -> bool:
    try:
        return await visit.desk.sessions.alive(visit.session)
    except ServiceUnavailable:  # nothing can be read then either
        return True


async def _message(visit: Visit, batch: PunchBatch) -> bytes:
    while not _stops(visit):
        try:
            rows = await shown(visit, batch.punches)
            break
        except ServiceUnavailable:
            await asyncio.sleep(1)
    else:
        return b""  # it comes again, from another server
    cursor = visit.parts.cursors.write(visit.tenant_id, batch.position)
    data = orjson.dumps({"punches": rows, "lag": batch.lag})
    return b"id: " + cursor.encode() + b"\ndata: " + data + b"\n\n"


async def shown(visit: Visit, found: Sequence[PunchView]) -> list[dict[str, Any]]:
    """Punches as the page shows them, with the names of people and terminals."""
    if not found:
        return []
    async with visit.parts.db.read(visit.tenant_id) as session:
        people = await employees.by_pins(session, visit.tenant_id, sorted({punch.pin for punch in found}))
        places = await devices.by_ids(session, visit.tenant_id, sorted({punch.device_id for punch in found}))
    return [
        {
            "id": ids.show("pun", punch.id),
            "pin": punch.pin,
            "who": people[punch.pin].name if punch.pin in people else None,
            "where": places[punch.device_id].name,
            "device": ids.show("dev", punch.device_id),
            "local": punch.local_time.isoformat(sep=" ", timespec="seconds"),
            "zone": punch.time_zone,
            "received": timestamp(punch.received_at),
            "direction": punch.direction.value,
            "verify": punch.verify_mode.value,
            "late": late(punch.punched_at, punch.received_at) if punch.buffered else None,
        }
        for punch in found
    ]


def late(punched_at: datetime, received_at: datetime) -> str:
    """How late, for people."""
    minutes = max(int((received_at - punched_at).total_seconds() // 60), 0)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} days"
