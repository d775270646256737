"""Execute once, send many: who shares with whom, and that nobody gets a gap or a repeat by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import UUID, uuid4

import orjson
import pytest
import strawberry

from app.domain.devices import Device
from app.domain.keys import Actor
from app.errors import ServiceUnavailable
from schema.pipe import Bounds, Pipe, PipeMember
from schema.running import OperationFailed, Runner
from schema.sharing import Asked, Live, Member, Piece, key_of, read_shape
from tests.schema.conftest import Caller
from tests.schema.feeds import FEED, Served, batch, pins
from tests.schema.sockets import PATIENCE, acknowledged
from tests.schema.world import World

ACTOR = Actor(uuid4(), uuid4(), frozenset({"punches:read"}), "TRIAL")
PLAIN = "subscription($after: String) { punches(after: $after) { cursor previousCursor punches { pin } } }"


async def settled(here: Served, members: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while here.api.sockets.runner.groups.members != members:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# ── who is alike ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PLAIN, PLAIN.replace(" { ", "\n  {\n  ").replace("(after: $after)", "(after:$after,)")),
        ('subscription { punches(after: "x") { cursor } }', 'subscription { punches(after: "y") { cursor } }'),
        ("subscription { punches(from: NOW) { cursor } }", "subscription { punches { cursor } }"),
        ("subscription($a: String) { punches(after: $a) { cursor } }", "subscription { punches { cursor } }"),
    ],
)
def test_where_it_begins_and_how_it_is_written_makes_no_difference(one: str, other: str) -> None:
    assert key_of(Asked(one), ACTOR) == key_of(Asked(other), ACTOR) != None  # noqa: E711


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Asked("subscription { punches { cursor } }"), Asked("subscription { punches { headLag } }")),
        (Asked("subscription { punches { cursor } }"), Asked("subscription { punches(maxBatch: 1) { cursor } }")),
        (Asked("subscription { punches { cursor } }"), Asked("subscription { a: punches { cursor } }")),
        (Asked("subscription { punches { cursor } }"), Asked("subscription { punches { a: cursor } }")),
        (Asked(FEED, {"filter": {"pins": ["1"]}}), Asked(FEED, {"filter": {"pins": ["2"]}})),
        (Asked(FEED, {"maxBatch": 1}), Asked(FEED, {"maxBatch": 2})),
        (Asked(FEED, {"maxBatch": None}), Asked(FEED, {})),
    ],
)
def test_whatever_else_is_asked_differently_is_not_alike(one: Asked, other: Asked) -> None:
    assert key_of(one, ACTOR) != key_of(other, ACTOR)


@pytest.mark.parametrize(
    "other",
    [
        replace(ACTOR, tenant_id=uuid4()),
        replace(ACTOR, scopes=frozenset({"punches:read", "devices:read"})),
        replace(ACTOR, plan="ACTIVE"),
    ],
)
def test_other_tenants_and_other_rights_are_not_alike(other: Actor) -> None:
    assert key_of(Asked(PLAIN), ACTOR) != key_of(Asked(PLAIN), other)
    assert key_of(Asked(PLAIN), ACTOR) == key_of(Asked(PLAIN), replace(ACTOR, key_id=uuid4()))


def test_variables_that_nobody_declared_say_nothing() -> None:
    assert key_of(Asked(PLAIN, {"after": "x", "more": 1}), ACTOR) == key_of(Asked(PLAIN, {"after": "y"}), ACTOR)


@pytest.mark.parametrize(
    "query",
    [
        "query { punches { cursor } }",
        "subscription { ...F } fragment F on Subscription { punches { cursor } }",
        "subscription($a: String) { punches(after: $a) { punches { device { punches(after: $a) { totalCount } } } } }",
        "subscription A { punches { cursor } } subscription B { punches { cursor } }",
    ],
)
def test_what_is_not_plainly_the_same_is_not_shared(query: str) -> None:
    assert read_shape(query, None) is None


class _Cursors:
    def cursor(self, position: int) -> str:
        return f"c{position}"


@pytest.mark.parametrize(
    ("first", "fitting"),
    [(None, {10, 11, 12, 13, 14, 15}), (11, {10}), (13, {10, 11, 12}), (15, {10, 11, 12, 13, 14})],
)
def test_a_piece_fits_where_it_is_exactly_what_follows(first: int | None, fitting: set[int]) -> None:
    piece = Piece(10, first, 15, "c15", [b'{"previous":', b"}"], cast("Any", _Cursors()))

    assert {position for position in range(5, 20) if piece.fits(position)} == fitting
    assert piece.after(12) == b'{"previous":"c12"}'


# ── sharing ──────────────────────────────────────────────────────────────────────────────────────────


async def test_subscriptions_alike_are_executed_once(here: Served, caller: Caller, device: Device) -> None:
    counts = here.api.sockets.runner.groups.counts
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(acknowledged(here.url, caller.api_key)) for _ in range(20)]
        for number, client in enumerate(clients):
            await client.subscribe(FEED, id=f"op{number}")
            first = await batch(client, f"op{number}")
        await settled(here, 20)
        assert here.api.sockets.runner.groups.open == 1

        made = [(await here.punch(caller.tenant_id, device, number))[0] for number in range(3)]

        for number, client in enumerate(clients):
            cursor, seen = first["cursor"], list[str]()
            while len(seen) < 3:
                got = await batch(client, f"op{number}")
                assert got["previousCursor"] == cursor
                cursor, seen = got["cursor"], seen + pins(got)
            assert seen == made
        assert counts.executed <= 3
        assert counts.sent == 20 * counts.executed
    await settled(here, 0)
    assert (here.api.sockets.runner.groups.open, here.parts.feed.watched) == (0, 0)


async def test_a_group_that_lives_long_remembers_no_more_than_its_document(
    here: Served, caller: Caller, device: Device
) -> None:
    groups = here.api.sockets.runner.groups
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(FEED)
        await batch(client)
        await settled(here, 1)
        [group] = groups._groups.values()
        executor: Any = group._executor
        kept: list[tuple[int, int]] = []
        for number in range(10):
            await here.punch(caller.tenant_id, device, number)
            while not pins(await batch(client)):
                pass
            kept.append((len(executor._plans), len(executor._relevant_sub_fields)))

    assert kept == [kept[0]] * 10


async def test_one_who_went_on_alone_has_the_same_bytes(here: Served, caller: Caller, world: World) -> None:
    fragment = (
        "subscription { ...F } fragment F on Subscription { punches { punches { id pin raw flags employee { name "
    )
    fragment += "} device { name site { name } } } } }"
    plain = fragment.replace("...F } fragment F on Subscription { ", "")
    async with acknowledged(here.url, caller.api_key) as one, acknowledged(here.url, caller.api_key) as other:
        await one.subscribe(fragment)
        await other.subscribe(plain)
        await one.next()
        await other.next()
        await settled(here, 1)
        await here.punch(caller.tenant_id, world.device, 42, pin="00")

        assert await one.next() == await other.next()


async def test_a_filter_is_a_group_of_its_own(here: Served, caller: Caller, device: Device) -> None:
    async with acknowledged(here.url, caller.api_key) as client:
        await client.subscribe(FEED, id="all")
        await client.subscribe(FEED, id="some", variables={"filter": {"pins": ["72"]}})
        for _ in range(2):
            await client.recv()
        await settled(here, 2)
        assert here.api.sockets.runner.groups.open == 2

        await here.punch(caller.tenant_id, device, 1)
        assert pins(await batch(client, "all")) == ["71"]
        await here.punch(caller.tenant_id, device, 2)
        got = {message["id"]: message for message in [await client.recv(), await client.recv()]}
        assert {name: pins(each["payload"]["data"]["punches"]) for name, each in got.items()} == {
            "all": ["72"],
            "some": ["72"],
        }


async def test_who_joins_after_events_that_the_group_passed_over_has_its_own_previous_cursor(
    here: Served, caller: Caller, device: Device
) -> None:
    wanted = {"filter": {"pins": ["72"]}}
    async with acknowledged(here.url, caller.api_key) as early, acknowledged(here.url, caller.api_key) as late:
        await early.subscribe(FEED, variables=wanted)
        before = await batch(early)
        await settled(here, 1)
        await here.punch(caller.tenant_id, device, 1)
        await late.subscribe(FEED, variables=wanted)
        after = await batch(late)
        await settled(here, 2)
        assert before["cursor"] != after["cursor"]

        await here.punch(caller.tenant_id, device, 2)
        one, other = await batch(early), await batch(late)

    assert (pins(one), pins(other), one["cursor"]) == (["72"], ["72"], other["cursor"])
    assert (one["previousCursor"], other["previousCursor"]) == (before["cursor"], after["cursor"])


async def test_nobody_who_comes_and_goes_misses_or_repeats_anything(
    here: Served, caller: Caller, device: Device
) -> None:
    total, cursor = 150, here.parts.cursors.write(caller.tenant_id, 0)

    async def write() -> None:
        for number in range(total):
            await here.punch(caller.tenant_id, device, number)

    async def read(patience: int) -> list[str]:
        """Everything from the beginning, over sockets that end after so many batches."""
        seen: list[str] = []
        after = cursor
        while len(seen) < total:
            async with acknowledged(here.url, caller.api_key) as client:
                await client.subscribe(FEED, variables={"after": after})
                for _ in range(patience):
                    got = await batch(client)
                    assert got["previousCursor"] == after
                    after, seen = got["cursor"], seen + pins(got)
                    if len(seen) >= total:
                        break
        return seen

    *readings, _ = await asyncio.gather(*(read(patience) for patience in (2, 3, 7, 1000, 1000, 1000)), write())

    assert readings == [[f"7{number}" for number in range(total)]] * 6
    assert here.api.sockets.runner.groups.counts.sent > 0


async def test_a_slow_reader_is_set_back_and_loses_nothing(here: Served, caller: Caller, device: Device) -> None:
    sockets = here.api.sockets
    sockets.limits = replace(sockets.limits, shared=Bounds(frames=4))
    name = "x" * 40_000  # the client's own id is in every message
    async with (
        acknowledged(here.url, caller.api_key, max_queue=1) as slow,
        acknowledged(here.url, caller.api_key) as quick,
    ):
        await slow.subscribe(FEED, id=name)
        cursor = (await batch(slow, name))["cursor"]
        await quick.subscribe(FEED)
        await batch(quick)
        await settled(here, 2)
        made: list[str] = []
        while not sockets.runner.groups.counts.overflowed:
            made += await here.punch(caller.tenant_id, device, len(made))
            await batch(quick)
        made += await here.punch(caller.tenant_id, device, len(made))

        seen: list[str] = []
        while len(seen) < len(made):
            got = await batch(slow, name)
            assert got["previousCursor"] == cursor
            cursor, seen = got["cursor"], seen + pins(got)
        await settled(here, 2)

    assert seen == made


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [(Bounds(frames=3), 3), (Bounds(size=250), 2), (Bounds(age=0), 1)],
    ids=["frames", "size", "age"],
)
async def test_what_waits_for_a_member_is_bounded(bounds: Bounds, kept: int) -> None:
    async def write(_: bytes) -> None:
        pass

    pipe = Pipe(None, write, queue=8, stall=30, bounds=bounds)
    one, other = PipeMember(pipe, 5, b"", b""), PipeMember(pipe, 5, b"", b"")
    taken = 0
    while taken < 20 and pipe.offer(one, b"x" * 100, 5 + taken):
        taken += 1
        await asyncio.sleep(0.001)
        assert pipe.offer(other, b"x", 5) or bounds.age == 0

    assert (taken, one.position, one.waiting, one.size) == (kept, 5, 0, 0)


# ── what cannot be shared ────────────────────────────────────────────────────────────────────────────


@dataclass
class Operation:
    """The context here."""

    actor: Actor
    request_id: str = "req_1"
    unsent: bool | None = None
    resume: int | None = None
    cursor: str | None = None
    live: Live | None = None
    deadline: asyncio.Timeout | None = None

    def refresh(self) -> None:
        """Nothing is loaded here."""
        refreshed.append(self.actor)


@dataclass
class _Step:
    position: int
    first: int | None
    goes_on: bool = False


@dataclass
class _Numbers:
    """A source of numbers, as somebody puts them in."""

    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    last: int = 0
    #: Of the same moment as the one before.
    goes_on: set[int] = field(default_factory=set)

    async def add(self) -> None:
        async with self.news:
            self.last += 1
            self.news.notify_all()

    async def follow(self, after: int) -> AsyncGenerator[_Step]:
        while True:
            async with self.news:
                while self.last <= after:
                    await self.news.wait()
            after += 1
            yield _Step(after, after, goes_on=after in self.goes_on)

    def show(self, context: Any, step: _Step, previous: str) -> Number:
        return Number(value=step.position, previous=previous)

    def cursor(self, position: int) -> str:
        return f"c{position}"


numbers = _Numbers()
executed: list[int] = []
refreshed: list[Actor] = []
away: list[int] = []


@strawberry.type
class Number:
    value: int
    previous: str | None

    @strawberry.field
    def whose(self, info: strawberry.Info[Operation, None]) -> str:
        return str(info.context.actor.key_id)

    @strawberry.field
    def square(self) -> int | None:
        if away:
            away.pop()
            raise ServiceUnavailable("Away.")
        executed.append(self.value)
        return self.value**2

    @strawberry.field
    def odd(self) -> int:
        if self.value % 2 == 0:
            raise RuntimeError("secret words")
        return self.value


@strawberry.type
class Query:
    nothing: int


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def numbers(self, info: strawberry.Info[Operation, None]) -> AsyncGenerator[Number]:
        context = info.context
        position = context.resume if context.resume is not None else numbers.last
        context.live = Live(position, numbers)
        if context.resume is None:
            yield Number(value=position, previous=None)
        async with aclosing(numbers.follow(position)) as steps:
            async for step in steps:
                context.live = Live(step.position, numbers)
                yield Number(value=step.position, previous=numbers.cursor(step.position - 1))


class Outlet:
    """Keeps what it gets, without bound."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def put(self, payload: bytes, cursor: str | None) -> None:
        self.got.put_nowait(orjson.loads(payload))

    def member(self, position: int) -> Member:
        outlet = self

        class Kept(Member):
            def take(self, text: bytes, piece: Piece) -> bool:
                outlet.got.put_nowait(orjson.loads(text))
                return True

        return Kept(position)

    async def next(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            return (await self.got.get())["data"]["numbers"]


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    numbers.news, numbers.last, numbers.goes_on = asyncio.Condition(), 10, set()
    executed.clear()
    refreshed.clear()
    runner = Runner(strawberry.Schema(query=Query, subscription=Subscription), Operation, public_url="https://e.test")
    yield runner
    await runner.groups.stop()


def run(runner: Runner, query: str, key_id: UUID) -> tuple[Outlet, asyncio.Task[None]]:
    actor, outlet = replace(ACTOR, key_id=key_id), Outlet()
    return outlet, asyncio.create_task(runner.run(Asked(query), actor, Operation(actor), outlet))


async def test_what_depends_on_the_caller_is_executed_for_each(runner: Runner) -> None:
    keys = [uuid4(), uuid4()]
    running = [run(runner, "subscription { numbers { value whose } }", key) for key in keys]
    for outlet, _ in running:
        await outlet.next()

    for number in (11, 12, 13):
        await numbers.add()
        for key, (outlet, _) in zip(keys, running, strict=True):
            assert await outlet.next() == {"value": number, "whose": str(key)}

    assert runner.groups.members == 0
    for _, task in running:
        task.cancel()


async def test_who_is_behind_its_group_does_not_join_it(runner: Runner) -> None:
    outlet, task = run(runner, "subscription { numbers { value } }", uuid4())
    await outlet.next()
    await numbers.add()
    await outlet.next()

    join = runner.groups.join
    asked = Asked("subscription { numbers { value } }")
    assert join(asked, ACTOR, Live(10, numbers), Member) is None
    assert join(asked, ACTOR, Live(11, numbers), Member) is not None
    task.cancel()


async def test_a_batch_is_executed_again_until_postgresql_is_back(runner: Runner) -> None:
    outlet, task = run(runner, "subscription { numbers { square previous } }", uuid4())
    await outlet.next()
    executed.clear()
    away.extend([1, 1])
    await numbers.add()

    assert await outlet.next() == {"square": 121, "previous": "c10"}
    assert executed == [11]
    task.cancel()


async def test_parts_of_one_batch_share_what_was_loaded_unless_it_could_not_be(runner: Runner) -> None:
    outlet, task = run(runner, "subscription { numbers { square } }", uuid4())
    await outlet.next()
    numbers.goes_on = {12, 14, 15}
    loaded = []
    for number in range(11, 17):
        away.extend([1] * (number == 14))
        before = len(refreshed)
        await numbers.add()
        assert await outlet.next() == {"square": number**2}
        loaded.append(len(refreshed) - before)

    # 14 was tried twice, the second time with what was loaded anew.
    assert loaded == [1, 0, 1, 1, 0, 1]
    task.cancel()


async def test_a_batch_that_fails_for_all_is_each_ones_own_error(runner: Runner) -> None:
    numbers.last = 11
    running = [run(runner, "subscription { numbers { odd value } }", uuid4()) for _ in range(2)]
    for outlet, _ in running:
        assert await outlet.next() == {"odd": 11, "value": 11}
    await numbers.add()

    for _, task in running:
        with pytest.raises(OperationFailed) as failed:
            await task
        assert [error["extensions"]["code"] for error in failed.value.errors] == ["internal_error"]
        assert "secret" not in str(failed.value.errors)
    assert (runner.groups.counts.failed, runner.groups.open) == (1, 0)
