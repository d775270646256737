"""The log of what happened in a tenant, numbered densely in commit order. Feeds, webhooks and replays all read this.

A position is given out under the last lock of a transaction, so positions are in the order of commits: a reader
that has seen N has seen everything before it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, ClassVar, Final
from uuid import UUID

import orjson
from sqlalchemy import BigInteger, Column, Index, text
from sqlmodel import Field, SQLModel

from app import ids
from app.database import Connection
from app.domain.tables import instant, tenant_key
from app.errors import AppError
from app.paging import CursorInvalid as CursorInvalid  # noqa: PLC0414  feeds and lists refuse alike

_CURSOR_VERSION: Final = b"\x01"
_CURSOR_MAC_BYTES: Final = 12
#: Above this a message on the bus names positions only.
MESSAGE_BOUND: Final = 64 * 1024


class EventType(StrEnum):
    """What can happen."""

    PUNCH_CREATED = "punch.created"
    PUNCH_MATCHED = "punch.matched"
    DEVICE_ONLINE = "device.online"
    DEVICE_OFFLINE = "device.offline"
    DEVICE_BOUND = "device.bound"
    EMPLOYEE_ENROLLED = "employee.enrolled"
    COMMAND_COMPLETED = "command.completed"
    WEBHOOK_TEST = "webhook.test"
    WEBHOOK_ENDPOINT_DISABLED = "webhook.endpoint_disabled"


class CursorExpired(AppError):
    """Older than what is kept."""

    code, status = "cursor_expired", 410

    def __init__(self, oldest: str) -> None:
        super().__init__("What followed this cursor is no longer kept. Go on from oldestCursor.", oldestCursor=oldest)


class FeedHead(SQLModel, table=True):
    """The tenant's last position. Its row is the last lock that a writing transaction takes."""

    __tablename__: ClassVar[str] = "feed_heads"
    __table_args__ = ({"postgresql_with": {"fillfactor": "50"}},)

    tenant_id: UUID = tenant_key()
    position: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, server_default="0"))


class Event(SQLModel, table=True):
    """One thing that happened. `body` is the webhook body but for its cursor, which `webhook_body` adds."""

    __tablename__: ClassVar[str] = "events"
    __table_args__ = (
        Index(
            "ix_events_presence",
            "tenant_id",
            text("((body::jsonb #>> '{data,id}'))"),
            "position",
            postgresql_where=text("type IN ('device.bound', 'device.online', 'device.offline')"),
        ),
    )

    tenant_id: UUID = tenant_key(reference=False)
    position: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    id: UUID = Field(default_factory=ids.new)
    type: str
    body: str
    created_at: datetime = instant()


@dataclass(frozen=True, slots=True)
class Happening:
    """Something to announce: not numbered yet. `data` is the webhook body's `data`, in JSON's types.

    Where `pin` is given, `EMPLOYEE` in the data stands for whoever has it once the event has its position.
    """

    tenant_id: UUID
    type: EventType
    data: Mapping[str, Any]
    id: UUID
    at: datetime
    pin: str | None = None


#: In an event's data: the employee, whom the database puts there. JSON escapes this byte anywhere else.
EMPLOYEE: Final[Any] = orjson.Fragment(b"\x01")


@dataclass(frozen=True, slots=True)
class Logged:
    """An event with its place in the tenant's log. `body` is the webhook body as JSON bytes, without its cursor."""

    tenant_id: UUID
    position: int
    id: UUID
    type: str
    body: bytes

    def data(self) -> dict[str, Any]:
        """The `data` of the body."""
        data: dict[str, Any] = orjson.loads(self.body)["data"]
        return data


class Cursors:
    """Feed cursors: a position with a MAC over tenant and position, the same on every transport."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def write(self, tenant_id: UUID, position: int) -> str:
        """The cursor of everything up to and including `position`."""
        place = _CURSOR_VERSION + position.to_bytes(8, "big")
        return base64.urlsafe_b64encode(place + self._mac(tenant_id, place)).decode().rstrip("=")

    def read(self, tenant_id: UUID, cursor: str) -> int:
        """The position in `cursor`; CursorInvalid unless we made it for this tenant."""
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise CursorInvalid from None
        place, mac = raw[:9], raw[9:]
        # Only the spelling that we write: base 64 leaves bits that say nothing.
        if base64.urlsafe_b64encode(raw).decode().rstrip("=") != cursor:
            raise CursorInvalid
        if place[:1] != _CURSOR_VERSION or not hmac.compare_digest(mac, self._mac(tenant_id, place)):
            raise CursorInvalid
        return int.from_bytes(place[1:], "big")

    def _mac(self, tenant_id: UUID, place: bytes) -> bytes:
        return hmac.digest(self._key, b"feed" + tenant_id.bytes + place, hashlib.sha256)[:_CURSOR_MAC_BYTES]


@lru_cache(maxsize=1024)  # one moment is written several times for each record of an upload
def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, ending in Z."""
    at = at if at.tzinfo is UTC else at.astimezone(UTC)
    return at.isoformat(timespec="milliseconds")[:-6] + "Z"


