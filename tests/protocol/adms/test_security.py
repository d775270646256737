"""Events of the security dialect: which of them are punches, how they are read, what is never raised."""

from __future__ import annotations

import itertools
from contextlib import suppress
from datetime import datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.adms.clock import encode
from protocol.adms.codes import Direction, VerifyMode
from protocol.adms.errors import AdmsError, BadOption, BadRecord
from protocol.adms.records import count_records
from protocol.adms.security import (
    AccessEvent,
    configuration,
    join,
    loose_ends,
    read_events,
    registered,
    time_reply,
    write_event,
)
from tests.protocol.adms.test_fuzz import BYTES

NINE = datetime(2026, 3, 2, 9)  # noqa: DTZ001


def event(text: str) -> AccessEvent:
    batch = read_events(text.encode())
    assert batch.unreadable == []
    [found] = batch.records
    return found


def passing(number: str, pin: str = "17") -> AccessEvent:
    return event(f"time=2026-03-02 09:00:00\tpin={pin}\tevent={number}\tinoutstatus=0\tverifytype=15\tindex=3")


@pytest.mark.parametrize("number", ["0", "1", "3", "14", "19", "203", "222", "232"])
def test_somebody_who_was_let_in_punched(number: str) -> None:
    assert (passing(number).is_punch, passing(number).is_guess) == (True, False)


@pytest.mark.parametrize(
    "number", ["8", "12", "20", "27", "68", "100", "199", "200", "206", "214", "255", "5001", "6003"]
)
def test_a_refusal_an_alarm_and_a_door_are_no_punches(number: str) -> None:
    assert not passing(number).is_punch


@pytest.mark.parametrize("number", ["5", "216", "4008", "300", "7000"])
def test_a_number_that_nobody_listed_is_a_punch_that_is_marked(number: str) -> None:
    assert (passing(number).is_punch, passing(number).is_guess) == (True, True)


@pytest.mark.parametrize("pin", ["", "0", "00"])
def test_nobody_punches_nothing(pin: str) -> None:
    assert (passing("0", pin).pin, passing("0", pin).is_punch) == (None, False)


def test_columns_come_in_any_order_and_in_any_number() -> None:
    found = event("PIN=0042\tInOutStatus=1\ttime=2026-03-02T09:00:00\tunheard=of\tmaskflag=0\ttemperature=36.6\r")

    assert (found.pin, found.wall_time, found.direction) == ("0042", NINE, Direction.CHECK_OUT)
    assert (found.event, found.index, found.verify) == (None, None, None)
    assert (found.temperature, found.mask) == (36.6, False)
    assert found.fields["unheard"] == "of"
    assert found.raw.endswith(b"36.6")


def test_neither_in_nor_out_is_no_direction() -> None:
    assert event("time=2026-03-02 09:00:00\tpin=1\tinoutstatus=2").direction == Direction.UNSPECIFIED


@pytest.mark.parametrize(
    ("bits", "mode"),
    [
        ("0000000000000010", VerifyMode.FACE),
        ("0000000000000111", VerifyMode.FACE),
        ("0000000000010000", VerifyMode.FINGERPRINT),
        ("0000100000000000", VerifyMode.CARD),
        ("0000001000000000", VerifyMode.PASSWORD),
        ("0000000000000000", VerifyMode.OTHER),
    ],
)
def test_verify_modes_may_come_as_bits(bits: str, mode: VerifyMode) -> None:
    found = event(f"time=2026-03-02 09:00:00\tpin=1\tverifytype={bits}")

    assert (found.verify, found.verify_mode) == (None, mode)


def test_a_row_of_the_table_of_transactions_is_the_same_event() -> None:
    row = event(
        f"transaction cardno=\tpin=17\tverified=15\teventtype=0\tinoutstate=0\ttime_second={encode(NINE)}\tindex=3"
    )
    log = passing("0")

    assert (row.pin, row.wall_time, row.state, row.index) == (log.pin, log.wall_time, log.state, log.index)
    assert (row.verify_mode, row.is_punch) == (log.verify_mode, True)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("pin=1\tevent=0", "no time"),
        ("time=2026-02-30 09:00:00\tpin=1", "no such time in the calendar"),
        ("time=2026-03-02 24:00:00\tpin=1", "time is not YYYY-MM-DD hh:mm:ss"),
        ("time_second=-1\tpin=1", "time is not a number of seconds"),
        ("time=2026-03-02 09:00:00\tpin=" + "9" * 65, "PIN longer than 64 characters"),
        ("time=2026-03-02 09:00:00\tpin=1\0", "contains a NUL byte"),
        ("time=2026-03-02 09:00:00\tx=" + "9" * 4096, "longer than 4096 bytes"),
        ("rubbish", "no time"),
    ],
)
def test_a_line_that_cannot_be_read_leaves_its_neighbours_alone(line: str, reason: str) -> None:
    good = "time=2026-03-02 09:00:00\tpin=1"

    batch = read_events(f"{good}\n{line}\x01\n{good}\r\n\0".replace("\x01", "" if "\0" not in line else "x").encode())

    assert [event.pin for event in batch.records] == ["1", "1"]
    assert [line.reason for line in batch.unreadable] == [reason]
    assert batch.record_count == 3


