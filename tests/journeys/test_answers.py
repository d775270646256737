"""An answer in several packets while the processes that hear them are killed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import pairwise

import httpx

from app.database import driver
from app.domain import commands
from tests.database import dicts
from tests.journeys.rig import Customer, Rig, Server

PINS = [f"{number:04}" for number in range(1, 31)]
TEXT = "".join(f"user uid={int(pin)}\tpin={pin}\tname=Zoë {pin}\tprivilege=0\r\n" for pin in PINS).encode()


async def send(server: Server, customer: Customer, query: str, body: bytes = b"") -> bytes | None:
    """The answer; None where the process died over it."""
    with contextlib.suppress(httpx.TransportError):
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            answer = await client.post(f"{customer.dial(server)}/iclock/{query}", content=body)
            return answer.content if answer.status_code == 200 else None
    return None


def cut(text: bytes, packets: int) -> Sequence[bytes]:
    size = len(text) // packets
    return [text[start:end] for start, end in pairwise([*range(0, size * packets, size), len(text)])]


async def test_packets_outlive_the_processes_that_took_them(rig: Rig) -> None:
    await rig.staff(servers=2, workers=0)
    first, second = rig.servers
    customer = await rig.add_customer(1)
    [serial] = customer.serials
    assert await send(first, customer, f"registry?SN={serial}", b"DeviceType=acc")
    async with rig.db.write(customer.tenant_id) as session:
        device_id = await (await driver(session)).fetchval("SELECT id FROM devices")
        await commands.send(session, customer.tenant_id, device_id, "userQuery", {})
    line = await send(first, customer, f"getrequest?SN={serial}")
    assert line is not None
    assert line.endswith(b":DATA QUERY tablename=user,fielddesc=*,filter=*")
    query = (
        f"querydata?SN={serial}&type=tabledata&cmdid={line.split(b':')[1].decode()}&tablename=user&packcnt=4&packidx="
    )
    packets = cut(TEXT, 4)

    assert await send(first, customer, query + "1", packets[0])
    await first.kill()
    assert await send(second, customer, query + "2", packets[1])
    await first.start()
    await first.ready()
    assert await send(first, customer, query + "3", packets[2])
    # Whether or not it got as far as the commit: without an answer the terminal sends it again.
    last = asyncio.create_task(send(second, customer, query + "4", packets[3]))
    await second.kill()
    if await last is None:
        assert await send(first, customer, query + "4", packets[3])

    found = await dicts(rig.db, customer.tenant_id, "SELECT pin, name FROM terminal_users ORDER BY pin")
    assert found == [{"pin": pin, "name": f"Zoë {pin}"} for pin in PINS]
    ended = await dicts(rig.db, customer.tenant_id, "SELECT status, return_code FROM device_commands")
    assert ended == [{"status": "SUCCEEDED", "return_code": len(PINS)}]
    assert await dicts(rig.db, customer.tenant_id, "SELECT raw FROM rejected_records") == []
