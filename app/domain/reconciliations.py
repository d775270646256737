"""Does a terminal hold punches that are not here? It is asked to count, and what is missing is asked for again.

A round begins when it is due: on a schedule, and soon after an outage. The terminal says how many punches it has of a
window that ends a little before now. Where that differs from what is stored, the window is halved until the smallest
periods that can explain it are found; these are sent again, counted once more, and what differs even then is written
down and not asked for a second time. Nothing is queued ahead: a terminal that polls and has nothing else to do gets the
next step, so a round lives in its row, under the device's lock, and goes on in whichever process the terminal meets.

Units of the security dialect do not count, but number what they hold: they are asked once in a round for everything
after a number below which all was sent already, and the round is over.

All periods are of the terminal's wall clock, to the second, both ends included: that is how it counts.
Locks are taken after those of devices and commands.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar, Final
from uuid import UUID

import orjson
from sqlalchemy import BigInteger, Boolean, CheckConstraint, Column, DateTime, Integer, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from app import paging
from app.database import Connection, Session
from app.domain import commands, placements
from app.domain.commands import Ended, Recipient
from app.domain.tables import build, columns, instant, tenant_key, within_tenant
from protocol.adms import commands as wire
from protocol.adms.records import option

#: Askings for one step before the round is given up.
MOST_TRIES: Final = 3
#: Counts and fillings of one round; what they do not reach waits for the next one.
MOST_COUNTS, MOST_FILLS = 256, 32
#: Looks at a difference that shrinks by itself, because a backlog is still coming.
MOST_WAITS: Final = 30
#: A period is small enough to be sent again when it has so few punches, or is so short.
FEW: Final = 200
SHORT: Final = timedelta(hours=1)
#: Punches that are asked for at once where none of them is here: what a terminal sends within the lease.
MANY: Final = 5_000
#: Differences that are remembered for one device.
MOST_REMAINDERS: Final = 100
#: A window ends so long before now: what is younger may be on its way.
MARGIN: Final = timedelta(minutes=1)
#: Rounds in which a unit may leave that unanswered before it is taken for done: each time it may have sent all it has.
MOST_UNANSWERED: Final = 3
#: Rounds of a terminal that comes and goes keep this distance.
APART: Final = timedelta(minutes=10)
_SECOND: Final = timedelta(seconds=1)
#: Answers after which the same may work.
PASSING: Final = (-3, -1003, -1005)


class Completeness(StrEnum):
    """What the last round came to."""

    UNKNOWN = "UNKNOWN"
    COMPLETE = "COMPLETE"
    CHECKING = "CHECKING"
    MISSING = "MISSING"
    NOT_COUNTED = "NOT_COUNTED"


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often a round begins, how far back it looks, and how long it waits for a backlog between two looks."""

    every: timedelta = timedelta(hours=6)
    window: timedelta = timedelta(days=31)
    settle: timedelta = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Remainder:
    """What differs in a period although all of it was sent again: `missing` here, or fewer there when negative.

    `sent`: the terminal says that it sent all it has, so what seems missing are records that are one punch here.
    """

    start: datetime
    end: datetime
    missing: int
    sent: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A period that is still to be looked at."""

    start: datetime
    end: datetime
    #: To be sent again, rather than counted.
    fill: bool = False
    #: It was sent again: so many, by the terminal's word.
    filled: int | None = None
    #: The end and the count of the part that this is the first half of.
    whole_end: datetime | None = None
    whole: int = 0


@dataclass(slots=True)
class Round:
    """How far a round has come; kept in its row between two steps."""

    start: datetime | None = None
    end: datetime | None = None
    #: Whether the terminal was asked for its totals, which begins a round.
    informed: bool = False
    total: int | None = None
    #: How many users it has, where that is not what we know of: then it is asked who they are.
    users: int | None = None
    #: How many seemed to be missing at the last look at the whole window.
    missing: int | None = None
    waits: int = 0
    counts: int = 0
    fills: int = 0
    #: Of the security dialect: what has a greater number is sent again; the greatest number that was seen by then, and
    #: in which life of its memory.
    after: int | None = None
    through: int = 0
    generation: int = 1
    #: Whether something was left for the next round.
    cut: bool = False
    todo: list[Part] = field(default_factory=list)

    def dump(self) -> str:
        """As JSON."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def load(cls, text: str) -> Round:
        """What `dump` wrote."""
        said = orjson.loads(text)
        said["todo"] = [Part(**_moments(part, "start", "end", "whole_end")) for part in said["todo"]]
        return cls(**_moments(said, "start", "end"))


