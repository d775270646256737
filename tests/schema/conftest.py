"""The API as a client meets it: HTTP into a whole stack in this process, over a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import httpx
import pytest

from app.broadcast import Bell
from app.database import Database
from app.domain import keys, tenants
from app.domain.devices import Device
from app.domain.events import Cursors
from app.domain.feed import Feed
from app.domain.keys import Actor, KeyRing
from app.embedded import EmbeddedPostgres
from app.limits import Limiter
from app.settings import Settings
from app.vault import Vault
from schema import cost
from schema.context import Context
from schema.http import GraphQLHttp, MakeContext
from schema.operations import Budget
from tests import factories
from tests.schema.feeds import Served, start
from tests.schema.world import World, make_world

PUBLIC_URL = "https://punchconnect.example"


@dataclass(frozen=True, slots=True)
class Caller:
    """One key of one tenant, and the way to ask with it."""

    tenant_id: UUID
    api_key: str
    http: httpx.AsyncClient

    async def post(self, query: str, variables: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
        """The answer as it came."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(
            "/graphql",
            json={"query": query, "variables": variables},
            headers={"Authorization": f"Bearer {self.api_key}"} | named,
        )

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of an answer without errors."""
        answer = (await self.post(query, variables)).json()
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    async def codes(self, query: str, **variables: Any) -> list[str]:
        """The codes of the errors."""
        answer = (await self.post(query, variables)).json()
        return [error["extensions"]["code"] for error in answer.get("errors", [])]


class MakeCaller(Protocol):
    """A caller of a new tenant, or of `tenant_id`, with the scopes named."""

    def __call__(self, *, scopes: Sequence[str] = ..., tenant_id: UUID | None = None) -> Awaitable[Caller]: ...


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Nothing of the environment."""
    return Settings(_env_file=None, public_url=PUBLIC_URL)


@pytest.fixture(scope="session")
async def bell() -> AsyncIterator[Bell]:
    """A bell inside this process."""
    bell = Bell(None)
    await bell.start()
    yield bell
    await bell.stop()


@pytest.fixture(scope="session")
async def feed(db: Database, bell: Bell, cursors: Cursors, vault: Vault) -> AsyncIterator[Feed]:
    """The feeds of this process."""
    feed = Feed(db, bell, cursors, vault.bus_key)
    await feed.start()
    yield feed
    await feed.stop()


@pytest.fixture(scope="session")
def make_context(  # noqa: PLR0917  fixtures come by name
    db: Database, vault: Vault, cursors: Cursors, feed: Feed, bell: Bell, settings: Settings
) -> MakeContext:
    """What resolvers get."""

    def make(actor: Actor, request_id: str, idempotency_header: str | None) -> Context:
        return Context(
            actor=actor,
            db=db,
            vault=vault,
            cursors=cursors,
            settings=settings,
            bell=bell,
            feed=feed,
            request_id=request_id,
            idempotency_header=idempotency_header,
        )

    return make


@pytest.fixture(scope="session")
async def http(db: Database, vault: Vault, make_context: MakeContext) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the GraphQL endpoint."""
    endpoint: Any = GraphQLHttp(KeyRing(db, vault).authenticate, make_context, PUBLIC_URL)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url=PUBLIC_URL) as client:
        yield client


@pytest.fixture(scope="session")
async def unlimited(db: Database, vault: Vault, make_context: MakeContext) -> AsyncIterator[httpx.AsyncClient]:
    """The same with points without end, for tests that ask a lot in one tenant's name."""
    budget = Budget(Limiter(None, most=10**9, rate=10**9, largest=cost.MOST))
    endpoint: Any = GraphQLHttp(KeyRing(db, vault).authenticate, make_context, PUBLIC_URL, budget)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url=PUBLIC_URL) as client:
        yield client


@pytest.fixture
def make_caller(db: Database, vault: Vault, http: httpx.AsyncClient) -> MakeCaller:
    """`await make_caller()`."""

    async def make(*, scopes: Sequence[str] = keys.SCOPES, tenant_id: UUID | None = None) -> Caller:
        async with db.across("operate") as connection:
            if tenant_id is None:
                created = await tenants.create(connection, vault, "Acme", scopes=scopes)
                return Caller(created.tenant.id, created.api_key, http)
            key, secret = keys.issue(tenant_id, "another", scopes, None, vault)
            await keys.add(connection, key)
            return Caller(tenant_id, secret, http)

    return make


@pytest.fixture(scope="session")
async def owner(postgres: EmbeddedPostgres, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection to the shared database, past every policy: for `parties.rows_of`."""
    url = postgres.superuser_url.rsplit("/", 1)[0] + "/" + database_url.rsplit("/", 1)[1]
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@pytest.fixture
async def caller(make_caller: MakeCaller) -> Caller:
    """A new tenant's first key, which may do everything."""
    return await make_caller()


@pytest.fixture
async def world(db: Database, vault: Vault, caller: Caller) -> World:
    """One of everything in the caller's tenant."""
    return await make_world(db, vault, caller.tenant_id)


@pytest.fixture
async def here(settings: Settings, database_url: str, vault: Vault) -> AsyncIterator[Served]:
    """The whole API at an address of its own."""
    async with AsyncExitStack() as stack:
        yield await start(stack, settings, database_url, vault)


@pytest.fixture
async def device(db: Database, caller: Caller) -> Device:
    """A terminal of the caller's tenant."""
    return await factories.make_device(db, caller.tenant_id)
