"""The bodies on the page of events are of the kind that is sent: each type is made to happen, and compared."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

from app import ids
from app.database import Database, driver
from app.domain import events, outbox, presence
from app.domain.deliveries import Disabled
from app.domain.events import EventType, webhook_body
from app.embedded import EmbeddedRedis
from app.simulator import Link
from app.vault import Vault
from tests.app.web.test_dashboard import SERIAL, opening
from tests.bodies import check
from tests.docs import events_page
from tests.factories import make_endpoint


async def test_the_bodies_shown_are_as_those_that_are_sent(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault
) -> None:
    async with opening(database_url, redis_server.url, db, vault) as office:
        tenant_id, device_id = office.tenant.tenant.id, ids.read("dev", office.device_id)
        link = Link(f"http://127.0.0.1:{office.server.port}/d/{office.tenant.enrollment_token}")
        await office.sign_in()
        await office.post("devices/site", name="Main gate", zone="UTC")
        site = (await office.http.get(f"/dashboard/devices/{office.device_id}")).text.partition('value="sit_')[2][:26]
        await office.post(f"devices/{office.device_id}", do="save", name="Front door", site=f"sit_{site}")
        await link.get(f"/iclock/cdata?SN={SERIAL}&options=all&pushver=2.4.1")
        await office.post("employees", pin="42", name="Zoë Çelik", external_id="E-042")
        await office.punch("42")
        await office.punch("43")
        await office.post("employees", pin="43", name="Omar Ouazzani")
        enrolled = b"OPLOG 6\t0\t2026-03-01 08:00:02\t42\t0\t6\t0\n"
        await link.post(f"/iclock/cdata?SN={SERIAL}&table=OPERLOG&Stamp=1", enrolled)
        await office.post(f"devices/{office.device_id}/commands", do="refreshInfo")
        polled = await link.get(f"/iclock/getrequest?SN={SERIAL}")
        report = b"ID=%b&Return=0&CMD=INFO\n" % polled.body.split(b":")[1]
        await link.post(f"/iclock/devicecmd?SN={SERIAL}", report)
    endpoint = await make_endpoint(db, vault, tenant_id, url="https://example.com/hooks/punches")
    async with db.write(tenant_id) as session:
        await outbox.send_test(session, tenant_id, endpoint.id)
    async with db.across("work", [tenant_id]) as connection:
        await outbox.announce_disabled(connection, [Disabled(tenant_id, endpoint.id, endpoint.url, "It answered 410.")])
    async with db.across("ingest", [tenant_id]) as connection:
        await connection.execute(
            "UPDATE devices SET online = true, last_seen_at = now() - interval '10 minutes' "
            "WHERE tenant_id = $1 AND id = $2",
            tenant_id,
            device_id,
        )
        await presence.miss(connection, tenant_id, timedelta(seconds=10), 10)
    async with db.read(tenant_id) as session:
        logged = await events.after(await driver(session), tenant_id, 0, 100)
    cursors = events.Cursors(vault.cursor_key)
    # The first of each type.
    last_first = reversed(logged)
    sent = {event.type: webhook_body(event.body, cursors.write(tenant_id, event.position)) for event in last_first}

    if "WRITE_BODIES" in os.environ:
        kept = {each.value: json.loads(sent[each]) for each in EventType}
        events_page.BODIES.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    shown = json.loads(events_page.BODIES.read_text())
    assert set(sent) == set(shown) == set(EventType)
    for event_type, body in sent.items():
        assert check(body) == check(json.dumps(shown[event_type]).encode()) == event_type
        assert _members(json.loads(body)) == _members(shown[event_type]), "run this test with WRITE_BODIES=1"


def _members(body: Any, path: str = "") -> set[str]:
    """The names of everything in it."""
    if not isinstance(body, dict):
        return set()
    return {f"{path}{name}" for name in body} | {
        inner for name, value in body.items() for inner in _members(value, f"{path}{name}.")
    }
