"""Our errors as a client sees them: `extensions {code, status, docUrl, requestId, retryable}`. The rest stays inside.

A refusal that the caller can act on keeps its sentence. Everything else is `internal_error` with the request id under
which the log has the story. One function, `present`, shapes them for every transport.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import structlog
from graphql import GraphQLError, GraphQLSyntaxError
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError

from app.errors import AppError, BadRequest, RateLimited, doc_url
from app.limits import Allowance
from schema.guards import QueryTooComplex

log = structlog.get_logger(__name__)


class SyntaxFault(AppError):
    """The document is not GraphQL."""

    code, status = "graphql_syntax_error", 400


class ValidationFault(AppError):
    """The document does not fit the schema."""

    code, status = "graphql_validation_failed", 400


class MethodNotAllowed(AppError):
    """Queries go by GET or POST, mutations by POST, subscriptions over a socket."""

    code, status = "method_not_allowed", 405


class NotAcceptable(AppError):
    """We answer in JSON."""

    code, status = "not_acceptable", 406


class PayloadTooLarge(AppError):
    """The body is over its bound."""

    code, status = "payload_too_large", 413


class UnsupportedMediaType(AppError):
    """We read JSON."""

    code, status = "unsupported_media_type", 415


class Throttled(RateLimited):
    """More points, or more connections, than the tenant may have."""

    def __init__(self, message: str, *, allowance: Allowance | None = None, **extensions: Any) -> None:
        super().__init__(message, **extensions)
        self.allowance = allowance


class InternalError(AppError):
    """Ours, not the caller's."""

    code, status = "internal_error", 500


def registry() -> dict[str, type[AppError]]:
    """Every code and the class behind it. Complete once the application is imported."""

    def below(kind: type[AppError]) -> Iterable[type[AppError]]:
        for child in kind.__subclasses__():
            yield child
            yield from below(child)

    kinds: list[type[AppError]] = [*below(AppError)]
    return {kind.code: kind for kind in kinds}


def refusal(error: GraphQLError) -> AppError:
    """The refusal behind a GraphQL error; an InternalError when there is none to show."""
    cause: BaseException | None = error
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    if isinstance(cause, AppError):
        return cause
    if isinstance(cause, GraphQLSyntaxError):
        # What is too long or too deep for the parser comes as a syntax error, too.
        fault = QueryTooComplex if "Parsing aborted" in cause.message else SyntaxFault
        return fault(cause.message)
    if isinstance(cause, InvalidOperationTypeError | CannotGetOperationTypeError):
        return BadRequest(error.message)
    if not error.path and isinstance(cause, GraphQLError):
        return ValidationFault(error.message)
    return InternalError("Something broke on our side. The request id finds it in our log.")


def explain(refused: AppError, *, request_id: str, public_url: str) -> dict[str, Any]:
    """The `extensions` of a refusal."""
    return {
        "code": refused.code,
        "status": refused.status,
        "docUrl": doc_url(public_url, refused.code),
        "requestId": request_id,
        "retryable": refused.retryable,
        **refused.extensions,
    }


def present(error: GraphQLError, *, request_id: str, public_url: str) -> dict[str, Any]:
    """One entry of `errors`, for HTTP, sockets and streams alike. What must not be shown is logged instead."""
    refused = refusal(error)
    if type(refused) is InternalError:
        cause = error.original_error or error
        log.error("internal_error", request_id=request_id, path=error.path, exc_info=cause)
    shown: dict[str, Any] = {"message": refused.message}
    if error.locations:
        shown["locations"] = [{"line": place.line, "column": place.column} for place in error.locations]
    if error.path:
        shown["path"] = error.path
    shown["extensions"] = explain(refused, request_id=request_id, public_url=public_url)
    return shown


def present_refusal(refused: AppError, *, request_id: str, public_url: str) -> dict[str, Any]:
    """One entry of `errors` for what was refused before anything was read, e.g. a bad key."""
    return {
        "message": refused.message,
        "extensions": explain(refused, request_id=request_id, public_url=public_url),
    }
