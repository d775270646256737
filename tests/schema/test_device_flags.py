"""What an operator should look at, as the API says it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app import ids
from app.database import Database
from tests.factories import make_device
from tests.schema.conftest import Caller

DEVICE = "query ($id: ID!) { device(id: $id) { clockSkewMs flags generation generationStartedAt } }"


@pytest.mark.parametrize(
    ("days_ago", "skew", "flags"),
    [
        (0, 0, ["two_sources", "reset_detected"]),
        (0, -300_001, ["clock_drift", "two_sources", "reset_detected"]),
        (2, 300_000, ["reset_detected"]),
        (8, 300_001, ["clock_drift"]),
    ],
)
async def test_a_device_shows_its_clock_its_double_and_its_new_memory(
    caller: Caller, db: Database, days_ago: int, skew: int, flags: list[str]
) -> None:
    at = datetime.now(UTC) - timedelta(days=days_ago)
    fields: dict[str, Any] = {"clock_skew_ms": skew, "two_sources_at": at, "generation": 2, "generation_at": at}
    device = await make_device(db, caller.tenant_id, **fields)

    shown = (await caller.ask(DEVICE, id=ids.show("dev", device.id)))["device"]

    assert shown.pop("generationStartedAt") is not None
    assert shown == {"clockSkewMs": skew, "flags": flags, "generation": 2}


async def test_a_device_that_shows_nothing_odd_has_no_flags_and_its_first_memory(caller: Caller, db: Database) -> None:
    device = await make_device(db, caller.tenant_id)

    shown = (await caller.ask(DEVICE, id=ids.show("dev", device.id)))["device"]

    assert shown == {"clockSkewMs": None, "flags": [], "generation": 1, "generationStartedAt": None}
