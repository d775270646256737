"""Virtual terminals that speak either dialect over plain TCP and behave as firmware does, its oddities included.

A terminal owns its records. It uploads them oldest first and lets go of one only after a whole answer came back with
status 200 and a body that starts with `OK`; after anything else it sends the same records again. Of a request that was
cut short nobody knows whether the server stored it, so its records are marked *unknown*, never failed. That is all the
truth a test needs: what was acknowledged must be stored exactly once, what is unknown at most once.

Three layers, each usable alone: `Link` (one HTTP connection), `Terminal` or `AccessTerminal` (one device of either
dialect) and `simulate` (a fleet of them playing a scenario). Nothing of the server is imported here: the two sides
share only the protocol.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from itertools import islice
from typing import Any
from urllib.parse import quote, urlsplit

from protocol.adms import clock as adms_clock
from protocol.adms.errors import BadTime

ANSWER_LIMIT = 4 << 20  # bytes of one answer's body; commands are limited to 900 KB by the vendor
_USER_KEYS = ("PIN", "Name", "Pri", "Passwd", "Card", "Grp", "TZ")  # of a user's line, in the order of firmware
_LANGUAGES = {"gb18030": 83, "windows-1256": 66}  # by what text is in; else English
BREATH = 0.005  # seconds: what a server gets between two polls or retries even if it asks for no pause at all
WALL_CLOCK = "%Y-%m-%d %H:%M:%S"

# ---------------------------------------------------------------------------------------------------------------- link


class Unreachable(Exception):
    """No connection could be made: the server has seen nothing of this request."""


class CutShort(Exception):
    """The request left, and no whole answer came back: the server may or may not have acted on it."""


class Fault(StrEnum):
    """What a bad line does to one request."""

    DIAL = "dial"  # no connection
    REQUEST = "request"  # cut in the middle of the request
    ANSWER = "answer"  # the request arrives whole, its answer does not


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer. `head` is the raw status line and header lines, `body` is decoded from its framing."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of this name, whatever its case."""
        value = _header(self.head, name.lower().encode())
        return None if value is None else value.decode("latin-1")

    def __str__(self) -> str:
        first = self.body.split(b"\n", 1)[0][:60].decode("utf-8", "replace").strip()
        return f"{self.status} {first}".strip()


@dataclass(frozen=True, slots=True)
class Address:
    """Where a terminal was told to go: `http(s)://host[:port][/prefix]`. The prefix stays in front of `/iclock/`."""

    host: str
    port: int
    tls: bool
    prefix: str
    authority: str  # as it is written in the Host header

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises ValueError on anything but an http or https URL with a host."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is not a terminal's server address: expected http://host[:port][/prefix].")
        tls = parts.scheme == "https"
        return cls(
            host=parts.hostname,
            port=parts.port or (443 if tls else 80),
            tls=tls,
            prefix=parts.path.rstrip("/").removesuffix("/iclock"),
            authority=parts.netloc.rpartition("@")[2],
        )


