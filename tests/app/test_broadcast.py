from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
import uvloop
from redis.asyncio.connection import AbstractConnection
from structlog.testing import capture_logs

from app import broadcast
from app.broadcast import Bell, BellStopped, Heard, Listener, pause
from app.embedded import EmbeddedRedis

SOON = 10.0  # seconds after which a test gives up


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """One of its own: these tests mistreat it."""
    with EmbeddedRedis(tmp_path_factory.mktemp("bell")) as redis_server:
        yield redis_server


@pytest.fixture
async def bell(server: EmbeddedRedis) -> AsyncIterator[Bell]:
    bell = Bell(server.url)
    await bell.start()
    yield bell
    await bell.stop()


@pytest.fixture
async def client(server: EmbeddedRedis) -> AsyncIterator[redis.asyncio.Redis]:
    """Another program on the same server."""
    async with redis.asyncio.Redis.from_url(server.url) as client:
        yield client


async def settled(listener: Listener) -> None:
    """The subscription has taken effect, of which the first listener of a channel is told as a miss."""
    assert await listener.heard(SOON) == Heard([], True)


async def until_heard(bell: Bell, listener: Listener, channel: str) -> Heard:
    """Ring until it arrives, as rings during an outage may be lost."""
    missed = False
    async with asyncio.timeout(SOON):
        while True:
            bell.ring(channel, "anybody?")
            heard = await listener.heard(0.05)
            missed = missed or heard.missed
            if heard.messages:
                return Heard(heard.messages, missed)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_ring_arrives_with_its_bytes(bell: Bell) -> None:
    async with bell.listen("doors") as listener:
        await settled(listener)

        bell.ring("doors", b"\x00\xff one")
        bell.ring("doors", "zwei ü")

        arrived = [message async for message in first(2, listener)]

    assert arrived == [b"\x00\xff one", "zwei ü".encode()]
    assert (bell.rung, bell.dropped, bell.reconnects) == (2, 0, 0)
    assert listener.missed is False


async def first(most: int, listener: Listener) -> AsyncIterator[bytes]:
    async with asyncio.timeout(SOON):
        async for message in listener:
            yield message
            most -= 1
            if not most:
                return


async def test_messages_stay_in_order_and_on_their_channel(bell: Bell) -> None:
    async with bell.listen("odd") as odd, bell.listen("even") as even:
        await settled(odd)
        await settled(even)

        for number in range(200):
            bell.ring("odd" if number % 2 else "even", str(number))
        arrived = [[int(message) async for message in first(100, listener)] for listener in (odd, even)]

    assert arrived == [list(range(1, 200, 2)), list(range(0, 200, 2))]


async def test_a_ring_reaches_other_processes(server: EmbeddedRedis, bell: Bell) -> None:
    other = Bell(server.url)
    await other.start()
    async with bell.listen("far") as listener:
        await settled(listener)

        other.ring("far", b"hello")

        assert (await listener.heard(SOON)).messages == [b"hello"]
    await other.stop()


async def test_ten_first_listeners_at_once_all_hear(bell: Bell, client: redis.asyncio.Redis) -> None:
    ready = asyncio.Barrier(11)

    async def listen() -> list[bytes]:
        async with bell.listen("crowd") as listener:
            await ready.wait()
            return [message async for message in first(1, listener)]

    crowd = [asyncio.create_task(listen()) for _ in range(10)]
    await ready.wait()
    await subscribers(client, "crowd", 1)

    bell.ring("crowd", b"all of you")

    assert await asyncio.gather(*crowd) == [[b"all of you"]] * 10
    await subscribers(client, "crowd", 0)


async def subscribers(client: redis.asyncio.Redis, channel: str, count: int) -> None:
    """Wait until the server counts so many subscribing connections."""
    async with asyncio.timeout(SOON):
        while (await client.pubsub_numsub(channel))[0][1] != count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_who_leaves_at_once_and_comes_again_hears(bell: Bell) -> None:
    for _ in range(20):
        async with bell.listen("door"):
            pass

    async with bell.listen("door") as listener:
        assert (await until_heard(bell, listener, "door")).messages != []


