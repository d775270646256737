"""Terminals: which there are, which wait, adding one, and one by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import groupby
from typing import Any, Final
from uuid import UUID

from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from app import ids, paging
from app.domain import (
    bindings,
    claims,
    commands,
    contacts,
    devices,
    enrollments,
    placements,
    punches,
    reconciliations,
    records,
    sites,
    terminal_users,
)
from app.domain.contacts import Contact
from app.domain.devices import DeviceStatus
from app.domain.events import Logged
from app.domain.punches import PunchView
from app.domain.reconciliations import Completeness
from app.domain.tables import now
from app.errors import InvalidInput
from app.web.dashboard.desk import Desk, Visit

#: Sites in a list to choose from.
CHOICE: Final = 100
#: Entries in the timeline of a terminal.
TIMELINE: Final = 30
#: Commands that need nothing but a click, by what people call them.
COMMANDS: Final = {
    "refreshInfo": "Ask what it is",
    "uploadNow": "Upload now",
    "syncTime": "Set its clock",
    "reboot": "Restart",
}


def routes(desk: Desk) -> list[BaseRoute]:
    """/dashboard/devices."""
    return [
        desk.get("/devices", _list),
        desk.get("/devices/add", _ask),
        desk.post("/devices/add", _add),
        desk.post("/devices/site", _site),
        desk.get("/devices/{id}", _one),
        desk.get("/devices/{id}/state", _state, page=False),
        desk.post("/devices/{id}", _change),
        desk.post("/devices/{id}/commands", _command),
    ]


async def _list(visit: Visit) -> Response:
    visit.actor.may("devices:read")
    status = visit.asked("status")
    wanted = devices.Wanted(statuses=(DeviceStatus(status),) if status in set(DeviceStatus) else None)
    asked = visit.ask("devices", devices.BY_NAME.up, wanted)
    waiting = paging.Asked(
        devices.Wanted(statuses=(DeviceStatus.PENDING,)), devices.BY_CREATED_AT.down, paging.Window(size=20)
    )
    async with visit.parts.db.read(visit.tenant_id) as session:
        page = await devices.page(session, visit.tenant_id, visit.desk.online_since(), asked)
        pending = await devices.page(session, visit.tenant_id, visit.desk.online_since(), waiting)
        places = await _sites(session, visit)
    return visit.show(
        "devices.html",
        rows=[(device, visit.desk.connection(device.last_seen_at)) for device in page.rows],
        waiting=[device for device in pending.rows if not device.registered],
        sites=places,
        site_names={site.id: site.name for site in places},
        status=status,
        statuses=list(DeviceStatus),
        turns=visit.turns(asked, page),
    )


async def _sites(session: Any, visit: Visit) -> list[sites.Site]:
    asked: paging.Asked[None] = paging.Asked(None, sites.BY_ID.up, paging.Window(size=CHOICE))
    return (await sites.page(session, visit.tenant_id, asked)).rows


async def _ask(visit: Visit) -> Response:
    visit.actor.may("devices:write")
    async with visit.parts.db.read(visit.tenant_id) as session:
        places = await _sites(session, visit)
    return visit.show("device-add.html", sites=places)


async def _add(visit: Visit) -> Response:
    visit.actor.may("devices:write")
    serial, given = visit.given("serial"), {name: value for name, value in _changes(visit).items() if value is not None}
    serial = serial.upper() if serial.islower() else serial
    async with visit.write("deviceRegister", serialNumber=serial, **_shown(given)) as act:
        device = await devices.register(
            act.session,
            visit.tenant_id,
            serial,
            name=given.get("name"),
            site_id=given.get("site_id"),
            time_zone=given.get("time_zone"),
        )
        if visit.parts.settings.shared_address == "challenge":
            claims.begin(device, now())
        act.on("dev", device.id)
    return visit.go(f"devices/{ids.show('dev', device.id)}", done="registered")


async def _site(visit: Visit) -> Response:
    visit.actor.may("devices:write")
    async with visit.write("siteCreate", name=visit.given("name"), timeZone=visit.given("zone")) as act:
        act.on("sit", (await sites.create(act.session, visit.tenant_id, visit.given("name"), visit.given("zone"))).id)
    return visit.go("devices", done="saved")


async def _one(visit: Visit) -> Response:
    visit.actor.may("devices:read")
    asked = paging.Asked(
        punches.Wanted(device_ids=(visit.id("dev"),)), punches.BY_RECEIVED_AT.down, paging.Window(size=20)
    )
    async with visit.parts.db.read(visit.tenant_id) as session:
        device = await _find(session, visit)
        places = await _sites(session, visit)
        site = (await sites.by_ids(session, visit.tenant_id, [device.site_id])) if device.site_id else {}
        stored = (await punches.count_by_device(session, visit.tenant_id, [device.id])).get(device.id, 0)
        latest = (await punches.page(session, visit.tenant_id, asked)).rows if visit.may("punches:read") else []
        strangers = await terminal_users.unknown_pins(session, visit.tenant_id, [device.id])
        rejected = await records.with_rejected(session, visit.tenant_id, [device.id])
        told = (await commands.page(session, visit.tenant_id, _commands_of(device.id))).rows
        met = await contacts.timeline(session, visit.tenant_id, device.id, TIMELINE)
        counted = (await reconciliations.by_devices(session, visit.tenant_id, [device.id])).get(device.id)
        address = (
            await enrollments.addresses(session, visit.tenant_id, visit.parts.vault, visit.parts.settings)
            if visit.may("devices:write")
            else None
        )
    noted = devices.Noted(
        unknown_users=bool(strangers.get(device.id)),
        rejected_records=bool(rejected.get(device.id)),
        count_mismatch=counted is not None and counted.state == Completeness.MISSING,
    )
    return visit.show(
        "device.html",
        device=device,
        claimed_until=claims.open_until(device, now()),
        shared=visit.parts.settings.shared_address,
        connection=visit.desk.connection(device.last_seen_at),
        flags=devices.flags(device, now(), drift=visit.parts.settings.clock_drift, noted=noted),
        site=site.get(device.site_id) if device.site_id else None,
        sites=places,
        stored=stored,
        latest=latest,
        address=address,
        commands=told,
        timeline=_merged(met, latest),
        counted=counted,
        sendable=COMMANDS,
    )


def _merged(met: Sequence[Contact], latest: Sequence[PunchView]) -> list[dict[str, Any]]:
    """The timeline with punches in it, those that came together as one entry."""
    entries = [asdict(contact) for contact in met]
    for at, batch in groupby(latest, key=lambda punch: punch.received_at):
        together = list(batch)
        late = sum(punch.buffered for punch in together)
        entries.append({"at": at, "kind": "punches", "count": len(together), "late": late})
    return sorted(entries, key=lambda entry: entry["at"], reverse=True)[:TIMELINE]


async def _find(session: Any, visit: Visit) -> devices.Device:
    device_id = visit.id("dev")
    device = (await devices.by_ids(session, visit.tenant_id, [device_id])).get(device_id)
    if device is None:
        raise devices.DeviceNotFound(device_id)
    return device


async def _state(visit: Visit) -> Response:
    """What the page of a new terminal waits for."""
    visit.actor.may("devices:read")
    async with visit.parts.db.read(visit.tenant_id) as session:
        device = await _find(session, visit)
    body = {"status": device.status, "connection": visit.desk.connection(device.last_seen_at)}
    return JSONResponse(body, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})


async def _change(visit: Visit) -> Response:
    visit.actor.may("devices:write")
    device_id, tenant_id = visit.id("dev"), visit.tenant_id
    shown = ids.show("dev", device_id)
    logged: list[Logged] = []
    match visit.given("do"):
        case "save":
            changes = _changes(visit)
            async with visit.write("deviceUpdate", id=shown, **_shown(changes)) as act:
                await devices.update(act.session, tenant_id, device_id, changes)
            done = "saved"
        case "approve":
            shared = visit.parts.settings.shared_address == "approve"
            changes = {name: value for name, value in _changes(visit).items() if value is not None}
            async with visit.write("deviceApprove", id=shown, **_shown(changes)) as act:
                _, logged = await bindings.approve(act.session, tenant_id, device_id, changes, shared=shared)
            done = "approved"
        case "suspend":
            async with visit.write("deviceSuspend", id=shown) as act:
                await devices.suspend(act.session, tenant_id, device_id)
            done = "suspended"
        case "resume":
            async with visit.write("deviceResume", id=shown) as act:
                await devices.resume(act.session, tenant_id, device_id)
            done = "resumed"
        case "retire":
            async with visit.write("deviceRetire", id=shown) as act:
                await devices.retire(act.session, tenant_id, device_id)
                logged = await commands.cancel_all(act.session, tenant_id, device_id)
                await placements.drop(act.session, tenant_id, device_id)
            done = "retired"
        case _:
            raise InvalidInput("There is no such action.")
    visit.ring(logged)
    return visit.go(f"devices/{shown}", done=done)


def _commands_of(device_id: UUID) -> paging.Asked[commands.Wanted]:
    return paging.Asked(commands.Wanted(device_ids=(device_id,)), commands.BY_ID.down, paging.Window(size=20))


async def _command(visit: Visit) -> Response:
    """Queue one, or take one back."""
    device_id, tenant_id, kind = visit.id("dev"), visit.tenant_id, visit.given("do")
    visit.actor.may("doors:unlock" if kind == "unlockDoor" else "devices:write")
    shown = ids.show("dev", device_id)
    logged: list[Logged] = []
    if kind in COMMANDS:
        async with visit.write("deviceCommandSend", deviceId=shown, command={kind: True}) as act:
            act.on("cmd", (await commands.send(act.session, tenant_id, device_id, kind, {})).id)
    elif kind == "unlockDoor":
        door = {"door": 1, "seconds": 5}
        async with visit.write("deviceCommandSend", deviceId=shown, command={kind: door}) as act:
            act.on("cmd", (await commands.send(act.session, tenant_id, device_id, kind, door)).id)
    elif kind == "backfill":
        start, end = _wall(visit, "from"), _wall(visit, "to")
        period = {"from": start.isoformat(), "to": end.isoformat()}
        async with visit.write("deviceBackfill", deviceId=shown, **period) as act:
            act.on("cmd", (await commands.backfill(act.session, tenant_id, device_id, start, end)).id)
    elif kind == "cancel":
        command_id = ids.read("cmd", visit.given("command"))
        async with visit.write("deviceCommandCancel", id=ids.show("cmd", command_id)) as act:
            _, logged = await commands.cancel(act.session, tenant_id, command_id)
    else:
        raise InvalidInput("There is no such command.")
    visit.ring(logged)
    return visit.go(f"devices/{shown}", done="cancelled" if kind == "cancel" else "told")


def _wall(visit: Visit, name: str) -> datetime:
    """A time on the terminal's wall: without a zone."""
    try:
        return datetime.fromisoformat(visit.given(name)).replace(tzinfo=None)
    except ValueError:
        raise InvalidInput("Write a time as 2026-03-01T08:00.") from None


def _changes(visit: Visit) -> dict[str, Any]:
    """The fields that the form has; an empty one clears."""
    changes: dict[str, Any] = {}
    if "name" in visit.form:
        changes["name"] = visit.given("name") or None
    if "site" in visit.form:
        changes["site_id"] = ids.read("sit", visit.given("site")) if visit.given("site") else None
    if "zone" in visit.form:
        changes["time_zone"] = visit.given("zone") or None
    return changes


def _shown(changes: dict[str, Any]) -> dict[str, Any]:
    """The same as a mutation's input would have them."""
    names = {"name": "name", "site_id": "siteId", "time_zone": "timeZone"}
    return {
        names[name]: ids.show("sit", value) if isinstance(value, UUID) else value for name, value in changes.items()
    }
