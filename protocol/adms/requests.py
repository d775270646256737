"""A terminal's request, read: what it wants and from whom, as one frozen value.

Names of parameters are matched in any case; every text from a query has its control characters replaced, so that it can
be stored and shown. The body is handed on as bytes, whatever the request said it was. What is not understood is
`Unknown`, to be kept and answered like the rest: a terminal cannot tell one refusal from another and would ask again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from protocol.adms.commands import CommandResult, read_results, result_of
from protocol.adms.errors import BadSerial, MissingSerial
from protocol.adms.records import decode, read_options

_SERIAL = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SUFFIX = re.compile(r"\.(?:aspx|php)$", re.IGNORECASE)
_RESULT = re.compile(rb"\s*ID=", re.IGNORECASE)
_TABLE_NAME = 64
_STAMP = 64
_TABLE_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
_COUNT = re.compile(r"[0-9]{1,10}")

#: Tables of both dialects; another is kept under the name it came with.
TABLES = frozenset(
    {"ATTLOG", "OPERLOG", "ATTPHOTO", "USERINFO", "BIODATA", "IDCARD", "ERRORLOG", "OPTIONS", "RTLOG", "RTSTATE"}
)


@dataclass(frozen=True, slots=True)
class Hello:
    """The handshake: it wants its options. Comes at boot and after a reconnect, on some units hardly ever again."""

    serial: str
    pushver: str | None
    language: str | None
    device_type: str | None
    pushcommkey: str | None = field(repr=False)
    push_options_flag: bool  # it will post its options if told to
    options: Mapping[str, str] = field(repr=False)  # all it said but the serial, names as sent


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A GET that asks for nothing."""

    serial: str


@dataclass(frozen=True, slots=True)
class TimeRequest:
    """It wants the time."""

    serial: str
    encoded: bool = False  # as the security dialect counts it


@dataclass(frozen=True, slots=True)
class Registration:
    """A unit of the security dialect introduces itself, with all its options."""

    serial: str
    options: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ConfigurationRequest:
    """A registered unit wants to be told how to behave."""

    serial: str


@dataclass(frozen=True, slots=True)
class Packet:
    """Which part of an answer this is: of `count`, more than 1, the one with this number, from 0 or from 1 on."""

    number: int
    count: int


@dataclass(frozen=True, slots=True)
class TableUpload:
    """Rows of a table of the security dialect, by themselves or as the answer to a query.

    `table` is spelled as sent, because the reply repeats it; `count` is what the unit says it sent. `packet` is there
    where the answer comes in several: `body` may then begin and end in the middle of a row. See `security.join`.
    """

    serial: str
    table: str
    count: int | None
    body: bytes = field(repr=False)
    kind: str = "tabledata"  # tabledata, options, count
    command_id: str | None = None  # of the query that this answers
    packet: Packet | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """Records. `table` is in upper case where it is one of `TABLES`; `stamp` is the terminal's mark, opaque text."""

    serial: str
    table: str
    stamp: str | None
    body: bytes = field(repr=False)
    content_type: str | None = None  # the ContentType parameter: "tgz" is a compressed archive of records


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The INFO of a first poll: comma-separated, by position, as many as the firmware has."""

    values: tuple[str, ...]
    firmware: str | None = None
    users: int | None = None
    fingerprints: int | None = None
    attlogs: int | None = None
    ip: str | None = None  # its own, not the address the request came from
    fp_version: str | None = None
    face_version: str | None = None
    faces_needed: int | None = None
    faces: int | None = None
    functions: str | None = None  # bits: fingerprint, face, user photo, comparison photo, visible-light template
    cards: int | None = None
    user_photos: int | None = None
    attendance_photos: int | None = None


@dataclass(frozen=True, slots=True)
class Poll:
    """It asks for commands; the first time after a handshake it also says how it is."""

    serial: str
    info: DeviceInfo | None = None


@dataclass(frozen=True, slots=True)
class CommandReport:
    """What became of commands. `body` as it came, for what could not be read."""

    serial: str
    results: tuple[CommandResult, ...]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ping:
    """A sign of life during a long upload."""

    serial: str


@dataclass(frozen=True, slots=True)
class RemoteLookup:
    """Somebody it does not know wants to punch: does the server?"""

    serial: str
    pin: str | None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Anything else."""

    serial: str
    method: str
    endpoint: str
    query: bytes = field(repr=False)
    body: bytes = field(repr=False)


Request = (
    Hello
    | Heartbeat
    | TimeRequest
    | Registration
    | ConfigurationRequest
    | Upload
    | TableUpload
    | Poll
    | CommandReport
    | Ping
    | RemoteLookup
    | Unknown
)


def endpoint_of(path_tail: str) -> str:
    """What follows `/iclock/` without slashes around it and without `.aspx` or `.php`, in lower case."""
    return _SUFFIX.sub("", path_tail.strip("/")).lower()


