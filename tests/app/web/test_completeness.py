"""A terminal with punches that it never sent by itself is found out and emptied, and nobody asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from app.database import Database
from app.domain.devices import Device
from app.simulator import AccessTerminal, State, Terminal
from tests.app.web.customers import Customer
from tests.database import dicts
from tests.factories import make_device
from tests.server import Server

WITHIN = 60


@pytest.fixture(scope="module")
async def server(db: Database, database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, device_delay_seconds=2, reconcile_settle_seconds=0.1) as running:
        yield running


@pytest.fixture
async def device(db: Database, customer: Customer) -> Device:
    return await make_device(db, customer.tenant_id, time_zone="Asia/Kathmandu")


@pytest.fixture
def terminal(server: Server, customer: Customer, device: Device) -> Terminal:
    url = f"http://127.0.0.1:{server.port}/d/{customer.token}"
    offset = timedelta(hours=5, minutes=45)
    return Terminal(device.serial_number, url, speed=40, keep_alive=True, offset=offset)


def lose(terminal: Terminal, lost: range) -> None:
    """Firmware that took its position for further than it was: these it does not send by itself."""
    for number, record in enumerate(terminal.records):
        if number in lost:
            record.state = State.ACKNOWLEDGED
            terminal._queue.remove(record)


async def stands(db: Database, device: Device, **wanted: Any) -> dict[str, Any]:
    """What the device's row of counts says, once it says that."""
    row: dict[str, Any] = {}
    async with asyncio.timeout(WITHIN):
        while not row or any(row[name] != value for name, value in wanted.items()):
            await asyncio.sleep(0.05)
            found = await dicts(db, device.tenant_id, "SELECT * FROM reconciliations")
            row = found[0] if found else {}
    return row


async def test_punches_that_never_came_are_found_and_fetched(db: Database, device: Device, terminal: Terminal) -> None:
    start = terminal.wall_time() - timedelta(days=20)
    for n in range(1500):
        terminal.punch(f"{n % 50:04}", start + timedelta(minutes=15 * n))
    lose(terminal, range(700, 707))
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(terminal.run())
        row = await stands(db, device, state="COMPLETE", round=None)
        terminal.stop()
        await running

    [stored] = await dicts(db, device.tenant_id, "SELECT count(*) AS n, count(DISTINCT raw) AS different FROM punches")
    assert stored == {"n": 1500, "different": 1500}
    assert row["reconciled_at"] is not None
    told = [command for _, command, _ in terminal.executed]
    fills = [command for command in told if command.startswith("DATA QUERY ATTLOG")]
    assert len(fills) == 1
    assert told[0] == "INFO"
    # Only the smallest period that explains it was sent again.
    again = [number for number, record in enumerate(terminal.records) if record.sends > 1]
    assert len(again) <= 200
    assert {(record.sends, record.acknowledgements) for record in list(terminal.records)[700:707]} == {(1, 1)}


async def test_after_an_outage_the_terminal_is_counted_again_soon(
    db: Database, device: Device, terminal: Terminal
) -> None:
    terminal.punch("0001", terminal.wall_time() - timedelta(days=1))
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(terminal.run())
        first = await stands(db, device, state="COMPLETE", round=None)
        # It is away for two hours, as far as we can tell, and comes back.
        terminal.unplug()
        async with db.across("ingest", [device.tenant_id]) as connection:
            await connection.execute("UPDATE reconciliations SET begun_at = begun_at - interval '2 hours'")
        terminal.plug_in()
        async with asyncio.timeout(WITHIN):
            while (await stands(db, device))["due_at"] == first["due_at"]:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        terminal.stop()
        await running

    [row] = await dicts(db, device.tenant_id, "SELECT due_at - now() AS due_in FROM reconciliations")
    assert row["due_in"] < timedelta(minutes=1)


async def test_a_unit_of_the_security_dialect_says_that_it_does_not_count_and_who_is_on_it(
    server: Server, db: Database, customer: Customer
) -> None:
    device = await make_device(db, customer.tenant_id, time_zone="UTC")
    url = f"http://127.0.0.1:{server.port}/d/{customer.token}"
    unit = AccessTerminal(device.serial_number, url, speed=40, keep_alive=True)
    unit.users["4711"] = {"PIN": "4711", "Name": "Who"}
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(unit.run())
        row = await stands(db, device, state="NOT_COUNTED", round=None)
        unit.stop()
        await running

    assert "security dialect" in row["reason"]
    found = await dicts(db, device.tenant_id, "SELECT pin, name FROM terminal_users")
    assert found == [{"pin": "4711", "name": "Who"}]


async def test_events_that_a_unit_of_the_security_dialect_withheld_are_fetched_by_their_numbers(
    server: Server, db: Database, customer: Customer
) -> None:
    device = await make_device(db, customer.tenant_id, time_zone="UTC")
    url = f"http://127.0.0.1:{server.port}/d/{customer.token}"
    unit = AccessTerminal(device.serial_number, url, speed=40, keep_alive=True)
    start = unit.wall_time() - timedelta(days=60)
    for n in range(480):
        unit.punch(f"{n % 50 + 1:04}", start + timedelta(hours=3 * n))
    lose(unit, range(400, 407))
    async with db.across("ingest", [device.tenant_id]) as connection:
        # The first round waits for the backlog.
        await connection.execute(
            "INSERT INTO reconciliations (tenant_id, device_id, state, due_at, tries, excess) "
            "VALUES ($1, $2, 'UNKNOWN', now() + interval '1 hour', 0, 0)",
            device.tenant_id,
            device.id,
        )
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(unit.run())
        await unit.drained()
        [stored] = await dicts(db, device.tenant_id, "SELECT count(*) AS n FROM punches")
        assert stored == {"n": 473}
        async with db.across("ingest", [device.tenant_id]) as connection:
            await connection.execute("UPDATE reconciliations SET due_at = now()")
        row = await stands(db, device, state="COMPLETE", round=None)
        unit.stop()
        await running

    [stored] = await dicts(db, device.tenant_id, "SELECT count(*) AS n, count(DISTINCT raw) AS different FROM punches")
    assert stored == {"n": 480, "different": 480}
    assert row["reconciled_at"] is not None
    assert row["resent_through"] == 480
    [asked] = [command for _, command, _ in unit.executed if command.startswith("ACCOUNT")]
    after = int(asked.partition("=")[2])
    # Only what the window holds was sent again, and each of it once.
    assert 225 <= after <= 240
    assert {record.sends for record in unit.records if record.number > after} <= {1, 2}
    assert {record.sends for record in unit.records if record.number <= after} == {1}
