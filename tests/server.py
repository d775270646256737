"""A whole server inside the test's own event loop, behind a real socket; and requests to it as raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import uvicorn

from app.main import Application
from app.settings import Settings
from app.web.wire import Http
from tests.conftest import SECRET_KEY

PATIENCE = 20


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def request(method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """A request as bytes, without a Content-Type, as firmware writes it."""
    fields = {"Host": "terminal.test", "User-Agent": "iClock Proxy/1.09", "Connection": "close", **(headers or {})}
    if body or method == "POST":
        fields.setdefault("Content-Length", str(len(body)))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body


class Server:
    """`async with Server(url) as server:`. Knobs are settings by name."""

    def __init__(self, database_url: str, *, port: int | None = None, http: type[Http] = Http, **knobs: Any) -> None:
        self.settings = Settings(
            _env_file=None,
            database_url=database_url,
            secret_key=SECRET_KEY,
            **knobs,
        )
        self.application = Application(self.settings)
        self.port = port or 0
        self._uvicorn = _Quiet(
            uvicorn.Config(
                self.application,
                http=http,
                ws="app.web.wire:Wire",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                timeout_graceful_shutdown=5,
            )
        )
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        listening = listen(self.port)
        self.port = listening.getsockname()[1]
        self._running = asyncio.create_task(self._uvicorn.serve([listening]))
        async with asyncio.timeout(PATIENCE):
            while not self._uvicorn.started:
                if self._running.done():
                    self._running.result()
                    raise RuntimeError("The server did not start.")
                await asyncio.sleep(0.01)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._running is not None
        self._uvicorn.should_exit = True
        await self._running

    async def send(self, raw: bytes, *, source: str = "127.0.0.1") -> Reply:
        """What comes back for these bytes, sent from one of this machine's own addresses."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0))
            try:
                writer.write(raw)
                return await read_reply(reader)
            finally:
                await hang_up(writer)

    async def get(self, target: str, headers: dict[str, str] | None = None) -> Reply:
        return await self.send(request("GET", target, headers=headers))

    async def post(self, target: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        return await self.send(request("POST", target, body, headers))


async def read_reply(reader: asyncio.StreamReader) -> Reply:
    """The next answer with a Content-Length. IncompleteReadError when the connection ends before it."""
    line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    return Reply(int(line.split(" ")[1]), headers, await reader.readexactly(int(headers["content-length"])))


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever the other side thinks of it."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def listen(port: int = 0) -> socket.socket:
    """A listening socket. Below the range of outgoing connections, none of which can then take the port."""
    for _ in range(200):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port or secrets.choice(range(12_000, 32_768))))
        except OSError:
            listening.close()
            continue
        listening.listen(512)
        return listening
    raise OSError("No port is free.")


class _Quiet(uvicorn.Server):
    """Leaves the signals to the tests."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
