"""A mutation's outcome, kept beside its effects for a day. Same key, other arguments: refused.

The key's row is the first thing that the transaction writes. A twin that comes meanwhile waits for it on the primary
key and then finds the outcome; after a crash or a refusal there is no row, and the retry simply runs. No leases.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final, Protocol, TypeVar
from uuid import UUID

import asyncpg
from sqlalchemy import Column, Index, LargeBinary
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from app.database import Connection, Session, driver
from app.domain.tables import instant, tenant_key
from app.errors import AppError, InvalidInput

KEPT: Final = timedelta(hours=24)
LONGEST_KEY: Final = 255
#: How long a call waits for its twin.
PATIENCE: Final = timedelta(seconds=1)


class KeyReused(AppError):
    """The key came before, with other arguments."""

    code, status = "idempotency_key_reused", 409


class InProgress(AppError):
    """A call with this key is still running."""

    code, status, retryable = "idempotency_in_progress", 409, True


class KeyAmbiguous(AppError):
    """It cannot be told which mutation a key belongs to, or which key a mutation has."""

    code, status = "idempotency_key_ambiguous", 400


class IdempotencyKey(SQLModel, table=True):
    """What a call with this key did. Written in the transaction of the effect, so both exist or neither."""

    __tablename__: ClassVar[str] = "idempotency_keys"
    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)

    tenant_id: UUID = tenant_key()
    field: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    fingerprint: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    outcome: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    created_at: datetime = instant()


_FORGET: Final = """
WITH old AS (
    SELECT k.tenant_id, k.field, k.key FROM idempotency_keys k WHERE k.created_at < now() - $1::interval
    ORDER BY k.created_at LIMIT $2
), gone AS (
    DELETE FROM idempotency_keys k USING old
    WHERE k.tenant_id = old.tenant_id AND k.field = old.field AND k.key = old.key
    RETURNING 1
)
SELECT count(*)::integer FROM gone
"""


async def forget(connection: Connection, limit: int) -> int:
    """Delete up to `limit` outcomes older than KEPT; how many were deleted. Purpose "operate"."""
    gone: int = await connection.fetchval(_FORGET, KEPT, limit)
    return gone


class Remembered(Protocol):
    """What a verb did, with enough to tell it again: ids and plain values in JSON's types, no secrets."""

    @property
    def outcome(self) -> dict[str, Any]: ...


R = TypeVar("R", bound=Remembered)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one mutation under a key."""

    field: str
    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Replay:
    """The call was made before: nothing was done now, and this is what it did then."""

    outcome: dict[str, Any]


def call(field: str, key: str, arguments: Mapping[str, Any]) -> Call:
    """A call of the mutation `field`. `arguments` are the coerced ones in JSON's types, without the key."""
    if not 1 <= len(key) <= LONGEST_KEY or not key.isprintable():
        raise InvalidInput(
            f"An idempotency key has 1 to {LONGEST_KEY} printable characters.", path=("input", "idempotencyKey")
        )
    text = json.dumps(arguments, sort_keys=True, separators=(",", ":"))
    return Call(field, key, hashlib.sha256(text.encode()).digest())


def choose_key(given: str | None, header: str | None, fields: int) -> str | None:
    """The key of a mutation, from its input and from the header of a request with `fields` mutations."""
    if header is None:
        return given
    if fields != 1:
        raise KeyAmbiguous(
            "The Idempotency-Key header serves one mutation, and this request has more: give each its idempotencyKey."
        )
    if given is not None and given != header:
        raise KeyAmbiguous("The Idempotency-Key header and idempotencyKey differ: send one, or the same twice.")
    return header


async def once(session: Session, tenant_id: UUID, wanted: Call | None, do: Callable[[], Awaitable[R]]) -> R | Replay:
    """Do it, unless a call with this key has: then its outcome. Without a key it is simply done.

    Call it first in the transaction. Raises KeyReused, InProgress, and what `do` raises, which is not remembered.
    """
    if wanted is None:
        return await do()
    connection = await driver(session)
    if (outcome := await _claim(connection, tenant_id, wanted)) is not None:
        return Replay(outcome)
    done = await do()
    await session.flush()
    await connection.execute(
        "UPDATE idempotency_keys SET outcome = $4 WHERE tenant_id = $1 AND field = $2 AND key = $3",
        tenant_id,
        wanted.field,
        wanted.key,
        json.dumps(done.outcome),
    )
    return done


async def _claim(connection: Connection, tenant_id: UUID, wanted: Call) -> dict[str, Any] | None:
    """Make the key ours, and None; or the outcome of the call that had it."""
    name = (tenant_id, wanted.field, wanted.key)
    before = await connection.fetchval("SELECT current_setting('lock_timeout')")
    await _wait_at_most(connection, f"{int(PATIENCE.total_seconds() * 1000)}ms")
    try:
        while True:
            if await connection.fetchval(_INSERT, *name, wanted.fingerprint):
                break
            row = await connection.fetchrow(_FIND, *name, KEPT)
            if row is None:  # its twin gave up, or it was swept away
                continue
            if row["kept"]:
                if row["fingerprint"] != wanted.fingerprint:
                    raise KeyReused("This idempotency key was used with other arguments: take a new one.")
                outcome: dict[str, Any] = json.loads(row["outcome"])
                return outcome
            if await connection.fetchval(_RENEW, *name, KEPT, wanted.fingerprint):
                break
    except asyncpg.LockNotAvailableError as exc:
        raise InProgress("A call with this idempotency key is still running: ask again in a moment.") from exc
    await _wait_at_most(connection, before)
    return None


async def _wait_at_most(connection: Connection, patience: str) -> None:
    await connection.execute("SELECT set_config('lock_timeout', $1, true)", patience)


_INSERT: Final = """
INSERT INTO idempotency_keys (tenant_id, field, key, fingerprint, outcome, created_at)
VALUES ($1, $2, $3, $4, '{}', now()) ON CONFLICT DO NOTHING RETURNING true
"""
_FIND: Final = """
SELECT fingerprint, outcome::text, created_at > now() - $4::interval AS kept
FROM idempotency_keys WHERE tenant_id = $1 AND field = $2 AND key = $3
"""
# Of several that find the key worn out, one gets it; the others wait here, and then see what became of it.
_RENEW: Final = """
UPDATE idempotency_keys SET fingerprint = $5, outcome = '{}', created_at = now()
WHERE tenant_id = $1 AND field = $2 AND key = $3 AND created_at <= now() - $4::interval RETURNING true
"""
