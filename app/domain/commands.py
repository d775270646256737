"""A device's command queue: enqueue, hand out one per poll, settle by what the terminal reports, expire.

A command that was handed out is leased: without a report it is handed out again after a while, or as soon as the
terminal shakes hands anew, under the same number. Some kinds are not, since twice is not once: a door that opened, a
finger that was asked for, all that a unit holds, and a restart, which a new handshake proves. The rows of one device
change under the lock of its own row, so that twins never hand out the same one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
from sqlalchemy import BigInteger, CheckConstraint, Column, ColumnElement, Index, Select, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from app import ids, paging
from app.database import Connection, Session, driver
from app.domain import devices, outbox
from app.domain.devices import DeviceDialect, DeviceNotActive, DeviceNotFound, DeviceStatus
from app.domain.events import EventType, Happening, Logged, timestamp
from app.domain.payloads import CommandData
from app.domain.tables import build, columns, instant, now, tenant_key, within_tenant
from app.errors import AppError, InvalidInput
from protocol.adms import codes
from protocol.adms import commands as wire
from protocol.adms.errors import AdmsError, CommandNotSupported

#: Commands that may wait for one device, at most.
MOST_OPEN: Final = 200
#: What terminals' clocks can show. One whose battery is dead shows the first, one that was set wrong may show any.
YEARS: Final = range(2000, 2100)
#: Of what a terminal says beside its result, in characters.
LONGEST_OUTPUT: Final = 8192


class CommandStatus(StrEnum):
    """QUEUED and SENT are open: the others are the end."""

    QUEUED = "QUEUED"
    SENT = "SENT"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"


class CommandNotFound(AppError):
    """No command with this id belongs to the tenant."""

    code, status = "command_not_found", 404

    def __init__(self, command_id: UUID) -> None:
        super().__init__(f"No command {ids.show('cmd', command_id)}.", path=("input", "id"))


class CommandUnsupported(AppError):
    """The terminal's dialect has no such command."""

    code, status = "command_not_supported", 409


class CommandQueueFull(AppError):
    """Too much waits for this device already."""

    code, status = "command_queue_full", 409

    def __init__(self) -> None:
        super().__init__(
            f"{MOST_OPEN} commands wait for this device. Cancel some, or wait until it has polled for them.",
            path=("input", "deviceId"),
        )


Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """What there is to know of a kind of command."""

    #: The command, from its arguments and what the terminal's wall should show now.
    make: Callable[[Arguments, datetime], wire.Command]
    #: How long it may wait.
    lifetime: timedelta
    #: How long the terminal has for its report.
    lease: timedelta = timedelta(minutes=1)
    #: Whether it may be handed out again when nobody knows if it was carried out.
    again: bool = True
    #: Whether its end is an event. What places people is not: its outcome is the placement's.
    announced: bool = True


def _period(arguments: Arguments) -> tuple[datetime, datetime]:
    return datetime.fromisoformat(arguments["from"]), datetime.fromisoformat(arguments["to"])


