from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.exceptions import InvalidTag

from app import ids
from app.database import Database
from app.domain import enrollments, tenants
from app.domain.tenants import Plan, TenantNotFound
from app.errors import InvalidInput
from app.settings import Settings
from app.vault import Vault

SETTINGS = Settings(public_url="https://punch.example/", device_domain="in.punch.example")


async def make(db: Database, vault: Vault, name: str = "Acme") -> tenants.Created:
    async with db.across("operate") as connection:
        return await tenants.create(connection, vault, name)


async def find(db: Database, vault: Vault, text: str) -> list[object]:
    async with db.across("lookup") as connection:
        return [row[0] for row in await connection.fetch("SELECT * FROM find_enrollment($1)", vault.recognise(text))]


async def test_a_tenant_begins_on_trial_with_an_empty_log_and_an_address(db: Database, vault: Vault) -> None:
    created = await make(db, vault)

    async with db.read(created.tenant.id) as session:
        where = await enrollments.addresses(session, created.tenant.id, vault, SETTINGS)
    async with db.across("feed", [created.tenant.id]) as connection:
        heads = await connection.fetch("SELECT position FROM feed_heads")
    assert created.tenant.plan == Plan.TRIAL
    assert created.tenant.trial_ends_at == created.tenant.created_at + timedelta(days=7)
    assert [tuple(head) for head in heads] == [(0,)]
    assert where == enrollments.Addresses(
        f"https://punch.example/d/{created.enrollment_token}", f"{created.enrollment_label}.in.punch.example"
    )
    assert await find(db, vault, created.enrollment_token) == [created.tenant.id]
    assert await find(db, vault, created.enrollment_label) == [created.tenant.id]


def test_tokens_and_labels_have_their_form(vault: Vault) -> None:
    for byte in range(256):
        _, token, label = enrollments.issue(ids.new(), vault, bytes([byte]).__mul__)

        assert re.fullmatch("[a-z2-7]{20}", token)
        assert re.fullmatch("[a-z][a-z2-7]{11}", label)


def test_a_sealed_token_opens_for_its_tenant_only(vault: Vault) -> None:
    mine = ids.new()
    row, token, _ = enrollments.issue(mine, vault)

    assert vault.open(row.token_sealed, owner=row.id, purpose=f"enrollment:token:{mine}") == token
    with pytest.raises(InvalidTag):
        vault.open(row.token_sealed, owner=row.id, purpose=f"enrollment:token:{ids.new()}")


def test_without_a_device_domain_there_is_no_host() -> None:
    assert enrollments.spell("t", "l", Settings(public_url="http://x")) == enrollments.Addresses("http://x/d/t", None)


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 201])
async def test_a_tenant_with_a_name_that_is_none_is_refused(db: Database, vault: Vault, name: str) -> None:
    with pytest.raises(InvalidInput):
        await make(db, vault, name)


async def test_a_rotated_address_works_until_the_grace_ends(db: Database, vault: Vault) -> None:
    created = await make(db, vault)

    async with db.write(created.tenant.id) as session:
        await enrollments.rotate(session, created.tenant.id, timedelta(hours=1), vault)
        where = await enrollments.addresses(session, created.tenant.id, vault, SETTINGS)
    within = await find(db, vault, created.enrollment_token)
    async with db.write(created.tenant.id) as session:
        await enrollments.rotate(session, created.tenant.id, timedelta(0), vault)

    assert where is not None
    assert where.url != f"https://punch.example/d/{created.enrollment_token}"
    assert within == [created.tenant.id]
    assert await find(db, vault, created.enrollment_token) == []
    assert await find(db, vault, where.url.rpartition("/")[2]) == []


async def test_a_tenant_is_activated_and_suspended(db: Database, vault: Vault) -> None:
    created = await make(db, vault)

    async with db.across("operate") as connection:
        active = await tenants.activate(connection, created.tenant.id)
        suspended = await tenants.suspend(connection, created.tenant.id)
        listed = [tenant for tenant in await tenants.list_all(connection) if tenant.id == created.tenant.id]

    assert (active.plan, active.trial_ends_at) == ("ACTIVE", None)
    assert suspended.plan == "SUSPENDED"
    assert [(tenant.name, tenant.plan) for tenant in listed] == [("Acme", "SUSPENDED")]
    assert listed[0].created_at < datetime.now(UTC)


async def test_a_plan_stands_by_the_clock(db: Database, vault: Vault) -> None:
    tenant = (await make(db, vault)).tenant
    end = tenant.created_at + timedelta(days=7)

    assert tenant.standing(end - timedelta(seconds=1)) == Plan.TRIAL
    assert tenant.standing(end) == Plan.SUSPENDED
    tenants.check_plan(tenant, end - timedelta(seconds=1))
    with pytest.raises(tenants.TrialEnded, match="The trial ended on "):
        tenants.check_plan(tenant, end)


async def test_a_tenant_that_does_not_exist_is_not_found(db: Database) -> None:
    with pytest.raises(TenantNotFound):
        async with db.across("operate") as connection:
            await tenants.activate(connection, ids.new())
