"""One upload, accepted. The only file that turns a terminal's words into ours.

`read` is pure: bytes and a known device in, rows out. `accept` writes many uploads of many tenants in one transaction:
punches, then what is kept raw, then (last, under the feed heads) events and deliveries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from app import ids
from app.database import Connection, Fetch
from app.domain import biometrics, placements, profiles, punches, terminal_users
from app.domain.biometrics import Enrolled
from app.domain.events import Logged
from app.domain.profiles import BUFFERED_AFTER, CLOCK_DRIFT, DRIFT, Measure, Watched
from app.domain.punches import DeviceSnapshot, PunchView
from app.domain.terminal_users import Sighting
from protocol.adms import clock, codes, records, security
from protocol.adms.requests import TableUpload, Upload


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A device that is bound to its tenant, with what reading its records takes."""

    tenant_id: UUID
    device: DeviceSnapshot
    zone: ZoneInfo
    push_version: str | None = None
    announced_type: str | None = None
    #: Whether it was told to send nothing, before it was bound. It goes on doing so until it is told to CHECK.
    muted: bool = False
    #: ATTENDANCE or SECURITY, as last proved; None before anything was.
    dialect: str | None = None
    watched: Watched = field(default_factory=Watched)


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes to keep as they came, less what must not be kept."""

    table: str
    stamp: str | None
    body: bytes
    count: int
    discarded: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line nobody can read."""

    table: str
    reason: str
    raw: bytes


@dataclass(slots=True)
class Reading:
    """An upload, read. `count` is what its OK says: every record, readable or not, new or resent."""

    device: KnownDevice
    received_at: datetime
    count: int | None = None
    punches: list[PunchView] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    users: list[Sighting] = field(default_factory=list)
    enrolled: list[Enrolled] = field(default_factory=list)
    #: What its text was in, where it was more than ASCII.
    charset: str | None = None
    #: What its newest record tells of the clock.
    measure: Measure | None = None
    #: The number of its newest record in the terminal's memory, and that record's wall time.
    mark: int | None = None
    mark_at: datetime | None = None

    @property
    def weight(self) -> int:
        """Rows that this adds to a commit, at most."""
        return len(self.punches) + len(self.kept) + len(self.rejected) + len(self.users) + len(self.enrolled)


def read(
    device: KnownDevice, upload: Upload | TableUpload, received_at: datetime, *, drift: timedelta = DRIFT
) -> Reading:
    """What an upload says. Never raises: what cannot be read is kept.

    Punches are flagged while the clock is further off than `drift`, as far as is known with this upload.
    """
    reading = Reading(device, received_at)
    if isinstance(upload, TableUpload):
        _read_rows(reading, upload, drift)
    elif upload.table == "ATTLOG":
        _read_attlog(reading, upload, drift)
    elif upload.table == "RTLOG":
        _read_events(reading, "RTLOG", upload.body, drift)
        reading.count = None
    else:
        kept = records.redact(upload.table, upload.body)
        count = records.count_records(upload.table, upload.body)
        reading.count = count if records.answers_with_count(upload.table) else None
        reading.kept.append(Kept(upload.table, upload.stamp, kept.body, count, kept.discarded))
        if upload.table == "RTSTATE":
            _measure(reading, security.state_time(upload.body), exact=True)
        if upload.table in _PEOPLE:
            _read_people(reading, upload.table, kept.body)
        if upload.table in _TEMPLATES and kept.discarded:
            received = clock.wall_time(received_at, device.zone)
            reading.enrolled += biometrics.templates(upload.table, upload.body, received)
    return reading


_ALMOST_A_DAY: Final = timedelta(hours=22)
_YEAR_0: Final = 2000

#: Tables that may tell of users, and of what was done about them.
_PEOPLE: Final = frozenset({"OPERLOG", "USERINFO"})
#: Tables in which templates may come although nobody asked: that they exist is news, what they hold is not kept.
_TEMPLATES: Final = frozenset({"OPERLOG", "BIODATA"})


