"""Pages for people. The documentation is served as it was written, so that every docUrl leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

#: In the package, else in the checkout.
_PLACES: Final = (Path(__file__).parent / "docs", Path(__file__).parents[2] / "docs")
_NAME: Final = re.compile(r"[a-z0-9_-]+(?:/[a-z0-9_-]+)*")
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def routes() -> list[Route]:
    """/docs/."""
    return [Route("/docs", lambda _: RedirectResponse("/docs/")), Route("/docs/{name:path}", _page)]


async def _page(request: Request) -> Response:
    name = request.path_params["name"].strip("/").removesuffix(".md") or "index"
    if name.startswith("errors/"):
        name = f"reference/{name}"
    # Names of ours only: nothing that could lead out of the folder gets as far as the file system.
    if _NAME.fullmatch(name):
        for place in _PLACES:
            if (page := place / f"{name}.md").is_file():
                return PlainTextResponse(page.read_text(encoding="utf-8"), headers=_HEADERS)
    raise HTTPException(404)
