"""A command's line, and what the terminal says of it."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.adms import codes, commands
from protocol.adms.commands import CommandResult, command_line, read_results, write
from protocol.adms.errors import BadCommand, CommandNotSupported


@pytest.mark.parametrize(
    ("body", "results"),
    [
        (b"ID=1&Return=0&CMD=DATA", [CommandResult("1", 0, "DATA")]),
        (b"id=1&return=-1002&cmd=USER ADD\r\n", [CommandResult("1", -1002, "USER ADD")]),
        (
            b"\n\nID=1&Return=0&CMD=DATA\n\nID=2&Return=1&CMD=LOG\n",
            [CommandResult("1", 0, "DATA"), CommandResult("2", 1, "LOG")],
        ),
        (b"Return=0&CMD=DATA&ID=cmd_7", [CommandResult("cmd_7", 0, "DATA")]),
        (b"ID=1&Return=&CMD=DATA", [CommandResult("1", None, "DATA")]),
        (b"ID=1&Return=ok&CMD=DATA", [CommandResult("1", None, "DATA")]),
        (b"ID=1&Return=1_0&CMD=DATA", [CommandResult("1", None, "DATA")]),
        (b"ID=1&CMD=DATA", [CommandResult("1", None, "DATA")]),
        (b"ID=&Return=0&CMD=DATA", []),
        (b"ID=" + b"1" * 65 + b"&Return=0&CMD=DATA", []),
        (b"ID=a\x1bb&Return=0&CMD=DATA", []),
        (b"Return=0\nCMD=DATA", []),
        (b"", []),
        (
            b"ID=1&Return=0&CMD=VERIFY SUM&StartTime=a b&AttlogSum=9",
            [CommandResult("1", 0, "VERIFY SUM", attributes={"StartTime": "a b", "AttlogSum": "9"})],
        ),
        (
            b"ID=1&Return=0&CMD=INFO\r\n~DeviceName=X\r\nURL=a=b&c=d\r\nID=2&Return=0&CMD=CHECK",
            [
                CommandResult("1", 0, "INFO", attributes={"~DeviceName": "X", "URL": "a=b&c=d"}),
                CommandResult("2", 0, "CHECK"),
            ],
        ),
        (
            b"ID=32\nReturn=0\nCMD=Shell\nSN=X1\nFILENAME=shellout.txt\nContent=a\nID=9&Return=0\n\n",
            [CommandResult("32", 0, "Shell", b"a\nID=9&Return=0", {"SN": "X1", "FILENAME": "shellout.txt"})],
        ),
        (
            b"ID=33\r\nReturn=5\r\nCMD=GetFile\r\nContent=\xff\0\n\r\n",
            [CommandResult("33", 5, "GetFile", b"\xff\0\n\r\n")],
        ),
    ],
)
def test_results_come_one_a_line_or_spread_over_lines(body: bytes, results: list[CommandResult]) -> None:
    assert list(read_results(body)) == results


@pytest.mark.parametrize(
    ("code", "cmd", "succeeded"),
    [
        (0, "DATA", True),
        (12, "DATA", True),
        (-1, "DATA", False),
        (None, "DATA", None),
        (0, "ENROLL_FP", True),
        (6, "ENROLL_FP", False),
        (6, "enroll_bio", False),
    ],
)
def test_a_command_succeeded_only_if_the_terminal_said_so(code: int | None, cmd: str, succeeded: bool | None) -> None:
    assert CommandResult("1", code, cmd).succeeded is succeeded


def test_a_command_is_one_line() -> None:
    assert command_line("7", "REBOOT") == b"C:7:REBOOT"
    assert (
        command_line("7a", "DATA UPDATE USERINFO", {"PIN": "0012", "Name": "Bö Example", "Card": ""})
        == b"C:7a:DATA UPDATE USERINFO PIN=0012\tName=B\xc3\xb6 Example\tCard="
    )


CONTROL = ["\t", "\n", "\r", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("control", CONTROL)
def test_a_control_character_in_any_part_of_a_command_is_refused(control: str) -> None:
    smuggled = f"Ann{control}C:8:CLEAR DATA"

    with pytest.raises(BadCommand):
        command_line("7", f"DATA UPDATE USERINFO Name={smuggled}")
    with pytest.raises(BadCommand):
        command_line("7", "DATA UPDATE USERINFO", {"Name": smuggled})
    with pytest.raises(BadCommand):
        command_line("7", "DATA UPDATE USERINFO", {smuggled: "1"})


@pytest.mark.parametrize("command_id", ["", "1" * 17, "a_b", "1\n", "1:2", "é", "٣", " 1"])
def test_a_command_id_is_short_and_plain(command_id: str) -> None:
    with pytest.raises(BadCommand):
        command_line(command_id, "INFO")


@pytest.mark.parametrize(
    ("text", "fields"), [("", {}), (" ", {}), ("DATA", {"": "1"}), ("DATA", {"a=b": "1"}), ("DATA", {"a": "\ud800"})]
)
def test_a_command_that_cannot_be_said_is_refused(text: str, fields: dict[str, str]) -> None:
    with pytest.raises(BadCommand):
        command_line("7", text, fields)


NINE, TEN = datetime(2026, 3, 2, 9), datetime(2026, 3, 2, 10, 0, 1)  # noqa: DTZ001  a wall has no zone
LINES: list[tuple[commands.Command, str | None, str | None]] = [
    (commands.Reboot(), "REBOOT", "CONTROL DEVICE 03000000"),
    (commands.RefreshInfo(), "INFO", "INFO"),
    (commands.UploadNow(), "LOG", "LOG"),
    (commands.Check(), "CHECK", "CHECK"),
    (commands.SyncTime(NINE), "SET OPTIONS DateTime=2026-03-02 09:00:00", "SET OPTIONS DateTime=841136400"),
    (commands.UnlockDoor(), "AC_UNLOCK", "CONTROL DEVICE 01010105"),
    (
        commands.EnrollFingerprint("0042", 6, overwrite=True),
        "ENROLL_FP PIN=0042\tFID=6\tRETRY=3\tOVERWRITE=1",
        None,
    ),
    (
        commands.Backfill(NINE, TEN),
        "DATA QUERY ATTLOG StartTime=2026-03-02 09:00:00\tEndTime=2026-03-02 10:00:01",
        None,
    ),
    (
        commands.CountPunches(NINE, TEN),
        "VERIFY SUM ATTLOG StartTime=2026-03-02 09:00:00\tEndTime=2026-03-02 10:00:01",
        None,
    ),
    (commands.ResendAfter(4711), None, "ACCOUNT transaction MaxIndex=4711"),
    (
        commands.WriteUser("0042", "Zoë", "", commands.ADMINISTRATOR),
        "DATA UPDATE USERINFO PIN=0042\tName=Zoë\tPri=14\tCard=",
        "DATA UPDATE user Pin=0042\tName=Zoë\tPrivilege=14\tCardNo=",
    ),
    (
        commands.WriteUser("0042"),
        "DATA UPDATE USERINFO PIN=0042\tPri=0",
        "DATA UPDATE user Pin=0042\tPrivilege=0",
    ),
    (commands.DeleteUser("0042"), "DATA DELETE USERINFO PIN=0042", "DATA DELETE user Pin=0042"),
    (
        commands.QueryUsers("0042"),
        "DATA QUERY USERINFO PIN=0042",
        "DATA QUERY tablename=user,fielddesc=*,filter=Pin=0042",
    ),
    (commands.QueryUsers(), "DATA QUERY USERINFO", "DATA QUERY tablename=user,fielddesc=*,filter=*"),
]


@pytest.mark.parametrize(("command", "attendance", "security"), LINES)
def test_a_command_is_spelled_in_the_dialect_of_its_terminal(
    command: commands.Command, attendance: str | None, security: str | None
) -> None:
    for spelled, in_security in ((attendance, False), (security, True)):
        if spelled is None:
            with pytest.raises(CommandNotSupported):
                write("7", command, security=in_security)
        else:
            assert write("7", command, security=in_security) == f"C:7:{spelled}".encode()


def test_a_door_of_a_controller_is_told_in_hexadecimal() -> None:
    assert write("7", commands.UnlockDoor(12, 254), security=True) == b"C:7:CONTROL DEVICE 010C01FE"
    with pytest.raises(CommandNotSupported):
        write("7", commands.UnlockDoor(2))


@pytest.mark.parametrize(
    "command",
    [
        commands.UnlockDoor(0),
        commands.UnlockDoor(256),
        commands.UnlockDoor(1, 0),
        commands.UnlockDoor(1, 255),  # the terminals' word for "for ever"
        commands.EnrollFingerprint("1", 10),
        commands.EnrollFingerprint("1", -1),
        commands.EnrollFingerprint("1\t2"),
        commands.DeleteUser("1,2"),
        commands.ResendAfter(-1),
        commands.ResendAfter(2**63),
        commands.QueryUsers(""),
        commands.WriteUser("1", "Ann\tPri=14"),
        commands.WriteUser("1", "Ann", "1\nC:8:CLEAR DATA"),
    ],
)
@pytest.mark.parametrize("security", [False, True])
def test_a_value_out_of_its_range_is_refused(command: commands.Command, security: bool) -> None:
    with pytest.raises((BadCommand, CommandNotSupported)):
        write("7", command, security=security)


#: Root on the terminal, its files, the network it might be sent to, and the only copy of what was not acknowledged.
FORBIDDEN = re.compile(
    r"SHELL|GETFILE|PUTFILE|UPGRADE|CLEAR|DELETE\s+ATTLOG|DELETE\s+transaction|://|DEL_|FORMAT|CONTROL DEVICE 0[24]",
    re.IGNORECASE,
)


def test_nothing_that_can_be_said_runs_a_shell_touches_files_or_clears_what_the_terminal_holds() -> None:
    for kind in get_args(commands.Command):
        assert kind in {type(command) for command, *_ in LINES}, "a command whose line nobody looks at"
    for command, *_ in LINES:
        for security in (False, True):
            with suppress(CommandNotSupported):
                assert not FORBIDDEN.search(write("7", command, security=security).decode())


#: Any text at all, with what would end a line or a field in it more often than chance puts it there.
TYPED = st.text(st.characters() | st.sampled_from("\t\n\r\0\x1b\x85\u2028"), max_size=40)


@given(TYPED, st.none() | TYPED, st.none() | TYPED, st.integers(-300, 300), st.booleans())
def test_whatever_the_values_a_command_stays_the_one_it_was(
    pin: str, name: str | None, card: str | None, number: int, security: bool
) -> None:
    for command in (
        commands.WriteUser(pin, name, card),
        commands.DeleteUser(pin),
        commands.QueryUsers(pin),
        commands.EnrollFingerprint(pin, number),
        commands.UnlockDoor(number, number),
    ):
        with suppress(BadCommand, CommandNotSupported):
            line = write("7", command, security=security).decode()
            assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]", line)
            assert line.startswith(
                ("C:7:DATA UPDATE", "C:7:DATA DELETE", "C:7:DATA QUERY", "C:7:ENR", "C:7:AC_", "C:7:CON")
            )
            if isinstance(command, commands.WriteUser):
                assert line.count("\t") == 1 + (name is not None) + (card is not None)


@pytest.mark.parametrize("charset", sorted({"utf-8", *codes.CODE_PAGES.values()}))
def test_a_name_goes_to_the_terminal_in_its_code_page(charset: str) -> None:
    names = {"windows-1256": "محمد", "gb18030": "王小明", "windows-1251": "Анна"}
    name = names.get(charset, "Anna")

    line = commands.write("7", commands.WriteUser("17", name, None, 0), charset=charset)

    assert line.decode(charset) == f"C:7:DATA UPDATE USERINFO PIN=17\tName={name}\tPri=0"


@given(st.text(max_size=20), st.sampled_from(sorted(set(codes.CODE_PAGES.values()))))
def test_in_no_code_page_a_name_becomes_another_field_or_another_command(name: str, charset: str) -> None:
    try:
        line = commands.write("7", commands.WriteUser("17", name, None, 0), charset=charset)
    except BadCommand:
        return

    assert line.count(b"\t") == 2
    assert not set(line) & {*range(9), *range(10, 32), 127}
