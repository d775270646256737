"""What of a virtual terminal outlasts its power: the records it holds and the users it was given.

Firmware writes to flash first and sends afterwards, so its numbers never go back. Here the flash is a table: what was
written before the process died is there when the next one begins, however it died.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

#: Seconds that one may still hold the file who is about to end.
_PATIENCE: Final = 10
_TABLES: Final = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS records (
    serial TEXT, number INTEGER, pin TEXT, at TEXT, state INTEGER, verify INTEGER, work_code TEXT,
    acknowledged INTEGER DEFAULT 0, PRIMARY KEY (serial, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS users (serial TEXT, pin TEXT, fields TEXT, PRIMARY KEY (serial, pin)) WITHOUT ROWID;
"""


class MemoryUnusable(Exception):
    """The file is not one of ours, damaged, out of reach, or another process has it."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(
            f"The virtual terminals' memory in {path} cannot be used: {reason}. End what else uses it, name another "
            "file, or remove it: then they begin empty."
        )
        self.path = path


@dataclass(frozen=True, slots=True)
class Written:
    """One record as it was written down; `at` is wall time."""

    number: int
    pin: str
    at: datetime
    state: int
    verify: int
    work_code: str
    acknowledged: bool = False


class Memory:
    """Of a terminal that forgets with its process."""

    def records(self) -> Iterable[Written]:
        """What it holds, oldest first."""
        return ()

    def users(self) -> Mapping[str, dict[str, str]]:
        """Whom it knows, by PIN."""
        return {}

    def add(self, record: Written) -> None:
        """Before the record can leave the terminal."""

    def acknowledge(self, numbers: Iterable[int]) -> None:
        """These need not be sent any more."""

    def let_go(self, number: int) -> None:
        """The memory is full: this one made room."""

    def keep_user(self, pin: str, fields: Mapping[str, str] | None) -> None:
        """Write a user down, or forget one: None."""

    def wipe(self) -> None:
        """A factory reset."""


class Flash(Memory):
    """Of one terminal, in a file that others share. Each call is on disk when it returns."""

    def __init__(self, connection: sqlite3.Connection, serial: str) -> None:
        self._connection, self._serial = connection, serial

    def records(self) -> Iterable[Written]:
        columns = "number, pin, at, state, verify, work_code, acknowledged"
        query = f"SELECT {columns} FROM records WHERE serial = ? ORDER BY number"  # noqa: S608  nothing of anybody's
        for number, pin, at, state, verify, work_code, acknowledged in self._connection.execute(query, (self._serial,)):
            yield Written(number, pin, datetime.fromisoformat(at), state, verify, work_code, bool(acknowledged))

    def users(self) -> Mapping[str, dict[str, str]]:
        found = self._connection.execute("SELECT pin, fields FROM users WHERE serial = ?", (self._serial,))
        return {pin: json.loads(fields) for pin, fields in found}

    def add(self, record: Written) -> None:
        self._connection.execute(
            "INSERT INTO records (serial, number, pin, at, state, verify, work_code) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                self._serial,
                record.number,
                record.pin,
                record.at.isoformat(),
                record.state,
                record.verify,
                record.work_code,
            ),
        )

    def acknowledge(self, numbers: Iterable[int]) -> None:
        with self._whole():
            self._connection.executemany(
                "UPDATE records SET acknowledged = 1 WHERE serial = ? AND number = ?",
                [(self._serial, number) for number in numbers],
            )

    def let_go(self, number: int) -> None:
        self._connection.execute("DELETE FROM records WHERE serial = ? AND number = ?", (self._serial, number))

    def keep_user(self, pin: str, fields: Mapping[str, str] | None) -> None:
        if fields is None:
            self._connection.execute("DELETE FROM users WHERE serial = ? AND pin = ?", (self._serial, pin))
            return
        query = "INSERT OR REPLACE INTO users (serial, pin, fields) VALUES (?, ?, ?)"
        self._connection.execute(query, (self._serial, pin, json.dumps(fields)))

    def wipe(self) -> None:
        with self._whole():
            self._connection.execute("DELETE FROM records WHERE serial = ?", (self._serial,))
            self._connection.execute("DELETE FROM users WHERE serial = ?", (self._serial,))

    @contextmanager
    def _whole(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        with self._connection:
            yield


@contextmanager
def memories(path: Path | None, serials: Iterable[str]) -> Iterator[list[Memory]]:
    """A memory for each, in the file at `path`, which is made if need be; for one process at a time.

    Without a path they are of those that forget. Raises MemoryUnusable.
    """
    if path is None:
        yield [Memory() for _ in serials]
        return
    try:
        connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    except sqlite3.Error as exc:
        raise MemoryUnusable(path, exc) from exc
    try:
        connection.executescript(_TABLES)
        yield [Flash(connection, serial) for serial in serials]
    except sqlite3.Error as exc:
        raise MemoryUnusable(path, exc) from exc
    except ExceptionGroup as several:  # of terminals at work
        if (lost := several.subgroup(sqlite3.Error)) is None:
            raise
        raise MemoryUnusable(path, lost.exceptions[0]) from several
    finally:
        connection.close()
