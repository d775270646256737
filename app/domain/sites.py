"""Places. A site lends its time zone to devices that have none of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, ClassVar, Final
from uuid import UUID
from zoneinfo import available_timezones

from sqlalchemy import Select, select
from sqlmodel import Field, SQLModel

from app import ids, paging
from app.database import Session, driver
from app.domain import words
from app.domain.tables import build, columns, instant, tenant_key
from app.errors import AppError, InvalidInput


class SiteNotFound(AppError):
    """No site with this id belongs to the tenant."""

    code, status = "site_not_found", 404

    def __init__(self, site_id: UUID, field: str = "id") -> None:
        super().__init__(f"No site {ids.show('sit', site_id)}.", path=("input", field))


class TimeZoneUnknown(AppError):
    """Not a zone of the IANA database."""

    code, status = "time_zone_unknown", 400

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no time zone {name[:64]!r}: use an IANA name such as Africa/Casablanca.",
            path=("input", "timeZone"),
        )


class Site(SQLModel, table=True):
    """Where devices hang."""

    __tablename__: ClassVar[str] = "sites"

    tenant_id: UUID = tenant_key()
    id: UUID = Field(primary_key=True, default_factory=ids.new)
    name: str
    time_zone: str
    created_at: datetime = instant()


_ROW: Final = columns(Site)
BY_ID: Final = paging.both_ways("ID", _ROW.id)


async def page(session: Session, tenant_id: UUID, asked: paging.Asked[None]) -> paging.Page[Site]:
    """One page of the tenant's sites."""
    found = await paging.fetch(session, tenant_id, _query, asked)
    return found.map(lambda row: build(Site, row))


def _query(tenant_id: UUID, _wanted: None) -> Select[Any]:
    return select(*_ROW).where(_ROW.tenant_id == tenant_id)


async def by_ids(session: Session, tenant_id: UUID, site_ids: Sequence[UUID]) -> dict[UUID, Site]:
    """Those of them that are the tenant's."""
    query = select(*_ROW).where(_ROW.tenant_id == tenant_id, paging.among(_ROW.id, site_ids))
    return {row.id: build(Site, row) for row in await (await session.connection()).execute(query)}


async def get(session: Session, tenant_id: UUID, site_id: UUID, *, field: str = "id", keep: bool = False) -> Site:
    """The tenant's site; with `keep` it cannot be deleted before the transaction ends. SiteNotFound names `field`."""
    lock: Any = {"read": True, "key_share": True} if keep else None
    site = await session.get(Site, (tenant_id, site_id), populate_existing=True, with_for_update=lock)
    if site is None:
        raise SiteNotFound(site_id, field)
    return site


async def create(session: Session, tenant_id: UUID, name: str, time_zone: str) -> Site:
    """A new place. InvalidInput, TimeZoneUnknown."""
    site = Site(tenant_id=tenant_id, name=_name(name), time_zone=check_zone(time_zone))
    session.add(site)
    await session.flush()
    return site


async def update(session: Session, tenant_id: UUID, site_id: UUID, changes: Mapping[str, Any]) -> Site:
    """Change `name` and `time_zone`, those that are named. Neither can be cleared."""
    lock: Any = {"key_share": True}
    site = await session.get(Site, (tenant_id, site_id), populate_existing=True, with_for_update=lock)
    if site is None:
        raise SiteNotFound(site_id)
    if "name" in changes:
        site.name = _name(changes["name"])
    if "time_zone" in changes:
        if changes["time_zone"] is None:
            raise InvalidInput("A site cannot be without a time zone.", path=("input", "timeZone"))
        site.time_zone = check_zone(changes["time_zone"])
    await session.flush()
    return site


async def delete(session: Session, tenant_id: UUID, site_id: UUID) -> None:
    """Remove a place where no device hangs any more. Retired devices let go of it, and keep its zone."""
    connection = await driver(session)
    # This lock waits for devices that are being put here just now, and makes those that come later find nothing.
    found = await connection.fetchval(
        "SELECT id FROM sites WHERE tenant_id = $1 AND id = $2 FOR UPDATE", tenant_id, site_id
    )
    if found is None:
        raise SiteNotFound(site_id)
    devices = await connection.fetchval(
        "SELECT count(*) FROM devices WHERE tenant_id = $1 AND site_id = $2 AND status <> 'RETIRED'", tenant_id, site_id
    )
    if devices:
        raise InvalidInput(
            f"{devices} devices are at this site: move or retire them before deleting it.", path=("input", "id")
        )
    await connection.execute(
        "UPDATE devices d SET site_id = NULL, time_zone = coalesce(d.time_zone, s.time_zone), updated_at = now() "
        "FROM sites s WHERE s.tenant_id = d.tenant_id AND s.id = d.site_id AND d.tenant_id = $1 AND d.site_id = $2",
        tenant_id,
        site_id,
    )
    await connection.execute("DELETE FROM sites WHERE tenant_id = $1 AND id = $2", tenant_id, site_id)


def check_zone(name: str) -> str:
    """`name`, if it is an IANA zone; TimeZoneUnknown otherwise."""
    if name not in _zones():
        raise TimeZoneUnknown(name)
    return name


@cache
def _zones() -> frozenset[str]:
    # The last three are files that some systems keep among the zones.
    return frozenset(available_timezones()) - {"Factory", "localtime", "posixrules"}


def _name(name: str | None) -> str:
    return words.line(name or "", "name", longest=200)
