"""What the database itself says about who may do what. A change here is a change of the walls between tenants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

TENANT = "tenant_id"
R, RI, RU, RIU, RIUD = "SELECT", "SELECT INSERT", "SELECT UPDATE", "SELECT INSERT UPDATE", "SELECT INSERT UPDATE DELETE"

#: table -> role -> what the role may do there. What is not here nobody may do, PUBLIC least of all.
GRANTS: dict[str, dict[str, str]] = {
    "tenants": {"pc_api": R, "pc_stream": R, "pc_ops": RIU, "pc_definer": R},
    "signups": {"pc_ops": RIU},
    "api_keys": {"pc_api": RIU, "pc_stream": R, "pc_ops": RIU, "pc_definer": RU},
    "enrollments": {"pc_api": RIU, "pc_ops": RIU, "pc_definer": R},
    "sites": {"pc_api": RIUD, "pc_stream": R, "pc_ingest": R},
    "devices": {"pc_api": RIU, "pc_stream": R, "pc_ingest": RIU, "pc_ops": R, "pc_definer": R},
    "reconciliations": {"pc_api": R, "pc_stream": R, "pc_ingest": RIU},
    "device_commands": {"pc_api": RIU, "pc_stream": R, "pc_ingest": RIU, "pc_ops": "SELECT UPDATE DELETE"},
    "employees": {"pc_api": RIUD, "pc_stream": R, "pc_ingest": R, "pc_worker": R},
    "placements": {"pc_api": RIUD, "pc_stream": R, "pc_ingest": "SELECT UPDATE DELETE"},
    "terminal_users": {"pc_api": R, "pc_stream": R, "pc_ingest": RIUD},
    "biometric_enrollments": {"pc_ingest": RI},
    "punches": {"pc_api": R, "pc_stream": R, "pc_ingest": RI},
    "kept_uploads": {"pc_api": R, "pc_ingest": RI},
    "rejected_records": {"pc_api": R, "pc_stream": R, "pc_ingest": RI},
    # Nobody but the edge needs to see half of a row.
    "answer_packets": {"pc_ingest": RIUD, "pc_ops": "SELECT DELETE"},
    "feed_heads": {"pc_api": RU, "pc_ingest": RU, "pc_feed": R, "pc_worker": RU, "pc_ops": RI},
    "events": {"pc_api": RI, "pc_ingest": RI, "pc_feed": R, "pc_worker": RI},
    "webhook_endpoints": {"pc_api": RIU, "pc_ingest": R, "pc_worker": RU, "pc_definer": RU},
    "webhook_deliveries": {"pc_api": RIU, "pc_ingest": RI, "pc_worker": RIU, "pc_definer": "SELECT UPDATE DELETE"},
    "webhook_attempts": {"pc_api": R, "pc_worker": RI, "pc_definer": "SELECT DELETE"},
    "webhook_replays": {"pc_api": RI, "pc_worker": RU, "pc_definer": "SELECT DELETE"},
    "idempotency_keys": {"pc_api": RIU, "pc_ops": "SELECT DELETE"},
    # Nobody of the application changes or removes an entry; as pc_definer nobody connects.
    "audit_entries": {"pc_api": RI, "pc_ops": "INSERT", "pc_definer": "SELECT DELETE"},
}
ONE = "(COLUMN = (NULLIF(current_setting('app.tenant_id'::text, true), ''::text))::uuid)"
MANY = (
    "(COLUMN = ANY (( SELECT (NULLIF(current_setting('app.tenant_ids'::text, true), ''::text))::uuid[]"
    ' AS "nullif")::uuid[]))'
)
_THERE = (
    "(COLUMN = ANY (( SELECT (NULLIF(current_setting('app.site_ids'::text, true), ''::text))::uuid[]"
    ' AS "nullif")::uuid[]))'
)
_OF_DEVICES = "(device_id IN ( SELECT d.id\n   FROM devices d))"
#: What besides the tenant must hold for the role that sees a few sites, and leaves nothing behind.
SITES_SEEN = {
    "tenants": None,
    "api_keys": None,
    "employees": None,
    "sites": _THERE.replace("COLUMN", "id"),
    "devices": _THERE.replace("COLUMN", "site_id"),
} | dict.fromkeys(
    (
        "punches",
        "device_commands",
        "rejected_records",
        "terminal_users",
        "placements",
        "reconciliations",
    ),
    _OF_DEVICES,
)
#: role -> the rows it sees and may leave behind.
SCOPES = {"pc_api": ONE, "pc_ingest": MANY, "pc_feed": MANY, "pc_worker": MANY, "pc_ops": "true", "pc_definer": "true"}
ROLES = {*SCOPES, "pc_lookup", "pc_stream"}

#: A unique index without the tenant tells one tenant that a value exists in another; each of these has a reason.
UNIQUE_ACROSS_TENANTS = {
    "uq_api_keys_hash": "a key is looked up before its tenant is known; the value is a keyed hash of a random secret",
    "uq_api_keys_id": "the operator and open sockets name a key by its id alone; ids are random and ours",
    "uq_enrollments_token_hash": "an address is looked up before its tenant is known; a keyed hash of a random secret",
    "uq_enrollments_label_hash": "the same for host names; a keyed hash of a random label",
    "uq_devices_shared_serial_number": "on the shared address a serial number belongs to one tenant, by contract",
}

#: function -> the only role, besides its owner, that may call it
FUNCTIONS = {
    "find_api_key(hash bytea)": "pc_lookup",
    "dead_api_keys(ids uuid[])": "pc_lookup",
    "touch_api_keys(ids uuid[])": "pc_lookup",
    "touch_api_keys(ids uuid[], ages interval[])": "pc_lookup",
    "find_enrollment(hash bytea)": "pc_lookup",
    "find_shared_serial(serial text, approve boolean)": "pc_lookup",
    "open_claims(serial text)": "pc_lookup",
    "claim_deliveries(n integer, lease interval, most integer, most_of_tenant integer, in_flight integer, "
    "in_flight_of_tenant integer, busy_tenants uuid[], busy uuid[], posts integer[], held integer[], own uuid[], "
    "probe interval)": "pc_worker",
    "count_deliveries()": "pc_worker",
    "running_replays(n integer)": "pc_worker",
    "forget_deliveries(n integer, older interval)": "pc_worker",
    "reap_deliveries(n integer)": "pc_worker",
    "next_delivery_due()": "pc_worker",
}

PLANS = {f"enable_{way}=off" for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin")}

#: function with its caller's rights -> the roles that may call it; none is named where anybody may
VERBS = {
    "uuid7": set(),
    "log_events": {"pc_api", "pc_ingest", "pc_worker"},
    "append_punches": set(),
    "take_deliveries": set(),
}
VERBS_CALLERS = {"pc_api", "pc_stream", "pc_ingest", "pc_feed", "pc_worker", "pc_lookup", "pc_ops", "pc_definer"}


@pytest.fixture(scope="module")
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def tenant_tables(owner: asyncpg.Connection) -> set[str]:
    found = await owner.fetch(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = $1 "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')",
        TENANT,
    )
    return {row[0] for row in found}


async def test_every_table_is_a_tenants_or_known_to_be_nobodys(owner: asyncpg.Connection) -> None:
    found = await owner.fetch(
        "SELECT relname, relkind::text FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace AND relkind NOT IN ('i', 'I')"
    )

    assert {row[0] for row in found} == {*GRANTS, "alembic_version"}
    assert {row[1] for row in found} == {"r"}  # no view, which would read with its owner's rights, and no sequence
    assert await tenant_tables(owner) == GRANTS.keys() - {"tenants"}


async def test_row_level_security_is_on_and_forced_everywhere(owner: asyncpg.Connection) -> None:
    found = await owner.fetch(
        "SELECT relname, relrowsecurity, relforcerowsecurity, pg_get_userbyid(relowner) FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'"
    )

    me = await owner.fetchval("SELECT current_user")
    assert {tuple(row) for row in found} == {(table, True, True, me) for table in GRANTS}


async def test_the_owner_itself_sees_no_rows(owner: asyncpg.Connection) -> None:
    for table in GRANTS:
        assert await owner.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_each_role_has_exactly_its_grants(owner: asyncpg.Connection) -> None:
    found = await owner.fetch(
        "SELECT c.relname, a.grantee::regrole::text, a.privilege_type, a.is_grantable FROM pg_class c, "
        "aclexplode(c.relacl) a WHERE c.relnamespace = 'public'::regnamespace AND a.grantee <> c.relowner"
    )
    on_columns = await owner.fetchval(
        "SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "WHERE c.relnamespace = 'public'::regnamespace AND a.attacl IS NOT NULL"
    )

    granted: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for table, role, privilege, grantable in found:
        assert not grantable
        granted[table][role].add(privilege)
    assert granted == {
        table: {role: set(privileges.split()) for role, privileges in roles.items()} for table, roles in GRANTS.items()
    }
    assert on_columns == 0


async def test_each_role_sees_exactly_its_rows(owner: asyncpg.Connection) -> None:
    found = await owner.fetch(
        "SELECT tablename, policyname, roles::text[], cmd, permissive, qual, with_check FROM pg_policies"
    )

    assert {tuple(map(_frozen, row)) for row in found} == {
        (table, role, (role,), "ALL", "PERMISSIVE", scope, scope)
        for table, roles in GRANTS.items()
        for role in roles
        if role in SCOPES
        for scope in [SCOPES[role].replace("COLUMN", "id" if table == "tenants" else TENANT)]
    } | {
        (table, "pc_stream", ("pc_stream",), "ALL", "PERMISSIVE", f"({own} AND {besides})" if besides else own, "false")
        for table, besides in SITES_SEEN.items()
        for own in [ONE.replace("COLUMN", "id" if table == "tenants" else TENANT)]
    }


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


async def test_no_role_of_the_application_is_more_than_it_seems(owner: asyncpg.Connection) -> None:
    found = await owner.fetch(
        "SELECT rolname, rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication "
        "OR rolcanlogin OR rolinherit FROM pg_roles WHERE rolname LIKE 'pc\\_%'"
    )
    members = await owner.fetch(
        "SELECT DISTINCT m.member::regrole::text FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid "
        "WHERE r.rolname LIKE 'pc\\_%'"
    )
    beyond = await owner.fetchval(
        "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname LIKE 'pc\\_%'"
    )
    owner_is_strong = await owner.fetchval(
        "SELECT rolsuper OR rolbypassrls OR rolreplication FROM pg_roles WHERE rolname = current_user"
    )
    schema = await owner.fetch(
        "SELECT a.grantee::regrole::text, a.privilege_type FROM pg_namespace n, aclexplode(n.nspacl) a "
        "WHERE n.nspname = 'public' AND a.grantee IN (SELECT oid FROM pg_roles WHERE rolname LIKE 'pc\\_%')"
    )

    assert {tuple(row) for row in found} == {(role, False) for role in ROLES}
    assert {row[0] for row in members} == {await owner.fetchval("SELECT current_user")}
    assert beyond == 0
    assert owner_is_strong is False
    assert {tuple(row) for row in schema} == {(role, "USAGE") for role in ROLES}


async def test_what_runs_with_other_rights_is_narrow_and_closed_to_the_public(owner: asyncpg.Connection) -> None:
    found = await owner.fetch(
        "SELECT p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS name, "
        "p.proowner::regrole::text AS owner, p.prosecdef, p.proconfig, "
        "(SELECT array_agg(a.grantee::regrole::text || ' ' || a.privilege_type) FROM aclexplode(p.proacl) a) AS acl "
        "FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace"
    )

    definers = {row["name"]: row for row in found if row["prosecdef"]}
    assert definers.keys() == FUNCTIONS.keys()
    callers = {row["name"].partition("(")[0]: set(row["acl"] or ()) for row in found if not row["prosecdef"]}
    assert {name: {grant.partition(" ")[0] for grant in acl} & VERBS_CALLERS for name, acl in callers.items()} == VERBS
    assert not any(grant.startswith("- ") for grant in callers["log_events"])
    for name, row in definers.items():
        assert row["owner"] == "pc_definer"
        assert row["proconfig"][0] == "search_path=pg_catalog, public"
        assert set(row["proconfig"][1:]) <= PLANS
        assert set(row["acl"]) == {"pc_definer EXECUTE", f"{FUNCTIONS[name]} EXECUTE"}


async def test_every_unique_index_begins_with_the_tenant_or_has_a_reason(owner: asyncpg.Connection) -> None:
    found = await owner.fetch(
        "SELECT i.indexrelid::regclass::text AS name, "
        "(SELECT attname FROM pg_attribute WHERE attrelid = i.indrelid AND attnum = i.indkey[0]) AS first "
        "FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid "
        "WHERE i.indisunique AND t.relnamespace = 'public'::regnamespace AND t.relname = ANY ($1::text[])",
        list(await tenant_tables(owner)),
    )

    assert {row["name"] for row in found if row["first"] != TENANT} == set(UNIQUE_ACROSS_TENANTS)
    assert all(UNIQUE_ACROSS_TENANTS.values())


async def test_every_reference_between_tenants_tables_carries_the_tenant(owner: asyncpg.Connection) -> None:
    found = await owner.fetch(
        "SELECT f.conname, f.conrelid::regclass::text AS source, f.confrelid::regclass::text AS target, "
        "ARRAY(SELECT attname::text FROM unnest(f.conkey) WITH ORDINALITY k (n, o) "
        "JOIN pg_attribute ON attrelid = f.conrelid AND attnum = n ORDER BY o) AS here, "
        "ARRAY(SELECT attname::text FROM unnest(f.confkey) WITH ORDINALITY k (n, o) "
        "JOIN pg_attribute ON attrelid = f.confrelid AND attnum = n ORDER BY o) AS there "
        "FROM pg_constraint f WHERE f.contype = 'f' AND f.connamespace = 'public'::regnamespace"
    )

    for row in found:
        assert row["here"][0] == TENANT, row["conname"]
        assert row["there"][0] == ("id" if row["target"] == "tenants" else TENANT), row["conname"]
    between = {(row["source"], row["target"], row["here"][1]) for row in found if row["target"] != "tenants"}
    assert between == {
        ("devices", "sites", "site_id"),
        ("device_commands", "devices", "device_id"),
        ("placements", "devices", "device_id"),
        ("reconciliations", "devices", "device_id"),
        ("terminal_users", "devices", "device_id"),
        ("biometric_enrollments", "devices", "device_id"),
        ("punches", "devices", "device_id"),
        ("kept_uploads", "devices", "device_id"),
        ("rejected_records", "devices", "device_id"),
        ("answer_packets", "devices", "device_id"),
        ("webhook_deliveries", "webhook_endpoints", "endpoint_id"),
        ("webhook_attempts", "webhook_deliveries", "delivery_id"),
        ("webhook_replays", "webhook_endpoints", "endpoint_id"),
    }


async def test_the_punches_own_words_decide_what_is_the_same_punch(owner: asyncpg.Connection) -> None:
    definition = await owner.fetchval("SELECT pg_get_indexdef('uq_punches_record'::regclass)")

    assert definition == (
        "CREATE UNIQUE INDEX uq_punches_record ON public.punches USING btree "
        "(tenant_id, device_id, pin, local_time, state_code, record_index) NULLS NOT DISTINCT"
    )
