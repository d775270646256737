"""Token buckets: one for all processes while Redis is there, small ones of their own while it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from app import limits
from app.embedded import EmbeddedRedis
from app.limits import Limiter, Local, spend

PATIENCE = 20


@pytest.fixture
async def twins(redis_server: EmbeddedRedis) -> AsyncIterator[tuple[Limiter, Limiter]]:
    """Two processes' limiters over one Redis: 100 points, practically none of which come back."""
    pair = tuple(Limiter(redis_server.url, most=100, rate=0.001, largest=10) for _ in range(2))
    yield pair[0], pair[1]
    for limiter in pair:
        await limiter.stop()


async def test_processes_share_a_bucket_and_tenants_do_not(twins: tuple[Limiter, Limiter]) -> None:
    one, other = twins
    tenant, stranger = uuid4(), uuid4()

    first, second = await one.spend(tenant, 60), await other.spend(tenant, 40)
    third = await one.spend(tenant, 1)

    assert [(each.granted, each.remaining) for each in (first, second, third)] == [(True, 40), (True, 0), (False, 0)]
    assert (await other.spend(stranger, 100)).granted
    assert not any(each.alone for each in (first, second, third))


async def test_of_many_at_once_as_many_pass_as_there_are_points(twins: tuple[Limiter, Limiter]) -> None:
    tenant = uuid4()

    answers = await asyncio.gather(*(twins[n % 2].spend(tenant, 1) for n in range(300)))

    assert sum(answer.granted for answer in answers) == 100


async def test_a_refusal_takes_nothing_and_says_how_long_to_wait(redis_server: EmbeddedRedis) -> None:
    limiter = Limiter(redis_server.url, most=100, rate=0.5, largest=10)
    tenant = uuid4()
    await limiter.spend(tenant, 90)

    refused = await limiter.spend(tenant, 20)
    granted = await limiter.spend(tenant, 10)
    await limiter.stop()

    assert (refused.granted, refused.remaining, round(refused.retry_in)) == (False, 10, 20)
    assert granted.granted


async def test_points_come_back(redis_server: EmbeddedRedis) -> None:
    limiter = Limiter(redis_server.url, most=100, rate=1000, largest=10)
    tenant = uuid4()
    await limiter.spend(tenant, 100)

    async with asyncio.timeout(PATIENCE):
        while not (await limiter.spend(tenant, 100)).granted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await limiter.stop()


async def test_what_is_given_back_may_be_spent_and_never_overfills(twins: tuple[Limiter, Limiter]) -> None:
    one, other = twins
    tenant = uuid4()

    taken = await one.spend(tenant, 90)
    one.give_back(tenant, taken, 50)
    assert (await one.spend(tenant, 0)).remaining == 60  # sent after it, on the same connection
    one.give_back(tenant, taken, 500)
    await one.spend(tenant, 0)

    assert (await other.spend(tenant, 0)).remaining == 100
    assert (taken.after(50).remaining, round(taken.after(50).full_in)) == (60, 40_000)


