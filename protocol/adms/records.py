"""The lines inside an upload: ATTLOG columns, tagged and keyed lines, option lists, photos; and how many there are.

Firmware adds columns at the end, so lines are read from the left and what is not understood is kept in order. A line
that cannot be read becomes an `UnreadableLine` with a reason and leaves its neighbours alone: the terminal sends the
same bytes until it is told OK, so they have to be a value, not an error.

ATTLOG is the one table that arrives by the hundred thousand, after an outage. Its usual form (ASCII, no control
characters but TAB and LF, four columns or more) is checked once for the body and read in a tight loop; a line that does
not fit goes through `_careful`, which knows every variant. Both give the same answer for the lines the loop accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from protocol.adms.codes import version
from protocol.adms.errors import BadPhoto, BadRecord

#: Longer ATTLOG lines are not read; the widest variant known, with a position in base64, is a tenth of this.
MAX_LINE = 4096
MAX_PIN = 64
_INT32 = range(-(2**31), 2**31)

_ENDS = b"\r\n\0"
_CONTROL = bytes([*range(9), *range(11, 32), 127])
_GZIP = b"\x1f\x8b"
_JPEG = b"\xff\xd8\xff"

_HEADER = re.compile(rb"TABLE=\w*", re.IGNORECASE)
_CLOCK = re.compile(r"\d{4}-\d\d-\d\d[ T](?!24)\d\d:\d\d:\d\d", re.ASCII)
_NUMBER = re.compile(r"-?[0-9]{1,10}")
_TEMPERATURE = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,4})?")
_OFFSET = re.compile(r"[+-]?[0-9]{1,5}")
_TAG = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,31}) (.*)", re.DOTALL)
_TAG_BYTES = re.compile(rb"([A-Za-z][A-Za-z0-9_]{0,31})(?: |$)")
_TEMPLATE_FIELD = re.compile(rb"(?:^(?:\w+ )?|\t)(?:tmp|template|content|picture)=", re.IGNORECASE)
_PASSWORD = re.compile(rb"((?:^|[\t ])(?:passwd|password)=)[^\t\r\n]*", re.IGNORECASE | re.MULTILINE)
_PHOTO_FILE = re.compile(r"(\d{14})(?:-(.*))?", re.ASCII | re.DOTALL)

#: Tags and tables whose content is somebody's body: templates, and photos of faces.
BIOMETRIC = frozenset(
    {
        "FP",
        "FINGERTMP",
        "TEMPLATE",
        "TEMPLATEV10",
        "FPIMAG",
        "FPIMAGE",
        "FACE",
        "FACEV7",
        "FVEIN",
        "FVTEMPLATE",
        "PVEIN",
        "PALM",
        "BIODATA",
        "BIOPHOTO",
        "USERPIC",
        "ATTPHOTO",
    }
)
_PHOTOS = frozenset({"USERPIC", "BIOPHOTO"})
_USERS = frozenset({"USER", "USERINFO"})


class AttLog(NamedTuple):
    """One attendance line, in the terminal's own words. Columns from the sixth on are `extra`, verbatim and in order.

    A named tuple, not a frozen dataclass: as immutable, and a microsecond cheaper to make, which is a third of what
    reading a line would cost otherwise. It equals a bare tuple of the same values; nothing here relies on that.
    """

    pin: str
    wall_time: datetime  # the terminal's clock: no zone yet
    state: int | None = None
    verify: int | None = None
    work_code: str | None = None  # None: no such column; "": sent empty
    extra: tuple[str, ...] = ()
    trailing_tab: bool = False
    raw: bytes = b""  # without CR, LF and NUL at its ends


@dataclass(frozen=True, slots=True)
class UnreadableLine:
    """A line that is none of the forms known: its bytes, without CR, LF and NUL at their ends, and why."""

    raw: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class AttLogBatch:
    """What an ATTLOG body held, each list in the order of the body. Blank lines are nothing and are not counted."""

    records: list[AttLog]
    unreadable: list[UnreadableLine]
    skipped: int = 0  # lines that introduce records and are none, such as `TABLE=ATTLOG`
    charset: str = "utf-8"  # the weakest any line needed: "gb18030", or "latin-1" where the text is a guess

    @property
    def record_count(self) -> int:
        """What to say in `OK: n`: everything kept, readable or not."""
        return len(self.records) + len(self.unreadable)


_STATES: dict[str, int | None] = {"": None, **{str(number): number for number in range(256)}}
_CHARSETS = ("utf-8", "gb18030", "latin-1")


def read_attlog(body: bytes) -> AttLogBatch:
    """Read an ATTLOG body. Never raises; every line that is not blank or a header ends up in one of the two lists."""
    records: list[AttLog] = []
    unreadable: list[UnreadableLine] = []
    skipped, weakest = 0, 0
    add, states = records.append, _STATES
    body = ended(body)
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n")
    lines = body.split(b"\n")
    # An empty text fits nothing: where the body is not plain, every line takes the careful way.
    texts = body.decode("ascii").split("\n") if _is_plain(body, lines) else [""] * len(lines)
    for raw, text in zip(lines, texts, strict=True):
        if not raw:
            continue
        columns = text.split("\t")
        trailing_tab = not columns[-1]
        if trailing_tab:
            columns.pop()
        try:
            pin, clock, state, verify, *rest = columns
            # With these five separators in place, fromisoformat takes YYYY-MM-DD hh:mm:ss and nothing else.
            if clock[4::3] in {"-- ::", "--T::"} and len(pin) <= MAX_PIN and pin.strip():
                when, work_code, extra = datetime.fromisoformat(clock), rest[0] if rest else None, tuple(rest[1:])
                add(AttLog(pin, when, states[state], states[verify], work_code, extra, trailing_tab, raw))
                continue
        except (ValueError, KeyError):
            pass
        match _careful(raw):
            case AttLog() as log, charset:
                add(log)
                weakest = max(weakest, charset)
            case UnreadableLine() as line, _:
                unreadable.append(line)
            case None, header:
                skipped += header
    return AttLogBatch(records, unreadable, skipped, _CHARSETS[weakest])


def _is_plain(body: bytes, lines: list[bytes]) -> bool:
    """Whether no line needs more than splitting. Python from 3.13 on would read hour 24 as the next day."""
    return (
        body.isascii()
        and len(body.translate(None, _CONTROL)) == len(body)
        and b" 24:" not in body
        and b"T24:" not in body
        and (len(body) <= MAX_LINE or max(map(len, lines)) <= MAX_LINE)
    )


def _careful(raw: bytes) -> tuple[AttLog | UnreadableLine, int] | tuple[None, bool]:
    """One line of any variant, with the index of its charset; (None, whether it was a header) for what is no record."""
    raw = ended(raw)
    said = raw.lstrip(_ENDS)
    if not said or _HEADER.fullmatch(said):
        return None, bool(said)
    if len(raw) > MAX_LINE:
        return UnreadableLine(raw, f"longer than {MAX_LINE} bytes"), 0
    if b"\0" in said:
        return UnreadableLine(raw, "contains a NUL byte"), 0
    text, charset = decode(said)
    columns = text.split("\t")
    if trailing_tab := not columns[-1]:
        columns.pop()
    if columns[0][:4].upper() == "PIN=" and "=" in "".join(columns[1:2]):
        columns = _unkeyed(columns)
    pin, clock, state, verify, *others = [*columns, *[""] * (4 - len(columns))]
    try:
        return AttLog(
            _pin(pin),
            _wall_time(clock),
            _number(state, "punch state"),
            _number(verify, "verify mode"),
            others[0] if others else None,
            tuple(others[1:]),
            trailing_tab,
            raw,
        ), _CHARSETS.index(charset)
    except ValueError as exc:
        return UnreadableLine(raw, str(exc)), 0


def _unkeyed(columns: list[str]) -> list[str]:
    """`PIN=..`, `DateTime=..`, `Verified=..`, `Status=..` in positional order; what has another key stays as it is."""
    named = {"pin": "", "datetime": "", "status": "", "verified": ""}
    work_code, others = None, []
    for column in columns:
        key, _, value = column.partition("=")
        if key.lower() in named:
            named[key.lower()] = value
        elif key.lower() == "workcode":
            work_code = value
        else:
            others.append(column)
    tail = [] if work_code is None and not others else [work_code or "", *others]
    return [*named.values(), *tail]


def _pin(text: str) -> str:
    if not text.strip():
        raise ValueError("no PIN")
    if len(text) > MAX_PIN:
        raise ValueError(f"PIN longer than {MAX_PIN} characters")
    if not text.isprintable():
        raise ValueError("PIN contains control characters")
    return text


def _wall_time(text: str) -> datetime:
    text = text.strip()
    if not text:
        raise ValueError("no time")
    if not _CLOCK.fullmatch(text):
        raise ValueError("time is not YYYY-MM-DD hh:mm:ss")
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("no such time in the calendar") from None


def _number(text: str, what: str) -> int | None:
    text = text.strip()
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{what} is not a number")
    if (number := int(text)) not in _INT32:
        raise ValueError(f"{what} does not fit 32 bits")
    return number


def write_attlog(log: AttLog) -> bytes:
    """The line, without LF, in the positional form. Reading it gives `log` back, with `raw` as it was written.

    BadRecord for what could not be read back: a TAB in a value, a long PIN, an empty last column that no TAB follows.
    """
    columns = [log.pin, log.wall_time.isoformat(" ")]
    columns += ["" if number is None else str(number) for number in (log.state, log.verify)]
    if log.work_code is not None:
        columns += [log.work_code, *log.extra]
    while len(columns) <= 4 and not columns[-1]:
        columns.pop()
    raw = ("\t".join(columns) + "\t" * log.trailing_tab).encode("utf-8", "replace")
    written, _ = _careful(raw)
    if written != log._replace(raw=raw):
        raise BadRecord(f"{raw!r} would not be read back as {log!r}.")
    return raw


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns after the seventh mean, where that is known. None: no such column, or nothing measured."""

    mask: int | None = None  # 1 worn, 0 not worn
    temperature: float | None = None  # degrees Celsius
    utc_offset: timedelta | None = None
    id_number: str | None = None
    record_type: int | None = None  # 0 punch; 1 identity check, whose state is 0 passed, 1 failed, 2 blacklisted
    job_codes: tuple[str, ...] = ()
    tip_codes: tuple[str, ...] = ()

    @property
    def is_identity_check(self) -> bool:
        """The line says that somebody showed an identity card: not a punch."""
        return self.record_type == 1


