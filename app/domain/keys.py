"""API keys: issued once, kept as a keyed hash, recognised on every request, revoked within seconds everywhere.

A key carries its own checksum, so that a typing mistake or a scanner's guess costs no question to the database. Who was
recognised is remembered for two seconds and no longer: that is how late a process may learn of a revocation.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Final, Self, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import Column, Index, LargeBinary, Select, String, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Field, SQLModel

from app import ids, paging
from app.database import CONFLICTS, Connection, Database, Session, driver
from app.domain import audit, tokens, words
from app.domain.tables import build, columns, instant, now, tenant_key
from app.errors import AppError, InvalidInput, ServiceUnavailable
from app.vault import Vault

log = structlog.get_logger(__name__)
T = TypeVar("T")

SCOPES: Final = (
    "punches:read",
    "devices:read",
    "devices:write",
    "doors:unlock",
    "employees:read",
    "employees:write",
    "webhooks:read",
    "webhooks:write",
    "keys:write",
    "audit:read",
)
SECRET_PREFIX: Final = "pc_live_"  # noqa: S105
SECRET_BYTES: Final = 32
#: How much of a key is shown to recognise it by.
SHOWN: Final = 12
LONGEST_GRACE: Final = timedelta(days=7)

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY_LENGTH: Final = 43  # 32 bytes in base 62
_SUM_LENGTH: Final = 6  # a CRC-32 in base 62
_SECRET_LENGTH: Final = len(SECRET_PREFIX) + _BODY_LENGTH + _SUM_LENGTH


class Unauthenticated(AppError):
    """No key, or one that does not work (any more)."""

    code, status = "unauthenticated", 401


class PermissionDenied(AppError):
    """The key is good, and not for this."""

    code, status = "permission_denied", 403


class ApiKeyNotFound(AppError):
    """No key with this id belongs to the tenant."""

    code, status = "api_key_not_found", 404

    def __init__(self, key_id: UUID) -> None:
        super().__init__(f"No API key {ids.show('key', key_id)}.", path=("input", "id"))


class ApiKey(SQLModel, table=True):
    """What may call us, and for what."""

    __tablename__: ClassVar[str] = "api_keys"
    __table_args__ = (Index("uq_api_keys_hash", "hash", unique=True), Index("uq_api_keys_id", "id", unique=True))

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    name: str
    prefix: str
    hash: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    scopes: list[str] = Field(sa_column=Column(ARRAY(String), nullable=False))
    created_at: datetime = instant()
    last_used_at: datetime | None = instant(optional=True)
    expires_at: datetime | None = instant(optional=True)
    revoked_at: datetime | None = instant(optional=True)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who is calling: one key of one tenant, or a stream token that the key made, and what it may do."""

    tenant_id: UUID
    key_id: UUID
    scopes: frozenset[str]
    plan: str
    expires_at: datetime | None = None
    #: The only sites of the tenant that exist for it; None for all.
    site_ids: tuple[UUID, ...] | None = None
    #: A stream token, not the key itself.
    read_only: bool = False

    def may(self, scope: str) -> Self:
        """Itself, if it has `scope`; PermissionDenied otherwise."""
        if scope not in self.scopes:
            raise PermissionDenied(f"This API key lacks the scope {scope}.")
        return self


def write_secret(secret_bytes: bytes) -> str:
    """The key's text: `pc_live_`, the bytes in base 62, and a checksum of all that."""
    text = SECRET_PREFIX + _base62(int.from_bytes(secret_bytes, "big"), _BODY_LENGTH)
    return text + _checksum(text)


def is_whole(secret: str) -> bool:
    """Whether `secret` could have come from us: its form and its checksum are right."""
    return (
        len(secret) == _SECRET_LENGTH
        and secret.startswith(SECRET_PREFIX)
        and secret.isascii()
        and _checksum(secret[:-_SUM_LENGTH]) == secret[-_SUM_LENGTH:]
    )


