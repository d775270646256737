"""A command's line, and what the terminal says of it afterwards.

Lines are made from typed values only, by `write`: there is no way to hand over a verb. Nothing here runs a shell, moves
a file, names a URL or clears what the terminal holds, since its memory is the only copy of what was not acknowledged.
The two dialects spell most commands differently, and refuse the other's spelling.

Results come in three forms. Usually one line each, several in a body. INFO adds lines of options to its result. Shell
and file transfers spread one result over lines and end with content, which may hold anything up to the end of the body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from protocol.adms import clock
from protocol.adms.errors import BadCommand, CommandNotSupported
from protocol.adms.records import decode

_ENDS = b"\r\n\0"
_ID = re.compile(r"[A-Za-z0-9]{1,16}")
_RETURN = re.compile(r"-?[0-9]{1,10}")
_COUNT = re.compile(r"[0-9]{1,9}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_BYTES = bytes([*range(32), 127])
_CONTENT = re.compile(rb"(?:^|\n)Content=", re.IGNORECASE)
_PRINTABLE_ID = 64
_PIN = re.compile(r"[A-Za-z0-9]{1,24}")
_FINGERS = range(10)
_DOORS, _SECONDS = range(1, 256), range(1, 255)
_NUMBERS = range(2**63)
_TRIES = 3  # that a finger is asked for

#: What may be done at a terminal, in its numbers.
USER, ADMINISTRATOR = 0, 14


@dataclass(frozen=True, slots=True)
class Reboot:
    """Start again."""


@dataclass(frozen=True, slots=True)
class RefreshInfo:
    """Say model, firmware, counts and options."""


@dataclass(frozen=True, slots=True)
class UploadNow:
    """Send what was not acknowledged yet, without waiting for its time."""


@dataclass(frozen=True, slots=True)
class Check:
    """Shake hands again, and send what the answer asks for."""


@dataclass(frozen=True, slots=True)
class SyncTime:
    """Set the clock to this wall time. Fill it in at the last moment: it is old once it has waited."""

    wall_time: datetime


@dataclass(frozen=True, slots=True)
class UnlockDoor:
    """Open a door, 1 to 255, for 1 to 254 seconds. Attendance terminals have one door, and a duration of their own."""

    door: int = 1
    seconds: int = 5


@dataclass(frozen=True, slots=True)
class EnrollFingerprint:
    """Ask whoever stands there for a finger, 0 to 9 from the left little finger on."""

    pin: str
    finger: int = 6
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Backfill:
    """Send the punches of a period again, both ends included, whatever was acknowledged."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class CountPunches:
    """Say how many punches of a period there are."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class ResendAfter:
    """Send the events again whose number is greater than this one, whatever was acknowledged. Security dialect only."""

    number: int


@dataclass(frozen=True, slots=True)
class WriteUser:
    """Create or change a person. None leaves what is there, an empty text clears it."""

    pin: str
    name: str | None = None
    card: str | None = None
    privilege: int = USER


@dataclass(frozen=True, slots=True)
class DeleteUser:
    """Remove a person, with templates and photo."""

    pin: str


@dataclass(frozen=True, slots=True)
class QueryUsers:
    """Send a person's record, or everybody's."""

    pin: str | None = None


Command = (
    Reboot
    | RefreshInfo
    | UploadNow
    | Check
    | SyncTime
    | UnlockDoor
    | EnrollFingerprint
    | Backfill
    | CountPunches
    | ResendAfter
    | WriteUser
    | DeleteUser
    | QueryUsers
)


def write(command_id: str, command: Command, *, security: bool = False, charset: str = "utf-8") -> bytes:
    """The line of a getrequest reply, without LF, in the attendance or the security dialect and in the terminal's
    charset; what that lacks becomes a question mark.

    CommandNotSupported when the dialect has no such command. BadCommand when a value is out of its range or holds a
    control character: nothing is stripped.
    """
    words, fields = _spell(command, security)
    return command_line(command_id, words, fields, charset)


def _spell(command: Command, security: bool) -> tuple[str, dict[str, str]]:  # noqa: PLR0911  a table
    """The words in front, and the fields behind them."""
    match command:
        case Reboot():
            return ("CONTROL DEVICE 03000000" if security else "REBOOT"), {}
        case SyncTime(wall_time):
            told = str(clock.encode(wall_time)) if security else _shown(wall_time)
            return f"SET OPTIONS DateTime={told}", {}
        case UnlockDoor(door, seconds):
            return _unlock(door, seconds, security), {}
        case WriteUser() | DeleteUser() | QueryUsers():
            return _people(command, "user" if security else "USERINFO", "Pin" if security else "PIN")
        case EnrollFingerprint() | Backfill() | CountPunches() if security:
            raise CommandNotSupported("Terminals of the security dialect have no such command.")
        case ResendAfter(number) if security:
            if number not in _NUMBERS:
                raise BadCommand("A record's number is 0 or more, and below 2 to the power of 63.")
            return "ACCOUNT transaction", {"MaxIndex": str(number)}
        case ResendAfter():
            raise CommandNotSupported("Terminals of the attendance dialect have no such command.")
        case EnrollFingerprint(pin, finger, overwrite):
            if finger not in _FINGERS:
                raise BadCommand("A finger is a number from 0 to 9.")
            fields = {"FID": str(finger), "RETRY": str(_TRIES), "OVERWRITE": str(int(overwrite))}
            return "ENROLL_FP", {"PIN": _checked(pin), **fields}
        case Backfill(start, end):
            return "DATA QUERY ATTLOG", _period(start, end)
        case CountPunches(start, end):
            return "VERIFY SUM ATTLOG", _period(start, end)
    return _WORDS[type(command)], {}


_WORDS = {RefreshInfo: "INFO", UploadNow: "LOG", Check: "CHECK"}


def _people(command: WriteUser | DeleteUser | QueryUsers, table: str, word: str) -> tuple[str, dict[str, str]]:
    """What the dialects spell alike but for the names of table and columns."""
    security = table == "user"
    match command:
        case WriteUser(pin, name, card, privilege):
            words = (word, "Name", "Privilege", "CardNo") if security else (word, "Name", "Pri", "Card")
            values = (_checked(pin), name, str(privilege), card)
            fields = {key: value for key, value in zip(words, values, strict=True) if value is not None}
            return f"DATA UPDATE {table}", fields
        case DeleteUser(pin):
            return f"DATA DELETE {table}", {word: _checked(pin)}
        case QueryUsers(pin) if security:
            chosen = "*" if pin is None else f"{word}={_checked(pin)}"
            return f"DATA QUERY tablename={table},fielddesc=*,filter={chosen}", {}
    return f"DATA QUERY {table}", {} if command.pin is None else {word: _checked(command.pin)}


def _unlock(door: int, seconds: int, security: bool) -> str:
    if door not in _DOORS or seconds not in _SECONDS:
        raise BadCommand("A door is a number from 1 to 255, and opens for 1 to 254 seconds.")
    if security:
        return f"CONTROL DEVICE 01{door:02X}01{seconds:02X}"
    if door != 1:
        raise CommandNotSupported("An attendance terminal has one door, number 1.")
    return "AC_UNLOCK"


def _period(start: datetime, end: datetime) -> dict[str, str]:
    return {"StartTime": _shown(start), "EndTime": _shown(end)}


def _shown(wall_time: datetime) -> str:
    return wall_time.isoformat(" ", timespec="seconds")


def _checked(pin: str) -> str:
    if not _PIN.fullmatch(pin):
        raise BadCommand("A PIN is 1 to 24 letters or digits.")
    return pin


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What became of one command. The id is text, and may be one that nobody gave out."""

    id: str
    return_code: int | None  # None: missing or unreadable
    cmd: str  # the command's first word or words, as the terminal repeats it
    content: bytes | None = field(default=None, repr=False)  # Shell output, a file
    attributes: Mapping[str, str] = field(default_factory=dict)  # further values of the result, and INFO's options

    @property
    def succeeded(self) -> bool | None:
        """None when the terminal did not say. Enrolment at the terminal reports its refusals as positive numbers."""
        if self.return_code is None:
            return None
        if self.cmd.upper().startswith("ENROLL"):
            return self.return_code == 0
        return self.return_code >= 0


