"""Devices as they come and go, as long as somebody watches. The bell wakes, the table tells: a lost ring costs seconds.

What is followed is how each device stands: whether it is online, its status, where it is bound. Of two changes that
come together the last one is shown. Who comes back sees all as they are now, and so has missed nothing that matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Final, TypeAlias
from uuid import UUID

from app.broadcast import Bell
from app.database import Database, driver
from app.domain import devices, outbox
from app.domain.devices import Device
from app.domain.feed import insist

#: Seconds between two looks, at most and at least.
LOOK_EVERY: Final = 4.0
CALM: Final = 0.2
#: Devices read whole at once.
CHUNK: Final = 100

_STANDING: Final = """
SELECT id, status, online, bound_addresses FROM devices
WHERE tenant_id = $1 AND ($2::uuid[] IS NULL OR id = ANY ($2)) ORDER BY id
"""

#: What of a device is followed.
Standing: TypeAlias = tuple[str, bool, tuple[str, ...]]


async def follow(
    db: Database, bell: Bell, tenant_id: UUID, device_ids: Sequence[UUID] | None = None
) -> AsyncGenerator[Device]:
    """Each of the devices as it is, then each that changes, as it then is; None: all of the tenant's.

    PostgreSQL may go away meanwhile: then nothing comes until it is back.
    """
    shown: dict[UUID, Standing] = {}
    async with bell.listen(outbox.devices_channel(tenant_id)) as listener:
        while True:
            standing = await insist(partial(_look, db, tenant_id, device_ids))
            changed = [one for one, stands in standing.items() if shown.get(one) != stands]
            for start in range(0, len(changed), CHUNK):
                chunk = changed[start : start + CHUNK]
                found = await insist(partial(_read, db, tenant_id, chunk))
                for device in (found[one] for one in chunk if one in found):
                    stands = (device.status, device.online, tuple(device.bound_addresses))
                    if shown.get(device.id) != stands:
                        shown[device.id] = stands
                        yield device
            await asyncio.sleep(CALM)
            await listener.heard(LOOK_EVERY)


async def _look(db: Database, tenant_id: UUID, device_ids: Sequence[UUID] | None) -> dict[UUID, Standing]:
    async with db.read(tenant_id) as session:
        wanted = None if device_ids is None else list(device_ids)
        rows = await (await driver(session)).fetch(_STANDING, tenant_id, wanted)
    return {row[0]: (row[1], row[2], tuple(row[3])) for row in rows}


async def _read(db: Database, tenant_id: UUID, device_ids: Sequence[UUID]) -> dict[UUID, Device]:
    async with db.read(tenant_id) as session:
        return await devices.by_ids(session, tenant_id, device_ids)
