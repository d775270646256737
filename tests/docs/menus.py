"""The menus of terminals, drawn: docs/guides/menus/*.svg. `python -m tests.docs.menus` draws them anew.

Drawn by us from what the menus say, in no maker's style. A picture says nothing that the text beside it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[2] / "docs" / "guides" / "menus"
_WIDTH: Final = 460
_ROW: Final = 34


@dataclass(frozen=True, slots=True)
class Menu:
    """One screen: how one gets there, and what it shows. A row without a value leads on; `>` marks the chosen one."""

    name: str
    way: str
    rows: tuple[tuple[str, str], ...]
    #: A touch screen has room around its rows; a keypad's display is small, and all of it is text.
    touch: bool = True


MENUS: Final = (
    Menu(
        "touch",
        "Menu › COMM. › Cloud Server Settings",
        (
            ("Server mode", "ADMS"),
            ("Enable Domain Name", "ON"),
            ("Server Address", "abc123.devices.example"),
            ("Enable Proxy Server", "OFF"),
            ("HTTPS", "ON, where the server has it"),
        ),
    ),
    Menu(
        "keypad",
        "Menu › Comm. › Cloud Server (or ADMS)",
        (
            ("Enable Domain Name", "Y"),
            ("Server Address", "abc123.devices.example"),
            ("Enable Proxy", "N"),
        ),
        touch=False,
    ),
    Menu(
        "ip-only",
        "Menu › Comm. › Cloud Server",
        (
            ("Enable Domain Name", "N"),
            ("Server IP", "203.0.113.10"),
            ("Port", "8080"),
            ("Enable Proxy", "N"),
        ),
        touch=False,
    ),
    Menu(
        "new-user",
        "Menu › User Mgt › New User",
        (
            ("User ID", "the claim's PIN: 9 digits"),
            ("Name", ""),
            ("User Role", "Normal User"),
        ),
        touch=False,
    ),
)


def draw(menu: Menu) -> str:
    """The picture as SVG. Its own colours, so that it reads on light and on dark pages."""
    height = 58 + _ROW * len(menu.rows) + 14
    screen, ink, soft, line = ("#ffffff", "#17211d", "#0a6248", "#d6deda") if menu.touch else (
        "#cfe3c4", "#1b2a16", "#1b2a16", "#a9c39b",
    )  # fmt: skip
    face = "system-ui, sans-serif" if menu.touch else "ui-monospace, 'DejaVu Sans Mono', monospace"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" font-family="{face}" font-size="15">',
        f"<title>{escape(menu.way)}</title>",
        f'<rect x="1" y="1" width="{_WIDTH - 2}" height="{height - 2}" rx="14" fill="#2b3330" stroke="#52605a"/>',
        f'<rect x="10" y="10" width="{_WIDTH - 20}" height="{height - 20}" rx="6" fill="{screen}"/>',
        f'<text x="24" y="38" font-weight="bold" fill="{ink}">{escape(menu.way)}</text>',
    ]
    for number, (label, value) in enumerate(menu.rows):
        top = 52 + number * _ROW
        parts.append(f'<line x1="20" y1="{top}" x2="{_WIDTH - 20}" y2="{top}" stroke="{line}"/>')
        parts.append(f'<text x="24" y="{top + 23}" fill="{ink}">{escape(label)}</text>')
        place = f'x="{_WIDTH - 24}" y="{top + 23}" text-anchor="end"'
        parts.append(f'<text {place} fill="{soft}" font-weight="bold">{escape(value)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def written() -> dict[Path, str]:
    """Every picture, by its file."""
    return {FOLDER / f"{menu.name}.svg": draw(menu) for menu in MENUS}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in written().items():
        path.write_text(text)
