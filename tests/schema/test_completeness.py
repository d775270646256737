"""Whether a device's punches are all here, as the API tells it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from app.database import Database
from app.domain.devices import Device
from tests.schema.conftest import Caller, MakeCaller

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
DEVICE = """
query ($id: ID) {
    device(id: $id) {
        flags reportedPunchCount storedPunchCount lastReconciledAt
        completeness {
            state countedAt from to reportedCount storedCount missing { from to count } reason
        }
    }
}
"""
ROW = """
INSERT INTO reconciliations (tenant_id, device_id, state, due_at, tries, excess, counted_at, window_start, window_end,
    reported, stored, remainders, reconciled_at, reason)
VALUES ($1, $2, $3, now(), 0, 0, $4, '2026-06-01', '2026-07-01 11:59', 1400, 1397, $5, $6, $7)
"""


async def compared(db: Database, device: Device, state: str, remainders: list[Any], **fields: Any) -> None:
    async with db.across("ingest", [device.tenant_id]) as connection:
        await connection.execute(
            ROW,
            device.tenant_id,
            device.id,
            state,
            NOON,
            orjson.dumps(remainders).decode(),
            fields.get("reconciled_at"),
            fields.get("reason"),
        )


def remainder(missing: int, *, sent: bool = False) -> dict[str, Any]:
    return {"start": "2026-06-05T08:00:00", "end": "2026-06-05T09:00:00", "missing": missing, "sent": sent}


async def ask(caller: Caller, device: Device) -> Any:
    found = (await caller.ask("{ devices(first: 1) { nodes { id } } }"))["devices"]["nodes"]
    return (await caller.ask(DEVICE, id=found[0]["id"] if found else None))["device"]


async def test_a_device_that_was_never_compared_says_nothing(caller: Caller, device: Device) -> None:
    assert await ask(caller, device) == {
        "flags": [],
        "reportedPunchCount": None,
        "storedPunchCount": 0,
        "lastReconciledAt": None,
        "completeness": None,
    }


async def test_what_is_missing_is_listed_and_flagged(db: Database, caller: Caller, device: Device) -> None:
    await compared(db, device, "MISSING", [remainder(3), remainder(-7), remainder(2, sent=True)])

    told = await ask(caller, device)

    assert told["flags"] == ["count_mismatch"]
    assert told["completeness"] == {
        "state": "MISSING",
        "countedAt": "2026-07-01T12:00:00.000Z",
        "from": "2026-06-01T00:00:00",
        "to": "2026-07-01T11:59:00",
        "reportedCount": 1400,
        "storedCount": 1397,
        "missing": [{"from": "2026-06-05T08:00:00", "to": "2026-06-05T09:00:00", "count": 3}],
        "reason": None,
    }


async def test_counts_that_agree_say_since_when(db: Database, caller: Caller, device: Device) -> None:
    await compared(db, device, "COMPLETE", [], reconciled_at=NOON)

    told = await ask(caller, device)

    assert (told["flags"], told["lastReconciledAt"]) == ([], "2026-07-01T12:00:00.000Z")


async def test_a_terminal_that_does_not_count_says_why(db: Database, caller: Caller, device: Device) -> None:
    await compared(db, device, "NOT_COUNTED", [], reason="It answered -1002.")

    told = await ask(caller, device)

    assert (told["flags"], told["completeness"]["reason"]) == ([], "It answered -1002.")


async def test_another_tenant_sees_no_counts(
    db: Database, make_caller: MakeCaller, caller: Caller, device: Device
) -> None:
    await compared(db, device, "MISSING", [remainder(3)])
    device_id = (await caller.ask("{ devices(first: 1) { nodes { id } } }"))["devices"]["nodes"][0]["id"]
    other = await make_caller()

    answer = (await other.post(DEVICE, {"id": device_id})).json()

    assert answer["data"] == {"device": None}
    assert [error["extensions"]["code"] for error in answer["errors"]] == ["device_not_found"]


async def test_an_unreadable_record_is_flagged_for_thirty_days(db: Database, caller: Caller, device: Device) -> None:
    async with db.across("ingest", [device.tenant_id]) as connection:
        await connection.execute(
            "INSERT INTO rejected_records (tenant_id, id, device_id, table_name, reason, raw, digest, received_at) "
            "SELECT $1, gen_random_uuid(), $2, 'ATTLOG', 'no time', 'x', 'd', now() - interval '29 days'",
            device.tenant_id,
            device.id,
        )
    young = (await ask(caller, device))["flags"]
    async with db.across("ingest", [device.tenant_id]) as connection:
        await connection.execute(
            "INSERT INTO devices (tenant_id, id, serial_number, name, status, registered, created_at, updated_at) "
            "SELECT $1, gen_random_uuid(), 'OLD1', 'Z', 'ACTIVE', true, now(), now()",
            device.tenant_id,
        )
        await connection.execute(
            "INSERT INTO rejected_records (tenant_id, id, device_id, table_name, reason, raw, digest, received_at) "
            "SELECT $1, gen_random_uuid(), id, 'ATTLOG', 'no time', 'x', 'd', now() - interval '31 days' "
            "FROM devices WHERE serial_number = 'OLD1' AND tenant_id = $1",
            device.tenant_id,
        )
    old = (await caller.ask('{ device(serialNumber: "OLD1") { flags } }'))["device"]["flags"]

    assert (young, old) == (["rejected_records"], [])
