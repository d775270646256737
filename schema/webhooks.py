"""Webhooks, as they go out: endpoints, what is owed to them, each try, and periods sent again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import orjson
import strawberry
from strawberry import ID, UNSET
from strawberry.scalars import JSON

from app import ids
from app.domain import deliveries, endpoints, replays
from app.domain.deliveries import DeliveryStatus
from app.domain.endpoints import EndpointStatus
from app.domain.events import webhook_body
from app.domain.replays import ReplayStatus
from schema.connections import After, Before, Connection, First, Last, ask, connect
from schema.context import Info
from schema.fields import resolved
from schema.inputs import WebhookDeliveryFilter
from schema.types import Node

WhichDeliveries = Annotated[WebhookDeliveryFilter | None, strawberry.argument(description="Which of them.")]


@strawberry.type(description="A receiver of webhooks.")
class WebhookEndpoint(Node):
    """Never its secrets."""

    id: ID = strawberry.field(description="whk_…")
    url: str = strawberry.field(description="Where deliveries are posted.")
    description: str | None = strawberry.field(description="Your own note.")
    status: EndpointStatus = strawberry.field(description="Whether it is sent to.")
    event_types: list[str] = strawberry.field(description="Which events it gets. Empty means every type.")
    disabled_reason: str | None = strawberry.field(description="Why the endpoint was disabled, if it was.")
    created_at: datetime = strawberry.field(description="When it was made.")
    updated_at: datetime = strawberry.field(description="When it was last changed.")
    key: strawberry.Private[UUID]

    @resolved("What is or was owed to this endpoint; the newest first.")
    async def deliveries(
        self,
        info: Info,
        *,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
        filter: WhichDeliveries = UNSET,
    ) -> Connection[WebhookDelivery]:
        """One statement for a whole page of endpoints."""
        context = info.context
        context.actor.may("webhooks:read")
        wanted = filter.wanted() if filter else deliveries.EVERY
        window = (first, after, last, before)
        asked = ask(context, f"endpoint.deliveries {self.id}", deliveries.BY_ID.down, wanted, window)
        page = await context.loaders.deliveries_of_endpoints.load((self.key, asked))
        return connect(context, asked, page, WebhookDelivery.of)

    @classmethod
    def of(cls, row: endpoints.Endpoint) -> WebhookEndpoint:
        """From its row."""
        return cls(
            id=ID(ids.show("whk", row.id)),
            url=row.url,
            description=row.description,
            status=EndpointStatus(row.status),
            event_types=list(row.event_types),
            disabled_reason=row.disabled_reason,
            created_at=row.created_at,
            updated_at=row.updated_at,
            key=row.id,
        )


@strawberry.type(description="One HTTP try.")
class WebhookAttempt:
    """As it went."""

    number: int = strawberry.field(description="From 1; what X-PunchConnect-Attempt said.")
    started_at: datetime = strawberry.field(description="When it began.")
    duration_ms: int = strawberry.field(description="How long it took, in milliseconds.")
    status_code: int | None = strawberry.field(description="The HTTP status, when there was an answer.")
    error: str | None = strawberry.field(
        description="Error class when there was no usable answer: timeout, connect, dns, tls, forbidden_address, "
        "redirect, protocol."
    )
    response_body: str | None = strawberry.field(description="At most 4 KiB of it.")

    @classmethod
    def of(cls, row: deliveries.Attempt) -> WebhookAttempt:
        """From its row."""
        return cls(
            number=row.number,
            started_at=row.started_at,
            duration_ms=row.duration_ms,
            status_code=row.status_code,
            error=row.error,
            response_body=row.response_body,
        )


@strawberry.type(description="One event owed to one endpoint.")
class WebhookDelivery(Node):
    """Its payload is the event's, byte for byte the same at every attempt."""

    id: ID = strawberry.field(description="whd_…")
    uuid: str = strawberry.field(
        description="The value of X-PunchConnect-Delivery: the same over retries, another one for a replay."
    )
    event_id: ID = strawberry.field(description="evt_…; the webhook body's own id.")
    event_type: str = strawberry.field(description="What happened, e.g. punch.created.")
    status: DeliveryStatus = strawberry.field(description="How far it has come.")
    attempt_count: int = strawberry.field(description="How often it was tried.")
    next_attempt_at: datetime | None = strawberry.field(description="When it is tried next, while it waits.")
    created_at: datetime = strawberry.field(description="When it came to be owed.")
    completed_at: datetime | None = strawberry.field(description="When it was delivered or given up.")
    key: strawberry.Private[UUID]
    endpoint_key: strawberry.Private[UUID]
    position: strawberry.Private[int]

    @resolved("Null once the endpoint is deleted.")
    async def endpoint(self, info: Info) -> WebhookEndpoint | None:
        """Whom it is owed to."""
        found = await info.context.loaders.endpoints.load(self.endpoint_key)
        return WebhookEndpoint.of(found) if found else None

    @resolved("The body that is sent.")
    async def payload(self, info: Info) -> JSON:
        """The whole envelope."""
        body = await info.context.loaders.bodies.load(self.position)
        if body is None:
            return JSON(None)
        cursor = info.context.cursors.write(info.context.actor.tenant_id, self.position)
        return JSON(orjson.loads(webhook_body(body, cursor)))

    @resolved("Every try so far, the first one first.")
    async def attempts(self, info: Info) -> list[WebhookAttempt]:
        """At most a dozen."""
        found = await info.context.loaders.attempts.load(self.key)
        return [WebhookAttempt.of(attempt) for attempt in found or ()]

    @classmethod
    def of(cls, row: deliveries.Delivery) -> WebhookDelivery:
        """From its row."""
        return cls(
            id=ID(ids.show("whd", row.id)),
            uuid=str(row.id),
            event_id=ID(ids.show("evt", row.event_id)),
            event_type=row.event_type,
            status=DeliveryStatus(row.status),
            attempt_count=row.attempt_count,
            next_attempt_at=row.due_at if row.status == DeliveryStatus.PENDING else None,
            created_at=row.created_at,
            completed_at=row.completed_at,
            key=row.id,
            endpoint_key=row.endpoint_id,
            position=row.position,
        )


@strawberry.type(description="A period sent again, as a job.")
class WebhookReplay(Node):
    """Same event ids, new delivery ids."""

    id: ID = strawberry.field(description="rep_…")
    status: ReplayStatus = strawberry.field(description="How far it has come.")
    total: int | None = strawberry.field(description="Events to send again; null until they are counted.")
    done: int = strawberry.field(description="Of these, delivered or given up.")
    created_at: datetime = strawberry.field(description="When it was asked for.")
    completed_at: datetime | None = strawberry.field(description="When it ended.")
    endpoint_key: strawberry.Private[UUID]

    @resolved("Null once the endpoint is deleted.")
    async def endpoint(self, info: Info) -> WebhookEndpoint | None:
        """Whom it is sent to."""
        found = await info.context.loaders.endpoints.load(self.endpoint_key)
        return WebhookEndpoint.of(found) if found else None

    @classmethod
    def of(cls, row: replays.Replay) -> WebhookReplay:
        """From its row."""
        return cls(
            id=ID(ids.show("rep", row.id)),
            status=ReplayStatus(row.status),
            total=row.total,
            done=row.done,
            created_at=row.created_at,
            completed_at=row.completed_at,
            endpoint_key=row.endpoint_id,
        )
