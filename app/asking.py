"""Questions to Redis that must not hold anybody up: one connection of the process, many questions in one round trip.

Whoever asks gets an answer soon, or None because Redis cannot say just now. After a failure it is left alone for a
moment, so that an outage costs each question nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import Any, Final, TypeAlias

import structlog
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)

#: Seconds for one exchange with Redis, connecting included, and how long it is left alone after a failure.
ATTEMPT: Final = 0.25
PAUSE: Final = 1.0
#: Questions in one round trip, and questions that wait; beyond that there is no answer.
BATCH: Final = 256
MOST_WAITING: Final = 4_096

Question: TypeAlias = tuple[tuple[Any, ...], "asyncio.Future[Any] | None"]


class Asker:
    """One connection; whatever waits goes out together."""

    def __init__(self, url: str) -> None:
        self._options: dict[str, Any] = {
            **parse_url(url),
            "socket_timeout": None,
            "socket_connect_timeout": ATTEMPT,
            "health_check_interval": 0,
            "retry": None,
            "retry_on_timeout": False,
            "protocol": 2,
            "decode_responses": False,
            "driver_info": None,
        }
        self._class: type[AbstractConnection] = self._options.pop("connection_class", Connection)
        self._connection: AbstractConnection | None = None
        self._waiting: list[Question] = []
        self._task: asyncio.Task[None] | None = None
        self._away_until = -math.inf
        self._away = False

    async def ask(self, *command: Any) -> Any | None:
        """What Redis answers; None when it cannot say. Never raises."""
        future = self.begin(*command)
        return None if future is None else await future

    def begin(self, *command: Any) -> asyncio.Future[Any] | None:
        """The same, asked now and answered later; None when it cannot say just now."""
        if len(self._waiting) >= MOST_WAITING or time.monotonic() < self._away_until:
            return None
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._offer(command, future)
        return future

    def tell(self, *command: Any) -> None:
        """The same without an answer, and without waiting."""
        if len(self._waiting) < MOST_WAITING and time.monotonic() >= self._away_until:
            self._offer(command, None)

    async def stop(self) -> None:
        """A moment for what waits, then the end."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=ATTEMPT)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._hang_up()

    def _offer(self, command: tuple[Any, ...], future: asyncio.Future[Any] | None) -> None:
        self._waiting.append((command, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            try:
                async with asyncio.timeout(ATTEMPT):
                    await self._exchange(batch)
            except Exception as exc:  # whatever it was, requests go on
                await self._failed(exc, batch)
            except BaseException:
                _give_up(batch)
                raise

    async def _exchange(self, batch: list[Question]) -> None:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._class(**self._options)
            await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_packed_command(connection.pack_commands([command for command, _ in batch]))
        for _, future in batch:
            answer = await connection.read_response()
            if future is not None and not future.done():
                future.set_result(answer)
        if self._away:
            self._away = False
            log.info("limits_restored")

    async def _failed(self, exc: Exception, batch: list[Question]) -> None:
        if not self._away:
            self._away = True
            log.warning("limits_lost", error=f"{type(exc).__name__}: {exc}")
        self._away_until = time.monotonic() + PAUSE
        _give_up(batch)
        _give_up(self._waiting)
        self._waiting.clear()
        await self._hang_up()

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            writer = connection._writer  # noqa: SLF001
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)
            if writer is not None:
                writer.transport.abort()


def _give_up(batch: list[Question]) -> None:
    for _, future in batch:
        if future is not None and not future.done():
            future.set_result(None)
