"""The live feed as clients get it: whole stack, real sockets, every cursor checked."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from app import migrations
from app.database import Database
from app.domain import keys, outbox, tenants
from app.domain.devices import Device
from app.embedded import EmbeddedPostgres
from app.settings import Settings
from app.vault import Vault
from schema import operations
from tests import factories
from tests.schema.conftest import Caller
from tests.schema.feeds import FEED, Served, batch, pins, start
from tests.schema.sockets import PATIENCE, acknowledged
from tests.schema.world import World, add_punches, make_view


async def test_the_first_batch_comes_at_once_and_the_next_begins_where_it_ended(
    here: Served, caller: Caller, world: World
) -> None:
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(FEED)
        first = await batch(client)
        assert {**first, "cursor": None} == {
            "cursor": None,
            "previousCursor": None,
            "caughtUp": True,
            "headLag": 0,
            "punches": [],
        }

        await here.punch(caller.tenant_id, world.device, 42, pin="00")
        second = await batch(client)

    assert (second["previousCursor"], second["caughtUp"], second["headLag"]) == (first["cursor"], True, 0)
    (punch,) = second["punches"]
    assert {**punch, "id": None} == {
        "id": None,
        "pin": "0042",
        "raw": "0042\t2026-03-02 09:42:00\t0\t15",
        "punchedAt": "2026-03-02T09:42:00.000Z",
        "direction": "CHECK_IN",
        "device": {"serialNumber": world.device.serial_number, "site": {"name": "Casablanca"}},
        "employee": {"name": "Amina"},
    }


async def test_from_the_beginning_it_comes_in_batches_that_say_what_is_left(
    here: Served, caller: Caller, device: Device
) -> None:
    made = await here.punch(caller.tenant_id, device, *range(7))

    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(FEED, variables={"from": "BEGINNING", "maxBatch": 3})
        got = [await batch(client) for _ in range(3)]

    assert [pins(each) for each in got] == [made[:3], made[3:6], made[6:]]
    assert [(each["headLag"], each["caughtUp"]) for each in got] == [(4, False), (1, False), (0, True)]
    assert [each["previousCursor"] for each in got] == [None, got[0]["cursor"], got[1]["cursor"]]


async def test_after_a_drop_it_goes_on_where_it_was(here: Served, caller: Caller, device: Device) -> None:
    await here.punch(caller.tenant_id, device, 1)
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(FEED, variables={"from": "BEGINNING"})
        cursor = (await batch(client))["cursor"]
        client.connection.transport.abort()
    missed = await here.punch(caller.tenant_id, device, 2, 3)

    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(FEED, variables={"after": cursor, "from": "NOW"})
        resumed = await batch(client)
        live = await here.punch(caller.tenant_id, device, 4)
        after = await batch(client)

    assert (resumed["previousCursor"], pins(resumed)) == (cursor, missed)
    assert (after["previousCursor"], pins(after)) == (resumed["cursor"], live)


async def test_push_and_pull_share_their_cursors(here: Served, caller: Caller, device: Device) -> None:
    await here.punch(caller.tenant_id, device, 1, 2)
    query = "query($after: String) { punchFeed(after: $after, from: BEGINNING, first: 1) { cursor punches { pin } } }"

    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(query, id="pull")
        pulled = (await client.next("pull"))["data"]["punchFeed"]
        await client.complete("pull")
        await client.subscribe(FEED, variables={"after": pulled["cursor"]})
        pushed = await batch(client)
        await client.subscribe(query, id="pull", variables={"after": pushed["cursor"]})
        last = (await client.next("pull"))["data"]["punchFeed"]

    assert (pins(pulled), pins(pushed)) == (["71"], ["72"])
    assert last == {"cursor": pushed["cursor"], "punches": []}


async def test_a_filter_leaves_out_and_moves_on(here: Served, caller: Caller, device: Device) -> None:
    await here.punch(caller.tenant_id, device, 1, 2, 3)

    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(FEED, variables={"from": "BEGINNING", "filter": {"pins": ["72"]}})
        first = await batch(client)
        await client.subscribe(FEED, id="2", variables={"after": first["cursor"]})
        rest = await batch(client, "2")

    assert pins(first) == ["72"]
    assert (pins(rest), rest["caughtUp"]) == ([], True)


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"after": "nonsense"}, "cursor_invalid"),
        ({"after": ""}, "cursor_invalid"),
        ({"maxBatch": 101}, "page_too_large"),
        ({"maxBatch": 0}, "invalid_input"),
        ({"maxBatch": -1}, "invalid_input"),
        ({"filter": {"deviceIds": ["sit_00000000000000000000000000"]}}, "invalid_id"),
        ({"from": "YESTERDAY"}, "graphql_validation_failed"),
    ],
)
async def test_a_mistake_is_the_operations_only_message(
    here: Served, caller: Caller, variables: dict[str, Any], code: str
) -> None:
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(FEED, variables=variables)

        assert (await client.error())["extensions"]["code"] == code


async def test_another_tenants_cursor_is_no_cursor(here: Served, caller: Caller) -> None:
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(FEED, variables={"after": here.parts.cursors.write(uuid4(), 0)})

        assert (await client.error())["extensions"]["code"] == "cursor_invalid"


async def test_an_expired_cursor_comes_with_the_oldest(
    here: Served, caller: Caller, device: Device, postgres: EmbeddedPostgres
) -> None:
    await here.punch(caller.tenant_id, device, 1, 2, 3)
    connection = await asyncpg.connect(postgres.superuser_url.rsplit("/", 1)[0] + "/" + postgres.url.rsplit("/", 1)[1])
    await connection.execute("DELETE FROM events WHERE tenant_id = $1 AND position < 3", caller.tenant_id)
    await connection.close()

    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(FEED, variables={"after": here.parts.cursors.write(caller.tenant_id, 1)})
        extensions = (await client.error())["extensions"]
        assert (extensions["code"], extensions["status"]) == ("cursor_expired", 410)

        await client.subscribe(FEED, variables={"after": extensions["oldestCursor"]})
        assert pins(await batch(client)) == ["73"]


async def test_it_needs_the_scope(here: Served, caller: Caller, db: Database, vault: Vault) -> None:
    key, secret = keys.issue(caller.tenant_id, "weak", ["devices:read"], None, vault)
    async with db.across("operate") as connection:
        await keys.add(connection, key)

    async with acknowledged(here.url, secret) as client:
        await client.subscribe(FEED)

        assert (await client.error())["extensions"]["code"] == "permission_denied"


async def test_a_second_tenant_sees_nothing(here: Served, caller: Caller, device: Device, db: Database) -> None:
    async with db.across("operate") as connection:
        other = await tenants.create(connection, here.parts.vault, "Other")

    async with acknowledged(here.url, other.api_key) as theirs, acknowledged(here.url, caller.api_key) as ours:
        for client in (theirs, ours):
            await client.subscribe(FEED, variables={"from": "BEGINNING"})
            await batch(client)
        await here.punch(caller.tenant_id, device, 1)
        assert pins(await batch(ours)) == ["71"]

        await theirs.send({"type": "ping"})
        assert await theirs.recv() == {"type": "pong"}


async def test_completing_or_dropping_ends_the_tail(here: Served, caller: Caller) -> None:
    async def gone() -> None:
        async with asyncio.timeout(PATIENCE):
            while here.parts.feed.watched:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(FEED)
        await batch(client)
        assert here.parts.feed.watched == 1
        await client.send({"type": "complete", "id": "1"})
        await gone()

        await client.subscribe(FEED)
        await batch(client)
        client.connection.transport.abort()
    await gone()


async def test_a_batch_waits_for_postgresql_and_is_not_lost(
    settings: Settings, vault: Vault, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with AsyncExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), options={"fsync": "off"}))
        await migrations.upgrade(postgres.url)
        here = await start(stack, settings, postgres.url, vault)
        async with here.parts.db.across("operate") as connection:
            created = await tenants.create(connection, vault, "Acme")
        tenant_id = created.tenant.id
        device = await factories.make_device(here.parts.db, tenant_id)
        client = await stack.enter_async_context(acknowledged(here.url, created.api_key))
        await client.subscribe(FEED)
        first = await batch(client)

        # Committed, and heard of only when the rest of it cannot be read.
        logged = await add_punches(here.parts.db, tenant_id, device, [make_view(device.id)])
        await asyncio.to_thread(postgres.stop, "immediate")
        outbox.ring(here.parts.bell, vault.bus_key, logged)
        await client.send({"type": "ping"})
        assert await client.recv() == {"type": "pong"}
        await asyncio.sleep(0.5)
        await asyncio.to_thread(postgres.start)

        second = await batch(client)

    assert (second["previousCursor"], pins(second)) == (first["cursor"], ["0042"])
    assert second["punches"][0]["device"]["serialNumber"] == device.serial_number


async def test_what_runs_on_a_socket_is_paid_like_everything_else(
    settings: Settings, database_url: str, vault: Vault, caller: Caller
) -> None:
    few = settings.model_copy(update={"api_points": 25, "api_restore": 0.001})
    async with AsyncExitStack() as stack:
        here = await start(stack, few, database_url, vault)
        async with acknowledged(here.url, caller.api_key) as client:
            await client.subscribe(FEED)
            first = await batch(client)
            await client.subscribe("{ devices(first: 11) { nodes { id } } rateLimit { cost remaining } }", "2")
            query = await client.next("2")
            await client.complete("2")
            await client.subscribe(FEED, "3")
            await client.subscribe("{ devices(first: 30) { nodes { id } } }", "5")
            refused = sorted([await client.recv() for _ in range(2)], key=lambda message: str(message["id"]))

    assert first["caughtUp"] is True
    assert query["data"]["rateLimit"] == {"cost": 13, "remaining": 2}
    # Eleven devices were paid and none was there.
    assert query["extensions"]["cost"] == {"requested": 13, "actual": 2}
    codes = [message["payload"][0]["extensions"]["code"] for message in refused if message["type"] == "error"]
    assert codes == ["query_too_complex"]
    assert [message["type"] for message in refused] == ["next", "error"]


async def test_a_query_on_a_socket_that_takes_too_long_is_given_up_and_a_feed_goes_on(
    settings: Settings, database_url: str, vault: Vault, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "DEADLINE", 0.9)
    async with AsyncExitStack() as stack:
        here = await start(stack, settings, database_url, vault)
        client = await stack.enter_async_context(acknowledged(here.url, caller.api_key))
        await client.subscribe(FEED, "feed")
        await client.next("feed")
        blocker = await asyncpg.connect(database_url)
        try:
            async with blocker.transaction():
                await blocker.execute("LOCK TABLE sites IN ACCESS EXCLUSIVE MODE")
                await client.subscribe("{ sites { nodes { id } } }", "late")
                late = await client.recv()
        finally:
            await blocker.close()
        await client.subscribe("{ punchFeed(waitMs: 1000) { caughtUp } }", "patient")
        patient = await client.next("patient")
        await client.complete("patient")

    assert (late["id"], late["type"]) == ("late", "error")
    assert late["payload"][0]["extensions"]["code"] == "operation_timed_out"
    assert patient["data"]["punchFeed"]["caughtUp"] is True


async def test_a_subscription_that_cannot_be_paid_does_not_begin(
    settings: Settings, database_url: str, vault: Vault, caller: Caller
) -> None:
    few = settings.model_copy(update={"api_points": 15, "api_restore": 0.001})
    async with AsyncExitStack() as stack:
        here = await start(stack, few, database_url, vault)
        async with acknowledged(here.url, caller.api_key) as client:
            await client.subscribe(FEED)
            await batch(client)
            await client.subscribe(FEED, "2")

            told = (await client.error("2"))["extensions"]

    assert (told["code"], told["cost"], told["retryAfter"]) == ("rate_limited", 10, 5000)
