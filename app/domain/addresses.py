"""Which addresses a webhook may reach: an explicit list, since Python's `is_global` lets 6to4, NAT64 and multicast by.

An address is judged in every form it has: the one that is dialled, and the IPv4 one that a gateway would find inside
it. Each has to be public, or inside a network that the operator allowed. Names are not looked up here: the worker
judges what they resolve to, at the moment it dials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final
from urllib.parse import urlsplit

from app.errors import AppError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL: Final = 2048

_FORBIDDEN_V4: Final[dict[IPv4Network, str]] = {
    IPv4Network(network): what
    for network, what in {
        "0.0.0.0/8": "this network",
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "shared by a carrier's customers",
        "127.0.0.0/8": "loopback",
        "168.63.129.16/32": "a cloud's metadata service",
        "169.254.0.0/16": "link-local or a cloud's metadata service",
        "172.16.0.0/12": "private",
        "192.0.0.0/24": "protocol assignments",
        "192.0.2.0/24": "documentation",
        "192.88.99.0/24": "6to4 relays",
        "192.168.0.0/16": "private",
        "198.18.0.0/15": "benchmarking",
        "198.51.100.0/24": "documentation",
        "203.0.113.0/24": "documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved or broadcast",
    }.items()
}

# The first match names the reason, so what lies inside a wider range comes before it.
_FORBIDDEN_V6: Final[dict[IPv6Network, str]] = {
    IPv6Network(network): what
    for network, what in {
        "::1/128": "loopback",
        "::/128": "unspecified",
        "::ffff:0:0/96": "IPv4-mapped",
        "::ffff:0:0:0/96": "IPv4-translated",
        "::/96": "IPv4-compatible",
        "64:ff9b::/96": "NAT64",
        "64:ff9b:1::/48": "local NAT64",
        "100::/64": "discard",
        "2001::/32": "Teredo",
        "2001:2::/48": "benchmarking",
        "2001::/23": "protocol assignments",
        "2001:db8::/32": "documentation",
        "2002::/16": "6to4",
        "3ffe::/16": "returned by the 6bone",
        "3fff::/20": "documentation",
        "fc00::/7": "private",
        "fe80::/10": "link-local",
        "fec0::/10": "site-local",
        "ff00::/8": "multicast",
        # Global unicast is 2000::/3; these three are all the rest.
        "::/3": "not global unicast",
        "4000::/2": "not global unicast",
        "8000::/1": "not global unicast",
    }.items()
}

_V4_INSIDE: Final = tuple(IPv6Network(n) for n in ("::ffff:0:0/96", "::ffff:0:0:0/96", "::/96", "64:ff9b::/96"))
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")


class WebhookUrlForbidden(AppError):
    """Not a URL that webhooks are sent to."""

    code, status = "webhook_url_forbidden", 400

    def __init__(self, why: str) -> None:
        super().__init__(why, path=("input", "url"))


class AddressGuard:
    """Says which addresses may be dialled: public ones, and those in `allow`, whatever they are."""

    def __init__(self, allow: Iterable[Network] = ()) -> None:
        self.allow = tuple(allow)

    def refusal(self, address: str | Address) -> str | None:
        """Why `address` may not be dialled, e.g. "private"; None when it may. What is no IP address is refused."""
        try:
            found = ip_address(address.partition("%")[0]) if isinstance(address, str) else address
        except ValueError:
            return "not an IP address"
        for form in (found, *embedded(found)):
            if any(form in network for network in self.allow):
                continue
            if isinstance(form, IPv4Address):
                why = next((what for network, what in _FORBIDDEN_V4.items() if form in network), None)
            else:
                why = next((what for network, what in _FORBIDDEN_V6.items() if form in network), None)
            if why is not None:
                return why
        return None

    def allows(self, address: str | Address) -> bool:
        """Whether `address` may be dialled."""
        return self.refusal(address) is None


def embedded(address: Address) -> list[IPv4Address]:
    """The IPv4 addresses that gateways read out of an IPv6 address; empty for a plain one."""
    if isinstance(address, IPv4Address) or int(address) < 2:  # :: and ::1 are themselves, not IPv4 0.0.0.0 and 0.0.0.1
        return []
    if any(address in network for network in _V4_INSIDE):
        return [IPv4Address(int(address) & 0xFFFF_FFFF)]
    if address in _LOCAL_NAT64:
        # RFC 6052: after a prefix of 48, 56 or 64 bits, around byte 8, which is zero; after one of 96 bits, at the end.
        raw = address.packed
        around = raw[6:8] + raw[9:13]
        return [IPv4Address(around[start : start + 4]) for start in range(3)] + [IPv4Address(raw[12:])]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return list(address.teredo)
    return []


def check_url(url: str, *, allow_http: bool, guard: AddressGuard) -> None:
    """Refuse, with WebhookUrlForbidden, a URL that could never be delivered to. Host names are not resolved."""
    if len(url) > LONGEST_URL:
        raise WebhookUrlForbidden(f"The URL is longer than {LONGEST_URL} characters.")
    # Programs disagree about what lies outside this alphabet, and a URL that two of them read differently is a way in.
    if not re.fullmatch(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+", url):
        raise WebhookUrlForbidden(
            "The URL has a character that needs encoding: write the host in punycode and the rest percent-encoded."
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise WebhookUrlForbidden("The URL cannot be read: the host or the port is malformed.") from None
    if parts.scheme != "https" and not (allow_http and parts.scheme == "http"):
        raise WebhookUrlForbidden("The URL has to begin with https://.")
    if "@" in parts.netloc:
        raise WebhookUrlForbidden("The URL carries a user name or password; receivers check the signature instead.")
    if "#" in url:
        raise WebhookUrlForbidden("The URL has a fragment, which is never sent.")
    if not host:
        raise WebhookUrlForbidden("The URL has no host.")
    if port is not None and port not in (80, 443) and port < 1024:
        raise WebhookUrlForbidden(f"Port {port} belongs to another service: use 80, 443 or one from 1024 up.")
    _check_host(parts.netloc, host, guard)


def _check_host(netloc: str, host: str, guard: AddressGuard) -> None:
    """A literal address is judged; a name only has to look like one."""
    literal: Address
    name = host.removesuffix(".")
    last_label = name.rpartition(".")[2]
    if netloc.startswith("["):
        try:
            literal = IPv6Address(host)
        except AddressValueError:
            raise WebhookUrlForbidden("The brackets do not hold an IPv6 address.") from None
        if literal.scope_id is not None:
            raise WebhookUrlForbidden("An address with a zone works on one machine only.")
    # Resolvers take 127.1, 0x7f000001 and 2130706433 for addresses; only the spelling that shows what it is passes.
    elif re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]*", last_label):
        try:
            literal = IPv4Address(host)
        except AddressValueError:
            raise WebhookUrlForbidden("Write an IPv4 address as four decimal numbers.") from None
    elif last_label == "localhost":
        literal = IPv4Address("127.0.0.1")
    elif len(name) <= 253 and all(re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", x) for x in name.split(".")):
        return
    else:
        raise WebhookUrlForbidden("The host is not a valid name.")
    if (why := guard.refusal(literal)) is not None:
        raise WebhookUrlForbidden(f"Webhooks go to public addresses only, and {host} is not one ({why}).")
