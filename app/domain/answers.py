"""Answers that come in several packets, kept until they are whole.

A terminal forgets a packet once it hears OK, and the next one may come to another process, later, or never. So each is
a row, committed before it is acknowledged. A packet may begin and end in the middle of a row, and hold half of a
password where nobody would find it: until it can be read its bytes are sealed.

What becomes whole is read whole, and then remembered without its bytes, to know a packet that is sent again. What does
not is left, to be read as it is: after WAIT, or at once where the device's packets would take more room than they may.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby
from typing import Any, ClassVar, Final
from uuid import UUID

import structlog
from cryptography.exceptions import InvalidTag
from sqlalchemy import BigInteger, CheckConstraint, Column, Index, LargeBinary, text
from sqlmodel import Field, SQLModel

from app import ids
from app.database import Connection
from app.domain import commands
from app.domain.tables import instant, tenant_key, within_tenant
from app.vault import Vault
from protocol.adms.requests import TableUpload

log = structlog.get_logger(__name__)

#: How long the next packet is waited for.
WAIT: Final = timedelta(minutes=10)
#: Packets of one device that may wait, at most.
MOST: Final = 1000
#: How long a packet that was read is known again.
REMEMBERED: Final = timedelta(days=1)
_SEAL: Final = "packet"


class PacketState(StrEnum):
    """WAITING for the others; LEFT, since they will not come; READ with all of them."""

    WAITING = "WAITING"
    LEFT = "LEFT"
    READ = "READ"


class AnswerPacket(SQLModel, table=True):
    """A packet of an answer."""

    __tablename__: ClassVar[str] = "answer_packets"
    __table_args__ = (
        within_tenant("device_id", "devices"),
        CheckConstraint("state IN ('WAITING', 'LEFT', 'READ')", name="state"),
        Index(
            "uq_answer_packets_number",
            "tenant_id",
            "device_id",
            "answer",
            "table_name",
            "number",
            unique=True,
            postgresql_where=text("state <> 'LEFT'"),
        ),
        Index("ix_answer_packets_device", "tenant_id", "device_id", postgresql_where=text("state <> 'READ'")),
        Index("ix_answer_packets_read", "received_at", postgresql_where=text("state = 'READ'")),
    )

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    device_id: UUID
    #: The command's number as the terminal repeats it; empty where it did not.
    answer: str
    table_name: str
    kind: str
    number: int = Field(sa_column=Column(BigInteger, nullable=False))
    count: int = Field(sa_column=Column(BigInteger, nullable=False))
    state: str = PacketState.WAITING
    #: Empty once it was read.
    sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    #: In bytes, before it was sealed.
    size: int
    digest: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    received_at: datetime = instant()


@dataclass(frozen=True, slots=True)
class Part:
    """A packet with its bytes."""

    id: UUID
    answer: str
    table: str
    kind: str
    number: int
    count: int
    body: bytes
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Kept:
    """What a packet led to: all of its answer, in order, or something that is left to be read as it is."""

    whole: Sequence[Part] = ()
    left: Sequence[Part] = ()


_SAME: Final = """
SELECT id, number, count, digest, state FROM answer_packets
WHERE tenant_id = $1 AND device_id = $2 AND answer = $3 AND table_name = $4 AND state <> 'LEFT'
"""
_INSERT: Final = """
INSERT INTO answer_packets
    (tenant_id, id, device_id, answer, table_name, kind, number, count, state, sealed, size, digest, received_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'WAITING', $9, $10, $11, clock_timestamp())
"""
_ROOM: Final = """
SELECT count(*), coalesce(sum(size), 0) FROM answer_packets
WHERE tenant_id = $1 AND device_id = $2 AND state <> 'READ'
"""
_LEAVE: Final = "UPDATE answer_packets SET state = 'LEFT' WHERE tenant_id = $1 AND id = ANY ($2::uuid[])"
_DELETE: Final = "DELETE FROM answer_packets WHERE tenant_id = $1 AND id = ANY ($2::uuid[])"
_OPEN: Final = """
SELECT id, answer, table_name, kind, number, count, sealed, received_at, state,
       max(received_at) OVER (PARTITION BY answer, table_name) < clock_timestamp() - $3::interval AS late
