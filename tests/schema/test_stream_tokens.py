"""Tokens for browsers: what they open and what not, for how long, and that a few sites are all there is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest

from app import ids
from app.database import Database
from app.domain import keys, tokens
from app.domain.devices import Device
from app.domain.sites import Site
from app.domain.tokens import StreamToken
from app.vault import Vault
from tests.factories import make_device
from tests.schema.conftest import Caller, MakeCaller
from tests.schema.feeds import FEED, Served, batch, pins
from tests.schema.operations import It, calls_of
from tests.schema.parties import Party, make_party
from tests.schema.sockets import acknowledged
from tests.schema.test_two_tenants import Stage, stage
from tests.schema.world import World, add_punches, make_view

__all__ = ["stage"]

MAKE = """mutation ($input: StreamTokenCreateInput!) { made: streamTokenCreate(input: $input) {
    token expiresAt userErrors { code path } } }"""
WHO = "{ viewer { apiKey { id scopes expiresAt } } }"


async def make(caller: Caller, **input: Any) -> str:
    made = (await caller.ask(MAKE, input=input))["made"]
    assert made["userErrors"] == []
    token: str = made["token"]
    return token


async def refused(caller: Caller, **input: Any) -> tuple[str, list[str]]:
    made = (await caller.ask(MAKE, input=input))["made"]
    assert (made["token"], made["expiresAt"]) == (None, None)
    (error,) = made["userErrors"]
    return error["code"], error["path"]


def holding(caller: Caller, token: str) -> Caller:
    """The same tenant's browser."""
    return Caller(caller.tenant_id, token, caller.http)


@pytest.fixture
async def browser(caller: Caller) -> Caller:
    return holding(caller, await make(caller))


# ── what a token is good for ─────────────────────────────────────────────────────────────────────────


async def test_a_token_reads_and_names_its_key(caller: Caller, world: World, browser: Caller) -> None:
    found = await browser.ask(
        "{ punches { nodes { pin employee { name } device { name } } } devices { nodes { id } } }"
    )
    who = (await browser.ask(WHO))["viewer"]["apiKey"]

    assert len(found["punches"]["nodes"]) == 3
    assert found["devices"]["nodes"] == [{"id": ids.show("dev", world.device.id)}]
    assert who["id"] == (await caller.ask(WHO))["viewer"]["apiKey"]["id"]
    assert who["scopes"] == ["devices:read", "punches:read"]
    assert who["expiresAt"] is not None


async def test_a_token_opens_nothing_else(stage: Stage) -> None:
    party = await make_party(stage.db, stage.vault)
    caller = Caller(party.tenant_id, party.api_key, stage.http)
    browser = holding(caller, await make(caller))

    for call in calls_of("Query", "Mutation"):
        answer = (await browser.post(call.document(), call.variables(party.names))).json()
        codes = {error["extensions"]["code"] for error in answer.get("errors", [])}
        if call.field.startswith("Mutation.") or call.scope not in {None, *tokens.SCOPES}:
            assert (codes, call.field) == ({"permission_denied"}, call.field)


async def test_a_token_cannot_make_a_token(browser: Caller) -> None:
    assert await browser.codes(MAKE, input={}) == ["permission_denied"]


async def test_a_token_has_no_scope_that_its_key_has_not(make_caller: MakeCaller) -> None:
    reader = await make_caller(scopes=["punches:read"])
    browser = holding(reader, await make(reader))

    assert (await browser.ask(WHO))["viewer"]["apiKey"]["scopes"] == ["punches:read"]
    assert await browser.codes("{ devices { nodes { id } } }") == ["permission_denied"]


async def test_without_punches_read_there_is_no_token(make_caller: MakeCaller) -> None:
    blind = await make_caller(scopes=[scope for scope in keys.SCOPES if scope != "punches:read"])

    assert await blind.codes(MAKE, input={}) == ["permission_denied"]


async def test_each_call_makes_another_token(caller: Caller) -> None:
    first = (await caller.post(MAKE, {"input": {}}, Idempotency_Key="k")).json()["data"]["made"]["token"]
    second = (await caller.post(MAKE, {"input": {}}, Idempotency_Key="k")).json()["data"]["made"]["token"]

    assert first != second


async def test_the_token_is_not_in_the_log_and_its_making_is(caller: Caller, browser: Caller) -> None:
    log = await caller.ask("{ auditLog(first: 1) { nodes { action detail targetId } } }")

    assert log["auditLog"]["nodes"] == [
        {"action": "streamTokenCreate", "detail": {"ttlSeconds": 900}, "targetId": None}
    ]
    assert browser.api_key not in orjson.dumps(log).decode()


