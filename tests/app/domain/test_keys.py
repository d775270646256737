from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from app import ids
from app.database import Database
from app.domain import keys, tenants
from app.domain.keys import SCOPES, Actor, ApiKeyNotFound, KeyRing, PermissionDenied, Unauthenticated
from app.errors import InvalidInput, ServiceUnavailable
from app.vault import Vault
from tests.conftest import MakeTenant

NOUGHT = bytes(32)


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


async def make(db: Database, vault: Vault) -> tenants.Created:
    async with db.across("operate") as connection:
        return await tenants.create(connection, vault, "Keys")


def actor_of(created: tenants.Created, *scopes: str, expires_at: datetime | None = None) -> Actor:
    return Actor(created.tenant.id, created.api_key_id, frozenset(scopes or SCOPES), "TRIAL", expires_at)


async def revoke(db: Database, tenant_id: UUID, key_id: UUID) -> None:
    async with db.write(tenant_id) as session:
        await keys.revoke(session, tenant_id, key_id)


def test_a_key_is_written_from_its_bytes() -> None:
    least, most = keys.write_secret(NOUGHT), keys.write_secret(b"\xff" * 32)

    assert least == "pc_live_" + "0" * 43 + "0pVVDb"
    assert len(most) == 57
    assert keys.is_whole(least)
    assert keys.is_whole(most)


def test_one_wrong_letter_breaks_the_checksum() -> None:
    secret = keys.write_secret(bytes(range(32)))

    for place in range(len(secret)):
        other = "A" if secret[place] != "A" else "B"
        assert not keys.is_whole(secret[:place] + other + secret[place + 1 :])
    assert not keys.is_whole(secret[:-1])
    assert not keys.is_whole(secret + "0")
    assert not keys.is_whole("")


def test_an_issued_key_is_kept_as_a_hash_and_a_prefix(vault: Vault) -> None:
    key, secret = keys.issue(ids.new(), "door", ["keys:write", "punches:read"], None, vault, secret_bytes=NOUGHT)

    assert secret == keys.write_secret(NOUGHT)
    assert key.prefix == "pc_live_0000"
    assert key.hash == vault.recognise(secret)
    assert key.scopes == ["punches:read", "keys:write"]
    assert secret not in repr(key)


