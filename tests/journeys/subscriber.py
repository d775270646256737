"""A customer's program that follows the feed: it keeps its last cursor and comes back with it, whatever happens.

By a socket, by server-sent events, or by asking again and again: one cursor, and the same to be seen.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from tests.journeys.rig import Server

#: Seconds without any message after which a connection is given up: the server pings every 15.
SILENCE = 25.0

_BATCH = "{ cursor previousCursor caughtUp headLag punches { id pin raw device { serialNumber } } }"
FOLLOW = f"subscription ($after: String) {{ punches(after: $after, from: BEGINNING, maxBatch: 100) {_BATCH} }}"
PULL = f"query ($after: String) {{ punches: punchFeed(after: $after, from: BEGINNING, waitMs: 5000) {_BATCH} }}"


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
    """Follows from the beginning; `restless` cuts its own connection every so many seconds, more or less.

    With a `turn` it connects and waits for that before it asks.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        key: str,
        *,
        restless: float | None = None,
        turn: asyncio.Event | None = None,
    ) -> None:
        self._turn = turn
        self._servers = servers
        self._key = key
        self.first = servers[0]
        self.restless = restless
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
        for server in cycle(self._servers):
            try:
                async with asyncio.timeout(None if self.restless is None else self._patience()):
                    await self._stay(server)
            except ConnectionClosed as exc:
                self.closes[exc.rcvd.code if exc.rcvd else 1006] += 1
            except (OSError, InvalidHandshake, httpx.HTTPError, Refused) as exc:  # a TimeoutError is an OSError
                self.trouble.append(f"{type(exc).__name__}: {exc}")
            await asyncio.sleep(0.05)

    def _patience(self) -> float:
        assert self.restless is not None
        return self.restless * self._rng.uniform(0.2, 1.8)

    async def _stay(self, server: Server) -> None:
        async with connect(
            server.socket_url, subprotocols=[Subprotocol("graphql-transport-ws")], open_timeout=5
        ) as connection:
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
                    if self._turn is not None:
                        await self._turn.wait()
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


class Listener(Subscriber):
    """The same by server-sent events: what it saw last is said in `Last-Event-ID`, and nowhere else."""

    async def _stay(self, server: Server) -> None:
        headers = {"Authorization": f"Bearer {self._key}", "Accept": "text/event-stream"}
        if self.cursor is not None:
            headers["Last-Event-ID"] = self.cursor
        async with (
            httpx.AsyncClient(trust_env=False, timeout=SILENCE) as client,
            client.stream("POST", f"{server.url}/graphql", json={"query": FOLLOW}, headers=headers) as answer,
        ):
            if answer.status_code != 200:
                raise Refused(answer.status_code)
            self.connections += 1
            event: dict[str, str] = {}
            async for line in answer.aiter_lines():
                name, _, value = line.partition(":")
                if name:
                    event[name] = value.removeprefix(" ")
                elif not line and event:
                    if event["event"] != "next":
                        raise Refused(event)
                    self._take(orjson.loads(event["data"]))
                    assert event["id"] == self.cursor
                    event = {}


class Puller(Subscriber):
    """The same by long poll."""

    async def _stay(self, server: Server) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        async with httpx.AsyncClient(trust_env=False, timeout=SILENCE, headers=headers) as client:
            self.connections += 1
            while True:
                asked = {"query": PULL, "variables": {"after": self.cursor}}
                answer = await client.post(f"{server.url}/graphql", json=asked)
                told = answer.json()
                if answer.status_code != 200 or told["data"] is None or told["data"]["punches"] is None:
                    raise Refused(told)
                self._take(told)
