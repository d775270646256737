"""One attempt: open the secrets, sign, post, judge. No database here; what comes back is for the pool to write down."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

import structlog

from app import ids
from app.domain import endpoints
from app.domain.deliveries import DeliveryStatus, Job, Result
from app.vault import Vault
from protocol import webhook
from workers.outbound import Outbound, Reply

log = structlog.get_logger(__name__)


async def attempt(job: Job, door: Outbound, vault: Vault, delays: Sequence[timedelta], started_at: datetime) -> Result:
    """Try once, now, and log it. Our own trouble with a delivery is a failed attempt too: it must not hold up the
    others.
    """
    begun = time.monotonic()
    jitter = random.uniform(-webhook.JITTER, webhook.JITTER)  # noqa: S311
    try:
        reply = await door.post(job.url, _headers(job, vault, int(started_at.timestamp())), job.body)
        result = judge(job, reply, started_at, delays, jitter)
    except Exception:
        log.exception("webhook_attempt_broke", **_ids(job))
        spent = round((time.monotonic() - begun) * 1000)
        status, retry_in = _after_failure(job, delays, jitter)
        result = Result(job.claim, status, started_at, spent, error="internal", retry_in=retry_in, unwell=job.unwell)
    log.info(
        "webhook_attempt",
        **_ids(job),
        event_type=job.event_type,
        attempt=job.attempt,
        outcome=result.status,
        status=result.status_code,
        error=result.error,
        duration_ms=result.duration_ms,
    )
    return result


def judge(job: Job, reply: Reply, started_at: datetime, delays: Sequence[timedelta], jitter: float) -> Result:
    """What this answer makes of the delivery: done, tried again later, or given up."""
    status, retry_in, gone = DeliveryStatus.DELIVERED, None, None
    if reply.status == 410:
        status, gone = DeliveryStatus.EXHAUSTED, job.url
    elif not reply.delivered:
        asked = webhook.parse_retry_after(reply.response_headers.get("retry-after"), started_at)
        status, retry_in = _after_failure(job, delays, jitter, asked)
    return Result(
        job.claim,
        status,
        started_at,
        reply.duration_ms,
        status_code=reply.status,
        error=reply.error,
        response_body=None if reply.status is None else _text(reply.response_body),
        retry_in=retry_in,
        gone=gone,
        unwell=job.unwell,
    )


def _after_failure(
    job: Job, delays: Sequence[timedelta], jitter: float, asked: timedelta | None = None
) -> tuple[DeliveryStatus, timedelta | None]:
    retry_in = webhook.next_attempt_in(job.failures + 1, delays, jitter, asked)
    return (DeliveryStatus.EXHAUSTED if retry_in is None else DeliveryStatus.PENDING), retry_in


def _headers(job: Job, vault: Vault, timestamp: int) -> dict[str, str]:
    def secret(sealed: bytes) -> str:
        return endpoints.open_secret(vault, job.endpoint_id, job.claim.tenant_id, sealed)

    return webhook.headers(
        event_id=ids.show("evt", job.event_id),
        event_type=job.event_type,
        delivery_uuid=job.claim.id,
        attempt=job.attempt,
        timestamp=timestamp,
        body=job.body,
        secret=secret(job.secret_sealed),
        previous_secrets=[
            secret(sealed) for sealed in (job.previous_secret_sealed, job.older_secret_sealed) if sealed is not None
        ],
    )


def _ids(job: Job) -> dict[str, str]:
    return {
        "tenant": ids.show("ten", job.claim.tenant_id),
        "endpoint": ids.show("whk", job.endpoint_id),
        "delivery": ids.show("whd", job.claim.id),
        "event_id": ids.show("evt", job.event_id),
    }


def _text(body: bytes) -> str:
    """For people to read. PostgreSQL's text cannot hold a NUL."""
    return body.decode(errors="replace").replace("\x00", "\ufffd")
