"""Commands as a client meets them: from the mutation to the terminal and back."""

from __future__ import annotations

from typing import Any

import pytest

from app import ids
from app.database import Database
from tests.factories import make_device
from tests.schema.conftest import Caller, MakeCaller

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
