"""gql: the schema by introspection, a checked query, pages, a refusal with its code, and the feed over a socket."""

from __future__ import annotations

import asyncio
import sys

from gql import Client, gql
from gql.transport.exceptions import TransportQueryError
from gql.transport.httpx import HTTPXAsyncTransport
from gql.transport.websockets import WebsocketsTransport

PAGE = gql(
    """query Punches($after: String) {
      punches(first: 2, after: $after) {
        nodes { id pin punchedAt device { name } employee { name } }
        pageInfo { hasNextPage endCursor }
      }
    }"""
)
CREATE = gql(
    """mutation Create($input: SiteCreateInput!) {
      siteCreate(input: $input) { site { id name } userErrors { code path } idempotentReplay }
    }"""
)
FEED = gql("subscription { punches(from: BEGINNING) { cursor caughtUp punches { id pin } } }")


async def main(url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    transport = HTTPXAsyncTransport(url=url, headers=headers)
    async with Client(transport=transport, fetch_schema_from_transport=True) as session:
        PAGE.variable_values = {"after": None}
        first = (await session.execute(PAGE))["punches"]
        PAGE.variable_values = {"after": first["pageInfo"]["endCursor"]}
        second = (await session.execute(PAGE))["punches"]
        pins = [punch["pin"] for punch in first["nodes"] + second["nodes"]]
        assert len(pins) == 3, pins
        assert (first["pageInfo"]["hasNextPage"], second["pageInfo"]["hasNextPage"]) == (True, False)

        CREATE.variable_values = {"input": {"name": "gql", "timeZone": "UTC", "idempotencyKey": "gql-1"}}
        made = [(await session.execute(CREATE))["siteCreate"] for _ in range(2)]
        assert made[0]["site"] == made[1]["site"], made
        assert [one["idempotentReplay"] for one in made] == [False, True], made

        refused: TransportQueryError | None = None
        try:
            await session.execute(gql('{ device(serialNumber: "nobody") { id } }'))
        except TransportQueryError as exc:
            refused = exc
        assert refused is not None
        assert refused.errors is not None
        assert refused.errors[0]["extensions"]["code"] == "device_not_found", refused.errors

    socket = WebsocketsTransport(url=url.replace("http", "ws", 1), init_payload={"authorization": f"Bearer {key}"})
    async with Client(transport=socket) as session:
        async for batch in session.subscribe(FEED):
            assert len(batch["punches"]["punches"]) == 3, batch
            break
    print("gql ok")


asyncio.run(main(*sys.argv[1:]))
