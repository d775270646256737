"""What a terminal shows of itself from contact to contact, and what is wrong with it.

Three questions, answered by pure rules: how wrong is its clock, do two of them share one serial number, and did its
memory begin anew? A contact that shows nothing new costs a comparison. One that does is judged again by what the row
says, under the row's lock, so that every process comes to the same verdict once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import orjson

from app.database import Connection
from protocol.adms import codes

#: Received later than this after it was made, a record is part of a backlog, and says nothing of the clock now.
BUFFERED_AFTER: Final = timedelta(minutes=2)
#: Two addresses that alternate within this time are two terminals; as long afterwards their punches are in doubt.
ALTERNATING: Final = timedelta(minutes=10)
#: How long a device keeps its flag afterwards, for people who look once a day, or once a week.
TWO_SOURCES_SHOWN: Final = timedelta(days=1)
RESET_SHOWN: Final = timedelta(days=7)
#: A clock further off is not the record's own doing any more: unless the flag of a device, that of the setting.
DRIFT: Final = timedelta(minutes=5)

_A_DAY: Final = timedelta(days=1)
#: Two records that came this far apart and were late alike show a clock that is behind: a backlog catches up.
_APART: Final = timedelta(seconds=30)
_HINT_HOLDS: Final = timedelta(hours=1)
_ALIKE_MS: Final = 5_000
_MS: Final = timedelta(milliseconds=1)
_INT32: Final = 2**31 - 1

CLOCK_DRIFT, TWO_SOURCES, RESET_DETECTED = "clock_drift", "two_sources", "reset_detected"


@dataclass(slots=True)
class Watched:
    """What was known when the device was last looked up; corrected in place by what its contacts show meanwhile."""

    clock_skew_ms: int | None = None
    #: How late a record was that may have been a backlog's, and when that was.
    clock_hint_ms: int | None = None
    clock_hint_at: datetime | None = None
    #: Minutes from Greenwich that it was last told.
    told_offset: int | None = None
    two_sources_at: datetime | None = None
    generation: int = 1
    generation_at: datetime | None = None
    #: The highest number of its memory that was seen, and the wall time of that record.
    mark: int | None = None
    mark_at: datetime | None = None
    #: Punches that it last said to hold.
    punches: int | None = None
    #: From where it calls and what it announces: now, before, and since when.
    callers: Mapping[str, Any] | None = None
    #: Of the security dialect: whether it was given its options since its last handshake.
    configured: bool = False
    #: The number of the language that it announced, and the code page that its text was in.
    language: str | None = None
    charset: str | None = None

    @property
    def source(self) -> str | None:
        """From where it called last."""
        return self.callers.get("source") if self.callers else None

    @property
    def code_page(self) -> str | None:
        """What its text is in where it is not UTF-8, if that is known."""
        return code_page(self.language, self.charset)

    @property
    def takes(self) -> str:
        """What text for it is written in: as it writes, and before it has shown that in UTF-8, but for Chinese."""
        if self.charset is None:
            return codes.CODE_PAGES[codes.CHINESE] if self.language == codes.CHINESE else "utf-8"
        return "utf-8" if self.charset == "utf-8" else self.code_page or "utf-8"

    def follow(self, later: Watched, *, numbers: bool) -> None:
        """Take over a verdict, that on numbers only if it was about them. The clock is measured beside it."""
        self.two_sources_at, self.callers = later.two_sources_at, later.callers
        self.generation, self.generation_at = later.generation, later.generation_at
        if numbers:
            self.mark, self.mark_at, self.punches = later.mark, later.mark_at, later.punches


def code_page(language: str | None, charset: str | None) -> str | None:
    """What a terminal's text is in where it is not UTF-8, by its language or else by what it has shown."""
    return codes.CODE_PAGES.get(language or "") or (charset if charset != "utf-8" else None)


# ── its clock ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Measure:
    """What a record tells of the clock: by how much it is off, or only a hint. Milliseconds; ahead is positive."""

    skew_ms: int | None = None
    hint_ms: int | None = None


def measure(shown_at: datetime, received_at: datetime, known: Watched, *, exact: bool = False) -> Measure | None:
    """Judge the clock by the newest record of an upload, both as instants; `exact`: the clock was read just then.

    A record cannot be newer than the clock that stamped it, so one from the future shows that the clock is ahead; one
    that was made just now shows that it is right. An old one is most likely a backlog's, and one from beyond tomorrow
    damaged: only when the next record, half a minute later or more, is off by just as much was it the clock. None: no
    news.
    """
    off = shown_at - received_at
    off_ms = max(-_INT32, min(round(off / _MS), _INT32))
    if exact or -BUFFERED_AFTER <= off <= _A_DAY:
        return Measure(skew_ms=off_ms)
    if known.clock_hint_ms is not None and known.clock_hint_at is not None:
        apart = received_at - known.clock_hint_at
        alike = abs(off_ms - known.clock_hint_ms) <= _ALIKE_MS or abs(off_ms) == _INT32 == abs(known.clock_hint_ms)
        if alike and apart < _APART:
            return None
        if alike and apart <= _HINT_HOLDS:
            return Measure(off_ms, off_ms)
    return Measure(hint_ms=off_ms)


def is_off(skew_ms: int | None, bound: timedelta) -> bool:
    """Whether a clock is further off than the bound."""
    return skew_ms is not None and abs(skew_ms) > bound / _MS


