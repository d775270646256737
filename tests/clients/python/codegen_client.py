"""The client that ariadne-codegen wrote: models of a page, a mutation, a refusal, and the feed over a socket."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

from punchconnect_client import Client
from punchconnect_client.exceptions import GraphQLClientGraphQLMultiError
from punchconnect_client.input_types import SiteCreateInput


async def main(url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    client = Client(
        url=url,
        headers=headers,
        ws_url=url.replace("http", "ws", 1),
        ws_connection_init_payload={"authorization": f"Bearer {key}"},
    )
    async with client:
        page = (await client.punches(first=2)).punches
        assert page is not None
        assert [bool(edge.node.id) for edge in page.edges] == [True, True]
        assert page.page_info.has_next_page

        made = await client.create_site(SiteCreateInput(name="codegen", timeZone="UTC"))
        assert made.site_create.site is not None
        assert made.site_create.site.name == "codegen"
        refused = await client.create_site(SiteCreateInput(name="codegen", timeZone="Mars"))
        assert refused.site_create.user_errors[0].code == "time_zone_unknown"

        wrong: GraphQLClientGraphQLMultiError | None = None
        try:
            await client.punches(after="nonsense")
        except GraphQLClientGraphQLMultiError as exc:
            wrong = exc
        assert wrong is not None
        assert (wrong.errors[0].extensions or {})["code"] == "cursor_invalid"

        async with aclosing(client.feed()) as feed:
            async for batch in feed:
                assert batch.punches.cursor
                break
    print("ariadne-codegen ok")


asyncio.run(main(*sys.argv[1:]))
