"""What is sent is as /schemas/ says."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import orjson
import pytest

from app.database import Database, driver
from app.domain import events, outbox, payloads
from app.domain.deliveries import Disabled
from app.domain.events import EventType, webhook_body
from app.main import Application
from app.settings import Settings
from app.vault import Vault
from tests.bodies import check
from tests.conftest import SECRET_KEY
from tests.factories import make_device, make_endpoint, make_tenant
from tests.schema.world import add_punches, make_view


@pytest.mark.parametrize("event_type", EventType)
def test_every_type_of_event_has_a_schema_that_is_one(event_type: EventType) -> None:
    schema = payloads.schema(event_type)

    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["type"] == {"const": event_type.value}
    assert schema["properties"]["data"]["required"] or schema["properties"]["data"]["$ref"]


async def test_schemas_are_served_to_anybody() -> None:
    settings = Settings(_env_file=None, database_url="postgresql://x@127.0.0.1/x", secret_key=SECRET_KEY)
    transport = httpx.ASGITransport(Application(settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://punchconnect.test") as client:
        index = (await client.get("/schemas/")).json()
        found = await client.get("/schemas/punch.created.json")

    assert list(index) == [event_type.value for event_type in EventType]
    assert found.json()["$id"] == index["punch.created"] == "http://127.0.0.1:8080/schemas/punch.created.json"
    assert found.headers["content-type"] == "application/schema+json"


async def test_what_is_sent_is_as_its_schema_says(db: Database, vault: Vault) -> None:
    tenant_id = (await make_tenant(db)).tenant_id
    device = await make_device(db, tenant_id, name="Gate")
    endpoint = await make_endpoint(db, vault, tenant_id)
    await add_punches(db, tenant_id, device, [make_view(device.id, n) for n in range(3)])
    async with db.write(tenant_id) as session:
        await outbox.send_test(session, tenant_id, endpoint.id)
    async with db.across("work", [tenant_id]) as connection:
        await outbox.announce_disabled(connection, [Disabled(tenant_id, endpoint.id, endpoint.url, "Gone.")])
    async with db.read(tenant_id) as session:
        logged = await events.after(await driver(session), tenant_id, 0, 100)

    assert [check(webhook_body(event.body, "cursor")) for event in logged] == [
        *["punch.created"] * 3,
        "webhook.test",
        "webhook.endpoint_disabled",
    ]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.pin", 42),
        ("data.direction", "sideways"),
        ("data.device.id", "sit_0"),
        ("type", "x"),
        ("feed_cursor", None),
    ],
)
async def test_a_schema_refuses_what_we_never_send(db: Database, path: str, value: Any) -> None:
    tenant_id = (await make_tenant(db)).tenant_id
    device = await make_device(db, tenant_id)
    [event] = await add_punches(db, tenant_id, device, [make_view(device.id)])
    sent = orjson.loads(webhook_body(event.body, "cursor"))
    *way, last = path.split(".")
    inner = sent
    for step in way:
        inner = inner[step]
    inner[last] = value

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(payloads.schema(EventType.PUNCH_CREATED)).validate(sent)
