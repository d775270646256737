"""graphql-transport-ws: one socket, many operations. Whatever a client sends, the end has a code that says why.

Each socket has a task that reads, one that sends and one for each operation. What is to be sent goes through its pipe:
a client that reads slowly makes its own operations wait, and nobody else's. Whoever wants the socket to end says so by
`end`; the first to say so is heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import strawberry
import structlog
from graphql import GraphQLError
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.domain.keys import Actor, Unauthenticated
from app.errors import RateLimited, ServiceUnavailable
from app.places import Places
from schema import frames
from schema.frames import Malformed
from schema.held import CLOSE, FLUSH, FORBIDDEN, RESTART, TRY_LATER, Held, Keys
from schema.pipe import WIRE, Bounds, Pipe, PipeMember, Stuck
from schema.running import Operating, OperationFailed, Runner, Toll
from schema.sharing import Member

log = structlog.get_logger(__name__)

BAD_MESSAGE: Final = 4400
TOO_EARLY: Final = 4401
BAD_SUBPROTOCOL: Final = 4406
INIT_TIMEOUT: Final = 4408
DUPLICATE_ID: Final = 4409
SECOND_INIT: Final = 4429

#: In `scope["extensions"]`: a function (code, reason) that ends the socket whether or not the client still reads.
CUT: Final = "punchconnect.cut"


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Bounds; spans in seconds."""

    operations: int = 100  # on one socket
    per_key: int = 100  # connections with one API key, in all processes
    per_tenant: int = 1000  # of one tenant, likewise
    waiting: int = 1000  # sockets in this process that have not said who they are
    queue: int = 8  # messages waiting to be sent on one socket
    init: float = 10
    ping_every: float = 15
    stall: float = 30  # without the client taking anything
    idle: float = 900  # without an operation
    shared: Bounds = field(default_factory=Bounds)  # of what waits for one subscription that shares
    check_keys_every: float = 2


