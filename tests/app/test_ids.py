"""Ids: what is shown can be read again, and nothing else can."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import ids

ZEROS = "0" * 25


@given(st.uuids(), st.sampled_from(sorted(ids.PREFIXES)))
def test_what_is_shown_is_read_again(value: UUID, prefix: ids.Prefix) -> None:
    text = ids.show(prefix, value)

    assert (ids.read(prefix, text), ids.split(text)) == (value, (prefix, value))


@given(st.text(), st.integers(0, 25))
def test_no_other_text_is_an_id(text: str, place: int) -> None:
    shown = ids.show("pun", ids.new())
    changed = shown[: 4 + place] + text + shown[4 + place + len(text) :]

    for tried in (text, f"pun_{text}", changed):
        try:
            value = ids.read("pun", tried)
        except ids.InvalidId:
            continue
        assert ids.show("pun", value) == tried


@pytest.mark.parametrize(
    "rest", [f"8{ZEROS}", *(f"{ZEROS}{letter}" for letter in "ilou_ +-A\n\0é٣\ud800"), ZEROS, f"{ZEROS}00", ""]
)
def test_what_only_looks_like_an_id_is_refused(rest: str) -> None:
    with pytest.raises(ids.InvalidId):
        ids.read("pun", f"pun_{rest}")
