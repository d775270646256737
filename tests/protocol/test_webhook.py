"""Signatures against fixed vectors and against the libraries that receivers use; the schedule against its table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import standardwebhooks
import svix.webhooks
from hypothesis import given
from hypothesis import strategies as st

from protocol import webhook
from protocol.webhook import (
    RETRY_AFTER,
    InvalidSecret,
    VerificationFailed,
    next_attempt_in,
    parse_retry_after,
    secret_from,
    sign_legacy,
    sign_standard,
    verify,
    verify_legacy,
)

SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
PREVIOUS = "whsec_" + "/" * 42 + "8="
OLDER = "whsec_" + "B" * 43 + "="
STRANGER = "whsec_" + "A" * 43 + "="
BODY = '{"name":"Zoë Çelik","pin":"0042"}'.encode()
SENT = datetime(2026, 3, 1, 7, 0, 4, tzinfo=UTC)
DELIVERY = UUID("01953c6e-0000-7000-8000-000000000001")


def signed(body: bytes = BODY, *, previous: Sequence[str] = (), sent: datetime = SENT) -> dict[str, str]:
    return webhook.headers(
        event_id="evt_01jn8q0000e000000000000001",
        event_type="punch.created",
        delivery_uuid=DELIVERY,
        attempt=3,
        timestamp=int(sent.timestamp()),
        body=body,
        secret=SECRET,
        previous_secrets=previous,
    )


def test_a_secret_is_whsec_and_the_base64_of_32_bytes() -> None:
    assert secret_from(bytes(range(32))) == SECRET
    assert secret_from(b"\xff" * 32) == PREVIOUS


def test_a_secret_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidSecret, match="32 bytes, not 31"):
        secret_from(bytes(31))


def test_the_plain_signature_is_keyed_with_the_secret_as_text() -> None:
    # printf '{"a":1}' | openssl dgst -sha256 -hmac "$SECRET"
    assert sign_legacy(SECRET, b'{"a":1}') == "d3f1ea16147b8b8d0304fe2a9559b4b4b84d057af19b132191df3378cbd1234a"


def test_the_standard_signature_is_keyed_with_the_bytes_behind_the_base64() -> None:
    # printf 'evt_1.1700000000.{"a":1}' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102…1f -binary | base64
    assert (
        sign_standard(SECRET, "evt_1", 1_700_000_000, b'{"a":1}') == "v1,hUVxIYXs8Zy9GDiZD1uQbBwXoZGMAB6RVLdZZ3ffmek="
    )


@pytest.mark.parametrize("secret", ["plain text", "whsec_", "whsec_not base64!", "whsec_AAA"])
def test_a_secret_in_another_form_signs_nothing(secret: str) -> None:
    with pytest.raises(InvalidSecret):
        sign_standard(secret, "evt_1", 1_700_000_000, b"{}")


def test_an_attempt_carries_exactly_these_headers() -> None:
    assert signed() == {
        "Content-Type": "application/json",
        "X-PunchConnect-Signature": sign_legacy(SECRET, BODY),
        "X-PunchConnect-Signature-Key": "current",
        "X-PunchConnect-Delivery": "01953c6e-0000-7000-8000-000000000001",
        "X-PunchConnect-Event": "punch.created",
        "X-PunchConnect-Attempt": "3",
        "webhook-id": "evt_01jn8q0000e000000000000001",
        "webhook-timestamp": "1772348404",
        "webhook-signature": sign_standard(SECRET, "evt_01jn8q0000e000000000000001", 1_772_348_404, BODY),
    }


def test_during_a_rotation_both_secrets_sign_and_the_single_header_stays_with_the_previous() -> None:
    headers = signed(previous=[PREVIOUS])

    new = sign_standard(SECRET, "evt_01jn8q0000e000000000000001", 1_772_348_404, BODY)
    old = sign_standard(PREVIOUS, "evt_01jn8q0000e000000000000001", 1_772_348_404, BODY)
    assert headers["webhook-signature"] == f"{new} {old}"
    assert headers["X-PunchConnect-Signature"] == sign_legacy(PREVIOUS, BODY)
    assert headers["X-PunchConnect-Signature-Key"] == "previous"


def test_after_two_rotations_three_secrets_sign_and_the_single_header_stays_with_the_oldest() -> None:
    headers = signed(previous=[PREVIOUS, OLDER])

    assert headers["webhook-signature"].split(" ") == [
        sign_standard(secret, "evt_01jn8q0000e000000000000001", 1_772_348_404, BODY)
        for secret in (SECRET, PREVIOUS, OLDER)
    ]
    assert headers["X-PunchConnect-Signature"] == sign_legacy(OLDER, BODY)
    assert headers["X-PunchConnect-Signature-Key"] == "previous"


def by_standardwebhooks(secret: str, headers: dict[str, str], body: bytes) -> None:
    standardwebhooks.Webhook(secret).verify(body, headers)


def by_svix(secret: str, headers: dict[str, str], body: bytes) -> None:
    svix.webhooks.Webhook(secret).verify(body, headers)


def by_us(secret: str, headers: dict[str, str], body: bytes) -> None:
    verify(secret, headers, body, datetime.now(UTC))


Verifier = Callable[[str, dict[str, str], bytes], None]
REFUSALS = (standardwebhooks.WebhookVerificationError, VerificationFailed)
VERIFIERS = pytest.mark.parametrize("accept", [by_standardwebhooks, by_svix, by_us])


@VERIFIERS
@pytest.mark.parametrize("body", [BODY, b"{}", '{"name":"日本語 😀"}'.encode()])
def test_every_library_accepts_the_current_secret(accept: Verifier, body: bytes) -> None:
    accept(SECRET, signed(body, sent=datetime.now(UTC)), body)


@VERIFIERS
@pytest.mark.parametrize("secret", [SECRET, PREVIOUS, OLDER])
def test_every_library_accepts_any_of_the_secrets_during_a_rotation(accept: Verifier, secret: str) -> None:
    accept(secret, signed(previous=[PREVIOUS, OLDER], sent=datetime.now(UTC)), BODY)


@VERIFIERS
def test_every_library_refuses_another_secret(accept: Verifier) -> None:
    headers = signed(previous=[PREVIOUS], sent=datetime.now(UTC))

    with pytest.raises(REFUSALS):
        accept(STRANGER, headers, BODY)


@VERIFIERS
def test_every_library_refuses_a_body_with_one_byte_changed(accept: Verifier) -> None:
    headers = signed(sent=datetime.now(UTC))

    with pytest.raises(REFUSALS):
        accept(SECRET, headers, BODY.replace(b"0042", b"0043"))


@VERIFIERS
def test_every_library_refuses_an_old_request_sent_again(accept: Verifier) -> None:
    headers = signed(sent=datetime.now(UTC) - timedelta(minutes=5, seconds=5))

    with pytest.raises(REFUSALS):
        accept(SECRET, headers, BODY)


def test_verify_takes_several_secrets_and_headers_in_any_case() -> None:
    headers = {name.upper(): value for name, value in signed().items()}

    verify([STRANGER, SECRET], headers, BODY, SENT)
    verify_legacy([STRANGER, SECRET], headers, BODY)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"webhook-id": None}, "The header webhook-id is missing."),
        ({"webhook-timestamp": None}, "The header webhook-timestamp is missing."),
        ({"webhook-signature": None}, "The header webhook-signature is missing."),
        ({"webhook-timestamp": "soon"}, "The header webhook-timestamp is not a number of seconds."),
        ({"webhook-timestamp": "-5"}, "The header webhook-timestamp is not a number of seconds."),
        ({"webhook-timestamp": "9" * 400}, "The header webhook-timestamp is not a number of seconds."),
        ({"webhook-timestamp": "1772348103"}, "The request was signed too long ago."),
        ({"webhook-timestamp": "1772348705"}, "The request was signed too far in the future."),
        ({"webhook-timestamp": "1772348405"}, "No signature matches"),
        ({"webhook-id": "evt_other"}, "No signature matches"),
        ({"webhook-signature": ""}, "No signature matches"),
        ({"webhook-signature": "v1,é"}, "No signature matches"),
    ],
)
def test_verify_says_which_check_failed(changes: dict[str, str | None], why: str) -> None:
    headers = {name: value for name, value in (signed() | changes).items() if value is not None}

    with pytest.raises(VerificationFailed, match=why):
        verify(SECRET, headers, BODY, SENT)


@pytest.mark.parametrize("seconds", [-300, 300])
def test_five_minutes_either_way_still_pass(seconds: int) -> None:
    verify(SECRET, signed(), BODY, SENT + timedelta(seconds=seconds))


def test_the_plain_signature_refuses_another_body_another_secret_and_its_absence() -> None:
    headers = signed()

    with pytest.raises(VerificationFailed, match="does not match"):
        verify_legacy(SECRET, headers, BODY + b" ")
    with pytest.raises(VerificationFailed, match="does not match"):
        verify_legacy(STRANGER, headers, BODY)
    with pytest.raises(VerificationFailed, match="is missing"):
        verify_legacy(SECRET, {}, BODY)


def test_the_schedule_makes_ten_attempts_and_ends() -> None:
    waits = [next_attempt_in(failures, RETRY_AFTER, 0.0) for failures in range(1, 11)]

    seconds = [10, 60, 300, 1800, 7200, 43_200, 86_400, 86_400, 86_400]
    assert waits == [*(timedelta(seconds=s) for s in seconds), None]


def test_nothing_is_retried_before_it_failed() -> None:
    with pytest.raises(ValueError, match="before the first failure"):
        next_attempt_in(0, RETRY_AFTER, 0.0)


@pytest.mark.parametrize(
    ("failures", "jitter", "seconds"),
    [(1, 0.1, 11), (1, -0.1, 11), (2, 0.1, 66), (2, -0.1, 54), (2, 0.5, 66), (2, -0.5, 54), (9, -0.05, 82_080)],
)
def test_jitter_moves_a_wait_by_a_tenth_at_most_and_the_first_only_later(
    failures: int, jitter: float, seconds: int
) -> None:
    assert next_attempt_in(failures, RETRY_AFTER, jitter) == timedelta(seconds=seconds)


@pytest.mark.parametrize(("asked", "seconds"), [(0, 60), (59, 60), (60, 60), (90, 90), (120, 120), (86_400, 120)])
def test_retry_after_is_honoured_between_once_and_twice_the_wait(asked: int, seconds: int) -> None:
    assert next_attempt_in(2, RETRY_AFTER, -0.1, timedelta(seconds=asked)) == timedelta(seconds=seconds)


def test_retry_after_does_not_lengthen_the_schedule() -> None:
    assert next_attempt_in(10, RETRY_AFTER, 0.0, timedelta(seconds=1)) is None


def test_the_delays_are_the_callers() -> None:
    delays = [timedelta(seconds=1)]

    assert next_attempt_in(1, delays, 0.0) == timedelta(seconds=1)
    assert next_attempt_in(2, delays, 0.0) is None


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("120", timedelta(seconds=120)),
        (" 0 ", timedelta(0)),
        ("Sun, 01 Mar 2026 07:01:34 GMT", timedelta(seconds=90)),
        ("Sunday, 01-Mar-26 07:01:34 GMT", timedelta(seconds=90)),
        ("Sun, 01 Mar 2026 07:01:34 -0000", timedelta(seconds=90)),
        ("Sun, 01 Mar 2026 08:01:34 +0100", timedelta(seconds=90)),
        ("Sat, 28 Feb 2026 00:00:00 GMT", timedelta(0)),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("12 s", None),
        ("9999999999", None),
        ("²", None),
        ("Sun, 99 Mar 2026 07:01:34 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_garbage_is_none(value: str | None, wait: timedelta | None) -> None:
    assert parse_retry_after(value, SENT) == wait


@given(st.text())
def test_no_retry_after_makes_the_reader_fail(value: str) -> None:
    wait = parse_retry_after(value, SENT)

    assert wait is None or wait >= timedelta(0)
