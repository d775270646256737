"""Pages of a list by keyset: a cursor names the row to go on from, so rows that arrive meanwhile shift nothing.

Rows are sorted by a key and then by their id. A cursor holds that place, a digest of what was asked (list, order,
filter) and a MAC over both and the tenant: it cannot be made up, carried to another tenant, or used to continue a
different list.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from operator import ge, gt, le, lt
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import orjson
from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Label,
    Select,
    and_,
    any_,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)

from app.database import Session
from app.errors import AppError, InvalidInput

DEFAULT_SIZE: Final = 50
LARGEST_SIZE: Final = 100

_VERSION: Final = b"\x01"
_BINDING_BYTES: Final = 8
_MAC_BYTES: Final = 12
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

T = TypeVar("T")
U = TypeVar("U")
W = TypeVar("W")
Key = datetime | str | None


class PageTooLarge(AppError):
    """More rows were asked for than one page holds."""

    code, status = "page_too_large", 400

    def __init__(self) -> None:
        super().__init__(f"A page holds at most {LARGEST_SIZE} items: ask for fewer and go on by cursor.")


class CursorInvalid(AppError):
    """Not a cursor of ours, or another tenant's, or edited."""

    code, status = "cursor_invalid", 400

    def __init__(self) -> None:
        super().__init__("This cursor is not one that we gave to this tenant. Start again without it.")


