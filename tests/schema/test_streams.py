"""Subscriptions as server-sent events: the same feed, resumed by `Last-Event-ID`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest

from app.database import Database
from app.domain import keys
from app.domain.devices import Device
from app.settings import Settings
from app.vault import Vault
from schema.http import GRAPHQL_JSON
from schema.pipe import Bounds
from tests.schema.conftest import Caller, MakeCaller
from tests.schema.feeds import FEED, Served, batch, pins, start
from tests.schema.sockets import PATIENCE, acknowledged
from tests.schema.test_sharing import settled
from tests.server import request

EVENTS = "text/event-stream"
Fields = dict[str, str]
#: Some 50 kB for each punch.
WIDE = FEED.replace("id pin", "id pin " + " ".join(f"n{number}{'x' * 900}: raw" for number in range(50)))


def address(here: Served) -> str:
    return here.url.replace("ws://", "http://")


@dataclass
class Stream:
    """What a client of server-sent events reads."""

    answer: httpx.Response

    def __post_init__(self) -> None:
        self._lines = self.answer.aiter_lines()

    async def event(self) -> Fields:
        """The next event; comments are passed over."""
        fields: Fields = {}
        async with asyncio.timeout(PATIENCE):
            async for line in self._lines:
                if not line and fields:
                    return fields
                name, _, value = line.partition(":")
                if name:
                    fields[name] = value.removeprefix(" ")
        raise EOFError

    async def line(self) -> str:
        """The next line, whatever it is."""
        async with asyncio.timeout(PATIENCE):
            return await anext(self._lines)

    async def batch(self) -> dict[str, Any]:
        """The next batch of punches, whose cursor is the event's id."""
        event = await self.event()
        assert event["event"] == "next"
        payload = orjson.loads(event["data"])
        assert "errors" not in payload
        found: dict[str, Any] = payload["data"]["punches"]
        assert event["id"] == found["cursor"]
        return found

    async def cut(self) -> None:
        """Nothing follows, and the answer never ended: this is no end that a client takes for one."""
        with pytest.raises(httpx.RemoteProtocolError):
            await self.event()