@pytest.mark.parametrize("scopes", [[], ["punches:write"], ["punches:read", "*"], ["\ud800"]])
def test_a_key_without_known_scopes_is_refused(vault: Vault, scopes: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        keys.issue(ids.new(), "door", scopes, None, vault)

    assert refused.value.path == ("input", "scopes")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x7fb", "a\x00b", "\ud800", "x" * 201])
def test_a_key_with_a_name_that_is_none_is_refused(vault: Vault, name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        keys.issue(ids.new(), name, ["punches:read"], None, vault)

    assert refused.value.path == ("input", "name")


async def test_a_key_says_who_is_calling(db: Database, vault: Vault) -> None:
    created = await make(db, vault)

    actor = await KeyRing(db, vault).authenticate(f"Bearer {created.api_key}")

    assert actor == Actor(created.tenant.id, created.api_key_id, frozenset(SCOPES), "TRIAL", None)
    assert actor.may("keys:write") is actor


def test_an_actor_without_the_scope_is_refused() -> None:
    actor = Actor(ids.new(), ids.new(), frozenset({"punches:read"}), "TRIAL")

    with pytest.raises(PermissionDenied):
        actor.may("punches:write")


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer pc_live_x", keys.write_secret(NOUGHT), "Bearer \ud800"],
)
async def test_what_is_no_key_is_refused_without_asking_the_database(vault: Vault, header: str | None) -> None:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/nothing")

    with pytest.raises(Unauthenticated):
        await KeyRing(nowhere, vault).authenticate(header)


async def test_the_scheme_is_read_in_any_case(db: Database, vault: Vault) -> None:
    created = await make(db, vault)

    actor = await KeyRing(db, vault).authenticate(f"bearer  {created.api_key}")

    assert actor.key_id == created.api_key_id


async def test_a_key_that_nobody_has_is_refused(db: Database, vault: Vault) -> None:
    with pytest.raises(Unauthenticated):
        await KeyRing(db, vault).authenticate(f"Bearer {keys.write_secret(ids.new().bytes * 2)}")


async def test_without_a_database_nobody_is_refused_for_good(vault: Vault) -> None:
    nowhere = Database("postgresql://nobody@127.0.0.1:1/nothing")

    with pytest.raises(ServiceUnavailable):
        await KeyRing(nowhere, vault).authenticate(f"Bearer {keys.write_secret(NOUGHT)}")


async def test_a_revoked_key_stops_within_two_seconds(db: Database, vault: Vault) -> None:
    created, clock = await make(db, vault), Clock()
    async with db.write(created.tenant.id) as session:
        key, secret = await keys.create(
            session, actor_of(created), "second", ["punches:read"], expires_at=None, vault=vault
        )
    ring = KeyRing(db, vault, clock=clock)
    await ring.authenticate(f"Bearer {secret}")

    await revoke(db, created.tenant.id, key.id)
    clock.at += 1.9
    still = await ring.authenticate(f"Bearer {secret}")
    clock.at += 0.2

    assert still.key_id == key.id
    with pytest.raises(Unauthenticated):
        await ring.authenticate(f"Bearer {secret}")
    with pytest.raises(Unauthenticated):
        await KeyRing(db, vault).authenticate(f"Bearer {secret}")


async def test_an_expired_key_stops_although_it_is_remembered(db: Database, vault: Vault) -> None:
    created, clock = await make(db, vault), Clock()
    soon = datetime.now(UTC) + timedelta(milliseconds=300)
    async with db.write(created.tenant.id) as session:
        _, secret = await keys.create(
            session, actor_of(created), "brief", ["punches:read"], expires_at=soon, vault=vault
        )
    ring = KeyRing(db, vault, clock=clock)
    await ring.authenticate(f"Bearer {secret}")

    await asyncio.sleep(0.4)

    with pytest.raises(Unauthenticated):
        await ring.authenticate(f"Bearer {secret}")


async def test_what_is_remembered_is_bounded(db: Database, vault: Vault) -> None:
    created = await make(db, vault)
    ring = KeyRing(db, vault, known=2, unknown=2)
    async with db.write(created.tenant.id) as session:
        good = [
            (await keys.create(session, actor_of(created), "k", ["punches:read"], expires_at=None, vault=vault))[1]
            for _ in range(4)
        ]
    bad = [keys.write_secret(ids.new().bytes * 2) for _ in range(4)]

    for secret in good:
        await ring.authenticate(f"Bearer {secret}")
    for secret in bad:
        with pytest.raises(Unauthenticated):
            await ring.authenticate(f"Bearer {secret}")

    assert (len(ring._known), len(ring._unknown), len(ring._asked)) == (2, 2, 0)


async def test_a_caller_who_gives_up_leaves_the_others_waiting_for_the_same_key(db: Database, vault: Vault) -> None:
    created = await make(db, vault)
    ring = KeyRing(db, vault)

    first, *rest = [asyncio.create_task(ring.authenticate(f"Bearer {created.api_key}")) for _ in range(10)]
    await asyncio.sleep(0)
    asked = len(ring._asked)
    first.cancel()
    actors = await asyncio.gather(*rest)

    assert asked == 1
    assert {actor.key_id for actor in actors} == {created.api_key_id}


async def test_the_last_use_of_a_key_is_written_down_every_thirty_seconds(db: Database, vault: Vault) -> None:
    created, clock = await make(db, vault), Clock()
    ring = KeyRing(db, vault, clock=clock)

    async def last_used() -> datetime | None:
        async with db.read(created.tenant.id) as session:
            return (await keys.get(session, created.tenant.id, created.api_key_id)).last_used_at

    before = await last_used()
    await ring.authenticate(f"Bearer {created.api_key}")
    first = await last_used()
    async with db.across("operate") as connection:
        await connection.execute(
            "UPDATE api_keys SET last_used_at = now() - interval '1 hour' WHERE id = $1", created.api_key_id
        )
    clock.at += 29
    await ring.authenticate(f"Bearer {created.api_key}")
    old = await last_used()
    clock.at += 1
    await ring.authenticate(f"Bearer {created.api_key}")
    second = await last_used()

    assert before is None
    assert first is not None
    assert old is not None
    assert second is not None
    assert old < first < second


async def make_second(db: Database, vault: Vault, created: tenants.Created) -> tuple[UUID, str]:
    async with db.write(created.tenant.id) as session:
        key, text = await keys.create(session, actor_of(created), "k", ["keys:write"], expires_at=None, vault=vault)
    return key.id, text


async def test_the_last_use_is_when_it_was_seen_and_not_when_it_is_written_down(db: Database, vault: Vault) -> None:
    created, clock = await make(db, vault), Clock()
    second_id, second = await make_second(db, vault, created)
    ring = KeyRing(db, vault, clock=clock)
    await ring.touch()

    await ring.authenticate(f"Bearer {created.api_key}")
    clock.at += 25
    await ring.authenticate(f"Bearer {second}")
    await ring.touch()

    async with db.read(created.tenant.id) as session:
        first_at, second_at = [
            (await keys.get(session, created.tenant.id, key_id)).last_used_at
            for key_id in (created.api_key_id, second_id)
        ]
    assert first_at is not None
    assert second_at is not None
    assert second_at - first_at == timedelta(seconds=25)


async def test_the_last_use_does_not_go_back(db: Database, vault: Vault) -> None:
    created, clock = await make(db, vault), Clock()
    ring = KeyRing(db, vault, clock=clock)
    await ring.touch()
    await ring.authenticate(f"Bearer {created.api_key}")
    clock.at += 100
    async with db.across("operate") as connection:
        stood = await connection.fetchval(
            "UPDATE api_keys SET last_used_at = now() - interval '50 seconds' WHERE id = $1 RETURNING last_used_at",
            created.api_key_id,
        )

    await ring.touch()

    async with db.read(created.tenant.id) as session:
        assert (await keys.get(session, created.tenant.id, created.api_key_id)).last_used_at == stood


async def test_no_use_is_later_than_the_revocation(db: Database, vault: Vault) -> None:
    created = await make(db, vault)
    second_id, second = await make_second(db, vault, created)
    ring = KeyRing(db, vault, clock=Clock())
    await ring.touch()
    await ring.authenticate(f"Bearer {second}")
    await revoke(db, created.tenant.id, second_id)

    await ring.authenticate(f"Bearer {second}")  # known for two seconds more
    await ring.touch()

    async with db.read(created.tenant.id) as session:
        key = await keys.get(session, created.tenant.id, second_id)
    assert key.last_used_at is not None
    assert key.last_used_at == key.revoked_at


async def test_a_use_that_was_written_by_a_faster_clock_is_not_later_than_the_revocation(
    db: Database, vault: Vault
) -> None:
    created = await make(db, vault)
    second_id, _ = await make_second(db, vault, created)
    async with db.across("operate") as connection:
        await connection.execute(
            "UPDATE api_keys SET last_used_at = now() + interval '1 hour' WHERE id = $1", second_id
        )

    await revoke(db, created.tenant.id, second_id)

    async with db.read(created.tenant.id) as session:
        key = await keys.get(session, created.tenant.id, second_id)
    assert key.revoked_at is not None
    assert key.last_used_at == key.revoked_at


async def test_dead_keys_are_told_from_living_ones(db: Database, vault: Vault) -> None:
    created = await make(db, vault)
    async with db.write(created.tenant.id) as session:
        key, _ = await keys.create(session, actor_of(created), "k", ["keys:write"], expires_at=None, vault=vault)
    await revoke(db, created.tenant.id, key.id)
    nobody = ids.new()

    dead = await KeyRing(db, vault).dead([created.api_key_id, key.id, nobody])

    assert dead == {key.id, nobody}


async def test_a_key_cannot_make_a_stronger_one(db: Database, vault: Vault) -> None:
    created = await make(db, vault)
    weak = actor_of(created, "keys:write", "punches:read")

    with pytest.raises(InvalidInput) as refused:
        async with db.write(created.tenant.id) as session:
            await keys.create(session, weak, "k", ["punches:read", "devices:write"], expires_at=None, vault=vault)

    assert "devices:write" in refused.value.message


@pytest.mark.parametrize("end", [None, timedelta(days=3)])
async def test_a_key_cannot_outlive_the_one_that_makes_it(db: Database, vault: Vault, end: timedelta | None) -> None:
    created, at = await make(db, vault), datetime.now(UTC)
    brief = actor_of(created, expires_at=at + timedelta(days=2))

    with pytest.raises(InvalidInput) as refused:
        async with db.write(created.tenant.id) as session:
            await keys.create(session, brief, "k", ["punches:read"], expires_at=at + end if end else None, vault=vault)

    assert refused.value.path == ("input", "expiresAt")


async def test_a_rotated_key_works_until_the_grace_ends(db: Database, vault: Vault) -> None:
    created = await make(db, vault)
    at = datetime.now(UTC)

    async with db.write(created.tenant.id) as session:
        key, secret = await keys.rotate(
            session, actor_of(created), created.api_key_id, timedelta(seconds=60), vault=vault
        )

    ring = KeyRing(db, vault)
    old, new = await ring.authenticate(f"Bearer {created.api_key}"), await ring.authenticate(f"Bearer {secret}")
    assert old.expires_at is not None
    assert timedelta(seconds=59) < old.expires_at - at < timedelta(seconds=70)
    assert (new.key_id, new.expires_at, new.scopes) == (key.id, None, frozenset(SCOPES))


async def test_without_grace_a_rotated_key_is_dead_at_once(db: Database, vault: Vault) -> None:
    created = await make(db, vault)

    async with db.write(created.tenant.id) as session:
        await keys.rotate(session, actor_of(created), created.api_key_id, timedelta(0), vault=vault)

    with pytest.raises(Unauthenticated):
        await KeyRing(db, vault).authenticate(f"Bearer {created.api_key}")


@pytest.mark.parametrize("grace", [timedelta(seconds=-1), timedelta(days=7, seconds=1)])
async def test_a_grace_out_of_bounds_is_refused(db: Database, vault: Vault, grace: timedelta) -> None:
    created = await make(db, vault)

    with pytest.raises(InvalidInput):
        async with db.write(created.tenant.id) as session:
            await keys.rotate(session, actor_of(created), created.api_key_id, grace, vault=vault)

    async with db.read(created.tenant.id) as session:
        assert (await keys.get(session, created.tenant.id, created.api_key_id)).expires_at is None


async def test_the_last_key_that_makes_keys_is_not_revoked(db: Database, vault: Vault) -> None:
    created = await make(db, vault)
    async with db.write(created.tenant.id) as session:
        await keys.create(session, actor_of(created), "reader", ["punches:read"], expires_at=None, vault=vault)

    with pytest.raises(InvalidInput):
        await revoke(db, created.tenant.id, created.api_key_id)

    await KeyRing(db, vault).authenticate(f"Bearer {created.api_key}")


async def test_two_keys_revoking_each_other_leave_one(db: Database, vault: Vault) -> None:
    created = await make(db, vault)
    async with db.write(created.tenant.id) as session:
        other, _ = await keys.create(session, actor_of(created), "k", ["keys:write"], expires_at=None, vault=vault)

    async with db.write(created.tenant.id) as session:
        await keys.revoke(session, created.tenant.id, created.api_key_id)
        meanwhile = asyncio.create_task(revoke(db, created.tenant.id, other.id))
        await asyncio.sleep(0.2)

    with pytest.raises(InvalidInput):
        await meanwhile
    async with db.read(created.tenant.id) as session:
        assert (await keys.get(session, created.tenant.id, other.id)).revoked_at is None


async def test_revoking_twice_keeps_the_first_date(db: Database, vault: Vault) -> None:
    created = await make(db, vault)
    async with db.write(created.tenant.id) as session:
        key, _ = await keys.create(session, actor_of(created), "k", ["keys:write"], expires_at=None, vault=vault)

    dates = []
    for _ in range(2):
        async with db.write(created.tenant.id) as session:
            dates.append((await keys.revoke(session, created.tenant.id, key.id)).revoked_at)

    assert dates[0] is not None
    assert dates[0] == dates[1]


async def test_another_tenants_key_is_not_found(db: Database, vault: Vault, make_tenant: MakeTenant) -> None:
    created, stranger = await make(db, vault), await make_tenant()

    with pytest.raises(ApiKeyNotFound):
        await revoke(db, stranger.tenant_id, created.api_key_id)

    await KeyRing(db, vault).authenticate(f"Bearer {created.api_key}")


async def test_the_operator_revokes_any_key(db: Database, vault: Vault) -> None:
    created = await make(db, vault)

    async with db.across("operate") as connection:
        await keys.revoke_any(connection, created.api_key_id)

    with pytest.raises(Unauthenticated):
        await KeyRing(db, vault).authenticate(f"Bearer {created.api_key}")
