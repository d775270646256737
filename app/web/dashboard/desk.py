"""What all pages of the dashboard share: who is there, templates, forms, and one way to refuse."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs, urlencode
from uuid import UUID

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from app import ids, paging
from app.broadcast import Bell
from app.database import Database, driver
from app.domain import acts, addresses, audit, idempotency, outbox, signups, tenants
from app.domain.acts import Act
from app.domain.audit import AuditSource, Author
from app.domain.devices import PATIENCE, DeviceConnectionState, connection_state
from app.domain.events import Cursors, Logged
from app.domain.feed import Feed
from app.domain.keys import Actor, KeyRing, Unauthenticated
from app.domain.tables import now
from app.errors import AppError, InvalidInput, RateLimited, doc_url
from app.settings import Settings
from app.vault import Vault
from app.web import assets, playground
from app.web.dashboard.sessions import Session, Sessions, check_form, check_origin
from app.web.middleware import NotFound, request_id, source

log = structlog.get_logger(__name__)

FORM_BYTES: Final = 64 * 1024
HOME: Final = "/dashboard/"
#: Where signing in may lead: to one of our pages, by a path that no browser reads otherwise.
WANTED: Final = re.compile(r"/dashboard/[\w/-]{0,200}(\?[\w!$%&'()*+,./:;=?@~-]{0,2000})?", re.ASCII)
TEMPLATES: Final = Path(__file__).parents[1] / "templates"
#: What a page says after something was done; only these, so that a link cannot make it say anything else.
DONE: Final = {
    "saved": "Saved.",
    "registered": "Registered. It is bound by its first contact.",
    "approved": "Approved: the terminal is heard from now on.",
    "suspended": "Suspended: the terminal keeps its records until it is resumed.",
    "resumed": "Resumed.",
    "retired": "Retired. Its punches stay.",
    "deleted": "Deleted.",
    "queued": "Queued: it is sent at once.",
    "told": "Queued: the terminal takes it when it calls next.",
    "cancelled": "Taken back. If the terminal has it already, it may carry it out all the same.",
    "repeated": "This was done already; nothing was done again.",
    "replaying": "Started. The deliveries appear below as they are dealt out.",
    "revoked": "Revoked: it stops working everywhere within seconds.",
}
NAVIGATION: Final = (
    ("", "Live", "punches:read"),
    ("devices", "Devices", "devices:read"),
    ("punches", "Punches", "punches:read"),
    ("employees", "Employees", "employees:read"),
    ("webhooks", "Webhooks", "webhooks:read"),
    ("keys", "Keys", "keys:write"),
    ("audit", "Audit", "audit:read"),
    ("plan", "Plan", None),
)


class Broken(AppError):
    """Our mistake."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a form that does something once has done."""

    id: UUID
    #: Shown now and never again.
    secret: str = ""
    logged: Sequence[Logged] = ()

    @property
    def outcome(self) -> dict[str, Any]:
        """As mutations remember it."""
        return {"id": str(self.id)}


@dataclass(frozen=True, slots=True)
class Parts:
    """What the application lends."""

    settings: Settings
    db: Database
    vault: Vault
    cursors: Cursors
    bell: Bell
    feed: Feed
    keys: KeyRing


