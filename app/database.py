"""The only doors to PostgreSQL.

`read(tenant)` and `write(tenant)` see one tenant; `across(purpose)` is for what comes before a tenant is known or spans
several. Each transaction takes a role without rights of its own beyond row-level security and says for whom it speaks;
nothing is left on the connection afterwards, so a transaction-mode pooler may stand between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from copy import copy
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import asyncpg
import orjson
import structlog
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from app.errors import ServiceUnavailable

log = structlog.get_logger(__name__)

Session = AsyncSession
#: An asyncpg connection inside a transaction of ours. (The driver is half-typed; our verbs say what comes out.)
Connection: TypeAlias = Any
#: A connection's `fetch`, or `Database.at_once`.
Fetch: TypeAlias = Callable[..., Awaitable[list[Any]]]
Purpose = Literal["ingest", "feed", "work", "lookup", "operate"]

_ROLES: Final[dict[Purpose, str]] = {
    "ingest": "pc_ingest",
    "feed": "pc_feed",
    "work": "pc_worker",
    "lookup": "pc_lookup",
    "operate": "pc_ops",
}
# A worker looks rows up by their whole keys. On a table without statistics yet the planner would rather read all of a
# tenant's deliveries and pick among them.
_PLANS: Final[dict[Purpose, str]] = {
    "work": "".join(
        f", set_config('enable_{way}', 'off', true)" for way in ("hashjoin", "mergejoin", "bitmapscan", "seqscan")
    )
}
#: What says that PostgreSQL is away or told us to come back, rather than that a statement is wrong.
UNAVAILABLE: Final = (
    OSError,
    TimeoutError,
    PoolTimeout,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.LockNotAvailableError,
)
#: Seconds that an operation's transaction is kept for its next read.
LINGER: Final = 0.02
#: Seconds after which it is ended although there is always another read: it holds a connection.
LONGEST: Final = 1.0
#: What a transaction may simply be run again after.
CONFLICTS: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


class Database:
    """Pools for one process. `start` before use; `stop` closes what is idle and waits for the rest."""

    def __init__(
        self,
        url: str,
        *,
        pool: int = 10,
        statement_cache: int = 200,
        statement_timeout: float = 10,
        lock_timeout: float = 5,
    ) -> None:
        self._url = url
        self._size = pool
        self._statement_cache = statement_cache
        self._timeout = statement_timeout
        self._limits = (
            f"set_config('statement_timeout', '{int(statement_timeout * 1000)}', true), "
            f"set_config('lock_timeout', '{int(lock_timeout * 1000)}', true), "
            f"set_config('idle_in_transaction_session_timeout', '{int(statement_timeout * 2000)}', true)"
        )
        self._engine = create_async_engine(
            url.replace("postgresql://", "postgresql+asyncpg://", 1),
            pool_size=pool,
            max_overflow=0,
            pool_timeout=statement_timeout,
            pool_pre_ping=False,
            pool_use_lifo=True,
            # Transactions are begun and ended here, not by SQLAlchemy.
            isolation_level="AUTOCOMMIT",
            json_deserializer=orjson.loads,
            connect_args={
                "timeout": 5,
                "statement_cache_size": statement_cache,
                "prepared_statement_cache_size": statement_cache,
            },
        )
        event.listen(self._engine.sync_engine, "checkout", _check_out)
        #: Those that hold a transaction, and the tasks that end one or a connection.
        self.held: set[Reading] = set()
        self.ending: set[asyncio.Task[None]] = set()
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        #: Connections of `at_once` that nobody uses at the moment.
        self._idle: list[Connection] = []
        #: The only sites that exist for who asks through this door, in PostgreSQL's spelling; None for all.
        self._sites: str | None = None

    async def start(self) -> None:
        """Nothing is dialled yet: a database that is away must not keep us from starting."""

    async def stop(self) -> None:
        """Close both pools, and what is beside them."""
        await asyncio.gather(*(reading.close() for reading in list(self.held)))
        while self._idle:
            await self._close(self._idle.pop())
        await asyncio.gather(*self.ending, return_exceptions=True)
        await self._engine.dispose()
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), timeout=5)
            except TimeoutError:
                self._pool.terminate()
            self._pool = None

    def within(self, site_ids: Sequence[UUID] | None) -> Database:
        """The same pool, for `read` alone, where only these sites of a tenant exist; None for all of them.

        What stands elsewhere is not there: row-level security leaves it out, whatever is asked.
        """
        if site_ids is None:
            return self
        narrowed = copy(self)
        narrowed._sites = f"{{{','.join(map(str, site_ids))}}}"  # noqa: SLF001  its own
        return narrowed

    async def ping(self) -> None:
        """Return if a statement can be run; raise ServiceUnavailable otherwise."""
        async with self.across("lookup") as connection:
            await connection.execute("SELECT 1")

    @asynccontextmanager
    async def read(self, tenant_id: UUID) -> AsyncIterator[Session]:
        """A read-only view of one tenant. Raises ServiceUnavailable when the database is away."""
        async with self._session(tenant_id, read_only=True) as session:
            yield session

    def reading(self, tenant_id: UUID) -> Reading:
        """The reads of one operation, which share a transaction."""
        return Reading(self, tenant_id)

    @asynccontextmanager
    async def write(self, tenant_id: UUID) -> AsyncIterator[Session]:
        """One transaction of one tenant: committed when the block ends, rolled back when it raises."""
        async with self._session(tenant_id, read_only=False) as session:
            yield session

    @asynccontextmanager
    async def across(self, purpose: Purpose, tenant_ids: Sequence[UUID] = ()) -> AsyncIterator[Connection]:
        """One transaction with the role of `purpose`, over the named tenants where that role needs names."""
        async with self._lent() as connection:
            names = ",".join(map(str, tenant_ids))
            try:
                await connection.execute(
                    f"BEGIN; SELECT set_config('role', '{_ROLES[purpose]}', true), "
                    f"set_config('app.tenant_ids', '{{{names}}}', true), {self._limits}{_PLANS.get(purpose, '')}"
                )
                yield connection
                await connection.execute("COMMIT")
            except BaseException:
                # Also after a BEGIN or COMMIT that was cut short: the pool must get it back outside a transaction.
                if not connection.is_closed():
                    with suppress(*UNAVAILABLE):
                        await asyncio.shield(connection.execute("ROLLBACK"))
                raise

    async def at_once(self, statement: str, *arguments: Any) -> list[Any]:
        """The rows of one statement that is a transaction by itself, durable when this returns.

        Only for a call to one of the database's functions that itself takes a role and says for whom it speaks:
        what `across` does in four round trips. It has connections of its own, as many as there are callers at a time.
        Raises ServiceUnavailable when the database is away.
        """
        with _trouble_is_passing():
            connection = await self._own()
            try:
                rows: list[Any] = await connection.fetch(statement, *arguments, timeout=self._timeout)
            except asyncpg.PostgresError:  # refused, and rolled back
                self._idle.append(connection)
                raise
            except BaseException:
                # Not waited for, it also cancels what may still be running.
                task = asyncio.get_running_loop().create_task(self._close(connection))
                self.ending.add(task)
                task.add_done_callback(self.ending.discard)
                raise
            self._idle.append(connection)
        return rows

    async def _own(self) -> Connection:
        """A connection past the pool, whose lending would cost the caller more than the statement does."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await asyncpg.connect(
            self._url,
            timeout=5,
            command_timeout=self._timeout * 2,
            statement_cache_size=self._statement_cache,
        )

    async def _close(self, connection: Connection) -> None:
        with suppress(*UNAVAILABLE):
            await connection.close(timeout=5)

    @asynccontextmanager
    async def _lent(self) -> AsyncIterator[Connection]:
        with _trouble_is_passing():
            pool = await self._connect()
            async with pool.acquire(timeout=self._timeout) as connection:
                yield connection

    async def _connect(self) -> asyncpg.Pool:
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await asyncpg.create_pool(
                        self._url,
                        min_size=0,
                        max_size=self._size,
                        timeout=5,
                        command_timeout=self._timeout * 2,
                        statement_cache_size=self._statement_cache,
                        # Our transactions leave nothing behind, so there is nothing to reset.
                        reset=_leave_as_it_is,
                    )
        return self._pool

    @asynccontextmanager
    async def _session(self, tenant_id: UUID, *, read_only: bool) -> AsyncIterator[Session]:
        role = "'pc_api'" if self._sites is None else f"'pc_stream', true), set_config('app.site_ids', '{self._sites}'"
        try:
            async with Session(self._engine, expire_on_commit=False) as session:
                connection = await driver(session)
                try:
                    # One message where SQLAlchemy would send two. The UUID and the limits need no quoting.
                    await connection.execute(
                        f"BEGIN; SELECT set_config('role', {role}, true), "
                        f"set_config('app.tenant_id', '{UUID(str(tenant_id))}', true), "
                        f"set_config('transaction_read_only', '{'on' if read_only else 'off'}', true), {self._limits}"
                    )
                    yield session
                    await session.flush()
                    await connection.execute("COMMIT")
                    await session.commit()  # to SQLAlchemy, which sends nothing, it happens here
                except BaseException:
                    if not connection.is_closed():
                        with suppress(*UNAVAILABLE):
                            await asyncio.shield(connection.execute("ROLLBACK"))
                    raise
        except DBAPIError as exc:
            if isinstance(cause := _driver_error(exc), UNAVAILABLE) or exc.connection_invalidated:
                raise ServiceUnavailable("The database cannot be reached just now. Try again.") from cause
            raise
        except UNAVAILABLE as exc:
            raise ServiceUnavailable("The database cannot be reached just now. Try again.") from exc
        except RuntimeError as exc:
            _raise_if_lost(exc)
            raise