def _moments(said: dict[str, Any], *names: str) -> dict[str, Any]:
    return said | {name: datetime.fromisoformat(said[name]) for name in names if said[name] is not None}


def _load_remainders(text: str | list[dict[str, Any]]) -> list[Remainder]:
    said: list[dict[str, Any]] = orjson.loads(text) if isinstance(text, str) else text
    return [Remainder(**_moments(one, "start", "end")) for one in said]


class Reconciliation(SQLModel, table=True):
    """One device's counts beside ours."""

    __tablename__: ClassVar[str] = "reconciliations"
    __table_args__ = (
        within_tenant("device_id", "devices"),
        CheckConstraint("state IN ('UNKNOWN', 'COMPLETE', 'CHECKING', 'MISSING', 'NOT_COUNTED')", name="state"),
    )

    tenant_id: UUID = tenant_key()
    device_id: UUID = Field(primary_key=True)
    state: str = Completeness.UNKNOWN
    #: When the next step is due.
    due_at: datetime = instant()
    #: Of the step that is under way.
    command_id: UUID | None = None
    tries: int = 0
    round: dict[str, Any] | None = Field(default=None, sa_column=Column(JSONB, nullable=True))
    begun_at: datetime | None = instant(optional=True)
    #: Something happened during the round that asks for another one soon.
    again: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default="false"))
    #: The last window that was counted whole, and what came out.
    counted_at: datetime | None = instant(optional=True)
    window_start: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=False), nullable=True))
    window_end: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=False), nullable=True))
    reported: int | None = None
    stored: int | None = None
    remainders: list[dict[str, Any]] = Field(
        default_factory=list, sa_column=Column(JSONB, nullable=False, server_default="[]")
    )
    #: By how much the total of a terminal that does not count periods is above ours, although it sent all it has.
    excess: int = 0
    #: How many more users it last counted than it showed.
    users_differ: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default="0"))
    #: Everything up to this number of that life of the unit's memory was asked for and sent.
    resent_through: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    resent_generation: int | None = None
    #: Rounds in a row in which the unit did not answer that.
    unanswered: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default="0"))
    reason: str | None = None
    reconciled_at: datetime | None = instant(optional=True)

    @property
    def missing(self) -> list[Remainder]:
        """Periods of which the terminal holds more than it sent."""
        return [one for one in _load_remainders(self.remainders) if one.missing > 0 and not one.sent]


_ROW: Final = columns(Reconciliation)


async def by_devices(session: Session, tenant_id: UUID, device_ids: Sequence[UUID]) -> dict[UUID, Reconciliation]:
    """How things stand with each of these devices; one that was never looked at is left out."""
    query = select(*_ROW).where(_ROW.tenant_id == tenant_id, paging.among(_ROW.device_id, device_ids))
    return {row.device_id: build(Reconciliation, row) for row in await (await session.connection()).execute(query)}


# ── when ─────────────────────────────────────────────────────────────────────────────────────────────

