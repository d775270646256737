"""Everybody who follows, by whatever transport, while what is behind the feed breaks: all of it, once and in order.

Two servers and no worker. Terminals punch all the while; a minute after the last of them is answered, each follower has
seen exactly what the database holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from app.errors import ServiceUnavailable
from tests.journeys import oracle
from tests.journeys.rig import Rig, until
from tests.journeys.subscriber import Listener, Puller, Subscriber
from tests.journeys.test_journeys import (
    BREAKS_AFTER,
    DRAIN,
    RATE,
    TERMINALS,
    following,
    kill_redis,
    kill_server,
    punch,
    restart_one_by_one,
)

Fault = Callable[[Rig], Awaitable[None]]


async def follow_through(rig: Rig, fault: Fault, turn: asyncio.Event | None = None) -> list[Subscriber]:
    """Followers of each kind, some on each server, through a fault. All that must hold at the end holds.

    With a `turn` there are two more, who are connected and ask when it comes.
    """
    customer = await rig.add_customer(TERMINALS)
    key = customer.api_key
    followers = [
        kind(servers, key, restless=restless)
        for kind in (Subscriber, Listener, Puller)
        for servers in (rig.servers, rig.servers[::-1])
        for restless in ((None, 0.7) if kind is not Puller else (None,))
    ]
    if turn is not None:
        followers += [Subscriber(servers, key, turn=turn) for servers in (rig.servers, rig.servers[::-1])]
    async with following(*followers):
        punching = asyncio.create_task(punch(rig, customer, RATE))
        await asyncio.sleep(BREAKS_AFTER)
        await fault(rig)
        reports = await punching

        async def all_there() -> bool:
            try:
                held = await oracle.stored(rig, customer)
            except ServiceUnavailable:  # our own connection broke, too
                return False
            return all(len(follower.seen) >= len(held.announced) for follower in followers)

        def missing() -> str:
            return str([(type(one).__name__, len(one.seen), one.trouble[-3:], one.closes) for one in followers])

        await until(all_there, DRAIN, missing)

    held = await oracle.stored(rig, customer)
    oracle.check_stored(held, reports)
    for follower in followers:
        oracle.check_seen(held, follower, customer)
    oracle.check_logs(rig.processes, [customer])
    assert all(process.lives for process in rig.processes)
    return followers


async def test_whoever_follows_outlasts_a_postgresql_that_stops_at_once(rig: Rig) -> None:
    await rig.staff(servers=2, workers=0)
    turn = asyncio.Event()

    async def stop_postgres(rig: Rig) -> None:
        await asyncio.to_thread(rig.postgres.stop, "immediate")
        turn.set()
        await asyncio.sleep(1)
        await asyncio.to_thread(rig.postgres.start)

    followers = await follow_through(rig, stop_postgres, turn)

    # No subscription ended, not even one that began meanwhile: the feed says nothing until it knows again.
    loyal = [one for one in followers if not isinstance(one, Puller) and one.restless is None]
    assert [(one.connections, one.trouble, dict(one.closes)) for one in loyal] == [(1, [], {})] * 6


async def test_whoever_follows_a_killed_server_goes_on_at_another(rig: Rig) -> None:
    await rig.staff(servers=2, workers=0)

    followers = await follow_through(rig, kill_server)

    assert [one.connections > 1 for one in followers if one.restless is None and one.first is rig.servers[0]] == [
        True
    ] * 3


async def test_whoever_follows_is_sent_elsewhere_by_a_server_that_restarts(rig: Rig) -> None:
    await rig.staff(servers=2, workers=0)

    followers = await follow_through(rig, restart_one_by_one)

    for one in followers:
        if one.restless is None:
            assert one.connections > 1
            assert not isinstance(one, Puller | Listener) or not one.closes
            assert one.closes.keys() <= {1012}


async def test_whoever_follows_does_not_notice_that_redis_dies(rig: Rig) -> None:
    await rig.staff(servers=2, workers=0)

    followers = await follow_through(rig, kill_redis)

    loyal = [one for one in followers if one.restless is None]
    assert [(one.connections, one.trouble, dict(one.closes)) for one in loyal] == [(1, [], {})] * 6
