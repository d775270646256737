"""What pages say about the program is compared with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

import app.cli
import app.main  # noqa: F401
import workers.pool  # noqa: F401  with these, every error and every metric is known
from app import telemetry
from app.errors import AppError
from protocol import webhook
from schema import held, socket
from schema.errors import registry
from tests.docs import menus, scopes_page
from tests.docs.pages import PAGES, ROOT, name
from tests.docs.settings_table import PAGE, written

DOCS: Final = ROOT / "docs"
ERRORS: Final = DOCS / "reference" / "errors"
LONGEST_ERROR_PAGE: Final = 15
ROOMS: Final = ("app", "schema", "workers")


def _codes() -> dict[str, type[AppError]]:
    """Ours; tests make errors too."""
    return {code: kind for code, kind in registry().items() if kind.__module__.partition(".")[0] in ROOMS}


def test_the_table_of_settings_is_the_settings() -> None:
    assert PAGE.read_text() == written(PAGE.read_text()), "run: python -m tests.docs.settings_table"


def test_the_page_of_scopes_is_what_the_schema_asks_for() -> None:
    assert scopes_page.PAGE.read_text() == scopes_page.text(), "run: python -m tests.docs.scopes_page"


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    assert {page.stem for page in ERRORS.glob("*.md")} - {"index"} == set(_codes())


@pytest.mark.parametrize("code", sorted(_codes()))
def test_an_error_page_says_cause_example_and_fix(code: str) -> None:
    page = (ERRORS / f"{code}.md").read_text()
    kind = _codes()[code]

    assert page.startswith(f"# `{code}`\n\nStatus {kind.status}. ")
    assert ("May be retried as it is." in page) is kind.retryable
    assert re.findall(r"^\*\*(\w+)\.\*\* \S", page, re.MULTILINE) == ["Cause", "Example", "Fix"]
    assert len(page.splitlines()) <= LONGEST_ERROR_PAGE


def test_the_index_of_errors_lists_every_code_with_its_status() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md\) \| (\d+) \|", (ERRORS / "index.md").read_text(), re.MULTILINE)

    assert sorted(rows) == sorted((code, code, str(kind.status)) for code, kind in _codes().items())


def test_every_metric_is_in_the_operator_s_list() -> None:
    listed = set(
        re.findall(r"^\| `(punchconnect_\w+?)(?:_total)?(?:\{\w+\})?` \|", _page("operations.md"), re.MULTILINE)
    )

    assert listed == {metric.name for metric in telemetry.REGISTRY.collect()}


def test_every_close_code_is_explained() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d{4}) \|", _page("reference/feed.md"), re.MULTILINE)}
    ours = {
        socket.BAD_MESSAGE,
        socket.TOO_EARLY,
        held.FORBIDDEN,
        socket.BAD_SUBPROTOCOL,
        socket.INIT_TIMEOUT,
        socket.DUPLICATE_ID,
        socket.SECOND_INIT,
        held.RESTART,
        held.TRY_LATER,
    }

    assert listed == ours | {1009}


def test_every_header_of_a_webhook_is_explained() -> None:
    page = _page("reference/webhooks.md")
    headers = (
        webhook.SIGNATURE,
        webhook.SIGNATURE_KEY,
        webhook.DELIVERY,
        webhook.EVENT,
        webhook.ATTEMPT,
        webhook.STANDARD_ID,
        webhook.STANDARD_TIMESTAMP,
        webhook.STANDARD_SIGNATURE,
    )

    assert [header for header in headers if f"| `{header}` |" not in page] == []


def test_no_decision_is_left_out_of_the_list() -> None:
    written_down = sorted(page.name for page in (DOCS / "decisions").glob("0*.md"))

    assert re.findall(r"\]\((0\d{3}-[\w-]+\.md)\)", _page("decisions/index.md")) == written_down


def _page(path: str) -> str:
    return Path(DOCS / path).read_text()


def test_the_pictures_of_menus_are_drawn_from_what_is_in_them() -> None:
    drawn = menus.written()

    assert {path: path.read_text() for path in menus.FOLDER.glob("*.svg")} == drawn, "run: python -m tests.docs.menus"


def test_every_picture_that_a_page_shows_is_there_and_says_what_it_shows() -> None:
    shown = [
        (page, words, target)
        for page in PAGES
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page.read_text())
    ]

    assert len(shown) >= len(menus.MENUS)
    assert [name(page) for page, words, target in shown if not words or not (page.parent / target).is_file()] == []
