"""Who did what, and when: the audit log, to read."""

from __future__ import annotations

from typing import Any, Final

import orjson
from starlette.responses import Response
from starlette.routing import BaseRoute

from app import ids
from app.domain import audit, keys
from app.domain.audit import AuditEntry, AuditSource
from app.web.dashboard.desk import Desk, Visit

#: What has a page, by the kind of its id.
PAGES: Final = {"dev": "devices", "emp": "employees", "whk": "webhooks", "whd": "webhooks/deliveries"}


def routes(desk: Desk) -> list[BaseRoute]:
    """/dashboard/audit."""
    return [desk.get("/audit", _list)]


async def _list(visit: Visit) -> Response:
    visit.actor.may("audit:read")
    action, source, target = visit.asked("action"), visit.asked("source"), visit.asked("target")
    wanted = audit.Wanted(
        actions=(action,) if action else None,
        sources=(AuditSource(source),) if source in set(AuditSource) else None,
        target_ids=(ids.split(target)[1],) if target else None,
    )
    asked = visit.ask("audit", audit.BY_ID.down, wanted)
    async with visit.parts.db.read(visit.tenant_id) as session:
        page = await audit.page(session, visit.tenant_id, asked)
        found = [entry.key_id for entry in page.rows if entry.key_id is not None]
        known = await keys.by_ids(session, visit.tenant_id, found)
    return visit.show(
        "audit.html",
        rows=[_shown(entry) for entry in page.rows],
        names={key_id: key.name for key_id, key in known.items()},
        asked={"action": action, "source": source, "target": target},
        sources=list(AuditSource),
        turns=visit.turns(asked, page),
    )


def _shown(entry: AuditEntry) -> dict[str, Any]:
    kind, target = entry.target_kind, entry.target_id
    name = ids.show(kind, target) if kind and target else None  # type: ignore[arg-type]
    return {
        "entry": entry,
        "target": name,
        "page": f"{PAGES[kind]}/{name}" if kind in PAGES else None,
        "detail": orjson.dumps(entry.detail).decode() if entry.detail else "",
    }
