"""API keys: make, rotate, revoke. A new one is shown once."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from starlette.responses import Response
from starlette.routing import BaseRoute

from app import ids
from app.domain import keys
from app.domain.acts import Act
from app.domain.tables import now
from app.errors import InvalidInput
from app.web.dashboard.desk import Desk, Made, Visit

GRACE: Final = timedelta(hours=24)
AGAIN: Final = "If you do not have it, revoke the key and make another."


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
        days = int(visit.given("days")) if visit.given("days") else None
    except ValueError:
        raise InvalidInput("Write the days as a number.") from None
    if days is not None and not 1 <= days <= 3650:
        raise InvalidInput("A key lasts 1 to 3650 days, or without an end when you leave that empty.")
    name, scopes = visit.given("name"), list(visit.form.get("scope", ()))

    async def create(act: Act) -> Made:
        key, secret = await keys.create(
            act.session,
            visit.actor,
            name,
            scopes,
            expires_at=now() + timedelta(days=days) if days else None,
            vault=visit.parts.vault,
        )
        act.on("key", key.id)
        return Made(key.id, secret)

    made = await visit.once("apiKeyCreate", create, name=name, scopes=scopes)
    note = "Keep it where your program finds it, not in its code. It stops working when you revoke it here."
    return visit.show_secret(made, "New API key", "keys", note, AGAIN)


async def _change(visit: Visit) -> Response:
    visit.actor.may("keys:write")
    key_id = visit.id("key")
    shown = ids.show("key", key_id)
    match visit.given("do"):
        case "rotate":

            async def rotate(act: Act) -> Made:
                key, secret = await keys.rotate(act.session, visit.actor, key_id, GRACE, visit.parts.vault)
                act.on("key", key.id)
                return Made(key.id, secret)

            grace = GRACE // timedelta(seconds=1)
            made = await visit.once("apiKeyRotate", rotate, id=shown, graceSeconds=grace)
            note = "The key before it works for 24 hours more."
            return visit.show_secret(made, "New API key", "keys", note, AGAIN)
        case "revoke":
            async with visit.write("apiKeyRevoke", id=shown) as act:
                await keys.revoke(act.session, visit.tenant_id, key_id)
            return visit.go("keys", done="revoked")
    raise InvalidInput("There is no such action.")
