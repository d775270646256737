"""The dashboard over HTTP: who gets in, what each page does, and what other sites and other tenants cannot do."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import httpx
import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response

from app import ids
from app.database import Database, driver
from app.domain import contacts, devices, employees, endpoints, keys, placements, roster, tenants
from app.domain.roster import Person
from app.embedded import EmbeddedRedis
from app.simulator import Link
from app.vault import Vault
from app.web.dashboard.employees import read_csv
from app.web.dashboard.punches import safe
from app.web.dashboard.sessions import LASTS, Session, Sessions
from tests.server import Server, request

SERIAL = "DASH0001"
PATIENCE = 20
#: What a browser asks for when somebody follows a link.
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@dataclass(frozen=True, slots=True)
class Office:
    """A tenant with one terminal, and a browser's worth of HTTP."""

    server: Server
    tenant: tenants.Created
    device_id: str
    http: httpx.AsyncClient

    async def sign_in(self, key: str | None = None) -> httpx.Response:
        return await self.http.post("/dashboard/sign-in", data={"key": key or self.tenant.api_key})

    async def post(self, path: str, **fields: str | list[str]) -> httpx.Response:
        """A form as its page would send it."""
        page = await self.http.get("/dashboard/plan")
        found = re.search(r'name="form_token" value="([0-9a-f]{64})"', page.text)
        assert found, page.text
        return await self.http.post(
            f"/dashboard/{path}", data={"form_token": found[1], "once": secrets.token_hex(), **fields}
        )

    async def punch(self, *pins: str, late: timedelta = timedelta(0)) -> None:
        """Have people punch; returns once it is acknowledged."""
        wall = f"{datetime.now(UTC) - late:%Y-%m-%d %H:%M:%S}"
        body = "".join(f"{pin}\t{wall}\t0\t15\t0\t0\t0\n" for pin in pins).encode()
        link = Link(f"http://127.0.0.1:{self.server.port}/d/{self.tenant.enrollment_token}")
        answer = await link.post(f"/iclock/cdata?SN={SERIAL}&table=ATTLOG&Stamp=9999", body)
        assert answer.body == b"OK: %d" % len(pins)


@asynccontextmanager
async def opening(database_url: str, redis_url: str, db: Database, vault: Vault, **knobs: Any) -> AsyncIterator[Office]:
    async with db.across("operate") as connection:
        tenant = await tenants.create(connection, vault, "Office <b>")
    async with db.write(tenant.tenant.id) as session:
        device = await devices.register(session, tenant.tenant.id, SERIAL, name="Front door", time_zone="UTC")
        await roster.upsert(session, tenant.tenant.id, Person("101", {"name": "Zoë <b>Çelik</b>"}))
    async with (
        Server(database_url, redis_url=redis_url, **knobs) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, timeout=PATIENCE) as http,
    ):
        yield Office(server, tenant, ids.show("dev", device.id), http)


@pytest.fixture
async def office(database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault) -> AsyncIterator[Office]:
    async with opening(
        database_url, redis_server.url, db, vault, webhook_allow_http=True, webhook_allow_networks="127.0.0.0/8"
    ) as opened:
        yield opened


@pytest.fixture
async def inside(office: Office) -> Office:
    """Signed in."""
    assert (await office.sign_in()).status_code == 303
    return office


PAGES = ["", "devices", "devices/add", "punches", "employees", "employees/import", "webhooks", "keys", "audit", "plan"]


# ── who gets in ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_key_is_exchanged_for_a_cookie_that_no_script_and_no_other_site_sees(office: Office) -> None:
    answer = await office.sign_in()

    cookie = answer.headers["set-cookie"]
    assert answer.headers["location"] == "/dashboard/"
    assert cookie.startswith("pc_session=")
    assert {"HttpOnly", "SameSite=strict", "Path=/dashboard"} <= set(cookie.split("; "))
    assert office.tenant.api_key not in cookie


async def test_behind_tls_the_cookie_is_secure(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault
) -> None:
    async with opening(database_url, redis_server.url, db, vault, public_url="https://pc.example") as office:
        assert "Secure" in (await office.sign_in()).headers["set-cookie"].split("; ")


@pytest.mark.parametrize("path", ["", "live/events", "punches.csv", "devices/dev_x/state", "webhooks/replays/rep_x"])
async def test_without_a_session_everything_leads_to_the_door(office: Office, path: str) -> None:
    answer = await office.http.get(f"/dashboard/{path}")

    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/sign-in")


@pytest.mark.parametrize(
    "path",
    [*PAGES[1:], "devices/dev_x", "employees?search=00", "employees?search=Zo%C3%AB+%26+Co&after=a.b~c-d_e%3D"],
)
async def test_signing_in_leads_to_the_page_that_was_asked_for(office: Office, path: str) -> None:
    door = await office.http.get(f"/dashboard/{path}")
    page = await office.http.get(door.headers["location"])
    [to, *_] = re.findall(r'name="to" value="([^"]*)"', page.text)
    wrong = await office.http.post("/dashboard/sign-in", data={"key": "pc_live_wrong", "to": unescape(to)})
    [still, *_] = re.findall(r'name="to" value="([^"]*)"', wrong.text)
    entered = await office.http.post("/dashboard/sign-in", data={"key": office.tenant.api_key, "to": unescape(still)})
    inside_already = await office.http.get(door.headers["location"])

    assert (door.status_code, entered.status_code) == (303, 303)
    assert door.headers["location"].startswith("/dashboard/sign-in?to=%2Fdashboard%2F")
    assert unescape(to) == f"/dashboard/{path}"
    assert entered.headers["location"] == f"/dashboard/{path}"
    assert inside_already.headers["location"] == f"/dashboard/{path}"


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example/dashboard/",
        "//evil.example/dashboard/",
        "/dashboard//..//evil.example",
        "/dashboard/../graphql",
        "/dashboard/%2e%2e/graphql",
        "/dashboard/..\\graphql",
        "\\\\evil.example/dashboard/",
        "/\t/evil.example/dashboard/",
        "javascript:alert(1)//dashboard/",
        "/dashboardx/devices",
        "/graphql",
        "dashboard/devices",
        " /dashboard/devices",
        "/dashboard/devices\r\nSet-Cookie: a=b",
        "/dashboard/devices\n",
        "/dashboard/devices#<b>",
        '/dashboard/devices?"><b>',
        "/dashboard/devices?" + "a" * 3000,
        "",
    ],
)
async def test_signing_in_leads_nowhere_else(office: Office, to: str) -> None:
    page = await office.http.get("/dashboard/sign-in", params={"to": to})
    entered = await office.http.post("/dashboard/sign-in", data={"key": office.tenant.api_key, "to": to})
    inside_already = await office.http.get("/dashboard/sign-in", params={"to": to})

    assert set(re.findall(r'name="to" value="([^"]*)"', page.text)) == {"/dashboard/"}
    assert [answer.headers["location"] for answer in (entered, inside_already)] == ["/dashboard/", "/dashboard/"]


