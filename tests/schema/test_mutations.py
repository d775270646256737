"""Mutations as a client meets them. The domain's own tests say what each verb does; here is what they share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from app import ids
from app.broadcast import Bell
from app.database import Database
from app.domain import events, keys, outbox
from app.vault import Vault
from schema import schema
from tests.factories import make_device, make_endpoint
from tests.schema.conftest import PUBLIC_URL, Caller, MakeCaller
from tests.schema.world import World, make_world

ERRORS = "userErrors { code message docUrl path } idempotentReplay"


@dataclass(frozen=True, slots=True)
class Case:
    """One mutation: its scope, an input that would work in a `World` whose ids are put in, and what to ask of it."""

    field: str
    scope: str
    input: dict[str, Any]
    selection: str
    #: Whether the input names something that another tenant may own.
    names: bool = True

    def query(self) -> str:
        """As a document with one variable."""
        kind = {
            "deviceSuspend": "DeviceId",
            "deviceResume": "DeviceId",
            "deviceRetire": "DeviceId",
            "deviceFillFromSite": "DeviceId",
            "deviceCommandCancel": "DeviceCommandId",
            "employeeDelete": "EmployeeId",
            "apiKeyRevoke": "ApiKeyId",
            "webhookEndpointDelete": "WebhookEndpointId",
            "webhookEndpointTest": "WebhookEndpointId",
            "webhookDeliveryRetry": "WebhookDeliveryId",
        }.get(self.field, self.field[0].upper() + self.field[1:])
        return (
            f"mutation M($input: {kind}Input!) {{ done: {self.field}(input: $input) {{ {self.selection} {ERRORS} }} }}"
        )

    def filled(self, **names: str) -> dict[str, Any]:
        """The input with ids for its placeholders."""
        return {
            name: names.get(value, value) if isinstance(value, str) else value for name, value in self.input.items()
        }


CASES = [
    Case("siteCreate", "devices:write", {"name": "Depot", "timeZone": "UTC"}, "site { id name timeZone }", names=False),
    Case("siteUpdate", "devices:write", {"id": "SITE", "name": "New"}, "site { id name timeZone }"),
    Case("siteDelete", "devices:write", {"id": "EMPTY_SITE"}, "deletedId"),
    Case("deviceRegister", "devices:write", {"serialNumber": "N1", "siteId": "SITE"}, "device { serialNumber name }"),
    Case("deviceUpdate", "devices:write", {"id": "DEVICE", "name": "New"}, "device { id name }"),
    Case("deviceApprove", "devices:write", {"id": "STRANGER", "timeZone": "UTC"}, "device { id status timeZone }"),
    Case("deviceSuspend", "devices:write", {"id": "DEVICE"}, "device { id status }"),
    Case("deviceResume", "devices:write", {"id": "DEVICE"}, "device { id status }"),
    Case("deviceRetire", "devices:write", {"id": "DEVICE"}, "device { id status }"),
    Case(
        "deviceCommandSend",
        "devices:write",
        {"deviceId": "DEVICE", "command": {"syncTime": True}},
        "command { id kind status device { id } }",
    ),
    Case("deviceFillFromSite", "employees:write", {"id": "DEVICE"}, "device { id }"),
    Case("deviceCommandCancel", "devices:write", {"id": "COMMAND"}, "command { id status }"),
    Case(
        "deviceBackfill",
        "devices:write",
        {"deviceId": "DEVICE", "from": "2026-03-01T00:00:00", "to": "2026-03-02T00:00:00"},
        "command { id kind }",
    ),
    Case("employeeUpsert", "employees:write", {"pin": "77", "name": "Z"}, "employee { pin name }", names=False),
    Case(
        "employeeBulkUpsert",
        "employees:write",
        {"employees": [{"pin": "78", "name": "Y"}, {"pin": "79"}]},
        "employees { pin name }",
        names=False,
    ),
    Case("employeeDelete", "employees:write", {"id": "EMPLOYEE"}, "deletedId"),
    Case(
        "apiKeyCreate",
        "keys:write",
        {"name": "second", "scopes": ["keys:write"]},
        "apiKey { id name scopes } secret",
        names=False,
    ),
    Case("apiKeyRotate", "keys:write", {"id": "KEY"}, "apiKey { id name } secret"),
    Case("apiKeyRevoke", "keys:write", {"id": "SPARE_KEY"}, "apiKey { id revokedAt }"),
    Case("enrollmentRotate", "devices:write", {}, "enrollment { url host }", names=False),
    Case(
        "webhookEndpointCreate",
        "webhooks:write",
        {"url": "https://r.example/"},
        "endpoint { id url } secret",
        names=False,
    ),
    Case("webhookEndpointUpdate", "webhooks:write", {"id": "ENDPOINT", "status": "PAUSED"}, "endpoint { id status }"),
    Case("webhookEndpointDelete", "webhooks:write", {"id": "ENDPOINT"}, "deletedId"),
    Case("webhookEndpointRotateSecret", "webhooks:write", {"id": "ENDPOINT"}, "endpoint { id } secret"),
    Case("webhookEndpointTest", "webhooks:write", {"id": "ENDPOINT"}, "delivery { id status eventType }"),
    Case("webhookDeliveryRetry", "webhooks:write", {"id": "DELIVERY"}, "delivery { id status }"),
    Case(
        "webhookReplay",
        "webhooks:write",
        {"endpointId": "ENDPOINT", "since": "2026-03-01T00:00:00Z", "eventTypes": ["punch.created"]},
        "replay { id status done }",
    ),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.field)

SITE = next(case for case in CASES if case.field == "siteCreate").query()
KEY = next(case for case in CASES if case.field == "apiKeyCreate").query()
TABLES = (
    "api_keys", "enrollments", "sites", "devices", "device_commands", "employees", "placements", "feed_heads", "events",
    "webhook_endpoints", "webhook_deliveries", "idempotency_keys",
)  # fmt: skip


async def everything(db: Database, tenant_id: UUID) -> dict[str, list[str]]:
    """All that the mutations could change, as text; less what every call moves."""
    found = {}
    async with db.write(tenant_id) as session:
        connection = await session.connection()
        for table in TABLES:
            rows = await connection.exec_driver_sql(
                f"SELECT (to_jsonb(t) - 'last_used_at')::text FROM {table} t WHERE tenant_id = '{tenant_id}' ORDER BY 1"
            )
            found[table] = [row[0] for row in rows]
    return found


async def ids_of(db: Database, vault: Vault, world: World) -> dict[str, str]:
    """Ids for the placeholders, of one tenant."""
    tenant_id = world.tenant_id
    stranger = await make_device(db, tenant_id, status="PENDING", registered=False, time_zone=None, bound_addresses=[])
    empty_site = ids.new()
    pair = [keys.issue(tenant_id, name, keys.SCOPES, None, vault)[0] for name in ("key", "spare")]
    async with db.across("operate") as connection:
        for key in pair:
            await keys.add(connection, key)
    async with db.write(tenant_id) as session:
        await (await session.connection()).exec_driver_sql(
            "INSERT INTO sites (tenant_id, id, name, time_zone, created_at) "
            f"VALUES ('{tenant_id}', '{empty_site}', 'Empty', 'UTC', now())"
        )
    return {
        "SITE": ids.show("sit", world.site.id),
        "EMPTY_SITE": ids.show("sit", empty_site),
        "DEVICE": ids.show("dev", world.device.id),
        "STRANGER": ids.show("dev", stranger.id),
        "EMPLOYEE": ids.show("emp", world.employee.id),
        "KEY": ids.show("key", pair[0].id),
        "SPARE_KEY": ids.show("key", pair[1].id),
        "ENDPOINT": ids.show("whk", world.endpoint.id),
        "DELIVERY": ids.show("whd", world.delivery.id),
        "COMMAND": ids.show("cmd", world.command.id),
    }


def random_ids() -> dict[str, str]:
    """Ids for the placeholders, of nobody."""
    kinds: dict[str, ids.Prefix] = {
        "SITE": "sit",
        "EMPTY_SITE": "sit",
        "DEVICE": "dev",
        "STRANGER": "dev",
        "EMPLOYEE": "emp",
        "KEY": "key",
        "SPARE_KEY": "key",
        "ENDPOINT": "whk",
        "DELIVERY": "whd",
        "COMMAND": "cmd",
    }
    return {name: ids.show(prefix, ids.new()) for name, prefix in kinds.items()}


@EACH
async def test_each_mutation_works_once(db: Database, vault: Vault, caller: Caller, world: World, case: Case) -> None:
    named = await ids_of(db, vault, world)
    given = case.filled(**named) | {"idempotencyKey": "once"}

    first = (await caller.ask(case.query(), input=given))["done"]
    between = await everything(db, caller.tenant_id)
    second = await caller.post(case.query(), {"input": given})
    after = await everything(db, caller.tenant_id)

    assert (first["userErrors"], first["idempotentReplay"]) == ([], False)
    assert all(value is not None for value in first.values())
    replay = second.json()["data"]["done"]
    assert (replay.pop("userErrors"), replay.pop("idempotentReplay")) == ([], True)
    assert replay.pop("secret", None) is None
    assert replay == {name: first[name] for name in replay}
    assert second.headers["idempotent-replayed"] == "true"
    assert after == between


@EACH
async def test_each_mutation_asks_for_its_scope(
    db: Database, vault: Vault, world: World, make_caller: MakeCaller, case: Case
) -> None:
    named = await ids_of(db, vault, world)
    others = [scope for scope in keys.SCOPES if scope != case.scope]
    weak = await make_caller(scopes=others, tenant_id=world.tenant_id)
    before = await everything(db, world.tenant_id)

    answer = (await weak.post(case.query(), {"input": case.filled(**named)})).json()

    assert answer["data"] == {"done": None}
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["permission_denied"]
    assert answer["errors"][0]["extensions"]["status"] == 403
    assert await everything(db, world.tenant_id) == before


@pytest.mark.parametrize("case", [case for case in CASES if case.names], ids=lambda case: case.field)
async def test_another_tenants_things_are_things_that_do_not_exist(
    db: Database, vault: Vault, world: World, make_caller: MakeCaller, case: Case
) -> None:
    theirs, nobodys = await ids_of(db, vault, world), random_ids()
    stranger = await make_caller()
    before = await everything(db, world.tenant_id), await everything(db, stranger.tenant_id)

    one = (await stranger.post(case.query(), {"input": case.filled(**theirs)})).text
    other = (await stranger.post(case.query(), {"input": case.filled(**nobodys)})).text

    for name, text in theirs.items():
        one = one.replace(text, name)
        other = other.replace(nobodys[name], name)
    assert one == other
    assert '_not_found","message"' in one
    assert (await everything(db, world.tenant_id), await everything(db, stranger.tenant_id)) == before


@pytest.mark.parametrize("case", [case for case in CASES if "id" in case.input], ids=lambda case: case.field)
async def test_what_is_no_id_is_refused(caller: Caller, case: Case) -> None:
    answer = await caller.ask(case.query(), input=case.input | {"id": "nonsense"})

    (error,) = answer["done"]["userErrors"]
    assert (error["code"], error["path"]) == ("invalid_id", ["input", "id"])


async def test_a_refusal_names_the_field_and_a_page_and_changes_nothing(db: Database, caller: Caller) -> None:
    before = await everything(db, caller.tenant_id)

    done = (await caller.ask(SITE, input={"name": "Depot", "timeZone": "Mars/Olympus", "idempotencyKey": "k"}))["done"]

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
    assert await everything(db, caller.tenant_id) == before


async def test_a_refusal_is_not_remembered(db: Database, vault: Vault, caller: Caller) -> None:
    device = await make_device(db, caller.tenant_id)
    register = next(case for case in CASES if case.field == "deviceRegister").query()
    given = {"serialNumber": device.serial_number, "timeZone": "UTC", "idempotencyKey": "k"}

    refused = (await caller.ask(register, input=given))["done"]
    retire = next(case for case in CASES if case.field == "deviceRetire").query()
    await caller.ask(retire, input={"id": ids.show("dev", device.id)})
    done = (await caller.ask(register, input=given))["done"]

    assert [error["code"] for error in refused["userErrors"]] == ["serial_number_taken"]
    assert (done["userErrors"], done["idempotentReplay"]) == ([], False)


async def test_a_replay_may_ask_for_other_fields(caller: Caller) -> None:
    given = {"name": "Depot", "timeZone": "UTC", "idempotencyKey": "k"}
    first = (await caller.ask(SITE, input=given))["done"]["site"]

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

    assert answer["data"] == {"done": None}
    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "idempotency_key_reused"
    assert (error["extensions"]["status"], error["extensions"]["retryable"]) == (409, False)


async def test_absent_and_null_are_other_arguments_and_a_default_is_not(
    db: Database, vault: Vault, caller: Caller
) -> None:
    endpoint = await make_endpoint(db, vault, caller.tenant_id, description="payroll")
    update = next(case for case in CASES if case.field == "webhookEndpointUpdate").query()
    rotate = next(case for case in CASES if case.field == "webhookEndpointRotateSecret").query()
    given = {"id": ids.show("whk", endpoint.id), "idempotencyKey": "k"}

    await caller.ask(update, input=given)
    reused = await caller.codes(update, input=given | {"description": None})
    await caller.ask(rotate, input=given)
    replayed = (await caller.ask(rotate, input=given | {"graceSeconds": 86400}))["done"]

    assert reused == ["idempotency_key_reused"]
    assert replayed["idempotentReplay"] is True


async def test_the_header_serves_a_request_with_one_mutation(caller: Caller) -> None:
    given = {"name": "Depot", "timeZone": "UTC"}

    first = await caller.post(SITE, {"input": given}, idempotency_key="h")
    second = await caller.post(SITE, {"input": given | {"idempotencyKey": "h"}}, idempotency_key="h")
    third = await caller.post(SITE, {"input": given | {"idempotencyKey": "h"}})

    one = first.json()["data"]["done"]
    assert one["idempotentReplay"] is False
    assert "idempotent-replayed" not in first.headers
    for replay in (second, third):
        assert replay.json()["data"]["done"] == one | {"idempotentReplay": True}
        assert replay.headers["idempotent-replayed"] == "true"


TWO = """
mutation ($skip: Boolean!) {
  one: siteCreate(input: {name: "One", timeZone: "UTC"}) { site { name } }
  ...Second @skip(if: $skip)
}
fragment Second on Mutation { two: siteCreate(input: {name: "Two", timeZone: "UTC"}) { site { name } } }
"""


async def test_the_header_is_ambiguous_with_two_mutations(db: Database, caller: Caller) -> None:
    two = (await caller.post(TWO, {"skip": False}, idempotency_key="h")).json()
    nothing = (await everything(db, caller.tenant_id))["sites"]
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


async def test_a_key_and_another_one_in_the_header_are_ambiguous(db: Database, caller: Caller) -> None:
    given = {"name": "Depot", "timeZone": "UTC", "idempotencyKey": "a"}

    answer = (await caller.post(SITE, {"input": given}, idempotency_key="b")).json()

    assert [error["extensions"]["code"] for error in answer["errors"]] == ["idempotency_key_ambiguous"]
    assert (await everything(db, caller.tenant_id))["sites"] == []


@pytest.mark.parametrize("key", ["", "x" * 256, "a\n"])
async def test_a_key_that_is_none_is_refused(caller: Caller, key: str) -> None:
    done = (await caller.ask(SITE, input={"name": "Depot", "timeZone": "UTC", "idempotencyKey": key}))["done"]

    (error,) = done["userErrors"]
    assert (error["code"], error["path"]) == ("invalid_input", ["input", "idempotencyKey"])


async def test_fifty_calls_at_once_have_one_effect(db: Database, caller: Caller) -> None:
    given = {"name": "k", "scopes": ["punches:read"], "idempotencyKey": "fifty"}

    async def insist() -> dict[str, Any]:
        while True:
            answer = (await caller.post(KEY, {"input": given})).json()
            if "errors" not in answer:
                done: dict[str, Any] = answer["data"]["done"]
                return done
            assert {error["extensions"]["code"] for error in answer["errors"]} == {"idempotency_in_progress"}

    answers = await asyncio.gather(*(insist() for _ in range(50)))

    assert len({answer["apiKey"]["id"] for answer in answers}) == 1
    assert [answer["idempotentReplay"] for answer in answers].count(False) == 1
    assert len([answer for answer in answers if answer["secret"]]) == 1
    assert len((await everything(db, caller.tenant_id))["api_keys"]) == 2


async def test_a_replay_of_what_is_gone_answers_without_it(caller: Caller) -> None:
    given = {"name": "Depot", "timeZone": "UTC", "idempotencyKey": "k"}
    site = (await caller.ask(SITE, input=given))["done"]["site"]
    delete = next(case for case in CASES if case.field == "siteDelete").query()
    await caller.ask(delete, input={"id": site["id"]})

    done = (await caller.ask(SITE, input=given))["done"]

    assert done == {"site": None, "userErrors": [], "idempotentReplay": True}


async def test_what_is_committed_is_rung_out(db: Database, vault: Vault, bell: Bell, caller: Caller) -> None:
    world = await make_world(db, vault, caller.tenant_id)
    named = await ids_of(db, vault, world)
    approve = next(case for case in CASES if case.field == "deviceApprove")
    retry = next(case for case in CASES if case.field == "webhookDeliveryRetry")

    async with bell.listen(events.channel(caller.tenant_id)) as feed, bell.listen(outbox.DELIVERIES) as due:
        await caller.ask(approve.query(), input=approve.filled(**named))
        heard = await feed.heard(5)
        first = await due.heard(5)
        await caller.ask(retry.query(), input=retry.filled(**named))
        second = await due.heard(5)

    message = events.read_message(vault.bus_key, caller.tenant_id, heard.messages[0])
    assert message is not None
    assert [event.type for event in message.events] == ["device.bound"]
    assert list(first.messages) == [b"1"]
    assert list(second.messages) == [b"1"]


async def test_a_key_that_is_revoked_stops_within_seconds(caller: Caller) -> None:
    created = (await caller.ask(KEY, input={"name": "second", "scopes": ["keys:write"]}))["done"]
    second = Caller(caller.tenant_id, created["secret"], caller.http)
    assert await second.codes("{ viewer { apiKey { id } } }") == []
    revoke = next(case for case in CASES if case.field == "apiKeyRevoke").query()

    await caller.ask(revoke, input={"id": created["apiKey"]["id"]})
    await asyncio.sleep(2.1)

    answer = await second.post("{ viewer { apiKey { id } } }")
    assert answer.status_code == 401


async def test_the_last_key_that_makes_keys_is_not_revoked(caller: Caller) -> None:
    key_id = (await caller.ask("{ viewer { apiKey { id } } }"))["viewer"]["apiKey"]["id"]
    revoke = next(case for case in CASES if case.field == "apiKeyRevoke").query()

    done = (await caller.ask(revoke, input={"id": key_id}))["done"]

    assert [error["code"] for error in done["userErrors"]] == ["invalid_input"]
    assert await caller.codes("{ viewer { apiKey { id } } }") == []


async def test_a_key_is_never_stronger_than_the_one_that_makes_it(make_caller: MakeCaller) -> None:
    weak = await make_caller(scopes=["keys:write"])

    done = (await weak.ask(KEY, input={"name": "strong", "scopes": ["keys:write", "punches:read"]}))["done"]

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
        done = (await caller.ask(SITE, input={"name": name, "timeZone": "UTC"}))["done"]
        assert [error["code"] for error in done["userErrors"]] == ["invalid_input"]
    employee = next(case for case in CASES if case.field == "employeeUpsert").query()
    for field in ("pin", "name", "externalId", "cardNumber"):
        done = (await caller.ask(employee, input={"pin": "1"} | {field: "\x00"}))["done"]
        assert len(done["userErrors"]) == 1
    endpoint = next(case for case in CASES if case.field == "webhookEndpointCreate").query()
    for given in ({"url": "https://a.example/\x00"}, {"description": "\x00"}, {"eventTypes": ["\x00"]}):
        done = (await caller.ask(endpoint, input={"url": "https://a.example/"} | given))["done"]
        assert len(done["userErrors"]) == 1


def test_no_mutation_is_left_out_here() -> None:
    mutation = schema._schema.mutation_type
    assert mutation is not None
    assert set(mutation.fields) == {case.field for case in CASES}
