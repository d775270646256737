"""The whole API at an address, over its own feed, and what its subscribers see."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.broadcast import Bell
from app.database import Database
from app.domain import outbox
from app.domain.devices import Device
from app.domain.events import Cursors
from app.domain.feed import Feed
from app.domain.keys import KeyRing
from app.settings import Settings
from app.vault import Vault
from app.web.wire import Http
from schema.api import GraphQLApi, Parts
from tests.schema.sockets import Client, serving
from tests.schema.world import add_punches, make_view

FEED = """
subscription($after: String, $from: FeedStart, $filter: PunchFilter, $maxBatch: Int) {
  punches(after: $after, from: $from, filter: $filter, maxBatch: $maxBatch) {
    cursor previousCursor caughtUp headLag
    punches { id pin raw punchedAt direction device { serialNumber site { name } } employee { name } }
  }
}
"""


@dataclass
class Served:
    """The API at an address, over its own feed."""

    url: str
    parts: Parts
    api: GraphQLApi

    async def punch(self, tenant_id: UUID, device: Device, *numbers: int, pin: str = "7") -> list[str]:
        """Punches of some minutes after nine, committed and rung; their PINs say which."""
        views = [make_view(device.id, number, pin=f"{pin}{number}") for number in numbers]
        logged = await add_punches(self.parts.db, tenant_id, device, views)
        outbox.ring(self.parts.bell, self.parts.vault.bus_key, logged)
        return [view.pin for view in views]


async def start(stack: AsyncExitStack, settings: Settings, database_url: str, vault: Vault) -> Served:
    db, bell, cursors = Database(database_url), Bell(None), Cursors(vault.cursor_key)
    feed = Feed(db, bell, cursors, vault.bus_key)
    parts = Parts(settings, db, vault, cursors, bell, feed, KeyRing(db, vault))
    api = GraphQLApi(parts)
    for part in (db, bell, feed, api):
        await part.start()
        stack.push_async_callback(part.stop)

    async def whole(scope: Any, receive: Any, send: Any) -> None:
        await (api.http if scope["type"] == "http" else api.sockets)(scope, receive, send)

    return Served(await stack.enter_async_context(serving(whole, http=Http)), parts, api)


async def batch(client: Client, id: str = "1") -> dict[str, Any]:
    payload = await client.next(id)
    assert "errors" not in payload, payload
    found: dict[str, Any] = payload["data"]["punches"]
    return found


def pins(batch: dict[str, Any]) -> list[str]:
    return [punch["pin"] for punch in batch["punches"]]
