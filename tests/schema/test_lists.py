"""Every list of the schema: each row once, however the pages are cut and whatever arrives; and what a page costs.

Walks all fields that return a connection (see operations.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from graphql import GraphQLEnumType, GraphQLInputObjectType, GraphQLObjectType, get_named_type
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import ids
from app.database import Database, driver
from app.domain import audit, commands, keys, outbox
from app.domain.employees import Employee
from app.domain.sites import Site
from app.vault import Vault
from bench.statements import noted
from tests.factories import make_device, make_endpoint
from tests.schema.conftest import Caller
from tests.schema.operations import CALLS, Call, It, fields
from tests.schema.parties import Party, make_party
from tests.schema.world import add_punches, make_view

LISTS = [
    call
    for call in CALLS
    if get_named_type(call.definition.type).name.endswith("Connection") and "first" in call.definition.args
]
EACH = pytest.mark.parametrize("call", LISTS, ids=str)
#: Rows that every list of the crowd has at least.
ROWS = 12


@dataclass(frozen=True, slots=True)
class Crowd:
    """A tenant with a dozen of everything, hanging on the same site, device, employee and endpoint."""

    party: Party
    caller: Caller
    db: Database
    vault: Vault

    async def one_more(self, kind: str) -> None:
        """Another row of a type."""
        await MAKERS[kind](self)


async def _site(crowd: Crowd) -> None:
    async with crowd.db.write(crowd.party.tenant_id) as session:
        session.add(Site(tenant_id=crowd.party.tenant_id, name="Another", time_zone="UTC"))


async def _device(crowd: Crowd) -> None:
    await make_device(crowd.db, crowd.party.tenant_id, site_id=crowd.party.world.site.id)


async def _employee(crowd: Crowd) -> None:
    async with crowd.db.write(crowd.party.tenant_id) as session:
        session.add(Employee(tenant_id=crowd.party.tenant_id, pin=str(ids.new().int)[-9:], name="Amina"))


async def _punch(crowd: Crowd) -> None:
    device, minute = crowd.party.world.device, ids.new().int % 10_000
    view = make_view(device.id, minute, pin=crowd.party.names[It.PIN], raw=str(ids.new()).encode())
    await add_punches(crowd.db, crowd.party.tenant_id, device, [view])


async def _rejected(crowd: Crowd) -> None:
    async with crowd.db.across("ingest", [crowd.party.tenant_id]) as connection:
        await connection.execute(
            "INSERT INTO rejected_records (tenant_id, id, device_id, table_name, reason, raw, digest, received_at) "
            "VALUES ($1, $2, $3, 'ATTLOG', 'no time', '\\x00', $4, now())",
            crowd.party.tenant_id,
            rejected := ids.new(),
            crowd.party.world.device.id,
            rejected.bytes,
        )


async def _command(crowd: Crowd) -> None:
    async with crowd.db.write(crowd.party.tenant_id) as session:
        await commands.send(session, crowd.party.tenant_id, crowd.party.world.device.id, "refreshInfo", {})


async def _endpoint(crowd: Crowd) -> None:
    await make_endpoint(crowd.db, crowd.vault, crowd.party.tenant_id, event_types=["webhook.test"])


async def _delivery(crowd: Crowd) -> None:
    async with crowd.db.write(crowd.party.tenant_id) as session:
        await outbox.send_test(session, crowd.party.tenant_id, crowd.party.world.endpoint.id)


async def _key(crowd: Crowd) -> None:
    key, _ = keys.issue(crowd.party.tenant_id, "another", ["audit:read"], None, crowd.vault)
    async with crowd.db.across("operate") as connection:
        await keys.add(connection, key)


async def _entry(crowd: Crowd) -> None:
    async with crowd.db.write(crowd.party.tenant_id) as session:
        author = audit.Author(audit.AuditSource.API, ids.split(crowd.party.names[It.KEY])[1])
        await audit.add(await driver(session), crowd.party.tenant_id, author, "deviceResume")


#: How a row of each type comes to be.
MAKERS: dict[str, Callable[[Crowd], Awaitable[None]]] = {
    "Site": _site,
    "Device": _device,
    "Employee": _employee,
    "Punch": _punch,
    "RejectedRecord": _rejected,
    "DeviceCommand": _command,
    "WebhookEndpoint": _endpoint,
    "WebhookDelivery": _delivery,
    "ApiKey": _key,
    "AuditEntry": _entry,
}


@pytest.fixture(scope="module")
async def crowd(db: Database, vault: Vault, unlimited: httpx.AsyncClient) -> Crowd:
    """A dozen of everything."""
    party = await make_party(db, vault)
    crowd = Crowd(party, Caller(party.tenant_id, party.api_key, unlimited), db, vault)
    for kind in MAKERS:
        for _ in range(ROWS):
            await crowd.one_more(kind)
    return crowd


def kind_of(call: Call) -> str:
    """The type of a list's rows."""
    connection = get_named_type(call.definition.type)
    assert isinstance(connection, GraphQLObjectType)
    kind: str = get_named_type(connection.fields["nodes"].type).name
    return kind


def orders(call: Call) -> list[dict[str, str] | None]:
    """Every way in which a list can be ordered."""
    argument = call.definition.args.get("orderBy")
    if argument is None:
        return [None]
    kind = get_named_type(argument.type)
    assert isinstance(kind, GraphQLInputObjectType)
    by = get_named_type(kind.fields["field"].type)
    assert isinstance(by, GraphQLEnumType)
    return [None, *({"field": field, "direction": way} for field in by.values for way in ("ASC", "DESC"))]


