"""Every query, mutation and subscription has an example in the docs, and each of them works as it is written."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
from graphql import FieldNode, OperationDefinitionNode, parse

from app.domain import command_feed, commands
from schema import schema
from tests.docs.operation_examples import KINDS, ROOM, Example, every, find
from tests.schema.feeds import Served
from tests.schema.operations import It
from tests.schema.parties import Party, make_party
from tests.schema.sockets import acknowledged

#: What an example's words mean in a tenant of the tests.
WORDS = {
    "device id": It.DEVICE,
    "id of a pending device": It.PENDING,
    "serial number": It.SERIAL,
    "site id": It.SITE,
    "id of a site without devices": It.EMPTY_SITE,
    "pin": It.PIN,
    "part of a name": It.PERSON,
    "employee id": It.EMPLOYEE,
    "punch id": It.PUNCH,
    "command id": It.COMMAND,
    "key id": It.SPARE_KEY,
    "endpoint id": It.ENDPOINT,
    "delivery id": It.DELIVERY,
    "X-PunchConnect-Delivery": It.UUID,
    "replay id": It.REPLAY,
}
EXAMPLES = every()


def variables(example: Example, party: Party) -> dict[str, Any]:
    return example.filled(lambda word: uuid4().hex if word == "key of your own" else party.names[WORDS[word]])


async def post(here: Served, party: Party, document: str, given: dict[str, Any]) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        answer = await client.post(
            here.url.replace("ws://", "http://"),
            json={"query": document, "variables": given},
            headers={"Authorization": f"Bearer {party.api_key}"},
        )
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_every_operation_has_an_example_and_every_example_an_operation() -> None:
    operations = {
        (kind, field)
        for kind, root in KINDS.items()
        for field in schema.core.type_map[root].fields  # type: ignore[attr-defined]
    }

    assert operations - {(each.kind, each.field) for each in EXAMPLES} == set(), f"write them in {ROOM}"
    assert {(each.kind, each.field) for each in EXAMPLES} - operations == set()


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_is_one_operation_of_its_field_under_a_name(example: Example) -> None:
    (operation,) = parse(example.document).definitions

    assert isinstance(operation, OperationDefinitionNode)
    assert operation.operation.value == example.kind
    assert operation.name is not None
    assert [node.name.value for node in operation.selection_set.selections if isinstance(node, FieldNode)] == [
        example.field
    ]
    assert {definition.variable.name.value for definition in operation.variable_definitions or ()} == set(
        example.variables
    )


@pytest.mark.parametrize("example", [each for each in EXAMPLES if each.kind != "subscription"], ids=str)
async def test_an_example_works_as_it_is_written(here: Served, example: Example) -> None:
    party = await make_party(here.parts.db, here.parts.vault)

    body = await post(here, party, example.document, variables(example, party))

    assert "errors" not in body, body["errors"]
    answer = body["data"][example.field]
    assert answer is not None
    if example.kind == "mutation":
        assert answer["userErrors"] == []
        assert None not in [value for name, value in answer.items() if name != "userErrors"]
    elif isinstance(answer, dict) and "nodes" in answer:
        # One that finds nothing shows nothing.
        assert answer["nodes"]


@pytest.mark.parametrize("example", [each for each in EXAMPLES if each.kind == "subscription"], ids=str)
async def test_an_example_of_a_subscription_brings_something(here: Served, example: Example) -> None:
    party = await make_party(here.parts.db, here.parts.vault)

    async with acknowledged(here.url, party.api_key) as client:
        await client.subscribe(example.document, variables=variables(example, party))
        first = asyncio.create_task(client.next())
        while not first.done():
            await _stir(here, party)
            await asyncio.wait([first], timeout=0.5)

    payload = await first
    assert "errors" not in payload
    assert payload["data"][example.field] is not None


async def _stir(here: Served, party: Party) -> None:
    """What moves by itself only while somebody looks: a delivery that is retried, and a command."""
    retry = find("mutation", "webhookDeliveryRetry")
    assert retry is not None
    await post(here, party, retry.document, variables(retry, party))
    async with here.parts.db.write(party.tenant_id) as session:
        await commands.send(session, party.tenant_id, party.world.device.id, "syncTime", {})
    command_feed.ring(here.parts.bell, party.tenant_id)
