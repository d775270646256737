"""The security dialect: events of doors and readers in keyed columns, tables as answers, and what it is told back.

Units of access control, and newer faces set up as such, register before they send anything. Their punches are events
among others: `rtlog` tells of doors, alarms and refusals too. Every event is kept; which of them is a punch is decided
here, by the event's number. An unknown number with somebody's PIN counts as a punch and is marked, since a punch that
should not be there can be taken out, and one that was left out cannot be put back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from protocol.adms import clock
from protocol.adms.codes import Direction, VerifyMode, verify_mode
from protocol.adms.commands import CommandResult
from protocol.adms.errors import BadOption, BadRecord, BadTime
from protocol.adms.records import (
    MAX_LINE,
    MAX_PIN,
    UnreadableLine,
    decode,
    ended,
)

_ENDS = b"\r\n\0"
_CLOCK = re.compile(r"\d{4}-\d\d-\d\d[ T](?!24)\d\d:\d\d:\d\d", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}")
_BITS = re.compile(r"[01]{16}")
_HEAT = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,4})?")
_CODE = re.compile(r"[A-Za-z0-9]{1,32}")
_TAG = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,31}) +(?=[^=\t]*=)")
_SESSION_SECONDS = 10

#: Somebody was let in, or would have been.
GRANTED = frozenset({0, 1, 2, 3, *range(14, 20), 203, 207, 208, 218, 222, 232})
#: What a door, a button or the unit itself did.
OF_THE_UNIT = frozenset(
    {*range(8, 14), *range(200, 203), *range(204, 207), 214, 220, 221, *range(223, 232), *range(233, 256)}
)
_REFUSED_OR_ALARM = (range(20, 100), range(100, 200), range(5000, 7000))
_DIRECTIONS: Mapping[int, Direction] = {0: Direction.CHECK_IN, 1: Direction.CHECK_OUT}
#: From the right: the bit after the one that says how the others combine.
_BIT_MODES = (
    (VerifyMode.FACE, 1),
    (VerifyMode.PALM, 2),
    (VerifyMode.PALM, 3),
    (VerifyMode.FINGERPRINT, 4),
    (VerifyMode.CARD, 11),
    (VerifyMode.PASSWORD, 9),
)


@dataclass(frozen=True, slots=True)
class AccessEvent:
    """One event. `fields` are all its columns, keys in lower case, values verbatim and in the order sent."""

    wall_time: datetime  # the unit's clock: no zone yet
    fields: Mapping[str, str] = field(repr=False)  # a card number opens doors
    raw: bytes = field(default=b"", repr=False)

    @property
    def pin(self) -> str | None:
        """Whose it is; None when nobody known was there."""
        pin = self.fields.get("pin", "")
        return pin if pin.strip("0") else None

    @property
    def event(self) -> int | None:
        """What happened; some units leave it out of what are plainly punches."""
        return self._number("event", "eventtype")

    @property
    def index(self) -> int | None:
        """Its number in the unit's memory. It starts again after a factory reset."""
        return self._number("index")

    @property
    def state(self) -> int | None:
        """0 in, 1 out, 2 neither."""
        return self._number("inoutstatus", "inoutstate")

    @property
    def direction(self) -> Direction:
        """What the state means."""
        return Direction.UNSPECIFIED if self.state is None else _DIRECTIONS.get(self.state, Direction.UNSPECIFIED)

    @property
    def verify(self) -> int | None:
        """The number of the verify mode; None where the unit sent bits instead."""
        return None if self._bits else self._number("verifytype", "verified")

    @property
    def verify_mode(self) -> VerifyMode:
        """How somebody proved who they are."""
        if bits := self._bits:
            return next((mode for mode, place in _BIT_MODES if bits[-1 - place] == "1"), VerifyMode.OTHER)
        return verify_mode(self.verify)

    @property
    def temperature(self) -> float | None:
        """Degrees Celsius, where it was measured."""
        heat = self.fields.get("temperature", "")
        return float(heat) if _HEAT.fullmatch(heat) and float(heat) > 0 else None

    @property
    def mask(self) -> bool | None:
        """Whether a mask was worn. Units without a detector say 0 or 255: without a temperature only 1 is believed."""
        flag = self.fields.get("maskflag", "")
        return True if flag == "1" else False if flag == "0" and self.temperature is not None else None

    @property
    def is_punch(self) -> bool:
        """Whether somebody known passed."""
        if self.pin is None or self.event in OF_THE_UNIT:
            return False
        return self.event is None or not any(self.event in band for band in _REFUSED_OR_ALARM)

    @property
    def is_guess(self) -> bool:
        """Whether it counts as a punch although its number is in no list."""
        return self.is_punch and self.event is not None and self.event not in GRANTED

    @property
    def _bits(self) -> str | None:
        bits = self.fields.get("verifytype", "")
        return bits if _BITS.fullmatch(bits) else None

    def _number(self, *names: str) -> int | None:
        text = next((self.fields[name] for name in names if name in self.fields), "")
        number = int(text) if _NUMBER.fullmatch(text) else None
        return number if number is None or number < 2**31 or names == ("index",) else None


