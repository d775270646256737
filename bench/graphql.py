"""Queries per second, and processor time for each, beside what others would write over the same rows in PostgreSQL.

The peers are graphql-yoga with pg under Node.js, its caches on, and Strawberry as its documentation has it. Both know
their one caller and nothing else: neither has row-level security, scopes, costs nor a rate limit. Closed loop,
alternating rounds; each row is the median of its rounds.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from bench.stand import BenchTenant, Served, Stand, execute, free_port, process, serving, stand

PEERS: Final = Path(__file__).parent / "peers" / "graphql"
CONNECTIONS: Final = 16
DEVICES, PEOPLE, PUNCHES = 50, 1_000, 50_000

_PAGE: Final = (
    "query Page($first: Int!) { punches(first: $first) { edges { cursor node { id pin punchedAt localTime receivedAt "
    "direction verifyMode buffered device { id name serialNumber } employee { id name } } } "
    "pageInfo { hasNextPage endCursor } } }"
)
_NESTED: Final = (
    "query Devices { devices(first: 20) { nodes { id name serialNumber status lastSeenAt "
    "punches(first: 5) { nodes { id pin punchedAt direction verifyMode } } } } }"
)
_TRIVIAL: Final = "query Trivial { rateLimit { limit } }"

#: name -> (document, variables)
QUERIES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "50 punches with device and employee": (_PAGE, {"first": 50}),
    "100 punches with device and employee": (_PAGE, {"first": 100}),
    "20 devices with 5 punches each": (_NESTED, {}),
    "trivial": (_TRIVIAL, {}),
}

# Names of people and times of punches, spread as a tenant's are. A punch a second, back from this morning.
_FILL: Final = """
INSERT INTO employees (tenant_id, id, pin, name, privilege, snapshot, created_at, updated_at)
SELECT '{tenant}', uuid7(), n::text, 'Employee ' || n, 'USER', '', now(), now() FROM generate_series(1, {people}) AS n;
INSERT INTO punches (tenant_id, id, device_id, pin, local_time, time_zone, punched_at, received_at, direction,
    state_code, verify_mode, verify_code, buffered, raw)
SELECT '{tenant}', uuid7(), device.ids[1 + n * 7 % {devices}], (1 + n * 17 % {people})::text,
    timestamp '2026-03-01 08:00:00' - n * interval '1 s', 'UTC',
    timestamptz '2026-03-01 08:00:00Z' - n * interval '1 s',
    now(), n % 2, n % 2, 1, 15, false, '\\x3137'
FROM generate_series(1, {punches}) AS n,
    (SELECT array_agg(id) AS ids FROM devices WHERE tenant_id = '{tenant}') AS device;
ANALYZE;
"""


class Caller(asyncio.Protocol):
    """One kept connection that asks the same again and again."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._buffer = bytearray()
        self._waiting: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Kept for writing."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self) -> asyncio.Future[bytes]:
        """The next answer, head and body."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(self._request)
        return self._waiting

    def data_received(self, data: bytes) -> None:
        """Whole answers only."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._waiting is None:
            return
        head = bytes(self._buffer[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._buffer) >= end + 4 + length:
            answer = bytes(self._buffer)
            self._buffer.clear()
            self._waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for ever."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc or ConnectionResetError("The server hung up."))

    def close(self) -> None:
        """Without ceremony."""
        self._transport.abort()


@dataclass(frozen=True, slots=True)
class Round:
    """What one server did in one round."""

    per_second: float
    #: Seconds of the server's processor time for each answer; PostgreSQL's is not in it.
    cpu: float


def request(url: str, api_key: str, document: str, variables: Mapping[str, Any]) -> bytes:
    """The bytes of one request."""
    body = orjson.dumps({"query": document, "variables": variables})
    return (
        f"POST /graphql HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {api_key}\r\n"
        f"Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def dial(served: Served, sent: bytes) -> Caller:
    """An open connection that will ask this."""
    parts = urlsplit(served.url)
    host, port = str(parts.hostname), parts.port or 80
    return (await asyncio.get_running_loop().create_connection(lambda: Caller(sent), host, port))[1]


async def closed_loop(served: Served, sent: bytes, seconds: float, warmup: float = 0.3) -> Round:
    """`CONNECTIONS` callers, each with one request under way."""
    callers = [await dial(served, sent) for _ in range(CONNECTIONS)]
    answered = 0

    async def call(caller: Caller, until: float) -> None:
        nonlocal answered
        while time.perf_counter() < until:
            answer = await caller.ask()
            if b" 200 " not in answer[:16] or b'"errors"' in answer[:400]:
                raise RuntimeError(answer.decode())
            answered += 1

    async def all_until(until: float) -> None:
        await asyncio.gather(*(call(caller, until) for caller in callers))

    await all_until(time.perf_counter() + warmup)
    answered, used, began = 0, served.cpu(), time.perf_counter()
    await all_until(began + seconds)
    figures = Round(answered / (time.perf_counter() - began), (served.cpu() - used) / answered)
    for caller in callers:
        caller.close()
    return figures


async def data(served: Served, api_key: str, document: str, variables: Mapping[str, Any]) -> Any:
    """What a server answers, without what everyone writes in their own way: ids and cursors."""
    caller = await dial(served, request(served.url, api_key, document, variables))
    answer = await caller.ask()
    caller.close()
    return _plain(orjson.loads(answer.partition(b"\r\n\r\n")[2]))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _plain(one)
            for name, one in value.items()
            if name not in ("id", "cursor", "endCursor", "extensions", "limit")
        }
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, str) and value[10:11] == "T":  # an instant, however it is written
        return value[:19]
    return value


