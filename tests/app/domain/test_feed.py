"""The feed against a real PostgreSQL and a real Redis: every reader gets 1..N, each once, whatever happens."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest

from app import ids, migrations
from app.broadcast import Bell
from app.database import Database
from app.domain import events, outbox, tails
from app.domain import feed as feeds
from app.domain.events import CursorExpired, Cursors, EventType, Happening, Logged
from app.domain.feed import Batch, Feed, FeedStart
from app.embedded import EmbeddedPostgres, EmbeddedRedis
from app.paging import CursorInvalid
from app.vault import Vault
from tests.conftest import MakeTenant

PATIENCE = 40


@dataclass
class Process:
    """What one server process has of its own."""

    db: Database
    bell: Bell
    feed: Feed


@asynccontextmanager
async def process(url: str, redis_url: str | None, vault: Vault, pulse: float = 0.5) -> AsyncIterator[Process]:
    db, bell = Database(url), Bell(redis_url)
    await bell.start()
    feed = Feed(db, bell, Cursors(vault.cursor_key), vault.bus_key, pulse=pulse)
    await feed.start()
    try:
        yield Process(db, bell, feed)
    finally:
        await feed.stop()
        await bell.stop()
        await db.stop()


@pytest.fixture
async def here(database_url: str, redis_server: EmbeddedRedis, vault: Vault) -> AsyncIterator[Process]:
    """One process of the shared database and bus."""
    async with process(database_url, redis_server.url, vault) as started:
        yield started


def happenings(tenant_id: UUID, n: int) -> list[Happening]:
    at = datetime.now(UTC)
    return [Happening(tenant_id, EventType.WEBHOOK_TEST, {"n": place}, ids.new(), at) for place in range(n)]


async def commit(db: Database, tenant_id: UUID, n: int = 1) -> list[Logged]:
    """Announce n events and tell nobody."""
    async with db.across("ingest", [tenant_id]) as connection:
        return await outbox.announce(connection, happenings(tenant_id, n))


def ring(bell: Bell, vault: Vault, batch: Sequence[Logged]) -> bytes:
    message = events.write_message(vault.bus_key, batch)
    bell.ring(events.channel(batch[0].tenant_id), message)
    return message


async def read(feed: Feed, tenant_id: UUID, after: int, last: int, pace: float = 0) -> list[Logged]:
    """What a reader gets until it has seen `last`. Each batch must begin where the one before it ended."""
    got: list[Logged] = []
    position = after
    async with asyncio.timeout(PATIENCE), aclosing(feed.follow(tenant_id, after)) as batches:
        async for batch in batches:
            assert [event.position for event in batch.events] == list(range(position + 1, batch.position + 1))
            assert batch.head >= batch.position >= position
            got += batch.events
            position = batch.position
            if position >= last:
                return got
            await asyncio.sleep(pace * random.random())
    raise AssertionError("a feed never ends by itself")


async def logged(db: Database, tenant_id: UUID) -> list[UUID]:
    async with db.across("feed", [tenant_id]) as connection:
        return [event.id for event in await events.after(connection, tenant_id, 0, 1_000_000)]


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def until(batches: AsyncIterator[Batch], position: int) -> Batch:
    """The first batch that leads to `position`."""
    async with asyncio.timeout(PATIENCE):
        async for batch in batches:
            if batch.position >= position:
                return batch
    raise AssertionError


# ── one log, many writers, several processes ─────────────────────────────────────────────────────────────────────────


async def test_every_reader_gets_every_event_once_while_eight_writers_commit(
    db: Database, database_url: str, redis_server: EmbeddedRedis, vault: Vault, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    sizes = [[random.randint(1, 4) for _ in range(40)] for _ in range(8)]
    total = sum(map(sum, sizes))

    async with AsyncExitStack() as stack:
        one, two, edge = [
            await stack.enter_async_context(process(database_url, redis_server.url, vault)) for _ in range(3)
        ]

        async def write(batches: list[int], by: Process) -> None:
            for n in batches:
                by.feed.ring(await commit(by.db, tenant_id, n))

        async def arrive_late(feed: Feed) -> list[Logged]:
            await asyncio.sleep(random.random())
            return await read(feed, tenant_id, 0, total, pace=0.05)

        readers = [
            asyncio.create_task(reader)
            for each in (one, two)
            for reader in (read(each.feed, tenant_id, 0, total), arrive_late(each.feed), arrive_late(each.feed))
        ]
        # Some commit where there are readers, who hear of that at once and of the rest by the bus.
        await asyncio.gather(*(write(batches, by) for batches, by in zip(sizes, [one, edge] * 4, strict=True)))
        got = await asyncio.gather(*readers)
        told = one.feed.counts.heard

    expected = await logged(db, tenant_id)
    assert len(expected) == total
    assert [[event.id for event in each] for each in got] == [expected] * 6
    assert told == sum(map(len, sizes))


async def test_a_lower_position_never_commits_late(here: Process, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    async with here.db.across("ingest", [tenant_id]) as connection:
        first = await outbox.announce(connection, happenings(tenant_id, 1))
        second = asyncio.create_task(commit(here.db, tenant_id))
        done, _ = await asyncio.wait([second], timeout=0.3)
        assert not done

    assert [first[0].position, (await second)[0].position] == [1, 2]


async def test_the_bus_alone_carries_what_is_next_in_line(
    database_url: str,
    redis_server: EmbeddedRedis,
    vault: Vault,
    make_tenant: MakeTenant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeds, "LOOK_EVERY", 1000)  # a look between a commit and its ring would read the log, rightly
    monkeypatch.setattr(feeds, "SIGHT", 1000)
    tenant_id = (await make_tenant()).tenant_id
    async with (
        process(database_url, redis_server.url, vault) as here,
        aclosing(here.feed.follow(tenant_id, 0)) as batches,
    ):
        await until(batches, 0)
        ring(here.bell, vault, await commit(here.db, tenant_id))
        await until(batches, 1)
        await eventually(lambda: here.feed.counts.looks > 0)  # the one that a new subscription asks for
        readings = here.feed.counts.readings

        for position in range(2, 12):
            ring(here.bell, vault, await commit(here.db, tenant_id))
            batch = await until(batches, position)
            assert batch.caught_up

        assert here.feed.counts.readings == readings


async def test_what_this_process_commits_needs_no_bus_and_no_reading(
    database_url: str, vault: Vault, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "LOOK_EVERY_UNHEARD", 1000)
    tenant_id, silent = (await make_tenant()).tenant_id, "redis://127.0.0.1:1/0"
    async with (
        process(database_url, silent, vault) as here,
        aclosing(here.feed.follow(tenant_id, 0)) as batches,
    ):
        await until(batches, 0)
        readings = here.feed.counts.readings

        for position in range(1, 6):
            here.feed.ring(await commit(here.db, tenant_id))
            await until(batches, position)

        assert here.feed.counts.readings == readings


async def test_what_the_bus_never_told_is_found_by_looking(here: Process, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    async with aclosing(here.feed.follow(tenant_id, 0)) as batches:
        await until(batches, 0)
        written = await commit(here.db, tenant_id, 3)
        batch = await until(batches, 3)

    assert [event.id for event in batch.events] == [event.id for event in written]


async def test_one_failed_look_is_not_the_last(
    here: Process, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    heads, failures = events.heads, 0

    async def fail_once(connection: object, tenant_ids: Sequence[UUID]) -> dict[UUID, int]:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise RuntimeError("once")
        return await heads(connection, tenant_ids)

    async with aclosing(here.feed.follow(tenant_id, 0)) as batches:
        await until(batches, 0)
        monkeypatch.setattr(events, "heads", fail_once)
        await eventually(lambda: failures > 0)
        await commit(here.db, tenant_id)

        assert (await until(batches, 1)).position == 1


async def test_a_message_of_another_version_is_a_doubt_like_any_other(
    database_url: str, vault: Vault, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "LOOK_EVERY", 1000)
    tenant_id = (await make_tenant()).tenant_id
    text = b'{"tenant":"' + ids.show("ten", tenant_id).encode() + b'"}'
    mac = events._message_mac(vault.bus_key, text).encode()

    async with (
        process(database_url, None, vault) as here,
        aclosing(here.feed.follow(tenant_id, 0)) as batches,
    ):
        await until(batches, 0)
        await commit(here.db, tenant_id)
        here.bell.ring(events.channel(tenant_id), text[:-1] + b',"mac":"' + mac + b'"}')
        assert (await until(batches, 1)).position == 1

        ring(here.bell, vault, await commit(here.db, tenant_id))
        assert (await until(batches, 2)).position == 2


async def test_another_tenants_events_are_not_in_the_feed(here: Process, vault: Vault, make_tenant: MakeTenant) -> None:
    ours, theirs = (await make_tenant()).tenant_id, (await make_tenant()).tenant_id

    async with aclosing(here.feed.follow(ours, 0)) as batches:
        await until(batches, 0)
        their_message = ring(here.bell, vault, await commit(here.db, theirs))
        here.bell.ring(events.channel(ours), their_message)
        written = await commit(here.db, ours)
        batch = await until(batches, 1)

    assert [event.id for event in batch.events] == [written[0].id]


# ── a bus that lies, and one that goes away ──────────────────────────────────────────────────────────────────────────


async def test_a_lying_bus_changes_nothing_but_latency(here: Process, vault: Vault, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    channel, total = events.channel(tenant_id), 120
    liar = hashlib.sha256(b"not the key").digest()
    readers = [asyncio.create_task(read(here.feed, tenant_id, 0, total, pace=pace)) for pace in (0, 0, 0.02)]

    told: list[bytes] = []
    for position in range(1, total + 1):
        batch = await commit(here.db, tenant_id)
        forged = [Logged(tenant_id, position + ahead, ids.new(), "punch.created", b'{"id":"x"}') for ahead in (0, 1, 2)]
        lies = [
            events.write_message(liar, forged),
            events.write_message(vault.bus_key, batch).replace(b"evt_0", b"evt_1"),
            b"",
            b"\xff\x00 garbage",
            b'{"tenant":"","first":1,"last":9,"mac":"00"}',
        ]
        truth = events.write_message(vault.bus_key, batch)
        told.append(truth)
        noise = [*random.sample(lies, 2), *random.choices(told, k=3)]
        noise += [truth] * random.randint(0, 2)
        random.shuffle(noise)
        for message in noise:
            here.bell.ring(channel, message)
        if position % 20 == 0:
            await asyncio.sleep(0.05)
    got = await asyncio.gather(*readers)

    expected = await logged(here.db, tenant_id)
    assert [[event.id for event in each] for each in got] == [expected] * 3
    assert here.feed.counts.unbelieved > 0


async def test_redis_may_die_and_come_back_meanwhile(
    db: Database, database_url: str, vault: Vault, make_tenant: MakeTenant, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tenant_id, total = (await make_tenant()).tenant_id, 300
    with EmbeddedRedis(tmp_path_factory.mktemp("bus")) as redis:
        async with process(database_url, redis.url, vault) as here, process(database_url, redis.url, vault) as there:
            readers = [asyncio.create_task(read(each.feed, tenant_id, 0, total)) for each in (here, there, there)]

            async def write() -> None:
                for _ in range(total):
                    ring(here.bell, vault, await commit(here.db, tenant_id))
                    await asyncio.sleep(0.01)

            writer = asyncio.create_task(write())
            await asyncio.sleep(0.5)
            await asyncio.to_thread(redis.kill)
            await asyncio.sleep(1)
            assert not here.bell.healthy
            await asyncio.to_thread(redis.start)
            await writer
            got = await asyncio.gather(*readers)

            # The bell works again: what follows needs no reading.
            async with aclosing(there.feed.follow(tenant_id, total)) as batches:
                await until(batches, total)
                await eventually(lambda: there.bell.healthy)
                ring(here.bell, vault, await commit(here.db, tenant_id))
                await until(batches, total + 1)
                readings = there.feed.counts.readings
                ring(here.bell, vault, await commit(here.db, tenant_id))
                await until(batches, total + 2)
                assert there.feed.counts.readings == readings

    expected = (await logged(db, tenant_id))[:total]
    assert [[event.id for event in each] for each in got] == [expected] * 3


async def test_when_the_bus_comes_back_everybody_looks_at_once(
    database_url: str,
    vault: Vault,
    make_tenant: MakeTenant,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeds, "LOOK_EVERY", 1000)
    monkeypatch.setattr(feeds, "LOOK_EVERY_UNHEARD", 1000)
    tenant_id = (await make_tenant()).tenant_id
    with EmbeddedRedis(tmp_path_factory.mktemp("bus")) as redis:
        async with (
            process(database_url, redis.url, vault) as here,
            aclosing(here.feed.follow(tenant_id, 0)) as batches,
        ):
            await until(batches, 0)
            await asyncio.to_thread(redis.kill)
            await commit(here.db, tenant_id)
            await asyncio.to_thread(redis.start)

            assert (await until(batches, 1)).position == 1


async def test_without_any_redis_the_feed_works_all_the_same(
    database_url: str, vault: Vault, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    async with process(database_url, "redis://127.0.0.1:1/0", vault) as here:
        reader = asyncio.create_task(read(here.feed, tenant_id, 0, 5))
        for _ in range(5):
            ring(here.bell, vault, await commit(here.db, tenant_id))

        assert len(await reader) == 5
        assert not here.bell.healthy


async def test_postgresql_may_go_away_and_come_back_meanwhile(
    redis_server: EmbeddedRedis, vault: Vault, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), options={"fsync": "off"}) as postgres:
        await migrations.upgrade(postgres.url)
        async with process(postgres.url, redis_server.url, vault) as here:
            tenant_id = ids.new()
            async with here.db.across("operate") as connection:
                await connection.execute(
                    "INSERT INTO tenants (id, name, plan, created_at) VALUES ($1, 'T', 'ACTIVE', now())", tenant_id
                )
                await connection.execute("INSERT INTO feed_heads (tenant_id) VALUES ($1)", tenant_id)
            early = asyncio.create_task(read(here.feed, tenant_id, 0, 4))
            await commit(here.db, tenant_id, 2)
            await asyncio.sleep(0.3)

            await asyncio.to_thread(postgres.stop, "immediate")
            late = asyncio.create_task(read(here.feed, tenant_id, 0, 4))
            await asyncio.sleep(0.5)
            await asyncio.to_thread(postgres.start)
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        await commit(here.db, tenant_id, 2)
                        break
                    except Exception:
                        await asyncio.sleep(0.1)

            assert [event.id for event in await early] == await logged(here.db, tenant_id)
            assert [event.id for event in await late] == await logged(here.db, tenant_id)


# ── readers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_first_batch_comes_at_once_even_without_events(here: Process, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    async with aclosing(here.feed.follow(tenant_id, 0)) as batches:
        first = await anext(batches)

    assert first == Batch([], 0, caught_up=True, head=0)


async def test_silence_is_broken_by_empty_batches(here: Process, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id

    async with aclosing(here.feed.follow(tenant_id, 0)) as batches:
        got = [await anext(batches) for _ in range(3)]

    assert got == [Batch([], 0, caught_up=True, head=0)] * 3


async def test_a_long_log_comes_in_pages_that_say_how_much_is_left(here: Process, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    await commit(here.db, tenant_id, 1200)

    async with aclosing(here.feed.follow(tenant_id, 100)) as batches:
        got = [await anext(batches) for _ in range(3)]

    assert [(batch.position, batch.caught_up, batch.head) for batch in got] == [
        (600, False, 1200),
        (1100, False, 1200),
        (1200, True, 1200),
    ]


async def test_a_slow_reader_holds_nothing_and_misses_nothing(
    here: Process, vault: Vault, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    total = tails.RING_EVENTS * 3
    async with aclosing(here.feed.follow(tenant_id, 0)) as slow:
        first = await anext(slow)
        quick = asyncio.create_task(read(here.feed, tenant_id, 0, total))
        for _ in range(total // 100):
            ring(here.bell, vault, await commit(here.db, tenant_id, 100))
        await quick
        tail = here.feed._watches[tenant_id].tail
        assert tail.since(total - tails.RING_EVENTS) is not None
        assert tail.since(total - tails.RING_EVENTS - 1) is None

        got = list(first.events)
        while len(got) < total:
            got += (await anext(slow)).events

    assert [event.position for event in got] == list(range(1, total + 1))


async def test_the_last_reader_takes_the_tail_with_it(here: Process, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    one, two = here.feed.follow(tenant_id, 0), here.feed.follow(tenant_id, 0)
    await anext(one)
    await anext(two)

    await one.aclose()
    assert here.feed.watched == 1
    await two.aclose()
    assert here.feed.watched == 0

    await eventually(lambda: not here.feed._ending and not here.bell._channels)


async def test_a_cancelled_reader_leaves_nothing_behind(here: Process, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    reader = asyncio.create_task(read(here.feed, tenant_id, 0, 1))
    await asyncio.sleep(0.2)

    reader.cancel()
    with suppress(asyncio.CancelledError):
        await reader

    assert here.feed.watched == 0


# ── where to begin ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_feed_begins_now_or_at_the_beginning_or_at_a_cursor(
    here: Process, cursors: Cursors, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    assert await here.feed.locate(tenant_id, None, FeedStart.NOW) == 0
    assert await here.feed.locate(tenant_id, None, FeedStart.BEGINNING) == 0
    await commit(here.db, tenant_id, 7)

    assert await here.feed.locate(tenant_id, None, FeedStart.NOW) == 7
    assert await here.feed.locate(tenant_id, None, FeedStart.BEGINNING) == 0
    assert await here.feed.locate(tenant_id, cursors.write(tenant_id, 4), FeedStart.NOW) == 4
    assert await here.feed.locate(tenant_id, cursors.write(tenant_id, 7), FeedStart.BEGINNING) == 7


async def test_a_cursor_of_another_tenant_or_of_the_future_is_invalid(
    here: Process, cursors: Cursors, make_tenant: MakeTenant
) -> None:
    tenant_id, stranger = (await make_tenant()).tenant_id, (await make_tenant()).tenant_id
    await commit(here.db, tenant_id, 2)

    for cursor in (cursors.write(stranger, 1), cursors.write(tenant_id, 3), "", "nonsense", "é"):
        with pytest.raises(CursorInvalid):
            await here.feed.locate(tenant_id, cursor)


async def forget_up_to(postgres: EmbeddedPostgres, url: str, tenant_id: UUID, position: int) -> None:
    connection = await asyncpg.connect(postgres.superuser_url.rsplit("/", 1)[0] + "/" + url.rsplit("/", 1)[1])
    await connection.execute("DELETE FROM events WHERE tenant_id = $1 AND position <= $2", tenant_id, position)
    await connection.close()


async def test_what_is_not_kept_any_more_is_said_with_the_oldest_cursor(
    here: Process, cursors: Cursors, make_tenant: MakeTenant, postgres: EmbeddedPostgres, database_url: str
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    await commit(here.db, tenant_id, 10)
    await forget_up_to(postgres, database_url, tenant_id, 6)

    with pytest.raises(CursorExpired) as expired:
        await here.feed.locate(tenant_id, cursors.write(tenant_id, 5))
    assert expired.value.extensions == {"oldestCursor": cursors.write(tenant_id, 6)}
    assert await here.feed.locate(tenant_id, cursors.write(tenant_id, 6)) == 6
    assert await here.feed.locate(tenant_id, None, FeedStart.BEGINNING) == 6
    with pytest.raises(CursorExpired):
        await read(here.feed, tenant_id, 5, 10)
    assert len(await read(here.feed, tenant_id, 6, 10)) == 4

    await forget_up_to(postgres, database_url, tenant_id, 10)
    assert await here.feed.locate(tenant_id, None, FeedStart.BEGINNING) == 10
    with pytest.raises(CursorExpired):
        await read(here.feed, tenant_id, 9, 10)


async def test_a_hole_in_the_log_is_never_passed_over(
    here: Process, make_tenant: MakeTenant, postgres: EmbeddedPostgres, database_url: str
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    await commit(here.db, tenant_id, 5)
    connection = await asyncpg.connect(postgres.superuser_url.rsplit("/", 1)[0] + "/" + database_url.rsplit("/", 1)[1])
    await connection.execute("DELETE FROM events WHERE tenant_id = $1 AND position = 3", tenant_id)
    await connection.close()

    with pytest.raises(AssertionError, match="hole before 4"):
        await read(here.feed, tenant_id, 0, 5)
