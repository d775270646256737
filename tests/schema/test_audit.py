"""The audit log: every mutation writes its entry with its effect, or neither; and nobody changes an entry."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy.exc

from app import ids
from app.database import Database, driver
from app.domain import audit, keys, signups, tenants
from app.vault import Vault
from tests.schema.conftest import Caller, MakeCaller
from tests.schema.operations import Call
from tests.schema.parties import names_of
from tests.schema.test_mutations import AGAIN, CASES, EACH, SITE, query_of
from tests.schema.world import World

LOG = """query ($first: Int, $filter: AuditFilter) { auditLog(first: $first, filter: $filter) {
    nodes { id action actor source targetId detail requestId createdAt } } }"""


async def entries(caller: Caller, **filter: Any) -> list[dict[str, Any]]:
    """What the log has of this caller's key, the newest first; or what the filter says."""
    found = await caller.ask(LOG, first=100, filter=filter or {"sources": ["API"]})
    nodes: list[dict[str, Any]] = found["auditLog"]["nodes"]
    return nodes


def done_to(answer: dict[str, Any]) -> list[str | None]:
    """The ids of whatever a mutation's payload shows."""
    if "deletedId" in answer:
        return [answer["deletedId"]]
    if "token" in answer:
        return [None, None]  # made twice: there is no idempotency key
    (entity,) = (value for name, value in answer.items() if name not in {"userErrors", "idempotentReplay", "secret"})
    return [one.get("id") for one in (entity if isinstance(entity, list) else [entity])]


@EACH
async def test_each_mutation_leaves_who_did_what_to_which_object(
    db: Database, vault: Vault, caller: Caller, world: World, case: Call
) -> None:
    given = case.variables(await names_of(db, vault, world))["input"]
    if case.name not in AGAIN:
        given["idempotencyKey"] = "k"
    key = (await caller.ask("{ viewer { apiKey { id } } }"))["viewer"]["apiKey"]["id"]

    response = await caller.post(case.document(), {"input": given})
    await caller.post(case.document(), {"input": given})

    found = await entries(caller, apiKeyIds=[key])
    assert {(e["action"], e["actor"], e["source"]) for e in found} == {(case.name, key, "API")}
    assert found[-1]["requestId"] == response.headers["x-request-id"]
    targets = done_to(response.json()["data"]["answer"])
    assert sorted(str(e["targetId"]) for e in found) == sorted(map(str, targets))
    defaults = {"graceSeconds", "onlyUndelivered", "ttlSeconds"}
    assert all(e["detail"].keys() - defaults == case.arguments["input"].keys() for e in found)


async def test_what_is_refused_leaves_nothing(caller: Caller, make_caller: MakeCaller) -> None:
    weak = await make_caller(scopes=["audit:read"], tenant_id=caller.tenant_id)

    await weak.post(SITE, {"input": {"name": "Depot", "timeZone": "UTC"}})
    await caller.ask(SITE, input={"name": "Depot", "timeZone": "Mars/Olympus"})

    assert await entries(caller) == []


async def test_no_secret_and_no_person_is_in_the_log(db: Database, vault: Vault, caller: Caller, world: World) -> None:
    names = await names_of(db, vault, world)
    secrets = []
    for case in CASES:
        done = (await caller.ask(case.document(), **case.variables(names)))["answer"]
        secrets += [done["secret"]] if done.get("secret") else []
    await caller.ask(
        'mutation { employeeUpsert(input: {pin: "5550001", name: "Zoë", cardNumber: "99887766"}) { employee { id } } '
        'webhookEndpointCreate(input: {url: "https://r.example/token-s3cret"}) { secret } }'
    )

    async with db.read(caller.tenant_id) as session:
        rows = await (await driver(session)).fetch("SELECT audit_entries::text, action FROM audit_entries")
    everything = "\n".join(row[0] for row in rows)

    assert len(secrets) == 3
    assert {"apiKeyCreate", "apiKeyRotate", "employeeUpsert", "webhookEndpointCreate"} < {row[1] for row in rows}
    for text in (*secrets, "5550001", "Zoë", "99887766", "s3cret"):
        assert text not in everything


def test_what_is_kept_of_arguments_is_bounded() -> None:
    found = audit.kept(
        {
            "name": "typed",
            "id": "x" * 500,
            "graceSeconds": 60,
            "url": None,
            "command": {"unlockDoor": {"door": 1}, "pin": "7"},
            "employees": [{"pin": "7"}] * 3,
            "siteIds": ["sit_1"] * 51,
            "scopes": ["punches:read"],
        }
    )

    assert found == {
        "name": "…",
        "id": "x" * 200,
        "graceSeconds": 60,
        "url": None,
        "command": {"unlockDoor": {"door": 1}, "pin": "…"},
        "employees": {"count": 3},
        "siteIds": {"count": 51},
        "scopes": ["punches:read"],
    }


