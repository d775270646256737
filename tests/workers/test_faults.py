"""The table of faults has its tests, and those of its rows that need no process of their own."""

from __future__ import annotations

import ast
import asyncio
import random
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app import ids
from app.domain import endpoints
from tests import guards
from tests.factories import SECRET, make_tenant
from tests.receiver import HANG, OK, RESET, Answer, Received
from tests.workers import verifiers
from tests.workers.conftest import Scene
from tests.workers.faults import ROWS
from workers import pool

ROOT = Path(__file__).parents[2]
DESIGN_ROWS = 18


def test_every_row_has_its_tests() -> None:
    assert [row.number for row in ROWS] == list(range(1, DESIGN_ROWS + 1))
    missing = [f"{row.number}: {test}" for row in ROWS for test in row.tests if not _exists(test)]
    assert missing == []


def test_every_row_has_a_guard() -> None:
    watched = {test.replace("::test_", "::") for guard in guards.tables() for test in guard.tests}
    assert [row.number for row in ROWS if not watched.intersection(row.tests)] == []


def _exists(test: str) -> bool:
    file, _, name = test.partition("::")
    if not (ROOT / file).exists():
        return False
    made = ast.walk(ast.parse((ROOT / file).read_text()))
    return not name or any(
        isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == f"test_{name}" for node in made
    )


async def test_every_event_of_twenty_tenants_reaches_each_of_their_endpoints_once(scene: Scene) -> None:
    tenants = [scene.tenant_id, *[(await make_tenant(scene.db)).tenant_id for _ in range(19)]]
    wanted: set[tuple[str, str]] = set()
    for tenant_id in tenants:
        paths = [f"/{tenant_id}/{n}" for n in range(5)]
        for path in paths:
            await scene.endpoint(path, tenant_id=tenant_id)
        happened = await scene.happen(5, tenant_id=tenant_id)
        wanted |= {(path, ids.show("evt", event.id)) for path in paths for event in happened}

    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(scene.worker(concurrency=20, webhook_endpoint_share=0.25))
        await scene.receiver.count(500, timeout=60)
        for tenant_id in tenants:
            assert await scene.until("DELIVERED", tenant_id=tenant_id, timeout=60) == {"DELIVERED": 25}

    got = scene.receiver.requests
    assert sorted((request.path, request.event_id) for request in got) == sorted(wanted)
    for request in got:
        assert verifiers.by_python([request], SECRET) == verifiers.by_hand([request], SECRET) == 1


async def test_whatever_a_bad_receiver_does_everything_ends_and_each_attempt_is_told(scene: Scene) -> None:
    await scene.endpoint("/bad")
    await scene.endpoint("/never")
    chance = random.Random(8)
    answers = [Answer(500)] * 30 + [RESET] * 10 + [HANG] * 5 + [OK] * 55
    scene.receiver.then(*(chance.choice(answers) for _ in range(400)), path="/bad")
    scene.receiver.always(Answer(503), path="/never")
    await scene.happen(20)

    patient: dict[str, Any] = {"webhook_breaker_seconds": 0.05, "webhook_disable_after_days": 0}
    hurry: dict[str, Any] = {
        "webhook_timeout_seconds": 1,
        "webhook_lease_seconds": 10,
        "webhook_retry_delays": (0.05,) * 9,
    }
    async with scene.worker(concurrency=20, **patient, **hurry):
        found = await scene.until("DELIVERED", "EXHAUSTED", timeout=90)

    ended = await scene.rows(
        "SELECT d.status, d.attempt_count, e.url, array_agg(a.number::integer ORDER BY a.number) AS numbers "
        "FROM webhook_deliveries d JOIN webhook_endpoints e ON e.id = d.endpoint_id "
        "JOIN webhook_attempts a ON a.delivery_id = d.id GROUP BY d.id, e.url, d.status, d.attempt_count"
    )
    assert found.total() == len(ended) == 40
    for row in ended:
        assert row["numbers"] == list(range(1, row["attempt_count"] + 1))
        assert row["status"] == "DELIVERED" or row["attempt_count"] == 10
    assert {row["status"] for row in ended if row["url"].endswith("/never")} == {"EXHAUSTED"}
    # Each attempt was one request, but for what a kept connection broke off before a byte of an answer: asked again.
    told = {(request.delivery, request.attempt) for request in scene.receiver.requests}
    assert len(told) == sum(row["attempt_count"] for row in ended)


