"""API keys: make, rotate, revoke. A new one is shown once."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from starlette.responses import Response
from starlette.routing import BaseRoute

from app import ids
from app.domain import keys
from app.domain.tables import now
from app.errors import InvalidInput
from app.web.dashboard.desk import Desk, Visit

GRACE: Final = timedelta(hours=24)


def routes(desk: Desk) -> list[BaseRoute]:
    """/dashboard/keys."""
    return [desk.get("/keys", _list), desk.post("/keys", _create), desk.post("/keys/{id}", _change)]


async def _list(visit: Visit) -> Response:
    visit.actor.may("keys:write")
    asked = visit.ask("keys", keys.BY_ID.down, None)
    async with visit.parts.db.read(visit.tenant_id) as session:
        page = await keys.page(session, visit.tenant_id, asked)
    return visit.show(
        "keys.html",
        rows=page.rows,
        own=visit.actor.key_id,
        at=now(),
        grantable=[scope for scope in keys.SCOPES if scope in visit.actor.scopes],
        turns=visit.turns(asked, page),
    )


async def _create(visit: Visit) -> Response:
    visit.actor.may("keys:write")
    try:
        days = int(visit.given("days") or 0)
    except ValueError:
        raise InvalidInput("Write the days as a number.") from None
    if not 0 <= days <= 3650:
        raise InvalidInput("A key lasts 1 to 3650 days, or without an end.")
    name, scopes = visit.given("name"), list(visit.form.get("scope", ()))
    async with visit.write("apiKeyCreate", name=name, scopes=scopes) as act:
        key, secret = await keys.create(
            act.session,
            visit.actor,
            name,
            scopes,
            expires_at=now() + timedelta(days=days) if days else None,
            vault=visit.parts.vault,
        )
        act.on("key", key.id)
    note = "Keep it where your program finds it, not in its code. It stops working when you revoke it here."
    return visit.show("secret.html", what="New API key", secret=secret, back="keys", note=note)


async def _change(visit: Visit) -> Response:
    visit.actor.may("keys:write")
    key_id = visit.id("key")
    shown = ids.show("key", key_id)
    match visit.given("do"):
        case "rotate":
            async with visit.write("apiKeyRotate", id=shown, graceSeconds=GRACE // timedelta(seconds=1)) as act:
                key, secret = await keys.rotate(act.session, visit.actor, key_id, GRACE, visit.parts.vault)
                act.on("key", key.id)
            note = "The key before it works for 24 hours more."
            return visit.show("secret.html", what="New API key", secret=secret, back="keys", note=note)
        case "revoke":
            async with visit.write("apiKeyRevoke", id=shown) as act:
                await keys.revoke(act.session, visit.tenant_id, key_id)
            return visit.go("keys", done="revoked")
    raise InvalidInput("There is no such action.")
