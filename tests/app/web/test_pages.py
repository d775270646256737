"""What people find under /docs/."""

from __future__ import annotations

import httpx
import pytest

import app.cli
from app.main import Application
from app.settings import Settings
from schema.errors import registry
from tests.conftest import SECRET_KEY

assert app.cli  # fills the registry of errors


@pytest.fixture(scope="module")
def client() -> httpx.AsyncClient:
    """Asks an application that was not started: pages need no database."""
    settings = Settings(_env_file=None, database_url="postgresql://x@127.0.0.1/x", secret_key=SECRET_KEY)
    return httpx.AsyncClient(transport=httpx.ASGITransport(Application(settings)), base_url="http://punchconnect.test")


@pytest.mark.parametrize("code", sorted(registry()))
async def test_every_doc_url_resolves(client: httpx.AsyncClient, code: str) -> None:
    page = await client.get(f"/docs/errors/{code}")

    assert page.status_code == 200
    assert code in page.text


async def test_the_front_page_is_the_index(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs/")

    assert page.status_code == 200
    assert page.text.startswith("# PunchConnect")


@pytest.mark.parametrize("name", ["../pyproject", "..%2f..%2fREADME", "reference/../../README", "nothing", "%00"])
async def test_what_is_not_a_page_of_ours_is_not_found(client: httpx.AsyncClient, name: str) -> None:
    page = await client.get(f"/docs/{name}")

    assert page.status_code == 404
    assert page.json()["error"]["code"] == "not_found"