def _read_people(reading: Reading, table: str, body: bytes) -> None:
    newest: datetime | None = None
    batch = records.read_tagged(table, body, reading.device.watched.code_page)
    if not body.isascii() and batch.charset != "latin-1":
        reading.charset = batch.charset
    for line in batch.records:
        if isinstance(line, records.UserInfo) and (user := terminal_users.sighting(line)) is not None:
            reading.users.append(user)
        elif isinstance(line, records.OperLog) and (registered := biometrics.enrolled(line)) is not None:
            reading.enrolled.append(registered)
        if isinstance(line, records.OperLog):
            newest = line.wall_time
    _measure(reading, newest)


def _measure(reading: Reading, newest: datetime | None, *, exact: bool = False) -> None:
    """Judge the clock by the newest wall time that an upload shows."""
    if newest is not None:
        device, at = reading.device, reading.received_at
        reading.measure = profiles.measure(clock.nearest(newest, device.zone, at), at, device.watched, exact=exact)


def _doubts(reading: Reading, drift: timedelta) -> tuple[str, ...]:
    """The flags of all its punches; what the upload itself tells of the clock is the latest news."""
    skew = reading.measure.skew_ms if reading.measure else None
    return profiles.doubts(reading.device.watched, reading.received_at, drift, skew)


def _read_attlog(reading: Reading, upload: Upload, drift: timedelta) -> None:
    device = reading.device
    batch = records.read_attlog(upload.body)
    reading.count = batch.record_count
    reading.rejected += _rejected("ATTLOG", batch.unreadable)
    received_at, zone_name = reading.received_at, device.zone.key
    old = codes.is_old(device.push_version)
    if batch.records:
        newest = batch.records[-1].wall_time
        _measure(reading, newest)
        if upload.stamp and upload.stamp.isdigit():
            reading.mark, reading.mark_at = int(upload.stamp), newest
    suspicion = _Suspicion(reading, drift)
    doubts, fresh_since, soonest = suspicion.doubts, suspicion.fresh_since, suspicion.soonest
    identity_checks = []
    named: dict[tuple[str, ...], records.Columns | None] = {}  # most lines of a body end alike
    for log in batch.records:
        if log.extra not in named:
            named[log.extra] = _columns(device, log)
        columns = named[log.extra]
        if columns and columns.is_identity_check:
            identity_checks.append(log.raw)
            continue
        punched_at = clock.instant(log.wall_time, device.zone)
        wall = log.wall_time
        reading.punches.append(
            PunchView(
                id=ids.new(),
                device_id=device.device.id,
                pin=log.pin,
                local_time=log.wall_time,
                time_zone=zone_name,
                punched_at=punched_at,
                received_at=received_at,
                direction=codes.direction(log.state),
                state_code=log.state,
                verify_mode=codes.verify_mode(log.verify, old=old),
                verify_code=log.verify,
                work_code=log.work_code or None,
                temperature_celsius=columns.temperature if columns else None,
                mask_worn=bool(columns.mask) if columns and columns.mask is not None else None,
                buffered=punched_at < fresh_since,
                flags=doubts if wall.year > _YEAR_0 and punched_at <= soonest else suspicion.flags(wall, punched_at),
                raw=log.raw,
            )
        )
    if identity_checks:
        body = b"\n".join(identity_checks)
        reading.kept.append(Kept("ATTLOG", upload.stamp, body, len(identity_checks), 0))