@asynccontextmanager
async def following(
    here: Served,
    key: str,
    query: str = FEED,
    variables: dict[str, Any] | None = None,
    last: str | None = None,
) -> AsyncIterator[Stream]:
    """A subscription that began."""
    headers = {"Authorization": f"Bearer {key}", "Accept": EVENTS}
    if last is not None:
        headers["Last-Event-ID"] = last
    asked = {"query": query, "variables": variables}
    async with (
        httpx.AsyncClient(timeout=PATIENCE) as client,
        client.stream("POST", address(here), json=asked, headers=headers) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        yield Stream(answer)


async def ask(here: Served, key: str, query: str, **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}", "Accept": EVENTS}
    async with asyncio.timeout(PATIENCE), httpx.AsyncClient(timeout=PATIENCE) as client:
        return await client.post(address(here), json={"query": query}, headers=headers, **options)


async def quiet(here: Served) -> None:
    """Until nothing is held open any more."""
    async with asyncio.timeout(PATIENCE):
        sockets = here.api.sockets
        while sockets.open or sockets.held.admitted or sockets.runner.groups.members:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# ── the feed ─────────────────────────────────────────────────────────────────────────────────────────


async def test_batches_come_as_events_whose_id_is_their_cursor(here: Served, caller: Caller, device: Device) -> None:
    async with following(here, caller.api_key) as stream:
        assert stream.answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.answer.headers["x-ratelimit-remaining"].isdecimal()
        first = await stream.batch()
        made = await here.punch(caller.tenant_id, device, 1, 2)
        second = await stream.batch()

    assert (first["previousCursor"], pins(first)) == (None, [])
    assert (second["previousCursor"], pins(second)) == (first["cursor"], made)
    await quiet(here)


async def test_a_client_that_comes_back_goes_on_after_the_last_id_whatever_it_asks(
    here: Served, caller: Caller, device: Device
) -> None:
    async with following(here, caller.api_key) as stream:
        start = (await stream.batch())["cursor"]
        await here.punch(caller.tenant_id, device, 1)
        seen = await stream.batch()
    missed = await here.punch(caller.tenant_id, device, 2)

    # As a library does it: the variables of the beginning, and the header.
    async with following(here, caller.api_key, variables={"after": start}, last=seen["cursor"]) as stream:
        again = await stream.batch()

    assert (again["previousCursor"], pins(again)) == (seen["cursor"], missed)


async def test_streams_and_sockets_share_their_execution_and_their_cursors(
    here: Served, caller: Caller, device: Device
) -> None:
    groups = here.api.sockets.runner.groups
    async with (
        following(here, caller.api_key) as one,
        following(here, caller.api_key) as other,
        acknowledged(here.url, caller.api_key) as client,
    ):
        await one.batch()
        await other.batch()
        await client.subscribe(FEED)
        await batch(client)
        await settled(here, 3)
        executed = groups.counts.executed
        made = await here.punch(caller.tenant_id, device, 1)
        got = [await one.batch(), await other.batch(), await batch(client)]

    assert got[0] == got[1] == got[2]
    assert pins(got[0]) == made
    assert groups.counts.executed == executed + 1
    await quiet(here)


async def test_a_slow_reader_of_events_is_set_back_and_loses_nothing(
    here: Served, caller: Caller, device: Device
) -> None:
    sockets = here.api.sockets
    here.api.streams._limits = replace(sockets.limits, shared=Bounds(frames=4))
    async with following(here, caller.api_key, WIDE) as slow, following(here, caller.api_key, WIDE) as quick:
        cursor = (await slow.batch())["cursor"]
        await quick.batch()
        await settled(here, 2)
        made: list[str] = []
        while not sockets.runner.groups.counts.overflowed:
            made += await here.punch(caller.tenant_id, device, len(made))
            await quick.batch()

        seen: list[str] = []
        while len(seen) < len(made):
            got = await slow.batch()
            assert got["previousCursor"] == cursor
            cursor, seen = got["cursor"], seen + pins(got)

    assert seen == made


async def test_a_reader_of_events_that_reads_nothing_is_cut(here: Served, caller: Caller, device: Device) -> None:
    here.api.streams._limits = replace(here.api.sockets.limits, stall=0.5)
    body = orjson.dumps({"query": WIDE})
    headers = {
        "Accept": EVENTS,
        "Authorization": f"Bearer {caller.api_key}",
        "Content-Type": "application/json",
    }
    port = int(here.url.rpartition(":")[2].partition("/")[0])
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.setblocking(False)
        await asyncio.get_running_loop().sock_connect(stuck, ("127.0.0.1", port))
        await asyncio.get_running_loop().sock_sendall(stuck, request("POST", "/graphql", body, headers))
        await settled(here, 1)
        async with asyncio.timeout(3 * PATIENCE):
            number = 0
            while here.api.sockets.open:
                await here.punch(caller.tenant_id, device, number)
                number += 1
    await quiet(here)


# ── ends ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_mistake_of_a_running_subscription_is_an_event_and_the_end(here: Served, caller: Caller) -> None:
    async with following(here, caller.api_key, variables={"after": "nonsense"}) as stream:
        failed = await stream.event()
        ended = await stream.event()
        with pytest.raises(EOFError):
            await stream.event()

    assert failed["event"] == "next"
    assert [e["extensions"]["code"] for e in orjson.loads(failed["data"])["errors"]] == ["cursor_invalid"]
    assert ended == {"event": "complete", "data": ""}


async def test_another_tenants_last_id_is_no_cursor(here: Served, caller: Caller, make_caller: MakeCaller) -> None:
    other = await make_caller()
    async with following(here, other.api_key) as stream:
        foreign = (await stream.batch())["cursor"]

    async with following(here, caller.api_key, last=foreign) as stream:
        failed = orjson.loads((await stream.event())["data"])

    assert failed["errors"][0]["extensions"]["code"] == "cursor_invalid"


async def test_a_revoked_key_ends_its_streams_with_a_reason_and_others_stay(
    here: Served, caller: Caller, make_caller: MakeCaller, db: Database, device: Device
) -> None:
    held = here.api.sockets.held
    held._check_keys_every = 0.1
    other = await make_caller(tenant_id=caller.tenant_id)
    revoked = await here.parts.keys.authenticate(f"Bearer {other.api_key}")
    async with following(here, other.api_key) as stream, following(here, caller.api_key) as stays:
        await stream.batch()
        await stays.batch()
        await revoke(db, revoked.key_id)
        failed, ended = await stream.event(), await stream.event()
        made = await here.punch(caller.tenant_id, device, 1)

        assert pins(await stays.batch()) == made
        with pytest.raises(EOFError):
            await stream.event()

    assert [e["extensions"]["code"] for e in orjson.loads(failed["data"])["errors"]] == ["unauthenticated"]
    assert ended["event"] == "complete"


async def revoke(db: Database, key_id: UUID) -> None:
    async with db.across("operate") as connection:
        await keys.revoke_any(connection, key_id)


async def test_a_restart_cuts_the_stream_so_that_clients_resume(here: Served, caller: Caller) -> None:
    async with following(here, caller.api_key) as stream:
        await stream.batch()
        await here.api.sockets.drain()
        await stream.cut()

        refused = await ask(here, caller.api_key, FEED)

    assert (refused.status_code, refused.json()["errors"][0]["extensions"]["code"]) == (503, "service_unavailable")
    assert refused.headers["retry-after"] == "1"


async def test_a_server_that_is_told_to_stop_cuts_its_streams_and_stops(
    settings: Settings, database_url: str, vault: Vault, caller: Caller
) -> None:
    async with AsyncExitStack() as stack:
        here = await start(stack, settings, database_url, vault)
        async with following(here, caller.api_key) as stream:
            await stream.batch()
            async with asyncio.timeout(PATIENCE):
                await stack.aclose()
            await stream.cut()


async def test_a_client_that_hangs_up_leaves_nothing_behind(here: Served, caller: Caller) -> None:
    async def come_and_go() -> None:
        async with following(here, caller.api_key) as stream:
            await stream.batch()

    before = len(asyncio.all_tasks())
    for _ in range(5):
        await asyncio.gather(*(come_and_go() for _ in range(10)))
    await quiet(here)

    async with asyncio.timeout(PATIENCE):
        while len(asyncio.all_tasks()) > before + 2 or here.parts.feed.watched:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_streams_count_among_the_connections_of_a_key(here: Served, caller: Caller) -> None:
    here.api.sockets.held._per_key = 1
    async with following(here, caller.api_key) as stream:
        await stream.batch()
        refused = await ask(here, caller.api_key, FEED)
    await quiet(here)

    assert (refused.status_code, refused.json()["errors"][0]["extensions"]["code"]) == (429, "rate_limited")
    assert refused.headers["retry-after"] == "1"
    async with following(here, caller.api_key) as stream:
        await stream.batch()


async def test_silence_is_broken_by_comments(here: Served, caller: Caller) -> None:
    here.api.streams._limits = replace(here.api.sockets.limits, ping_every=0.1)
    async with following(here, caller.api_key) as stream:
        await stream.batch()

        assert await stream.line() == ": "


# ── how it is asked for ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("accept", [EVENTS, f"application/json, {EVENTS}", f"{EVENTS};q=0.1, */*"])
async def test_a_subscription_goes_to_who_names_the_type_and_by_get_too(
    here: Served, caller: Caller, accept: str
) -> None:
    async with (
        httpx.AsyncClient(timeout=PATIENCE) as client,
        client.stream(
            "GET",
            address(here),
            params={"query": "subscription { punches { cursor } }"},
            headers={"Authorization": f"Bearer {caller.api_key}", "Accept": accept},
        ) as answer,
    ):
        event = await Stream(answer).event()
        assert event["id"] == orjson.loads(event["data"])["data"]["punches"]["cursor"]
        assert answer.headers["content-type"].startswith(EVENTS)


@pytest.mark.parametrize("accept", ["application/json", "*/*", f"{EVENTS};q=0, */*"])
async def test_a_subscription_for_who_does_not_is_a_bad_request(here: Served, caller: Caller, accept: str) -> None:
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        refused = await client.post(
            address(here), json={"query": FEED}, headers={"Authorization": f"Bearer {caller.api_key}", "Accept": accept}
        )

    assert refused.json()["errors"][0]["extensions"]["code"] == "bad_request"


async def test_a_query_is_one_event_and_the_end(here: Served, caller: Caller) -> None:
    answer = await ask(here, caller.api_key, "{ viewer { tenant { id } } }")

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    head, data, *rest = answer.text.split("\n")
    assert head == "event: next"
    assert orjson.loads(data.removeprefix("data: "))["data"]["viewer"]["tenant"]["id"].startswith("ten_")
    assert rest == ["", "event: complete", "data:", "", ""]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("subscription {", 400, "graphql_syntax_error"),
        ("subscription { nothing }", 400, "graphql_validation_failed"),
        ("subscription { punches { nothing } }", 400, "graphql_validation_failed"),
    ],
)
async def test_what_cannot_be_run_has_its_status(
    here: Served, caller: Caller, query: str, status: int, code: str
) -> None:
    answer = await ask(here, caller.api_key, query)

    assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (status, code)
    assert answer.headers["content-type"] == f"{GRAPHQL_JSON}; charset=utf-8"


async def test_nobody_follows_without_a_key_or_without_the_scope(
    here: Served, caller: Caller, make_caller: MakeCaller
) -> None:
    nobody = await ask(here, "pc_live_nothing", FEED)
    other = await make_caller(scopes=["devices:read"], tenant_id=caller.tenant_id)
    async with following(here, other.api_key) as stream:
        failed = orjson.loads((await stream.event())["data"])

    assert nobody.status_code == 401
    assert failed["errors"][0]["extensions"]["code"] == "permission_denied"


async def test_browsers_may_send_the_last_id(here: Served) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.options(address(here))

    assert "Last-Event-ID" in answer.headers["access-control-allow-headers"].split(", ")
    assert answer.headers["access-control-allow-origin"] == "*"
