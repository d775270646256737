"""One operation from its first result to its last, on any streaming transport: alone, and with others once it can."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

import orjson
import strawberry
from graphql import ExecutionResult as CoreResult
from graphql import GraphQLError
from strawberry.types.execution import ExecutionResult, PreExecutionError

from app.domain.keys import Actor
from app.errors import ServiceUnavailable
from schema import Schema, operations
from schema.errors import present, refusal
from schema.sharing import Asked, Groups, Live, Member


class Operating(Protocol):
    """What we use of an operation's context: schema.context.Context."""

    request_id: str
    unsent: bool | None
    resume: int | None
    cursor: str | None
    live: Live | None
    deadline: asyncio.Timeout | None

    def refresh(self) -> None:
        """Forget what was loaded."""


#: (document, operation name, variables, context): takes what an operation costs, or raises its refusal. What it answers
#: turns the data of a query or mutation into the `extensions` of its answer.
Toll = Callable[
    [str, str | None, dict[str, Any] | None, Any], Awaitable[Callable[[dict[str, Any] | None], dict[str, Any]]]
]


class OperationFailed(Exception):
    """Nothing (more) to show but these errors."""

    def __init__(self, errors: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.errors = errors


class Outlet(Protocol):
    """Where results go."""

    async def put(self, payload: bytes, cursor: str | None) -> None:
        """A result as JSON, and the cursor that it leads to. Waits while there is no room."""

    def member(self, position: int) -> Member:
        """Somebody who takes the results of a group for it."""


class Runner:
    """All streamed operations of one process."""

    def __init__(
        self,
        schema: strawberry.Schema,
        make_context: Callable[[Actor], Operating],
        *,
        public_url: str,
        toll: Toll | None = None,
    ) -> None:
        self._schema = schema
        self._make_context = make_context
        self._public_url = public_url
        self._toll = toll
        self.groups = Groups(schema, make_context, self.encode)

    def context(self, actor: Actor) -> Operating:
        """For a new operation."""
        return self._make_context(actor)

    async def run(self, asked: Asked, actor: Actor, context: Operating, outlet: Outlet, *, paid: bool = False) -> None:
        """Send every result. Raises OperationFailed with what is to be shown instead of (further) results.

        `paid`: somebody took the price already.
        """
        try:
            while (member := await self._alone(asked, actor, context, outlet, paid=paid)) is not None:
                await member.out
                paid = True
                context = self._make_context(actor)
                context.resume = member.position
        except OperationFailed:
            raise
        except Exception as exc:  # ours: the client learns the request id, the log the rest
            raise OperationFailed(self.present([GraphQLError("", original_error=exc)], context)) from exc

    async def _alone(
        self, asked: Asked, actor: Actor, context: Operating, outlet: Outlet, *, paid: bool
    ) -> Member | None:
        """Until it has joined others, or ended."""
        async with aclosing(self._results(asked, context, paid=paid)) as payloads:
            async for payload in payloads:
                await outlet.put(payload, context.cursor)
                if context.live is not None:
                    member = self.groups.join(asked, actor, context.live, outlet.member)
                    if member is not None:
                        return member
        return None

    async def _results(self, asked: Asked, context: Operating, *, paid: bool) -> AsyncGenerator[bytes]:
        query = asked.query or " "  # an empty document is a mistake in the document
        settle = None
        if self._toll is not None and not paid:
            settle = await self._toll(query, asked.operation_name, asked.variables, context)
        async with aclosing(self._executed(query, asked, context)) as results:
            async for result in results:
                if not isinstance(result, ExecutionResult):
                    raise TypeError("Results do not come in parts here.")
                if result.errors:
                    if context.unsent is False and any(map(_is_away, result.errors)):
                        context.unsent = True  # whoever streams gives it again
                        continue
                    if result.data is None or isinstance(result, PreExecutionError):
                        raise OperationFailed(self.present(result.errors, context))
                if settle is not None and (told := settle(result.data)):
                    result.extensions = {**(result.extensions or {}), **told}
                yield self.encode(result, context)

    async def _executed(self, query: str, asked: Asked, context: Operating) -> AsyncGenerator[Any]:
        stream = partial(
            self._schema.stream,
            query,
            variable_values=asked.variables,
            context_value=context,
            operation_name=asked.operation_name,
            operation_extensions=asked.extensions,
        )
        schema = self._schema
        if not isinstance(schema, Schema) or schema.documents.prepare(query).follows(asked.operation_name):
            async with aclosing(await stream()) as results:
                async for result in results:
                    yield result
            return
        # A query or mutation has one result, and as long for it as over HTTP, however slowly the client reads.
        for result in await operations.in_time(context, _all(stream)):
            yield result

    def encode(self, result: ExecutionResult | CoreResult, context: Operating) -> bytes:
        """A result as JSON."""
        payload: dict[str, Any] = {"data": result.data}
        if result.errors:
            payload["errors"] = self.present(result.errors, context)
        if result.extensions:
            payload["extensions"] = result.extensions
        return orjson.dumps(payload)

    def present(self, errors: Sequence[GraphQLError], context: Operating) -> list[dict[str, Any]]:
        """Errors as a client may see them."""
        return [present(error, request_id=context.request_id, public_url=self._public_url) for error in errors]


async def _all(stream: Callable[[], Awaitable[AsyncGenerator[Any]]]) -> list[Any]:
    async with aclosing(await stream()) as results:
        return [result async for result in results]


def _is_away(error: GraphQLError) -> bool:
    return isinstance(refusal(error), ServiceUnavailable)