_IDLE: Final = """
NOT EXISTS (
    SELECT 1 FROM device_commands c
    WHERE c.tenant_id = r.tenant_id AND c.id = r.command_id AND c.status IN ('QUEUED', 'SENT')
)
"""
#: Whether (tenant, device) is due, or was never looked at.
_DUE: Final = f"""
(SELECT coalesce(bool_or(r.due_at <= now() AND {_IDLE}), true) FROM reconciliations r
 WHERE r.tenant_id = $1 AND r.device_id = $2)
"""  # noqa: S608
_HASTEN: Final = """
UPDATE reconciliations r
SET again = r.round IS NOT NULL, due_at = CASE WHEN r.round IS NOT NULL THEN r.due_at ELSE least(
        r.due_at, greatest(now() + interval '20 seconds' + random() * interval '40 seconds', r.begun_at + $3::interval)
    ) END
FROM (
    SELECT o.tenant_id, o.device_id FROM reconciliations o
    JOIN unnest($1::uuid[], $2::uuid[]) AS c (tenant_id, device_id) USING (tenant_id, device_id)
    ORDER BY o.tenant_id, o.device_id FOR UPDATE OF o
) AS came
WHERE r.tenant_id = came.tenant_id AND r.device_id = came.device_id
"""


async def hasten(connection: Connection, devices: Iterable[tuple[UUID, UUID]]) -> None:
    """These were away, by (tenant, device): count soon, and not all at the same moment. Purpose "ingest"."""
    pairs = list(devices)
    if pairs:
        await connection.execute(_HASTEN, [tenant for tenant, _ in pairs], [device for _, device in pairs], APART)


async def waits(connection: Connection, recipient: Recipient) -> bool:
    """Whether there is a command to hand out, or to make: one question, as every poll asks it. Purpose "ingest"."""
    found: bool = await connection.fetchval(
        f"SELECT EXISTS ({commands.NEXT}) OR {placements.DUE} OR {_DUE}",
        recipient.tenant_id,
        recipient.device_id,
        commands.ONCE,
    )
    return found


# ── what the terminal is asked ───────────────────────────────────────────────────────────────────────

_FIRST: Final = """
INSERT INTO reconciliations (tenant_id, device_id, state, due_at, tries, excess)
VALUES ($1, $2, 'UNKNOWN', now() + $3::interval * (1 + 9 * random()), 0, 0) ON CONFLICT DO NOTHING
"""
_TAKE: Final = f"""
SELECT r.* FROM reconciliations r
WHERE r.tenant_id = $1 AND r.device_id = $2 AND r.due_at <= now() AND {_IDLE} FOR UPDATE
"""  # noqa: S608
_ASK: Final = """
UPDATE reconciliations SET command_id = $3, tries = $4, round = $5, begun_at = coalesce($6, begun_at)
WHERE tenant_id = $1 AND device_id = $2
"""


async def plan(connection: Connection, recipient: Recipient, at: datetime, schedule: Schedule) -> None:
    """Make a command of the next step, if one is due. Purpose "ingest"."""
    tenant_id, device_id = recipient.tenant_id, recipient.device_id
    if not await connection.fetchval(f"SELECT {_DUE}", tenant_id, device_id):
        return
    security = await commands.lock(connection, tenant_id, device_id)
    await connection.execute(_FIRST, tenant_id, device_id, schedule.settle)
    row = await connection.fetchrow(_TAKE, tenant_id, device_id)
    if row is None:
        return
    now_round = Round.load(row["round"]) if row["round"] else Round()
    if now_round.after is not None and row["tries"]:
        await _Outcome(row, now_round, schedule).resent_unanswered(connection)
        return
    if row["tries"] >= MOST_TRIES:
        outcome = _Outcome(row, now_round, schedule)
        await outcome.give_up(connection, "The terminal does not answer when it is asked to count.")
        return
    wall = at.astimezone(recipient.zone).replace(tzinfo=None, microsecond=0)
    kind, arguments = _next(now_round, wall, schedule, _load_remainders(row["remainders"]), security)
    command_id = await commands.add(connection, recipient, kind, arguments)
    begun_at = None if row["round"] else at
    await connection.execute(_ASK, tenant_id, device_id, command_id, row["tries"] + 1, now_round.dump(), begun_at)


