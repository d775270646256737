"""Who shall be on which terminal, and whether they are.

A placement is a wish; commands carry it out. Nothing is queued ahead: when a terminal polls and has nothing else to do,
the next wish that is due becomes a command. So a terminal that was away for a week gets what is wanted now, not what
was wanted then. A write that the terminal acknowledged is read back, and only what it shows itself is CONFIRMED: one
person alone is asked for by PIN, many are asked for at once.

Locks are taken in one order: devices, commands, terminal_users, placements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Final
from uuid import UUID

import orjson
from sqlalchemy import CheckConstraint, Column, Index, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from app import paging
from app.database import Connection, Session, driver
from app.domain import commands, devices, terminal_users
from app.domain.commands import Ended, Recipient
from app.domain.devices import Device, DeviceNotActive, DeviceNotFound, DeviceStatus
from app.domain.employees import EmployeePrivilege
from app.domain.tables import build, columns, instant, tenant_key, within_tenant
from app.domain.terminal_users import Seen
from app.errors import InvalidInput
from protocol.adms import commands as wire
from protocol.adms.records import fitting

#: Writings of one person to one terminal, before it is given up.
MOST_TRIES: Final = 3
#: People who are read back one by one; more are read all at once.
FEW: Final = 3
#: Answers that say that there is nobody: what a deletion wanted.
_NOBODY: Final = (-1, -4, -10)
#: Answers after which the same may work.
_PASSING: Final = (-3, -1003, -1005)


class PlacementState(StrEnum):
    """How far a placement has come."""

    WANTED = "WANTED"
    CONFIRMED = "CONFIRMED"
    REMOVING = "REMOVING"
    FAILED = "FAILED"


class Placement(SQLModel, table=True):
    """One person on one terminal, by PIN: a removal outlives the employee."""

    __tablename__: ClassVar[str] = "placements"
    __table_args__ = (
        within_tenant("device_id", "devices"),
        CheckConstraint("state IN ('WANTED', 'CONFIRMED', 'REMOVING', 'FAILED')", name="state"),
        CheckConstraint("due IN ('WRITE', 'READ')", name="due"),
        Index(None, "tenant_id", "pin"),
        Index("ix_placements_due", "tenant_id", "device_id", "due", "pin", postgresql_where=text("due IS NOT NULL")),
    )

    tenant_id: UUID = tenant_key()
    device_id: UUID = Field(primary_key=True)
    pin: str = Field(primary_key=True)
    state: str = PlacementState.WANTED
    #: What comes next: WRITE to the terminal, READ it back; None: nothing.
    due: str | None = "WRITE"
    tries: int = 0
    #: Whether the terminal took what is wanted now.
    acknowledged: bool = False
    #: What it took last.
    written: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB, nullable=True))
    command_id: UUID | None = None
    #: Why it failed.
    reason: str | None = None
    updated_at: datetime = instant()


_ROW: Final = columns(Placement)


async def by_pins(session: Session, tenant_id: UUID, pins: Sequence[str]) -> dict[str, list[Placement]]:
    """The placements of each of these people, in the order of devices."""
    query = select(*_ROW).where(_ROW.tenant_id == tenant_id, paging.among(_ROW.pin, pins)).order_by(_ROW.device_id)
    found: dict[str, list[Placement]] = {}
    for row in await (await session.connection()).execute(query):
        found.setdefault(row.pin, []).append(build(Placement, row))
    return found


# ── what the tenant wants ────────────────────────────────────────────────────────────────────────────

_AFFECTED: Final = """
SELECT d.id, d.status FROM devices d WHERE d.tenant_id = $1 AND d.id IN (
    SELECT unnest($2::uuid[]) UNION SELECT device_id FROM placements WHERE tenant_id = $1 AND pin = ANY ($3::text[])
) ORDER BY d.id FOR NO KEY UPDATE OF d
"""
_OPEN: Final = """
SELECT command_id FROM placements
WHERE tenant_id = $1 AND pin = ANY ($2::text[]) AND command_id IS NOT NULL AND state <> 'REMOVING'
"""
_PLACE: Final = """
INSERT INTO placements AS p (tenant_id, device_id, pin, state, due, tries, acknowledged, updated_at)
SELECT $1, w.device_id, w.pin, 'WANTED', 'WRITE', 0, false, now()
FROM unnest($2::uuid[], $3::text[]) AS w (device_id, pin) ORDER BY w.device_id, w.pin
ON CONFLICT (tenant_id, device_id, pin) DO UPDATE
SET state = 'WANTED', due = 'WRITE', tries = 0, acknowledged = false, reason = NULL, command_id = NULL,
    updated_at = now()
