"""From the finger to the customer's server, over real processes, while things break.

Eight terminals punch for some seconds, a fault comes in the middle, and a minute after the last one everything has to
have arrived: in the database exactly once, in the feed exactly once, at the receiver at least once. A second tenant,
whose terminals have the very same serial numbers, goes through the same and must not be mixed up with the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from app.errors import ServiceUnavailable
from app.simulator import Report, simulate
from tests.journeys import oracle
from tests.journeys.lossy import LossyLine
from tests.journeys.rig import Customer, Rig, Server, until
from tests.journeys.subscriber import Subscriber
from tests.receiver import Answer

TERMINALS, RATE, SECONDS = 8, 40.0, 8.0
#: When the fault comes, while punches are made.
BREAKS_AFTER = 2.0
#: Seconds within which everything has to be well again after the last fault.
DRAIN = 60.0
#: Divides what firmware waits: half a minute after a failure becomes half a second.
SPEED = 50.0

Fault = Callable[[Rig], Awaitable[None]]


@asynccontextmanager
async def following(*subscribers: Subscriber) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(subscriber.run()) for subscriber in subscribers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [end for end in ended if not isinstance(end, asyncio.CancelledError)] == []


async def punch(rig: Rig, customer: Customer, rate: float, scenario: str = "steady") -> list[Report]:
    """All terminals of a customer, shared out among the servers."""
    share = -(-len(customer.serials) // len(rig.servers))
    parts = [customer.serials[start : start + share] for start in range(0, len(customer.serials), share)]
    return list(
        await asyncio.gather(
            *(
                simulate(
                    customer.dial(server),
                    devices=len(serials),
                    serials=serials,
                    rate=rate * len(serials) / len(customer.serials),
                    duration=SECONDS,
                    scenario=scenario,
                    speed=SPEED,
                    drain=DRAIN,
                    timeout=10.0,
                )
                for server, serials in zip(rig.servers, parts, strict=False)
            )
        )
    )


@dataclass(frozen=True, slots=True)
class Journey:
    """The first customer, what became of its terminals, and its subscriber that stays as long as it can."""

    customer: Customer
    reports: Sequence[Report]
    loyal: Subscriber

    def total(self, name: str) -> int:
        """Over all terminals."""
        return sum(getattr(report, name) for report in self.reports)


async def travel(rig: Rig, fault: Fault, scenario: str = "steady") -> Journey:
    """Two customers from end to end, with a fault in the middle; all that must hold at the end holds."""
    ours, theirs = await rig.add_customer(TERMINALS), await rig.add_customer(2)
    # One stays as long as it can, one keeps dropping off, one is another tenant's.
    loyal = Subscriber(rig.servers, ours.api_key)
    restless = Subscriber(rig.servers[::-1], ours.api_key, restless=0.7)
    stranger = Subscriber(rig.servers, theirs.api_key)
    async with following(loyal, restless, stranger):
        punching = [
            asyncio.create_task(punch(rig, ours, RATE, scenario)),
            asyncio.create_task(punch(rig, theirs, RATE / 8, scenario)),
        ]
        await asyncio.sleep(BREAKS_AFTER)
        await fault(rig)
        broken_until = asyncio.get_running_loop().time()
        reports, their_reports = await asyncio.gather(*punching)
        for customer, follower in ((ours, loyal), (ours, restless), (theirs, stranger)):
            left = broken_until + DRAIN - asyncio.get_running_loop().time()
            await arrived(rig, customer, follower, max(left, 1.0))

    for customer, told, followers in ((ours, reports, (loyal, restless)), (theirs, their_reports, (stranger,))):
        held = await oracle.stored(rig, customer)
        oracle.check_stored(held, told)
        for follower in followers:
            oracle.check_seen(held, follower, customer)
        oracle.check_received(held, customer)
        await oracle.check_listed(held, rig.servers[-1], customer)
    assert restless.connections > 2  # it did drop off; how often is up to the machine
    oracle.check_logs(rig.processes, (ours, theirs))
    return Journey(ours, reports, loyal)


async def arrived(rig: Rig, customer: Customer, follower: Subscriber, within: float) -> None:
    """Return once the feed and the receiver have as many as the database."""

    async def all_there() -> bool:
        try:
            held = await oracle.stored(rig, customer)
        except ServiceUnavailable:  # our own connection broke, too
            return False
        got = {request.event_id for request in customer.receiver.requests}
        return len(follower.seen) >= len(held.announced) and len(got) >= len(held.events)

    def missing() -> str:
        tails = "\n".join(f"── {process.name}\n" + process.said()[-3000:] for process in rig.processes)
        return (
            f"Seen {len(follower.seen)}, received {len(customer.receiver.requests)}; "
            f"trouble: {follower.trouble[-5:]}, {follower.closes}\n{tails}"
        )

    await until(all_there, within, missing)


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────


async def nothing(rig: Rig) -> None:
    pass


async def kill_server(rig: Rig) -> None:
    await rig.servers[0].kill()
    await asyncio.sleep(0.5)
    await rig.servers[0].start()
    await rig.servers[0].ready()


async def kill_redis(rig: Rig) -> None:
    await asyncio.to_thread(rig.redis.kill)
    await asyncio.sleep(3)
    await asyncio.to_thread(rig.redis.start)


async def stop_postgres(rig: Rig) -> None:
    await asyncio.to_thread(rig.postgres.stop, "immediate")
    await asyncio.sleep(1)
    await asyncio.to_thread(rig.postgres.start)


async def restart_one_by_one(rig: Rig) -> None:
    """A deploy."""
    for process in rig.processes:
        assert await process.stop() in (0, -15), process.said()[-3000:]
        await process.start()
        if isinstance(process, Server):
            await process.ready()


# ── journeys ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_punch_reaches_a_query_a_subscriber_and_a_receiver(rig: Rig) -> None:
    await rig.staff(servers=1, workers=1)

    journey = await travel(rig, nothing)

    assert journey.total("made") == RATE * SECONDS
    assert [journey.total(name) for name in ("resent", "refused", "unknown", "unreachable")] == [0, 0, 0, 0]


@pytest.mark.parametrize("fault", [kill_server, stop_postgres], ids=["server killed", "postgresql stopped at once"])
async def test_nothing_is_lost_doubled_or_mixed_up(rig: Rig, fault: Fault) -> None:
    await rig.staff(servers=1, workers=1)

    journey = await travel(rig, fault)

    assert journey.total("made") == RATE * SECONDS
    assert journey.total("unreachable") + journey.total("refused") > 0  # the terminals did notice
    assert all(process.lives for process in rig.processes)


async def test_without_redis_everything_goes_on_and_no_terminal_notices(rig: Rig) -> None:
    await rig.staff(servers=2, workers=1)

    journey = await travel(rig, kill_redis)

    assert journey.total("made") == RATE * SECONDS
    assert [journey.total(name) for name in ("resent", "refused", "unknown", "unreachable")] == [0, 0, 0, 0]
    assert (journey.loyal.connections, journey.loyal.closes) == (1, {})
    assert all(process.lives for process in rig.processes)


async def test_a_deploy_process_by_process_is_a_planned_restart_for_everybody(rig: Rig) -> None:
    await rig.staff(servers=2, workers=2)

    journey = await travel(rig, restart_one_by_one)

    assert journey.total("made") == RATE * SECONDS
    assert journey.loyal.closes.keys() == {1012}
    assert all(process.lives for process in rig.processes)


async def test_what_a_killed_worker_held_is_delivered_by_the_other(rig: Rig) -> None:
    await rig.staff(servers=1, workers=2)

    async def kill_a_worker_with_posts_under_way(rig: Rig) -> None:
        receiver = rig.receivers[0]
        receiver.always(Answer(delay=0.5))
        rig.workers[1].freeze()  # what comes now is the first one's
        await asyncio.sleep(0.5)
        before = len(receiver.requests)
        await receiver.until(lambda receiver: len(receiver.requests) > before)
        await rig.workers[0].kill()
        rig.workers[1].thaw()

    journey = await travel(rig, kill_a_worker_with_posts_under_way)
    # What arrived without anybody living to hear the answer comes again when the lease ends.
    await journey.customer.receiver.until(lambda receiver: any(request.attempt > 1 for request in receiver.requests))

    assert [worker.lives for worker in rig.workers] == [False, True]
    oracle.check_received(await oracle.stored(rig, journey.customer), journey.customer)


async def test_terminals_that_send_everything_again_make_nothing_new(rig: Rig) -> None:
    await rig.staff(servers=2, workers=1)

    journey = await travel(rig, nothing, scenario="resend-all")

    assert journey.total("made") == journey.total("resent") == journey.total("acknowledged") == RATE * SECONDS


async def test_an_upload_whose_answer_is_lost_is_unknown_and_stored_once(rig: Rig) -> None:
    await rig.staff(servers=1, workers=1)
    [server] = rig.servers
    customer = await rig.add_customer(TERMINALS)
    follower = Subscriber(rig.servers, customer.api_key)

    async with LossyLine(server.port, each=4) as line, following(follower):
        report = await simulate(
            f"http://127.0.0.1:{line.port}/d/{customer.token}",
            devices=TERMINALS,
            rate=RATE,
            duration=SECONDS / 2,
            speed=SPEED,
            drain=DRAIN,
        )
        await arrived(rig, customer, follower, DRAIN)

    held = await oracle.stored(rig, customer)
    oracle.check_stored(held, [report])
    oracle.check_seen(held, follower, customer)
    oracle.check_received(held, customer)
    assert line.lost > 5
    assert (report.unknown, report.refused) == (line.lost, 0)
    assert report.resent > 0
