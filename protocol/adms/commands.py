"""A command's line, and what the terminal says of it afterwards.

Results come in three forms. Usually one line each, several in a body. INFO adds lines of options to its result. Shell
and file transfers spread one result over lines and end with content, which may hold anything up to the end of the body.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.adms.errors import BadCommand
from protocol.adms.records import decode

_ENDS = b"\r\n\0"
_ID = re.compile(r"[A-Za-z0-9]{1,16}")
_RETURN = re.compile(r"-?[0-9]{1,10}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTENT = re.compile(rb"(?:^|\n)Content=", re.IGNORECASE)
_PRINTABLE_ID = 64


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


def _pairs(line: str) -> dict[str, str]:
    return {key: value for key, equals, value in (pair.partition("=") for pair in line.split("&")) if equals}


def _has(pairs: Mapping[str, str], name: str) -> bool:
    return any(key.lower() == name for key in pairs)


def command_line(command_id: str, text: str, fields: Mapping[str, str] | None = None) -> bytes:
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
        return line.encode()
    except UnicodeEncodeError as exc:
        raise BadCommand("A command is text that UTF-8 can say.") from exc
