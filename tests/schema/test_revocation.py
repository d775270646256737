"""A key that is revoked while it is in use over every transport at once: everything ends, and nothing more is told."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest

from app.database import Database
from app.domain import keys, tokens
from app.domain.devices import Device
from app.domain.tokens import StreamToken
from app.vault import Vault
from tests.schema.conftest import Caller, MakeCaller
from tests.schema.feeds import FEED, Served, batch, pins
from tests.schema.sockets import acknowledged
from tests.schema.test_stream_tokens import WHO, make

POLL = "query ($after: String) { punchFeed(after: $after, waitMs: 30000) { punches { id } } }"
#: Seconds; what is promised is 5. A long poll that nobody ends takes 30.
PATIENCE = 20


async def test_a_revoked_key_ends_all_that_is_done_with_it(
    here: Served, db: Database, caller: Caller, make_caller: MakeCaller, device: Device
) -> None:
    server = await make_caller(tenant_id=caller.tenant_id)
    token = await make(server)
    who = (await here.parts.keys.authenticate(f"Bearer {server.api_key}")).key_id
    url = here.url.replace("ws://", "http://")
    named = {"Authorization": f"Bearer {server.api_key}"}

    async with (
        httpx.AsyncClient(trust_env=False, timeout=PATIENCE + 60) as http,
        acknowledged(here.url, server.api_key) as socket,
        acknowledged(here.url, token) as browser,
        acknowledged(here.url, caller.api_key) as stays,
        http.stream("POST", url, json={"query": FEED}, headers=named | {"Accept": "text/event-stream"}) as events,
    ):
        for client in (socket, browser, stays):
            await client.subscribe(FEED)
            await batch(client)
        told = events.aiter_text()
        assert "event: next" in await anext(told)
        cursor = (await caller.ask("{ punchFeed { cursor } }"))["punchFeed"]["cursor"]

        async def ask(key: str, query: str, **variables: Any) -> httpx.Response:
            headers = {"Authorization": f"Bearer {key}"}
            return await http.post(url, json={"query": query, "variables": variables}, headers=headers)

        polls = [asyncio.create_task(ask(key, POLL, after=cursor)) for key in (server.api_key, token)]
        remains = asyncio.create_task(ask(caller.api_key, POLL, after=cursor))
        while len(here.api.sockets.held._watched) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

        async with db.across("operate") as connection:
            await keys.revoke_any(connection, who)

        async with asyncio.timeout(PATIENCE):
            assert [await socket.closed(), await browser.closed()] == [4403, 4403]
            last = "".join([part async for part in told])
            answers = [await poll for poll in polls]
            while (await ask(server.api_key, WHO)).status_code != 401:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert (await ask(token, WHO)).status_code == 401
        assert "unauthenticated" in last
        assert "event: complete" in last
        for answer in answers:
            said = orjson.loads(answer.content)
            assert said["data"] == {"punchFeed": None}
            assert [error["extensions"]["code"] for error in said["errors"]] == ["unauthenticated"]

        made = await here.punch(caller.tenant_id, device, 1)
        assert pins(await batch(stays)) == made
        assert len((await remains).json()["data"]["punchFeed"]["punches"]) == 1


@pytest.mark.parametrize("ends", ["the key is revoked", "the token's time is over"])
async def test_a_long_poll_ends_by_itself(  # noqa: PLR0917  fixtures come by name
    here: Served, db: Database, vault: Vault, caller: Caller, make_caller: MakeCaller, ends: str
) -> None:
    server = await make_caller(tenant_id=caller.tenant_id)
    if ends == "the key is revoked":
        held = server.api_key
    else:
        soon = datetime.now(UTC) + timedelta(seconds=3)
        held = tokens.write(StreamToken(vault.recognise(server.api_key), soon), vault)
    url, named = here.url.replace("ws://", "http://"), {"Authorization": f"Bearer {held}"}
    cursor = (await caller.ask("{ punchFeed { cursor } }"))["punchFeed"]["cursor"]

    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http, asyncio.timeout(PATIENCE):
        asked = {"query": POLL, "variables": {"after": cursor}}
        poll = asyncio.create_task(http.post(url, json=asked, headers=named))
        while not here.api.sockets.held._watched:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        if ends == "the key is revoked":
            async with db.across("operate") as connection:
                await keys.revoke_any(connection, (await here.parts.keys.authenticate(f"Bearer {held}")).key_id)
        answer = (await poll).json()

    assert [error["extensions"]["code"] for error in answer["errors"]] == ["unauthenticated"]
    assert not here.api.sockets.held._watched
