"""Receivers, what was owed to them, and what came of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import orjson
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from app import ids
from app.database import Session, driver
from app.domain import deliveries, endpoints, events, outbox, replays
from app.domain.acts import Act
from app.domain.deliveries import DeliveryStatus
from app.domain.endpoints import EndpointStatus
from app.domain.events import EventType
from app.errors import InvalidInput
from app.web.dashboard.desk import Desk, Made, Visit

GRACE = timedelta(hours=24)
AGAIN = "If you do not have it, make a new secret on the endpoint's page."


def routes(desk: Desk) -> list[BaseRoute]:
    """/dashboard/webhooks."""
    return [
        desk.get("/webhooks", _list),
        desk.post("/webhooks", _create),
        desk.get("/webhooks/deliveries/{id}", _delivery),
        desk.post("/webhooks/deliveries/{id}", _retry),
        desk.get("/webhooks/replays/{id}", _progress, page=False),
        desk.get("/webhooks/{id}", _one),
        desk.post("/webhooks/{id}", _change),
    ]


async def _list(visit: Visit) -> Response:
    visit.actor.may("webhooks:read")
    asked = visit.ask("endpoints", endpoints.BY_ID.up, None)
    async with visit.parts.db.read(visit.tenant_id) as session:
        page = await endpoints.page(session, visit.tenant_id, asked)
    return visit.show("webhooks.html", rows=page.rows, types=list(EventType), turns=visit.turns(asked, page))


async def _create(visit: Visit) -> Response:
    visit.actor.may("webhooks:write")
    url, types = visit.given("url"), list(visit.form.get("type", ()))

    async def create(act: Act) -> Made:
        endpoint, secret = await endpoints.create(
            act.session,
            visit.tenant_id,
            url,
            description=visit.given("description") or None,
            event_types=types,
            check_url=visit.url_rules(),
            vault=visit.parts.vault,
        )
        act.on("whk", endpoint.id)
        return Made(endpoint.id, secret)

    made = await visit.once("webhookEndpointCreate", create, url=url, eventTypes=types)
    back = f"webhooks/{ids.show('whk', made.id if isinstance(made, Made) else made)}"
    note = "It signs every request to this endpoint. Check the signature before you trust a body."
    return visit.show_secret(made, "Webhook secret", back, note, AGAIN)


async def _one(visit: Visit) -> Response:
    visit.actor.may("webhooks:read")
    endpoint_id, status = visit.id("whk"), visit.asked("status")
    wanted = deliveries.Wanted(
        endpoint_ids=(endpoint_id,), statuses=(DeliveryStatus(status),) if status in set(DeliveryStatus) else None
    )
    asked = visit.ask("deliveries", deliveries.BY_ID.down, wanted, 30)
    async with visit.parts.db.read(visit.tenant_id) as session:
        endpoint = (await endpoints.by_ids(session, visit.tenant_id, [endpoint_id])).get(endpoint_id)
        if endpoint is None:
            raise endpoints.EndpointNotFound(endpoint_id)
        page = await deliveries.page(session, visit.tenant_id, asked)
        replay = await _replay(session, visit)
    return visit.show(
        "webhook.html",
        endpoint=endpoint,
        replay=replay,
        rows=page.rows,
        status=status,
        statuses=list(DeliveryStatus),
        turns=visit.turns(asked, page),
    )


async def _replay(session: Session, visit: Visit) -> replays.Replay | None:
    """The one that was just started."""
    if not visit.asked("replay"):
        return None
    replay_id = ids.read("rep", visit.asked("replay"))
    return (await replays.by_ids(session, visit.tenant_id, [replay_id])).get(replay_id)


async def _progress(visit: Visit) -> Response:
    """How far a replay is, for the page that shows it."""
    visit.actor.may("webhooks:read")
    replay_id = visit.id("rep")
    async with visit.parts.db.read(visit.tenant_id) as session:
        replay = (await replays.by_ids(session, visit.tenant_id, [replay_id])).get(replay_id)
    if replay is None:
        raise replays.ReplayNotFound(replay_id)
    body = {"status": replay.status, "done": replay.done, "total": replay.total}
    return JSONResponse(body, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})


async def _change(visit: Visit) -> Response:
    visit.actor.may("webhooks:write")
    endpoint_id, tenant_id = visit.id("whk"), visit.tenant_id
    shown = ids.show("whk", endpoint_id)
    here = f"webhooks/{shown}"
    match visit.given("do"):
        case "test":

            async def test(act: Act) -> Made:
                delivery_id, logged = await outbox.send_test(act.session, tenant_id, endpoint_id)
                act.on("whd", delivery_id)
                return Made(delivery_id, logged=logged)

            made = await visit.once("webhookEndpointTest", test, id=shown)
            delivery_id, done = (made.id, "queued") if isinstance(made, Made) else (made, "repeated")
            return visit.go(f"webhooks/deliveries/{ids.show('whd', delivery_id)}", done=done)
        case "rotate":

            async def rotate(act: Act) -> Made:
                _, secret = await endpoints.rotate_secret(act.session, tenant_id, endpoint_id, GRACE, visit.parts.vault)
                return Made(endpoint_id, secret)

            grace = GRACE // timedelta(seconds=1)
            made = await visit.once("webhookEndpointRotateSecret", rotate, id=shown, graceSeconds=grace)
            note = "The secret before it signs as well for 24 hours: change your receiver within that time."
            return visit.show_secret(made, "New webhook secret", here, note, AGAIN)
        case "delete":
            async with visit.write("webhookEndpointDelete", id=shown) as act:
                await endpoints.delete(act.session, tenant_id, endpoint_id)
            return visit.go("webhooks", done="deleted")
        case "replay":
            since, undelivered = _moment(visit.given("since")), "undelivered" in visit.form
            asked = {"since": since.isoformat(), "onlyUndelivered": undelivered}
            async with visit.write("webhookReplay", endpointId=shown, **asked) as act:
                replay = await replays.start(
                    act.session,
                    tenant_id,
                    endpoint_id,
                    since,
                    None,
                    event_types=None,
                    only_undelivered=undelivered,
                )
                act.on("rep", replay.id)
            return visit.go(here, done="replaying", replay=ids.show("rep", replay.id))
        case "pause" | "enable" as wanted:
            status = EndpointStatus.PAUSED if wanted == "pause" else EndpointStatus.ENABLED
            async with visit.write("webhookEndpointUpdate", id=shown, status=str(status)) as act:
                await endpoints.update(
                    act.session, tenant_id, endpoint_id, {"status": status}, check_url=visit.url_rules()
                )
            visit.ring_workers()
            return visit.go(here, done="saved")
    raise InvalidInput("There is no such action.")


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise InvalidInput("Write a time as 2026-03-01T08:00.") from None


async def _delivery(visit: Visit) -> Response:
    visit.actor.may("webhooks:read")
    delivery_id = visit.id("whd")
    async with visit.parts.db.read(visit.tenant_id) as session:
        delivery = (await deliveries.by_ids(session, visit.tenant_id, [delivery_id])).get(delivery_id)
        if delivery is None:
            raise deliveries.DeliveryNotFound(delivery_id)
        attempts = (await deliveries.attempts_by_delivery(session, visit.tenant_id, [delivery_id]))[delivery_id]
        stored = await events.bodies(await driver(session), visit.tenant_id, [delivery.position])
    body = None
    if (text := stored.get(delivery.position)) is not None:
        sent = events.webhook_body(text, visit.parts.cursors.write(visit.tenant_id, delivery.position))
        body = orjson.dumps(orjson.loads(sent), option=orjson.OPT_INDENT_2).decode()
    return visit.show("delivery.html", delivery=delivery, attempts=attempts, body=body)


async def _retry(visit: Visit) -> Response:
    visit.actor.may("webhooks:write")
    delivery_id = visit.id("whd")
    async with visit.write("webhookDeliveryRetry", id=ids.show("whd", delivery_id)) as act:
        await deliveries.retry(act.session, visit.tenant_id, delivery_id)
    visit.ring_workers()
    return visit.go(f"webhooks/deliveries/{ids.show('whd', delivery_id)}", done="queued")
