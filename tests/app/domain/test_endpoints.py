from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_network
from typing import Any
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidTag

from app import ids
from app.database import Database, driver
from app.domain import deliveries, endpoints, events, outbox
from app.domain.addresses import AddressGuard, WebhookUrlForbidden, check_url
from app.domain.deliveries import DeliveryNotFound
from app.domain.endpoints import Endpoint, EndpointNotFound, EndpointStatus
from app.domain.events import EventType
from app.errors import AppError, InvalidInput
from app.vault import Vault
from tests.conftest import MakeTenant
from tests.factories import happen, make_endpoint

RULES = partial(check_url, allow_http=False, guard=AddressGuard())
URL = "https://receiver.example/hook"


async def create(db: Database, vault: Vault, tenant_id: UUID, url: str = URL, **given: Any) -> tuple[Endpoint, str]:
    given = {"description": None, "event_types": ()} | given
    async with db.write(tenant_id) as session:
        return await endpoints.create(session, tenant_id, url, check_url=RULES, vault=vault, **given)


async def update(db: Database, tenant_id: UUID, endpoint_id: UUID, **changes: Any) -> Endpoint:
    async with db.write(tenant_id) as session:
        return await endpoints.update(session, tenant_id, endpoint_id, changes, check_url=RULES)


async def delete(db: Database, tenant_id: UUID, endpoint_id: UUID) -> None:
    async with db.write(tenant_id) as session:
        await endpoints.delete(session, tenant_id, endpoint_id)


async def look(db: Database, tenant_id: UUID, endpoint_id: UUID) -> Endpoint | None:
    async with db.read(tenant_id) as session:
        return (await endpoints.by_ids(session, tenant_id, [endpoint_id])).get(endpoint_id)


async def retry(db: Database, tenant_id: UUID, delivery_id: UUID) -> None:
    async with db.write(tenant_id) as session:
        await deliveries.retry(session, tenant_id, delivery_id)


async def owed(db: Database, tenant_id: UUID, endpoint_id: UUID) -> list[tuple[str, str, bool]]:
    """Type, status, and whether it is due at some time."""
    async with db.read(tenant_id) as session:
        rows = await (await driver(session)).fetch(
            "SELECT event_type, status, due_at IS NOT NULL FROM webhook_deliveries "
            "WHERE tenant_id = $1 AND endpoint_id = $2 ORDER BY position",
            tenant_id,
            endpoint_id,
        )
    return [tuple(row) for row in rows]


async def settle_all(db: Database, tenant_id: UUID, status: str) -> UUID:
    """All deliveries of the tenant have ended like this; the id of one."""
    async with db.write(tenant_id) as session:
        found: UUID = await (await driver(session)).fetchval(
            "UPDATE webhook_deliveries SET status = $2, due_at = NULL, completed_at = now() WHERE tenant_id = $1 "
            "RETURNING id",
            tenant_id,
            status,
        )
    return found


