"""Signing up: off unless the operator says otherwise, a trial with a key that is seen once, and no tap."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app import ids
from app.database import Database
from app.domain import signups, tenants
from app.errors import InvalidInput, RateLimited
from app.settings import Settings
from app.vault import Vault
from app.web.middleware import source
from tests.conftest import SECRET_KEY
from tests.server import Server

PROXY = "127.0.0.0/8"
KEY = r"pc_live_\w{49}"


@asynccontextmanager
async def visiting(database_url: str, **knobs: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A browser's worth of HTTP, at a server where one may sign up; from an address of its own."""
    knobs = {"signup": True, "trusted_proxies": PROXY, **knobs}
    home = f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"
    async with (
        Server(database_url, **knobs) as server,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.port}", trust_env=False, headers={"X-Forwarded-For": home}, timeout=20
        ) as http,
    ):
        yield http


async def _start(http: httpx.AsyncClient, company: str = "Atlas", **fields: str) -> httpx.Response:
    return await http.post("/dashboard/sign-up", data={"company": company, "email": "a@atlas.example", **fields})


async def _named(db: Database, company: str) -> list[tenants.Tenant]:
    async with db.across("operate") as connection:
        return [tenant for tenant in await tenants.list_all(connection) if tenant.name == company]


async def test_nobody_can_sign_up_unless_the_operator_says_so(database_url: str, db: Database) -> None:
    async with visiting(database_url, signup=False) as http:
        door = await http.get("/dashboard/sign-in")
        answers = [await http.get("/dashboard/sign-up"), await _start(http, "Uninvited")]

    assert Settings(_env_file=None).signup is False
    assert "sign-up" not in door.text
    assert [answer.status_code for answer in answers] == [404, 404]
    assert await _named(db, "Uninvited") == []


async def test_a_stranger_gets_a_trial_a_key_that_is_shown_once_and_a_session(database_url: str, db: Database) -> None:
    company = f"Atlas <b> {secrets.token_hex(4)}"
    async with visiting(database_url) as http:
        door = await http.get("/dashboard/sign-in")
        form = await http.get("/dashboard/sign-up")
        welcome = await _start(http, company)
        [key] = set(re.findall(KEY, welcome.text))
        plan = await http.get("/dashboard/plan")
        pages = [await http.get(f"/dashboard/{path}") for path in ("", "keys", "devices", "plan")]
        viewer = await http.post(
            "/graphql",
            json={"query": "{ viewer { tenant { id name plan } } }"},
            headers={"Authorization": f"Bearer {key}"},
        )
    [tenant] = await _named(db, company)
    async with db.across("operate") as connection:
        emails = await signups.emails(connection)

    assert 'href="/dashboard/sign-up"' in door.text
    assert form.status_code == 200
    assert "HttpOnly" in welcome.headers["set-cookie"]
    assert welcome.headers["cache-control"] == "no-store"
    assert "Atlas &lt;b&gt;" in plan.text
    assert "When the trial ends, nothing can be changed" in plan.text
    assert not any(key in page.text for page in pages)
    answered = viewer.json()["data"]["viewer"]
    assert answered["tenant"] == {"id": ids.show("ten", tenant.id), "name": company, "plan": "TRIAL"}
    assert tenant.trial_ends_at == tenant.created_at + timedelta(days=7)
    assert emails[tenant.id] == "a@atlas.example"


@pytest.mark.parametrize(
    ("company", "email", "said"),
    [
        ("", "a@atlas.example", "company must have 1 to 200 characters."),
        ("At\u2028las", "a@atlas.example", "line break"),
        ("x" * 201, "a@atlas.example", "company must have"),
        ("Atlas", "", "email must have 1 to 254 characters."),
        ("Atlas", "atlas.example", "This is not an e-mail address."),
        ("Atlas", "a@b", "This is not an e-mail address."),
        ("Atlas", "a b@atlas.example", "This is not an e-mail address."),
    ],
)
async def test_what_cannot_be_taken_is_shown_again_and_makes_nothing(
    database_url: str, db: Database, company: str, email: str, said: str
) -> None:
    before = await _count(db)
    async with visiting(database_url) as http:
        refused = await _start(http, company, email=email)

    assert refused.status_code == 400
    assert said in refused.text
    assert "set-cookie" not in refused.headers
    assert await _count(db) == before


