"""Who is on a terminal, as the terminal says: the last user line of each. Nothing here is what we want there.

A line comes when somebody is changed at the terminal, and when we ask. One that is not asked for proves that somebody
is there; that somebody is gone is proven only by an answer that leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final
from uuid import UUID

from sqlmodel import Field, SQLModel

from app.database import Connection, Session, driver
from app.domain.tables import instant, tenant_key, within_tenant
from protocol.adms.records import UserInfo

#: Users of one terminal that are kept, at most: twice what the largest holds.
MOST_USERS: Final = 100_000
#: PINs that are listed for one device, at most.
MOST_LISTED: Final = 1000
_LONGEST: Final = 200


class TerminalUser(SQLModel, table=True):
    """One user of one terminal, in its words."""

    __tablename__: ClassVar[str] = "terminal_users"
    __table_args__ = (within_tenant("device_id", "devices"),)

    tenant_id: UUID = tenant_key()
    device_id: UUID = Field(primary_key=True)
    pin: str = Field(primary_key=True)
    name: str | None = None
    card: str | None = None
    privilege: str | None = None
    seen_at: datetime = instant()


@dataclass(frozen=True, slots=True)
class Sighting:
    """A user line, as far as it concerns us. None: the line did not say, or said nothing."""

    pin: str
    name: str | None = None
    card: str | None = None
    privilege: str | None = None


def sighting(line: UserInfo) -> Sighting | None:
    """What a user line says; None without a usable PIN."""
    pin = line.pin
    if not pin or len(pin) > 24 or not pin.isprintable():
        return None
    said = {key.lower(): value.strip() for key, value in line.fields.items()}
    # The security dialect has longer words for the same.
    name, card, privilege = (
        next((said[key] for key in keys if said.get(key)), None)
        for keys in (("name",), ("card", "cardno"), ("pri", "privilege"))
    )
    return Sighting(pin, *(text and _clean(text) for text in (name, card, privilege)))


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)[:_LONGEST]


Seen = tuple[UUID, UUID, Sighting]

_SEE: Final = """
INSERT INTO terminal_users AS u (tenant_id, device_id, pin, name, card, privilege, seen_at)
SELECT DISTINCT ON (s.tenant_id, s.device_id, s.pin)
       s.tenant_id, s.device_id, s.pin, s.name, s.card, s.privilege, now()
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[]) WITH ORDINALITY
    AS s (tenant_id, device_id, pin, name, card, privilege, place)
WHERE (SELECT count(*) FROM terminal_users k WHERE k.tenant_id = s.tenant_id AND k.device_id = s.device_id) < $7
ORDER BY s.tenant_id, s.device_id, s.pin, s.place DESC
ON CONFLICT (tenant_id, device_id, pin) DO UPDATE
SET name = excluded.name, card = excluded.card, privilege = excluded.privilege, seen_at = excluded.seen_at
"""


async def see(connection: Connection, seen: Sequence[Seen]) -> None:
    """Write down who was seen, by (tenant, device). Purpose "ingest"."""
    await connection.execute(
        _SEE,
        [tenant_id for tenant_id, _, _ in seen],
        [device_id for _, device_id, _ in seen],
        [user.pin for _, _, user in seen],
        [user.name for _, _, user in seen],
        [user.card for _, _, user in seen],
        [user.privilege for _, _, user in seen],
        MOST_USERS,
    )


async def forget(
    connection: Connection, tenant_id: UUID, device_id: UUID, pin: str | None, unseen_since: datetime
) -> None:
    """Strike out one user, or everybody, who was not seen since. Purpose "ingest"."""
    await connection.execute(
        "DELETE FROM terminal_users u USING (SELECT pin FROM terminal_users WHERE tenant_id = $1 AND device_id = $2 "
        "AND ($3::text IS NULL OR pin = $3) AND seen_at < $4 ORDER BY pin FOR UPDATE) AS gone "
        "WHERE u.tenant_id = $1 AND u.device_id = $2 AND u.pin = gone.pin",
        tenant_id,
        device_id,
        pin,
        unseen_since,
    )


_UNKNOWN: Final = """
SELECT d.id, ARRAY(
    SELECT u.pin FROM terminal_users u WHERE u.tenant_id = $1 AND u.device_id = d.id AND NOT EXISTS (
        SELECT 1 FROM employees e WHERE e.tenant_id = u.tenant_id AND e.pin = u.pin
    ) ORDER BY u.pin LIMIT $3
) FROM unnest($2::uuid[]) AS d (id)
"""


async def unknown_pins(session: Session, tenant_id: UUID, device_ids: Sequence[UUID]) -> dict[UUID, list[str]]:
    """PINs that are on each device and belong to nobody here; the first MOST_LISTED of them, in order."""
    rows: Sequence[Any] = await (await driver(session)).fetch(_UNKNOWN, tenant_id, list(device_ids), MOST_LISTED)
    return {row[0]: list(row[1]) for row in rows}
