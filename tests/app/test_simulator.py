"""The terminals against a small server that can be told, upload by upload, how to misbehave."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from app import cli
from app.simulator import (
    AccessTerminal,
    MemoryUnusable,
    Options,
    Outcome,
    State,
    Terminal,
    UnknownScenario,
    Unreachable,
    memories,
    reach,
    simulate,
)
from bench.load import closed_loop
from tests.server import listen

FAST = 1_000.0  # ErrorDelay 30 s becomes 30 ms
OPTIONS = "ATTLOGStamp=None\nErrorDelay=30\nDelay=10\nRealtime=1\nTimeZone=0"
NINE = datetime(2026, 3, 2, 9, 0, 0)  # noqa: DTZ001 - a terminal's wall clock has no zone


@dataclass
class Request:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    head: str
    body: bytes
    connection: int  # the how-manieth accepted connection

    @property
    def lines(self) -> list[str]:
        return self.body.decode().splitlines()


@dataclass
class Server:
    """Acknowledges, unless `script` has something else in mind for the next upload.

    `503`, `403`, … answer that status; `html`, `json` and `redirect` are what a web page in the way answers; `swallow`
    reads and hangs up; `cut` hangs up in the middle of the answer; `silent` reads and never answers.
    """

    url: str = ""
    options: str = OPTIONS
    script: deque[str] = field(default_factory=deque)
    every_upload: str = "ok"
    result_script: deque[str] = field(default_factory=deque)
    greeting: str = "block"
    commands: deque[str] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    chunked: bool = False
    connections: int = 0

    @property
    def uploads(self) -> list[Request]:
        return [r for r in self.requests if r.query.get("table") == "ATTLOG"]

    @property
    def handshakes(self) -> list[Request]:
        return [r for r in self.requests if r.query.get("options") == "all"]

    @property
    def polls(self) -> list[Request]:
        return [r for r in self.requests if r.path.endswith("/getrequest")]

    @property
    def results(self) -> list[str]:
        return [r.body.decode() for r in self.requests if r.path.endswith("/devicecmd")]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, target, _ = head.split(" ", 2)
                length = re.search(r"Content-Length: (\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                parts = urlsplit(target)
                query = {key: value[0] for key, value in parse_qs(parts.query, keep_blank_values=True).items()}
                request = Request(method, parts.path, query, head, body, connection)
                self.requests.append(request)
                if not await self._answer(request, writer) or "Connection: close" in head:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may stay."""
        how, body = "ok", "OK"
        if request.query.get("table") == "ATTLOG":
            how = self.script.popleft() if self.script else self.every_upload
            body = f"OK: {len(request.lines)}"
        elif request.query.get("options") == "all" and self.greeting == "block":
            body = f"GET OPTION FROM: {request.query['SN']}\n{self.options}"
        elif request.path.endswith("/getrequest") and self.commands:
            body = self.commands.popleft()
        elif request.path.endswith("/devicecmd") and self.result_script:
            how = self.result_script.popleft()
        match how:
            case "swallow":
                return False
            case "silent":
                await asyncio.sleep(30)
                return False
            case "cut":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nOK")
                return False
            case "html":
                status, body = "200 OK", "<html>OK</html>"
            case "json":
                status, body = "200 OK", '{"status": "OK"}'
            case "redirect":
                status, body = "302 Found", "OK"
            case "ok":
                status = "200 OK"
            case _:
                status, body = f"{how} No", "OK"
        if self.chunked:
            pieces = "".join(f"{len(piece):x}\r\n{piece}\r\n" for piece in (body[:1], body[1:]) if piece)
            writer.write(f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n{pieces}0\r\n\r\n".encode())
        else:
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        return True


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    far_end = Server()
    listener = await asyncio.start_server(far_end.serve, "127.0.0.1", 0)
    far_end.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    yield far_end
    listener.close()


@asynccontextmanager
async def switched_on(terminal: Terminal) -> AsyncIterator[Terminal]:
    running = asyncio.create_task(terminal.run())
    try:
        yield terminal
    finally:
        terminal.stop()
        await asyncio.wait_for(running, 5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for happens on the other side of a socket
            await asyncio.sleep(0.002)


async def all_acknowledged(terminal: Terminal) -> None:
    await asyncio.wait_for(terminal.drained(), 10)


def three_punches(terminal: Terminal) -> list[str]:
    return [terminal.punch(pin, NINE + timedelta(seconds=n)).line for n, pin in enumerate(("0042", "7", "7"))]


def line(pin: str, time: str, state: int = 0, verify: int = 1) -> str:
    return f"{pin}\t2026-03-02 {time}\t{state}\t{verify}\t0\t0\t0\t0\t0\t0\t"


# -- what goes over the wire


async def test_requests_have_the_bytes_of_the_firmware(server: Server) -> None:
    terminal = Terminal("VIRT000001", server.url + "/d/token", speed=FAST)
    terminal.punch("0042", NINE, state=1, verify=15)

    async with switched_on(terminal):
        await all_acknowledged(terminal)

    host = server.url.removeprefix("http://")
    headers = f"Host: {host}\r\nUser-Agent: iClock Proxy/1.09\r\nConnection: close\r\nAccept: */*\r\n"
    assert server.handshakes[0].head == (
        "GET /d/token/iclock/cdata?SN=VIRT000001&options=all&pushver=2.4.1&DeviceType=att&PushOptionsFlag=1"
        f"&language=69 HTTP/1.1\r\n{headers}\r\n"
    )
    assert server.uploads[0].head == (
        f"POST /d/token/iclock/cdata?SN=VIRT000001&table=ATTLOG&Stamp=1 HTTP/1.1\r\n{headers}Content-Length: 43\r\n\r\n"
    )
    assert server.uploads[0].body == line("0042", "09:00:00", 1, 15).encode() + b"\n"


async def test_the_first_poll_after_a_handshake_says_what_the_terminal_holds(server: Server) -> None:
    async with switched_on(Terminal("VIRT000001", server.url, speed=FAST)):
        await until(lambda: len(server.polls) >= 2)

    assert server.polls[0].query["INFO"] == "Ver 8.0.4.3-20200101,0,0,0,192.0.2.10,10,7,15,0,111"
    assert server.polls[1].query == {"SN": "VIRT000001"}


@pytest.mark.parametrize(("keep_alive", "connections"), [(False, 3), (True, 1)])
async def test_connections_are_closed_or_kept_as_asked(server: Server, keep_alive: bool, connections: int) -> None:
    terminal = Terminal("VIRT000001", server.url, keep_alive=keep_alive)
    terminal.punch("1", NINE)

    async with switched_on(terminal):
        await all_acknowledged(terminal)

    assert server.uploads[0].connection == connections


async def test_a_kept_connection_that_the_server_closed_is_replaced(server: Server) -> None:
    server.options = OPTIONS.replace("Delay=10", "Delay=60")
    terminal = Terminal("VIRT000001", server.url, keep_alive=True)

    async with switched_on(terminal):
        await until(lambda: len(server.polls) == 1)
        assert terminal.link._streams is not None
        terminal.link._streams[1].write_eof()  # the server answers by closing
        await until(lambda: terminal.link._streams is not None and terminal.link._streams[0].at_eof())
        terminal.punch("1", NINE)
        await all_acknowledged(terminal)

    assert (terminal.report().unknown, terminal.report().resent) == (0, 0)


async def test_chunked_answers_are_read(server: Server) -> None:
    server.chunked = True
    terminal = Terminal("VIRT000001", server.url, keep_alive=True, speed=FAST)
    terminal.punch("1", NINE)

    async with switched_on(terminal):
        await all_acknowledged(terminal)

    assert (terminal.report().refused, terminal.report().unknown, server.connections) == (0, 0, 1)


# -- what it keeps


@pytest.mark.parametrize("answer", ["503", "403", "429", "404", "500", "html", "json", "redirect"])
async def test_a_refused_upload_is_sent_again_until_it_is_acknowledged(server: Server, answer: str) -> None:
    server.script.extend([answer, answer])
    terminal = Terminal("VIRT000001", server.url, speed=FAST)
    lines = three_punches(terminal)

    async with switched_on(terminal):
        await all_acknowledged(terminal)

    report = terminal.report()
    assert [upload.lines for upload in server.uploads] == [lines, lines, lines]
    assert (report.refused, report.unknown, report.resent, report.acknowledged) == (2, 0, 3, 3)
    assert [outcome for _, outcome in terminal.history] == [Outcome.REFUSED] * 6 + [Outcome.ACKNOWLEDGED] * 3
    assert len(server.handshakes) == 1  # the connection was never in doubt


@pytest.mark.parametrize("answer", ["swallow", "cut"])
async def test_an_upload_cut_short_is_unknown_and_sent_again_after_a_new_handshake(server: Server, answer: str) -> None:
    server.script.append(answer)
    terminal = Terminal("VIRT000001", server.url, speed=FAST)
    lines = three_punches(terminal)

    async with switched_on(terminal):
        await all_acknowledged(terminal)

    report = terminal.report()
    assert [upload.lines for upload in server.uploads] == [lines, lines]
    assert (report.refused, report.unknown, report.resent, report.acknowledged) == (0, 1, 3, 3)
    assert [outcome for _, outcome in terminal.history] == [Outcome.UNKNOWN] * 3 + [Outcome.ACKNOWLEDGED] * 3
    assert len(server.handshakes) == 2


async def test_an_upload_without_an_answer_is_unknown_once_the_time_is_up(server: Server) -> None:
    server.script.append("silent")
    terminal = Terminal("VIRT000001", server.url, speed=FAST, timeout=0.2)
    terminal.punch("1", NINE)

    async with switched_on(terminal):
        await all_acknowledged(terminal)

    assert (terminal.report().unknown, terminal.report().resent) == (1, 1)


async def test_doubt_about_a_record_outlasts_a_later_refusal(server: Server) -> None:
    server.script.append("swallow")
    server.every_upload = "503"
    terminal = Terminal("VIRT000001", server.url, speed=FAST)
    record = terminal.punch("1", NINE)

    async with switched_on(terminal):
        await until(lambda: len(server.uploads) == 3)

    assert record.state is State.UNKNOWN


async def test_a_record_that_was_only_refused_is_not_in_doubt(server: Server) -> None:
    server.every_upload = "503"
    terminal = Terminal("VIRT000001", server.url, speed=FAST)
    record = terminal.punch("1", NINE)

    async with switched_on(terminal):
        await until(lambda: len(server.uploads) == 2)

    assert record.state is State.PENDING
    assert (terminal.report().acknowledged, terminal.report().unacknowledged) == (0, 1)


async def test_an_upload_under_way_when_the_power_goes_is_unknown(server: Server) -> None:
    server.every_upload = "silent"
    terminal = Terminal("VIRT000001", server.url)
    record = terminal.punch("1", NINE)
    running = asyncio.create_task(terminal.run())

    await until(lambda: len(server.uploads) == 1)
    running.cancel()
    await asyncio.wait([running])

    assert record.state is State.UNKNOWN
    assert terminal.report().unknown == 1


async def test_a_server_that_went_away_has_seen_nothing() -> None:
    far_end = Server()
    listener = await asyncio.start_server(far_end.serve, "127.0.0.1", 0)
    terminal = Terminal("VIRT000001", f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", speed=100)

    async with switched_on(terminal):
        await until(lambda: len(far_end.polls) == 1)
        listener.close()
        record = terminal.punch("1", NINE)
        await until(lambda: terminal.report().unreachable >= 2)

    report = terminal.report()
    assert (report.requests, report.unknown, report.unacknowledged) == (2, 0, 1)
    assert (record.state, record.sends, list(terminal.history)) == (State.PENDING, 0, [])


async def test_nothing_is_uploaded_before_the_options_came(server: Server) -> None:
    server.greeting = "OK"
    terminal = Terminal("VIRT000001", server.url, speed=FAST)
    terminal.punch("1", NINE)

    async with switched_on(terminal):
        await until(lambda: len(server.handshakes) == 2)
        assert {request.query.get("options") for request in server.requests} == {"all"}
        server.greeting = "block"
        await all_acknowledged(terminal)

    assert len(server.uploads) == 1


async def test_nothing_is_uploaded_while_the_server_asks_for_no_attendance_records(server: Server) -> None:
    server.options = OPTIONS + "\nTransFlag=0000000000"
    terminal = Terminal("VIRT000001", server.url, speed=FAST)
    terminal.punch("1", NINE)

    async with switched_on(terminal):
        await until(lambda: len(server.polls) == 3)
        assert server.uploads == []
        server.options = OPTIONS + "\nTransFlag=TransData AttLog\tOpLog"
        server.commands.append("C:1:CHECK")
        await all_acknowledged(terminal)

    assert terminal.report().last_trouble == "the server asks for no attendance records (is the serial registered?)"


async def test_a_backlog_goes_out_in_order_in_large_batches_and_new_punches_one_by_one(server: Server) -> None:
    terminal = Terminal("VIRT000001", server.url, speed=FAST)
    old = [terminal.punch(str(n), NINE + timedelta(seconds=n)).line for n in range(250)]

    async with switched_on(terminal):
        await all_acknowledged(terminal)
        new = [terminal.punch(str(n), NINE + timedelta(days=1)).line for n in range(3)]
        await all_acknowledged(terminal)

    assert [upload.lines for upload in server.uploads] == [
        old[:100],
        old[100:200],
        old[200:],
        [new[0]],
        [new[1]],
        [new[2]],
    ]
    assert [record.state for record in terminal.records] == [State.ACKNOWLEDGED] * 253
    assert terminal.report().acknowledged_lines == (*old, *new)


async def test_a_pulled_cable_stops_everything_until_it_is_back(server: Server) -> None:
    terminal = Terminal("VIRT000001", server.url, speed=FAST)

    async with switched_on(terminal):
        await until(lambda: len(server.polls) >= 2)
        terminal.unplug()
        await asyncio.sleep(0.05)
        before = len(server.requests)
        lines = three_punches(terminal)
        await asyncio.sleep(0.05)
        assert len(server.requests) == before
        terminal.plug_in()
        await all_acknowledged(terminal)

    assert [upload.lines for upload in server.uploads] == [lines]
    assert len(server.handshakes) == 2


async def test_a_stamp_of_zero_makes_it_send_everything_again(server: Server) -> None:
    server.options = OPTIONS.replace("ATTLOGStamp=None", "ATTLOGStamp=0")
    terminal = Terminal("VIRT000001", server.url, speed=FAST)
    lines = three_punches(terminal)

    async with switched_on(terminal):
        await all_acknowledged(terminal)
        server.options = OPTIONS.replace("ATTLOGStamp=None", "ATTLOGStamp=3")
        terminal.unplug()
        terminal.plug_in()
        await until(lambda: len(server.handshakes) == 2)
        server.options = OPTIONS.replace("ATTLOGStamp=None", "ATTLOGStamp=0")
        terminal.unplug()
        terminal.plug_in()
        await until(lambda: len(server.uploads) == 2)
        await all_acknowledged(terminal)

    assert [upload.lines for upload in server.uploads] == [lines, lines]
    assert (terminal.report().made, terminal.report().resent) == (3, 3)


async def test_a_full_memory_lets_go_of_the_oldest_acknowledged_record_only(server: Server) -> None:
    terminal = Terminal("VIRT000001", server.url, speed=FAST, capacity=2)
    for n in range(3):
        terminal.punch("1", NINE + timedelta(seconds=n))
    assert len(terminal.records) == 3

    async with switched_on(terminal):
        await all_acknowledged(terminal)
    terminal.punch("1", NINE + timedelta(seconds=3))

    assert [record.number for record in terminal.records] == [2, 3, 4]
    assert (terminal.report().made, terminal.report().acknowledged) == (4, 3)


# -- commands and clock


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("C:7:NO SUCH THING", "ID=7&Return=-1002&CMD=NO"),
        ("C:7:LOG", "ID=7&Return=0&CMD=LOG"),
        ("C:7:CHECK", "ID=7&Return=0&CMD=CHECK"),
        ("C:7:REBOOT", "ID=7&Return=0&CMD=REBOOT"),
        ("C:7:DATA UPDATE USERINFO PIN=9\tName=Amina", "ID=7&Return=0&CMD=DATA"),
        ("C:7:DATA QUERY ATTLOG StartTime=yesterday\tEndTime=today", "ID=7&Return=-1&CMD=DATA"),
    ],
)
async def test_a_command_is_answered_with_its_id_and_outcome(server: Server, command: str, result: str) -> None:
    server.commands.append(command)

    async with switched_on(Terminal("VIRT000001", server.url, speed=FAST)):
        await until(lambda: len(server.results) == 1)

    assert server.results == [result]


@pytest.mark.parametrize("command", ["CHECK", "REBOOT"])
async def test_check_and_reboot_are_reported_before_the_next_handshake(server: Server, command: str) -> None:
    server.commands.append(f"C:1:{command}")

    async with switched_on(Terminal("VIRT000001", server.url, speed=FAST)):
        await until(lambda: len(server.handshakes) == 2)

    reported = next(n for n, request in enumerate(server.requests) if request.path == "/iclock/devicecmd")
    assert server.requests[reported + 1] is server.handshakes[1]


async def test_a_result_is_reported_again_until_the_server_took_it(server: Server) -> None:
    server.commands.append("C:1:INFO")
    server.result_script.extend(["503", "swallow"])
    terminal = Terminal("VIRT000001", server.url, speed=FAST)

    async with switched_on(terminal):
        await until(lambda: len(server.results) == 3)
        polls = len(server.polls)
        await until(lambda: len(server.polls) == polls + 2)

    assert server.results == [server.results[0]] * 3
    assert server.results[0].splitlines()[:3] == [
        "ID=1&Return=0&CMD=INFO",
        "~DeviceName=Virtual",
        "~SerialNumber=VIRT000001",
    ]
    assert list(terminal.executed) == [("1", "INFO", 0)]


async def test_a_period_is_uploaded_again_whatever_was_acknowledged(server: Server) -> None:
    terminal = Terminal("VIRT000001", server.url, speed=FAST)
    lines = three_punches(terminal)

    async with switched_on(terminal):
        await all_acknowledged(terminal)
        server.commands.append("C:1:DATA QUERY ATTLOG StartTime=2026-03-02 09:00:01\tEndTime=2026-03-02 09:00:02")
        await until(lambda: len(server.results) == 1)

    assert [upload.lines for upload in server.uploads] == [lines, lines[1:]]
    assert server.results == ["ID=1&Return=2&CMD=DATA"]
    assert (terminal.report().resent, terminal.report().unacknowledged) == (2, 0)


async def test_lines_without_the_command_prefix_are_dropped_silently(server: Server) -> None:
    server.commands.append("C:1:LOG\nDATA UPDATE USERINFO PIN=1")
    terminal = Terminal("VIRT000001", server.url, speed=FAST)

    async with switched_on(terminal):
        await until(lambda: len(server.results) == 1)

    assert list(terminal.executed) == [("1", "LOG", 0)]
    assert terminal.users == {}


@pytest.mark.parametrize(
    ("written", "minutes"),
    [("8", 480), ("-5", -300), ("330", 330), ("-210", -210), ("-03:30", -210), ("+05:45", 345), ("0", 0)],
)
def test_every_spelling_of_a_zone_is_understood(written: str, minutes: int) -> None:
    assert Options.parse(f"GET OPTION FROM: X\nTimeZone={written}".encode()).zone == timedelta(minutes=minutes)


async def test_the_server_sets_the_zone_only_of_a_clock_that_lets_it(server: Server) -> None:
    server.options = OPTIONS.replace("TimeZone=0", "TimeZone=330")
    own = Terminal("VIRT000001", server.url, clock=lambda: 0.0)
    theirs = Terminal("VIRT000002", server.url, clock=lambda: 0.0, sets_clock=True)

    async with switched_on(own), switched_on(theirs):
        await asyncio.gather(own.greeted(), theirs.greeted())

    assert str(own.wall_time()) == "1970-01-01 00:00:00"
    assert str(theirs.wall_time()) == "1970-01-01 05:30:00"


# -- scenarios


async def test_a_steady_run_accounts_for_every_record(server: Server) -> None:
    server.script.extend(["ok", "503", "swallow", "ok", "403"])

    report = await simulate(server.url, devices=3, rate=200, duration=0.5, seed=1, speed=FAST)

    assert report.as_dict() == {
        "scenario": "steady",
        "devices": 3,
        "made": 100,
        "acknowledged": 100,
        "resent": report.resent,
        "refused": 2,
        "unknown": 1,
        "unacknowledged": 0,
        "unreachable": 0,
        "requests": len(server.requests),
        "seconds": round(report.seconds, 3),
    }
    assert report.accepted + report.refused + report.unknown == report.requests
    assert json.loads(json.dumps(report.as_dict()))["made"] == 100
    assert [terminal.serial for terminal in report.terminals] == ["VIRT000001", "VIRT000002", "VIRT000003"]
    acknowledged = {(t.serial, line) for t in report.terminals for line in t.acknowledged_lines}
    assert len(acknowledged) == 100
    assert acknowledged == {(upload.query["SN"], line) for upload in server.uploads for line in upload.lines}
    sent = [(upload.query["SN"], line) for upload in server.uploads for line in upload.lines]
    assert report.resent == sum(sent.count(record) > 1 for record in set(sent))


async def test_the_same_seed_gives_the_same_people(server: Server) -> None:
    def pins(since: int) -> list[str]:
        return sorted(line.split("\t")[0] for upload in server.uploads[since:] for line in upload.lines)

    await simulate(server.url, devices=1, rate=1_000, duration=0.02, seed=7, speed=FAST)
    first = len(server.uploads)
    await simulate(server.url, devices=1, rate=1_000, duration=0.02, seed=7, speed=FAST)

    assert pins(0)[::2] == pins(first)


async def test_at_a_shift_start_everybody_checks_in(server: Server) -> None:
    report = await simulate(server.url, devices=2, rate=200, duration=0.3, scenario="rush", seed=1, speed=FAST)

    assert (report.made, report.acknowledged) == (60, 60)
    assert {line.split("\t")[2] for t in report.terminals for line in t.acknowledged_lines} == {"0"}


async def test_three_days_without_network_go_out_in_order_at_the_first_contact(server: Server) -> None:
    report = await simulate(server.url, devices=1, rate=250, duration=1, scenario="outage", seed=1, speed=FAST)

    assert [len(upload.lines) for upload in server.uploads] == [100, 100, 50]
    assert len(server.handshakes) == 2
    times = [datetime.fromisoformat(line.split("\t")[1]) for line in report.terminals[0].acknowledged_lines]
    assert times == sorted(times)
    assert timedelta(days=1) < times[-1] - times[0] < timedelta(days=4)
    assert (report.made, report.acknowledged, report.resent) == (250, 250, 0)


async def test_a_terminal_that_forgot_its_position_sends_all_of_it_again(server: Server) -> None:
    report = await simulate(server.url, devices=2, rate=200, duration=0.2, scenario="resend-all", seed=1, speed=FAST)

    sent = sorted(line for upload in server.uploads for line in upload.lines)
    assert (report.made, report.acknowledged, report.resent, report.unacknowledged) == (40, 40, 40, 0)
    assert sent == sorted(2 * [line for t in report.terminals for line in t.acknowledged_lines])


async def test_one_person_in_a_hurry_never_makes_the_same_punch_twice(server: Server) -> None:
    report = await simulate(server.url, devices=1, rate=1_000, duration=0.03, employees=1, seed=1, speed=FAST)

    keys = {tuple(line.split("\t")[:3]) for line in report.terminals[0].acknowledged_lines}
    assert (len(keys), report.made) == (30, 30)


async def test_what_was_never_acknowledged_is_reported_as_left(server: Server) -> None:
    server.every_upload = "403"

    report = await simulate(server.url, devices=1, rate=100, duration=0.1, drain=0.1, seed=1, speed=FAST)

    assert (report.made, report.acknowledged, report.unacknowledged) == (10, 0, 10)
    assert report.refused == len(server.uploads)
    assert report.last_trouble == "refused: 403 OK"


async def test_a_stop_ends_an_endless_run(server: Server) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(
        simulate(server.url, devices=2, rate=100, duration=float("inf"), stop=stop, seed=1, speed=FAST)
    )

    await until(lambda: len(server.uploads) >= 5)
    stop.set()
    report = await asyncio.wait_for(running, 5)

    assert report.made == report.acknowledged + report.unacknowledged
    assert report.made >= 5


async def test_an_unknown_scenario_is_refused_with_the_known_names(server: Server) -> None:
    with pytest.raises(UnknownScenario) as refusal:
        await simulate(server.url, scenario="picnic")

    known = "steady, rush, outage, resend-all, clock-drift, factory-reset, flaky-link"
    assert str(refusal.value) == f"There is no scenario 'picnic'. Known: {known}."
    assert server.requests == []


@pytest.mark.parametrize("url", ["ftp://here/", "127.0.0.1:80", "http://"])
async def test_an_address_no_terminal_could_dial_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not a terminal's server address"):
        await simulate(url)


async def test_a_server_that_comes_late_is_waited_for() -> None:
    far_end = Server()
    with listen() as place:
        port = place.getsockname()[1]
    reaching = asyncio.create_task(reach(f"http://127.0.0.1:{port}/d/token", patience=60))
    await asyncio.sleep(0.1)
    early = reaching.done()

    async with await asyncio.start_server(far_end.serve, "127.0.0.1", port):
        await reaching

    assert not early
    assert far_end.requests == []


async def test_where_nobody_listens_nobody_is_reached() -> None:
    with listen() as place:
        port = place.getsockname()[1]

    with pytest.raises(Unreachable, match="ConnectionRefusedError"):
        await reach(f"http://127.0.0.1:{port}/d/token", patience=0.1)


def test_the_command_says_in_one_line_that_no_terminal_gets_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "REACHED_WITHIN", 0.1)
    with listen() as place:
        url = f"http://127.0.0.1:{place.getsockname()[1]}"

    with pytest.raises(SystemExit) as ended:
        cli.main(["simulate", "--url", f"{url}/d/a-secret-token", "--duration", "0", "--json"])

    said = capsys.readouterr()
    assert ended.value.code == 1
    assert said.out == ""
    assert said.err.startswith(f"No terminal reaches {url} (ConnectionRefusedError")
    assert said.err.endswith("Is a server running there?\n")
    assert said.err.count("\n") == 1
    assert "a-secret-token" not in said.err


