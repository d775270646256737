"""Our answers, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from protocol.adms.errors import BadOption, BadTime
from protocol.adms.replies import ok, options_block, time_reply, time_zone


def test_a_known_terminal_is_told_where_it_was() -> None:
    stamps = {"ATTLOG": "82983982", "OPERLOG": "9238883", "ATTPHOTO": None}

    block = options_block("X1", stamps=stamps, time_zone_offset=timedelta(hours=8), delay=10, error_delay=30)

    assert block == (
        b"GET OPTION FROM: X1\n"
        b"ATTLOGStamp=82983982\nOPERLOGStamp=9238883\nATTPHOTOStamp=None\n"
        b"Stamp=82983982\nOpStamp=9238883\nPhotoStamp=None\n"
        b"ErrorDelay=30\nDelay=10\n"
        b"TransTimes=00:00;14:05\nTransInterval=1\nTransFlag=TransData AttLog\tOpLog\n"
        b"TimeZone=8\nRealtime=1\n"
        b"ServerVer=2.2.14\nPushProtVer=2.2.14\nPushOptionsFlag=1\nSupportPing=1\nEncrypt=None"
    )


def test_an_unclaimed_terminal_is_asked_for_nothing() -> None:
    block = options_block(
        "X1", stamps={}, time_zone_offset=timedelta(), delay=60, error_delay=300, ask_for_data=False
    ).decode()

    options = dict(line.split("=", 1) for line in block.split("\n")[1:])
    assert (options["TransFlag"], options["TransInterval"], options["Realtime"]) == ("TransData", "0", "0")
    assert "TransTimes" not in options
    assert (options["ATTLOGStamp"], options["Stamp"]) == ("None", "None")


def test_realtime_can_be_off() -> None:
    block = options_block("X", stamps={}, time_zone_offset=timedelta(), delay=9, error_delay=30, realtime=False)

    assert b"\nRealtime=0\n" in block


@pytest.mark.parametrize("ask_for_data", [True, False])
def test_templates_and_photos_are_never_asked_for(ask_for_data: bool) -> None:
    block = options_block(
        "X", stamps={}, time_zone_offset=timedelta(), delay=9, error_delay=30, ask_for_data=ask_for_data
    )

    (flag,) = [line for line in block.split(b"\n") if line.startswith(b"TransFlag=")]
    assert not any(tag in flag for tag in (b"FP", b"FACE", b"Pic", b"Photo", b"FPImag", b"User", b"Bio"))


@pytest.mark.parametrize(("serial", "stamp"), [("X\n1", "1"), ("X1", "1\nEncrypt=1"), ("X1", "1\r"), ("X1", "1\t2")])
def test_an_option_cannot_smuggle_in_another(serial: str, stamp: str) -> None:
    with pytest.raises(BadOption):
        options_block(serial, stamps={"ATTLOG": stamp}, time_zone_offset=timedelta(), delay=9, error_delay=30)


@pytest.mark.parametrize(
    ("hours", "option"),
    [
        (0, 0), (1, 1), (8, 8), (12, 12), (13, 780), (14, 840), (-5, -5), (-12, -12), (5.5, 330), (5.75, 345),
        (-3.5, -210), (12.75, 765), (0.5, 0), (-0.75, -1), (1.5, 90),
    ],
)  # fmt: skip
def test_the_zone_is_whole_hours_up_to_twelve_and_minutes_beyond(hours: float, option: int) -> None:
    assert time_zone(timedelta(hours=hours)) == option


def test_ok_counts_what_was_kept_and_ends_without_a_newline() -> None:
    assert (ok(9), ok(0), ok()) == (b"OK: 9", b"OK: 0", b"OK")


def test_the_time_is_told_with_its_offset_and_whole_seconds() -> None:
    at = datetime(2026, 3, 1, 3, 30, 5, 999999, tzinfo=UTC).astimezone(ZoneInfo("Asia/Kolkata"))

    assert time_reply(at) == b"Time=2026-03-01T09:00:05+05:30"
    with pytest.raises(BadTime):
        time_reply(at.replace(tzinfo=None))
