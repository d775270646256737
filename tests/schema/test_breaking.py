"""The gate in front of clients: what is taken away is refused until somebody allows it by name."""

from __future__ import annotations

import pytest

from schema import sdl
from tests import checks
from tests.schema.breaking import ALLOWED, allowed, breaks, unallowed

BEFORE = """
    type Query { thing(id: ID!, first: Int): Thing! old: String @deprecated(reason: "Use thing.") }
    type Mutation { make(input: MakeInput!): Thing }
    type Thing { id: ID! state: State! tags: [String!]! }
    input MakeInput { name: String note: String }
    input Choice @oneOf { a: Int b: Int }
    enum State { ON OFF }
    interface Node { id: ID! }
"""
TAKEN = [
    ("tags: [String!]!", "", "FIELD_REMOVED: Field Thing.tags was removed."),
    ('old: String @deprecated(reason: "Use thing.")', "", "FIELD_REMOVED: Field Query.old was removed."),
    ("state: State!", "state: State", "FIELD_CHANGED_KIND: Field Thing.state changed type from State! to State."),
    ("ON OFF", "ON", "VALUE_REMOVED_FROM_ENUM: Enum value State.OFF was removed."),
    ("first: Int", "", "ARG_REMOVED: Argument Query.thing(first:) was removed."),
    ("first: Int", "first: Int!", "ARG_CHANGED_KIND: Argument Query.thing(first:) has changed type from Int to Int!."),
    ("note: String", "note: String!", "FIELD_CHANGED_KIND: Field MakeInput.note changed type from String to String!."),
    ("note: String", "", "FIELD_REMOVED: Field MakeInput.note was removed."),
    (
        "note: String",
        "note: String size: Int!",
        "REQUIRED_INPUT_FIELD_ADDED: A required field MakeInput.size was added.",
    ),
    ("input Choice @oneOf { a: Int b: Int }", "", "TYPE_REMOVED: Choice was removed."),
    ("input MakeInput {", "input MakeInput @oneOf {", "ONE_OF_ADDED: MakeInput takes one field only."),
]
GIVEN = [
    ("tags: [String!]!", "tags: [String!]! more: Int"),
    ("ON OFF", "ON OFF IDLE"),
    ("first: Int", "first: Int last: Int = 5"),
    ("note: String", "note: String size: Int"),
    ("state: State!", 'state: State! @deprecated(reason: "Read more.")'),
    ("interface Node", "type Other { id: ID! } interface Node"),
]


@pytest.mark.parametrize(("before", "after", "told"), TAKEN)
def test_what_is_taken_away_is_reported(before: str, after: str, told: str) -> None:
    changed = BEFORE.replace(before, after)

    assert breaks(BEFORE, changed) == [told]
    assert unallowed(BEFORE, changed, "# nothing\n") == [told]
    assert unallowed(BEFORE, changed, f"# one\n{told} -- nobody used it\n") == []


@pytest.mark.parametrize(("before", "after"), GIVEN)
def test_what_is_added_breaks_nobody(before: str, after: str) -> None:
    assert breaks(BEFORE, BEFORE.replace(before, after)) == []


@pytest.mark.parametrize(
    "line", ["FIELD_REMOVED: Thing.tags was removed.", "FIELD_REMOVED: Thing.tags was removed. -- "]
)
def test_a_change_without_a_reason_is_not_allowed(line: str) -> None:
    with pytest.raises(ValueError, match="why"):
        allowed(line)


def test_the_check_fails_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "sdl", lambda: sdl().replace("  storedPunchCount: Int!\n", "  counted: Int!\n"))

    assert checks.no_client_is_broken().splitlines() == [
        "FIELD_REMOVED: Field Device.storedPunchCount was removed.",
        "Deprecate instead; or allow it by a line in schema/breaking_changes.txt (docs/contributing.md).",
    ]


def test_what_was_added_has_to_be_promised_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "sdl", lambda: sdl() + '\n"New."\nscalar Colour\n')

    assert checks.no_client_is_broken() == "published.graphql is out of date: make it anew with --write"


def test_clients_have_what_is_published() -> None:
    assert checks.no_client_is_broken() == ""
    assert all(allowed(ALLOWED.read_text()).values())
