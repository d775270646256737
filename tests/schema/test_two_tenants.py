"""Whatever a caller writes where an id or a text may stand: another tenant's and nobody's get one and the same answer.

Walks the whole schema (see operations.py). For each spot, A calls with B's name there and with a name of nobody's. The
answers are equal to the byte, less the names that were asked for and what is new in every answer; nothing of B's is in
them; and B's rows stay as they are. So that this says something, the owner of the name gets another answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import orjson
import pytest

from app import ids
from app.database import Database
from app.vault import Vault
from tests.schema.feeds import Served
from tests.schema.operations import NODES, Call, It, Spot, gaps, object_types, spots
from tests.schema.parties import Party, counts, make_party, nobody, rows_of, stir
from tests.schema.sockets import Client, acknowledged

ASKED = [spot for spot in spots() if not spot.call.field.startswith("Subscription.")]
FOLLOWED = [spot for spot in spots() if spot.call.field.startswith("Subscription.")]

_ID = re.compile(rf"\b({'|'.join(sorted(ids.PREFIXES))})_([0-9a-z]{{26}})\b")
_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
#: What is new in every answer.
_NEW = (
    (_ID, r"\1_…"),
    (_UUID, "uuid"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z"), "instant"),
    (re.compile(r"\breq_[0-9a-f]{32}\b"), "request"),
    (re.compile(r"\b(pc_live_|whsec_)[\w+/=]+"), r"\1…"),
    (re.compile(r"/d/[\w-]+"), "/d/…"),
    (re.compile(r"\bTEST\d{8}\b"), "serial"),
    (re.compile(r'"(cursor|previousCursor|startCursor|endCursor|feed_cursor|challengePin)":"[^"]+"'), r'"\1":"…"'),
)


@dataclass
class Stage:
    """Two tenants like each other, and a third that is never touched."""

    db: Database
    vault: Vault
    http: httpx.AsyncClient
    owner: asyncpg.Connection
    theirs: Party
    their_rows: dict[str, list[str]]
    ours: list[Party] = field(default_factory=list)

    async def pair(self) -> list[Party]:
        """Two tenants in which nothing was done yet."""
        while len(self.ours) < 2:
            self.ours.append(await make_party(self.db, self.vault))
        return self.ours

    async def call(self, who: Party, call: Call, arguments: dict[str, Any] | None = None) -> httpx.Response:
        """The answer as it came."""
        return await self.http.post(
            "/graphql",
            json={"query": call.document(), "variables": call.variables(who.names, arguments)},
            headers={"Authorization": f"Bearer {who.api_key}"},
        )

    async def name(self, who: Party, spot: Spot) -> str:
        """Somebody's own name for a spot."""
        if spot.it is not It.CURSOR:
            return who.names[spot.it]
        call = spot.call if not spot.call.field.startswith("Subscription.") else FEED
        answer = (await self.call(who, call)).json()
        found = next(_cursors(answer), None)
        assert found, f"{spot.call} lists nothing in a party, so there is no cursor to try: have names_of make one"
        return found


FEED = Call("Query.punchFeed", "punches:read", {"from": "BEGINNING", "first": 1})


@pytest.fixture(scope="module")
async def stage(db: Database, vault: Vault, unlimited: httpx.AsyncClient, owner: asyncpg.Connection) -> Stage:
    """Tenants of which everything may be asked."""
    theirs = await make_party(db, vault)
    return Stage(db, vault, unlimited, owner, theirs, await rows_of(owner, theirs.tenant_id))


def test_nothing_of_the_schema_is_left_out() -> None:
    missing = gaps()

    assert not missing, "tests/schema/operations.py does not know all of the schema.\n" + "\n".join(missing)


def test_every_kind_of_node_is_asked_for() -> None:
    kinds = {kind.name for kind in object_types() if "Node" in {interface.name for interface in kind.interfaces}}

    assert kinds == set(NODES), "say in NODES of tests/schema/operations.py which `It` has an id of that type"


