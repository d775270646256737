"""What is acknowledged, and odd, must not stand in anybody's way afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.database import Database
from app.domain import devices
from app.embedded import EmbeddedRedis
from app.simulator import Link
from app.vault import Vault
from tests.app.web.test_dashboard import SERIAL, Office, opening

ENDS = ("0001-01-01 00:00:00", "0001-01-01 05:30:00", "9999-12-31 23:59:59", "9999-12-31 18:30:00")
ALL = "{ punches(first: 20) { nodes { punchedAt localTime } edges { cursor } pageInfo { hasNextPage endCursor } } }"


@pytest.fixture
async def office(database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault) -> AsyncIterator[Office]:
    async with opening(database_url, redis_server.url, db, vault) as opened:
        yield opened


async def ask(office: Office, query: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {office.tenant.api_key}"}
    answer = await office.http.post("/graphql", json={"query": query}, headers=headers)
    found: dict[str, Any] = answer.json()
    assert "errors" not in found, found
    return found


async def send(office: Office, serial: str, *lines: str) -> None:
    link = Link(f"http://127.0.0.1:{office.server.port}/d/{office.tenant.enrollment_token}")
    body = "".join(f"{line}\n" for line in lines).encode()
    answer = await link.post(f"/iclock/cdata?SN={serial}&table=ATTLOG&Stamp=1", body)
    assert answer.body == b"OK: %d" % len(lines)


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York", "UTC"])
async def test_a_punch_from_the_ends_of_the_calendar_stands_in_nobodys_way(
    office: Office, db: Database, zone: str
) -> None:
    async with db.write(office.tenant.tenant.id) as session:
        await devices.register(session, office.tenant.tenant.id, "ENDS1", name="Ends", time_zone=zone)

    await send(office, "ENDS1", *(f"1\t{wall}\t0\t1" for wall in ENDS))

    page = (await ask(office, ALL))["data"]["punches"]
    assert sorted(node["localTime"] for node in page["nodes"]) == sorted(wall.replace(" ", "T") for wall in ENDS)
    second = ALL.replace("first: 20", f'first: 20, after: "{page["edges"][1]["cursor"]}"')
    assert len((await ask(office, second))["data"]["punches"]["nodes"]) == 2
    made = await ask(office, 'mutation { employeeUpsert(input: {pin: "1", name: "A"}) { userErrors { code } } }')
    assert made["data"]["employeeUpsert"]["userErrors"] == []
    await office.sign_in()
    for path in ("", "punches", "punches.csv"):
        shown = await office.http.get(f"/dashboard/{path}")
        assert shown.status_code == 200, path
        assert path != "punches.csv" or shown.text.count("\n") == len(ENDS) + 1


async def test_a_key_that_lasts_for_ever_works(office: Office) -> None:
    made = await ask(
        office,
        'mutation { apiKeyCreate(input: {name: "k", scopes: ["punches:read"], '
        'expiresAt: "9999-12-31T23:59:59.999999Z"}) { secret userErrors { code } } }',
    )

    headers = {"Authorization": f"Bearer {made['data']['apiKeyCreate']['secret']}"}
    answer = await office.http.post("/graphql", json={"query": "{ viewer { apiKey { id } } }"}, headers=headers)

    assert answer.status_code == 200
    await office.sign_in()
    assert (await office.http.get("/dashboard/keys")).status_code == 200


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999Z"])
async def test_a_filter_may_begin_or_end_anywhere(office: Office, moment: str) -> None:
    for side in ("gte", "lt"):
        await ask(office, f'{{ auditLog(filter: {{createdAt: {{{side}: "{moment}"}}}}) {{ nodes {{ id }} }} }}')
        await ask(office, f'{{ punches(filter: {{punchedAt: {{{side}: "{moment}"}}}}) {{ nodes {{ id }} }} }}')


@pytest.mark.parametrize(
    "line",
    [
        "FP PIN=1\tFID=0\tTMP=SECRETTPL==",
        "FACE PIN=1\tFID=0\tSIZE=9\tVALID=1\tTMP=SECRETTPL",
        "BIODATA Pin=1\tNo=0\tTmp=SECRETTPL",
        "USERPIC PIN=1\tFileName=1.jpg\tSize=9\tContent=SECRETTPL",
        "templatev10 size=9\tuid=1\tpin=1\ttemplate=SECRETTPL",
        "USER PIN=1\tName=x\tPasswd=SECRETTPL",
    ],
)
async def test_templates_and_passwords_in_the_wrong_table_are_not_shown(office: Office, line: str) -> None:
    await send(office, SERIAL, line, "no line at all")

    found = await ask(
        office, f'{{ device(serialNumber: "{SERIAL}") {{ rejectedRecords {{ nodes {{ raw reason }} }} }} }}'
    )

    assert len(found["data"]["device"]["rejectedRecords"]["nodes"]) == 2
    assert "SECRETTPL" not in str(found)
    assert "no line at all" in str(found)


async def test_a_filter_that_no_text_can_match_finds_nothing(office: Office) -> None:
    await office.sign_in()

    for path in ("punches?pin=%00", "employees?search=%00", "audit?action=%00"):
        assert (await office.http.get(f"/dashboard/{path}")).status_code == 200, path


async def test_the_numbers_are_refused_in_the_shape_of_every_refusal(office: Office) -> None:
    answer = await office.http.get("/metrics")

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthenticated")
