"""Subscriptions over plain HTTP, as server-sent events: one answer that goes on, with the same results as on a socket.

Each result is a `next` event whose data is what a socket would show as its payload, and whose id is the cursor it leads
to. A client that comes back says the last id it saw, in `Last-Event-ID`, and goes on after it. An operation that is
over ends with `complete`. A connection that must end while the operation is not over, at a restart or when the client
stopped reading, is cut in the middle of the answer: no client takes that for an end, and all that resume do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias

import orjson
import structlog
from graphql import GraphQLError

from app.domain.keys import Actor, Unauthenticated
from schema.held import CLOSE, FLUSH, FORBIDDEN, TRY_LATER, Held
from schema.pipe import WIRE, Pipe, PipeMember, Stuck, Wire
from schema.running import Operating, OperationFailed, Runner
from schema.sharing import Asked, Member, Piece
from schema.socket import SocketLimits

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.get_logger(__name__)

EVENT_STREAM: Final = "text/event-stream"
#: In the scope of a request: an asyncio.Event that is set when the server is told to stop.
ENDING: Final = "punchconnect.ending"
#: A comment, so that nothing in between takes the connection for idle.
PULSE: Final = b": \n\n"
COMPLETE: Final = b"event: complete\ndata:\n\n"
HEADERS: Final = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}


class Lent(Wire, Protocol):
    """What the server lends for one answer: app.web.wire.Body."""

    def cut(self, *, at_once: bool = False) -> None:
        """End the connection in the middle of the answer, with or without what is buffered."""


def write_next(payload: bytes, cursor: str | None = None) -> bytes:
    """A result, as an event; the cursor that it leads to is the event's id."""
    name = b"" if cursor is None else b"id: " + cursor.encode() + b"\n"
    return b"event: next\n" + name + b"data: " + payload + b"\n\n"


class EventStream:
    """One subscription of a client that was admitted, from the head of the answer to its end."""

    def __init__(
        self,
        runner: Runner,
        held: Held,
        limits: SocketLimits,
        actor: Actor,
        *,
        scope: Mapping[str, Any],
        receive: Receive,
        send: Send,
    ) -> None:
        self.actor: Actor | None = actor
        self._stuck = False
        self._runner = runner
        self._held = held
        self._limits = limits
        self._receive = receive
        self._send = send
        self._stopping: asyncio.Event = scope.get(ENDING) or asyncio.Event()
        self._lent: Lent | None = scope.get("extensions", {}).get(WIRE)
        self._pipe = Pipe(self._lent, self._write, queue=limits.queue, stall=limits.stall, bounds=limits.shared)
        #: How it ends: code and reason; None when the operation is over or the client is gone.
        self._ending: asyncio.Future[tuple[int, str] | None] = asyncio.get_running_loop().create_future()

    def end(self, code: int, reason: str) -> None:
        """Have it ended. Only the first word counts."""
        if not self._ending.done():
            self._ending.set_result((code, reason))

    async def run(self, asked: Asked, context: Operating, head: Mapping[str, str]) -> None:
        """Answer. Raises nothing but cancellation."""
        assert self.actor is not None
        headers = {**head, **HEADERS, "content-type": f"{EVENT_STREAM}; charset=utf-8"}
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        tasks: list[asyncio.Task[None]] = []
        try:
            with self._held.holding(self):
                await self._send({"type": "http.response.start", "status": 200, "headers": raw})
                sender = asyncio.create_task(self._send_always())
                operation = asyncio.create_task(self._operate(asked, self.actor, context))
                listener = asyncio.create_task(self._listen())
                tasks += [sender, operation, listener, asyncio.create_task(self._pulse())]
                tasks.append(asyncio.create_task(self._stop()))
                if not await self._finish(await asyncio.shield(self._ending), operation, sender):
                    await asyncio.wait([listener], timeout=CLOSE)
        finally:
            self._held.forget(self.actor)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop(self) -> None:
        """Once the server is told to."""
        await self._stopping.wait()
        self.end(TRY_LATER, "Restarting: connect again.")

    async def _operate(self, asked: Asked, actor: Actor, context: Operating) -> None:
        outlet = _Outlet(self._pipe)
        try:
            await self._runner.run(asked, actor, context, outlet, paid=True)
        except OperationFailed as exc:
            await self._pipe.put(write_next(orjson.dumps({"errors": exc.errors})))
        await self._pipe.put(COMPLETE)
        self._over()

    async def _finish(
        self, ending: tuple[int, str] | None, operation: asyncio.Task[None], sender: asyncio.Task[None]
    ) -> bool:
        """Send what is left; False when the answer was cut off."""
        whole = operation.done() and ending is None
        if ending is not None and ending[0] == FORBIDDEN:
            # The operation may still have something under way that must not follow this.
            operation.cancel()
            await asyncio.wait([operation], timeout=FLUSH)
            dead = GraphQLError(ending[1], original_error=Unauthenticated(ending[1]))
            shown = self._runner.present([dead], self._runner.context(self._named()))
            whole = self._pipe.put_nowait(write_next(orjson.dumps({"errors": shown})) + COMPLETE)
        self._pipe.close()
        flushed, _ = await asyncio.wait([sender], timeout=FLUSH)
        if whole and flushed:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE):
                    await self._send({"type": "http.response.body", "body": b""})
                return True
        if self._lent is not None:
            self._lent.cut(at_once=self._stuck)
        return False

    def _named(self) -> Actor:
        assert self.actor is not None
        return self.actor

    async def _send_always(self) -> None:
        try:
            await self._pipe.send()
        except Stuck:
            self._stuck = True
            self.end(TRY_LATER, "Nothing was read for too long: connect again and resume by cursor.")
        except Exception:
            log.exception("streams.sender_failed")
            self._over()

    async def _listen(self) -> None:
        """Until the client hangs up; whatever else it sends is no business of this answer."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._over()

    async def _pulse(self) -> None:
        while True:
            await asyncio.sleep(self._limits.ping_every)
            self._pipe.put_nowait(PULSE)  # whose queue is full has something better to read

    def _over(self) -> None:
        if not self._ending.done():
            self._ending.set_result(None)

    async def _write(self, payload: bytes) -> None:
        await self._send({"type": "http.response.body", "body": payload, "more_body": True})


class EventStreams:
    """All of one process. They share execution, counts and bounds with its sockets."""

    def __init__(self, runner: Runner, held: Held, limits: SocketLimits) -> None:
        self._runner = runner
        self.held = held
        self._limits = limits

    def stream(self, actor: Actor, scope: Mapping[str, Any], receive: Receive, send: Send) -> EventStream:
        """For a client that `held` admitted."""
        return EventStream(self._runner, self.held, self._limits, actor, scope=scope, receive=receive, send=send)


class _Outlet:
    """Results become events."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    async def put(self, payload: bytes, cursor: str | None) -> None:
        """As soon as there is room."""
        await self._pipe.put(write_next(payload, cursor))

    def member(self, position: int) -> Member:
        """On this connection."""
        return _StreamMember(self._pipe, position, b"", b"")


class _StreamMember(PipeMember):
    """A member of a group whose events carry the cursor of the piece."""

    def take(self, text: bytes, piece: Piece) -> bool:
        """Written, or in its buffer."""
        return self._pipe.offer(self, write_next(text, piece.cursor), self.position)
