"""graphql-transport-ws, frame by frame, against our server and against npm's own: the table is as fair as it is ours.

A case sends frames, as they are, and expects messages, and then a close code or none. Where the other server does
something else, the case says what: these are the few places in which the protocol leaves a choice, or it breaks.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import orjson
import pytest
from websockets.exceptions import ConnectionClosed

from app.database import Database
from app.vault import Vault
from schema.socket import SocketLimits
from tests.clients.test_clients import HERE, install
from tests.conftest import MakeTenant
from tests.schema.sockets import PATIENCE, Client, dialled
from tests.schema.test_socket import served

#: A message, shortened: its type, its id, its data or payload.
Said = tuple[Any, ...]
Outcome = tuple[list[Said], int | None]


@dataclass(frozen=True, slots=True)
class Wait:
    """Before the next frame, until so many messages have come."""

    messages: int


@dataclass(frozen=True, slots=True)
class Case:
    """Frames, and what follows them: messages, then a close code, or None where the socket goes on."""

    name: str
    frames: tuple[Any, ...]
    messages: tuple[Said, ...] = ()
    code: int | None = None
    #: The same of npm's graphql-ws where it differs.
    theirs: tuple[tuple[Said, ...], int | None] | None = None


INIT: Final = {"type": "connection_init"}
ACK: Final = ("connection_ack",)


def ask(query: Any, id: Any = "1", **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "subscribe", "payload": {"query": query, **more}}


FOREVER: Final = ask("subscription { forever }")
BEGAN: Final = ("next", "1", {"forever": 0})
HELLO: Final = (("next", "1", {"hello": "Hello, you!"}), ("complete", "1"))

CASES: Final = (
    # The beginning.
    Case("init without a payload", (INIT,), (ACK,)),
    Case("init with null for a payload", ({**INIT, "payload": None},), (ACK,)),
    Case("init with an empty payload", ({**INIT, "payload": {}},), (ACK,)),
    Case("init with a list for a payload", ({**INIT, "payload": []},), (), 4400),
    Case("init with a text for a payload", ({**INIT, "payload": "key"},), (), 4400),
    Case("a second init", (INIT, Wait(1), INIT), (ACK,), 4429),
    Case("subscribe before init", (ask("{ hello }"),), (), 4401),
    # What is no message.
    Case("no JSON", (INIT, Wait(1), "hello"), (ACK,), 4400),
    Case("half of a message", (INIT, Wait(1), '{"type":"ping"'), (ACK,), 4400),
    Case("an empty frame", (INIT, Wait(1), ""), (ACK,), 4400),
    Case("a list", (INIT, Wait(1), "[]"), (ACK,), 4400),
    Case("a list of messages", (INIT, Wait(1), '[{"type":"ping"}]'), (ACK,), 4400),
    Case("null", (INIT, Wait(1), "null"), (ACK,), 4400),
    Case("a number", (INIT, Wait(1), "1"), (ACK,), 4400),
    Case("a text", (INIT, Wait(1), '"ping"'), (ACK,), 4400),
    Case("an object without a type", (INIT, Wait(1), "{}"), (ACK,), 4400),
    Case("a type that is not known", (INIT, Wait(1), {"type": "start", "id": "1"}), (ACK,), 4400),
    Case("a type that is not text", (INIT, Wait(1), {"type": ["ping"]}), (ACK,), 4400),
    Case("a message of the server", (INIT, Wait(1), {"type": "connection_ack"}), (ACK,), 4400, ((ACK,), 4500)),
    Case("binary", (INIT, Wait(1), b'{"type":"ping"}'), (ACK,), 4400, ((ACK, ("pong", None)), None)),
    # Signs of life.
    Case("ping before init", ({"type": "ping"},), (("pong", None),)),
    Case("ping with a payload", ({"type": "ping", "payload": {"a": [1]}},), (("pong", {"a": [1]}),)),
    Case("ping with a text for a payload", ({"type": "ping", "payload": "a"},), (), 4400),
    Case("pong that nobody asked for", (INIT, {"type": "pong"}), (ACK,)),
    # What breaks the form of subscribe.
    Case(
        "subscribe without an id",
        (INIT, Wait(1), {"type": "subscribe", "payload": {"query": "{ hello }"}}),
        (ACK,),
        4400,
    ),
    Case("subscribe with a number for an id", (INIT, Wait(1), ask("{ hello }", id=1)), (ACK,), 4400),
    Case("subscribe with an empty id", (INIT, Wait(1), ask("{ hello }", id="")), (ACK,), 4400),
    Case("subscribe without a payload", (INIT, Wait(1), {"id": "1", "type": "subscribe"}), (ACK,), 4400),
    Case("subscribe without a query", (INIT, Wait(1), {"id": "1", "type": "subscribe", "payload": {}}), (ACK,), 4400),
    Case("a query that is not text", (INIT, Wait(1), ask(["{ hello }"])), (ACK,), 4400),
    Case("variables that are a list", (INIT, Wait(1), ask("{ hello }", variables=[])), (ACK,), 4400),
    Case("variables that are null", (INIT, Wait(1), ask("{ hello }", variables=None)), (ACK, *HELLO)),
    Case("an operation name that is a number", (INIT, Wait(1), ask("{ hello }", operationName=1)), (ACK,), 4400),
    Case("extensions that are a text", (INIT, Wait(1), ask("{ hello }", extensions="x")), (ACK,), 4400),
    # Operations.
    Case("a query", (INIT, Wait(1), ask("{ hello }")), (ACK, *HELLO)),
    Case(
        "a mutation with variables",
        (INIT, Wait(1), ask("mutation ($n: Int!) { double(n: $n) }", variables={"n": 21})),
        (ACK, ("next", "1", {"double": 42}), ("complete", "1")),
    ),
    Case(
        "a subscription to its end",
        (INIT, Wait(1), ask("subscription { count(to: 2) }")),
        (ACK, ("next", "1", {"count": 0}), ("next", "1", {"count": 1}), ("complete", "1")),
    ),
    Case("a field that is not there", (INIT, Wait(1), ask("{ nothing }")), (ACK, ("error", "1"))),
    Case(
        "a syntax error beside an operation that runs",
        (INIT, Wait(1), FOREVER, Wait(2), ask("{", id="2"), Wait(3), ask("{ hello }", id="3")),
        (ACK, BEGAN, ("error", "2"), ("next", "3", {"hello": "Hello, you!"}), ("complete", "3")),
        None,
        ((ACK, BEGAN), 4500),
    ),
    Case(
        "an operation name that is not there",
        (INIT, Wait(1), ask("query A { hello }", operationName="B")),
        (ACK, ("error", "1")),
    ),
    Case(
        "wrong variables of a subscription",
        (INIT, Wait(1), ask("subscription ($to: Int!) { count(to: $to) }", variables={"to": "x"})),
        (ACK, ("error", "1")),
        None,
        ((ACK, ("next", "1", None), ("complete", "1")), None),
    ),
    Case("an id that is in use", (INIT, Wait(1), FOREVER, Wait(2), FOREVER), (ACK, BEGAN), 4409),
    Case(
        "an id again after its end",
        (INIT, Wait(1), ask("{ hello }"), Wait(3), ask("{ hello }")),
        (ACK, *HELLO, *HELLO),
    ),
    Case(
        "an id again after complete",
        (INIT, Wait(1), FOREVER, Wait(2), {"id": "1", "type": "complete"}, ask("{ hello }")),
        (ACK, BEGAN, *HELLO),
    ),
    Case("complete for nothing", (INIT, Wait(1), {"id": "7", "type": "complete"}), (ACK,)),
    Case("complete without an id", (INIT, Wait(1), {"type": "complete"}), (ACK,), 4400),
    Case("complete before init", ({"id": "7", "type": "complete"},), ()),
)


def shorten(message: dict[str, Any]) -> Said:
    match message["type"]:
        case "next":
            return ("next", message["id"], message["payload"].get("data"))
        case "error":
            assert isinstance(message["payload"], list)
            assert message["payload"][0]["message"]
            return ("error", message["id"])
        case "complete":
            return ("complete", message["id"])
        case "pong":
            return ("pong", message.get("payload"))
        case other:
            return (other,)


async def play(url: str, key: str | None, case: Case, expected: int) -> Outcome:
    """What a server said to the frames, and how it ended."""
    said: list[Said] = []
    async with dialled(url, key=key) as client:

        async def hear(count: int) -> None:
            while len(said) < count:
                message = await client.recv()
                if message["type"] != "ping":
                    said.append(shorten(message))

        try:
            for frame in case.frames:
                if isinstance(frame, Wait):
                    await hear(frame.messages)
                else:
                    await client.send(frame)
            await hear(expected)
            # Nothing more, and the socket lives: the next thing it says answers this.
            await client.send({"type": "ping", "payload": {"still": "here"}})
            await hear(expected + 1)
        except ConnectionClosed as exc:
            return said, exc.rcvd.code if exc.rcvd else 1006
        assert said.pop() == ("pong", {"still": "here"})
        return said, None


@pytest.fixture(scope="session")
async def theirs() -> AsyncIterator[str]:
    """npm's graphql-ws at an address."""
    await install(HERE)
    process = await asyncio.create_subprocess_exec(
        "node", "conformance.mjs", cwd=HERE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), PATIENCE))
        yield f"ws://127.0.0.1:{port}/graphql"
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_our_server_answers_as_the_table_says(
    db: Database, vault: Vault, make_tenant: MakeTenant, case: Case
) -> None:
    async with served(db, vault, make_tenant, SocketLimits()) as here:
        said, code = await play(here.url, here.key, case, len(case.messages))

        assert (said, code) == (list(case.messages), case.code)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_npms_server_answers_as_the_table_says(theirs: str, case: Case) -> None:
    messages, expected = case.theirs or (case.messages, case.code)
    said, code = await play(theirs, None, case, len(messages))

    assert (said, code) == (list(messages), expected)


@pytest.mark.parametrize("offered", [[], ["graphql-ws"], ["soap"]])
async def test_another_subprotocol_is_refused_by_both(
    db: Database, vault: Vault, make_tenant: MakeTenant, theirs: str, offered: list[Any]
) -> None:
    async with served(db, vault, make_tenant, SocketLimits()) as here:
        for url in (here.url, theirs):
            async with dialled(url, subprotocols=offered) as client:
                assert await client.closed() == 4406, json.dumps(offered)


async def test_a_client_that_closes_is_answered_with_its_own_code(
    db: Database, vault: Vault, make_tenant: MakeTenant, theirs: str
) -> None:
    async with served(db, vault, make_tenant, SocketLimits()) as here:
        for url, key in ((here.url, here.key), (theirs, None)):
            async with dialled(url, key=key) as client:
                await begin(client)
                await client.connection.close(4321, "enough")

                assert client.connection.close_code == 4321


async def begin(client: Client) -> None:
    await client.send(orjson.dumps(INIT).decode())
    assert await client.recv() == {"type": "connection_ack"}
    await client.send(FOREVER)
    await client.next()