class _Suspicion:
    """The flags of one upload's punches. Few are worth a look: not one of this century up to a little ahead of now."""

    def __init__(self, reading: Reading, drift: timedelta) -> None:
        self.doubts = _doubts(reading, drift)
        self.fresh_since = reading.received_at - BUFFERED_AFTER
        self._ahead = reading.received_at + drift
        self._received_at, self._zone = reading.received_at, reading.device.zone
        #: Sooner than this no rule about the future applies, whatever the clocks do in an hour that comes twice.
        self.soonest = min(self._ahead, reading.received_at + _ALMOST_A_DAY)

    def flags(self, wall: datetime, punched_at: datetime) -> tuple[str, ...]:
        """A punch's own time may say more than the device's clock did so far."""
        if clock.is_impossible(wall, clock.wall_time(self._received_at, self._zone)):
            return ("impossible_time", *self.doubts)
        return (
            (CLOCK_DRIFT, *self.doubts) if punched_at > self._ahead and CLOCK_DRIFT not in self.doubts else self.doubts
        )


def loose(device: KnownDevice, received_at: datetime, table: str, parts: Sequence[bytes], reason: str) -> Reading:
    """Parts of rows of which the rest never came, to be kept."""
    lines = [records.UnreadableLine(part, reason) for part in parts]
    return Reading(device, received_at, rejected=_rejected(table.upper()[:64], lines))


def _rejected(table: str, lines: Sequence[records.UnreadableLine]) -> list[Rejected]:
    """A template in the wrong place is none the less a template."""
    kept = records.redact_lines([line.raw for line in lines])
    return [Rejected(table, line.reason, raw) for line, raw in zip(lines, kept, strict=True)]


def _read_rows(reading: Reading, upload: TableUpload, drift: timedelta) -> None:
    table = upload.table.upper()
    if table == "TRANSACTION" and upload.kind == "tabledata":
        _read_events(reading, table, upload.body, drift)
        return
    kept = records.redact(table, upload.body)
    reading.count = records.count_records(table, upload.body)
    if kept.body or kept.discarded:
        reading.kept.append(Kept(table, None, kept.body, reading.count, kept.discarded))
    if table == "BIODATA":
        received = clock.wall_time(reading.received_at, reading.device.zone)
        reading.enrolled += biometrics.templates(table, upload.body, received)
    if table == "USER" and upload.kind == "tabledata":
        _read_people(reading, table, kept.body)


def _read_events(reading: Reading, table: str, body: bytes, drift: timedelta) -> None:
    """Punches out of events; all others are kept as they came."""
    device, received_at = reading.device, reading.received_at
    batch = security.read_events(body)
    reading.count = batch.record_count
    reading.rejected += _rejected(table, batch.unreadable)
    if batch.records:
        newest = batch.records[-1]
        _measure(reading, newest.wall_time)
        # A table that was asked for is old records by intention.
        if newest.index is not None and table == "RTLOG":
            reading.mark, reading.mark_at = newest.index, newest.wall_time
    suspicion = _Suspicion(reading, drift)
    others = []
    for event in batch.records:
        if not event.is_punch or event.pin is None:
            others.append(event.raw)
            continue
        punched_at = clock.instant(event.wall_time, device.zone)
        flags = suspicion.flags(event.wall_time, punched_at)
        reading.punches.append(
            PunchView(
                id=ids.new(),
                device_id=device.device.id,
                pin=event.pin,
                local_time=event.wall_time,
                time_zone=device.zone.key,
                punched_at=punched_at,
                received_at=received_at,
                direction=event.direction,
                state_code=event.state,
                verify_mode=event.verify_mode,
                verify_code=event.verify,
                work_code=None,
                temperature_celsius=event.temperature,
                mask_worn=event.mask,
                buffered=punched_at < suspicion.fresh_since,
                flags=(*flags, *(["unknown_event"] if event.is_guess else [])),
                raw=event.raw,
                record_index=event.index,
            )
        )
    if others:
        reading.kept.append(Kept(table, None, b"\n".join(others), len(others), 0))


def _columns(device: KnownDevice, log: records.AttLog) -> records.Columns | None:
    """What the later columns mean; None where there are none worth a name."""
    return records.name_columns(log, device.announced_type, device.push_version) if len(log.extra) > 2 else None


