"""What a tail takes for granted, what it doubts, and what it can still serve."""

from __future__ import annotations

from uuid import UUID

import pytest

from app import ids
from app.domain import tails
from app.domain.events import Logged, Message
from app.domain.tails import Tail

TENANT = ids.new()


def logged(*positions: int, body: bytes = b"{}") -> list[Logged]:
    return [Logged(TENANT, position, UUID(int=position), "punch.created", body) for position in positions]


def message(*positions: int) -> Message:
    return Message(TENANT, positions[0], positions[-1], tuple(logged(*positions)))


@pytest.fixture
def tail() -> Tail:
    """One that has read up to 5 and holds 4 and 5."""
    tail = Tail(TENANT)
    tail.learn(3, logged(4, 5), head=5)
    return tail


def positions(events: list[Logged] | None) -> list[int] | None:
    return None if events is None else [event.position for event in events]


def test_what_is_next_in_line_is_used_as_it_is(tail: Tail) -> None:
    news = tail.news

    tail.hear(message(6, 7))

    assert positions(tail.since(5)) == [6, 7]
    assert news.is_set()
    assert not tail.doubt.is_set()


def test_what_this_process_committed_is_used_before_the_bus_says_it(tail: Tail) -> None:
    news = tail.news

    tail.told(logged(6, 7))
    tail.hear(message(6, 7))

    assert positions(tail.since(5)) == [6, 7]
    assert news.is_set()
    assert not tail.doubt.is_set()


def test_what_this_process_committed_behind_others_waits_for_the_bus_without_a_doubt(tail: Tail) -> None:
    tail.told(logged(7))

    assert positions(tail.since(5)) == []
    assert not tail.doubt.is_set()

    tail.hear(message(6))
    tail.hear(message(7))

    assert positions(tail.since(5)) == [6, 7]
    assert not tail.doubt.is_set()


@pytest.mark.parametrize(
    "heard",
    [
        message(7),  # a gap
        Message(TENANT, 6, 7, ()),  # too long for the bus
        Message(TENANT, 6, 8, tuple(logged(6, 8))),  # not whole
        None,  # not ours
    ],
)
def test_anything_else_is_a_doubt_and_adds_nothing(tail: Tail, heard: Message | None) -> None:
    tail.hear(heard)

    assert tail.doubt.is_set()
    assert tail.position == 5
    assert positions(tail.since(4)) == [5]


def test_a_repeat_changes_nothing(tail: Tail) -> None:
    tail.hear(message(4, 5))

    assert positions(tail.since(3)) == [4, 5]
    assert not tail.doubt.is_set()


def test_of_an_overlap_only_the_rest_is_new(tail: Tail) -> None:
    tail.hear(message(5, 6))

    assert positions(tail.since(4)) == [5, 6]


def test_who_is_further_behind_than_the_ring_must_read_the_log(tail: Tail) -> None:
    assert tail.since(2) is None
    assert positions(tail.since(3)) == [4, 5]


def test_who_is_ahead_of_the_tail_waits_for_it(tail: Tail) -> None:
    assert tail.since(9) == []


def test_a_tail_that_has_read_nothing_serves_nothing() -> None:
    tail = Tail(TENANT)

    tail.hear(message(1))

    assert tail.since(0) is None


def test_what_was_heard_before_the_first_reading_is_compared_with_it() -> None:
    tail = Tail(TENANT)
    tail.hear(message(6))

    tail.learn(3, logged(4, 5), head=5)

    assert tail.position == 5
    assert tail.doubt.is_set()


def test_a_page_from_the_middle_of_the_log_is_no_tail() -> None:
    tail = Tail(TENANT)

    tail.learn(3, logged(4, 5), head=900)

    assert tail.position == 900
    assert tail.since(5) is None
    assert tail.since(900) == []


def test_a_reader_that_is_ahead_teaches_the_tail(tail: Tail) -> None:
    tail.learn(4, logged(5, 6, 7), head=7)

    assert positions(tail.since(5)) == [6, 7]


def test_a_higher_head_is_a_doubt(tail: Tail) -> None:
    tail.raise_head(5)
    assert not tail.doubt.is_set()

    tail.raise_head(6)
    assert tail.doubt.is_set()


def test_the_ring_is_bounded_in_events_and_in_bytes(tail: Tail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "RING_EVENTS", 3)
    monkeypatch.setattr(tails, "RING_BYTES", 1000)

    tail.hear(message(6, 7))
    assert tail.since(3) is None
    assert positions(tail.since(4)) == [5, 6, 7]

    tail.hear(Message(TENANT, 8, 8, tuple(logged(8, body=b"x" * 999))))
    assert tail.since(6) is None
    assert positions(tail.since(7)) == [8]


def test_a_tail_that_forgot_wakes_its_readers_so_that_they_look_themselves(tail: Tail) -> None:
    news = tail.news

    tail.forget()

    assert news.is_set()
    assert tail.since(5) is None
