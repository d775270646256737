"""Every record survives both directions; what could not be read back is not written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.adms.commands import CommandResult, read_results
from protocol.adms.errors import BadRecord
from protocol.adms.records import (
    BIOMETRIC,
    AttPhoto,
    Keyed,
    OperLog,
    Photo,
    Template,
    UserInfo,
    read_options,
    read_photo,
    read_tagged,
)
from protocol.adms.requests import DeviceInfo, read_info
from protocol.adms.writers import write_info, write_options, write_photo, write_result, write_tagged

NINE = datetime(2026, 3, 2, 9)  # noqa: DTZ001
#: Text that needs nothing from its writer, and text that may.
PLAIN = st.text(st.characters(categories=["L", "N"]), max_size=12)
ODD = st.text(max_size=12)
KEYS = st.from_regex(r"[A-Za-z]{1,12}", fullmatch=True)
TIMES = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(lambda at: at.replace(microsecond=0, fold=0))  # noqa: DTZ001


def keyed(values: st.SearchStrategy[str]) -> st.SearchStrategy[Keyed]:
    """A user, a template, a photo in a line, or a line with a tag that nobody knows."""
    fields = st.dictionaries(KEYS, values, min_size=1, max_size=6)
    photos = ["USERPIC", "BIOPHOTO"]
    templates = sorted(BIOMETRIC.difference(photos, ["ATTPHOTO"]))
    return st.one_of(
        st.builds(UserInfo, st.sampled_from(["USER", "USERINFO"]), fields),
        st.builds(Photo, st.sampled_from(photos), fields),
        st.builds(Template, st.sampled_from(templates), fields),
        st.builds(Keyed, st.sampled_from(["ERRORLOG", "IDCARD", "WORKCODE"]), fields),
    )


def operations(values: st.SearchStrategy[str]) -> st.SearchStrategy[OperLog]:
    objects = st.lists(values, max_size=4).map(tuple)
    return st.builds(OperLog, st.integers(0, 2**31 - 1), values, TIMES, objects, st.just(b""))


@settings(deadline=None)
@given(keyed(PLAIN))
def test_a_keyed_line_survives_both_directions(record: Keyed) -> None:
    line = write_tagged(record)

    assert read_tagged("OPERLOG", line + b"\r\n").records == [record]


@settings(deadline=None)
@given(operations(PLAIN.filter(bool)))
def test_an_operation_survives_both_directions(log: OperLog) -> None:
    line = write_tagged(log)

    [read] = read_tagged("OPERLOG", line + b"\n").records
    assert isinstance(read, OperLog)
    assert (read.operation, read.admin, read.wall_time, read.objects) == (
        log.operation,
        log.admin,
        log.wall_time,
        log.objects,
    )
    assert read.raw == line


@settings(deadline=None)
@given(st.binary(max_size=60), st.booleans(), st.none() | PLAIN, st.none() | PLAIN)
def test_a_photo_survives_both_directions(
    image: bytes, of_somebody: bool, serial: str | None, command: str | None
) -> None:
    file, pin = ("20260302090000-17.jpg", "17") if of_somebody else ("20260302090000.jpg", None)
    photo = AttPhoto(file, serial, str(len(image)), command, NINE, pin, image)

    assert read_photo(write_photo(photo)) == photo


@given(st.dictionaries(st.from_regex(r"~?[A-Za-z0-9]{1,12}", fullmatch=True), PLAIN, max_size=8))
def test_options_survive_both_directions(options: dict[str, str]) -> None:
    assert read_options(write_options(options)) == options


@given(st.lists(PLAIN, min_size=1, max_size=13))
def test_what_a_first_poll_says_survives_both_directions(values: list[str]) -> None:
    info = read_info(",".join(values))

    assert read_info(write_info(info)) == info
    assert write_info(info) == ",".join(values)


@settings(deadline=None)
@given(
    st.from_regex(r"[0-9]{1,10}", fullmatch=True),
    st.none() | st.integers(-(2**31), 2**31 - 1),
    st.sampled_from(["DATA", "INFO", "SHELL", "CONTROL DEVICE", "ENROLL_FP"]),
    st.none() | st.binary(max_size=40),
    st.dictionaries(KEYS.map(lambda key: f"x{key}"), PLAIN, max_size=3),
)
def test_a_result_survives_both_directions(
    number: str, code: int | None, cmd: str, content: bytes | None, attributes: dict[str, str]
) -> None:
    if cmd == "SHELL" and content is not None:
        content = content.rstrip(b"\r\n\0")
    result = CommandResult(number, code, cmd, content, attributes)

    assert read_results(write_result(result)) == (result,)


@settings(deadline=None)
@given(keyed(ODD) | operations(ODD))
def test_whatever_the_values_a_line_stays_the_one_it_was(record: Keyed | OperLog) -> None:
    with suppress(BadRecord):
        assert len(read_tagged("OPERLOG", write_tagged(record)).records) == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda: write_tagged(UserInfo("USER", {"PIN": "1\tName=2"})),
        lambda: write_tagged(UserInfo("USER", {"PIN": "1\nUSER PIN=2"})),
        lambda: write_tagged(UserInfo("USER", {})),
        lambda: write_tagged(OperLog(4, "0", NINE, ("1\t2",), b"")),
        lambda: write_photo(AttPhoto("", None, None, None, None, None, b"")),
        lambda: write_photo(AttPhoto("a.jpg\nSN=X", None, None, None, None, None, b"")),
        lambda: write_options({"a": "1,b=2"}),
        lambda: write_info(DeviceInfo(("1,2",))),
        lambda: write_result(CommandResult("1&Return=0", None, "DATA")),
    ],
)
def test_what_could_not_be_read_back_is_not_written(write: Callable[[], Any]) -> None:
    with pytest.raises(BadRecord):
        write()
