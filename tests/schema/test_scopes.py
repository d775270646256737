"""What each scope opens. Every field of the schema asks for the scope that the table in operations.py gives it."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg
import pytest
from graphql import get_named_type, is_leaf_type

from app.database import Database
from app.domain import keys
from app.vault import Vault
from tests.schema.conftest import Caller, MakeCaller
from tests.schema.feeds import Served
from tests.schema.operations import BELOW, CALLS, NODES, ROOTS, Call, It, calls_of, field_of
from tests.schema.parties import Party, make_party, rows_of, stir
from tests.schema.sockets import acknowledged

GUARDED = [call for call in CALLS if call.scope and not call.field.startswith("Subscription.")]
#: How to come to an object by another way than `node`: a root field that needs `scope`, down to the object.
WAYS = {
    "Device": ("punches:read", "punch(id: $id) { device { FIELD } }", It.PUNCH),
    "Employee": ("punches:read", "punch(id: $id) { employee { FIELD } }", It.PUNCH),
    "Placement": ("employees:read", "employee(id: $id) { placements { FIELD } }", It.EMPLOYEE),
    "Viewer": (None, "node(id: $id) { id } viewer { FIELD }", It.TENANT),
}


@pytest.fixture(scope="module")
async def party(db: Database, vault: Vault) -> Party:
    """A tenant of which everything can be asked."""
    return await make_party(db, vault)


def _needs(call: Call) -> set[str]:
    """What the way to a call needs, besides the call's own scope."""
    parent = call.field.partition(".")[0]
    return set() if parent in ROOTS else {scope for _, scope in [NODES[parent]] if scope}


@pytest.mark.parametrize("call", GUARDED, ids=str)
async def test_a_key_without_the_scope_is_refused_and_nothing_happens(
    owner: asyncpg.Connection, make_caller: MakeCaller, party: Party, call: Call
) -> None:
    others = [scope for scope in keys.SCOPES if scope != call.scope]
    weak = await make_caller(scopes=others, tenant_id=party.tenant_id)
    before = await rows_of(owner, party.tenant_id)

    response = await weak.post(call.document(0), call.variables(party.names))

    assert response.status_code == 200
    (error,) = response.json()["errors"]
    assert (error["extensions"]["code"], error["extensions"]["status"]) == ("permission_denied", 403)
    assert f"lacks the scope {call.scope}." in error["message"]
    assert await rows_of(owner, party.tenant_id) == before


@pytest.mark.parametrize("call", GUARDED, ids=str)
async def test_its_scope_is_all_that_a_call_needs(
    db: Database, vault: Vault, make_caller: MakeCaller, party: Party, call: Call
) -> None:
    assert call.scope
    whose = await make_party(db, vault) if call.field.startswith("Mutation.") else party
    only = await make_caller(scopes=[call.scope, *_needs(call)], tenant_id=whose.tenant_id)

    answer = (await only.post(call.document(0), call.variables(whose.names))).json()

    assert "errors" not in answer, answer["errors"]


@pytest.mark.parametrize("call", [call for call in CALLS if call.scope is None], ids=str)
async def test_what_needs_no_scope_is_open_to_every_key(make_caller: MakeCaller, party: Party, call: Call) -> None:
    weak = await make_caller(scopes=["audit:read"], tenant_id=party.tenant_id)

    answer = (await weak.post(call.document(0), call.variables(party.names))).json()

    assert "errors" not in answer, answer["errors"]


@pytest.mark.parametrize("call", calls_of("Subscription"), ids=str)
async def test_a_subscription_asks_for_its_scope(
    db: Database, vault: Vault, here: Served, make_caller: MakeCaller, call: Call
) -> None:
    assert call.scope
    party = await make_party(db, vault)
    others = [scope for scope in keys.SCOPES if scope != call.scope]
    weak = await make_caller(scopes=others, tenant_id=party.tenant_id)
    only = await make_caller(scopes=[call.scope], tenant_id=party.tenant_id)

    async with acknowledged(here.url, weak.api_key) as client:
        await client.subscribe(call.document(0), variables=call.variables(party.names))
        assert (await client.error())["extensions"]["code"] == "permission_denied"
    async with acknowledged(here.url, only.api_key) as client:
        await client.subscribe(call.document(0), variables=call.variables(party.names))
        await stir(here, party)
        assert "errors" not in await client.next()


@dataclass(frozen=True, slots=True)
class Step:
    """From an object to what it leads to."""

    field: str
    scope: str | None

    def __str__(self) -> str:
        return self.field


@pytest.mark.parametrize("step", [Step(*pair) for pair in BELOW.items()], ids=str)
async def test_what_an_object_leads_to_asks_for_its_own_scope(
    make_caller: MakeCaller, party: Party, step: Step
) -> None:
    parent, _, name = step.field.partition(".")
    it, opened = NODES.get(parent, (It.TENANT, None))
    opened, way, it = WAYS.get(parent, (opened, f"node(id: $id) {{ ... on {parent} {{ FIELD }} }}", it))
    field = name if is_leaf_type(get_named_type(field_of(step.field).type)) else f"{name} {{ __typename }}"
    query = f"query ($id: ID!) {{ {way.replace('FIELD', field)} }}"
    passing = {scope for scope in (opened or "audit:read", step.scope) if scope}
    allowed = await make_caller(scopes=sorted(passing), tenant_id=party.tenant_id)

    assert await allowed.codes(query, id=party.names[it]) == []
    if step.scope and step.scope != opened:
        without = await make_caller(scopes=[opened or "audit:read"], tenant_id=party.tenant_id)
        assert set(await without.codes(query, id=party.names[it])) == {"permission_denied"}


async def test_every_key_may_ask_who_it_is(caller: Caller, make_caller: MakeCaller) -> None:
    weak = await make_caller(scopes=["audit:read"], tenant_id=caller.tenant_id)

    data = await weak.ask("{ viewer { tenant { deviceCount } apiKey { scopes } } }")

    assert data["viewer"] == {"tenant": {"deviceCount": 0}, "apiKey": {"scopes": ["audit:read"]}}
