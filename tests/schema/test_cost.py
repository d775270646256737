"""What operations cost, before they run and afterwards."""

from __future__ import annotations

import sys
from typing import Any

import asyncpg
import pytest

from app.errors import AppError
from app.ids import show
from app.settings import Settings
from schema import cost, operations, schema
from schema.operations import price
from tests.schema.conftest import Caller
from tests.schema.world import World


def points(document: str, name: str | None = None, **variables: Any) -> int:
    """What it costs before it runs."""
    prepared = schema.documents.prepare(document)
    assert prepared.errors == []
    operation = prepared.operation(name)
    assert operation is not None
    return price(prepared, operation, variables, cost.MOST).points


@pytest.mark.parametrize(
    ("document", "price"),
    [
        ("{ __typename }", 1),
        ("{ viewer { __typename } }", 1),
        ("{ viewer { tenant { name } apiKey { name } } }", 3),
        ('{ node(id: "x") { id ... on Device { site { id } } ... on Punch { device { id } } } }', 3),
        ('{ nodes(ids: ["a", "b", "c"]) { id } }', 3),
        ("{ devices { nodes { id } } }", 1 + 50),
        ("{ devices(first: 10) { nodes { id } } }", 1 + 10),
        ("{ devices(last: 10) { nodes { id } } }", 1 + 10),
        ("{ devices(first: 0) { nodes { id } } }", 1),
        ("{ devices(first: 10) { edges { cursor node { id site { id } } } pageInfo { endCursor } } }", 1 + 10 * 2),
        ("{ devices(first: 10) { totalCount } }", 1 + 10),
        ("{ devices(first: 10) { nodes { punches(first: 5) { nodes { device { id } } } } } }", 1 + 10 * (2 + 5 * 2)),
        ("{ a: devices(first: 10) { nodes { id } } b: devices(first: 20) { nodes { id } } }", 11 + 21),
        ("{ devices(first: 10) { nodes { id } } devices(first: 10) { nodes { name site { id } } } }", 1 + 10 * 2),
        ("{ punchFeed(first: 20) { punches { id employee { id } } } }", 1 + 20 * 2),
        ("{ webhookDeliveries(first: 2) { nodes { attempts { number } } } }", 1 + 2 * (1 + 10)),
        ("{ employees(first: 100) { nodes { placements { device { name } } } } }", 1 + 100 * (1 + 10 * 2)),
        ("{ __schema { types { name fields { name } } } }", 100),
        (
            'mutation { siteCreate(input: {name: "x", timeZone: "UTC"}) { site { id } userErrors { code } } }',
            10 + 1 + 10,
        ),
        ("subscription { punches { punches { id device { id } } } }", 10),
        (
            "{ ...F ...F } fragment F on Query { devices(first: 5) { nodes { ...G } } } "
            "fragment G on Device { site { id } }",
            11,
        ),
    ],
)
def test_an_operation_costs_what_it_may_answer(document: str, price: int) -> None:
    assert points(document) == price


def test_variables_decide_and_their_defaults_where_they_are_left_out() -> None:
    document = "query($n: Int = 7) { devices(first: $n) { nodes { id } } }"

    assert points(document, n=20) == 1 + 20
    assert points(document) == 1 + 7
    assert points(document, n=None) == 1 + 50
    assert points("query($ids: [ID!]!) { nodes(ids: $ids) { id } }", ids=["a"] * 30) == 30
    assert points("query($first: Int) { devices(first: $first, last: 3) { nodes { id } } }") == 1 + 3


def test_a_mutation_of_many_rows_costs_a_point_for_each() -> None:
    document = (
        """mutation($input: EmployeeBulkUpsertInput!) { employeeBulkUpsert(input: $input) { idempotentReplay } }"""
    )

    assert points(document, input={"employees": [{"pin": str(n)} for n in range(500)]}) == 10 + 500


def test_of_several_operations_the_one_that_is_run_is_paid() -> None:
    document = "query A { viewer { __typename } } query B { devices(first: 10) { nodes { id } } }"

    assert (points(document, "A"), points(document, "B")) == (1, 11)


def test_what_could_cost_more_than_the_bound_is_refused() -> None:
    nested = "{ devices(first: %d) { nodes { punches(first: 100) { nodes { device { id } } } } } }"

    assert points(nested % 49) == 1 + 49 * (2 + 200)
    with pytest.raises(AppError) as refused:
        points(nested % 50)

    assert refused.value.code == "query_too_complex"
    assert refused.value.extensions == {"cost": 1 + 50 * (2 + 200)}


