"""Group commit: what shares a transaction, what is answered when, and what one bad upload costs the others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from app.database import Database
from app.domain import ingest
from app.domain.devices import Device
from app.domain.events import Logged
from app.domain.ingest import KnownDevice, Reading
from app.domain.punches import DeviceSnapshot
from app.errors import ServiceUnavailable
from app.web import intake as intakes
from app.web.intake import Intake
from protocol.adms.requests import Upload
from tests.conftest import MakeTenant
from tests.database import PATIENCE, held, rows, until_blocked
from tests.factories import make_device

NOW = datetime(2026, 3, 2, 9, 0, 30, tzinfo=UTC)


@dataclass
class Bell:
    """Hears what was rung; breaks when told to."""

    heard: list[Logged] = field(default_factory=list)
    broken: bool = False

    def __call__(self, batch: Sequence[Logged]) -> None:
        if self.broken:
            raise RuntimeError("the bell broke")
        self.heard += batch


@asynccontextmanager
async def intake_on(db: Database, bell: Bell | None = None, **bounds: int) -> AsyncIterator[Intake]:
    intake = Intake(db, bell or Bell(), **bounds)
    await intake.start()
    try:
        yield intake
    finally:
        await intake.stop()


@pytest.fixture
async def device(db: Database, make_tenant: MakeTenant) -> Device:
    return await make_device(db, (await make_tenant()).tenant_id)


def known(device: Device) -> KnownDevice:
    snapshot = DeviceSnapshot(device.id, device.serial_number, device.name, device.site_id)
    return KnownDevice(device.tenant_id, snapshot, ZoneInfo("UTC"))


def upload(device: Device, *numbers: int, of: int = 1) -> Reading:
    """An upload of `of` lines for each number, all of them different."""
    lines = [f"{number}\t2026-03-02 09:{n // 60:02}:{n % 60:02}\t0\t1\t0" for number in numbers for n in range(of)]
    body = "\n".join(lines).encode()
    return ingest.read(known(device), Upload(device.serial_number, "ATTLOG", "1", body), NOW)


def poisoned(device: Device) -> Reading:
    """An upload that no parser would let through and no database takes."""
    reading = upload(device, 666)
    reading.punches[0].pin = "6\x0066"
    return reading


async def pins(db: Database, tenant_id: UUID) -> list[str]:
    return [row[0] for row in await rows(db, tenant_id, "SELECT pin FROM punches ORDER BY pin::integer")]


async def test_a_submit_returns_after_the_commit_and_not_before(db: Database, device: Device) -> None:
    async with intake_on(db) as intake:
        async with held(db, device.tenant_id):
            submitted = asyncio.create_task(intake.submit(upload(device, 1)))
            await until_blocked(db)
            early = (submitted.done(), await pins(db, device.tenant_id))
        await asyncio.wait_for(submitted, PATIENCE)

        assert early == (False, [])
        assert await pins(db, device.tenant_id) == ["1"]


async def test_uploads_that_arrive_together_share_a_commit(db: Database, device: Device) -> None:
    bell = Bell()
    async with intake_on(db, bell) as intake:
        await asyncio.gather(*(intake.submit(upload(device, number)) for number in range(50)))

    transactions = await rows(db, device.tenant_id, "SELECT DISTINCT xmin::text FROM punches")
    logged = await rows(db, device.tenant_id, "SELECT position, id FROM events ORDER BY position")
    assert len(transactions) == 1
    assert await pins(db, device.tenant_id) == [str(number) for number in range(50)]
    assert [(event.position, event.id) for event in bell.heard] == logged
    assert [position for position, _ in logged] == list(range(1, 51))


@pytest.fixture
async def patient(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """Where a commit waits for a lock for as long as a test may take."""

    async def never(*_: object) -> None:
        return None

    monkeypatch.setattr(ingest, "accept_at_once", never)  # the one statement has a lock timeout of its own
    database = Database(database_url, statement_timeout=2 * PATIENCE, lock_timeout=2 * PATIENCE)
    yield database
    await database.stop()


async def test_few_that_come_meanwhile_wait_for_the_commit_under_way_and_share_the_next(
    db: Database, patient: Database, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intakes, "PATIENCE", 1000)
    async with intake_on(patient) as intake:
        async with held(db, device.tenant_id):
            uploads = [asyncio.create_task(intake.submit(upload(device, 1)))]
            await until_blocked(db)
            for number in range(2, intakes.CROWD + 1):
                uploads.append(asyncio.create_task(intake.submit(upload(device, number))))
                await asyncio.sleep(0.01)
        await asyncio.wait_for(asyncio.gather(*uploads), PATIENCE)

    per_commit = await rows(db, device.tenant_id, "SELECT count(*) FROM punches GROUP BY xmin::text")
    assert sorted(per_commit) == [(1,), (intakes.CROWD - 1,)]


@pytest.mark.parametrize("many", [True, False])
async def test_a_crowd_or_a_commit_that_takes_long_is_worth_another_beside_it(
    patient: Database, device: Device, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    monkeypatch.setattr(intakes, "PATIENCE", 1000 if many else 0.005)
    uploads = intakes.CROWD if many else 1
    other = await make_device(patient, (await make_tenant()).tenant_id)
    async with intake_on(patient) as intake:
        async with held(patient, device.tenant_id):
            stuck = asyncio.create_task(intake.submit(upload(device, 1)))
            await until_blocked(patient)
            passing = asyncio.gather(*(intake.submit(upload(other, number)) for number in range(uploads)))
            await asyncio.wait_for(passing, PATIENCE)
            assert not stuck.done()
        await asyncio.wait_for(stuck, PATIENCE)


async def test_a_commit_has_at_most_a_batch_of_records(db: Database, device: Device) -> None:
    async with intake_on(db, batch=10) as intake:
        await asyncio.gather(*(intake.submit(upload(device, number, of=4)) for number in range(10)))

    per_commit = await rows(db, device.tenant_id, "SELECT count(*) FROM punches GROUP BY xmin::text")
    assert sorted(per_commit) == [(8,)] * 5


async def test_an_upload_larger_than_a_batch_is_committed_by_itself(db: Database, device: Device) -> None:
    async with intake_on(db, batch=10) as intake:
        await intake.submit(upload(device, 1, of=35))

    assert await rows(db, device.tenant_id, "SELECT count(*) FROM punches GROUP BY xmin::text") == [(35,)]


async def test_one_poisoned_upload_costs_the_others_nothing(db: Database, device: Device) -> None:
    good = [upload(device, number) for number in range(9)]
    bad = poisoned(device)
    raw = bad.punches[0].raw

    async with intake_on(db) as intake:
        await asyncio.gather(*(intake.submit(reading) for reading in [*good[:4], bad, *good[4:]]))

    assert await pins(db, device.tenant_id) == [str(number) for number in range(9)]
    rejected = await rows(db, device.tenant_id, "SELECT table_name, raw, reason FROM rejected_records")
    assert rejected == [("ATTLOG", raw, "refused by the database: CharacterNotInRepertoireError")]
    positions = await rows(db, device.tenant_id, "SELECT position FROM events ORDER BY position")
    assert positions == [(n,) for n in range(1, 10)]


async def test_a_poisoned_upload_of_one_tenant_costs_another_nothing(
    db: Database, device: Device, make_tenant: MakeTenant
) -> None:
    other = await make_device(db, (await make_tenant()).tenant_id)

    async with intake_on(db) as intake:
        await asyncio.gather(intake.submit(poisoned(device)), intake.submit(upload(other, 1)))

    assert await pins(db, other.tenant_id) == ["1"]
    assert await rows(db, other.tenant_id, "SELECT raw FROM rejected_records") == []
    assert len(await rows(db, device.tenant_id, "SELECT raw FROM rejected_records")) == 1


async def test_a_full_queue_refuses_at_once_and_takes_again_when_it_is_empty(db: Database, device: Device) -> None:
    async with intake_on(db, bound=10) as intake:
        async with held(db, device.tenant_id):
            waiting = [asyncio.create_task(intake.submit(upload(device, number, of=5))) for number in (1, 2)]
            await until_blocked(db)
            with pytest.raises(ServiceUnavailable):
                await asyncio.wait_for(intake.submit(upload(device, 3)), 1)
        await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
        await intake.submit(upload(device, 4))

    assert sorted(set(await pins(db, device.tenant_id))) == ["1", "2", "4"]


async def test_an_upload_longer_than_the_queue_is_taken_when_it_is_the_first_in_line(
    db: Database, device: Device
) -> None:
    async with intake_on(db, bound=10) as intake:
        await intake.submit(upload(device, 1, of=25))

    assert len(await pins(db, device.tenant_id)) == 25


async def test_what_is_not_committed_is_refused_and_not_stored_later(
    database_url: str, db: Database, device: Device
) -> None:
    impatient = Database(database_url, lock_timeout=0.2)
    async with intake_on(impatient) as intake:
        async with held(db, device.tenant_id):
            with pytest.raises(ServiceUnavailable):
                await asyncio.wait_for(intake.submit(upload(device, 1)), PATIENCE)
        assert await pins(db, device.tenant_id) == []

        await intake.submit(upload(device, 1))
        assert await pins(db, device.tenant_id) == ["1"]
    await impatient.stop()


async def test_while_the_database_is_away_every_upload_is_refused(device: Device) -> None:
    away = Database("postgresql://nobody:x@127.0.0.1:9/none")
    async with intake_on(away) as intake:
        refusals = await asyncio.gather(
            *(intake.submit(upload(device, number)) for number in range(5)), return_exceptions=True
        )
    await away.stop()

    assert [type(refusal) for refusal in refusals] == [ServiceUnavailable] * 5


async def test_a_bell_that_breaks_does_not_end_the_intake(db: Database, device: Device) -> None:
    bell = Bell(broken=True)
    async with intake_on(db, bell, writers=1) as intake:
        with pytest.raises(ServiceUnavailable):
            await intake.submit(upload(device, 1))
        bell.broken = False
        await asyncio.wait_for(intake.submit(upload(device, 1, 2)), PATIENCE)

    assert await pins(db, device.tenant_id) == ["1", "2"]
    assert [event.position for event in bell.heard] == [2]


async def test_who_gives_up_waiting_leaves_the_others_alone(db: Database, device: Device) -> None:
    async with intake_on(db) as intake:
        async with held(db, device.tenant_id):
            impatient, patient = [asyncio.create_task(intake.submit(upload(device, number))) for number in (1, 2)]
            await until_blocked(db)
            impatient.cancel()
        await asyncio.wait_for(patient, PATIENCE)

    assert await pins(db, device.tenant_id) == ["1", "2"]


async def test_a_stop_commits_what_waits(db: Database, device: Device) -> None:
    async with intake_on(db, batch=1, writers=1) as intake:
        waiting = [asyncio.create_task(intake.submit(upload(device, number))) for number in range(5)]
        await asyncio.sleep(0)
        await intake.stop()
        await asyncio.gather(*waiting)

    assert await pins(db, device.tenant_id) == [str(number) for number in range(5)]


async def test_many_tenants_through_two_processes_at_once_are_all_stored_in_dense_positions(
    db: Database, database_url: str, make_tenant: MakeTenant
) -> None:
    devices = [await make_device(db, (await make_tenant()).tenant_id) for _ in range(12)]
    twin = Database(database_url)
    randomly = random.Random(7)

    async with intake_on(db) as one, intake_on(twin) as two:

        async def send(intake: Intake, device: Device, numbers: list[int]) -> None:
            for number in numbers:
                await intake.submit(upload(device, number))

        sendings = []
        for intake in (one, two):
            for device in devices:  # both processes get everything, in different orders
                numbers = list(range(20))
                randomly.shuffle(numbers)
                sendings.append(send(intake, device, numbers))
        randomly.shuffle(sendings)
        await asyncio.gather(*sendings)
    await twin.stop()

    for device in devices:
        assert await pins(db, device.tenant_id) == [str(number) for number in range(20)]
        positions = await rows(db, device.tenant_id, "SELECT position FROM events ORDER BY position")
        assert positions == [(n,) for n in range(1, 21)]