_DAY: Final = timedelta(days=1)
#: Named as in DeviceCommandInput where they are in it.
KINDS: Final[Mapping[str, Kind]] = {
    "reboot": Kind(lambda _, __: wire.Reboot(), timedelta(hours=1), again=False),
    "refreshInfo": Kind(lambda _, __: wire.RefreshInfo(), _DAY),
    "uploadNow": Kind(lambda _, __: wire.UploadNow(), _DAY),
    "syncTime": Kind(lambda _, wall: wire.SyncTime(wall), _DAY),
    "unlockDoor": Kind(
        lambda given, _: wire.UnlockDoor(given["door"], given["seconds"]), timedelta(minutes=1), again=False
    ),
    "enrollFingerprint": Kind(
        lambda given, _: wire.EnrollFingerprint(given["pin"], given["finger"], given["overwrite"]),
        timedelta(minutes=10),
        lease=timedelta(minutes=5),
        again=False,
    ),
    # By reconciliations only, as some of the backfills.
    "reportTotals": Kind(lambda _, __: wire.RefreshInfo(), timedelta(hours=1), announced=False),
    "countPunches": Kind(
        lambda given, _: wire.CountPunches(*_period(given)),
        timedelta(hours=1),
        lease=timedelta(minutes=5),
        announced=False,
    ),
    # By reconciliations only: all that a unit holds may come twice, but not over and over.
    "resendAfter": Kind(
        lambda given, _: wire.ResendAfter(given["number"]), timedelta(hours=1), again=False, announced=False
    ),
    "backfill": Kind(lambda given, _: wire.Backfill(*_period(given)), 7 * _DAY, lease=timedelta(minutes=10)),
    # By itself only: to be told its time zone or its place anew. The handshake that follows proves it.
    "check": Kind(lambda _, __: wire.Check(), timedelta(hours=1), again=False, announced=False),
    # By placements only.
    "userUpdate": Kind(lambda given, _: wire.WriteUser(**given), 7 * _DAY, announced=False),
    "userDelete": Kind(lambda given, _: wire.DeleteUser(**given), 7 * _DAY, announced=False),
    "userQuery": Kind(
        lambda given, _: wire.QueryUsers(**given), 7 * _DAY, lease=timedelta(minutes=10), announced=False
    ),
}
_ANNOUNCED: Final = frozenset(name for name, kind in KINDS.items() if kind.announced)


class DeviceCommand(SQLModel, table=True):
    """One thing that a terminal shall do."""

    __tablename__: ClassVar[str] = "device_commands"
    __table_args__ = (
        within_tenant("device_id", "devices"),
        CheckConstraint("status IN ('QUEUED', 'SENT', 'SUCCEEDED', 'FAILED', 'EXPIRED', 'CANCELLED')", name="status"),
        Index(None, "tenant_id", "device_id", "id"),
        Index("uq_device_commands_number", "tenant_id", "device_id", "number", unique=True),
        Index(
            "ix_device_commands_open",
            "tenant_id",
            "device_id",
            "id",
            postgresql_where=text("status IN ('QUEUED', 'SENT')"),
        ),
        Index("ix_device_commands_expires", "expires_at", postgresql_where=text("status IN ('QUEUED', 'SENT')")),
        Index(None, "tenant_id", "moved_at"),
        Index("ix_device_commands_completed", "completed_at", postgresql_where=text("completed_at IS NOT NULL")),
    )

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    device_id: UUID
    kind: str
    arguments: dict[str, Any] = Field(
        default_factory=dict, sa_column=Column(JSONB, nullable=False, server_default="{}")
    )
    status: str = CommandStatus.QUEUED
    #: By which the terminal knows it, from its first handing out on; digits, unique to the device.
    number: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    lease_until: datetime | None = instant(optional=True)
    return_code: int | None = None
    output: str | None = None
    created_at: datetime = instant()
    sent_at: datetime | None = instant(optional=True)
    completed_at: datetime | None = instant(optional=True)
    expires_at: datetime = instant()
    #: When its status last changed.
    moved_at: datetime = instant()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which commands: all conditions hold at once; None is no condition, an empty set matches nothing."""

    device_ids: tuple[UUID, ...] | None = None
    statuses: tuple[CommandStatus, ...] | None = None


_ROW: Final = columns(DeviceCommand)
EVERY: Final = Wanted()
BY_ID: Final = paging.both_ways("ID", _ROW.id)


async def page(session: Session, tenant_id: UUID, asked: paging.Asked[Wanted]) -> paging.Page[DeviceCommand]:
    """One page of the tenant's commands."""
    return (await paging.fetch(session, tenant_id, _query, asked)).map(partial(build, DeviceCommand))


async def page_by_device(
    session: Session, tenant_id: UUID, device_ids: Sequence[UUID], asked: paging.Asked[Wanted]
) -> list[paging.Page[DeviceCommand]]:
    """The same page of the commands of each device."""
    pages = await paging.fetch_each(session, tenant_id, _query, asked, parent=_ROW.device_id, keys=device_ids)
    return [found.map(partial(build, DeviceCommand)) for found in pages]


