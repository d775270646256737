"""How many signed webhooks a process posts in a second, by HTTP client: what workers/outbound.py's choice rests on.

The far end is a bare server in a process of its own that answers every POST at once. The clients take turns, so that a
slow moment of the machine hits all of them, and each keeps the given number of requests in flight. The floor is
plain aiohttp: the same transport without httpx's requests around it. All of them cut a request at ten seconds and
read the answer as it streams. The figures are requests per second, and microseconds of CPU that a request costs here.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, cast
from uuid import UUID

import aiohttp
import httpx
import uvloop
from httpx_aiohttp import AiohttpTransport

from app.domain.addresses import AddressGuard
from bench.receiver import receiving
from protocol import webhook
from workers.outbound import Outbound

SECRET = webhook.secret_from(bytes(range(32)))
BODY = b'{"id":"evt_01jn8q0000e000000000000001","type":"punch.created","data":{"pad":"' + b"x" * 320 + b'"}}'
DELIVERY = UUID("01953c6e-0000-7000-8000-000000000001")
DEADLINE = 10.0
ROUNDS = 5

Post = Callable[[dict[str, str]], Awaitable[object]]
Client = Callable[[str, int], AbstractAsyncContextManager[Post]]


@asynccontextmanager
async def stock_httpx(url: str, in_flight: int) -> AsyncIterator[Post]:
    """httpx as it comes."""
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    async with httpx.AsyncClient(trust_env=False, timeout=None, limits=limits) as client:  # noqa: S113
        yield lambda headers: _stream(client, url, headers)


@asynccontextmanager
async def httpx_over_aiohttp(url: str, in_flight: int) -> AsyncIterator[Post]:
    """httpx.AsyncClient with aiohttp's transport."""
    transport = AiohttpTransport(client=_session)
    async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=None) as client:  # noqa: S113
        yield lambda headers: _stream(client, url, headers)


@asynccontextmanager
async def httpx_requests_over_aiohttp(url: str, in_flight: int) -> AsyncIterator[Post]:
    """httpx's requests and responses given to aiohttp's transport, without the client around them."""
    transport = AiohttpTransport(client=_session)

    async def post(headers: dict[str, str]) -> None:
        async with asyncio.timeout(DEADLINE):
            response = await transport.handle_async_request(httpx.Request("POST", url, headers=headers, content=BODY))
            try:
                chunks = aiter(cast("httpx.AsyncByteStream", response.stream))
                async with aclosing(cast("AsyncGenerator[bytes, None]", chunks)) as stream:
                    async for _ in stream:
                        pass
            finally:
                await response.aclose()

    async with transport:
        yield post


@asynccontextmanager
async def our_door(url: str, in_flight: int) -> AsyncIterator[Post]:
    """workers.outbound: the same, with the address guard, the limits and the reply."""
    async with Outbound(AddressGuard([ip_network("127.0.0.0/8")]), connections=in_flight) as door:

        async def post(headers: dict[str, str]) -> None:
            reply = await door.post(url, headers, BODY)
            assert reply.delivered, reply

        yield post


@asynccontextmanager
async def plain_aiohttp(url: str, in_flight: int) -> AsyncIterator[Post]:
    """aiohttp by itself."""
    async with _session() as session:

        async def post(headers: dict[str, str]) -> None:
            async with (
                asyncio.timeout(DEADLINE),
                session.post(url, data=BODY, headers=headers, allow_redirects=False) as response,
            ):
                async for _ in response.content.iter_chunked(16_384):
                    pass

        yield post


#: Client -> how many requests of a full round it gets: about a second's worth.
CLIENTS: dict[str, tuple[Client, int]] = {
    "httpx": (stock_httpx, 250),
    "httpx.AsyncClient over aiohttp": (httpx_over_aiohttp, 2_000),
    "httpx requests over aiohttp": (httpx_requests_over_aiohttp, 3_000),
    "outbound": (our_door, 3_000),
    "aiohttp": (plain_aiohttp, 6_000),
}


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    )


async def _stream(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> None:
    async with (
        asyncio.timeout(DEADLINE),
        client.stream("POST", url, content=BODY, headers=headers) as response,
    ):
        async for _ in response.aiter_raw():
            pass


@dataclass(frozen=True, slots=True)
class Turn:
    """One client's turn."""

    per_second: float
    cpu_us: float
    p99_ms: float


async def turn(client: Client, url: str, requests: int, in_flight: int) -> Turn:
    """Post `requests` times, `in_flight` at once, on connections made beforehand."""
    latencies: list[float] = []
    left = iter(range(requests))

    async def post_all(post: Post, numbers: Iterator[int]) -> None:
        for number in numbers:
            started = time.perf_counter()
            await post(
                webhook.headers(
                    event_id=f"evt_{number}",
                    event_type="punch.created",
                    delivery_uuid=DELIVERY,
                    attempt=1,
                    timestamp=1_772_348_404,
                    body=BODY,
                    secret=SECRET,
                )
            )
            latencies.append(time.perf_counter() - started)

    async with client(url, in_flight) as post:
        await asyncio.gather(*(post_all(post, iter(range(1))) for _ in range(in_flight)))
        latencies.clear()
        cpu, started = time.process_time(), time.perf_counter()
        await asyncio.gather(*(post_all(post, left) for _ in range(in_flight)))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    latencies.sort()
    return Turn(requests / seconds, cpu / requests * 1e6, latencies[requests * 99 // 100] * 1e3)


async def measure(url: str, in_flight: int, share: float) -> dict[str, Turn]:
    """Each client's medians over `ROUNDS` rounds of a turn each."""
    turns: dict[str, list[Turn]] = {name: [] for name in CLIENTS}
    for _ in range(ROUNDS):
        for name, (client, requests) in CLIENTS.items():
            turns[name].append(await turn(client, url, max(int(requests * share), in_flight), in_flight))
    return {
        name: Turn(
            statistics.median(one.per_second for one in taken),
            statistics.median(one.cpu_us for one in taken),
            statistics.median(one.p99_ms for one in taken),
        )
        for name, taken in turns.items()
    }


def run(short: bool) -> dict[str, Any]:
    """The headline as {name, figure, unit, floor, ratio}, the floor being plain aiohttp; `others` by client."""
    rows: dict[str, dict[str, Any]] = {}
    with receiving("bare") as far:
        url = f"{far}/hook"
        for in_flight in (32,) if short else (32, 50):
            medians = uvloop.run(measure(url, in_flight, 0.2 if short else 1.0))
            floor = medians["aiohttp"].per_second
            for name, median in medians.items():
                rows[f"{name}, {in_flight} in flight"] = {
                    "figure": round(median.per_second),
                    "unit": "requests/s",
                    "floor": round(floor),
                    "ratio": round(median.per_second / floor, 3),
                    "cpu_us": round(median.cpu_us),
                    "p99_ms": round(median.p99_ms, 1),
                }
    return {"name": "outbound", **rows["outbound, 32 in flight"], "others": rows}


if __name__ == "__main__":
    for title, row in run(short=False)["others"].items():
        print(
            f"{title:48} {row['figure']:>7,} {row['unit']}   ratio {row['ratio']:<6}"
            f" {row['cpu_us']:>6,} µs CPU   p99 {row['p99_ms']:>7} ms"
        )
