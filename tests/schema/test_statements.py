"""A page costs as many statements at 100 rows as at 10."""

from __future__ import annotations

import asyncpg
import pytest

from app import paging
from app.database import Database
from app.domain import commands, roster
from app.domain.employees import Employee
from app.domain.roster import Person
from app.domain.sites import Site
from app.vault import Vault
from bench.statements import noted
from tests.factories import make_device, make_endpoint
from tests.schema.conftest import Caller
from tests.schema.world import add_punches, make_view

PUNCH = "id raw device { id name timeZone site { id } } employee { id name }"
#: query, and the statements of its page: each batch of a loader is one.
PAGES = {
    "sites": ("sites(first: $n) { nodes { id devices(first: 2) { nodes { id storedPunchCount } } } }", 3),
    "devices": (
        "devices(first: $n) { totalCount edges { cursor node { id timeZone connection storedPunchCount site { name } "
        "punches(first: 2) { pageInfo { endCursor } nodes { id } } rejectedRecords { nodes { id } } "
        "commands(first: 2) { nodes { id device { id } } } unknownPins flags "
        "completeness { state } lastReconciledAt } } }",
        11,
    ),
    "deviceCommands": ("deviceCommands(first: $n) { nodes { id kind device { id name site { name } } } }", 3),
    "employees": (
        "employees(first: $n) { totalCount nodes { id cardNumber punches(first: 2) { nodes { id device { id } } } "
        "placements { state device { id } lastCommand { id } } } }",
        6,
    ),
    "punches": (f"punches(first: $n) {{ edges {{ cursor node {{ {PUNCH} }} }} }}", 4),
    "punchFeed": (f"punchFeed(from: BEGINNING, first: $n) {{ punches {{ {PUNCH} }} }}", 4),
    "webhookEndpoints": (
        "webhookEndpoints(first: $n) { totalCount nodes { id deliveries(first: 2) { nodes { id } } } }",
        3,
    ),
    "webhookDeliveries": (
        "webhookDeliveries(first: $n) { nodes { id payload endpoint { id } attempts { number } } }",
        4,
    ),
}


@pytest.fixture
async def crowd(caller: Caller, db: Database, vault: Vault) -> Caller:
    """A tenant with a hundred of everything."""
    sites = [Site(tenant_id=caller.tenant_id, name=f"{n}", time_zone="UTC") for n in range(100)]
    people = [Employee(tenant_id=caller.tenant_id, pin=f"{n}") for n in range(100)]
    async with db.write(caller.tenant_id) as session:
        session.add_all([*sites, *people])
    await make_endpoint(db, vault, caller.tenant_id)
    for number in range(100):
        device = await make_device(db, caller.tenant_id, site_id=sites[number].id, time_zone=None)
        view = make_view(device.id, number, pin=f"{number}")
        await add_punches(db, caller.tenant_id, device, [view])
        async with db.write(caller.tenant_id) as session:
            await roster.upsert(session, caller.tenant_id, Person(f"{number}", {}, [device.id]))
            await commands.send(session, caller.tenant_id, device.id, "refreshInfo", {})
        if number < 99:
            await make_endpoint(db, vault, caller.tenant_id, event_types=["webhook.test"])
    return caller


@pytest.fixture
async def busy(caller: Caller, db: Database, database_url: str) -> Caller:
    """A tenant with punches enough for PostgreSQL to prefer an index, and to know it."""
    for _ in range(4):
        device = await make_device(db, caller.tenant_id)
        views = [make_view(device.id, number, pin=f"{number % 20}") for number in range(1000)]
        await add_punches(db, caller.tenant_id, device, views)
    owner = await asyncpg.connect(database_url)
    await owner.execute("ANALYZE punches")
    await owner.close()
    return caller


async def test_a_page_of_100_costs_what_a_page_of_10_costs(crowd: Caller, db: Database) -> None:
    for name, (query, most) in PAGES.items():
        counts = {}
        for rows in (10, 100):
            async with noted(db) as statements:
                data = await crowd.ask(f"query ($n: Int) {{ list: {query} }}", n=rows)
            found = data["list"].get("nodes") or data["list"].get("edges") or data["list"]["punches"]
            assert len(found) == rows, name
            counts[rows] = len(statements)

        assert counts[10] == counts[100] <= most, (name, counts)