async def test_a_form_without_a_session_leads_to_the_door_and_from_there_to_the_first_page(office: Office) -> None:
    answer = await office.http.post("/dashboard/employees", data={"pin": "1"})

    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/sign-in")


async def test_a_wrong_key_gets_no_cookie(office: Office) -> None:
    answer = await office.sign_in("pc_live_wrong")

    assert answer.status_code == 401
    assert "This key does not work." in answer.text
    assert "set-cookie" not in answer.headers


async def test_graphql_takes_no_cookie(inside: Office) -> None:
    cookie = f"pc_session={inside.http.cookies['pc_session']}"
    answer = await inside.http.post(
        "/graphql", json={"query": "{ viewer { tenant { id } } }"}, headers={"Cookie": cookie}
    )

    assert answer.status_code == 401


async def test_a_session_dies_with_its_key(inside: Office, db: Database) -> None:
    async with db.across("operate") as connection:
        await keys.revoke_any(connection, inside.tenant.api_key_id)

    async with asyncio.timeout(5):
        while (await inside.http.get("/dashboard/plan")).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    door = (await inside.http.get("/dashboard/plan")).headers["location"]
    assert door == "/dashboard/sign-in?to=%2Fdashboard%2Fplan"


async def test_a_cookie_that_was_edited_is_none(inside: Office) -> None:
    value = inside.http.cookies["pc_session"]
    inside.http.cookies.clear()
    edited = value[:40] + ("A" if value[40] != "A" else "B") + value[41:]

    answer = await inside.http.get("/dashboard/plan", headers={"Cookie": f"pc_session={edited}"})

    assert answer.status_code == 303


async def test_after_twelve_hours_a_session_is_over(office: Office) -> None:
    at = [1_000_000.0]
    application = office.server.application
    sessions = Sessions(application.keys, application.vault, secure=False, clock=lambda: at[0])
    response = Response()
    await sessions.open(office.tenant.api_key, response)
    cookie = response.headers["set-cookie"].partition(";")[0].encode()
    request = Request({"type": "http", "headers": [(b"cookie", cookie)]})

    at[0] += LASTS - 1
    assert (await sessions.read(request)).actor.tenant_id == office.tenant.tenant.id
    at[0] += 1
    with pytest.raises(keys.Unauthenticated):
        await sessions.read(request)


async def test_signing_out_takes_the_cookie_back(inside: Office) -> None:
    await inside.post("sign-out")

    assert (await inside.http.get("/dashboard/plan")).status_code == 303


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, "0" * 64),
        ({}, ""),
        ({"Origin": "https://evil.example"}, None),
        ({"Sec-Fetch-Site": "cross-site"}, None),
        ({"Sec-Fetch-Site": "same-site"}, None),
    ],
)
async def test_a_form_of_another_site_changes_nothing(
    inside: Office, headers: dict[str, str], token: str | None
) -> None:
    page = await inside.http.get("/dashboard/plan")
    [ours, *_] = re.findall(r'name="form_token" value="([0-9a-f]+)"', page.text)

    answer = await inside.http.post(
        "/dashboard/employees", data={"form_token": ours if token is None else token, "pin": "666"}, headers=headers
    )

    assert answer.status_code == 403
    # With its brackets: the page has random numbers as well.
    assert ">666<" not in (await inside.http.get("/dashboard/employees")).text


async def test_a_key_without_the_scope_sees_neither_the_page_nor_the_link(
    office: Office, db: Database, vault: Vault
) -> None:
    key, secret = keys.issue(office.tenant.tenant.id, "reader", ["punches:read"], None, vault)
    async with db.across("operate") as connection:
        await keys.add(connection, key)
    await office.sign_in(secret)

    home, refused = await office.http.get("/dashboard/"), await office.http.get("/dashboard/employees")

    assert home.status_code == 200
    assert "/dashboard/employees" not in home.text
    assert refused.status_code == 403
    assert "employees:read" in refused.text


# ── every page ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", PAGES)
async def test_every_page_is_whole_and_strict(inside: Office, path: str) -> None:
    page = await inside.http.get(f"/dashboard/{path}")

    policy = page.headers["content-security-policy"]
    assert page.status_code == 200
    assert "script-src 'self'; style-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"
    assert not re.search(
        r"<script(?! src=\"/assets/)|<style| style=| on[a-z]+=\"|(?:src|href|action)=\"(?!/|\?|#|http://127)", page.text
    )


@pytest.mark.parametrize(
    ("path", "status", "says", "back"),
    [
        ("sites", 404, "There is nothing here.", ""),
        ("devices/dev_1/nothing", 404, "There is nothing here.", "devices"),
        ("sign-out", 405, "This address does not take GET.", ""),
        ("keys/x", 405, "This address does not take GET.", "keys"),
        ("devices/nothing", 400, "", "devices"),
    ],
)
async def test_a_browser_that_is_refused_gets_a_page_and_a_way_back(
    inside: Office, path: str, status: int, says: str, back: str
) -> None:
    page = await inside.http.get(f"/dashboard/{path}", headers={"Accept": BROWSER})

    assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert "script-src 'self'; style-src 'self';" in page.headers["content-security-policy"]
    assert f'role="alert">{says}' in page.text
    assert f'<a class="button" href="/dashboard/{back}">Back to ' in page.text
    assert page.headers["x-request-id"] in page.text
    assert page.headers.get("allow") == ("POST" if status == 405 else None)
    assert "Nothing was changed" not in page.text
    assert "Sign out" in page.text


