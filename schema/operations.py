"""One operation, from its text to its answer: priced, paid, run within a deadline, and part of the price returned.

Documents are read and planned once. Queries and mutations go straight to graphql-core's executor; what Strawberry puts
around it per request (extensions, their runner, contexts of its own) does nothing that we need.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, cast
from uuid import UUID

from graphql import (
    ExecutionResult,
    FragmentDefinitionNode,
    OperationDefinitionNode,
    OperationType,
)

from app.errors import AppError
from app.limits import Allowance, Limiter
from schema import cost, schema
from schema.context import Context
from schema.documents import Prepared
from schema.errors import Throttled
from schema.executor import Executor, Planned
from schema.guards import QueryTooComplex

T = TypeVar("T")

#: Seconds that an operation may take, over and above what it waits on purpose.
DEADLINE: Final = 15.0


class OperationTimedOut(AppError):
    """It took longer than an operation may."""

    code, status, retryable = "operation_timed_out", 503, True

    def __init__(self) -> None:
        super().__init__(
            f"This took longer than {DEADLINE:.0f} s and was given up. Ask for less at once. A mutation that was given "
            "up may be sent again with the same idempotency key."
        )


@dataclass(frozen=True, slots=True)
class Priced:
    """An operation that may be run, and its price."""

    prepared: Prepared
    operation: OperationDefinitionNode
    plan: cost.Fields
    variables: dict[str, Any]
    points: int


class Timed(Protocol):
    """Something with a deadline that can be moved."""

    deadline: asyncio.Timeout | None


#: Gives back what an answer with this data did not need, and answers `extensions.cost`.
Settle = Callable[[dict[str, Any] | None], dict[str, Any]]


class Budget:
    """Takes points before an operation runs, and gives back what it did not need."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter

    async def spend(self, tenant_id: UUID, points: int) -> Allowance:
        """Throttled when they are not there."""
        allowance = await self.limiter.spend(tenant_id, points)
        if not allowance.granted:
            wait = max(1, math.ceil(allowance.retry_in))
            raise Throttled(
                f"This costs {points} points and {allowance.remaining} are left: try again in {wait} s.",
                allowance=allowance,
                cost=points,
                retryAfter=wait,
            )
        return allowance

    async def pay(self, context: Context, priced: Priced) -> None:
        """Take the price of an operation; what it was and what it leaves is in the context."""
        context.cost = priced.points
        context.allowance = await self.spend(context.actor.tenant_id, priced.points)

    def settle(self, context: Context, priced: Priced, data: dict[str, Any] | None) -> dict[str, int]:
        """Give back what was not needed. Answers `extensions.cost`."""
        actual = min(priced.points, cost.answered(priced.plan, priced.variables, data))
        taken = context.allowance
        if taken is not None and actual < priced.points:
            self.limiter.give_back(context.actor.tenant_id, taken, priced.points - actual)
            context.allowance = taken.after(priced.points - actual)
        return {"requested": priced.points, "actual": actual}

    async def toll(self, query: str, name: str | None, variables: dict[str, Any] | None, context: Context) -> Settle:
        """Take the price of an operation that somebody else will run. Throttled, QueryTooComplex.

        What cannot be run costs a point; saying what is wrong with it is left to whoever tries.
        """
        prepared = schema.documents.prepare(query)
        operation = prepared.operation(name)
        if prepared.errors or operation is None:
            context.allowance = await self.spend(context.actor.tenant_id, 1)
            return lambda _: {}
        priced = price(prepared, operation, variables, self.limiter.most)
        await self.pay(context, priced)
        if operation.operation is OperationType.SUBSCRIPTION:
            return lambda _: {}
        return lambda data: {"cost": self.settle(context, priced, data)}


def price(
    prepared: Prepared, operation: OperationDefinitionNode, variables: dict[str, Any] | None, most: int
) -> Priced:
    """What it costs. QueryTooComplex when that is more than one operation may cost, or the bucket ever holds."""
    assert prepared.document is not None
    plan = cast("cost.Fields | None", prepared.worked_out.get(id(operation)))
    if plan is None:
        parts = prepared.document.definitions
        fragments = {part.name.value: part for part in parts if isinstance(part, FragmentDefinitionNode)}
        plan = prepared.worked_out[id(operation)] = cost.draw(schema.core, operation, fragments)
    points = cost.asked(plan, variables or {})
    most = min(most, cost.MOST)
    if points > most:
        raise QueryTooComplex(
            f"This could cost {points} points; {most} is the most. Ask for smaller pages (`first`), "
            "above all for lists inside lists.",
            cost=points,
        )
    return Priced(prepared, operation, plan, variables or {}, points)


async def run(priced: Priced, context: Context, extensions: dict[str, Any] | None) -> ExecutionResult:
    """The result of a query or mutation; OperationTimedOut."""
    prepared = priced.prepared
    assert prepared.document is not None
    planned = prepared.planned.get(id(priced.operation))
    if planned is None:
        planned = prepared.planned[id(priced.operation)] = Planned.of(prepared.document, priced.operation)
    try:
        result = Executor.run(schema.core, planned, context, priced.variables, extensions)
        if not isinstance(result, ExecutionResult):
            result = await in_time(context, result)
        return cast("ExecutionResult", result)
    finally:
        context.reading.end()


async def in_time(context: Timed, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; OperationTimedOut after DEADLINE, and what it waits on purpose beside that."""
    try:
        async with asyncio.timeout(DEADLINE) as context.deadline:
            return await work
    except TimeoutError:
        if context.deadline is None or not context.deadline.expired():
            raise
        raise OperationTimedOut from None
