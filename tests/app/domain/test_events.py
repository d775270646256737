"""What leaves with a MAC comes back with it, or is nobody's."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import orjson
import pytest

from app import ids
from app.domain import events
from app.domain.events import Cursors, EventType, Happening, Logged
from app.paging import CursorInvalid

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
OURS, THEIRS = ids.new(), ids.new()
NOON = datetime(2026, 3, 2, 12, 0, 0, 123456, tzinfo=UTC)


def logged(position: int, size: int = 0) -> Logged:
    happening = Happening(OURS, EventType.PUNCH_CREATED, {"pin": "17", "x": "x" * size}, ids.new(), NOON)
    return Logged(OURS, position, happening.id, happening.type, events.write_body(happening))


def test_a_cursor_leads_back_to_its_position() -> None:
    cursors = Cursors(KEY)

    assert [cursors.read(OURS, cursors.write(OURS, n)) for n in (0, 1, 2**40, 2**63)] == [0, 1, 2**40, 2**63]


def test_a_cursor_is_the_same_every_time() -> None:
    assert Cursors(KEY).write(OURS, 7) == Cursors(KEY).write(OURS, 7)


@pytest.mark.parametrize("cursor", ["", "x", "AQ", "ü", "=" * 20, "A" * 28, "AQAAAAAAAAAH", " ", "\0"])
def test_what_we_never_wrote_is_no_cursor(cursor: str) -> None:
    with pytest.raises(CursorInvalid):
        Cursors(KEY).read(OURS, cursor)


def test_a_cursor_of_another_tenant_key_or_position_is_invalid() -> None:
    cursor = Cursors(KEY).write(OURS, 7)
    seven, eight = (7).to_bytes(8, "big"), (8).to_bytes(8, "big")

    for tenant_id, key, text in [
        (THEIRS, KEY, cursor),
        (OURS, OTHER_KEY, cursor),
        (OURS, KEY, _edit(cursor, seven, eight)),
        (OURS, KEY, cursor[:-1] + ("A" if cursor[-1] != "A" else "Q")),
    ]:
        with pytest.raises(CursorInvalid):
            Cursors(key).read(tenant_id, text)


def _edit(cursor: str, before: bytes, after: bytes) -> str:
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    return base64.urlsafe_b64encode(raw.replace(before, after)).decode().rstrip("=")


def test_a_message_tells_what_was_committed() -> None:
    batch = [logged(4), logged(5)]

    message = events.read_message(KEY, OURS, events.write_message(KEY, batch))

    assert message == events.Message(OURS, 4, 5, tuple(batch))


def test_a_long_batch_names_its_positions_only() -> None:
    batch = [logged(4, size=40_000), logged(5, size=40_000)]

    text = events.write_message(KEY, batch)

    assert len(text) < 300
    assert events.read_message(KEY, OURS, text) == events.Message(OURS, 4, 5, ())


def test_of_a_message_that_says_nothing_new_the_events_are_left_out() -> None:
    batch = [logged(4), logged(5)]
    text = events.write_message(KEY, batch)

    assert events.read_message(KEY, OURS, text, known=5) == events.Message(OURS, 4, 5, ())
    assert events.read_message(KEY, OURS, text, known=4) == events.Message(OURS, 4, 5, tuple(batch))


def test_a_message_that_is_not_ours_or_was_changed_is_nobodys() -> None:
    text = events.write_message(KEY, [logged(4)])

    changed = [
        text.replace(b'"first":4', b'"first":3'),
        text.replace(b'"pin":"17"', b'"pin":"18"'),
        text.replace(b'"mac":"', b'"mac":"0'),
        text.partition(b',"mac"')[0] + b"}",
        text + b" ",
        b"",
        b"\xff\xfe",
        orjson.dumps({"tenant": ids.show("ten", OURS), "first": 1, "last": 1, "mac": "00"}),
    ]

    assert [events.read_message(KEY, OURS, other) for other in changed] == [None] * len(changed)
    assert events.read_message(OTHER_KEY, OURS, text) is None
    assert events.read_message(KEY, THEIRS, text) is None
    assert events.read_message(KEY, OURS, text) is not None


def test_a_time_has_milliseconds_and_a_z() -> None:
    assert events.timestamp(NOON) == "2026-03-02T12:00:00.123Z"
