"""The live feed page: what it is made of, and how it behaves in a real browser while servers die."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from graphql import parse, validate

from app.database import Database
from app.domain import devices, keys, roster, tenants
from app.domain.roster import Person
from app.embedded import EmbeddedRedis
from app.simulator import Link
from app.vault import Vault
from schema import schema
from tests.conftest import SECRET_KEY
from tests.frontend_examples import browser
from tests.server import listen

FOLDER = Path(__file__).parents[2] / "frontend-examples" / "live-feed"
PAGE = (FOLDER / "index.html").read_text()
SERIAL = "LIVEFEED0001"
READY_WITHIN = 30
STOPPED_WITHIN = 20


def test_the_client_in_the_folder_is_the_published_one() -> None:
    digest = hashlib.sha256((FOLDER / "vendor" / "graphql-ws-6.4.2.js").read_bytes()).hexdigest()

    assert digest == "2f1b42cb7df7074f573a0cb57d0270b26f2f86b87474600ab868ed6ad281dd4a"
    assert "MIT License" in (FOLDER / "vendor" / "graphql-ws-LICENSE.md").read_text()


def test_the_page_loads_nothing_from_elsewhere() -> None:
    scripts = re.findall(r'(?:src|href)="([^"]+)"', PAGE)

    assert scripts == ["data:,", "vendor/graphql-ws-6.4.2.js"]
    assert "http://" not in PAGE
    assert "https://" not in PAGE


def test_what_the_page_subscribes_to_is_in_the_schema() -> None:
    [query] = re.findall(r"const QUERY = `(.*?)`", PAGE, re.DOTALL)

    assert validate(schema._schema, parse(query)) == []


@pytest.mark.full
async def test_the_page_misses_nothing_while_its_server_is_killed(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    chromium = _chromium()
    world = await _world(db, vault)
    env = _environment(database_url, redis_server.url)
    port, twin_port = _free_port(), _free_port()
    async with serving(twin_port, env), browser.browsing(chromium, tmp_path / "profile") as page:
        with _static() as site:
            async with serving(port, env) as server:
                await page.open(f"{site}#{urlencode({'url': f'ws://127.0.0.1:{port}/graphql', 'key': world.api_key})}")
                await page.until("document.getElementById('state').dataset.state === 'live'")
                await world.punch(port, "101", "102")
                await world.punch(port, "103", late=timedelta(hours=3))
                await page.until("document.querySelectorAll('[data-punch]').length === 3")

                server.send_signal(signal.SIGKILL)
                await server.wait()
                await page.until("document.getElementById('state').dataset.state === 'waiting'")
                await world.punch(twin_port, "104", "105")
            async with serving(port, env):
                await world.punch(twin_port, "106")
                await page.until("document.querySelectorAll('[data-punch]').length >= 6")
                await page.until("document.getElementById('state').dataset.state === 'live'")
                shown = await _shown(page)
                await page.picture(tmp_path / "wide.png")
                await page.picture(tmp_path / "phone.png", width=375, height=740, dark=True)
                text = " ".join((await page.text()).split())
                late = await page.ask(
                    "[...document.querySelectorAll('.late')]"
                    ".map(tag => `${tag.textContent} ${tag.closest('li').querySelector('.who').innerText}`)"
                )

                await page.do("Page.navigate", url="about:blank")
                await world.punch(port, "107")
                await page.open(site)
                await page.until("document.querySelectorAll('[data-punch]').length >= 1")
                await world.punch(port, "108")
                await page.until("document.querySelectorAll('[data-punch]').length >= 2")
                after_reload = await _shown(page)

    assert shown == ["PIN 106", "PIN 105", "PIN 104", "PIN 103", "PIN 102", "Zoë <b>Çelik</b> PIN 101"]
    assert "Punches 6 Still to come 0 Resumed 1" in text
    assert late == ["late 3 h PIN 103"]
    assert after_reload == ["PIN 108", "PIN 107"]
    assert page.problems == []


@pytest.mark.full
async def test_the_page_keeps_its_key_to_itself_and_says_when_it_is_refused(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    chromium = _chromium()
    world = await _world(db, vault)
    port = _free_port()
    async with (
        serving(port, _environment(database_url, redis_server.url)),
        browser.browsing(chromium, tmp_path / "profile") as page,
    ):
        with _static() as site:
            address = {"url": f"ws://127.0.0.1:{port}/graphql", "key": world.api_key}
            await page.open(f"{site}#{urlencode(address)}")
            await page.until("document.getElementById('state').dataset.state === 'live'")
            seen = await page.ask("location.href")

            await page.open(f"{site}#{urlencode({**address, 'key': 'pc_live_wrong'})}")
            await page.until("document.getElementById('state').dataset.state === 'stopped'")
            notice = await page.ask("document.getElementById('notice').textContent")

    assert seen == site
    assert notice == "The server does not take this key."


@dataclass(frozen=True, slots=True)
class World:
    """A tenant with one terminal and a key that may only read punches."""

    api_key: str
    path: str

    async def punch(self, port: int, *pins: str, late: timedelta = timedelta(0)) -> None:
        """Have people punch; returns once it is acknowledged."""
        wall = f"{datetime.now(UTC) - late:%Y-%m-%d %H:%M:%S}"
        body = "".join(f"{pin}\t{wall}\t0\t15\t0\t0\t0\n" for pin in pins).encode()
        link = Link(f"http://127.0.0.1:{port}{self.path}")
        answer = await link.post(f"/iclock/cdata?SN={SERIAL}&table=ATTLOG&Stamp=9999", body)
        assert answer.body == b"OK: %d" % len(pins)


async def _world(db: Database, vault: Vault) -> World:
    async with db.across("operate") as connection:
        created = await tenants.create(connection, vault, "Live feed")
        key, secret = keys.issue(created.tenant.id, "page", ["punches:read"], None, vault)
        await keys.add(connection, key)
    async with db.write(created.tenant.id) as session:
        await devices.register(session, created.tenant.id, SERIAL, name="Front door", time_zone="UTC")
        await roster.upsert(session, created.tenant.id, Person("101", {"name": "Zoë <b>Çelik</b>"}))
    return World(secret, f"/d/{created.enrollment_token}")


async def _shown(page: browser.Page) -> list[str]:
    """Who is in the list, the newest first."""
    rows = await page.ask("[...document.querySelectorAll('[data-punch] .who')].map(who => who.innerText)")
    return [" ".join(row.split()) for row in rows]


def _chromium() -> str:
    found = browser.find()
    if found is None:
        pytest.skip("no Chromium: on Debian, apt-get install chromium")
    return found


def _environment(database_url: str, redis_url: str) -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PUNCHCONNECT_")}
    return outside | {
        "PUNCHCONNECT_DATABASE_URL": database_url,
        "PUNCHCONNECT_REDIS_URL": redis_url,
        "PUNCHCONNECT_SECRET_KEY": SECRET_KEY,
        "PUNCHCONNECT_LOG_LEVEL": "WARNING",
    }


def _free_port() -> int:
    listening = listen()
    with listening:
        return int(listening.getsockname()[1])


@asynccontextmanager
async def serving(port: int, env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """`punchconnect serve`, ready."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "serve", "--port", str(port), env=env, start_new_session=True
    )
    try:
        async with asyncio.timeout(READY_WITHIN):
            while not await _ready(port):
                assert server.returncode is None
                await asyncio.sleep(0.05)
        yield server
    finally:
        if server.returncode is None:
            server.terminate()
        try:
            await asyncio.wait_for(server.wait(), STOPPED_WITHIN)
        except TimeoutError:
            server.kill()
            await server.wait()


async def _ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.startswith(b"HTTP/1.1 200") and orjson.loads(answer.partition(b"\r\n\r\n")[2])["database"] == "ok"


@contextmanager
def _static() -> Iterator[str]:
    """The page, served as its README says: by serve.py."""
    names: dict[str, Any] = {"__file__": str(FOLDER / "serve.py"), "__name__": "serve"}
    exec((FOLDER / "serve.py").read_text(), names)  # noqa: S102
    handler = names["partial"](names["Page"], directory=str(FOLDER))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
