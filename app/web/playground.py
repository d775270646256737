"""/playground: GraphiQL out of the package, with a key that stays in the tab.

The page itself knows no key. Only where the operator gave a demo key (`dev` does), a browser on this very machine is
handed it along: it must have come over loopback, and under a host name that the server answers to.
"""

from __future__ import annotations

import html
from ipaddress import ip_address
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from app.settings import Settings
from app.web import assets

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Playground · PunchConnect</title>
<link rel="icon" href="{icon}">
<link rel="stylesheet" href="{graphiql_css}">
<link rel="stylesheet" href="{css}">
</head>
<body data-demo-key="{demo_key}" data-examples="{examples}">
<header>
  <a class="brand" href="/">PunchConnect</a>
  <label for="example">Example</label>
  <select id="example"></select>
  <span class="space"></span>
  <span id="who" role="status"></span>
  <button id="forget" type="button" hidden>Forget key</button>
  <a href="/docs/">Docs</a>
  <a href="/dashboard/">Dashboard</a>
</header>
<main>
  <form id="ask" hidden>
    <h1>GraphQL playground</h1>
    <p>Paste an API key. It stays in this tab, is sent to this server only, and is gone when you close the tab.</p>
    <label for="key">API key</label>
    <input id="key" type="password" autocomplete="off" spellcheck="false" placeholder="pc_live_…" required>
    <p id="refused" role="alert"></p>
    <button type="submit">Open</button>
    <noscript><p>The playground needs JavaScript.</p></noscript>
  </form>
  <div id="graphiql" hidden></div>
</main>
<script src="{react}"></script>
<script src="{react_dom}"></script>
<script src="{graphql_ws}"></script>
<script src="{graphiql}"></script>
<script src="{script}"></script>
</body>
</html>
"""


def routes(settings: Settings) -> list[Route]:
    """/playground."""

    async def page(request: Request) -> Response:
        key = demo_key(request, settings)
        text = _PAGE.format(
            demo_key=html.escape(key or "", quote=True),
            icon=assets.url("icon.svg"),
            examples=assets.url("playground/examples.json"),
            graphiql_css=assets.url("vendor/graphiql-4.1.2.min.css"),
            css=assets.url("playground/playground.css"),
            react=assets.url("vendor/react-18.3.1.min.js"),
            react_dom=assets.url("vendor/react-dom-18.3.1.min.js"),
            graphql_ws=assets.url("vendor/graphql-ws-6.4.2.min.js"),
            graphiql=assets.url("vendor/graphiql-4.1.2.min.js"),
            script=assets.url("playground/playground.js"),
        )
        # GraphiQL's menus write style elements; scripts are ours alone.
        return HTMLResponse(text, headers=assets.page_headers(styles="'self' 'unsafe-inline'"))

    return [Route("/playground", page), Route("/playground/", lambda _: RedirectResponse("/playground"))]


def demo_key(request: Request, settings: Settings) -> str | None:
    """The operator's demo key, for a browser on this machine; None for everybody else."""
    if settings.demo_key is None or not settings.allowed_hosts or request.client is None:
        return None
    try:
        near = ip_address(request.client.host).is_loopback
    except ValueError:
        return None
    # A proxy on this machine would make the whole world near.
    forwarded = any(name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip"))
    return settings.demo_key.get_secret_value() if near and not forwarded else None