async def test_a_bucket_is_forgotten_once_it_is_full(redis_server: EmbeddedRedis) -> None:
    limiter = Limiter(redis_server.url, most=100, rate=1e6, largest=10)
    tenant = uuid4()
    await limiter.spend(tenant, 100)
    await limiter.stop()

    async with asyncio.timeout(PATIENCE):
        while await _command(redis_server, "EXISTS", f"points:{tenant}"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_without_redis_each_process_grants_a_part(redis_server: EmbeddedRedis) -> None:
    limiter = Limiter("redis://127.0.0.1:1/0", most=1000, rate=0.001, largest=100)
    tenant = uuid4()

    answers = [await limiter.spend(tenant, 100) for _ in range(4)]
    await limiter.stop()

    assert [answer.granted for answer in answers] == [True, True, False, False]
    assert all(answer.alone and answer.limit == 250 for answer in answers)


async def test_the_largest_that_may_be_asked_is_granted_even_then() -> None:
    limiter = Limiter("redis://127.0.0.1:1/0", most=1000, rate=1, largest=600)

    allowance = await limiter.spend(uuid4(), 600)
    await limiter.stop()

    assert allowance.granted


async def test_a_frozen_redis_holds_nobody_up_and_is_used_again_when_it_thaws(redis_server: EmbeddedRedis) -> None:
    limiter = Limiter(redis_server.url, most=1000, rate=1, largest=100)
    tenant = uuid4()
    assert not (await limiter.spend(tenant, 1)).alone

    redis_server.freeze()
    try:
        frozen = await asyncio.wait_for(asyncio.gather(*(limiter.spend(uuid4(), 1) for _ in range(20))), PATIENCE)
    finally:
        redis_server.thaw()
    async with asyncio.timeout(PATIENCE):
        while (await limiter.spend(tenant, 1)).alone:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await limiter.stop()

    assert all(answer.alone and answer.granted for answer in frozen)


async def test_a_process_takes_little_before_redis_hears_of_it(redis_server: EmbeddedRedis) -> None:
    limiter, other = (Limiter(redis_server.url, most=3200, rate=0.001, largest=10) for _ in range(2))
    tenant = uuid4()
    assert (await limiter.spend(tenant, 0)).remaining == 3200

    at_once = [limiter.spend(tenant, 1) for _ in range(300)]
    ahead = []
    for one in at_once:  # as far as they come without waiting for anything
        try:
            one.send(None)
        except StopIteration as done:
            ahead.append(done.value)
        else:
            one.close()
            break
    for one in at_once:
        one.close()

    assert [one.remaining for one in ahead] == list(range(3199, 3099, -1))
    assert not any(one.alone for one in ahead)
    async with asyncio.timeout(PATIENCE):  # what asked and gave up may have been counted or not
        while (await other.spend(tenant, 0)).remaining not in (3100, 3099):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await limiter.stop()
    await other.stop()


async def test_what_was_taken_while_others_emptied_the_bucket_is_counted(redis_server: EmbeddedRedis) -> None:
    limiter, other = (Limiter(redis_server.url, most=3200, rate=0.001, largest=10) for _ in range(2))
    tenant = uuid4()
    await limiter.spend(tenant, 0)
    ahead = await limiter.spend(tenant, 90)  # nothing is awaited here in truth
    taking = asyncio.create_task(other.spend(tenant, 3200))
    limiter.give_back(tenant, ahead, 40)

    assert (await taking).granted
    async with asyncio.timeout(PATIENCE):
        while (await other.spend(tenant, 0)).retry_in < 50_000 - 1000:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await limiter.stop()
    await other.stop()


async def test_a_bucket_that_is_no_bucket_is_judged_locally(redis_server: EmbeddedRedis) -> None:
    limiter = Limiter(redis_server.url, most=100, rate=1, largest=10)
    tenant = uuid4()
    await _command(redis_server, "SET", f"points:{tenant}", "nonsense")

    assert (await limiter.spend(tenant, 1)).alone
    await limiter.stop()


async def test_a_caller_who_gives_up_holds_up_no_other(twins: tuple[Limiter, Limiter]) -> None:
    tenant = uuid4()
    gone = asyncio.create_task(twins[0].spend(tenant, 1))
    stays = asyncio.create_task(twins[0].spend(tenant, 1))
    await asyncio.sleep(0)
    gone.cancel()

    assert (await stays).granted
    assert (await asyncio.gather(gone, return_exceptions=True))[0].__class__ is asyncio.CancelledError


def test_buckets_of_a_process_are_bounded_in_number() -> None:
    local = Local(10, 1, clock=lambda: 0)
    first = uuid4()
    local.spend(first, 10)

    for _ in range(limits.LOCAL_BUCKETS):
        local.spend(uuid4(), 1)

    assert len(local._buckets) == limits.LOCAL_BUCKETS
    assert local.spend(first, 10) == (True, 0)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(-50, 200)), max_size=50),
    st.floats(1, 100),
    st.floats(0.01, 100),
)
def test_nobody_spends_more_than_the_bucket_held_and_got(
    steps: list[tuple[float, float]], most: float, rate: float
) -> None:
    points, spent, waited_in_all, returned = most, 0.0, 0.0, 0.0
    for waited, cost in steps:
        granted, points = spend(points, waited, cost, most=most, rate=rate)
        waited_in_all += waited
        if granted:
            spent += max(0, cost)
            returned += max(0, -cost)
        assert 0 <= points <= most
        assert spent <= most + waited_in_all * rate + returned + 1e-6


@pytest.mark.parametrize(("most", "costs"), [(100, [7, 200, 0, -5, 90, 6]), (10, [10, 1, -3, 3, 1])])
async def test_the_script_follows_the_rule(redis_server: EmbeddedRedis, most: int, costs: list[int]) -> None:
    rate = 1e-9
    limiter = Limiter(redis_server.url, most=most, rate=rate, largest=1)
    tenant, points = uuid4(), float(most)

    for cost in costs:
        granted, points = spend(points, 0, cost, most=most, rate=rate)
        answer = await limiter.spend(tenant, cost)
        assert (answer.granted, answer.remaining) == (granted, points)
    await limiter.stop()


async def _command(redis_server: EmbeddedRedis, *words: str) -> object:
    client = Redis.from_url(redis_server.url)
    try:
        return await client.execute_command(*words)  # type: ignore[no-untyped-call]
    finally:
        await client.aclose()
