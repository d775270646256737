"""Every captured request, posted as it was to a running server: the answer the terminal takes, the rows it means."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import orjson
import pytest

from app.database import Database
from app.domain import tenants
from app.domain.tenants import Created
from app.vault import Vault
from tests.corpus import ATTENDANCE, CORPUS, SAMPLES, Sample
from tests.database import rows
from tests.factories import make_device
from tests.server import Server

#: What the terminal of a sample announced, where the columns depend on it and the sample is of an upload alone.
ANNOUNCED = {"006-attlog-tft-jobcodes": ("att", "3.2.0"), "009-attlog-idcard-pid": ("pid", "2.4.0")}
FORMS = {
    "Time=YYYY-MM-DDThh:mm:ss+hh:mm": rb"Time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d",
    "DateTime=<encoded GMT>,ServerTZ=+hhmm": rb"DateTime=\d{9,10},ServerTZ=[+-]\d{4}",
    "RegistryCode=<1..32 chars>": rb"RegistryCode=[A-Za-z0-9]{1,32}",
}


@pytest.fixture(scope="module")
async def server(db: Database, database_url: str) -> AsyncIterator[Server]:
    async with Server(database_url) as running:
        yield running


@pytest.fixture
async def customer(db: Database, vault: Vault) -> Created:
    """A tenant to each sample: several are of one terminal."""
    async with db.across("operate") as connection:
        return await tenants.create(connection, vault, "Corpus")


def wire(sample: Sample, token: str) -> bytes:
    """The bytes as captured, but for the tenant's own address in front of the path."""
    raw = (CORPUS / f"{sample.id}.http").read_bytes()
    line, rest = raw.split(b"\r\n", 1)
    method, target, version = line.split(b" ")
    return b"%b /d/%b%b %b\r\n%b" % (method, token.encode(), target, version, rest)


async def stored(db: Database, customer: Created) -> list[dict[str, Any]]:
    found = await rows(
        db,
        customer.tenant.id,
        "SELECT pin, local_time, state_code, verify_code, work_code, raw FROM punches ORDER BY raw",
    )
    names = ("pin", "time", "status", "verify", "work_code", "raw")
    return [dict(zip(names, row, strict=True)) for row in found]


def meant(sample: Sample) -> list[dict[str, Any]]:
    """What the sample says is in it, in the words of the table."""
    return [
        {
            "pin": punch["pin"],
            "time": datetime.fromisoformat(punch["time"]),
            "status": int(punch["status"]),
            "verify": int(punch["verify"]),
            "work_code": punch.get("work_code") or None,
            "raw": punch["raw"].encode(),
        }
        for punch in sorted(sample.expect.get("punches", []), key=lambda punch: str(punch["raw"]).encode())
    ]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.id)
async def test_a_captured_request_is_answered_and_stored_as_its_neighbour_says(
    server: Server, db: Database, customer: Created, sample: Sample
) -> None:
    tenant_id = customer.tenant.id
    kind, version = ANNOUNCED.get(sample.id, (None, None))
    serial = sample.expected["request"]["sn"]
    await make_device(db, tenant_id, serial_number=serial, announced_type=kind, push_version=version)
    wanted = sample.expected["reply"]

    answers = [await server.send(wire(sample, customer.enrollment_token)) for _ in range(2)]

    for answer in answers:
        assert answer.status == wanted["status"]
        assert answer.headers["content-type"] == wanted.get("content_type", "text/plain")
        assert {name.lower() for name in wanted.get("must_have_header", [])} <= answer.headers.keys()
        if "body_any_of" in wanted:
            told = answer.body.decode()
            assert told in wanted["body_any_of"] or (told.startswith("registry=ok") and len(wanted["body_any_of"]) > 1)
        if "first_line" in wanted:
            assert answer.body.decode().split("\n")[0] == wanted["first_line"]
        if "body_form" in wanted:
            assert re.fullmatch(FORMS[wanted["body_form"]], answer.body)
        assert [part for part in wanted.get("must_contain", []) if part not in answer.body.decode()] == []
    assert await stored(db, customer) == meant(sample)
    assert await announced(db, customer) == sorted(punch["pin"] for punch in meant(sample))
    assert await rows(db, tenant_id, "SELECT raw FROM rejected_records") == []


async def announced(db: Database, customer: Created) -> list[str]:
    bodies = await rows(db, customer.tenant.id, "SELECT body FROM events WHERE type = 'punch.created'")
    return sorted(orjson.loads(body)["data"]["pin"] for (body,) in bodies)


HIDDEN = [s for s in ATTENDANCE if s.expect.get("templates") or s.expect.get("photos") or s.expect.get("users")]


@pytest.mark.parametrize("sample", HIDDEN, ids=lambda sample: sample.id)
async def test_of_templates_photos_and_passwords_nothing_is_kept(
    server: Server, db: Database, customer: Created, sample: Sample
) -> None:
    await make_device(db, customer.tenant.id, serial_number=sample.expected["request"]["sn"])
    secrets = [
        value.encode()
        for entry in sample.expect.get("templates", [])
        + sample.expect.get("photos", [])
        + sample.expect.get("users", [])
        for name, value in entry.items()
        if name.lower() in {"tmp", "template", "content", "passwd", "password"} and len(str(value)) > 1
    ]
    images = [b"\xff\xd8\xff"] if sample.expect.get("photos") else []

    await server.send(wire(sample, customer.enrollment_token))

    kept = await rows(db, customer.tenant.id, "SELECT body, record_count, discarded_count FROM kept_uploads")
    [(body, count, discarded)] = kept
    assert [secret for secret in secrets + images if secret in body] == []
    assert count == sample.expect.get("record_count", 1)
    assert discarded == len(sample.expect.get("templates", []) + sample.expect.get("photos", []))


def test_the_samples_hold_what_must_not_be_kept() -> None:
    assert len(HIDDEN) == 12
    assert b"Passwd=" in b"".join(sample.body for sample in HIDDEN)
    assert b"\xff\xd8\xff" in b"".join(sample.body for sample in HIDDEN)
