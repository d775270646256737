"""The peers' environment, in .venv/peers: made when first needed, from the hashed lock beside this file."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parent / "requirements.txt"
HOME = Path(sys.prefix) / "peers"


def python() -> Path:
    """Its interpreter. CalledProcessError when it cannot be made: peers come from the package index."""
    wanted, made = hashlib.sha256(LOCK.read_bytes()).hexdigest(), HOME / "made-from"
    interpreter = HOME / "bin" / "python"
    if not made.exists() or made.read_text() != wanted:
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(HOME)],
            [str(interpreter), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(LOCK)],
        ):
            environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        made.write_text(wanted)
    return interpreter