# ── for how long ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seconds", [0, -1, 3601, 2**31 - 1])
async def test_a_token_lasts_a_second_to_an_hour(caller: Caller, seconds: int) -> None:
    assert await refused(caller, ttlSeconds=seconds) == ("invalid_input", ["input", "ttlSeconds"])


async def test_a_token_says_when_it_ends(caller: Caller) -> None:
    before = datetime.now(UTC)
    made = (await caller.ask(MAKE, input={"ttlSeconds": 3600}))["made"]

    ends = datetime.fromisoformat(made["expiresAt"])
    assert timedelta(seconds=3590) < ends - before <= timedelta(seconds=3610)


async def test_a_token_does_not_outlive_its_key(db: Database, vault: Vault, caller: Caller) -> None:
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)
    key, secret = keys.issue(caller.tenant_id, "brief", ["punches:read"], soon, vault)
    async with db.across("operate") as connection:
        await keys.add(connection, key)

    made = (await holding(caller, secret).ask(MAKE, input={"ttlSeconds": 3600}))["made"]

    assert datetime.fromisoformat(made["expiresAt"]) == soon


async def test_a_token_that_ended_and_one_that_was_edited_are_nobodys(vault: Vault, caller: Caller) -> None:
    digest = vault.recognise(caller.api_key)
    ended = tokens.write(StreamToken(digest, datetime.now(UTC) - timedelta(seconds=1)), vault)
    good = tokens.write(StreamToken(digest, datetime.now(UTC) + timedelta(seconds=60)), vault)
    foreign = tokens.write(
        StreamToken(digest, datetime.now(UTC) + timedelta(seconds=60)),
        Vault("another secret key of another place, long"),
    )
    middle = len(good) // 2
    edited = good[:middle] + ("A" if good[middle] != "A" else "B") + good[middle + 1 :]

    for token in (ended, edited, foreign, "pc_stream_", "pc_stream_x", "pc_stream_é", "pc_stream_" + "A" * 5000):
        answer = await caller.http.post(
            "/graphql", json={"query": WHO}, headers={b"Authorization": f"Bearer {token}".encode()}
        )
        assert (answer.status_code, answer.json()["errors"][0]["extensions"]["code"]) == (401, "unauthenticated")
    assert (await holding(caller, good).post(WHO)).status_code == 200


async def test_a_token_works_on_a_socket_until_it_ends(here: Served, vault: Vault, caller: Caller) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=3)
    token = tokens.write(StreamToken(vault.recognise(caller.api_key), ends), vault)

    async with acknowledged(here.url, token) as client:
        await client.subscribe(FEED)
        assert (await batch(client))["punches"] == []
        assert await client.closed() == 4403
    assert datetime.now(UTC) - ends < timedelta(seconds=5)


async def test_a_token_dies_with_its_key_on_sockets_too(
    here: Served, db: Database, caller: Caller, make_caller: MakeCaller
) -> None:
    server = await make_caller(tenant_id=caller.tenant_id)
    token = await make(server)
    who = ids.read("key", (await server.ask(WHO))["viewer"]["apiKey"]["id"])

    async with acknowledged(here.url, token) as client:
        await client.subscribe(FEED)
        await batch(client)
        async with db.across("operate") as connection:
            await keys.revoke_any(connection, who)
        async with asyncio.timeout(5):
            assert await client.closed() == 4403


async def test_a_token_is_no_way_into_the_dashboard(vault: Vault, browser: Caller) -> None:
    with pytest.raises(keys.Unauthenticated):
        keys.read_authorization(f"Bearer {browser.api_key}")


async def test_event_streams_take_a_token_and_end_with_it(here: Served, vault: Vault, caller: Caller) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=3)
    token = tokens.write(StreamToken(vault.recognise(caller.api_key), ends), vault)
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}

    async with asyncio.timeout(15), httpx.AsyncClient(trust_env=False, timeout=15) as client:
        url = here.url.replace("ws://", "http://")
        async with client.stream("POST", url, json={"query": FEED}, headers=headers) as answer:
            assert answer.status_code == 200
            text = "".join([part async for part in answer.aiter_text()])

    assert "event: next" in text


# ── a few sites ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Two:
    """A party whose world stands at one site, and a second site that it must not see."""

    party: Party
    caller: Caller
    browser: Caller
    there: Device
    site: Site


@pytest.fixture
async def two(stage: Stage, db: Database, vault: Vault) -> Two:
    party = await make_party(db, vault)
    caller = Caller(party.tenant_id, party.api_key, stage.http)
    site = Site(tenant_id=party.tenant_id, name="Elsewhere", time_zone="UTC")
    async with db.write(party.tenant_id) as session:
        session.add(site)
    there = await make_device(db, party.tenant_id, name="There", site_id=site.id)
    await add_punches(db, party.tenant_id, there, [make_view(there.id, 1, pin=party.names[It.PIN])])
    token = await make(caller, siteIds=[ids.show("sit", site.id)])
    return Two(party, caller, holding(caller, token), there, site)


