"""The documentation under /docs/: the site that was built of it, or else the pages as they were written.

The product needs no documentation tool: without a built site every docUrl still leads to its page.
"""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

#: Built by `make docs`; part of the package.
SITE: Final = Path(__file__).parent / "site"
#: In the package, else in the checkout.
PLACES: Final = (Path(__file__).parent / "docs", Path(__file__).parents[2] / "docs")
_NAME: Final = re.compile(r"[a-z0-9_-]+(?:/[a-z0-9_-]+)*")
_FILE: Final = re.compile(r"(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*/)*[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_INLINE: Final = re.compile(rb"<script(?![^>]*\b(?:src|type)=)[^>]*>(.*?)</script>", re.DOTALL)
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def routes(site: Path = SITE) -> list[Route]:
    """/docs/."""

    built = site.is_dir()

    async def page(request: Request) -> Response:
        name = request.path_params["name"].strip("/").removesuffix(".md")
        if name.startswith("errors/"):
            name = f"reference/{name}"
        found = _built(site, name, request.url.path) if built else _written(name or "index")
        if found is None:
            raise HTTPException(404)
        return found

    return [Route("/docs", lambda _: RedirectResponse("/docs/")), Route("/docs/{name:path}", page)]


def _built(site: Path, name: str, path: str) -> Response | None:
    """A file of the built site. Names of ours only: nothing else gets as far as the file system."""
    if name and not _FILE.fullmatch(name):
        return None
    file = site / name
    if file.is_dir():
        file /= "index.html"
    if not file.is_file():
        return None
    if file.suffix != ".html":
        media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        return Response(file.read_bytes(), media_type=media_type, headers={**_HEADERS, "Cache-Control": "max-age=3600"})
    home = f"/docs/{name}/" if name and file.name == "index.html" else None
    body, scripts = _dressed(file, home if home != path else None, file.stat().st_mtime_ns)
    policy = (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "font-src 'self'; connect-src 'self'; worker-src 'self'; form-action 'none'; base-uri 'self'; "
        "frame-ancestors 'none'"
    )
    headers = {**_HEADERS, "Content-Security-Policy": policy, "Referrer-Policy": "same-origin"}
    return Response(body, media_type="text/html", headers=headers)


@lru_cache(maxsize=256)
def _dressed(file: Path, home: str | None, _changed: int) -> tuple[bytes, str]:
    """A page, and the digests of the scripts that its builder put inside. `home` is where its links count from."""
    body = file.read_bytes()
    digests = {base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _INLINE.findall(body)}
    if home is not None:
        body = body.replace(b"<head>", b'<head><base href="' + home.encode() + b'">', 1)
    return body, " ".join(f"'sha256-{digest}'" for digest in sorted(digests))


def _written(name: str) -> Response | None:
    """The page as it was written."""
    if _NAME.fullmatch(name):
        for place in PLACES:
            for page in (place / f"{name}.md", place / name / "index.md"):
                if page.is_file():
                    return PlainTextResponse(page.read_text(encoding="utf-8"), headers=_HEADERS)
    return None
