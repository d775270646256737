"""Connections of a key and of a tenant, counted over server processes."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from app.database import Database
from app.domain import keys, tenants
from app.embedded import EmbeddedRedis
from app.vault import Vault
from schema.socket import SocketLimits
from tests.conftest import MakeTenant
from tests.schema.sockets import PATIENCE, Client, acknowledged, dialled
from tests.schema.test_socket import served
from tests.server import Server, request


def address(server: Server) -> str:
    return f"ws://127.0.0.1:{server.port}/graphql"


async def refused(url: str, key: str) -> int:
    async with dialled(url, key=key) as client:
        await client.send({"type": "connection_init"})
        return await client.closed()


async def until_admitted(stack: AsyncExitStack, url: str, key: str) -> Client:
    async with asyncio.timeout(PATIENCE):
        while True:
            client = await stack.enter_async_context(dialled(url, key=key))
            await client.send({"type": "connection_init"})
            try:
                assert await client.recv() == {"type": "connection_ack"}
            except Exception:
                await asyncio.sleep(0.1)
            else:
                return client


@pytest.mark.parametrize("knob", ["sockets_per_key", "sockets_per_tenant"])
async def test_a_key_and_a_tenant_hold_so_many_in_all_processes_together(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, knob: str
) -> None:
    async with db.across("operate") as connection:
        created = await tenants.create(connection, vault, "Crowd")
        key, second = keys.issue(created.tenant.id, "second", keys.SCOPES, None, vault)
        await keys.add(connection, key)
    other = second if knob == "sockets_per_tenant" else created.api_key
    knobs: dict[str, Any] = {knob: 2}
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(Server(database_url, redis_url=redis_server.url, **knobs)) for _ in range(2)
        ]
        first = await stack.enter_async_context(acknowledged(address(one), created.api_key))
        await stack.enter_async_context(acknowledged(address(two), created.api_key))

        assert await refused(address(one), other) == 1013
        assert await refused(address(two), other) == 1013
        answer = await two.send(
            request(
                "POST",
                "/graphql",
                b'{"query":"subscription { punches { cursor } }"}',
                {
                    "Authorization": f"Bearer {other}",
                    "Content-Type": "application/json",
                    "Accept": "text/event-stream",
                },
            )
        )
        assert answer.status == 429
        await first.connection.close()
        await until_admitted(stack, address(two), other)


async def test_a_socket_on_which_nothing_runs_is_ended_and_one_that_is_used_is_not(
    db: Database, vault: Vault, make_tenant: MakeTenant
) -> None:
    limits = SocketLimits(ping_every=0.1, idle=0.5)
    async with (
        served(db, vault, make_tenant, limits) as here,
        acknowledged(here.url, here.key) as idle,
        acknowledged(here.url, here.key) as used,
    ):
        await used.subscribe("subscription { forever }")

        assert await idle.closed() == 1013
        assert here.server.open == 1