def name_columns(log: AttLog, device_type: str | None, pushver: str | None) -> Columns:
    """Name columns 8 and up by what the terminal announced. Nothing is named for one that announced no version.

    Terminals without a mask detector send 0 0 0 or 255 0 0: without a temperature only a worn mask is believed.
    """
    columns = len(log.extra) + 5
    announced = version(pushver)
    if announced < (2, 2, 14):
        return Columns()
    if (device_type or "").lower() == "pid":
        if columns != 9:
            return Columns()
        kind = log.extra[3]
        return Columns(id_number=log.extra[2] or None, record_type=int(kind) if kind in {"0", "1"} else None)
    if columns == 16:
        return Columns(job_codes=log.extra[2:8], tip_codes=log.extra[8:11])
    if columns not in {10, 11, 12}:
        return Columns()
    flag, heat = log.extra[2], log.extra[3]
    temperature = float(heat) if _TEMPERATURE.fullmatch(heat) and float(heat) > 0 else None
    mask = 1 if flag == "1" else 0 if flag == "0" and temperature is not None else None
    return Columns(mask=mask, temperature=temperature, utc_offset=_offset(log.extra[5]) if columns > 10 else None)


def _offset(text: str) -> timedelta | None:
    if not _OFFSET.fullmatch(text) or abs(seconds := int(text)) > 14 * 3600:
        return None
    return timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True)