@dataclass(frozen=True, slots=True)
class EventBatch:
    """What a body of events held."""

    records: list[AccessEvent]
    unreadable: list[UnreadableLine]

    @property
    def record_count(self) -> int:
        """Everything that was a line."""
        return len(self.records) + len(self.unreadable)


def read_events(body: bytes) -> EventBatch:
    """Read `rtlog`, or the rows of the table `transaction`. Never raises."""
    records: list[AccessEvent] = []
    unreadable: list[UnreadableLine] = []
    for line in body.split(b"\n"):
        raw = ended(line)
        if not raw.lstrip(_ENDS):
            continue
        try:
            records.append(_event(raw))
        except ValueError as exc:
            unreadable.append(UnreadableLine(raw, str(exc)))
    return EventBatch(records, unreadable)


def _event(raw: bytes) -> AccessEvent:
    if len(raw) > MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE} bytes")
    if b"\0" in raw.lstrip(_ENDS):
        raise ValueError("contains a NUL byte")
    fields = read_fields(raw)
    pin = fields.get("pin", "")
    if len(pin) > MAX_PIN:
        raise ValueError(f"PIN longer than {MAX_PIN} characters")
    if not pin.isprintable():
        raise ValueError("PIN contains control characters")
    return AccessEvent(_wall_time(fields), fields, raw)


def _wall_time(fields: Mapping[str, str]) -> datetime:
    if encoded := fields.get("time_second"):
        if not _NUMBER.fullmatch(encoded):
            raise ValueError("time is not a number of seconds")
        try:
            return clock.decode(int(encoded))
        except BadTime:
            raise ValueError("no such time in the calendar") from None
    text = fields.get("time", "").strip()
    if not text:
        raise ValueError("no time")
    if not _CLOCK.fullmatch(text):
        raise ValueError("time is not YYYY-MM-DD hh:mm:ss")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("no such time in the calendar") from None


def state_time(body: bytes) -> datetime | None:
    """What the unit's clock showed as it told of its state; None where it does not say."""
    lines = [line for line in body.split(b"\n") if line.strip(_ENDS)]
    try:
        return _wall_time(read_fields(lines[-1])) if lines and len(lines[-1]) <= MAX_LINE else None
    except ValueError:
        return None


def read_fields(raw: bytes) -> dict[str, str]:
    """The columns of one line, keys in lower case; the table's name in front, if there is one, is left out."""
    text = decode(raw.strip(_ENDS))[0]
    tag = _TAG.match(text)
    fields: dict[str, str] = {}
    for column in (text[tag.end() :] if tag else text).split("\t"):
        key, equals, value = column.partition("=")
        if equals:
            fields.setdefault(key.strip().lower(), value)
    return fields