class Link:
    """One device's HTTP connection, one request at a time. Closing (as old firmware does) or kept alive.

    A kept connection that the server closed between two requests is replaced before the next one leaves.
    """

    def __init__(
        self,
        url: str,
        *,
        keep_alive: bool = False,
        timeout: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = Address.parse(url)
        self.keep_alive = keep_alive
        self.timeout = timeout  # seconds for the dial, and again for the exchange
        self.fault: Callable[[], Fault | None] = lambda: None  # asked before each request
        self._tls = (tls or ssl.create_default_context()) if self.address.tls else None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        connection = "keep-alive" if keep_alive else "close"
        self._headers = (
            f" HTTP/1.1\r\nHost: {self.address.authority}\r\nUser-Agent: iClock Proxy/1.09\r\n"
            f"Connection: {connection}\r\nAccept: */*\r\n"
        ).encode()
        self._get = f"GET {self.address.prefix}".encode()
        self._post = f"POST {self.address.prefix}".encode()

    async def get(self, target: str) -> Answer:
        """GET `target` (`/iclock/...`). Raises Unreachable or CutShort."""
        return await self._exchange(b"%b%b%b\r\n" % (self._get, target.encode(), self._headers))

    async def post(self, target: str, body: bytes) -> Answer:
        """POST `body`, without a Content-Type, as the firmware does. Raises Unreachable or CutShort."""
        return await self._exchange(
            b"%b%b%bContent-Length: %d\r\n\r\n%b" % (self._post, target.encode(), self._headers, len(body), body)
        )

    def abort(self) -> None:
        """Drop the connection at once, unsent bytes included."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _exchange(self, request: bytes) -> Answer:
        fault = self.fault()
        if fault is Fault.DIAL:
            self.abort()
            raise Unreachable("the line is down")
        streams = self._streams
        if streams is None or streams[0].at_eof() or streams[1].is_closing():
            self.abort()
            streams = await self._dial()
        reader, writer = streams
        kept = False
        try:
            async with asyncio.timeout(self.timeout):
                if fault is Fault.REQUEST:
                    writer.write(request[: len(request) // 2])
                    await writer.drain()
                    raise EOFError("cut in the middle of the request")
                writer.write(request)
                if len(request) > 65_536:
                    await writer.drain()
                answer, reusable = await _read_answer(reader)
                if fault is Fault.ANSWER:
                    raise EOFError("the answer was lost")
                kept = self.keep_alive and reusable
        except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as exc:
            raise CutShort(f"{type(exc).__name__}: {exc}".removesuffix(": ")) from exc
        finally:
            if not kept:
                self.abort()
        return answer

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(self.timeout):
                self._streams = await asyncio.open_connection(self.address.host, self.address.port, ssl=self._tls)
        except OSError as exc:
            raise Unreachable(f"{type(exc).__name__}: {exc}".removesuffix(": ")) from exc
        return self._streams


async def _read_answer(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    """The next whole answer, and whether the connection may carry another request afterwards."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1."):
            raise ValueError("not an HTTP answer")
        status = int(head[9:12])
        if status >= 200:  # 1xx only announces the real one
            break
    reusable = head.startswith(b"HTTP/1.1") and (_header(head, b"connection") or b"").lower() != b"close"
    if (_header(head, b"transfer-encoding") or b"").lower() == b"chunked":
        return Answer(status, head, await _read_chunks(reader)), reusable
    if (length := _header(head, b"content-length")) is not None:
        return Answer(status, head, await reader.readexactly(_bounded(int(length)))), reusable
    if status in {204, 304}:
        return Answer(status, head, b""), reusable
    body = bytearray()
    while piece := await reader.read(65_536):
        body += piece
        _bounded(len(body))
    return Answer(status, head, bytes(body)), False


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";", 1)[0], 16):
        body += await reader.readexactly(_bounded(len(body) + size) - len(body))
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers
    return bytes(body)


def _bounded(size: int) -> int:
    if not 0 <= size <= ANSWER_LIMIT:
        raise ValueError(f"an answer of {size} bytes")
    return size


def _header(head: bytes, name: bytes) -> bytes | None:
    lower = head.lower()
    start = lower.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    return head[start : head.index(b"\r\n", start)].strip()


# ------------------------------------------------------------------------------------------------------------ terminal


class State(StrEnum):
    """Where a record stands, in the terminal's eyes."""

    PENDING = "pending"  # never sent, or every time refused with a whole answer
    UNKNOWN = "unknown"  # sent at least once without hearing the end of the answer
    ACKNOWLEDGED = "acknowledged"


