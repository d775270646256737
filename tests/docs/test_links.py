"""Links between pages lead somewhere. Those to other sites are not followed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import PAGES, ROOT, name

_LINK: Final = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_BLOCK: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
EVERY: Final = (*PAGES, *sorted((ROOT / "frontend-examples").glob("webhook-receivers/*.md")))


@pytest.mark.parametrize("page", EVERY, ids=name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = [link for link in _links(page) if not _leads_somewhere(page, link)]

    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = [link.partition("#")[0] for link in _links(page)]
        waiting += [(page.parent / target).resolve() for target in targets if target]

    assert sorted(map(name, set(PAGES) - reached)) == []


def _links(page: Path) -> list[str]:
    """To places here."""
    return [link for link in _LINK.findall(_prose(page)) if "://" not in link and not link.startswith("/playground")]


def _prose(page: Path) -> str:
    """The text without fenced blocks."""
    return _BLOCK.sub("", page.read_text())


def _leads_somewhere(page: Path, link: str) -> bool:
    target, _, anchor = link.partition("#")
    found = (page.parent / target).resolve() if target else page
    if not found.exists():
        return False
    return not anchor or (found.suffix == ".md" and anchor in _anchors(found))


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, no punctuation, dashes for spaces."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
