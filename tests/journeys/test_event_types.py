"""Each type of event as it really comes about, up to a receiver that holds it against its JSON Schema."""

from __future__ import annotations

import asyncio

from app.database import driver
from app.domain.events import EventType
from app.simulator import Terminal
from tests.journeys.rig import Rig, until
from tests.receiver import Answer, Receiver

WITHIN = 60.0

ENDPOINT = "mutation ($url: String!) { webhookEndpointCreate(input: {url: $url}) { endpoint { id } } }"
TEST = "mutation ($id: ID!) { webhookEndpointTest(input: {id: $id}) { delivery { id } userErrors { message } } }"
PERSON = 'mutation { employeeUpsert(input: {pin: "0042", name: "Zoë"}) { userErrors { message } } }'
COMMAND = """
mutation ($id: ID!) {
    deviceCommandSend(input: {deviceId: $id, command: {refreshInfo: true}}) { userErrors { message } }
}
"""


async def came(receiver: Receiver, event_type: EventType) -> None:
    """Return once one of this type did."""
    await receiver.until(
        lambda far: any(request.headers["x-punchconnect-event"] == event_type for request in far.to("/all")), WITHIN
    )


async def test_every_type_of_event_comes_as_its_schema_says(rig: Rig) -> None:
    await rig.staff(servers=1, workers=1)
    [server] = rig.servers
    customer = await rig.add_customer(1)
    receiver, key = customer.receiver, customer.api_key
    made = await server.graphql(key, ENDPOINT, url=receiver.url("/all"))
    endpoint = made["webhookEndpointCreate"]["endpoint"]["id"]
    [serial] = customer.serials
    terminal = Terminal(serial, customer.dial(server), speed=20.0)
    running = asyncio.create_task(terminal.run())

    await came(receiver, EventType.DEVICE_BOUND)
    await came(receiver, EventType.DEVICE_ONLINE)
    terminal.punch("0042")
    await came(receiver, EventType.PUNCH_CREATED)
    assert (await server.graphql(key, PERSON))["employeeUpsert"]["userErrors"] == []
    await came(receiver, EventType.PUNCH_MATCHED)
    await terminal.enrolled("0042", 6)
    await came(receiver, EventType.EMPLOYEE_ENROLLED)
    [device] = (await server.graphql(key, "{ devices { nodes { id } } }"))["devices"]["nodes"]
    assert (await server.graphql(key, COMMAND, id=device["id"]))["deviceCommandSend"]["userErrors"] == []
    await came(receiver, EventType.COMMAND_COMPLETED)
    assert (await server.graphql(key, TEST, id=endpoint))["webhookEndpointTest"]["userErrors"] == []
    await came(receiver, EventType.WEBHOOK_TEST)
    receiver.always(Answer(410), path="/gone")
    await server.graphql(key, ENDPOINT, url=receiver.url("/gone"))
    terminal.punch("0043")
    await came(receiver, EventType.WEBHOOK_ENDPOINT_DISABLED)
    terminal.stop()
    await running
    # It has been silent for longer than it may. (A server remembers for a while who was in touch: it is not asked.)
    await server.stop()
    async with rig.db.write(customer.tenant_id) as session:
        await (await driver(session)).execute("UPDATE devices SET last_seen_at = now() - interval '10 minutes'")
    await came(receiver, EventType.DEVICE_OFFLINE)

    # The receiver itself holds every body that it gets against its schema, when it closes.
    await until(lambda: _all_came(receiver), WITHIN)


async def _all_came(receiver: Receiver) -> bool:
    return {request.headers["x-punchconnect-event"] for request in receiver.to("/all")} == set(EventType)
