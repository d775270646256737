"""The doors: who sees what through them, and what is left on a connection afterwards."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError
from sqlmodel import select

from app import database
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


async def test_reads_of_one_operation_share_a_transaction_and_see_what_was_committed_meanwhile(
    db: Database, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LINGER", 60)
    tenant = await make_tenant()
    async with db.write(tenant.tenant_id) as session:
        session.add(Site(tenant_id=tenant.tenant_id, name="Farm", time_zone="UTC"))
    reading = db.reading(tenant.tenant_id)
    begun, seen, names = [], [], []

    for name in ("Barn", "Shed"):
        async with reading.read() as session:
            seen.append((await session.exec(select(Site))).one())  # held, as what was loaded is while it is answered
            names.append(seen[-1].name)
            begun.append(await (await driver(session)).fetchval("SELECT now()"))
        async with db.write(tenant.tenant_id) as session:
            (await session.exec(select(Site))).one().name = name
    await reading.close()

    assert begun[0] == begun[1]
    assert names == ["Farm", "Barn"]


@pytest.mark.parametrize(("longest", "transactions"), [(60, 1), (-1, 3)])
async def test_an_operation_that_reads_for_ever_begins_another_transaction_now_and_then(
    db: Database, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch, longest: float, transactions: int
) -> None:
    monkeypatch.setattr(database, "LINGER", 60)
    monkeypatch.setattr(database, "LONGEST", longest)
    reading = db.reading((await make_tenant()).tenant_id)
    begun = set()

    for _ in range(3):
        async with reading.read() as session:
            begun.add(await (await driver(session)).fetchval("SELECT now()"))
    await reading.close()

    assert len(begun) == transactions


async def test_a_read_that_fails_ends_its_transaction_and_the_next_begins_another(
    db: Database, make_tenant: MakeTenant
) -> None:
    tenant = await make_tenant()
    reading = db.reading(tenant.tenant_id)

    with pytest.raises(asyncpg.DivisionByZeroError):
        async with reading.read() as session:
            await (await driver(session)).fetchval("SELECT 1 / 0")
    async with reading.read() as session:
        who = await (await driver(session)).fetchval("SELECT current_user || current_setting('app.tenant_id')")
    await reading.close()

    assert who == f"pc_api{tenant.tenant_id}"


async def test_an_operation_that_reads_no_more_gives_its_connection_back(
    database_url: str, make_tenant: MakeTenant
) -> None:
    tenant = await make_tenant()
    small = Database(database_url, pool=1)
    idle, next_one = small.reading(tenant.tenant_id), small.reading(tenant.tenant_id)

    async with idle.read():
        pass
    async with asyncio.timeout(5), next_one.read() as session:
        assert await (await driver(session)).fetchval("SELECT 1") == 1
    await small.stop()

    assert small.held == set()


async def test_connections_that_were_cut_while_idle_are_not_lent(database_url: str, make_tenant: MakeTenant) -> None:
    tenant = await make_tenant()
    ours = Database(database_url, pool=3)
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(ours.read(tenant.tenant_id)) for _ in range(3)]
        backends = [await (await driver(session)).fetchval("SELECT pg_backend_pid()") for session in sessions]

    owner = await asyncpg.connect(database_url)
    await owner.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest($1::int[]) AS pid", backends)
    await owner.close()
    await asyncio.sleep(0.1)  # the news has to arrive
    for _ in backends:
        async with ours.read(tenant.tenant_id) as session:
            assert await (await driver(session)).fetchval("SELECT pg_backend_pid()") not in backends
    await ours.stop()


async def test_statements_at_once_share_a_connection_until_it_is_cut_or_leaves_them_waiting(database_url: str) -> None:
    ours = Database(database_url)

    async def backend(statement: str = "SELECT pg_backend_pid()", *arguments: object) -> int:
        [[pid]] = await ours.at_once(statement, *arguments)
        return int(pid)

    first = await backend()
    with pytest.raises(asyncpg.DivisionByZeroError):
        await ours.at_once("SELECT 1 / 0")
    assert await backend() == first

    waiting = asyncio.create_task(backend("SELECT pg_backend_pid() FROM pg_sleep(120)"))
    await asyncio.sleep(0)
    second = await backend()  # beside it
    assert second != first
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await backend() == second
    async with asyncio.timeout(60):  # nobody waits for the statement any more, PostgreSQL neither
        while await ours.at_once("SELECT FROM pg_stat_activity WHERE pid = $1", first):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    owner = await asyncpg.connect(database_url)
    await owner.execute("SELECT pg_terminate_backend($1, 5000)", second)
    await owner.close()
    await asyncio.sleep(0.1)  # the news has to arrive
    assert await backend() not in {first, second}
    await ours.stop()
