"""What a terminal holds and we do not: found by counting, asked for again in the smallest periods, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from app.database import Database
from app.domain import commands, ingest, placements, reconciliations, roster
from app.domain.commands import Recipient
from app.domain.devices import Device
from app.domain.ingest import KnownDevice
from app.domain.punches import DeviceSnapshot
from app.domain.reconciliations import Part, Remainder, Round, Schedule, Verdict, halves, judge
from app.domain.roster import Person
from protocol.adms.commands import read_results
from protocol.adms.requests import Upload
from tests.conftest import MakeTenant
from tests.database import dicts
from tests.factories import make_device

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SCHEDULE = Schedule(settle=timedelta())


def wall(text: str) -> datetime:
    return datetime.fromisoformat(text)


@dataclass
class Terminal:
    """A terminal by hand: what it holds, and how it answers. Its rounds are driven until nothing is due."""

    db: Database
    device: Device
    holds: list[str] = field(default_factory=list)  # lines of ATTLOG
    told: list[str] = field(default_factory=list)
    #: What it says instead of its count of a period.
    counts: Callable[[int], str] = "Return=0&AttlogSum={}".format
    sends: bool = True
    total: int | None = None
    #: PINs of its users, and of those that it shows when it is asked; None: it does not say.
    users: list[str] | None = None
    shows: list[str] | None = None
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    #: When its uploads arrive.
    at: datetime = NOON

    @property
    def recipient(self) -> Recipient:
        return Recipient(self.device.tenant_id, self.device.id, self.zone)

    async def upload(self, lines: Sequence[str], table: str = "ATTLOG") -> None:
        snapshot = DeviceSnapshot(self.device.id, self.device.serial_number, self.device.name, None)
        known = KnownDevice(self.device.tenant_id, snapshot, self.zone)
        body = "".join(line + "\n" for line in lines).encode()
        reading = ingest.read(known, Upload(self.device.serial_number, table, None, body), self.at)
        async with self.db.across("ingest", [self.device.tenant_id]) as connection:
            await ingest.accept(connection, [reading])

    async def poll(self, schedule: Schedule = SCHEDULE) -> tuple[str, str] | None:
        """The number and the text of what it is told."""
        async with self.db.across("ingest", [self.device.tenant_id]) as connection:
            if not await reconciliations.waits(connection, self.recipient):
                return None
            if not await commands.waits(connection, self.recipient):
                await placements.plan(connection, self.recipient)
                if not await commands.waits(connection, self.recipient):
                    await reconciliations.plan(connection, self.recipient, NOON, schedule)
            line = (await commands.hand_out(connection, self.recipient, NOON)).line
        if line is None:
            return None
        _, number, text = line.decode().split(":", 2)
        self.told.append(text)
        return number, text

    async def report(self, number: str, said: str, schedule: Schedule = SCHEDULE) -> None:
        async with self.db.across("ingest", [self.device.tenant_id]) as connection:
            results = read_results(f"ID={number}&CMD=X&{said}".encode())
            settled = await commands.settle(connection, self.recipient, results)
            await placements.follow(connection, self.recipient, settled.ended)
            await reconciliations.follow(connection, self.recipient, settled.ended, schedule)

    async def obey(self, number: str, text: str, schedule: Schedule = SCHEDULE) -> None:
        if text == "INFO":
            total = len(self.holds) if self.total is None else self.total
            users = "" if self.users is None else f"UserCount={len(self.users)}\n"
            await self.report(number, f"Return=0\n~TransactionCount={total}\n{users}", schedule)
            return
        if text.startswith("DATA QUERY USERINFO"):
            await self.upload([f"USER PIN={pin}\tName=Who" for pin in self.shows or self.users or ()], "OPERLOG")
            await self.report(number, "Return=0", schedule)
            return
        if text.startswith("ACCOUNT transaction MaxIndex="):
            after = int(text.partition("=")[2])
            asked = [line for line in self.holds if int(line.rpartition("=")[2]) > after]
            if self.sends:
                await self.upload(asked, "RTLOG")
            await self.report(number, "Return=0" if self.sends else "Return=-1002", schedule)
            return
        verb, _, period = text.partition(" ATTLOG ")
        times = dict(pair.split("=") for pair in period.split("\t"))
        asked = [line for line in self.holds if times["StartTime"] <= line.split("\t")[1] <= times["EndTime"]]
        if verb == "VERIFY SUM":
            await self.report(number, self.counts(len(asked)), schedule)
        else:
            if self.sends:
                await self.upload(asked)
            await self.report(number, f"Return={len(asked) if self.sends else 0}", schedule)

    async def round(self, schedule: Schedule = SCHEDULE) -> list[str]:
        """Begin one now, and answer until nothing is due; what it was told."""
        await self.begin()
        before = len(self.told)
        for _ in range(300):
            if (told := await self.poll(schedule)) is None:
                break
            await self.obey(*told, schedule)
        return self.told[before:]

    async def begin(self) -> None:
        async with self.db.across("ingest", [self.device.tenant_id]) as connection:
            await reconciliations.plan(connection, self.recipient, NOON, Schedule())
            await connection.execute("UPDATE reconciliations SET due_at = now() WHERE round IS NULL")

    async def row(self) -> dict[str, Any]:
        [row] = await dicts(
            self.db,
            self.device.tenant_id,
            "SELECT *, due_at - now() AS due_in FROM reconciliations",
        )
        return row

    async def state(self) -> str:
        state: str = (await self.row())["state"]
        return state

    async def stored(self) -> int:
        [row] = await dicts(self.db, self.device.tenant_id, "SELECT count(*) AS n FROM punches")
        n: int = row["n"]
        return n

    def fills(self) -> list[str]:
        return [text for text in self.told if text.startswith("DATA QUERY")]


@pytest.fixture
async def terminal(db: Database, make_tenant: MakeTenant) -> Terminal:
    return Terminal(db, await make_device(db, (await make_tenant()).tenant_id))


def lines(since: str, every: timedelta, count: int, pin: str = "7") -> list[str]:
    return [f"{pin}\t{wall(since) + n * every}\t0\t1\t0" for n in range(count)]


# ── decisions ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("span", "reported", "stored", "known", "verdict"),
    [
        (31 * DAY, 5000, 5000, 0, Verdict.AGREES),
        (31 * DAY, 5003, 5000, 3, Verdict.AGREES),
        (31 * DAY, 5000, 4999, 0, Verdict.HALVE),
        (31 * DAY, 4999, 5000, 0, Verdict.HALVE),
        (31 * DAY, 200, 199, 0, Verdict.FILL),
        (timedelta(hours=1), 900, 899, 0, Verdict.FILL),
        (31 * DAY, 5000, 0, 0, Verdict.FILL),
        (31 * DAY, 5001, 0, 0, Verdict.HALVE),
        (31 * DAY, 0, 5000, 0, Verdict.ACCEPT),
    ],
)
def test_what_follows_from_two_counts(
    span: timedelta, reported: int, stored: int, known: int, verdict: Verdict
) -> None:
    part = Part(wall("2026-06-01 00:00:00"), wall("2026-06-01 00:00:00") + span)

    assert judge(part, reported, stored, known) is verdict


def test_what_was_sent_again_is_not_asked_for_a_second_time() -> None:
    part = Part(wall("2026-06-01 00:00:00"), wall("2026-06-02 00:00:00"), filled=0)

    assert judge(part, 10, 9, 0) is Verdict.ACCEPT


def test_halves_touch_and_share_no_second() -> None:
    first, second = halves(Part(wall("2026-06-01 00:00:00"), wall("2026-06-01 00:00:05")))

    assert (first.start, first.end) == (wall("2026-06-01 00:00:00"), wall("2026-06-01 00:00:02"))
    assert (second.start, second.end) == (wall("2026-06-01 00:00:03"), wall("2026-06-01 00:00:05"))


def test_a_round_is_read_as_it_was_written() -> None:
    part = Part(
        NOON.replace(tzinfo=None), NOON.replace(tzinfo=None) + DAY, whole_end=wall("2026-07-05 00:00:00"), whole=9
    )
    written = Round(part.start, part.end, informed=True, missing=3, todo=[part, Part(part.start, part.end, filled=0)])

    assert Round.load(written.dump()) == written


# ── rounds ───────────────────────────────────────────────────────────────────────────────────────────


async def test_counts_that_agree_end_the_round_and_say_when(terminal: Terminal) -> None:
    terminal.holds = lines("2026-06-20 08:00:00", timedelta(hours=1), 30)
    await terminal.upload(terminal.holds)

    told = await terminal.round()

    assert told == ["INFO", "VERIFY SUM ATTLOG StartTime=2026-05-31 00:00:00\tEndTime=2026-07-01 11:59:00"]
    row = await terminal.row()
    assert (row["state"], row["reported"], row["stored"], row["round"]) == ("COMPLETE", 30, 30, None)
    assert row["reconciled_at"] is not None
    assert timedelta(hours=5) < row["due_in"] < timedelta(hours=7)


async def test_one_punch_among_thousands_is_found_in_an_hour_and_filled(terminal: Terminal) -> None:
    terminal.holds = lines("2026-06-01 00:00:00", timedelta(minutes=5), 8000)
    await terminal.upload([line for line in terminal.holds if line != terminal.holds[5000]])

    told = await terminal.round()

    assert await terminal.stored() == 8000
    assert await terminal.state() == "COMPLETE"
    [fill] = terminal.fills()
    start, end = (wall(pair.split("=")[1]) for pair in fill.removeprefix("DATA QUERY ATTLOG ").split("\t"))
    assert start <= wall(terminal.holds[5000].split("\t")[1]) <= end
    assert end - start < DAY  # 200 punches, and no more
    assert len(told) < 15


async def test_two_gaps_far_apart_are_filled_in_one_round_each_by_itself(terminal: Terminal) -> None:
    terminal.holds = lines("2026-06-01 00:00:00", timedelta(minutes=5), 8000)
    await terminal.upload(terminal.holds[10:7000] + terminal.holds[7010:])

    await terminal.round()

    assert await terminal.stored() == 8000
    assert await terminal.state() == "COMPLETE"
    assert len(terminal.fills()) == 2


async def test_a_terminal_of_which_nothing_is_here_is_asked_for_all_at_once(terminal: Terminal) -> None:
    terminal.holds = lines("2026-06-01 00:00:00", timedelta(minutes=9), 4000)

    await terminal.round()

    assert len(terminal.fills()) == 1
    assert await terminal.stored() == 4000
    assert await terminal.state() == "COMPLETE"


async def test_a_backlog_that_is_still_coming_is_waited_for_and_not_asked_for(terminal: Terminal) -> None:
    terminal.holds = lines("2026-06-01 00:00:00", timedelta(minutes=9), 300)
    await terminal.begin()
    for part in (0, 100, 200):
        number, text = await terminal.poll() or ("", "")
        await terminal.obey(number, text)
        await terminal.upload(terminal.holds[part : part + 100])
    rest = await terminal.round()

    assert rest == ["VERIFY SUM ATTLOG StartTime=2026-05-31 00:00:00\tEndTime=2026-07-01 11:59:00"]
    assert terminal.fills() == []
    assert await terminal.state() == "COMPLETE"


async def test_a_count_that_differs_is_left_alone_for_a_while(terminal: Terminal) -> None:
    terminal.holds = lines("2026-06-01 00:00:00", DAY, 3)
    patient = Schedule(settle=timedelta(minutes=1))
    told = await terminal.round(patient)

    assert [text.partition(" ")[0] for text in told] == ["INFO", "VERIFY"]
    row = await terminal.row()
    assert row["state"] == "CHECKING"
    assert timedelta(seconds=50) < row["due_in"] <= timedelta(minutes=1)


async def test_what_a_terminal_counts_and_does_not_send_is_said_and_asked_for_once(terminal: Terminal) -> None:
    terminal.holds = lines("2026-06-01 00:00:00", DAY, 3)
    terminal.sends = False

    await terminal.round()
    again = await terminal.round()

    row = await terminal.row()
    assert len(terminal.fills()) == 1
    assert [text.partition(" ")[0] for text in again] == ["INFO", "VERIFY"]
    assert (row["state"], row["reconciled_at"]) == ("MISSING", None)
    [remainder] = row["remainders"]
    assert (remainder["missing"], remainder["sent"]) == (3, False)


async def test_a_new_gap_beside_a_known_one_is_found_and_the_known_one_left_alone(terminal: Terminal) -> None:
    terminal.holds = lines("2026-06-01 00:00:00", timedelta(minutes=5), 8000)
    await terminal.upload(terminal.holds[:10] + terminal.holds[11:])
    terminal.sends = False
    await terminal.round()
    known = terminal.fills()

    # Another one is lost, long after, and now the terminal does send.
    terminal.sends = True
    terminal.holds += lines("2026-06-28 20:00:01", timedelta(seconds=1), 1, pin="8")
    await terminal.round()

    assert len(known) == 1
    assert len(terminal.fills()) == 2
    assert terminal.fills()[1] != known[0]
    assert await terminal.stored() == 8000
    assert await terminal.state() == "MISSING"


async def test_records_that_are_one_punch_here_are_no_loss(terminal: Terminal) -> None:
    # The same person, second and state, verified in two ways.
    terminal.holds = ["7\t2026-06-20 08:00:00\t0\t1\t0", "7\t2026-06-20 08:00:00\t0\t15\t0"]
    await terminal.upload(terminal.holds)

    await terminal.round()
    again = await terminal.round()

    assert await terminal.stored() == 1
    assert await terminal.state() == "COMPLETE"
    assert len(terminal.fills()) == 1
    assert [text.partition(" ")[0] for text in again] == ["INFO", "VERIFY"]


async def test_what_was_cleared_at_the_terminal_is_no_loss_and_hides_none(terminal: Terminal) -> None:
    old, new = (lines(since, timedelta(minutes=5), 3000) for since in ("2026-06-01 00:00:00", "2026-06-15 12:00:00"))
    await terminal.upload(old + new[:1500] + new[1501:])
    terminal.holds = new

    await terminal.round()
    again = await terminal.round()

    assert await terminal.stored() == 6000
    assert await terminal.state() == "COMPLETE"
    assert [text.partition(" ")[0] for text in again] == ["INFO", "VERIFY"]


async def test_a_round_has_a_bound_and_the_next_one_goes_on(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliations, "MOST_FILLS", 2)
    terminal.holds = lines("2026-06-01 00:00:00", timedelta(minutes=5), 8000)
    await terminal.upload([line for n, line in enumerate(terminal.holds) if n % 1000])

    await terminal.round()
    first = (len(terminal.fills()), await terminal.state())
    while await terminal.state() != "COMPLETE":
        await terminal.round()

    assert first == (2, "MISSING")
    assert len(terminal.fills()) == 8
    assert await terminal.stored() == 8000


async def test_counts_of_a_round_have_a_bound(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciliations, "MOST_COUNTS", 4)
    terminal.holds = lines("2026-06-01 00:00:00", timedelta(minutes=5), 8000)
    await terminal.upload(terminal.holds[1:])

    told = await terminal.round()

    assert len([text for text in told if text.startswith("VERIFY")]) == 4
    assert (await terminal.row())["round"] is None
    assert await terminal.state() == "MISSING"


# ── terminals that cannot ────────────────────────────────────────────────────────────────────────────


async def test_a_terminal_that_cannot_count_says_so_and_its_total_decides(terminal: Terminal) -> None:
    terminal.counts = lambda _: "Return=-1002"
    terminal.holds = lines("2026-06-01 00:00:00", DAY, 20)
    await terminal.upload(terminal.holds[1:])

    await terminal.round()
    again = await terminal.round()

    row = await terminal.row()
    assert (row["state"], row["excess"]) == ("NOT_COUNTED", 0)
    assert "-1002" in row["reason"]
    assert await terminal.stored() == 20
    assert len(terminal.fills()) == 1
    assert [text.partition(" ")[0] for text in again] == ["INFO", "VERIFY"]


async def test_a_total_that_stays_too_high_is_not_asked_for_again(terminal: Terminal) -> None:
    terminal.counts = lambda _: "Return=0"
    terminal.holds = lines("2026-06-01 00:00:00", DAY, 20)
    terminal.total = 90_000
    await terminal.upload(terminal.holds)

    await terminal.round()
    await terminal.round()

    assert len(terminal.fills()) == 1
    assert (await terminal.row())["excess"] == 89_980


async def test_a_terminal_that_counts_everything_whatever_it_is_asked_is_found_out(terminal: Terminal) -> None:
    terminal.holds = lines("2026-06-01 00:00:00", timedelta(hours=1), 600)
    await terminal.upload(terminal.holds)
    terminal.counts = lambda _: "Return=0&AttlogSum=900"

    await terminal.round()

    row = await terminal.row()
    assert (row["state"], terminal.fills()) == ("NOT_COUNTED", [])
    assert "whatever period" in row["reason"]


async def test_a_terminal_that_is_busy_is_asked_again_later(terminal: Terminal) -> None:
    answers = ["Return=-1005", "Return=0&AttlogSum=0"]
    terminal.counts = lambda _: answers.pop(0)

    told = await terminal.round()

    assert [text.partition(" ")[0] for text in told] == ["INFO", "VERIFY", "VERIFY"]
    assert await terminal.state() == "COMPLETE"


async def test_a_terminal_that_never_answers_is_given_up_for_this_round(terminal: Terminal) -> None:
    await terminal.begin()
    for _ in range(reconciliations.MOST_TRIES):
        assert await terminal.poll() is not None
        async with terminal.db.across("ingest", [terminal.device.tenant_id]) as connection:
            await connection.execute("UPDATE device_commands SET expires_at = now(), lease_until = now()")
            await commands.expire(connection, terminal.device.tenant_id, 10)

    assert await terminal.poll() is None
    row = await terminal.row()
    assert (row["state"], row["round"], row["tries"]) == ("NOT_COUNTED", None, 0)
    assert row["due_in"] > timedelta(hours=5)


async def test_a_unit_of_the_security_dialect_is_asked_for_its_totals_alone(
    db: Database, make_tenant: MakeTenant
) -> None:
    device = await make_device(db, (await make_tenant()).tenant_id, dialect="SECURITY")
    terminal = Terminal(db, device)

    assert await terminal.round() == ["INFO"]
    row = await terminal.row()
    assert row["state"] == "NOT_COUNTED"
    assert "security dialect" in row["reason"]


@pytest.fixture
async def unit(db: Database, make_tenant: MakeTenant) -> Terminal:
    """Of the security dialect, with a hundred events of the last hundred days; numbers 91 to 94 never came."""
    device = await make_device(db, (await make_tenant()).tenant_id, dialect="SECURITY")
    first = datetime.now(UTC).date() - timedelta(days=100)
    unit = Terminal(db, device)
    unit.holds = [
        f"time={first + timedelta(days=n)} 08:00:00\tpin=7\tevent=0\tinoutstatus=0\tindex={n}" for n in range(1, 101)
    ]
    await unit.upload([*unit.holds[:90], *unit.holds[94:]], "RTLOG")
    return unit


async def test_a_unit_of_the_security_dialect_sends_again_what_has_a_greater_number_than_the_window(
    unit: Terminal,
) -> None:
    info, account = await unit.round()

    assert info == "INFO"
    after = int(account.removeprefix("ACCOUNT transaction MaxIndex="))
    assert 67 <= after <= 70  # the last one before the 31 days of the window
    assert await unit.stored() == 100
    row = await unit.row()
    assert (row["state"], row["round"], row["resent_through"]) == ("COMPLETE", None, 100)
    assert row["reconciled_at"] is not None
    assert f"after number {after}" in row["reason"]
    assert row["due_in"] > timedelta(hours=5)


async def test_what_a_unit_has_sent_again_it_is_not_asked_for_a_second_time(unit: Terminal) -> None:
    await unit.round()
    assert await unit.round() == ["INFO", "ACCOUNT transaction MaxIndex=100"]


async def test_a_unit_whose_memory_began_anew_is_asked_from_its_first_number_on(unit: Terminal) -> None:
    await unit.round()
    async with unit.db.across("ingest", [unit.device.tenant_id]) as connection:
        await connection.execute("UPDATE devices SET generation = 2, generation_at = $1", NOON + timedelta(minutes=1))
    today = datetime.now(UTC).date()
    unit.holds = [f"time={today} 0{n}:30:00\tpin=7\tevent=0\tinoutstatus=0\tindex={n}" for n in range(1, 5)]

    # Nothing of the new memory is here: no number to begin at.
    assert await unit.round() == ["INFO"]
    assert await unit.state() == "NOT_COUNTED"
    unit.at = NOON + timedelta(minutes=2)
    await unit.upload(unit.holds[2:3], "RTLOG")

    assert await unit.round() == ["INFO", "ACCOUNT transaction MaxIndex=0"]
    assert await unit.stored() == 104


async def test_a_unit_that_refuses_to_send_again_says_so_and_is_asked_from_the_same_number_next_time(
    unit: Terminal,
) -> None:
    unit.sends = False
    told = await unit.round()

    row = await unit.row()
    assert (row["state"], row["round"], row["reconciled_at"]) == ("NOT_COUNTED", None, None)
    assert "answered -1002" in row["reason"]
    unit.sends = True
    assert await unit.round() == told
    assert await unit.state() == "COMPLETE"


async def test_a_unit_that_does_not_answer_is_asked_once_in_a_round_and_not_for_ever_from_the_same_number(
    unit: Terminal,
) -> None:
    told = []
    for _ in range(4):
        await unit.begin()
        await unit.obey(*(await unit.poll() or ("", "")))
        told.append((await unit.poll() or ("", ""))[1])
        async with unit.db.across("ingest", [unit.device.tenant_id]) as connection:
            # Neither the lease's end nor a new handshake hands it out a second time; then its time is over.
            await commands.greet(connection, unit.recipient)
            assert not await commands.waits(connection, unit.recipient)
            await connection.execute("UPDATE device_commands SET status = 'EXPIRED' WHERE status = 'SENT'")
        assert await unit.poll() is None
        row = await unit.row()
        assert (row["state"], row["round"]) == ("NOT_COUNTED", None)
        assert "did not answer" in row["reason"]

    assert told[0] == told[1] == told[2]
    assert told[3] == "ACCOUNT transaction MaxIndex=100"


async def test_users_that_the_terminal_has_and_we_do_not_know_are_asked_for(terminal: Terminal) -> None:
    terminal.users = ["7", "8", "0042"]

    first = await terminal.round()
    terminal.users = ["7", "8"]
    second = await terminal.round()
    third = await terminal.round()

    assert first[:2] == ["INFO", "DATA QUERY USERINFO"]
    assert second[:2] == ["INFO", "DATA QUERY USERINFO"]
    assert third[1].startswith("VERIFY")
    found = await dicts(terminal.db, terminal.device.tenant_id, "SELECT pin FROM terminal_users ORDER BY pin")
    assert [row["pin"] for row in found] == ["7", "8"]
    assert await terminal.state() == "COMPLETE"


async def test_users_that_are_counted_and_not_shown_are_not_asked_for_every_time(terminal: Terminal) -> None:
    terminal.users, terminal.shows = ["7", "8"], ["7"]

    await terminal.round()
    again = await terminal.round()

    assert [text.partition(" ")[0] for text in again] == ["INFO", "VERIFY"]


# ── when, and by whom ────────────────────────────────────────────────────────────────────────────────


async def test_a_device_that_was_never_looked_at_gets_its_turn_within_minutes(terminal: Terminal) -> None:
    assert await terminal.poll(Schedule(settle=timedelta(minutes=1))) is None

    row = await terminal.row()
    assert timedelta(seconds=50) < row["due_in"] <= timedelta(minutes=10)


async def test_twins_that_are_polled_at_once_ask_once(terminal: Terminal) -> None:
    await terminal.begin()

    told = [told for told in await asyncio.gather(*(terminal.poll() for _ in range(8))) if told]

    assert [text for _, text in told] == ["INFO"]
    [row] = await dicts(terminal.db, terminal.device.tenant_id, "SELECT count(*) AS n FROM device_commands")
    assert row["n"] == 1


async def test_a_report_that_comes_again_changes_nothing(terminal: Terminal) -> None:
    await terminal.begin()
    number, _ = await terminal.poll() or ("", "")
    await terminal.report(number, "Return=0\n~TransactionCount=0\n")
    before = await terminal.row()
    await terminal.report(number, "Return=0\n~TransactionCount=9\n")

    after = await terminal.row()
    assert {**before, "due_in": None} == {**after, "due_in": None}


async def test_what_people_want_goes_first(terminal: Terminal) -> None:
    await terminal.begin()
    tenant_id = terminal.device.tenant_id
    async with terminal.db.write(tenant_id) as session:
        await roster.upsert(session, tenant_id, Person("0042", {"name": "Amina"}, [terminal.device.id]))

    _, text = await terminal.poll() or ("", "")

    assert text.startswith("DATA UPDATE USERINFO PIN=0042")


async def hasten(terminal: Terminal) -> None:
    async with terminal.db.across("ingest", [terminal.device.tenant_id]) as connection:
        await reconciliations.hasten(connection, [(terminal.device.tenant_id, terminal.device.id)])


async def begun(terminal: Terminal, ago: timedelta) -> None:
    async with terminal.db.across("ingest", [terminal.device.tenant_id]) as connection:
        await connection.execute("UPDATE reconciliations SET begun_at = now() - $1::interval", ago)


async def test_an_outage_brings_the_next_round_forward_and_not_at_once(terminal: Terminal) -> None:
    await terminal.round()
    await begun(terminal, timedelta(hours=1))

    await hasten(terminal)

    due_in = (await terminal.row())["due_in"]
    assert timedelta(seconds=15) < due_in <= timedelta(seconds=60)


async def test_a_link_that_comes_and_goes_does_not_begin_rounds_without_end(terminal: Terminal) -> None:
    await terminal.round()
    await begun(terminal, timedelta())

    for _ in range(3):
        await hasten(terminal)

    assert timedelta(minutes=9) < (await terminal.row())["due_in"] <= reconciliations.APART


async def test_an_outage_in_the_middle_of_a_round_is_followed_by_another_round(terminal: Terminal) -> None:
    await terminal.begin()
    number, text = await terminal.poll() or ("", "")
    await hasten(terminal)
    await terminal.obey(number, text)
    rest = await terminal.round()

    assert [text.partition(" ")[0] for text in rest] == ["VERIFY", "INFO", "VERIFY"]


async def test_a_backfill_that_somebody_asked_for_is_followed_by_a_count(terminal: Terminal) -> None:
    await terminal.round()
    await begun(terminal, timedelta(hours=1))
    tenant_id = terminal.device.tenant_id
    async with terminal.db.write(tenant_id) as session:
        await commands.backfill(session, tenant_id, terminal.device.id, wall("2026-06-01T00:00:00"), wall("2026-06-02"))
    number, _ = await terminal.poll() or ("", "")
    await terminal.report(number, "Return=0")

    assert (await terminal.row())["due_in"] <= timedelta(seconds=60)


async def test_the_window_does_not_begin_in_the_middle_of_what_is_known_to_differ() -> None:
    known = Remainder(wall("2026-05-30 20:00:00"), wall("2026-06-01 03:00:00"), 4)

    start, end = reconciliations._window(NOON.replace(tzinfo=None), Schedule(), [known])

    assert (start, end) == (wall("2026-06-01 03:00:01"), wall("2026-07-01 11:59:00"))


async def test_another_tenants_device_is_not_looked_at(terminal: Terminal, make_tenant: MakeTenant) -> None:
    await terminal.round()
    other: UUID = (await make_tenant()).tenant_id

    async with terminal.db.read(other) as session:
        assert await reconciliations.by_devices(session, other, [terminal.device.id]) == {}