@pytest.mark.parametrize("path", ["sites", "sign-out"])
async def test_a_refused_stranger_gets_a_page_without_the_pages_of_a_tenant(office: Office, path: str) -> None:
    page = await office.http.get(f"/dashboard/{path}", headers={"Accept": BROWSER})

    assert page.status_code == {"sites": 404, "sign-out": 405}[path]
    assert '<a class="button" href="/dashboard/">Back to the dashboard</a>' in page.text
    assert "Sign out" not in page.text
    assert "/dashboard/devices" not in page.text


@pytest.mark.parametrize(
    ("path", "accept"), [("dashboard/sites", "*/*"), ("dashboards", "text/html"), ("x", "text/html")]
)
async def test_a_program_that_is_refused_gets_json(inside: Office, path: str, accept: str) -> None:
    answer = await inside.http.get(f"/{path}", headers={"Accept": accept})

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_a_refused_form_says_that_nothing_was_changed(inside: Office) -> None:
    strange = f"devices/{ids.show('dev', ids.new())}"

    sent = await inside.post(strange, do="retire")
    read = await inside.http.get(f"/dashboard/{strange}")
    away = await inside.http.post("/dashboard/punches", headers={"Accept": BROWSER})

    assert [page.status_code for page in (sent, read, away)] == [404, 404, 405]
    assert ["Nothing was changed. What you typed" in page.text for page in (sent, read, away)] == [True, False, True]


async def test_another_tenants_thing_and_none_are_the_same_page(inside: Office, db: Database, vault: Vault) -> None:
    async with db.across("operate") as connection:
        other = await tenants.create(connection, vault, "Other")
    async with db.write(other.tenant.id) as session:
        device = await devices.register(session, other.tenant.id, "OTHER1", time_zone="UTC")

    async def asked(name: str) -> tuple[int, str]:
        page = await inside.http.get(f"/dashboard/devices/{name}", headers={"Accept": BROWSER})
        return page.status_code, page.text.replace(name, "ID").replace(page.headers["x-request-id"], "REQUEST")

    theirs, none = await asked(ids.show("dev", device.id)), await asked(ids.show("dev", ids.new()))

    assert theirs[0] == 404
    assert theirs == none


async def test_another_tenants_things_are_not_found(inside: Office, db: Database, vault: Vault) -> None:
    async with db.across("operate") as connection:
        other = await tenants.create(connection, vault, "Other")
    async with db.write(other.tenant.id) as session:
        device = await devices.register(session, other.tenant.id, "OTHER1", time_zone="UTC")
        person, _ = await roster.upsert(session, other.tenant.id, Person("1", {}))
        endpoint, _ = await endpoints.create(
            session, other.tenant.id, "https://other.example/", description=None, event_types=(),
            check_url=lambda _: None, vault=vault,
        )  # fmt: skip
    theirs = [
        f"devices/{ids.show('dev', device.id)}",
        f"employees/{ids.show('emp', person.id)}",
        f"webhooks/{ids.show('whk', endpoint.id)}",
    ]

    assert [(await inside.http.get(f"/dashboard/{path}")).status_code for path in theirs] == [404, 404, 404]
    assert (await inside.post(theirs[0], do="retire")).status_code == 404
    assert (await inside.post(theirs[1] + "/delete")).status_code == 404
    assert (await inside.post(theirs[2], do="delete")).status_code == 404
    assert (await inside.post(f"keys/{ids.show('key', other.api_key_id)}", do="revoke")).status_code == 404


async def test_a_terminal_is_added_and_its_page_says_when_it_comes(inside: Office) -> None:
    added = await inside.post("devices/add", serial="NEW1", name="Side door", zone="Africa/Casablanca")
    page = await inside.http.get(added.headers["location"])
    state = await inside.http.get(added.headers["location"].partition("?")[0] + "/state")

    assert added.status_code == 303
    assert "Registered. It is bound by its first contact." in page.text
    assert f"/d/{inside.tenant.enrollment_token}" in page.text
    assert state.json() == {"status": "PENDING", "connection": "NEVER_SEEN"}


async def test_a_terminal_that_knows_an_ip_address_only_is_claimed_here_and_bound_by_its_user(inside: Office) -> None:
    added = await inside.post("devices/add", serial="K40ONLY1", name="Canteen", zone="UTC")
    page = (await inside.http.get(added.headers["location"])).text
    [pin] = re.findall(r"add a user with the ID <code>(\d{9})</code>", page)

    shared = Link(f"http://127.0.0.1:{inside.server.port}")
    await shared.get("/iclock/cdata?SN=K40ONLY1&options=all&pushver=2.4.1")
    await shared.post("/iclock/cdata?SN=K40ONLY1&table=USERINFO&Stamp=1", f"USER PIN={pin}\tName=\n".encode())

    state = await inside.http.get(added.headers["location"].partition("?")[0] + "/state")
    assert state.json()["status"] == "ACTIVE"


async def test_a_command_is_queued_shown_and_taken_back(inside: Office) -> None:
    await inside.punch("101")
    device = f"devices/{inside.device_id}"

    told = await inside.post(f"{device}/commands", do="refreshInfo")
    page = await inside.http.get(f"/dashboard/{device}")
    [command] = re.findall(r'name="command" value="(cmd_\w+)"', page.text)
    taken = await inside.post(f"{device}/commands", do="cancel", command=command)
    after = await inside.http.get(f"/dashboard/{device}")
    strange = await inside.post(f"{device}/commands", do="shell")

    assert (told.status_code, taken.status_code, strange.status_code) == (303, 303, 400)
    assert '<span class="tag queued">queued</span>' in page.text
    assert '<span class="tag cancelled">cancelled</span>' in after.text