class Outcome(StrEnum):
    """How one sending of a record ended."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Quirk(StrEnum):
    """Oddities of firmware that is in use."""

    NO_FINAL_NEWLINE = "no-final-newline"
    CRLF = "crlf"
    ZERO_BASED = "zero-based"  # its first record has the number 0
    STAMP_IGNORED = "stamp-ignored"  # it sends 9999 whatever it sends, and does not care what it is told
    GB18030 = "gb18030"  # names, in both directions
    WINDOWS_1256 = "windows-1256"
    RESEND_ALL = "resend-all"  # everything it holds, after each handshake


@dataclass(slots=True, eq=False)
class Record:
    """One punch in the terminal's memory. `line` is exactly what goes over the wire, without the line end."""

    number: int  # 1, 2, 3, … within its terminal's memory
    pin: str
    at: datetime  # wall time, no zone
    key: str  # what tells it from others, but for its number
    line: str
    state: State = State.PENDING
    sends: int = 0
    acknowledgements: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """What the server's option block asked for. Times in seconds."""

    error_delay: float = 30.0
    delay: float = 10.0
    realtime: bool = True
    transfer_interval: float = 60.0
    attendance: bool = True  # TransFlag names AttLog, TransTables the transactions
    send_options: bool = False
    resend_all: bool = False  # ATTLOGStamp=0; any other stamp is opaque
    zone: timedelta | None = None

    @classmethod
    def parse(cls, body: bytes) -> Options:
        """Read the lines below `GET OPTION FROM:`. Unknown keys and unreadable values are ignored."""
        lines = (line.partition("=") for line in body.decode("utf-8", "replace").splitlines()[1:])
        values = {key.strip(): value.strip() for key, sign, value in lines if sign}
        flag = values.get("TransFlag", values.get("TransTables", "1"))
        return cls(
            error_delay=_number(values.get("ErrorDelay"), 30.0),
            delay=_number(values.get("Delay", values.get("RequestDelay")), 10.0),
            realtime=values.get("Realtime", "1") == "1",
            transfer_interval=60 * _number(values.get("TransInterval"), 1.0),
            attendance="attlog" in flag.lower() or "transaction" in flag.lower() or flag.startswith("1"),
            send_options=values.get("PushOptionsFlag") == "1",
            resend_all=values.get("ATTLOGStamp", values.get("Stamp")) == "0",
            zone=_zone(values.get("TimeZone", "")),
        )


def _number(text: str | None, default: float) -> float:
    try:
        number = float(text or "")
    except ValueError:
        return default
    return number if 0 <= number < math.inf else default


def _zone(text: str) -> timedelta | None:
    """`8` and `-5` are hours, `330` and `-210` minutes, `-03:30` is both; None for anything else."""
    if match := re.fullmatch(r"([+-]?)(\d{1,2}):(\d{2})", text):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return -offset if match[1] == "-" else offset
    if re.fullmatch(r"[+-]?\d{1,3}", text):
        return timedelta(hours=int(text)) if abs(int(text)) <= 14 else timedelta(minutes=int(text))
    return None


@dataclass(frozen=True, slots=True)
class TerminalReport:
    """One terminal's account. `requests == accepted + refused + unknown`; `made == acknowledged + unacknowledged`."""

    serial: str
    made: int  # records
    acknowledged: int  # records
    unacknowledged: int  # records
    resent: int  # records that were sent more than once
    requests: int  # of any kind, that left the terminal
    accepted: int  # requests
    refused: int  # requests with a whole answer that was not the expected one
    unknown: int  # requests cut short
    unreachable: int  # dials that failed: no request left
    last_trouble: str | None
    acknowledged_lines: tuple[str, ...] = ()  # every line ever acknowledged, oldest first
    latencies: tuple[float, ...] = ()  # seconds per answered upload


class _Refused(Exception):
    """A whole answer, but not the one that lets the terminal go on."""