WHERE p.state IN ('REMOVING', 'FAILED')
"""
_REMOVE: Final = """
UPDATE placements p SET state = 'REMOVING', due = 'WRITE', tries = 0, acknowledged = false, reason = NULL,
    command_id = NULL, updated_at = now()
WHERE p.tenant_id = $1 AND p.pin = ANY ($4::text[]) AND p.state <> 'REMOVING' AND NOT EXISTS (
    SELECT 1 FROM unnest($2::uuid[], $3::text[]) AS w (device_id, pin)
    WHERE w.device_id = p.device_id AND w.pin = p.pin
)
"""
_REWRITE: Final = """
UPDATE placements SET state = 'WANTED', due = 'WRITE', tries = 0, acknowledged = false, reason = NULL,
    command_id = NULL, updated_at = now()
WHERE tenant_id = $1 AND pin = ANY ($2::text[]) AND state <> 'REMOVING'
"""


async def want(
    session: Session,
    tenant_id: UUID,
    changed: Sequence[str],
    wanted: Mapping[str, Sequence[UUID]],
    paths: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> None:
    """People whose data changed, and the whole set of devices of those for whom one is named, by PIN.

    Raises DeviceNotFound, and DeviceNotActive for a retired device; `paths` say where a person's devices were named.
    """
    pins = sorted({*changed, *wanted})
    if not pins:
        return
    connection = await driver(session)
    pairs = [(device_id, pin) for pin, device_ids in wanted.items() for device_id in dict.fromkeys(device_ids)]
    named = {device_id for device_id, _ in pairs}
    statuses = dict(map(tuple, await connection.fetch(_AFFECTED, tenant_id, list(named), pins)))
    for device_id, pin in pairs:
        _check(device_id, statuses.get(device_id), paths.get(pin, ("input", "deviceIds")))
    places, people = [device_id for device_id, _ in pairs], [pin for _, pin in pairs]
    # A command with the old data, or the opposite, must not come after the one with the new.
    stale = [row[0] for row in await connection.fetch(_OPEN, tenant_id, sorted(changed))]
    stale += [row[0] for row in await connection.fetch(_TURNED, tenant_id, places, people, list(wanted))]
    await commands.withdraw(connection, tenant_id, stale, ["userUpdate", "userDelete"])
    await connection.execute(_REWRITE, tenant_id, sorted(changed))
    await connection.execute(_PLACE, tenant_id, places, people)
    await connection.execute(_REMOVE, tenant_id, places, people, list(wanted))


_FILL: Final = """
INSERT INTO placements AS p (tenant_id, device_id, pin, state, due, tries, acknowledged, updated_at)
SELECT DISTINCT $1::uuid, $2::uuid, o.pin, 'WANTED', 'WRITE', 0, false, now()
FROM placements o JOIN devices d ON d.tenant_id = o.tenant_id AND d.id = o.device_id
WHERE o.tenant_id = $1 AND o.device_id <> $2 AND d.site_id = $3 AND d.status <> 'RETIRED'
  AND o.state IN ('WANTED', 'CONFIRMED')
