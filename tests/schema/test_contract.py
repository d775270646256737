"""The printed schema against the contract that clients were promised."""

from __future__ import annotations

import pytest

from schema import sdl
from tests.schema.contract import CONTRACT, MISSING, differences, load


def test_what_is_missing_is_what_is_known_to_be_missing() -> None:
    found = differences(load(CONTRACT.read_text()), load(sdl()))

    assert found == MISSING.read_text().splitlines()


PROMISED = """
    interface Node { id: ID! }
    type Query { a(first: Int = 50, x: [ID!]): Thing b: Thing }
    type Thing implements Node { id: ID! state: State }
    enum State { ON OFF }
    input Choice @oneOf { x: Int y: Int }
    input Plain { x: Int }
"""


def test_the_contract_keeps_itself() -> None:
    assert differences(load(PROMISED), load(PROMISED)) == []


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        ("b: Thing ", "", "Query.b: missing"),
        ("b: Thing", "b: Thing!", "Query.b: Thing! instead of Thing"),
        ("b: Thing", "b(n: Int!): Thing", "Query.b(n:): added and required"),
        ("b: Thing", "b: Thing @deprecated", "Query.b: deprecated"),
        ("x: [ID!]", "x: [ID]", "Query.a(x:): [ID] instead of [ID!]"),
        (", x: [ID!]", "", "Query.a(x:): missing"),
        ("first: Int = 50", "first: Int = 51", "Query.a(first:): default 51 instead of 50"),
        ("first: Int = 50", "first: Int", "Query.a(first:): default null instead of 50"),
        ("type Thing implements Node", "type Thing", "Thing: does not implement Node"),
        ("ON OFF", "ON", "State.OFF: missing"),
        ("enum State { ON OFF }", "scalar State", "State: another kind of type"),
        ("@oneOf", "", "Choice: differs in @oneOf"),
        ("input Plain { x: Int }", "input Plain { x: Int! }", "Plain.x: Int! instead of Int"),
        ("input Plain { x: Int }", "input Plain { x: Int z: Int! }", "Plain.z: added and required"),
        ("input Plain { x: Int }", "", "Plain: missing"),
    ],
)
def test_a_broken_promise_is_named(old: str, new: str, difference: str) -> None:
    assert differences(load(PROMISED), load(PROMISED.replace(old, new, 1))) == [difference]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("b: Thing", "b: Thing c: Thing"),
        ("b: Thing", "b(n: Int): Thing"),
        ("b: Thing", "b(n: Int! = 1): Thing"),
        ("x: [ID!]", "x: [ID!] = null"),
        ("ON OFF", "ON OFF MAYBE"),
        ("input Plain { x: Int }", "input Plain { x: Int z: Int! = 1 }"),
    ],
)
def test_more_than_was_promised_breaks_nothing(old: str, new: str) -> None:
    assert differences(load(PROMISED), load(PROMISED.replace(old, new, 1))) == []
