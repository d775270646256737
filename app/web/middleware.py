"""What holds for every request: which host names are answered to, and one shape for refusals outside GraphQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from uuid import uuid4

import orjson
import structlog

from app.errors import AppError, doc_url
from app.settings import Network

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = structlog.get_logger(__name__)


class HostNotAllowed(AppError):
    """Somebody's browser was led here under a name that is not ours."""

    code, status = "host_not_allowed", 400


class NotFound(AppError):
    """No such page."""

    code, status = "not_found", 404


class Hosts:
    """The names answered to. None at all means any: then a proxy in front decides."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._any = not allowed
        self._exact = {name for name in allowed if not name.startswith("*.")}
        self._suffixes = tuple(name[1:] for name in allowed if name.startswith("*."))

    def allows(self, scope: Scope) -> bool:
        """Whether the Host header names us; a request without one is old firmware, which has no browser to mislead."""
        if self._any:
            return True
        host = next((value for name, value in scope["headers"] if name == b"host"), None)
        if host is None:
            return True
        name = host.decode("latin-1").lower()
        name = name[: name.index("]") + 1] if name.startswith("[") and "]" in name else name.partition(":")[0]
        return name in self._exact or name.endswith(self._suffixes or "\0")


def source(scope: Scope, trusted: Sequence[Network]) -> str:
    """Where a request comes from: an IPv4 address, or the /64 of an IPv6 one, which is what one household has.

    Of `X-Forwarded-For` only what trusted proxies wrote is believed, from the right.
    """
    peer = (scope.get("client") or ("",))[0]
    named = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
    hops = [*(hop.strip() for hop in named.split(",") if hop.strip()), peer]
    at = hops.pop()
    while hops and _is_in(at, trusted):
        at = hops.pop()
    address = _read_address(at)
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address or "nowhere")


@lru_cache(maxsize=4096)
def _read_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _is_in(text: str, networks: Sequence[Network]) -> bool:
    address = _read_address(text)
    return address is not None and any(address in network for network in networks)


def request_id() -> str:
    """One for each request; in the answer and in every log line about it."""
    return f"req_{uuid4().hex}"


async def refuse(send: Send, error: AppError, public_url: str) -> None:
    """Answer with the shape that errors have outside GraphQL."""
    headers, body = shown(error, public_url)
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def shown(error: AppError, public_url: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers and the body of such an answer."""
    name = request_id()
    body = orjson.dumps(
        {
            "error": {
                "code": error.code,
                "message": error.message,
                "status": error.status,
                "doc_url": doc_url(public_url, error.code),
                "request_id": name,
            }
        }
    )
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", name.encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    return headers, body
