"""What a tenant may do once its trial is over, or its plan suspended: read everything, write what is safe."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import pytest

from app import ids
from app.database import Database
from app.domain import acts, tenants
from app.vault import Vault
from tests.schema.conftest import PUBLIC_URL, Caller
from tests.schema.operations import Call, It
from tests.schema.parties import names_of, rows_of
from tests.schema.test_mutations import EACH, SITE, query_of
from tests.schema.world import World, add_punches, make_view

PLAN = "{ viewer { tenant { plan trialEndsAt } } }"
UPDATE = query_of("webhookEndpointUpdate")


async def end_trial(db: Database, tenant_id: UUID) -> None:
    """As if eight days had passed."""
    async with db.across("operate") as connection:
        await connection.execute(
            "UPDATE tenants SET created_at = created_at - interval '8 days', "
            "trial_ends_at = trial_ends_at - interval '8 days' WHERE id = $1",
            tenant_id,
        )


async def refusals(caller: Caller, case: Call, names: dict[It, str]) -> list[str]:
    done = (await caller.ask(case.document(), **case.variables(names)))["answer"]
    return [error["code"] for error in done["userErrors"]]


@EACH
async def test_after_the_trial_a_mutation_changes_nothing_unless_it_is_safe(  # noqa: PLR0917
    db: Database, vault: Vault, owner: asyncpg.Connection, caller: Caller, world: World, case: Call
) -> None:
    names = await names_of(db, vault, world)
    await end_trial(db, caller.tenant_id)
    before = await rows_of(owner, caller.tenant_id)

    refused = await refusals(caller, case, names)

    after = await rows_of(owner, caller.tenant_id)
    assert refused == ([] if case.name in acts.ALWAYS else ["trial_ended"])
    assert (after == before) == bool(refused)


@EACH
async def test_a_suspended_plan_refuses_the_same(
    db: Database, vault: Vault, caller: Caller, world: World, case: Call
) -> None:
    names = await names_of(db, vault, world)
    async with db.across("operate") as connection:
        await tenants.activate(connection, caller.tenant_id)
        await tenants.suspend(connection, caller.tenant_id)

    assert await refusals(caller, case, names) == ([] if case.name in acts.ALWAYS else ["plan_suspended"])


@pytest.mark.parametrize(
    "changes",
    [{"status": "ENABLED"}, {"status": "PAUSED", "url": "https://other.example/"}, {"url": "https://other.example/"}],
)
async def test_only_a_pause_by_itself_is_safe_for_an_endpoint(
    db: Database, caller: Caller, world: World, changes: dict[str, str]
) -> None:
    await end_trial(db, caller.tenant_id)

    done = (await caller.ask(UPDATE, input={"id": ids.show("whk", world.endpoint.id), **changes}))["answer"]

    assert [error["code"] for error in done["userErrors"]] == ["trial_ended"]


async def test_a_refusal_says_what_goes_on_and_where_to_read_more(db: Database, caller: Caller) -> None:
    await end_trial(db, caller.tenant_id)

    (error,) = (await caller.ask(SITE, input={"name": "Depot", "timeZone": "UTC"}))["answer"]["userErrors"]

    assert error["message"].startswith("The trial ended on ")
    assert "Have the plan activated" in error["message"]
    assert error["docUrl"] == f"{PUBLIC_URL}/docs/errors/trial_ended"


async def test_a_trial_counts_down_and_an_active_plan_has_no_end(db: Database, caller: Caller) -> None:
    during = (await caller.ask(PLAN))["viewer"]["tenant"]
    await end_trial(db, caller.tenant_id)
    after = (await caller.ask(PLAN))["viewer"]["tenant"]
    async with db.across("operate") as connection:
        await tenants.activate(connection, caller.tenant_id)
    paid = (await caller.ask(PLAN))["viewer"]["tenant"]
    done = (await caller.ask(SITE, input={"name": "Depot", "timeZone": "UTC"}))["answer"]

    assert during["plan"] == "TRIAL"
    assert after["plan"] == "SUSPENDED"
    assert after["trialEndsAt"] < during["trialEndsAt"]
    assert paid == {"plan": "ACTIVE", "trialEndsAt": None}
    assert done["userErrors"] == []


async def test_what_was_done_during_the_trial_is_answered_again_after_it(db: Database, caller: Caller) -> None:
    given = {"name": "Depot", "timeZone": "UTC", "idempotencyKey": "k"}
    first = (await caller.ask(SITE, input=given))["answer"]
    await end_trial(db, caller.tenant_id)

    again = (await caller.ask(SITE, input=given))["answer"]

    assert again == first | {"idempotentReplay": True}


async def test_after_the_trial_punches_come_in_and_everything_is_read(
    db: Database, caller: Caller, world: World
) -> None:
    await end_trial(db, caller.tenant_id)

    await add_punches(db, caller.tenant_id, world.device, [make_view(world.device.id, 9)])
    found = await caller.ask(
        "{ punches { nodes { id } } punchFeed(from: BEGINNING) { punches { id } } webhookDeliveries { nodes { id } } }"
    )

    assert len(found["punches"]["nodes"]) == len(found["punchFeed"]["punches"]) == 4
    assert len(found["webhookDeliveries"]["nodes"]) == 4
