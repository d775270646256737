"""Files that our pages load: scripts, styles, nothing from elsewhere. Named with a digest, so a browser may keep them.

They are read once and kept compressed. What a page says of itself to the browser is here too: no script but from these
files, no frame around it, nothing guessed from the bytes.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER: Final = Path(__file__).parent / "static"
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_YEAR: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent."""

    media_type: str
    body: bytes
    zipped: bytes
    digest: str


def routes() -> list[Route]:
    """/assets/."""
    return [Route("/assets/{name:path}", _serve)]


def url(name: str) -> str:
    """Where a page finds the file. KeyError for one that does not exist."""
    return f"/assets/{name}?v={_read()[name].digest}"


def page_headers(*, styles: str = "'self'") -> dict[str, str]:
    """What every page of ours carries. `styles` loosens where styles may come from, for pages that need it."""
    policy = (
        f"default-src 'none'; script-src 'self'; style-src {styles}; img-src 'self' data:; font-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
    }


async def _serve(request: Request) -> Response:
    asset = _read().get(request.path_params["name"])
    if asset is None:
        raise HTTPException(404)
    fresh = request.query_params.get("v") == asset.digest
    headers = {
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Vary": "Accept-Encoding",
        "Cache-Control": _YEAR if fresh else "no-cache",
        "ETag": f'"{asset.digest}"',
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    body = asset.body
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        body = asset.zipped
    return Response(body, media_type=asset.media_type, headers=headers)


@cache
def _read() -> Mapping[str, Asset]:
    found: dict[str, Asset] = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.is_file() and path.suffix in _TYPES:
            body = path.read_bytes()
            digest = hashlib.sha256(body).hexdigest()[:16]
            name = path.relative_to(FOLDER).as_posix()
            found[name] = Asset(_TYPES[path.suffix], body, gzip.compress(body, 6, mtime=0), digest)
    return found