async def test_many_at_once_are_an_entry_each(caller: Caller) -> None:
    done = (
        await caller.ask(query_of("employeeBulkUpsert"), input={"employees": [{"pin": f"{n}"} for n in range(1, 61)]})
    )["answer"]

    found = await entries(caller, actions=["employeeBulkUpsert"])

    assert {e["targetId"] for e in found} == {employee["id"] for employee in done["employees"]}
    assert {str(e["detail"]) for e in found} == {"{'employees': {'count': 60}}"}


async def test_the_operator_is_in_the_log(db: Database, vault: Vault, caller: Caller) -> None:
    async with db.across("operate") as connection:
        await tenants.activate(connection, caller.tenant_id)
        await tenants.suspend(connection, caller.tenant_id)
        key, _ = keys.issue(caller.tenant_id, "spare", ["punches:read"], None, vault)
        await keys.add_any(connection, key)
        await keys.revoke_any(connection, key.id)

    found = await entries(caller, sources=["CLI"])

    tenant, spare = ids.show("ten", caller.tenant_id), ids.show("key", key.id)
    first = (await caller.ask("{ viewer { apiKey { id } } }"))["viewer"]["apiKey"]["id"]
    assert [(e["action"], e["actor"], e["targetId"]) for e in reversed(found)] == [
        ("tenantCreate", "operator", tenant),
        ("apiKeyCreate", "operator", first),
        ("tenantActivate", "operator", tenant),
        ("tenantSuspend", "operator", tenant),
        ("apiKeyCreate", "operator", spare),
        ("apiKeyRevoke", "operator", spare),
    ]


async def test_the_log_is_searched(caller: Caller, make_caller: MakeCaller) -> None:
    other = await make_caller(tenant_id=caller.tenant_id)
    key = (await other.ask("{ viewer { apiKey { id } } }"))["viewer"]["apiKey"]["id"]
    first = (await caller.ask(SITE, input={"name": "One", "timeZone": "UTC"}))["answer"]["site"]["id"]
    second = (await other.ask(SITE, input={"name": "Two", "timeZone": "UTC"}))["answer"]["site"]["id"]
    moment = (await entries(caller, targetIds=[second]))[0]["createdAt"]

    async def targets(**filter: Any) -> list[str]:
        return [entry["targetId"] for entry in await entries(caller, **filter)]

    assert await targets(apiKeyIds=[key]) == [second]
    assert await targets(targetIds=[first]) == [first]
    assert await targets(actions=["siteCreate"]) == [second, first]
    assert await targets(sources=["API"], createdAt={"lt": moment}) == [first]
    assert await targets(sources=["API"], createdAt={"gte": moment}) == [second]
    assert await targets(actions=["siteDelete"]) == []
    assert await targets(sources=["DASHBOARD", "SIGNUP"]) == []


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_entries SET action = 'x'", "DELETE FROM audit_entries", "TRUNCATE audit_entries"],
)
@pytest.mark.parametrize("door", ["api", "ingest", "work", "lookup", "operate", "feed"])
async def test_no_role_of_the_application_changes_an_entry(
    db: Database, caller: Caller, door: Any, statement: str
) -> None:
    if door == "api":
        with pytest.raises(sqlalchemy.exc.DBAPIError, match="permission denied"):
            async with db.write(caller.tenant_id) as session:
                await (await session.connection()).exec_driver_sql(statement)
    else:
        tenant_ids: list[UUID] = [caller.tenant_id]
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with db.across(door, tenant_ids) as connection:
                await connection.execute(statement)


async def test_an_entry_cannot_be_written_for_another_tenant(
    db: Database, caller: Caller, make_caller: MakeCaller
) -> None:
    stranger = await make_caller()

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.write(stranger.tenant_id) as session:
            author = audit.Author(audit.AuditSource.API)
            await audit.add(await driver(session), caller.tenant_id, author, "siteCreate")


async def test_a_sign_up_is_in_the_log_of_the_new_tenant(db: Database, vault: Vault, make_caller: MakeCaller) -> None:
    async with db.across("operate") as connection:
        created = await signups.start(
            connection, vault, "Acme", "a@acme.example", "192.0.2.77", per_address=10**6, per_day=10**6
        )
    caller = await make_caller(tenant_id=created.tenant.id)

    found = await entries(caller, sources=["SIGNUP"])

    assert [(e["action"], e["actor"]) for e in found] == [("apiKeyCreate", "signup"), ("tenantCreate", "signup")]
