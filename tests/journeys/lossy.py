"""A line on which answers get lost: the request arrives whole, and then the connection breaks."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from tests.server import listen


class LossyLine:
    """Between terminals and `port`. Of every `each` connections with an upload, one never gets its answer."""

    def __init__(self, port: int, *, each: int) -> None:
        self._to, self._each = port, each
        self._place = listen()
        self.port: int = self._place.getsockname()[1]
        self.uploads = self.lost = 0
        self._server: asyncio.Server | None = None
        self._talking: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._talk, sock=self._place)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._talking:
            task.cancel()
        await asyncio.gather(*self._talking, return_exceptions=True)
        await self._server.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talking.add(task)
        try:
            with contextlib.suppress(OSError, EOFError):
                await self._pass(reader, writer)
        finally:
            self._talking.discard(task)
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, as firmware without keep-alive makes it, and its answer unless this one is lost."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        body = await reader.readexactly(int(length or b"0"))
        lost = False
        if b"table=ATTLOG" in head:
            self.uploads += 1
            lost = self.uploads % self._each == 0
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        try:
            back.write(head + body)
            answer = await there.read()  # to its end: what is lost was said
        finally:
            back.transport.abort()
        if lost and answer:
            self.lost += 1
        else:
            writer.write(answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
