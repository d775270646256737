"""Real servers, started once for the whole run and thrown away with it.

Tests share one migrated database and keep apart by making tenants of their own, which is how customers keep apart too.
One that needs a whole database to itself asks for `fresh_database_url`.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Protocol

import asyncpg
import pytest

from app import migrations
from app.database import Database
from app.domain.events import Cursors
from app.embedded import EmbeddedPostgres, EmbeddedRedis
from app.vault import Vault
from tests import factories

SECRET_KEY = "a secret key for tests, long enough to be taken"
_clones = count(1)


class MakeTenant(Protocol):
    """A new tenant in the shared database."""

    def __call__(self, name: str | None = None) -> Awaitable[factories.TenantFixture]: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also what is long: browsers, client libraries, fault matrix")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without the garbage collector: whatever a finalizer parses while a test module is being parsed ends in CPython
    3.11's "AST constructor recursion depth mismatch".
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="part of `make test-full`"))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that need not survive a power cut."""
    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), options={"fsync": "off"}) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A Redis-protocol server. Whoever kills or freezes it brings it back."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def database_url(postgres: EmbeddedPostgres) -> str:
    """The shared database, migrated; the owner's URL."""
    asyncio.run(migrations.upgrade(postgres.url))
    return postgres.url


@pytest.fixture(scope="session")
def template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated database that nobody connects to."""
    asyncio.run(_admin(postgres.url, "CREATE DATABASE template_punchconnect"))
    asyncio.run(migrations.upgrade(_named(postgres.url, "template_punchconnect")))
    return "template_punchconnect"


@pytest.fixture
def fresh_database_url(postgres: EmbeddedPostgres, template: str) -> str:
    """A database of the test's own; the owner's URL."""
    name = f"clone_{next(_clones)}"
    # In a thread of its own: a running event loop cannot start another.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, _admin(postgres.url, f"CREATE DATABASE {name} TEMPLATE {template}")).result()
    return _named(postgres.url, name)


@pytest.fixture(scope="session")
async def db(database_url: str) -> AsyncIterator[Database]:
    """The doors to the shared database."""
    database = Database(database_url)
    await database.start()
    yield database
    await database.stop()


@pytest.fixture(scope="session")
def vault() -> Vault:
    """Keys of the tests."""
    return Vault(SECRET_KEY)


@pytest.fixture(scope="session")
def cursors(vault: Vault) -> Cursors:
    """Feed cursors under the tests' key."""
    return Cursors(vault.cursor_key)


@pytest.fixture
def make_tenant(db: Database) -> MakeTenant:
    """`await make_tenant()`."""
    return partial(factories.make_tenant, db)


async def _admin(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _named(url: str, database: str) -> str:
    return url.rsplit("/", 1)[0] + "/" + database
