"""Cursors of lists: what they hold, and whom they obey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Select, select

from app import ids, paging
from app.database import Database
from app.domain import employees
from app.domain.tables import columns
from app.errors import InvalidInput
from app.paging import CursorInvalid, CursorMismatch, Cursors, PageTooLarge, Place, Window
from tests.conftest import MakeTenant

CURSORS = Cursors(b"k" * 32)
TENANT = ids.new()
BY_NAME = employees.BY_NAME


@dataclass(frozen=True)
class Wanted:
    """A filter."""

    pins: tuple[str, ...] | None = None
    since: datetime | None = None


def binding(name: str = "list", wanted: Wanted | None = None) -> bytes:
    return CURSORS.ask(TENANT, name, BY_NAME.up, wanted).binding


@given(
    st.none() | st.text(st.characters(exclude_categories=["Cs"])) | st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
)
def test_a_cursor_gives_back_its_place(key: str | datetime | None, row: UUID) -> None:
    cursor = CURSORS.write(TENANT, binding(), Place(key, row))

    assert CURSORS.read(TENANT, binding(), cursor) == Place(key, row)


@given(st.text())
def test_what_we_did_not_write_is_invalid(text: str) -> None:
    with pytest.raises(CursorInvalid):
        CURSORS.read(TENANT, binding(), text)


def test_a_cursor_obeys_its_tenant_and_its_key() -> None:
    cursor = CURSORS.write(TENANT, binding(), Place("x", TENANT))

    with pytest.raises(CursorInvalid):
        CURSORS.read(ids.new(), binding(), cursor)
    with pytest.raises(CursorInvalid):
        Cursors(b"j" * 32).read(TENANT, binding(), cursor)


def test_a_cursor_fits_one_list_one_order_and_one_filter() -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    bindings = [
        binding(),
        binding("another list"),
        binding(wanted=Wanted(pins=())),
        binding(wanted=Wanted(pins=("1",))),
        binding(wanted=Wanted(since=at)),
        CURSORS.ask(TENANT, "list", BY_NAME.down, None).binding,
        CURSORS.ask(TENANT, "list", employees.BY_PIN.up, None).binding,
    ]

    assert len(set(bindings)) == len(bindings)
    for one in bindings:
        cursor = CURSORS.write(TENANT, one, Place(None, TENANT))
        for other in bindings:
            if one != other:
                with pytest.raises(CursorMismatch):
                    CURSORS.read(TENANT, other, cursor)


def test_a_condition_that_is_not_set_does_not_count() -> None:
    assert binding(wanted=Wanted()) == binding()


def test_a_window_is_what_was_asked_for() -> None:
    cursor = CURSORS.write(TENANT, binding(), Place("x", TENANT))

    def window(**arguments: int | str) -> Window:
        return CURSORS.ask(TENANT, "list", BY_NAME.up, None, **arguments).window  # type: ignore[arg-type]

    assert window() == Window(50)
    assert window(first=0) == Window(0)
    assert window(first=100, after=cursor) == Window(100, after=Place("x", TENANT))
    assert window(last=7, before=cursor) == Window(7, backward=True, before=Place("x", TENANT))
    for arguments in ({"first": 1, "last": 1}, {"first": -1}, {"last": -1}):
        with pytest.raises(InvalidInput):
            window(**arguments)
    for arguments in ({"first": 101}, {"last": 101}):
        with pytest.raises(PageTooLarge):
            window(**arguments)


async def test_statements_that_are_kept_have_a_bound(db: Database, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    lists = [_a_list() for _ in range(paging.KEPT + 5)]

    async with db.read(tenant_id) as session:
        for one in lists:
            asked = CURSORS.ask(tenant_id, "list", BY_NAME.up, None)
            assert (await paging.fetch(session, tenant_id, one, asked)).rows == []

    assert paging.kept() == paging.KEPT


def _a_list() -> Callable[[UUID, None], Select[Any]]:
    """One of its own, as far as whoever keeps its statement knows."""
    row = columns(employees.Employee)
    return lambda tenant_id, _: select(*row).where(row.tenant_id == tenant_id)
