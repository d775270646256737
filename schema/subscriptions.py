"""Root subscriptions. A resolver turns a feed of the domain into batches; sending and bounding are the socket's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Final, TypeVar

import strawberry
from strawberry import ID, UNSET

from app.domain import command_feed, delivery_feed, device_feed, punch_feed, punches
from app.domain.feed import FeedStart, insist
from app.domain.punch_feed import PunchFeed
from app.errors import InvalidInput
from app.paging import LARGEST_SIZE, PageTooLarge
from schema.context import Context, Info
from schema.inputs import PunchFilter, read_followed, read_moved
from schema.sharing import Live
from schema.types import Device, DeviceCommand, PunchBatch
from schema.webhooks import WebhookDelivery

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
S = TypeVar("S")

BATCH_SIZE: Final = 50
#: Seconds after which a batch that could not be completed is given again.
GIVE_AGAIN: Final = 1.0


def _subscription(description: str) -> Callable[[F], F]:
    """A method that streams a field, with its type kept."""
    decorate: Callable[[F], F] = strawberry.subscription(description=description)
    return decorate


@strawberry.type(description="What can be followed.")
class Subscription:
    """Every field resumes by cursor and loses nothing."""

    @_subscription(
        "The live attendance feed. Answers at once with a first batch (empty when there is nothing), so that a client "
        "always holds a cursor; then batches as things are committed (commits may be merged, and are split at "
        "maxBatch, at most 100), and an empty checkpoint at least every 15 s. With `after`: everything since that "
        "cursor, then live, with no gap and no repeat; `after` that is not null overrides `from`. A filter sees each "
        "punch as it is when read."
    )
    async def punches(
        self,
        info: Info,
        *,
        after: Annotated[
            str | None, strawberry.argument(description="The last batch's cursor; overrides `from`.")
        ] = UNSET,
        from_: Annotated[
            FeedStart | None, strawberry.argument(name="from", description="Where to begin without a cursor.")
        ] = FeedStart.NOW,
        filter: Annotated[PunchFilter | None, strawberry.argument(description="Which punches.")] = UNSET,
        max_batch: Annotated[
            int | None, strawberry.argument(description="Punches in a batch, at most 100.")
        ] = BATCH_SIZE,
    ) -> AsyncGenerator[PunchBatch]:
        """CursorInvalid, CursorExpired."""
        context = info.context
        tenant_id = context.actor.may("punches:read").tenant_id
        most = BATCH_SIZE if max_batch is None else max_batch
        if most > LARGEST_SIZE:
            raise PageTooLarge
        if most < 1:
            raise InvalidInput("A batch holds at least one punch.", path=("maxBatch",))
        wanted = filter.wanted() if filter else punches.EVERY
        cursor = context.last_event_id or (None if after is UNSET else after)
        if context.resume is None:
            position = await insist(partial(context.feed.locate, tenant_id, cursor, from_ or FeedStart.NOW))
        else:
            position, cursor = context.resume, context.cursors.write(tenant_id, context.resume)
        reader = PunchFeed(context.feed, context.db, tenant_id, within=context.actor.site_ids, wanted=wanted, most=most)
        async with aclosing(reader.follow(position, quiet=context.resume is not None)) as batches:
            async for batch in batches:
                shown = PunchBatch.of(context, batch, cursor)
                cursor = context.cursor = shown.cursor
                context.live = Live(batch.position, _Punches(reader, context)) if not batch.lag else None
                while True:
                    if batch.punches:
                        context.refresh()
                    context.unsent = False
                    yield shown
                    if not context.unsent:
                        break
                    await asyncio.sleep(GIVE_AGAIN * random.uniform(0.5, 1))  # noqa: S311

    @_subscription(
        "A command moved on. First: those named by commandIds, as they are now; then each as it moves. Steps that come "
        "together are one."
    )
    async def device_command_changed(
        self,
        info: Info,
        *,
        device_ids: Annotated[
            list[ID] | None, strawberry.argument(description="Of these devices only; of all where absent.")
        ] = UNSET,
        command_ids: Annotated[
            list[ID] | None, strawberry.argument(description="These commands only; all where absent.")
        ] = UNSET,
    ) -> AsyncGenerator[DeviceCommand]:
        """InvalidId, InvalidInput."""
        context = info.context
        tenant_id = context.actor.may("devices:read").tenant_id
        wanted = read_moved(device_ids, command_ids)
        moves = command_feed.follow(context.db, context.bell, tenant_id, wanted)
        async with aclosing(moves), aclosing(_shown(context, moves, DeviceCommand.of)) as shown:
            async for command in shown:
                yield command

    @_subscription(
        "A device went online or offline, was bound, suspended, resumed or retired. First: every matching device as it "
        "is now, so who comes back has missed nothing. Changes that come together are one."
    )
    async def device_changed(
        self,
        info: Info,
        *,
        device_ids: Annotated[
            list[ID] | None, strawberry.argument(description="These devices only; all where absent.")
        ] = UNSET,
    ) -> AsyncGenerator[Device]:
        """InvalidId, InvalidInput."""
        context = info.context
        tenant_id = context.actor.may("devices:read").tenant_id
        wanted = read_followed("dev", device_ids)
        changes = device_feed.follow(context.db, context.bell, tenant_id, wanted)
        async with aclosing(changes), aclosing(_shown(context, changes, Device.of)) as shown:
            async for device in shown:
                yield device

    @_subscription(
        "A delivery moved on: an attempt of it ended, or it was retried by hand. Steps that come together are one. "
        "Deliveries that are cancelled with their endpoint are not told of one by one."
    )
    async def webhook_delivery_changed(
        self,
        info: Info,
        *,
        endpoint_ids: Annotated[
            list[ID] | None, strawberry.argument(description="To these endpoints only; to all where absent.")
        ] = UNSET,
    ) -> AsyncGenerator[WebhookDelivery]:
        """InvalidId, InvalidInput."""
        context = info.context
        tenant_id = context.actor.may("webhooks:read").tenant_id
        wanted = read_followed("whk", endpoint_ids)
        moves = delivery_feed.follow(context.db, context.bell, tenant_id, wanted)
        async with aclosing(moves), aclosing(_shown(context, moves, WebhookDelivery.of)) as shown:
            async for delivery in shown:
                yield delivery


async def _shown(context: Context, rows: AsyncGenerator[T], show: Callable[[T], S]) -> AsyncGenerator[S]:
    """Each row as the API shows it, again until PostgreSQL was there for all that was asked of it."""
    async for row in rows:
        while True:
            context.refresh()
            context.unsent = False
            yield show(row)
            if not context.unsent:
                break
            await asyncio.sleep(GIVE_AGAIN * random.uniform(0.5, 1))  # noqa: S311


class _Punches:
    """The feed of punches for those who share it."""

    def __init__(self, reader: PunchFeed, context: Context) -> None:
        self._reader = reader
        self._cursors = context.cursors
        self._tenant_id = context.actor.tenant_id

    def follow(self, after: int) -> AsyncGenerator[punch_feed.PunchBatch]:
        """Steps after a position."""
        return self._reader.follow(after, quiet=True)

    def show(self, context: Context, step: punch_feed.PunchBatch, previous: str) -> PunchBatch:
        """As the field gives it."""
        return PunchBatch.of(context, step, previous)

    def cursor(self, position: int) -> str:
        """The cursor of a position."""
        return self._cursors.write(self._tenant_id, position)
