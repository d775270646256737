"""Our answers: the handshake's option block, OK with or without a count, the time.

A terminal that reads something it does not expect may drop the exchange, so the block stays with what units in use are
known to take: LF between lines, none after the last, unknown keys ignored, both families of resume marks.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from protocol.adms.errors import BadOption, BadTime

#: With it a terminal stays clear of encryption, whose key exchange is not public.
PROTOCOL_VERSION = "2.2.14"
_HOUR = 60


def options_block(
    serial: str,
    *,
    stamps: Mapping[str, str | None],
    time_zone_offset: timedelta | None,
    delay: int,
    error_delay: int,
    realtime: bool = True,
    ask_for_data: bool = True,
    ask_for_users: bool = False,
) -> bytes:
    """The reply to a handshake.

    `stamps` by table (ATTLOG, OPERLOG, ATTPHOTO): what the terminal said last and we stored, None or absent for a new
    one, which then sends all it holds. `delay` between polls and `error_delay` after a failure are in seconds. Only
    punches and the operation log are asked for, never photos or templates; with `ask_for_data` off nothing is, for
    terminals that nobody has claimed; without a `time_zone_offset` their clock is left alone. With
    `ask_for_users` only users are asked for. BadOption when a value would end its line early.
    """
    marks = {table: stamps.get(table) or "None" for table in ("ATTLOG", "OPERLOG", "ATTPHOTO")}
    options = {
        "ATTLOGStamp": marks["ATTLOG"],
        "OPERLOGStamp": marks["OPERLOG"],
        "ATTPHOTOStamp": marks["ATTPHOTO"],
        # The names before protocol 2.0.3.
        "Stamp": marks["ATTLOG"],
        "OpStamp": marks["OPERLOG"],
        "PhotoStamp": marks["ATTPHOTO"],
        "ErrorDelay": str(error_delay),
        "Delay": str(delay),
    }
    if ask_for_data:
        options |= {"TransTimes": "00:00;14:05", "TransInterval": "1", "TransFlag": "TransData AttLog\tOpLog"}
    elif ask_for_users:
        options |= {"TransTimes": "00:00;14:05", "TransInterval": "1", "TransFlag": "TransData OpLog\tEnrollUser"}
    else:
        options |= {"TransInterval": "0", "TransFlag": "TransData"}
    if time_zone_offset is not None:
        options["TimeZone"] = str(time_zone(time_zone_offset))
    options |= {
        "Realtime": "1" if realtime and (ask_for_data or ask_for_users) else "0",
        "ServerVer": PROTOCOL_VERSION,
        "PushProtVer": PROTOCOL_VERSION,
        "PushOptionsFlag": "1",
        "SupportPing": "1",
        "Encrypt": "None",
    }
    if not all(value.isprintable() for value in (serial, *marks.values())):
        raise BadOption("An option holds no control characters.")
    return "\n".join([f"GET OPTION FROM: {serial}", *(f"{key}={value}" for key, value in options.items())]).encode()


def time_zone(offset: timedelta) -> int:
    """The `TimeZone` option: whole hours up to 12 either way, else minutes. There is no daylight saving in it.

    13 and 14 hours go as minutes, because hours end at 12; a fraction of the first hour, which would be read as hours,
    is rounded to the nearest hour.
    """
    minutes = round(offset / timedelta(minutes=1))
    if minutes % _HOUR == 0 and abs(minutes) <= 12 * _HOUR:
        return minutes // _HOUR
    return minutes if abs(minutes) > _HOUR else round(minutes / _HOUR)


def ok(records: int | None = None) -> bytes:
    """`OK: <n>` for an upload whose n records are stored, bare `OK` for everything else."""
    return b"OK" if records is None else b"OK: %d" % records


def time_reply(at: datetime) -> bytes:
    """The reply to `type=time`: the aware `at`, in the terminal's zone. BadTime without an offset."""
    if at.utcoffset() is None:
        raise BadTime("A time without offset says nothing to a terminal.")
    return f"Time={at.isoformat(timespec='seconds')}".encode()