class OperLog:
    """Something done at the terminal; `codes.OPERATIONS` names `operation`. `objects` are three or four, verbatim."""

    operation: int
    admin: str
    wall_time: datetime
    objects: tuple[str, ...]
    raw: bytes


@dataclass(frozen=True, slots=True)
class Keyed:
    """A line of `Key=value` columns, keys as sent. Values stay out of repr: some are passwords or templates."""

    kind: str  # the tag in front, in upper case; the table's name where there is none
    fields: Mapping[str, str] = field(repr=False)

    def get(self, key: str) -> str | None:
        """The value of `key`, whose case firmware does not agree about."""
        return next((value for name, value in self.fields.items() if name.lower() == key.lower()), None)

    @property
    def pin(self) -> str | None:
        """Whose line it is."""
        return self.get("PIN")


@dataclass(frozen=True, slots=True)
class UserInfo(Keyed):
    """A person as the terminal knows them. An empty value says nothing; it does not say that the value was erased."""

    @property
    def card_hex(self) -> str | None:
        """The card's bytes in hexadecimal, where it was sent so: in brackets."""
        card = self.get("Card") or ""
        return card[1:-1] if card[:1] == "[" and card[-1:] == "]" else None


@dataclass(frozen=True, slots=True)
class Template(Keyed):
    """A template of a finger, face, vein or palm."""


@dataclass(frozen=True, slots=True)
class Photo(Keyed):
    """A photo inside a line, in base64."""


