"""The shared address: a terminal is whose who can add a user to it, and nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app import ids
from app.database import Database
from app.domain import claims
from app.domain.devices import Device
from app.vault import Vault
from tests.app.web.customers import NINE, body, lines, make_customer
from tests.database import dicts
from tests.factories import make_device
from tests.server import Reply, Server

HELLO = "cdata?SN={}&options=all&pushver=2.4.1&DeviceType=att"


@pytest.fixture(scope="module")
async def server(db: Database, database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, shared_address="challenge") as running:
        yield running


async def claimed(db: Database, vault: Vault, serial: str, hours: int = 1, tries: int = 0) -> Device:
    """A device that a tenant of its own has registered."""
    return await make_device(
        db,
        (await make_customer(db, vault)).tenant_id,
        serial_number=serial,
        status="PENDING",
        bound_addresses=[],
        claim_pin=claims.new_pin(),
        claim_expires_at=datetime.now(UTC) + timedelta(hours=hours),
        claim_tries=tries,
    )


@pytest.fixture
def serial() -> str:
    return f"SHARED{ids.new().hex[-12:]}"


async def send_users(server: Server, serial: str, *pins: str | None) -> Reply:
    users = body(*[f"USER PIN={pin}\tName=\tPri=0" for pin in pins])
    return await server.post(f"/iclock/cdata?SN={serial}&table=OPERLOG&OpStamp=1", users)


async def status(db: Database, tenant_id: UUID) -> str:
    [row] = await dicts(db, tenant_id, "SELECT status FROM devices")
    return str(row["status"])


async def test_a_claimed_terminal_is_asked_for_one_user_whose_coming_binds_it(
    server: Server, db: Database, vault: Vault, serial: str
) -> None:
    device = await claimed(db, vault, serial)
    upload = f"/iclock/cdata?SN={serial}&table=ATTLOG&Stamp=1"

    hello = await server.get("/iclock/" + HELLO.format(serial))
    early = await server.post(upload, body(NINE))
    poll = await server.get(f"/iclock/getrequest?SN={serial}")
    proof = await send_users(server, serial, device.claim_pin)
    told = await server.get(f"/iclock/getrequest?SN={serial}")
    late = await server.post(upload, body(NINE))

    assert b"TransFlag=TransData OpLog\tEnrollUser\n" in hello.body
    assert b"TimeZone=" not in hello.body
    assert (early.status, proof.status) == (403, 403)
    assert poll.body == f"C:1:DATA QUERY USERINFO PIN={device.claim_pin}".encode()
    assert told.body.endswith(b":CHECK")
    assert (late.status, late.body) == (200, b"OK: 1")
    assert await lines(db, device.tenant_id) == [NINE]
    found = await dicts(db, device.tenant_id, "SELECT status, bound_addresses, claim_pin FROM devices")
    assert found == [{"status": "ACTIVE", "bound_addresses": ["shared"], "claim_pin": None}]
    kinds = await dicts(db, device.tenant_id, "SELECT type FROM events WHERE type = 'device.bound'")
    assert len(kinds) == 1


async def test_of_two_who_claim_a_terminal_it_is_his_whose_user_came(
    server: Server, db: Database, vault: Vault, serial: str
) -> None:
    guesser, owner = await claimed(db, vault, serial), await claimed(db, vault, serial)

    await send_users(server, serial, owner.claim_pin)
    answer = await send_users(server, serial, guesser.claim_pin)

    assert (await status(db, guesser.tenant_id), await status(db, owner.tenant_id)) == ("PENDING", "ACTIVE")
    assert answer.status == 200  # the owner's terminal now, with one user more


async def test_other_users_bind_nothing_and_are_counted(
    server: Server, db: Database, vault: Vault, serial: str
) -> None:
    device = await claimed(db, vault, serial)

    answer = await send_users(server, serial, "1", "2")

    assert answer.status == 403
    assert await dicts(db, device.tenant_id, "SELECT status, claim_tries FROM devices") == [
        {"status": "PENDING", "claim_tries": 1}
    ]


@pytest.mark.parametrize("end", [(-1, 0), (1, 50)])
async def test_a_claim_ends_with_its_time_and_with_its_tries(
    server: Server, db: Database, vault: Vault, serial: str, end: tuple[int, int]
) -> None:
    device = await claimed(db, vault, serial, *end)

    await send_users(server, serial, device.claim_pin)
    hello = await server.get("/iclock/" + HELLO.format(serial))

    assert await status(db, device.tenant_id) == "PENDING"
    assert b"TransFlag=TransData\n" in hello.body


async def test_the_user_of_a_claim_is_found_among_the_first_hundred_only(
    server: Server, db: Database, vault: Vault, serial: str
) -> None:
    device = await claimed(db, vault, serial)

    await send_users(server, serial, *[str(number) for number in range(1, 101)], device.claim_pin)

    assert await status(db, device.tenant_id) == "PENDING"


async def test_on_an_own_address_a_claim_is_nothing(server: Server, db: Database, vault: Vault, serial: str) -> None:
    await claimed(db, vault, serial)
    stranger = await make_customer(db, vault)

    answer = await server.get(stranger.url(f"getrequest?SN={serial}"))

    assert answer.status == 403


def test_pins_have_nine_digits_and_no_zero_in_front() -> None:
    assert all(len(pin) == 9 and pin.isdigit() and pin[0] != "0" for pin in (claims.new_pin() for _ in range(1000)))
