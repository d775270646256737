"""Live punches to many sockets: messages per second, processor time, latency, memory, what is lost, and replay.

`python -m bench.feed fan-out-100 loss --long` makes some of the rows; `--with=ours,Mercurius` with some of the
servers (see bench/followers.py for who they are).

`fan-out`: closed loop. A terminal uploads one punch, every subscriber has to see it, then the next: with few
subscribers, what is measured is the commit. `at-once`: sixteen terminals (four from 1,000 subscribers on) have a punch
under way each, so that the feed is measured; ours is asked for one punch a message, so that messages are as many as the
peers'. `batches`: the same without that, and punches are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson
import uvloop

from bench.followers import (
    DOCUMENT,
    FLOOR,
    MARK,
    NODE,
    ONE_BY_ONE,
    OURS,
    REPLAYED,
    STOCK,
    TERMINALS,
    Client,
    Contender,
    Crowd,
    contenders,
    introduce,
)
from bench.stand import Served, Stand, stand

EVERYBODY: Final = (OURS, FLOOR, *NODE, STOCK)
Rows = list[dict[str, Any]]


@asynccontextmanager
async def following(one: Contender, count: int, document: str = DOCUMENT) -> AsyncIterator[list[Client]]:
    """Followers that have settled, and are cut off in the end."""
    clients = await one.follow(count, document)
    await asyncio.sleep(0.3)
    try:
        yield clients
    finally:
        for client in clients:
            client.close()
        await asyncio.sleep(0.5)


async def rounds(one: Contender, clients: list[Client], seconds: float, at_once: int) -> list[float]:
    """Punches, `at_once` of them under way, for about so many seconds: from each upload to the last client."""
    room, spans, started = asyncio.Semaphore(at_once), list[float](), list[float]()

    def reached(number: int) -> None:
        spans.append(time.perf_counter() - started[number - 1])
        room.release()

    crowd = Crowd(len(clients))
    crowd.on_all = reached
    for client in clients:
        client.messages = client.punches = 0
        client.heard = crowd.heard
    pushes: list[asyncio.Future[object]] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        async with asyncio.timeout(60):
            await room.acquire()
        started.append(time.perf_counter())
        number = len(started)
        pushes.append(asyncio.ensure_future(one.push(f"{len(clients):05}x{number:06}", terminal=number)))
        await asyncio.sleep(0)
    await asyncio.gather(*pushes)
    async with asyncio.timeout(60):
        while len(spans) < len(started):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    return spans


async def fan_out(
    found: Sequence[Contender], subscribers: int, seconds: float, *, at_once: int = 1, document: str = DOCUMENT
) -> Rows:
    """Punches reach all subscribers: how many each second, processor time for each, and the median wait for the last.

    What is counted are messages, unless ours may put several punches into one.
    """
    batches = at_once > 1 and document == DOCUMENT
    figures: list[tuple[float, float, float, int]] = []
    for one in found:
        async with following(one, subscribers, document) as clients:
            await rounds(one, clients, 0.5, at_once)
            used, began = one.served.cpu(), time.perf_counter()
            spans = await rounds(one, clients, seconds, at_once)
            took, used = time.perf_counter() - began, one.served.cpu() - used
            done = sum(client.punches if batches else client.messages for client in clients)
            figures.append((done / took, used / done * 1e6, statistics.median(spans), clients[0].size))
    what, unit = ("punches", "punch") if batches else ("messages", "msg")
    how = "a punch at a time" if at_once == 1 else f"{at_once} punches at once"
    rows = []
    for name, index, scale, measure, digits in (
        (what, 0, 1.0, f"{unit}/s", 0),
        ("server CPU", 1, 1.0, f"µs/{unit}", 1),
        ("upload to last client, median", 2, 1000.0, "ms", 1),
    ):
        figure = [figure[index] * scale for figure in figures]
        rows += compare(found, f"{subscribers} subscribers, {how}: {name}", figure, measure, digits=digits)
    for row, (*_, size) in zip(rows, figures[1:], strict=False):
        row["bytes"] = size  # of a peer's message
    return rows


async def latency(found: Sequence[Contender], subscribers: int, seconds: float, suffix: str = "") -> Rows:
    """Open loop, five punches a second: from the upload's first byte to each client's message."""
    figures: list[tuple[float, float]] = []
    for one in found:
        async with following(one, subscribers) as clients:
            spans, sent = list[float](), list[float]()

            def heard(client: Client, punches: int, spans: list[float] = spans, sent: list[float] = sent) -> None:
                at = time.perf_counter()
                spans.extend(at - sent[number] for number in range(client.punches - punches, client.punches))

            for client in clients:
                client.punches, client.heard = 0, heard
            began = time.perf_counter()
            pushes: list[asyncio.Future[object]] = []
            for number in range(int(seconds * 5)):
                await asyncio.sleep(max(0.0, began + number / 5 - time.perf_counter()))
                sent.append(time.perf_counter())
                pushes.append(asyncio.ensure_future(one.push(f"{subscribers:05}y{number:05}")))
            await asyncio.gather(*pushes)
            async with asyncio.timeout(60):
                while len(spans) < len(sent) * subscribers:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            spans.sort()
            figures.append((spans[len(spans) // 2], spans[len(spans) * 99 // 100]))
    name = f"{subscribers} subscribers, 5 punches/s{suffix}, upload to client"
    return [
        row
        for place, which in enumerate(("p50", "p99"))
        for row in compare(found, f"{name}, {which}", [figure[place] * 1000 for figure in figures], "ms")
    ]


async def memory(found: Sequence[Contender], sockets: int) -> Rows:
    """What a subscriber to whom nothing happens costs."""
    figures = []
    for one in found:
        before = _resident(one.served)
        async with following(one, sockets):
            await asyncio.sleep(1)
            figures.append((_resident(one.served) - before) / sockets)
    return compare(found, f"{sockets} idle subscribers, memory of each", figures, "kB")


# ── loss ─────────────────────────────────────────────────────────────────────────────────────────────


async def away(found: Sequence[Contender], seconds: float) -> Rows:
    """A client that is away for a while and comes back with its cursor."""
    figures = []
    for one in found:
        client = await one.subscribe()
        await one.push("away0")
        await _until(lambda client=client: client.punches > 0)  # type: ignore[misc]
        cursor = orjson.loads(client.last)["payload"]["data"]["punches"]["cursor"]
        client.close()
        for number in range(10):
            await one.push(f"away{number + 1}")
            await asyncio.sleep(seconds / 10)
        again = await one.subscribe(variables={"after": cursor})
        await one.push("away11")
        await _until(lambda again=again: b'"away11"' in again.last)  # type: ignore[misc]
        figures.append(float(11 - again.punches))
        again.close()
    return compare(found, f"lost over {seconds:g} s away, of 11", figures, "", digits=0)


async def restart(rig: Stand, one: Contender, seconds: float) -> tuple[int, int]:
    """A client that stays while Redis is killed, is away for a while and comes back: (lost, made). Uploads go on."""
    client = await one.subscribe()
    client.kept = []
    made: list[str] = []

    async def punch(span: float) -> None:
        end = time.perf_counter() + span
        while time.perf_counter() < end:
            made.append(f"redis{len(made):04}")
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(5):
                    await one.push(made[-1])
            await asyncio.sleep(0.2)

    await punch(1)
    await asyncio.to_thread(rig.redis.kill)
    await punch(seconds)
    await asyncio.to_thread(rig.redis.start)
    await punch(seconds)
    with contextlib.suppress(TimeoutError):
        await _until(lambda: made[-1].encode() in client.last, 15)
    await asyncio.sleep(1)
    seen = b"".join(client.kept)
    client.close()
    return sum(pin.encode() not in seen for pin in made), len(made)


async def slow(found: Sequence[Contender], uploads: int) -> Rows:
    """A client that reads nothing while 100 punches come at a time, and then reads: loss, and the server's growth."""
    lost, growth = [], []
    for one in found:
        client = await one.subscribe()
        before = _resident(one.served)
        client.pause()
        for number in range(uploads):
            await one.push(f"slow{number:04}", 100)
        await asyncio.sleep(1)
        growth.append((_resident(one.served) - before) / 1024)
        client.resume()
        wanted = uploads * 100
        with contextlib.suppress(TimeoutError):
            await _until(lambda client=client, wanted=wanted: client.punches >= wanted or client.gone, 60)  # type: ignore[misc]
        lost.append(float(wanted - client.punches))
        client.close()
    what = f"a reader that stops for {uploads * 100} punches"
    return compare(found, f"lost by {what}", lost, "", digits=0) + compare(
        found, f"{what}: growth of the server", growth, "MB"
    )


