"""Every mutation happens once per idempotency key: when it is repeated, when fifty do it at once, when the server dies.

Walks all mutations (see operations.py), each in a tenant of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from graphql import GraphQLInputObjectType, GraphQLNonNull, get_named_type

from app.database import Database
from app.embedded import EmbeddedPostgres
from app.vault import Vault
from schema import schema
from tests.conftest import SECRET_KEY
from tests.journeys.rig import Server, until
from tests.schema.conftest import Caller
from tests.schema.operations import Call, It, calls_of, spots
from tests.schema.parties import Party, counts, make_party, nobody, rows_of
from tests.schema.test_mutations import AGAIN
from tests.server import listen

ONCE = [call for call in calls_of("Mutation") if call.name not in AGAIN]
EACH = pytest.mark.parametrize("call", ONCE, ids=lambda call: f"{call}-{call.scope}")
KEY = "one and the same"


def _input_of(call: Call) -> GraphQLInputObjectType:
    kind = get_named_type(call.definition.args["input"].type)
    assert isinstance(kind, GraphQLInputObjectType)
    return kind


def _given(call: Call, names: Mapping[It, str]) -> dict[str, Any]:
    given: dict[str, Any] = call.variables(names)["input"]
    return given | {"idempotencyKey": KEY}


def _other(call: Call, names: Mapping[It, str]) -> dict[str, Any]:
    """Another input: one id or text is another one, or one number that was not given is."""
    others = nobody()
    for spot in spots():
        if spot.call == call and spot.it is not It.IDEMPOTENCY_KEY:
            changed: dict[str, Any] = call.variables(names, spot.arguments(others[spot.it]))["input"]
            return changed | {"idempotencyKey": KEY}
    number = next(name for name, field in _input_of(call).fields.items() if get_named_type(field.type).name == "Int")
    return _given(call, names) | {number: 61}


def test_every_mutation_takes_a_key_and_none_asks_for_one() -> None:
    mutation = schema.core.mutation_type
    assert mutation is not None
    without = set()
    for name, field in mutation.fields.items():
        kind = get_named_type(field.args["input"].type)
        assert isinstance(kind, GraphQLInputObjectType)
        if "idempotencyKey" not in kind.fields:
            without.add(name)
        else:
            assert not isinstance(kind.fields["idempotencyKey"].type, GraphQLNonNull)

    assert without == AGAIN
    assert {call.name for call in ONCE} == set(mutation.fields) - AGAIN


@EACH
async def test_a_repeat_gets_the_answer_and_does_nothing(
    db: Database, vault: Vault, owner: asyncpg.Connection, http: httpx.AsyncClient, call: Call
) -> None:
    party = await make_party(db, vault)
    caller = Caller(party.tenant_id, party.api_key, http)
    given = _given(call, party.names)

    first = (await caller.ask(call.document(), input=given))["answer"]
    between = await rows_of(owner, party.tenant_id)
    second = await caller.post(call.document(), {"input": given})
    after = await rows_of(owner, party.tenant_id)

    assert (first["userErrors"], first["idempotentReplay"]) == ([], False)
    assert all(value is not None for value in first.values())
    again = second.json()["data"]["answer"]
    assert (again.pop("userErrors"), again.pop("idempotentReplay")) == ([], True)
    assert again.pop("secret", None) is None
    assert again == {name: first[name] for name in again}
    assert second.headers["idempotent-replayed"] == "true"
    assert after == between


@EACH
async def test_the_same_key_with_another_input_is_refused(
    db: Database, vault: Vault, owner: asyncpg.Connection, http: httpx.AsyncClient, call: Call
) -> None:
    party = await make_party(db, vault)
    caller = Caller(party.tenant_id, party.api_key, http)
    await caller.ask(call.document(), input=_given(call, party.names))
    before = await rows_of(owner, party.tenant_id)

    answer = (await caller.post(call.document(), {"input": _other(call, party.names)})).json()

    (error,) = answer["errors"]
    assert (error["extensions"]["code"], error["extensions"]["status"]) == ("idempotency_key_reused", 409)
    assert answer["data"] == {"answer": None}
    assert await rows_of(owner, party.tenant_id) == before


@EACH
async def test_fifty_at_once_with_one_key_have_the_effect_of_one(
    db: Database, vault: Vault, owner: asyncpg.Connection, http: httpx.AsyncClient, call: Call
) -> None:
    one, fifty = await make_party(db, vault), await make_party(db, vault)
    await Caller(one.tenant_id, one.api_key, http).ask(call.document(), input=_given(call, one.names))
    caller = Caller(fifty.tenant_id, fifty.api_key, http)

    async def insist() -> dict[str, Any]:
        while True:
            answer = (await caller.post(call.document(), {"input": _given(call, fifty.names)})).json()
            if "errors" not in answer:
                done: dict[str, Any] = answer["data"]["answer"]
                return done
            codes = {error["extensions"]["code"] for error in answer["errors"]}
            # More than the pool has connections for: the client is told to come again.
            assert codes <= {"idempotency_in_progress", "service_unavailable", "rate_limited"}, codes
            await asyncio.sleep(0.05)

    answers = await asyncio.gather(*(insist() for _ in range(50)))

    assert [answer["idempotentReplay"] for answer in answers].count(False) == 1
    assert [answer["userErrors"] for answer in answers] == [[]] * 50
    assert len([answer for answer in answers if answer.get("secret")]) <= 1
    assert counts(await rows_of(owner, fifty.tenant_id)) == counts(await rows_of(owner, one.tenant_id))


# ── a server that dies ───────────────────────────────────────────────────────────────────────────────

GATE = 7_003
#: Where the database is made to wait: once all is written, and in the middle of the commit.
PLACES = {
    "before the commit": "CREATE TRIGGER gate AFTER UPDATE ON idempotency_keys FOR EACH ROW EXECUTE FUNCTION gate()",
    "in the commit": "CREATE CONSTRAINT TRIGGER gate AFTER UPDATE ON idempotency_keys DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION gate()",
}
WAITS = f"""
CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = 0 AS $$
BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NULL; END $$
"""


@asynccontextmanager
async def _serving(url: str, directory: Path) -> AsyncIterator[Server]:
    """A server process with connections for every mutation at once."""
    environment = {
        "PUNCHCONNECT_DATABASE_URL": url,
        "PUNCHCONNECT_SECRET_KEY": SECRET_KEY,
        "PUNCHCONNECT_DATABASE_POOL": "40",
        "PUNCHCONNECT_DATABASE_TIMEOUT_SECONDS": "60",
    }
    with listen() as place:
        port = place.getsockname()[1]
    server = Server("server", port, environment, directory / f"{port}.log")
    await server.start()
    try:
        await server.ready()
        yield server
    finally:
        if server.lives:
            await server.stop()


@pytest.mark.parametrize("place", PLACES)
async def test_a_server_killed_in_the_middle_leaves_all_or_nothing_and_the_retry_completes_it(
    postgres: EmbeddedPostgres, fresh_database_url: str, vault: Vault, tmp_path: Path, place: str
) -> None:
    superuser = postgres.superuser_url.rsplit("/", 1)[0] + "/" + fresh_database_url.rsplit("/", 1)[1]
    owner, gate = await asyncpg.connect(superuser), await asyncpg.connect(superuser)
    db = Database(fresh_database_url)
    await db.start()
    parties = [await make_party(db, vault) for _ in ONCE]
    before = [await rows_of(owner, party.tenant_id) for party in parties]
    await owner.execute(WAITS)
    await owner.execute(PLACES[place])
    await gate.execute(f"SELECT pg_advisory_lock({GATE})")

    async with _serving(fresh_database_url, tmp_path) as server:
        calls = [asyncio.create_task(_send(server, party, call)) for party, call in zip(parties, ONCE, strict=True)]
        await until(lambda: _all_wait(owner), 40, server.said)
        await server.kill()
    unanswered = [await task for task in calls]
    await gate.execute(f"SELECT pg_advisory_unlock({GATE})")
    await until(lambda: _nobody_works(owner), 40)
    between = [await rows_of(owner, party.tenant_id) for party in parties]
    async with _serving(fresh_database_url, tmp_path) as server:
        retried = [await _send(server, party, call) for party, call in zip(parties, ONCE, strict=True)]
    after = [await rows_of(owner, party.tenant_id) for party in parties]
    for closing in (owner, gate):
        await closing.close()
    await db.stop()

    assert unanswered == [None] * len(ONCE)
    done = place == "in the commit"
    for call, was, then, answer, now in zip(ONCE, before, between, retried, after, strict=True):
        assert answer is not None
        assert answer["userErrors"] == [], call
        assert answer["idempotentReplay"] is done, call
        assert (then == was) is not done, call
        assert (now == then) is done, call


async def _send(server: Server, party: Party, call: Call) -> dict[str, Any] | None:
    """A mutation's answer; None when the connection was cut."""
    variables = {"input": _given(call, party.names)}
    try:
        answer = await server.graphql(party.api_key, call.document(), **variables)
    except httpx.TransportError:
        return None
    done: dict[str, Any] = answer["answer"]
    return done


async def _all_wait(owner: asyncpg.Connection) -> bool:
    waiting: int = await owner.fetchval(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted", GATE
    )
    return waiting == len(ONCE)


async def _nobody_works(owner: asyncpg.Connection) -> bool:
    """The dead server's transactions have ended, one way or the other."""
    busy: int = await owner.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' "
        "AND pid <> pg_backend_pid()"
    )
    return busy == 0
