"""People on terminals as a client meets them."""

from __future__ import annotations

from typing import Any

import pytest

from app import ids
from app.database import Database
from tests.factories import make_device
from tests.schema.conftest import Caller, MakeCaller

UPSERT = """mutation ($input: EmployeeUpsertInput!) {
    done: employeeUpsert(input: $input) {
        employee { pin placements { state reason device { id } lastCommand { id } } }
        userErrors { code path }
    }
}"""


async def upsert(caller: Caller, **given: Any) -> dict[str, Any]:
    done: dict[str, Any] = (await caller.ask(UPSERT, input={"pin": "7"} | given))["done"]
    return done


@pytest.fixture
async def device_ids(db: Database, caller: Caller) -> list[str]:
    return [ids.show("dev", (await make_device(db, caller.tenant_id)).id) for _ in range(2)]


def placed(*states: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {"state": state, "reason": None, "device": {"id": device_id}, "lastCommand": None}
        for device_id, state in states
    ]


async def test_a_list_of_devices_replaces_the_whole_set(caller: Caller, device_ids: list[str]) -> None:
    one, two = device_ids

    first = await upsert(caller, deviceIds=[one, one])
    same = await upsert(caller, name="Amina")
    moved = await upsert(caller, deviceIds=[two])
    cleared = await upsert(caller, deviceIds=None)

    assert first["employee"]["placements"] == placed((one, "WANTED"))
    assert same["employee"]["placements"] == placed((one, "WANTED"))
    assert moved["employee"]["placements"] == placed((one, "REMOVING"), (two, "WANTED"))
    assert cleared["employee"]["placements"] == placed((one, "REMOVING"), (two, "REMOVING"))


async def test_a_thousand_people_are_placed_in_one_call_or_nobody_is(caller: Caller, device_ids: list[str]) -> None:
    bulk = """mutation ($rows: [EmployeeRowInput!]!) {
        done: employeeBulkUpsert(input: {employees: $rows}) {
            employees { placements { state } } userErrors { code path }
        }
    }"""
    rows = [{"pin": f"{n}", "name": f"N{n}", "deviceIds": device_ids} for n in range(1000)]

    strange = [*rows[:-1], {"pin": "x", "deviceIds": [ids.show("dev", ids.new())]}]
    refused = (await caller.ask(bulk, rows=strange))["done"]
    garbled = (await caller.ask(bulk, rows=[rows[0], {"pin": "x", "deviceIds": ["dev_"]}]))["done"]
    nobody = (await caller.ask("{ employees { totalCount } }"))["employees"]["totalCount"]
    done = (await caller.ask(bulk, rows=rows))["done"]

    assert refused["userErrors"] == [{"code": "device_not_found", "path": ["input", "employees", "999", "deviceIds"]}]
    assert garbled["userErrors"] == [{"code": "invalid_id", "path": ["input", "employees", "1", "deviceIds"]}]
    assert nobody == 0
    assert done["userErrors"] == []
    assert [person["placements"] for person in done["employees"]] == [[{"state": "WANTED"}] * 2] * 1000


async def test_an_id_that_is_none_names_its_field(caller: Caller) -> None:
    assert (await upsert(caller, deviceIds=["nonsense"]))["userErrors"] == [
        {"code": "invalid_id", "path": ["input", "deviceIds"]}
    ]


async def test_a_device_that_retires_has_nobody_left(caller: Caller, device_ids: list[str]) -> None:
    await upsert(caller, deviceIds=device_ids[:1])

    await caller.ask("mutation ($id: ID!) { deviceRetire(input: {id: $id}) { device { id } } }", id=device_ids[0])

    assert (await upsert(caller))["employee"]["placements"] == []
    assert (await upsert(caller, deviceIds=device_ids[:1]))["userErrors"] == [
        {"code": "device_not_active", "path": ["input", "deviceIds"]}
    ]


async def test_users_of_a_terminal_that_belong_to_nobody_here_are_listed(
    caller: Caller, db: Database, device_ids: list[str]
) -> None:
    device_id = ids.read("dev", device_ids[0])
    async with db.across("ingest", [caller.tenant_id]) as connection:
        await connection.execute(
            "INSERT INTO terminal_users (tenant_id, device_id, pin, seen_at) "
            "SELECT $1, $2, unnest(ARRAY['7', '0042', '42']), now()",
            caller.tenant_id,
            device_id,
        )
    query = "query ($id: ID!) { device(id: $id) { unknownPins } }"
    flags = "query ($id: ID!) { device(id: $id) { flags } }"

    before = await caller.ask(query, id=device_ids[0])
    await upsert(caller)

    assert (await caller.ask(flags, id=device_ids[0]))["device"]["flags"] == ["unknown_users"]
    assert (await caller.ask(flags, id=device_ids[1]))["device"]["flags"] == []

    assert before["device"]["unknownPins"] == ["0042", "42", "7"]
    assert (await caller.ask(query, id=device_ids[0]))["device"]["unknownPins"] == ["0042", "42"]
    assert (await caller.ask(query, id=device_ids[1]))["device"]["unknownPins"] == []


async def test_people_on_terminals_are_for_keys_that_may_read_people(make_caller: MakeCaller, db: Database) -> None:
    caller = await make_caller(scopes=["devices:read", "punches:read"])
    device_id = ids.show("dev", (await make_device(db, caller.tenant_id)).id)

    assert await caller.codes("query ($id: ID!) { device(id: $id) { unknownPins } }", id=device_id) == [
        "permission_denied"
    ]


async def test_a_new_device_is_filled_with_whoever_is_at_its_site(caller: Caller, db: Database) -> None:
    site = (await caller.ask('mutation { siteCreate(input: {name: "A", timeZone: "UTC"}) { site { id } } }'))[
        "siteCreate"
    ]["site"]["id"]
    here = [await make_device(db, caller.tenant_id, site_id=ids.read("sit", site)) for _ in range(2)]
    elsewhere = await make_device(db, caller.tenant_id)
    old, new = (ids.show("dev", device.id) for device in here)
    await upsert(caller, pin="1", deviceIds=[old])
    await upsert(caller, pin="2", deviceIds=[ids.show("dev", elsewhere.id)])
    await upsert(caller, pin="3", deviceIds=[old])
    await upsert(caller, pin="3", deviceIds=[])
    fill = "mutation ($id: ID!) { done: deviceFillFromSite(input: {id: $id}) { userErrors { code path } } }"

    done = (await caller.ask(fill, id=new))["done"]
    refused = (await caller.ask(fill, id=ids.show("dev", elsewhere.id)))["done"]

    assert done["userErrors"] == []
    assert refused["userErrors"] == [{"code": "invalid_input", "path": ["input", "id"]}]
    listed = await caller.ask("{ employees { nodes { pin placements { state device { id } } } } }")
    there = {
        person["pin"]: [place["state"] for place in person["placements"] if place["device"]["id"] == new]
        for person in listed["employees"]["nodes"]
    }
    assert there == {"1": ["WANTED"], "2": [], "3": []}
