"""The day that the product was made for: 80 terminals, 24,000 people, 96,000 punches with a rush at the start of the
shift, five sites on a slow line with an outage each. A day is played in ten minutes; the short form has a fiftieth of
the people, and takes a minute.

Real processes: a server and a worker as an operator starts them, PostgreSQL with fsync on, Redis. Terminals behave as
firmware does. A webhook receiver, a subscriber and a client that polls each write down which punches reached them: all
of them, once, or the run ends with an error. Time is taken from the finger on the terminal to the receiver. It leaves
out what was punched while its site was cut off, or had not caught up yet, and tells slow lines apart. CPU and memory
are those of each process.

`python -m bench.day 240 20` plays a day of 240 people in 20 seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import orjson
import psutil
import uvloop
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from app import ids
from app.database import driver
from app.domain.employees import snapshot
from app.domain.endpoints import Endpoint, seal_secret
from app.simulator import Terminal, serial_numbers
from bench.receiver import Receiver
from bench.stand import BenchTenant, Stand, free_port, server, stand
from protocol import webhook

TERMINALS, SITES, SLOW_SITES = 80, 20, 5
PEOPLE, SECONDS = 24_000, 600.0
#: Each person comes, goes for lunch, comes back and goes: the first of the four takes a tenth of the day.
RUSH: Final = 0.1
ROUNDS: Final = 4
#: One way on a slow line, in seconds; an outage, as a share of the day.
SLOW, OUTAGE = 0.15, 0.1
POLL: Final = 2.0
PATIENCE: Final = 180.0
SECRET: Final = webhook.secret_from(bytes(range(32)))

FEED = """
query ($after: String) { punchFeed(after: $after, from: BEGINNING, first: 100) { cursor caughtUp punches { id } } }
"""
FOLLOW = "subscription { punches(from: BEGINNING, maxBatch: 100) { cursor punches { id } } }"


def run(short: bool) -> list[dict[str, Any]]:
    """Rows of {name, figure, unit}."""
    return uvloop.run(measure(PEOPLE // 50, SECONDS / 10) if short else measure(PEOPLE, SECONDS))


@dataclass(slots=True)
class Day:
    """When whose finger was on which terminal, by serial number, PIN, wall time and state; and what was cut off."""

    punched: dict[str, float] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    cut_off: set[str] = field(default_factory=set)

    def punch(self, terminal: Terminal, pin: str, state: int) -> None:
        record = terminal.punch(pin, state=state)
        name = f"{terminal.serial} {pin} {record.at:%Y-%m-%dT%H:%M:%S} {state}"
        self.punched[name] = time.monotonic()
        if terminal.serial in self.cut_off:
            self.left_out.add(name)


async def measure(people: int, seconds: float) -> list[dict[str, Any]]:
    """A day of so many people, played in so many seconds."""
    async with stand() as rig, AsyncExitStack() as stack:
        rig.environment["PUNCHCONNECT_LOG_LEVEL"] = "INFO"
        rig.environment["PUNCHCONNECT_API_POINTS"] = "100000000"
        tenant = await rig.add_tenant(TERMINALS)
        await _employ(rig, tenant, people)
        port = free_port()
        far = await stack.enter_async_context(_child("receive", str(port)))
        await _point_at(rig, tenant, f"http://127.0.0.1:{port}/hook")
        url = await stack.enter_async_context(server(rig, "app.main:create_app"))
        worker = await stack.enter_async_context(_worker(rig))
        clients = {
            name: await stack.enter_async_context(_child(what, url, tenant.api_key, str(people * ROUNDS)))
            for name, what in (("the subscriber", "follow"), ("the client that polls", "poll"))
        }
        watched = {"the server": _server_of(url), "the worker": worker, "PostgreSQL": psutil.Process(rig.postgres.pid)}
        watched["Redis"] = psutil.Process(rig.redis.pid)
        before = {name: _cpu(process) for name, process in watched.items()}
        day = Day()
        memory = asyncio.create_task(_most(watched))
        progress = asyncio.create_task(_tell(day, people * ROUNDS))
        begun = time.monotonic()
        await _play(f"{url}/d/{tenant.token}", people, seconds, day)
        arrivals = await _told(far, len(day.punched))
        took = time.monotonic() - begun
        progress.cancel()
        cpu = {name: _cpu(process) - before[name] for name, process in watched.items()}
        memory.cancel()
        for name, client in clients.items():
            seen = await _told(client, 0)
            if Counter(seen) != dict.fromkeys(seen, 1) or len(seen) != len(day.punched):
                raise RuntimeError(f"{name} saw {len(seen)} of {len(day.punched)} punches.")
        return _rows(day, arrivals, took, cpu, await _result(memory))


def _rows(
    day: Day, arrivals: Iterable[tuple[str, float]], took: float, cpu: Mapping[str, float], memory: Mapping[str, int]
) -> list[dict[str, Any]]:
    came = Counter(name for name, _ in arrivals)
    if lost := day.punched.keys() - came.keys():
        raise RuntimeError(f"{len(lost)} punches did not reach the receiver, such as {min(lost)}.")
    if doubled := [name for name, times in came.items() if times > 1]:
        raise RuntimeError(f"{len(doubled)} punches reached the receiver twice.")
    size = f"{len(day.punched):,} punches in {took:.0f} s"
    rows: list[dict[str, Any]] = [
        {"name": f"{size}: lost, doubled", "figure": 0, "unit": "punches"},
        {"name": "left out: cut off, or catching up", "figure": len(day.left_out), "unit": "punches"},
    ]
    slow = set(serial_numbers(TERMINALS)[: SLOW_SITES * TERMINALS // SITES])
    counted = [(name.split(" ")[0], at - day.punched[name]) for name, at in arrivals if name not in day.left_out]
    for line, waits in (
        ("a quick line", sorted(wait for serial, wait in counted if serial not in slow)),
        (f"a slow line, {SLOW * 1e3:.0f} ms each way", sorted(wait for serial, wait in counted if serial in slow)),
    ):
        if not waits:  # a day of few people leaves terminals alone
            rows.append({"name": f"punch to webhook, {line}: no punch to time", "figure": 0, "unit": "punches"})
            continue
        figures = {"mean": sum(waits) / len(waits), **{f"p{n}": waits[len(waits) * n // 100] for n in (50, 99)}}
        rows += [
            {"name": f"punch to webhook, {line}: {name}", "figure": round(figure * 1e3, 1), "unit": "ms"}
            for name, figure in figures.items()
        ]
    for name, seconds in cpu.items():
        rows.append(
            {"name": f"{name}: CPU of 1,000 punches", "figure": round(seconds / len(day.punched) * 1e3, 2), "unit": "s"}
        )
        rows.append({"name": f"{name}: memory, at most", "figure": round(memory[name] / 2**20), "unit": "MiB"})
    return rows


# ── the day ──────────────────────────────────────────────────────────────────────────────────────────


async def _tell(day: Day, wanted: int) -> None:
    """How far it is, every ten seconds."""
    begun = time.monotonic()
    while True:
        await asyncio.sleep(10)
        away = f", {len(day.cut_off)} terminals cut off" if day.cut_off else ""
        done = f"{len(day.punched):,} of {wanted:,} punches"
        print(f"{time.monotonic() - begun:4.0f} s: {done}{away}", file=sys.stderr, flush=True)


async def _play(url: str, people: int, seconds: float, day: Day) -> None:
    chance = random.Random(1)  # noqa: S311
    async with _slow_line(url) as slow:
        per_site = TERMINALS // SITES
        fleet = [
            Terminal(serial, slow if n < SLOW_SITES * per_site else url, timeout=20.0)
            for n, serial in enumerate(serial_numbers(TERMINALS))
        ]
        running = [asyncio.create_task(terminal.run()) for terminal in fleet]
        await asyncio.gather(*(terminal.greeted() for terminal in fleet))
        # One outage for each slow site, one after the other over the day after the rush.
        outages = [
            asyncio.create_task(_outage(fleet[n * per_site : (n + 1) * per_site], seconds, n, day))
            for n in range(SLOW_SITES)
        ]
        begun, at = time.monotonic(), 0.0
        for turn in range(ROUNDS):
            order = list(range(people))
            chance.shuffle(order)
            span = seconds * (RUSH if turn == 0 else (1 - RUSH) / (ROUNDS - 1))
            for place, person in enumerate(order):
                await asyncio.sleep(max(0.0, begun + at + span * place / people - time.monotonic()))
                day.punch(fleet[person % TERMINALS], f"{person + 1:05d}", turn % 2)
            at += span
        await asyncio.gather(*outages)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(terminal.drained() for terminal in fleet))
        for terminal in fleet:
            terminal.stop()
        await asyncio.gather(*running)


async def _outage(site: list[Terminal], seconds: float, n: int, day: Day) -> None:
    await asyncio.sleep(seconds * (RUSH + (1 - RUSH - OUTAGE) * n / SLOW_SITES))
    for terminal in site:
        day.cut_off.add(terminal.serial)
        terminal.unplug()
    await asyncio.sleep(seconds * OUTAGE)
    for terminal in site:
        terminal.plug_in()
    await asyncio.gather(*(terminal.drained() for terminal in site))
    day.cut_off -= {terminal.serial for terminal in site}


@asynccontextmanager
async def _slow_line(url: str) -> AsyncIterator[str]:
    """The same address over a line that takes its time, both ways."""
    place = httpx.URL(url)
    port = free_port()
    talking: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                await asyncio.sleep(SLOW)
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(place.host, place.port)
            await asyncio.gather(carry(reader, back), carry(there, writer))

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(talk(reader, writer))
        talking.add(task)
        task.add_done_callback(talking.discard)

    async with await asyncio.start_server(connected, "127.0.0.1", port):
        yield str(place.copy_with(port=port))
        for task in list(talking):
            task.cancel()


# ── the customer's side ──────────────────────────────────────────────────────────────────────────────


async def _employ(rig: Stand, tenant: BenchTenant, people: int) -> None:
    made = [(tenant.id, ids.new(), f"{n + 1:05d}", f"Person {n + 1}") for n in range(people)]
    async with rig.db.write(tenant.id) as session:
        connection = await driver(session)
        await connection.executemany(
            "INSERT INTO employees (tenant_id, id, pin, name, snapshot, privilege, created_at, updated_at) "
            "VALUES ($1, $2, $3, $4, $5, 'USER', now(), now())",
            [(*person, snapshot(person[1], person[3], None)) for person in made],
        )


async def _point_at(rig: Stand, tenant: BenchTenant, url: str) -> None:
    endpoint_id = ids.new()
    sealed = seal_secret(rig.vault, endpoint_id, tenant.id, SECRET)
    async with rig.db.write(tenant.id) as session:
        session.add(
            Endpoint(tenant_id=tenant.id, id=endpoint_id, url=url, secret_sealed=sealed, event_types=["punch.created"])
        )


class _Far(Receiver):
    """Answers at once, and writes down which punch came when."""

    came: Final[list[tuple[str, float]]] = []

    def took(self, head: bytes, request: bytes) -> None:
        at = time.monotonic()
        it = orjson.loads(request[len(head) + 4 :])["data"]
        name = f"{it['device']['serial_number']} {it['pin']} {it['local_time']} {it['state_code']}"
        self.came.append((name, at))
        self.answer(b"ok")


async def _receive(port: int) -> None:
    await asyncio.get_running_loop().create_server(_Far, "127.0.0.1", port)
    print("ready", flush=True)
    wanted = int(await asyncio.to_thread(sys.stdin.readline))
    deadline = time.monotonic() + PATIENCE
    while len(_Far.came) < wanted and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)  # what comes twice comes now
    print(json.dumps(_Far.came), flush=True)


async def _poll(url: str, key: str, wanted: int) -> None:
    """Every two seconds all that is new, as a job without a stream would."""
    seen: list[str] = []
    cursor: str | None = None
    print("ready", flush=True)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=20) as client:
        while len(seen) < wanted:
            question = {"query": FEED, "variables": {"after": cursor}}
            answer = (await client.post(f"{url}/graphql", json=question)).json()["data"]["punchFeed"]
            cursor = answer["cursor"]
            seen += [punch["id"] for punch in answer["punches"]]
            if answer["caughtUp"]:
                await asyncio.sleep(POLL)
    await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(seen), flush=True)


async def _follow(url: str, key: str, wanted: int) -> None:
    """A subscriber that stays."""
    seen: list[str] = []
    where = url.replace("http", "ws", 1) + "/graphql"
    async with connect(where, subprotocols=[Subprotocol("graphql-transport-ws")], proxy=None) as socket:
        await socket.send(json.dumps({"type": "connection_init", "payload": {"authorization": f"Bearer {key}"}}))
        await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": FOLLOW}}))
        print("ready", flush=True)
        while len(seen) < wanted:
            message = orjson.loads(await socket.recv())
            if message["type"] == "ping":
                await socket.send('{"type":"pong"}')
            elif message["type"] == "next":
                seen += [punch["id"] for punch in message["payload"]["data"]["punches"]["punches"]]
            elif message["type"] != "connection_ack":
                raise RuntimeError(f"The feed ended: {message}")
    await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(seen), flush=True)


# ── processes ────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _child(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """This file as a program, once it said that it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.day", *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=2**30
    )
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _told(process: asyncio.subprocess.Process, wanted: int) -> list[Any]:
    """What it wrote down, once it has so many; fewer when they do not come."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"%d\n" % wanted)
    async with asyncio.timeout(PATIENCE + 30):
        found: list[Any] = json.loads(await process.stdout.readline())
    return found


@asynccontextmanager
async def _worker(rig: Stand) -> AsyncIterator[psutil.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "work", env=os.environ | rig.environment, stderr=subprocess.DEVNULL
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 20)


def _server_of(url: str) -> psutil.Process:
    port = httpx.URL(url).port
    for child in psutil.Process().children():
        if f"port={port}" in " ".join(child.cmdline()):
            return child
    raise RuntimeError("The server is gone.")


def _cpu(process: psutil.Process) -> float:
    """Seconds that it and its children have used."""
    used = 0.0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            times = one.cpu_times()
            used += times.user + times.system + times.children_user + times.children_system
    return used


def _memory(process: psutil.Process) -> int:
    """Bytes that it and its children have for themselves."""
    held = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            info = one.memory_info()
            held += info.rss - info.shared
    return held


async def _most(watched: Mapping[str, psutil.Process]) -> dict[str, int]:
    """The most memory of each, looked at every second, until it is cancelled."""
    most = dict.fromkeys(watched, 0)
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            for name, process in watched.items():
                most[name] = max(most[name], _memory(process))
            await asyncio.sleep(1)
    return most


async def _result(task: asyncio.Task[dict[str, int]]) -> dict[str, int]:
    return await task


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["receive", port]:
            uvloop.run(_receive(int(port)))
        case ["poll", url, key, wanted]:
            uvloop.run(_poll(url, key, int(wanted)))
        case ["follow", url, key, wanted]:
            uvloop.run(_follow(url, key, int(wanted)))
        case [people, seconds] if people.isdigit() and seconds.isdigit():
            for row in uvloop.run(measure(int(people), float(seconds))):
                print(f"{row['name']:48} {row['figure']:>10,} {row['unit']}")
        case arguments:
            for row in run(short="--long" not in arguments):
                print(f"{row['name']:48} {row['figure']:>10,} {row['unit']}")