async def accept(connection: Connection, readings: Sequence[Reading]) -> list[Logged]:
    """Write what was read; afterwards it is durable once the transaction commits. Returns the events, to ring with."""
    await _keep(connection, [(reading, kept) for reading in readings for kept in reading.kept])
    await _reject(connection, [(reading, line) for reading in readings for line in reading.rejected])
    seen = [
        (reading.device.tenant_id, reading.device.device.id, user) for reading in readings for user in reading.users
    ]
    if seen:
        await terminal_users.see(connection, seen)
        await placements.sighted(connection, seen)
    logged = await punches.append(connection.fetch, arrived) if (arrived := _arrived(readings)) else []
    enrolled = [
        (reading.device.tenant_id, reading.device.device, line) for reading in readings for line in reading.enrolled
    ]
    if enrolled:
        logged += await biometrics.note(connection, enrolled, max(reading.received_at for reading in readings))
    return logged


async def accept_at_once(fetch: Fetch, readings: Sequence[Reading], tenant_ids: Sequence[UUID]) -> list[Logged] | None:
    """The same in one statement, durable when it returns; None, and nothing done, if it is more than punches."""
    if any(reading.kept or reading.rejected for reading in readings):
        return None
    return await punches.append(fetch, arrived, tenant_ids) if (arrived := _arrived(readings)) else []


def _arrived(readings: Sequence[Reading]) -> list[tuple[UUID, DeviceSnapshot, PunchView]]:
    return [
        (reading.device.tenant_id, reading.device.device, punch) for reading in readings for punch in reading.punches
    ]


async def _keep(connection: Connection, kept: Sequence[tuple[Reading, Kept]]) -> None:
    if not kept:
        return
    await connection.execute(
        "INSERT INTO kept_uploads (tenant_id, id, device_id, table_name, stamp, body, digest, record_count, "
        "discarded_count, received_at) "
        "SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::bytea[], $7::bytea[], "
        "$8::integer[], $9::integer[], $10::timestamptz[]) AS k (t, i, d, n, s, b, g, c, x, r) "
        "ORDER BY t, d, g ON CONFLICT DO NOTHING",
        [reading.device.tenant_id for reading, _ in kept],
        [ids.new() for _ in kept],
        [reading.device.device.id for reading, _ in kept],
        [item.table for _, item in kept],
        [item.stamp for _, item in kept],
        [item.body for _, item in kept],
        [_digest(item.table, item.body, item.count) for _, item in kept],
        [item.count for _, item in kept],
        [item.discarded for _, item in kept],
        [reading.received_at for reading, _ in kept],
    )


async def _reject(connection: Connection, lines: Sequence[tuple[Reading, Rejected]]) -> None:
    if not lines:
        return
    await connection.execute(
        "INSERT INTO rejected_records (tenant_id, id, device_id, table_name, reason, raw, digest, received_at) "
        "SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::bytea[], $7::bytea[], "
        "$8::timestamptz[]) AS r (t, i, d, n, w, b, g, a) ORDER BY t, d, g ON CONFLICT DO NOTHING",
        [reading.device.tenant_id for reading, _ in lines],
        [ids.new() for _ in lines],
        [reading.device.device.id for reading, _ in lines],
        [line.table for _, line in lines],
        [line.reason for _, line in lines],
        [line.raw for _, line in lines],
        [_digest(line.table, line.raw, 0) for _, line in lines],
        [reading.received_at for reading, _ in lines],
    )


def _digest(table: str, body: bytes, count: int) -> bytes:
    """Tells a resend from news."""
    return hashlib.sha256(f"{table}:{count}:".encode() + body).digest()[:16]


def salvage(reading: Reading, reason: str) -> Reading:
    """The same upload as bytes only, for when its rows are refused: it must not block the queue behind it."""
    rejected = [Rejected("ATTLOG", reason, punch.raw or b"") for punch in reading.punches]
    return Reading(reading.device, reading.received_at, reading.count, [], reading.kept, rejected + reading.rejected)