@dataclass(slots=True)
class Visit:
    """One request of somebody who is signed in."""

    desk: Desk
    request: Request
    session: Session
    request_id: str
    form: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def parts(self) -> Parts:
        return self.desk.parts

    @property
    def actor(self) -> Actor:
        return self.session.actor

    @property
    def tenant_id(self) -> UUID:
        return self.session.actor.tenant_id

    @property
    def author(self) -> Author:
        """As the audit log names who sits here."""
        return Author(AuditSource.DASHBOARD, self.actor.key_id, self.request_id)

    def may(self, scope: str) -> bool:
        """Whether the key has this scope."""
        return scope in self.actor.scopes

    def given(self, name: str) -> str:
        """A field of the form, without blanks around it; empty when it is not there."""
        return self.form.get(name, [""])[0].strip()

    def asked(self, name: str) -> str:
        """A parameter of the query string, likewise."""
        return self.request.query_params.get(name, "").replace("\0", "\ufffd").strip()

    def id(self, prefix: ids.Prefix) -> UUID:
        """The id in the path."""
        return ids.read(prefix, self.request.path_params["id"])

    def show(self, template: str, **values: Any) -> Response:
        """A page."""
        return self.desk.render(template, self.request, self.session, **values)

    def go(self, path: str, *, done: str | None = None, **query: str) -> Response:
        """On to another page of the dashboard, after a form."""
        asked = {**query, **({"done": done} if done else {})}
        return RedirectResponse(f"/dashboard/{path}" + (f"?{urlencode(asked)}" if asked else ""), 303)

    @asynccontextmanager
    async def write(self, action: str, **given: Any) -> AsyncIterator[Act]:
        """The way to change something: one transaction. It is called as the mutation that does the same is, with
        the arguments that the mutation would have. TrialEnded, PlanSuspended."""
        async with (
            self.parts.db.write(self.tenant_id) as session,
            acts.begin(session, self.tenant_id, self.author, action, given) as act,
        ):
            yield act

    async def once(self, action: str, do: Callable[[Act], Awaitable[Made]], **given: Any) -> Made | UUID:
        """Like `write`, but a form that is sent again, by a reload or a double click, does nothing again: then the id
        of what it did. Each rendering of such a form brings along a value of its own. What was refused is not
        remembered."""
        key = self.given("once")
        if not key:
            raise InvalidInput("This page is old: load it again, then repeat.")
        typed = {name: list(values) for name, values in self.form.items() if name not in ("once", "form_token")}

        async def act() -> Made:
            async with acts.begin(session, self.tenant_id, self.author, action, given) as begun:
                return await do(begun)

        try:
            call = idempotency.call(action, key, {"path": self.request.url.path, "form": typed})
            async with self.parts.db.write(self.tenant_id) as session:
                done = await idempotency.once(session, self.tenant_id, call, act)
        except idempotency.KeyReused:
            raise idempotency.KeyReused(
                "This form was sent before, with something else in it. Load its page again, then repeat."
            ) from None
        if isinstance(done, idempotency.Replay):
            return UUID(done.outcome["id"])
        self.ring(done.logged)
        return done

    def show_secret(self, made: Made | UUID, what: str, back: str, note: str, again: str) -> Response:
        """The page of a new secret; or, of a form that was sent again, that it was shown, and how to get another."""
        secret = made.secret if isinstance(made, Made) else None
        return self.show("secret.html", what=what, secret=secret, back=back, note=note, again=again)

    def ring(self, batch: Sequence[Logged]) -> None:
        """Tell feeds and workers what was committed. After the transaction's end, never inside."""
        self.parts.feed.ring(batch)

    def ring_workers(self) -> None:
        """Deliveries became due without an event."""
        self.parts.bell.ring(outbox.DELIVERIES, b"1")

    def ask(self, name: str, order: paging.Order, wanted: Any, size: int = 50) -> paging.Asked[Any]:
        """The part of a list that the query string asks for, by `after` or `before`."""
        after, before = self.asked("after") or None, self.asked("before") or None
        window = {"last": size, "before": before} if before else {"first": size, "after": after}
        return self.desk.pages.ask(self.tenant_id, f"dashboard {name}", order, wanted, **window)

    def turns(self, asked: paging.Asked[Any], page: paging.Page[Any]) -> dict[str, str]:
        """The links to the pages before and after this one."""
        kept = {k: v for k, v in self.request.query_params.items() if k not in ("after", "before", "done") and v}
        links = {}
        if page.rows:
            write = self.desk.pages.write
            if page.has_previous:
                place = write(self.tenant_id, asked.binding, page.place(0))
                links["newer"] = "?" + urlencode({**kept, "before": place})
            if page.has_next:
                place = write(self.tenant_id, asked.binding, page.place(-1))
                links["older"] = "?" + urlencode({**kept, "after": place})
        return links

    def url_rules(self) -> Callable[[str], None]:
        """What a webhook's URL has to be like."""
        settings = self.parts.settings
        guard = addresses.AddressGuard(settings.webhook_allow_networks)
        return lambda url: addresses.check_url(url, allow_http=settings.webhook_allow_http, guard=guard)


Do: TypeAlias = Callable[[Visit], Awaitable[Response]]


