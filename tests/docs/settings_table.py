"""The settings in docs/operations.md, out of app/settings.py. `python -m tests.docs.settings_table` writes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from app.settings import Settings

PAGE: Final = Path(__file__).parents[2] / "docs" / "operations.md"
_BETWEEN: Final = re.compile(r"(<!-- settings: begin.*?-->\n).*?(<!-- settings: end -->)", re.DOTALL)
_NAMES: Final = {str: "text", int: "whole number", float: "number", bool: "true or false", SecretStr: "secret"}


def table() -> str:
    """One line per setting, in the order of the file."""
    lines = ["| variable | type | default | |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        sentence = (field.description or "").replace("<", "&lt;")
        lines.append(f"| `{name.upper()}` | {_kind(field.annotation)} | {_shown(field.default)} | {sentence} |")
    return "\n".join(lines) + "\n"


def written(page: str) -> str:
    """`page` with the table between its markers."""
    return _BETWEEN.sub(lambda found: f"{found[1]}{table()}{found[2]}", page)


def _kind(annotation: Any) -> str:
    if annotation in _NAMES:
        return _NAMES[annotation]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list"
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return _kind(kinds[0])


def _shown(default: Any) -> str:
    if default is PydanticUndefined or default is None or default in ((), "") or isinstance(default, SecretStr):
        return ""
    if isinstance(default, tuple):
        return f"`{','.join(f'{value:g}' for value in default)}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
