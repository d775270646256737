"""Lists: every item once, however the pages are cut and whatever arrives; cursors that fit only where they belong."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app import ids
from app.database import Database
from app.domain.devices import Device
from app.domain.employees import Employee
from app.domain.sites import Site
from app.vault import Vault
from tests.factories import make_device, make_endpoint
from tests.schema.conftest import Caller, MakeCaller
from tests.schema.world import NINE_O_CLOCK, World, add_punches, make_view

PAGE = "edges { cursor node { id } } nodes { id } pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"
HEAD = "$first: Int, $after: String, $last: Int, $before: String"
WINDOW = "first: $first, after: $after, last: $last, before: $before"
PUNCHES = f"""query ({HEAD}, $order: PunchOrder, $filter: PunchFilter) {{
    list: punches({WINDOW}, orderBy: $order, filter: $filter) {{ {PAGE} }}
}}"""


async def read_all(caller: Caller, query: str, size: int, *, backward: bool = False, **variables: Any) -> list[str]:
    """Every id of a list, page by page, in the order of the list. Checks each page's own words on the way."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        window = {"last": size, "before": cursor} if backward else {"first": size, "after": cursor}
        page = (await caller.ask(query, **window, **variables))["list"]
        shown = [node["id"] for node in page["nodes"]]
        info = page["pageInfo"]
        assert [edge["node"]["id"] for edge in page["edges"]] == shown
        assert info["startCursor"] == (page["edges"][0]["cursor"] if shown else None)
        assert info["endCursor"] == (page["edges"][-1]["cursor"] if shown else None)
        # What lies behind us is there, since we have read it.
        assert info["hasNextPage" if backward else "hasPreviousPage"] is (cursor is not None)
        found = shown + found if backward else found + shown
        if not info["hasPreviousPage" if backward else "hasNextPage"]:
            return found
        assert len(shown) == size
        cursor = info["startCursor" if backward else "endCursor"]