async def test_a_period_can_be_asked_for_again(inside: Office) -> None:
    await inside.punch("101")
    device = f"devices/{inside.device_id}"

    await inside.post(f"{device}/commands", **{"do": "backfill", "from": "2026-03-01T08:00", "to": "2026-03-02T08:00"})

    assert "backfill" in (await inside.http.get(f"/dashboard/{device}")).text


async def test_retiring_a_device_takes_its_commands_back(inside: Office) -> None:
    await inside.punch("101")
    device = f"devices/{inside.device_id}"
    await inside.post(f"{device}/commands", do="uploadNow")

    await inside.post(device, do="retire")

    page = (await inside.http.get(f"/dashboard/{device}")).text
    assert '<span class="tag retired">retired</span>' in page
    assert '<span class="tag cancelled">cancelled</span>' in page


async def test_what_other_tables_tell_of_a_device_is_flagged_on_its_page(inside: Office, db: Database) -> None:
    link = Link(f"http://127.0.0.1:{inside.server.port}/d/{inside.tenant.enrollment_token}")
    await link.post(f"/iclock/cdata?SN={SERIAL}&table=ATTLOG&Stamp=9999", b"nothing that anybody could read\n")
    async with db.across("ingest", [inside.tenant.tenant.id]) as connection:
        await connection.execute(
            "INSERT INTO reconciliations (tenant_id, device_id, state, due_at, tries, excess, remainders) "
            "SELECT tenant_id, id, 'MISSING', now() + interval '1 hour', 0, 0, '[]' FROM devices"
        )

    page = (await inside.http.get(f"/dashboard/devices/{inside.device_id}")).text

    assert "<dt>Flags</dt><dd>rejected_records, count_mismatch</dd>" in page


async def test_a_stranger_that_knocks_can_be_approved(inside: Office) -> None:
    link = Link(f"http://127.0.0.1:{inside.server.port}/d/{inside.tenant.enrollment_token}")
    await link.get("/iclock/cdata?SN=STRANGER1&options=all&pushver=2.4.1")
    page = await inside.http.get("/dashboard/devices")
    [path] = re.findall(r'action="/dashboard/(devices/dev_\w+)"', page.text)

    approved = await inside.post(path, do="approve", zone="UTC")

    assert "STRANGER1" in page.text
    assert approved.status_code == 303
    assert (await inside.http.get(f"/dashboard/{path}/state")).json()["status"] == "ACTIVE"


async def test_punches_are_listed_with_names_escaped_and_late_ones_marked(inside: Office) -> None:
    await inside.punch("101", late=timedelta(hours=3))

    page = await inside.http.get("/dashboard/punches")

    assert "Zoë &lt;b&gt;Çelik&lt;/b&gt;" in page.text
    assert '<span class="tag late">late 3 h</span>' in page.text
    assert "No punch matches" in (await inside.http.get("/dashboard/punches?pin=999")).text


async def test_a_list_is_turned_page_by_page(inside: Office) -> None:
    await inside.punch(*(str(1000 + n) for n in range(60)))

    first = await inside.http.get("/dashboard/punches")
    [link] = re.findall(r'href="(\?after=[^"]+)">More', first.text)
    second = await inside.http.get(f"/dashboard/punches{link}")

    pins = [re.findall(r"<td>(1\d{3})</td>", page.text) for page in (first, second)]
    assert [len(found) for found in pins] == [50, 10]
    assert sorted(pins[0] + pins[1]) == [str(1000 + n) for n in range(60)]
    assert "← Back" in second.text