class CursorMismatch(AppError):
    """A cursor of ours, from another list, order or filter."""

    code, status = "cursor_mismatch", 400

    def __init__(self) -> None:
        super().__init__("This cursor belongs to another list, order or filter. Repeat those, or start without it.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands in its list. The key is None for a null, and where rows are sorted by id alone."""

    key: Key
    id: UUID


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a list: `size` rows from its start, or its end when `backward`, strictly between two places."""

    size: int = DEFAULT_SIZE
    backward: bool = False
    after: Place | None = None
    before: Place | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """By `key` and then by `id`, both in the same direction; nulls count as greatest."""

    #: What tells orders of one list apart in its cursors.
    name: str
    id: Column[Any]
    key: Column[Any] | None = None
    descending: bool = False

    def place(self, row: Any) -> Place:
        """Where a row of the query stands."""
        return Place(getattr(row, self.key.key) if self.key is not None else None, row.id)

    def sorting(self, *, backward: bool) -> list[ColumnElement[Any]]:
        """The ORDER BY."""
        columns = [self.id] if self.key is None else [self.key, self.id]
        return [column.desc() if self.descending != backward else column.asc() for column in columns]

    def beyond(self, place: Place, *, backward: bool = False, with_it: bool = False) -> ColumnElement[bool]:
        """Rows that follow the place, or precede it when `backward`; the row itself too when `with_it`."""
        greater = self.descending == backward
        if self.key is None:
            return _compare(self.id, place.id, greater=greater, with_it=with_it)
        if place.key is None:
            among_nulls = _compare(self.id, place.id, greater=greater, with_it=with_it)
            return and_(self.key.is_(None), among_nulls) if greater else or_(self.key.is_not(None), among_nulls)
        row = tuple_(self.key, self.id)
        mark = tuple_(literal(place.key, self.key.type), literal(place.id, self.id.type))
        beyond = _compare(row, mark, greater=greater, with_it=with_it)
        return or_(beyond, self.key.is_(None)) if greater and self.key.nullable else beyond


@dataclass(frozen=True, slots=True)
class BothWays:
    """An order and its reverse."""

    up: Order
    down: Order


def both_ways(name: str, id_column: Column[Any], key: Column[Any] | None = None) -> BothWays:
    """Rows by `key`, from either end."""
    return BothWays(Order(f"{name} ASC", id_column, key), Order(f"{name} DESC", id_column, key, descending=True))


@dataclass(frozen=True, slots=True)
class Asked(Generic[W]):
    """What a client wants of a list. Two that differ only in their binding are read by one statement."""

    wanted: W
    order: Order
    window: Window
    #: The digest of list, order and filter that its cursors carry.
    binding: bytes = field(default=b"", compare=False)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows in the order of the list, whichever way it was read; a place for each."""

    rows: list[T]
    places: list[Place]
    has_next: bool
    has_previous: bool

    def map(self, convert: Callable[[T], U]) -> Page[U]:
        """The same page of something else."""
        return Page([convert(row) for row in self.rows], self.places, self.has_next, self.has_previous)


class Cursors:
    """Writes and reads the cursors of lists."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def write(self, tenant_id: UUID, binding: bytes, place: Place) -> str:
        """The cursor of one row."""
        text = _VERSION + binding + place.id.bytes + _pack(place.key)
        return _spell(text + self._mac(tenant_id, text))

    def read(self, tenant_id: UUID, binding: bytes, cursor: str) -> Place:
        """The place; CursorInvalid unless we wrote it for this tenant, CursorMismatch unless for this binding."""
        try:
            raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raise CursorInvalid from None
        text, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        # Base 64 has several spellings of the same bytes; ours is the only one.
        if _spell(raw) != cursor or text[:1] != _VERSION:
            raise CursorInvalid
        if not hmac.compare_digest(mac, self._mac(tenant_id, text)):
            raise CursorInvalid
        if text[1 : 1 + _BINDING_BYTES] != binding:
            raise CursorMismatch
        rest = text[1 + _BINDING_BYTES :]
        return Place(_unpack(rest[16:]), UUID(bytes=rest[:16]))

    def ask(
        self,
        tenant_id: UUID,
        name: str,
        order: Order,
        wanted: W,
        *,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
    ) -> Asked[W]:
        """The arguments of the list `name`, checked. `wanted` is a dataclass, or None for a list without filter."""
        if first is not None and last is not None:
            raise InvalidInput("Ask for first or for last, not for both.", path=("last",))
        size = first if first is not None else last if last is not None else DEFAULT_SIZE
        if size < 0:
            raise InvalidInput("The size of a page cannot be negative.", path=("first" if last is None else "last",))
        if size > LARGEST_SIZE:
            raise PageTooLarge
        binding = _bind(name, order, wanted)
        window = Window(
            size=size,
            backward=last is not None,
            after=self.read(tenant_id, binding, after) if after is not None else None,
            before=self.read(tenant_id, binding, before) if before is not None else None,
        )
        return Asked(wanted, order, window, binding)

    def _mac(self, tenant_id: UUID, text: bytes) -> bytes:
        return hmac.digest(self._key, b"list" + tenant_id.bytes + text, hashlib.sha256)[:_MAC_BYTES]


async def fetch(session: Session, query: Select[Any], asked: Asked[Any]) -> Page[Any]:
    """One page of the rows of `query`, which selects at least the order's columns."""
    connection = await session.connection()
    found = list(await connection.execute(_sliced(query, asked)))
    outside = [
        nearest is not None and (await connection.execute(nearest)).first() is not None
        for nearest in _outside(query, asked)
    ]
    return _page(found, asked, *outside)


async def fetch_each(
    session: Session, query: Select[Any], parent: Column[Any], keys: Sequence[Any], asked: Asked[Any]
) -> list[Page[Any]]:
    """The same page of many lists at once, one for each value of `parent` in `keys`: as many statements as for one."""
    connection = await session.connection()
    lists = func.unnest(literal(list(keys), ARRAY(parent.type))).table_valued("key").render_derived()
    own = query.where(parent == lists.c.key)
    rows = _sliced(own, asked).lateral()
    found: dict[Any, list[Any]] = {key: [] for key in keys}
    for row in await connection.execute(select(*rows.c, lists.c.key.label("list_key")).join_from(lists, rows, true())):
        found[row.list_key].append(row)
    outside: list[set[Any]] = []
    for nearest in _outside(own, asked):
        such = None if nearest is None else select(lists.c.key).join_from(lists, nearest.lateral(), true())
        outside.append(set() if such is None else set((await connection.execute(such)).scalars()))
    return [_page(found[key], asked, *(key in side for side in outside)) for key in keys]


def among(column: Column[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """The column holds one of the values. A single one is compared by `=`, which keeps an index in its order."""
    value = values[0] if len(values) == 1 else any_(literal(list(values), ARRAY(column.type)))
    such: ColumnElement[bool] = column == value
    return such


async def count(session: Session, query: Select[Any]) -> int:
    """How many rows there are in all."""
    counted = select(func.count()).select_from(query.subquery())
    return int((await (await session.connection()).execute(counted)).scalar_one())


def _sliced(query: Select[Any], asked: Asked[Any]) -> Select[Any]:
    order, window = asked.order, asked.window
    if window.after is not None:
        query = query.where(order.beyond(window.after))
    if window.before is not None:
        query = query.where(order.beyond(window.before, backward=True))
    # One more than asked for tells whether the list goes on.
    return query.order_by(*order.sorting(backward=window.backward)).limit(window.size + 1)


def _outside(query: Select[Any], asked: Asked[Any]) -> tuple[Select[Any] | None, Select[Any] | None]:
    """The nearest row before the window and the nearest one behind it; None where no cursor bounds it.

    Whether there is any such row would be enough. But PostgreSQL answers that by reading the table from its start, sure
    to meet one soon; and those before the second page of the newest are the last it meets.
    """
    order, after, before = asked.order, asked.window.after, asked.window.before
    found: Label[Any] = literal_column("true").label("there")
    there: Select[Any] = query.with_only_columns(found, maintain_column_froms=True).limit(1)
    return (
        None
        if after is None
        else there.where(order.beyond(after, backward=True, with_it=True)).order_by(*order.sorting(backward=True)),
        None
        if before is None
        else there.where(order.beyond(before, with_it=True)).order_by(*order.sorting(backward=False)),
    )


def _page(found: list[Any], asked: Asked[Any], before: bool, behind: bool) -> Page[Any]:
    window = asked.window
    more = len(found) > window.size
    rows = found[: window.size]
    if window.backward:
        rows.reverse()
    return Page(
        rows,
        [asked.order.place(row) for row in rows],
        has_next=behind or (more and not window.backward),
        has_previous=before or (more and window.backward),
    )


def _bind(name: str, order: Order, wanted: Any) -> bytes:
    """Only the conditions that are set count, so that a filter may grow and old cursors stay good."""
    conditions = {} if wanted is None else {f.name: getattr(wanted, f.name) for f in fields(wanted)}
    conditions = {name: value for name, value in conditions.items() if value is not None}
    text = orjson.dumps([name, order.name, conditions], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).digest()[:_BINDING_BYTES]


def _compare(left: Any, right: Any, *, greater: bool, with_it: bool) -> ColumnElement[bool]:
    compare = (ge if with_it else gt) if greater else (le if with_it else lt)
    compared: ColumnElement[bool] = compare(left, right)
    return compared


def _spell(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _pack(key: Key) -> bytes:
    if key is None:
        return b""
    if isinstance(key, datetime):
        return b"t" + ((key - _EPOCH) // timedelta(microseconds=1)).to_bytes(8, "big", signed=True)
    return b"s" + key.encode()


def _unpack(packed: bytes) -> Key:
    if not packed:
        return None
    if packed[:1] == b"t":
        return _EPOCH + timedelta(microseconds=int.from_bytes(packed[1:], "big", signed=True))
    return packed[1:].decode()
