"""Root queries. Each asks for its scope before anything else, so what it says of an id depends on nothing hidden.

Another tenant's object is one that does not exist: null with a 404 where a field names one thing, plain null in `node`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, TypeAlias, TypeVar, cast
from uuid import UUID

import strawberry
from strawberry import ID, UNSET

from app import ids
from app.domain import audit, commands, deliveries, devices, employees, endpoints, keys, punches, sites, tenants
from app.domain.deliveries import DeliveryNotFound
from app.domain.devices import DeviceNotFound
from app.domain.employees import EmployeeNotFound
from app.domain.endpoints import EndpointNotFound
from app.domain.feed import FeedStart
from app.domain.punch_feed import PunchFeed
from app.domain.punches import PunchNotFound
from app.domain.replays import ReplayNotFound
from app.domain.sites import SiteNotFound
from app.errors import InvalidInput
from app.ids import InvalidId
from app.paging import LARGEST_SIZE, Asked, PageTooLarge
from schema.account import ApiKey, AuditEntry, RateLimit, Tenant, Viewer
from schema.connections import (
    After,
    Before,
    Connection,
    CountedConnection,
    First,
    Last,
    ask,
    connect,
    connect_counted,
)
from schema.context import Context, Info
from schema.fields import resolved
from schema.inputs import (
    AuditFilter,
    DeviceCommandFilter,
    DeviceFilter,
    DeviceOrder,
    EmployeeFilter,
    EmployeeOrder,
    check_text,
)
from schema.loaders import Loader
from schema.types import (
    Device,
    DeviceCommand,
    Employee,
    Node,
    Punch,
    PunchBatch,
    PunchesBy,
    RejectedRecord,
    Site,
    WhichPunches,
    ask_punches,
    online_since,
)
from schema.webhooks import WebhookDelivery, WebhookEndpoint, WebhookReplay, WhichDeliveries

WhichEntries = Annotated[AuditFilter | None, strawberry.argument(description="Which of them.")]
T = TypeVar("T")
Find: TypeAlias = Callable[[Context, UUID], Awaitable[Node | None]]

AnyId = Annotated[ID, strawberry.argument(description="Its id.")]
OptionalId = Annotated[ID | None, strawberry.argument(description="Its id.")]

LONGEST_WAIT_MS: Final = 30_000
_FEED_SIZE: Final = 50


@strawberry.type(description="What can be asked.")
class Query:
    """Every field is nullable, so that one failure does not blank the rest of an answer."""

    @resolved("Who is calling.")
    def viewer(self) -> Viewer | None:
        """Open to every key."""
        return Viewer()

    @resolved("What this request leaves of the budget.")
    def rate_limit(self, info: Info) -> RateLimit | None:
        """Open to every key; null where nobody counts."""
        return RateLimit.of(info.context)

    @resolved("Anything by its id; null when the tenant has no such thing.")
    async def node(self, info: Info, id: AnyId) -> Node | None:
        """InvalidId for what is no id at all."""
        return await _node(info.context, id)

    @resolved("Several things by their ids, in the same order; null for each that the tenant does not have.")
    async def nodes(
        self, info: Info, ids: Annotated[list[ID], strawberry.argument(description="At most 100 ids.")]
    ) -> list[Node | None]:
        """Ids of one kind are read by one statement. What is wrong with one id does not touch the others."""
        if len(ids) > LARGEST_SIZE:
            raise PageTooLarge
        found = await asyncio.gather(*(_node(info.context, each) for each in ids), return_exceptions=True)
        return cast("list[Node | None]", found)

    # ── sites and devices ────────────────────────────────────────────────────────────────────────────

    @resolved("A site.")
    async def site(self, info: Info, id: AnyId) -> Site | None:
        """SiteNotFound."""
        info.context.actor.may("devices:read")
        key = ids.read("sit", id)
        return Site.of(await _get(info.context.loaders.sites, key, SiteNotFound))

    @resolved("All sites, the oldest first.")
    async def sites(
        self, info: Info, *, first: First = UNSET, after: After = UNSET, last: Last = UNSET, before: Before = UNSET
    ) -> Connection[Site] | None:
        """By id, which sorts by time."""
        context = info.context
        tenant_id = context.actor.may("devices:read").tenant_id
        asked: Asked[None] = ask(context, "sites", sites.BY_ID.up, None, (first, after, last, before))
        async with context.reading.read() as session:
            page = await sites.page(session, tenant_id, asked)
        return connect(context, asked, page, Site.of)

    @resolved("A device, by id or by serial number: exactly one.")
    async def device(
        self,
        info: Info,
        *,
        id: OptionalId = UNSET,
        serial_number: Annotated[
            str | None, strawberry.argument(description="Of several retired devices with it, the last.")
        ] = UNSET,
    ) -> Device | None:
        """DeviceNotFound."""
        context = info.context
        tenant_id = context.actor.may("devices:read").tenant_id
        by_id, serial = _either("id", id, "serialNumber", serial_number)
        if by_id is not None:
            return Device.of(await _get(context.loaders.devices, ids.read("dev", by_id), DeviceNotFound))
        async with context.reading.read() as session:
            found = await devices.find_serial(session, tenant_id, check_text(serial))
        if found is None:
            raise DeviceNotFound(serial)
        return Device.of(found)

    @resolved("All devices, the oldest first unless ordered otherwise.")
    async def devices(
        self,
        info: Info,
        *,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
        filter: Annotated[DeviceFilter | None, strawberry.argument(description="Which of them.")] = UNSET,
        order_by: Annotated[DeviceOrder | None, strawberry.argument(description="In which order.")] = UNSET,
    ) -> CountedConnection[Device] | None:
        """Retired ones too, unless filtered out."""
        context = info.context
        tenant_id = context.actor.may("devices:read").tenant_id
        wanted = filter.wanted() if filter else devices.EVERY
        order = order_by.order() if order_by else devices.BY_CREATED_AT.up
        asked = ask(context, "devices", order, wanted, (first, after, last, before))
        since = online_since(context)
        async with context.reading.read() as session:
            page = await devices.page(session, tenant_id, since, asked)

        async def count() -> int:
            async with context.reading.read() as session:
                return await devices.count(session, tenant_id, since, wanted)

        return connect_counted(context, asked, page, Device.of, count)

    @resolved("What devices were told to do, the newest first.")
    async def device_commands(
        self,
        info: Info,
        *,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
        filter: Annotated[DeviceCommandFilter | None, strawberry.argument(description="Which of them.")] = UNSET,
    ) -> Connection[DeviceCommand] | None:
        """By id, which sorts by time."""
        context = info.context
        tenant_id = context.actor.may("devices:read").tenant_id
        wanted = filter.wanted() if filter else commands.EVERY
        asked = ask(context, "deviceCommands", commands.BY_ID.down, wanted, (first, after, last, before))
        async with context.reading.read() as session:
            page = await commands.page(session, tenant_id, asked)
        return connect(context, asked, page, DeviceCommand.of)

    # ── people and punches ───────────────────────────────────────────────────────────────────────────

    @resolved("An employee, by id or by PIN: exactly one.")
    async def employee(
        self,
        info: Info,
        *,
        id: OptionalId = UNSET,
        pin: Annotated[str | None, strawberry.argument(description="Text: leading zeros count.")] = UNSET,
    ) -> Employee | None:
        """EmployeeNotFound."""
        loaders = info.context.loaders
        info.context.actor.may("employees:read")
        by_id, by_pin = _either("id", id, "pin", pin)
        if by_id is not None:
            return Employee.of(await _get(loaders.employees, ids.read("emp", by_id), EmployeeNotFound))
        return Employee.of(await _get(loaders.employees_by_pin, check_text(by_pin), EmployeeNotFound))

    @resolved("All employees, in the order in which they were entered unless ordered otherwise.")
    async def employees(
        self,
        info: Info,
        *,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
        filter: Annotated[EmployeeFilter | None, strawberry.argument(description="Which of them.")] = UNSET,
        order_by: Annotated[EmployeeOrder | None, strawberry.argument(description="In which order.")] = UNSET,
    ) -> CountedConnection[Employee] | None:
        """With a total."""
        context = info.context
        tenant_id = context.actor.may("employees:read").tenant_id
        wanted = filter.wanted() if filter else employees.EVERY
        order = order_by.order() if order_by else employees.BY_CREATED_AT.up
        asked = ask(context, "employees", order, wanted, (first, after, last, before))
        async with context.reading.read() as session:
            page = await employees.page(session, tenant_id, asked)

        async def count() -> int:
            async with context.reading.read() as session:
                return await employees.count(session, tenant_id, wanted)

        return connect_counted(context, asked, page, Employee.of, count)

    @resolved("A punch.")
    async def punch(self, info: Info, id: AnyId) -> Punch | None:
        """PunchNotFound."""
        info.context.actor.may("punches:read")
        key = ids.read("pun", id)
        return Punch.of(await _get(info.context.loaders.punches, key, PunchNotFound))

    @resolved("Newest first unless ordered otherwise. Pages stay stable while punches arrive.")
    async def punches(
        self,
        info: Info,
        *,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
        filter: WhichPunches = UNSET,
        order_by: PunchesBy = UNSET,
    ) -> Connection[Punch] | None:
        """Punches are never deleted and their order never changes."""
        context = info.context
        tenant_id = context.actor.may("punches:read").tenant_id
        asked = ask_punches(context, "punches", filter, order_by, (first, after, last, before))
        async with context.reading.read() as session:
            page = await punches.page(session, tenant_id, asked)
        return connect(context, asked, page, Punch.of)

    @resolved(
        "The live feed by pull: the same cursors as the `punches` subscription. Waits up to waitMs (at most 30000) for "
        "news."
    )
    async def punch_feed(
        self,
        info: Info,
        *,
        after: Annotated[
            str | None, strawberry.argument(description="The last batch's cursor; overrides `from`.")
        ] = UNSET,
        from_: Annotated[
            FeedStart | None, strawberry.argument(name="from", description="Where to begin without a cursor.")
        ] = FeedStart.NOW,
        first: Annotated[int | None, strawberry.argument(description="Punches in a batch, at most 100.")] = _FEED_SIZE,
        wait_ms: Annotated[
            int | None, strawberry.argument(description="How long to wait when there is nothing, in milliseconds.")
        ] = 0,
        filter: WhichPunches = UNSET,
    ) -> PunchBatch | None:
        """CursorInvalid, CursorExpired."""
        context = info.context
        tenant_id = context.actor.may("punches:read").tenant_id
        most = _FEED_SIZE if first is None else first
        if most > LARGEST_SIZE:
            raise PageTooLarge
        if most < 1:
            raise InvalidInput("A batch holds at least one punch.", path=("first",))
        if not 0 <= (wait_ms or 0) <= LONGEST_WAIT_MS:
            raise InvalidInput(f"waitMs lies between 0 and {LONGEST_WAIT_MS}.", path=("waitMs",))
        wanted = filter.wanted() if filter else punches.EVERY
        cursor = None if after is UNSET else after
        context.may_wait((wait_ms or 0) / 1000)
        position = await context.feed.locate(tenant_id, cursor, from_ or FeedStart.NOW)
        reader = PunchFeed(context.feed, context.db, tenant_id, within=context.actor.site_ids, wanted=wanted, most=most)
        if not wait_ms:
            batch = await reader.collect(position)
        else:
            waiting = reader.collect(position, wait=wait_ms / 1000, stopping=context.stopping)
            batch = await context.while_alive(waiting)
            await keys.check(context.db, context.actor)
        return PunchBatch.of(context, batch, cursor)

    # ── webhooks ─────────────────────────────────────────────────────────────────────────────────────

    @resolved("A receiver of webhooks.")
    async def webhook_endpoint(self, info: Info, id: AnyId) -> WebhookEndpoint | None:
        """EndpointNotFound."""
        info.context.actor.may("webhooks:read")
        key = ids.read("whk", id)
        return WebhookEndpoint.of(await _get(info.context.loaders.endpoints, key, EndpointNotFound))

    @resolved("All receivers of webhooks, the oldest first.")
    async def webhook_endpoints(
        self, info: Info, *, first: First = UNSET, after: After = UNSET, last: Last = UNSET, before: Before = UNSET
    ) -> CountedConnection[WebhookEndpoint] | None:
        """Those that are not deleted."""
        context = info.context
        tenant_id = context.actor.may("webhooks:read").tenant_id
        asked: Asked[None] = ask(context, "webhookEndpoints", endpoints.BY_ID.up, None, (first, after, last, before))
        async with context.reading.read() as session:
            page = await endpoints.page(session, tenant_id, asked)

        async def count() -> int:
            async with context.reading.read() as session:
                return await endpoints.count(session, tenant_id)

        return connect_counted(context, asked, page, WebhookEndpoint.of, count)

    @resolved("A delivery, by id, or by the UUID that the receiver saw.")
    async def webhook_delivery(
        self,
        info: Info,
        *,
        id: OptionalId = UNSET,
        uuid: Annotated[str | None, strawberry.argument(description="The value of X-PunchConnect-Delivery.")] = UNSET,
    ) -> WebhookDelivery | None:
        """DeliveryNotFound."""
        info.context.actor.may("webhooks:read")
        by_id, by_uuid = _either("id", id, "uuid", uuid)
        key = ids.read("whd", by_id) if by_id is not None else _read_uuid(by_uuid)
        return WebhookDelivery.of(await _get(info.context.loaders.deliveries, key, DeliveryNotFound))

    @resolved("A replay, by id: how far it has come.")
    async def webhook_replay(self, info: Info, id: AnyId) -> WebhookReplay | None:
        """ReplayNotFound."""
        info.context.actor.may("webhooks:read")
        key = ids.read("rep", id)
        return WebhookReplay.of(await _get(info.context.loaders.replays, key, ReplayNotFound))

    @resolved("What is or was owed to receivers, the newest first.")
    async def webhook_deliveries(
        self,
        info: Info,
        *,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
        filter: WhichDeliveries = UNSET,
    ) -> Connection[WebhookDelivery] | None:
        """By id, which sorts by time."""
        context = info.context
        tenant_id = context.actor.may("webhooks:read").tenant_id
        wanted = filter.wanted() if filter else deliveries.EVERY
        asked = ask(context, "webhookDeliveries", deliveries.BY_ID.down, wanted, (first, after, last, before))
        async with context.reading.read() as session:
            page = await deliveries.page(session, tenant_id, asked)
        return connect(context, asked, page, WebhookDelivery.of)

    # ── keys ─────────────────────────────────────────────────────────────────────────────────────────

    @resolved("All API keys, dead ones too, the oldest first.")
    async def api_keys(
        self, info: Info, *, first: First = UNSET, after: After = UNSET, last: Last = UNSET, before: Before = UNSET
    ) -> Connection[ApiKey] | None:
        """Never their secrets."""
        context = info.context
        tenant_id = context.actor.may("keys:write").tenant_id
        asked: Asked[None] = ask(context, "apiKeys", keys.BY_ID.up, None, (first, after, last, before))
        async with context.reading.read() as session:
            page = await keys.page(session, tenant_id, asked)
        return connect(context, asked, page, ApiKey.of)

    @resolved("Who did what, to what, and when; the newest first. Kept for good, unless the operator removes it.")
    async def audit_log(
        self,
        info: Info,
        *,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
        filter: WhichEntries = UNSET,
    ) -> Connection[AuditEntry] | None:
        """By id, which sorts by time."""
        context = info.context
        tenant_id = context.actor.may("audit:read").tenant_id
        wanted = filter.wanted() if filter else audit.EVERY
        asked = ask(context, "auditLog", audit.BY_ID.down, wanted, (first, after, last, before))
        async with context.reading.read() as session:
            page = await audit.page(session, tenant_id, asked)
        return connect(context, asked, page, AuditEntry.of)


async def _node(context: Context, text: str) -> Node | None:
    prefix, key = ids.split(text)
    if (kind := NODES.get(prefix)) is None:
        return None
    scope, find = kind
    if scope is not None:
        context.actor.may(scope)
    return await find(context, key)


async def _tenant(context: Context, key: UUID) -> Tenant | None:
    if key != context.actor.tenant_id:
        return None
    async with context.reading.read() as session:
        return Tenant.of(await tenants.get(session, key))


def _loaded(loader: str, show: Callable[[Any], Node]) -> Find:
    """What a loader finds."""

    async def find(context: Context, key: UUID) -> Node | None:
        row = await getattr(context.loaders, loader).load(key)
        return None if row is None else show(row)

    return find


#: prefix -> the scope that opens it, and how to find one
NODES: Final[dict[str, tuple[str | None, Find]]] = {
    "ten": (None, _tenant),
    "key": ("keys:write", _loaded("keys", ApiKey.of)),
    "aud": ("audit:read", _loaded("audit", AuditEntry.of)),
    "sit": ("devices:read", _loaded("sites", Site.of)),
    "dev": ("devices:read", _loaded("devices", Device.of)),
    "cmd": ("devices:read", _loaded("commands", DeviceCommand.of)),
    "rej": ("devices:read", _loaded("rejected_records", RejectedRecord.of)),
    "emp": ("employees:read", _loaded("employees", Employee.of)),
    "pun": ("punches:read", _loaded("punches", Punch.of)),
    "whk": ("webhooks:read", _loaded("endpoints", WebhookEndpoint.of)),
    "whd": ("webhooks:read", _loaded("deliveries", WebhookDelivery.of)),
    "rep": ("webhooks:read", _loaded("replays", WebhookReplay.of)),
}


async def _get(loader: Loader[Any, T | None], key: Any, absent: Callable[[Any], Exception]) -> T:
    found = await loader.load(key)
    if found is None:
        raise absent(key)
    return found


def _either(one: str, first: str | None, other: str, second: str | None) -> tuple[str | None, str]:
    """Exactly one of two arguments is given; the second is "" when the first is."""
    given = [value is not None and value is not UNSET for value in (first, second)]
    if sum(given) != 1:
        raise InvalidInput(f"Give exactly one of {one} and {other}.", path=(one,))
    return (first, "") if given[0] else (None, second or "")


def _read_uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise InvalidId(f"{text[:64]!r} is not a UUID.") from None
