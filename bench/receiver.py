"""The far end of benchmarks that post: a process of its own that takes requests apart, answers and notes what came.

It runs on the cores that are measured, and what it spends is missing there. So each kind does no more than its
benchmark needs: `bare` answers, `timing` notes when each event came, `witness` checks signatures as well.

`python -m bench.receiver KIND [SECONDS]` starts one that thinks so long before it answers, and prints its URL.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, cast

import orjson
import uvloop

from protocol import webhook
from tests import factories

ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

LENGTH: Final = b"\r\ncontent-length:"


class Receiver(asyncio.Protocol):
    """One connection. Requests have a body of a length that they say."""

    #: Seconds before an answer.
    thinks: ClassVar[float] = 0.0
    waiting = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.waiting:
            data = self.waiting + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end].lower()
            whole = end + 4 + int(head[head.index(LENGTH) + len(LENGTH) :].split(b"\r\n", 1)[0])
            if len(data) < whole:
                break
            request, data = data[:whole], data[whole:]
            self.took(head, request)
        self.waiting = data

    def took(self, head: bytes, request: bytes) -> None:
        """Of a whole request, its head in lower case, and all of it."""
        raise NotImplementedError

    def answer(self, body: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


class Bare(Receiver):
    """Answers each request with the same bytes, as soon as the whole of it is there."""

    def took(self, head: bytes, request: bytes) -> None:
        self.transport.write(ANSWER)


class Timing(Receiver):
    """Notes (event, time.monotonic()). `/count` says how many; `/take/n` gives out and forgets them, from n on."""

    came: Final[list[tuple[str, float]]] = []

    def took(self, head: bytes, request: bytes) -> None:
        if head.startswith(b"post /count"):
            self.answer(b"%d" % len(self.came))
        elif head.startswith(b"post /take/"):
            self.answer(self.take(int(head[11:].split(b" ")[0])))
        else:
            self.came.append((header(head, b"webhook-id").decode(), time.monotonic()))
            asyncio.get_running_loop().call_later(self.thinks, self.answer, b"ok")

    def take(self, wanted: int) -> bytes:
        if len(self.came) < wanted:
            return b"null"
        taken = orjson.dumps(self.came)
        self.came.clear()
        return taken


class Witness(Receiver):
    """Notes (delivery, attempt, time.time(), whether both signatures are right); never answers what comes to `/hang`.

    `/take` gives out and forgets them.
    """

    came: Final[list[tuple[str, int, float, bool]]] = []

    def took(self, head: bytes, request: bytes) -> None:
        if head.startswith(b"post /take"):
            self.answer(orjson.dumps(self.came))
            self.came.clear()
            return
        if head.startswith(b"post /hang"):
            return
        _, *fields = request[: len(head)].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        body = request[len(head) + 4 :]
        try:
            webhook.verify(factories.SECRET, headers, body, datetime.now(UTC))
            webhook.verify_legacy(factories.SECRET, headers, body)
            signed = True
        except webhook.VerificationFailed:
            signed = False
        attempt = int(headers["x-punchconnect-attempt"])
        self.came.append((headers["x-punchconnect-delivery"], attempt, time.time(), signed))
        asyncio.get_running_loop().call_later(self.thinks, self.answer, b"ok")


KINDS: Final[dict[str, type[Receiver]]] = {"bare": Bare, "timing": Timing, "witness": Witness}


def header(head: bytes, name: bytes) -> bytes:
    """The value of a header that is there. Both in lower case."""
    return head.split(b"\r\n" + name + b":", 1)[1].split(b"\r\n", 1)[0].strip()


@contextmanager
def receiving(kind: str, thinks: float = 0.0) -> Iterator[str]:
    """One in a process of its own; its URL, without a path."""
    command = [sys.executable, "-m", "bench.receiver", kind, str(thinks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def ask(far: str, path: str) -> Any:
    """What the receiver at `far`, whatever path that has, answers to a POST."""
    host, port = far.removeprefix("http://").split("/")[0].split(":")
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {path} HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(header(head.lower(), b"content-length")))
        writer.close()
    return orjson.loads(body)


async def serve(kind: str, thinks: float) -> None:
    """On a free port; say which, and stay."""
    made = KINDS[kind]
    made.thinks = thinks
    loop = asyncio.get_running_loop()
    for port in range(20_000, 32_768):  # below the range that outgoing connections take theirs from
        try:
            server = await loop.create_server(made, "127.0.0.1", port)
        except OSError:
            continue
        print(f"http://127.0.0.1:{port}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