class Terminal:
    """One virtual device. `punch` any time, `run` until `stop`; all state stays in the object, as in flash memory.

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
        at = at or self.wall_time()
        key = f"{pin}\t{at:{WALL_CLOCK}}\t{state}"
        self._made += 1
        record = Record(self._number, pin, at, key, self._line(self._number, pin, at, state, verify, work_code))
        self._number += 1
        self.records.append(record)
        self._taken.add(key)
        if len(self.records) > self._capacity and self.records[0].state is State.ACKNOWLEDGED:
            self._taken.discard(self.records.popleft().key)
        self._enqueue([record])
        return record

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
                except _Refused:
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
        except _Refused:
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
            raise _Refused(self._trouble)
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
            case "ENROLL_FP" if pin := (asked := _fields(command, words=1)).get("PIN"):
                return await self._enroll(pin, int(asked.get("FID", "0"))), ""
            case "DATA" if command.startswith("DATA QUERY ATTLOG"):
                return await self._send_period(command), ""
            case "DATA":
                return await self._change_users(command), ""
            case _:
                return -1002, ""
        return 0, ""

    async def _change_users(self, command: str) -> int:
        fields = _fields(command)
        pin = fields.get("PIN")
        match command.split(" ", 3)[1:3]:
            case ["QUERY", "USERINFO"]:
                return await self._send_users(pin)
            case ["UPDATE", "USERINFO"] if pin:
                return self._keep_user(pin, fields)
            case ["DELETE", "USERINFO"] if pin:
                self.users.pop(pin, None)
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
        return 0

    async def _send_users(self, pin: str | None) -> int:
        """Upload the record of one user, or everybody's; how many."""
        asked = [user for number, user in self.users.items() if pin in {None, number}]
        if not asked:
            return -1 if pin is not None else 0
        for start in range(0, len(asked), self._backlog_lines):
            lines = [
                "USER " + "\t".join(f"{key}={user.get(key, '')}" for key in _USER_KEYS)
                for user in asked[start : start + self._backlog_lines]
            ]
            try:
                await self._ask("POST", f"/iclock/cdata?SN={self._sn}&table=OPERLOG&OpStamp=1", self._body(lines))
            except (_Refused, CutShort, Unreachable):
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
        line = f"OPLOG 6\t0\t{self.wall_time():{WALL_CLOCK}}\t{pin}\t{finger}\t1024\t0"
        await self._ask("POST", f"/iclock/cdata?SN={self._sn}&table=OPERLOG&OpStamp=1", self._body([line]))

    def _count_period(self, command: str) -> tuple[int, str]:
        """How many records a period has, as an attribute of the result."""
        try:
            start, end = (datetime.fromisoformat(_fields(command)[key]) for key in ("StartTime", "EndTime"))
        except (KeyError, ValueError):
            return -1, ""
        counted = sum(start <= record.at <= end for record in self.records)
        return 0, f"&StartTime={start:{WALL_CLOCK}}&EndTime={end:{WALL_CLOCK}}&AttlogSum={counted}"

    async def _send_period(self, command: str) -> int:
        """Upload a period again, whatever was acknowledged; the number of records, or an error code."""
        try:
            times = [datetime.fromisoformat(_fields(command)[key]) for key in ("StartTime", "EndTime")]
        except (KeyError, ValueError):
            return -1
        asked = [record for record in self.records if times[0] <= record.at <= times[1]]
        try:
            for start in range(0, len(asked), self._backlog_lines):
                await self._send(asked[start : start + self._backlog_lines])
        except (_Refused, CutShort, Unreachable):
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


def _fields(command: str, words: int = 3) -> dict[str, str]:
    """The tab-separated `Key=Value` pieces after the words in front, such as `DATA <VERB> <TABLE> `."""
    pieces = command.split(" ", words)[words:]
    return {key: value for key, _, value in (piece.partition("=") for piece in "".join(pieces).split("\t"))}