async def test_a_file_has_every_punch_and_no_formula(inside: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.dashboard.punches.SLICE", 7)
    await inside.post("employees", pin="1001", name="=HYPERLINK(1)")
    await inside.punch(*(str(1000 + n) for n in range(20)))

    table = list(csv.DictReader(io.StringIO((await inside.http.get("/dashboard/punches.csv")).text)))
    lines = (await inside.http.get("/dashboard/punches.ndjson?pin=1001")).text.splitlines()

    assert sorted(row["pin"] for row in table) == [str(1000 + n) for n in range(20)]
    assert next(row["employee"] for row in table if row["pin"] == "1001") == "'=HYPERLINK(1)"
    assert [orjson.loads(line)["employee"] for line in lines] == ["=HYPERLINK(1)"]


@pytest.mark.parametrize(
    ("cell", "shown"),
    [("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@a", "'@a"), ("\t=1", "'\t=1"), ("a=1", "a=1"), (None, "")],
)
def test_a_cell_is_no_formula(cell: str | None, shown: str) -> None:
    assert safe(cell) == shown


async def test_people_are_imported_after_a_look_and_bad_rows_are_left_out(inside: Office) -> None:
    text = "pin,name,external_id\n0042,Zineb Zaoui,E-042\nnot a pin,Nobody,\n0042,Twice,\n0043,Omar,\n"

    looked = await inside.post("employees/import", csv=text, do="preview")
    before = await inside.http.get("/dashboard/employees?search=Zineb")
    done = await inside.post("employees/import", csv=text, do="import")
    after = await inside.http.get("/dashboard/employees?search=Zineb")

    assert "2 rows cannot be taken" in looked.text
    assert "A PIN has 1 to 24 letters or digits." in looked.text
    assert "The PIN 0042 is here twice." in looked.text
    assert "Import 2 people" in looked.text
    assert "Zineb Zaoui" not in before.text
    assert "2 people were written; 2 rows were left out" in done.text
    assert "Zineb Zaoui" in after.text


async def test_adding_a_pin_that_somebody_has_changes_nobody_and_says_who_has_it(inside: Office, db: Database) -> None:
    tenant_id = inside.tenant.tenant.id
    known = Person("55", {"name": "Omar <b>", "external_id": "E-55", "card_number": "123", "privilege": "ADMIN"})
    async with db.write(tenant_id) as session:
        person, _ = await roster.upsert(session, tenant_id, known)

    refused = await inside.post("employees", pin="55", name="Somebody Else", external_id="E-99")

    async with db.read(tenant_id) as session:
        found = (await employees.by_pins(session, tenant_id, ["55"]))["55"]
        total = await employees.count(session, tenant_id)
    assert refused.status_code == 409
    assert "Omar &lt;b&gt; has the PIN 55." in refused.text
    assert f'<a href="/dashboard/employees/{ids.show("emp", person.id)}">Edit that person</a>' in refused.text
    assert re.findall(r'<input name="(?:pin|name|external_id)" value="([^"]*)"', refused.text) == [
        "55",
        "Somebody Else",
        "E-99",
    ]
    assert {name: getattr(found, name) for name in known.changes} == known.changes
    assert (found.id, total) == (person.id, 2)


async def test_of_two_who_add_a_pin_at_once_one_does(inside: Office, db: Database) -> None:
    tenant_id = inside.tenant.tenant.id

    answers = await asyncio.gather(*(inside.post("employees", pin="56", name=f"Person {n}") for n in range(6)))

    async with db.read(tenant_id) as session:
        found = (await employees.by_pins(session, tenant_id, ["56"]))["56"]
    assert sorted(answer.status_code for answer in answers) == [303, 409, 409, 409, 409, 409]
    assert found.name == f"Person {[answer.status_code for answer in answers].index(303)}"


async def test_who_may_not_read_people_is_not_told_who_has_a_pin(office: Office, db: Database, vault: Vault) -> None:
    key, secret = keys.issue(office.tenant.tenant.id, "writer", ["employees:write"], None, vault)
    async with db.across("operate") as connection:
        await keys.add(connection, key)
    await office.sign_in(secret)

    refused = await office.post("employees", pin="101", name="Somebody Else")

    assert refused.status_code == 400
    assert "The PIN 101 is somebody" in refused.text
    assert "Çelik" not in refused.text


async def test_a_page_that_is_older_than_its_person_takes_nothing_back(inside: Office, db: Database) -> None:
    tenant_id = inside.tenant.tenant.id
    async with db.write(tenant_id) as session:
        person, _ = await roster.upsert(session, tenant_id, Person("57", {"name": "Omar", "card_number": "1"}))
    path = f"employees/{ids.show('emp', person.id)}"
    old = _fields(await inside.http.get(f"/dashboard/{path}"))
    async with db.write(tenant_id) as session:
        meanwhile = {"name": "Omar Ouazzani", "external_id": "E-57", "privilege": "ADMIN"}
        await roster.upsert(session, tenant_id, Person("57", meanwhile))

    saved = await inside.http.post(f"/dashboard/{path}", data={**old, "privilege": "USER", "card_number": "2"})

    async with db.read(tenant_id) as session:
        found = (await employees.by_pins(session, tenant_id, ["57"]))["57"]
    assert saved.status_code == 303
    assert (found.name, found.external_id, found.card_number, found.privilege) == (
        "Omar Ouazzani",
        "E-57",
        "2",
        "ADMIN",
    )


async def test_a_person_is_changed_and_cleared_on_their_page_and_a_deleted_one_does_not_come_back(
    inside: Office, db: Database
) -> None:
    tenant_id = inside.tenant.tenant.id
    async with db.write(tenant_id) as session:
        person, _ = await roster.upsert(session, tenant_id, Person("58", {"name": "Omar", "card_number": "1"}))
    path = f"employees/{ids.show('emp', person.id)}"
    page = _fields(await inside.http.get(f"/dashboard/{path}"))

    changed = {**page, "name": "Omar Z", "card_number": "", "privilege": "ADMIN"}
    await inside.http.post(f"/dashboard/{path}", data=changed)
    async with db.read(tenant_id) as session:
        found = (await employees.by_pins(session, tenant_id, ["58"]))["58"]
    await inside.post(f"{path}/delete")
    late = await inside.http.post(f"/dashboard/{path}", data={**page, "name": "Back again"})

    assert (found.name, found.external_id, found.card_number, found.privilege) == ("Omar Z", None, None, "ADMIN")
    assert late.status_code == 404
    assert "58" not in _pins((await inside.http.get("/dashboard/employees")).text)


def _fields(page: httpx.Response) -> dict[str, str]:
    """The inputs of a person's page, as it shows them. The choice beside them is not among these."""
    form = page.text.partition('class="stack"')[2].partition("</form>")[0]
    return {name: unescape(value) for name, value in re.findall(r'<input [^>]*name="(\w+)" value="([^"]*)"', form)}


def _pins(text: str) -> list[str]:
    return re.findall(r'<th scope="row"><a href="/dashboard/employees/emp_\w+">(\w+)<', text)


async def test_an_import_is_written_in_parts_and_shows_how_far_it_is(
    inside: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.dashboard.employees.PART", 10)
    text = "pin,name\n" + "".join(f"{n},P{n}\n" for n in range(2000, 2025))

    done = await inside.post("employees/import", csv=text, do="import")
    listed = await inside.http.get("/dashboard/employees")

    assert re.findall(r"<progress [^>]*>([^<]*)<", done.text) == ["10 of 25", "20 of 25", "25 of 25"]
    assert "25 people were written" in done.text
    assert "26 in all" in listed.text


async def test_an_import_stops_when_its_key_does_and_says_how_far_it_came(
    inside: Office, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.dashboard.employees.PART", 10)
    real = Sessions.alive

    async def revoked(sessions: Sessions, session: Session) -> bool:
        async with db.across("operate") as connection:
            await keys.revoke_any(connection, inside.tenant.api_key_id)
        async with asyncio.timeout(PATIENCE):
            while await real(sessions, session):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return False

    monkeypatch.setattr(Sessions, "alive", revoked)
    text = "pin,name\n" + "".join(f"{n},P{n}\n" for n in range(2000, 2025))

    done = await inside.post("employees/import", csv=text, do="import")
    async with db.read(inside.tenant.tenant.id) as session:
        written = await employees.count(session, inside.tenant.tenant.id)

    assert "Your key stopped working. 10 of 25 people were written. Import the file again." in done.text
    assert 'class="done"' not in done.text
    assert written == 11


async def test_a_person_is_put_on_a_terminal_and_taken_off(inside: Office) -> None:
    await inside.punch("101")  # binds the terminal
    people = (await inside.http.get("/dashboard/employees")).text
    [path] = re.findall(r"/dashboard/(employees/emp_\w+)", people)

    before = await inside.http.get(f"/dashboard/{path}")
    put = await inside.post(f"{path}/placements", device=inside.device_id, do="add")
    wanted = await inside.http.get(put.headers["location"])
    await inside.post(f"{path}/placements", device=inside.device_id, do="remove")
    removing = await inside.http.get(f"/dashboard/{path}")
    strange = await inside.post(f"{path}/placements", device=ids.show("dev", ids.new()), do="add")

    assert "On no terminal" in before.text
    assert '<span class="tag wanted">wanted</span>' in wanted.text
    assert '<span class="tag removing">removing</span>' in removing.text
    assert strange.status_code == 404


async def test_two_who_place_a_person_at_once_both_do(inside: Office, db: Database) -> None:
    tenant_id = inside.tenant.tenant.id
    async with db.write(tenant_id) as session:
        person, _ = await roster.upsert(session, tenant_id, Person("55", {}))
        at = [await devices.register(session, tenant_id, f"DOOR{n}", time_zone="UTC") for n in range(8)]
        await (await driver(session)).execute("UPDATE devices SET status = 'ACTIVE' WHERE tenant_id = $1", tenant_id)
    path = f"employees/{ids.show('emp', person.id)}/placements"

    await asyncio.gather(*(inside.post(path, device=ids.show("dev", device.id), do="add") for device in at))

    async with db.read(tenant_id) as session:
        placed = (await placements.by_pins(session, tenant_id, ["55"]))["55"]
    assert {each.device_id for each in placed if each.state == "WANTED"} == {device.id for device in at}


async def test_a_terminals_page_tells_what_passed_between_it_and_us(inside: Office) -> None:
    link = Link(f"http://127.0.0.1:{inside.server.port}/d/{inside.tenant.enrollment_token}")
    await inside.punch("101", "102")
    await link.post(f"/iclock/cdata?SN={SERIAL}&table=ATTLOG&Stamp=9999", b"no line at all\n")
    await link.post(
        f"/iclock/cdata?SN={SERIAL}&table=OPERLOG&Stamp=1", b"OPLOG 4\t14\t2026-03-01 08:00:00\t0\t0\t0\t0\n"
    )
    await inside.post(f"devices/{inside.device_id}/commands", do="refreshInfo")
    polled = await link.get(f"/iclock/getrequest?SN={SERIAL}")
    number = polled.body.split(b":")[1]
    await link.post(f"/iclock/devicecmd?SN={SERIAL}", b"ID=%b&Return=0&CMD=INFO\n" % number)

    async with asyncio.timeout(PATIENCE):
        while "Came online" not in (await inside.http.get(f"/dashboard/devices/{inside.device_id}")).text:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    page = (await inside.http.get(f"/dashboard/devices/{inside.device_id}")).text
    entries = [
        " ".join(re.sub(r"<[^>]+>", " ", entry).split()) for entry in re.findall(r"<li class=.*?</li>", page, re.DOTALL)
    ]
    told = [entry.partition(" UTC ")[2] for entry in entries]

    assert "Sent 2 punches" in told
    assert "Was told refreshInfo" in told
    assert "Reported on refreshInfo succeeded" in told
    assert "Sent 1 record of OPERLOG" in told
    assert any(entry.startswith("Sent a line that cannot be read:") for entry in told)
    assert "Bound: it is heard from here on" in told
    times = [entry.partition(" UTC ")[0] for entry in entries]
    assert times == sorted(times, reverse=True)


async def test_a_timeline_has_nothing_of_another_tenants_terminal_and_nothing_of_a_neighbour(
    inside: Office, db: Database, vault: Vault
) -> None:
    await inside.punch("101")
    async with db.across("operate") as connection:
        other = await tenants.create(connection, vault, "Other")
    mine, theirs = inside.tenant.tenant.id, other.tenant.id
    async with db.write(mine) as session:
        neighbour = await devices.register(session, mine, "NEIGHBOUR", time_zone="UTC")
    device_id = ids.read("dev", inside.device_id)

    async with db.read(mine) as session:
        ours = await contacts.timeline(session, mine, device_id)
        beside = await contacts.timeline(session, mine, neighbour.id)
    async with db.read(theirs) as session:
        stolen = await contacts.timeline(session, mine, device_id)

    assert ours != []
    assert (beside, stolen) == ([], [])


async def test_a_replay_tells_its_page_how_far_it_is(inside: Office, db: Database, vault: Vault) -> None:
    await inside.punch("101")
    made = await inside.post("webhooks", url="http://127.0.0.1:9999/")
    [path] = re.findall(r"/dashboard/(webhooks/whk_\w+)", made.text)
    started = await inside.post(path, do="replay", since="2020-01-01T00:00")
    [replay] = re.findall(r"replay=(rep_\w+)", started.headers["location"])

    told = await inside.http.get(f"/dashboard/webhooks/replays/{replay}")
    unknown = await inside.http.get(f"/dashboard/webhooks/replays/{ids.show('rep', ids.new())}")

    assert told.json() == {"status": "RUNNING", "done": 0, "total": None}
    assert unknown.status_code == 404


def test_a_file_of_a_spreadsheet_is_read() -> None:
    read = read_csv('\ufeffPIN;Name;External ID\r\n0001;"Alaoui; Amina";\r\n\r\n')

    assert [(person.pin, dict(person.changes)) for person in read.good] == [
        ("0001", {"name": "Alaoui; Amina", "external_id": None})
    ]


async def test_a_webhook_is_made_tested_and_its_attempts_are_shown(inside: Office) -> None:
    made = await inside.post("webhooks", url="http://127.0.0.1:9999/", type=["punch.created", "webhook.test"])
    [path] = re.findall(r"/dashboard/(webhooks/whk_\w+)", made.text)
    tested = await inside.post(path, do="test")
    page = await inside.http.get(tested.headers["location"])
    rotated = await inside.post(path, do="rotate")
    paused = await inside.post(path, do="pause")
    listed = await inside.http.get("/dashboard/webhooks")
    gone = await inside.post(path, do="delete")

    assert re.search(r"whsec_[\w+/=]+", made.text)
    assert "webhook.test" in page.text
    assert "PENDING" in page.text.upper()
    assert re.search(r"whsec_[\w+/=]+", rotated.text)
    assert (paused.status_code, gone.status_code) == (303, 303)
    assert "whsec_" not in listed.text
    assert "No endpoint yet" in (await inside.http.get("/dashboard/webhooks")).text


async def test_a_period_is_replayed_to_a_webhook(inside: Office) -> None:
    await inside.punch("101")
    made = await inside.post("webhooks", url="http://127.0.0.1:9999/")
    [path] = re.findall(r"/dashboard/(webhooks/whk_\w+)", made.text)

    started = await inside.post(path, do="replay", since="2020-01-01T00:00")
    page = await inside.http.get(started.headers["location"])
    refused = await inside.post(path, do="replay", since="yesterday")

    assert started.status_code == 303
    assert 'Replay <span class="tag running">running</span>' in page.text
    assert refused.status_code == 400


async def test_a_webhook_to_a_forbidden_place_is_refused(inside: Office) -> None:
    refused = await inside.post("webhooks", url="http://10.0.0.1/")

    assert refused.status_code == 400
    assert "webhook_url_forbidden" in refused.text


async def test_a_key_is_made_shown_once_and_revoked(inside: Office) -> None:
    made = await inside.post("keys", name="payroll", scope=["punches:read"])
    [secret] = re.findall(r"pc_live_\w{49}", made.text)
    listed = await inside.http.get("/dashboard/keys")
    paths = re.findall(r'action="/dashboard/(keys/key_\w+)"', listed.text)
    revoked = await inside.post(paths[0], do="revoke")

    assert secret not in listed.text
    assert "payroll" in listed.text
    assert revoked.status_code == 303
    assert "revoked" in (await inside.http.get("/dashboard/keys")).text


ONCE = [
    ("keys", "keys", {"name": "payroll", "scope": "punches:read"}, "apiKeyCreate"),
    ("keys", "KEY", {"do": "rotate"}, "apiKeyRotate"),
    ("webhooks", "webhooks", {"url": "http://127.0.0.1:9999/"}, "webhookEndpointCreate"),
    ("ENDPOINT", "ENDPOINT", {"do": "rotate"}, "webhookEndpointRotateSecret"),
    ("ENDPOINT", "ENDPOINT", {"do": "test"}, "webhookEndpointTest"),
]
SECRET = re.compile(r"pc_live_\w{49}|whsec_[\w+/=]{20,}")


@pytest.fixture
async def endpoint(inside: Office, db: Database, vault: Vault) -> str:
    """The path of an endpoint that is there."""
    async with db.write(inside.tenant.tenant.id) as session:
        made, _ = await endpoints.create(
            session, inside.tenant.tenant.id, "https://r.example/", description=None, event_types=(),
            check_url=lambda _: None, vault=vault,
        )  # fmt: skip
    return f"webhooks/{ids.show('whk', made.id)}"


@pytest.mark.parametrize("case", ONCE, ids=[case[3] for case in ONCE])
async def test_a_form_that_is_sent_again_does_nothing_again_and_says_so(
    inside: Office, db: Database, endpoint: str, case: tuple[str, str, dict[str, str], str]
) -> None:
    names = {"ENDPOINT": endpoint, "KEY": f"keys/{ids.show('key', inside.tenant.api_key_id)}"}
    page, path = (names.get(name, name) for name in case[:2])
    _, _, fields, action = case
    form = {**await _hidden(inside, page, path), **fields}

    first = await inside.http.post(f"/dashboard/{path}", data=form)
    second = await inside.http.post(f"/dashboard/{path}", data=form)
    shown = [await inside.http.get(answer.headers["location"]) for answer in (first, second) if answer.is_redirect]

    assert await _deeds(db, inside, action) == 1
    if action == "webhookEndpointTest":
        assert len({str(answer.url.copy_with(query=None)) for answer in shown}) == 1
        assert "This was done already" in shown[1].text
    else:
        assert (first.status_code, second.status_code) == (200, 200)
        assert len(SECRET.findall(first.text)) == 1
        assert SECRET.findall(second.text) == []
        assert "This was done already" in second.text
    assert form["once"] != (await _hidden(inside, page, path))["once"]


@pytest.mark.parametrize("case", ONCE, ids=[case[3] for case in ONCE])
async def test_a_form_that_is_sent_many_times_at_once_is_done_once(
    inside: Office, db: Database, endpoint: str, case: tuple[str, str, dict[str, str], str]
) -> None:
    names = {"ENDPOINT": endpoint, "KEY": f"keys/{ids.show('key', inside.tenant.api_key_id)}"}
    page, path = (names.get(name, name) for name in case[:2])
    _, _, fields, action = case
    form = {**await _hidden(inside, page, path), **fields}

    answers = await asyncio.gather(*(inside.http.post(f"/dashboard/{path}", data=form) for _ in range(5)))

    assert await _deeds(db, inside, action) == 1
    assert sum(len(SECRET.findall(answer.text)) for answer in answers) == (action != "webhookEndpointTest")


async def test_a_form_that_was_refused_can_be_mended_and_one_that_was_used_cannot_be_used_for_something_else(
    inside: Office, db: Database
) -> None:
    form = {**await _hidden(inside, "keys", "keys"), "name": "payroll", "scope": "punches:read"}

    refused = await inside.http.post("/dashboard/keys", data={**form, "days": "many"})
    mended = await inside.http.post("/dashboard/keys", data={**form, "days": "30"})
    changed = await inside.http.post("/dashboard/keys", data={**form, "days": "60"})
    without = await inside.http.post("/dashboard/keys", data={**form, "once": ""})

    assert [answer.status_code for answer in (refused, mended, changed, without)] == [400, 200, 409, 400]
    assert "Load its page again" in changed.text
    assert await _deeds(db, inside, "apiKeyCreate") == 1


@pytest.mark.parametrize("days", ["0", "-1", "3651", "1.5", "00", "nan"])
async def test_a_key_is_not_made_for_no_days(inside: Office, db: Database, days: str) -> None:
    refused = await inside.post("keys", name="payroll", scope="punches:read", days=days)

    assert refused.status_code == 400
    assert await _deeds(db, inside, "apiKeyCreate") == 0


async def test_a_key_ends_after_the_days_that_were_written_or_never(inside: Office, db: Database) -> None:
    await inside.post("keys", name="for a day", scope="punches:read", days="1")
    await inside.post("keys", name="for good", scope="punches:read", days="")

    async with db.read(inside.tenant.tenant.id) as session:
        rows = await (await driver(session)).fetch(
            "SELECT name, round(extract(epoch FROM expires_at - created_at) / 86400)::integer FROM api_keys "
            "WHERE tenant_id = $1 AND name LIKE 'for %' ORDER BY name",
            inside.tenant.tenant.id,
        )
    assert [tuple(row) for row in rows] == [("for a day", 1), ("for good", None)]


async def _hidden(office: Office, page: str, path: str) -> dict[str, str]:
    """What the form of a page that goes to `path` brings along by itself."""
    text = (await office.http.get(f"/dashboard/{page}")).text
    form = text.partition(f'action="/dashboard/{path}"')[2].partition("</form>")[0]
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form))


async def _deeds(db: Database, office: Office, action: str) -> int:
    """How often it was done, by the audit log."""
    async with db.read(office.tenant.tenant.id) as session:
        done: int = await (await driver(session)).fetchval(
            "SELECT count(*) FROM audit_entries WHERE tenant_id = $1 AND action = $2 AND source = 'DASHBOARD'",
            office.tenant.tenant.id,
            action,
        )
    return done


# ── the stream ───────────────────────────────────────────────────────────────────────────────────────


async def test_the_stream_tells_of_punches_and_resumes_after_its_last_id(inside: Office) -> None:
    await inside.http.get("/dashboard/")
    async with _stream(inside) as messages:
        first = await anext(messages)
        await inside.punch("101", "102")
        heard = await _until(messages, 2)
    await inside.punch("103")
    async with _stream(inside, {"Last-Event-ID": heard[-1]["id"]}) as messages:
        missed = await _until(messages, 1)

    assert first["data"]["punches"] == []
    assert [punch["who"] or punch["pin"] for message in heard for punch in message["data"]["punches"]] == [
        "Zoë <b>Çelik</b>",
        "102",
    ]
    assert [punch["pin"] for message in missed for punch in message["data"]["punches"]] == ["103"]


async def test_the_stream_ends_with_its_key(inside: Office, db: Database) -> None:
    async with _stream(inside) as messages:
        await anext(messages)
        async with db.across("operate") as connection:
            await keys.revoke_any(connection, inside.tenant.api_key_id)
        async with asyncio.timeout(PATIENCE):
            while (message := await anext(messages))["event"] != "ended":
                pass

    assert message["event"] == "ended"


async def test_a_stopping_server_ends_its_streams_at_once_and_signs_nobody_out(inside: Office) -> None:
    async with _stream(inside) as messages:
        heard = [await anext(messages)]
        stopping = asyncio.create_task(inside.server.__aexit__(None, None, None))
        # One that waits to be given up on is cut off in the middle: an error here.
        heard += [message async for message in messages]
        await stopping

    assert [message["event"] for message in heard] == ["message"]


async def test_a_browser_that_takes_nothing_does_not_hold_up_a_stopping_server(
    inside: Office, caplog: pytest.LogCaptureFixture
) -> None:
    server: Any = inside.server._uvicorn
    server.config.timeout_graceful_shutdown = 60
    cookie = "; ".join(f"{one.name}={one.value}" for one in inside.http.cookies.jar)
    with socket.socket() as browser:
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        browser.connect(("127.0.0.1", inside.server.port))
        browser.sendall(
            request("GET", "/dashboard/live/events", headers={"Cookie": cookie, "Connection": "keep-alive"})
        )
        async with asyncio.timeout(60):
            while not (streams := [one for one in server.server_state.connections if _streams(one)]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            [stuck] = streams
            stuck.transport.set_write_buffer_limits(high=0)
            stuck.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
            pins = 0
            while not stuck.flow.write_paused:
                await inside.punch(*(str(5000 + pins + n) for n in range(50)))
                await asyncio.sleep(0.05)
                pins += 50

        await inside.server.__aexit__(None, None, None)

    assert "graceful shutdown exceeded" not in caplog.text


def _streams(connection: Any) -> bool:
    cycle = getattr(connection, "cycle", None)
    return cycle is not None and cycle.scope["path"] == "/dashboard/live/events" and cycle.response_started


async def test_a_key_has_so_many_streams_and_no_more(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault
) -> None:
    async with opening(database_url, redis_server.url, db, vault, sockets_per_key=1) as office:
        await office.sign_in()
        async with _stream(office) as messages:
            await anext(messages)
            async with office.http.stream("GET", "/dashboard/live/events") as refused:
                pass

    assert refused.status_code == 429


@asynccontextmanager
async def _stream(
    office: Office, headers: dict[str, str] | None = None
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    async with office.http.stream("GET", "/dashboard/live/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def messages() -> AsyncIterator[dict[str, Any]]:
            message: dict[str, Any] = {"event": "message"}
            async for line in answer.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    message[name] = orjson.loads(value) if name == "data" else value
                else:
                    if "data" in message:
                        yield message
                    message = {"event": "message"}

        yield messages()


async def _until(messages: AsyncIterator[dict[str, Any]], punches: int) -> list[dict[str, Any]]:
    """Messages until that many punches came."""
    heard: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE):
        while sum(len(message["data"]["punches"]) for message in heard) < punches:
            heard.append(await anext(messages))
    return heard