async def make_punches(db: Database, tenant_id: UUID, device: Device, minutes: list[int]) -> list[str]:
    """One punch for each minute, received in the order given; their ids."""
    views = [
        replace(
            make_view(device.id, minute, pin=f"{number}"), received_at=NINE_O_CLOCK + timedelta(seconds=number // 2)
        )
        for number, minute in enumerate(minutes)
    ]
    await add_punches(db, tenant_id, device, views)
    return [ids.show("pun", view.id) for view in views]


@pytest.mark.parametrize("seed", range(12))
async def test_pages_of_any_size_either_way_hold_every_punch_once_and_in_order(
    caller: Caller, db: Database, seed: int
) -> None:
    chance = random.Random(seed)
    device = await make_device(db, caller.tenant_id)
    # Few minutes for many punches: whole pages share one instant, and only the ids tell them apart.
    minutes = [chance.randrange(chance.choice([1, 5, 40])) for _ in range(chance.randrange(2, 45))]
    names = await make_punches(db, caller.tenant_id, device, minutes)
    field = chance.choice(["PUNCHED_AT", "RECEIVED_AT"])
    key = minutes if field == "PUNCHED_AT" else [number // 2 for number in range(len(minutes))]
    up = [name for _, name in sorted(zip(key, names, strict=True))]

    for direction, order in (("ASC", up), ("DESC", up[::-1])):
        for backward in (False, True):
            size = chance.randrange(1, 12)
            by = {"field": field, "direction": direction}
            assert await read_all(caller, PUNCHES, size, backward=backward, order=by) == order


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_there_at_the_start_is_seen_once_while_punches_arrive(
    caller: Caller, db: Database, seed: int
) -> None:
    chance = random.Random(seed)
    device = await make_device(db, caller.tenant_id)
    there = await make_punches(db, caller.tenant_id, device, [chance.randrange(60) for _ in range(60)])
    done = asyncio.Event()

    async def arrive() -> int:
        count = 0
        while not done.is_set():
            count += 1
            view = make_view(device.id, chance.randrange(60), pin=f"late-{count}")
            await add_punches(db, caller.tenant_id, device, [view])
        return count

    arriving = asyncio.create_task(arrive())
    direction = chance.choice(["ASC", "DESC"])
    seen = await read_all(caller, PUNCHES, 3, order={"field": "PUNCHED_AT", "direction": direction})
    done.set()

    assert await arriving > 0
    assert len(seen) == len(set(seen))
    assert set(there) <= set(seen)


async def test_the_head_is_refreshed_by_asking_before_the_first_cursor(caller: Caller, db: Database) -> None:
    device = await make_device(db, caller.tenant_id)
    await make_punches(db, caller.tenant_id, device, [1, 2, 3])
    page = (await caller.ask(PUNCHES, first=2))["list"]
    view = make_view(device.id, 4, pin="new")

    await add_punches(db, caller.tenant_id, device, [view])

    fresh = (await caller.ask(PUNCHES, last=100, before=page["pageInfo"]["startCursor"]))["list"]
    assert fresh["nodes"] == [{"id": ids.show("pun", view.id)}]
    assert (fresh["pageInfo"]["hasNextPage"], fresh["pageInfo"]["hasPreviousPage"]) == (True, False)


async def test_between_two_cursors_lies_what_lies_between(caller: Caller, db: Database) -> None:
    device = await make_device(db, caller.tenant_id)
    names = (await make_punches(db, caller.tenant_id, device, list(range(6))))[::-1]
    marks = [edge["cursor"] for edge in (await caller.ask(PUNCHES))["list"]["edges"]]

    between = (await caller.ask(PUNCHES, after=marks[0], before=marks[4]))["list"]
    some = (await caller.ask(PUNCHES, after=marks[0], before=marks[4], first=2))["list"]
    rest = (await caller.ask(PUNCHES, after=marks[0], before=marks[4], last=2))["list"]
    nothing = (await caller.ask(PUNCHES, after=marks[4], before=marks[0]))["list"]

    assert [node["id"] for node in between["nodes"]] == names[1:4]
    assert [node["id"] for node in some["nodes"]] == names[1:3]
    assert [node["id"] for node in rest["nodes"]] == names[2:4]
    assert nothing["nodes"] == []
    for page in (between, some, rest):
        assert (page["pageInfo"]["hasNextPage"], page["pageInfo"]["hasPreviousPage"]) == (True, True)


async def test_fifty_come_unless_asked_otherwise_and_none_when_asked_for_none(caller: Caller, db: Database) -> None:
    device = await make_device(db, caller.tenant_id)
    await make_punches(db, caller.tenant_id, device, list(range(51)))

    usual = (await caller.ask(PUNCHES))["list"]
    nulls = (await caller.ask(PUNCHES, first=None, after=None, last=None, before=None, order=None, filter=None))["list"]
    most = (await caller.ask(PUNCHES, first=100))["list"]
    none = (await caller.ask(PUNCHES, first=0))["list"]

    assert len(usual["nodes"]) == 50
    assert nulls == usual
    assert len(most["nodes"]) == 51
    assert none == {
        "edges": [],
        "nodes": [],
        "pageInfo": {"hasNextPage": True, "hasPreviousPage": False, "startCursor": None, "endCursor": None},
    }


@pytest.mark.parametrize(
    ("window", "code"),
    [
        ({"first": 101}, "page_too_large"),
        ({"last": 101}, "page_too_large"),
        ({"first": 1, "last": 1}, "invalid_input"),
        ({"first": -1}, "invalid_input"),
        ({"last": -1}, "invalid_input"),
        ({"after": ""}, "cursor_invalid"),
        ({"before": "nonsense"}, "cursor_invalid"),
        ({"after": "é" * 10}, "cursor_invalid"),
    ],
)
@pytest.mark.parametrize(
    "field",
    ["sites", "devices", "employees", "punches", "webhookEndpoints", "webhookDeliveries", "apiKeys", "auditLog"],
)
async def test_a_window_that_makes_no_sense_is_refused_by_every_list(
    caller: Caller, field: str, window: dict[str, Any], code: str
) -> None:
    query = f"query ({HEAD}) {{ {field}({WINDOW}) {{ nodes {{ id }} }} }}"

    assert await caller.codes(query, **window) == [code]


async def test_a_cursor_fits_one_list_one_order_and_one_filter(caller: Caller, world: World) -> None:
    cursor = (await caller.ask(PUNCHES))["list"]["pageInfo"]["endCursor"]
    by_received = {"field": "RECEIVED_AT", "direction": "DESC"}
    device_id = ids.show("dev", world.device.id)

    assert await caller.codes(PUNCHES, after=cursor) == []
    assert await caller.codes(PUNCHES, after=cursor, filter={"pins": None}) == []
    assert await caller.codes(PUNCHES, after=cursor, order={"field": "PUNCHED_AT", "direction": "DESC"}) == []
    assert await caller.codes(PUNCHES, after=cursor, order={"field": "PUNCHED_AT", "direction": "ASC"}) == [
        "cursor_mismatch"
    ]
    assert await caller.codes(PUNCHES, before=cursor, order=by_received) == ["cursor_mismatch"]
    assert await caller.codes(PUNCHES, after=cursor, filter={"buffered": True}) == ["cursor_mismatch"]
    assert await caller.codes(
        "query ($id: ID!, $c: String) { device(id: $id) { punches(after: $c) { nodes { id } } } }",
        id=device_id,
        c=cursor,
    ) == ["cursor_mismatch"]
    assert await caller.codes("query ($c: String) { devices(after: $c) { nodes { id } } }", c=cursor) == [
        "cursor_mismatch"
    ]


async def test_two_ways_to_write_one_filter_share_their_cursors(caller: Caller, world: World) -> None:
    cursor = (await caller.ask(PUNCHES, first=1, filter={"pins": ["7", "0042"]}))["list"]["pageInfo"]["endCursor"]

    assert await caller.codes(PUNCHES, after=cursor, filter={"pins": ["0042", "7", "7"]}) == []


async def test_a_cursor_of_another_tenant_and_an_edited_one_are_invalid(
    caller: Caller, world: World, make_caller: MakeCaller
) -> None:
    stranger = await make_caller()
    cursor = (await caller.ask(PUNCHES))["list"]["pageInfo"]["endCursor"]

    assert await stranger.codes(PUNCHES, after=cursor) == ["cursor_invalid"]
    for place, letter in enumerate(cursor):
        edited = cursor[:place] + ("A" if letter != "A" else "B") + cursor[place + 1 :]
        assert await caller.codes(PUNCHES, after=edited) == ["cursor_invalid"]
    for edited in (cursor + "=", cursor + "AAAA", cursor[:-4], f" {cursor}"):
        assert await caller.codes(PUNCHES, after=edited) == ["cursor_invalid"]


async def test_a_feed_cursor_is_no_cursor_of_a_list_nor_the_other_way_round(caller: Caller, world: World) -> None:
    of_feed = (await caller.ask("{ punchFeed { cursor } }"))["punchFeed"]["cursor"]
    of_list = (await caller.ask(PUNCHES))["list"]["pageInfo"]["endCursor"]

    assert await caller.codes(PUNCHES, after=of_feed) == ["cursor_invalid"]
    assert await caller.codes("query ($c: String) { punchFeed(after: $c) { cursor } }", c=of_list) == ["cursor_invalid"]


@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("backward", [False, True])
async def test_people_without_a_name_come_last_by_name(caller: Caller, db: Database, size: int, backward: bool) -> None:
    names = ["Amina", None, "Bela", None, "Amina", None, "Zoë"]
    people = [Employee(tenant_id=caller.tenant_id, pin=f"{pin}", name=name) for pin, name in enumerate(names)]
    async with db.write(caller.tenant_id) as session:
        session.add_all(people)
    query = f"""query ({HEAD}, $order: EmployeeOrder) {{
        list: employees({WINDOW}, orderBy: $order) {{ {PAGE} }}
    }}"""
    up = sorted(people, key=lambda person: (person.name is None, person.name or "", person.id))
    shown = [ids.show("emp", person.id) for person in up]

    by_name = {"field": "NAME", "direction": "ASC"}
    assert await read_all(caller, query, size, backward=backward, order=by_name) == shown
    by_name = {"field": "NAME", "direction": "DESC"}
    assert await read_all(caller, query, size, backward=backward, order=by_name) == shown[::-1]


@pytest.mark.parametrize("field", ["PIN", "CREATED_AT"])
async def test_people_are_listed_by_pin_and_by_date(caller: Caller, db: Database, field: str) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    people = [
        Employee(tenant_id=caller.tenant_id, pin=pin, created_at=start + timedelta(days=day))
        for pin, day in (("7", 2), ("0042", 1), ("13", 1), ("99", 0))
    ]
    async with db.write(caller.tenant_id) as session:
        session.add_all(people)
    query = f"""query ($first: Int, $after: String, $order: EmployeeOrder) {{
        list: employees(first: $first, after: $after, orderBy: $order) {{ {PAGE} }}
    }}"""
    up = sorted(people, key=lambda person: person.pin if field == "PIN" else (person.created_at, person.id))

    found = await read_all(caller, query, 2, order={"field": field, "direction": "ASC"})

    assert found == [ids.show("emp", person.id) for person in up]


@pytest.mark.parametrize("backward", [False, True])
async def test_every_other_list_is_cut_into_pages_too(  # noqa: PLR0917
    caller: Caller, db: Database, vault: Vault, make_caller: MakeCaller, world: World, backward: bool
) -> None:
    async with db.write(caller.tenant_id) as session:
        session.add_all([Site(tenant_id=caller.tenant_id, name=f"{n}", time_zone="UTC") for n in range(4)])
    for number in range(4):
        await make_device(db, caller.tenant_id, name=f"{number}", site_id=world.site.id)
        await make_endpoint(db, vault, caller.tenant_id)
        await make_caller(tenant_id=caller.tenant_id)
        await caller.ask('mutation { siteCreate(input: {name: "More", timeZone: "UTC"}) { site { id } } }')

    for field, size in (
        ("sites", 9),
        ("devices", 5),
        ("webhookEndpoints", 5),
        ("webhookDeliveries", 3),
        ("apiKeys", 5),
        ("auditLog", 6),  # the tenant and its key, and four sites
    ):
        found = await read_all(
            caller, f"query ({HEAD}) {{ list: {field}({WINDOW}) {{ {PAGE} }} }}", 2, backward=backward
        )
        assert len(found) == len(set(found)) == size
        assert found == sorted(found, reverse=field in {"webhookDeliveries", "auditLog"})


async def test_lists_inside_a_list_have_pages_of_their_own(caller: Caller, db: Database, world: World) -> None:
    second = await make_device(db, caller.tenant_id, name="Back door")
    names = (await make_punches(db, caller.tenant_id, second, list(range(5))))[::-1]
    third = await make_device(db, caller.tenant_id, name="Unused")
    query = f"query ($after: String) {{ devices {{ nodes {{ id punches(first: 2, after: $after) {{ {PAGE} }} }} }} }}"

    nodes = (await caller.ask(query))["devices"]["nodes"]
    after = nodes[1]["punches"]["pageInfo"]["endCursor"]
    of_one = (
        f"query ($id: ID!, $after: String) {{ device(id: $id) {{ punches(first: 2, after: $after) {{ {PAGE} }} }} }}"
    )
    next_page = (await caller.ask(of_one, id=ids.show("dev", second.id), after=after))["device"]["punches"]

    assert [len(node["punches"]["nodes"]) for node in nodes] == [2, 2, 0]
    assert [node["punches"]["pageInfo"]["hasNextPage"] for node in nodes] == [True, True, False]
    assert nodes[2]["id"] == ids.show("dev", third.id)
    assert [node["id"] for node in nodes[1]["punches"]["nodes"]] == names[:2]
    assert [node["id"] for node in next_page["nodes"]] == names[2:4]
    assert next_page["pageInfo"]["hasPreviousPage"] is True


async def test_a_total_counts_the_whole_filtered_list(caller: Caller, world: World, db: Database) -> None:
    for number in range(3):
        await make_device(db, caller.tenant_id, name=f"{number}", status="SUSPENDED")

    data = await caller.ask("""{
        all: devices(first: 1) { totalCount nodes { name } }
        some: devices(first: 2, filter: { statuses: [SUSPENDED] }) { totalCount nodes { name } }
        only: devices(first: 0) { totalCount }
    }""")

    assert data["all"] == {"totalCount": 4, "nodes": [{"name": "Gate"}]}
    assert data["some"] == {"totalCount": 3, "nodes": [{"name": "0"}, {"name": "1"}]}
    assert data["only"] == {"totalCount": 4}


async def test_a_site_counts_its_own_devices(caller: Caller, world: World, db: Database) -> None:
    await make_device(db, caller.tenant_id, site_id=world.site.id)
    await make_device(db, caller.tenant_id)

    data = await caller.ask("{ sites { nodes { devices(first: 1) { totalCount nodes { id } } } } }")

    assert [site["devices"]["totalCount"] for site in data["sites"]["nodes"]] == [2]
    assert len(data["sites"]["nodes"][0]["devices"]["nodes"]) == 1