class AccessTerminal(Terminal):
    """A unit of the security dialect: it registers, sends its punches as events, and tells of its state.

    Of options it knows but what follows from them; events of doors come beside the punches of people.
    """

    def _line(self, number: int, pin: str, at: datetime, state: int, verify: int, _work_code: str) -> str:
        return (
            f"time={at:{WALL_CLOCK}}\tpin={pin}\tcardno=0\teventaddr=1\tevent=0\tinoutstatus={int(state in (1, 2, 5))}"
            f"\tverifytype={verify}\tindex={number}"
        )

    def _target(self, _newest: Record) -> str:
        return f"/iclock/cdata?SN={self._sn}&table=rtlog"

    async def _shake_hands(self) -> None:
        hello = f"/iclock/cdata?SN={self._sn}&pushver=3.1.2&options=all&DeviceType=acc"
        answer = await self._ask("GET", hello, expects=(b"OK", b"registry=ok"))
        if not answer.body.startswith(b"registry=ok"):
            introduction = self._describe(",").replace("PushVersion=Ver 2.4.1", "DeviceType=acc,PushVersion=Ver 3.1.2")
            await self._ask("POST", f"/iclock/registry?SN={self._sn}", introduction.encode(), expects=b"RegistryCode=")
            answer = await self._ask("POST", f"/iclock/push?SN={self._sn}", expects=b"ServerVersion=")
        options = Options.parse(b"\n" + answer.body)
        time_answer = await self._ask("GET", f"/iclock/rtdata?SN={self._sn}&type=time", expects=b"DateTime=")
        self._take_time(time_answer.body.decode())
        self.options = options
        self._introduced, self._next_poll, self._next_transfer = False, 0.0, 0.0
        self._greeted.set()
        if Quirk.RESEND_ALL in self.quirks:
            self.forget_position()

    def _take_time(self, text: str) -> None:
        told = {key: value for key, _, value in (part.partition("=") for part in text.split(","))}
        offset = _zone(told.get("ServerTZ", "")[:3] + ":" + told.get("ServerTZ", "")[3:])
        with suppress(ValueError, BadTime):
            utc = adms_clock.decode(int(told["DateTime"])).replace(tzinfo=UTC)
            if self._sets_clock and self._follows_date:
                self._skew = utc.timestamp() - self._clock()
        if offset is not None and self._sets_clock:
            self.offset = offset

    async def _poll(self, options: Options) -> None:
        state = f"time={self.wall_time():{WALL_CLOCK}}\tsensor=00\trelay=00\talarm=0000000000000000"
        await self._ask("POST", f"/iclock/cdata?SN={self._sn}&table=rtstate", self._body([state]))
        await super()._poll(options)

    def _set_clock(self, answer: Answer) -> None:
        """It asks for the time instead."""

    async def _carry_out(self, verb: str, command: str) -> tuple[int, str]:  # noqa: PLR0911  a table
        match command.split(" ", 2):
            case ["CONTROL", "DEVICE", "03000000"]:
                self._reboots = True
            case ["CONTROL", "DEVICE", what] if what.startswith("01"):
                self.doors_opened += 1
            case ["SET", "OPTIONS", told] if told.startswith("DateTime="):
                try:
                    return self._obey_clock(str(adms_clock.decode(int(told.partition("=")[2])))), ""
                except (ValueError, BadTime):
                    return -1, ""
            case ["DATA", "QUERY", _]:
                return -1, ""  # reported with its rows: see _obey
            case ["DATA", "UPDATE", user] if user.startswith("user "):
                fields = {key.lower(): value for key, value in _fields(command).items()}
                ours = {"pin": "PIN", "name": "Name", "cardno": "Card", "privilege": "Pri"}
                known = {ours[key]: value for key, value in fields.items() if key in ours}
                return self._keep_user(known.get("PIN", ""), known), ""
            case ["DATA", "DELETE", user] if user.startswith("user "):
                self.users.pop(_fields(command).get("Pin", ""), None)
            case ["DATA", *_] | ["REBOOT"] | ["AC_UNLOCK"] | ["ENROLL_FP", *_] | ["VERIFY", *_]:
                return -1004, ""  # the other dialect's words
            case _:
                return await super()._carry_out(verb, command)
        return 0, ""

    async def _obey(self, command_id: str, command: str) -> None:
        if not command.startswith("DATA QUERY tablename=user"):
            await super()._obey(command_id, command)
            return
        asked = re.search(r"filter=Pin=(\w+)", command)
        found = [user for pin, user in self.users.items() if asked is None or pin == asked[1]]
        rows = [
            f"user uid={n}\tcardno={user.get('Card', '')}\tpin={user['PIN']}\tpassword=\tname={user.get('Name', '')}"
            f"\tprivilege={user.get('Pri', '0')}"
            for n, user in enumerate(found, 1)
        ]
        query = f"type=tabledata&cmdid={command_id}&tablename=user&count={len(rows)}&packcnt=1&packidx=1"
        await self._ask("POST", f"/iclock/querydata?SN={self._sn}&{query}", self._body(rows), expects=b"user=")
        self.executed.append((command_id, command, len(rows)))


