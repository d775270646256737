"""A customer's program that follows the feed: it keeps its last cursor and comes back with it, whatever happens."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from tests.journeys.rig import Server

#: Seconds without any message after which a connection is given up: the server pings every 15.
SILENCE = 25.0

FOLLOW = """
subscription ($after: String) {
    punches(after: $after, from: BEGINNING, maxBatch: 100) {
        cursor previousCursor caughtUp headLag
        punches { id pin raw device { serialNumber } }
    }
}
"""


class Refused(Exception):
    """The server ended the operation, and may be asked again."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A punch as the feed told of it."""

    id: str
    serial: str
    line: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One batch: from where to where, what was held before it came, and which punches."""

    held: str | None
    previous: str | None
    cursor: str
    punches: Sequence[Seen]


class Subscriber:
    """Follows from the beginning; `restless` cuts its own connection every so many seconds, more or less."""

    def __init__(self, servers: Sequence[Server], key: str, *, restless: float | None = None) -> None:
        self._urls = [server.socket_url for server in servers]
        self._key = key
        self._restless = restless
        self._rng = random.Random(11)
        self.frames: list[Frame] = []
        self.cursor: str | None = None
        self.connections = 0
        #: Close codes by how often; 1006 is a connection that was just gone.
        self.closes: Counter[int] = Counter()
        self.trouble: list[str] = []

    @property
    def seen(self) -> list[Seen]:
        return [punch for frame in self.frames for punch in frame.punches]

    async def run(self) -> None:
        """For ever."""
        for url in cycle(self._urls):
            try:
                async with asyncio.timeout(None if self._restless is None else self._patience()):
                    await self._stay(url)
            except ConnectionClosed as exc:
                self.closes[exc.rcvd.code if exc.rcvd else 1006] += 1
            except (OSError, InvalidHandshake, Refused) as exc:  # a TimeoutError is an OSError
                self.trouble.append(f"{type(exc).__name__}: {exc}")
            await asyncio.sleep(0.05)

    def _patience(self) -> float:
        assert self._restless is not None
        return self._restless * self._rng.uniform(0.2, 1.8)

    async def _stay(self, url: str) -> None:
        async with connect(url, subprotocols=[Subprotocol("graphql-transport-ws")], open_timeout=5) as connection:
            try:
                await self._follow(connection)
            finally:
                connection.transport.abort()  # no farewell: the server has to notice by itself

    async def _follow(self, connection: ClientConnection) -> None:
        await self._say(connection, type="connection_init", payload={"authorization": f"Bearer {self._key}"})
        payload = {"query": FOLLOW, "variables": {"after": self.cursor}}
        while True:
            async with asyncio.timeout(SILENCE):
                message = orjson.loads(await connection.recv())
            match message["type"]:
                case "connection_ack":
                    self.connections += 1
                    await self._say(connection, type="subscribe", id="1", payload=payload)
                case "ping":
                    await self._say(connection, type="pong")
                case "next":
                    self._take(message["payload"])
                case "error" | "complete":
                    raise Refused(message)

    async def _say(self, connection: ClientConnection, **message: Any) -> None:
        await connection.send(orjson.dumps(message).decode())

    def _take(self, payload: dict[str, Any]) -> None:
        """What follows the cursor we hold. Only a whole batch moves it."""
        if "errors" in payload:
            raise Refused(payload["errors"])
        batch = payload["data"]["punches"]
        punches = [Seen(p["id"], p["device"]["serialNumber"], p["raw"]) for p in batch["punches"]]
        self.frames.append(Frame(self.cursor, batch["previousCursor"], batch["cursor"], punches))
        self.cursor = batch["cursor"]
