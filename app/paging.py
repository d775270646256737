"""Pages of a list by keyset: a cursor names the row to go on from, so rows that arrive meanwhile shift nothing.

Rows are sorted by a key and then by their id. A cursor holds that place, a digest of what was asked (list, order,
filter) and a MAC over both and the tenant: it cannot be made up, carried to another tenant, or used to continue a
different list.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import ge, gt, le, lt
from typing import Any, Final, Generic, TypeAlias, TypeVar
from uuid import UUID

import orjson
from sqlalchemy import (
    ARRAY,
    BigInteger,
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
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from app.database import Connection, Session, driver
from app.errors import AppError, InvalidInput

DEFAULT_SIZE: Final = 50
LARGEST_SIZE: Final = 100
#: Lists without conditions whose statements are kept; there are fewer.
KEPT: Final = 512

_VERSION: Final = b"\x01"
_BINDING_BYTES: Final = 8
_MAC_BYTES: Final = 12
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DIALECT: Final = dialect()  # type: ignore[no-untyped-call]

T = TypeVar("T")
U = TypeVar("U")
W = TypeVar("W")
Key = datetime | str | None
#: A list's rows, without order: (tenant, conditions) -> statement. The same function each time, or nothing is kept.
Query: TypeAlias = Callable[[UUID, W], Select[Any]]


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
    """What a client wants of a list. Two that differ only in their name are read by one statement."""

    wanted: W
    order: Order
    window: Window
    #: Of the list.
    name: str = field(default="", compare=False)

    def __hash__(self) -> int:
        return hash((id(self.order), self.window.size, self.window.backward))  # the rest takes longer than comparing

    @property
    def binding(self) -> bytes:
        """The digest of list, order and filter that its cursors carry."""
        return _bind(self.name, self.order, self.wanted)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows in the order of the list, whichever way it was read; a place for each."""

    rows: list[T]
    has_next: bool
    has_previous: bool
    order: Order
    #: The rows as they were read.
    stored: list[Any]

    def map(self, convert: Callable[[T], U]) -> Page[U]:
        """The same page of something else."""
        return Page([convert(row) for row in self.rows], self.has_next, self.has_previous, self.order, self.stored)

    def place(self, number: int) -> Place:
        """Where one of them stands."""
        return self.order.place(self.stored[number])


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
        if after is None and before is None:
            return Asked(wanted, order, Window(size, last is not None), name)
        binding = _bind(name, order, wanted)
        window = Window(
            size=size,
            backward=last is not None,
            after=self.read(tenant_id, binding, after) if after is not None else None,
            before=self.read(tenant_id, binding, before) if before is not None else None,
        )
        return Asked(wanted, order, window, name)

    def _mac(self, tenant_id: UUID, text: bytes) -> bytes:
        return hmac.digest(self._key, b"list" + tenant_id.bytes + text, hashlib.sha256)[:_MAC_BYTES]


async def fetch(session: Session, tenant_id: UUID, query: Query[W], asked: Asked[W]) -> Page[Any]:
    """One page of the rows of `query`, which selects at least the order's columns."""
    found, *outside = await _read(session, tenant_id, query, asked)
    return _page(found, asked, *map(bool, outside))


async def fetch_each(
    session: Session, tenant_id: UUID, query: Query[W], asked: Asked[W], *, parent: Column[Any], keys: Sequence[Any]
) -> list[Page[Any]]:
    """The same page of many lists at once, one for each value of `parent` in `keys`: as many statements as for one."""
    rows, *outside = await _read(session, tenant_id, query, asked, parent=parent, keys=keys)
    found: dict[Any, list[Any]] = {key: [] for key in keys}
    for row in rows:
        found[row.list_key].append(row)
    sides = [{row.list_key for row in nearest} for nearest in outside]
    return [_page(found[key], asked, *(key in side for side in sides)) for key in keys]


