"""Commands as they move on, as long as somebody watches. The bell wakes, the table tells: a lost ring costs seconds.

What is followed is how each command stands, not every step that it took: of two steps that come together the last one
is shown. A commit may become visible after one that began later, so each look goes back a little and leaves out what
was shown already.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from app import ids
from app.broadcast import Bell
from app.database import Database
from app.domain import commands
from app.domain.commands import DeviceCommand, Moved
from app.domain.feed import insist

#: Seconds between two looks, at most and at least.
LOOK_EVERY: Final = 4.0
CALM: Final = 0.2
#: How long a commit may take to become visible: longer than a statement may wait for a lock.
OVERLAP: Final = timedelta(seconds=6)


def channel(tenant_id: UUID) -> str:
    """Rung when a command of the tenant may have moved; the message says nothing."""
    return f"commands:{ids.show('ten', tenant_id)}"


def ring(bell: Bell, tenant_id: UUID) -> None:
    """Call it after the commit."""
    bell.ring(channel(tenant_id), b"1")


async def follow(db: Database, bell: Bell, tenant_id: UUID, wanted: Moved) -> AsyncGenerator[DeviceCommand]:
    """Each of the commands that moves on from now, as it then is. Those named by id also come first, as they are.

    PostgreSQL may go away meanwhile: then nothing comes until it is back.
    """
    shown: dict[UUID, datetime] = {}
    async with bell.listen(channel(tenant_id)) as listener:
        since = await insist(lambda: _now(db, tenant_id))
        for command in await insist(lambda: _named(db, tenant_id, wanted)):
            shown[command.id] = command.moved_at
            yield command
        while True:
            from_, rows = await insist(lambda since=since: _look(db, tenant_id, since, wanted))  # type: ignore[misc]
            for command in rows:
                if shown.get(command.id) != command.moved_at:
                    shown[command.id] = command.moved_at
                    yield command
            since = max(since, from_ - OVERLAP)
            shown = {key: moved_at for key, moved_at in shown.items() if moved_at > since}
            await asyncio.sleep(CALM)
            await listener.heard(LOOK_EVERY)


async def _now(db: Database, tenant_id: UUID) -> datetime:
    async with db.read(tenant_id) as session:
        return await commands.clock(session)


async def _named(db: Database, tenant_id: UUID, wanted: Moved) -> list[DeviceCommand]:
    if wanted.command_ids is None:
        return []
    async with db.read(tenant_id) as session:
        found = await commands.by_ids(session, tenant_id, wanted.command_ids)
    chosen = (found[key] for key in wanted.command_ids if key in found)
    return [row for row in chosen if wanted.device_ids is None or row.device_id in wanted.device_ids]


async def _look(db: Database, tenant_id: UUID, since: datetime, wanted: Moved) -> tuple[datetime, list[DeviceCommand]]:
    async with db.read(tenant_id) as session:
        at = await commands.clock(session)
        return at, await commands.moved(session, tenant_id, since, wanted)
