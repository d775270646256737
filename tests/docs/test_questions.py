"""What a reader asks, answered by the documentation site alone: the search finds the place, and the answer is on it."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.docs import site

#: What is typed into the search, the page where the answer is, and what it has to say.
QUESTIONS: list[tuple[str, str, list[str]]] = [
    ("resume feed", "reference/feed/", ["after", "cursor", "previousCursor"]),
    ("endpoint down weekend", "guides/receive-webhooks/", ["Nothing is lost", "EXHAUSTED", "webhookDeliveryRetry"]),
    (
        "connect K40 IP",
        "guides/connect-a-terminal/",
        ["shared address", "challengePin", "add a user whose ID is that PIN", "approve"],
    ),
    ("cursor_expired", "reference/errors/cursor_expired/", ["Cause", "Fix", "oldestCursor"]),
    ("two punches second apart", "guides/time/", ["two records of the terminal", "The same record"]),
    ("rotate secret", "guides/receive-webhooks/", ["webhookEndpointRotateSecret", "graceSeconds", "two signatures"]),
    ("punches missing", "guides/completeness/", ["completeness.missing", "COMPLETE", "rejectedRecords"]),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions") / "site"
    site.build(folder)
    return folder


def words(text: str) -> str:
    """What one reads of HTML."""
    return " ".join(unescape(re.sub(r"<[^>]+>", "", text)).split())


def pages(built: Path) -> dict[str, str]:
    """What the search knows of each page, from the index that it is given."""
    found: dict[str, str] = {}
    items: list[dict[str, Any]] = json.loads((built / "search.json").read_text())["items"]
    for item in items:
        page = item["location"].partition("#")[0]
        found[page] = found.get(page, "") + " " + words(f"{item['title']} {item['text']}")
    return found


@pytest.mark.parametrize(("question", "page", "answer"), QUESTIONS, ids=[question for question, _, _ in QUESTIONS])
def test_a_readers_question_is_found_and_answered(built: Path, question: str, page: str, answer: list[str]) -> None:
    known = pages(built)
    shown = words((built / page / "index.html").read_text())

    assert [word for word in question.lower().split() if word not in known[page].lower()] == []
    assert [each for each in answer if each not in shown] == []
