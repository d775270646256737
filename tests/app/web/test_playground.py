"""The playground: what it is made of, whom it hands a key, and that it works in a real browser."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from graphql import parse, validate

from app.database import Database
from app.domain import tenants
from app.embedded import EmbeddedRedis
from app.main import Application
from app.settings import Settings
from app.vault import Vault
from app.web import assets
from schema import schema
from tests.conftest import SECRET_KEY
from tests.frontend_examples import browser
from tests.server import Server

DEMO = "pc_live_demo"
EXAMPLES = orjson.loads((assets.FOLDER / "playground" / "examples.json").read_bytes())
PUBLISHED = {
    "graphiql-4.1.2.min.js": "867226ba8af5ce7949903fc53932f78dac9f4bfc6cc8da0fd3869b8bc6c5256b",
    "graphiql-4.1.2.min.css": "30487e07635d312a63f647b140d37740a73c53332b0975bf4b1fe985ca6ec885",
    "react-18.3.1.min.js": "d949f1c3687aedadcedac85261865f29b17cd273997e7f6b2bfc53b2f9d4c4dd",
    "react-dom-18.3.1.min.js": "35f4f974f4b2bcd44da73963347f8952e341f83909e4498227d4e26b98f66f0d",
    "graphql-ws-6.4.2.min.js": "5f1e250bdea0a551d58272048281dbf5b2fb69faa120160bab49485c72b6f24d",
    "uplot-1.6.32.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot-1.6.32.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def client(address: str = "127.0.0.1", **knobs: Any) -> httpx.AsyncClient:
    """Asks an application that was not started, from somewhere."""
    settings = Settings(
        _env_file=None,
        database_url="postgresql://x@127.0.0.1/x",
        secret_key=SECRET_KEY,
        **({"demo_key": DEMO, "allowed_hosts": "localhost"} | knobs),
    )
    transport = httpx.ASGITransport(Application(settings), client=(address, 4711))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_others_wrote_is_as_they_published_it(name: str) -> None:
    digest = hashlib.sha256((assets.FOLDER / "vendor" / name).read_bytes()).hexdigest()

    assert digest == PUBLISHED[name]


@pytest.mark.parametrize("name", ["graphiql", "react", "graphql-ws", "uplot"])
def test_what_others_wrote_has_its_licence_beside_it(name: str) -> None:
    assert "Permission is hereby granted" in (assets.FOLDER / "vendor" / f"{name}-LICENSE.txt").read_text()


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["name"] for example in EXAMPLES])
def test_every_example_is_in_the_schema(example: dict[str, str]) -> None:
    assert validate(schema._schema, parse(example["query"])) == []


async def test_the_page_loads_only_files_of_ours_and_runs_nothing_of_its_own() -> None:
    page = await client().get("/playground")

    loaded = re.findall(r'<(?:script src|link rel="[a-z]+" href)="([^"]+)"', page.text)
    assert len(loaded) == 8
    for url in loaded:
        assert (await client().get(url)).headers["cache-control"] == "public, max-age=31536000, immutable"
    assert not re.search(r"<script(?! src=)", page.text)
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


async def test_a_browser_on_this_machine_is_handed_the_demo_key() -> None:
    assert DEMO in (await client().get("/playground")).text


@pytest.mark.parametrize(
    ("address", "knobs", "headers"),
    [
        ("192.0.2.7", {}, {}),
        ("127.0.0.1", {}, {"X-Forwarded-For": "192.0.2.7"}),
        ("127.0.0.1", {"allowed_hosts": ""}, {}),
        ("127.0.0.1", {"demo_key": None}, {}),
    ],
    ids=["from elsewhere", "through a proxy", "under any host name", "none given"],
)
async def test_nobody_else_is_handed_a_key(address: str, knobs: dict[str, Any], headers: dict[str, str]) -> None:
    page = await client(address, **knobs).get("/playground", headers=headers)

    assert page.status_code == 200
    assert 'data-demo-key=""' in page.text


@pytest.mark.parametrize("name", ["nothing.js", "../settings.py", "..%2f..%2fsettings.py", "vendor"])
async def test_only_files_of_ours_are_assets(name: str) -> None:
    assert (await client().get(f"/assets/{name}")).status_code == 404


async def test_a_file_that_the_browser_has_is_not_sent_again() -> None:
    url = assets.url("icon.svg")
    first = await client().get(url)

    again = await client().get(url, headers={"If-None-Match": first.headers["etag"]})

    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")


@pytest.mark.full
async def test_the_playground_asks_and_follows_in_a_browser(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    if (chromium := browser.find()) is None:
        pytest.skip("no Chromium: on Debian, apt-get install chromium")
    async with db.across("operate") as connection:
        tenant = await tenants.create(connection, vault, "Playground & Co")
    async with (
        Server(database_url, redis_url=redis_server.url) as server,
        browser.browsing(chromium, tmp_path / "profile") as page,
    ):
        await page.open(f"http://127.0.0.1:{server.port}/playground")
        await page.until("!document.getElementById('ask').hidden")
        await page.ask("document.getElementById('key').value = 'pc_live_wrong'; document.forms.ask.requestSubmit()")
        await page.until("document.getElementById('refused').textContent !== ''")
        refused = await page.ask("[sessionStorage.getItem('punchconnect.key'), !document.getElementById('ask').hidden]")

        await page.ask(f"document.getElementById('key').value = '{tenant.api_key}'; document.forms.ask.requestSubmit()")
        await page.until("document.querySelector('.graphiql-execute-button') !== null")
        await page.ask("document.querySelector('.graphiql-execute-button').click()")
        await page.until("document.querySelector('.result-window').innerText.includes('Playground & Co')")

        await page.ask(
            "(p => { p.value = '2'; p.dispatchEvent(new Event('change')); })(document.getElementById('example'))"
        )
        await page.until("document.querySelector('.graphiql-query-editor').innerText.includes('LiveFeed')")
        await page.ask("document.querySelector('.graphiql-execute-button').click()")
        await page.until("document.querySelector('.result-window').innerText.includes('cursor')")
        await page.picture(tmp_path / "playground.png", width=1300, height=800)
        kept = await page.ask("[localStorage.length, document.cookie, location.href.includes('pc_live')]")

        await page.ask("document.getElementById('forget').click()")
        forgotten = await page.ask("[sessionStorage.length, document.getElementById('graphiql').hidden]")

    assert refused == [None, True]
    assert kept == [0, "", False]
    assert forgotten == [0, True]
    assert page.problems == []
