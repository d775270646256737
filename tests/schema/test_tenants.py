"""Another tenant's things are things that do not exist; and a key sees what its scopes open, and nothing besides."""

from __future__ import annotations

from typing import Any

import pytest

from app import ids
from app.database import Database
from app.domain import keys
from app.vault import Vault
from schema import schema
from tests.schema.conftest import Caller, MakeCaller
from tests.schema.world import World, make_world

#: Every way to hand an id, a serial number, a PIN or a UUID to a query.
BY_ID = [
    ("node(id: $id) { id }", "sit"),
    ("node(id: $id) { id }", "dev"),
    ("node(id: $id) { id }", "emp"),
    ("node(id: $id) { id }", "pun"),
    ("node(id: $id) { id }", "rej"),
    ("node(id: $id) { id }", "cmd"),
    ("deviceCommands(filter: { deviceIds: [$id] }) { nodes { id } }", "dev"),
    ("node(id: $id) { id }", "whk"),
    ("node(id: $id) { id }", "whd"),
    ("node(id: $id) { id }", "rep"),
    ("node(id: $id) { id }", "key"),
    ("node(id: $id) { id }", "ten"),
    ("node(id: $id) { id }", "evt"),
    ("nodes(ids: [$id, $id]) { id }", "dev"),
    ("site(id: $id) { id }", "sit"),
    ("device(id: $id) { id }", "dev"),
    ("employee(id: $id) { id }", "emp"),
    ("punch(id: $id) { id }", "pun"),
    ("webhookEndpoint(id: $id) { id }", "whk"),
    ("webhookDelivery(id: $id) { id }", "whd"),
    ("webhookReplay(id: $id) { id total }", "rep"),
    ("punches(filter: { deviceIds: [$id] }) { nodes { id } }", "dev"),
    ("punches(filter: { siteIds: [$id] }) { nodes { id } }", "sit"),
    ("punches(filter: { employeeIds: [$id] }) { nodes { id } }", "emp"),
    ("punchFeed(from: BEGINNING, filter: { deviceIds: [$id] }) { punches { id } }", "dev"),
    ("punchFeed(from: BEGINNING, filter: { siteIds: [$id] }) { punches { id } }", "sit"),
    ("punchFeed(from: BEGINNING, filter: { employeeIds: [$id] }) { punches { id } }", "emp"),
    ("devices(filter: { siteIds: [$id] }) { totalCount nodes { id } }", "sit"),
    ("webhookDeliveries(filter: { endpointIds: [$id] }) { nodes { id } }", "whk"),
    ("webhookDeliveries(filter: { eventIds: [$id] }) { nodes { id } }", "evt"),
]


@pytest.mark.parametrize(("field", "prefix"), BY_ID)
async def test_an_id_of_another_tenant_gives_exactly_what_a_made_up_id_gives(  # noqa: PLR0917
    caller: Caller,
    world: World,
    make_caller: MakeCaller,
    db: Database,
    vault: Vault,
    field: str,
    prefix: ids.Prefix,
) -> None:
    stranger = await make_caller()
    await make_world(db, vault, stranger.tenant_id)
    theirs = (await _ids(caller, world))[prefix]
    made_up = ids.show(prefix, ids.new())
    query = f"query ($id: ID!) {{ answer: {field} }}"

    to_theirs = await stranger.post(query, {"id": theirs})
    to_made_up = await stranger.post(query, {"id": made_up})

    assert _anonymous(to_theirs.json(), theirs) == _anonymous(to_made_up.json(), made_up)
    assert (to_theirs.status_code, to_theirs.headers.keys()) == (to_made_up.status_code, to_made_up.headers.keys())
    # And it is the id that made the difference: its owner finds something.
    if prefix != "evt" or "filter" in field:
        assert (await caller.post(query, {"id": theirs})).json() != to_theirs.json()


@pytest.mark.parametrize("field", ["device(serialNumber: $it)", "employee(pin: $it)", "webhookDelivery(uuid: $it)"])
async def test_other_names_of_another_tenants_things_are_unknown_too(
    caller: Caller, world: World, make_caller: MakeCaller, field: str
) -> None:
    stranger = await make_caller()
    name = {"dev": world.device.serial_number, "emp": "0042", "web": str(world.delivery.id)}[field[:3]]
    query = f"query ($it: String) {{ answer: {field} {{ id }} }}"

    answer = (await stranger.post(query, {"it": name})).json()

    assert answer["data"] == {"answer": None}
    assert [error["extensions"]["status"] for error in answer["errors"]] == [404]
    assert (await caller.ask(query, it=name))["answer"] is not None


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
    key = (await caller.ask("{ viewer { apiKey { id } } }"))["viewer"]["apiKey"]["id"]
    return {
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


def _anonymous(answer: dict[str, Any], name: str) -> dict[str, Any]:
    """The answer without the id that was asked for and the id of the request."""
    for error in answer.get("errors", []):
        error["message"] = error["message"].replace(name, "…")
        del error["extensions"]["requestId"]
    return answer
