"""Who sits at the dashboard. An API key is exchanged for a cookie that no script can read; the cookie holds no key.

It holds the keyed hash by which the key is found, sealed, and the hour it was made. So it works on every process, needs
no table, ends by itself after twelve hours, and dies with its key wherever that is revoked. Forms carry a token made
from the cookie, which only a page of ours can know.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from starlette.requests import Request
from starlette.responses import Response

from app.domain.keys import Actor, KeyRing, PermissionDenied, Unauthenticated, read_authorization
from app.vault import Vault

COOKIE: Final = "pc_session"
PATH: Final = "/dashboard"
LASTS: Final = 12 * 3600
LONGEST_COOKIE: Final = 1024
_NOBODY: Final = UUID(int=0)
_PURPOSE: Final = "dashboard session"


class FormForeign(PermissionDenied):
    """A form that no page of ours has made for this session."""


@dataclass(frozen=True, slots=True)
class Session:
    """One browser, signed in."""

    actor: Actor
    #: The keyed hash of the key.
    digest: bytes
    #: What a form has to bring along.
    form_token: str


class Sessions:
    """Makes cookies and reads them."""

    def __init__(self, keys: KeyRing, vault: Vault, *, secure: bool, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._vault = vault
        self._secure = secure
        self._clock = clock

    async def open(self, secret: str, response: Response) -> Actor:
        """Sign the browser in that gets this response; who that is. Unauthenticated when the key does not work."""
        digest = self._vault.recognise(read_authorization(f"Bearer {secret}"))
        actor = await self._keys.recognise(digest)
        text = orjson.dumps({"digest": digest.hex(), "made": int(self._clock())}).decode()
        sealed = self._vault.seal(text, owner=_NOBODY, purpose=_PURPOSE)
        response.set_cookie(
            COOKIE,
            base64.urlsafe_b64encode(sealed).decode(),
            max_age=LASTS,
            path=PATH,
            httponly=True,
            samesite="strict",
            secure=self._secure,
        )
        return actor

    def close(self, response: Response) -> None:
        """Take the cookie back."""
        response.delete_cookie(COOKIE, path=PATH, httponly=True, samesite="strict", secure=self._secure)

    async def read(self, request: Request) -> Session:
        """Who is there. Unauthenticated without a cookie, with an old one, and when its key does not work any more."""
        cookie = request.cookies.get(COOKIE, "")
        if not cookie or len(cookie) > LONGEST_COOKIE:
            raise Unauthenticated("Sign in first.")
        try:
            sealed = base64.b64decode(cookie, altchars=b"-_", validate=True)
            kept = orjson.loads(self._vault.open(sealed, owner=_NOBODY, purpose=_PURPOSE))
        except (ValueError, InvalidTag):
            raise Unauthenticated("Sign in again.") from None
        if not 0 <= self._clock() - kept["made"] < LASTS:
            raise Unauthenticated("You were signed in for twelve hours: sign in again.")
        digest = bytes.fromhex(kept["digest"])
        token = hmac.digest(self._vault.form_key, cookie.encode(), hashlib.sha256).hex()
        return Session(await self._keys.recognise(digest), digest, token)

    async def alive(self, session: Session) -> bool:
        """Whether the session's key still works. ServiceUnavailable without the database."""
        try:
            await self._keys.recognise(session.digest)
        except Unauthenticated:
            return False
        return True


def check_origin(request: Request) -> None:
    """Refuse what another site makes a browser send. FormForeign."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if site not in (None, "same-origin") or (
        origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    ):
        raise FormForeign("This form was sent by another site.")


def check_form(request: Request, session: Session, token: str) -> None:
    """Refuse a form that is not of this session. FormForeign."""
    check_origin(request)
    if not hmac.compare_digest(token.encode(), session.form_token.encode()):
        raise FormForeign("This page is older than your sign-in: load it again, then repeat.")
