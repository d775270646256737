"""What people may type. What a terminal or a log could take for an order is refused, never stripped."""

from __future__ import annotations

import unicodedata

from app.errors import InvalidInput


def line(text: str, field: str, *, longest: int, shortest: int = 1) -> str:
    """`text`, if it is one line of `shortest` to `longest` characters without control characters; else InvalidInput.

    `field` is the input's name for it, e.g. "externalId".
    """
    if not shortest <= len(text) <= longest:
        raise InvalidInput(f"{field} must have {shortest} to {longest} characters.", path=("input", field))
    # Half a surrogate pair is no character at all, and no database takes it.
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in text):
        raise InvalidInput(f"{field} has a control character or a line break in it.", path=("input", field))
    if shortest and not text.strip():
        raise InvalidInput(f"{field} is blank.", path=("input", field))
    return text


def optional_line(text: str | None, field: str, *, longest: int) -> str | None:
    """As `line`, but nothing is allowed, and an empty text is nothing."""
    return line(text, field, longest=longest) if text else None
