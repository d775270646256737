"""The bell: short messages between processes, over Redis, as a hint and never as the truth.

A ring may be lost, late, doubled or forged; whoever listens has a log to read and reads it when in doubt. So the bell
owes its users three things only: ringing costs the ringer nothing, whatever state Redis is in; a listener is told when
it may have missed something; and no outage, however it looks, ends the listening.

broadcaster carries the messages to their channels. Its own Redis backend falls silent for good when the connection
breaks, so it gets ours: one task owns the listening connection and builds it anew until it is told to stop, a second
one owns the ringing connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, NamedTuple, cast

import structlog
from broadcaster import Broadcast, BroadcastBackend, Event
from broadcaster._base import Subscriber, Unsubscribed
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import RedisError, ResponseError

# Seconds. A server that leaves a PING unanswered for SILENCE is taken for dead, however open its connection is.
PING_EVERY: Final = 0.5
SILENCE: Final = 1.0
ATTEMPT: Final = 1.0  # to connect, or to hand over one batch of rings
LONGEST_PAUSE: Final = 1.0  # between two attempts
FLUSH: Final = 0.25  # for the last rings when the bell stops

MOST_RINGS: Final = 4_096  # that wait while Redis is away; the oldest goes first
MOST_RING_BYTES: Final = 8 * 1024 * 1024
BATCH_RINGS: Final = 256
BATCH_BYTES: Final = 1024 * 1024
MOST_EVENTS: Final = 1_024  # read from Redis and not yet passed on
MOST_UNHEARD: Final = 256  # messages of one listener
CHANNELS_AT_ONCE: Final = 500  # in one SUBSCRIBE

# Nobody rings here. A connection that listens to nothing would be answered in another form.
KEEP_ALIVE: Final = "bell:keep-alive"

log = structlog.get_logger()


class BellStopped(Exception):
    """The bell was stopped, so there is nothing more to hear."""


class Heard(NamedTuple):
    """What a listener got: messages in the order of their arrival, and whether others may have passed it by."""

    messages: list[bytes]
    missed: bool


class Listener:
    """One ear at one channel. Holds a bounded number of messages; when it is full the oldest go and `missed` is set.

    `missed` is also set when the subscription takes effect after the listener came, for the first time or after an
    outage. Whoever sees it reads the log, then sets it to False; `heard` does the latter by itself.
    """

    def __init__(self, most: int = MOST_UNHEARD) -> None:
        self.missed = False
        self.overflows = 0
        self._unheard: deque[bytes] = deque()
        self._most = most
        self._wake = asyncio.Event()
        self._stopped = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._each()

    async def heard(self, timeout: float | None = None) -> Heard:  # noqa: ASYNC109
        """All that waits, once a message or a miss does; nothing after `timeout` seconds; BellStopped at the end."""
        if not self._unheard and not self.missed and not self._stopped:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
        if self._stopped and not self._unheard:
            raise BellStopped
        heard = Heard(list(self._unheard), self.missed)
        self._unheard.clear()
        self.missed = False
        return heard

    async def _each(self) -> AsyncIterator[bytes]:
        while self._unheard or not self._stopped:
            if self._unheard:
                yield self._unheard.popleft()
            else:
                self._wake.clear()
                await self._wake.wait()

    # The bell's side.

    def take(self, message: bytes) -> None:
        """Keep a message for the listener. Never waits."""
        self._unheard.append(message)
        if len(self._unheard) > self._most:
            self._unheard.popleft()
            self.overflows += 1
            self.missed = True
        self._wake.set()

    def doubt(self) -> None:
        """Something may have passed it by."""
        self.missed = True
        self._wake.set()

    def end(self) -> None:
        """No more messages."""
        self._stopped = True
        self._wake.set()


class Backend(BroadcastBackend):
    """What the bell asks of a backend beyond broadcaster's own: `offer`, counters, and word of what may be missed.

    `subscribe` and `unsubscribe` never suspend. broadcaster loses its first subscribers where they do.
    """

    def __init__(self) -> None:
        self.rung = self.dropped = self.reconnects = 0
        #: Called with a channel when its subscription has taken effect.
        self.on_subscribed: Callable[[str], None] = lambda _channel: None
        #: Called when all subscriptions have, after an outage.
        self.on_restored: Callable[[], None] = lambda: None
        self._events: asyncio.Queue[Event] = asyncio.Queue(MOST_EVENTS)

    @property
    def healthy(self) -> bool:
        raise NotImplementedError

    def offer(self, channel: str, message: bytes) -> None:
        """Take a message to deliver. Never waits, never raises."""
        raise NotImplementedError

    async def publish(self, channel: str, message: bytes) -> None:
        self.offer(channel, message)

    async def next_published(self) -> Event:
        return await self._events.get()

    async def settle(self) -> None:
        """Wait a moment for what was offered."""


class LocalBackend(Backend):
    """Within this process only."""

    @property
    def healthy(self) -> bool:
        return True

    async def connect(self) -> None:
        pass

    async def disconnect(self) -> None:
        await asyncio.sleep(0)  # lets broadcaster's listener see that it was cancelled

    async def subscribe(self, group: str) -> None:
        pass

    async def unsubscribe(self, group: str) -> None:
        pass

    def offer(self, channel: str, message: bytes) -> None:
        if self._events.full():
            self._events.get_nowait()
            self.dropped += 1
        self._events.put_nowait(_event(channel, message))
        self.rung += 1


class SupervisedRedisBackend(Backend):
    """Redis, as something that comes and goes."""

    def __init__(self, url: str) -> None:
        super().__init__()
        # Said in full and after the URL's own options: the library's defaults change, and options in a URL would win.
        # Each exchange has a deadline of ours in place of `socket_timeout`, whose asyncio.wait_for can swallow a
        # cancellation before Python 3.12.
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
        self._connection_class: type[AbstractConnection] = self._options.pop("connection_class", Connection)
        self._tasks: list[asyncio.Task[None]] = []
        self._tried_once = asyncio.Event()
        # Listening.
        self._wanted: set[str] = set()
        self._changed: set[str] = set()  # channels whose subscription on the server may differ from what is wanted
        self._to_do = asyncio.Event()
        self._in_effect = False
        self._last_heard = -math.inf
        self._down_since: float | None = None
        self._failures = 0
        # Ringing.
        self._rings: deque[tuple[str, bytes]] = deque()
        self._ring_bytes = 0
        self._ringing: deque[tuple[str, bytes]] = deque()
        self._to_ring = asyncio.Event()
        self._all_rung = asyncio.Event()
        self._all_rung.set()

    @property
    def healthy(self) -> bool:
        return self._in_effect and time.monotonic() - self._last_heard <= PING_EVERY + SILENCE

    async def connect(self) -> None:
        """Start both tasks, and wait a moment for the outcome of the first attempt: Redis may well be away."""
        self._tasks = [asyncio.create_task(self._listen_always()), asyncio.create_task(self._ring_always())]
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2 * ATTEMPT):
                    await self._tried_once.wait()
        except asyncio.CancelledError:
            await self.disconnect()
            raise

    async def disconnect(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self.dropped += len(self._rings)
        self._rings.clear()

    async def subscribe(self, group: str) -> None:
        self._wanted.add(group)
        self._changed.add(group)
        self._to_do.set()

    async def unsubscribe(self, group: str) -> None:
        self._wanted.discard(group)
        self._changed.add(group)
        self._to_do.set()

    def offer(self, channel: str, message: bytes) -> None:
        self._rings.append((channel, message))
        self._ring_bytes += len(message)
        self._keep_bounds()
        self._all_rung.clear()
        self._to_ring.set()

    async def settle(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH):
                await self._all_rung.wait()

    # Listening.

    async def _listen_always(self) -> None:
        while True:
            connection = self._connection_class(**self._options)
            reader: asyncio.Task[None] | None = None
            try:
                await _open(connection)
                reader = asyncio.create_task(self._read(connection))
                reader.add_done_callback(lambda _: self._to_do.set())
                await self._tend(connection, reader)
            except Exception as exc:  # whatever it was, listening goes on
                self._lost(exc)
            finally:
                self._in_effect = False
                if reader is not None:
                    reader.cancel()
                    await asyncio.gather(reader, return_exceptions=True)
                await _abort(connection)
            self._failures += 1
            await asyncio.sleep(pause(self._failures, random.random()))  # noqa: S311  # not a secret

    async def _tend(self, connection: AbstractConnection, reader: asyncio.Task[None]) -> None:
        """Keep the server's subscriptions as they are wanted and ask it for a sign of life. Ends by raising."""
        subscribed: set[str] = set()
        self._changed |= self._wanted
        await self._adjust(connection, subscribed)
        # Last, so that its confirmation speaks for all the others.
        await _send(connection, "SUBSCRIBE", KEEP_ALIVE)
        asked = time.monotonic()
        await _send(connection, "PING")
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_EVERY / 2):
                    await self._to_do.wait()
            self._to_do.clear()
            if reader.done():
                reader.result()  # raises what ended it
            await self._adjust(connection, subscribed)
            waited = time.monotonic() - asked
            if self._last_heard >= asked:
                if waited >= PING_EVERY:
                    asked = time.monotonic()
                    await _send(connection, "PING")
            elif waited >= SILENCE:
                raise TimeoutError("no answer to PING")

    async def _adjust(self, connection: AbstractConnection, subscribed: set[str]) -> None:
        """Send what brings `subscribed` to what is wanted."""
        changed, self._changed = self._changed, set()
        come = [channel for channel in changed if channel in self._wanted and channel not in subscribed]
        gone = [channel for channel in changed if channel not in self._wanted and channel in subscribed]
        subscribed.update(come)
        subscribed.difference_update(gone)
        for command, channels in (("SUBSCRIBE", come), ("UNSUBSCRIBE", gone)):
            for start in range(0, len(channels), CHANNELS_AT_ONCE):
                await _send(connection, command, *channels[start : start + CHANNELS_AT_ONCE])

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            # Without a deadline: PING has it. And the connection stays as it is on errors, else the next command sent
            # would quietly open another one that listens to nothing.
            reply = await connection.read_response(disconnect_on_error=False)
            self._last_heard = time.monotonic()
            match reply:
                case [b"message", channel, message]:
                    await self._events.put(_event(channel.decode(), message))
                case [b"subscribe", channel, _]:
                    self._confirmed(channel.decode())

    def _confirmed(self, channel: str) -> None:
        if channel != KEEP_ALIVE:
            self.on_subscribed(channel)
            return
        self._in_effect = True
        self._failures = 0
        self._tried_once.set()
        if self._down_since is not None:
            self.reconnects += 1
            log.info("bell_restored", seconds=round(time.monotonic() - self._down_since, 3), reconnects=self.reconnects)
            self._down_since = None
            self.on_restored()

    def _lost(self, exc: Exception) -> None:
        self._tried_once.set()
        if self._down_since is None:
            self._down_since = time.monotonic()
            log.warning("bell_lost", error=f"{type(exc).__name__}: {exc}")

    # Ringing.

    async def _ring_always(self) -> None:
        failures = 0
        while True:
            connection = self._connection_class(**self._options)
            try:
                await _open(connection)
                while True:
                    await self._to_ring.wait()
                    await self._ring_some(connection)
                    failures = 0
            except Exception as exc:  # whatever it was, ringing goes on
                if failures == 0:
                    log.warning("bell_ring_failed", error=f"{type(exc).__name__}: {exc}", waiting=len(self._ringing))
            finally:
                self._put_back()
                await _abort(connection)
            failures += 1
            await asyncio.sleep(pause(failures, random.random()))  # noqa: S311  # not a secret

    async def _ring_some(self, connection: AbstractConnection) -> None:
        """Hand over some of what waits in one round trip. What is left in `_ringing` by an error was not confirmed."""
        size = 0
        while self._rings and len(self._ringing) < BATCH_RINGS and size < BATCH_BYTES:
            channel, message = self._rings.popleft()
            self._ringing.append((channel, message))
            size += len(message)
        self._ring_bytes -= size
        async with asyncio.timeout(ATTEMPT):
            commands = [("PUBLISH", channel, message) for channel, message in self._ringing]
            await connection.send_packed_command(connection.pack_commands(commands))
            while self._ringing:
                try:
                    await connection.read_response()
                except ResponseError as exc:  # refused, and would be again
                    self.dropped += 1
                    log.warning("bell_ring_refused", error=str(exc))
                else:
                    self.rung += 1
                self._ringing.popleft()
        if not self._rings:
            self._to_ring.clear()
            self._all_rung.set()

    def _put_back(self) -> None:
        self._rings.extendleft(reversed(self._ringing))
        self._ring_bytes += sum(len(message) for _, message in self._ringing)
        self._ringing.clear()
        self._keep_bounds()

    def _keep_bounds(self) -> None:
        while len(self._rings) > MOST_RINGS or self._ring_bytes > MOST_RING_BYTES:
            _, message = self._rings.popleft()
            self._ring_bytes -= len(message)
            self.dropped += 1


