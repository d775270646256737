"""The feed as punches: what is passed over, what is split, and what a pull waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from app import ids
from app.broadcast import Bell
from app.database import Database
from app.domain import outbox, punch_feed
from app.domain.devices import Device
from app.domain.employees import Employee
from app.domain.events import Cursors, EventType
from app.domain.feed import Batch, Feed
from app.domain.punch_feed import NO_FACTS, Facts, PunchBatch, PunchFeed, Sieve, split
from app.domain.punches import PunchView, Wanted
from app.domain.sites import Site
from app.vault import Vault
from protocol.adms.codes import Direction, VerifyMode
from tests import factories
from tests.conftest import MakeTenant
from tests.schema.world import NINE_O_CLOCK, add_punches, make_view

PATIENCE = 20
SOON = timedelta(minutes=1)


@dataclass
class Here:
    """A tenant with one device, in a process whose bell rings for what happens."""

    db: Database
    bell: Bell
    feed: Feed
    vault: Vault
    tenant_id: UUID
    device: Device

    async def punch(self, *views: PunchView) -> None:
        """Committed and rung."""
        logged = await add_punches(self.db, self.tenant_id, self.device, views)
        outbox.ring(self.bell, self.vault.bus_key, logged)

    async def happen(self, times: int = 1) -> None:
        """Something that is no punch."""
        logged = await factories.happen(self.db, self.tenant_id, times, EventType.DEVICE_ONLINE)
        outbox.ring(self.bell, self.vault.bus_key, logged)

    def reader(self, wanted: Wanted | None = None, most: int = 50) -> PunchFeed:
        return PunchFeed(self.feed, self.db, self.tenant_id, within=None, wanted=wanted or Wanted(), most=most)

    def view(self, number: int = 0, **fields: Any) -> PunchView:
        return make_view(self.device.id, number, **fields)


@pytest.fixture
async def here(db: Database, vault: Vault, cursors: Cursors, make_tenant: MakeTenant) -> AsyncIterator[Here]:
    bell = Bell(None)
    feed = Feed(db, bell, cursors, vault.bus_key, pulse=0.1)
    await bell.start()
    await feed.start()
    tenant_id = (await make_tenant()).tenant_id
    yield Here(db, bell, feed, vault, tenant_id, await factories.make_device(db, tenant_id))
    await feed.stop()
    await bell.stop()


def pins(batch: PunchBatch) -> list[str]:
    return [punch.pin for punch in batch.punches]


# ── the filter ───────────────────────────────────────────────────────────────────────────────────────────────────────

DEVICE = ids.new()
PUNCH = make_view(DEVICE, pin="7", direction=Direction.CHECK_OUT, verify_mode=VerifyMode.CARD, buffered=True)
ADMITTED: list[tuple[Wanted, Facts, bool]] = [
    (Wanted(), NO_FACTS, True),
    (Wanted(device_ids=(ids.new(), DEVICE)), NO_FACTS, True),
    (Wanted(device_ids=(ids.new(),)), NO_FACTS, False),
    (Wanted(device_ids=()), NO_FACTS, False),
    (Wanted(pins=("7", "8")), NO_FACTS, True),
    (Wanted(pins=("07",)), NO_FACTS, False),
    (Wanted(directions=(Direction.CHECK_OUT,)), NO_FACTS, True),
    (Wanted(directions=(Direction.CHECK_IN,)), NO_FACTS, False),
    (Wanted(verify_modes=(VerifyMode.CARD,)), NO_FACTS, True),
    (Wanted(verify_modes=(VerifyMode.FACE,)), NO_FACTS, False),
    (Wanted(buffered=True), NO_FACTS, True),
    (Wanted(buffered=False), NO_FACTS, False),
    (Wanted(punched_since=PUNCH.punched_at), NO_FACTS, True),
    (Wanted(punched_since=PUNCH.punched_at + SOON), NO_FACTS, False),
    (Wanted(punched_before=PUNCH.punched_at), NO_FACTS, False),
    (Wanted(punched_before=PUNCH.punched_at + SOON), NO_FACTS, True),
    (Wanted(received_since=PUNCH.received_at), NO_FACTS, True),
    (Wanted(received_since=PUNCH.received_at + SOON), NO_FACTS, False),
    (Wanted(received_before=PUNCH.received_at), NO_FACTS, False),
    (Wanted(received_before=PUNCH.received_at + SOON), NO_FACTS, True),
    (Wanted(site_ids=(ids.new(),)), Facts(devices=frozenset({DEVICE})), True),
    (Wanted(site_ids=(ids.new(),)), NO_FACTS, False),
    (Wanted(employee_ids=(ids.new(),)), Facts(pins=frozenset({"7"})), True),
    (Wanted(employee_ids=(ids.new(),)), NO_FACTS, False),
    (Wanted(unmatched=True), NO_FACTS, True),
    (Wanted(unmatched=True), Facts(matched=frozenset({"7"})), False),
    (Wanted(unmatched=False), NO_FACTS, False),
    (Wanted(unmatched=False), Facts(matched=frozenset({"7"})), True),
    (Wanted(pins=("7",), buffered=False), NO_FACTS, False),
]


@pytest.mark.parametrize(("wanted", "facts", "admitted"), ADMITTED)
def test_all_conditions_hold_at_once(wanted: Wanted, facts: Facts, admitted: bool) -> None:
    assert Sieve(wanted).admits(PUNCH, facts) is admitted


async def test_sites_employees_and_matches_are_as_they_are_when_read(here: Here) -> None:
    site = Site(tenant_id=here.tenant_id, name="North", time_zone="UTC")
    amina = Employee(tenant_id=here.tenant_id, pin="1", name="Amina")
    async with here.db.write(here.tenant_id) as session:
        session.add(site)
        session.add(amina)
    await here.punch(here.view(pin="1"), here.view(pin="2"))
    there, hers, nobodys = (
        here.reader(Wanted(site_ids=(site.id,))),
        here.reader(Wanted(employee_ids=(amina.id,))),
        here.reader(Wanted(unmatched=True)),
    )
    assert pins(await there.collect(0)) == []
    assert pins(await hers.collect(0)) == ["1"]
    assert pins(await nobodys.collect(0)) == ["2"]

    async with here.db.write(here.tenant_id) as session:
        device = await session.get_one(Device, (here.tenant_id, here.device.id))
        device.site_id = site.id
        (await session.get_one(Employee, (here.tenant_id, amina.id))).pin = "2"

    assert pins(await there.collect(0)) == ["1", "2"]
    assert pins(await hers.collect(0)) == ["2"]
    assert pins(await nobodys.collect(0)) == ["1"]


# ── batches ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_is_split_so_that_the_parts_join() -> None:
    views = [make_view(DEVICE, number) for number in range(5)]
    chosen = [(place * 2, view) for place, view in enumerate(views, start=1)]

    parts = list(split(Batch([], 13, caught_up=True, head=13), chosen, 2))

    assert parts == [
        PunchBatch(views[:2], 4, caught_up=False, lag=9, first=2),
        PunchBatch(views[2:4], 8, caught_up=False, lag=5, first=6, goes_on=True),
        PunchBatch(views[4:], 13, caught_up=True, lag=0, first=10, goes_on=True),
    ]


def test_a_full_last_part_leads_to_the_end_too() -> None:
    views = [make_view(DEVICE, number) for number in range(4)]

    parts = list(split(Batch([], 9, caught_up=False, head=20), list(enumerate(views)), 2))

    assert [(part.position, part.lag) for part in parts] == [(1, 19), (9, 11)]


def test_a_batch_without_punches_still_leads_on() -> None:
    assert list(split(Batch([], 9, caught_up=True, head=9), [], 2)) == [PunchBatch([], 9, caught_up=True, lag=0)]


async def test_what_is_no_punch_moves_the_position_in_silence(here: Here) -> None:
    async with aclosing(here.reader().follow(0)) as batches:
        assert await anext(batches) == PunchBatch([], 0, caught_up=True, lag=0)

        await here.happen(3)
        await asyncio.sleep(0.3)
        await here.punch(here.view(pin="1"))
        batch = await anext(batches)

    assert (pins(batch), batch.position, batch.caught_up) == (["1"], 4, True)


async def test_a_filtered_feed_gives_checkpoints_that_move(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(punch_feed, "CHECKPOINT", 0.5)
    async with asyncio.timeout(PATIENCE), aclosing(here.reader(Wanted(pins=("1",))).follow(0)) as batches:
        assert (await anext(batches)).position == 0
        await here.punch(here.view(pin="2"), here.view(pin="3"))

        batch = await anext(batches)

    assert batch == PunchBatch([], 2, caught_up=True, lag=0)


async def test_who_replays_past_what_is_not_wanted_is_told_the_end_at_once(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punch_feed, "CHECKPOINT", 1000)
    await here.punch(here.view(pin="1"), *(here.view(number, pin="2") for number in range(600)))

    async with asyncio.timeout(PATIENCE), aclosing(here.reader(Wanted(pins=("1",))).follow(0)) as batches:
        got = [await anext(batches) for _ in range(2)]

    assert [(pins(batch), batch.position, batch.caught_up, batch.lag) for batch in got] == [
        (["1"], 500, False, 101),
        ([], 601, True, 0),
    ]


# ── pulling ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_pull_takes_what_there_is(here: Here) -> None:
    await here.punch(*(here.view(number, pin=str(number)) for number in range(5)))

    first = await here.reader(most=3).collect(0)
    second = await here.reader(most=3).collect(first.position, wait=5)

    assert (pins(first), first.position, first.caught_up, first.lag) == (["0", "1", "2"], 3, False, 2)
    assert (pins(second), second.position, second.caught_up, second.lag) == (["3", "4"], 5, True, 0)


async def test_a_pull_looks_through_pages_for_what_is_wanted(here: Here) -> None:
    await here.punch(*(here.view(number, pin="2") for number in range(600)), here.view(pin="1"))

    batch = await here.reader(Wanted(pins=("1",))).collect(0)

    assert (pins(batch), batch.position) == (["1"], 601)


async def test_a_pull_waits_for_news(here: Here) -> None:
    pulled = asyncio.create_task(here.reader(Wanted(pins=("1",))).collect(0, wait=PATIENCE))
    await asyncio.sleep(0.2)
    await here.punch(here.view(pin="2"))
    await asyncio.sleep(0.2)
    assert not pulled.done()

    await here.punch(here.view(1, pin="1"))
    batch = await pulled

    assert (pins(batch), batch.position) == (["1"], 2)


async def test_a_pull_without_news_answers_in_time_and_moves_on(here: Here) -> None:
    pulled = asyncio.create_task(here.reader(Wanted(pins=("1",))).collect(0, wait=0.6))
    await asyncio.sleep(0.2)
    await here.happen(2)

    assert await pulled == PunchBatch([], 2, caught_up=True, lag=0)
    assert here.feed.watched == 0


@pytest.mark.parametrize("when", ["before it asks", "while it waits"])
async def test_a_pull_waits_no_longer_once_the_server_stops(here: Here, when: str) -> None:
    await here.happen(2)
    stopping = asyncio.Event()
    if when == "before it asks":
        stopping.set()

    pulled = asyncio.create_task(here.reader().collect(0, wait=3600, stopping=stopping))
    async with asyncio.timeout(60):
        while not (here.feed.watched or pulled.done()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        stopping.set()

        assert await pulled == PunchBatch([], 2, caught_up=True, lag=0)
    assert here.feed.watched == 0


async def test_times_are_those_of_the_punch(here: Here) -> None:
    await here.punch(here.view(5))

    (punch,) = (await here.reader().collect(0)).punches

    assert punch.punched_at == NINE_O_CLOCK + timedelta(minutes=5)