def write_event(event: AccessEvent) -> bytes:
    """The line of `rtlog`, without LF. Reading it gives the event back, with `raw` as it was written.

    BadRecord for what could not be read back.
    """
    raw = "\t".join(f"{key}={value}" for key, value in event.fields.items()).encode("utf-8", "replace")
    try:
        written = _event(raw)
    except ValueError as exc:
        raise BadRecord(f"{raw!r} would not be read back: {exc}.") from exc
    if (written.wall_time, written.fields) != (event.wall_time, event.fields):
        raise BadRecord(f"{raw!r} would not be read back as it is.")
    return raw


def join(table: str, packets: Sequence[bytes]) -> bytes:
    """The text that consecutive packets of an answer are cut from, anywhere: in a row, in a letter.

    Units that send whole rows may leave out the line end after a packet's last one: it is put in where the next packet
    begins with a row of the table.
    """
    text = bytearray()
    for packet in packets:
        if text and not text.endswith(b"\n") and _begins_row(table, packet):
            text += b"\n"
        text += packet.rstrip(b"\0")
    return bytes(text)


def loose_ends(table: str, text: bytes, *, head: bool, tail: bool) -> tuple[bytes, list[bytes]]:
    """Whole rows, and what may be parts of rows, where the packet before the text (`head`) or after it (`tail`) is not
    there. A part is not to be read: of the PIN 1234 it may show 12.

    Of a row without its beginning, what stands before the first TAB may be the end of a password: it is left out,
    unless the table is one of events.
    """
    loose = []
    if head and not _begins_row(table, text):
        part, end, text = text.partition(b"\n")
        text = text if end else b""
        loose.append(part if table.lower() == "transaction" else b"".join(part.partition(b"\t")[1:]))
    if tail and not text.endswith(b"\n"):
        text, end, part = text.rpartition(b"\n")
        text += end
        loose.append(part)
    return text, [part for part in map(ended, loose) if part]


def _begins_row(table: str, text: bytes) -> bool:
    word = f"{table} ".lower().encode()
    return text[: len(word)].lower() == word


def query_result(command_id: str, count: int) -> CommandResult:
    """What the last packet of a query says of the command that asked: some units report on it in no other way."""
    return CommandResult(command_id, count, "DATA QUERY")


# ── what it is told ──────────────────────────────────────────────────────────────────────────────────


def registered(code: str) -> bytes:
    """The reply to a registration. BadOption unless the code is 1 to 32 letters and digits."""
    if not _CODE.fullmatch(code):
        raise BadOption("A registry code is 1 to 32 letters and digits.")
    return f"RegistryCode={code}".encode()


def configuration(session: str, *, version: str, delay: int, error_delay: int, code: str | None = None) -> bytes:
    """The options, in the reply to `push`; with a registry code, in the reply to the handshake of a registered unit.

    `delay` between polls and `error_delay` after a failure are in seconds. BadOption for a code or session that is not
    1 to 32 letters and digits.
    """
    if not _CODE.fullmatch(session) or not (code is None or _CODE.fullmatch(code)):
        raise BadOption("A session or registry code is 1 to 32 letters and digits.")
    options = {} if code is None else {"registry": "ok", "RegistryCode": code}
    options |= {
        "ServerVersion": version,
        "ServerName": "ADMS",
        "PushVersion" if code is None else "PushProtVer": version,
        "ErrorDelay": str(error_delay),
        "RequestDelay": str(delay),
        "TransTimes": "00:00;14:00",
        "TransInterval": "1",
        "TransTables": "User Transaction",
        "Realtime": "1",
        "SessionID": session,
        "TimeoutSec": str(_SESSION_SECONDS),
    }
    return "\n".join(f"{key}={value}" for key, value in options.items()).encode()


def time_reply(utc: datetime, offset_minutes: int) -> bytes:
    """The reply to `rtdata?type=time`: the naive time in Greenwich, and the unit's distance from it."""
    sign, minutes = "-" if offset_minutes < 0 else "+", abs(offset_minutes)
    return f"DateTime={clock.encode(utc)},ServerTZ={sign}{minutes // 60:02}{minutes % 60:02}".encode()


def table_reply(table: str, count: int) -> bytes:
    """`<table>=<count>`: without it the unit sends the same rows again."""
    return f"{table}={count}".encode()
