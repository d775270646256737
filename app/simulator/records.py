"""What a virtual terminal holds and was told, and its account of what became of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

WALL_CLOCK = "%Y-%m-%d %H:%M:%S"


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
    PACKETS = "packets"  # the answer to a query comes in several, cut wherever they are full; security dialect only


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
            zone=read_zone(values.get("TimeZone", "")),
        )


def _number(text: str | None, default: float) -> float:
    try:
        number = float(text or "")
    except ValueError:
        return default
    return number if 0 <= number < math.inf else default


def read_zone(text: str) -> timedelta | None:
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
    made: int  # records, and those that it had not got rid of before its power went
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
