"""Answers in several packets over real sockets: joined whatever their order, process and repetition; never lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from app.database import Connection, Database
from app.domain import answers, commands
from app.domain.answers import Kept
from app.domain.devices import Device
from app.vault import Vault
from protocol.adms.requests import Packet, TableUpload
from tests.app.web.customers import Customer, lines
from tests.database import dicts, until_blocked
from tests.factories import make_device
from tests.server import Server

ROWS = [
    f"user uid={number}\tcardno=\tpin={pin}\tpassword=hunter{number}\tname={name}\tprivilege=0\r\n".encode()
    for number, (pin, name) in enumerate({"17": "Zoë", "1234": "王", "5": "Ines", "0042": "Omar"}.items(), 1)
]
EVERYBODY = [("0042", "Omar"), ("1234", "王"), ("17", "Zoë"), ("5", "Ines")]
TEXT = b"".join(ROWS)


def cut(*at: bytes) -> list[bytes]:
    """The text in packets, of which each but the first begins with one of these."""
    ends = [0, *(TEXT.index(text) for text in at), len(TEXT)]
    return [TEXT[start:end] for start, end in itertools.pairwise(ends)]


#: In a password, and in a PIN of which "12" would be one too.
PACKETS = cut(b"ter1\t", b"34\tpassword")


@pytest.fixture(scope="module")
async def server(db: Database, database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url, device_rate=10_000, device_burst=10_000, device_body_bytes=2**16) as running:
        yield running


@pytest.fixture
async def device(db: Database, customer: Customer) -> Device:
    return await make_device(db, customer.tenant_id, dialect="SECURITY")


class Unit:
    """A unit of the security dialect that was asked for its users."""

    def __init__(self, db: Database, customer: Customer, device: Device) -> None:
        self.db, self.customer, self.device = db, customer, device
        self.number = ""

    async def asked(self, server: Server) -> None:
        async with self.db.write(self.device.tenant_id) as session:
            await commands.send(session, self.device.tenant_id, self.device.id, "userQuery", {})
        await self.polls(server)

    async def polls(self, server: Server) -> None:
        line = await server.get(self.customer.url(f"getrequest?SN={self.device.serial_number}"))
        self.number = line.body.split(b":")[1].decode()

    async def sends(
        self, server: Server, number: int, packets: Sequence[bytes] = PACKETS, *, base: int = 1, table: str = "user"
    ) -> None:
        """The packet with this number, and hears that it may forget it."""
        query = f"type=tabledata&cmdid={self.number}&tablename={table}&packcnt={len(packets)}&packidx={number}"
        answer = await server.post(
            self.customer.url(f"querydata?SN={self.device.serial_number}&{query}&count=4"), packets[number - base]
        )
        assert (answer.status, answer.body) == (200, f"{table}=4".encode())

    async def keep(self, connection: Connection, vault: Vault, number: int) -> Kept:
        """As the process that a packet comes to does first."""
        serial, tenant_id, device_id = self.device.serial_number, self.device.tenant_id, self.device.id
        packet = Packet(number, len(PACKETS))
        upload = TableUpload(serial, "user", 4, PACKETS[number - 1], command_id=self.number, packet=packet)
        return await answers.keep(connection, vault, tenant_id, device_id, upload, room=2**16)

    async def users(self) -> list[tuple[str, str]]:
        query = "SELECT pin, name FROM terminal_users ORDER BY pin"
        return [(row["pin"], row["name"]) for row in await dicts(self.db, self.customer.tenant_id, query)]

    async def command(self) -> tuple[str, int | None, str | None]:
        query = "SELECT status, return_code, output FROM device_commands ORDER BY id DESC LIMIT 1"
        [row] = await dicts(self.db, self.customer.tenant_id, query)
        return row["status"], row["return_code"], row["output"]

    async def rejected(self) -> list[bytes]:
        found = await dicts(self.db, self.customer.tenant_id, "SELECT raw FROM rejected_records ORDER BY id")
        return [row["raw"] for row in found]

    async def packets(self) -> list[dict[str, Any]]:
        async with self.db.across("ingest", [self.customer.tenant_id]) as connection:
            found = await connection.fetch("SELECT number, state, sealed FROM answer_packets ORDER BY number")
        return [dict(row) for row in found]

    async def time_passes(self) -> None:
        """As much as a packet is waited for."""
        async with self.db.across("ingest", [self.customer.tenant_id]) as connection:
            await connection.execute("UPDATE answer_packets SET received_at = received_at - $1::interval", answers.WAIT)


@pytest.fixture
def unit(db: Database, customer: Customer, device: Device) -> Unit:
    return Unit(db, customer, device)


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (1, 1, 2, 2, 3)])
async def test_the_packets_of_an_answer_are_joined_and_the_last_one_settles_the_command(
    server: Server, unit: Unit, order: tuple[int, ...]
) -> None:
    await unit.asked(server)
    for number in order[:-1]:
        await unit.sends(server, number)
    before = await unit.command(), await unit.users()
    await unit.sends(server, order[-1])

    assert before == (("SENT", None, None), [])
    assert await unit.command() == ("SUCCEEDED", 4, None)
    assert await unit.users() == EVERYBODY
    assert await unit.rejected() == []
    assert [(row["state"], row["sealed"]) for row in await unit.packets()] == [("READ", b"")] * 3


async def test_packets_may_be_counted_from_nought(server: Server, unit: Unit) -> None:
    await unit.asked(server)
    for number in (0, 1, 2):
        await unit.sends(server, number, base=0)

    assert await unit.command() == ("SUCCEEDED", 4, None)
    assert await unit.users() == EVERYBODY


async def test_packets_are_joined_whichever_process_each_comes_to_and_after_one_has_died(
    server: Server, unit: Unit, database_url: str
) -> None:
    await unit.asked(server)
    async with Server(database_url) as other:
        await unit.sends(other, 1)
    async with Server(database_url) as twin:
        await asyncio.gather(unit.sends(twin, 3), unit.sends(server, 2))

    assert await unit.command() == ("SUCCEEDED", 4, None)
    assert await unit.users() == EVERYBODY


async def test_of_two_packets_at_once_the_later_sees_the_earlier(
    server: Server, db: Database, vault: Vault, customer: Customer, unit: Unit
) -> None:
    """Or neither process would have all of them, and nobody would read the answer."""
    await unit.asked(server)
    await unit.sends(server, 1)

    async def keep(number: int, committing: asyncio.Event) -> Kept:
        async with db.across("ingest", [customer.tenant_id]) as connection:
            kept = await unit.keep(connection, vault, number)
            await committing.wait()
        return kept

    commit = asyncio.Event()
    earlier = asyncio.create_task(keep(2, commit))
    later = asyncio.create_task(keep(3, commit))
    await until_blocked(db)
    commit.set()

    assert sorted(len(kept.whole) for kept in await asyncio.gather(earlier, later)) == [0, 3]


async def test_a_packet_that_comes_again_after_the_whole_changes_nothing(server: Server, unit: Unit) -> None:
    await unit.asked(server)
    for number in (1, 2, 3, 3, 1):
        await unit.sends(server, number)
    await unit.time_passes()
    await server.application.iclock.answers.finish()

    assert await unit.command() == ("SUCCEEDED", 4, None)
    assert await unit.rejected() == []
    assert [row["state"] for row in await unit.packets()] == ["READ"] * 3


async def test_answers_of_two_devices_to_commands_with_one_number_are_two(
    server: Server, db: Database, customer: Customer, unit: Unit
) -> None:
    other = Unit(db, customer, await make_device(db, customer.tenant_id, dialect="SECURITY"))
    unit.number = other.number = "7"
    await unit.sends(server, 1)
    await unit.sends(server, 2)
    await other.sends(server, 3)
    before = await unit.users()
    await unit.sends(server, 3)

    assert before == []
    assert await unit.users() == EVERYBODY
    assert [row["state"] for row in await unit.packets()].count("WAITING") == 1


async def test_an_answer_that_stays_in_parts_is_read_row_by_row_and_its_command_expires_with_a_reason(
    server: Server, db: Database, customer: Customer, unit: Unit
) -> None:
    await unit.asked(server)
    await unit.sends(server, 1, PACKETS)
    await unit.sends(server, 3, PACKETS)
    await server.application.iclock.answers.finish()
    before = [row["state"] for row in await unit.packets()]
    await unit.time_passes()
    await server.application.iclock.answers.finish()
    async with db.across("ingest", [customer.tenant_id]) as connection:
        await connection.execute("UPDATE device_commands SET expires_at = now(), lease_until = now()")
        await commands.expire(connection, customer.tenant_id, 10)

    assert before == ["WAITING", "WAITING"]
    assert await unit.packets() == []
    # Of Zoë and 王 there are parts; nobody has the PIN "12", and nobody's password is told.
    assert await unit.users() == [("0042", "Omar"), ("5", "Ines")]
    assert await unit.rejected() == [
        b"user uid=1\tcardno=\tpin=17\tpassword=",
        b"\tpassword=\tname=\xe7\x8e\x8b\tprivilege=0",
    ]
    assert await unit.command() == ("EXPIRED", None, "Only 2 of 3 packets of its answer came.")


async def test_a_command_that_is_answered_in_the_end_has_no_reason_left(
    server: Server, db: Database, customer: Customer, unit: Unit
) -> None:
    await unit.asked(server)
    await unit.sends(server, 1)
    await unit.time_passes()
    await server.application.iclock.answers.finish()
    noted = await unit.command()
    for number in (1, 2, 3):
        await unit.sends(server, number)

    assert noted == ("SENT", None, "Only 1 of 3 packets of its answer came.")
    assert await unit.command() == ("SUCCEEDED", 4, None)


async def test_half_of_an_event_is_no_punch(server: Server, db: Database, customer: Customer, unit: Unit) -> None:
    rows = [f"transaction time=2026-03-02 09:00:0{n}\tevent=0\tindex={n}\tpin=1234\r\n".encode() for n in (1, 2, 3)]
    packets = [rows[0] + rows[1][:-4], rows[1][-4:] + rows[2]]
    unit.number = "7"
    await unit.sends(server, 1, packets, table="transaction")
    await unit.time_passes()
    await server.application.iclock.answers.finish()

    assert await lines(db, customer.tenant_id) == [rows[0].decode().strip()]
    assert await unit.rejected() == [rows[1][:-4]]


async def test_an_answer_that_is_begun_anew_is_joined_of_what_is_new(server: Server, unit: Unit) -> None:
    """As by a unit that restarted, with a user more."""
    await unit.asked(server)
    former = cut(b"ter1\t", b"ter2\t", b"ter4\t")
    await unit.sends(server, 1, former)
    await unit.sends(server, 2, former)
    changed = [former[0], former[1].replace(b"Zo\xc3\xab", b"Zoe"), *former[2:]]
    for number in (1, 2, 3, 4):
        await unit.sends(server, number, changed)

    assert await unit.users() == [("0042", "Omar"), ("1234", "王"), ("17", "Zoe"), ("5", "Ines")]
    assert (await unit.command())[:2] == ("SUCCEEDED", 4)
    # With another number of packets it is another answer.
    for number in (1, 2, 3):
        await unit.sends(server, number)
    assert ("17", "Zoë") in await unit.users()


async def test_a_whole_answer_whose_reader_died_is_read_later(
    server: Server, db: Database, vault: Vault, customer: Customer, unit: Unit
) -> None:
    await unit.asked(server)
    for number in (1, 2, 3):
        async with db.across("ingest", [customer.tenant_id]) as connection:
            await unit.keep(connection, vault, number)
    await unit.time_passes()
    await server.application.iclock.answers.finish()

    assert await unit.command() == ("SUCCEEDED", 4, None)
    assert await unit.users() == EVERYBODY


async def test_packets_take_no_more_room_than_one_upload_may(server: Server, unit: Unit) -> None:
    await unit.asked(server)
    rows = [b"user uid=%d\tpin=%d\tname=%s\r\n" % (n, n, b"N" * 30_000) for n in range(1, 10)]
    for number in (1, 2, 3):
        await unit.sends(server, number, rows)

    assert [pin for pin, _ in await unit.users()] == ["1", "2", "3"]
    assert await unit.packets() == []
    assert await unit.command() == ("SENT", None, "Only 3 of 9 packets of its answer came.")


async def test_packets_under_a_former_secret_key_stand_in_nobodys_way(
    server: Server, db: Database, customer: Customer, unit: Unit
) -> None:
    await unit.asked(server)
    former = Vault("a former secret key, which was long enough, too")
    for number in (1, 2):
        async with db.across("ingest", [customer.tenant_id]) as connection:
            await unit.keep(connection, former, number)
    await unit.sends(server, 3)  # all are there, and two of them cannot be opened
    for number in (1, 2):
        await unit.sends(server, number)

    assert await unit.command() == ("SUCCEEDED", 4, None)
    assert await unit.users() == EVERYBODY


async def test_what_waits_is_sealed(server: Server, unit: Unit) -> None:
    unit.number = "7"
    await unit.sends(server, 1)

    [packet] = await unit.packets()
    assert packet["state"] == "WAITING"
    assert b"hun" not in packet["sealed"]


async def test_answers_that_name_no_command_are_joined_too_each_by_itself(server: Server, unit: Unit) -> None:
    for _ in range(2):
        for number in (1, 2, 3):
            await unit.sends(server, number)

    assert await unit.users() == EVERYBODY
    assert [row["state"] for row in await unit.packets()] == ["READ"] * 3
    assert await unit.rejected() == []