def test_a_plan_is_drawn_in_few_steps_however_fragments_are_woven() -> None:
    links = " ".join(
        f"fragment F{n} on Device {{ site {{ devices(first: 1) {{ nodes {{ ...F{n + 1} }} }} }} "
        f"b: site {{ devices(first: 1) {{ nodes {{ ...F{n + 1} }} }} }} }}"
        for n in range(4)
    )
    document = f"{{ devices(first: 1) {{ nodes {{ ...F0 }} }} }} {links} fragment F4 on Device {{ id }}"
    steps = 0

    def count(*_: object) -> Any:
        nonlocal steps
        steps += 1
        return count

    schema.documents.prepare(document)
    sys.settrace(count)
    try:
        assert points(document) == 2 + 2 * 3 + 4 * 3 + 8 * 3 + 16 * 3
    finally:
        sys.settrace(None)

    assert steps < 20_000


# ── over HTTP ────────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_not_needed_is_given_back(caller: Caller, world: World) -> None:
    first = await caller.post("{ punches(first: 100) { nodes { id device { id } } } }")
    then = await caller.post("{ __typename }")

    # Three punches with a device each, and the list.
    assert first.json()["extensions"]["cost"] == {"requested": 201, "actual": 7}
    assert first.headers["x-ratelimit-remaining"] == "19993"
    assert int(then.headers["x-ratelimit-remaining"]) >= 19_993 - 1
    assert len(world.punches) == 3


async def test_the_actual_cost_counts_every_object_of_the_answer(caller: Caller, world: World) -> None:
    answer = await caller.post(
        """{
            devices(first: 10) {
                totalCount
                edges { node { id site { id } punches(first: 2) { nodes { id device { id } employee { id } } } } }
            }
            nothing: node(id: "dev_00000000000000000000000000") { id }
            webhookDeliveries(first: 10) { nodes { attempts { number } } }
        }"""
    )

    assert "errors" not in answer.json()
    data, spent = answer.json()["data"], answer.json()["extensions"]["cost"]
    people = sum(each["employee"] is not None for each in data["devices"]["edges"][0]["node"]["punches"]["nodes"])
    deliveries = data["webhookDeliveries"]["nodes"]
    # Places that are empty are paid as they were looked into: the employee and the node.
    assert people == 1
    assert spent["actual"] == (
        (1 + 10 + 1 + 1 + 1 + 2 * (1 + 1 + 1)) + 1 + (1 + len(deliveries) + sum(len(d["attempts"]) for d in deliveries))
    )
    assert world.tenant_id == caller.tenant_id


async def test_both_families_of_headers_are_on_every_answer(caller: Caller) -> None:
    bearer = {"Authorization": f"Bearer {caller.api_key}"}
    answers = [
        await caller.post("{ viewer { __typename } }"),
        await caller.post("{ nonsense }"),
        await caller.post("{"),
        await caller.post("subscription { punches { cursor } }"),
        await caller.http.post("/graphql", content=b"{", headers={**bearer, "Content-Type": "application/json"}),
        await caller.http.post("/graphql", content=b"{}", headers={**bearer, "Content-Type": "text/plain"}),
        await caller.http.get("/graphql", params={"query": "{ __typename }"}, headers=bearer),
        await caller.http.put("/graphql", headers=bearer),
        await caller.post("{ __typename }", accept="text/html"),
    ]
    nobody = [
        await caller.http.post("/graphql", json={"query": "{ __typename }"}),
        await caller.http.post("/graphql", headers={"Authorization": "Bearer pc_live_nonsense"}),
        await caller.http.put("/graphql"),
        await caller.http.get("/graphql", headers={"Accept": "text/html"}),
        await caller.http.options("/graphql"),
    ]

    for answer in answers + nobody:
        assert answer.headers["x-ratelimit-limit"] == "20000"
        assert answer.headers["ratelimit-policy"] == '"points";q=20000;w=40'
        assert int(answer.headers["x-ratelimit-reset"]) > 1_700_000_000
        remaining = answer.headers["x-ratelimit-remaining"]
        assert answer.headers["ratelimit"].startswith(f'"points";r={remaining};t=')
        # Nothing was taken from nobody; the others cost a point at least.
        assert remaining == "20000" if answer in nobody else 19_985 <= int(remaining) < 20_000


