"""What a terminal would have to say for us to read it: the other direction of `records`, `requests` and `commands`.

For virtual terminals, and to show that nothing is lost in reading. Whatever could not be read back is a BadRecord.
`records.write_attlog` and `security.write_event` are the two that stand beside their readers.
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.adms.commands import CommandResult, read_results
from protocol.adms.errors import AdmsError, BadRecord
from protocol.adms.records import AttPhoto, Keyed, OperLog, read_options, read_photo, read_tagged
from protocol.adms.requests import DeviceInfo, read_info


def write_tagged(record: OperLog | Keyed) -> bytes:
    """A line of OPERLOG, without LF: its tag, a space, its columns. Reading it gives the record back, `raw` apart."""
    if isinstance(record, OperLog):
        columns = [str(record.operation), record.admin, record.wall_time.isoformat(" "), *record.objects]
        raw = f"OPLOG {_columns(columns)}".encode("utf-8", "replace")
        record = OperLog(record.operation, record.admin, record.wall_time, record.objects, raw)
    else:
        columns = [f"{key}={value}" for key, value in record.fields.items()]
        raw = f"{record.kind} {_columns(columns)}".encode("utf-8", "replace")
    _same(raw, read_tagged("OPERLOG", raw).records, [record])
    return raw


def _columns(columns: list[str]) -> str:
    return "\t".join(columns)


def write_photo(photo: AttPhoto) -> bytes:
    """The body of an ATTPHOTO upload: header, NUL, image."""
    header = {"PIN": photo.file, "SN": photo.serial, "size": photo.size, "CMD": photo.command}
    head = "\n".join(f"{key}={value}" for key, value in header.items() if value is not None)
    raw = head.encode("utf-8", "replace") + b"\0" + photo.image
    try:
        _same(raw, read_photo(raw), photo)
    except AdmsError as exc:
        raise BadRecord(str(exc)) from exc
    return raw


def write_options(options: Mapping[str, str]) -> bytes:
    """`key=value,key=value`."""
    raw = ",".join(f"{key}={value}" for key, value in options.items()).encode("utf-8", "replace")
    _same(raw, read_options(raw), dict(options))
    return raw


def write_info(info: DeviceInfo) -> str:
    """The INFO of a first poll, not yet percent-encoded. Only `values` are written; the names follow from them."""
    text = ",".join(info.values)
    _same(text, read_info(text), info)
    return text


def write_result(result: CommandResult) -> bytes:
    """One result in a devicecmd body: its values, and its content if it has one."""
    values = {"ID": result.id, "Return": result.return_code, "CMD": result.cmd, **result.attributes}
    raw = "&".join(f"{key}={value}" for key, value in values.items() if value is not None).encode("utf-8", "replace")
    if result.content is not None:
        raw += b"\nContent=" + result.content
    _same(raw, read_results(raw), (result,))
    return raw


def _same(raw: bytes | str, read: object, written: object) -> None:
    if read != written:
        raise BadRecord("What was written would not be read back as it is.", len(raw))
