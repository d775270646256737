"""Documents made to cost much. What each costs grows no faster than it does itself, up to what a request may hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest

from schema import operations, schema
from schema.documents import Documents
from schema.guards import QueryTooComplex
from schema.http import BODY_BOUND

MOST: Final = 20_000


def fragment_bomb(size: int) -> str:
    """Each fragment spreads the next one twice."""
    parts = [f"fragment f{n} on Query {{ ...f{n + 1} ...f{n + 1} }}" for n in range(size)]
    return " ".join(["{ ...f0 }", *parts, f"fragment f{size} on Query {{ __typename }}"])


def nested_bomb(size: int) -> str:
    """The same, a level of fields deeper each time."""
    parts = [
        f"fragment f{n} on Site {{ devices {{ nodes {{ site {{ ...f{n + 1} ...f{n + 1} }} }} }} }}" for n in range(size)
    ]
    return " ".join(['{ site(id: "x") { ...f0 } }', *parts, f"fragment f{size} on Site {{ id }}"])


#: name -> a document of this size; the largest are as long as a document may be, and longer.
DOCUMENTS: Final[dict[str, Callable[[int], str]]] = {
    "fragment bomb": fragment_bomb,
    "fragment bomb over fields": nested_bomb,
    "nesting": lambda size: "{" * size + "id" + "}" * size,
    "nested fields": lambda size: (
        "{ site(id: 1) { devices { nodes " + "{ site { devices { nodes " * size + "{ id }" + "} } }" * size + "} } }"
    ),
    "nested inline fragments": lambda size: "{" + "... on Query {" * size + "__typename" + "}" * size + "}",
    "aliases": lambda size: "{" + " ".join(f"a{n}: __typename" for n in range(size)) + "}",
    "the same field": lambda size: "{" + "__typename " * size + "}",
    "the same field with arguments": lambda size: "{" + "punches(first: 1) { nodes { id } } " * size + "}",
    "unknown fields": lambda size: "{" + " ".join(f"nothing{n}" for n in range(size)) + "}",
    "directives": lambda size: "{ __typename " + "@include(if: true) " * size + "}",
    "variables": lambda size: "query (" + " ".join(f"$v{n}: Int" for n in range(size)) + ") { __typename }",
    "operations": lambda size: " ".join(f"query q{n} {{ __typename }}" for n in range(size)),
    "fragments nobody spreads": lambda size: (
        "{ __typename } " + " ".join(f"fragment f{n} on Query {{ __typename }}" for n in range(size))
    ),
    "a list": lambda size: "{ nodes(ids: [" + "1 " * size + "]) { id } }",
    "nested lists": lambda size: "{ nodes(ids: " + "[" * size + "]" * size + ") { id } }",
    "nested objects": lambda size: "{ punches(filter: " + "{a: " * size + "1" + "}" * size + ") { nodes { id } } }",
    "a string": lambda size: '{ site(id: "' + "x" * size + '") { id } }',
    "escapes": lambda size: '{ site(id: "' + "\\u0041" * size + '") { id } }',
    "a block string": lambda size: '{ site(id: """' + "\n  x" * size + '""") { id } }',
    "a number": lambda size: "{ punches(first: " + "9" * size + ") { nodes { id } } }",
    "a fraction": lambda size: "{ punches(first: 1." + "9" * size + "e" + "9" * 9 + ") { nodes { id } } }",
    "a name": lambda size: "{ " + "x" * size + " }",
    "comments": lambda size: "#\n" * size + "{ __typename }",
    "commas": lambda size: "," * size + "{ __typename }",
}


def spent(document: str) -> float:
    """Seconds of processor time to read, judge and price a document, the least of three."""
    best = float("inf")
    for _ in range(3):
        documents = Documents(schema.core)
        began = time.process_time()
        prepared = documents.prepare(document)
        for operation in prepared.operations if not prepared.errors else ():
            with suppress(QueryTooComplex):
                operations.price(prepared, operation, {}, MOST)
        best = min(best, time.process_time() - began)
    return best


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_hostile_document_costs_no_more_than_a_plain_one_of_the_largest_kind(name: str) -> None:
    write = DOCUMENTS[name]
    # A document that passes every bound and that everything is checked of: as much as anybody may ask of us.
    plain = spent("{ devices { nodes { " + " ".join(f"a{n}: name" for n in range(90)) + " id" * 90 + " } } }")

    worst = max(spent(write(size)) for size in (10, 20, 50, 90, 300, 1_000, 3_000, 10_000))

    assert worst < 5 * plain


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_remembered_of_hostile_documents_is_bounded(name: str) -> None:
    documents = Documents(schema.core, kept=4)

    for size in range(1, 40):
        documents.prepare(DOCUMENTS[name](size))

    assert len(documents) <= 4


VARIABLES: Final[dict[str, Callable[[int], Any]]] = {
    "a long list": lambda size: {"pins": ["1"] * size},
    "long strings": lambda size: {"pins": ["1" * size]},
    "unknown fields": lambda size: {f"nothing{n}": 1 for n in range(size)},
    "lists in a list": lambda size: {"pins": [["1"]] * size},
}


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_cost_in_proportion_to_their_size(name: str) -> None:
    prepared = schema.documents.prepare("query ($f: PunchFilter) { punches(filter: $f) { nodes { id } } }")
    operation = prepared.operation(None)
    assert operation is not None

    def cost_of(size: int) -> float:
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            operations.price(prepared, operation, {"f": VARIABLES[name](size)}, MOST)
            best = min(best, time.process_time() - began)
        return best

    small, large = cost_of(1_000), cost_of(BODY_BOUND // 50)

    assert large < 40 * max(small, 0.001)