@dataclass(frozen=True, slots=True)
class TaggedBatch:
    """What an OPERLOG body, or one of the keyed tables, held."""

    records: list[OperLog | Keyed]
    unreadable: list[UnreadableLine]
    skipped: int = 0
    charset: str = "utf-8"

    @property
    def record_count(self) -> int:
        """What to say in `OK: n`."""
        return len(self.records) + len(self.unreadable)


def read_tagged(table: str, body: bytes, code_page: str | None = None) -> TaggedBatch:
    """Read OPERLOG, USERINFO, BIODATA, IDCARD, ERRORLOG or another table of tagged or keyed lines. Never raises."""
    batch: list[OperLog | Keyed] = []
    unreadable: list[UnreadableLine] = []
    skipped, weakest = 0, "utf-8"
    for line in body.split(b"\n"):
        raw = ended(line)
        said = raw.lstrip(_ENDS)
        if not said:
            continue
        if _HEADER.fullmatch(said):
            skipped += 1
            continue
        text, charset = decode(said, code_page)
        try:
            batch.append(_tagged(table.upper(), text, raw))
            weakest = max(weakest, charset, key=_weakness)
        except ValueError as exc:
            unreadable.append(UnreadableLine(raw, str(exc)))
    return TaggedBatch(batch, unreadable, skipped, weakest)


def _weakness(charset: str) -> int:
    return _CHARSETS.index(charset) if charset in _CHARSETS else 1


def _tagged(table: str, text: str, raw: bytes) -> OperLog | Keyed:
    if "\0" in text:
        raise ValueError("contains a NUL byte")
    found = _TAG.fullmatch(text)
    kind, rest = (found[1].upper(), found[2]) if found else (table, text)
    if kind == "OPLOG":
        return _operlog(rest, raw)
    if kind == "OPERLOG":
        raise ValueError("no tag")
    fields: dict[str, str] = {}
    for column in rest.split("\t"):
        key, equals, value = column.partition("=")
        if equals:
            fields[key] = value
        elif column:
            raise ValueError("a column without a key")
    if not fields:
        raise ValueError("no columns")
    if kind in _USERS:
        return UserInfo(kind, fields)
    if kind in _PHOTOS:
        return Photo(kind, fields)
    return Template(kind, fields) if kind in BIOMETRIC else Keyed(kind, fields)


def _operlog(rest: str, raw: bytes) -> OperLog:
    columns = rest.split("\t")
    if not columns[-1]:
        columns.pop()
    if len(columns) < 3:
        raise ValueError("fewer than three columns")
    operation = _number(columns[0], "operation")
    if operation is None:
        raise ValueError("no operation")
    return OperLog(operation, columns[1], _wall_time(columns[2]), tuple(columns[3:]), raw)


@dataclass(frozen=True, slots=True)
class AttPhoto:
    """A photo taken at a verification. No PIN: the verification failed."""

    file: str
    serial: str | None
    size: str | None
    command: str | None  # uploadphoto, realupload
    wall_time: datetime | None
    pin: str | None
    image: bytes = field(repr=False)  # JPEG as sent; base64 text where the terminal was asked for that


def read_photo(body: bytes) -> AttPhoto:
    """Read an ATTPHOTO body: header lines, a NUL, the image, in which any byte may be. BadPhoto without a file name."""
    head, nul, image = body.partition(b"\0")
    header: dict[str, str] = {}
    for line in head.splitlines():
        key, _, value = decode(line)[0].partition("=")
        header.setdefault(key.strip().lower(), value.strip())
    if not (file := header.get("pin")):
        raise BadPhoto("A photo without a file name in its header.")
    if not nul:
        image = header.get("picture", "").encode()
    found = _PHOTO_FILE.fullmatch(file.removesuffix(".jpg"))
    taken, owner = (found[1], found[2]) if found else ("", None)
    # Identity-card terminals write <kind>-<PIN>-<identity> where the others have just the PIN.
    parts = (owner or "").split("-")
    return AttPhoto(
        file=file,
        serial=header.get("sn"),
        size=header.get("size"),
        command=header.get("cmd"),
        wall_time=_stamped(taken),
        pin=(parts[1] if len(parts) == 3 else owner) or None,
        image=image,
    )


def _stamped(digits: str) -> datetime | None:
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S")  # noqa: DTZ007 (a wall time has no zone)
    except ValueError:
        return None


def read_options(body: bytes) -> dict[str, str]:
    """`key=value,key=value`, or one a line, in the order sent and with keys as sent: some start with `~`. Never raises.

    A piece without `=` belongs to the value before it, which then held a comma.
    """
    options: dict[str, list[str]] = {}
    for line in body.splitlines():
        last: list[str] | None = None
        for piece in decode(line.strip(_ENDS))[0].replace("\0", "").split(","):
            key, equals, value = piece.partition("=")
            if equals:
                last = options[key.strip()] = [value]
            elif last is not None:
                last.append(piece)
    return {key: ",".join(values) for key, values in options.items()}


