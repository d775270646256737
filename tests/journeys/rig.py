"""A small installation of real processes to break: servers, workers, a PostgreSQL that syncs, a Redis, a receiver.

Processes are started as an operator starts them, by the command line, and are ended by their process ids. What the
customer runs (terminals, subscribers, the receiver) lives in the test's own process and outlives every fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson

from app import ids, migrations
from app.database import Database
from app.dev import PARENT
from app.domain import devices
from app.embedded import EmbeddedPostgres, EmbeddedRedis
from app.vault import Vault
from tests.conftest import SECRET_KEY
from tests.receiver import Receiver
from tests.server import listen

ROOT = Path(__file__).parents[2]
#: Seconds within which everything has to be well again after the last fault.
DRAIN = 60.0
STOP = 15.0

CREATE_ENDPOINT = """
mutation ($url: String!) {
    webhookEndpointCreate(input: {url: $url, eventTypes: ["punch.created"]}) { secret userErrors { message } }
}
"""


class Process:
    """One process of ours, which may be killed, told to stop, and started again as it was."""

    def __init__(self, name: str, arguments: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._arguments, self._environment = arguments, environment
        self._process: asyncio.subprocess.Process | None = None

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """As from a shell. It ends with us, however that happens."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "app.cli",
                *self._arguments,
                env=os.environ | self._environment | {"PYTHONPATH": str(ROOT), PARENT: str(os.getpid())},
                cwd=self.log.parent,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def kill(self) -> None:
        """As by a crash."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """As for a deploy; the exit status."""
        return await self._end(signal.SIGTERM)

    async def _end(self, sign: signal.Signals) -> int:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(sign)
        try:
            return await asyncio.wait_for(self._process.wait(), STOP)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise AssertionError(f"{self.name} did not end within {STOP} s of {sign.name}:\n{self.tail()}") from None

    def tail(self, lines: int = 30) -> str:
        """Its last words."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(slots=True)
class Server(Process):
    """`punchconnect serve` on a port of its own, the same after every restart."""
