"""Relay connections over our pages: edges, nodes, page info, and a total where the contract has one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Generic, TypeVar

import strawberry
from strawberry import UNSET

from app.paging import Asked, Order, Page
from schema.context import Context
from schema.fields import resolved

T = TypeVar("T")
R = TypeVar("R")
W = TypeVar("W")

First = Annotated[int | None, strawberry.argument(description="How many from the start; 50 unless given, at most 100.")]
After = Annotated[str | None, strawberry.argument(description="Only what follows the item with this cursor.")]
Last = Annotated[int | None, strawberry.argument(description="How many from the end, at most 100; not with `first`.")]
Before = Annotated[str | None, strawberry.argument(description="Only what precedes the item with this cursor.")]


@strawberry.type(description="Where a page stands in its list.")
class PageInfo:
    """Cursors of the ends, and whether there is more beyond them."""

    has_next_page: bool = strawberry.field(description="Whether items follow the last one of this page.")
    has_previous_page: bool = strawberry.field(description="Whether items precede the first one of this page.")
    start_cursor: str | None = strawberry.field(description="Cursor of the first item; null when the page is empty.")
    end_cursor: str | None = strawberry.field(description="Cursor of the last item; null when the page is empty.")


@strawberry.type(description="An item and its place in the list.")
class Edge(Generic[T]):
    """A cursor beside a node."""

    cursor: str = strawberry.field(description="Names this place in the list, for `after` and `before`.")
    node: T = strawberry.field(description="The item.")


@strawberry.type(description="One page of a list.")
class Connection(Generic[T]):
    """Cursors are written only where they are asked for."""

    nodes: list[T] = strawberry.field(description="The items alone.")
    page: strawberry.Private[Page[Any]]
    write: strawberry.Private[Callable[[int], str]]

    @resolved("The items with their cursors.")
    def edges(self) -> list[Edge[T]]:
        """One per node."""
        return [Edge(cursor=self.write(place), node=node) for place, node in enumerate(self.nodes)]

    @resolved("Whether there is more, and the cursors to go on from.")
    def page_info(self) -> PageInfo:
        """The ends of the page."""
        return PageInfo(
            has_next_page=self.page.has_next,
            has_previous_page=self.page.has_previous,
            start_cursor=self.write(0) if self.nodes else None,
            end_cursor=self.write(-1) if self.nodes else None,
        )


@strawberry.type(name="Connection", description="One page of a list, and how long the list is.")
class CountedConnection(Connection[T]):
    """Counting costs a statement of its own, so it happens only when asked for."""

    count: strawberry.Private[Callable[[], Awaitable[int]]]

    @resolved("How many items the whole list has, whatever the page.")
    async def total_count(self) -> int:
        """All of them."""
        return await self.count()


def ask(
    context: Context,
    name: str,
    order: Order,
    wanted: W,
    window: tuple[int | None, str | None, int | None, str | None],
) -> Asked[W]:
    """The arguments (first, after, last, before) of the list `name`, checked."""
    first, after, last, before = window
    return context.pages.ask(
        context.actor.tenant_id,
        name,
        order,
        wanted,
        first=None if first is UNSET else first,
        after=None if after is UNSET else after,
        last=None if last is UNSET else last,
        before=None if before is UNSET else before,
    )


def connect(context: Context, asked: Asked[Any], page: Page[R], show: Callable[[R], T]) -> Connection[T]:
    """A page as a connection of what `show` makes of its rows."""
    return Connection(nodes=[show(row) for row in page.rows], page=page, write=_writer(context, asked, page))


def connect_counted(
    context: Context,
    asked: Asked[Any],
    page: Page[R],
    show: Callable[[R], T],
    count: Callable[[], Awaitable[int]],
) -> CountedConnection[T]:
    """The same with a total."""
    return CountedConnection(
        nodes=[show(row) for row in page.rows], page=page, write=_writer(context, asked, page), count=count
    )


def _writer(context: Context, asked: Asked[Any], page: Page[Any]) -> Callable[[int], str]:
    tenant_id, pages = context.actor.tenant_id, context.pages
    binding: bytes | None = None

    def write(number: int) -> str:
        nonlocal binding
        if binding is None:  # as long as nobody asks for a cursor, it costs nothing
            binding = asked.binding
        return pages.write(tenant_id, binding, page.place(number))

    return write
