"""Mutations as a client meets them. The domain's own tests say what each verb does; here is what they share."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from app import ids
from app.broadcast import Bell
from app.database import Database
from app.domain import events, outbox
from app.vault import Vault
from tests.factories import make_device, make_endpoint
from tests.schema.conftest import PUBLIC_URL, Caller, MakeCaller
from tests.schema.operations import Call, calls_of, fill
from tests.schema.parties import names_of, nobody, rows_of
from tests.schema.world import World, make_world

#: One call of each.
CASES = list({call.field: call for call in reversed(calls_of("Mutation"))}.values())[::-1]
#: Called twice, these do it twice, by contract: their inputs have no idempotency key.
AGAIN = {"streamTokenCreate"}
NOBODY = nobody()
EACH = pytest.mark.parametrize("case", CASES, ids=str)


def query_of(name: str) -> str:
    """A mutation that takes its input as a variable, and gives all that there is to be had."""
    return next(case for case in CASES if case.name == name).document()


SITE, KEY = query_of("siteCreate"), query_of("apiKeyCreate")


@pytest.mark.parametrize("case", [case for case in CASES if "id" in case.arguments["input"]], ids=str)
async def test_what_is_no_id_is_refused(caller: Caller, case: Call) -> None:
    answer = await caller.ask(case.document(), input=fill(case.arguments["input"], nobody()) | {"id": "nonsense"})

    (error,) = answer["answer"]["userErrors"]
    assert (error["code"], error["path"]) == ("invalid_id", ["input", "id"])


@pytest.mark.parametrize("case", [case for case in CASES if fill(case.arguments, NOBODY) != case.arguments], ids=str)
async def test_what_is_not_found_is_named_by_its_field(caller: Caller, case: Call) -> None:
    given = fill(case.arguments, NOBODY)

    answer = await caller.ask(case.document(), input=given["input"])

    (error,) = answer["answer"]["userErrors"]
    assert error["code"].endswith("_not_found")
    named, missing = error["path"], given
    for step in named:
        missing = missing[step]
    assert set(missing if isinstance(missing, list) else [missing]) <= set(NOBODY.values())


async def test_a_refusal_names_the_field_and_a_page_and_changes_nothing(
    owner: asyncpg.Connection, caller: Caller
) -> None:
    before = await rows_of(owner, caller.tenant_id)

    given = {"name": "Depot", "timeZone": "Mars/Olympus", "idempotencyKey": "k"}

    done = (await caller.ask(SITE, input=given))["answer"]

    assert done == {
        "site": None,
        "userErrors": [
            {
                "code": "time_zone_unknown",
                "message": "There is no time zone 'Mars/Olympus': use an IANA name such as Africa/Casablanca.",
                "docUrl": f"{PUBLIC_URL}/docs/errors/time_zone_unknown",
                "path": ["input", "timeZone"],
            }
        ],
        "idempotentReplay": False,
    }
    assert await rows_of(owner, caller.tenant_id) == before


async def test_a_refusal_is_not_remembered(db: Database, vault: Vault, caller: Caller) -> None:
    device = await make_device(db, caller.tenant_id)
    register = query_of("deviceRegister")
    given = {"serialNumber": device.serial_number, "timeZone": "UTC", "idempotencyKey": "k"}

    refused = (await caller.ask(register, input=given))["answer"]
    retire = query_of("deviceRetire")
    await caller.ask(retire, input={"id": ids.show("dev", device.id)})
    done = (await caller.ask(register, input=given))["answer"]

    assert [error["code"] for error in refused["userErrors"]] == ["serial_number_taken"]
    assert (done["userErrors"], done["idempotentReplay"]) == ([], False)


async def test_a_replay_may_ask_for_other_fields(caller: Caller) -> None:
    given = {"name": "Depot", "timeZone": "UTC", "idempotencyKey": "k"}
    first = (await caller.ask(SITE, input=given))["answer"]["site"]

    again = await caller.ask(
        "mutation ($input: SiteCreateInput!) { siteCreate(input: $input) "
        "{ idempotentReplay site { id createdAt devices { nodes { id } } } } }",
        input=given,
    )

    assert again["siteCreate"]["idempotentReplay"] is True
    assert again["siteCreate"]["site"]["id"] == first["id"]
    assert again["siteCreate"]["site"]["devices"] == {"nodes": []}


async def test_a_key_with_other_arguments_is_an_error(caller: Caller) -> None:
    given = {"name": "Depot", "timeZone": "UTC", "idempotencyKey": "k"}
    await caller.ask(SITE, input=given)

    answer = (await caller.post(SITE, {"input": given | {"name": "Other"}})).json()

    assert answer["data"] == {"answer": None}
    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "idempotency_key_reused"
    assert (error["extensions"]["status"], error["extensions"]["retryable"]) == (409, False)


async def test_absent_and_null_are_other_arguments_and_a_default_is_not(
    db: Database, vault: Vault, caller: Caller
) -> None:
    endpoint = await make_endpoint(db, vault, caller.tenant_id, description="payroll")
    update = query_of("webhookEndpointUpdate")
    rotate = query_of("webhookEndpointRotateSecret")
    given = {"id": ids.show("whk", endpoint.id), "idempotencyKey": "k"}

    await caller.ask(update, input=given)
    reused = await caller.codes(update, input=given | {"description": None})
    await caller.ask(rotate, input=given)
    replayed = (await caller.ask(rotate, input=given | {"graceSeconds": 86400}))["answer"]

    assert reused == ["idempotency_key_reused"]
    assert replayed["idempotentReplay"] is True


async def test_the_header_serves_a_request_with_one_mutation(caller: Caller) -> None:
    given = {"name": "Depot", "timeZone": "UTC"}

    first = await caller.post(SITE, {"input": given}, idempotency_key="h")
    second = await caller.post(SITE, {"input": given | {"idempotencyKey": "h"}}, idempotency_key="h")
    third = await caller.post(SITE, {"input": given | {"idempotencyKey": "h"}})

    one = first.json()["data"]["answer"]
    assert one["idempotentReplay"] is False
    assert "idempotent-replayed" not in first.headers
    for replay in (second, third):
        assert replay.json()["data"]["answer"] == one | {"idempotentReplay": True}
        assert replay.headers["idempotent-replayed"] == "true"


TWO = """
mutation ($skip: Boolean!) {
  one: siteCreate(input: {name: "One", timeZone: "UTC"}) { site { name } }
  ...Second @skip(if: $skip)
}
fragment Second on Mutation { two: siteCreate(input: {name: "Two", timeZone: "UTC"}) { site { name } } }
"""


async def test_the_header_is_ambiguous_with_two_mutations(owner: asyncpg.Connection, caller: Caller) -> None:
    two = (await caller.post(TWO, {"skip": False}, idempotency_key="h")).json()
    nothing = (await rows_of(owner, caller.tenant_id))["sites"]
    one = (await caller.post(TWO, {"skip": True}, idempotency_key="h")).json()

    assert two["data"] == {"one": None, "two": None}
    assert [error["extensions"]["code"] for error in two["errors"]] == ["idempotency_key_ambiguous"] * 2
    assert nothing == []
    assert one["data"] == {"one": {"site": {"name": "One"}}}


async def test_two_mutations_with_keys_of_their_own_are_told_apart(caller: Caller) -> None:
    pair = """mutation {
      one: siteCreate(input: {name: "One", timeZone: "UTC", idempotencyKey: "1"}) { site { id } idempotentReplay }
      two: siteCreate(input: {name: "Two", timeZone: "UTC", idempotencyKey: "2"}) { site { id } idempotentReplay }
    }"""

    first, second = await caller.ask(pair), await caller.ask(pair)

    assert first["one"]["site"] != first["two"]["site"]
    assert [second[name] for name in ("one", "two")] == [
        {"site": first[name]["site"], "idempotentReplay": True} for name in ("one", "two")
    ]


async def test_a_key_and_another_one_in_the_header_are_ambiguous(owner: asyncpg.Connection, caller: Caller) -> None:
    given = {"name": "Depot", "timeZone": "UTC", "idempotencyKey": "a"}

    answer = (await caller.post(SITE, {"input": given}, idempotency_key="b")).json()

    assert [error["extensions"]["code"] for error in answer["errors"]] == ["idempotency_key_ambiguous"]
    assert (await rows_of(owner, caller.tenant_id))["sites"] == []


@pytest.mark.parametrize("key", ["", "x" * 256, "a\n"])
async def test_a_key_that_is_none_is_refused(caller: Caller, key: str) -> None:
    done = (await caller.ask(SITE, input={"name": "Depot", "timeZone": "UTC", "idempotencyKey": key}))["answer"]

    (error,) = done["userErrors"]
    assert (error["code"], error["path"]) == ("invalid_input", ["input", "idempotencyKey"])


async def test_a_replay_of_what_is_gone_answers_without_it(caller: Caller) -> None:
    given = {"name": "Depot", "timeZone": "UTC", "idempotencyKey": "k"}
    site = (await caller.ask(SITE, input=given))["answer"]["site"]
    delete = query_of("siteDelete")
    await caller.ask(delete, input={"id": site["id"]})

    done = (await caller.ask(SITE, input=given))["answer"]

    assert done == {"site": None, "userErrors": [], "idempotentReplay": True}


async def test_what_is_committed_is_rung_out(db: Database, vault: Vault, bell: Bell, caller: Caller) -> None:
    world = await make_world(db, vault, caller.tenant_id)
    named = await names_of(db, vault, world)
    approve = next(case for case in CASES if case.name == "deviceApprove")
    retry = next(case for case in CASES if case.name == "webhookDeliveryRetry")

    async with bell.listen(events.channel(caller.tenant_id)) as feed, bell.listen(outbox.DELIVERIES) as due:
        await caller.ask(approve.document(), **approve.variables(named))
        heard = await feed.heard(5)
        first = await due.heard(5)
        await caller.ask(retry.document(), **retry.variables(named))
        second = await due.heard(5)

    message = events.read_message(vault.bus_key, caller.tenant_id, heard.messages[0])
    assert message is not None
    assert [event.type for event in message.events] == ["device.bound"]
    assert list(first.messages) == [b"1"]
    assert list(second.messages) == [b"1"]


async def test_a_key_that_is_revoked_stops_within_seconds(caller: Caller) -> None:
    created = (await caller.ask(KEY, input={"name": "second", "scopes": ["keys:write"]}))["answer"]
    second = Caller(caller.tenant_id, created["secret"], caller.http)
    assert await second.codes("{ viewer { apiKey { id } } }") == []
    revoke = query_of("apiKeyRevoke")

    await caller.ask(revoke, input={"id": created["apiKey"]["id"]})
    await asyncio.sleep(2.1)

    answer = await second.post("{ viewer { apiKey { id } } }")
    assert answer.status_code == 401


async def test_the_last_key_that_makes_keys_is_not_revoked(caller: Caller) -> None:
    key_id = (await caller.ask("{ viewer { apiKey { id } } }"))["viewer"]["apiKey"]["id"]
    revoke = query_of("apiKeyRevoke")

    done = (await caller.ask(revoke, input={"id": key_id}))["answer"]

    assert [error["code"] for error in done["userErrors"]] == ["invalid_input"]
    assert await caller.codes("{ viewer { apiKey { id } } }") == []


async def test_a_key_is_never_stronger_than_the_one_that_makes_it(make_caller: MakeCaller) -> None:
    weak = await make_caller(scopes=["keys:write"])

    done = (await weak.ask(KEY, input={"name": "strong", "scopes": ["keys:write", "punches:read"]}))["answer"]

    assert [(error["code"], error["path"]) for error in done["userErrors"]] == [("invalid_input", ["input", "scopes"])]
    assert (done["apiKey"], done["secret"]) == (None, None)


async def test_a_mutation_sees_what_the_one_before_it_did(caller: Caller) -> None:
    await caller.ask(SITE, input={"name": "Depot", "timeZone": "UTC", "idempotencyKey": "k"})

    data = await caller.ask("""mutation {
      a: employeeUpsert(input: {pin: "1", name: "A"}) { employee { name } }
      b: employeeUpsert(input: {pin: "1", name: "B"}) { employee { name punches { nodes { id } } } }
      c: deviceRegister(input: {serialNumber: "S", timeZone: "UTC"}) { device { name site { name } } }
    }""")

    assert data == {
        "a": {"employee": {"name": "A"}},
        "b": {"employee": {"name": "B", "punches": {"nodes": []}}},
        "c": {"device": {"name": "S", "site": None}},
    }


async def test_a_mutation_shows_no_row_as_it_was_before(caller: Caller, world: World) -> None:
    data = await caller.ask(
        """mutation ($device: ID!, $site: ID!) {
          before: deviceUpdate(input: {id: $device, name: "A"}) { device { site { name } } }
          siteUpdate(input: {id: $site, name: "Renamed"}) { site { name } }
          after: deviceUpdate(input: {id: $device, name: "B"}) { device { site { name } } }
        }""",
        device=ids.show("dev", world.device.id),
        site=ids.show("sit", world.site.id),
    )

    assert data["before"]["device"]["site"]["name"] == "Casablanca"
    assert data["after"]["device"]["site"]["name"] == "Renamed"


async def test_what_postgresql_cannot_hold_is_refused_and_not_an_error_of_ours(caller: Caller) -> None:
    for name in ("a\x00b", "\x1b[31m"):
        done = (await caller.ask(SITE, input={"name": name, "timeZone": "UTC"}))["answer"]
        assert [error["code"] for error in done["userErrors"]] == ["invalid_input"]
    employee = query_of("employeeUpsert")
    for field in ("pin", "name", "externalId", "cardNumber"):
        done = (await caller.ask(employee, input={"pin": "1"} | {field: "\x00"}))["answer"]
        assert len(done["userErrors"]) == 1
    endpoint = query_of("webhookEndpointCreate")
    for given in ({"url": "https://a.example/\x00"}, {"description": "\x00"}, {"eventTypes": ["\x00"]}):
        done = (await caller.ask(endpoint, input={"url": "https://a.example/"} | given))["answer"]
        assert len(done["userErrors"]) == 1