# -- what outlasts the power


@asynccontextmanager
async def powered(kind: type[Terminal], url: str, memory: Path, **more: Any) -> AsyncIterator[Terminal]:
    """Until the power goes, in the middle of whatever it does."""
    with memories(memory, ["VIRT000001"]) as (flash,):
        terminal = kind("VIRT000001", url, speed=FAST, memory=flash, **more)
        running = asyncio.create_task(terminal.run())
        try:
            yield terminal
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_after_a_power_cut_numbers_go_on_and_only_what_was_not_acknowledged_is_sent_again(
    server: Server, tmp_path: Path
) -> None:
    server.script.extend(["ok", "ok", "silent"])
    async with powered(Terminal, server.url, tmp_path / "flash", realtime_lines=1, backlog_lines=1) as terminal:
        lines = three_punches(terminal)
        await until(lambda: len(server.uploads) == 3)
    before = len(server.polls)

    async with powered(Terminal, server.url, tmp_path / "flash") as terminal:
        held = [(record.number, record.line, record.state) for record in terminal.records]
        await all_acknowledged(terminal)
        fourth = terminal.punch("9", NINE + timedelta(minutes=1)).line
        await all_acknowledged(terminal)
        report = terminal.report()
        await until(lambda: len(server.polls) > before)

    acknowledged, unknown = State.ACKNOWLEDGED, State.UNKNOWN
    assert held == [(1, lines[0], acknowledged), (2, lines[1], acknowledged), (3, lines[2], unknown)]
    assert [upload.lines for upload in server.uploads[3:]] == [[lines[2]], [fourth]]
    assert [upload.query["Stamp"] for upload in server.uploads[3:]] == ["3", "4"]
    assert server.polls[before].query["INFO"].split(",")[3] in {"3", "4"}
    assert (report.made, report.acknowledged, report.unacknowledged) == (2, 2, 0)


