"""What every refusal has in common: a stable code, a status, a sentence that says what to do, and a page."""

from __future__ import annotations

from typing import Any, ClassVar


class AppError(Exception):
    """A refusal that the caller can act on. Subclasses live beside their noun and set `code` and `status`."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, path: tuple[str, ...] = (), **extensions: Any) -> None:
        super().__init__(message)
        self.message = message
        #: Where in the input, e.g. ("input", "timeZone"); empty when no single field is to blame.
        self.path = path
        #: Facts for programs, e.g. the oldest valid cursor; shown in `extensions` beside the code.
        self.extensions = extensions


class BadRequest(AppError):
    """Not a GraphQL request (no query, not an object, a batch), or no HTTP at all."""

    code, status = "bad_request", 400


class InvalidInput(AppError):
    """A value has the right type and is still not acceptable."""

    code, status = "invalid_input", 400


class ServiceUnavailable(AppError):
    """Our trouble, and passing: the same request may be sent again."""

    code, status, retryable = "service_unavailable", 503, True


class RateLimited(AppError):
    """Too much at once or in a while: a tenant's points, a socket's operations, a key's pages, an address's trials."""

    code, status, retryable = "rate_limited", 429, True


def doc_url(public_url: str, code: str) -> str:
    """The page that explains `code`."""
    return f"{public_url.rstrip('/')}/docs/errors/{code}"