async def by_ids(session: Session, tenant_id: UUID, command_ids: Sequence[UUID]) -> dict[UUID, DeviceCommand]:
    """Those of them that are the tenant's."""
    query = _query(tenant_id, EVERY).where(paging.among(_ROW.id, command_ids))
    return {row.id: build(DeviceCommand, row) for row in await (await session.connection()).execute(query)}


@dataclass(frozen=True, slots=True)
class Moved:
    """Whose moves are of interest; None: everybody's."""

    device_ids: tuple[UUID, ...] | None = None
    command_ids: tuple[UUID, ...] | None = None


async def clock(session: Session) -> datetime:
    """What the database's clock shows: that of `moved_at`."""
    at: datetime = await (await driver(session)).fetchval("SELECT clock_timestamp()")
    return at


async def moved(session: Session, tenant_id: UUID, since: datetime, wanted: Moved) -> list[DeviceCommand]:
    """Those that moved on since, the earliest first."""
    query = select(*_ROW).where(_ROW.tenant_id == tenant_id, _ROW.moved_at > since).order_by(_ROW.moved_at, _ROW.id)
    if wanted.device_ids is not None:
        query = query.where(paging.among(_ROW.device_id, wanted.device_ids))
    if wanted.command_ids is not None:
        query = query.where(paging.among(_ROW.id, wanted.command_ids))
    return [build(DeviceCommand, row) for row in await (await session.connection()).execute(query)]


def _query(tenant_id: UUID, wanted: Wanted) -> Select[Any]:
    terms: list[ColumnElement[bool]] = [_ROW.tenant_id == tenant_id]
    if wanted.device_ids is not None:
        terms.append(paging.among(_ROW.device_id, wanted.device_ids))
    if wanted.statuses is not None:
        terms.append(paging.among(_ROW.status, wanted.statuses))
    return select(*_ROW).where(*terms)


# ── what the tenant does ─────────────────────────────────────────────────────────────────────────────


async def send(session: Session, tenant_id: UUID, device_id: UUID, kind: str, arguments: Arguments) -> DeviceCommand:
    """Queue a command for an active device.

    Raises DeviceNotFound, DeviceNotActive, InvalidInput, CommandUnsupported, CommandQueueFull.
    """
    try:
        device = await devices.get(session, tenant_id, device_id)
    except DeviceNotFound as exc:
        exc.path = ("input", "deviceId")
        raise
    if device.status != DeviceStatus.ACTIVE:
        raise DeviceNotActive(
            f"This device is {device.status}: only an ACTIVE one takes commands.", path=("input", "deviceId")
        )
    _check(kind, arguments, device.dialect)
    connection = await driver(session)
    waiting = await connection.fetchval(
        "SELECT count(*) FROM device_commands WHERE tenant_id = $1 AND device_id = $2 AND status IN ('QUEUED', 'SENT')",
        tenant_id,
        device_id,
    )
    if waiting >= MOST_OPEN:
        raise CommandQueueFull
    created_at = now()
    command = DeviceCommand(
        tenant_id=tenant_id,
        device_id=device_id,
        kind=kind,
        arguments=dict(arguments),
        created_at=created_at,
        moved_at=created_at,
        expires_at=created_at + KINDS[kind].lifetime,
    )
    session.add(command)
    await session.flush()
    return command


async def backfill(session: Session, tenant_id: UUID, device_id: UUID, start: datetime, end: datetime) -> DeviceCommand:
    """Ask for the punches of a period again, both ends included, by the terminal's clock. Raises what `send` raises."""
    for name, at in (("from", start), ("to", end)):
        if at.year not in YEARS:
            raise InvalidInput(f"A terminal's calendar goes from {YEARS[0]} to {YEARS[-1]}.", path=("input", name))
    if end < start:
        raise InvalidInput("The period ends before it begins.", path=("input", "to"))
    period = {"from": start.isoformat(timespec="seconds"), "to": end.isoformat(timespec="seconds")}
    return await send(session, tenant_id, device_id, "backfill", period)