def read_request(method: str, endpoint: str, query: bytes, body: bytes) -> Request:  # noqa: PLR0911  one for each
    """Read a request to `endpoint` (see `endpoint_of`); `query` is the raw query string. MissingSerial or BadSerial."""
    named = read_query(query)
    serial = _serial(named)
    parameters = {name.lower(): value for name, value in reversed(named)}
    read: Request | None
    match endpoint:
        case "ping":
            return Ping(serial)
        case "getrequest":
            return Poll(serial, read_info(parameters["info"]) if parameters.get("info") else None)
        case "devicecmd":
            return _report(serial, parameters, body)
        case "registry":
            return Registration(serial, read_options(body))
        case "push":
            return ConfigurationRequest(serial)
        case "rtdata" if (parameters.get("type") or "").lower() == "time":
            return TimeRequest(serial, encoded=True)
        case "querydata":
            read = _rows(serial, parameters, body)
        case "cdata" | "fdata":
            if method.upper() == "POST":
                read = _sent(serial, endpoint, parameters, body)
            else:
                read = _asked(serial, named, parameters) if method.upper() == "GET" and endpoint == "cdata" else None
        case _:
            read = None
    return read or Unknown(serial, method.upper(), endpoint, query, body)


def _sent(serial: str, endpoint: str, parameters: Mapping[str, str], body: bytes) -> Request | None:
    table = parameters.get("table") or ("ATTPHOTO" if endpoint == "fdata" else None)
    if table is None:
        # Some units report on commands here.
        return _report(serial, parameters, body) if "type" not in parameters and _RESULT.match(body) else None
    if table.lower() == "tabledata":
        return _rows(serial, parameters, body)
    stamp = parameters.get("stamp") or parameters.get("opstamp") or ""
    return Upload(
        serial,
        table=table.upper() if table.upper() in TABLES else table[:_TABLE_NAME],
        # Goes back to the terminal in a line of its own at the next handshake, so an odd one is none.
        stamp=stamp if stamp.isascii() and stamp.isprintable() and 0 < len(stamp) <= _STAMP else None,
        body=body,
        content_type=parameters.get("contenttype") or None,
    )


def _rows(serial: str, parameters: Mapping[str, str], body: bytes) -> TableUpload | None:
    table = parameters.get("tablename") or parameters.get("type") or ""
    if not _TABLE_WORD.fullmatch(table):
        return None  # the reply would repeat it
    count, packets, number = (_small(parameters.get(name)) for name in ("count", "packcnt", "packidx"))
    packet = Packet(number, packets) if packets is not None and number is not None and number <= packets > 1 else None
    return TableUpload(
        serial,
        table,
        count,
        body,
        kind=(parameters.get("type") or "tabledata").lower(),
        command_id=parameters.get("cmdid") or None,
        packet=packet,
    )


def _small(text: str | None) -> int | None:
    return int(text) if text and _COUNT.fullmatch(text) else None


def _asked(serial: str, named: list[tuple[str, str]], parameters: Mapping[str, str]) -> Request | None:
    if (parameters.get("type") or "").lower() == "time":
        return TimeRequest(serial)
    if (parameters.get("table") or "").lower() == "remoteatt":
        return RemoteLookup(serial, parameters.get("pin") or None)
    if "table" in parameters or "type" in parameters:
        return None
    if "options" not in parameters and "pushver" not in parameters:
        return Heartbeat(serial)
    return Hello(
        serial,
        pushver=parameters.get("pushver") or None,
        language=parameters.get("language") or None,
        device_type=parameters.get("devicetype") or None,
        pushcommkey=parameters.get("pushcommkey") or None,
        push_options_flag=parameters.get("pushoptionsflag") == "1",
        options={name: value for name, value in named if name.lower() != "sn"},
    )


def _report(serial: str, parameters: Mapping[str, str], body: bytes) -> CommandReport:
    """Some units put the result of a single command into the query."""
    results = read_results(body)
    if not results and parameters.get("id"):
        own = {name: value for name, value in parameters.items() if name != "sn"}
        results = tuple(result for result in [result_of(own)] if result is not None)
    return CommandReport(serial, results, body)


def read_info(text: str) -> DeviceInfo:
    """The values of INFO, which comes with 4 to 13 of them."""
    values = tuple(value.strip() for value in text.split(","))
    words = iter([*(value or None for value in values), *[None] * 13])
    numbers = (int(word) if word and _COUNT.fullmatch(word) else None for word in words)
    return DeviceInfo(
        values,
        firmware=next(words),
        users=next(numbers),
        fingerprints=next(numbers),
        attlogs=next(numbers),
        ip=next(words),
        fp_version=next(words),
        face_version=next(words),
        faces_needed=next(numbers),
        faces=next(numbers),
        functions=next(words),
        cards=next(numbers),
        user_photos=next(numbers),
        attendance_photos=next(numbers),
    )


def read_query(query: bytes) -> list[tuple[str, str]]:
    """Names and values in the order sent, percent-decoded; `+` is a plus. Control characters become U+FFFD."""
    pairs = (part.partition(b"=") for part in query.split(b"&") if part)
    return [(_text(name), _text(value)) for name, _, value in pairs]


def _text(quoted: bytes) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", decode(unquote_to_bytes(quoted))[0])


def _serial(named: list[tuple[str, str]]) -> str:
    serials = {value for name, value in named if name.lower() == "sn"}
    if not any(serials):
        raise MissingSerial("The request does not say which terminal it is from: no SN.")
    if len(serials) > 1:
        raise BadSerial("The request names more than one terminal.")
    (serial,) = serials
    if not _SERIAL.fullmatch(serial):
        raise BadSerial("A serial number is 1 to 64 letters, digits, '_', '.' or '-'.")
    return serial
