"""Punches, filtered and paged; and as a file, streamed while it is read."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from app import ids, paging
from app.domain import devices, employees, punches
from app.domain.events import timestamp
from app.domain.punches import PunchView
from app.errors import InvalidInput
from app.web.dashboard.desk import Desk, Visit
from app.web.dashboard.live import late
from protocol.adms.codes import Direction as PunchDirection

#: Rows read at once for a file.
SLICE: Final = 1000
COLUMNS: Final = (
    "id", "punched_at", "local_time", "time_zone", "received_at", "pin", "employee", "external_id", "device",
    "serial_number", "direction", "verify_mode", "buffered", "flags",
)  # fmt: skip


def routes(desk: Desk) -> list[BaseRoute]:
    """/dashboard/punches."""
    return [
        desk.get("/punches", _list),
        desk.get("/punches.csv", _csv),
        desk.get("/punches.ndjson", _ndjson),
    ]


def safe(cell: object) -> str:
    """A cell that no spreadsheet takes for a formula."""
    text = "" if cell is None else str(cell)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else text


async def _list(visit: Visit) -> Response:
    visit.actor.may("punches:read")
    wanted = _wanted(visit)
    asked = visit.ask("punches", punches.BY_PUNCHED_AT.down, wanted)
    every = paging.Asked(devices.EVERY, devices.BY_NAME.up, paging.Window(size=100))
    async with visit.parts.db.read(visit.tenant_id) as session:
        page = await punches.page(session, visit.tenant_id, asked)
        people, places = await _names(session, visit, page.rows)
        choice = (await devices.page(session, visit.tenant_id, visit.desk.online_since(), every)).rows
    query = visit.request.url.query
    return visit.show(
        "punches.html",
        rows=[
            (punch, people.get(punch.pin), places[punch.device_id], late(punch.punched_at, punch.received_at))
            for punch in page.rows
        ],
        devices=choice,
        directions=list(PunchDirection),
        filled={name: visit.asked(name) for name in ("since", "before", "pin", "device", "direction", "only")},
        query=f"?{query}" if query else "",
        turns=visit.turns(asked, page),
    )


def _wanted(visit: Visit) -> punches.Wanted:
    device, direction, only = visit.asked("device"), visit.asked("direction"), visit.asked("only")
    before = _day(visit.asked("before"))
    return punches.Wanted(
        device_ids=(ids.read("dev", device),) if device else None,
        pins=(visit.asked("pin"),) if visit.asked("pin") else None,
        punched_since=_day(visit.asked("since")),
        punched_before=before + timedelta(days=1) if before else None,
        directions=(PunchDirection(direction),) if direction in set(PunchDirection) else None,
        buffered=True if only == "late" else None,
        unmatched=True if only == "unmatched" else None,
    )


def _day(text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise InvalidInput("Write a day as 2026-03-01.") from None


async def _names(session: Any, visit: Visit, rows: list[PunchView]) -> tuple[dict[str, Any], dict[Any, Any]]:
    people = await employees.by_pins(session, visit.tenant_id, sorted({punch.pin for punch in rows})) if rows else {}
    places = await devices.by_ids(session, visit.tenant_id, list({punch.device_id for punch in rows})) if rows else {}
    return dict(people), dict(places)


async def _csv(visit: Visit) -> Response:
    def write(rows: list[dict[str, Any]]) -> bytes:
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerows([safe(row[name]) for name in COLUMNS] for row in rows)
        return out.getvalue().encode()

    return _file(visit, "csv", "text/csv; charset=utf-8", write, ",".join(COLUMNS).encode() + b"\r\n")


async def _ndjson(visit: Visit) -> Response:
    def write(rows: list[dict[str, Any]]) -> bytes:
        return b"".join(orjson.dumps(row) + b"\n" for row in rows)

    return _file(visit, "ndjson", "application/x-ndjson", write, b"")


def _file(visit: Visit, ending: str, media_type: str, write: Any, head: bytes) -> Response:
    visit.actor.may("punches:read")
    wanted = _wanted(visit)

    async def body() -> AsyncGenerator[bytes]:
        yield head
        asked = paging.Asked(wanted, punches.BY_PUNCHED_AT.up, paging.Window(size=SLICE))
        while True:
            # A transaction a slice, so that a slow reader holds none open.
            async with visit.parts.db.read(visit.tenant_id) as session:
                page = await punches.page(session, visit.tenant_id, asked)
                people, places = await _names(session, visit, page.rows)
            if page.rows:
                yield write([_row(punch, people.get(punch.pin), places[punch.device_id]) for punch in page.rows])
            # A key that was revoked meanwhile gets no further slice, and the file ends short of its last chunk.
            if not page.has_next:
                return
            if not await visit.desk.sessions.alive(visit.session):
                raise ConnectionAbortedError("The session's key stopped working.")
            asked = replace(asked, window=paging.Window(size=SLICE, after=page.place(-1)))

    headers = {
        "Content-Disposition": f'attachment; filename="punches.{ending}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    }
    return StreamingResponse(body(), media_type=media_type, headers=headers)


def _row(punch: PunchView, person: Any, device: Any) -> dict[str, Any]:
    return {
        "id": ids.show("pun", punch.id),
        "punched_at": timestamp(punch.punched_at),
        "local_time": punch.local_time.isoformat(timespec="seconds"),
        "time_zone": punch.time_zone,
        "received_at": timestamp(punch.received_at),
        "pin": punch.pin,
        "employee": person.name if person else None,
        "external_id": person.external_id if person else None,
        "device": device.name,
        "serial_number": device.serial_number,
        "direction": punch.direction.value,
        "verify_mode": punch.verify_mode.value,
        "buffered": punch.buffered,
        "flags": " ".join(punch.flags),
    }
