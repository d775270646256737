"""What a terminal shows of itself: the rules, one by one, without a server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.database import Database
from app.domain import devices, ingest, presence, profiles
from app.domain.bindings import Contact
from app.domain.devices import Device
from app.domain.ingest import KnownDevice, Reading
from app.domain.profiles import Glimpse, Measure, Watched
from app.domain.punches import DeviceSnapshot
from protocol.adms.requests import Upload
from tests.app.domain.test_ingest import GATE
from tests.conftest import MakeTenant
from tests.database import dicts, until_blocked
from tests.factories import make_device

NOW = datetime(2026, 3, 2, 8, 0, 30, tzinfo=UTC)
BOUND = timedelta(minutes=5)


def after(**span: float) -> datetime:
    return NOW + timedelta(**span)


# ── the clock ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("shown", "measure"),
    [
        (after(), Measure(skew_ms=0)),
        (after(seconds=-3), Measure(skew_ms=-3_000)),
        (after(minutes=-2), Measure(skew_ms=-120_000)),
        (after(minutes=10), Measure(skew_ms=600_000)),
        (after(days=1), Measure(skew_ms=86_400_000)),
        # A backlog, or a clock that is behind; a damaged record, or a clock from beyond tomorrow.
        (after(minutes=-2, seconds=-1), Measure(hint_ms=-121_000)),
        (after(days=-3), Measure(hint_ms=-259_200_000)),
        (after(days=2), Measure(hint_ms=172_800_000)),
        (after(days=-9000), Measure(hint_ms=-(2**31) + 1)),
    ],
)
def test_a_record_shows_how_far_a_clock_is_ahead_or_that_it_is_right(shown: datetime, measure: Measure) -> None:
    assert profiles.measure(shown, NOW, Watched()) == measure


def test_a_clock_that_was_just_read_is_what_it_is() -> None:
    assert profiles.measure(after(hours=-9), NOW, Watched(), exact=True) == Measure(skew_ms=-9 * 3_600_000)


@pytest.mark.parametrize(
    ("late_ms", "apart", "measure"),
    [
        (-3_600_000, 30, Measure(-3_600_000, -3_600_000)),
        (-3_604_000, 31, Measure(-3_600_000, -3_600_000)),
        (-3_606_000, 31, Measure(hint_ms=-3_600_000)),  # off by something else
        (-3_600_000, 29, None),  # too soon to say
        (-3_600_000, 3_601, Measure(hint_ms=-3_600_000)),  # too long ago
    ],
)
def test_a_clock_is_behind_when_two_records_are_late_alike(late_ms: int, apart: float, measure: Measure | None) -> None:
    known = Watched(clock_hint_ms=late_ms, clock_hint_at=after(seconds=-apart))

    assert profiles.measure(after(hours=-1), NOW, known) == measure


def test_a_backlog_that_is_caught_up_says_nothing_of_the_clock() -> None:
    """A week of records, made every ten minutes, fifty in an upload each second."""
    known, first = Watched(), NOW - timedelta(days=7)
    measures = set()
    for second in range(20):
        newest = first + timedelta(minutes=10 * 50 * (second + 1))
        measure = profiles.measure(newest, after(seconds=second), known)
        assert measure is not None
        measures.add(measure.skew_ms)
        known.clock_hint_ms, known.clock_hint_at = measure.hint_ms, after(seconds=second)

    assert measures == {None}


def read(device: KnownDevice, *lines: str, table: str = "ATTLOG", at: datetime = NOW) -> Reading:
    return ingest.read(device, Upload("x", table, "7", "\n".join(lines).encode()), at)


def gate(**known: object) -> KnownDevice:
    return KnownDevice(GATE.tenant_id, GATE.device, GATE.zone, "2.4.1", "att", watched=Watched(**known))  # type: ignore[arg-type]


def test_punches_are_flagged_while_the_clock_is_known_to_be_off() -> None:
    off = gate(clock_skew_ms=-3_600_000)

    backlog = read(off, "17\t2026-03-01 09:00:00\t0\t1")
    fresh = read(off, "17\t2026-03-01 09:00:00\t0\t1", "17\t2026-03-02 09:00:20\t0\t1")

    assert [punch.flags for punch in backlog.punches] == [("clock_drift",)]
    assert [punch.flags for punch in fresh.punches] == [(), ()]
    assert fresh.measure == Measure(skew_ms=-10_000)


def test_the_upload_that_shows_a_drift_is_flagged_itself() -> None:
    reading = read(gate(), "17\t2026-03-02 08:00:00\t0\t1", "17\t2026-03-02 09:10:30\t0\t1")

    assert reading.measure == Measure(skew_ms=600_000)
    assert [punch.flags for punch in reading.punches] == [("clock_drift",), ("clock_drift",)]


def test_one_record_from_the_future_is_flagged_though_the_clock_was_set_right_since() -> None:
    reading = read(gate(), "17\t2026-03-02 09:10:30\t0\t1", "17\t2026-03-02 09:00:30\t0\t1")

    assert [punch.flags for punch in reading.punches] == [("clock_drift",), ()]


def test_an_operation_and_a_units_state_show_the_clock_too() -> None:
    operations = read(gate(), "OPLOG 4\t0\t2026-03-02 09:10:30\t0\t0\t0\t0", table="OPERLOG")
    state = read(gate(), "time=2026-03-02 01:00:30\tsensor=00\trelay=00\talarm=0200", table="RTSTATE")

    assert operations.measure == Measure(skew_ms=600_000)
    assert state.measure == Measure(skew_ms=-8 * 3_600_000)


@pytest.mark.parametrize("utc_hour", [0, 1])
def test_an_hour_that_comes_twice_is_no_drift(utc_hour: int) -> None:
    """Paris, the night of the 25th of October: 02:30 is half past midnight in Greenwich, and half past one."""
    at = datetime(2026, 10, 25, utc_hour, 30, tzinfo=UTC)

    reading = read(gate(), "17\t2026-10-25 02:30:00\t0\t1", at=at)

    assert reading.measure == Measure(skew_ms=0)
    [punch] = reading.punches
    assert punch.punched_at == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)  # of the two the first, always
    assert punch.flags == ()


@pytest.mark.parametrize(
    ("zone", "wall", "utc"),
    [
        # A gap: the offset from before.
        ("Europe/Paris", "2026-03-29 02:30:00", datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
        ("Australia/Lord_Howe", "2026-10-04 02:15:00", datetime(2026, 10, 3, 15, 45, tzinfo=UTC)),
        # A fold: the first of the two, even where it is half an hour.
        ("America/New_York", "2026-11-01 01:30:00", datetime(2026, 11, 1, 5, 30, tzinfo=UTC)),
        ("Australia/Lord_Howe", "2026-04-05 01:45:00", datetime(2026, 4, 4, 14, 45, tzinfo=UTC)),
        # Half and quarter hours.
        ("Asia/Kolkata", "2026-03-02 09:00:00", datetime(2026, 3, 2, 3, 30, tzinfo=UTC)),
        ("Asia/Kathmandu", "2026-03-02 09:00:00", datetime(2026, 3, 2, 3, 15, tzinfo=UTC)),
    ],
)
def test_a_punch_in_a_gap_or_a_fold_is_an_instant_by_the_documented_rule(zone: str, wall: str, utc: datetime) -> None:
    device = KnownDevice(GATE.tenant_id, DeviceSnapshot(GATE.device.id, "G", "G", None), ZoneInfo(zone))

    [punch] = read(device, f"17\t{wall}\t0\t1").punches

    assert (punch.punched_at, f"{punch.local_time}", punch.time_zone) == (utc, wall, zone)


# ── two of them ──────────────────────────────────────────────────────────────────────────────────────


def seen_from(*visits: tuple[float, str]) -> Watched:
    known = Watched()
    for minute, source in visits:
        known = profiles.judge(known, Glimpse(after(minutes=minute), source))
    return known


def test_two_addresses_that_alternate_are_two_terminals() -> None:
    known = seen_from((0, "a"), (1, "b"), (2, "a"))

    assert known.two_sources_at == after(minutes=2)
    assert profiles.doubts(known, after(minutes=12), BOUND) == ("two_sources",)
    assert profiles.doubts(known, after(minutes=13), BOUND) == ()


@pytest.mark.parametrize(
    "visits",
    [
        [(0, "a"), (1, "a"), (2, "a")],
        [(0, "a"), (1, "b"), (2, "b")],  # it was moved
        [(0, "a"), (1, "b"), (2, "c")],  # a provider that hands out another address each time
        [(0, "a"), (1, "b"), (12, "a")],  # it was moved back
    ],
)
def test_a_terminal_that_moves_is_one(visits: list[tuple[float, str]]) -> None:
    assert seen_from(*visits).two_sources_at is None


def test_two_firmwares_behind_one_address_are_two_terminals() -> None:
    known = Watched()
    for minute, announced in enumerate(("2.4.1 att", "3.1.2 acc", "2.4.1 att")):
        known = profiles.judge(known, Glimpse(after(minutes=minute), announced=announced))

    assert known.two_sources_at == after(minutes=2)


def test_two_memories_behind_one_address_are_two_terminals_and_no_row_of_resets() -> None:
    known = Watched(mark=500, mark_at=wall(0))
    for minute, mark in ((1, 20), (2, 501), (3, 21), (4, 502), (5, 22)):
        known = profiles.judge(known, Glimpse(after(minutes=minute), mark=mark, mark_at=wall(minute)))

    assert known.generation == 2
    assert known.two_sources_at == after(minutes=5)


# ── a memory that began anew ─────────────────────────────────────────────────────────────────────────


def wall(minute: float) -> datetime:
    return datetime(2026, 3, 2, 9) + timedelta(minutes=minute)  # noqa: DTZ001  a wall has no zone


@pytest.mark.parametrize(
    ("known", "seen", "anew"),
    [
        (Watched(punches=500), Glimpse(NOW, punches=3), True),
        (Watched(punches=1), Glimpse(NOW, punches=0), True),
        (Watched(punches=500), Glimpse(NOW, punches=501), False),
        (Watched(punches=100_000), Glimpse(NOW, punches=90_000), False),  # full: it let go of its oldest
        (Watched(), Glimpse(NOW, punches=0), False),
        # Lower numbers with newer records; with older ones it sends again.
        (Watched(mark=500, mark_at=wall(0)), Glimpse(NOW, mark=2, mark_at=wall(1)), True),
        (Watched(mark=500, mark_at=wall(0)), Glimpse(NOW, mark=2, mark_at=wall(-9)), False),
        (Watched(mark=500, mark_at=wall(0)), Glimpse(NOW, mark=500, mark_at=wall(0)), False),
        (Watched(mark=9999, mark_at=wall(0)), Glimpse(NOW, mark=9999, mark_at=wall(5)), False),  # it only echoes
        (Watched(), Glimpse(NOW, mark=2, mark_at=wall(0)), False),
    ],
)
def test_a_memory_began_anew_when_it_shrank_or_counts_from_the_start(known: Watched, seen: Glimpse, anew: bool) -> None:
    assert profiles.began_anew(known, seen) is anew
    assert profiles.judge(known, seen).generation == 1 + anew


def test_a_resend_leaves_the_mark_where_it_was() -> None:
    known = profiles.judge(Watched(mark=500, mark_at=wall(0)), Glimpse(NOW, "a", mark=2, mark_at=wall(-9)))

    assert (known.mark, known.mark_at) == (500, wall(0))


# ── on the row ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def device(db: Database, make_tenant: MakeTenant) -> Device:
    return await make_device(db, (await make_tenant()).tenant_id, reported_punch_count=500, stamps={"ATTLOG": "500"})


async def look(db: Database, device: Device, seen: Glimpse) -> tuple[Watched, bool]:
    async with db.across("ingest", [device.tenant_id]) as connection:
        return await profiles.look(connection, device.tenant_id, device.id, seen)


async def test_processes_that_notice_a_reset_at_once_begin_one_generation(db: Database, device: Device) -> None:
    async with db.across("ingest", [device.tenant_id]) as connection:
        await connection.execute("SELECT 1 FROM devices WHERE id = $1 FOR NO KEY UPDATE", device.id)
        looking = [asyncio.create_task(look(db, device, Glimpse(NOW, punches=3))) for _ in range(3)]
        await until_blocked(db, 3)
    verdicts = await asyncio.gather(*looking)

    assert sorted(anew for _, anew in verdicts) == [False, False, True]
    assert {known.generation for known, _ in verdicts} == {2}
    assert await dicts(
        db, device.tenant_id, "SELECT generation, generation_at, reported_punch_count, stamps::text FROM devices"
    ) == [
        {
            "generation": 2,
            "generation_at": NOW,
            "reported_punch_count": 3,
            "stamps": '{"ATTLOG": "0", "OPERLOG": "0"}',
        }
    ]


async def test_what_was_seen_before_a_reset_and_is_written_after_it_is_not_of_the_new_memory(
    db: Database, device: Device
) -> None:
    async def met(at: datetime, number: int) -> list[dict[str, Any]]:
        facts = {"mark": number, "mark_at": wall(0), "reported_punch_count": number}
        contact = Contact(at, {"ATTLOG": str(number)}, facts)
        async with db.across("ingest", [device.tenant_id]) as connection:
            await presence.note(connection, {(device.tenant_id, device.id): contact})
        query = "SELECT mark, mark_at, reported_punch_count, stamps->>'ATTLOG' AS stamp FROM devices"
        return await dicts(db, device.tenant_id, query)

    await look(db, device, Glimpse(NOW, punches=3, mark=1, mark_at=wall(0)))

    assert await met(after(seconds=-1), 500) == [
        {"mark": 1, "mark_at": wall(0), "reported_punch_count": 3, "stamp": "0"}
    ]
    assert await met(NOW, 5) == [{"mark": 5, "mark_at": wall(0), "reported_punch_count": 5, "stamp": "5"}]


async def test_sources_seen_by_different_processes_alternate_all_the_same(db: Database, device: Device) -> None:
    for second, source in enumerate("abab"):
        known, _ = await look(db, device, Glimpse(after(seconds=second), source))

    assert known.two_sources_at == after(seconds=3)


@pytest.mark.parametrize(
    ("fields", "later", "flags"),
    [
        ({"clock_skew_ms": 300_000}, {}, []),
        ({"clock_skew_ms": -300_001}, {}, ["clock_drift"]),
        ({"two_sources_at": NOW}, {"days": 1}, ["two_sources"]),
        ({"two_sources_at": NOW}, {"days": 1, "seconds": 1}, []),
        ({"generation": 2, "generation_at": NOW}, {"days": 7}, ["reset_detected"]),
        ({"generation": 2, "generation_at": NOW}, {"days": 7, "seconds": 1}, []),
    ],
)
def test_a_device_shows_its_flags_for_a_while(
    fields: dict[str, Any], later: dict[str, float], flags: list[str]
) -> None:
    device = Device(serial_number="X", name="X", **fields)

    assert (
        devices.flags(
            device,
            after(**later),
            drift=BOUND,
            noted=devices.Noted(unknown_users=False, rejected_records=False, count_mismatch=False),
        )
        == flags
    )
