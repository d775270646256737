"""Schema history. `upgrade` may be repeated and run by two processes at once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

#: Any number, the same for everybody who migrates.
_LOCK = 7_022_026


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection, revision: str) -> None:
    command.upgrade(_config(connection), revision)


def _check(connection: Connection) -> None:
    command.check(_config(connection))


async def _run(url: str, work: Any) -> None:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            await connection.run_sync(work)
    finally:
        await engine.dispose()


async def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` (the owner's) to this version, or to an earlier one of the history."""
    await _run(url, partial(_upgrade, revision=revision))


async def check(url: str) -> None:
    """Raise alembic's CommandError when tables and models differ."""
    await _run(url, _check)
