"""Places: how many are held over all processes, whatever becomes of a process or of Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from app import asking
from app.asking import Asker
from app.embedded import EmbeddedRedis
from app.places import Places

PATIENCE = 20


@asynccontextmanager
async def process(url: str | None, confirm_every: float = 0.1) -> AsyncIterator[Places]:
    """One that ends well."""
    redis = Asker(url) if url else None
    places = Places(redis, confirm_every=confirm_every)
    await places.start()
    yield places
    await places.stop()
    if redis is not None:
        await redis.stop()


async def eventually(places: Places, most: dict[str, int]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await places.take(most):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_processes_share_the_places_and_give_them_back(redis_server: EmbeddedRedis) -> None:
    most = {f"key:{uuid4()}": 2}
    async with process(redis_server.url) as one, process(redis_server.url) as other:
        assert [await one.take(most), await other.take(most), await one.take(most)] == [True, True, False]
        other.free(most)

        await eventually(one, most)
        assert not await other.take(most)


async def test_there_is_room_only_where_every_name_has_room(redis_server: EmbeddedRedis) -> None:
    tenant, first, second = f"tenant:{uuid4()}", f"key:{uuid4()}", f"key:{uuid4()}"
    async with process(redis_server.url) as one, process(redis_server.url) as other:
        assert await one.take({first: 5, tenant: 2})
        assert await other.take({second: 5, tenant: 2})

        assert not await one.take({second: 5, tenant: 2})
        assert one._held == {first: 1, tenant: 1}


async def test_of_many_at_once_as_many_find_room_as_there_are_places(redis_server: EmbeddedRedis) -> None:
    most = {f"key:{uuid4()}": 20}
    async with process(redis_server.url) as one, process(redis_server.url) as other:
        found = await asyncio.gather(*((one, other)[number % 2].take(most) for number in range(100)))

    assert sum(found) == 20


async def test_a_process_that_dies_gives_its_places_back_and_one_that_lives_keeps_them(
    redis_server: EmbeddedRedis,
) -> None:
    dead, alive = {f"key:{uuid4()}": 2}, {f"key:{uuid4()}": 1}
    async with process(redis_server.url) as one, AsyncExitStack() as stack:
        other = await stack.enter_async_context(process(redis_server.url))
        assert await other.take(dead)
        assert await one.take(dead)
        assert await one.take(alive)
        assert not await one.take(dead)
        await stack.aclose()  # it says nothing of what it holds

        await eventually(one, dead)
        async with process(redis_server.url) as third:
            await asyncio.sleep(1)
            assert not await third.take(alive)


async def test_a_redis_that_forgot_everything_knows_it_again_soon(redis_server: EmbeddedRedis) -> None:
    most = {f"key:{uuid4()}": 1}
    async with process(redis_server.url) as one, process(redis_server.url) as other:
        assert await one.take(most)
        client = Redis.from_url(redis_server.url)
        await client.delete(f"places:{next(iter(most))}")
        await client.aclose()
        await asyncio.sleep(0.5)

        assert not await other.take(most)


async def test_while_redis_is_frozen_each_process_counts_its_own_and_nobody_waits_long(
    redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "PAUSE", 0.2)
    most = {f"key:{uuid4()}": 2}
    async with process(redis_server.url) as one, process(redis_server.url) as other:
        assert await one.take(most)
        redis_server.freeze()
        try:
            async with asyncio.timeout(PATIENCE):
                assert [await one.take(most), await one.take(most)] == [True, False]
                assert [await other.take(most), await other.take(most), await other.take(most)] == [True, True, False]
        finally:
            redis_server.thaw()

        # Now there are four where two are allowed: nobody is thrown out, and nobody else is let in.
        await asyncio.sleep(1)
        async with process(redis_server.url) as third:
            assert not await third.take(most)
        for places in (one, one, other):
            places.free(most)
        await eventually(one, most)


async def test_who_gives_up_waiting_holds_nothing(redis_server: EmbeddedRedis) -> None:
    most = {f"key:{uuid4()}": 1}
    async with process(redis_server.url) as one:
        taking = asyncio.create_task(one.take(most))
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)

        await eventually(one, most)


async def test_without_redis_a_process_counts_for_itself() -> None:
    async with process(None) as one:
        assert [await one.take({"key:1": 1}), await one.take({"key:1": 1})] == [True, False]
        one.free({"key:1": 1})
        assert await one.take({"key:1": 1})