async def test_a_listener_that_came_before_the_server_hears_when_it_is_there(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    with server:
        pass  # now it has a port
    bell = Bell(server.url)
    back = asyncio.Event()
    bell.on_reconnect(back.set)

    await bell.start()
    assert bell.healthy is False
    async with bell.listen("early") as listener:
        with server:
            async with asyncio.timeout(SOON):
                await back.wait()
            heard = await until_heard(bell, listener, "early")
            assert (heard.missed, bell.healthy, bell.reconnects) == (True, True, 1)
            await bell.stop()


@pytest.mark.parametrize("outage", [0.3, 3.0])
async def test_delivery_resumes_after_the_server_was_killed(server: EmbeddedRedis, bell: Bell, outage: float) -> None:
    called: list[str] = []
    bell.on_reconnect(lambda: called.append("again"))
    with capture_logs() as logs:
        async with bell.listen("phoenix") as listener:
            await settled(listener)

            server.kill()
            bell.ring("phoenix", b"into the void")
            await asyncio.sleep(outage)
            assert bell.healthy is False
            server.start()

            heard = await until_heard(bell, listener, "phoenix")

    assert heard.missed is True
    assert called == ["again"]
    assert bell.reconnects == 1
    await until(lambda: bell.healthy)
    assert [entry["event"] for entry in logs if entry["event"] in {"bell_lost", "bell_restored"}] == [
        "bell_lost",
        "bell_restored",
    ]


async def test_an_outage_is_told_to_every_listener(server: EmbeddedRedis, bell: Bell) -> None:
    async with bell.listen("a") as a, bell.listen("a") as second, bell.listen("b") as b:
        await settled(a)
        await settled(b)
        second.missed = False

        server.kill()
        server.start()

        assert [await listener.heard(SOON) for listener in (a, second, b)] == [Heard([], True)] * 3


async def test_rings_of_an_outage_are_delivered_once_the_ringer_is_back(server: EmbeddedRedis, bell: Bell) -> None:
    server.kill()
    for number in range(300):
        bell.ring("void", str(number))
    assert (bell.rung, bell.dropped) == (0, 0)

    server.start()
    await until(lambda: bell.rung == 300)

    assert (bell.rung, bell.dropped) == (300, 0)


async def test_delivery_resumes_after_the_listening_connection_was_killed(
    bell: Bell, client: redis.asyncio.Redis
) -> None:
    async with bell.listen("cut") as listener:
        await settled(listener)

        assert await client.client_kill_filter(_type="pubsub") == 1

        assert await listener.heard(SOON) == Heard([], True)
        bell.ring("cut", b"still here")
        assert (await listener.heard(SOON)).messages == [b"still here"]
    assert bell.reconnects == 1


async def test_a_ring_survives_the_death_of_the_ringing_connection(bell: Bell, client: redis.asyncio.Redis) -> None:
    async with bell.listen("cut") as listener:
        await settled(listener)

        await client.client_kill_filter(_type="normal", skipme=True)
        bell.ring("cut", b"twice tried")

        assert (await listener.heard(SOON)).messages == [b"twice tried"]
    assert bell.reconnects == 0


async def test_a_frozen_server_is_noticed_and_delivery_resumes_when_it_thaws(server: EmbeddedRedis, bell: Bell) -> None:
    async with bell.listen("ice") as listener:
        await settled(listener)
        await until(lambda: bell.healthy)

        server.freeze()
        try:
            await until(lambda: not bell.healthy)
            backend = bell._backend
            assert isinstance(backend, broadcast.SupervisedRedisBackend)
            await until(lambda: backend._down_since is not None)
            for number in range(5_000):
                bell.ring("ice", str(number))
        finally:
            server.thaw()

        assert (await until_heard(bell, listener, "ice")).messages != []
    await until(lambda: bell.healthy)
    assert bell.reconnects == 1
    assert bell.dropped >= 5_000 - broadcast.MOST_RINGS


async def test_a_quiet_bell_stays_connected(bell: Bell, client: redis.asyncio.Redis) -> None:
    async with bell.listen("quiet") as listener:
        await settled(listener)

        assert await listener.heard(3 * (broadcast.PING_EVERY + broadcast.SILENCE) / 2) == Heard([], False)

        assert bell.healthy is True
        assert bell.reconnects == 0


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
async def test_an_event_loop_that_stood_still_does_not_blame_the_server(
    server: EmbeddedRedis, run: Callable[[Coroutine[Any, Any, int]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    send, stalls = broadcast._send, 0

    async def stall_after_ping(connection: AbstractConnection, *command: str) -> None:
        nonlocal stalls
        if command == ("PING",) and stalls < 3:
            stalls += 1
            server.freeze()  # the answer comes while we stand still, not before
            asyncio.get_running_loop().call_soon(stall)
        await send(connection, *command)

    def stall() -> None:
        server.thaw()
        time.sleep(broadcast.SILENCE + 0.1)

    async def stand_still() -> int:
        bell = Bell(server.url)
        await bell.start()
        await until(lambda: stalls == 3)
        async with bell.listen("still") as listener:
            await settled(listener)
        await bell.stop()
        return bell.reconnects

    monkeypatch.setattr(broadcast, "_send", stall_after_ping)

    reconnects = await asyncio.to_thread(run, stand_still())

    assert reconnects == 0


async def test_a_slow_listener_keeps_the_newest_and_learns_that_it_missed_some(server: EmbeddedRedis) -> None:
    bell = Bell(server.url, most_unheard=3)
    await bell.start()
    async with bell.listen("flood") as slow, bell.listen("flood") as quick:
        await settled(slow)
        quick.missed = False
        heard: list[bytes] = []

        for number in range(10):
            bell.ring("flood", str(number))
            heard += (await quick.heard(SOON)).messages

        assert heard == [b"%d" % number for number in range(10)]
        assert quick.missed is False
        assert slow.overflows == 7
        assert await slow.heard(SOON) == Heard([b"7", b"8", b"9"], True)
        assert slow.missed is False
    await bell.stop()


async def test_rings_that_wait_are_bounded_by_number_and_by_bytes(server: EmbeddedRedis, tmp_path: Path) -> None:
    away = EmbeddedRedis(tmp_path)
    with away:
        pass
    bell = Bell(away.url)
    await bell.start()

    for _ in range(broadcast.MOST_RINGS + 10):
        bell.ring("void", b"x")
    assert bell.dropped == 10
    for _ in range(200):
        bell.ring("void", b"x" * 65_536)

    backend = bell._backend
    assert isinstance(backend, broadcast.SupervisedRedisBackend)
    assert sum(len(message) for _, message in [*backend._rings, *backend._ringing]) <= broadcast.MOST_RING_BYTES
    await bell.stop()
    assert bell.rung == 0


async def test_a_ring_the_server_refuses_is_dropped_and_the_next_one_arrives(
    server: EmbeddedRedis, client: redis.asyncio.Redis
) -> None:
    await client.acl_setuser(
        "ringer",
        enabled=True,
        passwords=["+pw"],
        reset_channels=True,
        channels=["open", broadcast.KEEP_ALIVE],
        categories=["+@all"],
    )
    bell = Bell(f"redis://ringer:pw@127.0.0.1:{server.port}/0")
    await bell.start()
    async with bell.listen("open") as listener:
        await settled(listener)

        bell.ring("closed", b"no")
        bell.ring("open", b"yes")

        assert (await listener.heard(SOON)).messages == [b"yes"]
        await until(lambda: (bell.rung, bell.dropped) == (1, 1))  # the answers come after the message
    await bell.stop()
    await client.acl_deluser("ringer")


async def test_options_in_the_url_cannot_turn_messages_into_text(server: EmbeddedRedis) -> None:
    bell = Bell(server.url + "?decode_responses=true&protocol=3&socket_timeout=0.05")
    await bell.start()
    async with bell.listen("plain") as listener:
        await settled(listener)
        await asyncio.sleep(0.2)

        bell.ring("plain", b"\xff")

        assert (await listener.heard(SOON)).messages == [b"\xff"]
    assert bell.reconnects == 0
    await bell.stop()


async def test_a_callback_that_fails_does_not_end_the_listening(bell: Bell, client: redis.asyncio.Redis) -> None:
    called: list[str] = []

    def fail() -> None:
        called.append("first")
        raise ZeroDivisionError

    bell.on_reconnect(fail)
    bell.on_reconnect(lambda: called.append("second"))
    with capture_logs():
        async with bell.listen("x") as listener:
            await settled(listener)
            await client.client_kill_filter(_type="pubsub")
            await settled(listener)
            await until(lambda: bell.healthy)

    assert called == ["first", "second"]
    assert bell.reconnects == 1


@pytest.mark.parametrize("state", ["well", "killed", "frozen"])
async def test_nothing_is_left_after_a_stop(server: EmbeddedRedis, state: str) -> None:
    before = asyncio.all_tasks()
    bell = Bell(server.url)
    await bell.start()
    async with bell.listen("end") as listener:
        await settled(listener)
        waiting = asyncio.create_task(listener.heard())
        iterating = asyncio.create_task(anext(aiter(listener), b"ended"))
        await asyncio.sleep(0)
        if state == "killed":
            server.kill()
        if state == "frozen":
            server.freeze()
        bell.ring("end", b"last")

        listener_count = len(bell._channels)
        try:
            await bell.stop()
        finally:
            server.thaw()
            server.start()

        if state == "well":
            assert bell.rung == 1
        else:
            with pytest.raises(BellStopped):
                await waiting
            assert await iterating == b"ended"
    await asyncio.gather(waiting, iterating, return_exceptions=True)

    assert listener_count == 1
    assert bell._channels == {}
    assert asyncio.all_tasks() == before
    assert bell.healthy is False
    bell.ring("end", b"nobody minds")
    with pytest.raises(BellStopped):
        async with bell.listen("end"):
            pass


async def test_the_last_rings_leave_before_the_stop(server: EmbeddedRedis, bell: Bell) -> None:
    ringer = Bell(server.url)
    await ringer.start()
    async with bell.listen("last") as listener:
        await settled(listener)

        ringer.ring("last", b"words")
        await ringer.stop()

        assert (await listener.heard(SOON)).messages == [b"words"]


async def test_without_a_url_the_bell_rings_within_the_process() -> None:
    before = asyncio.all_tasks()
    bell = Bell(None)
    await bell.start()
    async with bell.listen("here") as one, bell.listen("here") as two, bell.listen("there") as other:
        bell.ring("here", "hello")

        assert await one.heard(SOON) == Heard([b"hello"], False)
        assert await two.heard(SOON) == Heard([b"hello"], False)
        assert await other.heard(0.05) == Heard([], False)
    assert bell.healthy is True
    assert (bell.rung, bell.dropped) == (1, 0)
    await bell.stop()

    assert asyncio.all_tasks() == before


def test_pauses_grow_to_a_second_and_never_beyond() -> None:
    assert [pause(failures, 1.0) for failures in (1, 2, 3, 4, 5, 1_000)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert pause(5, 0.0) == 0.5
