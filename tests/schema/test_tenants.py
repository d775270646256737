"""Another tenant's things are things that do not exist; and a key sees what its scopes open, and nothing besides."""

from __future__ import annotations

from typing import Any

import pytest

from app import ids
from app.domain import keys
from schema import schema
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


SCOPES = {
    "site": ("devices:read", 'site(id: "sit_x") { id }'),
    "sites": ("devices:read", "sites { nodes { id } }"),
    "device": ("devices:read", 'device(serialNumber: "x") { id }'),
    "devices": ("devices:read", "devices { nodes { id } }"),
    "deviceCommands": ("devices:read", "deviceCommands { nodes { id } }"),
    "employee": ("employees:read", 'employee(pin: "x") { id }'),
    "employees": ("employees:read", "employees { nodes { id } }"),
    "punch": ("punches:read", 'punch(id: "pun_x") { id }'),
    "punches": ("punches:read", "punches { nodes { id } }"),
    "punchFeed": ("punches:read", "punchFeed { cursor }"),
    "webhookEndpoint": ("webhooks:read", 'webhookEndpoint(id: "whk_x") { id }'),
    "webhookEndpoints": ("webhooks:read", "webhookEndpoints { nodes { id } }"),
    "webhookDelivery": ("webhooks:read", 'webhookDelivery(id: "whd_x") { id }'),
    "webhookReplay": ("webhooks:read", 'webhookReplay(id: "rep_x") { id }'),
    "webhookDeliveries": ("webhooks:read", "webhookDeliveries { nodes { id } }"),
    "apiKeys": ("keys:write", "apiKeys { nodes { id } }"),
    "auditLog": ("audit:read", "auditLog { nodes { id } }"),
}
#: Open to every key; what `node` finds asks for its own scope.
OPEN = {"viewer", "rateLimit", "node", "nodes"}


def test_every_root_query_is_in_the_table_of_scopes() -> None:
    query_type = schema._schema.query_type

    assert query_type is not None
    assert set(query_type.fields) == set(SCOPES) | OPEN


@pytest.mark.parametrize("field", SCOPES)
async def test_a_root_query_needs_its_scope_and_no_other(make_caller: MakeCaller, field: str) -> None:
    scope, query = SCOPES[field]
    without = await make_caller(scopes=[name for name in keys.SCOPES if name != scope])
    only = await make_caller(scopes=[scope])

    response = await without.post(f"{{ {query} }}")

    assert response.status_code == 200
    assert response.json()["data"] == {field: None}
    assert [error["extensions"]["code"] for error in response.json()["errors"]] == ["permission_denied"]
    assert response.json()["errors"][0]["extensions"]["status"] == 403
    assert "permission_denied" not in await only.codes(f"{{ {query} }}")


async def test_every_key_may_ask_who_it_is(make_caller: MakeCaller) -> None:
    caller = await make_caller(scopes=["audit:read"])

    data = await caller.ask("{ viewer { tenant { id deviceCount } apiKey { scopes } } }")

    assert data["viewer"]["tenant"] == {"id": ids.show("ten", caller.tenant_id), "deviceCount": 0}
    assert data["viewer"]["apiKey"] == {"scopes": ["audit:read"]}


@pytest.mark.parametrize(
    ("prefix", "scope"),
    [
        ("key", "keys:write"),
        ("sit", "devices:read"),
        ("dev", "devices:read"),
        ("rej", "devices:read"),
        ("cmd", "devices:read"),
        ("emp", "employees:read"),
        ("pun", "punches:read"),
        ("whk", "webhooks:read"),
        ("whd", "webhooks:read"),
        ("rep", "webhooks:read"),
        ("aud", "audit:read"),
    ],
)
async def test_a_node_asks_for_the_scope_of_its_kind(
    caller: Caller, world: World, make_caller: MakeCaller, prefix: ids.Prefix, scope: str
) -> None:
    name = (await _ids(caller, world))[prefix]
    query = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    without = await make_caller(tenant_id=caller.tenant_id, scopes=[other for other in keys.SCOPES if other != scope])
    only = await make_caller(tenant_id=caller.tenant_id, scopes=[scope])

    # Whether it exists is not told either.
    assert await without.codes(query, ids=[name, ids.show(prefix, ids.new())]) == ["permission_denied"] * 2
    assert (await only.ask(query, ids=[name]))["nodes"] == [{"id": name}]


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


async def _ids(caller: Caller, world: World) -> dict[ids.Prefix, str]:
    found = await caller.ask("{ viewer { apiKey { id } } auditLog(first: 1) { nodes { id } } }")
    key, entry = found["viewer"]["apiKey"]["id"], found["auditLog"]["nodes"][0]["id"]
    return {
        "aud": entry,
        "ten": ids.show("ten", world.tenant_id),
        "key": key,
        "sit": ids.show("sit", world.site.id),
        "dev": ids.show("dev", world.device.id),
        "rej": ids.show("rej", world.rejected.id),
        "emp": ids.show("emp", world.employee.id),
        "pun": ids.show("pun", world.punches[0].id),
        "whk": ids.show("whk", world.endpoint.id),
        "whd": ids.show("whd", world.delivery.id),
        "rep": ids.show("rep", world.replay.id),
        "evt": ids.show("evt", world.delivery.event_id),
        "cmd": ids.show("cmd", world.command.id),
    }