ORDER BY o.pin
ON CONFLICT (tenant_id, device_id, pin) DO NOTHING
"""


async def fill(session: Session, tenant_id: UUID, device_id: UUID) -> Device:
    """Place on a device whoever is on another one of its site; who is placed there already stays as they are.

    Raises DeviceNotFound, DeviceNotActive for a retired device, InvalidInput for one without a site.
    """
    device = await devices.get(session, tenant_id, device_id)
    if device.status == DeviceStatus.RETIRED:
        raise DeviceNotActive("A retired device holds nobody.", path=("input", "id"))
    if device.site_id is None:
        raise InvalidInput("This device hangs at no site, so there is nobody to take over.", path=("input", "id"))
    await (await driver(session)).execute(_FILL, tenant_id, device_id, device.site_id)
    return device


#: Commands of placements that are about to turn into their opposite.
_TURNED: Final = """
SELECT p.command_id FROM placements p
LEFT JOIN unnest($2::uuid[], $3::text[]) AS w (device_id, pin) ON w.device_id = p.device_id AND w.pin = p.pin
WHERE p.tenant_id = $1 AND p.pin = ANY ($4::text[]) AND p.command_id IS NOT NULL
  AND (p.state = 'REMOVING') = (w.pin IS NOT NULL)
"""


def _check(device_id: UUID, status: str | None, path: tuple[str, ...]) -> None:
    if status is None:
        missing = DeviceNotFound(device_id)
        missing.path = path
        raise missing
    if status == DeviceStatus.RETIRED:
        raise DeviceNotActive("A retired device holds nobody.", path=path)


async def drop(session: Session, tenant_id: UUID, device_id: UUID) -> None:
    """Forget all placements on a device that is out of service."""
    connection = await driver(session)
    await connection.execute("DELETE FROM placements WHERE tenant_id = $1 AND device_id = $2", tenant_id, device_id)


# ── what the terminal is told ────────────────────────────────────────────────────────────────────────

_IDLE: Final = """
p.tenant_id = $1 AND p.device_id = $2 AND NOT EXISTS (
    SELECT 1 FROM device_commands c
    WHERE c.tenant_id = p.tenant_id AND c.id = p.command_id AND c.status IN ('QUEUED', 'SENT')
)
"""
#: Whether something is due for (tenant, device).
DUE: Final = f"EXISTS (SELECT 1 FROM placements p WHERE p.due IS NOT NULL AND {_IDLE})"  # noqa: S608
_TO_WRITE: Final = f"""
SELECT p.pin, p.state, p.tries, p.written, e.name, e.card_number, e.privilege
FROM placements p LEFT JOIN employees e ON e.tenant_id = p.tenant_id AND e.pin = p.pin
WHERE p.due = 'WRITE' AND {_IDLE} ORDER BY p.pin LIMIT 1
"""  # noqa: S608
_TO_READ: Final = f"SELECT p.pin FROM placements p WHERE p.due = 'READ' AND {_IDLE} ORDER BY p.pin"  # noqa: S608


async def plan(connection: Connection, recipient: Recipient) -> None:
    """Make a command of what is due for this terminal, if anything is. Purpose "ingest"."""
    tenant_id, device_id = recipient.tenant_id, recipient.device_id
    if not await connection.fetchval(f"SELECT {DUE}", tenant_id, device_id):
        return
    await commands.lock(connection, tenant_id, device_id)
    while (row := await connection.fetchrow(_TO_WRITE, tenant_id, device_id)) is not None:
        pin, state, tries, written, name, card, privilege = row
        # As it can be shown there: what is read back is compared with it.
        name = fitting(name, recipient.charset) if name else name
        if tries >= MOST_TRIES:
            await _fail(connection, recipient, [pin], "The terminal did not answer, or did not keep it.")
            continue
        if state == PlacementState.REMOVING:
            command_id = await commands.add(connection, recipient, "userDelete", {"pin": pin})
        else:
            before = orjson.loads(written) if written else {}
            data = _data(pin, name, card, privilege, before)
            command_id = await commands.add(connection, recipient, "userUpdate", data)
        await connection.execute(
            "UPDATE placements SET command_id = $4, tries = tries + 1 "
            "WHERE tenant_id = $1 AND device_id = $2 AND pin = $3",
            tenant_id,
            device_id,
            pin,
            command_id,
        )
        return
    pins = [row[0] for row in await connection.fetch(_TO_READ, tenant_id, device_id)]
    if pins:
        asked = pins if len(pins) > FEW else pins[:1]
        command_id = await commands.add(connection, recipient, "userQuery", {} if len(asked) > 1 else {"pin": asked[0]})
        await connection.execute(
            "UPDATE placements SET command_id = $4 WHERE tenant_id = $1 AND device_id = $2 AND pin = ANY ($3::text[])",
            tenant_id,
            device_id,
            asked,
            command_id,
        )


def _data(
    pin: str, name: str | None, card: str | None, privilege: str | None, before: Mapping[str, Any]
) -> dict[str, Any]:
    """What to write of a person. What we wrote before and is gone is cleared; what we never wrote is left alone."""
    data: dict[str, Any] = {
        "pin": pin,
        "privilege": wire.ADMINISTRATOR if privilege == EmployeePrivilege.ADMIN else wire.USER,
    }
    for key, value in (("name", name), ("card", card)):
        if value or before.get(key):
            data[key] = value or ""
    return data


# ── what the terminal says ───────────────────────────────────────────────────────────────────────────


async def follow(connection: Connection, recipient: Recipient, ended: Sequence[Ended]) -> None:
    """Go on after these commands of the terminal's. Purpose "ingest", in the transaction that settled them."""
    for command in ended:
        match command.kind:
            case "userUpdate" | "userDelete":
                await _written(connection, recipient, command)
            case "userQuery":
                await _read(connection, recipient, command)


