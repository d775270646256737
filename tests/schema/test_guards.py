"""Documents that would keep us busy are refused before they do."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from graphql import get_introspection_query, parse

from schema import guards, schema
from schema.documents import KEPT, LONGEST_KEPT, Documents
from schema.guards import DEEPEST, MOST_NAMESAKES, Measure, measure
from tests.schema.conftest import Caller


@pytest.mark.parametrize(
    ("document", "depth", "namesakes", "root_fields"),
    [
        ("{ a }", 1, 1, 1),
        ("{ a { b { c } } d }", 3, 1, 2),
        ("{ ...F } fragment F on T { a { b } c }", 2, 1, 2),
        ("{ a { ... on T { b } ... { c { d } } } }", 3, 1, 1),
        ("{ a { a { a } } }", 3, 3, 1),
        ("{ x: a y: a x: b }", 1, 2, 3),
        ("query A { a } query B { a { b } c }", 2, 2, 2),
        ("{ ...F } fragment F on T { a { ...F } }", 1, 1, 1),
        ("{ ...Missing a }", 1, 1, 1),
        ("fragment F on T { a { b } }", 2, 1, 0),
    ],
)
def test_a_document_is_measured_through_its_fragments(
    document: str, depth: int, namesakes: int, root_fields: int
) -> None:
    size = measure(parse(document))

    assert (size.depth, size.namesakes, size.root_fields) == (depth, namesakes, root_fields)


def test_everything_that_is_counted_is_counted_wherever_it_stands() -> None:
    document = """
        query A($v: Int @a) @b { x: a @c @d ... @e { y: b } ...F @f }
        query B { a }
        fragment F on T @g { z: c { w: d } }
    """

    assert measure(parse(document)) == Measure(
        depth=2, namesakes=1, aliases=4, directives=6, root_fields=3, fragments=1, operations=2
    )


def test_a_fragment_is_measured_once_however_often_it_is_spread() -> None:
    # Followed spread by spread, this would be two to the power of sixty fields.
    links = " ".join(f"fragment F{n} on T {{ ...F{n + 1} x{n}: a {{ ...F{n + 1} }} }}" for n in range(60))

    size = measure(parse(f"{{ ...F0 }} {links} fragment F60 on T {{ a }}"))

    assert (size.depth, size.namesakes, size.aliases, size.fragments) == (61, 1, 60, 61)


def _spread(fragments: int, body: str) -> str:
    """Fragments, each of which spreads the next by `body`."""
    parts = "".join(f" fragment F{n} on Device {{ {body.replace('NEXT', f'...F{n + 1}')} }}" for n in range(fragments))
    return f"{{ devices(first: 1) {{ nodes {{ ...F0 }} }} }}{parts} fragment F{fragments} on Device {{ id }}"


WORST = {
    "fragments doubled at every step": _spread(30, "NEXT NEXT site { devices { nodes { NEXT } } }"),
    "fragments doubled within fields": _spread(
        4, "a: punches { nodes { device { NEXT } } } b: punches { nodes { device { NEXT } } }"
    ),
    "as many fragments as may be, side by side": "{ devices { nodes {"
    + " ".join(f"...F{n}" for n in range(33))
    + " }}}"
    + " ".join(f"fragment F{n} on Device {{ punches {{ nodes {{ device {{ id name }} }} }} }}" for n in range(33)),
    "unknown input fields": "{ punches(filter: {"
    + " ".join(f"device{n}: 1" for n in range(480))
    + "}) { nodes { id } } }",
    "unknown fields": "{ devices { nodes {" + " ".join(f"serialNumbers{n}" for n in range(1900)) + " } } }",
    "unused variables": "query(" + " ".join(f"$a{n}: Int" for n in range(480)) + ") { __typename }",
    "operations": " ".join(f"query Q{n} {{ ...A }}" for n in range(280)) + " fragment A on Query { __typename }",
    "one word": "{ " + "a" * 1_000_000 + " }",
    "one text": '{ node(id: "' + "\\u0041" * 170_000 + '") { id } }',
    "blank lines and a mistake": "\n" * 1_000_000 + "{ __typename ",
    "comments": "#\n" * 500_000 + "{ __typename }",
    "one argument": "{ punches(" + "first: 1 " * 480 + ") { nodes { id } } }",
}


@pytest.mark.parametrize("document", WORST.values(), ids=WORST.keys())
def test_no_document_that_fits_into_a_body_keeps_us_busy(document: str) -> None:
    # Steps of the interpreter instead of seconds: the machine may be busy with other things.
    steps = 0

    def count(*_: object) -> Any:
        nonlocal steps
        steps += 1
        return count

    documents = Documents(schema.documents._schema)
    sys.settrace(count)
    try:
        documents.prepare(document)
    finally:
        sys.settrace(None)

    assert steps < 2_000_000


@pytest.mark.parametrize(
    ("most", "document"),
    [
        ("MOST_ALIASES", lambda n: "{ viewer {" + "".join(f" a{i}: __typename" for i in range(n)) + " } }"),
        (
            "MOST_DIRECTIVES",
            lambda n: "{ viewer {" + " ... @skip(if: false) { __typename }" * n + " } }",
        ),
        ("MOST_ROOT_FIELDS", lambda n: "{" + "".join(f" a{i}: __typename" for i in range(n)) + " }"),
        (
            "MOST_FRAGMENTS",
            lambda n: "{ viewer {" + "".join(f" ...F{i}" for i in range(n)) + " } }"
            + "".join(f" fragment F{i} on Viewer {{ __typename }}" for i in range(n)),
        ),
    ],
)  # fmt: skip
async def test_as_many_as_may_be_are_run_and_one_more_is_not(caller: Caller, most: str, document: Any) -> None:
    bound = getattr(guards, most)

    assert await caller.codes(document(bound)) == []
    assert await caller.codes(document(bound + 1)) == ["query_too_complex"]


async def test_of_many_mistakes_a_few_are_named(caller: Caller) -> None:
    codes = await caller.codes("{ viewer {" + "".join(f" wrong{n}" for n in range(90)) + " } }")

    assert codes == ["graphql_validation_failed"] * (guards.MOST_MISTAKES + 1)


async def test_the_deepest_that_is_run_is_run_and_one_deeper_is_not(caller: Caller) -> None:
    def nested(depth: int) -> str:
        around = ["devices(first: 1)", "nodes", *["punches(first: 1)", "nodes", "device"] * depth][: depth - 1]
        return "{" + " {".join([*around, "__typename"]) + " }" * depth

    assert await caller.codes(nested(DEEPEST)) == []
    assert await caller.codes(nested(DEEPEST + 1)) == ["query_too_complex"]


async def test_a_field_that_appears_too_often_is_refused(caller: Caller) -> None:
    def repeated(times: int) -> str:
        return "{ viewer {" + " __typename" * times + " } }"

    assert await caller.codes(repeated(MOST_NAMESAKES)) == []
    assert await caller.codes(repeated(MOST_NAMESAKES + 1)) == ["query_too_complex"]


async def test_a_document_of_too_many_words_is_refused(caller: Caller) -> None:
    def long(ids: int) -> str:
        return "{ nodes(ids: [" + '"x" ' * ids + "]) { id } }"

    assert await caller.codes(long(guards.MOST_TOKENS)) == ["query_too_complex"]
    assert await caller.codes(long(guards.MOST_TOKENS - 20)) == ["page_too_large"]


async def test_a_document_of_too_many_characters_is_refused(caller: Caller) -> None:
    assert await caller.codes("{ __typename }".ljust(guards.LONGEST)) == []
    assert await caller.codes("{ __typename }".ljust(guards.LONGEST + 1)) == ["query_too_complex"]


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


def test_short_documents_are_remembered_and_long_ones_are_not() -> None:
    documents = Documents(schema.documents._schema)
    short, long = "{ __typename }".ljust(LONGEST_KEPT), "{ __typename }".ljust(LONGEST_KEPT + 1)

    assert documents.prepare(short) is documents.prepare(short)
    assert documents.prepare(long) is not documents.prepare(long)
    assert len(documents) == 1


def test_of_documents_remembered_the_one_unused_for_longest_goes_first() -> None:
    documents = Documents(schema.documents._schema)
    first, second = documents.prepare("{ a0: __typename }"), documents.prepare("{ a1: __typename }")

    for n in range(2, KEPT + 1):
        documents.prepare("{ a0: __typename }")
        documents.prepare(f"{{ a{n}: __typename }}")

    assert len(documents) == KEPT
    assert documents.prepare("{ a0: __typename }") is first
    assert documents.prepare("{ a1: __typename }") is not second