@pytest.mark.parametrize("spot", ASKED, ids=str)
async def test_another_tenants_name_gets_what_nobodys_gets(stage: Stage, spot: Spot) -> None:
    one, other = await stage.pair()
    writes = spot.call.field.startswith("Mutation.")
    theirs, nobodys = await stage.name(stage.theirs, spot), nobody()[spot.it]
    if spot.it is It.CURSOR:
        nobodys = _edited(await stage.name(other, spot))
    before = await rows_of(stage.owner, one.tenant_id)

    to_theirs = await stage.call(one, spot.call, spot.arguments(theirs))
    to_nobodys = await stage.call(other, spot.call, spot.arguments(nobodys))
    after = [await rows_of(stage.owner, each.tenant_id) for each in (one, other)]

    if after[0] != before or writes:
        stage.ours.clear()
    answer = _masked(to_theirs, one, theirs)
    assert answer == _masked(to_nobodys, other, nobodys)
    assert (to_theirs.status_code, to_theirs.headers.keys()) == (to_nobodys.status_code, to_nobodys.headers.keys())
    assert not _told(to_theirs.text, theirs) & _known(stage.their_rows)
    assert await rows_of(stage.owner, stage.theirs.tenant_id) == stage.their_rows
    assert counts(after[0]) == counts(after[1])
    assert writes or after[0] == before

    # And it is the name that made the difference.
    whose = (await stage.pair())[0] if writes else stage.theirs
    own = await stage.name(whose, spot)
    to_own = await stage.call(whose, spot.call, spot.arguments(own))
    if writes:
        stage.ours.clear()
    if not writes or spot.it.prefix or spot.it is It.IDEMPOTENCY_KEY:
        assert _masked(to_own, whose, own) != answer
    if spot.it.prefix and "errors" not in to_own.json():
        assert '"userErrors":[{' not in to_own.text


@pytest.mark.parametrize("spot", FOLLOWED, ids=str)
async def test_another_tenants_name_is_followed_like_nobodys(stage: Stage, here: Served, spot: Spot) -> None:
    ours, theirs = await make_party(stage.db, stage.vault), await make_party(stage.db, stage.vault)
    names = {
        "own": await stage.name(ours, spot),
        "theirs": await stage.name(theirs, spot),
        "nobodys": _edited(await stage.name(ours, spot)) if spot.it is It.CURSOR else nobody()[spot.it],
    }
    seen: dict[str, list[str]] = {whose: [] for whose in names}

    async with acknowledged(here.url, ours.api_key) as client:
        for whose, name in names.items():
            await client.subscribe(
                spot.call.document(), id=whose, variables=spot.call.variables(ours.names, spot.arguments(name))
            )
        if spot.call.name != "webhookDeliveryChanged":  # which tells of nothing but news
            await _hear(client, seen, until="own")
        await stir(here, theirs)
        await stir(here, ours)
        told = len(seen["own"])
        if spot.it is not It.CURSOR:
            await _hear(client, seen, until="own", more_than=told)
        await client.subscribe("{ rateLimit { cost } }", id="end")
        seen["end"] = []
        await _hear(client, seen, until="end")

    masked = {whose: [_mask(text, ours, names[whose]) for text in seen[whose]] for whose in ("theirs", "nobodys")}
    assert masked["theirs"] == masked["nobodys"]
    assert seen["own"]
    their_ids = _known(await rows_of(stage.owner, theirs.tenant_id))
    for text in (*seen["theirs"], *seen["own"]):
        assert not _told(text, names["theirs"]) & their_ids
    assert [_mask(text, ours, names["own"]) for text in seen["own"]] != masked["theirs"]


async def _hear(client: Client, seen: dict[str, list[str]], *, until: str, more_than: int = 0) -> None:
    """Note messages until there is another one of `until`."""
    while len(seen[until]) <= more_than:
        message = await client.recv()
        if message["type"] in ("next", "error"):
            seen[message["id"]].append(orjson.dumps(message["payload"]).decode())


def _masked(response: httpx.Response, who: Party, asked: str) -> str:
    return _mask(response.text, who, asked)


def _mask(text: str, who: Party, asked: str) -> str:
    """An answer without the name that was asked for, its caller's own names, and what is new in every answer."""
    own = sorted(((name, it.name) for it, name in who.names.items()), key=lambda pair: -len(pair[0]))
    for name, sign in [(asked, "asked"), *own]:
        text = text.replace(name, sign)
    for pattern, sign in _NEW:
        text = pattern.sub(sign, text)
    return text


def _told(text: str, asked: str) -> set[str]:
    """The UUIDs of everything that an answer names, besides what was asked for."""
    return _uuids(text) - _uuids(asked)


def _uuids(text: str) -> set[str]:
    return set(_UUID.findall(text)) | {str(ids.split(found.group())[1]) for found in _ID.finditer(text)}


def _known(rows: dict[str, list[str]]) -> set[str]:
    """Every UUID in a tenant's rows."""
    return {found for lines in rows.values() for line in lines for found in _UUID.findall(line)}


def _cursors(answer: Any) -> Iterator[str]:
    """Every cursor in an answer, those of the list itself first."""
    if isinstance(answer, list):
        for each in answer:
            yield from _cursors(each)
    elif isinstance(answer, dict):
        for name in ("cursor", "startCursor"):
            if isinstance(answer.get(name), str):
                yield answer[name]
        for name in sorted(answer, key=lambda name: name not in ("pageInfo", "edges")):
            yield from _cursors(answer[name])


def _edited(cursor: str) -> str:
    """A cursor that nobody gave out."""
    middle = len(cursor) // 2
    return cursor[:middle] + ("A" if cursor[middle] != "A" else "B") + cursor[middle + 1 :]