def write_body(event: Happening) -> bytes:
    """What is stored of an event: the webhook body without its cursor, as its position is not known yet."""
    return orjson.dumps(
        {
            "id": ids.show("evt", event.id),
            "type": event.type,
            "timestamp": timestamp(event.at),
            "tenant_id": _tenant(event.tenant_id),
            "data": event.data,
        }
    )


def webhook_body(stored: bytes, cursor: str) -> bytes:
    """What is sent: the same bytes at every attempt, as long as the key that signs cursors is the same."""
    head, data, rest = stored.partition(b',"data":')
    return head + b',"feed_cursor":"' + cursor.encode() + b'"' + data + rest


@lru_cache(maxsize=1024)
def _tenant(tenant_id: UUID) -> str:
    return ids.show("ten", tenant_id)


async def after(connection: Connection, tenant_id: UUID, position: int, limit: int) -> list[Logged]:
    """Up to `limit` events that follow `position`, in order. Needs a transaction that may see the tenant."""
    rows = await connection.fetch(
        "SELECT position, id, type, body FROM events WHERE tenant_id = $1 AND position > $2 ORDER BY position LIMIT $3",
        tenant_id,
        position,
        limit,
    )
    return [Logged(tenant_id, row[0], row[1], row[2], row[3].encode()) for row in rows]


async def bodies(connection: Connection, tenant_id: UUID, positions: Sequence[int]) -> dict[int, bytes]:
    """What is stored at these positions."""
    rows = await connection.fetch(
        "SELECT position, body FROM events WHERE tenant_id = $1 AND position = ANY ($2::bigint[])",
        tenant_id,
        list(positions),
    )
    return {row[0]: row[1].encode() for row in rows}


async def heads(connection: Connection, tenant_ids: Sequence[UUID]) -> dict[UUID, int]:
    """The last position of each tenant: one statement, however many."""
    rows = await connection.fetch(
        "SELECT tenant_id, position FROM feed_heads WHERE tenant_id = ANY ($1::uuid[])", list(tenant_ids)
    )
    return dict(map(tuple, rows))


async def oldest(connection: Connection, tenant_id: UUID) -> int | None:
    """The first position that is still kept; None when the log is empty."""
    position: int | None = await connection.fetchval("SELECT min(position) FROM events WHERE tenant_id = $1", tenant_id)
    return position


def channel(tenant_id: UUID) -> str:
    """Where a tenant's batches are published."""
    return f"feed:{ids.show('ten', tenant_id)}"


def write_message(key: bytes, batch: Sequence[Logged]) -> bytes:
    """One tenant's committed batch for the bus: positions, the events unless they are too many bytes, and a MAC."""
    first, last = batch[0], batch[-1]
    head = {"tenant": ids.show("ten", first.tenant_id), "first": first.position, "last": last.position}
    if sum(len(event.body) for event in batch) <= MESSAGE_BOUND:
        head["events"] = [{"position": event.position, "body": orjson.Fragment(event.body)} for event in batch]
    text = orjson.dumps(head)
    return text[:-1] + b',"mac":"' + _message_mac(key, text).encode() + b'"}'


@dataclass(frozen=True, slots=True)
class Message:
    """What a listener heard and may believe. Without events the log has to be read."""

    tenant_id: UUID
    first: int
    last: int
    events: tuple[Logged, ...]


def read_message(key: bytes, tenant_id: UUID, message: bytes, *, known: int = 0) -> Message | None:
    """The message, or None when it is not one of ours for this tenant: nothing from the bus is trusted unproved.

    Of one that ends at `known` or before, the events are left out.
    """
    text, sign, mac = message.rpartition(b',"mac":"')
    if not sign or not hmac.compare_digest(mac, _message_mac(key, text + b"}").encode() + b'"}'):
        return None
    head = orjson.loads(text + b"}")
    if head["tenant"] != ids.show("ten", tenant_id):
        return None
    news = head["last"] > known
    events = tuple(_from_bus(tenant_id, item) for item in head.get("events", ())) if news else ()
    return Message(tenant_id, head["first"], head["last"], events)


def _from_bus(tenant_id: UUID, item: dict[str, Any]) -> Logged:
    body = item["body"]
    return Logged(tenant_id, item["position"], ids.read("evt", body["id"]), body["type"], orjson.dumps(body))


def _message_mac(key: bytes, text: bytes) -> str:
    return hmac.digest(key, text, hashlib.sha256).hex()


def by_tenant(batch: Iterable[Logged]) -> dict[UUID, list[Logged]]:
    """The events of each tenant, in order."""
    tenants: dict[UUID, list[Logged]] = {}
    for event in batch:
        tenants.setdefault(event.tenant_id, []).append(event)
    return tenants