# --------------------------------------------------------------------------------------------------------------- fleet


@dataclass(frozen=True, slots=True)
class Report:
    """What a fleet did. Records: `made == acknowledged + unacknowledged`. Requests: accepted, refused or unknown."""

    scenario: str
    seconds: float
    terminals: tuple[TerminalReport, ...]

    def _sum(self, name: str) -> int:
        return sum(getattr(terminal, name) for terminal in self.terminals)

    @property
    def devices(self) -> int:
        return len(self.terminals)

    @property
    def made(self) -> int:
        return self._sum("made")

    @property
    def acknowledged(self) -> int:
        return self._sum("acknowledged")

    @property
    def unacknowledged(self) -> int:
        return self._sum("unacknowledged")

    @property
    def resent(self) -> int:
        return self._sum("resent")

    @property
    def requests(self) -> int:
        return self._sum("requests")

    @property
    def accepted(self) -> int:
        return self._sum("accepted")

    @property
    def refused(self) -> int:
        return self._sum("refused")

    @property
    def unknown(self) -> int:
        return self._sum("unknown")

    @property
    def unreachable(self) -> int:
        return self._sum("unreachable")

    @property
    def last_trouble(self) -> str | None:
        """One terminal's last failure, for the sentence that explains what is left; None when there was none."""
        return next((t.last_trouble for t in self.terminals if t.last_trouble is not None), None)

    def as_dict(self) -> dict[str, str | int | float]:
        """The report without its lists, ready for JSON."""
        return {
            "scenario": self.scenario,
            "devices": self.devices,
            "made": self.made,
            "acknowledged": self.acknowledged,
            "resent": self.resent,
            "refused": self.refused,
            "unknown": self.unknown,
            "unacknowledged": self.unacknowledged,
            "unreachable": self.unreachable,
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
        }


@dataclass(slots=True)
class Fleet:
    """Terminals that are switched on, the people who use them, and the plan: `rate` x `duration` punches in all."""

    terminals: Sequence[Terminal]
    pins: Sequence[str]
    rate: float  # punches per second over all terminals
    duration: float  # seconds
    drain: float  # seconds to wait for the last acknowledgement
    rng: random.Random
    stop: asyncio.Event

    @property
    def planned(self) -> int:
        return round(self.rate * self.duration)

    def punch(self, terminal: Terminal | None = None, at: datetime | None = None, state: int | None = None) -> Record:
        """Somebody punches somewhere; never the same person, second and state twice, as that is one punch only."""
        terminal = terminal or self.rng.choice(self.terminals)
        at = at or terminal.wall_time()
        state = _state_at(at) if state is None else state
        while terminal.has_punch(pin := self.rng.choice(self.pins), at, state):
            at += timedelta(seconds=1)
        verify = self.rng.choices((15, 1, 4), (6, 3, 1))[0]  # face, fingerprint, card
        return terminal.punch(pin, at, state, verify)

    async def play(self, offsets: Iterator[float], state: int | None = None) -> None:
        """Punch at each of `offsets`, seconds from now in rising order, until they or the patience end."""
        start = time.monotonic()
        for offset in offsets:
            if self.stop.is_set():
                return
            await self._rest(start + offset - time.monotonic())
            if not self.stop.is_set():
                self.punch(state=state)

    async def settle(self) -> bool:
        """Whether every record was acknowledged within the drain time. A stop ends the wait."""
        return await self._all(Terminal.drained)

    async def greeted(self) -> bool:
        """Whether every terminal got its options within the drain time. A stop ends the wait."""
        return await self._all(Terminal.greeted)

    async def _all(self, reached: Callable[[Terminal], Awaitable[None]]) -> bool:
        async def everyone() -> None:
            for terminal in self.terminals:
                await reached(terminal)

        waits = asyncio.create_task(everyone()), asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait(waits, timeout=self.drain, return_when=asyncio.FIRST_COMPLETED)
            return waits[0].done()
        finally:
            for wait in waits:
                wait.cancel()

    async def _rest(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)  # behind the plan: let the terminals work all the same
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stop.wait()