def doubts(known: Watched, at: datetime, bound: timedelta, skew_ms: int | None = None) -> tuple[str, ...]:
    """The flags of punches that arrive at `at`; `skew_ms`, if it was measured just now, goes before what was known."""
    off = is_off(known.clock_skew_ms if skew_ms is None else skew_ms, bound)
    flags: tuple[str, ...] = (CLOCK_DRIFT,) if off else ()
    if known.two_sources_at is not None and at - known.two_sources_at <= ALTERNATING:
        return (*flags, TWO_SOURCES)
    return flags


# ── who calls, and from what memory ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What one contact shows. None: it says nothing of this."""

    at: datetime
    source: str | None = None
    #: Of the handshake: a terminal spells it alike each time.
    announced: str | None = None
    #: The number of its newest record, and the record's wall time.
    mark: int | None = None
    mark_at: datetime | None = None
    punches: int | None = None


def began_anew(known: Watched, seen: Glimpse) -> bool:
    """Whether the memory is another one than before: less than half of the punches, or newer ones with lower numbers.

    A resend has lower numbers and older records; a full memory that lets go of its oldest keeps most of them.
    """
    if seen.punches is not None and known.punches is not None and seen.punches * 2 < known.punches:
        return True
    if seen.mark is None or seen.mark_at is None or known.mark is None or known.mark_at is None:
        return False
    return seen.mark < known.mark and seen.mark_at > known.mark_at


def is_news(known: Watched, seen: Glimpse) -> bool:
    """Whether a contact has to be judged by the row: most do not."""
    callers = known.callers or {}
    return (
        (seen.source is not None and seen.source != callers.get("source"))
        or (seen.announced is not None and seen.announced != callers.get("announced"))
        or began_anew(known, seen)
    )


def judge(known: Watched, seen: Glimpse) -> Watched:
    """What is known after a contact."""
    callers: dict[str, Any] = dict(known.callers or {})
    alternates = False
    for what, shown in (("source", seen.source), ("announced", seen.announced)):
        if shown is None or shown == callers.get(what):
            continue
        since = callers.get(f"{what}_at")
        back = shown == callers.get(f"{what}_before")
        alternates |= bool(back and since and seen.at - datetime.fromisoformat(since) <= ALTERNATING)
        callers |= {f"{what}_before": callers.get(what), what: shown, f"{what}_at": seen.at.isoformat()}
    after = replace(known, callers=callers)
    if began_anew(known, seen):
        if known.generation_at is not None and seen.at - known.generation_at <= ALTERNATING:
            alternates = True  # nobody resets a terminal twice in a row: two memories answer in turn
        else:
            after.generation, after.generation_at = known.generation + 1, seen.at
        after.mark, after.mark_at = seen.mark, seen.mark_at
    elif seen.mark is not None and (known.mark is None or seen.mark >= known.mark):
        after.mark, after.mark_at = seen.mark, seen.mark_at
    if seen.punches is not None:
        after.punches = seen.punches
    if alternates:
        after.two_sources_at = seen.at
    return after


_COLUMNS: Final = (
    "clock_skew_ms, clock_hint_ms, clock_hint_at, told_offset, two_sources_at, generation, generation_at, mark, "
    "mark_at, reported_punch_count, callers, configured, language, charset"
)
#: The columns of Watched, in its order.
COLUMNS: Final = tuple(_COLUMNS.split(", "))
_CALLERS: Final = COLUMNS.index("callers")


def watched(values: Any) -> Watched:
    """From the values of COLUMNS."""
    known = Watched(*values)
    known.callers = orjson.loads(values[_CALLERS])
    return known


_LOOK: Final = f"SELECT {_COLUMNS} FROM devices WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE"  # noqa: S608
_KEEP: Final = """
UPDATE devices SET callers = $3, two_sources_at = $4, generation = $5, generation_at = $6, mark = $7, mark_at = $8,
    reported_punch_count = $9, stamps = CASE WHEN $5 > generation THEN $10::jsonb ELSE stamps END
WHERE tenant_id = $1 AND id = $2
"""
#: A memory that began anew is asked for everything: the mark of the one before it could lie beyond its end.
_FROM_THE_START: Final = '{"ATTLOG": "0", "OPERLOG": "0"}'


async def look(connection: Connection, tenant_id: UUID, device_id: UUID, seen: Glimpse) -> tuple[Watched, bool]:
    """Judge a contact by what the row says, and write the verdict down; whether the memory began anew with it.

    Purpose "ingest".
    """
    known = watched(await connection.fetchrow(_LOOK, tenant_id, device_id))
    if not is_news(known, seen):  # a twin was quicker
        return known, False
    after = judge(known, seen)
    await connection.execute(
        _KEEP,
        tenant_id,
        device_id,
        orjson.dumps(after.callers).decode(),
        after.two_sources_at,
        after.generation,
        after.generation_at,
        after.mark,
        after.mark_at,
        after.punches,
        _FROM_THE_START,
    )
    return after, after.generation > known.generation


async def turn(connection: Connection, tenant_id: UUID, device_id: UUID, before: int, after: int) -> bool:
    """Note that a terminal is to be told another offset from Greenwich; False where it was done. Purpose "ingest"."""
    done: str = await connection.execute(
        "UPDATE devices SET told_offset = $4 WHERE tenant_id = $1 AND id = $2 AND told_offset = $3",
        tenant_id,
        device_id,
        before,
        after,
    )
    return done != "UPDATE 0"
