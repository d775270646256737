"""Who did what to which object, and when. Written in the transaction of the deed itself, and never changed afterwards.

An entry outlives what it speaks of and nobody can take it back, so it holds no secret and nothing about people: of what
was asked it keeps numbers, ids and the words of ours that are listed here, and of everything else only that it was
there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias
from uuid import UUID

from sqlalchemy import CheckConstraint, ColumnElement, Index, Select, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Column, Field, SQLModel

from app import ids, paging
from app.database import Connection, Session
from app.domain.tables import build, columns, instant, now, tenant_key

#: Arguments whose text is kept: ids, and words that come from a list of ours. What people type is not.
KEPT: Final = frozenset(
    {
        "id",
        "deviceId",
        "deviceIds",
        "endpointId",
        "siteId",
        "siteIds",
        "serialNumber",
        "timeZone",
        "status",
        "scopes",
        "eventTypes",
        "privilege",
        "expiresAt",
        "since",
        "until",
        "from",
        "to",
    }
)
#: Instead of a text that is not kept.
UNSAID: Final = "…"
#: Texts are cut after so many characters, and lists counted instead of kept beyond so many.
LONGEST: Final = 200
MOST: Final = 50
#: An entry's time and its id are taken one after the other.
SLACK: Final = timedelta(minutes=1)

#: A thing that was acted upon: its kind and id.
Target: TypeAlias = tuple[ids.Prefix, UUID]


class AuditSource(StrEnum):
    """By which edge somebody came."""

    API = "API"
    DASHBOARD = "DASHBOARD"
    CLI = "CLI"
    SIGNUP = "SIGNUP"


@dataclass(frozen=True, slots=True)
class Author:
    """Who did it: an API key, by the API or the dashboard; or, without one, the operator or somebody who signed up."""

    source: AuditSource
    key_id: UUID | None = None
    #: Under which the log has more.
    request_id: str | None = None


OPERATOR: Final = Author(AuditSource.CLI)


class AuditEntry(SQLModel, table=True):
    """One thing done to one object. The application may add rows and read them, and nothing else."""

    __tablename__: ClassVar[str] = "audit_entries"
    __table_args__ = (
        CheckConstraint("source IN ('API', 'DASHBOARD', 'CLI', 'SIGNUP')", name="source"),
        CheckConstraint("(target_kind IS NULL) = (target_id IS NULL)", name="target"),
        Index("ix_audit_entries_target", "tenant_id", "target_id", "id"),
        Index("ix_audit_entries_key", "tenant_id", "key_id", "id"),
        Index("ix_audit_entries_action", "tenant_id", "action", "id"),
    )

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    action: str
    source: str
    key_id: UUID | None = None
    target_kind: str | None = None
    target_id: UUID | None = None
    detail: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSONB, nullable=False))
    request_id: str | None = None
    created_at: datetime = instant()


_INSERT: Final = """
INSERT INTO audit_entries
    (tenant_id, id, action, source, key_id, target_kind, target_id, detail, request_id, created_at)
SELECT $1, t.id, $2, $3, $4, t.kind, t.target, $5::jsonb, $6, $7
FROM unnest($8::uuid[], $9::text[], $10::uuid[]) AS t (id, kind, target)
"""


async def add(
    connection: Connection,
    tenant_id: UUID,
    author: Author,
    action: str,
    given: Mapping[str, Any] | None = None,
    *,
    targets: Sequence[Target] = (),
) -> None:
    """One entry for each target, or a single one without. `given` are the arguments, under the contract's names."""
    aimed: Sequence[tuple[str | None, UUID | None]] = targets or [(None, None)]
    await connection.execute(
        _INSERT,
        tenant_id,
        action,
        author.source.value,
        author.key_id,
        json.dumps(kept(given or {})),
        author.request_id,
        now(),
        [ids.new() for _ in aimed],
        [kind for kind, _ in aimed],
        [target for _, target in aimed],
    )


def kept(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the log keeps of arguments: see the head of this file."""
    return {name: _kept(name, value) for name, value in given.items()}


def _kept(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return kept(value)
    if isinstance(value, list | tuple):
        if len(value) > MOST or any(isinstance(part, Mapping) for part in value):
            return {"count": len(value)}
        return [_kept(name, part) for part in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:LONGEST] if name in KEPT else UNSAID


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries: all conditions hold at once; None is no condition, an empty set matches nothing."""

    actions: tuple[str, ...] | None = None
    key_ids: tuple[UUID, ...] | None = None
    target_ids: tuple[UUID, ...] | None = None
    sources: tuple[AuditSource, ...] | None = None
    created_since: datetime | None = None
    created_before: datetime | None = None


_ROW: Final = columns(AuditEntry)
EVERY: Final = Wanted()
BY_ID: Final = paging.both_ways("ID", _ROW.id)


async def page(session: Session, tenant_id: UUID, asked: paging.Asked[Wanted]) -> paging.Page[AuditEntry]:
    """One page of the tenant's entries."""
    return (await paging.fetch(session, tenant_id, _query, asked)).map(partial(build, AuditEntry))


async def by_ids(session: Session, tenant_id: UUID, entry_ids: Sequence[UUID]) -> dict[UUID, AuditEntry]:
    """Those of them that are the tenant's."""
    query = _query(tenant_id, EVERY).where(paging.among(_ROW.id, entry_ids))
    return {row.id: build(AuditEntry, row) for row in await (await session.connection()).execute(query)}


def _query(tenant_id: UUID, wanted: Wanted) -> Select[Any]:
    terms: list[ColumnElement[bool]] = [_ROW.tenant_id == tenant_id]
    if wanted.actions is not None:
        terms.append(paging.among(_ROW.action, wanted.actions))
    if wanted.key_ids is not None:
        terms.append(paging.among(_ROW.key_id, wanted.key_ids))
    if wanted.target_ids is not None:
        terms.append(paging.among(_ROW.target_id, wanted.target_ids))
    if wanted.sources is not None:
        terms.append(paging.among(_ROW.source, wanted.sources))
    if wanted.created_since is not None:
        # Ids are in the order of time, so the index ends there.
        terms += [_ROW.created_at >= wanted.created_since, _ROW.id >= ids.floor(wanted.created_since - SLACK)]
    if wanted.created_before is not None:
        terms += [_ROW.created_at < wanted.created_before, _ROW.id < ids.floor(wanted.created_before + SLACK)]
    return select(*_ROW).where(*terms)