def _state_at(at: datetime) -> int:
    """Check in until eleven, break out until half past twelve, break in until three, then check out."""
    minute = at.hour * 60 + at.minute
    return 0 if minute < 660 else 2 if minute < 750 else 3 if minute < 900 else 1


async def steady(fleet: Fleet) -> None:
    """Punches all the time at the rate, a little uneven as people are."""
    count = 0

    def offsets() -> Iterator[float]:
        nonlocal count
        while math.isinf(fleet.duration) or count < fleet.planned:
            yield (count + fleet.rng.random()) / fleet.rate
            count += 1

    await fleet.play(offsets())


async def rush(fleet: Fleet) -> None:
    """Shift start: nine in ten come within the middle tenth or so of the time, all of them checking in."""
    middle, width = fleet.duration / 2, fleet.duration / 30
    times = [
        min(max(fleet.rng.gauss(middle, width), 0.0), fleet.duration)
        if fleet.rng.random() < 0.9
        else fleet.rng.uniform(0.0, fleet.duration)
        for _ in range(fleet.planned)
    ]
    await fleet.play(iter(sorted(times)), state=0)


async def outage(fleet: Fleet) -> None:
    """Three days without network: the whole plan piles up in the terminals, with the past days' times, and then goes
    out in large uploads at the first contact."""
    await fleet.greeted()  # the clock and the zone come from the server
    for terminal in fleet.terminals:
        terminal.unplug()
    punches = []
    for _ in range(fleet.planned):
        terminal = fleet.rng.choice(fleet.terminals)
        now = terminal.wall_time()
        hour, state = fleet.rng.choice(((8, 0), (12, 2), (13, 3), (17, 1)))
        at = now.replace(hour=0, minute=0, second=0) - timedelta(days=fleet.rng.randrange(3))
        at += timedelta(hours=hour, seconds=round(fleet.rng.gauss(0, 900)))
        punches.append((at if at < now else at - timedelta(days=1), state, terminal))
    for at, state, terminal in sorted(punches, key=lambda punch: punch[0]):
        fleet.punch(terminal, at, state)
    for terminal in fleet.terminals:
        terminal.plug_in()


async def resend_all(fleet: Fleet) -> None:
    """A steady day; once everything is acknowledged, every terminal forgets its position and sends it all again."""
    await steady(fleet)
    if await fleet.settle():
        for terminal in fleet.terminals:
            terminal.forget_position()