def read_results(body: bytes) -> tuple[CommandResult, ...]:
    """The results in a devicecmd body, in order. Never raises; lines that belong to no result are left out."""
    found = _CONTENT.search(body)
    head, content = (body[: found.start()], body[found.end() :]) if found else (body, None)
    lines = [decode(line.strip(_ENDS))[0] for line in head.split(b"\n")]
    results: list[dict[str, str]] = []
    for line in lines:
        pairs = _pairs(line)
        if _has(pairs, "id") and (_has(pairs, "return") or _has(pairs, "cmd") or not results):
            results.append(pairs)
        elif results:
            key, equals, value = line.partition("=")
            if equals:
                results[-1].setdefault(key, value)
    return tuple(
        result
        for index, pairs in enumerate(results, 1)
        if (result := result_of(pairs, content if index == len(results) else None)) is not None
    )


def result_of(pairs: Mapping[str, str], content: bytes | None = None) -> CommandResult | None:
    """The result that `ID`, `Return` and `CMD` in any case describe; None without a usable id."""
    named = {"id": "", "return": "", "cmd": ""}
    attributes: dict[str, str] = {}
    for key, value in pairs.items():
        if key.lower() in named:
            named[key.lower()] = value
        else:
            attributes[key] = value
    command_id, code, cmd = (named[key].strip() for key in ("id", "return", "cmd"))
    if not command_id or len(command_id) > _PRINTABLE_ID or not command_id.isprintable():
        return None
    if cmd.lower() == "shell" and content is not None:
        content = content.rstrip(_ENDS)
    return CommandResult(command_id, int(code) if _RETURN.fullmatch(code) else None, cmd, content, attributes)


