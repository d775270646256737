"""What Strawberry's own documentation leads to over the same rows: SQLModel, a DataLoader per edge, its ASGI view.

Both of its caches are on. DATABASE_URL, API_KEY and TENANT_ID come from the environment.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

import strawberry
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession
from strawberry.asgi import GraphQL
from strawberry.dataloader import DataLoader
from strawberry.extensions import ParserCache, ValidationCache

from app.domain import devices, employees, punches
from protocol.adms.codes import Direction, VerifyMode

_ENGINE = create_async_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://", 1))
_TENANT = UUID(os.environ["TENANT_ID"])
_DIRECTION = strawberry.enum(Enum("PunchDirection", {one.name: one.value for one in Direction}))  # type: ignore[call-overload]
_VERIFY_MODE = strawberry.enum(Enum("VerifyMode", {one.name: one.value for one in VerifyMode}))  # type: ignore[call-overload]


def _session() -> AsyncSession:
    return AsyncSession(_ENGINE, expire_on_commit=False)


@strawberry.type
class RateLimit:
    limit: int


@strawberry.type
class Employee:
    id: strawberry.ID
    name: str | None


@strawberry.type
class Device:
    id: strawberry.ID
    name: str
    serial_number: str
    status: str
    last_seen_at: datetime | None

    @strawberry.field
    async def punches(self, info: strawberry.Info[Any, None], first: int = 50) -> Punches:
        return Punches.of(await info.context["punches"].load((UUID(self.id), first)), first)


@strawberry.type
class Punch:
    id: strawberry.ID
    pin: str
    punched_at: datetime
    local_time: datetime
    received_at: datetime
    direction: _DIRECTION  # type: ignore[valid-type]
    verify_mode: _VERIFY_MODE  # type: ignore[valid-type]
    buffered: bool
    device_id: strawberry.Private[UUID]

    @strawberry.field
    async def device(self, info: strawberry.Info[Any, None]) -> Device | None:
        return _device(await info.context["devices"].load(self.device_id))

    @strawberry.field
    async def employee(self, info: strawberry.Info[Any, None]) -> Employee | None:
        found = await info.context["employees"].load(self.pin)
        return Employee(id=strawberry.ID(str(found.id)), name=found.name) if found else None


@strawberry.type
class PageInfo:
    has_next_page: bool
    end_cursor: str | None


@strawberry.type
class Edge:
    cursor: str
    node: Punch


@strawberry.type
class Punches:
    edges: list[Edge]
    nodes: list[Punch]
    page_info: PageInfo

    @classmethod
    def of(cls, rows: Sequence[punches.Punch], size: int) -> Punches:
        nodes = [_punch(row) for row in rows[:size]]
        edges = [
            Edge(cursor=base64.urlsafe_b64encode(f"{row.punched_at} {row.id}".encode()).decode(), node=node)
            for row, node in zip(rows, nodes, strict=False)
        ]
        ends = PageInfo(has_next_page=len(rows) > size, end_cursor=edges[-1].cursor if edges else None)
        return cls(edges=edges, nodes=nodes, page_info=ends)


@strawberry.type
class Devices:
    nodes: list[Device]


@strawberry.type
class Query:
    @strawberry.field
    def rate_limit(self) -> RateLimit:
        return RateLimit(limit=20_000)

    @strawberry.field
    async def punches(self, first: int = 50) -> Punches:
        async with _session() as session:
            return Punches.of(await _latest(session, first), first)

    @strawberry.field
    async def devices(self, first: int = 50) -> Devices:
        table = devices.Device
        query = select(table).where(table.tenant_id == _TENANT).order_by(col(table.created_at), col(table.id))
        async with _session() as session:
            return Devices(nodes=[_device(row) for row in await session.exec(query.limit(first))])


async def _latest(session: AsyncSession, size: int, device_id: UUID | None = None) -> Sequence[punches.Punch]:
    table = punches.Punch
    query = select(table).where(table.tenant_id == _TENANT)
    if device_id is not None:
        query = query.where(table.device_id == device_id)
    return (
        await session.exec(query.order_by(col(table.punched_at).desc(), col(table.id).desc()).limit(size + 1))
    ).all()


async def _devices(keys: list[UUID]) -> list[devices.Device | None]:
    table = devices.Device
    async with _session() as session:
        rows = await session.exec(select(table).where(table.tenant_id == _TENANT, col(table.id).in_(set(keys))))
        found = {row.id: row for row in rows}
    return [found.get(key) for key in keys]


async def _employees(pins: list[str]) -> list[employees.Employee | None]:
    table = employees.Employee
    async with _session() as session:
        rows = await session.exec(select(table).where(table.tenant_id == _TENANT, col(table.pin).in_(set(pins))))
        found = {row.pin: row for row in rows}
    return [found.get(pin) for pin in pins]


async def _punches(wanted: list[tuple[UUID, int]]) -> list[Sequence[punches.Punch]]:
    async with _session() as session:
        return [await _latest(session, size, device_id) for device_id, size in wanted]


def _device(row: devices.Device) -> Device:
    return Device(
        id=strawberry.ID(str(row.id)),
        name=row.name,
        serial_number=row.serial_number,
        status=row.status,
        last_seen_at=row.last_seen_at,
    )


def _punch(row: punches.Punch) -> Punch:
    return Punch(
        id=strawberry.ID(str(row.id)),
        pin=row.pin,
        punched_at=row.punched_at,
        local_time=row.local_time,
        received_at=row.received_at,
        direction=_DIRECTION(punches.DIRECTIONS[row.direction].value),
        verify_mode=_VERIFY_MODE(punches.VERIFY_MODES[row.verify_mode].value),
        buffered=row.buffered,
        device_id=row.device_id,
    )


class _View(GraphQL[Any, None]):
    async def get_context(self, request: Any, response: Any) -> Any:
        return {"devices": DataLoader(_devices), "employees": DataLoader(_employees), "punches": DataLoader(_punches)}


def create_app() -> _View:
    """The whole application."""
    return _View(strawberry.Schema(Query, extensions=[ParserCache, ValidationCache]))
