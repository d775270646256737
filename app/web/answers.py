"""Answers in several packets, on their way from the edge into the database and, once whole, out of it again.

Each process also looks now and then for what nobody waits for any more. Two that find the same read it twice, and a
record that is read twice is one record.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from app.database import Database
from app.domain import answers, bindings, ingest
from app.domain.answers import Part
from app.domain.ingest import KnownDevice
from app.errors import ServiceUnavailable
from app.vault import Vault
from app.web.intake import Intake
from protocol.adms import records, security
from protocol.adms.requests import TableUpload

log = structlog.get_logger(__name__)

_LOOK_SECONDS: Final = 30.0
_DEVICES: Final = 20
_SWEPT: Final = 1000
_PIECE_BYTES: Final = 64 * 1024
_LOOSE: Final = "part of a row; the packet with the rest of it never came"

#: Takes the rows of a whole answer, and remembers its packets with the command's end.
Take = Callable[[KnownDevice, TableUpload, datetime, Sequence[Part]], Awaitable[object]]


class Answers:
    """One process's part in it. `room` is in bytes, for one device."""

    def __init__(self, db: Database, vault: Vault, intake: Intake, take: Take, *, room: int, drift: timedelta) -> None:
        self._db, self._vault, self._intake = db, vault, intake
        self._take, self._room, self._drift = take, room, drift
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look for what was waited for long enough."""
        self._looking = asyncio.create_task(self._look(), name="answers")

    async def stop(self) -> None:
        """Another process goes on with it."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def keep(self, device: KnownDevice, upload: TableUpload, received_at: datetime) -> bytes:
        """The reply to a packet, once it is committed, and with the last one all of them are read."""
        async with self._db.across("ingest", [device.tenant_id]) as connection:
            kept = await answers.keep(
                connection, self._vault, device.tenant_id, device.device.id, upload, room=self._room
            )
        if kept.whole:
            # What the unit says that it sent may be of one packet or of all; rows can be counted.
            said = None if upload.kind == "tabledata" else upload.count
            await self._read(device, replace(upload, count=said), received_at, kept.whole)
        await self._read_left(device, kept.left)
        rows = records.count_records(upload.table, upload.body) if upload.count is None else upload.count
        return security.table_reply(upload.table, rows)

    async def _read(
        self, device: KnownDevice, upload: TableUpload, received_at: datetime, whole: Sequence[Part]
    ) -> None:
        body = security.join(upload.table, [part.body for part in whole])
        await self._take(device, replace(upload, body=body, packet=None), received_at, whole)

    async def _read_left(self, device: KnownDevice, left: Sequence[Part]) -> None:
        if not left:
            return
        for run in answers.runs(left):
            first, last, received_at = run[0], run[-1], run[-1].received_at
            body, loose = security.join(first.table, [part.body for part in run]), list[bytes]()
            if first.kind == "tabledata" and not records.is_biometric(first.table):
                head, tail = first.number > 1, last.number < last.count
                body, loose = security.loose_ends(first.table, body, head=head, tail=tail)
            upload = TableUpload(device.device.serial_number, first.table, None, b"", first.kind)
            for piece in records.pieces(body, _PIECE_BYTES):
                reading = ingest.read(device, replace(upload, body=piece), received_at, drift=self._drift)
                await self._intake.submit(reading)
            if loose:
                await self._intake.submit(ingest.loose(device, received_at, first.table, loose, _LOOSE))
        async with self._db.across("ingest", [device.tenant_id]) as connection:
            await answers.forget(connection, device.tenant_id, left)
        log.warning("answer_in_part", tenant=str(device.tenant_id), device=str(device.device.id), packets=len(left))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                await self.finish()
            except ServiceUnavailable:
                pass
            except Exception:
                log.exception("answers_not_finished")

    async def finish(self) -> None:
        """Read what was waited for long enough, of some devices."""
        async with self._db.across("operate") as connection:
            overdue = await answers.overdue(connection, _DEVICES)
            await answers.sweep(connection, _SWEPT)
        for tenant_id, device_id in overdue:
            try:
                await self._finish(tenant_id, device_id)
            except ServiceUnavailable:
                raise
            except Exception:  # one device's trouble is not the others'
                log.exception("answer_not_finished", tenant=str(tenant_id), device=str(device_id))

    async def _finish(self, tenant_id: UUID, device_id: UUID) -> None:
        async with self._db.across("ingest", [tenant_id]) as connection:
            device = await bindings.known(connection, tenant_id, device_id)
            if device is None:
                return
            found = await answers.late(connection, self._vault, tenant_id, device_id)
        for kept in found:
            if kept.whole:
                last = max(kept.whole, key=lambda part: part.received_at)
                upload = TableUpload(device.device.serial_number, last.table, None, b"", last.kind, last.answer or None)
                await self._read(device, upload, last.received_at, kept.whole)
            await self._read_left(device, kept.left)
