"""GraphQL over HTTP: one operation in, one JSON answer out, whatever went wrong; or events, for who takes them.

Under `application/graphql-response+json` a document that could not be run is a 400; under `application/json` it is a
200, because old clients look no further than the status. What never reached a document (no key, no JSON, too large)
has its real status under both. CORS is open and credentials are not taken: there is no cookie here to steal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from os import urandom
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

import orjson
import structlog
from graphql import ExecutionResult, GraphQLError, OperationType

from app.domain.keys import Actor
from app.errors import AppError, BadRequest, ServiceUnavailable
from app.limits import Allowance, Limiter
from schema import cost, operations, schema
from schema.context import Context
from schema.errors import (
    InternalError,
    MethodNotAllowed,
    NotAcceptable,
    PayloadTooLarge,
    Throttled,
    UnsupportedMediaType,
    ValidationFault,
    present,
    present_refusal,
    refusal,
)
from schema.guards import QueryTooComplex
from schema.operations import Budget
from schema.pipe import WIRE
from schema.sharing import Asked
from schema.streams import COMPLETE, ENDING, EVENT_STREAM, EventStreams, write_next

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Authenticate: TypeAlias = Callable[[str | None], Awaitable[Actor]]
#: (who, request id, Idempotency-Key) -> what its resolvers get
MakeContext: TypeAlias = Callable[[Actor, str, str | None], Context]

log = structlog.get_logger(__name__)

BODY_BOUND: Final = 2**20
RETRY_AFTER_SECONDS: Final = 1
METHODS: Final = "GET, POST, OPTIONS"
JSON: Final = "application/json"
GRAPHQL_JSON: Final = "application/graphql-response+json"

_ALWAYS: Final = {
    "access-control-allow-origin": "*",
    "access-control-expose-headers": (
        "Idempotent-Replayed, RateLimit, RateLimit-Policy, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, "
        "X-RateLimit-Reset, X-Request-Id"
    ),
    "cache-control": "no-store",
    "vary": "Accept",
    "x-content-type-options": "nosniff",
}
_ALWAYS_RAW: Final = [(name.encode(), value.encode()) for name, value in _ALWAYS.items()]
_CONTENT_TYPES: Final = {name: f"{name}; charset=utf-8".encode() for name in (JSON, GRAPHQL_JSON, EVENT_STREAM)}
_NOTHING: Final[dict[str, Any]] = {}
_PREFLIGHT: Final = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": METHODS,
    "access-control-allow-headers": "Accept, Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
    "access-control-max-age": "86400",
    "content-length": "0",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """What a request asks for."""

    query: str
    variables: dict[str, Any] | None = None
    name: str | None = None
    extensions: dict[str, Any] | None = None


@dataclass(slots=True)
class Answer:
    """What goes back."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]
    #: What the request left of the budget; None when nobody knows whose.
    allowance: Allowance | None = None
    #: Whether a document was run, however that went.
    ran: bool = False


@dataclass(slots=True)
class Streaming:
    """A subscription that may begin; its connection is admitted."""

    asked: Asked
    context: Context


class Gone(Exception):
    """The client hung up before it had said everything."""