class Desk:
    """Turns functions into routes."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.delay = timedelta(seconds=parts.settings.device_delay_seconds)
        self.pages = paging.Cursors(parts.vault.cursor_key)
        self.sessions = Sessions(parts.keys, parts.vault, secure=parts.settings.public_url.startswith("https://"))
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["show"] = lambda value, prefix: ids.show(prefix, value)
        self._templates.filters["iso"] = _iso
        self._templates.filters["utc"] = _utc
        self._templates.globals["asset"] = assets.url
        self._templates.globals["once"] = lambda: secrets.token_urlsafe(16)

    def get(self, path: str, do: Do, *, page: bool = True) -> Route:
        """A page to look at; without `page`, what a page or a program reads, to which signing in does not lead."""
        return Route(path, self._guarded(do, None, page=page), methods=["GET"])

    def post(self, path: str, do: Do, most: int = FORM_BYTES) -> Route:
        """A form, of at most `most` bytes."""
        return Route(path, self._guarded(do, most), methods=["POST"])

    def render(
        self, template: str, request: Request, session: Session | None, http_status: int = 200, **values: Any
    ) -> HTMLResponse:
        """A page for whoever is there."""
        scopes = session.actor.scopes if session else frozenset[str]()
        shared: dict[str, Any] = {
            "session": session,
            "form_token": session.form_token if session else "",
            "navigation": [(path, name) for path, name, scope in NAVIGATION if scope is None or scope in scopes],
            "here": request.url.path.removeprefix("/dashboard/").partition("/")[0],
            "scopes": scopes,
            "done": DONE.get(request.query_params.get("done", "")),
        }
        text = self._templates.get_template(template).render({**shared, **values})
        return HTMLResponse(text, http_status, headers=assets.page_headers())

    def connection(self, last_seen_at: datetime | None) -> DeviceConnectionState:
        """Whether a terminal is in touch."""
        return connection_state(last_seen_at, now(), self.delay)

    def online_since(self) -> datetime:
        """Terminals seen from here on count as online."""
        return now() - self.delay - PATIENCE

    async def stray(
        self, request: Request, status: int, code: str, message: str, headers: Mapping[str, str]
    ) -> Response:
        """The page for an address that none of ours has, or that is not asked in this way."""
        session: Session | None = None
        with suppress(AppError):
            session = await self.sessions.read(request)
        page = self._refusal(request, session, status=status, code=code, message=message)
        page.headers.update(headers)
        return page

    def doors(self) -> list[BaseRoute]:
        """Signing in and out."""
        return [
            Route("/sign-in", self._door, methods=["GET"]),
            Route("/sign-in", self._enter, methods=["POST"]),
            Route("/sign-up", self._offer, methods=["GET"]),
            Route("/sign-up", self._start, methods=["POST"]),
            self.post("/sign-out", self._leave),
            self.get("/plan", self._plan),
        ]

    async def _door(self, request: Request) -> Response:
        wanted = _ours(request.query_params.get("to", ""))
        with suppress(AppError):
            await self.sessions.read(request)
            return RedirectResponse(wanted, 303)
        return self._ask_key(request, wanted)

    async def _enter(self, request: Request) -> Response:
        wanted = HOME
        demo = playground.demo_key(request, self.parts.settings)
        try:
            check_origin(request)
            form = await _read_form(request, FORM_BYTES)
            wanted = _ours(form.get("to", [""])[0])
            response = RedirectResponse(wanted, 303)
            secret = demo if demo and "demo" in form else form.get("key", [""])[0].strip()
            actor = await self.sessions.open(secret, response)
            await self._note_entry(actor)
        except AppError as exc:
            message = "This key does not work." if isinstance(exc, Unauthenticated) else exc.message
            return self._ask_key(request, wanted, message, exc.status)
        return response

    async def _note_entry(self, actor: Actor) -> None:
        """A key that signs in is used from now on by whoever sits there."""
        author = Author(AuditSource.DASHBOARD, actor.key_id, request_id())
        async with self.parts.db.write(actor.tenant_id) as session:
            await audit.add(await driver(session), actor.tenant_id, author, "signIn", targets=[("key", actor.key_id)])

    def _ask_key(self, request: Request, wanted: str, refused: str = "", status: int = 200) -> Response:
        demo = playground.demo_key(request, self.parts.settings) is not None
        shown = {"demo": demo, "signup": self.parts.settings.signup, "refused": refused, "wanted": wanted}
        return self.render("sign-in.html", request, None, status, **shown)

    async def _offer(self, request: Request) -> Response:
        if not self.parts.settings.signup:
            return self._refuse(request, None, NotFound("One cannot sign up here: ask for an API key."))
        return self._ask_company(request)

    async def _start(self, request: Request) -> Response:
        """A trial for a stranger, who is signed in with its first key and sees that once."""
        settings, given = self.parts.settings, {"company": "", "email": ""}
        if not settings.signup:
            return self._refuse(request, None, NotFound("One cannot sign up here: ask for an API key."))
        try:
            check_origin(request)
            form = await _read_form(request, FORM_BYTES)
            given = {name: form.get(name, [""])[0].strip() for name in given}
            address = source(request.scope, settings.trusted_proxies)
            async with self.parts.db.across("operate") as connection:
                created = await signups.start(
                    connection,
                    self.parts.vault,
                    **given,
                    address=address,
                    per_address=settings.signup_per_address,
                    per_day=settings.signup_per_day,
                )
            log.info("signup", tenant_id=ids.show("ten", created.tenant.id))
            page = self.render("welcome.html", request, None, tenant=created.tenant, secret=created.api_key)
            await self.sessions.open(created.api_key, page)
        except ClientDisconnect:
            return Response(status_code=400)
        except AppError as exc:
            field = exc.path[-1] if exc.path else ""
            return self._ask_company(request, given, exc.message, field, exc.status)
        return page

    def _ask_company(
        self,
        request: Request,
        given: Mapping[str, str] | None = None,
        refused: str = "",
        field: str = "",
        status: int = 200,
    ) -> Response:
        shown = {"given": given or {"company": "", "email": ""}, "refused": refused, "field": field}
        page = self.render("sign-up.html", request, None, status, days=tenants.TRIAL.days, **shown)
        if status == RateLimited.status:
            page.headers["Retry-After"] = "3600"
        return page

    async def _leave(self, visit: Visit) -> Response:
        response = RedirectResponse("/dashboard/sign-in", 303)
        self.sessions.close(response)
        return response

    async def _plan(self, visit: Visit) -> Response:
        async with self.parts.db.read(visit.tenant_id) as session:
            tenant = await tenants.get(session, visit.tenant_id)
        at = now()
        left = tenant.trial_ends_at - at if tenant.trial_ends_at else None
        return visit.show(
            "plan.html",
            tenant=tenant,
            standing=tenant.standing(at),
            left=left,
            price=self.parts.settings.price_per_device,
        )

    def _guarded(self, do: Do, most: int | None, *, page: bool = False) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            session: Session | None = None
            name = request_id()
            try:
                session = await self.sessions.read(request)
                visit = Visit(self, request, session, name)
                if most is not None:
                    visit.form = await _read_form(request, most)
                    check_form(request, session, visit.given("form_token"))
                return await do(visit)
            except Unauthenticated:
                response = RedirectResponse(_door_to(request) if page else "/dashboard/sign-in", 303)
                self.sessions.close(response)
                return response
            except ClientDisconnect:
                return Response(status_code=400)
            except AppError as exc:
                return self._refuse(request, session, exc, name)
            except Exception:
                log.exception("dashboard.page_failed", path=request.scope["path"], request_id=name)
                return self._refuse(request, session, Broken("Something broke on our side."), name)

        return handle

    def _refuse(self, request: Request, session: Session | None, exc: AppError, name: str | None = None) -> Response:
        return self._refusal(request, session, name, status=exc.status, code=exc.code, message=exc.message)

    def _refusal(
        self,
        request: Request,
        session: Session | None,
        name: str | None = None,
        *,
        status: int,
        code: str,
        message: str,
    ) -> Response:
        url = doc_url(self.parts.settings.public_url, code)
        name = name or request_id()
        shown = {"status": status, "code": code, "message": message, "doc_url": url, "name": name}
        response = self.render(
            "refused.html", request, session, status, sent=request.method not in ("GET", "HEAD"), **shown
        )
        response.headers["X-Request-Id"] = name
        return response


def _ours(path: str) -> str:
    """The path, when it is one of the dashboard's; its first page otherwise."""
    return path if WANTED.fullmatch(path) else HOME


def _door_to(request: Request) -> str:
    """The sign-in page that leads on to what was asked for."""
    query = request.url.query
    wanted = _ours(request.url.path + (f"?{query}" if query else ""))
    return "/dashboard/sign-in" + (f"?{urlencode({'to': wanted})}" if wanted != HOME else "")


async def _read_form(request: Request, most: int) -> Mapping[str, Sequence[str]]:
    """The fields of a form. InvalidInput when it is none, or too large."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise InvalidInput("This is not a form.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise InvalidInput(f"This form is too large: {most // 1024} KiB at most.")
    try:
        return parse_qs(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError:
        raise InvalidInput("This form cannot be read.") from None


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def _utc(at: datetime | None) -> str:
    return "never" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"