def _check(kind: str, arguments: Arguments, dialect: str | None) -> None:
    """That the terminal could be told so at all."""
    try:
        wire.write("1", KINDS[kind].make(arguments, now()), security=dialect == DeviceDialect.SECURITY)
    except CommandNotSupported as exc:
        raise CommandUnsupported(f"{exc} This device cannot do {kind}.", path=("input", "command")) from exc
    except AdmsError as exc:
        raise InvalidInput(str(exc), path=("input", "command", kind)) from exc


async def cancel(session: Session, tenant_id: UUID, command_id: UUID) -> tuple[DeviceCommand, list[Logged]]:
    """Do not hand it out, or not again: what the terminal has, it may still do. Cancelling twice changes nothing.

    Ring with the events afterwards. Raises CommandNotFound, and InvalidInput once it is over.
    """
    command = await session.get(DeviceCommand, (tenant_id, command_id), populate_existing=True, with_for_update=True)
    if command is None:
        raise CommandNotFound(command_id)
    if command.status == CommandStatus.CANCELLED:
        return command, []
    if command.status not in (CommandStatus.QUEUED, CommandStatus.SENT):
        raise InvalidInput(f"This command is {command.status}: there is nothing to cancel.", path=("input", "id"))
    logged = await _end(await driver(session), tenant_id, [command_id], CommandStatus.CANCELLED)
    await session.refresh(command)
    return command, logged


async def cancel_all(session: Session, tenant_id: UUID, device_id: UUID) -> list[Logged]:
    """Cancel whatever is open for a device; ring with the events afterwards."""
    connection = await driver(session)
    found = await connection.fetch(
        "SELECT id FROM device_commands WHERE tenant_id = $1 AND device_id = $2 AND status IN ('QUEUED', 'SENT') "
        "ORDER BY id FOR UPDATE",
        tenant_id,
        device_id,
    )
    return await _end(connection, tenant_id, [row[0] for row in found], CommandStatus.CANCELLED)


# ── what the terminal does ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Recipient:
    """The terminal that asks for commands, or reports on them."""

    tenant_id: UUID
    device_id: UUID
    zone: ZoneInfo
    #: Of the text that it takes.
    charset: str = "utf-8"


#: The command that is due next for (tenant, device), but for the kinds in ONCE.
NEXT: Final = """
SELECT c.id, c.kind, c.arguments, c.number FROM device_commands c
WHERE c.tenant_id = $1 AND c.device_id = $2 AND c.status IN ('QUEUED', 'SENT') AND c.expires_at > now()
  AND (c.status = 'QUEUED' OR (c.lease_until <= now() AND c.kind <> ALL ($3::text[])))
ORDER BY c.id LIMIT 1
"""
_NUMBER: Final = "SELECT max(number) + 1 FROM device_commands WHERE tenant_id = $1 AND device_id = $2"
_HAND_OUT: Final = """
UPDATE device_commands
SET status = 'SENT', number = $3, sent_at = now(), moved_at = clock_timestamp(), lease_until = now() + $4, output = NULL
WHERE tenant_id = $1 AND id = $2
"""
ONCE: Final = [name for name, kind in KINDS.items() if not kind.again]


@dataclass(frozen=True, slots=True)
class HandedOut:
    """A line for the terminal, if there is one, and events to ring with after the commit."""

    line: bytes | None = None
    logged: Sequence[Logged] = ()


NOTHING: Final = HandedOut()


async def waits(connection: Connection, recipient: Recipient) -> bool:
    """Whether there is something to hand out. Purpose "ingest"."""
    return await connection.fetchrow(NEXT, recipient.tenant_id, recipient.device_id, ONCE) is not None


