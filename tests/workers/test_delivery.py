"""What an answer makes of a delivery."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app import ids
from app.domain.deliveries import Claim, DeliveryStatus, Job
from workers.delivery import judge
from workers.outbound import Failure, Reply

NOW = datetime(2026, 3, 1, 7, tzinfo=UTC)
DELAYS = (timedelta(seconds=10), timedelta(seconds=60))
JOB = Job(
    claim=Claim(ids.new(), ids.new(), ids.new()),
    endpoint_id=ids.new(),
    event_id=ids.new(),
    event_type="punch.created",
    attempt=1,
    failures=0,
    url="https://receiver.example/hook",
    body=b"{}",
    secret_sealed=b"",
    previous_secret_sealed=None,
)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_2xx_ends_the_delivery(status: int) -> None:
    result = judge(JOB, Reply(status, None, 12, b"thanks"), NOW, DELAYS, 0)

    assert (result.status, result.retry_in, result.gone) == (DeliveryStatus.DELIVERED, None, None)
    assert (result.status_code, result.error, result.response_body) == (status, None, "thanks")
    assert (result.claim, result.started_at, result.duration_ms) == (JOB.claim, NOW, 12)


@pytest.mark.parametrize(
    ("status", "error"),
    [(500, None), (404, None), (301, "redirect"), (None, "connect"), (None, "timeout"), (200, "timeout")],
)
def test_anything_else_is_tried_again_after_the_scheduled_wait(status: int | None, error: Failure | None) -> None:
    result = judge(JOB, Reply(status, error, 12), NOW, DELAYS, 0)

    assert (result.status, result.retry_in) == (DeliveryStatus.PENDING, timedelta(seconds=10))
    assert (result.status_code, result.error) == (status, error)


def test_the_wait_grows_with_the_failures_and_the_last_one_exhausts() -> None:
    results = [judge(replace(JOB, failures=n), Reply(500, None, 1), NOW, DELAYS, 0) for n in (0, 1, 2)]

    assert [(result.status, result.retry_in) for result in results] == [
        (DeliveryStatus.PENDING, timedelta(seconds=10)),
        (DeliveryStatus.PENDING, timedelta(seconds=60)),
        (DeliveryStatus.EXHAUSTED, None),
    ]


def test_a_receiver_may_ask_for_a_longer_wait_within_bounds() -> None:
    asked = [judge(JOB, Reply(429, None, 1, b"", {"retry-after": text}), NOW, DELAYS, 0) for text in ("15", "900", "x")]

    assert [result.retry_in for result in asked] == [timedelta(seconds=n) for n in (15, 20, 10)]


def test_gone_ends_the_delivery_and_names_the_url() -> None:
    result = judge(JOB, Reply(410, None, 1), NOW, DELAYS, 0)

    assert (result.status, result.retry_in, result.gone) == (DeliveryStatus.EXHAUSTED, None, JOB.url)


def test_an_answer_is_kept_as_text_that_the_database_can_hold() -> None:
    result = judge(JOB, Reply(500, None, 1, b"a\x00b\xff"), NOW, DELAYS, 0)

    assert result.response_body == "a\ufffdb\ufffd"


def test_without_an_answer_there_is_no_body() -> None:
    assert judge(JOB, Reply(None, "dns", 1), NOW, DELAYS, 0).response_body is None
