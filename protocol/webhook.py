"""Webhooks on the wire: the secret, the two signatures, the headers, and when to try again.

Every request is signed twice over the same bytes. X-PunchConnect-Signature takes the secret as text, so that three
lines of any language can check it; the Standard Webhooks trio takes it as base64, so that ready-made libraries can.
The customer copies one string for both. Bodies are made elsewhere, once, and only passed through here.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from uuid import UUID

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the label in front of every secret
SECRET_BYTES: Final = 32

CONTENT_TYPE: Final = "Content-Type"
SIGNATURE: Final = "X-PunchConnect-Signature"
SIGNATURE_KEY: Final = "X-PunchConnect-Signature-Key"
DELIVERY: Final = "X-PunchConnect-Delivery"
EVENT: Final = "X-PunchConnect-Event"
ATTEMPT: Final = "X-PunchConnect-Attempt"
STANDARD_ID: Final = "webhook-id"
STANDARD_TIMESTAMP: Final = "webhook-timestamp"
STANDARD_SIGNATURE: Final = "webhook-signature"

#: What the Standard Webhooks libraries accept between our clock and the receiver's.
TOLERANCE: Final = timedelta(minutes=5)


class InvalidSecret(ValueError):
    """Not `whsec_` and base64."""


class VerificationFailed(ValueError):
    """The request was not signed with any of these secrets, or not now. The text says which check failed."""


# Secrets


def secret_from(random: bytes) -> str:
    """The secret as the customer copies it: `whsec_` and the base64 of 32 random bytes."""
    if len(random) != SECRET_BYTES:
        raise InvalidSecret(f"A secret is made of {SECRET_BYTES} bytes, not {len(random)}.")
    return SECRET_PREFIX + base64.b64encode(random).decode()


def _key(secret: str) -> bytes:
    """The bytes that Standard Webhooks signs with."""
    if not secret.startswith(SECRET_PREFIX):
        raise InvalidSecret(f"A secret begins with {SECRET_PREFIX}.")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise InvalidSecret(f"A secret is base64 after {SECRET_PREFIX}.") from None
    if not key:
        raise InvalidSecret("The secret is empty.")
    return key


# Signing


def sign_legacy(secret: str, body: bytes) -> str:
    """X-PunchConnect-Signature: hex HMAC-SHA256 of the body, keyed with the secret's text, prefix included."""
    return hmac.digest(secret.encode(), body, "sha256").hex()


def sign_standard(secret: str, msg_id: str, timestamp: int, body: bytes) -> str:
    """One item of webhook-signature: `v1,` and the base64 HMAC-SHA256 of `id.timestamp.body`. Seconds since 1970."""
    signed = b".".join((msg_id.encode(), b"%d" % timestamp, body))
    return "v1," + base64.b64encode(hmac.digest(_key(secret), signed, "sha256")).decode()


def headers(
    *,
    event_id: str,
    event_type: str,
    delivery_uuid: UUID,
    attempt: int,
    timestamp: int,
    body: bytes,
    secret: str,
    previous_secrets: Sequence[str] = (),
) -> dict[str, str]:
    """The headers of one attempt. `timestamp` is the moment of sending, in seconds since 1970, not that of the event.

    `previous_secrets` are those whose grace lasts, the latest first. webhook-signature carries a signature with each;
    the single-valued header stays with the oldest, because a receiver that has not been changed yet knows only that.
    """
    secrets = [secret, *previous_secrets]
    return {
        CONTENT_TYPE: "application/json",
        SIGNATURE: sign_legacy(secrets[-1], body),
        SIGNATURE_KEY: "previous" if previous_secrets else "current",
        DELIVERY: str(delivery_uuid),
        EVENT: event_type,
        ATTEMPT: str(attempt),
        STANDARD_ID: event_id,
        STANDARD_TIMESTAMP: str(timestamp),
        STANDARD_SIGNATURE: " ".join(sign_standard(each, event_id, timestamp, body) for each in secrets),
    }


# Verifying: what a receiver does


def verify(
    secrets: str | Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
    tolerance: timedelta = TOLERANCE,
) -> None:
    """Check the Standard Webhooks trio against one or several secrets; VerificationFailed when it does not hold."""
    given = {name.lower(): value for name, value in headers.items()}
    try:
        msg_id, sent, signatures = (given[n] for n in (STANDARD_ID, STANDARD_TIMESTAMP, STANDARD_SIGNATURE))
    except KeyError as missing:
        raise VerificationFailed(f"The header {missing.args[0]} is missing.") from None
    if not (sent.isascii() and sent.isdigit() and len(sent) <= 12):
        raise VerificationFailed(f"The header {STANDARD_TIMESTAMP} is not a number of seconds.")
    age = now.timestamp() - int(sent)
    if abs(age) > tolerance.total_seconds():
        raise VerificationFailed(f"The request was signed too {'long ago' if age > 0 else 'far in the future'}.")
    expected = [sign_standard(secret, msg_id, int(sent), body) for secret in _several(secrets)]
    if not _any_equal(expected, signatures.split(" ")):
        raise VerificationFailed("No signature matches: the body was changed, or it was signed with another secret.")


def verify_legacy(secrets: str | Sequence[str], headers: Mapping[str, str], body: bytes) -> None:
    """Check X-PunchConnect-Signature alone; VerificationFailed when it does not hold. It says nothing about age."""
    signature = next((value for name, value in headers.items() if name.lower() == SIGNATURE.lower()), None)
    if signature is None:
        raise VerificationFailed(f"The header {SIGNATURE} is missing.")
    if not _any_equal([sign_legacy(secret, body) for secret in _several(secrets)], [signature]):
        raise VerificationFailed("The signature does not match: another body, or another secret.")


def _several(secrets: str | Sequence[str]) -> Sequence[str]:
    return [secrets] if isinstance(secrets, str) else secrets


def _any_equal(expected: Sequence[str], given: Sequence[str]) -> bool:
    """Whether the two share a signature. Every pair is compared, each in constant time."""
    matches = [hmac.compare_digest(one.encode(), other.encode()) for one in expected for other in given]
    return any(matches)


# The schedule: when to try again

#: The wait after the first failure, after the second, …: ten attempts in all, over more than three days.
RETRY_AFTER: Final = (
    timedelta(seconds=10),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=12),
    timedelta(hours=24),
    timedelta(hours=24),
    timedelta(hours=24),
)

#: The largest share of a wait by which it is moved, so that what failed together does not return together.
JITTER: Final = 0.1


def next_attempt_in(
    failures: int, delays: Sequence[timedelta], jitter: float, retry_after: timedelta | None = None
) -> timedelta | None:
    """How long to wait after `failures` of them (from 1); None once the schedule is spent.

    `jitter` is a random share from -JITTER to JITTER (a larger one is cut); it never makes the first retry early.
    What the receiver asked for with Retry-After is taken as it is, but within once and twice the scheduled wait.
    """
    if failures < 1:
        raise ValueError("There is nothing to retry before the first failure.")
    if failures > len(delays):
        return None
    base = delays[failures - 1]
    if retry_after is not None:
        return min(max(retry_after, base), 2 * base)
    share = max(-JITTER, min(jitter, JITTER))
    return base * (1 + (abs(share) if failures == 1 else share))


def parse_retry_after(value: str | None, now: datetime) -> timedelta | None:
    """The wait that a Retry-After header asks for, in seconds or as an HTTP date; None when it is absent or garbage."""
    text = (value or "").strip()
    if text.isascii() and text.isdigit():
        return timedelta(seconds=int(text)) if len(text) <= 9 else None
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(until - now, timedelta(0))
