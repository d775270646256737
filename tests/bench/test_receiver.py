"""The far end of benchmarks: what it notes is what came, however it came."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import pytest

from bench.receiver import ask, header, receiving
from protocol import webhook
from tests.factories import SECRET

DELIVERY = UUID("01953c6e-0000-7000-8000-000000000001")
BODY = b'{"pad": "\r\n\r\n"}'
PATIENCE = 60


def post(path: str, event_id: str, body: bytes = BODY, *, signed: bytes = BODY) -> bytes:
    """A delivery as bytes, with the signatures of `signed`."""
    headers = webhook.headers(
        event_id=event_id,
        event_type="punch.created",
        delivery_uuid=DELIVERY,
        attempt=3,
        timestamp=int(time.time()),
        body=signed,
        secret=SECRET,
    )
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def send(far: str, *pieces: bytes, answers: int) -> None:
    """Each piece by itself; return after so many answers."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*far.removeprefix("http://").split(":"))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)
        for _ in range(answers):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(int(header(head.lower(), b"content-length"))) == b"ok"
        writer.close()


@pytest.mark.parametrize("cut", [0, 10, -5])
async def test_requests_are_taken_apart_however_they_come(cut: int) -> None:
    both = post("/hook", "evt_1") + post("/hook", "evt_2")
    with receiving("timing") as far:
        await send(far, *([both[:cut], both[cut:]] if cut else [both]), answers=2)

        counted, early = await ask(far, "/count"), await ask(far, "/take/3")
        taken, left = await ask(far, "/take/2"), await ask(far, "/count")

    assert (counted, early, left) == (2, None, 0)
    assert [event for event, _ in taken] == ["evt_1", "evt_2"]


async def test_a_witness_knows_a_signature_from_another() -> None:
    with receiving("witness") as far:
        await send(far, post("/hook", "evt_1"), post("/hook", "evt_2", b"{}"), post("/hang", "evt_3"), answers=2)

        taken = await ask(far, "/take")

    assert [(delivery, attempt, signed) for delivery, attempt, _, signed in taken] == [
        (str(DELIVERY), 3, True),
        (str(DELIVERY), 3, False),
    ]


async def test_a_bare_one_answers() -> None:
    with receiving("bare") as far:
        await send(far, post("/hook", "evt_1"), post("/hook", "evt_2"), answers=2)
