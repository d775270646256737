"""A command's line, and what the terminal says of it."""

from __future__ import annotations

import pytest

from protocol.adms.commands import CommandResult, command_line, read_results
from protocol.adms.errors import BadCommand


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