async def clock_drift(fleet: Fleet) -> None:
    """Clocks that are off, by a quarter of an hour and more, every other one behind. No Date header sets them right: a
    command does."""
    await fleet.greeted()
    for place, terminal in enumerate(fleet.terminals):
        minutes = 15 * (place // 2 + 1)
        terminal.put_off_clock(timedelta(minutes=minutes if place % 2 == 0 else -minutes))
    await steady(fleet)


async def factory_reset(fleet: Fleet) -> None:
    """Half of the plan; once it is acknowledged, every terminal is reset and counts from the start; then the rest."""
    whole = fleet.duration
    fleet.duration = whole / 2
    await steady(fleet)
    if await fleet.settle():
        for terminal in fleet.terminals:
            terminal.factory_reset()
    fleet.duration = whole - whole / 2
    await steady(fleet)


async def flaky_link(fleet: Fleet) -> None:
    """A line that drops one request in three, before it left, in the middle, or its answer. In the end it holds."""

    def fault() -> Fault | None:
        return fleet.rng.choice(list(Fault)) if fleet.rng.random() < 1 / 3 else None

    for terminal in fleet.terminals:
        terminal.link.fault = fault
    await steady(fleet)
    for terminal in fleet.terminals:
        terminal.link.fault = lambda: None


SCENARIOS: Mapping[str, Callable[[Fleet], Awaitable[None]]] = {
    "steady": steady,
    "rush": rush,
    "outage": outage,
    "resend-all": resend_all,
    "clock-drift": clock_drift,
    "factory-reset": factory_reset,
    "flaky-link": flaky_link,
}
#: Which kinds of terminals a fleet has; of `both`, every other one.
DIALECTS: Mapping[str, Sequence[type[Terminal]]] = {
    "attendance": (Terminal,),
    "security": (AccessTerminal,),
    "both": (Terminal, AccessTerminal),
}


class UnknownScenario(ValueError):
    """No scenario has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no scenario {name!r}. Known: {', '.join(SCENARIOS)}.")
        self.name = name


def serial_numbers(devices: int) -> list[str]:
    """The serials that virtual terminals have unless told otherwise: VIRT000001, VIRT000002, …"""
    return [f"VIRT{number:06d}" for number in range(1, devices + 1)]


async def simulate(
    url: str,
    *,
    devices: int = 3,
    rate: float = 1.0,
    duration: float = 60.0,
    scenario: str = "steady",
    serials: Sequence[str] | None = None,
    seed: int | None = None,
    stop: asyncio.Event | None = None,
    progress: Callable[[Report], None] | None = None,
    employees: int = 200,
    drain: float = 120.0,
    speed: float = 1.0,
    keep_alive: bool = False,
    dialect: str = "attendance",
    **terminal: Any,
) -> Report:
    """Play `scenario` with `devices` terminals against `url` and account for every record.

    `rate` punches a second over all terminals for `duration` seconds (`steady` may go on for ever: `math.inf`), by
    PINs 0001 … `employees`. Then no new ones, but the terminals go on until everything is acknowledged, for at most
    `drain` seconds; what is left is in the report. `stop` ends it early, without the drain. `progress` gets the report
    so far, without its lists, every second. More keywords (`quirks`, `timeout`, `tls`, …) go to each `Terminal`.
    Raises UnknownScenario, or ValueError for an impossible plan or address.
    """
    if scenario not in SCENARIOS:
        raise UnknownScenario(scenario)
    names = list(serials if serials is not None else serial_numbers(devices))[:devices]
    if devices < 1 or len(set(names)) != devices:
        raise ValueError(f"{devices} terminals need as many different serials, and at least one.")
    if not 0 < rate < math.inf or duration < 0 or employees < 1:
        raise ValueError("The rate and the number of employees must be positive, the duration not negative.")
    if math.isinf(duration) and scenario != "steady":
        raise ValueError(f"The scenario {scenario!r} needs a duration that ends.")
    terminal = {"sets_clock": True, **terminal}
    if dialect not in DIALECTS:
        raise ValueError(f"There is no dialect {dialect!r}. Known: {', '.join(DIALECTS)}.")
    if odd := set(terminal.get("quirks", ())) - set(Quirk):
        raise ValueError(f"There is no quirk {min(odd)!r}. Known: {', '.join(Quirk)}.")
    kinds = DIALECTS[dialect]
    terminals = [
        kinds[place % len(kinds)](name, url, speed=speed, keep_alive=keep_alive, **terminal)
        for place, name in enumerate(names)
    ]
    fleet = Fleet(
        terminals=terminals,
        pins=[f"{number:04d}" for number in range(1, employees + 1)],
        rate=rate,
        duration=duration,
        drain=drain,
        rng=random.Random(seed),  # noqa: S311 - a plan to repeat, not a secret
        stop=stop or asyncio.Event(),
    )
    started = time.monotonic()

    def report(*, details: bool) -> Report:
        accounts = tuple(terminal.report(details=details) for terminal in terminals)
        return Report(scenario, time.monotonic() - started, accounts)

    async def tell() -> None:
        while progress is not None:
            await asyncio.sleep(1.0)
            progress(report(details=False))

    # A terminal whose `run` raises is a mistake in this file: the group ends everything and shows it.
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(terminal.run(), name=terminal.serial) for terminal in terminals]
        telling = group.create_task(tell())
        await SCENARIOS[scenario](fleet)
        await fleet.settle()
        telling.cancel()
        for virtual in terminals:
            virtual.stop()
        _, late = await asyncio.wait(running, timeout=2.0)
        for task in late:
            task.cancel()
    return report(details=True)