# ── ours alone ───────────────────────────────────────────────────────────────────────────────────────


async def churn(one: Contender, cycles: int) -> Rows:
    """Subscribers that come and are cut off without a word: what the server keeps of them."""
    await _cut_off(one, 500)  # what the first ones warm up stays
    await asyncio.sleep(2)
    memory, files = _resident(one.served), _files(one.served)
    for _ in range(cycles // 100):
        await _cut_off(one, 100)
    await asyncio.sleep(3)
    grown, left = (_resident(one.served) - memory) / 1024, _files(one.served) - files
    return [
        _row(f"{cycles} subscribers cut off: growth of the server, wanted", grown, "MB", 20),
        _row("the same, connections left", left, "", 0, digits=0),
    ]


async def _cut_off(one: Contender, count: int) -> None:
    for client in await one.follow(count):
        client.close()


def _files(served: Served) -> int:
    return len(list(Path(f"/proc/{served.pid}/fd").iterdir()))


_FILL = """
INSERT INTO events (tenant_id, position, id, type, body, created_at)
SELECT e.tenant_id, e.position + n, gen_random_uuid(), e.type, e.body, e.created_at
FROM events e, generate_series(1, $2) AS n WHERE e.tenant_id = $1 AND e.position = $3;
"""


async def fill(rig: Stand, one: Contender, punches: int) -> int:
    """Have so many punches in the log; how many there are."""
    await one.push("fill")
    tenant = rig.tenants[0]
    server, _, _ = rig.postgres.superuser_url.rpartition("/")
    owner = await asyncpg.connect(f"{server}/{rig.postgres.url.rpartition('/')[2]}")
    try:
        head: int = await owner.fetchval("SELECT position FROM feed_heads WHERE tenant_id = $1", tenant.id)
        more = max(0, punches - head)
        await owner.execute(_FILL, tenant.id, more, head)
        await owner.execute("UPDATE feed_heads SET position = position + $2 WHERE tenant_id = $1", tenant.id, more)
        await owner.execute("ANALYZE events")
    finally:
        await owner.close()
    return head + more


async def replay(one: Contender, punches: int) -> Rows:
    """From the beginning, in batches of 100: punches per second to one client, and how much the server grows."""
    client = await introduce(one.served.url, one.api_key, MARK)
    before = most = _resident(one.served)
    used, began = one.served.cpu(), time.perf_counter()
    client.send({"id": "1", "type": "subscribe", "payload": {"query": REPLAYED}})
    while client.punches < punches:
        await asyncio.sleep(0.05)
        most = max(most, _resident(one.served))
        if client.gone:
            raise ConnectionError(f"The replay ended after {client.punches} punches.")
    took = time.perf_counter() - began
    client.close()
    return [
        _row(f"replay of {punches:,} punches: wanted", punches / took, "/s", 20_000, digits=0),
        _row("the same, server CPU, wanted", (one.served.cpu() - used) / punches * 1e6, "µs", 50),
        _row("the same, growth of the server, wanted", (most - before) / 1024, "MB", 50),
    ]


async def _until(met: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not met():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _resident(served: Served) -> int:
    """kB."""
    status = Path(f"/proc/{served.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def compare(found: Sequence[Contender], name: str, figures: Sequence[float], unit: str, *, digits: int = 1) -> Rows:
    """A row for each of the others: the first one's figure beside theirs."""
    rows = [
        _row(f"{name}: {one.name}", figures[0], unit, theirs, digits=digits)
        for one, theirs in list(zip(found, figures, strict=True))[1:]
    ]
    return rows or [_row(name, figures[0], unit, 0, digits=digits)]


def _row(name: str, figure: float, unit: str, floor: float, *, digits: int = 1) -> dict[str, Any]:
    ratio = round(figure / floor, 2) if floor else ""
    return {"name": name, "figure": round(figure, digits), "unit": unit, "floor": round(floor, digits), "ratio": ratio}


# ── forms ────────────────────────────────────────────────────────────────────────────────────────────

Form = Callable[[Stand, bool, Sequence[str]], Awaitable[Rows]]


async def _fan_out(
    rig: Stand, short: bool, who: Sequence[str], *, subscribers: int, at_once: int = 1, document: str = DOCUMENT
) -> Rows:
    async with contenders(rig, who) as found:
        return await fan_out(found, subscribers, 2 if short else 6, at_once=at_once, document=document)


async def _latency(rig: Stand, short: bool, who: Sequence[str]) -> Rows:
    names = [name for name in who if name != STOCK]
    async with contenders(rig, names) as found:
        return await latency(found, 200 if short else 1000, 4 if short else 12)


async def _latency_unheard(rig: Stand, short: bool, who: Sequence[str]) -> Rows:
    async with contenders(rig, [OURS]) as found:
        await asyncio.to_thread(rig.redis.stop)
        try:
            await asyncio.sleep(3)
            return await latency(found, 200 if short else 1000, 4 if short else 12, " without Redis")
        finally:
            await asyncio.to_thread(rig.redis.start)


async def _memory(rig: Stand, short: bool, who: Sequence[str]) -> Rows:
    async with contenders(rig, [name for name in who if name not in (FLOOR, STOCK)]) as found:
        return await memory(found, 500 if short else 5000)


async def _loss(rig: Stand, short: bool, who: Sequence[str]) -> Rows:
    async with contenders(rig, [name for name in who if name != FLOOR]) as found:
        return await away(found, 1 if short else 10) + await slow(found, 100 if short else 300)


async def _redis(rig: Stand, short: bool, who: Sequence[str]) -> Rows:
    # Whoever is hurt by it must not be there for the others' turns. broadcaster says nothing at all through the
    # redis-py of our lock.
    lost: list[float] = []
    took_part: list[Contender] = []
    for name in who:
        if name not in (FLOOR, STOCK):
            async with contenders(rig, [name], redis=True) as found:
                for one in found:
                    gone, made = await restart(rig, one, 2 if short else 5)
                    lost.append(100 * gone / made)
                    took_part.append(one)
    return compare(took_part, f"lost over a Redis restart, away for {2 if short else 5} s, of 100", lost, "")


async def _churn(rig: Stand, short: bool, who: Sequence[str]) -> Rows:
    async with contenders(rig, [OURS]) as found:
        return await churn(found[0], 500 if short else 10_000)


async def _replay(rig: Stand, short: bool, who: Sequence[str]) -> Rows:
    async with contenders(rig, [OURS]) as found:
        return await replay(found[0], await fill(rig, found[0], 30_000 if short else 1_000_000))


FORMS: Final[dict[str, Form]] = {
    **{f"fan-out-{count}": partial(_fan_out, subscribers=count) for count in (100, 1000, 5000)},
    **{
        f"{name}-{count}": partial(_fan_out, subscribers=count, at_once=at_once, document=document)
        for name, document in (("at-once", ONE_BY_ONE), ("batches", DOCUMENT))
        for count, at_once in ((100, TERMINALS), (1000, 4))
    },
    "latency": _latency,
    "latency-without-redis": _latency_unheard,
    "memory": _memory,
    "loss": _loss,
    "loss-redis": _redis,
    "churn": _churn,
    "replay": _replay,
}
#: What the short form leaves out.
LONG: Final = frozenset({"fan-out-5000", "fan-out-1000", "at-once-1000", "batches-1000"})


async def measure(short: bool, names: Sequence[str] = (), who: Sequence[str] = EVERYBODY) -> AsyncIterator[Rows]:
    """Form by form, rows of {name, figure, unit, floor, ratio}: ours, and the floor or peer that the name ends with."""
    async with stand() as rig:
        for name in names or [name for name in FORMS if not (short and name in LONG)]:
            yield await FORMS[name](rig, short, who)


async def _all(short: bool) -> Rows:
    return [row async for rows in measure(short) for row in rows]


def run(short: bool) -> Rows:
    """All rows."""
    return uvloop.run(_all(short))


async def show(short: bool, names: Sequence[str], who: Sequence[str]) -> None:
    """Print them as they come."""
    async for rows in measure(short, names, who):
        for row in rows:
            print(
                f"{row['name']:<95} {row['figure']:>9} {row['unit']:<9} of {row['floor']:>9}  {row['ratio']}",
                flush=True,
            )


def main(arguments: list[str]) -> None:
    """Some rows, with some servers."""
    who = next((text.partition("=")[2].split(",") for text in arguments if text.startswith("--with=")), EVERYBODY)
    names = [name for name in arguments if not name.startswith("-")]
    if unknown := ({*names} - {*FORMS}) | ({*who} - {*EVERYBODY}):
        raise SystemExit(f"There is no {', '.join(sorted(unknown))}; there are {', '.join((*FORMS, *EVERYBODY))}.")
    uvloop.run(show("--long" not in arguments, names, who))


if __name__ == "__main__":
    main(sys.argv[1:])
