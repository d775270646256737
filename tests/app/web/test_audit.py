"""What is done at the dashboard is in the audit log, under the name of the mutation that does the same."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from app import ids
from app.database import Database, driver
from app.embedded import EmbeddedRedis
from app.vault import Vault
from tests.app.web.test_dashboard import Office, opening


@pytest.fixture
async def inside(database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault) -> AsyncIterator[Office]:
    async with opening(database_url, redis_server.url, db, vault) as office:
        assert (await office.sign_in()).status_code == 303
        yield office


async def test_a_form_leaves_who_did_what_to_which_object(db: Database, inside: Office) -> None:
    tenant_id = inside.tenant.tenant.id
    await inside.punch("101")

    await inside.post("devices/site", name="Depot", zone="UTC")
    await inside.post(f"devices/{inside.device_id}", do="suspend")
    await inside.post(f"devices/{inside.device_id}", do="resume")
    await inside.post(f"devices/{inside.device_id}/commands", do="unlockDoor")
    await inside.post("employees", pin="7", name="Z")
    await inside.post("employees/import", do="import", csv="pin,name\n8,Z\n9,Y\n")
    await inside.post("keys", name="second", scope="punches:read")
    refused = await inside.post("employees", pin="not a pin", name="Z")

    async with db.read(tenant_id) as session:
        rows = await (await driver(session)).fetch(
            "SELECT action, target_kind, target_id, key_id, source, request_id, detail::text FROM audit_entries "
            "WHERE source <> 'CLI' ORDER BY id"
        )
    assert refused.status_code == 400
    assert [(row["action"], row["target_kind"]) for row in rows] == [
        ("signIn", "key"),
        ("siteCreate", "sit"),
        ("deviceSuspend", "dev"),
        ("deviceResume", "dev"),
        ("deviceCommandSend", "cmd"),
        ("employeeUpsert", "emp"),
        ("employeeBulkUpsert", "emp"),
        ("employeeBulkUpsert", "emp"),
        ("apiKeyCreate", "key"),
    ]
    assert {(row["source"], row["key_id"]) for row in rows} == {("DASHBOARD", inside.tenant.api_key_id)}
    assert all(row["request_id"].startswith("req_") for row in rows)
    assert rows[2]["target_id"] == ids.read("dev", inside.device_id)
    assert (
        rows[4]["detail"]
        == f'{{"command": {{"unlockDoor": {{"door": 1, "seconds": 5}}}}, "deviceId": "{inside.device_id}"}}'
    )


async def test_the_page_lists_deeds_with_who_did_them_and_filters(inside: Office) -> None:
    await inside.punch("101")
    await inside.post(f"devices/{inside.device_id}", do="suspend")
    await inside.post("employees", pin="7", name="Secret Name")

    every = await inside.http.get("/dashboard/audit")
    about = await inside.http.get(f"/dashboard/audit?target={inside.device_id}")
    none = await inside.http.get("/dashboard/audit?action=deviceRetire")
    strange = await inside.http.get("/dashboard/audit?target=nonsense")

    assert "first key" in every.text
    assert "employeeUpsert" in every.text
    assert "Secret Name" not in every.text
    assert f'href="/dashboard/devices/{inside.device_id}"' in about.text
    assert "deviceSuspend" in about.text
    assert "employeeUpsert" not in about.text
    assert "Nothing matches" in none.text
    assert strange.status_code == 400


async def test_the_page_needs_its_scope_and_shows_nothing_of_another_tenant(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, inside: Office
) -> None:
    await inside.punch("101")
    await inside.post(f"devices/{inside.device_id}", do="suspend")
    async with opening(database_url, redis_server.url, db, vault) as other:
        await other.sign_in()
        theirs = await other.http.get(f"/dashboard/audit?target={inside.device_id}")
    made = await inside.post("keys", name="reader", scope="punches:read")
    [key] = set(re.findall(r"pc_live_\w{49}", made.text))
    await inside.sign_in(key)
    refused = await inside.http.get("/dashboard/audit")

    assert "Nothing matches" in theirs.text
    assert refused.status_code == 403
