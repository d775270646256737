"""Every page in a real browser, light and dark, wide and narrow: no serious fault of accessibility, no error.

The pictures go to build/screenshots, to be looked at: `make screenshots`.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.database import Database
from app.domain import keys
from app.embedded import EmbeddedRedis
from app.simulator import Link
from app.vault import Vault
from tests.app.web.test_dashboard import SERIAL, Office, opening
from tests.conftest import SECRET_KEY
from tests.frontend_examples import browser
from tests.receiver import Receiver
from tests.server import Server

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "build" / "screenshots"
AXE = (Path(__file__).parent / "vendor" / "axe-4.14.1.min.js").read_text()
SIZES = {"wide": 1200, "narrow": 375}
#: Pixels, where a card with ten lines has some 320; a row in which one column was squeezed has a thousand.
HIGHEST_ROW = 400
#: What a terminal says of itself.
INFO = b"""~DeviceName=SpeedFace-V5L
MAC=00:17:61:12:f8:db
TransactionCount=4
~MaxAttLogCount=10
UserCount=3
~MaxUserCount=100
PhotoFunOn=0
FingerFunOn=1
FPVersion=10
FaceFunOn=1
FaceVersion=58
FWVersion=ZAM180-NF-1.1.7
"""

pytestmark = pytest.mark.full


@asynccontextmanager
async def working(database_url: str, redis_url: str) -> AsyncIterator[None]:
    """`punchconnect work`, beside the test."""
    environment = {
        "PUNCHCONNECT_DATABASE_URL": database_url,
        "PUNCHCONNECT_REDIS_URL": redis_url,
        "PUNCHCONNECT_SECRET_KEY": SECRET_KEY,
        "PUNCHCONNECT_LOG_LEVEL": "WARNING",
        "PUNCHCONNECT_WEBHOOK_ALLOW_HTTP": "true",
        "PUNCHCONNECT_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    }
    worker = await asyncio.create_subprocess_exec(sys.executable, "-m", "app.cli", "work", env=environment, cwd=ROOT)
    try:
        yield
    finally:
        worker.terminate()
        await worker.wait()


async def enter(page: browser.Page, office: Office) -> None:
    """Sign in as a person does."""
    await page.open(f"http://127.0.0.1:{office.server.port}/dashboard/")
    await page.until("location.pathname === '/dashboard/sign-in'")
    await page.ask(
        f"document.getElementById('key').value = '{office.tenant.api_key}'; document.forms[0].requestSubmit()"
    )
    await page.until("location.pathname === '/dashboard/' && document.readyState === 'complete'")


async def faults(page: browser.Page) -> list[str]:
    """What axe calls serious or critical."""
    await page.ask(f"{AXE}; null")
    found = await page.ask(
        "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations"
        ".filter(v => ['serious', 'critical'].includes(v.impact))"
        ".map(v => `${v.id}: ${v.nodes.map(n => n.html + ' ' + n.failureSummary).join(' | ').slice(0, 600)}`))"
    )
    return [str(fault) for fault in found]


def chromium() -> str:
    found = browser.find()
    if found is None:
        pytest.skip("no Chromium: on Debian, apt-get install chromium")
    return found


async def test_every_page_can_be_looked_at(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    executable = chromium()
    knobs: dict[str, Any] = {"webhook_allow_http": True, "webhook_allow_networks": "127.0.0.0/8", "signup": True}
    async with (
        Receiver() as receiver,
        opening(database_url, redis_server.url, db, vault, **knobs) as office,
        working(database_url, redis_server.url),
        browser.browsing(executable, tmp_path / "profile") as page,
    ):
        await office.sign_in()
        places = await _furnish(office, receiver.url("/hook"))
        found: dict[str, list[str]] = {}
        await page.open(f"http://127.0.0.1:{office.server.port}/dashboard/sign-in")
        await _look(page, "sign-in", found)
        await _sign_up(page, office.server.port, "Atlas Foods")
        await _look(page, "welcome", found)
        await page.do("Network.clearBrowserCookies")
        await page.open(f"http://127.0.0.1:{office.server.port}/dashboard/sign-up")
        await _look(page, "sign-up", found)
        await enter(page, office)
        for name, path in places.items():
            await page.open(f"http://127.0.0.1:{office.server.port}/dashboard/{path}")
            await _look(page, name, found)

    assert {name: faults for name, faults in found.items() if faults} == {}
    assert page.problems == []


async def test_the_playground_and_the_documentation_can_be_looked_at(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    executable = chromium()
    places = {"playground": "playground", "docs": "docs/", "docs-quickstart": "docs/guides/quickstart/"}
    titles = {}
    async with (
        opening(database_url, redis_server.url, db, vault) as office,
        browser.browsing(executable, tmp_path / "profile") as page,
    ):
        for name, path in places.items():
            for size, width in SIZES.items():
                for dark in (False, True):
                    picture = PICTURES / f"{name}-{size}-{'dark' if dark else 'light'}.png"
                    await page.picture(picture, width=width, height=900, dark=dark)  # they look once, when opened
                    await page.open(f"http://127.0.0.1:{office.server.port}/{path}")
                    await page.until("document.readyState === 'complete'")
                    await page.picture(picture, width=width, height=900, dark=dark)
            titles[name] = await page.ask("document.title")

    assert "Playground" in titles["playground"]
    assert "Quickstart" in titles["docs-quickstart"]
    assert page.problems == []


async def _look(page: browser.Page, name: str, found: dict[str, list[str]]) -> None:
    for size, width in SIZES.items():
        for dark in (False, True):
            picture = f"{name}-{size}-{'dark' if dark else 'light'}"
            await page.picture(PICTURES / f"{picture}.png", width=width, height=900, dark=dark, whole=True)
            found[picture] = await faults(page)
            if await page.ask("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                found[picture].append("wider than the screen")


async def _furnish(office: Office, url: str) -> dict[str, str]:
    """Something of everything; the pages to look at, by name."""
    for pin, name in (("102", "Brahim Berrada"), ("103", "Chaimae Cherkaoui"), ("104", "Driss Drissi")):
        await office.post("employees", pin=pin, name=name, external_id=f"E-{pin}")
    await office.post("devices/site", name="Main gate", zone="Africa/Casablanca")
    new = await office.post("devices/add", serial="CQZ7224460246", name="Side door", zone="Africa/Casablanca")
    link = Link(f"http://127.0.0.1:{office.server.port}/d/{office.tenant.enrollment_token}")
    await link.get("/iclock/cdata?SN=STRANGER1&options=all&pushver=2.4.1")
    made = await office.post("webhooks", url=url, description="Payroll")
    webhook = made.text.partition('href="/dashboard/webhooks/')[2].partition('"')[0]
    await office.punch("101", "102", "103", "999")
    await office.punch("104", late=timedelta(hours=3))
    await office.post(f"devices/{office.device_id}/commands", do="refreshInfo")
    polled = await link.get(f"/iclock/getrequest?SN={SERIAL}")
    number = polled.body.split(b":")[1]
    await link.post(f"/iclock/devicecmd?SN={SERIAL}", b"ID=%b&Return=0&CMD=INFO\n%b" % (number, INFO))
    await link.post(f"/iclock/cdata?SN={SERIAL}&table=ATTLOG&Stamp=9999", b"no line at all\n")
    tested = await office.post(f"webhooks/{webhook}", do="test")
    await office.post("keys", name="payroll", scope=["punches:read", "employees:read"])
    people = (await office.http.get("/dashboard/employees")).text
    await office.post(f"{_first(people, 'employees/emp_')}/placements", device=office.device_id, do="add")
    delivery = tested.headers["location"].partition("?")[0]
    async with asyncio.timeout(30):
        while "delivered" not in (await office.http.get(delivery)).text:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return {
        "live": "",
        "devices": "devices",
        "device-add": "devices/add",
        "device-new": new.headers["location"].removeprefix("/dashboard/"),
        "device": f"devices/{office.device_id}",
        "punches": "punches",
        "employees": "employees",
        "employee": _first(people, "employees/emp_"),
        "import": "employees/import",
        "webhooks": "webhooks",
        "webhook": f"webhooks/{webhook}",
        "delivery": delivery.removeprefix("/dashboard/"),
        "keys": "keys",
        "audit": "audit",
        "plan": "plan",
        "refused": "devices/nothing",
    }


#: What is wider than it may be: the page than the window, a control than the box that it is in.
TOO_WIDE = """
(() => {
  const edge = document.documentElement.clientWidth, all = document.documentElement.scrollWidth;
  const found = all > edge ? [`the page is ${all} px`] : [];
  const controls = 'main :is(input:not([type=hidden]), select, textarea, button, .button)';
  for (const each of document.querySelectorAll(controls)) {
    const {right} = each.getBoundingClientRect(), box = each.closest('.scroll')?.getBoundingClientRect().right ?? edge;
    if (right > box) found.push(`${each.outerHTML.slice(0, 80)} ends at ${right} of ${box}`);
  }
  return found;
})()
"""
HIGHEST = "Math.max(0, ...[...document.querySelectorAll('tbody tr')].map(row => row.getBoundingClientRect().height))"
NAMES = {"ordinary": "", "words": "Weighbridge " * 9 + "Weighbridge", "one-word": "W" * 119}


@pytest.mark.parametrize("names", NAMES)
async def test_no_page_is_wider_than_a_telephone(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, *, tmp_path: Path, names: str
) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    executable = chromium()
    knobs: dict[str, Any] = {"webhook_allow_http": True, "webhook_allow_networks": "127.0.0.0/8"}
    wide: dict[str, list[str]] = {}
    high: dict[str, float] = {}
    async with (
        Receiver() as receiver,
        opening(database_url, redis_server.url, db, vault, **knobs) as office,
        working(database_url, redis_server.url),
        browser.browsing(executable, tmp_path / "profile") as page,
    ):
        await office.sign_in()
        places = await _furnish(office, receiver.url("/hook"))
        if NAMES[names]:
            await _lengthen(office, places, receiver.url("/"), NAMES[names])
        await enter(page, office)
        for name, path in {**places, "stray": "sites"}.items():
            await page.open(f"http://127.0.0.1:{office.server.port}/dashboard/{path}")
            await page.ask("document.querySelectorAll('details').forEach(each => { each.open = true })")
            for dark in (True, False):
                picture = PICTURES / f"{name}-{names}-{'dark' if dark else 'light'}.png"
                await page.picture(picture, width=SIZES["narrow"], height=900, dark=dark, whole=True)
            wide[name], high[name] = await page.ask(TOO_WIDE), await page.ask(HIGHEST)
            for width in (700, 1000, 1200):
                await page.picture(PICTURES / f"{name}-{names}-{width}.png", width=width, height=900, whole=True)
                wide[f"{name}, {width}"] = await page.ask(TOO_WIDE)
                high[f"{name}, {width}"] = await page.ask(HIGHEST)

    assert {name: found for name, found in wide.items() if found} == {}
    assert {name: height for name, height in high.items() if height > HIGHEST_ROW and names == "ordinary"} == {}
    assert page.problems == []


async def _lengthen(office: Office, places: dict[str, str], url: str, name: str) -> None:
    """A long name for whatever has one."""

    async def write(path: str, **fields: str | list[str]) -> None:
        answer = await office.post(path, **fields)
        assert answer.status_code in {200, 303}, answer.text

    await write("devices/site", name=f"{name}s", zone="Africa/Casablanca")
    sites = re.findall(r'value="(sit_\w+)"[^>]*>(W?)', (await office.http.get("/dashboard/devices/add")).text)
    [site] = [site for site, long in sites if long]
    for device in (places["device"], places["device-new"]):
        await write(device, do="save", name=f"{name}d", site=site, zone="UTC")
    for person in set(re.findall(r"employees/emp_\w+", (await office.http.get("/dashboard/employees")).text)):
        await write(person, name=f"{name}p", external_id=f"{name}x")
    await write("webhooks", url=f"{url}{name.replace(' ', '-')}", description=f"{name}e")
    await write("keys", name=f"{name}k", scope=["punches:read"])


def _first(text: str, start: str) -> str:
    return start + text.partition(start)[2].partition('"')[0]


async def _sign_up(page: browser.Page, port: int, company: str) -> str:
    """As a stranger does; the key that is shown."""
    await page.open(f"http://127.0.0.1:{port}/dashboard/")
    await page.until("location.pathname === '/dashboard/sign-in'")
    await page.ask("document.querySelector('a[href=\"/dashboard/sign-up\"]').click()")
    await page.until("document.activeElement?.id === 'company' && document.readyState === 'complete'")
    await page.do("Input.insertText", text=company)
    await page.ask("document.getElementById('email').value = 'office@atlas.example'")
    await page.ask("document.querySelector('main form').requestSubmit()")
    await page.until("document.getElementById('secret') !== null && document.readyState === 'complete'")
    return str(await page.ask("document.getElementById('secret').textContent"))


async def test_a_first_visit_goes_from_the_sign_up_to_the_first_punch_without_leaving_the_browser(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    executable = chromium()
    async with (
        opening(database_url, redis_server.url, db, vault, signup=True) as office,
        browser.browsing(executable, tmp_path / "profile") as page,
    ):
        home = f"http://127.0.0.1:{office.server.port}"
        key = await _sign_up(page, office.server.port, "Atlas <b>Foods</b>")
        await page.ask("document.querySelector('a.button').click()")
        await page.until("document.activeElement?.id === 'serial' && document.readyState === 'complete'")
        await page.do("Input.insertText", text="FIRST0001")
        zone = await page.ask("document.getElementById('zone').value")
        await page.ask("document.getElementById('zone').value = 'UTC'")
        await page.ask("document.querySelector('main form').requestSubmit()")
        await page.until("document.getElementById('contact') !== null")
        address = await page.ask(
            "[...document.querySelectorAll('code')].map(c => c.innerText).find(c => c.includes('/d/'))"
        )

        terminal = Link(home + urlsplit(address).path)
        await terminal.get("/iclock/cdata?SN=FIRST0001&options=all&pushver=2.4.1")
        await page.until("document.querySelector('.tag.online') !== null && document.readyState === 'complete'")
        await page.open(f"{home}/dashboard/")
        await page.until("document.getElementById('state').dataset.state === 'live'")
        line = f"7\t{datetime.now(UTC):%Y-%m-%d %H:%M:%S}\t0\t15\t0\t0\t0\n"
        answer = await terminal.post("/iclock/cdata?SN=FIRST0001&table=ATTLOG&Stamp=9999", line.encode())
        await page.until("document.querySelectorAll('#punches tr').length === 1")
        shown = await page.ask("document.querySelector('#punches tr').innerText")

    assert key.startswith("pc_live_")
    assert zone != ""  # the browser's own, to begin with
    assert answer.body == b"OK: 1"
    assert " ".join(shown.split()).startswith("PIN 7 FIRST0001")
    assert page.problems == []


async def test_the_live_page_shows_punches_over_a_restart_and_ends_with_its_key(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    executable = chromium()
    async with (
        opening(database_url, redis_server.url, db, vault) as office,
        browser.browsing(executable, tmp_path / "profile") as page,
    ):
        await enter(page, office)
        await page.until("document.getElementById('state').dataset.state === 'live'")
        await office.punch("101")
        await office.punch("104", late=timedelta(hours=3))
        await page.until("document.querySelectorAll('#punches tr').length === 2")

        await office.server.__aexit__(None, None, None)
        await page.until("document.getElementById('state').dataset.state === 'waiting'")
        async with Server(database_url, redis_url=redis_server.url, port=office.server.port):
            await office.punch("102")
            await page.until("document.querySelectorAll('#punches tr').length === 3")
            shown = await page.ask("[...document.querySelectorAll('#punches tr')].map(r => r.innerText)")
            figures = await page.ask("document.getElementById('total').textContent")
            async with db.across("operate") as connection:
                await keys.revoke_any(connection, office.tenant.api_key_id)
            await page.until("location.pathname === '/dashboard/sign-in'")

    rows = [" ".join(row.split()) for row in shown]
    assert rows[0].startswith("PIN 102 Front door")
    assert rows[1].startswith("PIN 104 Front door")
    assert "late 3 h" in rows[1]
    assert rows[2].startswith("Zoë <b>Çelik</b> Front door")
    assert figures == "3"


async def test_signing_out_in_one_tab_ends_the_live_page_in_another(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    executable = chromium()
    async with (
        opening(database_url, redis_server.url, db, vault) as office,
        browser.browsing(executable, tmp_path / "profile") as page,
        page.beside() as other,
    ):
        await enter(page, office)
        await page.until("document.getElementById('state').dataset.state === 'live'")
        await other.open(f"http://127.0.0.1:{office.server.port}/dashboard/devices")
        await page.until("document.getElementById('state').dataset.state === 'live'")

        await other.ask("document.querySelector('form[action=\"/dashboard/sign-out\"]').requestSubmit()")
        await other.until("location.pathname === '/dashboard/sign-in'")
        await page.until("location.pathname === '/dashboard/sign-in'")

    assert page.problems + other.problems == []


async def test_a_second_click_does_not_hide_what_the_first_one_shows(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    executable = chromium()
    async with (
        opening(database_url, redis_server.url, db, vault) as office,
        browser.browsing(executable, tmp_path / "profile") as page,
    ):
        await enter(page, office)
        await page.open(f"http://127.0.0.1:{office.server.port}/dashboard/keys")
        sent = await page.ask(
            "(() => { const sent = [], form = document.querySelector('form[action=\"/dashboard/keys\"]');"
            "addEventListener('submit', (event) => sent.push(!event.defaultPrevented));"
            "form.querySelector('#name').value = 'payroll'; form.querySelector('[name=scope]').checked = true;"
            "const button = form.querySelector('button'); button.click(); button.click(); return sent; })()"
        )
        await page.until("document.getElementById('secret') !== null")

    assert sent == [True, False]
    assert page.problems == []


async def test_a_replay_moves_on_before_ones_eyes_until_all_of_it_was_delivered_again(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    executable = chromium()
    knobs: dict[str, Any] = {"webhook_allow_http": True, "webhook_allow_networks": "127.0.0.0/8"}
    async with (
        Receiver() as receiver,
        opening(database_url, redis_server.url, db, vault, **knobs) as office,
        browser.browsing(executable, tmp_path / "profile") as page,
    ):
        await office.sign_in()
        made = await office.post("webhooks", url=receiver.url("/hook"), type=["punch.created"])
        webhook = made.text.partition('href="/dashboard/webhooks/')[2].partition('"')[0]
        async with working(database_url, redis_server.url):
            await office.punch("101", "102", "103")
            await receiver.count(3)
        await enter(page, office)
        await page.open(f"http://127.0.0.1:{office.server.port}/dashboard/webhooks/{webhook}")
        await page.ask("document.querySelector('input[name=since]').value = '2020-01-01T00:00'")
        await page.ask("document.querySelector('button[value=replay]').click()")
        await page.until("document.querySelector('[data-follow]') !== null && document.readyState === 'complete'")
        begun = await page.ask("document.querySelector('[data-count]').innerText")
        await page.ask("window.untouched = true")
        async with working(database_url, redis_server.url):
            # Nobody reloads: the page does, once it is over.
            await page.until("document.querySelector('.tag.completed') !== null && window.untouched === undefined")
            ended = await page.ask("document.querySelector('[data-count]').innerText")
        await receiver.count(6)
        sent = len(receiver.to("/hook"))

    assert begun == "0 of … ended"
    assert ended == "3 of 3 ended"
    assert sent == 6
    assert page.problems == []


async def test_a_file_with_a_bad_row_is_looked_through_and_its_good_rows_are_imported(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    executable = chromium()
    file = tmp_path / "people.csv"
    rows = "".join(f"{n},Person {n}\r\n" for n in range(3000, 4200))
    file.write_text("PIN,Name\r\n" + rows + "not a pin,Nobody\r\n")
    async with (
        opening(database_url, redis_server.url, db, vault) as office,
        browser.browsing(executable, tmp_path / "profile") as page,
    ):
        await enter(page, office)
        await page.open(f"http://127.0.0.1:{office.server.port}/dashboard/employees/import")
        root = (await page.do("DOM.getDocument"))["root"]["nodeId"]
        chosen = (await page.do("DOM.querySelector", nodeId=root, selector="#file"))["nodeId"]
        await page.do("DOM.setFileInputFiles", nodeId=chosen, files=[str(file)])
        await page.until("document.getElementById('csv').value.length > 1000")
        await page.ask("document.querySelector('button[value=preview]').click()")
        await page.until("document.getElementById('bad') !== null && document.readyState === 'complete'")
        bad = await page.ask("[...document.querySelectorAll('tr.bad > *')].map(cell => cell.innerText)")
        serious = await faults(page)
        await page.picture(PICTURES / "import-preview-wide-light.png", width=1200, height=900)
        await page.ask("document.querySelector('button[value=import]').click()")
        await page.until("document.querySelector('main .done') !== null && document.readyState === 'complete'")
        bars = await page.ask(
            "[...document.querySelectorAll('progress')].map(bar => [bar.value, bar.offsetHeight > 0])"
        )
        told = await page.ask("document.querySelector('main .done').innerText")

    assert bad == ["1202", "A PIN has 1 to 24 letters or digits.", "not a pin, Nobody"]
    assert serious == []
    assert bars == [[500, False], [1000, False], [1200, True]]
    assert told == "1200 people were written; 1 row was left out."
    assert page.problems == []


async def test_a_device_is_added_by_keyboard_and_mouse_and_its_first_contact_is_seen(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    executable = chromium()
    async with (
        opening(database_url, redis_server.url, db, vault) as office,
        browser.browsing(executable, tmp_path / "profile") as page,
    ):
        await enter(page, office)
        await page.open(f"http://127.0.0.1:{office.server.port}/dashboard/devices/add")
        await page.until("document.activeElement?.id === 'serial'")
        await page.do("Input.insertText", text="NEWDOOR1")
        await page.ask("document.getElementById('name').value = 'New door'")
        await page.ask("document.getElementById('zone').value = 'UTC'")
        await page.ask("document.querySelector('main form').requestSubmit()")
        await page.until("document.getElementById('contact') !== null")
        before = await page.text()

        link = Link(f"http://127.0.0.1:{office.server.port}/d/{office.tenant.enrollment_token}")
        await link.get("/iclock/cdata?SN=NEWDOOR1&options=all&pushver=2.4.1")
        await page.until(
            "document.getElementById('contact') === null && document.querySelector('.tag.online') !== null"
        )
        after = await page.text()

    assert "Waiting for its first contact" in before
    assert "NEWDOOR1" in after
    assert page.problems == []
