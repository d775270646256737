"""What a piece of work asks of PostgreSQL, whether SQLAlchemy or the driver sends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import event

from app.database import Database

#: What brackets a transaction; and what the driver asks for itself, once on a connection, to know the types.
_BRACKETS, _OWN = ("BEGIN", "COMMIT", "ROLLBACK"), ("typeinfo_tree(", "'jit'")


@asynccontextmanager
async def noted(db: Database) -> AsyncIterator[list[tuple[str, Any]]]:
    """The statements that reads and writes run meanwhile, with their arguments; not those that bracket transactions."""
    statements: list[tuple[str, Any]] = []
    connections: set[Any] = set()

    def sent(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        statements.append((statement, parameters))

    def driven(record: Any) -> None:
        if not record.query.startswith(_BRACKETS) and not any(part in record.query for part in _OWN):
            statements.append((record.query, tuple(record.args or ())))

    def listen(connection: Any, *_rest: Any) -> None:
        connections.add(connection.driver_connection)
        connection.driver_connection.add_query_logger(driven)

    engine = db._engine.sync_engine  # noqa: SLF001
    event.listen(engine, "before_cursor_execute", sent)
    event.listen(engine, "checkout", listen)
    try:
        yield statements
        await asyncio.sleep(0)  # the driver tells in the next turn of the loop
    finally:
        event.remove(engine, "before_cursor_execute", sent)
        event.remove(engine, "checkout", listen)
        for connection in connections:
            connection.remove_query_logger(driven)
