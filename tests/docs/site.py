"""The documentation site, built into app/web/site: `python -m tests.docs.site`.

It is made of docs/ and of what the examples say of themselves. Links that lead out of docs/ are turned to the copies
here; what has no copy is named without a link.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.docs.pages import ROOT

SITE: Final = ROOT / "app" / "web" / "site"
DOCS: Final = ROOT / "docs"
#: In this order; whatever else is there comes after, by name.
GUIDES: Final = (
    "quickstart", "connect-a-terminal", "live-feed", "receive-webhooks", "sync", "employees", "people", "commands",
    "idempotent-writes", "time", "sites", "tenants-and-keys", "run-it", "security", "privacy", "from-pulling",
)  # fmt: skip
EXAMPLES: Final = {
    f"frontend-examples/{path.parent.name}/README.md": f"examples/{path.parent.name}.md"
    for path in sorted((ROOT / "frontend-examples").glob("*/README.md"))
}
_LINK: Final = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def build(target: Path = SITE) -> None:
    """Write the site. Raises RuntimeError with what the builder says when anything is amiss."""
    with tempfile.TemporaryDirectory(prefix="punchconnect-docs-") as directory:
        stage = Path(directory).resolve()
        pages = stage / "docs"
        shutil.copytree(DOCS, pages)
        for source, name in EXAMPLES.items():
            (pages / name).parent.mkdir(exist_ok=True)
            shutil.copy2(ROOT / source, pages / name)
        here = {str(Path("docs") / path.relative_to(DOCS)): path.relative_to(DOCS) for path in DOCS.rglob("*.md")}
        here |= {source: Path(name) for source, name in EXAMPLES.items()}
        for source, place in here.items():
            page = pages / place
            page.write_text(_turn(page.read_text("utf-8"), Path(source), place, here), "utf-8")
        config = (ROOT / "mkdocs.yml").read_text("utf-8").replace("site_dir: app/web/site", "site_dir: site")
        (stage / "mkdocs.yml").write_text(config + _navigation(pages), "utf-8")
        ran = subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict", "-f", "mkdocs.yml"],
            cwd=stage,
            env=os.environ | {"NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode != 0:
            raise RuntimeError(ran.stdout + ran.stderr)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(stage / "site", target)


def _turn(text: str, source: Path, name: Path, here: dict[str, Path]) -> str:
    """The page with its links as they have to be where it stands now."""

    def turned(found: re.Match[str]) -> str:
        label, target, anchor = found[1], found[2], found[3] or ""
        if "://" in target or target.startswith(("/", "mailto:")):
            return found[0]
        wanted = os.path.normpath(source.parent / target)
        if (place := here.get(wanted)) is not None:
            return f"[{label}]({os.path.relpath(place, name.parent)}{anchor})"
        return label

    return _LINK.sub(turned, text)


def _navigation(pages: Path) -> str:
    guides = sorted((page.stem for page in (pages / "guides").glob("*.md")), key=_place)
    lines = ["nav:", "  - Home: index.md", "  - Guides:"]
    lines += [f"      - guides/{name}.md" for name in guides]
    lines += ["  - Reference:"]
    lines += [f"      - reference/{page.name}" for page in sorted((pages / "reference").glob("*.md"))]
    lines += ["      - Errors:", "          - reference/errors/index.md"]
    lines += [
        f"          - reference/errors/{page.name}"
        for page in sorted((pages / "reference" / "errors").glob("*.md"))
        if page.stem != "index"
    ]
    lines += ["  - Operations: operations.md", "  - Examples:"]
    lines += [f"      - {name}" for name in EXAMPLES.values()]
    lines += ["  - Project:", "      - architecture.md", "      - glossary.md", "      - contributing.md"]
    lines += ["      - changelog.md", "      - Decisions:", "          - decisions/index.md"]
    lines += [
        f"          - decisions/{page.name}"
        for page in sorted((pages / "decisions").glob("*.md"))
        if page.stem != "index"
    ]
    return "\n".join(lines) + "\n"


def _place(name: str) -> tuple[int, str]:
    return (GUIDES.index(name) if name in GUIDES else len(GUIDES), name)


if __name__ == "__main__":
    try:
        build()
    except RuntimeError as exc:
        sys.exit(str(exc))