WORDS = st.text(
    st.characters(blacklist_categories=("C", "Zl", "Zp"), blacklist_characters="\t="), min_size=1, max_size=12
)


@settings(deadline=None)
@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2099, 1, 1)).map(lambda at: at.replace(microsecond=0)),  # noqa: DTZ001
    WORDS,
    st.dictionaries(WORDS.map(lambda word: f"x{word.strip().lower()}"), WORDS, max_size=5),
)
def test_an_event_survives_both_directions(at: datetime, pin: str, others: dict[str, str]) -> None:
    written = AccessEvent(at, {"time": str(at), "pin": pin, **others})
    try:
        raw = write_event(written)
    except BadRecord:
        return

    [read] = read_events(raw).records

    assert (read.wall_time, read.fields, read.raw) == (written.wall_time, written.fields, raw)


def test_a_value_that_would_end_its_column_is_not_written() -> None:
    with pytest.raises(BadRecord):
        write_event(AccessEvent(NINE, {"time": str(NINE), "pin": "1\tevent=0"}))


#: A compressed body is counted as one record, whatever its bytes look like.
GZIP = b"\x1f\x8b"


@settings(deadline=None, max_examples=400)
@given(BYTES)
@example(b"\x1f\x8b\n\t")
def test_any_body_of_events_is_read_and_each_can_be_used(body: bytes) -> None:
    batch = read_events(body)

    assert body[:2] == GZIP or batch.record_count <= count_records("RTLOG", body) + body.count(
        b"TABLE="
    ) + body.lower().count(b"table=")
    for found in batch.records:
        assert (found.is_punch, found.is_guess, found.direction, found.verify_mode) is not None
        assert found.index is None or 0 <= found.index < 10**18
        assert "\0" not in "".join(found.fields.values())
        with suppress(AdmsError):
            write_event(found)


def test_a_code_that_would_end_its_line_is_not_said() -> None:
    for code in ("", "a\nb", "a" * 33, "ü"):
        with pytest.raises(BadOption):
            registered(code)
        with pytest.raises(BadOption):
            configuration(code, version="3.0.1", delay=10, error_delay=30)


def test_the_time_is_told_with_half_hours_either_way() -> None:
    assert time_reply(NINE, 330).endswith(b",ServerTZ=+0530")
    assert time_reply(NINE, -210).endswith(b",ServerTZ=-0330")


ROWS = b"user uid=1\tpin=17\tpassword=4711\tname=Zo\xc3\xab\r\nuser uid=2\tpin=1234\tname=B\r\n"


@given(cuts=st.lists(st.integers(0, len(ROWS)), max_size=5))
def test_packets_that_are_cut_anywhere_give_the_text(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(ROWS)]

    assert join("user", [ROWS[start:end] for start, end in itertools.pairwise(ends)]) == ROWS


def test_packets_of_whole_rows_may_leave_out_their_last_line_end() -> None:
    rows = [b"user uid=1\tpin=1", b"USER uid=2\tpin=2\r\n\0", b"user uid=3\tpin=3\0"]

    assert join("user", rows) == b"user uid=1\tpin=1\nUSER uid=2\tpin=2\r\nuser uid=3\tpin=3"


@pytest.mark.parametrize(
    ("text", "head", "tail", "whole", "loose"),
    [
        (b"user uid=1\nuser uid=2\n", True, True, b"user uid=1\nuser uid=2\n", []),
        (b"user uid=1\nuser pin=12", False, True, b"user uid=1\n", [b"user pin=12"]),
        (b"user uid=1\nuser pin=12", False, False, b"user uid=1\nuser pin=12", []),
        (b"34\tname=B\r\nuser uid=3\n", True, False, b"user uid=3\n", [b"\tname=B"]),
        (b"ecret\tname=B\nuser uid=3", True, True, b"", [b"\tname=B", b"user uid=3"]),
        (b"ecret", True, True, b"", []),
        (b"", True, True, b"", []),
    ],
)
def test_what_may_be_part_of_a_row_is_told_from_rows(
    text: bytes, head: bool, tail: bool, whole: bytes, loose: list[bytes]
) -> None:
    assert loose_ends("user", text, head=head, tail=tail) == (whole, loose)


def test_of_an_event_without_its_beginning_all_is_kept() -> None:
    assert loose_ends("transaction", b"34\tevent=0\n", head=True, tail=False) == (b"", [b"34\tevent=0"])


def test_nul_bytes_in_front_of_an_event_are_kept_with_it() -> None:
    line = b"\0time=2026-03-02 09:00:00\tpin=17"

    batch = read_events(line + b"\r\n\0")

    assert [(found.raw, found.pin) for found in batch.records] == [(line, "17")]


@given(st.binary(max_size=80), st.booleans(), st.booleans())
@example(b"user uid=1\r\nuser pin=12", True, True)
def test_of_any_text_whole_rows_are_read_and_the_rest_is_kept(text: bytes, head: bool, tail: bool) -> None:
    rows, loose = loose_ends("transaction", text, head=head, tail=tail)

    assert text.find(rows) >= 0
    assert len(loose) <= head + tail
    told = rows + b"".join(loose)
    assert sorted(told.translate(None, b"\r\n\0")) == sorted(text.translate(None, b"\r\n\0"))
    if tail and rows:
        assert rows.endswith(b"\n")
