"""Pages of anybody may ask, and none gets what its visitor did not hand it: there is no cookie to be sent along."""

from __future__ import annotations

from typing import Any

import pytest

from tests.schema.conftest import Caller
from tests.schema.feeds import Served
from tests.schema.sockets import acknowledged

WHO = "{ viewer { apiKey { id } } }"
ELSEWHERE = "https://elsewhere.example"

#: What is wrong with a request, and the status of its answer.
REQUESTS: dict[str, tuple[dict[str, Any], int]] = {
    "nothing": ({"json": {"query": WHO}}, 200),
    "no key": ({"json": {"query": WHO}, "headers": {"Authorization": ""}}, 401),
    "a wrong key": ({"json": {"query": WHO}, "headers": {"Authorization": "Bearer pc_live_x"}}, 401),
    "no GraphQL": ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
    "a form": ({"content": b"query=x", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415),
    "a text": ({"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
    "too much": ({"content": b" " * (2**20 + 1), "headers": {"Content-Type": "application/json"}}, 413),
    "an answer that we have not": ({"json": {"query": WHO}, "headers": {"Accept": "image/png"}}, 406),
    "a document that is wrong": ({"json": {"query": "{ nothing }"}}, 200),
}


@pytest.mark.parametrize("wrong", REQUESTS)
async def test_every_answer_may_be_read_from_anywhere_and_sets_no_cookie(caller: Caller, wrong: str) -> None:
    request, status = REQUESTS[wrong]
    headers = {"Authorization": f"Bearer {caller.api_key}", "Origin": ELSEWHERE} | request.get("headers", {})

    answer = await caller.http.post("/graphql", **{**request, "headers": headers})

    assert answer.status_code == status, answer.text
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    assert "set-cookie" not in answer.headers
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert {"x-ratelimit-remaining", "ratelimit", "retry-after", "x-request-id", "idempotent-replayed"} <= exposed


async def test_a_form_of_a_foreign_page_changes_nothing(caller: Caller) -> None:
    mutation = 'mutation { siteCreate(input: { name: "Trojan", timeZone: "UTC" }) { site { id } } }'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        headers = {"Authorization": f"Bearer {caller.api_key}", "Content-Type": kind}
        answer = await caller.http.post("/graphql", content=mutation.encode(), headers=headers)
        assert answer.status_code == 415
    got = await caller.http.get(
        "/graphql", params={"query": mutation}, headers={"Authorization": f"Bearer {caller.api_key}"}
    )

    assert got.status_code == 405
    assert (await caller.ask("{ sites { nodes { id } } }"))["sites"]["nodes"] == []


async def test_a_cookie_opens_nothing(caller: Caller) -> None:
    for cookie in (f"pc_session={caller.api_key}", f"authorization=Bearer {caller.api_key}"):
        answer = await caller.http.post("/graphql", json={"query": WHO}, headers={"Cookie": cookie})
        assert answer.status_code == 401


async def test_a_socket_of_a_foreign_page_is_open_to_whoever_has_a_key(here: Served, caller: Caller) -> None:
    async with acknowledged(here.url, caller.api_key, origin=ELSEWHERE) as client:
        await client.subscribe(WHO)
        answer = await client.next()

    assert answer["data"]["viewer"]["apiKey"]["id"].startswith("key_")