async def test_fifty_endpoints_that_hang_do_not_hold_up_another_tenant(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "FINISH_WITHIN", 0.1)
    healthy = (await make_tenant(scene.db)).tenant_id
    await scene.endpoint("/healthy", tenant_id=healthy)
    for n in range(50):
        await scene.endpoint(f"/hangs/{n}")
        scene.receiver.always(HANG, path=f"/hangs/{n}")
    await scene.happen(40)

    async with scene.worker(webhook_timeout_seconds=60, webhook_lease_seconds=150, webhook_tenant_share=0.5):
        await scene.receiver.until(lambda far: len(far.requests) >= 25)
        for _ in range(50):
            await scene.happen(tenant_id=healthy)
            await asyncio.sleep(0.02)
        await scene.receiver.until(lambda far: len(far.to("/healthy")) == 50)
        hanging = await scene.statuses()

    # Of the fifty slots its tenant has half, each for another endpoint; all else that it is owed waits untouched.
    assert len(scene.receiver.requests) - 50 == 25
    assert hanging["DELIVERED"] == 0
    assert hanging.total() == 2000


@pytest.mark.parametrize("libraries", ["PyPI", "npm"])
async def test_a_rotation_under_load_is_accepted_by_every_stock_verifier(scene: Scene, libraries: str) -> None:
    endpoint = await scene.endpoint()
    going = asyncio.Event()

    async def load() -> int:
        made = 0
        while not going.is_set():
            made += len(await scene.happen(10))
            await asyncio.sleep(0.05)
        return made

    async def more(n: int) -> None:
        await scene.receiver.count(len(scene.receiver.requests) + n, timeout=60)

    async with scene.worker(concurrency=10, webhook_endpoint_share=1):
        loading = asyncio.create_task(load())
        await more(60)
        async with scene.db.write(scene.tenant_id) as session:
            _, new = await endpoints.rotate_secret(
                session, scene.tenant_id, endpoint.id, timedelta(hours=1), scene.vault
            )
        await more(150)
        await scene.change("UPDATE webhook_endpoints SET previous_secret_expires_at = now()")
        await more(150)
        going.set()
        made = await loading
        await scene.until("DELIVERED")

    phases: dict[str, list[Received]] = {"before": [], "during": [], "after": []}
    for request in scene.receiver.requests:
        both = " " in request.headers["webhook-signature"]
        phases["during" if both else "before" if verifiers.by_hand([request], SECRET) else "after"].append(request)
    # Everything came once, and in this order but for what was under way.
    assert len(scene.receiver.copies()) == len(scene.receiver.requests) == made
    assert all(len(requests) >= 50 for requests in phases.values())
    for phase, secret in (("before", SECRET), ("during", SECRET), ("during", new), ("after", new)):
        requests = phases[phase]
        passed = (
            verifiers.by_python(requests, secret) if libraries == "PyPI" else await verifiers.by_node(requests, secret)
        )
        assert passed == len(requests)
    for phase, secret in (("before", SECRET), ("during", SECRET), ("after", new)):
        assert verifiers.by_hand(phases[phase], secret) == len(phases[phase])


async def test_a_worker_whose_clock_is_wrong_signs_with_the_time_of_the_database(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "local_time", lambda: datetime.now(UTC) + timedelta(minutes=10))
    await scene.endpoint()
    scene.receiver.then(Answer(500))
    await scene.happen()

    with capture_logs() as lines:
        async with scene.worker(webhook_retry_delays=(0.3,)):
            await scene.receiver.count(2)
            await scene.until("DELIVERED")

    for request in scene.receiver.requests:
        assert verifiers.by_python([request], SECRET) == 1  # it was signed within five minutes of now
    [line] = [line for line in lines if line["event"] == "clock_differs"]
    assert 595 < line["ahead_seconds"] < 605
    first, second = await scene.rows("SELECT started_at FROM webhook_attempts ORDER BY number")
    assert timedelta(seconds=0.3) <= second["started_at"] - first["started_at"] < timedelta(minutes=5)