def issue(
    tenant_id: UUID,
    name: str,
    scopes: Iterable[str],
    expires_at: datetime | None,
    vault: Vault,
    *,
    secret_bytes: bytes | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its text, which is nowhere else. Nothing is written yet; InvalidInput names what is wrong."""
    secret = write_secret(secret_bytes or secrets.token_bytes(SECRET_BYTES))
    created = now()
    if expires_at is not None and expires_at <= created:
        raise InvalidInput("A key cannot expire before it is made.", path=("input", "expiresAt"))
    key = ApiKey(
        tenant_id=tenant_id,
        name=words.line(name, "name", longest=200),
        prefix=secret[:SHOWN],
        hash=vault.recognise(secret),
        scopes=known(scopes),
        created_at=created,
        expires_at=expires_at,
    )
    return key, secret


def known(scopes: Iterable[str]) -> list[str]:
    """The scopes in the order of the list, each once. InvalidInput for none, or for one that does not exist."""
    wanted = set(scopes)
    if not wanted:
        raise InvalidInput("A key needs at least one scope.", path=("input", "scopes"))
    if strange := wanted.difference(SCOPES):
        raise InvalidInput(
            f"There is no scope {min(strange)[:64]!r}; the scopes are {', '.join(SCOPES)}.", path=("input", "scopes")
        )
    return [scope for scope in SCOPES if scope in wanted]


async def add(connection: Connection, key: ApiKey) -> None:
    """Write a new key's row."""
    await connection.execute(
        "INSERT INTO api_keys (tenant_id, id, name, prefix, hash, scopes, created_at, expires_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        key.tenant_id,
        key.id,
        key.name,
        key.prefix,
        key.hash,
        key.scopes,
        key.created_at,
        key.expires_at,
    )


async def add_any(connection: Connection, key: ApiKey) -> None:
    """A new key of any tenant, of any strength: the operator's side."""
    await add(connection, key)
    given = {"scopes": key.scopes, "expiresAt": key.expires_at}
    await audit.add(connection, key.tenant_id, audit.OPERATOR, "apiKeyCreate", given, targets=[("key", key.id)])


async def get(session: Session, tenant_id: UUID, key_id: UUID) -> ApiKey:
    """The tenant's key. Another tenant's is not found either."""
    key = await session.get(ApiKey, (tenant_id, key_id), populate_existing=True)
    if key is None:
        raise ApiKeyNotFound(key_id)
    return key


async def create(
    session: Session, actor: Actor, name: str, scopes: Iterable[str], *, expires_at: datetime | None, vault: Vault
) -> tuple[ApiKey, str]:
    """A key never stronger, nor longer-lived, than the caller's own; and its text."""
    key, secret = issue(actor.tenant_id, name, scopes, expires_at, vault)
    if stronger := [scope for scope in key.scopes if scope not in actor.scopes]:
        raise InvalidInput(
            f"A key cannot be stronger than the one that makes it, and yours lacks {', '.join(stronger)}.",
            path=("input", "scopes"),
        )
    if actor.expires_at is not None and (expires_at is None or expires_at > actor.expires_at):
        raise InvalidInput("A key cannot outlive the one that makes it.", path=("input", "expiresAt"))
    await add(await driver(session), key)
    return key, secret


async def rotate(session: Session, actor: Actor, key_id: UUID, grace: timedelta, vault: Vault) -> tuple[ApiKey, str]:
    """A new key like the old one, which works until the grace period ends. The new one inherits its end, if any."""
    check_grace(grace)
    await _hold(session, actor.tenant_id)
    old = await get(session, actor.tenant_id, key_id)
    at = now()
    if not _lives(old, at):
        raise InvalidInput("This key is dead already: create a new one.", path=("input", "id"))
    key, secret = await create(session, actor, old.name, old.scopes, expires_at=old.expires_at, vault=vault)
    old.expires_at = min(at + grace, old.expires_at or at + grace)
    await session.flush()
    return key, secret


async def revoke(session: Session, tenant_id: UUID, key_id: UUID) -> ApiKey:
    """End a key now. The last one that can make keys is refused: nobody could make another.

    Revoking a dead key changes nothing.
    """
    await _hold(session, tenant_id)
    key = await get(session, tenant_id, key_id)
    at = now()
    if key.revoked_at is not None:
        return key
    if _lives(key, at) and "keys:write" in key.scopes:
        connection = await driver(session)
        # One that dies by itself soon is no way back in.
        others = await connection.fetchval(
            "SELECT count(*) FROM api_keys WHERE tenant_id = $1 AND id <> $2 AND revoked_at IS NULL "
            "AND (expires_at IS NULL OR expires_at > now() + interval '7 days') AND 'keys:write' = ANY (scopes)",
            tenant_id,
            key_id,
        )
        if not others:
            raise InvalidInput(
                "This is the last key with keys:write: create or rotate another before revoking it.",
                path=("input", "id"),
            )
    key.revoked_at = at
    if key.last_used_at is not None and key.last_used_at > at:  # by the clock of the database, which is ahead of ours
        key.last_used_at = at
    await session.flush()
    return key


async def revoke_any(connection: Connection, key_id: UUID) -> None:
    """End any tenant's key, the last one too: the operator's side. ApiKeyNotFound when there is none."""
    tenant_id = await connection.fetchval(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING tenant_id", key_id
    )
    if tenant_id is None:
        raise ApiKeyNotFound(key_id)
    await audit.add(connection, tenant_id, audit.OPERATOR, "apiKeyRevoke", targets=[("key", key_id)])


async def check(db: Database, actor: Actor) -> None:
    """Unauthenticated if the actor's key has died since it was recognised: for who waited in between."""
    async with db.across("lookup") as connection:
        dead = await connection.fetch("SELECT key_id FROM dead_api_keys($1)", [actor.key_id])
    if dead:
        raise Unauthenticated("This API key has been revoked or has expired.")


def check_grace(grace: timedelta) -> None:
    """InvalidInput unless it is between nothing and seven days."""
    if not timedelta(0) <= grace <= LONGEST_GRACE:
        raise InvalidInput(
            f"graceSeconds must be between 0 and {int(LONGEST_GRACE.total_seconds())}.", path=("input", "graceSeconds")
        )


async def _hold(session: Session, tenant_id: UUID) -> None:
    """Let one transaction at a time end keys of a tenant, or two could each revoke the other's last way in."""
    connection = await driver(session)
    await connection.fetch("SELECT id FROM api_keys WHERE tenant_id = $1 ORDER BY id FOR UPDATE", tenant_id)


def _lives(key: ApiKey, at: datetime) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > at)