def option(options: Mapping[str, str], name: str) -> str | None:
    """The option called `name`, with or without `~` and in any case; None when it was not sent or is empty."""
    wanted = name.lstrip("~").lower()
    return next((value for key, value in options.items() if key.lstrip("~").lower() == wanted and value), None)


def count_records(table: str, body: bytes) -> int:
    """How many records a body holds, for `OK: n`: lines that are neither blank nor a header; a photo is one."""
    if table.upper() == "ATTPHOTO" or (table.upper() != "ATTLOG" and body.startswith(_GZIP)):
        return 1 if body else 0
    lines = (line.strip(_ENDS) for line in body.split(b"\n"))
    return sum(1 for line in lines if line and not _HEADER.fullmatch(line))


def answers_with_count(table: str) -> bool:
    """Whether the reply to an upload of `table` names a count; photos, options, events and states get a bare OK."""
    return table.upper() not in {"ATTPHOTO", "OPTIONS", "RTLOG", "RTSTATE"}


def is_biometric(table_or_tag: str) -> bool:
    """Whether a table, or a line's tag, holds templates or photos."""
    return table_or_tag.upper() in BIOMETRIC


@dataclass(frozen=True, slots=True)
class Redacted:
    """An upload that may be kept: no templates, no photos, no passwords."""

    body: bytes
    discarded: int  # records of biometric content that were left out


def redact(table: str, body: bytes) -> Redacted:
    """What of a raw upload may be kept. Lines stay as they came, but biometric ones go and passwords are emptied.

    A body that hides its lines (compressed) or is an image goes whole.
    """
    if table.upper() == "ATTLOG":
        return Redacted(body, 0)
    if is_biometric(table) or body.startswith(_GZIP) or _JPEG in body:
        return Redacted(b"", count_records(table, body))
    lines = body.split(b"\n")
    kept = [line for line, secret in zip(lines, _biometric(lines), strict=True) if not secret]
    clean = b"\n".join(kept)
    return Redacted(clean if table.upper() == "OPTIONS" else _PASSWORD.sub(rb"\1", clean), len(lines) - len(kept))


def redact_lines(lines: Sequence[bytes]) -> list[bytes]:
    """Lines that nobody could read, as they may be kept: nothing of a biometric one, and no passwords."""
    return [
        b"" if secret or _JPEG in line or line.startswith(_GZIP) else _PASSWORD.sub(rb"\1", line)
        for line, secret in zip(lines, _biometric(lines), strict=True)
    ]


def _biometric(lines: Iterable[bytes]) -> Iterator[bool]:
    discarding = False
    for line in lines:
        # A line without TAB and space after a template is the rest of it, wrapped.
        discarding = _is_biometric_line(line.strip(_ENDS)) or (discarding and not re.search(rb"[\t ]|^\s*$", line))
        yield discarding


def _is_biometric_line(line: bytes) -> bool:
    tag = _TAG_BYTES.match(line)
    return bool(tag and is_biometric(tag[1].decode())) or bool(_TEMPLATE_FIELD.search(line))


def pieces(body: bytes, size: int = 1 << 18) -> Iterator[bytes]:
    """Cut a large body after line ends into pieces of about `size` bytes: reading all at once would take seconds."""
    start = 0
    while len(body) - start > size:
        cut = body.rfind(b"\n", start, start + size) + 1 or body.find(b"\n", start + size) + 1 or len(body)
        yield body[start:cut]
        start = cut
    if start < len(body):
        yield body[start:]


def ended(line: bytes) -> bytes:
    """A line without its end, and without NUL bytes behind it. Those in front are its own."""
    return line.rstrip(_ENDS).lstrip(b"\r\n")


def decode(raw: bytes, code_page: str | None = None) -> tuple[str, str]:
    """Text and charset: UTF-8, else the terminal's code page where it is known, else GB18030, which terminals set to
    Chinese send, else Latin-1, which is a guess."""
    for charset in ("utf-8", code_page, "gb18030"):
        try:
            if charset is not None:
                return raw.decode(charset), charset
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1"), "latin-1"


def fitting(text: str, charset: str) -> str:
    """The text as a code page can say it: what it lacks becomes a question mark."""
    return text.encode(charset, "replace").decode(charset, "replace")
