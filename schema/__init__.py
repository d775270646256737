"""The Schema object: what `/graphql` serves, on every transport."""

from __future__ import annotations

from functools import cached_property

import strawberry
from graphql import GraphQLError, GraphQLSchema
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext

from schema import account, types, webhooks
from schema.documents import Documents, Reading
from schema.executor import Executor
from schema.mutations import Mutation
from schema.queries import Query
from schema.subscriptions import Subscription
from schema.values import SCALARS


class Schema(strawberry.Schema):
    """Says nothing of errors itself: `errors.present` logs what it hides, on every transport."""

    @property
    def core(self) -> GraphQLSchema:
        """graphql-core's own."""
        return self._schema

    @cached_property
    def documents(self) -> Documents:
        """What it has read lately."""
        return Documents(self._schema)

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        pass


# A mutation's one argument needs no words of its own: its type has them.
for _field in Mutation.__strawberry_definition__.fields:  # type: ignore[attr-defined]
    for _argument in _field.arguments:
        _argument.description = _argument.description or "What to do."


def build(*, sort: bool = False) -> Schema:
    """The schema. A sorted one is for printing only: sorting copies the types, and copied enums hand out bare texts."""
    return Schema(
        query=Query,
        mutation=Mutation,
        subscription=Subscription,
        types=[
            account.ApiKey,
            account.AuditEntry,
            types.Device,
            types.DeviceCommand,
            types.Employee,
            types.Punch,
            types.RejectedRecord,
            types.Site,
            account.Tenant,
            webhooks.WebhookDelivery,
            webhooks.WebhookEndpoint,
        ],
        extensions=[Reading],
        execution_context_class=Executor,
        config=StrawberryConfig(scalar_map=SCALARS, sort_schema=sort),
    )


schema = build()


def sdl() -> str:
    """The schema as text, for people and tools."""
    return build(sort=True).as_str().rstrip("\n") + "\n"