class KeyRing:
    """Recognises keys for one process. What it remembers is at most `fresh_for` seconds old, and bounded."""

    def __init__(
        self,
        db: Database,
        vault: Vault,
        *,
        fresh_for: float = 2,
        touch_every: float = 30,
        known: int = 10_000,
        unknown: int = 1_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._vault = vault
        self._fresh_for = fresh_for
        self._touch_every = touch_every
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[float, Actor]] = OrderedDict()
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._most_known = known
        self._most_unknown = unknown
        self._asked: dict[bytes, asyncio.Task[Actor | None]] = {}
        #: When, by our clock.
        self._used: dict[UUID, float] = {}
        self._touched_at = float("-inf")

    async def authenticate(self, authorization: str | None) -> Actor:
        """Who `Bearer <key>` is, or `Bearer <stream token>`. Unauthenticated when it is nobody; ServiceUnavailable
        without the database."""
        if (text := _bearer(authorization)) is not None and text.startswith(tokens.PREFIX):
            return await self._narrowed(text)
        return await self.recognise(self._vault.recognise(read_authorization(authorization)))

    async def recognise(self, digest: bytes) -> Actor:
        """As `authenticate`, by the keyed hash of a key: for sessions, which hold no key."""
        actor = self._remembered(digest)
        if actor is None:
            actor = await self._ask_once(digest)
        if actor is None or (actor.expires_at is not None and actor.expires_at <= now()):
            raise Unauthenticated("This API key does not work: it is unknown, revoked or expired.")
        at = self._used[actor.key_id] = self._clock()
        if at - self._touched_at >= self._touch_every:
            await self.touch()
        return actor

    async def _narrowed(self, text: str) -> Actor:
        """Who a stream token is: its key, with less."""
        token = tokens.read(text, self._vault)
        if token is None:
            raise Unauthenticated("This is not a stream token of ours: send it whole, as `Authorization: Bearer …`.")
        if token.expires_at <= now():
            raise Unauthenticated("This stream token has ended: have your server make another.")
        actor = await self.recognise(token.digest)
        expires_at = token.expires_at if actor.expires_at is None else min(token.expires_at, actor.expires_at)
        return replace(
            actor,
            scopes=actor.scopes & tokens.SCOPES,
            expires_at=expires_at,
            site_ids=token.site_ids,
            read_only=True,
        )

    async def dead(self, key_ids: Collection[UUID]) -> set[UUID]:
        """Which of these keys have been revoked or have expired: one question, asked of the database."""
        if not key_ids:
            return set()
        async with self._db.across("lookup") as connection:
            rows = await connection.fetch("SELECT key_id FROM dead_api_keys($1)", list(key_ids))
        return {row[0] for row in rows}

    async def touch(self) -> None:
        """Write down when keys were used lately. A failure costs nothing but the date."""
        used, self._used = self._used, {}
        at = self._touched_at = self._clock()
        if not used:
            return
        try:
            async with self._db.across("lookup") as connection:
                ages = [timedelta(seconds=at - seen) for seen in used.values()]
                await connection.execute("SELECT touch_api_keys($1, $2)", list(used), ages)
        except (ServiceUnavailable, *CONFLICTS) as exc:
            log.warning("keys.touch_failed", error=type(exc).__name__, keys=len(used))

    def _remembered(self, digest: bytes) -> Actor | None:
        """Who that was a moment ago; raises Unauthenticated when it was nobody."""
        at = self._clock()
        if (found := self._known.get(digest)) is not None and at < found[0]:
            return found[1]
        if at < self._unknown.get(digest, at):
            raise Unauthenticated("This API key does not work: it is unknown, revoked or expired.")
        return None

    async def _ask_once(self, digest: bytes) -> Actor | None:
        """Ask the database, once for all who wait for the same key. Whoever gives up waiting leaves the rest alone."""
        task = self._asked.get(digest)
        if task is None:
            task = self._asked[digest] = asyncio.create_task(self._ask(digest))
            task.add_done_callback(lambda done: self._forget(digest, done))
        return await asyncio.shield(task)

    async def _ask(self, digest: bytes) -> Actor | None:
        # What is learned is as old as the moment before the question.
        until = self._clock() + self._fresh_for
        async with self._db.across("lookup") as connection:
            row = await connection.fetchrow(
                "SELECT tenant_id, key_id, scopes, plan, alive, expires_at FROM find_api_key($1)", digest
            )
        if row is None or not row["alive"]:
            self._known.pop(digest, None)
            _remember(self._unknown, digest, until, self._most_unknown)
            return None
        actor = Actor(row["tenant_id"], row["key_id"], frozenset(row["scopes"]), row["plan"], row["expires_at"])
        _remember(self._known, digest, (until, actor), self._most_known)
        return actor

    def _forget(self, digest: bytes, task: asyncio.Task[Actor | None]) -> None:
        del self._asked[digest]
        if not task.cancelled():
            task.exception()  # seen by those who waited, if any still did


