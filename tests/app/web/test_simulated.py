"""Virtual terminals of every kind against a whole server: what they acknowledge is stored once, whatever they do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.database import Database
from app.domain import commands, roster
from app.domain.devices import Device
from app.domain.roster import Person
from app.simulator import AccessTerminal, Quirk, Report, Terminal, simulate
from tests.app.web.customers import Customer
from tests.database import dicts
from tests.factories import make_device
from tests.server import Server

NAMES = ("VIRT000001", "VIRT000002")
WITHIN = 60


@pytest.fixture(scope="module")
async def server(db: Database, database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, device_rate=10_000, device_burst=10_000) as running:
        yield running


@pytest.fixture
async def devices(db: Database, customer: Customer) -> list[Device]:
    """Two that the virtual terminals are, one with a zone of half hours."""
    zones = ("Asia/Kolkata", "Africa/Casablanca")
    return [
        await make_device(db, customer.tenant_id, serial_number=name, time_zone=zone)
        for name, zone in zip(NAMES, zones, strict=True)
    ]


async def play(server: Server, customer: Customer, scenario: str, **plan: Any) -> Report:
    defaults: dict[str, Any] = {"devices": 2, "rate": 20, "duration": 2, "seed": 7, "speed": 100, "timeout": 10}
    url = f"http://127.0.0.1:{server.port}/d/{customer.token}"
    return await simulate(url, scenario=scenario, **defaults | plan)


async def stored(db: Database, customer: Customer) -> Counter[str]:
    found = await dicts(db, customer.tenant_id, "SELECT raw FROM punches")
    return Counter(row["raw"].decode() for row in found)


def acknowledged(report: Report) -> Counter[str]:
    return Counter(line for terminal in report.terminals for line in terminal.acknowledged_lines)


async def eventually(met: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN):
        while not await met():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def shows(db: Database, customer: Customer, query: str, wanted: list[dict[str, Any]]) -> None:
    """Contacts are written down after the answer."""
    found: list[dict[str, Any]] = []

    async def met() -> bool:
        found[:] = await dicts(db, customer.tenant_id, query)
        return found == wanted

    try:
        await eventually(met)
    except TimeoutError:
        assert found == wanted


@pytest.mark.parametrize("odd", [(dialect, quirk) for dialect in ("attendance", "security") for quirk in Quirk])
@pytest.mark.usefixtures("devices")
async def test_an_oddity_of_firmware_loses_and_doubles_nothing(
    server: Server, db: Database, customer: Customer, odd: tuple[str, Quirk]
) -> None:
    dialect, quirk = odd
    report = await play(server, customer, "resend-all", duration=1, dialect=dialect, quirks=[quirk])

    # Of a line that was sent with CR LF, the line is kept.
    assert report.made == report.acknowledged == 20
    assert await stored(db, customer) == acknowledged(report)
    kinds = [{"dialect": dialect.upper(), "generation": 1}]
    await shows(db, customer, "SELECT DISTINCT dialect, generation FROM devices", kinds)
    assert await dicts(db, customer.tenant_id, "SELECT reason FROM rejected_records") == []


@pytest.mark.parametrize("dialect", ["attendance", "security"])
async def test_clocks_that_are_off_are_measured_and_a_command_sets_them_right(
    server: Server, db: Database, customer: Customer, devices: list[Device], dialect: str
) -> None:
    url = f"http://127.0.0.1:{server.port}/d/{customer.token}"
    kind = Terminal if dialect == "attendance" else AccessTerminal
    terminal = kind(NAMES[0], url, speed=100, sets_clock=True)
    running = asyncio.create_task(terminal.run())
    minutes = "SELECT round(clock_skew_ms / 60000.0)::int AS m FROM devices WHERE clock_skew_ms IS NOT NULL"
    try:
        async with asyncio.timeout(WITHIN):
            await terminal.greeted()
        terminal.put_off_clock(timedelta(minutes=20))
        terminal.punch("0001")
        await shows(db, customer, minutes, [{"m": 20}])
        async with db.write(customer.tenant_id) as session:
            await commands.send(session, customer.tenant_id, devices[0].id, "syncTime", {})

        await eventually(lambda: _done(terminal, "SET OPTIONS DateTime="))
        terminal.punch("0002")
        await shows(db, customer, minutes, [{"m": 0}])
    finally:
        terminal.stop()
        await running

    shown = terminal.wall_time() - (datetime.now(UTC) + timedelta(hours=5, minutes=30)).replace(tzinfo=None)
    assert abs(shown) < timedelta(seconds=30)
    assert await dicts(db, customer.tenant_id, "SELECT pin, flags FROM punches ORDER BY pin") == [
        {"pin": "0001", "flags": ["clock_drift"]},
        {"pin": "0002", "flags": []},
    ]


async def _done(terminal: Terminal, command: str) -> bool:
    return any(said.startswith(command) and returns >= 0 for _, said, returns in terminal.executed)


async def test_a_fleet_with_clocks_ahead_and_behind_is_heard_all_the_same(
    server: Server, db: Database, customer: Customer, devices: list[Device]
) -> None:
    report = await play(server, customer, "clock-drift", dialect="security")

    assert await stored(db, customer) == acknowledged(report)
    query = "SELECT round(clock_skew_ms / 60000.0)::int AS minutes FROM devices ORDER BY serial_number"
    await shows(db, customer, query, [{"minutes": 15}, {"minutes": -15}])


@pytest.mark.parametrize("dialect", ["attendance", "security", "both"])
async def test_after_a_factory_reset_old_records_stay_and_new_ones_come(
    server: Server, db: Database, customer: Customer, devices: list[Device], dialect: str
) -> None:
    report = await play(server, customer, "factory-reset", dialect=dialect, rate=8, duration=5)

    assert report.made == report.acknowledged == 40
    assert await stored(db, customer) == acknowledged(report)
    query = "SELECT generation, two_sources_at, mark < 40 AS small FROM devices"
    await shows(db, customer, query, [{"generation": 2, "two_sources_at": None, "small": True}] * 2)


@pytest.mark.parametrize("dialect", ["attendance", "security"])
async def test_over_a_line_that_drops_one_request_in_three_everything_arrives_once(
    server: Server, db: Database, customer: Customer, devices: list[Device], dialect: str
) -> None:
    report = await play(server, customer, "flaky-link", dialect=dialect, speed=1_000, duration=4)

    assert report.made == report.acknowledged == 80
    assert min(report.unknown, report.unreachable, report.resent) > 0
    assert await stored(db, customer) == acknowledged(report)


async def test_a_unit_of_the_security_dialect_does_what_it_is_told(
    server: Server, db: Database, customer: Customer, devices: list[Device]
) -> None:
    url = f"http://127.0.0.1:{server.port}/d/{customer.token}"
    unit = AccessTerminal(NAMES[1], url, speed=100, sets_clock=True)
    running = asyncio.create_task(unit.run())
    told: list[tuple[str, dict[str, Any]]] = [
        ("userUpdate", {"pin": "17", "name": "Zoë", "card": None, "privilege": 0}),
        ("userQuery", {"pin": "17"}),
        ("userDelete", {"pin": "17"}),
        ("unlockDoor", {"door": 1, "seconds": 5}),
        ("syncTime", {}),
        ("reboot", {}),
    ]
    try:
        async with asyncio.timeout(WITHIN):
            await unit.greeted()
        await shows(db, customer, "SELECT dialect FROM devices WHERE dialect IS NOT NULL", [{"dialect": "SECURITY"}])
        for kind, arguments in told:
            async with db.write(customer.tenant_id) as session:
                await commands.send(session, customer.tenant_id, devices[1].id, kind, arguments)
            query = "SELECT DISTINCT status FROM device_commands"
            await shows(db, customer, query, [{"status": "SUCCEEDED"}])
    finally:
        unit.stop()
        await running

    assert (unit.doors_opened, unit.boots, unit.users) == (1, 2, {})
    users = await dicts(
        db, customer.tenant_id, "SELECT table_name, record_count FROM kept_uploads ORDER BY received_at"
    )
    assert {"table_name": "USER", "record_count": 1} in users


@pytest.mark.parametrize(
    "names",
    [
        ("gb18030", "王小明", "李 Ünal", "李 Ünal"),
        ("windows-1256", "محمد علي", "پژمان 王", "پژمان ?"),
        (None, "محمد 王", "Анна", "Анна"),
    ],
)
async def test_names_go_both_ways_in_the_terminals_code_page(
    server: Server,
    db: Database,
    customer: Customer,
    devices: list[Device],
    names: tuple[str | None, str, str, str],
) -> None:
    quirk, there, new, shown = names
    url = f"http://127.0.0.1:{server.port}/d/{customer.token}"
    terminal = Terminal(NAMES[0], url, speed=100, quirks=[quirk] if quirk else [])
    terminal.users["1"] = {"PIN": "1", "Name": there}
    running = asyncio.create_task(terminal.run())
    try:
        async with db.write(customer.tenant_id) as session:
            await commands.send(session, customer.tenant_id, devices[0].id, "userQuery", {})
        await shows(db, customer, "SELECT name FROM terminal_users", [{"name": there}])
        await shows(
            db, customer, "SELECT charset FROM devices WHERE charset IS NOT NULL", [{"charset": quirk or "utf-8"}]
        )
        async with db.write(customer.tenant_id) as session:
            await roster.upsert(session, customer.tenant_id, Person("17", {"name": new}, [devices[0].id]))
        await shows(db, customer, "SELECT state FROM placements", [{"state": "CONFIRMED"}])
    finally:
        terminal.stop()
        await running

    assert terminal.users["17"]["Name"] == shown


async def test_an_answer_in_many_packets_is_one_answer(
    server: Server, db: Database, customer: Customer, devices: list[Device]
) -> None:
    url = f"http://127.0.0.1:{server.port}/d/{customer.token}"
    unit = AccessTerminal(NAMES[1], url, speed=100, quirks=[Quirk.PACKETS])
    unit.users = {f"{pin:04}": {"PIN": f"{pin:04}", "Name": f"Zoë {pin}"} for pin in range(1, 41)}
    running = asyncio.create_task(unit.run())
    try:
        async with asyncio.timeout(WITHIN):
            await unit.greeted()
        await shows(db, customer, "SELECT dialect FROM devices WHERE dialect IS NOT NULL", [{"dialect": "SECURITY"}])
        async with db.write(customer.tenant_id) as session:
            await commands.send(session, customer.tenant_id, devices[1].id, "userQuery", {})
        query = "SELECT status, return_code FROM device_commands WHERE kind = 'userQuery'"
        await shows(db, customer, query, [{"status": "SUCCEEDED", "return_code": 40}])
    finally:
        unit.stop()
        await running

    found = await dicts(db, customer.tenant_id, "SELECT pin, name FROM terminal_users ORDER BY pin")
    assert found == [{"pin": f"{pin:04}", "name": f"Zoë {pin}"} for pin in range(1, 41)]
    assert await dicts(db, customer.tenant_id, "SELECT raw FROM rejected_records") == []