def _next(
    now_round: Round, wall: datetime, schedule: Schedule, remainders: Sequence[Remainder], security: bool
) -> tuple[str, commands.Arguments]:
    """The command of the next step."""
    if not now_round.informed:
        return "reportTotals", {}
    if now_round.after is not None:
        return "resendAfter", {"number": now_round.after}
    if now_round.users is not None or security:
        return "userQuery", {}
    if now_round.start is None or now_round.end is None:
        now_round.start, now_round.end = _window(wall, schedule, remainders)
    if not now_round.todo:
        return "countPunches", _period(now_round.start, now_round.end)
    part = now_round.todo[-1]
    return "backfill" if part.fill else "countPunches", _period(part.start, part.end)


def _window(wall: datetime, schedule: Schedule, remainders: Sequence[Remainder]) -> tuple[datetime, datetime]:
    """From a midnight on, and not from the middle of a period that is known to differ."""
    start = (wall - schedule.window).replace(hour=0, minute=0, second=0)
    start = max([start, *(one.end + _SECOND for one in remainders if one.start < start <= one.end)])
    return start, max(start, wall - MARGIN)


def _period(start: datetime, end: datetime) -> dict[str, str]:
    return {"from": start.isoformat(timespec="seconds"), "to": end.isoformat(timespec="seconds")}


# ── what it answers ──────────────────────────────────────────────────────────────────────────────────


class Verdict(StrEnum):
    """What is to be done about one part."""

    AGREES = "AGREES"
    ACCEPT = "ACCEPT"
    FILL = "FILL"
    HALVE = "HALVE"


def judge(part: Part, reported: int, stored: int, known: int) -> Verdict:
    """What follows from two counts of a part in which `known` differ anyway."""
    if reported - stored == known:
        return Verdict.AGREES
    if reported == 0 or part.filled is not None:
        return Verdict.ACCEPT
    nothing_here = stored == 0 and reported <= MANY
    if nothing_here or reported <= FEW or part.end - part.start <= SHORT:
        return Verdict.FILL
    return Verdict.HALVE


