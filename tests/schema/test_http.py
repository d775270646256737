"""GraphQL over HTTP: methods, media types, bodies, statuses, and headers on every answer."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from app import ids
from app.database import Database
from app.domain.keys import Actor, KeyRing
from app.errors import ServiceUnavailable
from app.vault import Vault
from schema.context import Context
from schema.http import BODY_BOUND, GraphQLHttp, MakeContext, negotiate
from tests.schema.conftest import PUBLIC_URL, Caller

JSON = "application/json"
GRAPHQL_JSON = "application/graphql-response+json"
WHO = "{ viewer { apiKey { name } } }"


def bearer(caller: Caller) -> dict[str, str]:
    return {"Authorization": f"Bearer {caller.api_key}"}


async def test_an_answer_carries_its_headers(caller: Caller) -> None:
    response = await caller.post(WHO)

    assert response.status_code == 200
    assert response.json()["data"] == {"viewer": {"apiKey": {"name": "first key"}}}
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in response.headers
    assert "X-Request-Id" in response.headers["access-control-expose-headers"]
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-length"] == str(len(response.content))


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (JSON, JSON),
        (GRAPHQL_JSON, GRAPHQL_JSON),
        (f"{GRAPHQL_JSON}, {JSON};q=0.9", GRAPHQL_JSON),
        (f"{JSON}, {GRAPHQL_JSON}", GRAPHQL_JSON),
        (f"{JSON}, {GRAPHQL_JSON};q=0.5", JSON),
        (f"{GRAPHQL_JSON};charset=utf-8, */*;q=0.1", GRAPHQL_JSON),
        ("text/html, */*;q=0.8", JSON),
        (f"{JSON};q=0, {GRAPHQL_JSON}", GRAPHQL_JSON),
        ("APPLICATION/JSON", JSON),
    ],
)
async def test_the_media_type_is_the_one_that_is_wanted(caller: Caller, accept: str | None, media_type: str) -> None:
    assert negotiate(accept) == media_type
    if accept is not None:
        response = await caller.post(WHO, accept=accept)

        assert response.headers["content-type"] == f"{media_type}; charset=utf-8"


@pytest.mark.parametrize(
    "accept", ["text/html", "text/event-stream;q=0", "application/xml;q=1", f"{JSON};q=0", "*/*;q=x"]
)
async def test_what_is_wanted_in_another_form_is_406(caller: Caller, accept: str) -> None:
    response = await caller.post(WHO, accept=accept)

    assert response.status_code == 406
    assert codes(response) == ["not_acceptable"]
    assert response.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("query", "variables", "code"),
    [
        ("{", None, "graphql_syntax_error"),
        ("{ nothing }", None, "graphql_validation_failed"),
        ("query ($id: ID!) { node(id: $id) { id } }", None, "graphql_validation_failed"),
        ("query ($id: ID!) { node(id: $id) { id } }", {"id": {}}, "graphql_validation_failed"),
        ('{ punches(filter: { punchedAt: { gte: "today" } }) { nodes { id } } }', None, "graphql_validation_failed"),
        ("fragment F on Site { id }", None, "graphql_validation_failed"),
        ("query A { viewer { apiKey { id } } } query B { nothing }", None, "graphql_validation_failed"),
    ],
)
async def test_a_document_that_cannot_be_run_is_400_in_the_new_form_and_200_in_the_old(
    caller: Caller, query: str, variables: dict[str, Any] | None, code: str
) -> None:
    new = await caller.post(query, variables, accept=GRAPHQL_JSON)
    old = await caller.post(query, variables, accept=JSON)

    assert (new.status_code, old.status_code) == (400, 200)
    for response in (new, old):
        assert codes(response) == [code]
        assert response.json().keys() == {"errors"}
        assert response.json()["errors"][0]["extensions"]["requestId"] == response.headers["x-request-id"]


async def test_an_operation_is_chosen_by_its_name(caller: Caller) -> None:
    query = "query A { a: __typename } query B { b: __typename }"

    async def ask(name: str | None) -> httpx.Response:
        return await caller.http.post(
            "/graphql", json={"query": query, "operationName": name}, headers={**bearer(caller), "Accept": GRAPHQL_JSON}
        )

    assert (await ask("B")).json()["data"] == {"b": "Query"}
    assert (await ask("C")).status_code == 400
    assert codes(await ask("C")) == ["graphql_validation_failed"]


async def test_one_failed_field_leaves_the_others_standing(caller: Caller) -> None:
    query = f'{{ viewer {{ apiKey {{ name }} }} site(id: "{ids.show("sit", ids.new())}") {{ id }} }}'

    response = await caller.post(query, accept=GRAPHQL_JSON)

    assert response.status_code == 200
    assert response.json()["data"] == {"viewer": {"apiKey": {"name": "first key"}}, "site": None}
    assert codes(response) == ["site_not_found"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"\xff",
        b"null",
        b'"{ viewer }"',
        b"{}",
        b'{"query": null}',
        b'{"query": ""}',
        b'{"query": "  "}',
        b'{"query": 7}',
        b'{"query": "{ __typename }", "variables": []}',
        b'{"query": "{ __typename }", "variables": "{}"}',
        b'{"query": "{ __typename }", "operationName": 7}',
        b'{"query": "{ __typename }", "extensions": 7}',
        b'[{"query": "{ __typename }"}]',
        b"[]",
        b'{"query": "{ __typename }"',
    ],
)
@pytest.mark.parametrize("accept", [JSON, GRAPHQL_JSON])
async def test_what_is_no_request_is_400_in_either_form(caller: Caller, body: bytes, accept: str) -> None:
    response = await caller.http.post(
        "/graphql", content=body, headers={**bearer(caller), "Content-Type": JSON, "Accept": accept}
    )

    assert response.status_code == 400
    assert codes(response) == ["bad_request"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('APPLICATION/JSON;charset="UTF-8"', 200),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/graphql", 415),
        ("", 415),
    ],
)
async def test_only_json_is_read(caller: Caller, content_type: str, status: int) -> None:
    response = await caller.http.post(
        "/graphql",
        content=json.dumps({"query": WHO}).encode(),
        headers={**bearer(caller), "Content-Type": content_type},
    )

    assert response.status_code == status
    assert status == 200 or codes(response) == ["unsupported_media_type"]


async def test_a_body_of_a_mebibyte_is_taken_and_one_byte_more_is_413(caller: Caller) -> None:
    body = json.dumps({"query": WHO}).encode()
    headers = {**bearer(caller), "Content-Type": JSON}

    async def in_parts(size: int) -> Any:
        yield body
        for start in range(len(body), size, 65_536):
            yield b" " * min(65_536, size - start)

    fits = await caller.http.post("/graphql", content=body.ljust(BODY_BOUND), headers=headers)
    over = await caller.http.post("/graphql", content=body.ljust(BODY_BOUND + 1), headers=headers)
    streamed_fits = await caller.http.post("/graphql", content=in_parts(BODY_BOUND), headers=headers)
    streamed_over = await caller.http.post("/graphql", content=in_parts(BODY_BOUND + 1), headers=headers)

    assert (BODY_BOUND, fits.status_code, streamed_fits.status_code) == (1_048_576, 200, 200)
    for response in (over, streamed_over):
        assert response.status_code == 413
        assert codes(response) == ["payload_too_large"]


async def test_a_query_may_come_by_get(caller: Caller) -> None:
    query = "query A($id: ID!) { node(id: $id) { id } } query B { __typename }"
    tenant = ids.show("ten", caller.tenant_id)

    response = await caller.http.get(
        "/graphql",
        params={"query": query, "operationName": "A", "variables": json.dumps({"id": tenant})},
        headers=bearer(caller),
    )
    bare = await caller.http.get("/graphql", params={"query": WHO, "variables": ""}, headers=bearer(caller))

    assert response.json()["data"] == {"node": {"id": tenant}}
    assert bare.status_code == 200


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"query": ""},
        {"query": WHO, "variables": "nonsense"},
        {"query": WHO, "variables": "[]"},
        {"query": WHO, "extensions": "7"},
    ],
)
async def test_a_get_that_is_no_request_is_400(caller: Caller, params: dict[str, str]) -> None:
    response = await caller.http.get("/graphql", params=params, headers=bearer(caller))

    assert response.status_code == 400
    assert codes(response) == ["bad_request"]


async def test_a_query_string_that_is_not_utf_8_is_400(caller: Caller) -> None:
    response = await caller.http.get("/graphql?query=%ff", headers=bearer(caller))

    assert response.status_code == 400
    assert codes(response) == ["bad_request"]


async def test_a_mutation_by_get_is_405_and_changes_nothing(caller: Caller) -> None:
    mutation = 'mutation { siteCreate(input: { name: "x", timeZone: "UTC" }) { site { id } } }'

    response = await caller.http.get("/graphql", params={"query": mutation}, headers=bearer(caller))

    assert response.status_code == 405
    assert response.headers["allow"] == "GET, POST, OPTIONS"
    assert codes(response) == ["method_not_allowed"]
    assert (await caller.ask("{ sites { nodes { id } } }"))["sites"]["nodes"] == []


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD"])
async def test_other_methods_are_405(caller: Caller, method: str) -> None:
    response = await caller.http.request(method, "/graphql", headers=bearer(caller), json={"query": WHO})

    assert response.status_code == 405
    assert response.headers["allow"] == "GET, POST, OPTIONS"


async def test_a_subscription_over_http_is_sent_to_the_socket(caller: Caller) -> None:
    response = await caller.post("subscription { punches { cursor } }")

    assert response.status_code == 400
    assert codes(response) == ["bad_request"]


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer nonsense", "Basic abc", "bearer pc_live_" + "0" * 49, "pc_live_x"],
)
async def test_without_a_key_that_works_the_answer_is_401_in_graphqls_shape(
    http: httpx.AsyncClient, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}

    response = await http.post("/graphql", json={"query": WHO}, headers=headers)

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.json().keys() == {"errors"}
    error = response.json()["errors"][0]
    assert error["extensions"] == {
        "code": "unauthenticated",
        "status": 401,
        "docUrl": f"{PUBLIC_URL}/docs/errors/unauthenticated",
        "requestId": response.headers["x-request-id"],
        "retryable": False,
    }


async def test_a_key_in_the_url_or_in_a_cookie_is_no_key(caller: Caller) -> None:
    url = f"/graphql?authorization=Bearer%20{caller.api_key}&access_token={caller.api_key}"

    response = await caller.http.post(url, json={"query": WHO}, headers={"Cookie": f"authorization={caller.api_key}"})

    assert response.status_code == 401


async def test_a_browser_may_ask_from_anywhere(http: httpx.AsyncClient) -> None:
    response = await http.options(
        "/graphql",
        headers={
            "Origin": "https://elsewhere.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
        },
    )

    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in response.headers
    assert response.headers["access-control-allow-methods"] == "GET, POST, OPTIONS"
    allowed = {name.strip().lower() for name in response.headers["access-control-allow-headers"].split(",")}
    assert {"authorization", "content-type", "idempotency-key"} <= allowed


async def test_without_the_database_the_answer_is_503_to_be_repeated(
    caller: Caller, vault: Vault, make_context: MakeContext, db: Database
) -> None:
    gone = Database("postgresql://nobody:x@127.0.0.1:1/nothing")

    def context(actor: Actor, request_id: str, idempotency_header: str | None) -> Context:
        return replace(make_context(actor, request_id, idempotency_header), db=gone)

    no_key: Any = GraphQLHttp(KeyRing(gone, vault).authenticate, context, PUBLIC_URL)
    no_data: Any = GraphQLHttp(KeyRing(db, vault).authenticate, context, PUBLIC_URL)
    for endpoint, query in ((no_key, WHO), (no_data, "{ sites { nodes { id } } devices { nodes { id } } }")):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url=PUBLIC_URL) as client:
            response = await client.post("/graphql", json={"query": query}, headers=bearer(caller))

        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert response.json().keys() == {"errors"}
        assert set(codes(response)) == {ServiceUnavailable.code}
        assert response.json()["errors"][0]["extensions"]["retryable"] is True


async def test_what_still_could_be_answered_without_the_database_is_answered(
    caller: Caller, vault: Vault, make_context: MakeContext, db: Database
) -> None:
    def context(actor: Actor, request_id: str, idempotency_header: str | None) -> Context:
        gone = Database("postgresql://nobody:x@127.0.0.1:1/nothing")
        return replace(make_context(actor, request_id, idempotency_header), db=gone)

    endpoint: Any = GraphQLHttp(KeyRing(db, vault).authenticate, context, PUBLIC_URL)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url=PUBLIC_URL) as client:
        query = "{ __typename sites { nodes { id } } }"
        response = await client.post("/graphql", json={"query": query}, headers=bearer(caller))

    assert response.status_code == 200
    assert response.json()["data"] == {"__typename": "Query", "sites": None}
    assert codes(response) == ["service_unavailable"]


async def test_a_client_that_hangs_up_in_the_middle_gets_nothing(
    caller: Caller, db: Database, vault: Vault, make_context: MakeContext
) -> None:
    endpoint = GraphQLHttp(KeyRing(db, vault).authenticate, make_context, PUBLIC_URL)
    messages = [{"type": "http.request", "body": b'{"query', "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", f"Bearer {caller.api_key}".encode()), (b"content-type", b"application/json")]
    await endpoint({"type": "http", "method": "POST", "headers": headers}, receive, send)

    assert sent == []


def codes(response: httpx.Response) -> list[str]:
    return [error["extensions"]["code"] for error in response.json()["errors"]]
