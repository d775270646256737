"""What people find under /docs/: the built site, and the pages as they were written where none was built."""

from __future__ import annotations

import asyncio
import posixpath
import re
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

import app.cli
from app.web import pages
from schema.errors import registry
from tests.docs import site
from tests.frontend_examples import browser
from tests.server import _Quiet, listen

SHADOWS = "[...document.querySelectorAll('*')].map(e => e.shadowRoot).filter(Boolean)"
assert app.cli  # fills the registry of errors
CODES = sorted(code for code, kind in registry().items() if kind.__module__.partition(".")[0] != "tests")


def asking(folder: Path) -> httpx.AsyncClient:
    """Asks for pages of the site in `folder`."""
    transport = httpx.ASGITransport(Starlette(routes=pages.routes(folder)))
    return httpx.AsyncClient(transport=transport, base_url="http://punchconnect.test")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built for this run."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    site.build(folder)
    return folder


@pytest.fixture(scope="module")
def unbuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nowhere."""
    return tmp_path_factory.mktemp("docs") / "nothing"


@pytest.mark.parametrize("place", ["built", "unbuilt"])
@pytest.mark.parametrize("code", CODES)
async def test_every_doc_url_resolves(request: pytest.FixtureRequest, place: str, code: str) -> None:
    page = await asking(request.getfixturevalue(place)).get(f"/docs/errors/{code}")

    assert page.status_code == 200
    assert code in page.text


async def test_without_a_site_the_front_page_is_the_index_as_it_was_written(unbuilt: Path) -> None:
    page = await asking(unbuilt).get("/docs/")

    assert page.status_code == 200
    assert page.text.startswith("# PunchConnect")


@pytest.mark.parametrize("place", ["built", "unbuilt"])
@pytest.mark.parametrize(
    "name",
    ["../pyproject", "..%2f..%2fREADME", "reference/../../README", "nothing", "%00", "assets/../../x", ".hidden"],
)
async def test_what_is_not_a_page_of_ours_is_not_found(request: pytest.FixtureRequest, place: str, name: str) -> None:
    assert (await asking(request.getfixturevalue(place)).get(f"/docs/{name}")).status_code == 404


async def test_a_page_of_the_site_runs_its_own_scripts_and_no_others(built: Path) -> None:
    page = await asking(built).get("/docs/guides/quickstart/")

    policy = page.headers["content-security-policy"]
    assert page.status_code == 200
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert policy.count("'sha256-") == len(set(re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)))
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"


def test_the_site_loads_nothing_from_elsewhere(built: Path) -> None:
    loaded = {
        found
        for page in built.rglob("*.html")
        for found in re.findall(r'<(?:script|img|iframe)[^>]* src="([^"]+)"', page.read_text())
        + re.findall(r'<link[^>]* rel="?(?:stylesheet|icon|preload|preconnect)"?[^>]*href="([^"]+)"', page.read_text())
    }

    assert loaded
    assert [url for url in loaded if "://" in url or url.startswith("//")] == []


def test_every_link_of_the_site_leads_to_a_page_and_a_place_on_it(built: Path) -> None:
    broken = []
    for page in sorted(built.rglob("index.html")):
        here = f"/docs/{page.parent.relative_to(built).as_posix()}/".replace("/./", "/")
        for link in set(re.findall(r'<a[^>]* href="([^"]+)"', page.read_text())):
            url = urlsplit(urljoin(here, link))
            if url.scheme or url.netloc or url.path.startswith(("/playground", "/dashboard")):
                continue
            target = built / posixpath.relpath(unquote(url.path), "/docs")
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (
                url.fragment and f'id="{unquote(url.fragment)}"' not in target.read_text().replace("id=__", 'id="__')
            ):
                broken.append((here, link))

    assert broken == []


@pytest.mark.full
async def test_the_site_can_be_searched_in_a_browser_without_a_network(built: Path, tmp_path: Path) -> None:
    if (chromium := browser.find()) is None:
        pytest.skip("no Chromium: on Debian, apt-get install chromium")
    server = _Quiet(uvicorn.Config(Starlette(routes=pages.routes(built)), log_config=None, access_log=False))
    listening = listen()
    running = asyncio.create_task(server.serve([listening]))
    try:
        async with browser.browsing(chromium, tmp_path / "profile") as page:
            await page.open(f"http://127.0.0.1:{listening.getsockname()[1]}/docs/")
            await page.picture(tmp_path / "docs.png", width=1200, height=800)
            await page.until("document.querySelector('.md-search__button') !== null")
            await page.ask("document.querySelector('.md-search__button').click()")
            await page.until(f"{SHADOWS}.some(shadow => shadow.activeElement?.tagName === 'INPUT')")
            await page.do("Input.insertText", text="backfill")
            await page.until(f"{SHADOWS}.some(shadow => shadow.textContent.includes('What becomes of it'))")
            await page.picture(tmp_path / "search.png", width=1200, height=800)
            await page.picture(tmp_path / "dark.png", width=375, height=800, dark=True)
            problems = page.problems
    finally:
        server.should_exit = True
        await running

    assert problems == []
