"""graphql-transport-ws as our clients may speak it and as they should not: every end has the code that says why."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
import strawberry
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from app import cli
from app.database import Database
from app.domain import keys
from app.domain.keys import Actor, KeyRing, PermissionDenied, Unauthenticated
from app.errors import ServiceUnavailable
from app.vault import Vault
from app.web import wire
from schema.held import FLUSH
from schema.pipe import LOOKS
from schema.sharing import Live
from schema.socket import SocketLimits, SocketServer
from tests.conftest import MakeTenant
from tests.schema.sockets import MESSAGE_BOUND, OURS, PATIENCE, Client, acknowledged, dialled, serving


@dataclass
class Operation:
    """The context of an operation here."""

    actor: Actor
    request_id: str = "req_1"
    unsent: bool | None = None
    resume: int | None = None
    cursor: str | None = None
    live: Live | None = None
    deadline: asyncio.Timeout | None = None

    def refresh(self) -> None:
        """Nothing is loaded here."""


#: Sources of subscriptions that are running.
running: set[str] = set()
#: How many messages each flood gave, of so many.
flooded: list[int] = []
FLOOD = 1000


@strawberry.type
class Query:
    @strawberry.field
    def hello(self, name: str = "you") -> str:
        return f"Hello, {name}!"

    @strawberry.field
    def broken(self) -> str | None:
        raise RuntimeError("secret words")


async def refuse() -> int:
    raise PermissionDenied("Not with this key.")


@strawberry.type
class Mutation:
    @strawberry.mutation
    def double(self, n: int) -> int:
        return n * 2


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def count(self, to: int) -> AsyncGenerator[int]:
        for n in range(to):
            yield n

    @strawberry.subscription
    async def forever(self, name: str = "forever") -> AsyncGenerator[int]:
        running.add(name)
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            running.discard(name)

    @strawberry.subscription
    async def flood(self) -> AsyncGenerator[str]:
        flooded.append(0)
        running.add("flood")
        try:
            while flooded[-1] < FLOOD:
                flooded[-1] += 1
                yield "x" * 50_000
            await asyncio.Event().wait()
        finally:
            running.discard("flood")

    @strawberry.subscription
    async def denied(self) -> AsyncGenerator[int]:
        yield await refuse()

    @strawberry.subscription
    async def breaking(self) -> AsyncGenerator[int]:
        yield 0
        raise RuntimeError("secret words")

    @strawberry.subscription
    async def persistent(self, info: strawberry.Info[Operation, None]) -> AsyncGenerator[Shaky]:
        shaky = Shaky(failures=2)
        while True:
            info.context.unsent = False
            yield shaky
            if not info.context.unsent:
                return


@strawberry.type
class Shaky:
    failures: strawberry.Private[int]

    @strawberry.field
    def value(self) -> int:
        if self.failures:
            self.failures -= 1
            raise ServiceUnavailable("Away.")
        return 7


schema = strawberry.Schema(query=Query, mutation=Mutation, subscription=Subscription)


class Doubtful:
    """Keys whose database may be away."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        self.away = False

    async def authenticate(self, authorization: str | None) -> Actor:
        if self.away:
            raise ServiceUnavailable("Away.")
        return await self._ring.authenticate(authorization)

    async def dead(self, key_ids: Collection[UUID]) -> set[UUID]:
        if self.away:
            raise ServiceUnavailable("Away.")
        return await self._ring.dead(key_ids)


@dataclass
class Served:
    """A server and what is needed to use it."""

    url: str
    key: str
    key_id: UUID
    server: SocketServer
    keys: Doubtful
    db: Database
    vault: Vault
    tenant_id: UUID

    async def another_key(self, expires_at: datetime | None = None) -> tuple[UUID, str]:
        made, secret = keys.issue(self.tenant_id, "test", ["punches:read"], expires_at, self.vault)
        async with self.db.across("operate") as connection:
            await keys.add(connection, made)
        return made.id, secret


