"""Wall time and zone to an instant, and back; the protocol's encoded seconds; times that no clock should show.

A terminal sends the time on its wall, without offset. In a zone with summer time some wall times occur twice a year and
some never do:

- Twice (the clocks go back): the first occurrence is meant.
- Never (the clocks go forward): the offset from before the change is used, as a clock that missed the change would;
  02:30 in a gap from 02:00 to 03:00 is the instant otherwise called 03:30.

Both are what PEP 495 calls fold=0, so ZoneInfo applies the rule by itself. `datetime.replace` and `astimezone` cost
more than a microsecond together; subtracting and adding spans costs a fifth of that, and leaves nothing worth caching.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from protocol.adms.errors import BadTime

_WALL_ZERO = datetime(1970, 1, 1)  # noqa: DTZ001 (a wall time has no zone)
_UTC_ZERO = datetime(1970, 1, 1, tzinfo=UTC)
#: A day within the ends of the calendar, so that every zone has a wall time for them and no database takes them for
#: infinity.
EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, 23, 59, 59, tzinfo=UTC)
_DAY = timedelta(days=1)
_FIRST, _LAST = datetime(1, 1, 3), datetime(9999, 12, 29)  # noqa: DTZ001
_YEAR_0 = 2000
_SECONDS = 86400


def instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant, aware and in UTC, at which a wall in `zone` showed the naive `wall`, by the rule above.

    At the ends of the calendar it stops at EARLIEST and LATEST.
    """
    if wall.fold:
        wall = wall.replace(fold=0)
    # Handed a naive time, ZoneInfo reads it as its own wall time: the same answer as after replace(tzinfo=zone).
    return at_offset(wall, zone.utcoffset(wall) or timedelta())


def nearest(wall: datetime, zone: ZoneInfo, at: datetime) -> datetime:
    """Like `instant`, but of two that are possible the one closer to `at`: to judge a clock, not to date a record."""
    first, second = zone.utcoffset(wall), zone.utcoffset(wall.replace(fold=1))
    reading = at_offset(wall, first or timedelta())
    if first == second:
        return reading
    return min(reading, at_offset(wall, second or timedelta()), key=lambda moment: abs(moment - at))


def at_offset(wall: datetime, offset: timedelta) -> datetime:
    """Like `instant`, for a wall whose distance from UTC is known: positive east of Greenwich."""
    if _FIRST < wall < _LAST:
        return _UTC_ZERO + (wall - _WALL_ZERO - offset)
    return EARLIEST if wall <= _FIRST else LATEST


def within_calendar(at: datetime) -> datetime:
    """An aware instant in UTC, moved to EARLIEST or LATEST where it lies beyond them."""
    try:
        return min(max(at.astimezone(UTC), EARLIEST), LATEST)
    except OverflowError:
        return EARLIEST if at.year <= 1 else LATEST


def wall_time(at: datetime, zone: tzinfo) -> datetime:
    """What a wall in `zone` shows at the aware instant `at`: naive."""
    return at.astimezone(zone).replace(tzinfo=None)


def is_impossible(wall: datetime, received_at_wall: datetime) -> bool:
    """Whether a terminal's clock cannot have been right: the year a dead battery shows, or over a day in the future.

    Both are naive and of the same zone.
    """
    return wall.year <= _YEAR_0 or wall - received_at_wall > _DAY


def encode(wall: datetime) -> int:
    """Seconds since 2000 in a calendar of 31-day months, as the protocol counts them. BadTime before 2000."""
    if wall.year < _YEAR_0:
        raise BadTime(f"{wall:%Y-%m-%d} is before {_YEAR_0} and cannot be encoded.")
    days = ((wall.year - _YEAR_0) * 12 + wall.month - 1) * 31 + wall.day - 1
    return days * _SECONDS + wall.hour * 3600 + wall.minute * 60 + wall.second


def decode(encoded: int) -> datetime:
    """The naive time that `encode` made `encoded` of. BadTime for a day that its month does not have."""
    if encoded < 0:
        raise BadTime(f"{encoded} encodes no calendar time.")
    days, seconds = divmod(encoded, _SECONDS)
    months, day = divmod(days, 31)
    years, month = divmod(months, 12)
    try:
        midnight = datetime(_YEAR_0 + years, month + 1, day + 1)  # noqa: DTZ001
    except (ValueError, OverflowError) as exc:
        raise BadTime(f"{encoded} encodes no calendar time.") from exc
    return midnight + timedelta(seconds=seconds)
