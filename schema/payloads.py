"""What mutations answer: the entity as it is now, or why nothing was changed; and whether an earlier call did it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

import strawberry
from strawberry import ID

from app import ids
from app.domain import commands, deliveries, devices, endpoints, enrollments, keys, replays, sites, stream_tokens
from app.domain.employees import Employee
from schema import account, types, webhooks

E = TypeVar("E")
G = TypeVar("G")


@strawberry.type(description="A refusal that the caller can act on. Every code has a page at docUrl.")
class UserError:
    """Beside a null entity, and nothing was changed."""

    code: str = strawberry.field(description="Stable snake_case identifier, e.g. serial_number_taken.")
    message: str = strawberry.field(description="What is wrong and what to do, for people.")
    doc_url: str = strawberry.field(description="The page about this code.")
    path: list[str] | None = strawberry.field(description='Where in the input, e.g. ["input", "timeZone"].')


@dataclass(slots=True)
class Answer(Generic[E]):
    """What became of a call, before it is dressed."""

    entity: E | None = None
    #: Shown once: None in a replay.
    secret: str | None = None
    errors: list[UserError] = field(default_factory=list)
    replay: bool = False

    def shown(self, convert: Callable[[E], G]) -> G | None:
        """The entity as it goes out."""
        return None if self.entity is None else convert(self.entity)


@strawberry.type
class _Payload:
    user_errors: list[UserError] = strawberry.field(
        description="Refusals; when not empty, nothing was changed and the entity is null."
    )
    idempotent_replay: bool = strawberry.field(
        description="True when this answer was made by an earlier call with the same key."
    )


@strawberry.type(description="What became of a site.")
class SitePayload(_Payload):
    """A site."""

    site: types.Site | None = strawberry.field(description="As it is now.")

    @classmethod
    def of(cls, answer: Answer[sites.Site]) -> SitePayload:
        """Dressed."""
        return cls(site=answer.shown(types.Site.of), user_errors=answer.errors, idempotent_replay=answer.replay)


@strawberry.type(description="What became of a device.")
class DevicePayload(_Payload):
    """A device."""

    device: types.Device | None = strawberry.field(description="As it is now.")

    @classmethod
    def of(cls, answer: Answer[devices.Device]) -> DevicePayload:
        """Dressed."""
        return cls(device=answer.shown(types.Device.of), user_errors=answer.errors, idempotent_replay=answer.replay)


@strawberry.type(description="What became of a command.")
class DeviceCommandPayload(_Payload):
    """A command."""

    command: types.DeviceCommand | None = strawberry.field(description="As it is now.")

    @classmethod
    def of(cls, answer: Answer[commands.DeviceCommand]) -> DeviceCommandPayload:
        """Dressed."""
        return cls(
            command=answer.shown(types.DeviceCommand.of), user_errors=answer.errors, idempotent_replay=answer.replay
        )


@strawberry.type(description="What became of an employee.")
class EmployeePayload(_Payload):
    """A person."""

    employee: types.Employee | None = strawberry.field(description="As they are now.")

    @classmethod
    def of(cls, answer: Answer[Employee]) -> EmployeePayload:
        """Dressed."""
        return cls(employee=answer.shown(types.Employee.of), user_errors=answer.errors, idempotent_replay=answer.replay)


@strawberry.type(description="What became of many employees.")
class EmployeeBulkPayload(_Payload):
    """People."""

    employees: list[types.Employee] | None = strawberry.field(
        description="As they are now, in the order of the input; in a replay without those deleted since."
    )

    @classmethod
    def of(cls, answer: Answer[list[Employee]]) -> EmployeeBulkPayload:
        """Dressed."""
        return cls(
            employees=answer.shown(lambda rows: [types.Employee.of(row) for row in rows]),
            user_errors=answer.errors,
            idempotent_replay=answer.replay,
        )


@strawberry.type(description="Where terminals are pointed from now on.")
class EnrollmentPayload(_Payload):
    """Addresses."""

    enrollment: account.Enrollment | None = strawberry.field(description="The addresses as they are now.")

    @classmethod
    def of(cls, answer: Answer[enrollments.Addresses]) -> EnrollmentPayload:
        """Dressed."""
        return cls(
            enrollment=answer.shown(account.Enrollment.of), user_errors=answer.errors, idempotent_replay=answer.replay
        )


@strawberry.type(description="What became of a key.")
class ApiKeyPayload(_Payload):
    """A key, without its secret."""

    api_key: account.ApiKey | None = strawberry.field(description="As it is now.")

    @classmethod
    def of(cls, answer: Answer[keys.ApiKey]) -> ApiKeyPayload:
        """Dressed."""
        return cls(api_key=answer.shown(account.ApiKey.of), user_errors=answer.errors, idempotent_replay=answer.replay)


@strawberry.type(description="A new key. `secret` is shown once; a replay answers null for it.")
class ApiKeySecretPayload(_Payload):
    """A key and its secret."""

    api_key: account.ApiKey | None = strawberry.field(description="As it is now.")
    secret: str | None = strawberry.field(description="The key itself (pc_live_…): keep it now, it is nowhere else.")

    @classmethod
    def of(cls, answer: Answer[keys.ApiKey]) -> ApiKeySecretPayload:
        """Dressed."""
        return cls(
            api_key=answer.shown(account.ApiKey.of),
            secret=answer.secret,
            user_errors=answer.errors,
            idempotent_replay=answer.replay,
        )


@strawberry.type(description="What became of an endpoint.")
class WebhookEndpointPayload(_Payload):
    """An endpoint, without its secret."""

    endpoint: webhooks.WebhookEndpoint | None = strawberry.field(description="As it is now.")

    @classmethod
    def of(cls, answer: Answer[endpoints.Endpoint]) -> WebhookEndpointPayload:
        """Dressed."""
        return cls(
            endpoint=answer.shown(webhooks.WebhookEndpoint.of),
            user_errors=answer.errors,
            idempotent_replay=answer.replay,
        )


@strawberry.type(
    description="An endpoint with a new secret. `secret` (whsec_…) is shown once; a replay answers null for it."
)
class WebhookEndpointSecretPayload(_Payload):
    """An endpoint and its secret."""

    endpoint: webhooks.WebhookEndpoint | None = strawberry.field(description="As it is now.")
    secret: str | None = strawberry.field(description="What signs from now on: keep it now, it is not shown again.")

    @classmethod
    def of(cls, answer: Answer[endpoints.Endpoint]) -> WebhookEndpointSecretPayload:
        """Dressed."""
        return cls(
            endpoint=answer.shown(webhooks.WebhookEndpoint.of),
            secret=answer.secret,
            user_errors=answer.errors,
            idempotent_replay=answer.replay,
        )


@strawberry.type(description="What became of a delivery.")
class WebhookDeliveryPayload(_Payload):
    """A delivery."""

    delivery: webhooks.WebhookDelivery | None = strawberry.field(description="As it is now.")

    @classmethod
    def of(cls, answer: Answer[deliveries.Delivery]) -> WebhookDeliveryPayload:
        """Dressed."""
        return cls(
            delivery=answer.shown(webhooks.WebhookDelivery.of),
            user_errors=answer.errors,
            idempotent_replay=answer.replay,
        )


@strawberry.type(description="A replay that was started.")
class WebhookReplayPayload(_Payload):
    """A replay."""

    replay: webhooks.WebhookReplay | None = strawberry.field(description="As it is now.")

    @classmethod
    def of(cls, answer: Answer[replays.Replay]) -> WebhookReplayPayload:
        """Dressed."""
        return cls(
            replay=answer.shown(webhooks.WebhookReplay.of),
            user_errors=answer.errors,
            idempotent_replay=answer.replay,
        )


@strawberry.type(description="What was removed.")
class DeletePayload(_Payload):
    """Only an id is left of it."""

    deleted_id: ID | None = strawberry.field(description="The id of what is gone.")

    @classmethod
    def of(cls, answer: Answer[tuple[ids.Prefix, UUID]]) -> DeletePayload:
        """Dressed."""
        return cls(
            deleted_id=answer.shown(lambda gone: ID(ids.show(*gone))),
            user_errors=answer.errors,
            idempotent_replay=answer.replay,
        )


@strawberry.type(description="A stream token.")
class StreamTokenPayload:
    """Shown once."""

    token: str | None = strawberry.field(
        description="pc_stream_…: goes where an API key goes, over HTTP and sockets. Nobody can look it up again."
    )
    expires_at: datetime | None = strawberry.field(description="When it ends; open sockets end with it.")
    user_errors: list[UserError] = strawberry.field(description="Refusals; when not empty, there is no token.")

    @classmethod
    def of(cls, answer: Answer[stream_tokens.Issued]) -> StreamTokenPayload:
        """Dressed."""
        issued = answer.entity
        return cls(
            token=issued.token if issued else None,
            expires_at=issued.expires_at if issued else None,
            user_errors=answer.errors,
        )
