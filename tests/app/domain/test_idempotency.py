from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from app.database import Database, Session, driver
from app.domain import idempotency, sites
from app.domain.idempotency import Call, InProgress, KeyAmbiguous, KeyReused, Replay
from app.errors import InvalidInput
from tests.conftest import MakeTenant


@dataclass(frozen=True, slots=True)
class Done:
    outcome: dict[str, Any]


def call(key: str = "k", field: str = "siteCreate", **arguments: Any) -> Call:
    return idempotency.call(field, key, arguments)


def add_site(session: Session, tenant_id: UUID) -> Callable[[], Awaitable[Done]]:
    async def do() -> Done:
        site = await sites.create(session, tenant_id, "Depot", "UTC")
        return Done({"id": str(site.id)})

    return do


async def run(db: Database, tenant_id: UUID, wanted: Call | None) -> Done | Replay:
    async with db.write(tenant_id) as session:
        return await idempotency.once(session, tenant_id, wanted, add_site(session, tenant_id))


async def count_sites(db: Database, tenant_id: UUID) -> int:
    async with db.read(tenant_id) as session:
        found: int = await (await driver(session)).fetchval(
            "SELECT count(*) FROM sites WHERE tenant_id = $1", tenant_id
        )
    return found


async def test_without_a_key_it_is_done_every_time(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    await run(db, tenant_id, None)
    await run(db, tenant_id, None)

    assert await count_sites(db, tenant_id) == 2


async def test_the_same_key_and_arguments_answer_with_the_same_outcome(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    first = await run(db, tenant_id, call(name="Depot"))
    second = await run(db, tenant_id, call(name="Depot"))

    assert second == Replay(first.outcome)
    assert await count_sites(db, tenant_id) == 1


async def test_the_same_key_with_other_arguments_is_refused(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    await run(db, tenant_id, call(name="Depot"))

    for arguments in ({"name": "Other"}, {"name": "Depot", "zone": None}, {}):
        with pytest.raises(KeyReused):
            await run(db, tenant_id, call(**arguments))

    assert await count_sites(db, tenant_id) == 1


async def test_another_field_or_tenant_with_the_same_key_is_another_call(db: Database, make_tenant: MakeTenant) -> None:
    mine, theirs = (await make_tenant()).tenant_id, (await make_tenant()).tenant_id

    await run(db, mine, call(name="Depot"))
    await run(db, mine, call(field="siteUpdate", name="Other"))
    await run(db, theirs, call(name="Third"))

    assert (await count_sites(db, mine), await count_sites(db, theirs)) == (2, 1)


async def test_fifty_calls_at_once_have_one_effect(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    async def insist() -> Done | Replay:
        while True:
            try:
                return await run(db, tenant_id, call())
            except InProgress:
                continue

    outcomes = await asyncio.gather(*(insist() for _ in range(50)))

    assert await count_sites(db, tenant_id) == 1
    assert sum(isinstance(outcome, Done) for outcome in outcomes) == 1
    assert len({outcome.outcome["id"] for outcome in outcomes}) == 1


async def test_a_refusal_leaves_nothing_and_the_retry_runs(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    async def refused() -> None:
        async with db.write(tenant_id) as session:

            async def refuse() -> Done:
                await add_site(session, tenant_id)()
                raise InvalidInput("No.")

            await idempotency.once(session, tenant_id, call(), refuse)

    with pytest.raises(InvalidInput):
        await refused()
    between = await count_sites(db, tenant_id)
    retried = await run(db, tenant_id, call(other="arguments"))

    assert between == 0
    assert isinstance(retried, Done)


async def test_a_call_whose_twin_runs_on_is_told_to_come_back(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    async with db.write(tenant_id) as session:
        await idempotency.once(session, tenant_id, call(), add_site(session, tenant_id))
        with pytest.raises(InProgress) as refused:
            await run(db, tenant_id, call())
    replayed = await run(db, tenant_id, call())

    assert (refused.value.status, refused.value.retryable) == (409, True)
    assert isinstance(replayed, Replay)
    assert await count_sites(db, tenant_id) == 1


async def test_a_call_whose_twin_gives_up_is_done(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    with suppress(RuntimeError):
        async with db.write(tenant_id) as session:
            await idempotency.once(session, tenant_id, call(), add_site(session, tenant_id))
            waiting = asyncio.create_task(run(db, tenant_id, call()))
            await asyncio.sleep(0.2)
            raise RuntimeError
    outcome = await waiting

    assert isinstance(outcome, Done)
    assert await count_sites(db, tenant_id) == 1


async def test_after_a_day_a_key_does_not_count(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    await run(db, tenant_id, call(name="Depot"))

    async def age(hours: float) -> None:
        async with db.write(tenant_id) as session:
            await (await driver(session)).execute(
                "UPDATE idempotency_keys SET created_at = now() - make_interval(secs => $2) WHERE tenant_id = $1",
                tenant_id,
                hours * 3600,
            )

    await age(23.9)
    within = await run(db, tenant_id, call(name="Depot"))
    await age(24.1)
    outcomes = await asyncio.gather(*(run(db, tenant_id, call(name="Other")) for _ in range(5)))

    assert isinstance(within, Replay)
    assert sum(isinstance(outcome, Done) for outcome in outcomes) == 1
    assert await count_sites(db, tenant_id) == 2


async def test_the_patience_for_a_twin_is_for_the_twin_only(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    async with db.write(tenant_id) as session:
        connection = await driver(session)
        before = await connection.fetchval("SHOW lock_timeout")
        await idempotency.once(session, tenant_id, call(), add_site(session, tenant_id))
        after = await connection.fetchval("SHOW lock_timeout")

    assert (before, after) == ("5s", "5s")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\n", "\ud800", "\x00"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput):
        call(key)


def test_a_key_of_any_printable_letters_is_taken() -> None:
    assert call("x" * 255).key == "x" * 255
    assert call("clé 42").key == "clé 42"


@pytest.mark.parametrize(
    ("given", "header", "fields", "key"),
    [
        (None, None, 1, None),
        ("a", None, 3, "a"),
        (None, "b", 1, "b"),
        ("a", "a", 1, "a"),
    ],
)
def test_the_key_comes_from_the_input_or_the_header(
    given: str | None, header: str | None, fields: int, key: str | None
) -> None:
    assert idempotency.choose_key(given, header, fields) == key


@pytest.mark.parametrize(("given", "header", "fields"), [("a", "b", 1), (None, "b", 2), ("b", "b", 2)])
def test_a_key_that_could_mean_two_things_is_refused(given: str | None, header: str, fields: int) -> None:
    with pytest.raises(KeyAmbiguous):
        idempotency.choose_key(given, header, fields)