_TAKEN: Final = """
UPDATE placements SET due = 'READ', acknowledged = true, written = $4
WHERE tenant_id = $1 AND device_id = $2 AND command_id = $3 AND due = 'WRITE'
"""


async def _written(connection: Connection, recipient: Recipient, command: Ended) -> None:
    gone = command.kind == "userDelete" and command.return_code in _NOBODY
    if command.succeeded or gone:
        written = None if command.kind == "userDelete" else orjson.dumps(command.arguments).decode()
        await connection.execute(_TAKEN, recipient.tenant_id, recipient.device_id, command.id, written)
    elif command.return_code not in _PASSING:
        rows = await connection.fetch(
            "SELECT pin FROM placements WHERE tenant_id = $1 AND device_id = $2 AND command_id = $3 AND due = 'WRITE'",
            recipient.tenant_id,
            recipient.device_id,
            command.id,
        )
        await _fail(connection, recipient, [row[0] for row in rows], _why(command))


_ASKED: Final = """
SELECT p.pin, p.state, p.tries, p.written, u.name, u.card, u.privilege, u.seen_at >= $4 AS there
FROM placements p
LEFT JOIN terminal_users u ON u.tenant_id = p.tenant_id AND u.device_id = p.device_id AND u.pin = p.pin
WHERE p.tenant_id = $1 AND p.device_id = $2 AND p.command_id = $3 AND p.due = 'READ'
ORDER BY p.pin FOR UPDATE OF p
"""
_AGAIN: Final = """
UPDATE placements SET due = 'WRITE', acknowledged = false, updated_at = now(),
    state = CASE state WHEN 'CONFIRMED' THEN 'WANTED' ELSE state END
WHERE tenant_id = $1 AND device_id = $2 AND pin = ANY ($3::text[])
"""
_CONFIRM: Final = """
UPDATE placements SET state = 'CONFIRMED', due = NULL, tries = 0, reason = NULL, updated_at = now()
WHERE tenant_id = $1 AND device_id = $2 AND pin = ANY ($3::text[])
"""


