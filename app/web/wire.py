"""uvicorn's HTTP with a deadline for requests, and its WebSocket with better manners at the end.

`Http` bounds what uvicorn leaves open: how long a request may take to arrive, and how large its head may be. A client
that drips bytes, or falls silent in the middle, is cut off; nothing of a request that was cut off is acted on. Whoever
is turned away before there is a request is heard out for a moment, or the reset would overtake the answer. When the
server stops it also says so to answers that would never end by themselves.

`Body` and `Wire` lend the application their transport, for what many get at once: pieces of an answer that goes on, and
messages of a socket. What `Wire` adds besides is the difference between a close code that was written and one that
arrives:

- a socket whose client stopped reading can be cut: the closing frame follows what is already buffered, without waiting
  for room, and the connection is dropped if the client does not come back for it;
- a client that does not answer a ping is told to try later (1013) instead of that we failed (1011);
- after a mistake (a message over the bound, text that is not UTF-8) we go on reading and throw it away for a moment.
  Closing a connection with unread bytes resets it, and the reset overtakes the code.
"""

from __future__ import annotations

from asyncio import BaseTransport, Event, TimerHandle, get_running_loop
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from app.errors import AppError, BadRequest
from app.web.middleware import shown

#: The extensions under which the application finds `cut`, and the connection itself.
CUT: Final = "punchconnect.cut"
WIRE: Final = "punchconnect.wire"
#: In the scope of an HTTP request: an `asyncio.Event` that is set when the server stops. Endless answers end then.
ENDING: Final = "punchconnect.ending"
TRY_LATER: Final = 1013
#: Seconds for a client to fetch the closing frame and answer it. Who takes nothing has been waited for already,
#: up to 41 seconds for room or 40 for a pong, and is to be gone within a minute.
LINGER: Final = 15.0
#: Seconds for which we throw away what a mistaken client still sends: until it was quiet for a while, and at most.
QUIET: Final = 0.25
DEAF: Final = 5.0


class HeadersTooLarge(AppError):
    """A request's line and headers go on and on."""

    code, status = "headers_too_large", 431


class Body:
    """The answer to one request, while it is written in pieces that nobody waits for."""

    __slots__ = ("_cycle", "writable")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        #: Cleared while the client does not take what was written.
        self.writable: Event = cycle.flow._is_writable_event  # noqa: SLF001

    def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """The whole answer, past ASGI and in one piece; `headers` are ours and say its length.

        False when it has to go the usual way, because the client does not take what was written, or is gone.
        """
        cycle = self._cycle
        if cycle.response_started or cycle.disconnected or cycle.flow.write_paused:
            return False
        if cycle.access_log or cycle.scope["method"] == "HEAD":
            return False
        cycle.response_started, cycle.waiting_for_100_continue, cycle.chunked_encoding = True, False, False
        told = [b"%b: %b\r\n" % header for header in (*cycle.default_headers, *headers)]
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        cycle.transport.write(b"".join((STATUS_LINE[status], *told, end, body)))
        cycle.response_complete = True
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True

    @property
    def open(self) -> bool:
        """Whether there is an answer in pieces that has not ended."""
        cycle = self._cycle
        return (
            cycle.response_started
            and bool(cycle.chunked_encoding)
            and not cycle.response_complete
            and not cycle.disconnected
            and not cycle.transport.is_closing()
        )

    def write_text(self, payload: bytes) -> None:
        """One piece, past ASGI and without waiting for room. Nothing happens once the answer has ended."""
        if self.open:
            self._cycle.transport.write(b"%x\r\n%b\r\n" % (len(payload), payload))

    def backlog(self) -> int:
        """Bytes that the client has not taken yet."""
        return self._cycle.transport.get_write_buffer_size()

    def cut(self, *, at_once: bool = False) -> None:
        """End the connection in the middle of the answer, so that nobody takes it for whole. Never waits.

        `at_once`: what the client has not taken yet is dropped.
        """
        transport = self._cycle.transport
        if at_once:
            transport.abort()
        if transport.is_closing():
            return
        transport.close()  # what is buffered may still leave
        get_running_loop().call_later(DEAF, transport.abort)