async def test_what_stands_elsewhere_does_not_exist(two: Two) -> None:
    hidden = {name for it, name in two.party.names.items() if it.prefix in {"dev", "pun", "sit", "cmd", "rej"}}

    for call in calls_of("Query"):
        if call.scope not in {None, *tokens.SCOPES}:
            continue
        variables = call.variables(two.party.names)
        asked = {value for value in variables.values() if isinstance(value, str)}
        text = (await two.browser.post(call.document(), variables)).text
        assert not [name for name in hidden - asked if name in text], call
        if call.field in {"Query.device", "Query.site", "Query.punch"} or call.on in {"Device", "Site", "Punch"}:
            data = orjson.loads(text)["data"]["answer"]
            assert data in (None, [None]), call


async def test_what_stands_there_is_read(two: Two) -> None:
    found = await two.browser.ask(
        """query ($device: ID!) {
            sites { nodes { name devices { totalCount nodes { name } } } }
            devices { totalCount nodes { name storedPunchCount } }
            device(id: $device) { name punches { nodes { pin } } commands { nodes { id } } }
            punches { nodes { pin device { name } employee { name } } }
            punchFeed(from: BEGINNING) { punches { device { name } } headLag }
            viewer { tenant { deviceCount } }
        }""",
        device=ids.show("dev", two.there.id),
    )

    pin = two.party.names[It.PIN]
    assert found["sites"]["nodes"] == [
        {"name": "Elsewhere", "devices": {"totalCount": 1, "nodes": [{"name": "There"}]}}
    ]
    assert found["devices"] == {"totalCount": 1, "nodes": [{"name": "There", "storedPunchCount": 1}]}
    assert found["device"] == {
        "name": "There", "punches": {"nodes": [{"pin": pin}]}, "commands": {"nodes": []}
    }  # fmt: skip
    assert [(p["pin"], p["device"]["name"]) for p in found["punches"]["nodes"]] == [(pin, "There")]
    assert found["punches"]["nodes"][0]["employee"]["name"] == two.party.names[It.PERSON]
    assert [p["device"]["name"] for p in found["punchFeed"]["punches"]] == ["There"]
    assert found["viewer"]["tenant"]["deviceCount"] == 1


async def test_a_filter_cannot_widen_what_a_token_sees(two: Two) -> None:
    names = two.party.names
    query = """query ($filter: PunchFilter) {
        punches(filter: $filter) { nodes { id } } punchFeed(from: BEGINNING, filter: $filter) { punches { id } } }"""

    for narrowed in ({"siteIds": [names[It.SITE]]}, {"deviceIds": [names[It.DEVICE]]}):
        found = await two.browser.ask(query, filter=narrowed)
        assert found == {"punches": {"nodes": []}, "punchFeed": {"punches": []}}
        assert (await two.caller.ask(query, filter=narrowed))["punches"]["nodes"]


async def test_a_socket_brings_only_what_stands_there(here: Served, two: Two) -> None:
    async with (
        acknowledged(here.url, two.browser.api_key) as client,
        acknowledged(here.url, two.caller.api_key) as all_,
    ):
        for each in (client, all_):
            await each.subscribe(FEED)
            await batch(each)
        await here.punch(two.party.tenant_id, two.party.world.device, 51, pin="91")
        assert pins(await batch(all_)) == ["9151"]
        await here.punch(two.party.tenant_id, two.there, 52, pin="92")

        assert pins(await batch(client)) == ["9252"]
        await client.subscribe("subscription { deviceChanged { name } }", id="devices")
        assert (await client.next("devices"))["data"] == {"deviceChanged": {"name": "There"}}
        await client.subscribe("{ rateLimit { cost } }", id="end")
        # Of the party's other devices, nothing came meanwhile.
        assert "rateLimit" in (await client.next("end"))["data"]


async def test_a_token_for_a_site_that_is_not_there_is_refused(caller: Caller, world: World) -> None:
    own = ids.show("sit", world.site.id)

    assert await refused(caller, siteIds=[own, ids.show("sit", ids.new())]) == ("site_not_found", ["input", "siteIds"])
    assert await refused(caller, siteIds=[]) == ("invalid_input", ["input", "siteIds"])
    assert await refused(caller, siteIds=[own] * 51) == ("invalid_input", ["input", "siteIds"])
    assert await refused(caller, siteIds=["nonsense"]) == ("invalid_id", ["input", "siteIds"])
