"""The pages that people read, and the fenced blocks in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
#: Whose blocks run. The receivers' page has tests of its own.
PAGES: Final = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "frontend-examples" / "live-feed" / "README.md",
)
_FENCE: Final = re.compile(r"^```(?P<language>\S*) *(?P<rest>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `until` is a text at which a program that does not end by itself has shown enough."""

    page: Path
    line: int
    language: str
    until: str | None
    text: str

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    """Relative to the repository."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in order, of some languages or of all."""
    content = page.read_text()
    found = [
        Block(
            page,
            content.count("\n", 0, match.start()) + 1,
            match["language"],
            match["rest"].removeprefix("until=") if match["rest"].startswith("until=") else None,
            match["text"],
        )
        for match in _FENCE.finditer(content)
    ]
    return [block for block in found if not languages or block.language in languages]