async def test_a_punch_is_written_down_before_it_is_sent(server: Server, tmp_path: Path) -> None:
    server.every_upload = "silent"
    async with powered(Terminal, server.url, tmp_path / "flash") as terminal:
        sent = terminal.punch("0042", NINE).line
        await until(lambda: len(server.uploads) == 1)

    with memories(tmp_path / "flash", ["VIRT000001"]) as (flash,):
        kept = Terminal("VIRT000001", server.url, memory=flash).records

    assert [record.line for record in kept] == [sent]


async def test_a_power_cut_leaves_users_and_a_reset_nothing(server: Server, tmp_path: Path) -> None:
    for command in ("UPDATE USERINFO PIN=7\tName=Mei", "UPDATE USERINFO PIN=8\tName=Omar", "DELETE USERINFO PIN=7"):
        server.commands.append(f"C:1:DATA {command}")
    async with powered(Terminal, server.url, tmp_path / "flash") as terminal:
        terminal.punch("8", NINE)
        await until(lambda: len(server.results) == 3)
        await all_acknowledged(terminal)
    async with powered(Terminal, server.url, tmp_path / "flash") as terminal:
        known, held = dict(terminal.users), len(terminal.records)
        terminal.factory_reset()
    async with powered(Terminal, server.url, tmp_path / "flash") as terminal:
        left = (terminal.users, list(terminal.records), terminal.punch("8", NINE).number)

    assert (known, held) == ({"8": {"PIN": "8", "Name": "Omar"}}, 1)
    assert left == ({}, [], 1)


