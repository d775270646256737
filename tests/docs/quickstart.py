"""The quickstart as a newcomer does it, with a clock: `make quickstart`.

A clone of this repository into an empty folder, and then the commands of docs/guides/quickstart.md as they stand there.
Only addresses differ: where the clone comes from, and ports that other programs may have here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.docs.pages import ROOT, Block, blocks
from tests.server import listen

PAGE: Final = ROOT / "docs" / "guides" / "quickstart.md"
#: What the page calls the place that the repository comes from.
ADDRESS: Final = "ADDRESS"
#: What the page promises: seconds from the end of the installation to the first signed webhook, and from nothing.
PROMISED: Final = 60
PROMISED_WITH_INSTALLATION: Final = 300
INSTALL_WITHIN: Final = 1800
STEPS: Final = ("query", "punch", "live", "endpoint", "webhook")


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds since the first command, and all that the shell showed."""

    seconds: dict[str, float]
    shown: str

    @property
    def after_installation(self) -> float:
        """From the end of the installation to the first signed webhook."""
        return self.seconds["webhook"] - self.seconds["installed"]


def commands(page: Path = PAGE) -> list[str]:
    """What the page has one type into the first terminal."""
    return [line[2:] for block in blocks(page, "console") for line in block.text.splitlines() if line.startswith("$ ")]


def run(folder: Path) -> Taken:
    """Do all of it in an empty folder. RuntimeError with what was shown when a step fails."""
    web, receiver = _free(), _free()
    began = time.monotonic()
    seconds: dict[str, float] = {}

    def note(step: str) -> None:
        seconds[step] = round(time.monotonic() - began, 1)

    home = folder / "punchconnect"
    with _first_terminal(folder, web) as (alive, log):
        _await(home / ".git" / "HEAD", alive, log)
        _await(home / ".punchconnect", alive, log)
        note("installed")
        _await(home / ".punchconnect" / "dev.json", alive, log)
        note("ready")
        shown = ""
        for step, block in zip(STEPS, blocks(PAGE, "sh"), strict=True):
            said = _second_terminal(home, block, receiver, log)
            # The first punches are made at this moment; who sees fewer than the page says asks again.
            while step == "query" and said.count('"localTime"') < 2 and time.monotonic() - began < INSTALL_WITHIN:
                said = _second_terminal(home, block, receiver, log)
            shown += said
            note(step)
    return Taken(seconds, shown)


@contextmanager
def _first_terminal(folder: Path, port: int) -> Iterator[tuple[Callable[[], bool], Path]]:
    """`git clone`, `cd`, `make dev`, for as long as the other terminal needs it."""
    lines = [line.replace(ADDRESS, shlex.quote(str(ROOT))) for line in commands()]
    lines = [f'{line} ARGS="--port {port}"' if line == "make dev" else line for line in lines]
    log = folder / "shown"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", "\n".join(["set -e", *lines])],
            cwd=folder,
            env=_environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield lambda: shell.poll() is None, log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGTERM)
        try:
            shell.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()


def _second_terminal(home: Path, block: Block, port: int, log: Path) -> str:
    """One block. Definitions of earlier blocks last, as in the reader's shell."""
    kept = home.parent / "shell"
    text = re.sub(r"\b9000\b", str(port), block.text)
    if block.until is not None:
        out = home.parent / "out"
        text = (
            f"set -m\n(\n{text}) >{out} 2>&1 &\nset +m\n"
            f"until grep -qF -- {shlex.quote(block.until)} {out}; do kill -0 $! || break; sleep 0.05; done\n"
            f"kill -- -$! || true\ncat {out}\ngrep -qF -- {shlex.quote(block.until)} {out}\n"
        )
    keep = f"declare -p SECRET 2>/dev/null >{kept} || :\ndeclare -f >>{kept}\n"
    script = f"set -e\n[ ! -f {kept} ] || . {kept}\n{text}\n{keep}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=home,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PROMISED,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{block.place}: {done.stdout}\n{log.read_text()[-2000:]}")
    return done.stdout


def _await(path: Path, alive: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + INSTALL_WITHIN
    while not path.exists():
        if not alive() or time.monotonic() > deadline:
            raise RuntimeError(f"{path.name} did not come about: {log.read_text()[-3000:]}")
        time.sleep(0.05)


def _environment() -> dict[str, str]:
    """A newcomer's: nothing of the `make` that runs this, no settings, no environment of ours first on the path."""
    ours = str(Path(sys.executable).parent)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PUNCHCONNECT_", "MAKE", "MFLAGS", "GIT_")) and name != "VIRTUAL_ENV"
    }
    return kept | {"PATH": os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if part != ours)}


def _free() -> int:
    with listen() as listening:
        port: int = listening.getsockname()[1]
    return port


def report(taken: Taken) -> str:
    """For people."""
    lines = ["From an empty folder, seconds since the first command:"]
    lines += [f"  {step:<10}{seconds:>7.1f} s" for step, seconds in taken.seconds.items()]
    lines.append(
        f"First signed webhook {taken.after_installation:.1f} s after the installation (promised: {PROMISED} s)."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="punchconnect-quickstart-") as directory:
        try:
            print(report(run(Path(directory))))
        except RuntimeError as exc:
            sys.exit(str(exc))
