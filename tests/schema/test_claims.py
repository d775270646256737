"""A claim, as the API tells it: to whoever may change devices, for as long as it waits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from app import ids
from app.database import Database
from tests.schema.conftest import Caller, MakeCaller

REGISTER = """
mutation ($serial: String!) {
    deviceRegister(input: {serialNumber: $serial, timeZone: "UTC"}) {
        device { id status claim { challengePin expiresAt } } userErrors { code }
    }
}
"""
READ = "query ($id: ID) { device(id: $id) { serialNumber claim { challengePin expiresAt } } }"


async def register(caller: Caller, serial: str = "CLAIM0001") -> dict[str, Any]:
    done = (await caller.ask(REGISTER, serial=serial))["deviceRegister"]
    assert done["userErrors"] == []
    device: dict[str, Any] = done["device"]
    return device


async def change(db: Database, device_id: str, statement: str) -> None:
    async with db.across("operate") as connection:
        tenant_id = await connection.fetchval("SELECT tenant_id FROM devices WHERE id = $1", ids.read("dev", device_id))
    async with db.across("ingest", [tenant_id]) as connection:
        await connection.execute(f"UPDATE devices SET {statement} WHERE id = $1", ids.read("dev", device_id))


async def test_a_registered_device_waits_with_a_pin_for_a_day(caller: Caller) -> None:
    device = await register(caller)

    claim = device["claim"]
    assert device["status"] == "PENDING"
    assert len(claim["challengePin"]) == 9
    assert claim["challengePin"].isdigit()
    left = datetime.fromisoformat(claim["expiresAt"]) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=58) < left <= timedelta(days=1)
    assert (await caller.ask(READ, id=device["id"]))["device"] == {"serialNumber": "CLAIM0001", "claim": claim}


async def test_two_tenants_that_claim_one_serial_have_different_pins(caller: Caller, make_caller: MakeCaller) -> None:
    mine, theirs = await register(caller), await register(await make_caller())

    assert mine["claim"]["challengePin"] != theirs["claim"]["challengePin"]


async def test_whoever_may_not_change_devices_does_not_see_the_pin(caller: Caller, make_caller: MakeCaller) -> None:
    device = await register(caller)
    reader = await make_caller(tenant_id=caller.tenant_id, scopes=["devices:read"])

    answer = (await reader.post(READ, {"id": device["id"]})).json()

    assert answer["data"]["device"] == {"serialNumber": "CLAIM0001", "claim": None}
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["permission_denied"]


async def test_a_device_that_is_bound_or_whose_day_is_over_has_no_claim(caller: Caller, db: Database) -> None:
    bound, late = await register(caller, "CLAIM0002"), await register(caller, "CLAIM0003")
    await change(db, bound["id"], "status = 'ACTIVE'")
    await change(db, late["id"], "claim_expires_at = now() - interval '1 second'")

    told = [(await caller.ask(READ, id=device["id"]))["device"]["claim"] for device in (bound, late)]

    assert told == [None, None]


async def test_another_tenants_claim_is_not_found(caller: Caller, make_caller: MakeCaller) -> None:
    device = await register(caller)
    other = await make_caller()

    assert await other.codes(READ, id=device["id"]) == ["device_not_found"]
