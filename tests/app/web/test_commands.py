"""Commands over real sockets: handed out with a poll, reported by devicecmd, obeyed by a virtual terminal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from app.database import Database
from app.domain import commands, roster
from app.domain.commands import DeviceCommand
from app.domain.devices import Device
from app.domain.roster import Person
from app.simulator import Terminal
from app.vault import Vault
from tests.app.web.customers import Customer, make_customer
from tests.database import dicts
from tests.factories import make_device
from tests.server import Server

PATIENCE = 30


@pytest.fixture(scope="module")
async def server(db: Database, database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, device_delay_seconds=2) as running:
        yield running


@pytest.fixture
async def device(db: Database, customer: Customer) -> Device:
    return await make_device(db, customer.tenant_id, time_zone="Asia/Kathmandu")


async def send(db: Database, device: Device, kind: str, **arguments: Any) -> UUID:
    async with db.write(device.tenant_id) as session:
        return (await commands.send(session, device.tenant_id, device.id, kind, arguments)).id


async def get(db: Database, device: Device, command_id: UUID) -> DeviceCommand:
    async with db.read(device.tenant_id) as session:
        return (await commands.by_ids(session, device.tenant_id, [command_id]))[command_id]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def ended(db: Database, device: Device, command_id: UUID) -> DeviceCommand:
    async with asyncio.timeout(PATIENCE):
        while (command := await get(db, device, command_id)).completed_at is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return command


async def test_a_poll_is_answered_with_one_command_and_a_report_with_ok(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    first, second = await send(db, device, "refreshInfo"), await send(db, device, "uploadNow")
    serial = device.serial_number

    answers = [await server.get(customer.url(f"getrequest?SN={serial}")) for _ in range(3)]
    number = answers[0].body.decode().split(":")[1]
    report = await server.post(
        customer.url(f"devicecmd?SN={serial}"), f"ID={number}&Return=0&CMD=INFO\n~DeviceName=K40".encode()
    )

    assert [answer.body.decode().partition(number)[2] for answer in answers[:1]] == [":INFO"]
    assert answers[1].body.endswith(b":LOG")
    assert answers[2].body == b"OK"
    assert all(b"\n" not in answer.body for answer in answers)
    assert (report.status, report.body) == (200, b"OK")
    assert (await get(db, device, first)).output == "~DeviceName=K40"
    assert (await get(db, device, second)).status == "SENT"
    assert await dicts(db, customer.tenant_id, "SELECT body FROM kept_uploads") == []


async def test_a_report_that_is_about_nothing_of_ours_is_kept(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    answer = await server.post(customer.url(f"devicecmd?SN={device.serial_number}"), b"ID=cmd_7&Return=0&CMD=DATA")

    assert answer.body == b"OK"
    kept = await dicts(db, customer.tenant_id, "SELECT body FROM kept_uploads")
    assert kept == [{"body": b"ID=cmd_7&Return=0&CMD=DATA"}]


async def test_another_tenants_terminal_with_the_same_serial_settles_nothing(
    server: Server, db: Database, vault: Vault, customer: Customer, device: Device
) -> None:
    other = await make_customer(db, vault)
    await make_device(db, other.tenant_id, serial_number=device.serial_number)
    command_id = await send(db, device, "uploadNow")
    line = (await server.get(customer.url(f"getrequest?SN={device.serial_number}"))).body.decode()

    nothing = await server.get(other.url(f"getrequest?SN={device.serial_number}"))
    await server.post(
        other.url(f"devicecmd?SN={device.serial_number}"), f"ID={line.split(':')[1]}&Return=0&CMD=LOG".encode()
    )

    assert nothing.body == b"OK"
    assert (await get(db, device, command_id)).status == "SENT"


@pytest.fixture
async def terminal(server: Server, customer: Customer, device: Device) -> AsyncIterator[Terminal]:
    url = f"http://127.0.0.1:{server.port}/d/{customer.token}"
    virtual = Terminal(device.serial_number, url, speed=20, sets_clock=True, offset=timedelta(hours=5, minutes=45))
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        running = tasks.create_task(virtual.run())
        await virtual.greeted()
        yield virtual
        virtual.stop()
        await running


async def test_a_terminal_does_what_it_is_told(db: Database, device: Device, terminal: Terminal) -> None:
    told: dict[str, dict[str, Any]] = {
        "refreshInfo": {},
        "uploadNow": {},
        "unlockDoor": {"door": 1, "seconds": 5},
        "enrollFingerprint": {"pin": "9", "finger": 6, "overwrite": False},
        "reboot": {},
    }
    sent = {kind: await send(db, device, kind, **arguments) for kind, arguments in told.items()}
    terminal.users["9"] = {"PIN": "9"}

    results = {kind: await ended(db, device, command_id) for kind, command_id in sent.items()}

    assert {kind: (done.status, done.return_code) for kind, done in results.items()} == {
        "refreshInfo": ("SUCCEEDED", 0),
        "uploadNow": ("SUCCEEDED", 0),
        "unlockDoor": ("SUCCEEDED", 0),
        "enrollFingerprint": ("FAILED", 6),
        "reboot": ("SUCCEEDED", 0),
    }
    assert "~DeviceName=Virtual" in (results["refreshInfo"].output or "")
    assert terminal.doors_opened == 1
    await until(lambda: terminal.boots == 2 and terminal.options is not None)
    found = await dicts(db, device.tenant_id, "SELECT model, firmware_version FROM devices")
    async with asyncio.timeout(PATIENCE):
        while found != [{"model": "Virtual", "firmware_version": "Ver 8.0.4.3-20200101"}]:
            await asyncio.sleep(0.05)
            found = await dicts(db, device.tenant_id, "SELECT model, firmware_version FROM devices")


async def test_a_clock_that_runs_wrong_is_set_in_the_zone_of_the_device(
    db: Database, device: Device, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal._skew = -3600.0
    monkeypatch.setattr(terminal, "_set_clock", lambda _answer: None)  # firmware that ignores the Date header
    wrong = terminal.wall_time()

    command_id = await send(db, device, "syncTime")
    await ended(db, device, command_id)

    assert timedelta(minutes=59) < terminal.wall_time() - wrong < timedelta(minutes=62)


async def test_a_period_that_was_lost_here_is_sent_again(db: Database, device: Device, terminal: Terminal) -> None:
    punches = [terminal.punch(str(n)) for n in range(5)]
    await terminal.drained()
    async with db.write(device.tenant_id) as session:
        command = await commands.backfill(session, device.tenant_id, device.id, punches[0].at, punches[-1].at)

    done = await ended(db, device, command.id)

    assert (done.status, done.return_code) == ("SUCCEEDED", 5)
    assert all(punch.sends == 2 for punch in punches)
    assert await dicts(db, device.tenant_id, "SELECT count(*) AS n FROM punches") == [{"n": 5}]


async def test_people_are_placed_on_access_control_terminals_in_their_own_words(
    server: Server, db: Database, customer: Customer
) -> None:
    device = await make_device(db, customer.tenant_id, dialect="SECURITY", announced_type="acc")
    sn = f"SN={device.serial_number}"
    person = Person("0042", {"name": "Amina", "privilege": "ADMIN"}, [device.id])
    async with db.write(customer.tenant_id) as session:
        await roster.upsert(session, customer.tenant_id, person)

    told = (await server.get(customer.url(f"getrequest?{sn}"))).body.decode()
    _, number, text = told.split(":", 2)
    await server.post(customer.url(f"devicecmd?{sn}"), f"ID={number}&Return=0&CMD=DATA UPDATE".encode())
    asked = (await server.get(customer.url(f"getrequest?{sn}"))).body.decode()
    line = b"user uid=1\tcardno=\tpin=0042\tpassword=123\tgroup=1\tname=Amina\tprivilege=14\r\n"
    query = f"querydata?{sn}&type=tabledata&cmdid={asked.split(':')[1]}&tablename=user&count=1&packcnt=1&packidx=1"
    answer = await server.post(customer.url(query), line)

    assert text == "DATA UPDATE user Pin=0042\tName=Amina\tPrivilege=14"
    assert asked.endswith(":DATA QUERY tablename=user,fielddesc=*,filter=Pin=0042")
    assert answer.body == b"user=1"
    assert await dicts(db, customer.tenant_id, "SELECT pin, state FROM placements") == [
        {"pin": "0042", "state": "CONFIRMED"}
    ]
    assert await dicts(db, customer.tenant_id, "SELECT pin, name, privilege FROM terminal_users") == [
        {"pin": "0042", "name": "Amina", "privilege": "14"}
    ]
