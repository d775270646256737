"""The doors: who sees what through them, and what is left on a connection afterwards."""

from __future__ import annotations

from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError
from sqlmodel import select

from app.database import Database, driver
from app.domain.sites import Site
from app.errors import ServiceUnavailable
from tests.conftest import MakeTenant


async def test_a_tenant_reads_what_it_wrote_and_another_does_not(db: Database, make_tenant: MakeTenant) -> None:
    ours, theirs = await make_tenant(), await make_tenant()

    async with db.write(ours.tenant_id) as session:
        session.add(Site(tenant_id=ours.tenant_id, name="Farm", time_zone="UTC"))

    async with db.read(ours.tenant_id) as session:
        assert [site.name for site in await session.exec(select(Site))] == ["Farm"]
    async with db.read(theirs.tenant_id) as session:
        assert (await session.exec(select(Site))).all() == []


async def test_a_row_of_another_tenant_cannot_be_written(db: Database, make_tenant: MakeTenant) -> None:
    ours, theirs = await make_tenant(), await make_tenant()

    with pytest.raises(DBAPIError, match="row-level security"):
        async with db.write(ours.tenant_id) as session:
            session.add(Site(tenant_id=theirs.tenant_id, name="Trojan", time_zone="UTC"))

    async with db.read(theirs.tenant_id) as session:
        assert (await session.exec(select(Site))).all() == []


async def test_a_reader_cannot_write(db: Database, make_tenant: MakeTenant) -> None:
    tenant = await make_tenant()

    with pytest.raises(DBAPIError, match="read-only"):
        async with db.read(tenant.tenant_id) as session:
            session.add(Site(tenant_id=tenant.tenant_id, name="Farm", time_zone="UTC"))


async def test_across_sees_only_the_tenants_it_names(db: Database, make_tenant: MakeTenant) -> None:
    ours, theirs = await make_tenant(), await make_tenant()

    async with db.across("feed", [ours.tenant_id]) as connection:
        seen = await connection.fetch("SELECT tenant_id FROM feed_heads")

    assert [row["tenant_id"] for row in seen] == [ours.tenant_id]
    assert theirs.tenant_id not in {row["tenant_id"] for row in seen}


async def test_what_comes_before_a_tenant_may_only_call_functions(db: Database) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.across("lookup") as connection:
            await connection.fetch("SELECT * FROM api_keys")


async def test_an_error_rolls_back_and_the_connection_is_clean_again(db: Database, make_tenant: MakeTenant) -> None:
    tenant = await make_tenant()

    with pytest.raises(ZeroDivisionError):
        async with db.write(tenant.tenant_id) as session:
            session.add(Site(tenant_id=tenant.tenant_id, name="Farm", time_zone="UTC"))
            await session.flush()
            raise ZeroDivisionError

    async with db.read(tenant.tenant_id) as session:
        assert (await session.exec(select(Site))).all() == []
        connection = await driver(session)
        assert await connection.fetchval("SELECT current_user") == "pc_api"
        assert await connection.fetchval("SELECT current_setting('app.tenant_ids', true)") in (None, "")


async def test_a_database_that_is_away_is_our_trouble_and_passing() -> None:
    away = Database("postgresql://nobody:x@127.0.0.1:9/none")

    with pytest.raises(ServiceUnavailable):
        async with away.across("lookup"):
            pass
    with pytest.raises(ServiceUnavailable):
        async with away.read(uuid4()):
            pass
    await away.stop()