class SocketServer:
    """All sockets of one process: an ASGI application for the scope `websocket`."""

    def __init__(
        self,
        schema: strawberry.Schema,
        keys: Keys,
        make_context: Callable[[Actor], Operating],
        *,
        public_url: str,
        limits: SocketLimits | None = None,
        toll: Toll | None = None,
        places: Places | None = None,
    ) -> None:
        self.runner = Runner(schema, make_context, public_url=public_url, toll=toll)
        self.keys = keys
        self.limits = limits = limits or SocketLimits()
        self.held = Held(
            keys,
            places or Places(None),
            per_key=limits.per_key,
            per_tenant=limits.per_tenant,
            check_keys_every=limits.check_keys_every,
        )

    async def start(self) -> None:
        """Begin to watch the keys of open sockets."""
        await self.held.start()

    async def stop(self) -> None:
        """Close what is open and end every task."""
        await self.held.stop()
        await self.runner.groups.stop()

    @property
    def open(self) -> int:
        """Connections held open in this process."""
        return self.held.open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket from its handshake to its end."""
        await self.handle(WebSocket(scope, receive, send))

    async def handle(self, websocket: WebSocket) -> None:
        """The same, for whoever has a WebSocket already."""
        socket = Socket(self, websocket)
        with self.held.holding(socket):
            if self.held.draining:
                socket.end(RESTART, "Restarting: connect again.")
            elif self.held.open - self.held.admitted > self.limits.waiting:
                socket.end(TRY_LATER, "Too many sockets without a key.")
            await socket.run()

    async def drain(self, over: float = 0) -> None:
        """Close every socket with 1012, spread over some seconds, and refuse new ones. Clients resume elsewhere."""
        await self.held.drain(over)


@dataclass(slots=True, eq=False)
class _Operation:
    """One `subscribe` while it runs."""

    subscribe: frames.Subscribe
    task: asyncio.Task[None] | None = None


class Socket:
    """One connection."""

    def __init__(self, server: SocketServer, websocket: WebSocket) -> None:
        self.actor: Actor | None = None
        self._server = server
        self._limits = server.limits
        self._websocket = websocket
        self._loop = asyncio.get_running_loop()
        self._operations: dict[str, _Operation] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._pipe = Pipe(
            websocket.scope.get("extensions", {}).get(WIRE),
            self._write,
            queue=self._limits.queue,
            stall=self._limits.stall,
            bounds=self._limits.shared,
        )
        #: How it ends: code and reason, or None when the client is gone.
        self._ending: asyncio.Future[tuple[int, str] | None] = self._loop.create_future()
        self._busy_at = self._loop.time()
        self._init_timer: asyncio.TimerHandle | None = None
        self._ping_timer: asyncio.TimerHandle | None = None

    def end(self, code: int, reason: str) -> None:
        """Have the socket closed. Only the first word counts."""
        if not self._ending.done():
            self._ending.set_result((code, reason))

    async def run(self) -> None:
        """From the handshake to the closing frame. Raises nothing but cancellation."""
        offered = frames.PROTOCOL in self._websocket.scope["subprotocols"]
        try:
            await self._websocket.accept(frames.PROTOCOL if offered else None)
        except (WebSocketDisconnect, RuntimeError):
            return
        if not offered:
            self.end(BAD_SUBPROTOCOL, f"The subprotocol is {frames.PROTOCOL}.")
        reader, sender = asyncio.create_task(self._read()), asyncio.create_task(self._send())
        self._init_timer = self._loop.call_later(self._limits.init, self.end, INIT_TIMEOUT, "No connection_init came.")
        self._ping_timer = self._loop.call_later(self._limits.ping_every, self._ping)
        try:
            ending = await asyncio.shield(self._ending)
            # Not waited for: an operation may take its time to let go of the database.
            for task in (reader, *self._running):
                task.cancel()
            if ending is not None:
                await self._flush(sender)
                await self._close(*ending)
        finally:
            self._init_timer.cancel()
            self._ping_timer.cancel()
            if self.actor is not None:
                self._server.held.forget(self.actor)
            tasks = [reader, sender, *self._running]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────

    async def _read(self) -> None:
        try:
            while not self._ending.done():  # what follows a mistake is not acted on
                event = await self._websocket.receive()
                if event["type"] == "websocket.disconnect":
                    self._gone()
                    return
                await self._take(frames.read(event.get("text")))
        except Malformed as exc:
            self.end(BAD_MESSAGE, str(exc))
        except Exception:
            log.exception("sockets.reader_failed")
            self.end(TRY_LATER, "Something broke on our side.")

    async def _take(self, message: frames.Message) -> None:
        match message:
            case frames.Init():
                await self._init(message)
            case frames.Ping(payload):
                await self._pipe.put(frames.write_pong(payload))
            case frames.Pong():
                pass
            case frames.Subscribe():
                await self._subscribe(message)
            case frames.Complete(id):
                self._drop(id)

    async def _init(self, message: frames.Init) -> None:
        if self.actor is not None:
            self.end(SECOND_INIT, "connection_init came twice.")
            return
        assert self._init_timer is not None
        self._init_timer.cancel()
        authorization = message.authorization
        if authorization is None:
            authorization = self._websocket.headers.get("authorization")
        try:
            actor = await self._server.keys.authenticate(authorization if isinstance(authorization, str) else None)
        except Unauthenticated as exc:
            self.end(FORBIDDEN, exc.message)
            return
        except ServiceUnavailable as exc:
            self.end(TRY_LATER, exc.message)
            return
        if not await self._server.held.admit(actor):
            self.end(TRY_LATER, "This API key, or its tenant, holds as many connections as it may.")
            return
        self.actor = actor
        await self._pipe.put(frames.ACK)

    # ── operations ───────────────────────────────────────────────────────────────────────────────────

    async def _subscribe(self, message: frames.Subscribe) -> None:
        if self.actor is None:
            self.end(TOO_EARLY, "subscribe came before connection_ack.")
            return
        if message.id in self._operations:
            self.end(DUPLICATE_ID, "There is an operation with this id.")
            return
        context = self._server.runner.context(self.actor)
        if len(self._operations) >= self._limits.operations:
            refused = RateLimited(f"A socket runs at most {self._limits.operations} operations at once.")
            shown = self._server.runner.present([GraphQLError(refused.message, original_error=refused)], context)
            await self._pipe.put(frames.write_error(message.id, shown))
            return
        operation = self._operations[message.id] = _Operation(message)
        operation.task = asyncio.create_task(self._operate(operation, self.actor, context))
        self._running.add(operation.task)
        operation.task.add_done_callback(self._running.discard)

    def _drop(self, id: str) -> None:
        """The client completed it; one that is not there has ended by itself meanwhile."""
        operation = self._operations.pop(id, None)
        if operation is not None and operation.task is not None:
            operation.task.cancel()

    async def _operate(self, operation: _Operation, actor: Actor, context: Operating) -> None:
        name = operation.subscribe.id
        try:
            await self._server.runner.run(operation.subscribe.asked, actor, context, _Outlet(self._pipe, name))
            last = frames.write_complete(name)
        except OperationFailed as exc:
            last = frames.write_error(name, exc.errors)
        if self._operations.get(name) is operation:  # else the client has completed it, and may use the id again
            del self._operations[name]
            await self._pipe.put(last)

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────

    async def _send(self) -> None:
        try:
            await self._pipe.send()
        except Stuck:
            self.end(TRY_LATER, "Nothing was read for too long: connect again and resume by cursor.")
        except (WebSocketDisconnect, RuntimeError):
            self._gone()

    async def _write(self, payload: bytes) -> None:
        await self._websocket.send_text(payload.decode())

    def _ping(self) -> None:
        self._ping_timer = self._loop.call_later(self._limits.ping_every, self._ping)
        if self._operations:
            self._busy_at = self._loop.time()
        elif self._loop.time() - self._busy_at >= self._limits.idle:
            self.end(TRY_LATER, "Nothing ran here for too long.")
        self._pipe.put_nowait(frames.PING)  # whose queue is full has something better to read

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────

    def _gone(self) -> None:
        if not self._ending.done():
            self._ending.set_result(None)

    async def _flush(self, sender: asyncio.Task[None]) -> None:
        """A moment for what is queued: an answer should not be lost because its successor was a mistake."""
        self._pipe.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(sender, FLUSH)

    async def _close(self, code: int, reason: str) -> None:
        cut = self._websocket.scope.get("extensions", {}).get(CUT)
        if cut is not None:
            cut(code, reason)
            return
        with suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(CLOSE):
                await self._websocket.close(code, reason)


class _Outlet:
    """Results of one operation become `next` messages."""

    def __init__(self, pipe: Pipe, id: str) -> None:
        self._pipe = pipe
        self._head = frames.next_head(id)

    async def put(self, payload: bytes, cursor: str | None) -> None:
        """The cursor is in the result, for who asked for it."""
        del cursor
        await self._pipe.put(self._head + payload + frames.NEXT_TAIL)

    def member(self, position: int) -> Member:
        """On this socket."""
        return PipeMember(self._pipe, position, self._head, frames.NEXT_TAIL)
