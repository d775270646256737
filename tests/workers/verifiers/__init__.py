"""What receivers verify with: the stock libraries of PyPI and npm, and the plain HMAC of the documentation."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

import orjson
import standardwebhooks
import svix

from tests.clients.test_clients import install
from tests.receiver import Received

HERE = Path(__file__).parent


def by_python(requests: Sequence[Received], secret: str) -> int:
    """How many passed; the verifiers raise at the first that does not."""
    for request in requests:
        standardwebhooks.Webhook(secret).verify(request.body, request.headers)
        svix.Webhook(secret).verify(request.body, request.headers)
    return len(requests)


def by_hand(requests: Sequence[Received], secret: str) -> int:
    """How many carry the plain signature of the body under the secret as text."""
    return sum(
        request.headers["x-punchconnect-signature"]
        == hmac.new(secret.encode(), request.body, hashlib.sha256).hexdigest()
        for request in requests
    )


async def by_node(requests: Sequence[Received], secret: str) -> int:
    """How many passed; skips the test without npm."""
    await install(HERE)
    process = await asyncio.create_subprocess_exec(
        "node",
        HERE / "verify.mjs",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    lines = [
        orjson.dumps({"secret": secret, "headers": request.headers, "body": request.body.decode()})
        for request in requests
    ]
    said, wrong = await process.communicate(b"\n".join(lines) + b"\n")
    assert process.returncode == 0, wrong.decode()
    return int(said)