def test_each_dialect_and_each_terminal_finds_its_own_records(tmp_path: Path) -> None:
    kinds = {"VIRT000001": Terminal, "VIRT000002": AccessTerminal}

    def switch_on(punches: int) -> list[list[str]]:
        with memories(tmp_path / "flash", kinds) as flashes:
            fleet = [
                kind(name, "http://here", memory=flash)
                for (name, kind), flash in zip(kinds.items(), flashes, strict=True)
            ]
            for number, terminal in enumerate(fleet, 1):
                for second in range(punches * number):
                    terminal.punch(str(number), NINE + timedelta(seconds=second), 4, 15, "2")
            return [[record.line for record in terminal.records] for terminal in fleet]

    made = switch_on(1)

    assert [len(lines) for lines in made] == [1, 2]
    assert switch_on(0) == made


def test_a_full_memory_stays_as_small_on_disk(tmp_path: Path) -> None:
    def switch_on(punches: int) -> list[int]:
        with memories(tmp_path / "flash", ["VIRT000001"]) as (flash,):
            terminal = Terminal("VIRT000001", "http://here", capacity=3, memory=flash)
            for _ in range(punches):
                record = terminal.punch("1", NINE + timedelta(seconds=len(terminal.records) + terminal._number))
                terminal._settle([record], Outcome.ACKNOWLEDGED)
            return [written.number for written in flash.records()]

    switch_on(5)

    assert switch_on(2) == [5, 6, 7]


