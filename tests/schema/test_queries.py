"""What each query answers."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app import ids
from app.database import Database
from app.domain.employees import Employee
from app.domain.events import timestamp
from app.settings import Settings
from app.vault import Vault
from protocol.adms.records import decode
from schema import queries
from tests.factories import make_device
from tests.schema.conftest import PUBLIC_URL, Caller, MakeCaller
from tests.schema.feeds import start
from tests.schema.world import World, add_punches, make_view, reject

PUNCH = """
    id pin punchedAt localTime timeZone receivedAt direction stateCode verifyMode verifyCode workCode
    temperatureCelsius maskWorn buffered flags raw device { id } employee { id name }
"""


async def test_the_viewer_sees_its_tenant_and_its_key(caller: Caller, world: World) -> None:
    data = await caller.ask("""{ viewer {
        tenant { id name plan deviceCount pricePerDevice { amount currency } enrollment { host url } }
        apiKey { name prefix scopes revokedAt expiresAt }
    } }""")

    tenant = data["viewer"]["tenant"]
    assert tenant.pop("enrollment")["url"].startswith(f"{PUBLIC_URL}/d/")
    assert tenant == {
        "id": ids.show("ten", caller.tenant_id),
        "name": "Acme",
        "plan": "TRIAL",
        "deviceCount": 1,
        "pricePerDevice": {"amount": "200", "currency": "USD"},
    }
    key = data["viewer"]["apiKey"]
    assert (key["name"], key["prefix"]) == ("first key", caller.api_key[:12])
    assert (key["revokedAt"], key["expiresAt"]) == (None, None)


async def test_a_punch_shows_the_terminals_words_and_ours(caller: Caller, world: World) -> None:
    punch_id = ids.show("pun", world.punches[0].id)

    data = await caller.ask(f"query ($id: ID!) {{ punch(id: $id) {{ {PUNCH} }} }}", id=punch_id)

    assert data["punch"] == {
        "id": punch_id,
        "pin": "0042",
        "punchedAt": "2026-03-02T09:00:00.000Z",
        "localTime": "2026-03-02T09:00:00",
        "timeZone": "UTC",
        "receivedAt": "2026-03-02T09:00:02.000Z",
        "direction": "CHECK_IN",
        "stateCode": 0,
        "verifyMode": "FACE",
        "verifyCode": 15,
        "workCode": None,
        "temperatureCelsius": None,
        "maskWorn": None,
        "buffered": False,
        "flags": [],
        "raw": "0042\t2026-03-02 09:00:00\t0\t15",
        "device": {"id": ids.show("dev", world.device.id)},
        "employee": {"id": ids.show("emp", world.employee.id), "name": "Amina"},
    }


async def test_an_employee_who_comes_later_owns_the_punches_before(caller: Caller, world: World, db: Database) -> None:
    query = '{ punches(filter: { pins: ["7"] }) { nodes { employee { name } } } }'
    before = await caller.ask(query)

    async with db.write(caller.tenant_id) as session:
        session.add(Employee(tenant_id=caller.tenant_id, pin="7", name="Bela"))

    after = await caller.ask(query)
    assert before["punches"]["nodes"] == [{"employee": None}]
    assert after["punches"]["nodes"] == [{"employee": {"name": "Bela"}}]


async def test_a_feed_and_a_list_show_the_same_punch(caller: Caller, world: World) -> None:
    data = await caller.ask(f"""{{
        punches(orderBy: {{ field: RECEIVED_AT, direction: ASC }}) {{ nodes {{ {PUNCH} }} }}
        punchFeed(from: BEGINNING) {{ punches {{ {PUNCH} }} }}
    }}""")

    assert len(data["punches"]["nodes"]) == 3
    assert data["punchFeed"]["punches"] == data["punches"]["nodes"]


async def test_a_device_takes_its_zone_from_its_site_until_it_has_its_own(
    caller: Caller, world: World, db: Database
) -> None:
    own = await make_device(db, caller.tenant_id, site_id=world.site.id, time_zone="Europe/Paris")
    homeless = await make_device(db, caller.tenant_id, status="PENDING", time_zone=None)

    data = await caller.ask("{ devices { nodes { id timeZone site { name } } } }")

    assert data["devices"]["nodes"] == [
        {"id": ids.show("dev", world.device.id), "timeZone": "Africa/Casablanca", "site": {"name": "Casablanca"}},
        {"id": ids.show("dev", own.id), "timeZone": "Europe/Paris", "site": {"name": "Casablanca"}},
        {"id": ids.show("dev", homeless.id), "timeZone": None, "site": None},
    ]


async def test_a_device_is_online_until_a_minute_after_the_call_it_owes(
    caller: Caller, world: World, db: Database
) -> None:
    now = datetime.now(UTC)
    await make_device(db, caller.tenant_id, name="prompt", last_seen_at=now)
    await make_device(db, caller.tenant_id, name="late", last_seen_at=now - timedelta(seconds=65))
    await make_device(db, caller.tenant_id, name="lost", last_seen_at=now - timedelta(seconds=75))

    data = await caller.ask("""{
        all: devices { nodes { name connection } }
        online: devices(filter: { connection: ONLINE }) { totalCount nodes { name } }
        offline: devices(filter: { connection: OFFLINE }) { totalCount nodes { name } }
        never: devices(filter: { connection: NEVER_SEEN }) { totalCount nodes { name } }
    }""")

    assert {node["name"]: node["connection"] for node in data["all"]["nodes"]} == {
        "Gate": "NEVER_SEEN",
        "prompt": "ONLINE",
        "late": "ONLINE",
        "lost": "OFFLINE",
    }
    assert data["online"] == {"totalCount": 2, "nodes": [{"name": "prompt"}, {"name": "late"}]}
    assert data["offline"] == {"totalCount": 1, "nodes": [{"name": "lost"}]}
    assert data["never"] == {"totalCount": 1, "nodes": [{"name": "Gate"}]}


async def test_a_device_is_found_by_serial_number_and_the_living_one_goes_first(caller: Caller, db: Database) -> None:
    retired = await make_device(db, caller.tenant_id, serial_number="SN-1", status="RETIRED")
    living = await make_device(db, caller.tenant_id, serial_number="SN-1")
    await make_device(db, caller.tenant_id, serial_number="SN-2", status="RETIRED")
    last = await make_device(db, caller.tenant_id, serial_number="SN-2", status="RETIRED")

    data = await caller.ask("""{
        one: device(serialNumber: "SN-1") { id status } two: device(serialNumber: "SN-2") { id status }
        all: devices { totalCount }
    }""")

    assert data["one"] == {"id": ids.show("dev", living.id), "status": "ACTIVE"}
    assert data["two"] == {"id": ids.show("dev", last.id), "status": "RETIRED"}
    assert data["all"] == {"totalCount": 4}
    assert retired.id != living.id


async def test_what_could_not_be_read_is_shown_with_its_reason(caller: Caller, world: World) -> None:
    data = await caller.ask(
        "{ devices { nodes { storedPunchCount rejectedRecords { nodes { id table reason raw } } } } }"
    )

    assert data["devices"]["nodes"] == [
        {
            "storedPunchCount": 3,
            "rejectedRecords": {
                "nodes": [
                    {
                        "id": ids.show("rej", world.rejected.id),
                        "table": "ATTLOG",
                        "reason": "no time",
                        "raw": decode(world.rejected.raw)[0],
                    }
                ]
            },
        }
    ]


@pytest.mark.parametrize(
    ("language", "charset", "raw", "text"),
    [
        (None, None, "früh".encode(), "früh"),
        (None, None, "张伟".encode("gb18030"), "张伟"),
        (None, None, b"\xff\xfe?", "ÿþ?"),
        ("66", None, "محمد علي".encode("windows-1256"), "محمد علي"),
        ("66", "utf-8", "محمد علي".encode(), "محمد علي"),
        (None, "windows-1251", "Анна".encode("windows-1251"), "Анна"),
    ],
)
async def test_a_record_is_shown_in_the_code_page_of_its_terminal(  # noqa: PLR0917  a case has four
    caller: Caller, db: Database, language: str | None, charset: str | None, raw: bytes, text: str
) -> None:
    device = await make_device(db, caller.tenant_id, language=language, charset=charset)
    other = await make_device(db, caller.tenant_id, language="116")
    rejected = [await reject(db, caller.tenant_id, one.id, raw) for one in (device, other)]
    await add_punches(db, caller.tenant_id, device, [make_view(device.id, raw=raw)])

    data = await caller.ask(
        "query ($device: ID!, $id: ID!) { device(id: $device) { rejectedRecords { nodes { raw } } } "
        "node(id: $id) { ... on RejectedRecord { raw } } punches { nodes { raw } } "
        "punchFeed(from: BEGINNING) { punches { raw } } }",
        device=ids.show("dev", device.id),
        id=ids.show("rej", rejected[0].id),
    )

    shown = {"raw": text}
    assert data["device"]["rejectedRecords"]["nodes"] == [shown]
    assert data["node"] == shown
    assert data["punches"]["nodes"] == data["punchFeed"]["punches"] == [shown]


async def test_an_employee_is_found_by_id_and_by_pin(caller: Caller, world: World) -> None:
    shown = "id pin name externalId cardNumber privilege punches { nodes { pin } }"

    data = await caller.ask(
        f'query ($id: ID!) {{ one: employee(id: $id) {{ {shown} }} two: employee(pin: "0042") {{ {shown} }} }}',
        id=ids.show("emp", world.employee.id),
    )

    assert data["one"] == data["two"]
    assert data["one"] == {
        "id": ids.show("emp", world.employee.id),
        "pin": "0042",
        "name": "Amina",
        "externalId": "hr-42",
        "cardNumber": "778899",
        "privilege": "ADMIN",
        "punches": {"nodes": [{"pin": "0042"}, {"pin": "0042"}]},
    }


@pytest.mark.parametrize(
    ("search", "pins"),
    [("004", ["0042"]), ("42", ["0042"]), ("MIN", ["0042"]), ("100%", ["5"]), ("_", []), ("2", ["0042"]), ("x", [])],
)
async def test_a_search_matches_the_start_of_the_pin_or_any_part_of_name_or_external_id(
    caller: Caller, world: World, db: Database, search: str, pins: list[str]
) -> None:
    async with db.write(caller.tenant_id) as session:
        session.add(Employee(tenant_id=caller.tenant_id, pin="5", name="100% Bela"))

    data = await caller.ask(
        "query ($filter: EmployeeFilter) { employees(filter: $filter) { totalCount nodes { pin } } }",
        filter={"search": search},
    )

    assert [node["pin"] for node in data["employees"]["nodes"]] == pins
    assert data["employees"]["totalCount"] == len(pins)


async def test_a_delivery_shows_the_body_that_is_sent_and_every_attempt(caller: Caller, world: World) -> None:
    shown = """id uuid eventType eventId status attemptCount nextAttemptAt completedAt payload endpoint { id }
        attempts { number durationMs statusCode error responseBody }"""

    data = await caller.ask(
        f"query ($id: ID!, $uuid: String!) {{ one: webhookDelivery(id: $id) {{ {shown} }}"
        f" two: webhookDelivery(uuid: $uuid) {{ {shown} }} }}",
        id=ids.show("whd", world.delivery.id),
        uuid=str(world.delivery.id).upper(),
    )

    delivery = data["one"]
    assert data["two"] == delivery
    assert delivery["payload"]["id"] == delivery["eventId"] == ids.show("evt", world.delivery.event_id)
    assert delivery["payload"]["data"]["id"] == ids.show("pun", world.punches[0].id)
    assert delivery["uuid"] == str(world.delivery.id)
    assert delivery["endpoint"] == {"id": ids.show("whk", world.endpoint.id)}
    assert (delivery["status"], delivery["attemptCount"], delivery["completedAt"]) == ("PENDING", 1, None)
    assert delivery["nextAttemptAt"] is not None
    assert delivery["attempts"] == [
        {"number": 1, "durationMs": 10_000, "statusCode": None, "error": "timeout", "responseBody": None}
    ]


async def test_a_deleted_endpoint_is_gone_and_its_deliveries_stay(caller: Caller, world: World, db: Database) -> None:
    async with db.write(caller.tenant_id) as session:
        endpoint = await session.get(type(world.endpoint), (caller.tenant_id, world.endpoint.id))
        assert endpoint is not None
        endpoint.deleted_at = datetime.now(UTC)

    data = await caller.ask(
        """query ($id: ID!) {
            node(id: $id) { id }
            webhookEndpoints { totalCount nodes { id } }
            webhookDeliveries { nodes { endpoint { id } } }
        }""",
        id=ids.show("whk", world.endpoint.id),
    )

    assert data == {
        "node": None,
        "webhookEndpoints": {"totalCount": 0, "nodes": []},
        "webhookDeliveries": {"nodes": [{"endpoint": None}] * 3},
    }


NODES = {
    "ten": "Tenant",
    "key": "ApiKey",
    "sit": "Site",
    "dev": "Device",
    "rej": "RejectedRecord",
    "emp": "Employee",
    "pun": "Punch",
    "whk": "WebhookEndpoint",
    "whd": "WebhookDelivery",
    "rep": "WebhookReplay",
}


async def test_every_node_is_found_by_its_id(caller: Caller, world: World) -> None:
    wanted = await _ids_of_everything(caller, world)

    data = await caller.ask(
        'query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id } node(id: "' + wanted[0] + '") { __typename id } }',
        ids=wanted,
    )

    assert data["nodes"] == [{"__typename": NODES[name[:3]], "id": name} for name in wanted]
    assert data["node"] == data["nodes"][0]


async def test_nodes_answer_in_the_order_asked_with_null_for_what_is_not_there(caller: Caller, world: World) -> None:
    site, stranger = ids.show("sit", world.site.id), ids.show("sit", ids.new())
    event, command = ids.show("evt", world.delivery.event_id), ids.show("cmd", ids.new())

    data = await caller.ask(
        "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", ids=[stranger, site, event, site, command]
    )

    assert data["nodes"] == [None, {"id": site}, None, {"id": site}, None]


async def test_one_bad_id_among_nodes_spoils_no_other(caller: Caller, world: World) -> None:
    site = ids.show("sit", world.site.id)

    answer = (
        await caller.post("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", {"ids": ["sit_", site, "nonsense"]})
    ).json()

    assert answer["data"] == {"nodes": [None, {"id": site}, None]}
    assert [(error["path"], error["extensions"]["code"]) for error in answer["errors"]] == [
        (["nodes", 0], "invalid_id"),
        (["nodes", 2], "invalid_id"),
    ]


SINGULAR = [
    ("site", "sit", "site_not_found"),
    ("device", "dev", "device_not_found"),
    ("employee", "emp", "employee_not_found"),
    ("punch", "pun", "punch_not_found"),
    ("webhookEndpoint", "whk", "webhook_endpoint_not_found"),
    ("webhookDelivery", "whd", "webhook_delivery_not_found"),
    ("webhookReplay", "rep", "webhook_replay_not_found"),
]


@pytest.mark.parametrize(("field", "prefix", "code"), SINGULAR)
async def test_an_unknown_id_is_null_and_a_404(caller: Caller, field: str, prefix: ids.Prefix, code: str) -> None:
    response = await caller.post(
        f"query ($id: ID!) {{ {field}(id: $id) {{ id }} }}", {"id": ids.show(prefix, ids.new())}
    )

    answer = response.json()
    assert answer["data"] == {field: None}
    assert [error["path"] for error in answer["errors"]] == [[field]]
    assert answer["errors"][0]["extensions"] == {
        "code": code,
        "status": 404,
        "docUrl": f"{PUBLIC_URL}/docs/errors/{code}",
        "requestId": response.headers["x-request-id"],
        "retryable": False,
    }


@pytest.mark.parametrize(("field", "prefix", "code"), SINGULAR)
async def test_an_id_of_another_kind_is_invalid(caller: Caller, field: str, prefix: ids.Prefix, code: str) -> None:
    query = f"query ($id: ID!) {{ {field}(id: $id) {{ id }} }}"

    for wrong in (ids.show("evt", ids.new()), f"{prefix}_", "", "ten", f"{prefix}_{'8' * 26}"):
        assert await caller.codes(query, id=wrong) == ["invalid_id"]


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("device", "invalid_input"),
        ('device(id: "dev_x", serialNumber: "y")', "invalid_input"),
        ("device(id: null, serialNumber: null)", "invalid_input"),
        ('device(serialNumber: "nobody")', "device_not_found"),
        ('device(serialNumber: "\\u0000")', "invalid_input"),
        ("employee", "invalid_input"),
        ('employee(pin: "9", id: "emp_x")', "invalid_input"),
        ('employee(pin: "9")', "employee_not_found"),
        ("webhookDelivery", "invalid_input"),
        ('webhookDelivery(uuid: "x")', "invalid_id"),
        ('webhookDelivery(uuid: "00000000-0000-4000-8000-000000000000")', "webhook_delivery_not_found"),
    ],
)
async def test_exactly_one_way_to_name_a_thing_is_taken(caller: Caller, field: str, code: str) -> None:
    assert await caller.codes(f"{{ {field} {{ id }} }}") == [code]


@pytest.mark.parametrize(
    ("condition", "numbers"),
    [
        ({}, [0, 1, 2]),
        ({"pins": ["7"]}, [2]),
        ({"pins": ["7", "0042"]}, [0, 1, 2]),
        ({"pins": []}, []),
        ({"pins": None}, [0, 1, 2]),
        ({"directions": ["CHECK_OUT"]}, [1]),
        ({"directions": ["CHECK_OUT", "BREAK_IN"]}, [1]),
        ({"verifyModes": ["CARD"]}, [2]),
        ({"buffered": True}, [2]),
        ({"buffered": False}, [0, 1]),
        ({"unmatched": True}, [2]),
        ({"unmatched": False}, [0, 1]),
        ({"punchedAt": {"gte": "2026-03-02T09:01:00Z"}}, [1, 2]),
        ({"punchedAt": {"lt": "2026-03-02T09:01:00Z"}}, [0]),
        ({"punchedAt": {"gte": "2026-03-02T10:01:00+01:00", "lt": "2026-03-02T09:02:00.000Z"}}, [1]),
        ({"receivedAt": {"gte": "2026-03-02T09:02:02Z"}}, [2]),
        ({"punchedAt": {"lt": "2026-03-02T09:02:00Z"}, "directions": ["CHECK_IN"]}, [0]),
    ],
)
async def test_a_filter_lets_through_what_meets_every_condition(
    caller: Caller, world: World, condition: dict[str, Any], numbers: list[int]
) -> None:
    query = """query ($filter: PunchFilter) {
        punches(filter: $filter, orderBy: { field: PUNCHED_AT, direction: ASC }) { nodes { id } }
        punchFeed(from: BEGINNING, filter: $filter) { punches { id } }
    }"""

    data = await caller.ask(query, filter=condition)

    wanted = [{"id": ids.show("pun", world.punches[number].id)} for number in numbers]
    assert data["punches"]["nodes"] == wanted
    assert data["punchFeed"]["punches"] == wanted


async def test_a_filter_knows_devices_sites_and_employees_by_their_ids(
    caller: Caller, world: World, db: Database
) -> None:
    other = await make_device(db, caller.tenant_id)
    await add_punches(db, caller.tenant_id, other, [make_view(other.id, 9, pin="0042")])
    query = "query ($filter: PunchFilter) { punches(filter: $filter) { nodes { device { id } pin } } }"
    here, there = ids.show("dev", world.device.id), ids.show("dev", other.id)

    by_device = await caller.ask(query, filter={"deviceIds": [there]})
    by_devices = await caller.ask(query, filter={"deviceIds": [there, here]})
    by_site = await caller.ask(query, filter={"siteIds": [ids.show("sit", world.site.id)]})
    by_person = await caller.ask(query, filter={"employeeIds": [ids.show("emp", world.employee.id)]})

    assert by_device["punches"]["nodes"] == [{"device": {"id": there}, "pin": "0042"}]
    assert len(by_devices["punches"]["nodes"]) == 4
    assert by_site["punches"]["nodes"] == [
        {"device": {"id": here}, "pin": "7"},
        {"device": {"id": here}, "pin": "0042"},
        {"device": {"id": here}, "pin": "0042"},
    ]
    assert [node["pin"] for node in by_person["punches"]["nodes"]] == ["0042", "0042", "0042"]


@pytest.mark.parametrize(
    ("filter", "count"),
    [
        ({"statuses": ["PENDING"]}, 3),
        ({"statuses": ["DELIVERED", "EXHAUSTED"]}, 0),
        ({"eventTypes": ["punch.created"]}, 3),
        ({"eventTypes": ["device.online"]}, 0),
        ({"createdAt": {"gte": "2026-01-01T00:00:00Z"}}, 3),
        ({"createdAt": {"lt": "2026-01-01T00:00:00Z"}}, 0),
    ],
)
async def test_deliveries_are_filtered(caller: Caller, world: World, filter: dict[str, Any], count: int) -> None:
    query = """query ($filter: WebhookDeliveryFilter) {
        webhookDeliveries(filter: $filter) { nodes { id } }
        webhookEndpoints { nodes { deliveries(filter: $filter) { nodes { id } } } }
    }"""

    data = await caller.ask(query, filter=filter)

    assert len(data["webhookDeliveries"]["nodes"]) == count
    assert data["webhookEndpoints"]["nodes"][0]["deliveries"] == data["webhookDeliveries"]


async def test_deliveries_are_found_by_endpoint_and_by_event(caller: Caller, world: World) -> None:
    query = "query ($filter: WebhookDeliveryFilter) { webhookDeliveries(filter: $filter) { nodes { id } } }"

    by_event = await caller.ask(query, filter={"eventIds": [ids.show("evt", world.delivery.event_id)]})
    by_endpoint = await caller.ask(query, filter={"endpointIds": [ids.show("whk", world.endpoint.id)]})
    by_other = await caller.ask(query, filter={"endpointIds": [ids.show("whk", ids.new())]})

    assert by_event["webhookDeliveries"]["nodes"] == [{"id": ids.show("whd", world.delivery.id)}]
    assert len(by_endpoint["webhookDeliveries"]["nodes"]) == 3
    assert by_other["webhookDeliveries"]["nodes"] == []


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("2026-03-02T09:00:00Z", True),
        ("2026-03-02t09:00:00.123456789z", True),
        ("2026-03-02T09:00:00-11:30", True),
        ("2026-03-02T09:00:00", False),
        ("2026-03-02", False),
        ("2026-02-30T09:00:00Z", False),
        ("0001-01-01T00:00:00+14:00", True),
        ("٢٠٢٦-03-02T09:00:00Z", False),
        (1772442000, False),
        (None, True),
    ],
)
async def test_a_date_time_is_rfc_3339_with_an_offset(caller: Caller, text: object, taken: bool) -> None:
    query = "query ($at: DateTime) { punches(filter: { punchedAt: { gte: $at } }) { nodes { id } } }"

    assert await caller.codes(query, at=text) == ([] if taken else ["graphql_validation_failed"])


async def test_a_pull_goes_on_from_its_cursor(caller: Caller, world: World) -> None:
    query = """query ($after: String) {
        punchFeed(after: $after, from: BEGINNING, first: 2) { cursor previousCursor caughtUp headLag punches { id } }
    }"""

    one = (await caller.ask(query))["punchFeed"]
    two = (await caller.ask(query, after=one["cursor"]))["punchFeed"]
    three = (await caller.ask(query, after=two["cursor"]))["punchFeed"]

    shown = [{"id": ids.show("pun", punch.id)} for punch in world.punches]
    assert (one["previousCursor"], one["punches"], one["headLag"], one["caughtUp"]) == (None, shown[:2], 1, False)
    assert (two["previousCursor"], two["punches"], two["headLag"]) == (one["cursor"], shown[2:], 0)
    assert (three["previousCursor"], three["punches"], three["caughtUp"]) == (two["cursor"], [], True)
    assert three["cursor"] == two["cursor"]


@pytest.mark.parametrize("arguments", ["", "(from: NOW)", "(from: null, first: null, waitMs: null)"])
async def test_a_pull_begins_with_what_comes_unless_told_otherwise(
    caller: Caller, world: World, arguments: str
) -> None:
    data = await caller.ask(f"{{ punchFeed{arguments} {{ punches {{ id }} caughtUp previousCursor }} }}")

    assert data["punchFeed"] == {"punches": [], "caughtUp": True, "previousCursor": None}


async def test_a_pull_waits_for_news(caller: Caller, world: World, db: Database) -> None:
    cursor = (await caller.ask("{ punchFeed { cursor } }"))["punchFeed"]["cursor"]
    query = "query ($after: String) { punchFeed(after: $after, waitMs: 30000) { punches { id } } }"
    waiting = asyncio.create_task(caller.ask(query, after=cursor))
    view = make_view(world.device.id, 9)
    await asyncio.sleep(0.2)

    await add_punches(db, caller.tenant_id, world.device, [view])

    assert (await waiting)["punchFeed"]["punches"] == [{"id": ids.show("pun", view.id)}]


async def test_a_pull_is_answered_when_the_server_stops(  # noqa: PLR0917  fixtures come by name
    settings: Settings, database_url: str, vault: Vault, caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "LONGEST_WAIT_MS", 120_000)
    query = "query ($after: String) { punchFeed(after: $after, waitMs: 120000) { punches { id } cursor caughtUp } }"
    cursor = (await caller.ask("{ punchFeed { cursor } }"))["punchFeed"]["cursor"]

    async with AsyncExitStack() as stack:
        here = await start(stack, settings, database_url, vault)
        url = here.url.replace("ws://", "http://").removesuffix("/graphql")
        http = httpx.AsyncClient(base_url=url, trust_env=False, timeout=120)
        async with http, asyncio.timeout(60):
            there = Caller(caller.tenant_id, caller.api_key, http)
            waiting = asyncio.create_task(there.post(query, {"after": cursor}))
            while not here.parts.feed.watched:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            stopping = asyncio.create_task(stack.aclose())
            answer = await waiting
            await stopping

    assert answer.status_code == 200
    assert answer.json()["data"] == {"punchFeed": {"punches": [], "cursor": cursor, "caughtUp": True}}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("first: 101", "page_too_large"),
        ("first: 0", "invalid_input"),
        ("first: -1", "invalid_input"),
        ("waitMs: 30001", "invalid_input"),
        ("waitMs: -1", "invalid_input"),
        ('after: "nonsense"', "cursor_invalid"),
        ('filter: { deviceIds: ["emp_x"] }', "invalid_id"),
    ],
)
async def test_a_pull_has_bounds(caller: Caller, arguments: str, code: str) -> None:
    assert await caller.codes(f"{{ punchFeed({arguments}) {{ cursor }} }}") == [code]


async def test_a_condition_has_a_bound(caller: Caller) -> None:
    query = "query ($pins: [String!]) { punches(filter: { pins: $pins }) { nodes { id } } }"

    assert await caller.codes(query, pins=["1"] * 1000) == []
    assert await caller.codes(query, pins=["1"] * 1001) == ["invalid_input"]


async def test_trial_ends_seven_days_after_it_began(caller: Caller) -> None:
    tenant = (await caller.ask("{ viewer { tenant { createdAt trialEndsAt } } }"))["viewer"]["tenant"]

    created = datetime.fromisoformat(tenant["createdAt"])
    assert tenant["trialEndsAt"] == timestamp(created + timedelta(days=7))


async def test_dead_keys_are_listed_too(caller: Caller, make_caller: MakeCaller, db: Database) -> None:
    await make_caller(tenant_id=caller.tenant_id, scopes=["punches:read"])

    data = await caller.ask("{ apiKeys { nodes { name scopes } } }")

    assert [(node["name"], len(node["scopes"])) for node in data["apiKeys"]["nodes"]] == [
        ("first key", 10),
        ("another", 1),
    ]


async def test_a_key_revoked_during_a_long_poll_gets_nothing(
    caller: Caller, make_caller: MakeCaller, db: Database
) -> None:
    device = await make_device(db, caller.tenant_id)
    reader = await make_caller(tenant_id=caller.tenant_id, scopes=["punches:read"])
    data = await reader.ask("{ viewer { apiKey { id } } punchFeed { cursor } }")
    query = "query ($after: String) { punchFeed(after: $after, waitMs: 30000) { punches { id } } }"
    waiting = asyncio.create_task(reader.post(query, {"after": data["punchFeed"]["cursor"]}))

    await caller.ask(
        "mutation ($id: ID!) { apiKeyRevoke(input: {id: $id}) { userErrors { code } } }",
        id=data["viewer"]["apiKey"]["id"],
    )
    await add_punches(db, caller.tenant_id, device, [make_view(device.id, 1)])
    answer = (await waiting).json()

    assert answer["data"] == {"punchFeed": None}
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["unauthenticated"]


async def _ids_of_everything(caller: Caller, world: World) -> list[str]:
    key = (await caller.ask("{ viewer { apiKey { id } } }"))["viewer"]["apiKey"]["id"]
    return [
        ids.show("ten", world.tenant_id),
        key,
        ids.show("sit", world.site.id),
        ids.show("dev", world.device.id),
        ids.show("rej", world.rejected.id),
        ids.show("emp", world.employee.id),
        ids.show("pun", world.punches[0].id),
        ids.show("whk", world.endpoint.id),
        ids.show("whd", world.delivery.id),
        ids.show("rep", world.replay.id),
    ]