def counted(attributes: Mapping[str, str]) -> int | None:
    """How many punches a result of CountPunches speaks of; None when it does not. The spelling varies."""
    said = (value for key, value in attributes.items() if key.lower().endswith(("sum", "count", "total")))
    return next((int(value) for value in said if _COUNT.fullmatch(value.strip())), None)


def _pairs(line: str) -> dict[str, str]:
    return {key: value for key, equals, value in (pair.partition("=") for pair in line.split("&")) if equals}


def _has(pairs: Mapping[str, str], name: str) -> bool:
    return any(key.lower() == name for key in pairs)


def command_line(command_id: str, text: str, fields: Mapping[str, str] | None = None, charset: str = "utf-8") -> bytes:
    """`C:<id>:<text> <key>=<value><TAB>..`, without LF: one command for a getrequest reply.

    BadCommand when the id is not 1 to 16 letters and digits, or when the text, a key or a value holds a control
    character: a TAB would start another field and an LF another command. Nothing is stripped.
    """
    if not _ID.fullmatch(command_id):
        raise BadCommand("A command id is 1 to 16 letters and digits.")
    if not text.strip():
        raise BadCommand("A command without a word does nothing.")
    if any("=" in key or not key for key in fields or {}):
        raise BadCommand("A field's name is not empty and holds no '='.")
    columns = [f"{key}={value}" for key, value in (fields or {}).items()]
    if any(_CONTROL.search(part) for part in (text, *columns)):
        raise BadCommand("A command holds no control characters.")
    line = f"C:{command_id}:{text}" + (" " + "\t".join(columns) if columns else "")
    try:
        line.encode()
    except UnicodeEncodeError as exc:
        raise BadCommand("A command is text that UTF-8 can say.") from exc
    written = line.encode(charset, "replace")
    # No code page in use has a control character within another one; whoever adds one that does finds out here.
    if written.translate(None, _CONTROL_BYTES) != written.replace(b"\t", b""):
        raise BadCommand("A command holds no control characters in its code page either.")
    return written