def installed() -> bool:
    """Whether the Node peer can be run; it is installed once, as its lock file says."""
    if shutil.which("npm") is None:
        return False
    if not (PEERS / "node_modules").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=PEERS, check=True, stdout=subprocess.DEVNULL)
    return True


async def fill(rig: Stand, tenant: BenchTenant) -> None:
    """The rows."""
    url = rig.postgres.superuser_url.rsplit("/", 1)[0] + "/punchconnect"
    await execute(url, _FILL.format(tenant=tenant.id, devices=DEVICES, people=PEOPLE, punches=PUNCHES))


async def measure(short: bool) -> list[dict[str, Any]]:
    """Rows of {name, figure, unit, floor, ratio}; the floor is a peer."""
    seconds, rounds = (1.5, 3) if short else (4.0, 7)
    rows: list[dict[str, Any]] = []
    async with stand() as rig, AsyncExitStack() as stack:
        tenant = await rig.add_tenant(DEVICES)
        await fill(rig, tenant)
        rig.environment["PUNCHCONNECT_API_POINTS"] = rig.environment["PUNCHCONNECT_API_RESTORE"] = "1000000000"
        told = {
            "DATABASE_URL": rig.postgres.superuser_url.rsplit("/", 1)[0] + "/punchconnect",
            "API_KEY": tenant.api_key,
            "TENANT_ID": str(tenant.id),
        }
        servers = {"ours": await stack.enter_async_context(serving(rig, "app.main:create_app"))}
        if installed():
            port = free_port()
            yoga = process("node", str(PEERS / "yoga.mjs"), port=port, environment={**told, "PORT": str(port)})
            servers["graphql-yoga"] = await stack.enter_async_context(yoga)
        rig.environment |= told
        servers["stock Strawberry"] = await stack.enter_async_context(
            serving(rig, "bench.peers.graphql.stock:create_app")
        )
        for name, (document, variables) in QUERIES.items():
            answers = {peer: await data(one, tenant.api_key, document, variables) for peer, one in servers.items()}
            for peer, answer in answers.items():
                if answer != answers["ours"]:
                    raise RuntimeError(f"{name}: {peer} answers otherwise: {str(answer)[:1000]}")
            measured: dict[str, list[Round]] = {peer: [] for peer in servers}
            for _ in range(rounds):
                for peer, one in servers.items():
                    sent = request(one.url, tenant.api_key, document, variables)
                    measured[peer].append(await closed_loop(one, sent, seconds))
            rows += _compare(name, measured)
    return rows


def _compare(name: str, measured: dict[str, list[Round]]) -> list[dict[str, Any]]:
    rates = {peer: statistics.median(one.per_second for one in rounds) for peer, rounds in measured.items()}
    spent = {peer: statistics.median(one.cpu for one in rounds) * 1000 for peer, rounds in measured.items()}
    rows: list[dict[str, Any]] = []
    for peer in measured:
        if peer != "ours":
            rows += [
                _row(f"{name}: {peer}", rates["ours"], rates[peer], "req/s", 0),
                _row(f"{name}: {peer}, processor time a request", spent["ours"], spent[peer], "ms", 2),
            ]
    return rows


def _row(name: str, figure: float, peer: float, unit: str, digits: int) -> dict[str, Any]:
    return {
        "name": name,
        "figure": round(figure, digits),
        "unit": unit,
        "floor": round(peer, digits),
        "ratio": round(figure / peer, 2),
    }


def run(short: bool) -> list[dict[str, Any]]:
    """All rows."""
    return asyncio.run(measure(short))


if __name__ == "__main__":
    for row in run("--short" in sys.argv):
        print(f"{row['name']:<75} {row['figure']:>9} {row['unit']:<5} of {row['floor']:>9}  {row['ratio']:.2f}")