@asynccontextmanager
async def served(
    db: Database, vault: Vault, make_tenant: MakeTenant, limits: SocketLimits, **options: Any
) -> AsyncIterator[Served]:
    ring = Doubtful(KeyRing(db, vault))
    server = SocketServer(schema, ring, Operation, public_url="https://example.test", limits=limits)
    await server.start()
    try:
        async with serving(server, **options) as url:
            tenant_id = (await make_tenant()).tenant_id
            here = Served(url, "", tenant_id, server, ring, db, vault, tenant_id)
            here.key_id, here.key = await here.another_key()
            yield here
            await server.stop()
    finally:
        await server.stop()


@pytest.fixture
async def here(db: Database, vault: Vault, make_tenant: MakeTenant) -> AsyncIterator[Served]:
    """One with the limits of real life, but quicker."""
    async with served(db, vault, make_tenant, SocketLimits(check_keys_every=0.2)) as started:
        yield started


@pytest.fixture
async def client(here: Served) -> AsyncIterator[Client]:
    """One that may subscribe."""
    async with acknowledged(here.url, here.key) as client:
        yield client


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def still_answers(client: Client) -> bool:
    await client.subscribe("{ hello }", id="alive")
    payload = await client.next("alive")
    await client.complete("alive")
    return payload == {"data": {"hello": "Hello, you!"}}


# ── handshake and init ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("offered", [[], ["graphql-ws"], ["soap"]])
async def test_another_subprotocol_is_4406(here: Served, offered: list[str]) -> None:
    async with dialled(here.url, subprotocols=[Subprotocol(name) for name in offered]) as client:
        assert await client.closed() == 4406


@pytest.mark.parametrize("offered", [["graphql-ws", "graphql-transport-ws"], ["graphql-transport-ws", "graphql-ws"]])
async def test_ours_is_chosen_wherever_it_stands(here: Served, offered: list[str]) -> None:
    async with dialled(here.url, subprotocols=[Subprotocol(name) for name in offered]) as client:
        assert client.connection.subprotocol == OURS
        await client.init(here.key)


@pytest.mark.parametrize("init", [{"type": "connection_init"}, {"type": "connection_init", "payload": None}])
async def test_the_key_may_come_with_the_handshake(here: Served, init: dict[str, Any]) -> None:
    async with dialled(here.url, key=here.key) as client:
        await client.send(init)

        assert await client.recv() == {"type": "connection_ack"}


async def test_the_key_in_the_payload_wins(here: Served) -> None:
    async with dialled(here.url, key="pc_live_nothing") as client:
        await client.init(here.key)
        assert await still_answers(client)

    async with dialled(here.url, key=here.key) as client:
        await client.send({"type": "connection_init", "payload": {"authorization": "Bearer pc_live_nothing"}})
        assert await client.closed() == 4403


async def test_header_names_are_spelt_as_one_likes(here: Served) -> None:
    async with dialled(here.url) as client:
        await client.send({"type": "connection_init", "payload": {"Authorization": f"bearer {here.key}", "x": 1}})

        assert await client.recv() == {"type": "connection_ack"}


@pytest.mark.parametrize("payload", [None, {}, {"authorization": 5}, {"authorization": ""}, {"authorization": ["x"]}])
async def test_no_key_is_4403_after_the_handshake(here: Served, payload: Any) -> None:
    async with dialled(here.url) as client:
        await client.send({"type": "connection_init", "payload": payload})

        assert await client.closed() == 4403


async def test_a_bad_key_in_the_header_is_4403_after_the_handshake(here: Served) -> None:
    async with dialled(here.url, key="pc_live_nothing") as client:
        await client.send({"type": "connection_init"})

        assert await client.closed() == 4403


async def test_a_key_that_cannot_be_looked_up_is_1013(here: Served) -> None:
    here.keys.away = True
    async with dialled(here.url, key=here.key) as client:
        await client.send({"type": "connection_init"})

        assert await client.closed() == 1013


async def test_no_init_in_time_is_4408(db: Database, vault: Vault, make_tenant: MakeTenant) -> None:
    async with (
        served(db, vault, make_tenant, SocketLimits(init=0.3)) as here,
        dialled(here.url) as late,
        acknowledged(here.url, here.key) as punctual,
    ):
        assert await late.closed() == 4408
        assert await still_answers(punctual)


async def test_a_second_init_is_4429(here: Served, client: Client) -> None:
    await client.send({"type": "connection_init"})

    assert await client.closed() == 4429


