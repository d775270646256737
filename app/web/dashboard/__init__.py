"""/dashboard/: pages for people, made on the server. They do what they do through the verbs that GraphQL uses."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Mount, Route

from app.web.dashboard import audit, devices, employees, keys, live, punches, webhooks
from app.web.dashboard.desk import Desk as Desk
from app.web.dashboard.desk import Parts as Parts


def is_looked_at(request: Request) -> bool:
    """Whether a person's browser asks for something below /dashboard: a refusal is a page then, not JSON."""
    path = request.scope["path"]
    if path != "/dashboard" and not path.startswith("/dashboard/"):
        return False
    accepted = request.headers.get("accept", "").lower().split(",")
    return any(each.partition(";")[0].strip() == "text/html" for each in accepted)


def routes(desk: Desk) -> list[BaseRoute]:
    """/dashboard/ and what is below."""
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