async def _count(db: Database) -> int:
    async with db.across("operate") as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM signups")
    return count


async def test_another_site_cannot_sign_anybody_up(database_url: str, db: Database) -> None:
    async with visiting(database_url) as http:
        http.headers["Origin"] = "https://evil.example"
        refused = await _start(http, "Led here")

    assert refused.status_code == 403
    assert await _named(db, "Led here") == []


async def test_an_address_starts_three_trials_a_day_whichever_process_it_asks(fresh_database_url: str) -> None:
    async with AsyncExitStack() as stack:
        doors = [await stack.enter_async_context(visiting(fresh_database_url)) for _ in range(2)]
        for http in doors:
            # The same /64, hence the same household.
            http.headers["X-Forwarded-For"] = f"2001:db8:1:2::{secrets.token_hex(2)}"
        answers = await asyncio.gather(*(_start(doors[n % 2]) for n in range(10)))
        doors[0].headers["X-Forwarded-For"] = "2001:db8:1:3::1"
        neighbour = await _start(doors[0])

    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 7
    assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 429)
    assert neighbour.status_code == 200


async def test_all_addresses_together_start_so_many_and_no_more(fresh_database_url: str) -> None:
    async with visiting(fresh_database_url, signup_per_day=2) as http:
        answers = []
        for n in range(4):
            http.headers["X-Forwarded-For"] = f"198.51.100.{n}"
            answers.append((await _start(http)).status_code)

    assert answers == [200, 200, 429, 429]


async def test_after_a_day_an_address_may_again_and_is_forgotten(fresh_database_url: str) -> None:
    db, vault = Database(fresh_database_url), Vault(SECRET_KEY)
    try:
        for _ in range(2):
            async with db.across("operate") as connection:
                await signups.start(connection, vault, "A", "a@a.example", "here", per_address=1, per_day=9)
                await connection.execute("UPDATE signups SET created_at = created_at - interval '24 hours 1 second'")
        async with db.across("operate") as connection:
            await signups.start(connection, vault, "A", "a@a.example", "here", per_address=1, per_day=9)
            kept = await connection.fetchval("SELECT count(address_hash) FROM signups")
        with pytest.raises(RateLimited):
            async with db.across("operate") as connection:
                await signups.start(connection, vault, "B", "b@b.example", "here", per_address=1, per_day=9)
    finally:
        await db.stop()

    assert kept == 1


def test_an_address_that_nobody_vouches_for_is_not_believed() -> None:
    proxies = Settings(_env_file=None, trusted_proxies="10.0.0.0/8,::1/128").trusted_proxies

    def seen(peer: str, *forwarded: str) -> str:
        headers = [(b"x-forwarded-for", line.encode()) for line in forwarded]
        return source({"client": (peer, 1), "headers": headers}, proxies)

    assert seen("198.51.100.7", "203.0.113.9") == "198.51.100.7"
    assert seen("10.0.0.1", "203.0.113.9") == "203.0.113.9"
    assert seen("10.0.0.1", "6.6.6.6, 203.0.113.9", "10.9.9.9") == "203.0.113.9"
    assert seen("10.0.0.1") == "10.0.0.1"
    assert seen("10.0.0.1", "no address") == "nowhere"
    assert seen("::ffff:10.0.0.1", "2001:db8:1:2:3::4") == "2001:db8:1:2::/64"
    assert seen("::ffff:198.51.100.7") == "198.51.100.7"
    assert source({"client": None, "headers": []}, proxies) == "nowhere"


@pytest.mark.parametrize("text", ["", "a@", "@b.c", "a@b..c", "a@b.c\n", "a" * 251 + "@b.c"])
def test_what_is_no_e_mail_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        signups.read_email(text)
