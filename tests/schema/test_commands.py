"""Commands as a client meets them: from the mutation to the terminal and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from app import ids
from app.database import Database
from app.domain import commands
from app.domain.commands import Recipient
from app.settings import Settings
from app.vault import Vault
from protocol.adms.commands import read_results
from tests.factories import make_device
from tests.schema.conftest import Caller, MakeCaller
from tests.schema.feeds import Served, start
from tests.schema.sockets import Client, acknowledged

SEND = """mutation ($device: ID!, $command: DeviceCommandInput!) {
    done: deviceCommandSend(input: {deviceId: $device, command: $command}) {
        command { id kind status returnCode output sentAt completedAt expiresAt device { id } }
        userErrors { code path }
    }
}"""


async def send(caller: Caller, device_id: str, command: dict[str, Any]) -> dict[str, Any]:
    done: dict[str, Any] = (await caller.ask(SEND, device=device_id, command=command))["done"]
    return done


@pytest.fixture
async def here(settings: Settings, database_url: str, vault: Vault) -> AsyncIterator[Served]:
    async with AsyncExitStack() as stack:
        yield await start(stack, settings, database_url, vault)


@pytest.fixture
async def device_id(db: Database, caller: Caller) -> str:
    return ids.show("dev", (await make_device(db, caller.tenant_id)).id)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ({"reboot": True}, "reboot"),
        ({"refreshInfo": True}, "refreshInfo"),
        ({"uploadNow": True}, "uploadNow"),
        ({"syncTime": True}, "syncTime"),
        ({"unlockDoor": {}}, "unlockDoor"),
        ({"enrollFingerprint": {"pin": "0042"}}, "enrollFingerprint"),
    ],
)
async def test_every_command_can_be_sent(caller: Caller, device_id: str, command: dict[str, Any], kind: str) -> None:
    done = await send(caller, device_id, command)

    assert done["userErrors"] == []
    assert (done["command"]["kind"], done["command"]["status"]) == (kind, "QUEUED")
    listed = await caller.ask(
        "query ($id: ID!) { device(id: $id) { commands { nodes { id } } } deviceCommands { nodes { id } } }",
        id=device_id,
    )
    only = {"nodes": [{"id": done["command"]["id"]}]}
    assert listed == {"device": {"commands": only}, "deviceCommands": only}


@pytest.mark.parametrize(
    ("command", "code", "path"),
    [
        ({"reboot": False}, "invalid_input", ["input", "command", "reboot"]),
        ({"unlockDoor": {"door": 0}}, "invalid_input", ["input", "command", "unlockDoor"]),
        ({"unlockDoor": {"seconds": 255}}, "invalid_input", ["input", "command", "unlockDoor"]),
        ({"unlockDoor": {"door": 2}}, "command_not_supported", ["input", "command"]),
        ({"enrollFingerprint": {"pin": "1\tOVERWRITE=1"}}, "invalid_input", ["input", "command", "enrollFingerprint"]),
        ({"enrollFingerprint": {"pin": "1\nC:9:REBOOT"}}, "invalid_input", ["input", "command", "enrollFingerprint"]),
        ({"enrollFingerprint": {"pin": "1", "finger": 10}}, "invalid_input", ["input", "command", "enrollFingerprint"]),
    ],
)
async def test_what_cannot_be_said_is_refused(
    caller: Caller, device_id: str, command: dict[str, Any], code: str, path: list[str]
) -> None:
    done = await send(caller, device_id, command)

    assert done == {"command": None, "userErrors": [{"code": code, "path": path}]}
    assert await caller.ask("{ deviceCommands { nodes { id } } }") == {"deviceCommands": {"nodes": []}}


@pytest.mark.parametrize("command", [{}, {"reboot": True, "syncTime": True}, {"reboot": None}])
async def test_a_command_is_exactly_one(caller: Caller, device_id: str, command: dict[str, Any]) -> None:
    answer = (await caller.post(SEND, {"device": device_id, "command": command})).json()

    assert answer["errors"]
    assert await caller.ask("{ deviceCommands { nodes { id } } }") == {"deviceCommands": {"nodes": []}}


async def test_a_door_is_opened_by_keys_for_doors_and_by_no_others(make_caller: MakeCaller, db: Database) -> None:
    doors = await make_caller(scopes=["doors:unlock"])
    devices = await make_caller(scopes=["devices:write"], tenant_id=doors.tenant_id)
    device_id = ids.show("dev", (await make_device(db, doors.tenant_id)).id)
    unlock, reboot = (
        {"device": device_id, "command": {"unlockDoor": {}}},
        {"device": device_id, "command": {"reboot": True}},
    )

    assert await doors.codes(SEND, **unlock) == []
    assert await doors.codes(SEND, **reboot) == ["permission_denied"]
    assert await devices.codes(SEND, **unlock) == ["permission_denied"]
    assert await devices.codes(SEND, **reboot) == []


@pytest.mark.parametrize("status", ["PENDING", "SUSPENDED", "RETIRED"])
async def test_a_device_that_is_not_active_takes_no_commands(caller: Caller, db: Database, status: str) -> None:
    device = await make_device(db, caller.tenant_id, status=status)

    done = await send(caller, ids.show("dev", device.id), {"reboot": True})

    assert done["userErrors"] == [{"code": "device_not_active", "path": ["input", "deviceId"]}]


async def test_what_waits_for_a_device_ends_with_it(caller: Caller, device_id: str) -> None:
    await send(caller, device_id, {"reboot": True})

    await caller.ask("mutation ($id: ID!) { deviceRetire(input: {id: $id}) { device { id } } }", id=device_id)

    assert await caller.ask("{ deviceCommands { nodes { status } } }") == {
        "deviceCommands": {"nodes": [{"status": "CANCELLED"}]}
    }


async def test_a_list_of_commands_can_be_filtered(caller: Caller, db: Database, device_id: str) -> None:
    other = ids.show("dev", (await make_device(db, caller.tenant_id)).id)
    first = (await send(caller, device_id, {"reboot": True}))["command"]["id"]
    second = (await send(caller, other, {"reboot": True}))["command"]["id"]
    await caller.ask("mutation ($id: ID!) { deviceCommandCancel(input: {id: $id}) { command { id } } }", id=second)
    listed = "query ($filter: DeviceCommandFilter) { deviceCommands(filter: $filter) { nodes { id } } }"

    async def found(**condition: Any) -> list[str]:
        return [node["id"] for node in (await caller.ask(listed, filter=condition))["deviceCommands"]["nodes"]]

    assert await found() == [second, first]
    assert await found(deviceIds=[other]) == [second]
    assert await found(statuses=["QUEUED", "SENT"]) == [first]
    assert await found(deviceIds=[device_id], statuses=["CANCELLED"]) == []


async def test_a_period_that_ends_before_it_begins_is_refused(caller: Caller, device_id: str) -> None:
    data = await caller.ask(
        """mutation ($id: ID!) {
            done: deviceBackfill(input: {deviceId: $id, from: "2026-03-02T00:00:00", to: "2026-03-01T23:59:59"}) {
                command { id } userErrors { code path }
            }
        }""",
        id=device_id,
    )

    assert data["done"] == {"command": None, "userErrors": [{"code": "invalid_input", "path": ["input", "to"]}]}


CHANGED = """subscription ($devices: [ID!], $commands: [ID!]) {
    deviceCommandChanged(deviceIds: $devices, commandIds: $commands) { id kind status device { id } }
}"""


async def changes(client: Client) -> tuple[str, str]:
    payload = await client.next()
    assert "errors" not in payload, payload
    command = payload["data"]["deviceCommandChanged"]
    return command["id"], command["status"]


async def hand_out(db: Database, tenant_id: UUID, device_id: str) -> str:
    """By a server that rings nobody: the table is the truth."""
    recipient = Recipient(tenant_id, ids.read("dev", device_id), ZoneInfo("UTC"))
    async with db.across("ingest", [tenant_id]) as connection:
        line = (await commands.hand_out(connection, recipient, datetime.now(UTC))).line
    assert line is not None
    return line.decode().split(":")[1]


async def settle(db: Database, tenant_id: UUID, device_id: str, number: str) -> None:
    recipient = Recipient(tenant_id, ids.read("dev", device_id), ZoneInfo("UTC"))
    async with db.across("ingest", [tenant_id]) as connection:
        await commands.settle(connection, recipient, read_results(f"ID={number}&Return=0&CMD=X".encode()))


async def test_a_command_is_followed_from_the_mutation_to_its_end(
    here: Served, caller: Caller, db: Database, device_id: str
) -> None:
    other = ids.show("dev", (await make_device(db, caller.tenant_id)).id)
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(CHANGED, variables={"devices": [device_id]})
        await asyncio.sleep(0.5)
        await send(caller, other, {"refreshInfo": True})
        command_id = (await send(caller, device_id, {"refreshInfo": True}))["command"]["id"]

        assert await changes(client) == (command_id, "QUEUED")
        number = await hand_out(db, caller.tenant_id, device_id)
        assert await changes(client) == (command_id, "SENT")
        await settle(db, caller.tenant_id, device_id, number)
        assert await changes(client) == (command_id, "SUCCEEDED")


async def test_commands_that_are_named_come_first_as_they_are(
    here: Served, caller: Caller, db: Database, device_id: str
) -> None:
    first = (await send(caller, device_id, {"refreshInfo": True}))["command"]["id"]
    second = (await send(caller, device_id, {"uploadNow": True}))["command"]["id"]
    await settle(db, caller.tenant_id, device_id, await hand_out(db, caller.tenant_id, device_id))
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(CHANGED, variables={"commands": [first, second]})

        assert {await changes(client) for _ in range(2)} == {(first, "SUCCEEDED"), (second, "QUEUED")}
        await hand_out(db, caller.tenant_id, device_id)
        assert await changes(client) == (second, "SENT")


async def test_another_tenants_commands_are_not_followed(
    here: Served, caller: Caller, make_caller: MakeCaller, db: Database, device_id: str
) -> None:
    stranger = await make_caller()
    theirs = ids.show("dev", (await make_device(db, stranger.tenant_id)).id)
    command_id = (await send(caller, device_id, {"refreshInfo": True}))["command"]["id"]
    async with acknowledged(here.url, stranger.api_key) as client:
        await client.subscribe(CHANGED, variables={"commands": [command_id]})
        await client.subscribe(CHANGED, id="2")
        await asyncio.sleep(0.5)
        await send(caller, device_id, {"uploadNow": True})
        own = (await send(stranger, theirs, {"uploadNow": True}))["command"]["id"]

        payload = await client.next("2")
        assert payload["data"]["deviceCommandChanged"]["id"] == own


async def test_following_commands_needs_the_scope_of_devices(here: Served, make_caller: MakeCaller) -> None:
    caller = await make_caller(scopes=["punches:read"])
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(CHANGED)

        assert "permission_denied" in str(await client.recv())