async def test_runs_with_one_memory_are_one_life(server: Server, tmp_path: Path) -> None:
    plan: dict[str, Any] = {"devices": 1, "rate": 200, "duration": 0.05, "speed": FAST, "memory": tmp_path / "flash"}

    first = await simulate(server.url, **plan)
    second = await simulate(server.url, **plan)

    assert (first.made, first.acknowledged, second.made, second.acknowledged) == (10, 10, 10, 10)
    assert {int(upload.query["Stamp"]) for upload in server.uploads} >= {10, 20}
    assert len({line for upload in server.uploads for line in upload.lines}) == 20


async def test_a_memory_is_of_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.simulator.memory._PATIENCE", 0.1)

    with (
        memories(tmp_path / "flash", ["VIRT000001"]),
        pytest.raises(MemoryUnusable, match="database is locked"),
        memories(tmp_path / "flash", ["VIRT000001"]),
    ):
        pass


async def test_a_memory_lost_while_terminals_work_is_said_as_such(server: Server, tmp_path: Path) -> None:
    def lose(_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(MemoryUnusable, match="disk I/O error"):
        patch.setattr("app.simulator.memory.Flash.acknowledge", lambda _self, numbers: lose(numbers))
        await simulate(server.url, devices=1, rate=100, duration=1, speed=FAST, memory=tmp_path / "flash")


def test_the_command_says_in_one_line_that_a_memory_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flash").write_text("Not a database, but a letter. " * 100)
    with listen() as place:
        place.listen()
        url = f"http://127.0.0.1:{place.getsockname()[1]}/d/token"
        with pytest.raises(SystemExit) as ended:
            cli.main(["simulate", "--url", url, "--memory", str(tmp_path / "flash"), "--json"])

    said = capsys.readouterr()
    assert (ended.value.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert "file is not a database" in said.err


# -- load


async def test_a_closed_loop_counts_only_what_was_acknowledged_and_repeats_the_rest(server: Server) -> None:
    server.script.extend(["503", "swallow"])

    load = await closed_loop(server.url, terminals=2, lines=3, seconds=0.3, warmup=0)

    assert (load.refused, load.unknown) == (1, 1)
    assert load.lines == 3 * load.acknowledged
    assert 0 < load.acknowledged <= len(server.uploads) - 2
    sent = [(upload.query["SN"], line) for upload in server.uploads for line in upload.lines]
    assert len(sent) - len(set(sent)) == 6