@pytest.mark.parametrize("mistake", ["PUT", "text/html"])
async def test_who_makes_a_mistake_is_told_of_its_own_budget(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    limiter = caller_limiter(caller)
    monkeypatch.setattr(limiter._local, "_clock", lambda: 0.0)  # else points come back all the while
    await limiter.spend(caller.tenant_id, 19_000)
    bearer = {"Authorization": f"Bearer {caller.api_key}"}

    if mistake == "PUT":
        answer = await caller.http.put("/graphql", headers=bearer)
    else:
        answer = await caller.http.get("/graphql", headers={**bearer, "Accept": mistake})

    assert answer.status_code == {"PUT": 405, "text/html": 406}[mistake]
    assert answer.headers["x-ratelimit-remaining"] == "999"
    assert answer.headers["ratelimit"].startswith('"points";r=999;t=')


async def test_the_budget_can_be_asked_for(caller: Caller) -> None:
    answer = await caller.ask("{ rateLimit { limit remaining resetAt cost } devices(first: 9) { nodes { id } } }")

    assert answer["rateLimit"]["limit"] == 20_000
    assert answer["rateLimit"]["remaining"] == 20_000 - 11
    assert answer["rateLimit"]["cost"] == 11
    assert answer["rateLimit"]["resetAt"].endswith("Z")


async def test_who_has_spent_everything_is_told_when_to_come_back(caller: Caller) -> None:
    big = "{ devices(first: 49) { nodes { punches(first: 100) { nodes { device { id } } } } } }"
    limiter = caller_limiter(caller)
    taken = await limiter.spend(caller.tenant_id, 15_000)

    refused = await caller.post(big)
    small = await caller.post("{ __typename }")

    assert taken.granted
    assert refused.status_code == 429
    assert refused.json().keys() == {"errors"}
    told = refused.json()["errors"][0]["extensions"]
    assert (told["code"], told["status"], told["retryable"], told["cost"]) == ("rate_limited", 429, True, 9899)
    # 4,899 points are missing, and 500 come back each second.
    assert told["retryAfter"] in {9, 10}
    assert refused.headers["retry-after"] == str(told["retryAfter"])
    assert int(refused.headers["x-ratelimit-remaining"]) >= 5_000
    assert small.status_code == 200


async def test_even_mistakes_are_refused_once_nothing_is_left(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = caller_limiter(caller)
    monkeypatch.setattr(limiter._local, "_clock", lambda: 0.0)  # else points come back all the while
    await limiter.spend(caller.tenant_id, 19_999)
    bearer = {"Authorization": f"Bearer {caller.api_key}", "Content-Type": "application/json"}

    last, refused = [await caller.http.post("/graphql", content=b"{", headers=bearer) for _ in range(2)]

    assert (last.status_code, last.headers["x-ratelimit-remaining"]) == (400, "0")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")


async def test_a_query_that_could_cost_too_much_is_refused_before_it_runs(caller: Caller) -> None:
    answer = await caller.post("{ devices(first: 100) { nodes { punches(first: 100) { nodes { id } } } } }")

    error = answer.json()["errors"][0]
    assert answer.json().keys() == {"errors"}
    assert (error["extensions"]["code"], error["extensions"]["cost"]) == ("query_too_complex", 10_201)
    assert answer.headers["x-ratelimit-remaining"] == "19999"


async def test_an_operation_that_takes_too_long_is_given_up(
    caller: Caller, world: World, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "DEADLINE", 0.3)
    blocker = await asyncpg.connect(database_url)
    try:
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE sites IN ACCESS EXCLUSIVE MODE")
            late = await caller.post("{ sites { nodes { id } } }")
    finally:
        await blocker.close()

    assert late.status_code == 503, late.text
    assert late.json()["errors"][0]["extensions"]["code"] == "operation_timed_out"
    assert late.headers["retry-after"] == "1"
    assert (await caller.ask("{ sites { nodes { id } } }"))["sites"]["nodes"] == [{"id": show("sit", world.site.id)}]


async def test_what_waits_on_purpose_has_the_more_time(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "DEADLINE", 0.9)

    answer = await caller.post("{ punchFeed(waitMs: 1000) { caughtUp } }")

    assert answer.json()["data"]["punchFeed"]["caughtUp"] is True


def caller_limiter(caller: Caller) -> Any:
    """The buckets behind the caller's endpoint."""
    transport: Any = caller.http._transport
    return transport.app._budget.limiter


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = Settings(_env_file=None)

    assert (settings.api_points, settings.api_restore, cost.MOST) == (20_000, 500, 10_000)
