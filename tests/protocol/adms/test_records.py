"""Lines, bodies, photos and options: what is read, what is kept as unreadable and why, what may be stored."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.adms import codes, records
from protocol.adms.errors import BadPhoto, BadRecord
from protocol.adms.records import (
    AttLog,
    Columns,
    OperLog,
    Template,
    UnreadableLine,
    UserInfo,
    _careful,
    _is_plain,
    answers_with_count,
    count_records,
    decode,
    is_biometric,
    name_columns,
    pieces,
    read_attlog,
    read_options,
    read_photo,
    read_tagged,
    redact,
    write_attlog,
)

NINE = datetime(2026, 3, 1, 9, 0, 0)  # noqa: DTZ001
LINE = b"17\t2026-03-01 09:00:00\t0\t1\t0\t0\t0"
LOG = AttLog("17", NINE, 0, 1, "0", ("0", "0"), raw=LINE)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0\n", b"\r\n\0", b"\0\r\n", b""])
def test_a_line_ends_with_any_mix_of_cr_lf_and_nul(end: bytes) -> None:
    batch = read_attlog(b"\n" + LINE + end)

    assert batch.records == [LOG]
    assert (batch.unreadable, batch.skipped, batch.record_count) == ([], 0, 1)


def test_two_lines_of_one_person_one_second_apart_are_two_records() -> None:
    batch = read_attlog(b"17\t2026-03-01 09:00:00\t0\t1\r\n17\t2026-03-01 09:00:01\t0\t1\r\n")

    assert [log.wall_time.second for log in batch.records] == [0, 1]


@pytest.mark.parametrize(
    ("line", "log"),
    [
        (b"17\t2026-03-01 09:00:00", AttLog("17", NINE)),
        (b"17\t2026-03-01T09:00:00\t0\t1\t", AttLog("17", NINE, 0, 1, trailing_tab=True)),
        (b"17\t2026-03-01 09:00:00\t\t\t\t", AttLog("17", NINE, None, None, "", trailing_tab=True)),
        (b"0017\t2026-03-01 09:00:00\t255\t15\t", AttLog("0017", NINE, 255, 15, trailing_tab=True)),
        (b"A-7\t2026-03-01 09:00:00\t1", AttLog("A-7", NINE, 1)),
        (b"17\t2026-03-01 09:00:00\t-1\t300", AttLog("17", NINE, -1, 300)),
        (b"17\t2026-03-01 09:00:00\t 1\t01", AttLog("17", NINE, 1, 1)),
        (b"17\t 2026-03-01 09:00:00 \t2147483647\t-2147483648", AttLog("17", NINE, 2**31 - 1, -(2**31))),
        (b"17\t2000-01-01 00:00:00\t0\t1", AttLog("17", datetime(2000, 1, 1), 0, 1)),  # noqa: DTZ001
        (b"17\t9999-12-31 23:59:59\t0\t1", AttLog("17", datetime(9999, 12, 31, 23, 59, 59), 0, 1)),  # noqa: DTZ001
        (b"PIN=17\tDateTime=2026-03-01 09:00:00\tVerified=15\tStatus=1", AttLog("17", NINE, 1, 15)),
        (b"pin=17\tSTATUS=1\tDateTime=2026-03-01T09:00:00", AttLog("17", NINE, 1, None)),
        (
            b"PIN=17\tDateTime=2026-03-01 09:00:00\tStatus=1\tWorkCode=9\tMask=1\t",
            AttLog("17", NINE, 1, None, "9", ("Mask=1",), trailing_tab=True),
        ),
    ],
)
def test_only_pin_and_time_have_to_be_there(line: bytes, log: AttLog) -> None:
    assert read_attlog(line).records == [log._replace(raw=line)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\t2026-03-01 09:00:00\t0\t1", "no PIN"),
        (b"  \t2026-03-01 09:00:00\t0\t1\t0", "no PIN"),
        (b"\t\t", "no PIN"),
        (b"1" * 65 + b"\t2026-03-01 09:00:00\t0\t1\t0", "PIN longer than 64 characters"),
        (b"1\x1b7\t2026-03-01 09:00:00\t0\t1\t0", "PIN contains control characters"),
        (b"1\r7\t2026-03-01 09:00:00\t0\t1\t0", "PIN contains control characters"),
        ("1\u009f7\t2026-03-01 09:00:00\t0\t1\t0".encode(), "PIN contains control characters"),
        (b"17", "no time"),
        (b"17\t\t0\t1", "no time"),
        (b"17\t2026-03-01\t0\t1\t0", "time is not YYYY-MM-DD hh:mm:ss"),
        (b"17\t2026-W31-4 09:00:00\t0\t1\t0", "time is not YYYY-MM-DD hh:mm:ss"),
        (b"17\t2026-03-01 09:00+01\t0\t1\t0", "time is not YYYY-MM-DD hh:mm:ss"),
        (b"17\t20260301T090000.000\t0\t1\t0", "time is not YYYY-MM-DD hh:mm:ss"),
        (b"17\t2026-03-01 24:00:00\t0\t1\t0", "time is not YYYY-MM-DD hh:mm:ss"),
        (b"17\t2026-03-01T24:00:00\t0\t1\t0", "time is not YYYY-MM-DD hh:mm:ss"),
        (b"17\t2026-03-01 09:00:00.5\t0\t1\t0", "time is not YYYY-MM-DD hh:mm:ss"),
        (b"17\t2000-00-00 00:00:00\t0\t1\t0", "no such time in the calendar"),
        (b"17\t2026-13-01 09:00:00\t0\t1\t0", "no such time in the calendar"),
        (b"17\t2026-02-30 09:00:00\t0\t1\t0", "no such time in the calendar"),
        (b"17\t2026-03-01 09:00:60\t0\t1\t0", "no such time in the calendar"),
        (b"17\t2026-03-01 09:00:00\tin\t1\t0", "punch state is not a number"),
        (b"17\t2026-03-01 09:00:00\t1_0\t1\t0", "punch state is not a number"),
        ("17\t2026-03-01 09:00:00\t٣\t1\t0".encode(), "punch state is not a number"),
        (b"17\t2026-03-01 09:00:00\t0\t1.0\t0", "verify mode is not a number"),
        (b"17\t2026-03-01 09:00:00\t2147483648\t1\t0", "punch state does not fit 32 bits"),
        (b"17\t2026-03-01 09:00:00\t0\t-2147483649\t0", "verify mode does not fit 32 bits"),
        (b"17\t2026-03-01 09:00:00\t0\t1\t\x00\t0", "contains a NUL byte"),
        (LINE + b"\t0" * 2100, "longer than 4096 bytes"),
        (b"PIN=17\tDateTime=yesterday", "time is not YYYY-MM-DD hh:mm:ss"),
        (b"PIN=17\tStatus=1", "no time"),
        (b"time=2026-03-01 09:00:00\tpin=17\tevent=0", "time is not YYYY-MM-DD hh:mm:ss"),
    ],
)
def test_a_bad_line_is_kept_whole_with_a_reason_and_leaves_its_neighbours_alone(line: bytes, reason: str) -> None:
    batch = read_attlog(LINE + b"\n" + line + b"\n" + LINE + b"\n")

    assert batch.records == [LOG, LOG]
    assert batch.unreadable == [UnreadableLine(line, reason)]
    assert batch.record_count == 3


def test_headers_and_blank_lines_are_no_records() -> None:
    batch = read_attlog(b"TABLE=ATTLOG\n\n" + LINE + b"\n\r\n\0\ntable=attlog\n")

    assert batch.records == [LOG]
    assert (batch.skipped, batch.record_count) == (2, 1)


@pytest.mark.parametrize("body", [b"", b"\n", b"\0", b"\r\n\r\n"])
def test_nothing_is_no_record(body: bytes) -> None:
    assert read_attlog(body).record_count == 0


@pytest.mark.parametrize(
    ("code", "charset", "text"),
    [
        ("gehört".encode(), "utf-8", "gehört"),
        ("工号".encode("gb18030"), "gb18030", "工号"),
        (b"\xff\xfe", "latin-1", "ÿþ"),
    ],
)
def test_text_is_utf8_or_gb18030_or_a_flagged_guess(code: bytes, charset: str, text: str) -> None:
    batch = read_attlog(LINE + b"\n17\t2026-03-01 09:00:00\t0\t1\t" + code)

    assert [log.work_code for log in batch.records] == ["0", text]
    assert batch.charset == charset
    assert decode(code) == (text, charset)


def test_the_order_of_the_body_is_kept_whichever_way_a_line_is_read() -> None:
    pins = [*range(10)]
    body = b"".join(b"%d\t2026-03-01 09:00:00\t%s\t1\t0\n" % (pin, b"0" if pin % 2 else b"300") for pin in pins)

    assert [log.pin for log in read_attlog(body).records] == [str(pin) for pin in pins]


LINES = st.one_of(
    st.binary(max_size=60),
    st.text("0123456789-:. T\tPIN=\r\0é", max_size=60).map(str.encode),
    st.lists(
        st.one_of(
            st.sampled_from(["17", "", " ", "0", "255", "2026-03-01 09:00:00", "2026-03-01T24:00:00", "PIN=7"]),
            st.text("0123456789-:+W T", min_size=19, max_size=19),
        ),
        max_size=8,
    ).map(lambda columns: "\t".join(columns).encode()),
    st.just(LINE),
)


@settings(deadline=None, max_examples=500)
@given(st.lists(LINES, max_size=6))
@example([b"PIN=7\t2026-03-01 09:00:00\t0\t1\t0"])
def test_the_quick_way_and_the_careful_way_agree(lines: list[bytes]) -> None:
    body = b"\n".join(lines)

    batch = read_attlog(body)

    careful = [read for read, _ in map(_careful, body.split(b"\n")) if read is not None]
    assert batch.records == [read for read in careful if isinstance(read, AttLog)]
    assert batch.unreadable == [read for read in careful if isinstance(read, UnreadableLine)]
    assert count_records("ATTLOG", body) == batch.record_count


@pytest.mark.parametrize("midnight", [b"2026-03-01 24:00:00", b"2026-03-01T24:00:00"])
def test_hour_24_never_goes_the_quick_way(midnight: bytes) -> None:
    # Python from 3.13 on takes it for the next day's midnight, on which older ones and the terminal disagree.
    body = b"17\t" + midnight + b"\t0\t1\t0"

    assert not _is_plain(body, [body])
    assert _is_plain(LINE, [LINE])


CLOCK = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", re.ASCII)


@settings(deadline=None, max_examples=1000)
@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from("0129:-+.,ZTW ")), max_size=4))
def test_no_time_is_read_that_is_not_in_the_one_form(changes: list[tuple[int, str]]) -> None:
    clock = "2015-07-30 15:16:28"
    for place, letter in changes:
        clock = clock[:place] + letter + clock[place + 1 :]

    for log in read_attlog(f"17\t{clock}\t0\t1\t0".encode()).records:
        assert CLOCK.fullmatch(clock.strip())
        assert str(log.wall_time) == clock.strip().replace("T", " ")


COLUMN = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)
NUMBER = st.none() | st.integers(-(2**31), 2**31 - 1)
PIN = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=64).filter(
    lambda pin: not pin.upper().startswith("PIN=") and pin.isprintable()
)


@st.composite
def logs(draw: st.DrawFn) -> AttLog:
    work_code = draw(st.none() | COLUMN)
    extra = () if work_code is None else tuple(draw(st.lists(COLUMN, max_size=9)))
    ends_empty = (work_code == "" and not extra) or extra[-1:] == ("",)
    return AttLog(
        draw(PIN),
        draw(st.datetimes(max_value=datetime(9999, 12, 31))).replace(microsecond=0, fold=0),  # noqa: DTZ001
        draw(NUMBER),
        draw(NUMBER),
        work_code,
        extra,
        trailing_tab=ends_empty or draw(st.booleans()),
    )


@settings(deadline=None, max_examples=300)
@given(logs())
@example(AttLog("17", NINE, None, None, "", ("", ""), trailing_tab=True))
@example(AttLog("17", NINE, None, 1))
@example(AttLog("17", NINE))
def test_a_record_survives_both_directions(log: AttLog) -> None:
    line = write_attlog(log)

    assert read_attlog(line).records == [log._replace(raw=line)]
    assert write_attlog(log._replace(raw=line)) == line


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        b"1\t2026-08-20 11:27:27\t255\t15\t0\t0\t0\t0\t0\t0\t",
        b"1156\t2024-08-05 12:40:57\t1\t1\t\t0\t0\t",
        b"982\t2008-02-25 12:08:21\t1\t0",
    ],
)
def test_a_line_survives_both_directions(line: bytes) -> None:
    (log,) = read_attlog(line).records

    assert write_attlog(log) == line


@pytest.mark.parametrize(
    "log",
    [
        LOG._replace(pin="1\t7"),
        LOG._replace(pin="17\n18"),
        LOG._replace(pin=""),
        LOG._replace(pin="1" * 65),
        LOG._replace(work_code="1\n18\t2026-03-01 09:00:00"),
        LOG._replace(work_code="a\tb"),
        LOG._replace(work_code="", extra=()),
        LOG._replace(work_code=None, extra=("0",)),
        LOG._replace(extra=("\ud800",)),
        LOG._replace(state=2**31),
        LOG._replace(wall_time=NINE.replace(microsecond=1)),
    ],
)
def test_what_could_not_be_read_back_is_not_written(log: AttLog) -> None:
    with pytest.raises(BadRecord):
        write_attlog(log)


TEN = AttLog("1", NINE, 255, 15, "0", ("0", "0", "1", "36.6", "36.6"))
TWELVE = TEN._replace(extra=("0", "0", "255", "0", "0", "+28800", "e30="))
NINE_COLUMNS = TEN._replace(extra=("0", "0", "210000190001010000", "1"))


@pytest.mark.parametrize(
    ("log", "device_type", "pushver", "columns"),
    [
        (TEN, "att", "2.4.1", Columns(mask=1, temperature=36.6)),
        (TEN, None, "2.2.14", Columns(mask=1, temperature=36.6)),
        (TEN, "att", None, Columns()),
        (TEN, None, "2.0.1", Columns()),
        (TEN, "pid", "2.4.1", Columns()),
        (TEN._replace(extra=("0", "0", "0", "0", "0")), "att", "2.4.1", Columns()),
        (TEN._replace(extra=("0", "0", "255", "0", "0")), "att", "2.4.1", Columns()),
        (TEN._replace(extra=("0", "0", "0", "36.6", "0")), "att", "2.4.1", Columns(mask=0, temperature=36.6)),
        (TEN._replace(extra=("0", "0", "1", "", "")), "att", "2.4.1", Columns(mask=1)),
        (TEN._replace(extra=("0", "0", "x", "1e9", "")), "att", "2.4.1", Columns()),
        (TWELVE, "att", "2.4.2", Columns(utc_offset=timedelta(hours=8))),
        (TWELVE._replace(extra=(*TWELVE.extra[:5], "", "")), "att", "2.4.2", Columns()),
        (TWELVE._replace(extra=(*TWELVE.extra[:5], "99999", "")), "att", "2.4.2", Columns()),
        (NINE_COLUMNS, "pid", "2.4.0", Columns(id_number="210000190001010000", record_type=1)),
        (NINE_COLUMNS, "PID", "2.4.0", Columns(id_number="210000190001010000", record_type=1)),
        (NINE_COLUMNS, "att", "2.4.0", Columns()),
        (LOG, "att", "2.4.1", Columns()),
    ],
)
def test_late_columns_have_a_name_only_where_the_dialect_is_known(
    log: AttLog, device_type: str | None, pushver: str | None, columns: Columns
) -> None:
    assert name_columns(log, device_type, pushver) == columns


def test_only_record_type_one_is_an_identity_check() -> None:
    assert Columns(record_type=1).is_identity_check
    assert not Columns(record_type=0).is_identity_check
    assert not Columns().is_identity_check


OPERLOG = (
    b"OPLOG 4\t14\t2026-03-01 09:00:00\t1\t0\t0\n"
    b"USER PIN=7\tName=Ann  Example\tPasswd=secret\tCard=\n"
    b"FP Pin=7\tFID=0\tTMP=AAAA==\n"
    b"USERPIC PIN=7\tFileName=7.jpg\tContent=AAAA\n"
    b"SHOE Size=9\n"
    b"\r\n"
    b"nonsense\n"
    b"OPLOG 4\t14\tnever\t1\n"
    b"OPLOG x\t14\t2026-03-01 09:00:00\n"
    b"OPLOG 4\n"
    b"USER PIN=7\tjust text\n"
    b"USER PIN=7\tName=\0\t\n"
)


def test_an_operlog_body_may_mix_kinds_and_nothing_of_it_is_lost() -> None:
    batch = read_tagged("OPERLOG", OPERLOG)

    first, user, template, *_ = batch.records
    assert first == OperLog(4, "14", NINE, ("1", "0", "0"), b"OPLOG 4\t14\t2026-03-01 09:00:00\t1\t0\t0")
    assert user == UserInfo("USER", {"PIN": "7", "Name": "Ann  Example", "Passwd": "secret", "Card": ""})
    assert template == Template("FP", {"Pin": "7", "FID": "0", "TMP": "AAAA=="})
    assert [record.kind for record in batch.records[3:] if not isinstance(record, OperLog)] == ["USERPIC", "SHOE"]
    assert [line.reason for line in batch.unreadable] == [
        "no tag",
        "time is not YYYY-MM-DD hh:mm:ss",
        "operation is not a number",
        "fewer than three columns",
        "a column without a key",
        "contains a NUL byte",
    ]
    assert batch.record_count == count_records("OPERLOG", OPERLOG) == 11


def test_keys_are_found_in_any_case_and_secrets_are_not_shown() -> None:
    user, template = read_tagged("OPERLOG", b"USER Pin=7\tPASSWD=secret\nFP PIN=7\ttmp=AAAA").records

    assert isinstance(user, UserInfo)
    assert isinstance(template, Template)
    assert (user.pin, template.pin, user.get("passwd"), user.get("Name")) == ("7", "7", "secret", None)
    assert "secret" not in repr(user)
    assert "AAAA" not in repr(template)


def test_a_table_without_tags_gives_its_name_to_its_lines() -> None:
    users = read_tagged("userinfo", b"TABLE=USERINFO\nPIN=7\tName=Ann Example\n").records

    assert users == [UserInfo("USERINFO", {"PIN": "7", "Name": "Ann Example"})]


@pytest.mark.parametrize(
    ("table", "body", "count"),
    [
        ("ATTLOG", b"a\nb\n\n\r\nTABLE=ATTLOG\nc", 3),
        ("attlog", b"\x1f\x8babc\nx", 2),
        ("OPERLOG", b"\x1f\x8babc\nx", 1),
        ("ATTPHOTO", b"PIN=1.jpg\nSN=1\nsize=2\nCMD=uploadphoto\0\n\n\n", 1),
        ("ATTPHOTO", b"", 0),
        ("ANYTHING", b"x\ny\0\r\n", 2),
    ],
)
def test_records_are_counted_without_being_understood(table: str, body: bytes, count: int) -> None:
    assert count_records(table, body) == count


def test_photos_and_options_are_answered_without_a_count() -> None:
    assert [table for table in ("ATTLOG", "OPERLOG", "attphoto", "options", "X") if not answers_with_count(table)] == [
        "attphoto",
        "options",
    ]


@pytest.mark.parametrize(
    "name", ["FP", "fp", "FACE", "FVEIN", "BIODATA", "BIOPHOTO", "USERPIC", "ATTPHOTO", "FINGERTMP"]
)
def test_templates_and_photos_are_biometric(name: str) -> None:
    assert is_biometric(name)


@pytest.mark.parametrize(
    "name", ["ATTLOG", "OPERLOG", "USER", "USERINFO", "OPLOG", "ERRORLOG", "IDCARD", "OPTIONS", ""]
)
def test_punches_people_and_operations_are_not_biometric(name: str) -> None:
    assert not is_biometric(name)


def test_what_may_be_kept_of_an_operlog_has_no_templates_and_no_passwords() -> None:
    body = (
        b"OPLOG 4\t14\t2026-03-01 09:00:00\t1\r\n"
        b"USER PIN=7\tPasswd=secret\tCard=1\r\n"
        b"FP PIN=7\tTMP=AAAA\r\nBBBB==\r\nCCCC\r\n"
        b"\r\n"
        b"USER PIN=8\tpasswd=hidden\r\n"
        b"NEWKIND PIN=7\tTmp=DDDD\r\n"
        b"face PIN=7\tVALID=1"
    )

    kept = redact("OPERLOG", body)

    assert kept.body == (
        b"OPLOG 4\t14\t2026-03-01 09:00:00\t1\r\nUSER PIN=7\tPasswd=\tCard=1\r\n\r\nUSER PIN=8\tpasswd=\r"
    )
    assert kept.discarded == 5
    assert count_records("OPERLOG", kept.body) + kept.discarded == count_records("OPERLOG", body)


@pytest.mark.parametrize(
    ("table", "body", "kept", "discarded"),
    [
        ("BIODATA", b"BIODATA Pin=1\tTmp=AA\nBIODATA Pin=2\tTmp=BB\n", b"", 2),
        ("ATTPHOTO", b"PIN=1.jpg\0\xff\xd8\xff\n\n", b"", 1),
        ("SOMETHING", b"header\n\xff\xd8\xff\xe0 JFIF", b"", 2),
        ("OPERLOG", b"\x1f\x8b\x08 archive", b"", 1),
        ("USERINFO", b"Passwd=1\tPIN=7\nPIN=8\tPassword=2", b"Passwd=\tPIN=7\nPIN=8\tPassword=", 0),
        ("OPTIONS", b"~DeviceName=X,MAC=1", b"~DeviceName=X,MAC=1", 0),
        ("ATTLOG", LINE, LINE, 0),
    ],
)
def test_what_may_be_kept_depends_on_the_table(table: str, body: bytes, kept: bytes, discarded: int) -> None:
    assert (redact(table, body).body, redact(table, body).discarded) == (kept, discarded)


@pytest.mark.parametrize(
    ("file", "wall_time", "pin"),
    [
        ("20260301090000-17.jpg", NINE, "17"),
        ("20260301090000.jpg", NINE, None),
        ("20260301090000-0-17-210000190001010000.jpg", NINE, "17"),
        ("20260301090000-A-7.jpg", NINE, "A-7"),
        ("20260230090000-17.jpg", None, "17"),
        ("whatever", None, None),
    ],
)
def test_a_photo_says_whose_and_when_by_its_file_name(file: str, wall_time: datetime | None, pin: str | None) -> None:
    photo = read_photo(b"PIN=%s\r\nSN=X1\r\nsize=4\r\nCMD=uploadphoto\0\xff\0\n\xd9" % file.encode())

    assert (photo.file, photo.wall_time, photo.pin) == (file, wall_time, pin)
    assert (photo.serial, photo.size, photo.command) == ("X1", "4", "uploadphoto")
    assert photo.image == b"\xff\0\n\xd9"


def test_a_photo_may_come_in_base64() -> None:
    photo = read_photo(b"PIN=20260301090000-17.jpg\nCMD=uploadphoto\npicture=/9j/4AA=")

    assert (photo.pin, photo.image) == ("17", b"/9j/4AA=")


@pytest.mark.parametrize("body", [b"", b"\0\xff\xd8\xff", b"SN=1\0x", b"PIN=\0x"])
def test_a_photo_of_nobody_knows_what_is_refused(body: bytes) -> None:
    with pytest.raises(BadPhoto):
        read_photo(body)


def test_an_option_may_hold_a_comma_and_an_equals_sign() -> None:
    options = read_options(b"Name=a,b,~Key=x=y,Empty=\r\nOther=1\0\n,lost")

    assert options == {"Name": "a,b", "~Key": "x=y", "Empty": "", "Other": "1"}


@settings(deadline=None)
@given(st.binary(max_size=400).map(lambda body: body.replace(b"\x80", b"\n")), st.integers(1, 50))
def test_a_body_cut_in_pieces_is_the_same_lines(body: bytes, size: int) -> None:
    cut = list(pieces(body, size))

    assert b"".join(cut) == body
    assert all(piece.endswith(b"\n") for piece in cut[:-1])
    assert sum(count_records("X", piece) for piece in cut) == count_records("X", body)


@pytest.mark.parametrize(
    ("charset", "language", "name"),
    [
        ("windows-1256", "66", "محمد علي"),
        ("windows-1256", "65", "پژمان"),
        ("windows-1251", "82", "Анна"),
        ("windows-1254", "116", "Çağrı"),
        ("gb18030", "83", "王小明"),
        ("cp932", "74", "佐藤"),
        ("cp949", "75", "김철수"),
        ("cp874", "76", "สมชาย"),
    ],
)
def test_a_name_is_read_in_the_code_page_of_the_terminals_language(charset: str, language: str, name: str) -> None:
    page = codes.CODE_PAGES[language]
    line = f"USER PIN=17\tName={name}\tPri=0"

    for sent in (charset, "utf-8"):
        batch = records.read_tagged("OPERLOG", line.encode(sent) + b"\n", page)
        [user] = batch.records
        assert isinstance(user, UserInfo)
        assert (user.get("Name"), batch.charset) == (name, page if sent == charset else "utf-8")


def test_what_a_code_page_lacks_becomes_a_question_mark() -> None:
    assert records.fitting("محمد 王", "windows-1256") == "محمد ?"
    assert records.fitting("Zoë 王", "utf-8") == "Zoë 王"


def test_nul_bytes_in_front_of_a_record_are_kept_with_it() -> None:
    line, user = b"\0\0" + b"17\t2026-03-01 09:00:00\t0\t1", b"\0OPLOG 4\t0\t2026-03-01 09:00:00\t0"

    for body in (line, line + b"\r\n", b"18\t2026-03-01 09:00:00\t0\t1\n" + line + b"\0\n"):
        assert read_attlog(body).unreadable == []
        assert read_attlog(body).records[-1].raw == line
        assert read_attlog(body).records[-1].pin == "17"
    assert [record.raw for record in read_tagged("OPERLOG", user + b"\n").records] == [user]  # type: ignore[union-attr]
    assert read_attlog(b"\0\0\r\n\0").record_count == 0
