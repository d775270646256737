"""Units of the security dialect over real sockets: registration, events, tables, and what a stranger is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest

from app.database import Database
from app.domain import commands
from app.domain.devices import Device
from app.vault import Vault
from tests.app.web.customers import Customer, eventually, lines, make_customer, positions
from tests.database import dicts
from tests.factories import make_device
from tests.server import Server

OPTIONS = b"DeviceType=acc,~DeviceName=inBio460,FirmVer=Ver 8.0.1,PushVersion=Ver 3.1.2,IPAddress=192.0.2.7"
HELLO = "cdata?SN={}&pushver=3.0.1&options=all"


@pytest.fixture(scope="module")
async def server(db: Database, database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url) as running:
        yield running


@pytest.fixture
async def device(db: Database, customer: Customer) -> Device:
    return await make_device(db, customer.tenant_id, time_zone="Africa/Casablanca")


async def test_users_that_a_unit_tells_of_are_listed(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    sn = f"SN={device.serial_number}"
    added = b"user uid=9\tcardno=1234\tpin=4711\tpassword=secret\tgroup=1\tname=Zo\xc3\xab\tprivilege=0\r\n"
    rows = [b"user uid=%d\tpin=%d\tname=N\tprivilege=0\r\n" % (n, n) for n in range(1, 4)]

    one = await server.post(customer.url(f"cdata?{sn}&table=tabledata&tablename=user&count=1"), added)
    query = f"querydata?{sn}&type=tabledata&cmdid=1&tablename=user&count=2&packcnt=2&packidx="
    packets = [
        await server.post(customer.url(f"{query}{number}"), body)
        for number, body in enumerate((rows[0] + rows[1], rows[2]), 1)
    ]

    assert one.body == b"user=1"
    assert [packet.body for packet in packets] == [b"user=2", b"user=2"]
    found = await dicts(db, customer.tenant_id, "SELECT pin, name, card FROM terminal_users ORDER BY pin")
    assert [row["pin"] for row in found] == ["1", "2", "3", "4711"]
    assert found[3] == {"pin": "4711", "name": "Zoë", "card": "1234"}
    assert (
        b"secret" not in (await dicts(db, customer.tenant_id, "SELECT body FROM kept_uploads ORDER BY id"))[0]["body"]
    )


def passed(number: int, pin: str = "17", event: int = 0) -> bytes:
    head = f"time=2026-03-02 09:00:00\tpin={pin}\tcardno=0\teventaddr=1\tevent={event}"
    return f"{head}\tinoutstatus=1\tverifytype=15\tindex={number}\r\n".encode()


async def test_a_unit_registers_is_configured_and_sends_its_events(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    serial = device.serial_number
    first = await server.get(customer.url(HELLO.format(serial)))
    code = await server.post(customer.url(f"registry?SN={serial}"), OPTIONS)
    told = await server.post(customer.url(f"push?SN={serial}"))
    again = await server.get(customer.url(HELLO.format(serial)))
    upload = await server.post(customer.url(f"cdata?SN={serial}&table=rtlog"), passed(1) + passed(2, "0", 27))

    assert (first.status, first.body) == (200, b"OK")
    assert code.body.startswith(b"RegistryCode=")
    assert told.body.startswith(b"ServerVersion=3.0.1\n")
    block = dict(line.split("=", 1) for line in again.body.decode().split("\n"))
    assert block["registry"] == "ok"
    assert f"RegistryCode={block['RegistryCode']}".encode() == code.body
    assert f"SessionID={block['SessionID']}" in told.body.decode()
    assert (upload.status, upload.body) == (200, b"OK")
    assert await lines(db, customer.tenant_id) == [passed(1).decode().strip()]
    [punch] = await dicts(
        db, customer.tenant_id, "SELECT pin, local_time, direction, state_code, verify_code, record_index FROM punches"
    )
    assert punch == {
        "pin": "17",
        "local_time": datetime(2026, 3, 2, 9),  # noqa: DTZ001
        "direction": 1,
        "state_code": 1,
        "verify_code": 15,
        "record_index": 1,
    }
    [kept] = await dicts(db, customer.tenant_id, "SELECT table_name, body FROM kept_uploads")
    assert kept == {"table_name": "RTLOG", "body": passed(2, "0", 27).strip()}
    wanted = {"dialect": "SECURITY", "model": "inBio460", "announced_type": "acc", "push_version": "3.0.1"}
    await eventually(
        db, customer.tenant_id, "SELECT dialect, model, announced_type, push_version FROM devices", [wanted]
    )


async def test_records_that_differ_in_their_number_alone_are_two_punches_and_a_resent_one_is_one(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    url = customer.url(f"cdata?SN={device.serial_number}&table=rtlog")

    answers = [await server.post(url, body) for body in (passed(1), passed(1) + passed(2), passed(2))]

    assert [answer.body for answer in answers] == [b"OK"] * 3
    assert len(await lines(db, customer.tenant_id)) == 2
    assert await positions(db, customer.tenant_id) == [(1, "punch.created"), (2, "punch.created")]


async def test_an_event_with_an_unheard_of_number_is_a_punch_that_says_so(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    await server.post(customer.url(f"cdata?SN={device.serial_number}&table=rtlog"), passed(1, event=4008))

    assert await dicts(db, customer.tenant_id, "SELECT pin, flags FROM punches") == [
        {"pin": "17", "flags": ["unknown_event"]}
    ]


async def test_a_line_nobody_can_read_is_kept_and_does_not_hold_up_the_rest(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    answer = await server.post(
        customer.url(f"cdata?SN={device.serial_number}&table=rtlog"), b"time=never\tpin=1\n" + passed(1)
    )

    assert (answer.status, answer.body) == (200, b"OK")
    assert len(await lines(db, customer.tenant_id)) == 1
    assert await dicts(db, customer.tenant_id, "SELECT table_name, raw FROM rejected_records") == [
        {"table_name": "RTLOG", "raw": b"time=never\tpin=1"}
    ]


async def test_rows_asked_for_are_kept_without_passwords_and_counted_as_announced(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    rows = b"user uid=1\tpin=1\tpassword=hunter2\tname=Zo\xc3\xab\r\nuser uid=2\tpin=2\tpassword=\tname=\r\n"
    templates = b"templatev10 pin=1\ttemplate=SECRETSECRET\r\n"

    users = await server.post(
        customer.url(f"querydata?SN={device.serial_number}&type=tabledata&cmdid=9&tablename=user&count=2"), rows
    )
    fingers = await server.post(
        customer.url(f"cdata?SN={device.serial_number}&table=tabledata&tablename=templatev10&count=1"), templates
    )

    assert (users.body, fingers.body) == (b"user=2", b"templatev10=1")
    kept: list[dict[str, Any]] = await dicts(
        db, customer.tenant_id, "SELECT table_name, body, discarded_count FROM kept_uploads ORDER BY table_name"
    )
    assert [(row["table_name"], row["discarded_count"]) for row in kept] == [("TEMPLATEV10", 1), ("USER", 0)]
    assert b"SECRET" not in kept[0]["body"]
    assert b"hunter2" not in kept[1]["body"]
    assert b"name=Zo\xc3\xab" in kept[1]["body"]


async def test_rows_of_the_table_of_transactions_are_the_punches_that_events_are(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    serial = device.serial_number
    row = b"transaction cardno=0\tpin=17\tverified=15\teventtype=0\tinoutstate=1\ttime=2026-03-02 09:00:00\tindex=1\r\n"

    await server.post(customer.url(f"cdata?SN={serial}&table=rtlog"), passed(1))
    answer = await server.post(
        customer.url(f"querydata?SN={serial}&type=tabledata&cmdid=1&tablename=transaction&count=1"), row
    )

    assert answer.body == b"transaction=1"
    assert await lines(db, customer.tenant_id) == [passed(1).decode().strip()]


async def test_a_stranger_is_let_register_nowhere_and_sends_nothing(server: Server, db: Database, vault: Vault) -> None:
    customer = await make_customer(db, vault)
    suspended = await make_device(db, customer.tenant_id, status="SUSPENDED")
    for serial in ("NEVERSEEN", suspended.serial_number):
        hello = await server.get(customer.url(HELLO.format(serial)))
        registry = await server.post(customer.url(f"registry?SN={serial}"), OPTIONS)
        others = [
            await server.post(customer.url(f"push?SN={serial}")),
            await server.post(customer.url(f"cdata?SN={serial}&table=rtlog"), passed(1)),
            await server.post(
                customer.url(f"querydata?SN={serial}&type=tabledata&tablename=user&count=1"), b"user pin=1"
            ),
            await server.get(customer.url(f"rtdata?SN={serial}&type=time")),
        ]

        assert (hello.status, hello.body) == (200, b"OK")
        assert (registry.status, b"RegistryCode" in registry.body) == (406, False)
        assert [(answer.status, answer.body[:2]) for answer in others] == [(403, b"Th")] * 4
    assert await lines(db, customer.tenant_id) == []
    assert await dicts(db, customer.tenant_id, "SELECT id FROM kept_uploads") == []


async def test_an_attendance_terminal_that_announces_a_new_version_is_not_taken_for_another(
    server: Server, customer: Customer, device: Device
) -> None:
    answer = await server.get(customer.url(HELLO.format(device.serial_number) + "&DeviceType=att"))

    assert answer.body.startswith(b"GET OPTION FROM: ")


async def test_the_answer_to_a_query_is_the_report_on_it(server: Server, db: Database, customer: Customer) -> None:
    device = await make_device(db, customer.tenant_id, dialect="SECURITY")
    async with db.write(customer.tenant_id) as session:
        await commands.send(session, customer.tenant_id, device.id, "refreshInfo", {})
    ask = await server.get(customer.url(f"getrequest?SN={device.serial_number}"))
    number = ask.body.split(b":")[1].decode()

    await server.post(
        customer.url(f"querydata?SN={device.serial_number}&type=tabledata&cmdid={number}&tablename=user&count=1"),
        b"user uid=1\tpin=1\r\n",
    )

    assert await dicts(db, customer.tenant_id, "SELECT status, return_code FROM device_commands") == [
        {"status": "SUCCEEDED", "return_code": 1}
    ]


async def test_a_push_gets_the_options_first_and_then_commands_each_once(
    server: Server, db: Database, customer: Customer, device: Device
) -> None:
    serial = device.serial_number
    push, poll = customer.url(f"push?SN={serial}"), customer.url(f"getrequest?SN={serial}")
    await server.get(customer.url(HELLO.format(serial)))
    await server.post(customer.url(f"registry?SN={serial}"), OPTIONS)
    for _ in range(3):
        async with db.write(customer.tenant_id) as session:
            await commands.send(session, customer.tenant_id, device.id, "refreshInfo", {})

    first, second, third = await server.post(push), await server.get(push), await server.get(poll)
    fourth, nothing = await server.post(push), await server.post(push)
    await server.get(customer.url(HELLO.format(serial)))
    anew = await server.post(push)

    assert [reply.body.partition(b"=")[0] for reply in (first, nothing, anew)] == [b"ServerVersion"] * 3
    lines = [reply.body.split(b":") for reply in (second, third, fourth)]
    assert [(line[0], line[2]) for line in lines] == [(b"C", b"INFO")] * 3
    assert len({line[1] for line in lines}) == 3
