"""Documents that would keep us busy are refused before they do."""

from __future__ import annotations

from typing import Any

import pytest
from graphql import get_introspection_query, parse

from schema.guards import (
    DEEPEST,
    DOCUMENTS_KEPT,
    LONGEST_KEPT,
    MOST_NAMESAKES,
    MOST_TOKENS,
    Measure,
    Parsing,
    measure,
)
from tests.schema.conftest import Caller


@pytest.mark.parametrize(
    ("document", "depth", "namesakes"),
    [
        ("{ a }", 1, 1),
        ("{ a { b { c } } d }", 3, 1),
        ("{ ...F } fragment F on T { a { b } }", 2, 1),
        ("{ a { ... on T { b } ... { c { d } } } }", 3, 1),
        ("{ a { a { a } } }", 3, 3),
        ("{ x: a y: a x: b }", 1, 2),
        ("query A { a } query B { a { b } }", 2, 2),
        ("{ ...F } fragment F on T { a { ...F } }", 1, 1),
        ("{ ...Missing a }", 1, 1),
        ("fragment F on T { a { b } }", 0, 0),
    ],
)
def test_a_document_is_measured_through_its_fragments(document: str, depth: int, namesakes: int) -> None:
    assert measure(parse(document)) == Measure(depth, namesakes)


def test_a_fragment_is_measured_once_however_often_it_is_spread() -> None:
    # Followed spread by spread, this would be two to the power of sixty fields.
    links = " ".join(f"fragment F{n} on T {{ ...F{n + 1} x{n}: a {{ ...F{n + 1} }} }}" for n in range(60))

    assert measure(parse(f"{{ ...F0 }} {links} fragment F60 on T {{ a }}")) == Measure(61, 1)


async def test_the_deepest_that_is_run_is_run_and_one_deeper_is_not(caller: Caller) -> None:
    def nested(depth: int) -> str:
        around = ["devices", "nodes", *["punches", "nodes", "device"] * depth][: depth - 1]
        return "{" + " {".join([*around, "__typename"]) + " }" * depth

    assert await caller.codes(nested(DEEPEST)) == []
    assert await caller.codes(nested(DEEPEST + 1)) == ["query_too_complex"]


async def test_a_field_that_appears_too_often_is_refused(caller: Caller) -> None:
    def repeated(times: int) -> str:
        return "{" + " viewer { __typename }" * times + " }"

    assert await caller.codes(repeated(MOST_NAMESAKES)) == []
    assert await caller.codes(repeated(MOST_NAMESAKES + 1)) == ["query_too_complex"]


async def test_a_document_of_too_many_words_is_refused(caller: Caller) -> None:
    def long(tokens: int) -> str:
        return "{" + "".join(f" a{number}: __typename" for number in range((tokens - 2) // 3)) + " }"

    assert await caller.codes(long(MOST_TOKENS)) == []
    assert await caller.codes(long(MOST_TOKENS + 10)) == ["query_too_complex"]


@pytest.mark.parametrize(
    "document",
    [
        "{ a" * 500 + " }" * 500,
        "{ ..." * 500 + "{ a }" + " }" * 500,
        "{ ...F0 }" + "".join(f"fragment F{n} on Query {{ ...F{n + 1} }}" for n in range(600)),
        "{ a(b: " + "[" * 1000 + "]" * 1000 + ") }",
    ],
)
async def test_nesting_without_end_is_refused_and_breaks_nothing(caller: Caller, document: str) -> None:
    assert await caller.codes(document) == ["query_too_complex"]
    assert await caller.codes("{ __typename }") == []


async def test_tools_may_ask_for_the_schema(caller: Caller) -> None:
    query = get_introspection_query(descriptions=True, input_value_deprecation=True, specified_by_url=True)

    data = await caller.ask(query)

    assert data["__schema"]["queryType"]["name"] == "Query"


async def test_short_documents_are_remembered_and_long_ones_are_not(caller: Caller) -> None:
    short, long = "{ __typename }".ljust(LONGEST_KEPT), "{ __typename }".ljust(LONGEST_KEPT + 1)
    remembered: Any = Parsing().cached_parse_document

    for document in (short, long, short, long):
        assert await caller.ask(document) == {"__typename": "Query"}

    before = remembered.cache_info()
    await caller.ask(short)
    await caller.ask(long)
    after = remembered.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (1, 0)
    assert after.maxsize == DOCUMENTS_KEPT