class Bell:
    """Ring a channel from anywhere, listen to it in every process that cares.

    `url` is Redis's; None keeps the bell inside this process, which is for tests. All methods belong to one event loop.
    """

    def __init__(self, url: str | None, *, most_unheard: int = MOST_UNHEARD) -> None:
        self._backend: Backend = LocalBackend() if url is None else SupervisedRedisBackend(url)
        self._backend.on_subscribed = self._doubt
        self._backend.on_restored = self._restored
        self._broadcast = Broadcast(backend=self._backend)
        self._most_unheard = most_unheard
        self._channels: dict[str, _Channel] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._running = self._stopped = False

    @property
    def healthy(self) -> bool:
        """Whether messages would reach us now: Redis answered on the listening connection a moment ago."""
        return self._running and self._backend.healthy

    @property
    def rung(self) -> int:
        """Rings that Redis took."""
        return self._backend.rung

    @property
    def dropped(self) -> int:
        """Rings given up, for want of room or because Redis refused them."""
        return self._backend.dropped

    @property
    def reconnects(self) -> int:
        """How often listening was restored after an outage."""
        return self._backend.reconnects

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time all subscriptions are back after an outage: something may have been missed."""
        self._callbacks.append(callback)

    async def start(self) -> None:
        """Begin. Takes no longer than one attempt to reach Redis and does not mind when it fails."""
        await self._broadcast.connect()
        self._running = True

    async def stop(self) -> None:
        """End every listening and every task. Rings still waiting have a moment to leave."""
        if not self._running:
            return
        self._running, self._stopped = False, True
        await self._backend.settle()
        for channel in list(self._channels.values()):
            for listener in channel.listeners:
                listener.end()
            await channel.close()
        self._channels.clear()
        await self._broadcast.disconnect()

    def ring(self, channel: str, message: bytes | str) -> None:
        """Send `message` to everyone who listens. Never waits, never raises, promises nothing."""
        self._backend.offer(channel, message.encode() if isinstance(message, str) else message)

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[Listener]:
        """A listener at `channel`, for as long as the block lasts. BellStopped when the bell was stopped before."""
        if self._stopped:
            raise BellStopped
        listener = Listener(self._most_unheard)
        shared = self._channels.get(channel)
        if shared is None:
            shared = self._channels[channel] = _Channel(self._broadcast, channel)
            await shared.open()
        shared.listeners.add(listener)
        try:
            yield listener
        finally:
            shared.listeners.discard(listener)
            if not shared.listeners and self._channels.get(channel) is shared:
                del self._channels[channel]
                await shared.close()

    def _doubt(self, channel: str) -> None:
        if (shared := self._channels.get(channel)) is not None:
            for listener in shared.listeners:
                listener.doubt()

    def _restored(self) -> None:
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                log.exception("bell_callback_failed")


class _Channel:
    """The one subscription of this process to a channel, and all who listen through it.

    broadcaster's own queues have no bound, so we take from them at once and do the bounding ourselves.
    """

    def __init__(self, broadcast: Broadcast, channel: str) -> None:
        self.listeners: set[Listener] = set()
        self._subscription: AbstractAsyncContextManager[Subscriber] = broadcast.subscribe(channel)
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Subscribe. Does not suspend, as the backends do not."""
        subscriber = await self._subscription.__aenter__()
        self._task = asyncio.create_task(self._pass_on(subscriber))

    async def close(self) -> None:
        """Unsubscribe, which also ends the task."""
        task, self._task = self._task, None
        if task is not None:
            await self._subscription.__aexit__(None, None, None)
            await asyncio.shield(task)

    async def _pass_on(self, subscriber: Subscriber) -> None:
        with contextlib.suppress(Unsubscribed):
            while True:
                event = await subscriber.get()
                message = cast("bytes", event.message)
                for listener in self.listeners:
                    listener.take(message)


def pause(failures: int, chance: float) -> float:
    """Seconds before the next attempt after `failures`; `chance` in 0..1 keeps processes from marching in step."""
    return min(LONGEST_PAUSE, 0.05 * 2.0 ** min(failures, 10)) * (0.5 + chance / 2)


def _event(channel: str, message: bytes) -> Event:
    return Event(channel, cast("str", message))  # broadcaster only passes it through


async def _open(connection: AbstractConnection) -> None:
    """Connect and have one command answered; a frozen server still accepts connections."""
    async with asyncio.timeout(ATTEMPT):
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_command("PING")
        await connection.read_response()


async def _send(connection: AbstractConnection, *command: str) -> None:
    """Send without waiting for an answer. A server that stopped reading makes this a TimeoutError."""
    async with asyncio.timeout(ATTEMPT):
        await connection.send_command(*command)


async def _abort(connection: AbstractConnection) -> None:
    """Close at once, also when the server has stopped reading what we sent."""
    writer = connection._writer  # noqa: SLF001
    with contextlib.suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)
    if writer is not None:
        writer.transport.abort()