async def test_what_follows_a_mistake_is_not_acted_on(here: Served, client: Client) -> None:
    await client.send({"type": "connection_init"})
    await client.send({"type": "ping"})

    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4429


async def test_subscribe_before_the_acknowledgement_is_4401(here: Served) -> None:
    async with dialled(here.url, key=here.key) as client:
        await client.subscribe("{ hello }")

        assert await client.closed() == 4401


async def test_a_key_holds_so_many_sockets_and_no_more(db: Database, vault: Vault, make_tenant: MakeTenant) -> None:
    async with served(db, vault, make_tenant, SocketLimits(per_key=2)) as here, AsyncExitStack() as stack:
        first = await stack.enter_async_context(acknowledged(here.url, here.key))
        second = await stack.enter_async_context(acknowledged(here.url, here.key))

        async with dialled(here.url, key=here.key) as third:
            await third.send({"type": "connection_init"})
            assert await third.closed() == 1013
        assert await still_answers(first)
        _, other = await here.another_key()
        await stack.enter_async_context(acknowledged(here.url, other))

        await second.connection.close()
        await eventually(lambda: here.server.open == 2)
        await stack.enter_async_context(acknowledged(here.url, here.key))


async def test_sockets_that_do_not_say_who_they_are_are_bounded(
    db: Database, vault: Vault, make_tenant: MakeTenant
) -> None:
    async with (
        served(db, vault, make_tenant, SocketLimits(waiting=1)) as here,
        dialled(here.url) as first,
        dialled(here.url) as second,
    ):
        assert await second.closed() == 1013
        await first.init(here.key)


# ── the form of messages ─────────────────────────────────────────────────────────────────────────────────────────────

QUERY = {"query": "{ hello }"}
MALFORMED: list[Any] = [
    "",
    "hello",
    "null",
    "5",
    "[]",
    '[{"type":"ping"}]',
    "{",
    '{"type":"ping"}{"type":"ping"}',
    '{"type":"subscribe","id":"\\ud800","payload":{"query":"{ hello }"}}',
    '{"type":NaN}',
    '{"a":' * 5000 + "1" + "}" * 5000,
    b'{"type":"ping"}',
    {},
    {"type": None},
    {"type": 5},
    {"type": ["ping"]},
    {"type": "start"},
    {"type": "next", "id": "1", "payload": {}},
    {"type": "connection_ack"},
    {"type": "connection_init", "payload": []},
    {"type": "connection_init", "payload": "key"},
    {"type": "ping", "payload": "x"},
    {"type": "pong", "payload": 5},
    {"type": "complete"},
    {"type": "complete", "id": 5},
    {"type": "subscribe", "payload": QUERY},
    {"type": "subscribe", "id": "", "payload": QUERY},
    {"type": "subscribe", "id": 5, "payload": QUERY},
    {"type": "subscribe", "id": ["1"], "payload": QUERY},
    {"type": "subscribe", "id": {"a": 1}, "payload": QUERY},
    {"type": "subscribe", "id": "1"},
    {"type": "subscribe", "id": "1", "payload": None},
    {"type": "subscribe", "id": "1", "payload": "{ hello }"},
    {"type": "subscribe", "id": "1", "payload": [QUERY]},
    {"type": "subscribe", "id": "1", "payload": {}},
    {"type": "subscribe", "id": "1", "payload": {"query": None}},
    {"type": "subscribe", "id": "1", "payload": {"query": 5}},
    {"type": "subscribe", "id": "1", "payload": QUERY | {"variables": []}},
    {"type": "subscribe", "id": "1", "payload": QUERY | {"variables": "x"}},
    {"type": "subscribe", "id": "1", "payload": QUERY | {"operationName": 5}},
    {"type": "subscribe", "id": "1", "payload": QUERY | {"extensions": 5}},
]


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("message", MALFORMED, ids=lambda message: repr(message)[:60])
async def test_what_is_no_message_is_4400(here: Served, message: Any, early: bool) -> None:
    async with dialled(here.url) as client:
        if not early:
            await client.init(here.key)
        await client.send(message)

        assert await client.closed() == 4400


