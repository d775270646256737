"""Tenants that have one of everything, under names that nobody else has; and all that the database holds of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from uuid import UUID, uuid4

import asyncpg

from app import ids
from app.database import Database, driver
from app.domain import audit, keys, outbox, roster, tenants
from app.domain.roster import Person
from app.domain.sites import Site
from app.vault import Vault
from schema import schema
from tests.factories import make_device, make_endpoint
from tests.schema.feeds import Served
from tests.schema.operations import CALLS, It
from tests.schema.sockets import acknowledged
from tests.schema.world import World, add_punches, make_view, make_world

_numbers = count(1)
#: What moves without anybody's doing.
RESTLESS = ("last_used_at",)


@dataclass(frozen=True, slots=True)
class Party:
    """A tenant, a key of it that may do everything, and its names."""

    tenant_id: UUID
    api_key: str
    world: World
    names: dict[It, str]


async def make_party(db: Database, vault: Vault) -> Party:
    """A new tenant with one of everything."""
    async with db.across("operate") as connection:
        created = await tenants.create(connection, vault, "Acme", scopes=keys.SCOPES)
    world = await make_world(db, vault, created.tenant.id)
    names = await names_of(db, vault, world)
    async with db.write(world.tenant_id) as session:
        # Each mutation was called under this key before, with arguments of which nobody knows.
        connection = await session.connection()
        mutation = schema.core.mutation_type
        for field in mutation.fields if mutation else ():
            await connection.exec_driver_sql(
                "INSERT INTO idempotency_keys (tenant_id, field, key, fingerprint, outcome, created_at) "
                f"VALUES ('{world.tenant_id}', '{field}', '{names[It.IDEMPOTENCY_KEY]}', '\\x00', '{{}}', now())"
            )
    return Party(world.tenant_id, created.api_key, world, names)


async def names_of(db: Database, vault: Vault, world: World) -> dict[It, str]:
    """A name for each `It` in a tenant; what `make_world` has not is made."""
    tenant_id, texts = world.tenant_id, _texts()
    pending = await make_device(
        db,
        tenant_id,
        name=texts[It.DEVICE_NAME],
        status="PENDING",
        registered=False,
        time_zone=None,
        bound_addresses=[],
    )
    pair = [keys.issue(tenant_id, name, keys.SCOPES, None, vault)[0] for name in (texts[It.KEY_NAME], "spare")]
    async with db.across("operate") as connection:
        for key in pair:
            await keys.add(connection, key)
    empty = Site(tenant_id=tenant_id, name=texts[It.SITE_NAME], time_zone="UTC")
    async with db.write(tenant_id) as session:
        session.add(empty)
        fields = {"name": texts[It.PERSON], "external_id": texts[It.EXTERNAL_ID], "card_number": texts[It.CARD]}
        person, _ = await roster.upsert(session, tenant_id, Person(texts[It.PIN], fields, [world.device.id]))
    async with db.write(tenant_id) as session:
        connection = await driver(session)
        author = audit.Author(audit.AuditSource.API, pair[0].id)
        await audit.add(connection, tenant_id, author, "deviceResume", targets=[("dev", world.device.id)])
        entry = await connection.fetchval("SELECT id FROM audit_entries WHERE key_id = $1", pair[0].id)
    punch = make_view(world.device.id, 3, pin=texts[It.PIN])
    await add_punches(db, tenant_id, world.device, [punch])
    await make_endpoint(db, vault, tenant_id, texts[It.URL], description=texts[It.NOTE], event_types=["webhook.test"])
    return texts | {
        It.TENANT: ids.show("ten", tenant_id),
        It.KEY: ids.show("key", pair[0].id),
        It.SPARE_KEY: ids.show("key", pair[1].id),
        It.SITE: ids.show("sit", world.site.id),
        It.EMPTY_SITE: ids.show("sit", empty.id),
        It.DEVICE: ids.show("dev", world.device.id),
        It.PENDING: ids.show("dev", pending.id),
        It.REJECTED: ids.show("rej", world.rejected.id),
        It.COMMAND: ids.show("cmd", world.command.id),
        It.EMPLOYEE: ids.show("emp", person.id),
        It.PUNCH: ids.show("pun", punch.id),
        It.EVENT: ids.show("evt", world.delivery.event_id),
        It.ENDPOINT: ids.show("whk", world.endpoint.id),
        It.DELIVERY: ids.show("whd", world.delivery.id),
        It.REPLAY: ids.show("rep", world.replay.id),
        It.ENTRY: ids.show("aud", entry),
        It.SERIAL: world.device.serial_number,
        It.UUID: str(world.delivery.id),
    }


async def stir(here: Served, party: Party) -> None:
    """A punch comes, a device is suspended, a command and a delivery move: something of each kind that is followed."""
    view = make_view(party.world.device.id, 50, pin=party.names[It.PIN])
    logged = await add_punches(here.parts.db, party.tenant_id, party.world.device, [view])
    outbox.ring(here.parts.bell, here.parts.vault.bus_key, logged)
    async with acknowledged(here.url, party.api_key) as client:
        for call in CALLS:
            if call.name in ("deviceSuspend", "deviceCommandCancel", "webhookDeliveryRetry"):
                await client.subscribe(call.document(), id=call.name, variables=call.variables(party.names))
                assert (await client.next(call.name))["data"]["answer"]["userErrors"] == []
                await client.complete(call.name)


def nobody() -> dict[It, str]:
    """Names of the same kinds that belong to nobody."""
    return _texts() | {It.UUID: str(uuid4())} | {it: ids.show(it.prefix, ids.new()) for it in It if it.prefix}


def _texts() -> dict[It, str]:
    """Texts that were never used before. They are of one length."""
    number = next(_numbers)
    return {it: f"{it.value}{number:05}" for it in It if it.prefix is None}


async def rows_of(owner: asyncpg.Connection, tenant_id: UUID) -> dict[str, list[str]]:
    """All rows of a tenant in all tables, as text, less what moves by itself. `owner` is a superuser, who sees them."""
    tables = await owner.fetch(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' "
        "WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    parts = [
        f"SELECT '{name}' AS name, (to_jsonb(t) - $2::text[])::text AS line FROM {name} t WHERE {column} = $1"
        for name, column in [("tenants", "id"), *((table["relname"], "tenant_id") for table in tables)]
    ]
    found: dict[str, list[str]] = {"tenants": [], **{table["relname"]: [] for table in tables}}
    for row in await owner.fetch(" UNION ALL ".join(parts) + " ORDER BY 1, 2", tenant_id, list(RESTLESS)):
        found[row["name"]].append(row["line"])
    assert found["tenants"], "only a superuser sees them"
    return found


def counts(rows: Mapping[str, list[str]]) -> dict[str, int]:
    """How many there are of each."""
    return {table: len(lines) for table, lines in rows.items()}
