"""The queue of a device: one command per poll, leased, settled by the report, never twice what must not be."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
import pytest

from app import ids
from app.database import Database
from app.domain import commands
from app.domain.commands import (
    CommandNotFound,
    CommandQueueFull,
    CommandStatus,
    CommandUnsupported,
    DeviceCommand,
    Recipient,
    Settled,
)
from app.domain.devices import Device, DeviceNotActive, DeviceNotFound
from app.errors import InvalidInput
from protocol.adms.commands import read_results
from tests.conftest import MakeTenant
from tests.database import dicts
from tests.factories import make_device

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


class Scene:
    """One active terminal in Kathmandu, a quarter to six hours ahead."""

    def __init__(self, db: Database, device: Device) -> None:
        self.db, self.device, self.tenant_id = db, device, device.tenant_id
        self.recipient = Recipient(device.tenant_id, device.id, ZoneInfo("Asia/Kathmandu"))

    async def send(self, kind: str, **arguments: Any) -> UUID:
        async with self.db.write(self.tenant_id) as session:
            return (await commands.send(session, self.tenant_id, self.device.id, kind, arguments)).id

    async def poll(self) -> str | None:
        """What a poll is answered, without the number."""
        line = await self.line()
        return None if line is None else re.sub(r"^C:\d+:", "", line)

    async def line(self) -> str | None:
        async with self.db.across("ingest", [self.tenant_id]) as connection:
            handed = await commands.hand_out(connection, self.recipient, NOON)
            return handed.line.decode() if handed.line else None

    async def report(self, body: str) -> Settled:
        async with self.db.across("ingest", [self.tenant_id]) as connection:
            return await commands.settle(connection, self.recipient, read_results(body.encode()))

    async def greet(self) -> None:
        async with self.db.across("ingest", [self.tenant_id]) as connection:
            await commands.greet(connection, self.recipient)

    async def expire(self) -> int:
        async with self.db.across("ingest", [self.tenant_id]) as connection:
            return (await commands.expire(connection, self.tenant_id, 100))[0]

    async def get(self, command_id: UUID) -> DeviceCommand:
        async with self.db.read(self.tenant_id) as session:
            return (await commands.by_ids(session, self.tenant_id, [command_id]))[command_id]

    async def change(self, statement: str) -> None:
        async with self.db.across("ingest", [self.tenant_id]) as connection:
            await connection.execute(statement)

    async def events(self) -> list[dict[str, Any]]:
        found = await dicts(self.db, self.tenant_id, "SELECT type, body FROM events ORDER BY position")
        assert {row["type"] for row in found} <= {"command.completed"}
        return [orjson.loads(row["body"])["data"] for row in found]


@pytest.fixture
async def scene(db: Database, make_tenant: MakeTenant) -> Scene:
    tenant = await make_tenant()
    return Scene(db, await make_device(db, tenant.tenant_id, time_zone="Asia/Kathmandu"))


def number(line: str | None) -> str:
    assert line is not None
    return line.split(":")[1]


async def test_each_poll_gets_the_oldest_command_that_is_due_and_no_other(scene: Scene) -> None:
    await scene.send("refreshInfo")
    await scene.send("uploadNow")

    assert [await scene.poll() for _ in range(3)] == ["INFO", "LOG", None]


async def test_what_the_terminal_reports_ends_the_command_and_is_announced(scene: Scene) -> None:
    command_id = await scene.send("refreshInfo")
    line = await scene.line()

    settled = await scene.report(f"ID={number(line)}&Return=0&CMD=INFO\n~DeviceName=X\nUserCount=3\nComPwd=77\n")

    command = await scene.get(command_id)
    assert (command.status, command.return_code, command.output) == ("SUCCEEDED", 0, "~DeviceName=X\nUserCount=3")
    assert command.completed_at is not None
    assert settled.all_known
    (data,) = await scene.events()
    assert (data["id"], data["kind"], data["status"]) == (ids.show("cmd", command_id), "refreshInfo", "SUCCEEDED")
    assert data["device"]["serial_number"] == scene.device.serial_number


async def test_several_results_in_one_post_each_end_their_own(scene: Scene) -> None:
    first, second = await scene.send("refreshInfo"), await scene.send("uploadNow")
    numbers = [number(await scene.line()) for _ in range(2)]

    settled = await scene.report(
        f"ID={numbers[1]}&Return=-1002&CMD=LOG\nID=999999999999&Return=0&CMD=X\nID={numbers[0]}&Return=4&CMD=INFO"
    )

    assert ((await scene.get(first)).status, (await scene.get(first)).return_code) == ("SUCCEEDED", 4)
    failed = await scene.get(second)
    assert (failed.status, failed.return_code, failed.output) == ("FAILED", -1002, "not supported or malformed")
    assert not settled.all_known


async def test_a_report_that_comes_again_changes_and_announces_nothing(scene: Scene) -> None:
    command_id = await scene.send("uploadNow")
    body = f"ID={number(await scene.line())}&Return=0&CMD=LOG"

    await scene.report(body)
    before = await scene.get(command_id)
    await scene.report(body.replace("Return=0", "Return=-1"))

    assert await scene.get(command_id) == before
    assert len(await scene.events()) == 1


async def test_a_result_without_a_code_is_no_result(scene: Scene) -> None:
    command_id = await scene.send("uploadNow")
    line = await scene.line()

    await scene.report(f"ID={number(line)}&Return=&CMD=LOG")

    assert (await scene.get(command_id)).status == CommandStatus.SENT


async def test_a_code_beyond_all_numbers_is_taken_for_the_greatest(scene: Scene) -> None:
    command_id = await scene.send("uploadNow")

    await scene.report(f"ID={number(await scene.line())}&Return=9999999999&CMD=LOG")

    command = await scene.get(command_id)
    assert (command.status, command.return_code) == ("SUCCEEDED", 2**31 - 1)


async def test_a_command_without_a_report_is_handed_out_again_under_the_same_number(scene: Scene) -> None:
    await scene.send("uploadNow")
    first = await scene.line()
    assert await scene.line() is None

    await scene.change("UPDATE device_commands SET lease_until = now()")

    assert await scene.line() == first


async def test_after_a_new_handshake_everything_open_is_handed_out_again_at_once(scene: Scene) -> None:
    await scene.send("uploadNow")
    first = await scene.line()

    await scene.greet()

    assert await scene.line() == first


async def test_a_restart_that_nobody_reported_is_proven_by_the_next_handshake(scene: Scene) -> None:
    command_id = await scene.send("reboot")
    assert await scene.poll() == "REBOOT"

    await scene.greet()

    command = await scene.get(command_id)
    assert (command.status, command.return_code) == ("SUCCEEDED", None)
    assert await scene.poll() is None
    assert [data["status"] for data in await scene.events()] == ["SUCCEEDED"]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("unlockDoor", {"door": 1, "seconds": 5}),
        ("enrollFingerprint", {"pin": "1", "finger": 6, "overwrite": False}),
        ("reboot", {}),
    ],
)
async def test_what_must_not_happen_twice_is_handed_out_once(
    scene: Scene, kind: str, arguments: dict[str, Any]
) -> None:
    command_id = await scene.send(kind, **arguments)
    assert await scene.line() is not None

    await scene.change("UPDATE device_commands SET lease_until = now()")
    if kind != "reboot":
        await scene.greet()
    again = await scene.line()
    await scene.change("UPDATE device_commands SET expires_at = now()")

    assert again is None
    assert await scene.expire() == 1
    assert (await scene.get(command_id)).status == CommandStatus.EXPIRED


async def test_the_positive_answers_of_an_enrolment_are_refusals(scene: Scene) -> None:
    command_id = await scene.send("enrollFingerprint", pin="1", finger=6, overwrite=False)
    line = await scene.line()

    await scene.report(f"ID={number(line)}&Return=6&CMD=ENROLL_FP")

    command = await scene.get(command_id)
    assert (command.status, command.output) == ("FAILED", "cancelled at the terminal")


async def test_the_time_is_filled_in_when_it_is_handed_out_and_in_the_zone_of_the_terminal(scene: Scene) -> None:
    await scene.send("syncTime")

    assert await scene.poll() == "SET OPTIONS DateTime=2026-07-01 17:45:00"


async def test_an_access_control_terminal_is_told_in_its_own_words(db: Database, make_tenant: MakeTenant) -> None:
    tenant = await make_tenant()
    scene = Scene(db, await make_device(db, tenant.tenant_id, dialect="SECURITY"))
    await scene.send("unlockDoor", door=3, seconds=10)
    await scene.send("reboot")

    assert [await scene.poll(), await scene.poll()] == ["CONTROL DEVICE 0103010A", "CONTROL DEVICE 03000000"]
    with pytest.raises(CommandUnsupported):
        await scene.send("enrollFingerprint", pin="1", finger=6, overwrite=False)


async def test_a_command_that_its_terminal_turns_out_not_to_know_fails_and_the_next_one_takes_its_turn(
    scene: Scene,
) -> None:
    command_id = await scene.send("enrollFingerprint", pin="1", finger=6, overwrite=False)
    await scene.send("refreshInfo")
    await scene.change("UPDATE devices SET dialect = 'SECURITY'")

    assert await scene.poll() == "INFO"
    assert (await scene.get(command_id)).status == CommandStatus.FAILED


async def test_a_cancelled_command_is_not_handed_out_and_a_late_report_is_only_noted(scene: Scene) -> None:
    waiting, sent = await scene.send("refreshInfo"), await scene.send("uploadNow")
    async with scene.db.write(scene.tenant_id) as session:
        await commands.cancel(session, scene.tenant_id, waiting)
    line = await scene.line()
    async with scene.db.write(scene.tenant_id) as session:
        await commands.cancel(session, scene.tenant_id, sent)
        await commands.cancel(session, scene.tenant_id, sent)
    await scene.report(f"ID={number(line)}&Return=0&CMD=LOG")

    assert line is not None
    assert line.endswith(":LOG")
    assert await scene.line() is None
    late = await scene.get(sent)
    assert ((await scene.get(waiting)).status, late.status, late.return_code) == ("CANCELLED", "CANCELLED", 0)
    assert [data["status"] for data in await scene.events()] == ["CANCELLED", "CANCELLED"]


async def test_what_is_over_cannot_be_cancelled(scene: Scene) -> None:
    command_id = await scene.send("uploadNow")
    await scene.report(f"ID={number(await scene.line())}&Return=0&CMD=LOG")

    with pytest.raises(InvalidInput):
        async with scene.db.write(scene.tenant_id) as session:
            await commands.cancel(session, scene.tenant_id, command_id)


async def test_a_command_whose_time_is_over_is_not_handed_out_any_more(scene: Scene) -> None:
    command_id = await scene.send("refreshInfo")
    await scene.change("UPDATE device_commands SET expires_at = now()")

    assert await scene.line() is None
    assert await scene.expire() == 1
    assert await scene.expire() == 0
    assert (await scene.get(command_id)).status == CommandStatus.EXPIRED
    assert [data["status"] for data in await scene.events()] == ["EXPIRED"]


async def test_a_report_within_the_lease_counts_although_the_time_is_over(scene: Scene) -> None:
    command_id = await scene.send("uploadNow")
    line = await scene.line()
    await scene.change("UPDATE device_commands SET expires_at = now()")

    assert await scene.expire() == 0
    await scene.report(f"ID={number(line)}&Return=0&CMD=LOG")

    assert (await scene.get(command_id)).status == CommandStatus.SUCCEEDED


async def test_twins_that_are_polled_at_once_hand_out_different_commands(scene: Scene) -> None:
    for _ in range(8):
        await scene.send("uploadNow")

    lines = await asyncio.gather(*(scene.line() for _ in range(10)))

    handed = [line for line in lines if line]
    assert len(handed) == len(set(handed)) == 8


@pytest.mark.parametrize("status", ["PENDING", "SUSPENDED", "RETIRED"])
async def test_only_an_active_device_takes_commands(db: Database, make_tenant: MakeTenant, status: str) -> None:
    tenant = await make_tenant()
    scene = Scene(db, await make_device(db, tenant.tenant_id, status=status))

    with pytest.raises(DeviceNotActive) as refused:
        await scene.send("uploadNow")

    assert refused.value.path == ("input", "deviceId")


async def test_another_tenants_device_and_command_do_not_exist(scene: Scene, make_tenant: MakeTenant) -> None:
    stranger = (await make_tenant()).tenant_id
    command_id = await scene.send("uploadNow")

    with pytest.raises(DeviceNotFound):
        async with scene.db.write(stranger) as session:
            await commands.send(session, stranger, scene.device.id, "uploadNow", {})
    with pytest.raises(CommandNotFound):
        async with scene.db.write(stranger) as session:
            await commands.cancel(session, stranger, command_id)
    assert await scene.poll() == "LOG"


async def test_a_terminal_settles_its_own_commands_only(scene: Scene) -> None:
    other = Scene(scene.db, await make_device(scene.db, scene.tenant_id))
    command_id = await scene.send("uploadNow")
    line = await scene.line()

    settled = await other.report(f"ID={number(line)}&Return=0&CMD=LOG")

    assert not settled.all_known
    assert (await scene.get(command_id)).status == CommandStatus.SENT


async def test_a_queue_has_a_bound(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MOST_OPEN", 2)
    for _ in range(2):
        await scene.send("uploadNow")

    with pytest.raises(CommandQueueFull):
        await scene.send("uploadNow")


BAD: Sequence[tuple[str, dict[str, Any]]] = [
    ("unlockDoor", {"door": 0, "seconds": 5}),
    ("unlockDoor", {"door": 1, "seconds": 255}),
    ("enrollFingerprint", {"pin": "1\t", "finger": 6, "overwrite": False}),
    ("enrollFingerprint", {"pin": "1", "finger": 10, "overwrite": False}),
]


@pytest.mark.parametrize(("kind", "arguments"), BAD)
async def test_what_no_terminal_could_be_told_is_refused_and_not_queued(
    scene: Scene, kind: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await scene.send(kind, **arguments)

    assert refused.value.path == ("input", "command", kind)
    assert await dicts(scene.db, scene.tenant_id, "SELECT id FROM device_commands") == []


async def test_a_period_is_asked_for_again_by_the_terminals_own_clock(scene: Scene) -> None:
    start = datetime(2026, 3, 2, 9)  # noqa: DTZ001
    async with scene.db.write(scene.tenant_id) as session:
        await commands.backfill(session, scene.tenant_id, scene.device.id, start, start + timedelta(hours=1))

    assert await scene.poll() == "DATA QUERY ATTLOG StartTime=2026-03-02 09:00:00\tEndTime=2026-03-02 10:00:00"
    with pytest.raises(InvalidInput):
        async with scene.db.write(scene.tenant_id) as session:
            await commands.backfill(session, scene.tenant_id, scene.device.id, start, start - timedelta(seconds=1))


@pytest.mark.parametrize(("year", "name"), [(1, "from"), (1999, "from"), (2100, "to"), (9999, "to")])
async def test_a_period_beyond_terminals_calendar_is_refused(scene: Scene, year: int, name: str) -> None:
    inside = datetime(2026, 3, 2)  # noqa: DTZ001
    period = {"from": inside, "to": inside, name: inside.replace(year=year)}

    with pytest.raises(InvalidInput, match="calendar goes from 2000 to 2099") as refused:
        async with scene.db.write(scene.tenant_id) as session:
            await commands.backfill(session, scene.tenant_id, scene.device.id, period["from"], period["to"])

    assert refused.value.path == ("input", name)
    assert await dicts(scene.db, scene.tenant_id, "SELECT id FROM device_commands") == []