class GraphQLHttp:
    """An ASGI application for one path."""

    def __init__(
        self,
        authenticate: Authenticate,
        make_context: MakeContext,
        public_url: str,
        budget: Budget | None = None,
        *,
        streams: EventStreams | None = None,
    ) -> None:
        self._authenticate = authenticate
        self._make_context = make_context
        self._public_url = public_url
        self._budget = budget or Budget(Limiter(None, most=20_000, rate=500, largest=cost.MOST))
        self._policy = policy(self._budget.limiter)
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; nothing is ever raised at the server."""
        if scope["method"] == "OPTIONS":
            allowed = _PREFLIGHT | self._limits(None)
            raw = [(name.encode(), value.encode()) for name, value in allowed.items()]
            await send({"type": "http.response.start", "status": 204, "headers": raw})
            await send({"type": "http.response.body", "body": b""})
            return
        request_id = f"req_{urandom(16).hex()}"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        media_type, wrong = JSON, None
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                try:
                    media_type = negotiate(headers.get("accept"))
                except NotAcceptable as exc:
                    wrong = exc
                answer = await self._answer(scope, receive, headers, media_type, request_id, wrong=wrong)
            except Gone:
                return
            except AppError as exc:
                answer = self._refuse(exc, request_id)
            except Exception:
                log.exception("internal_error")
                answer = self._refuse(InternalError("Something broke on our side."), request_id)
            if isinstance(answer, Streaming):
                await self._stream(answer, scope, receive, send)
                return
        body = orjson.dumps(answer.body)
        if media_type == EVENT_STREAM:
            # What was not run has its real status, which an event could not show.
            media_type, body = (EVENT_STREAM, write_next(body) + COMPLETE) if answer.ran else (GRAPHQL_JSON, body)
        own = self._limits(answer.allowance) | answer.headers
        raw = [
            *_ALWAYS_RAW,
            *((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in own.items()),
            (b"x-request-id", request_id.encode()),
            (b"content-type", _CONTENT_TYPES[media_type]),
            (b"content-length", b"%d" % len(body)),
        ]
        wire = scope.get("extensions", _NOTHING).get(WIRE)
        if wire is None or not wire.answer(answer.status, raw, body):
            await send({"type": "http.response.start", "status": answer.status, "headers": raw})
            await send({"type": "http.response.body", "body": body})

    async def _stream(self, streaming: Streaming, scope: Scope, receive: Receive, send: Send) -> None:
        context = streaming.context
        assert self._streams is not None
        head = {**_ALWAYS, **self._limits(context.allowance), "x-request-id": context.request_id}
        await self._streams.stream(context.actor, scope, receive, send).run(streaming.asked, context, head)

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        headers: Mapping[str, str],
        media_type: str,
        request_id: str,
        *,
        wrong: AppError | None,
    ) -> Answer | Streaming:
        """`wrong` is what is to be refused whoever asks; whose budget pays for that is asked all the same."""
        if wrong is None and scope["method"] not in ("GET", "POST"):
            wrong = MethodNotAllowed("GraphQL is spoken by POST, or by GET for queries.")
        try:
            actor = await self._authenticate(headers.get("authorization"))
        except AppError as exc:
            raise wrong or exc from None
        context = self._make_context(actor, request_id, headers.get("idempotency-key"))
        context.stopping = scope.get(ENDING)
        try:
            if wrong is not None:
                raise wrong
            asked = read_query_string(scope) if scope["method"] == "GET" else await _read_body(headers, receive)
            if accepts_events(headers.get("accept")):
                context.last_event_id = headers.get("last-event-id") or None
                streams = self._streams
            else:
                streams = None
            return await self._operate(asked, scope["method"], context, media_type, streams)
        except Throttled as exc:
            refused: AppError = exc
            context.allowance = exc.allowance
        except AppError as exc:
            refused = exc
        if context.allowance is None:  # no mistake is free
            try:
                context.allowance = await self._budget.spend(actor.tenant_id, 1)
            except Throttled as exc:
                refused, context.allowance = exc, exc.allowance
        answer = self._refuse(refused, request_id)
        answer.allowance = context.allowance
        return answer

    async def _operate(
        self, asked: Operation, method: str, context: Context, media_type: str, streams: EventStreams | None
    ) -> Answer | Streaming:
        prepared = schema.documents.prepare(asked.query)
        operation = prepared.operation(asked.name)
        if prepared.errors or operation is None:
            fault = ValidationFault("The document has no such operation, or several and operationName names none.")
            errors = prepared.errors or [GraphQLError(fault.message, original_error=fault)]
            context.allowance = await self._budget.spend(context.actor.tenant_id, 1)
            return self._present(None, errors, context, media_type)
        if operation.operation is OperationType.SUBSCRIPTION and streams is None:
            raise BadRequest(f"Subscriptions go over a WebSocket, or to who accepts {EVENT_STREAM}.")
        if method == "GET" and operation.operation is OperationType.MUTATION:
            raise MethodNotAllowed("Mutations go by POST.")
        try:
            priced = operations.price(prepared, operation, asked.variables, self._budget.limiter.most)
        except QueryTooComplex as exc:
            context.allowance = await self._budget.spend(context.actor.tenant_id, 1)
            return self._present(None, [GraphQLError(exc.message, original_error=exc)], context, media_type)
        await self._budget.pay(context, priced)
        if operation.operation is OperationType.SUBSCRIPTION and streams is not None:
            if streams.held.draining:
                raise ServiceUnavailable("This server is restarting: connect again.")
            if not await streams.held.admit(context.actor):
                raise Throttled(
                    "This API key, or its tenant, holds as many connections as it may.", allowance=context.allowance
                )
            return Streaming(Asked(asked.query, asked.variables, asked.name, asked.extensions), context)
        result: ExecutionResult = await operations.run(priced, context, asked.extensions)
        spent = self._budget.settle(context, priced, result.data)
        return self._present(result.data, result.errors or [], context, media_type, {"cost": spent})

    def _present(
        self,
        data: dict[str, Any] | None,
        errors: list[GraphQLError],
        context: Context,
        media_type: str,
        extensions: dict[str, Any] | None = None,
    ) -> Answer:
        shown = [present(error, request_id=context.request_id, public_url=self._public_url) for error in errors]
        headers = context.response_headers
        if data is None and not any(error.path for error in errors):  # nothing was run
            status = 200 if media_type == JSON else 400
            return Answer(status, {"errors": shown}, headers, context.allowance)
        if errors and not any((data or {}).values()) and all(type(refusal(e)) is ServiceUnavailable for e in errors):
            headers = {**headers, "retry-after": str(RETRY_AFTER_SECONDS)}
            return Answer(ServiceUnavailable.status, {"errors": shown}, headers, context.allowance)
        body: dict[str, Any] = {"errors": shown, "data": data} if shown else {"data": data}
        if extensions:
            body["extensions"] = extensions
        return Answer(200, body, headers, context.allowance, ran=True)

    def _limits(self, allowance: Allowance | None) -> dict[str, str]:
        """Both families of headers. Where nothing was taken from anybody they tell of a whole budget."""
        limit = self._budget.limiter.most if allowance is None else allowance.limit
        remaining = limit if allowance is None else allowance.remaining
        full_in = 0.0 if allowance is None else allowance.full_in
        return {
            "x-ratelimit-limit": str(limit),
            "x-ratelimit-remaining": str(remaining),
            "x-ratelimit-reset": str(math.ceil(time.time() + full_in)),
            "ratelimit-policy": self._policy,
            "ratelimit": f'"points";r={remaining};t={math.ceil(full_in)}',
        }

    def _refuse(self, refused: AppError, request_id: str) -> Answer:
        """Nothing was run, and no document is to blame."""
        headers: dict[str, str] = {}
        if refused.status == 401:
            headers["www-authenticate"] = "Bearer"
        if refused.status == 405:
            headers["allow"] = METHODS
        if refused.status == 503:
            headers["retry-after"] = str(RETRY_AFTER_SECONDS)
        if isinstance(refused, Throttled):
            headers["retry-after"] = str(refused.extensions.get("retryAfter", RETRY_AFTER_SECONDS))
        shown = present_refusal(refused, request_id=request_id, public_url=self._public_url)
        return Answer(refused.status, {"errors": [shown]}, headers)


def policy(limiter: Limiter) -> str:
    """RateLimit-Policy: so many points in the seconds in which they come back."""
    return f'"points";q={limiter.most};w={max(1, math.ceil(limiter.most / limiter.rate))}'


@lru_cache(maxsize=256)
def negotiate(accept: str | None) -> str:
    """The media type to answer with, for an Accept header; NotAcceptable when it wants none of ours.

    A stream of events only where neither JSON will do. Subscriptions have a rule of their own: `accepts_events`.
    """
    if not accept:
        return JSON
    weights = _weigh(accept)
    anything = weights.get("application/*", weights.get("*/*", 0))
    ours = {GRAPHQL_JSON: weights.get(GRAPHQL_JSON, 0), JSON: weights.get(JSON, anything)}
    best = max(ours, key=lambda name: ours[name])
    if ours[best] > 0:
        return best
    if weights.get(EVENT_STREAM, 0) > 0:
        return EVENT_STREAM
    raise NotAcceptable(f"We answer in {GRAPHQL_JSON} or {JSON}, and subscriptions in {EVENT_STREAM}.")


def accepts_events(accept: str | None) -> bool:
    """Whether an Accept header names the stream of events."""
    return accept is not None and EVENT_STREAM in accept.lower() and _weigh(accept).get(EVENT_STREAM, 0) > 0


@lru_cache(maxsize=256)
def _weigh(accept: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for entry in accept.lower().split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        try:
            weights[name] = float(weight)
        except ValueError:
            weights[name] = 0
    return weights


def read_query_string(scope: Scope) -> Operation:
    """The operation of a GET."""
    try:
        given = dict(parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict"))
    except ValueError:
        raise BadRequest("The query string is not UTF-8, percent-encoded.") from None
    decoded: dict[str, Any] = dict(given)
    for name in ("variables", "extensions"):
        if given.get(name):
            decoded[name] = _read_json(given[name].encode())
        else:
            decoded.pop(name, None)
    decoded["operationName"] = given.get("operationName") or None
    return read_operation(decoded)


def read_operation(given: Any) -> Operation:
    """The members of a request, checked for their types."""
    if isinstance(given, list):
        raise BadRequest("Operations are not taken in batches: send one at a time.")
    if not isinstance(given, dict):
        raise BadRequest("A GraphQL request is a JSON object.")
    query = given.get("query")
    if not isinstance(query, str) or not query.strip():
        raise BadRequest("A GraphQL request has its document as a text in `query`.")
    name = given.get("operationName")
    if not isinstance(name, str | None):
        raise BadRequest("`operationName` is a text.")
    for member in ("variables", "extensions"):
        if not isinstance(given.get(member), dict | None):
            raise BadRequest(f"`{member}` is an object.")
    return Operation(query, given.get("variables"), name, given.get("extensions"))


async def _read_body(headers: Mapping[str, str], receive: Receive) -> Operation:
    media_type, *parameters = (part.strip().lower() for part in headers.get("content-type", "").split(";"))
    charset = next((part[8:].strip('"') for part in parameters if part.startswith("charset=")), "utf-8")
    if media_type != JSON or charset not in ("utf-8", "utf8"):
        raise UnsupportedMediaType(f"Send the request as {JSON} in UTF-8.")
    too_large = PayloadTooLarge(f"A request has at most {BODY_BOUND} bytes.")
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length) > BODY_BOUND:
        raise too_large
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        if len(body) > BODY_BOUND:
            raise too_large
        more = message.get("more_body", False)
    return read_operation(_read_json(bytes(body)))


def _read_json(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        raise BadRequest("The request is not valid JSON.") from None
