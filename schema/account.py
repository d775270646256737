"""The customer's own side: who they are, who is calling, what they may spend, what was done in their name."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import cast

import strawberry
from strawberry import ID
from strawberry.scalars import JSON

from app import ids
from app.domain import audit, devices, enrollments, keys, tenants
from app.domain.audit import AuditSource
from app.domain.tables import now
from app.domain.tenants import Plan
from schema.context import Context, Info
from schema.fields import resolved
from schema.types import Node, online_since


@strawberry.type(description="An amount of money.")
class Money:
    """As the operator wrote it."""

    amount: str = strawberry.field(description="A decimal number.")
    currency: str = strawberry.field(description="ISO 4217 code.")


@strawberry.type(description="Where a tenant's terminals are pointed.")
class Enrollment:
    """Whoever knows it may knock."""

    host: str | None = strawberry.field(
        description="Full host name, for terminals that take a domain name; null where the operator set no device "
        "domain."
    )
    url: str = strawberry.field(
        description="For terminals and test clients that take a URL: <base>/d/<token>; iclock paths follow."
    )

    @classmethod
    def of(cls, addresses: enrollments.Addresses) -> Enrollment:
        """As people type it."""
        return cls(host=addresses.host, url=addresses.url)


@strawberry.type(description="A customer: everything else belongs to one.")
class Tenant(Node):
    """Only ever the caller's own."""

    id: ID = strawberry.field(description="ten_…")
    name: str = strawberry.field(description="What the customer is called.")
    plan: Plan = strawberry.field(description="Where the tenant stands.")
    trial_ends_at: datetime | None = strawberry.field(
        description="End of the seven-day trial; null once the plan is paid."
    )
    created_at: datetime = strawberry.field(description="When it began.")

    @resolved("How many devices there are, in whatever state.")
    async def device_count(self, info: Info) -> int:
        """Retired ones too."""
        context = info.context
        async with context.reading.read() as session:
            return await devices.count(session, context.actor.tenant_id, online_since(context))

    @resolved("Where this tenant's terminals are pointed. Needs devices:write: it lets a terminal in.")
    async def enrollment(self, info: Info) -> Enrollment | None:
        """The latest address."""
        context = info.context
        actor = context.actor.may("devices:write")
        async with context.reading.read() as session:
            found = await enrollments.addresses(session, actor.tenant_id, context.vault, context.settings)
        return Enrollment.of(found) if found else None

    @resolved("What the plan costs per device, as the operator set it.")
    def price_per_device(self, info: Info) -> Money | None:
        """From the settings."""
        amount, _, currency = info.context.settings.price_per_device.strip().partition(" ")
        return Money(amount=amount, currency=currency.strip()) if amount and currency else None

    @classmethod
    def of(cls, row: tenants.Tenant) -> Tenant:
        """From its row."""
        return cls(
            id=ID(ids.show("ten", row.id)),
            name=row.name,
            plan=row.standing(now()),
            trial_ends_at=row.trial_ends_at,
            created_at=row.created_at,
        )


@strawberry.type(description="What may call us, and for what.")
class ApiKey(Node):
    """Never its secret."""

    id: ID = strawberry.field(description="key_…")
    name: str = strawberry.field(description="What it is for.")
    prefix: str = strawberry.field(description="First characters, to recognise it by.")
    scopes: list[str] = strawberry.field(description="What it opens, e.g. punches:read.")
    created_at: datetime = strawberry.field(description="When it was made.")
    last_used_at: datetime | None = strawberry.field(description="When it was last used, to within half a minute.")
    expires_at: datetime | None = strawberry.field(description="When it stops working; null for never.")
    revoked_at: datetime | None = strawberry.field(description="When it was revoked, if it was.")

    @classmethod
    def of(cls, row: keys.ApiKey) -> ApiKey:
        """From its row."""
        return cls(
            id=ID(ids.show("key", row.id)),
            name=row.name,
            prefix=row.prefix,
            scopes=list(row.scopes),
            created_at=row.created_at,
            last_used_at=row.last_used_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
        )


@strawberry.type(description="Who is calling.")
class Viewer:
    """Open to every key."""

    @resolved("The tenant that the key belongs to.")
    async def tenant(self, info: Info) -> Tenant:
        """The caller's own."""
        context = info.context
        async with context.reading.read() as session:
            return Tenant.of(await tenants.get(session, context.actor.tenant_id))

    @resolved("The key that is calling; of a stream token, the key that made it, with what the token may and its end.")
    async def api_key(self, info: Info) -> ApiKey:
        """The caller's own."""
        actor = info.context.actor
        found = await info.context.loaders.keys.load(actor.key_id)
        if found is None:
            raise keys.ApiKeyNotFound(actor.key_id)
        key = ApiKey.of(found)
        if actor.read_only:
            key.scopes, key.expires_at = sorted(actor.scopes), actor.expires_at
        return key


@strawberry.type(description="The tenant's budget of API points, as this request leaves it.")
class RateLimit:
    """Before anything is given back: what an answer costs is known only after it."""

    limit: int = strawberry.field(description="Points that may be spent at once.")
    remaining: int = strawberry.field(description="Points left, with this request paid in full.")
    reset_at: datetime = strawberry.field(description="When the budget is whole again, if nothing more is asked.")
    cost: int = strawberry.field(description="Points taken for this request before it ran.")

    @classmethod
    def of(cls, context: Context) -> RateLimit | None:
        """None where nobody counts."""
        allowance = context.allowance
        if allowance is None:
            return None
        full_at = now() + timedelta(seconds=allowance.full_in)
        return cls(limit=allowance.limit, remaining=allowance.remaining, reset_at=full_at, cost=context.cost)


@strawberry.type(description="Something that somebody did, to one object. Entries are never changed.")
class AuditEntry(Node):
    """Without secrets, and without anything about people."""

    id: ID = strawberry.field(description="aud_…")
    action: str = strawberry.field(
        description="The mutation's name, whichever way it was done; tenantCreate, tenantActivate and tenantSuspend "
        "are the operator's; signIn is a key's, in the dashboard."
    )
    actor: str = strawberry.field(description="Who did it: the id of an API key (key_…), `operator`, or `signup`.")
    source: AuditSource = strawberry.field(description="By which way they came.")
    target_id: ID | None = strawberry.field(
        description="To what it was done: the id of any kind of object, which may be gone by now. An action on several "
        "has an entry for each."
    )
    detail: JSON | None = strawberry.field(
        description="The arguments: numbers, ids and words of ours as they were; of a text that somebody typed only "
        "that it was given, as `…`; of long lists only their `count`."
    )
    request_id: str | None = strawberry.field(description="The request in which it was done, as in X-Request-Id.")
    created_at: datetime = strawberry.field(description="When.")

    @classmethod
    def of(cls, row: audit.AuditEntry) -> AuditEntry:
        """From its row."""
        source = AuditSource(row.source)
        if row.key_id is not None:
            actor = ids.show("key", row.key_id)
        else:
            actor = "signup" if source is AuditSource.SIGNUP else "operator"
        target = None if row.target_id is None else ids.show(cast("ids.Prefix", row.target_kind), row.target_id)
        return cls(
            id=ID(ids.show("aud", row.id)),
            action=row.action,
            actor=actor,
            source=source,
            target_id=None if target is None else ID(target),
            detail=JSON(row.detail),
            request_id=row.request_id,
            created_at=row.created_at,
        )
