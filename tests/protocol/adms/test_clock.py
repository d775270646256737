"""Wall time to instants, through the changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.adms.clock import at_offset, decode, encode, instant, is_impossible, wall_time
from protocol.adms.errors import BadTime


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("zone", "wall", "utc"),
    [
        ("Europe/Berlin", "2026-01-15 09:00:00", "2026-01-15 08:00:00+00:00"),
        ("Europe/Berlin", "2026-07-15 09:00:00", "2026-07-15 07:00:00+00:00"),
        # The gap from 02:00 to 03:00: the offset from before it.
        ("Europe/Berlin", "2026-03-29 01:59:59", "2026-03-29 00:59:59+00:00"),
        ("Europe/Berlin", "2026-03-29 02:00:00", "2026-03-29 01:00:00+00:00"),
        ("Europe/Berlin", "2026-03-29 02:30:00", "2026-03-29 01:30:00+00:00"),
        ("Europe/Berlin", "2026-03-29 03:00:00", "2026-03-29 01:00:00+00:00"),
        # 02:00 to 03:00 comes twice: the first one.
        ("Europe/Berlin", "2026-10-25 01:59:59", "2026-10-24 23:59:59+00:00"),
        ("Europe/Berlin", "2026-10-25 02:00:00", "2026-10-25 00:00:00+00:00"),
        ("Europe/Berlin", "2026-10-25 02:59:59", "2026-10-25 00:59:59+00:00"),
        ("Europe/Berlin", "2026-10-25 03:00:00", "2026-10-25 02:00:00+00:00"),
        ("Asia/Kolkata", "2026-03-01 09:00:00", "2026-03-01 03:30:00+00:00"),
        # Half an hour of summer time: two offsets within the hour of the gap.
        ("Australia/Lord_Howe", "2026-10-04 02:15:00", "2026-10-03 15:45:00+00:00"),
        ("Australia/Lord_Howe", "2026-10-04 02:45:00", "2026-10-03 15:45:00+00:00"),
        ("Australia/Lord_Howe", "2026-04-05 01:45:00", "2026-04-04 14:45:00+00:00"),
    ],
)
def test_a_wall_time_is_an_instant_by_one_rule(zone: str, wall: str, utc: str) -> None:
    assert instant(at(wall), ZoneInfo(zone)) == at(utc)
    assert instant(at(wall).replace(fold=1), ZoneInfo(zone)) == at(utc)


ZONES = st.sampled_from(
    ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Tehran", "UTC"]
)
WALLS = st.datetimes(datetime(1950, 1, 1), datetime(2200, 1, 1)).map(lambda wall: wall.replace(fold=0))  # noqa: DTZ001


@settings(deadline=None, max_examples=300)
@given(WALLS, ZONES)
@example(datetime(2026, 3, 29, 2, 30), "Europe/Berlin")  # noqa: DTZ001
def test_the_rule_is_that_of_pep_495(wall: datetime, name: str) -> None:
    zone = ZoneInfo(name)

    read = instant(wall, zone)

    assert read == wall.replace(tzinfo=zone).astimezone(UTC)
    assert read.utcoffset() == timedelta()


@settings(deadline=None)
@given(st.datetimes(datetime(1950, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)), ZONES)  # noqa: DTZ001
def test_what_the_wall_shows_leads_back_unless_it_shows_it_twice(moment: datetime, name: str) -> None:
    zone = ZoneInfo(name)

    back = instant(wall_time(moment, zone), zone)

    assert back == moment or moment.astimezone(zone).fold == 1


def test_an_offset_does_instead_of_a_zone() -> None:
    assert at_offset(at("2026-03-01 09:00:00"), timedelta(hours=5.5)) == at("2026-03-01 03:30:00+00:00")


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York", "UTC", "Pacific/Kiritimati"])
@pytest.mark.parametrize("wall", [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59)])  # noqa: DTZ001
def test_the_ends_of_the_calendar_are_still_instants(wall: datetime, zone: str) -> None:
    read = instant(wall, ZoneInfo(zone))

    assert read.tzinfo is UTC
    assert abs(read.replace(tzinfo=None) - wall) < timedelta(days=2)
    assert all(read.astimezone(ZoneInfo(shown)) for shown in ("Pacific/Kiritimati", "Pacific/Niue"))


NOON = datetime(2026, 3, 1, 12)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("wall", "impossible"),
    [
        ("2000-01-01 00:00:00", True),
        ("2000-12-31 23:59:59", True),
        ("1999-01-01 00:00:00", True),
        ("2001-01-01 00:00:00", False),
        ("2026-03-01 12:00:00", False),
        ("2026-03-02 12:00:00", False),
        ("2026-03-02 12:00:01", True),
        ("9999-12-31 23:59:59", True),
    ],
)
def test_a_dead_battery_and_the_day_after_tomorrow_are_impossible(wall: str, impossible: bool) -> None:
    assert is_impossible(at(wall), NOON) is impossible


def test_seconds_are_encoded_as_in_the_manual() -> None:
    assert decode(583050990) == at("2018-02-22 06:36:30")
    assert encode(at("2018-02-22 06:36:30")) == 583050990
    assert encode(at("2000-01-01 00:00:00")) == 0


@settings(deadline=None)
@given(st.datetimes(datetime(2000, 1, 1)).map(lambda wall: wall.replace(microsecond=0, fold=0)))  # noqa: DTZ001
def test_encoded_seconds_lead_back(wall: datetime) -> None:
    assert decode(encode(wall)) == wall


@pytest.mark.parametrize("encoded", [-1, (31 + 30) * 86400, 10**12, 10**30])
def test_a_day_that_no_month_has_is_refused(encoded: int) -> None:
    with pytest.raises(BadTime):
        decode(encoded)


def test_what_was_before_the_count_cannot_be_encoded() -> None:
    with pytest.raises(BadTime):
        encode(at("1999-12-31 23:59:59"))