async def test_an_endpoint_is_created_with_a_secret_that_opens_for_it_alone(
    db: Database, vault: Vault, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id

    made, secret = await create(
        db, vault, tenant_id, description="payroll", event_types=["punch.matched", "punch.created", "punch.matched"]
    )

    endpoint = await look(db, tenant_id, made.id)
    assert endpoint is not None
    assert (endpoint.url, endpoint.description, endpoint.status) == (URL, "payroll", EndpointStatus.ENABLED)
    assert endpoint.event_types == ["punch.created", "punch.matched"]
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert endpoints.open_secret(vault, endpoint.id, tenant_id, endpoint.secret_sealed) == secret
    with pytest.raises(InvalidTag):
        endpoints.open_secret(vault, endpoint.id, ids.new(), endpoint.secret_sealed)
    with pytest.raises(InvalidTag):
        endpoints.open_secret(vault, ids.new(), tenant_id, endpoint.secret_sealed)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"url": "http://receiver.example/"}, WebhookUrlForbidden),
        ({"url": "https://127.0.0.1/"}, WebhookUrlForbidden),
        ({"url": "https://[::1]/"}, WebhookUrlForbidden),
        ({"url": ""}, WebhookUrlForbidden),
        ({"url": "\ud800"}, WebhookUrlForbidden),
        ({"event_types": ["punch.deleted"]}, InvalidInput),
        ({"event_types": ["*"]}, InvalidInput),
        ({"description": "a\x00"}, InvalidInput),
    ],
)
async def test_an_endpoint_that_could_not_work_is_refused(
    db: Database, vault: Vault, make_tenant: MakeTenant, given: dict[str, Any], kind: type[AppError]
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    endpoint = await make_endpoint(db, vault, tenant_id)
    change = {name: value for name, value in given.items() if name != "url"} or {"url": given["url"]}

    with pytest.raises(kind):
        await create(db, vault, tenant_id, **given)
    with pytest.raises(kind):
        await update(db, tenant_id, endpoint.id, status="PAUSED", **change)

    async with db.read(tenant_id) as session:
        assert await endpoints.count(session, tenant_id) == 1
    left = await look(db, tenant_id, endpoint.id)
    assert left is not None
    assert (left.url, left.status) == (URL, EndpointStatus.ENABLED)


def test_what_the_operator_allows_passes() -> None:
    check_url("http://127.0.0.1:9000/", allow_http=True, guard=AddressGuard([ip_network("127.0.0.0/8")]))


async def test_absent_is_unchanged_and_none_clears(db: Database, vault: Vault, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    made, _ = await create(db, vault, tenant_id, description="payroll", event_types=["punch.created"])

    unchanged = await update(db, tenant_id, made.id)
    cleared = await update(db, tenant_id, made.id, description=None, event_types=None)

    assert (unchanged.description, unchanged.event_types) == ("payroll", ["punch.created"])
    assert (cleared.description, cleared.event_types, cleared.url) == (None, [], URL)


@pytest.mark.parametrize("changes", [{"url": None}, {"status": None}, {"status": "DISABLED"}])
async def test_some_fields_cannot_be_cleared_or_set(
    db: Database, vault: Vault, make_tenant: MakeTenant, changes: dict[str, Any]
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    endpoint = await make_endpoint(db, vault, tenant_id)

    with pytest.raises(InvalidInput):
        await update(db, tenant_id, endpoint.id, description="x", **changes)

    left = await look(db, tenant_id, endpoint.id)
    assert left is not None
    assert left.description is None


async def test_a_pause_parks_the_backlog_and_enabling_makes_it_due(
    db: Database, vault: Vault, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    endpoint = await make_endpoint(db, vault, tenant_id)
    other = await make_endpoint(db, vault, tenant_id)
    await happen(db, tenant_id, 2)

    await update(db, tenant_id, endpoint.id, status="PAUSED")
    paused, beside = await owed(db, tenant_id, endpoint.id), await owed(db, tenant_id, other.id)
    await update(db, tenant_id, endpoint.id, status="ENABLED")

    assert paused == [("punch.created", "PENDING", False)] * 2
    assert beside == [("punch.created", "PENDING", True)] * 2
    assert await owed(db, tenant_id, endpoint.id) == [("punch.created", "PENDING", True)] * 2


async def test_enabling_a_disabled_endpoint_forgets_why(db: Database, vault: Vault, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    endpoint = await make_endpoint(db, vault, tenant_id, status="DISABLED", disabled_reason="410")

    enabled = await update(db, tenant_id, endpoint.id, status="ENABLED")

    assert (enabled.status, enabled.disabled_reason) == (EndpointStatus.ENABLED, None)


async def test_a_deleted_endpoint_is_gone_and_its_backlog_cancelled(
    db: Database, vault: Vault, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    endpoint = await make_endpoint(db, vault, tenant_id)
    await happen(db, tenant_id)

    await delete(db, tenant_id, endpoint.id)
    await happen(db, tenant_id)

    assert await look(db, tenant_id, endpoint.id) is None
    assert await owed(db, tenant_id, endpoint.id) == [("punch.created", "CANCELLED", False)]
    with pytest.raises(EndpointNotFound):
        await delete(db, tenant_id, endpoint.id)


async def test_a_rotated_secret_keeps_the_one_before_it_for_the_grace(
    db: Database, vault: Vault, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    made, first = await create(db, vault, tenant_id)
    at = datetime.now(UTC)

    async with db.write(tenant_id) as session:
        graced, second = await endpoints.rotate_secret(session, tenant_id, made.id, timedelta(hours=1), vault)
        previous = graced.previous_secret_sealed
        until = graced.previous_secret_expires_at
    async with db.write(tenant_id) as session:
        hard, third = await endpoints.rotate_secret(session, tenant_id, made.id, timedelta(0), vault)

    assert previous is not None
    assert until is not None
    assert endpoints.open_secret(vault, made.id, tenant_id, previous) == first
    assert timedelta(minutes=59) < until - at < timedelta(minutes=61)
    assert secrets_of(vault, hard) == [third]
    assert len({first, second, third}) == 3


async def rotate(db: Database, vault: Vault, endpoint: Endpoint, grace: timedelta) -> tuple[Endpoint, str]:
    async with db.write(endpoint.tenant_id) as session:
        return await endpoints.rotate_secret(session, endpoint.tenant_id, endpoint.id, grace, vault)


def secrets_of(vault: Vault, endpoint: Endpoint) -> list[str]:
    """The present one first, then those that sign beside it."""
    sealed = (endpoint.secret_sealed, endpoint.previous_secret_sealed, endpoint.older_secret_sealed)
    ends = (endpoint.previous_secret_expires_at, endpoint.older_secret_expires_at)
    assert [each is None for each in ends] == [each is None for each in sealed[1:]]
    return [endpoints.open_secret(vault, endpoint.id, endpoint.tenant_id, each) for each in sealed if each is not None]


async def test_a_second_rotation_leaves_the_first_secret_its_own_grace(
    db: Database, vault: Vault, make_tenant: MakeTenant
) -> None:
    made, first = await create(db, vault, (await make_tenant()).tenant_id)
    day = timedelta(days=1)

    once, second = await rotate(db, vault, made, day)
    twice, third = await rotate(db, vault, made, timedelta(hours=1))
    thrice, fourth = await rotate(db, vault, made, day)

    assert secrets_of(vault, once) == [second, first]
    assert secrets_of(vault, twice) == [third, second, first]
    assert twice.older_secret_expires_at == once.previous_secret_expires_at
    assert secrets_of(vault, thrice) == [fourth, third, second]
    assert thrice.older_secret_expires_at == twice.previous_secret_expires_at


async def test_a_rotation_without_grace_ends_every_older_secret(
    db: Database, vault: Vault, make_tenant: MakeTenant
) -> None:
    made, _ = await create(db, vault, (await make_tenant()).tenant_id)
    for _ in range(2):
        await rotate(db, vault, made, timedelta(days=1))

    hard, last = await rotate(db, vault, made, timedelta(0))

    assert secrets_of(vault, hard) == [last]


@pytest.mark.parametrize("over", ["previous", "older", "both"])
async def test_a_secret_whose_grace_has_ended_takes_no_place(
    db: Database, vault: Vault, make_tenant: MakeTenant, over: str
) -> None:
    made, first = await create(db, vault, (await make_tenant()).tenant_id)
    _, second = await rotate(db, vault, made, timedelta(days=1))
    _, third = await rotate(db, vault, made, timedelta(days=1))
    ended = datetime.now(UTC) - timedelta(seconds=1)
    async with db.write(made.tenant_id) as session:
        endpoint = await endpoints.get(session, made.tenant_id, made.id)
        if over != "older":
            endpoint.previous_secret_expires_at = ended
        if over != "previous":
            endpoint.older_secret_expires_at = ended

    rotated, fourth = await rotate(db, vault, made, timedelta(days=1))

    left = {"previous": [first], "older": [second], "both": []}[over]
    assert secrets_of(vault, rotated) == [fourth, third, *left]


async def test_a_grace_out_of_bounds_is_refused(db: Database, vault: Vault, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    made, first = await create(db, vault, tenant_id)

    with pytest.raises(InvalidInput):
        async with db.write(tenant_id) as session:
            await endpoints.rotate_secret(session, tenant_id, made.id, timedelta(days=8), vault)

    left = await look(db, tenant_id, made.id)
    assert left is not None
    assert endpoints.open_secret(vault, made.id, tenant_id, left.secret_sealed) == first


async def test_a_test_goes_to_one_endpoint_whatever_it_wants(
    db: Database, vault: Vault, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    endpoint = await make_endpoint(db, vault, tenant_id, event_types=["punch.created"])
    other = await make_endpoint(db, vault, tenant_id)

    async with db.write(tenant_id) as session:
        delivery_id, logged = await outbox.send_test(session, tenant_id, endpoint.id)

    async with db.read(tenant_id) as session:
        kept = await events.after(await driver(session), tenant_id, 0, 10)
        delivery = (await deliveries.by_ids(session, tenant_id, [delivery_id]))[delivery_id]
    assert kept == logged
    assert [(event.position, event.type) for event in logged] == [(1, EventType.WEBHOOK_TEST)]
    assert logged[0].data() == {"endpoint_id": ids.show("whk", endpoint.id), "url": URL}
    assert (delivery.endpoint_id, delivery.event_id, delivery.position) == (endpoint.id, logged[0].id, 1)
    assert await owed(db, tenant_id, endpoint.id) == [("webhook.test", "PENDING", True)]
    assert await owed(db, tenant_id, other.id) == []


async def test_a_disabled_endpoint_is_not_tested(db: Database, vault: Vault, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    endpoint = await make_endpoint(db, vault, tenant_id, status="DISABLED")

    with pytest.raises(InvalidInput):
        async with db.write(tenant_id) as session:
            await outbox.send_test(session, tenant_id, endpoint.id)

    assert await owed(db, tenant_id, endpoint.id) == []


async def test_an_exhausted_delivery_is_retried(db: Database, vault: Vault, make_tenant: MakeTenant) -> None:
    tenant_id = (await make_tenant()).tenant_id
    endpoint = await make_endpoint(db, vault, tenant_id)
    await happen(db, tenant_id)
    delivery_id = await settle_all(db, tenant_id, "EXHAUSTED")

    await retry(db, tenant_id, delivery_id)

    assert await owed(db, tenant_id, endpoint.id) == [("punch.created", "PENDING", True)]
    async with db.read(tenant_id) as session:
        delivery = (await deliveries.by_ids(session, tenant_id, [delivery_id]))[delivery_id]
    assert delivery.completed_at is None


async def test_a_waiting_delivery_is_due_at_once_when_retried(
    db: Database, vault: Vault, make_tenant: MakeTenant
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    await make_endpoint(db, vault, tenant_id)
    await happen(db, tenant_id)
    async with db.write(tenant_id) as session:
        delivery_id = await (await driver(session)).fetchval(
            "UPDATE webhook_deliveries SET due_at = now() + interval '1 day' WHERE tenant_id = $1 RETURNING id",
            tenant_id,
        )

    await retry(db, tenant_id, delivery_id)

    async with db.read(tenant_id) as session:
        delivery = (await deliveries.by_ids(session, tenant_id, [delivery_id]))[delivery_id]
    assert delivery.due_at is not None
    assert delivery.due_at < datetime.now(UTC) + timedelta(minutes=1)


@pytest.mark.parametrize("status", ["DELIVERED", "CANCELLED", "SENDING"])
async def test_what_has_ended_well_or_is_under_way_is_not_retried(
    db: Database, vault: Vault, make_tenant: MakeTenant, status: str
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    endpoint = await make_endpoint(db, vault, tenant_id)
    await happen(db, tenant_id)
    delivery_id = await settle_all(db, tenant_id, status)

    with pytest.raises(InvalidInput):
        await retry(db, tenant_id, delivery_id)

    assert await owed(db, tenant_id, endpoint.id) == [("punch.created", status, False)]


@pytest.mark.parametrize("fate", ["deleted", "disabled"])
async def test_nothing_is_retried_towards_an_endpoint_that_is_gone(
    db: Database, vault: Vault, make_tenant: MakeTenant, fate: str
) -> None:
    tenant_id = (await make_tenant()).tenant_id
    endpoint = await make_endpoint(db, vault, tenant_id)
    await happen(db, tenant_id)
    delivery_id = await settle_all(db, tenant_id, "EXHAUSTED")
    change = "deleted_at = now()" if fate == "deleted" else "status = 'DISABLED'"
    async with db.write(tenant_id) as session:
        await (await driver(session)).execute(
            f"UPDATE webhook_endpoints SET {change} WHERE tenant_id = $1 AND id = $2", tenant_id, endpoint.id
        )

    with pytest.raises(InvalidInput):
        await retry(db, tenant_id, delivery_id)


async def test_another_tenants_endpoint_and_delivery_are_not_found(
    db: Database, vault: Vault, make_tenant: MakeTenant
) -> None:
    mine, theirs = (await make_tenant()).tenant_id, (await make_tenant()).tenant_id
    endpoint = await make_endpoint(db, vault, theirs)
    await happen(db, theirs)
    delivery_id = await settle_all(db, theirs, "EXHAUSTED")

    for endpoint_id in (endpoint.id, ids.new()):
        with pytest.raises(EndpointNotFound):
            await update(db, mine, endpoint_id, status="PAUSED")
        with pytest.raises(EndpointNotFound):
            await delete(db, mine, endpoint_id)
        with pytest.raises(EndpointNotFound):
            async with db.write(mine) as session:
                await endpoints.rotate_secret(session, mine, endpoint_id, timedelta(0), vault)
        with pytest.raises(EndpointNotFound):
            async with db.write(mine) as session:
                await outbox.send_test(session, mine, endpoint_id)
    for one in (delivery_id, ids.new()):
        with pytest.raises(DeliveryNotFound):
            await retry(db, mine, one)

    left = await look(db, theirs, endpoint.id)
    assert left is not None
    assert left.status == EndpointStatus.ENABLED
    assert await owed(db, theirs, endpoint.id) == [("punch.created", "EXHAUSTED", False)]