async def hand_out(connection: Connection, recipient: Recipient, at: datetime) -> HandedOut:
    """The oldest command that is due, leased from now on. Purpose "ingest".

    What turns out to be unsayable to this terminal fails, and the next one takes its turn.
    """
    tenant_id, device_id = recipient.tenant_id, recipient.device_id
    security = await lock(connection, tenant_id, device_id)
    logged: list[Logged] = []
    while (row := await connection.fetchrow(NEXT, tenant_id, device_id, ONCE)) is not None:
        command_id, name, arguments, number = row
        kind = KINDS[name]
        if number is None:
            number = await connection.fetchval(_NUMBER, tenant_id, device_id) or _first_number()
        wall = at.astimezone(recipient.zone).replace(tzinfo=None)
        try:
            line = wire.write(
                str(number), kind.make(orjson.loads(arguments), wall), security=security, charset=recipient.charset
            )
        except AdmsError as exc:
            logged += await _end(connection, tenant_id, [command_id], CommandStatus.FAILED, output=str(exc))
            continue
        await connection.execute(_HAND_OUT, tenant_id, command_id, number, kind.lease)
        return HandedOut(line, logged)
    return HandedOut(None, logged)


async def lock(connection: Connection, tenant_id: UUID, device_id: UUID) -> bool:
    """Take the device's row, before any of its commands; whether it speaks the security dialect."""
    dialect = await connection.fetchval(
        "SELECT dialect FROM devices WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE", tenant_id, device_id
    )
    return bool(dialect == DeviceDialect.SECURITY)


def _first_number() -> int:
    """Far from what a terminal may still remember of another tenant, or of a server before us; nine digits at most."""
    return random.randrange(10_000, 900_000_000)  # noqa: S311  no secret


_REPORTED: Final = """
SELECT c.id, c.kind, c.status, c.number, c.arguments, c.sent_at FROM device_commands c
WHERE c.tenant_id = $1 AND c.device_id = $2 AND c.number = ANY ($3::bigint[]) ORDER BY c.id FOR UPDATE
"""
_LATE: Final = """
UPDATE device_commands SET return_code = $3, output = coalesce(output, $4)
WHERE tenant_id = $1 AND id = $2 AND return_code IS NULL
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that the terminal has just reported on."""

    id: UUID
    kind: str
    arguments: Arguments
    succeeded: bool
    return_code: int
    output: str | None
    sent_at: datetime
    #: What it said beside its code.
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a report: whether all of it was about commands of ours, which ended, and events to ring with."""

    all_known: bool
    ended: Sequence[Ended] = ()
    logged: Sequence[Logged] = ()


async def settle(connection: Connection, recipient: Recipient, results: Sequence[wire.CommandResult]) -> Settled:
    """Take what a terminal reports, however often it does. Purpose "ingest".

    A result without a readable code is no result: its command stays out until its lease ends. One that comes too late
    is noted on the command and changes nothing else.
    """
    tenant_id, device_id = recipient.tenant_id, recipient.device_id
    by_number = {int(result.id): result for result in results if result.id.isascii() and result.id.isdigit()}
    by_number = {number: result for number, result in by_number.items() if number < 2**63}
    if not by_number:
        return Settled(all_known=False)
    await lock(connection, tenant_id, device_id)
    rows = await connection.fetch(_REPORTED, tenant_id, device_id, list(by_number))
    logged: list[Logged] = []
    over: list[Ended] = []
    for command_id, kind, status, number, arguments, sent_at in rows:
        result = by_number[number]
        if result.return_code is None:
            continue
        code = max(-(2**31), min(result.return_code, 2**31 - 1))
        output = _output(kind, result)
        if status == CommandStatus.SENT:
            succeeded = _succeeded(kind, code)
            end = CommandStatus.SUCCEEDED if succeeded else CommandStatus.FAILED
            logged += await _end(connection, tenant_id, [command_id], end, code=code, output=output)
            told = result.attributes
            over.append(Ended(command_id, kind, orjson.loads(arguments), succeeded, code, output, sent_at, told))
        else:
            await connection.execute(_LATE, tenant_id, command_id, code, output)
    return Settled(len(rows) == len(results), over, logged)


async def remark(connection: Connection, tenant_id: UUID, device_id: UUID, number: str, said: str | None) -> None:
    """Note on a command that is out why nothing came of it so far; it shows should the command expire. Purpose
    "ingest", under the device's lock. A number that is none of ours is no error."""
    if number.isascii() and number.isdigit() and int(number) < 2**63:
        await connection.execute(
            "UPDATE device_commands SET output = $4 "
            "WHERE tenant_id = $1 AND device_id = $2 AND number = $3 AND status = 'SENT'",
            tenant_id,
            device_id,
            int(number),
            said,
        )