async def page(crowd: Crowd, call: Call, *, depth: int = 1, **arguments: Any) -> dict[str, Any]:
    """One page."""
    variables = call.variables(crowd.party.names, {k: v for k, v in arguments.items() if v is not None})
    data = await crowd.caller.ask(call.document(depth), **variables)
    found: dict[str, Any] = data["node"]["answer"] if "node" in data else data["answer"]
    return found


def names_of(page: dict[str, Any]) -> list[str]:
    """The ids on a page."""
    return [node["id"] for node in page["nodes"]]


def test_every_list_is_walked_and_rows_of_every_type_can_arrive() -> None:
    lists = {name for name, field in fields().items() if get_named_type(field.type).name.endswith("Connection")}

    assert {call.field for call in LISTS} == lists
    assert {kind_of(call) for call in LISTS} == set(MAKERS), "say in MAKERS how a row of that type comes to be"


@EACH
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    backward=st.booleans(),
    choice=st.integers(0, 100),
    arrivals=st.sets(st.integers(0, 5), max_size=2),
)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_every_row_comes_once_and_in_order_whatever_arrives(  # noqa: PLR0917
    crowd: Crowd, call: Call, sizes: list[int], backward: bool, choice: int, arrivals: set[int]
) -> None:
    order = orders(call)[choice % len(orders(call))]
    there: list[str] = []
    after = None
    while True:
        whole = await page(crowd, call, first=100, after=after, orderBy=order)
        there += names_of(whole)
        if not whole["pageInfo"]["hasNextPage"]:
            break
        after = whole["pageInfo"]["endCursor"]
    assert len(there) >= ROWS

    seen: list[str] = []
    cursor: str | None = None
    turn = 0
    while True:
        size = sizes[turn % len(sizes)]
        window: dict[str, Any] = {"last": size, "before": cursor} if backward else {"first": size, "after": cursor}
        found = await page(crowd, call, orderBy=order, **window)
        shown, info = names_of(found), found["pageInfo"]
        assert (info["startCursor"], info["endCursor"]) == (
            (found["edges"][0]["cursor"], found["edges"][-1]["cursor"]) if shown else (None, None)
        )
        seen = shown + seen if backward else seen + shown
        if not info["hasPreviousPage" if backward else "hasNextPage"]:
            break
        assert len(shown) == size
        cursor = info["startCursor" if backward else "endCursor"]
        if turn in arrivals:
            await crowd.one_more(kind_of(call))
        turn += 1

    assert len(seen) == len(set(seen))
    assert [name for name in seen if name in set(there)] == there


@EACH
async def test_a_cursor_that_does_not_belong_is_refused(crowd: Crowd, call: Call, stranger: Crowd) -> None:
    cursor = (await page(crowd, call, first=2))["pageInfo"]["endCursor"]
    other = next(each for each in LISTS if each.name != call.name)
    mismatched = (await page(crowd, other, first=2))["pageInfo"]["endCursor"]
    foreign = (await page(stranger, call, first=1))["pageInfo"]["endCursor"]
    edited = [cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in range(0, len(cursor), 5)]

    async def codes(given: str, **more: Any) -> set[str]:
        return {
            code
            for side in ("after", "before")
            for code in await crowd.caller.codes(
                call.document(0), **call.variables(crowd.party.names, {side: given, **more})
            )
        }

    assert await codes(cursor) == set()
    for order in orders(call)[1:]:
        assert order
        ordered = (await page(crowd, call, first=2, orderBy=order))["pageInfo"]["endCursor"]
        opposite = order | {"direction": "ASC" if order["direction"] == "DESC" else "DESC"}
        assert await codes(ordered, orderBy=order) == set()
        assert await codes(ordered, orderBy=opposite) == {"cursor_mismatch"}
    assert await codes(mismatched) == {"cursor_mismatch"}
    for given_cursor in (foreign, "", "nonsense", cursor + "A", cursor[:-1], *edited):
        assert await codes(given_cursor) == {"cursor_invalid"}


@pytest.fixture(scope="module")
async def stranger(db: Database, vault: Vault, unlimited: httpx.AsyncClient) -> Crowd:
    """Another tenant with one of everything."""
    party = await make_party(db, vault)
    return Crowd(party, Caller(party.tenant_id, party.api_key, unlimited), db, vault)


@EACH
@pytest.mark.parametrize(
    ("window", "code"),
    [
        ({"first": 101}, "page_too_large"),
        ({"last": 101}, "page_too_large"),
        ({"first": 1, "last": 1}, "invalid_input"),
        ({"first": -1}, "invalid_input"),
        ({"last": -1}, "invalid_input"),
    ],
)
async def test_a_window_that_makes_no_sense_is_refused(
    crowd: Crowd, call: Call, window: dict[str, int], code: str
) -> None:
    assert await crowd.caller.codes(call.document(0), **call.variables(crowd.party.names, window)) == [code]


@EACH
async def test_a_page_takes_as_many_statements_however_long_it_is(crowd: Crowd, call: Call) -> None:
    counts = {}
    for size in (2, ROWS):
        async with noted(crowd.db) as statements:
            found = await page(crowd, call, depth=2, first=size)
        assert len(found["nodes"]) == size
        counts[size] = len(statements)

    assert counts[2] == counts[ROWS], counts
