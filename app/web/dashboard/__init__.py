"""/dashboard/: pages for people, made on the server. They do what they do through the verbs that GraphQL uses."""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route

from app.web.dashboard import audit, devices, employees, keys, live, punches, webhooks
from app.web.dashboard.desk import Desk
from app.web.dashboard.desk import Parts as Parts


def routes(parts: Parts) -> list[BaseRoute]:
    """/dashboard/ and what is below."""
    desk = Desk(parts)
    pages = [
        *desk.doors(),
        *live.routes(desk),
        *devices.routes(desk),
        *punches.routes(desk),
        *employees.routes(desk),
        *webhooks.routes(desk),
        *keys.routes(desk),
        *audit.routes(desk),
    ]
    return [Route("/dashboard", lambda _: RedirectResponse("/dashboard/")), Mount("/dashboard", routes=pages)]
