"""Root queries. Each asks for its scope before anything else, so that what it says of an id never depends on a secret.

Another tenant's object is one that does not exist: null with a 404 where a field names one thing, plain null in `node`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import strawberry
from strawberry import ID, UNSET

from app import ids
from app.domain import deliveries, devices, employees, endpoints, keys, punch_feed, punches, sites, tenants
from app.domain.deliveries import DeliveryNotFound
from app.domain.devices import DeviceNotFound
from app.domain.employees import EmployeeNotFound
from app.domain.endpoints import EndpointNotFound
from app.domain.feed import FeedStart
from app.domain.punches import PunchNotFound
from app.domain.sites import SiteNotFound
from app.errors import InvalidInput
from app.paging import LARGEST_SIZE, Asked, PageTooLarge
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
    DeviceFilter,
    DeviceOrder,
    EmployeeFilter,
    EmployeeOrder,
    PunchFilter,
    PunchOrder,
    WebhookDeliveryFilter,
    check_text,
)
from schema.types import (
    ApiKey,
    Device,
    Employee,
    Node,
    Punch,
    PunchBatch,
    RejectedRecord,
    Site,
    Tenant,
    Viewer,
    WebhookDelivery,
    WebhookEndpoint,
    ask_punches,
    online_since,
)

T = TypeVar("T")

LONGEST_WAIT_MS: Final = 30_000

AnyId = Annotated[ID, strawberry.argument(description="Any id of ours.")]


@strawberry.type(description="What can be asked.")
class Query:
    """Every field is nullable, so that one failure does not blank the rest of an answer."""

    @resolved("Who is calling.")
    def viewer(self) -> Viewer | None:
        """Open to every key."""
        return Viewer()

    @resolved("Anything by its id; null when the tenant has no such thing.")
    async def node(self, info: Info, id: AnyId) -> Node | None:
        """InvalidId for what is no id at all."""
        return await find_node(info.context, id)

    @resolved("Several things by their ids, in the same order; null for each that the tenant does not have.")
    async def nodes(
        self, info: Info, ids: Annotated[list[ID], strawberry.argument(description="At most 100 ids.")]
    ) -> list[Node | None]:
        """Ids of one kind are read by one statement."""
        if len(ids) > LARGEST_SIZE:
            raise PageTooLarge
        finding = [find_node(info.context, id) for id in ids]
        found: list[Any] = list(await gather(finding))
        return found
