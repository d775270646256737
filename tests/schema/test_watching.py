"""Devices and deliveries, watched: the bell is a hint, the table tells."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from app import ids
from app.database import Database, driver
from app.domain import delivery_feed, keys, outbox, presence
from app.domain.bindings import Contact
from app.domain.devices import Device
from app.domain.events import Cursors
from app.settings import Settings
from app.vault import Vault
from tests.factories import make_device
from tests.receiver import Answer
from tests.schema.conftest import Caller, MakeCaller
from tests.schema.feeds import Served, start
from tests.schema.sockets import Client, acknowledged
from tests.schema.world import make_world
from tests.workers.conftest import Scene, scene_in

DEVICES = """subscription ($devices: [ID!]) {
    deviceChanged(deviceIds: $devices) { id status connection site { name } }
}"""
DELIVERIES = """subscription ($endpoints: [ID!]) {
    webhookDeliveryChanged(endpointIds: $endpoints) { id status attemptCount endpoint { id } attempts { statusCode } }
}"""


async def changed(client: Client, field: str, id: str = "1") -> dict[str, Any]:
    payload = await client.next(id)
    assert "errors" not in payload, payload
    found: dict[str, Any] = payload["data"][field]
    return found


async def stands(client: Client, id: str = "1") -> tuple[str, str, str]:
    device = await changed(client, "deviceChanged", id)
    return device["id"], device["status"], device["connection"]


# ── devices ──────────────────────────────────────────────────────────────────────────────────────────


async def test_devices_come_as_they_are_and_then_as_they_change(
    here: Served, caller: Caller, db: Database, device: Device
) -> None:
    away = await make_device(db, caller.tenant_id, online=False)
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(DEVICES)
        first = {await stands(client) for _ in range(2)}

        # It calls, as a server process would note it.
        async with db.across("ingest", [caller.tenant_id]) as connection:
            contact = Contact(datetime.now(UTC), {})
            logged = await presence.note(connection, {(caller.tenant_id, away.id): contact})
        outbox.ring(here.parts.bell, here.parts.vault.bus_key, logged)
        came = await stands(client)

        # Another process's mutation, which this one hears nothing of.
        await caller.ask(
            "mutation ($id: ID!) { deviceSuspend(input: {id: $id}) { userErrors { code } } }",
            id=ids.show("dev", device.id),
        )
        suspended = await stands(client)

    one, other = ids.show("dev", device.id), ids.show("dev", away.id)
    assert first == {(one, "ACTIVE", "NEVER_SEEN"), (other, "ACTIVE", "NEVER_SEEN")}
    assert came == (other, "ACTIVE", "ONLINE")
    assert suspended == (one, "SUSPENDED", "NEVER_SEEN")


async def test_a_mutation_of_this_process_is_shown_at_once(here: Served, caller: Caller, device: Device) -> None:
    name = ids.show("dev", device.id)
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(DEVICES, variables={"devices": [name]})
        await stands(client)
        began = here.parts.bell.rung
        retire = f'mutation {{ deviceRetire(input: {{id: "{name}"}}) {{ userErrors {{ code }} }} }}'
        await client.subscribe(retire, id="2")
        seen: dict[str, Any] = {}
        while {"1", "2"} - set(seen):
            message = await client.recv()
            if message["type"] == "next":
                seen[message["id"]] = message["payload"]["data"]

    assert seen["1"]["deviceChanged"]["status"] == "RETIRED"
    assert here.parts.bell.rung > began


async def test_who_watches_some_devices_is_told_of_those_and_no_tenant_of_anothers(
    here: Served, caller: Caller, make_caller: MakeCaller, db: Database, device: Device
) -> None:
    stranger = await make_caller()
    theirs = await make_device(db, stranger.tenant_id)
    async with acknowledged(here.url, stranger.api_key) as client:
        await client.subscribe(DEVICES, variables={"devices": [ids.show("dev", device.id)]})
        await client.subscribe(DEVICES, id="2")
        assert (await stands(client, "2"))[0] == ids.show("dev", theirs.id)

        for tenant_id, row in ((caller.tenant_id, device), (stranger.tenant_id, theirs)):
            async with db.write(tenant_id) as session:
                await (await driver(session)).execute("UPDATE devices SET status = 'SUSPENDED' WHERE id = $1", row.id)
            here.parts.bell.ring(outbox.devices_channel(tenant_id), b"1")

        assert await stands(client, "2") == (ids.show("dev", theirs.id), "SUSPENDED", "NEVER_SEEN")


@pytest.mark.parametrize(("query", "scope"), [(DEVICES, "devices:read"), (DELIVERIES, "webhooks:read")])
async def test_watching_needs_the_scope(here: Served, make_caller: MakeCaller, query: str, scope: str) -> None:
    caller = await make_caller(scopes=[one for one in keys.SCOPES if one != scope])
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(query)

        assert (await client.error())["extensions"]["code"] == "permission_denied"


@pytest.mark.parametrize(
    ("query", "variables"), [(DEVICES, {"devices": ["whk_1"]}), (DELIVERIES, {"endpoints": ["nothing"]})]
)
async def test_a_wrong_id_is_the_operations_error(
    here: Served, caller: Caller, query: str, variables: dict[str, Any]
) -> None:
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(query, variables=variables)

        assert (await client.error())["extensions"]["code"] == "invalid_id"


# ── deliveries ───────────────────────────────────────────────────────────────────────────────────────


async def key_of(scene: Scene, tenant_id: UUID) -> str:
    key, secret = keys.issue(tenant_id, "watcher", keys.SCOPES, None, scene.vault)
    async with scene.db.across("operate") as connection:
        await keys.add(connection, key)
    return secret


async def until_delivered(client: Client) -> list[tuple[str, int]]:
    """How one delivery was shown to move on."""
    steps: list[tuple[str, int]] = []
    while not steps or steps[-1][0] != "DELIVERED":
        delivery = await changed(client, "webhookDeliveryChanged")
        steps.append((delivery["status"], delivery["attemptCount"]))
        assert len(delivery["attempts"]) >= delivery["attemptCount"] - 1
    return steps


@pytest.mark.parametrize("rings", [True, False], ids=["heard", "unheard"])
async def test_a_delivery_is_followed_to_its_end(
    fresh_database_url: str, vault: Vault, cursors: Cursors, settings: Settings, *, rings: bool
) -> None:
    async with AsyncExitStack() as stack:
        scene = await stack.enter_async_context(scene_in(fresh_database_url, vault, cursors))
        here = await start(stack, settings, fresh_database_url, vault)
        endpoint, other = await scene.endpoint("/hook"), await scene.endpoint("/other")
        scene.receiver.then(Answer(500))
        client = await stack.enter_async_context(acknowledged(here.url, await key_of(scene, scene.tenant_id)))
        await client.subscribe(DELIVERIES, variables={"endpoints": [ids.show("whk", endpoint.id)]})
        while not here.parts.bell._channels:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)

        async with scene.worker(bell=here.parts.bell if rings else None):
            await scene.happen()
            steps = await until_delivered(client)

        assert steps[-1] == ("DELIVERED", 2)
        assert steps == sorted(set(steps), key=lambda step: (step[1], step[0] == "DELIVERED"))
        assert other.id != endpoint.id


async def test_forged_rings_show_nobody_anything(here: Served, caller: Caller, make_caller: MakeCaller) -> None:
    world = await make_world(here.parts.db, here.parts.vault, caller.tenant_id)
    stranger = await make_caller()
    theirs = await make_world(here.parts.db, here.parts.vault, stranger.tenant_id)
    async with acknowledged(here.url, stranger.api_key) as client:
        await client.subscribe(DELIVERIES)
        await asyncio.sleep(0.5)
        channel = delivery_feed.channel(stranger.tenant_id)
        for message in (b"", b"nonsense", world.delivery.id.bytes, world.delivery.id.bytes * 1000):
            here.parts.bell.ring(channel, message)
        here.parts.bell.ring(channel, theirs.delivery.id.bytes * 2)
        here.parts.bell.ring(channel, theirs.delivery.id.bytes)

        shown = await changed(client, "webhookDeliveryChanged")
        assert shown["id"] == ids.show("whd", theirs.delivery.id)
        here.parts.bell.ring(channel, theirs.delivery.id.bytes)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await client.recv()


def test_a_ring_holds_ids_and_nothing_else() -> None:
    some = [ids.new(), ids.new()]

    assert delivery_feed.read_ring(b"".join(one.bytes for one in some)) == some
    assert delivery_feed.read_ring(b"123") == []
    assert delivery_feed.read_ring(bytes(16 * 1000)) == []