async def _read(connection: Connection, recipient: Recipient, command: Ended) -> None:
    tenant_id, device_id = recipient.tenant_id, recipient.device_id
    pin = command.arguments.get("pin")
    if not command.succeeded and command.return_code not in _NOBODY:
        if command.return_code not in _PASSING:
            rows = await connection.fetch(_ASKED, tenant_id, device_id, command.id, command.sent_at)
            why = f"The terminal took it, and cannot be asked whether it kept it: {_why(command)}"
            await _fail(connection, recipient, [row[0] for row in rows], why)
        return
    await terminal_users.forget(connection, tenant_id, device_id, pin, command.sent_at)
    confirmed: list[str] = []
    again: list[str] = []
    gone: list[str] = []
    for row in await connection.fetch(_ASKED, tenant_id, device_id, command.id, command.sent_at):
        if row["state"] == PlacementState.REMOVING:
            (again if row["there"] else gone).append(row["pin"])
        elif row["there"] and _matches(row["written"], row["name"], row["card"], row["privilege"]):
            confirmed.append(row["pin"])
        else:
            again.append(row["pin"])
    await connection.execute(_CONFIRM, tenant_id, device_id, confirmed)
    await connection.execute(_AGAIN, tenant_id, device_id, again)
    await connection.execute(
        "DELETE FROM placements WHERE tenant_id = $1 AND device_id = $2 AND pin = ANY ($3::text[])",
        tenant_id,
        device_id,
        gone,
    )


def _matches(written: str | None, name: str | None, card: str | None, privilege: str | None) -> bool:
    """Whether the terminal shows what it took. An empty field in its line says nothing; long names are cut short."""
    if written is None:
        return False
    wanted = orjson.loads(written)
    if privilege is not None and privilege.isdigit() and (int(privilege) > 0) != (wanted["privilege"] > 0):
        return False
    if name and wanted.get("name") and not wanted["name"].startswith(name):
        return False
    # A card may come back in hexadecimal, which is another spelling of it; that it is there has to do.
    return not (wanted.get("card") and not card) and not (wanted.get("card") == "" and card not in (None, "0"))


_SIGHTED: Final = """
SELECT p.tenant_id, p.device_id, p.pin, p.written FROM placements p
JOIN unnest($1::uuid[], $2::uuid[], $3::text[]) AS s (tenant_id, device_id, pin)
  ON s.tenant_id = p.tenant_id AND s.device_id = p.device_id AND s.pin = p.pin
WHERE p.acknowledged AND p.due = 'READ' AND p.state = 'WANTED' ORDER BY 1, 2, 3 FOR UPDATE OF p
"""


async def sighted(connection: Connection, seen: Sequence[Seen]) -> None:
    """Confirm whom the terminal shows by itself, or before its answer ends. Purpose "ingest"."""
    rows = await connection.fetch(
        _SIGHTED,
        [tenant_id for tenant_id, _, _ in seen],
        [device_id for _, device_id, _ in seen],
        [user.pin for _, _, user in seen],
    )
    last = {(tenant_id, device_id, user.pin): user for tenant_id, device_id, user in seen}
    confirmed: dict[tuple[UUID, UUID], list[str]] = {}
    for tenant_id, device_id, pin, written in rows:
        user = last[tenant_id, device_id, pin]
        if _matches(written, user.name, user.card, user.privilege):
            confirmed.setdefault((tenant_id, device_id), []).append(pin)
    for (tenant_id, device_id), pins in confirmed.items():
        await connection.execute(_CONFIRM, tenant_id, device_id, pins)


_RECOUNT: Final = """
UPDATE placements SET due = 'READ', command_id = NULL
WHERE tenant_id = $1 AND device_id = $2 AND state = 'CONFIRMED' AND due IS NULL
  AND (SELECT count(*) FROM placements WHERE tenant_id = $1 AND device_id = $2 AND state = 'CONFIRMED') > $3
"""


async def compare(connection: Connection, recipient: Recipient, users: int) -> None:
    """The terminal says how many users it has: fewer than are confirmed, and all of them are read back.

    So whoever was lost in a factory reset is found missing, and written again. Purpose "ingest".
    """
    await connection.execute(_RECOUNT, recipient.tenant_id, recipient.device_id, users)


async def _fail(connection: Connection, recipient: Recipient, pins: Sequence[str], reason: str) -> None:
    await connection.execute(
        "UPDATE placements SET state = 'FAILED', due = NULL, reason = $4, updated_at = now() "
        "WHERE tenant_id = $1 AND device_id = $2 AND pin = ANY ($3::text[])",
        recipient.tenant_id,
        recipient.device_id,
        list(pins),
        reason,
    )


def _why(command: Ended) -> str:
    return f"{command.return_code}, {command.output}" if command.output else str(command.return_code)
