"""Somebody registered a finger, a face or a palm at a terminal: employee.enrolled, once a day for each of them.

A terminal tells of it in its operation log, in a template that it sends although nobody asked, or in both; and it sends
either again until it is told OK. What is kept is that it happened, never what it looks like.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final
from uuid import UUID

from sqlalchemy import Column, DateTime, LargeBinary
from sqlmodel import Field, SQLModel

from app import ids
from app.database import Connection
from app.domain import outbox
from app.domain.events import EMPLOYEE, EventType, Happening, Logged, timestamp
from app.domain.payloads import EnrolledData
from app.domain.punches import DeviceSnapshot
from app.domain.tables import instant, tenant_key, within_tenant
from protocol.adms.records import OperLog, decode

#: Operations of a terminal's log that say so, and what was registered.
OPERATIONS: Final[Mapping[int, str]] = {6: "fingerprint"}
#: Tags of templates, and types of BIODATA.
_TAGS: Final[Mapping[str, str]] = {"FP": "fingerprint", "FACE": "face", "FVEIN": "finger_vein", "PVEIN": "palm"}
_TYPES: Final[Mapping[str, str]] = {
    "1": "fingerprint",
    "2": "face",
    "6": "palm",
    "7": "finger_vein",
    "8": "palm",
    "9": "face",
    "10": "palm",
}
#: The columns of a template's line before the template itself.
_HEAD: Final = re.compile(
    rb"^(?:(FP|FACE|FVEIN|PVEIN|BIODATA) )?([^\n]{0,400}?)\t(?:tmp|template|content)=", re.IGNORECASE | re.MULTILINE
)


class BiometricEnrollment(SQLModel, table=True):
    """One registration, known by the line that told of it."""

    __tablename__: ClassVar[str] = "biometric_enrollments"
    __table_args__ = (within_tenant("device_id", "devices"),)

    tenant_id: UUID = tenant_key()
    device_id: UUID = Field(primary_key=True)
    #: Of whose, what and on which day: tells what was told already from news.
    digest: bytes = Field(sa_column=Column(LargeBinary, primary_key=True))
    pin: str
    kind: str
    number: int | None = None
    local_time: datetime = Field(sa_column=Column(DateTime(timezone=False), nullable=False))
    received_at: datetime = instant()


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What a line of the operation log says."""

    pin: str
    kind: str
    #: Which finger, from 0.
    number: int | None
    local_time: datetime
    digest: bytes


def enrolled(line: OperLog) -> Enrolled | None:
    """The registration that a line of the operation log tells of; None where it tells of something else."""
    if (kind := OPERATIONS.get(line.operation)) is None:
        return None
    pin, number = [*line.objects, "", ""][:2]
    return _enrolled(pin, kind, number, line.wall_time)


def templates(table: str, body: bytes, received: datetime) -> list[Enrolled]:
    """The registrations that templates in an upload tell of. `received` is what the terminal's wall showed then."""
    found: dict[bytes, Enrolled] = {}
    for match in _HEAD.finditer(body):
        tag = (match[1] or table.encode()).decode().upper()
        said = {
            key.lower(): value
            for key, equals, value in (column.partition("=") for column in decode(match[2])[0].split("\t"))
            if equals
        }
        kind = _TYPES.get(said.get("type", "")) if tag == "BIODATA" else _TAGS.get(tag)
        if kind is not None:
            line = _enrolled(said.get("pin", ""), kind, said.get("fid") or said.get("no") or "", received)
            if line is not None:
                found[line.digest] = line
    return list(found.values())


def _enrolled(pin: str, kind: str, number: str, local_time: datetime) -> Enrolled | None:
    pin, number = pin.strip(), number.strip()
    if not pin or len(pin) > 24 or not pin.isprintable() or pin == "0":
        return None
    finger = (
        int(number) if kind == "fingerprint" and number.isascii() and number.isdigit() and len(number) < 3 else None
    )
    key = f"{pin}\0{kind}\0{finger}\0{local_time.date()}"
    return Enrolled(pin, kind, finger, local_time, hashlib.sha256(key.encode()).digest()[:16])


Noted = tuple[UUID, DeviceSnapshot, Enrolled]

_NOTE: Final = """
INSERT INTO biometric_enrollments (tenant_id, device_id, digest, pin, kind, number, local_time, received_at)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::text[], $5::text[], $6::integer[], $7::timestamp[],
    $8::timestamptz[]) AS b (t, d, g, p, k, n, l, r)
ORDER BY t, d, g ON CONFLICT DO NOTHING RETURNING tenant_id, device_id, digest
"""


async def note(connection: Connection, noted: Sequence[Noted], received_at: datetime) -> list[Logged]:
    """Write registrations down and announce those that are new. Purpose "ingest"."""
    rows = await connection.fetch(
        _NOTE,
        [tenant_id for tenant_id, _, _ in noted],
        [device.id for _, device, _ in noted],
        [line.digest for _, _, line in noted],
        [line.pin for _, _, line in noted],
        [line.kind for _, _, line in noted],
        [line.number for _, _, line in noted],
        [line.local_time for _, _, line in noted],
        [received_at for _ in noted],
    )
    fresh = {(row[0], row[1], row[2]) for row in rows}
    happenings = []
    for tenant_id, device, line in noted:
        if (key := (tenant_id, device.id, line.digest)) in fresh:
            fresh.discard(key)
            data = _shown(device, line, received_at)
            happenings.append(
                Happening(tenant_id, EventType.EMPLOYEE_ENROLLED, data, ids.new(), received_at, pin=line.pin)
            )
    return await outbox.announce(connection, happenings)


def _shown(device: DeviceSnapshot, line: Enrolled, received_at: datetime) -> EnrolledData:
    return {
        "pin": line.pin,
        "employee": EMPLOYEE,
        "device": {
            "id": ids.show("dev", device.id),
            "serial_number": device.serial_number,
            "name": device.name,
            "site_id": ids.show("sit", device.site_id) if device.site_id else None,
        },
        "kind": line.kind,
        "finger": line.number,
        "local_time": line.local_time.isoformat(timespec="seconds"),
        "received_at": timestamp(received_at),
    }