@pytest.mark.parametrize("size", [MESSAGE_BOUND + 1, 10 * 2**20])
async def test_a_message_over_the_bound_is_1009(here: Served, client: Client, size: int) -> None:
    with suppress(ConnectionClosed):  # it may come while we are still sending
        await client.send("x" * size)

    assert await client.closed() == 1009


async def test_the_bound_is_of_the_message_and_not_of_its_frames(here: Served, client: Client) -> None:
    with suppress(ConnectionClosed):
        await client.connection.send("x" * (MESSAGE_BOUND // 4) for _ in range(5))

    assert await client.closed() == 1009


async def test_a_message_just_below_the_bound_is_read(here: Served, client: Client) -> None:
    message = {"id": "1", "type": "subscribe", "payload": QUERY | {"variables": {"x": ""}}}
    room = MESSAGE_BOUND - len(orjson.dumps(message))

    await client.send({"id": "1", "type": "subscribe", "payload": QUERY | {"variables": {"x": "x" * room}}})

    assert await client.next() == {"data": {"hello": "Hello, you!"}}


async def test_text_that_is_not_utf_8_is_1007(here: Served, client: Client) -> None:
    await client.connection.send(b"\xff\xfe{", text=True)

    assert await client.closed() == 1007


async def test_nothing_that_is_sent_ends_without_a_reason(here: Served) -> None:
    chance = random.Random(7)
    words = ["type", "id", "payload", "query", "subscribe", "complete", "ping", "connection_init", "{ hello }", "1", ""]

    def value(depth: int = 0) -> Any:
        match chance.randint(0, 7 if depth < 3 else 4):
            case 0:
                return chance.choice([None, True, -1, 1.5, 2**60])
            case 1 | 2 | 3 | 4:
                return chance.choice(words)
            case 5:
                return [value(depth + 1) for _ in range(2)]
        return {chance.choice(words): value(depth + 1) for _ in range(4)} | {"type": chance.choice(words)}

    codes = set()
    for _ in range(60):
        async with dialled(here.url, key=here.key) as client:
            try:
                await client.send({"type": "connection_init"})
                for _ in range(5):
                    text = orjson.dumps(value(), default=str) if chance.random() < 0.9 else chance.randbytes(20)
                    await client.connection.send(text, text=chance.random() < 0.9)
                await client.send({"type": "connection_init"})
            except ConnectionClosed:
                pass
            codes.add(await client.closed())

    assert codes <= {4400, 4409, 4429, 1007}
    assert 4400 in codes


# ── operations ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_subscription_gives_its_results_and_completes(client: Client) -> None:
    await client.subscribe("subscription($n: Int!) { count(to: $n) }", variables={"n": 3})

    assert [await client.next() for _ in range(3)] == [{"data": {"count": n}} for n in range(3)]
    await client.complete()


async def test_queries_and_mutations_give_one_result_and_complete(client: Client) -> None:
    await client.subscribe("{ hello }")
    assert await client.next() == {"data": {"hello": "Hello, you!"}}
    await client.complete()

    await client.subscribe("mutation($n: Int!) { double(n: $n) }", variables={"n": 4})
    assert await client.next() == {"data": {"double": 8}}
    await client.complete()


async def test_operations_run_side_by_side(client: Client) -> None:
    await client.subscribe('subscription { forever(name: "a") }', id="a")
    await client.subscribe('subscription { forever(name: "b") }', id="b")
    await client.next("a")
    await client.next("b")

    assert await still_answers(client)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{ hello", "graphql_syntax_error"),
        ("", "graphql_syntax_error"),
        ("{ nothing }", "graphql_validation_failed"),
        ("subscription { count(to: 1) hello: count(to: 1) }", "graphql_validation_failed"),
        ("fragment F on Query { hello }", "bad_request"),
        ("{ a" * 4000, "query_too_complex"),
        ("subscription($n: Int!) { count(to: $n) }", "graphql_validation_failed"),
        ("subscription { denied }", "permission_denied"),
    ],
)
async def test_a_mistake_in_an_operation_ends_that_operation_only(client: Client, query: str, code: str) -> None:
    await client.subscribe("subscription { forever }", id="other")
    await client.next("other")

    await client.subscribe(query)
    error = await client.error()

    assert error["extensions"]["requestId"] == "req_1"
    assert error["extensions"]["docUrl"].startswith("https://example.test/docs/errors/")
    assert error["extensions"]["code"] == code
    assert await still_answers(client)


async def test_an_operation_name_that_is_not_there_is_an_error(client: Client) -> None:
    payload = {"query": "query A { hello } query B { hello }", "operationName": "C"}
    await client.send({"id": "1", "type": "subscribe", "payload": payload})

    await client.error()
    assert await still_answers(client)


async def test_wrong_variables_of_a_query_are_its_error(client: Client) -> None:
    await client.subscribe("query($name: String!) { hello(name: $name) }", variables={"name": [1]})

    await client.error()
    assert await still_answers(client)


async def test_what_broke_is_masked(client: Client) -> None:
    await client.subscribe("{ broken hello }")
    payload = await client.next()
    await client.complete()
    assert payload["data"] == {"broken": None, "hello": "Hello, you!"}
    assert payload["errors"][0]["extensions"]["code"] == "internal_error"
    assert "secret" not in str(payload)

    await client.subscribe("subscription { breaking }")
    await client.next()
    error = await client.error()
    assert error["extensions"]["code"] == "internal_error"
    assert "secret" not in str(error)


async def test_a_batch_that_postgresql_could_not_complete_comes_again(client: Client) -> None:
    await client.subscribe("subscription { persistent { value } }")

    assert await client.next() == {"data": {"persistent": {"value": 7}}}
    await client.complete()


async def test_an_id_in_use_is_4409_and_a_used_one_is_free(client: Client) -> None:
    await client.subscribe("{ hello }")
    await client.next()
    await client.complete()
    await client.subscribe("subscription { forever }")
    await client.next()

    await client.subscribe("{ hello }")

    assert await client.closed() == 4409


async def test_complete_ends_the_source_and_frees_the_id(client: Client) -> None:
    await client.subscribe('subscription { forever(name: "mine") }')
    await client.next()
    assert "mine" in running

    await client.send({"id": "1", "type": "complete"})
    await client.subscribe("{ hello }")

    assert await client.next() == {"data": {"hello": "Hello, you!"}}
    await client.complete()
    await eventually(lambda: "mine" not in running)


async def test_complete_for_what_is_not_there_is_harmless(client: Client) -> None:
    await client.send({"id": "nothing", "type": "complete"})

    assert await still_answers(client)


async def test_one_operation_too_many_is_its_own_error(client: Client) -> None:
    for n in range(100):
        await client.subscribe("subscription { forever }", id=str(n))
        await client.next(str(n))

    await client.subscribe("{ hello }", id="100")
    error = await client.error("100")
    assert (error["extensions"]["code"], error["extensions"]["status"]) == ("rate_limited", 429)

    await client.send({"id": "0", "type": "complete"})
    assert await still_answers(client)


# ── liveness ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("payload", [None, {}, {"at": 5}])
async def test_a_ping_is_answered_even_before_init(here: Served, payload: Any) -> None:
    async with dialled(here.url) as client:
        await client.send({"type": "ping"} if payload is None else {"type": "ping", "payload": payload})

        assert await client.recv() == ({"type": "pong"} if payload is None else {"type": "pong", "payload": payload})


async def test_the_server_pings(db: Database, vault: Vault, make_tenant: MakeTenant) -> None:
    limits = SocketLimits(ping_every=0.1)
    async with served(db, vault, make_tenant, limits) as here, acknowledged(here.url, here.key) as client:
        assert [await client.recv() for _ in range(3)] == [{"type": "ping"}] * 3
        await client.send({"type": "pong"})
        assert await client.recv() == {"type": "ping"}


async def test_a_revoked_key_is_4403_and_others_stay(here: Served, client: Client) -> None:
    _, other_key = await here.another_key()
    async with acknowledged(here.url, other_key) as other:
        async with here.db.across("operate") as connection:
            await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE id = $1", here.key_id)

        assert await client.closed() == 4403
        assert await still_answers(other)


async def test_an_expired_key_is_4403(here: Served) -> None:
    _, brief = await here.another_key(datetime.now(UTC) + timedelta(seconds=1))
    async with acknowledged(here.url, brief) as client:
        assert await still_answers(client)

        assert await client.closed() == 4403


async def test_while_keys_cannot_be_checked_sockets_stay(here: Served, client: Client) -> None:
    here.keys.away = True
    await asyncio.sleep(0.6)
    assert await still_answers(client)

    here.keys.away = False
    async with here.db.across("operate") as connection:
        await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE id = $1", here.key_id)
    assert await client.closed() == 4403


async def test_a_planned_restart_is_1012(here: Served, client: Client) -> None:
    await client.subscribe('subscription { forever(name: "drained") }')
    await client.next()

    await here.server.drain()

    assert await client.closed() == 1012
    assert "drained" not in running
    assert here.server.open == 0
    async with dialled(here.url) as late:
        assert await late.closed() == 1012


async def test_a_server_that_is_told_to_stop_says_1012(here: Served) -> None:
    async with AsyncExitStack() as stack:
        async with serving(here.server) as url:
            client = await stack.enter_async_context(acknowledged(url, here.key))
            await client.subscribe("subscription { forever }")
            await client.next()

        assert await client.closed() == 1012
    await eventually(lambda: here.server.open == 0)


async def test_a_reader_that_stops_reading_is_1013_and_holds_its_source_back(
    db: Database, vault: Vault, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        served(db, vault, make_tenant, SocketLimits(stall=0.5)) as here,
        acknowledged(here.url, here.key, max_queue=1) as stuck,
        acknowledged(here.url, here.key) as other,
    ):
        await stuck.subscribe("subscription { flood }", id="flood")
        await stuck.next("flood")
        await eventually(lambda: here.server.open == 1)

        assert "flood" not in running
        assert flooded[-1] < FLOOD
        assert await still_answers(other)
        assert await stuck.closed() == 1013


async def test_a_client_that_answers_no_ping_is_1013(db: Database, vault: Vault, make_tenant: MakeTenant) -> None:
    options = {"ws_ping_interval": 0.2, "ws_ping_timeout": 0.3}
    async with (
        served(db, vault, make_tenant, SocketLimits(), **options) as here,
        acknowledged(here.url, here.key, max_queue=1) as deaf,
    ):
        # Its library reads one message ahead and stops, so that it does not see our pings.
        await deaf.subscribe("subscription { count(to: 50) }")
        await eventually(lambda: here.server.open == 0)

        assert await deaf.closed() == 1013


async def test_who_never_comes_back_is_dropped(
    db: Database, vault: Vault, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LINGER", 0.3)
    async with (
        served(db, vault, make_tenant, SocketLimits(stall=0.3)) as here,
        acknowledged(here.url, here.key, max_queue=1) as stuck,
    ):
        await stuck.subscribe("subscription { flood }", id="flood")
        await eventually(lambda: here.server.open == 0)
        await asyncio.sleep(0.5)

        assert await stuck.closed() == 1006


def test_who_stops_reading_is_gone_within_the_promised_minute() -> None:
    limits = SocketLimits()
    # That it took something is seen at the next look, and so is that it took nothing for too long.
    given_up = limits.stall + 2 * limits.stall / LOOKS + FLUSH

    assert given_up + wire.LINGER < 60
    assert cli.PING_EVERY + cli.PONG_WITHIN + wire.LINGER < 60


async def test_a_thousand_broken_connections_leave_nothing_behind(here: Served) -> None:
    before = len(asyncio.all_tasks())

    async def come_and_go() -> None:
        async with acknowledged(here.url, here.key) as client:
            await client.subscribe('subscription { forever(name: "crowd") }')
            await client.next()
            client.connection.transport.abort()

    for _ in range(20):
        await asyncio.gather(*(come_and_go() for _ in range(50)))

    await eventually(lambda: here.server.open == 0)
    assert "crowd" not in running
    assert not here.server.held.admitted
    gc.collect()
    await eventually(lambda: len(asyncio.all_tasks()) <= before)


async def test_nobody_is_let_in_without_a_key(here: Served) -> None:
    with pytest.raises(Unauthenticated):
        await here.keys.authenticate(None)
