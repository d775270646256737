"""Another tenant's things are things that do not exist; and a key sees what its scopes open, and nothing besides."""

from __future__ import annotations

from typing import Any

from app import ids
from tests.schema.conftest import Caller, MakeCaller
from tests.schema.world import World


async def test_a_tenant_with_nothing_sees_nothing(caller: Caller, world: World, make_caller: MakeCaller) -> None:
    stranger = await make_caller()

    data = await stranger.ask("""{
        sites { nodes { id } } devices { totalCount nodes { id } } employees { totalCount nodes { id } }
        deviceCommands { nodes { id } }
        punches { nodes { id } } punchFeed(from: BEGINNING) { punches { id } headLag }
        webhookEndpoints { totalCount nodes { id } } webhookDeliveries { nodes { id } } apiKeys { nodes { name } }
        viewer { tenant { deviceCount } }
    }""")

    nothing: dict[str, Any] = {"nodes": []}
    assert data == {
        "sites": nothing,
        "devices": {"totalCount": 0, "nodes": []},
        "employees": {"totalCount": 0, "nodes": []},
        "deviceCommands": nothing,
        "punches": nothing,
        "punchFeed": {"punches": [], "headLag": 0},
        "webhookEndpoints": {"totalCount": 0, "nodes": []},
        "webhookDeliveries": nothing,
        "apiKeys": {"nodes": [{"name": "first key"}]},
        "viewer": {"tenant": {"deviceCount": 0}},
    }


async def test_a_punch_brings_its_device_and_the_name_of_its_employee_and_no_more(
    caller: Caller, world: World, make_caller: MakeCaller
) -> None:
    reader = await make_caller(tenant_id=caller.tenant_id, scopes=["punches:read"])
    punch = f'punch(id: "{ids.show("pun", world.punches[0].id)}")'

    data = await reader.ask(
        f"{{ {punch} {{ device {{ serialNumber timeZone connection }} employee {{ name externalId }} }} }}"
    )

    assert data["punch"] == {
        "device": {
            "serialNumber": world.device.serial_number,
            "timeZone": "Africa/Casablanca",
            "connection": "NEVER_SEEN",
        },
        "employee": {"name": "Amina", "externalId": "hr-42"},
    }
    for further in (
        "device { site { id } }",
        "device { rejectedRecords { nodes { id } } }",
        "employee { cardNumber }",
    ):
        assert await reader.codes(f"{{ {punch} {{ {further} }} }}") == ["permission_denied"]


async def test_punches_under_a_device_or_an_employee_need_punches_read(
    caller: Caller, world: World, make_caller: MakeCaller
) -> None:
    reader = await make_caller(tenant_id=caller.tenant_id, scopes=["devices:read", "employees:read"])

    assert await reader.codes("{ devices { nodes { punches { nodes { id } } } } }") == ["permission_denied"]
    assert await reader.codes("{ employees { nodes { punches { nodes { id } } } } }") == ["permission_denied"]


async def test_where_terminals_are_pointed_needs_devices_write(make_caller: MakeCaller) -> None:
    query = "{ viewer { tenant { name enrollment { url } } } }"
    reader = await make_caller(scopes=["devices:read"])
    writer = await make_caller(scopes=["devices:write"])

    answer = (await reader.post(query)).json()

    assert answer["data"] == {"viewer": {"tenant": {"name": "Acme", "enrollment": None}}}
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["permission_denied"]
    assert (await writer.ask(query))["viewer"]["tenant"]["enrollment"]["url"].startswith("https://")
