"""Whatever the bytes are, a value comes back or an AdmsError."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.adms.clock import decode as decode_seconds
from protocol.adms.clock import instant, is_impossible
from protocol.adms.codes import direction, is_old, verify_mode
from protocol.adms.commands import command_line, read_results
from protocol.adms.errors import AdmsError
from protocol.adms.records import (
    Keyed,
    OperLog,
    count_records,
    name_columns,
    option,
    read_attlog,
    read_options,
    read_photo,
    read_tagged,
    redact,
    write_attlog,
)
from protocol.adms.replies import options_block
from protocol.adms.requests import Hello, Poll, Upload, endpoint_of, read_request
from tests.corpus import SAMPLES, Sample

# Bytes that mean something somewhere, so that chance finds its way past the first check.
WORDS = [
    b"\t", b"\n", b"\r", b"\0", b"=", b"&", b"%", b"%0", b"%00", b",", b" ", b"-", b"PIN=", b"ID=", b"Return=",
    b"CMD=", b"Content=", b"DateTime=", b"Status=", b"OPLOG ", b"USER ", b"FP ", b"TABLE=", b"SN=X1", b"table=",
    b"Stamp=", b"INFO=", b"2026-03-01 09:00:00", b"2026-02-30T24:60:61", b"99999999999", b"255", b"\xd9\xa3", b"\xff",
    b"\xed\xa0\x80", b"\x81", b"\x1f\x8b", b"\xff\xd8\xff", b"~", b"[", b"]", b"20260301090000-1.jpg", b"+28800",
    b"-210", b"1e9", b"nan", b"\xe2\x80\xa8",
]  # fmt: skip
SOUP = st.lists(st.sampled_from(WORDS) | st.binary(max_size=8), max_size=40).map(b"".join)
BYTES = SOUP | st.binary(max_size=300) | st.sampled_from([sample.body for sample in SAMPLES])
METHODS = st.sampled_from(["GET", "POST", "PUT", "", "post"])
ENDPOINTS = st.sampled_from(
    ["cdata", "getrequest", "devicecmd", "ping", "fdata", "registry", "push", "rtdata", "querydata", "x", ""]
)
QUERIES = st.builds(lambda soup: b"SN=X1&" + soup, SOUP) | BYTES

MANY = settings(deadline=None, max_examples=400)


@MANY
@given(METHODS, ENDPOINTS, QUERIES, BYTES)
def test_any_request_is_a_value_or_an_adms_error(method: str, endpoint: str, query: bytes, body: bytes) -> None:
    with suppress(AdmsError):
        request = read_request(method, endpoint, query, body)

        assert 0 < len(request.serial) <= 64
        if isinstance(request, Upload):
            assert request.table
            assert len(request.table) <= 64
            assert "\0" not in request.table
        if isinstance(request, Hello):
            assert all("\0" not in value for value in request.options.values())
        if isinstance(request, Upload) and request.stamp is not None:
            # A stamp goes back at the next handshake without being looked at again.
            options_block(
                request.serial, stamps={"ATTLOG": request.stamp}, time_zone_offset=timedelta(), delay=9, error_delay=30
            )
        if isinstance(request, Poll) and request.info is not None:
            assert request.info.values


@MANY
@given(BYTES)
@example(b"17\t0001-01-01 00:00:00\t0\t1")
@example(b"17\t9999-12-31 23:59:59\t0\t1\t0\t0\t0\t1\t999.9\t0\t99999\t")
def test_any_attlog_body_is_read_and_every_record_can_be_used(body: bytes) -> None:
    batch = read_attlog(body)

    assert batch.record_count == count_records("ATTLOG", body)
    for log in batch.records:
        assert 0 < len(log.pin) <= 64
        assert "\0" not in f"{log}"
        assert log.raw in body
        name_columns(log, "att", "2.4.2")
        name_columns(log, "pid", "2.4.2")
        direction(log.state)
        verify_mode(log.verify)
        instant(log.wall_time, ZoneInfo("Asia/Tokyo"))
        is_impossible(log.wall_time, datetime(2026, 3, 1))  # noqa: DTZ001
        with suppress(AdmsError):
            write_attlog(log)
    for line in batch.unreadable:
        assert line.raw in body
        assert line.reason


@MANY
@given(st.sampled_from(["OPERLOG", "USERINFO", "BIODATA", "OPTIONS", "ATTPHOTO", "rtlog", ""]), BYTES)
def test_any_other_body_is_read(table: str, body: bytes) -> None:
    batch = read_tagged(table, body)

    for record in batch.records:
        match record:
            case OperLog():
                assert "\0" not in record.admin
            case Keyed():
                assert record.fields
                assert "\0" not in "".join(record.fields.values())
    kept = redact(table, body)
    assert count_records("X", kept.body) <= count_records("X", body)
    option(read_options(body), "DeviceName")
    with suppress(AdmsError):
        read_photo(body)


@MANY
@given(BYTES)
def test_any_devicecmd_body_is_read(body: bytes) -> None:
    for result in read_results(body):
        assert 0 < len(result.id) <= 64
        assert result.succeeded in {True, False, None}


@MANY
@given(st.text(max_size=40), st.integers(), st.text(max_size=20), st.text(max_size=20))
def test_any_text_is_taken_or_refused(text: str, number: int, command_id: str, value: str) -> None:
    endpoint_of(text)
    is_old(text)
    with suppress(AdmsError):
        decode_seconds(number)
    with suppress(AdmsError):
        assert b"\n" not in command_line(command_id, text, {"Name": value})
    with suppress(AdmsError):
        options_block(text, stamps={"ATTLOG": value}, time_zone_offset=timedelta(), delay=9, error_delay=30)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.id)
def test_a_sample_cut_anywhere_is_still_read(sample: Sample) -> None:
    for end in range(len(sample.body) + 1):
        cut = sample.body[:end]
        assert read_attlog(cut).record_count == count_records("ATTLOG", cut)
        read_tagged("OPERLOG", cut)
        read_results(cut)
