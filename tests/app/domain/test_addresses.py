"""Which addresses and URLs webhooks may go to, spelling by spelling."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.addresses import AddressGuard, WebhookUrlForbidden, check_url, embedded

STRICT = AddressGuard()
LOOPBACK = AddressGuard([ip_network("127.0.0.0/8"), ip_network("::1/128")])

FORBIDDEN = [
    ("0.0.0.0", "this network"),  # noqa: S104 - an address to refuse, not to bind
    ("0.1.2.3", "this network"),
    ("10.0.0.1", "private"),
    ("10.255.255.255", "private"),
    ("100.64.0.1", "shared by a carrier's customers"),
    ("100.100.100.200", "shared by a carrier's customers"),  # Alibaba's metadata
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("168.63.129.16", "a cloud's metadata service"),  # Azure's, in public space
    ("169.254.0.1", "link-local or a cloud's metadata service"),
    ("169.254.169.254", "link-local or a cloud's metadata service"),
    ("172.16.0.1", "private"),
    ("172.31.255.255", "private"),
    ("192.0.0.8", "protocol assignments"),
    ("192.0.0.192", "protocol assignments"),  # Oracle's metadata
    ("192.0.2.1", "documentation"),
    ("192.88.99.1", "6to4 relays"),
    ("192.168.1.1", "private"),
    ("198.18.0.1", "benchmarking"),
    ("198.19.255.255", "benchmarking"),
    ("198.51.100.1", "documentation"),
    ("203.0.113.1", "documentation"),
    ("224.0.0.1", "multicast"),
    ("239.255.255.250", "multicast"),
    ("240.0.0.1", "reserved or broadcast"),
    ("255.255.255.255", "reserved or broadcast"),
    ("::", "unspecified"),
    ("::1", "loopback"),
    ("::127.0.0.1", "IPv4-compatible"),
    ("::ffff:127.0.0.1", "IPv4-mapped"),
    ("::ffff:7f00:1", "IPv4-mapped"),
    ("::ffff:8.8.8.8", "IPv4-mapped"),
    ("::ffff:0:127.0.0.1", "IPv4-translated"),
    ("64:ff9b::10.0.0.1", "NAT64"),
    ("64:ff9b::8.8.8.8", "NAT64"),
    ("64:ff9b:1::169.254.169.254", "local NAT64"),
    ("100::1", "discard"),
    ("2001::1", "Teredo"),
    ("2001:2::1", "benchmarking"),
    ("2001:10::1", "protocol assignments"),
    ("2001:20::1", "protocol assignments"),
    ("2001:db8::1", "documentation"),
    ("2002:7f00:1::", "6to4"),
    ("2002:808:808::1", "6to4"),
    ("3ffe::1", "returned by the 6bone"),
    ("3fff::1", "documentation"),
    ("5f00::1", "not global unicast"),
    ("fc00::1", "private"),
    ("fd00:ec2::254", "private"),  # Amazon's metadata
    ("fe80::1", "link-local"),
    ("fe80::1%eth0", "link-local"),
    ("fec0::1", "site-local"),
    ("ff02::1", "multicast"),
]

PUBLIC = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2001:db7:ffff::1",
    "2003::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:81b::200e",
    "3ffd::1",
    "3fff:1000::1",
]


@pytest.mark.parametrize(("address", "why"), FORBIDDEN)
def test_an_address_that_is_not_public_is_refused_with_its_reason(address: str, why: str) -> None:
    assert STRICT.refusal(address) == why
    assert not STRICT.allows(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_passes_right_up_to_its_forbidden_neighbour(address: str) -> None:
    assert STRICT.refusal(address) is None


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "2130706433", "0x7f000001", "①②⑦.0.0.1", "1.1.1.1/32"])
def test_what_is_no_address_is_refused(text: str) -> None:
    assert STRICT.refusal(text) == "not an IP address"


@given(st.ip_addresses(v=6).filter(lambda address: int(address) >> 125 != 1))
def test_nothing_outside_global_unicast_passes(address: object) -> None:
    assert not STRICT.allows(str(address))


@given(st.ip_addresses())
def test_nothing_that_python_calls_private_passes(address: object) -> None:
    found = ip_address(str(address))
    if found.is_private or found.is_multicast or found.is_reserved:
        assert not STRICT.allows(found)


def test_a_network_that_the_operator_allows_passes_and_nothing_beside_it() -> None:
    guard = AddressGuard([ip_network("10.1.0.0/16")])

    assert guard.allows("10.1.2.3")
    assert not guard.allows("10.2.0.1")
    assert not guard.allows("127.0.0.1")


@pytest.mark.parametrize(
    ("network", "address", "allowed"),
    [
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.0/8", "::ffff:127.0.0.1", False),
        ("127.0.0.0/8", "::1", False),
        ("::1/128", "::1", True),
        ("::1/128", "::", False),
        ("64:ff9b::/96", "64:ff9b::8.8.8.8", True),
        ("64:ff9b::/96", "64:ff9b::10.0.0.1", False),
        ("::ffff:0:0/96", "::ffff:8.8.8.8", True),
        ("::ffff:0:0/96", "::ffff:169.254.169.254", False),
        ("2002::/16", "2002:808:808::1", True),
        ("2002::/16", "2002:a00:1::1", False),
        ("2001::/32", "2001:0:808:808:0:0:f7f7:f7f7", True),
        ("2001::/32", "2001:0:808:808:0:0:80ff:fffe", False),
        ("64:ff9b:1::/48", "64:ff9b:1:808:8:800::", False),  # what /96 would read there is 0.0.0.0
        ("64:ff9b:1::/48", "64:ff9b:1::10.0.0.1", False),
    ],
)
def test_allowing_a_gateway_does_not_allow_what_lies_behind_it(network: str, address: str, allowed: bool) -> None:
    assert AddressGuard([ip_network(network)]).allows(address) is allowed


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("8.8.8.8", []),
        ("::1", []),
        ("2606:4700:4700::1111", []),
        ("::ffff:10.0.0.1", ["10.0.0.1"]),
        ("::10.0.0.1", ["10.0.0.1"]),
        ("64:ff9b::10.0.0.1", ["10.0.0.1"]),
        ("64:ff9b:1:a01:2:300::", ["10.1.2.3", "1.2.3.0", "2.3.0.0", "0.0.0.0"]),  # noqa: S104
        ("2002:a00:1::1", ["10.0.0.1"]),
        ("2001:0:808:808:0:0:f5ff:fffe", ["8.8.8.8", "10.0.0.1"]),
    ],
)
def test_the_ipv4_address_inside_an_ipv6_one_is_found(address: str, inside: list[str]) -> None:
    assert embedded(ip_address(address)) == [IPv4Address(text) for text in inside]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/hooks/punch?token=a%20b&x=1",
        "HTTPS://Example.COM:443/",
        "https://example.com:8443/x",
        "https://example.com./x",
        "https://xn--nxasmq6b.example/x",
        "https://a_b-c.example/x",
        "https://1.1.1.1/x",
        "https://[2606:4700:4700::1111]:8443/x",
        "https://0x1f.example/x",
        "https://example.com/" + "a" * 2028,
    ],
)
def test_a_url_with_a_name_or_a_public_address_passes(url: str) -> None:
    check_url(url, allow_http=False, guard=STRICT)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://example.com/" + "a" * 2029, "longer than 2048"),
        ("", "needs encoding"),
        ("https://exa mple.com/", "needs encoding"),
        ("https://example.com/\x00", "needs encoding"),
        ("https://example.com/\r\nHost: inner", "needs encoding"),
        ("https://example.com\\@10.0.0.1/", "needs encoding"),
        ("https://zoë.example/", "needs encoding"),
        ("https://①②⑦.0.0.1/", "needs encoding"),
        ("https://example。com/", "needs encoding"),
        ("https://[::1/", "cannot be read"),
        ("https://example.com:99999/", "cannot be read"),
        ("https://example.com:x/", "cannot be read"),
        ("example.com/x", "begin with https"),
        ("//example.com/x", "begin with https"),
        ("http://example.com/", "begin with https"),
        ("ftp://example.com/", "begin with https"),
        ("file:///etc/passwd", "begin with https"),
        ("https://user:secret@example.com/", "user name or password"),
        ("https://example.com@10.0.0.1/", "user name or password"),
        ("https://@example.com/", "user name or password"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com/#", "fragment"),
        ("https:///x", "no host"),
        ("https://:443/x", "no host"),
        ("https:example.com", "no host"),
        ("https://example.com:25/", "Port 25"),
        ("https://example.com:0/", "Port 0"),
        ("https://127.0.0.1/", "127.0.0.1 is not one (loopback)"),
        ("https://10.0.0.1:8443/", "10.0.0.1 is not one (private)"),
        ("https://169.254.169.254/latest/meta-data/", "link-local"),
        ("https://[::1]/", "::1 is not one (loopback)"),
        ("https://[::ffff:127.0.0.1]/", "IPv4-mapped"),
        ("https://[64:ff9b::a00:1]/", "NAT64"),
        ("https://[fe80::1%25eth0]/", "zone"),
        ("https://[fe80::1%eth0]/", "zone"),
        ("https://[v1.a]/", "brackets"),
        ("https://localhost/", "localhost is not one (loopback)"),
        ("https://LOCALHOST./", "loopback"),
        ("https://api.localhost/", "loopback"),
        ("https://2130706433/", "four decimal numbers"),
        ("https://0x7f000001/", "four decimal numbers"),
        ("https://0x7f.0.0.0x1/", "four decimal numbers"),
        ("https://017700000001/", "four decimal numbers"),
        ("https://0177.0.0.1/", "four decimal numbers"),
        ("https://127.1/", "four decimal numbers"),
        ("https://0/", "four decimal numbers"),
        ("https://127.0.0.1./", "four decimal numbers"),
        ("https://1.1.1.256/", "four decimal numbers"),
        ("https://example..com/", "not a valid name"),
        ("https://-a.example/", "not a valid name"),
        ("https://" + "a" * 64 + ".example/", "not a valid name"),
        ("https://" + "a." * 127 + "example/", "not a valid name"),
        ("https://exam%70le.com/", "not a valid name"),
        ("https://a[::1]/", "not a valid name"),
    ],
)
def test_a_url_that_could_not_be_delivered_to_is_refused(url: str, why: str) -> None:
    with pytest.raises(WebhookUrlForbidden) as refused:
        check_url(url, allow_http=False, guard=STRICT)

    assert why in refused.value.message
    assert (refused.value.code, refused.value.status) == ("webhook_url_forbidden", 400)
    assert refused.value.path == ("input", "url")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/x", "http://[::1]:8000/", "http://localhost:8000/", "https://127.9.9.9/"]
)
def test_loopback_over_http_passes_where_the_operator_allows_both(url: str) -> None:
    check_url(url, allow_http=True, guard=LOOPBACK)


def test_allowing_loopback_does_not_allow_its_disguises() -> None:
    for url in ("http://2130706433/", "http://127.1/", "http://0x7f000001/", "http://[::ffff:127.0.0.1]/"):
        with pytest.raises(WebhookUrlForbidden):
            check_url(url, allow_http=True, guard=LOOPBACK)


@given(st.text(max_size=60), st.sampled_from(["", "https://", "https://[", "https://a:"]))
def test_no_text_makes_the_check_fail_in_any_other_way(text: str, start: str) -> None:
    with suppress(WebhookUrlForbidden):
        check_url(start + text, allow_http=False, guard=STRICT)