def among(column: Column[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """The column holds one of the values. A single one is compared by `=`, which keeps an index in its order."""
    value = values[0] if len(values) == 1 else any_(literal(list(values), ARRAY(column.type)))
    such: ColumnElement[bool] = column == value
    return such


async def count(session: Session, query: Select[Any]) -> int:
    """How many rows there are in all."""
    counted = select(func.count()).select_from(query.subquery())
    return int((await (await session.connection()).execute(counted)).scalar_one())


async def _read(
    session: Session,
    tenant_id: UUID,
    query: Query[W],
    asked: Asked[W],
    *,
    parent: Column[Any] | None = None,
    keys: Sequence[Any] = (),
) -> list[list[Any]]:
    """The rows of the page, of what is nearest before it, and of what is nearest behind it.

    Of the page one more than asked for, which tells whether the list goes on.
    """
    wanted, window = asked.wanted, asked.window
    if wanted is None or wanted == type(wanted)():
        after, before = window.after, window.before
        shape = Window(
            _ROWS,
            window.backward,
            after and Place(after.key if after.key is None else _AFTER_KEY, _AFTER_ID),
            before and Place(before.key if before.key is None else _BEFORE_KEY, _BEFORE_ID),
        )
        told = {
            _TENANT: tenant_id,
            _KEYS: list(keys),
            _ROWS: window.size + 1,
            _AFTER_KEY: after and after.key,
            _AFTER_ID: after and after.id,
            _BEFORE_KEY: before and before.key,
            _BEFORE_ID: before and before.id,
        }
        connection = await driver(session)
        kept = _keep(query, parent, Asked(wanted, asked.order, shape))
        return [[] if one is None else await one.fetch(connection, told) for one in kept]
    rows = Asked(wanted, asked.order, replace(window, size=window.size + 1))
    lent = await session.connection()
    statements = _statements(query(tenant_id, wanted), parent, list(keys), rows)
    return [[] if one is None else list(await lent.execute(one)) for one in statements]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A statement that is written once and run past SQLAlchemy, which would write it, and make its rows, each time."""

    text: str
    #: For each of its arguments, where to find it: one of the slots below; or a value.
    arguments: tuple[Any, ...]
    #: The row of a record. (The pool's connections read JSON by themselves, and all else is as we want it.)
    row: Callable[[Iterable[Any]], Any]

    async def fetch(self, connection: Connection, told: Mapping[Any, Any]) -> list[Any]:
        """Its rows."""
        arguments = [told[one] if isinstance(one, _Slot) else one for one in self.arguments]
        return [self.row(record) for record in await connection.fetch(self.text, *arguments)]


class _Slot:
    """Stands in a kept statement for a value that is told each time."""


_TENANT: Final[Any] = _Slot()
_KEYS: Final[Any] = _Slot()
_ROWS: Final[Any] = _Slot()
_AFTER_KEY: Final[Any] = _Slot()
_AFTER_ID: Final[Any] = _Slot()
_BEFORE_KEY: Final[Any] = _Slot()
_BEFORE_ID: Final[Any] = _Slot()


@lru_cache(maxsize=KEPT)
def _keep(query: Query[Any], parent: Column[Any] | None, shape: Asked[Any]) -> list[_Kept | None]:
    statements = _statements(query(_TENANT, shape.wanted), parent, _KEYS, shape)
    return [None if one is None else _write(one) for one in statements]


def kept() -> int:
    """Of how many lists the statements are kept."""
    return _keep.cache_info().currsize


def _write(statement: Select[Any]) -> _Kept:
    compiled = statement.compile(dialect=_DIALECT)
    names = [str(column.key) for column in statement.selected_columns]
    row: Any = namedtuple("Row", names)  # type: ignore[misc]
    return _Kept(
        str(compiled),
        tuple(compiled.params[name] for name in compiled.positiontup or ()),
        row._make,
    )


def _statements(
    query: Select[Any], parent: Column[Any] | None, keys: Any, asked: Asked[Any]
) -> list[Select[Any] | None]:
    """The page, and `_outside`. With a parent, of all its lists: rows say last whose they are."""
    if parent is None:
        return [_sliced(query, asked), *_outside(query, asked)]
    lists = func.unnest(literal(keys, ARRAY(parent.type))).table_valued("key").render_derived()
    list_key = lists.c.key.label("list_key")
    own = query.where(parent == lists.c.key)
    rows = _sliced(own, asked).lateral()
    return [
        select(*rows.c, list_key).join_from(lists, rows, true()),
        *(
            None if nearest is None else select(list_key).join_from(lists, nearest.lateral(), true())
            for nearest in _outside(own, asked)
        ),
    ]


def _sliced(query: Select[Any], asked: Asked[Any]) -> Select[Any]:
    """As many rows of the window as its size says."""
    order, window = asked.order, asked.window
    if window.after is not None:
        query = query.where(order.beyond(window.after))
    if window.before is not None:
        query = query.where(order.beyond(window.before, backward=True))
    return query.order_by(*order.sorting(backward=window.backward)).limit(literal(window.size, BigInteger()))


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
        has_next=behind or (more and not window.backward),
        has_previous=before or (more and window.backward),
        order=asked.order,
        stored=rows,
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