FROM answer_packets
WHERE tenant_id = $1 AND device_id = $2 AND state <> 'READ' ORDER BY answer, table_name, number, id
"""


async def keep(
    connection: Connection, vault: Vault, tenant_id: UUID, device_id: UUID, upload: TableUpload, *, room: int
) -> Kept:
    """Keep a packet, `upload.packet`; `room` is how many bytes may wait for one device. Purpose "ingest".

    One that is there already changes nothing. Where another one has its number, or it speaks of another count, the
    answer was begun anew: what it takes the place of is left.
    """
    packet = upload.packet
    if packet is None:
        raise ValueError("an upload that is no packet")
    answer, table = (upload.command_id or "")[:64], upload.table.lower()
    await commands.lock(connection, tenant_id, device_id)
    digest = hashlib.sha256(upload.kind.encode() + b":" + upload.body).digest()[:16]
    there = await connection.fetch(_SAME, tenant_id, device_id, answer, table)
    again = [row for row in there if (row["number"], row["count"], row["digest"]) == (*_of(packet), digest)]
    # Nothing tells two answers without a command's number apart, but that each begins with its first packet.
    if again and again[0]["state"] == PacketState.READ and (answer or packet.number > 1):
        return Kept()
    if not again or again[0]["state"] == PacketState.READ:
        over = [row["id"] for row in there if row["state"] == PacketState.READ]
        taken = [
            row["id"]
            for row in there
            if row["state"] == PacketState.WAITING and (row["number"] == packet.number or row["count"] != packet.count)
        ]
        await connection.execute(_DELETE, tenant_id, over)
        await connection.execute(_LEAVE, tenant_id, taken)
        sealed = vault.seal_bytes(upload.body, owner=device_id, purpose=_SEAL)
        await connection.execute(
            _INSERT,
            tenant_id,
            ids.new(),
            device_id,
            answer,
            table,
            upload.kind[:64],
            *_of(packet),
            sealed,
            len(upload.body),
            digest,
        )
    number, size = await connection.fetchrow(_ROOM, tenant_id, device_id)
    parts = await _open(connection, vault, tenant_id, device_id) if number >= packet.count or size > room else []
    whole = [part for part, state, _ in parts if _place(part) == (answer, table) and state == PacketState.WAITING]
    left = [part for part, state, _ in parts if state == PacketState.LEFT]
    if len(whole) == packet.count:
        return Kept(whole, left)
    if number > MOST or size > room:
        return Kept(left=await _give_up(connection, tenant_id, device_id, [part for part, _, _ in parts]))
    return Kept(left=left)


def _of(packet: Any) -> tuple[int, int]:
    return packet.number, packet.count


def _place(part: Part) -> tuple[str, str]:
    return part.answer, part.table


async def _open(connection: Connection, vault: Vault, tenant_id: UUID, device_id: UUID) -> list[tuple[Part, str, bool]]:
    """What waits or is left of a device, with its state, and whether its answer is late.

    What was sealed under another SECRET_KEY is lost, and must not stand in the way of what comes after it.
    """
    found: list[tuple[Part, str, bool]] = []
    lost: list[UUID] = []
    for row in await connection.fetch(_OPEN, tenant_id, device_id, WAIT):
        try:
            body = vault.open_bytes(row["sealed"], owner=device_id, purpose=_SEAL)
        except InvalidTag:
            lost.append(row["id"])
            continue
        said = (row["answer"], row["table_name"], row["kind"], row["number"], row["count"])
        found.append((Part(row["id"], *said, body, row["received_at"]), row["state"], row["late"]))
    if lost:
        log.error("packets_lost", tenant=str(tenant_id), device=str(device_id), packets=len(lost))
        await connection.execute(_DELETE, tenant_id, lost)
    return found


async def _give_up(connection: Connection, tenant_id: UUID, device_id: UUID, parts: Sequence[Part]) -> list[Part]:
    """Wait for no more packets of these answers, and note that on the commands that asked."""
    await connection.execute(_LEAVE, tenant_id, [part.id for part in parts])
    for (answer, _), found in groupby(parts, _place):
        numbers = list(found)
        said = f"Only {len(numbers)} of {numbers[0].count} packets of its answer came."
        await commands.remark(connection, tenant_id, device_id, answer, said)
    return list(parts)


async def late(connection: Connection, vault: Vault, tenant_id: UUID, device_id: UUID) -> list[Kept]:
    """What of a device nobody waits for any more: each whole answer, then all that is left. Purpose "ingest".

    A whole one is here when the process died that was to read it.
    """
    await commands.lock(connection, tenant_id, device_id)
    parts = await _open(connection, vault, tenant_id, device_id)
    left = [part for part, state, _ in parts if state == PacketState.LEFT]
    waited = [part for part, state, is_late in parts if state == PacketState.WAITING and is_late]
    found: list[Kept] = []
    for _, group in groupby(waited, _place):
        answer = list(group)
        if len(answer) == answer[0].count:
            found.append(Kept(answer))
        else:
            left += await _give_up(connection, tenant_id, device_id, answer)
    return [*found, Kept(left=left)]


async def read(connection: Connection, tenant_id: UUID, device_id: UUID, whole: Sequence[Part]) -> None:
    """A whole answer was read: remember its packets, without their bytes. Purpose "ingest"."""
    await connection.execute(
        "UPDATE answer_packets SET state = 'READ', sealed = '' WHERE tenant_id = $1 AND id = ANY ($2::uuid[])",
        tenant_id,
        [part.id for part in whole],
    )
    await commands.remark(connection, tenant_id, device_id, whole[0].answer, None)


async def forget(connection: Connection, tenant_id: UUID, left: Sequence[Part]) -> None:
    """What was left was read. Purpose "ingest"."""
    await connection.execute(_DELETE, tenant_id, [part.id for part in left])


def runs(left: Sequence[Part]) -> Iterator[list[Part]]:
    """What was left, in stretches of packets that follow one another."""
    run: list[Part] = []
    for part in sorted(left, key=lambda part: (part.answer, part.table, part.count, part.number, part.id)):
        if run and (_place(part), part.count, part.number) != (_place(run[-1]), run[-1].count, run[-1].number + 1):
            yield run
            run = []
        run.append(part)
    if run:
        yield run


_LATE: Final = """
SELECT tenant_id, device_id FROM (
    SELECT tenant_id, device_id FROM answer_packets WHERE state <> 'READ'
    GROUP BY tenant_id, device_id, answer, table_name
    HAVING bool_or(state = 'LEFT') OR max(received_at) < now() - $1::interval
) AS waited GROUP BY tenant_id, device_id ORDER BY random() LIMIT $2
"""


async def overdue(connection: Connection, limit: int) -> list[tuple[UUID, UUID]]:
    """Devices, with their tenants, of which something waited long enough. Purpose "operate"."""
    return [(row[0], row[1]) for row in await connection.fetch(_LATE, WAIT, limit)]


async def sweep(connection: Connection, limit: int) -> None:
    """Forget some packets that were read long ago. Purpose "operate"."""
    await connection.execute(
        "DELETE FROM answer_packets p USING (SELECT tenant_id, id FROM answer_packets WHERE state = 'READ' "
        "AND received_at < now() - $1::interval ORDER BY received_at LIMIT $2) AS old "
        "WHERE p.tenant_id = old.tenant_id AND p.id = old.id",
        REMEMBERED,
        limit,
    )