def read_authorization(authorization: str | None) -> str:
    """The key inside `Bearer <key>`; Unauthenticated when there is none or it cannot be one of ours."""
    if not authorization:
        raise Unauthenticated("Send your API key as `Authorization: Bearer pc_live_…`.")
    secret = _bearer(authorization)
    if secret is None or not is_whole(secret):
        raise Unauthenticated("This is not an API key of ours: send `Authorization: Bearer pc_live_…`, whole.")
    return secret


def _bearer(authorization: str | None) -> str | None:
    scheme, _, secret = (authorization or "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def _remember(shelf: OrderedDict[bytes, T], digest: bytes, value: T, most: int) -> None:
    shelf[digest] = value
    shelf.move_to_end(digest)
    while len(shelf) > most:
        shelf.popitem(last=False)


def _base62(n: int, width: int) -> str:
    letters = []
    for _ in range(width):
        n, place = divmod(n, 62)
        letters.append(_ALPHABET[place])
    return "".join(reversed(letters))


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), _SUM_LENGTH)


_ROW: Final = columns(ApiKey)
BY_ID: Final = paging.both_ways("ID", _ROW.id)


async def page(session: Session, tenant_id: UUID, asked: paging.Asked[None]) -> paging.Page[ApiKey]:
    """One page of the tenant's keys, dead ones too."""
    found = await paging.fetch(session, tenant_id, _query, asked)
    return found.map(partial(build, ApiKey))


def _query(tenant_id: UUID, _wanted: None) -> Select[Any]:
    return select(*_ROW).where(_ROW.tenant_id == tenant_id)


async def by_ids(session: Session, tenant_id: UUID, key_ids: Sequence[UUID]) -> dict[UUID, ApiKey]:
    """Those of them that are the tenant's."""
    query = select(*_ROW).where(_ROW.tenant_id == tenant_id, paging.among(_ROW.id, key_ids))
    return {row.id: build(ApiKey, row) for row in await (await session.connection()).execute(query)}