async def test_ids_of_one_kind_are_one_statement(crowd: Caller, db: Database) -> None:
    names = [node["id"] for node in (await crowd.ask("{ punches(first: 100) { nodes { id } } }"))["punches"]["nodes"]]
    counts = []

    for rows in (10, 100):
        async with noted(db) as statements:
            await crowd.ask("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", ids=names[:rows])
        counts.append(len(statements))

    assert counts == [1, 1]


async def test_a_list_without_conditions_is_written_once_from_wherever_it_goes_on(crowd: Caller) -> None:
    query = """query ($n: Int, $after: String) { devices(first: $n, after: $after) {
        pageInfo { endCursor } nodes { punches(first: $n) { nodes { id } } }
    } }"""
    first = await crowd.ask(query, n=2)
    second = await crowd.ask(query, n=2, after=first["devices"]["pageInfo"]["endCursor"])
    written = paging._keep.cache_info().misses

    third = await crowd.ask(query, n=5, after=second["devices"]["pageInfo"]["endCursor"])

    assert len(third["devices"]["nodes"]) == 5
    assert paging._keep.cache_info().misses == written


async def test_a_total_is_counted_only_when_asked_for(crowd: Caller, db: Database) -> None:
    async with noted(db) as without:
        await crowd.ask("{ devices { nodes { id } } }")
    async with noted(db) as with_total:
        await crowd.ask("{ devices { totalCount nodes { id } } }")

    assert not any("count(" in statement for statement, _ in without)
    assert any("count(" in statement for statement, _ in with_total)


@pytest.mark.parametrize(
    ("arguments", "index"),
    [
        ("", "ix_punches_tenant_id_punched_at_id"),
        ("orderBy: { field: PUNCHED_AT, direction: ASC }", "ix_punches_tenant_id_punched_at_id"),
        ("orderBy: { field: RECEIVED_AT, direction: DESC }", "ix_punches_tenant_id_received_at_id"),
        ('filter: { punchedAt: { gte: "2026-03-01T00:00:00Z" } }', "ix_punches_tenant_id_punched_at_id"),
        ("filter: { buffered: false }", "ix_punches_tenant_id_punched_at_id"),
        ('filter: { pins: ["7"] }', "ix_punches_tenant_id_pin_punched_at_id"),
        ("filter: { deviceIds: [DEVICE] }", "ix_punches_tenant_id_device_id_punched_at_id"),
    ],
)
async def test_a_page_of_punches_is_read_from_an_index_in_its_order(
    busy: Caller, db: Database, arguments: str, index: str
) -> None:
    device = (await busy.ask("{ devices(first: 1) { nodes { id } } }"))["devices"]["nodes"][0]["id"]
    window = "$first: Int, $after: String, $last: Int"
    query = f"""query ({window}) {{ punches(first: $first, after: $after, last: $last {arguments}) {{
        pageInfo {{ startCursor endCursor }}
    }} }}""".replace("DEVICE", f'"{device}"')
    early = (await busy.ask(query, first=10))["punches"]["pageInfo"]["endCursor"]
    late = (await busy.ask(query, last=10))["punches"]["pageInfo"]["startCursor"]
    async with noted(db) as asked:
        await busy.ask(query, first=10, after=early)
        await busy.ask(query, first=10, after=late)

    # The page, and whether there is anything before it: where much is, PostgreSQL likes to look at the table itself.
    page, before, _last_page, much_before = (one for one in asked if "FROM punches" in one[0])
    for statement, parameters in (page, before, much_before):
        async with db.read(busy.tenant_id) as session:
            connection = await session.connection()
            plan = "\n".join((await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)).scalars())
        assert index in plan
        assert "Sort" not in plan
        assert "ROW(" in plan.partition("Index Cond")[2].partition("\n")[0]