def _succeeded(kind: str, code: int) -> bool:
    """Enrolment at the terminal reports its refusals as positive numbers."""
    return code == 0 if kind == "enrollFingerprint" else code >= 0


def _output(kind: str, result: wire.CommandResult) -> str | None:
    """What the terminal said beside its code, or what the code means; never a password."""
    lines = [f"{key}={value}" for key, value in result.attributes.items() if not _secret(key)]
    if lines:
        text = "\n".join(lines)
        return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)[
            :LONGEST_OUTPUT
        ]
    code = result.return_code or 0
    if _succeeded(kind, code):
        return None
    return (codes.ENROLMENT_RESULTS if code > 0 else codes.RESULTS).get(code)


def _secret(key: str) -> bool:
    return any(word in key.lower() for word in ("pass", "pwd", "comkey", "secret"))


_PROVEN: Final = """
SELECT id FROM device_commands
WHERE tenant_id = $1 AND device_id = $2 AND status = 'SENT' AND kind IN ('reboot', 'check') ORDER BY id FOR UPDATE
"""
_FREE: Final = """
UPDATE device_commands SET lease_until = now()
WHERE tenant_id = $1 AND device_id = $2 AND status = 'SENT' AND lease_until > now()
"""


async def greet(connection: Connection, recipient: Recipient) -> list[Logged]:
    """The terminal began anew: what it was told before, it has forgotten. Purpose "ingest".

    A restart that it never reported on is proven by this; everything else is handed out again at once.
    """
    tenant_id, device_id = recipient.tenant_id, recipient.device_id
    if await connection.execute(_FREE, tenant_id, device_id) == "UPDATE 0":
        return []
    proven = [row[0] for row in await connection.fetch(_PROVEN, tenant_id, device_id)]
    said = "No report came; the terminal shook hands again afterwards."
    return await _end(connection, tenant_id, proven, CommandStatus.SUCCEEDED, output=said)


# ── what placements do ───────────────────────────────────────────────────────────────────────────────

_ADD: Final = """
INSERT INTO device_commands (tenant_id, id, device_id, kind, arguments, status, created_at, moved_at, expires_at)
VALUES ($1, $2, $3, $4, $5, 'QUEUED', now(), clock_timestamp(), now() + $6)
"""


async def add(connection: Connection, recipient: Recipient, kind: str, arguments: Arguments) -> UUID:
    """Queue a command of our own, under the device's lock. Purpose "ingest"."""
    command_id = ids.new()
    text = orjson.dumps(arguments).decode()
    await connection.execute(
        _ADD, recipient.tenant_id, command_id, recipient.device_id, kind, text, KINDS[kind].lifetime
    )
    return command_id


async def withdraw(connection: Connection, tenant_id: UUID, command_ids: Sequence[UUID], kinds: Sequence[str]) -> None:
    """Take back those of them that are open and of these kinds, none of which is announced."""
    found = await connection.fetch(
        "SELECT id FROM device_commands WHERE tenant_id = $1 AND id = ANY ($2::uuid[]) AND kind = ANY ($3::text[]) "
        "AND status IN ('QUEUED', 'SENT') ORDER BY id FOR UPDATE",
        tenant_id,
        list(command_ids),
        list(kinds),
    )
    await _end(connection, tenant_id, [row[0] for row in found], CommandStatus.CANCELLED)


# ── what time does ───────────────────────────────────────────────────────────────────────────────────