def halves(part: Part) -> tuple[Part, Part]:
    """Two parts that touch, and have no second in common."""
    middle = part.start + timedelta(seconds=int((part.end - part.start).total_seconds()) // 2)
    return Part(part.start, middle), Part(middle + _SECOND, part.end)


async def follow(connection: Connection, recipient: Recipient, ended: Sequence[Ended], schedule: Schedule) -> None:
    """Go on after these commands of the terminal's. Purpose "ingest", in the transaction that settled them."""
    for command in ended:
        if command.kind not in {"reportTotals", "userQuery", "countPunches", "backfill", "resendAfter"}:
            continue
        row = await connection.fetchrow(
            "SELECT * FROM reconciliations WHERE tenant_id = $1 AND device_id = $2 AND command_id = $3 FOR UPDATE",
            recipient.tenant_id,
            recipient.device_id,
            command.id,
        )
        if row is not None and row["round"] is not None:
            await _Outcome(row, Round.load(row["round"]), schedule).take(connection, command)
        elif command.kind == "backfill":
            # Somebody asked for it: how do things stand now?
            await hasten(connection, [(recipient.tenant_id, recipient.device_id)])


_STORED: Final = """
SELECT count(*) FROM punches
WHERE tenant_id = $1 AND device_id = $2 AND local_time BETWEEN $3 AND $4
  -- For the index's sake: no zone is further from UTC than that.
  AND punched_at >= (($3::timestamp - interval '15 hours') AT TIME ZONE 'UTC')
  AND punched_at <= (($4::timestamp + interval '15 hours') AT TIME ZONE 'UTC')
"""
_SAVE: Final = """
UPDATE reconciliations SET state = $3, due_at = now() + $4::interval, command_id = NULL, tries = $16, round = $5,
    again = $6, counted_at = CASE WHEN $7 THEN now() ELSE counted_at END,
    window_start = $8, window_end = $9, reported = $10, stored = $11, remainders = $12, excess = $13, reason = $14,
    reconciled_at = CASE WHEN $15 THEN now() ELSE reconciled_at END, users_differ = $17,
    resent_through = $18, resent_generation = $19, unanswered = $20
WHERE tenant_id = $1 AND device_id = $2
"""
#: The numbers of a unit's records: at the newest before the window, the least within it, and the greatest known.
_NUMBERS: Final = """
SELECT d.generation, before.record_index AS before, within.least, greatest(d.mark, newest.record_index) AS greatest
FROM devices d
LEFT JOIN LATERAL (
    SELECT p.record_index FROM punches p
    WHERE p.tenant_id = d.tenant_id AND p.device_id = d.id AND p.punched_at < now() - $3::interval
      AND p.record_index IS NOT NULL AND p.received_at >= coalesce(d.generation_at, '-infinity')
    ORDER BY p.punched_at DESC LIMIT 1
) AS before ON true
LEFT JOIN LATERAL (
    SELECT min(p.record_index) AS least FROM punches p
    WHERE p.tenant_id = d.tenant_id AND p.device_id = d.id AND p.punched_at >= now() - $3::interval
      AND p.received_at >= coalesce(d.generation_at, '-infinity')
) AS within ON true
LEFT JOIN LATERAL (
    SELECT p.record_index FROM punches p
    WHERE p.tenant_id = d.tenant_id AND p.device_id = d.id
      AND p.record_index IS NOT NULL AND p.received_at >= coalesce(d.generation_at, '-infinity')
    ORDER BY p.punched_at DESC LIMIT 1
) AS newest ON true
WHERE d.tenant_id = $1 AND d.id = $2 AND d.dialect = 'SECURITY'
"""


class _Outcome:
    """A row in the making: one answer in, the next step or the end of the round out."""

    def __init__(self, row: Any, now_round: Round, schedule: Schedule) -> None:
        self.tenant_id, self.device_id = row["tenant_id"], row["device_id"]
        self.round: Round | None = now_round
        self.remainders = _load_remainders(row["remainders"])
        self.state, self.again, self.excess = row["state"], row["again"], row["excess"]
        self.users_differ = row["users_differ"]
        self.resent = (row["resent_through"], row["resent_generation"])
        self.unanswered = row["unanswered"]
        self.window = (row["window_start"], row["window_end"], row["reported"], row["stored"])
        self.reason: str | None = None
        self.pause = timedelta()
        self.tries = 0
        self._tried: int = row["tries"]
        self.counted = self.reconciled = False
        self._schedule = schedule

    async def take(self, connection: Connection, command: Ended) -> None:
        """One answer."""
        assert self.round is not None
        if command.kind == "reportTotals":
            await self._take_totals(connection, command)
        elif command.kind == "userQuery":
            await self._take_users(connection)
        elif command.kind == "resendAfter":
            self._take_resent(command)
        elif command.kind == "backfill":
            part = self.round.todo.pop()
            self.round.todo.append(replace(part, fill=False, filled=max(0, command.return_code)))
        else:
            reported = wire.counted(command.attributes) if command.succeeded else None
            if reported is None:
                await self._cannot_count(connection, command)
            elif self.round.todo:
                await self._take_part(connection, reported)
            else:
                await self._take_window(connection, reported)
        await self._save(connection)

    async def give_up(self, connection: Connection, reason: str) -> None:
        """No answer came, again and again."""
        assert self.round is not None
        if not self.round.todo:
            self.state, self.reason = Completeness.NOT_COUNTED, reason
            self._end(settled=True)
        else:
            self._end()
        await self._save(connection)

    async def _take_totals(self, connection: Connection, command: Ended) -> None:
        assert self.round is not None
        self.round.informed = True
        said = option(command.attributes, "TransactionCount")
        self.round.total = int(said) if said and said.isdigit() and len(said) < 10 else None
        said = option(command.attributes, "UserCount")
        users = int(said) if said and said.isdigit() and len(said) < 10 else None
        if users is not None and users - await self._users(connection) not in {0, self.users_differ}:
            self.round.users = users
        else:
            await self._go_on(connection)

    async def _take_users(self, connection: Connection) -> None:
        """Who is there was written down as the lines came. What differs now is not asked for every time."""
        assert self.round is not None
        if self.round.users is not None:
            self.users_differ = self.round.users - await self._users(connection)
            self.round.users = None
        await self._go_on(connection)

    async def _go_on(self, connection: Connection) -> None:
        """To the punches: to their counts, or in the security dialect to their numbers."""
        assert self.round is not None
        numbers = await connection.fetchrow(_NUMBERS, self.tenant_id, self.device_id, self._schedule.window)
        if numbers is None:
            return
        if numbers["greatest"] is None:
            self.state = Completeness.NOT_COUNTED
            self.reason = (
                "Terminals of the security dialect do not count the punches of a period, and this one has sent no "
                "numbered record yet after which it could be asked for more."
            )
            self._end(settled=True)
            return
        through, generation = self.resent
        if through is None or generation != numbers["generation"]:
            least = [numbers["before"] or 0, *([numbers["least"] - 1] if numbers["least"] is not None else [])]
            through = max(0, min(least))
        self.round.after, self.round.generation = through, numbers["generation"]
        self.round.through = max(through, numbers["greatest"])

    def _take_resent(self, command: Ended) -> None:
        """What was seen when it was asked, or lies below that, need not be asked for again: it was sent."""
        assert self.round is not None
        after = self.round.after
        self.unanswered = 0
        if command.succeeded:
            self.resent = (self.round.through, self.round.generation)
            self.state, self.reconciled = Completeness.COMPLETE, True
            self.reason = (
                "Terminals of the security dialect do not count. This one was asked for all its records after number "
                f"{after}, and says that it sent them."
            )
        else:
            why = f"{command.return_code}, {command.output}" if command.output else str(command.return_code)
            self.state = Completeness.NOT_COUNTED
            self.reason = f"Asked for all its records after number {after}, the terminal answered {why}."
        self._end(settled=True)

    async def resent_unanswered(self, connection: Connection) -> None:
        """It was asked and did not report; what it sent all the same is here."""
        assert self.round is not None
        self.state, self.unanswered = Completeness.NOT_COUNTED, self.unanswered + 1
        self.reason = f"Asked for all its records after number {self.round.after}, the terminal did not answer."
        if self.unanswered >= MOST_UNANSWERED:
            self.resent, self.unanswered = (self.round.through, self.round.generation), 0
        self._end(settled=True)
        await self._save(connection)

    async def _users(self, connection: Connection) -> int:
        found: int = await connection.fetchval(
            "SELECT count(*) FROM terminal_users WHERE tenant_id = $1 AND device_id = $2",
            self.tenant_id,
            self.device_id,
        )
        return found

    async def _take_window(self, connection: Connection, reported: int) -> None:
        now_round = self.round
        assert now_round is not None and now_round.start is not None and now_round.end is not None  # noqa: PT018
        window = Part(now_round.start, now_round.end)
        stored = await self._stored(connection, window)
        now_round.counts += 1
        self.window, self.counted = (now_round.start, now_round.end, reported, stored), True
        missing = reported - stored - self._known(window)
        shrinks = now_round.missing is None or missing < now_round.missing
        if missing > 0 and shrinks and now_round.waits < MOST_WAITS:
            # What is missing may be on its way: look again before anything is asked for twice.
            now_round.missing, now_round.waits, self.pause = missing, now_round.waits + 1, self._schedule.settle
            return
        self._weigh(window, reported, stored)
        if not now_round.todo:
            self._end()

    async def _take_part(self, connection: Connection, reported: int) -> None:
        assert self.round is not None
        self.round.counts += 1
        part = self.round.todo.pop()
        self._weigh(part, reported, await self._stored(connection, part))
        if part.whole_end is not None:
            rest = Part(part.end + _SECOND, part.whole_end)
            stored = await self._stored(connection, rest)
            if reported == part.whole and stored and part.start == self.round.start:
                self._ignores_periods()
                return
            if reported <= part.whole:
                # The halves make up the whole, so the second one needs no asking.
                self._weigh(rest, part.whole - reported, stored)
            else:
                self.round.todo.append(rest)
        self.round.cut |= bool(self.round.todo) and self.round.counts >= MOST_COUNTS
        if not self.round.todo or self.round.cut:
            self._end()

    def _weigh(self, part: Part, reported: int, stored: int) -> None:
        assert self.round is not None
        verdict = judge(part, reported, stored, self._known(part))
        if verdict is Verdict.AGREES:
            return
        if verdict is Verdict.HALVE:
            first, second = halves(part)
            self.round.todo.append(replace(first, whole_end=second.end, whole=reported))
            # What is known of a half stays known; what lies across is looked at anew.
            self._forget(lambda one: part.start <= one.start <= first.end < one.end <= part.end)
        elif verdict is Verdict.FILL and self.round.fills >= MOST_FILLS:
            self.round.cut = True
        elif verdict is Verdict.FILL:
            self.round.fills += 1
            self.round.todo.append(replace(part, fill=True, whole_end=None))
        else:
            self._forget(lambda one: part.start <= one.start <= one.end <= part.end)
            if reported != stored:
                sent = part.filled is not None and 0 < reported <= part.filled
                self.remainders.append(Remainder(part.start, part.end, reported - stored, sent))

    def _forget(self, those: Callable[[Remainder], bool]) -> None:
        self.remainders = [one for one in self.remainders if not those(one)]

    async def _cannot_count(self, connection: Connection, command: Ended) -> None:
        """Its total is all there is to go by: when it is above ours by more than before, the window is sent again."""
        now_round = self.round
        assert now_round is not None and now_round.start is not None and now_round.end is not None  # noqa: PT018
        if command.return_code in PASSING:
            self.tries, self.pause = self._tried, self._schedule.settle
            return
        self.state = Completeness.NOT_COUNTED
        why = f"{command.return_code}, {command.output}" if command.output else str(command.return_code)
        self.reason = f"Asked to count the punches of a period, the terminal answered {why}."
        if now_round.total is None:
            self._end(settled=True)
            return
        excess = now_round.total - await connection.fetchval(
            "SELECT count(*) FROM punches WHERE tenant_id = $1 AND device_id = $2", self.tenant_id, self.device_id
        )
        if now_round.todo or excess <= max(0, self.excess):
            self.excess = excess
            self._end(settled=True)
        elif now_round.waits == 0:
            now_round.waits, self.pause = 1, self._schedule.settle
        else:
            now_round.todo.append(Part(now_round.start, now_round.end, fill=True))

    def _ignores_periods(self) -> None:
        self.state, self.remainders = Completeness.NOT_COUNTED, []
        self.reason = "The terminal counts all its punches, whatever period it is asked for."
        self._end(settled=True)

    def _end(self, *, settled: bool = False) -> None:
        """The round is over; `settled` when its state is."""
        reached = self.round is not None and not self.round.todo and not self.round.cut
        self.round = None
        if not settled:
            lacking = any(one.missing > 0 and not one.sent for one in self.remainders)
            self.reconciled = reached and not lacking
            self.state = Completeness.COMPLETE if self.reconciled else Completeness.MISSING
        again, self.again = self.again, False
        self.pause = self._schedule.settle if again else self._schedule.every * random.uniform(0.9, 1.1)  # noqa: S311

    def _known(self, part: Part) -> int:
        return sum(one.missing for one in self.remainders if part.start <= one.start <= one.end <= part.end)

    async def _stored(self, connection: Connection, part: Part) -> int:
        found: int = await connection.fetchval(_STORED, self.tenant_id, self.device_id, part.start, part.end)
        return found

    async def _save(self, connection: Connection) -> None:
        if self.round is not None and (self.round.todo or self.round.missing) and self.state != "NOT_COUNTED":
            self.state = Completeness.CHECKING
        kept = sorted(self.remainders, key=lambda one: one.start)[-MOST_REMAINDERS:]
        await connection.execute(
            _SAVE,
            self.tenant_id,
            self.device_id,
            self.state,
            self.pause,
            self.round.dump() if self.round is not None else None,
            self.again,
            self.counted,
            *self.window,
            orjson.dumps([asdict(one) for one in kept]).decode(),
            self.excess,
            self.reason,
            self.reconciled,
            self.tries,
            self.users_differ,
            *self.resent,
            self.unanswered,
        )
