"""One virtual terminal of the attendance dialect: it owns its records, and does what it is told."""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from urllib.parse import quote

from app.simulator.link import Answer, CutShort, Link, Unreachable
from app.simulator.memory import Memory, Written
from app.simulator.records import WALL_CLOCK, Options, Outcome, Quirk, Record, State, TerminalReport
from protocol.adms.records import OperLog, UserInfo
from protocol.adms.writers import write_tagged

_USER_KEYS = ("PIN", "Name", "Pri", "Passwd", "Card", "Grp", "TZ")  # of a user's line, in the order of firmware
_LANGUAGES = {"gb18030": 83, "windows-1256": 66}  # by what text is in; else English
_ENROLLED = 6  # the operation by which somebody registered a finger
BREATH = 0.005  # seconds: what a server gets between two polls or retries even if it asks for no pause at all


class Refused(Exception):
    """A whole answer, but not the one that lets the terminal go on."""


class Terminal:
    """One virtual device. `punch` any time, `run` until `stop`; it begins with what is in `memory`, as from flash.

    `speed` divides every wait that firmware does (ErrorDelay 30 s at speed 100 is 0.3 s); wall time is not scaled.
    `clock` gives Unix seconds; with `sets_clock` the server's Date header and TimeZone option move the wall clock.
    `quirks` are what its firmware does oddly, by the values of Quirk.
    """

    def __init__(
        self,
        serial: str,
        url: str,
        *,
        offset: timedelta = timedelta(0),
        clock: Callable[[], float] = time.time,
        sets_clock: bool = False,
        keep_alive: bool = False,
        speed: float = 1.0,
        timeout: float = 30.0,
        backlog_lines: int = 100,
        realtime_lines: int = 1,
        capacity: int = 100_000,
        tls: ssl.SSLContext | None = None,
        quirks: Collection[str] = (),
        memory: Memory | None = None,
    ) -> None:
        self.serial = serial
        self.quirks = frozenset(Quirk(quirk) for quirk in quirks)
        self.link = Link(url, keep_alive=keep_alive, timeout=timeout, tls=tls)
        self.offset = offset
        self.records: deque[Record] = deque()
        self.history: deque[tuple[Record, Outcome]] = deque(maxlen=4 * capacity)  # one entry per record and sending
        self.users: dict[str, dict[str, str]] = {}  # PIN -> the keys of DATA UPDATE USERINFO
        self.executed: deque[tuple[str, str, int]] = deque(maxlen=1_000)  # (command id, command, Return)
        self.options: Options | None = None
        self._clock = clock
        self._skew = 0.0
        self._sets_clock = sets_clock
        self._speed = speed
        self._backlog_lines, self._realtime_lines, self._capacity = backlog_lines, realtime_lines, capacity
        self._sn = quote(serial, safe="")

        self._queue: deque[Record] = deque()  # not acknowledged, oldest first
        self._taken: set[str] = set()
        self._catching_up = True  # send in large batches until the queue is empty once
        self._results: deque[str] = deque(maxlen=200)
        self._introduced = False  # the first poll after a handshake carries INFO
        self.most_users = 10_000
        self.finger_offered: Callable[[str, int], bool] = lambda _pin, _finger: False  # is somebody there to enrol?
        self.doors_opened = 0
        self.boots = 1
        self._checks = self._reboots = False  # due once the results are delivered
        self._next_poll = self._next_transfer = 0.0

        self._plugged, self._stopping = True, False
        self._disconnected = False  # the cable was out since the last handshake began
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._greeted = asyncio.Event()

        self._made = self._resent = self._lost = 0
        self._number = 0 if Quirk.ZERO_BASED in self.quirks else 1  # of the next record
        self._former: deque[Record] = deque(maxlen=capacity)  # acknowledged, and wiped by a factory reset since
        self._follows_date = True
        self._charset = next((q.value for q in (Quirk.GB18030, Quirk.WINDOWS_1256) if q in self.quirks), "utf-8")
        self._accepted = self._refused = self._unknown = self._unreachable = 0
        self._latencies: deque[float] = deque(maxlen=100_000)
        self._trouble: str | None = None
        self._memory = memory or Memory()
        self._remember()

    def _remember(self) -> None:
        """The power is back. What was not acknowledged may have been under way when it went."""
        self.users.update(self._memory.users())
        for kept in self._memory.records():
            record = self._record(kept)
            record.state = State.ACKNOWLEDGED if kept.acknowledged else State.UNKNOWN
            self.records.append(record)
            self._taken.add(record.key)
            self._number = kept.number + 1
        left = [record for record in self.records if record.state is not State.ACKNOWLEDGED]
        self._made = len(left)
        self._enqueue(left)

    # -- what people and cables do to it

    def wall_time(self) -> datetime:
        """What its display shows: whole seconds, no zone."""
        utc = datetime.fromtimestamp(self._clock() + self._skew, UTC)
        return (utc + self.offset).replace(tzinfo=None, microsecond=0)

    def has_punch(self, pin: str, at: datetime, state: int) -> bool:
        """Whether this very punch is in memory already; a second one would be the same punch to the server."""
        return f"{pin}\t{at:{WALL_CLOCK}}\t{state}" in self._taken

    def punch(
        self, pin: str, at: datetime | None = None, state: int = 0, verify: int = 1, work_code: str = "0"
    ) -> Record:
        """Someone checks in. The record is kept until the server says OK."""
        written = Written(self._number, pin, at or self.wall_time(), state, verify, work_code)
        self._memory.add(written)
        record = self._record(written)
        self._made += 1
        self._number += 1
        self.records.append(record)
        self._taken.add(record.key)
        if len(self.records) > self._capacity and self.records[0].state is State.ACKNOWLEDGED:
            oldest = self.records.popleft()
            self._taken.discard(oldest.key)
            self._memory.let_go(oldest.number)
        self._enqueue([record])
        return record

    def _record(self, of: Written) -> Record:
        key = f"{of.pin}\t{of.at:{WALL_CLOCK}}\t{of.state}"
        line = self._line(of.number, of.pin, of.at, of.state, of.verify, of.work_code)
        return Record(of.number, of.pin, of.at, key, line)

    def _line(self, _number: int, pin: str, at: datetime, state: int, verify: int, work_code: str) -> str:
        return f"{pin}\t{at:{WALL_CLOCK}}\t{state}\t{verify}\t{work_code}\t0\t0\t0\t0\t0\t"

    def put_off_clock(self, by: timedelta) -> None:
        """From now on its clock is off by this much and no Date header sets it right: only a command does."""
        self._skew, self._follows_date = by.total_seconds(), False

    def factory_reset(self) -> None:
        """Everything is gone: records, users, position; numbers start again. What was not acknowledged is lost."""
        self._former.extend(record for record in self.records if record.acknowledgements)
        self._lost += len(self._queue)
        self.records.clear()
        self._queue.clear()
        self.users.clear()
        self._memory.wipe()
        self._drained.set()
        self._number = 0 if Quirk.ZERO_BASED in self.quirks else 1
        self._disconnected = True
        self.boots += 1
        self._wake.set()

    def forget_position(self) -> None:
        """All records count as unsent again, as after a restored backup or a stamp of 0."""
        self._queue.clear()
        for record in self.records:
            if record.state is State.ACKNOWLEDGED:
                record.state = State.PENDING
        self._catching_up = True
        self._enqueue(self.records)

    def unplug(self) -> None:
        """Pull the network cable; a request under way is cut short."""
        self._plugged, self._disconnected = False, True
        self.link.abort()
        self._wake.set()

    def plug_in(self) -> None:
        """Put the cable back; it introduces itself again."""
        self._plugged = True
        self._wake.set()

    def stop(self) -> None:
        """Let `run` return after the request under way."""
        self._stopping = True
        self._wake.set()

    async def drained(self) -> None:
        """Wait until every record is acknowledged."""
        await self._drained.wait()

    async def greeted(self) -> None:
        """Wait until the server sent an option block for the first time."""
        await self._greeted.wait()

    def report(self, *, details: bool = True) -> TerminalReport:
        """The account so far; without `details` the long lists stay empty."""
        return TerminalReport(
            serial=self.serial,
            made=self._made,
            acknowledged=self._made - len(self._queue) - self._lost,
            unacknowledged=len(self._queue) + self._lost,
            resent=self._resent,
            requests=self._accepted + self._refused + self._unknown,
            accepted=self._accepted,
            refused=self._refused,
            unknown=self._unknown,
            unreachable=self._unreachable,
            last_trouble=self._trouble,
            acknowledged_lines=tuple(
                record.line for memory in (self._former, self.records) for record in memory if record.acknowledgements
            )
            if details
            else (),
            latencies=tuple(self._latencies) if details else (),
        )

    # -- what the firmware does

    async def run(self) -> None:
        """Be switched on until `stop`. Cancelling is pulling the power cord: a request under way counts as unknown."""
        try:
            while not self._stopping:
                if not self._plugged:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                if self._disconnected:
                    self._disconnected = False
                    self._forget_session()
                try:
                    await self._turn()
                except Refused:
                    self._catching_up = True
                    await self._pause(self._error_delay)
                except (CutShort, Unreachable):
                    self._forget_session()
                    await self._pause(self._error_delay)
        finally:
            self.link.abort()

    @property
    def _error_delay(self) -> float:
        return max((self.options or Options()).error_delay / self._speed, BREATH)

    def _forget_session(self) -> None:
        self.link.abort()
        self.options = None
        self._catching_up = True

    async def _turn(self) -> None:
        """One thing at a time: introduce itself, report results, poll, upload, rest."""
        if (options := self.options) is None:
            await self._shake_hands()
            return
        if self._results:
            await self._ask("POST", f"/iclock/devicecmd?SN={self._sn}", self._results[0].encode())
            self._results.popleft()
            self._next_poll = 0.0
            return
        if self._checks or self._reboots:
            if self._reboots:
                self.link.abort()
                self.boots += 1
            self._checks = self._reboots = False
            self.options = None
            self._catching_up = True
            return
        now = time.monotonic()
        if polls := now >= self._next_poll:
            await self._poll(options)
        if self._may_upload(now):
            await self._upload(options)
        elif not polls:
            await self._pause(self._next_poll - now, until_upload=True)

    async def _shake_hands(self) -> None:
        first_line = f"GET OPTION FROM: {self.serial}".encode()
        answer = await self._ask(
            "GET",
            f"/iclock/cdata?SN={self._sn}&options=all&pushver=2.4.1&DeviceType=att&PushOptionsFlag=1"
            f"&language={_LANGUAGES.get(self._charset, 69)}",
            expects=(first_line + b"\n", first_line + b"\r\n"),
        )
        options = Options.parse(answer.body)
        self._set_clock(answer)
        if options.zone is not None and self._sets_clock:
            self.offset = options.zone
        if not options.attendance:
            self._trouble = "the server asks for no attendance records (is the serial registered?)"
        if options.send_options:
            await self._ask("POST", f"/iclock/cdata?SN={self._sn}&table=options", self._describe(",").encode())
        self.options = options
        self._introduced, self._next_poll, self._next_transfer = False, 0.0, 0.0
        self._greeted.set()
        if Quirk.RESEND_ALL in self.quirks or (options.resend_all and Quirk.STAMP_IGNORED not in self.quirks):
            self.forget_position()

    async def _poll(self, options: Options) -> None:
        info = "" if self._introduced else f"&INFO={quote(self._counts(), safe=',.')}"
        answer = await self._ask("GET", f"/iclock/getrequest?SN={self._sn}{info}", expects=(b"OK", b"C:"))
        self._introduced = True
        self._next_poll = time.monotonic() + max(options.delay / self._speed, BREATH)
        self._set_clock(answer)
        for line in answer.body.decode(self._charset, "replace").splitlines():
            if match := re.fullmatch(r"C:([^:]*):(.*)", line):  # a line without the prefix is dropped silently
                await self._obey(match[1], match[2].strip())
                if self._reboots:
                    break  # and the rest of the batch is lost, as on the real thing

    def _may_upload(self, now: float) -> bool:
        options = self.options
        return (
            bool(self._queue)
            and options is not None
            and options.attendance
            and (options.realtime or now >= self._next_transfer)
        )

    async def _upload(self, options: Options) -> None:
        fresh = not self._catching_up and len(self._queue) <= self._backlog_lines
        lines = self._realtime_lines if fresh else self._backlog_lines
        await self._send(list(islice(self._queue, lines)))
        if not self._queue:
            self._catching_up = False
            self._next_transfer = time.monotonic() + options.transfer_interval / self._speed

    async def _send(self, batch: Sequence[Record]) -> None:
        """One ATTLOG upload. The records' states tell the outcome; failure raises."""
        body = self._body(record.line for record in batch)
        target = self._target(batch[-1])
        started = time.perf_counter()
        outcome = Outcome.UNKNOWN
        try:
            await self._ask("POST", target, body)
            outcome = Outcome.ACKNOWLEDGED
        except Refused:
            outcome = Outcome.REFUSED
            raise
        except Unreachable:
            batch = ()  # nothing left the terminal
            raise
        finally:
            if outcome is not Outcome.UNKNOWN:
                self._latencies.append(time.perf_counter() - started)
            self._settle(batch, outcome)

    def _target(self, newest: Record) -> str:
        stamp = 9999 if Quirk.STAMP_IGNORED in self.quirks else newest.number
        return f"/iclock/cdata?SN={self._sn}&table=ATTLOG&Stamp={stamp}"

    def _body(self, lines: Iterable[str]) -> bytes:
        end = "\r\n" if Quirk.CRLF in self.quirks else "\n"
        text = "".join(line + end for line in lines)
        if Quirk.NO_FINAL_NEWLINE in self.quirks:
            text = text.removesuffix(end)
        return text.encode(self._charset, "replace")

    def _settle(self, batch: Sequence[Record], outcome: Outcome) -> None:
        for record in batch:
            record.sends += 1
            self._resent += record.sends == 2
            if outcome is Outcome.ACKNOWLEDGED:
                record.acknowledgements += 1
                record.state = State.ACKNOWLEDGED
            elif outcome is Outcome.UNKNOWN and record.state is State.PENDING:
                record.state = State.UNKNOWN
            self.history.append((record, outcome))
        if outcome is Outcome.ACKNOWLEDGED:
            self._memory.acknowledge([record.number for record in batch])
        while self._queue and self._queue[0].state is State.ACKNOWLEDGED:
            self._queue.popleft()
        if not self._queue:
            self._drained.set()

    def _enqueue(self, records: Sequence[Record] | deque[Record]) -> None:
        self._queue.extend(records)
        if self._queue:
            self._drained.clear()
            self._wake.set()

    async def _ask(
        self, method: str, target: str, body: bytes = b"", *, expects: bytes | tuple[bytes, ...] = b"OK"
    ) -> Answer:
        """One request, counted. Only status 200 with a body that starts as expected is an answer to live with."""
        try:
            answer = await (self.link.get(target) if method == "GET" else self.link.post(target, body))
        except Unreachable as exc:
            self._unreachable += 1
            self._trouble = f"unreachable: {exc}"
            raise
        except (CutShort, asyncio.CancelledError) as exc:
            self._unknown += 1
            self._trouble = f"cut short: {exc}"
            raise
        if answer.status != 200 or not answer.body.startswith(expects):
            self._refused += 1
            self._trouble = f"refused: {answer}"
            raise Refused(self._trouble)
        self._accepted += 1
        return answer

    async def _pause(self, seconds: float, *, until_upload: bool = False) -> None:
        """Wait, but not past `stop` or a pulled cable, nor, on request, past the first record that may leave."""
        deadline = time.monotonic() + seconds
        while self._plugged and not self._stopping:
            now = time.monotonic()
            if now >= deadline or (until_upload and self._may_upload(now)):
                return
            # With Realtime=0 a waiting record becomes due by time alone.
            due = min(deadline, self._next_transfer) if until_upload and self._next_transfer > now else deadline
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(due - now):
                    await self._wake.wait()

    def _set_clock(self, answer: Answer) -> None:
        if not self._sets_clock or not self._follows_date or (date := answer.header("Date")) is None:
            return
        with suppress(ValueError):
            skew = parsedate_to_datetime(date).timestamp() - self._clock()
            # Date has whole seconds: correcting by less would only make the clock tremble.
            if abs(skew - self._skew) >= 2:
                self._skew = skew

    # -- commands

    async def _obey(self, command_id: str, command: str) -> None:
        verb = command.partition(" ")[0]
        returns, extra = await self._carry_out(verb, command)
        self._results.append(f"ID={command_id}&Return={returns}&CMD={verb}{extra}")
        self.executed.append((command_id, command, returns))

    async def _carry_out(self, verb: str, command: str) -> tuple[int, str]:  # noqa: PLR0911  a table
        """What becomes of a command, and what is said beside it."""
        match verb:
            case "INFO":
                return 0, "\n" + self._describe("\n") + "\n"
            case "CHECK":
                self._checks = True
            case "REBOOT":
                self._reboots = True
            case "LOG":
                self._next_transfer = 0.0
            case "AC_UNLOCK":
                self.doors_opened += 1
            case "SET" if command.startswith("SET OPTIONS DateTime="):
                return self._obey_clock(command.partition("=")[2]), ""
            case "VERIFY" if command.startswith("VERIFY SUM ATTLOG "):
                return self._count_period(command)
            case "ENROLL_FP" if pin := (asked := read_fields(command, words=1)).get("PIN"):
                return await self._enroll(pin, int(asked.get("FID", "0"))), ""
            case "DATA" if command.startswith("DATA QUERY ATTLOG"):
                return await self._send_period(command), ""
            case "DATA":
                return await self._change_users(command), ""
            case _:
                return -1002, ""
        return 0, ""

    async def _change_users(self, command: str) -> int:
        fields = read_fields(command)
        pin = fields.get("PIN")
        match command.split(" ", 3)[1:3]:
            case ["QUERY", "USERINFO"]:
                return await self._send_users(pin)
            case ["UPDATE", "USERINFO"] if pin:
                return self._keep_user(pin, fields)
            case ["DELETE", "USERINFO"] if pin:
                self._forget_user(pin)
                return 0
        return -1002

    def _obey_clock(self, told: str) -> int:
        """Set the wall clock, if it is one that can be set."""
        try:
            wall = datetime.fromisoformat(told)
        except ValueError:
            return -1
        if self._sets_clock:
            self._skew += (wall - self.wall_time()).total_seconds()
        return 0

    def _keep_user(self, pin: str, user: Mapping[str, str]) -> int:
        if pin not in self.users and len(self.users) >= self.most_users:
            return -1001
        self.users.setdefault(pin, {}).update(user)
        self._memory.keep_user(pin, self.users[pin])
        return 0

    def _forget_user(self, pin: str) -> None:
        self.users.pop(pin, None)
        self._memory.keep_user(pin, None)

    async def _send_users(self, pin: str | None) -> int:
        """Upload the record of one user, or everybody's; how many."""
        asked = [user for number, user in self.users.items() if pin in {None, number}]
        if not asked:
            return -1 if pin is not None else 0
        for start in range(0, len(asked), self._backlog_lines):
            lines = [
                write_tagged(UserInfo("USER", {key: user.get(key, "") for key in _USER_KEYS})).decode()
                for user in asked[start : start + self._backlog_lines]
            ]
            try:
                await self._ask("POST", f"/iclock/cdata?SN={self._sn}&table=OPERLOG&OpStamp=1", self._body(lines))
            except (Refused, CutShort, Unreachable):
                return -3
        return len(asked)

    async def _enroll(self, pin: str, finger: int) -> int:
        """Ask whoever stands there for a finger."""
        if pin not in self.users:
            return -10
        if not self.finger_offered(pin, finger):
            return 6
        await self.enrolled(pin, finger)
        return 0

    async def enrolled(self, pin: str, finger: int) -> None:
        """A finger was registered: the terminal notes it in its operation log, and sends that."""
        objects = (pin, str(finger), "1024", "0")
        line = write_tagged(OperLog(_ENROLLED, "0", self.wall_time(), objects, b"")).decode()
        await self._ask("POST", f"/iclock/cdata?SN={self._sn}&table=OPERLOG&OpStamp=1", self._body([line]))

    def _count_period(self, command: str) -> tuple[int, str]:
        """How many records a period has, as an attribute of the result."""
        try:
            start, end = (datetime.fromisoformat(read_fields(command)[key]) for key in ("StartTime", "EndTime"))
        except (KeyError, ValueError):
            return -1, ""
        counted = sum(start <= record.at <= end for record in self.records)
        return 0, f"&StartTime={start:{WALL_CLOCK}}&EndTime={end:{WALL_CLOCK}}&AttlogSum={counted}"

    async def _send_period(self, command: str) -> int:
        """Upload a period again, whatever was acknowledged; the number of records, or an error code."""
        try:
            times = [datetime.fromisoformat(read_fields(command)[key]) for key in ("StartTime", "EndTime")]
        except (KeyError, ValueError):
            return -1
        return await self._send_again([record for record in self.records if times[0] <= record.at <= times[1]])

    async def _send_again(self, asked: Sequence[Record]) -> int:
        """Upload these, whatever was acknowledged; how many, or an error code."""
        try:
            for start in range(0, len(asked), self._backlog_lines):
                await self._send(asked[start : start + self._backlog_lines])
        except (Refused, CutShort, Unreachable):
            return -3
        finally:
            self._queue = deque(record for record in self._queue if record.state is not State.ACKNOWLEDGED)
            if not self._queue:
                self._drained.set()
        return len(asked)

    def _describe(self, separator: str) -> str:
        return separator.join(
            (
                "~DeviceName=Virtual",
                f"~SerialNumber={self.serial}",
                "FWVersion=Ver 8.0.4.3-20200101",
                "PushVersion=Ver 2.4.1",
                f"UserCount={len(self.users)}",
                f"TransactionCount={len(self.records)}",
                "~MaxAttLogCount=10",
            )
        )

    def _counts(self) -> str:
        return f"Ver 8.0.4.3-20200101,{len(self.users)},0,{len(self.records)},192.0.2.10,10,7,15,0,111"


def read_fields(command: str, words: int = 3) -> dict[str, str]:
    """The tab-separated `Key=Value` pieces after the words in front, such as `DATA <VERB> <TABLE> `."""
    pieces = command.split(" ", words)[words:]
    return {key: value for key, _, value in (piece.partition("=") for piece in "".join(pieces).split("\t"))}