async def overdue(connection: Connection, limit: int) -> list[UUID]:
    """Tenants with commands whose time is over, some of them. Purpose "operate"."""
    rows = await connection.fetch(
        "SELECT DISTINCT tenant_id FROM (SELECT tenant_id FROM device_commands "
        "WHERE status IN ('QUEUED', 'SENT') AND expires_at <= now() AND (status = 'QUEUED' OR lease_until <= now()) "
        "ORDER BY expires_at LIMIT $1) AS late",
        limit,
    )
    return [row[0] for row in rows]


async def expire(connection: Connection, tenant_id: UUID, limit: int) -> tuple[int, list[Logged]]:
    """End up to `limit` of the tenant's commands whose time is over. Purpose "ingest"."""
    rows = await connection.fetch(
        "SELECT id FROM device_commands WHERE tenant_id = $1 AND status IN ('QUEUED', 'SENT') AND expires_at <= now() "
        "AND (status = 'QUEUED' OR lease_until <= now()) ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED",
        tenant_id,
        limit,
    )
    return len(rows), await _end(connection, tenant_id, [row[0] for row in rows], CommandStatus.EXPIRED)


_FORGET: Final = """
WITH old AS (
    SELECT c.tenant_id, c.id FROM device_commands c
    -- The last one of a device stays: the next number follows from it.
    WHERE c.completed_at < now() - $1::interval AND EXISTS (
        SELECT 1 FROM device_commands l
        WHERE l.tenant_id = c.tenant_id AND l.device_id = c.device_id AND l.number > coalesce(c.number, 0)
    ) ORDER BY c.completed_at LIMIT $2 FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM device_commands c USING old WHERE c.tenant_id = old.tenant_id AND c.id = old.id RETURNING 1
)
SELECT count(*)::integer FROM gone
"""


async def forget(connection: Connection, older: timedelta, limit: int) -> int:
    """Delete up to `limit` commands that ended so long ago; how many. Purpose "operate"."""
    gone: int = await connection.fetchval(_FORGET, older, limit)
    return gone


_END: Final = """
UPDATE device_commands c
SET status = $3, return_code = $4, output = coalesce($5, c.output), completed_at = now(), moved_at = clock_timestamp(),
    lease_until = NULL
FROM devices d
WHERE c.tenant_id = $1 AND c.id = ANY ($2::uuid[]) AND d.tenant_id = c.tenant_id AND d.id = c.device_id
RETURNING c.id, c.kind, c.status, c.return_code, c.output, c.created_at, c.sent_at, c.completed_at,
          d.id, d.serial_number, d.name, d.site_id
"""


async def _end(
    connection: Connection,
    tenant_id: UUID,
    command_ids: Sequence[UUID],
    status: CommandStatus,
    *,
    code: int | None = None,
    output: str | None = None,
) -> list[Logged]:
    """The end of these commands, which are locked and open; command.completed for each."""
    if not command_ids:
        return []
    rows = await connection.fetch(_END, tenant_id, list(command_ids), status.value, code, output)
    happenings = [
        Happening(tenant_id, EventType.COMMAND_COMPLETED, _shown(row), ids.new(), row[7])
        for row in sorted(rows, key=lambda row: str(row[0]))
        if row[1] in _ANNOUNCED
    ]
    return await outbox.announce(connection, happenings)


def _shown(row: Sequence[Any]) -> CommandData:
    """A command in the body of an event."""
    command_id, kind, status, code, output, created_at, sent_at, completed_at, device_id, serial, name, site_id = row
    return {
        "id": ids.show("cmd", command_id),
        "kind": kind,
        "status": status,
        "return_code": code,
        "output": output,
        "device": {
            "id": ids.show("dev", device_id),
            "serial_number": serial,
            "name": name,
            "site_id": ids.show("sit", site_id) if site_id else None,
        },
        "created_at": timestamp(created_at),
        "sent_at": timestamp(sent_at) if sent_at else None,
        "completed_at": timestamp(completed_at),
    }
