"""`punchconnect dev`, ended and started again in the same directory, as the README says one may."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.journeys.rig import ROOT
from tests.server import listen

#: Seconds for a start and for the first punches after it, and for an end.
WITHIN, END = 90, 30
TERMINAL = "{ devices(first: 10) { nodes { generation flags storedPunchCount reportedPunchCount } } }"


@contextmanager
def dev(folder: Path, port: int, ended_by: signal.Signals) -> Iterator[Path]:
    """Running; where it says what is where."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PUNCHCONNECT_")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "dev", "--port", str(port), "--devices", "1", "--workers", "0"],
            cwd=folder,
            env=env | {"PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield folder / ".punchconnect" / "dev.json"
    finally:
        process.send_signal(ended_by)
        process.wait(END)


def terminal_with(punches: int, announced: Path, pid_before: int | None) -> tuple[dict[str, Any], int]:
    """What the server knows of the terminal once it has so many punches of it, and the pid of who announced that."""
    deadline = time.monotonic() + WITHIN
    found: Any = None
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if not announced.exists() or (facts := json.loads(announced.read_bytes()))["pid"] == pid_before:
            continue
        headers = {"Authorization": f"Bearer {facts['api_key']}"}
        answer = httpx.post(facts["graphql_url"], json={"query": TERMINAL}, headers=headers, trust_env=False)
        found = answer.json()["data"]["devices"]["nodes"][0]
        if found["storedPunchCount"] >= punches:
            return found, facts["pid"]
    raise AssertionError((found, (announced.parents[1] / "log").read_text()[-2000:]))


def test_a_terminal_of_dev_is_the_same_one_after_a_restart_and_after_a_crash(tmp_path: Path) -> None:
    with listen() as place:
        port = place.getsockname()[1]
    pid, punches, seen = None, 2, []

    for ended_by in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        with dev(tmp_path, port, ended_by) as announced:
            terminal, pid = terminal_with(punches, announced, pid)
        seen.append((terminal["generation"], "reset_detected" in terminal["flags"]))
        punches = terminal["storedPunchCount"] + 2

    assert seen == [(1, False)] * 3