class Http(HttpToolsProtocol):
    """One connection. Silence between two requests is uvicorn's keep-alive timeout, which is another matter."""

    #: Seconds for a request to arrive; one more for each so many bytes of it; seconds after which it is over anyway.
    PATIENCE: ClassVar[float] = 30.0
    SLOWEST: ClassVar[int] = 512
    LONGEST: ClassVar[float] = 600.0
    #: Bytes of a request's line and headers.
    HEAD: ClassVar[int] = 64 * 1024

    _timer: TimerHandle | None = None
    _since = 0.0
    _received = 0
    _head_ended = False
    _deaf_until = 0.0
    #: As far as it came; nothing before the first line begins.
    url = b""

    def connection_made(self, transport: BaseTransport) -> None:
        """Whoever connects is expected to say something."""
        super().connection_made(cast("Any", transport))
        self._ending = Event()
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """As before."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As before, and counted."""
        if self._deaf_until:
            self._wait_for_quiet()
            return
        if self._timer is None:
            self._expect()
        # What comes at once may hold more than a head: that has to end within the bound.
        room = len(data) if self._head_ended else max(self.HEAD - self._received, 0)
        self._received += len(data)
        super().data_received(data[:room])
        over = self._deaf_until or self.transport.is_closing() or self.transport.get_protocol() is not self
        if over or len(data) <= room:
            return
        if self._head_ended:
            super().data_received(data[room:])
            return
        self._turn_away(HeadersTooLarge(f"The request's line and headers are over {self.HEAD} bytes."))

    def send_400_response(self, msg: str) -> None:
        """In words of ours."""
        del msg
        self._turn_away(BadRequest("This is no request that can be read."))

    def _turn_away(self, error: AppError) -> None:
        """Refuse what never became a request, and hear no more of it.

        A terminal reads plain text; to others it is what every error looks like. Whose it is shows only where it came
        as far as a path.
        """
        public_url = self.app_state.get("public_url")
        if public_url is None or not self.url or b"/iclock" in self.url:
            body = error.message.encode()
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
        else:
            headers, body = shown(error, public_url)
        told = [b"%b: %b\r\n" % header for header in headers]
        self.transport.write(b"".join((STATUS_LINE[error.status], *told, b"connection: close\r\n\r\n", body)))
        self._stop()
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # or the answer to an earlier request would follow
            return
        # A client that is still writing would lose the answer to the reset that follows a close.
        self._deaf_until = self.loop.time() + DEAF
        self._wait_for_quiet()

    def _wait_for_quiet(self) -> None:
        self._stop()
        patience = min(QUIET, max(0.0, self._deaf_until - self.loop.time()))
        self._timer = self.loop.call_later(patience, self.transport.close)

    def on_headers_complete(self) -> None:
        """As before; the application, which runs later, may write to the connection."""
        self._head_ended = True
        cast("dict[str, Any]", self.scope)[ENDING] = self._ending
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            cast("dict[str, Any]", self.scope)["extensions"] = {WIRE: Body(self.cycle)}

    def on_message_complete(self) -> None:
        """All of it is here: from now on it is our time that passes."""
        self._stop()
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """From now on the socket has deadlines of its own."""
        self._stop()
        super().handle_websocket_upgrade()

    def shutdown(self) -> None:
        """The server stops: what is under way is finished, what never finishes is told."""
        super().shutdown()
        self._ending.set()

    def _expect(self) -> None:
        self._since, self._received, self._head_ended = self.loop.time(), 0, False
        self._timer = self.loop.call_later(self.PATIENCE, self._overdue)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _overdue(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            return  # stray bytes behind a request that is being answered
        due = self._since + min(self.PATIENCE + self._received / self.SLOWEST, self.LONGEST)
        if (left := due - self.loop.time()) > 0:
            self._timer = self.loop.call_later(left, self._overdue)
        else:
            self.transport.abort()


class Wire(WebSocketsSansIOProtocol):
    """One connection."""

    _deaf_until = 0.0

    async def run_asgi(self) -> None:
        """Offer `cut` and the connection to the application, then run it."""
        cast("dict[str, Any]", self.scope["extensions"]).update({CUT: self.cut, WIRE: self})
        await super().run_asgi()

    def write_text(self, payload: bytes) -> None:
        """One text message, past ASGI and without waiting for room; `writable` says whether there is any.

        Nothing happens once the socket is closing.
        """
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        if self.conn.extensions:
            self.conn.send_text(payload)
            self.transport.write(b"".join(self.conn.data_to_send()))
            return
        size = len(payload)
        if size < 126:
            head = bytes((0x81, size))
        elif size < 2**16:
            head = b"\x81\x7e" + size.to_bytes(2, "big")
        else:
            head = b"\x81\x7f" + size.to_bytes(8, "big")
        self.transport.write(head + payload)

    def backlog(self) -> int:
        """Bytes that the client has not taken yet."""
        return self.transport.get_write_buffer_size()

    def cut(self, code: int, reason: str) -> None:
        """Send the closing frame now and drop the connection later, whether or not the client reads. Never waits."""
        if self.close_sent or self.transport.is_closing():
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(LINGER, self.transport.abort)

    def keepalive_timeout(self) -> None:
        """No pong came."""
        self.cut(TRY_LATER, "No answer to a ping.")

    def shutdown(self) -> None:
        """The server stops: 1012. A client that reads nothing any more must not hold it up."""
        with suppress(InvalidState):  # it closes already
            super().shutdown()
        self.transport.close()
        self.loop.call_later(DEAF, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """As before, until a mistake was made."""
        if self._deaf_until:
            self._wait_for_quiet()
        else:
            super().data_received(data)

    def send_receive_event_to_app(self) -> None:
        """As before; a mistake right before the client's own closing frame needs no answer any more."""
        with suppress(InvalidState):
            super().send_receive_event_to_app()

    def handle_parser_exception(self) -> None:
        """Say what was wrong and let the client hear it."""
        closing = self.conn.close_sent
        if closing is None or self.close_sent:
            self.transport.close()  # nothing more can be said
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": closing.code, "reason": closing.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._deaf_until = self.loop.time() + DEAF
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._wait_for_quiet()

    def _wait_for_quiet(self) -> None:
        if self.close_timer is not None:
            self.close_timer.cancel()
        patience = min(QUIET, max(0.0, self._deaf_until - self.loop.time()))
        self.close_timer = self.loop.call_later(patience, self.transport.close)
