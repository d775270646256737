"""After the trial: terminals are heard, every page is read, and no form of the dashboard writes but what is safe."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app import ids
from app.database import Database
from app.domain import endpoints, keys, tenants
from app.embedded import EmbeddedRedis
from app.vault import Vault
from tests.app.web.test_dashboard import PAGES, Office, opening
from tests.factories import make_endpoint

ROOT = Path(__file__).parents[3]
PERIOD = {"from": "2026-03-01T08:00", "to": "2026-03-02T08:00"}
#: Every form that changes something, with what would work in it before.
FORMS: list[tuple[str, dict[str, str]]] = [
    ("devices/add", {"serial": "NEW0001", "zone": "UTC"}),
    ("devices/site", {"name": "Depot", "zone": "UTC"}),
    ("devices/DEVICE", {"do": "save", "name": "New"}),
    ("devices/DEVICE", {"do": "resume"}),
    ("devices/DEVICE", {"do": "retire"}),
    ("devices/DEVICE", {"do": "approve"}),
    ("devices/DEVICE/commands", {"do": "syncTime"}),
    ("devices/DEVICE/commands", {"do": "unlockDoor"}),
    ("devices/DEVICE/commands", {"do": "backfill", **PERIOD}),
    ("devices/DEVICE/commands", {"do": "cancel", "command": ids.show("cmd", ids.new())}),
    ("employees", {"pin": "7", "name": "Z"}),
    ("employees/EMPLOYEE", {"name": "Y"}),
    ("employees/import", {"do": "import", "csv": "pin,name\n7,Z\n"}),
    ("employees/EMPLOYEE/placements", {"do": "add", "device": ids.show("dev", ids.new())}),
    ("employees/EMPLOYEE/delete", {}),
    ("webhooks", {"url": "https://r.example/"}),
    ("webhooks/ENDPOINT", {"do": "test"}),
    ("webhooks/ENDPOINT", {"do": "rotate"}),
    ("webhooks/ENDPOINT", {"do": "delete"}),
    ("webhooks/ENDPOINT", {"do": "enable"}),
    ("webhooks/ENDPOINT", {"do": "replay", "since": "2026-03-01T08:00"}),
    ("webhooks/deliveries/DELIVERY", {}),
    ("keys", {"name": "second", "scope": "punches:read"}),
    ("keys/KEY", {"do": "rotate"}),
]


async def end_trial(db: Database, office: Office) -> None:
    async with db.across("operate") as connection:
        await connection.execute(
            "UPDATE tenants SET trial_ends_at = now() - interval '1 hour' WHERE id = $1", office.tenant.tenant.id
        )


@pytest.fixture
async def late(database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault) -> AsyncIterator[Office]:
    """Signed in at a tenant whose trial is over."""
    async with opening(database_url, redis_server.url, db, vault) as office:
        assert (await office.sign_in()).status_code == 303
        await end_trial(db, office)
        yield office


def names(office: Office, endpoint: endpoints.Endpoint | None = None) -> dict[str, str]:
    return {
        "DEVICE": office.device_id,
        "ENDPOINT": ids.show("whk", endpoint.id if endpoint else ids.new()),
        "KEY": ids.show("key", office.tenant.api_key_id),
        "DELIVERY": ids.show("whd", ids.new()),
        "EMPLOYEE": ids.show("emp", ids.new()),
    }


@pytest.mark.parametrize(("path", "fields"), FORMS, ids=lambda value: value if isinstance(value, str) else "-")
async def test_a_form_that_writes_is_refused(late: Office, path: str, fields: dict[str, str]) -> None:
    for name, text in names(late).items():
        path = path.replace(name, text)

    answer = await late.post(path, **fields)

    assert answer.status_code == 402
    assert "/docs/errors/trial_ended" in answer.text


def test_every_form_of_the_dashboard_is_tried() -> None:
    found = set()
    for file in (ROOT / "app/web/dashboard").glob("*.py"):
        found |= set(re.findall(r'desk\.post\("/([^"]*)"', file.read_text()))

    tried = {re.sub("DEVICE|ENDPOINT|KEY|DELIVERY|EMPLOYEE", "{id}", path) for path, _ in FORMS}
    assert found - {"sign-out"} == tried


async def test_what_makes_a_tenant_safer_still_works(db: Database, vault: Vault, late: Office) -> None:
    tenant_id = late.tenant.tenant.id
    endpoint = await make_endpoint(db, vault, tenant_id)
    spare, _ = keys.issue(tenant_id, "spare", ["punches:read"], None, vault)
    async with db.across("operate") as connection:
        await keys.add(connection, spare)

    await late.punch("101")  # binds the device
    answers = [
        await late.post(f"devices/{late.device_id}", do="suspend"),
        await late.post(f"webhooks/{ids.show('whk', endpoint.id)}", do="pause"),
        await late.post(f"keys/{ids.show('key', spare.id)}", do="revoke"),
    ]

    assert [answer.status_code for answer in answers] == [303, 303, 303]


async def test_terminals_are_heard_and_every_page_is_read(late: Office) -> None:
    await late.punch("101", "102")

    pages = [await late.http.get(f"/dashboard/{path}") for path in PAGES]
    exported = await late.http.get("/dashboard/punches.csv")

    assert {page.status_code for page in pages} == {200}
    assert exported.text.count("Front door") == 2
    assert "The trial is over" in pages[-1].text
    assert "200 USD per device" in pages[-1].text


async def test_an_activated_plan_writes_at_once(db: Database, late: Office) -> None:
    async with db.across("operate") as connection:
        await tenants.activate(connection, late.tenant.tenant.id)

    assert (await late.post("employees", pin="7", name="Z")).status_code == 303


def test_nothing_writes_past_the_plan() -> None:
    """Edges have one door each: `_run` of the mutations, `write` or `once` of a visit. Who signs in is written down."""
    found = {
        str(file.relative_to(ROOT)): text.count("db.write(")
        for room in ("app/web", "schema")
        for file in (ROOT / room).rglob("*.py")
        if "db.write(" in (text := file.read_text())
    }

    assert found == {"schema/mutations.py": 1, "app/web/dashboard/desk.py": 3}