class Reading:
    """What one operation reads, one after another in one transaction: each read but the first needs one message.

    The transaction is begun by the first read and ended by `end`, once nobody has read for LINGER, or by the first read
    after LONGEST: an operation that waits for something else holds no connection, and one that goes on for days holds
    none for long. Each read sees what was committed before it. Nothing that is read waits, inside its block, for
    another read.
    """

    def __init__(self, db: Database, tenant_id: UUID) -> None:
        self._db = db
        self._tenant_id = tenant_id
        self._lock = asyncio.Lock()
        self._held: AbstractAsyncContextManager[Session] | None = None
        self._session: Session | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Session]:
        """The same view as `Database.read`. Raises ServiceUnavailable when the database is away."""
        async with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            loop = asyncio.get_running_loop()
            if self._held is not None and loop.time() > self._until:
                with suppress(ServiceUnavailable):  # nothing was written
                    await self._let_go(None)
            if self._held is None or self._session is None:
                held = self._db.read(self._tenant_id)
                self._session = await held.__aenter__()
                self._held, self._until = held, loop.time() + LONGEST
                self._db.held.add(self)
            try:
                yield self._session
                self._session.expunge_all()  # the next read sees rows anew
            except BaseException as exc:
                if not await self._let_go(exc):
                    raise
            else:
                self._timer = loop.call_later(LINGER, self.end)

    def end(self) -> None:
        """End the transaction, if there is one, without being waited for."""
        if self._held is not None:
            task = asyncio.get_running_loop().create_task(self.close())
            self._db.ending.add(task)
            task.add_done_callback(self._db.ending.discard)

    async def close(self) -> None:
        """The same, waited for. A read may follow and begins another one."""
        async with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            with suppress(ServiceUnavailable):  # nothing was written
                await self._let_go(None)

    async def _let_go(self, exc: BaseException | None) -> bool | None:
        held, self._held, self._session = self._held, None, None
        self._db.held.discard(self)
        if held is None:
            return False
        return await held.__aexit__(type(exc) if exc else None, exc, exc.__traceback__ if exc else None)


def _check_out(connection: Any, _record: Any, _proxy: Any) -> None:
    """A connection that was cut while nobody used it is not lent, nor are those that are older."""
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError


async def driver(session: Session) -> Connection:
    """The asyncpg connection under a session, in the same transaction: for verbs that speak SQL themselves."""
    raw = await (await session.connection()).get_raw_connection()
    return raw.driver_connection


@contextmanager
def _trouble_is_passing() -> Iterator[None]:
    """ServiceUnavailable for whatever says that the database is away."""
    try:
        yield
    except UNAVAILABLE as exc:
        raise ServiceUnavailable("The database cannot be reached just now. Try again.") from exc
    except RuntimeError as exc:
        _raise_if_lost(exc)
        raise


def _raise_if_lost(exc: RuntimeError) -> None:
    """uvloop's way of saying that the connection was cut between two statements."""
    if "the handler is closed" in str(exc):
        raise ServiceUnavailable("The database cannot be reached just now. Try again.") from exc


async def _leave_as_it_is(_connection: Any) -> None:
    pass


def _driver_error(exc: DBAPIError) -> BaseException | None:
    """The asyncpg exception behind SQLAlchemy's."""
    return exc.orig.__cause__ if exc.orig is not None else None
