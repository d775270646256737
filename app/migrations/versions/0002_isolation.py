"""Roles, grants, row-level security and the narrow functions that work before a tenant is known

Nobody in the application is owner, superuser or BYPASSRLS. `ROLES` and `POLICIES` below say who may do what;
tests/app/test_catalogue.py pins what the database makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

#: role -> what it is for
ROLES = {
    "pc_api": "one tenant's reads and writes, by the API",
    "pc_ingest": "uploads of many tenants in one commit",
    "pc_feed": "reading the log of many tenants",
    "pc_worker": "delivering webhooks of many tenants",
    "pc_lookup": "what comes before a tenant is known; may only call functions",
    "pc_ops": "the operator's command line and the sweeper, over all tenants",
    "pc_definer": "owns the functions below; nobody connects as it",
}

ONE = "{column} = nullif(current_setting('app.tenant_id', true), '')::uuid"
# The sub-select is computed once per statement; a bare current_setting halves the throughput.
MANY = "{column} = ANY ((SELECT nullif(current_setting('app.tenant_ids', true), '')::uuid[])::uuid[])"
ALL = "true"
SCOPE = {
    "pc_api": ONE,
    "pc_ingest": MANY,
    "pc_feed": MANY,
    "pc_worker": MANY,
    "pc_ops": ALL,
    "pc_definer": ALL,
}

TABLES = (
    "tenants",
    "api_keys",
    "enrollments",
    "sites",
    "devices",
    "employees",
    "punches",
    "kept_uploads",
    "rejected_records",
    "feed_heads",
    "events",
    "webhook_endpoints",
    "webhook_deliveries",
    "webhook_attempts",
    "idempotency_keys",
)

#: role -> table -> privileges
GRANTS: dict[str, dict[str, str]] = {
    "pc_api": {
        "tenants": "SELECT",
        "api_keys": "SELECT, INSERT, UPDATE",
        "enrollments": "SELECT, INSERT, UPDATE",
        "sites": "SELECT, INSERT, UPDATE, DELETE",
        "devices": "SELECT, INSERT, UPDATE",
        "employees": "SELECT, INSERT, UPDATE, DELETE",
        "punches": "SELECT",
        "kept_uploads": "SELECT",
        "rejected_records": "SELECT",
        "feed_heads": "SELECT, UPDATE",
        "events": "SELECT, INSERT",
        "webhook_endpoints": "SELECT, INSERT, UPDATE",
        "webhook_deliveries": "SELECT, INSERT, UPDATE",
        "webhook_attempts": "SELECT",
        "idempotency_keys": "SELECT, INSERT, UPDATE",
    },
    "pc_ingest": {
        "sites": "SELECT",
        "devices": "SELECT, INSERT, UPDATE",
        "employees": "SELECT",
        "punches": "SELECT, INSERT",
        "kept_uploads": "SELECT, INSERT",
        "rejected_records": "SELECT, INSERT",
        "feed_heads": "SELECT, UPDATE",
        "events": "SELECT, INSERT",
        "webhook_endpoints": "SELECT",
        "webhook_deliveries": "SELECT, INSERT",
    },
    "pc_feed": {"feed_heads": "SELECT", "events": "SELECT"},
    "pc_worker": {
        "events": "SELECT",
        "webhook_endpoints": "SELECT, UPDATE",
        "webhook_deliveries": "SELECT, UPDATE",
        "webhook_attempts": "SELECT, INSERT",
    },
    "pc_lookup": {},
    "pc_ops": {
        "tenants": "SELECT, INSERT, UPDATE",
        "api_keys": "SELECT, INSERT, UPDATE",
        "enrollments": "SELECT, INSERT, UPDATE",
        "feed_heads": "SELECT, INSERT",
        "devices": "SELECT",
        "idempotency_keys": "SELECT, DELETE",
    },
    "pc_definer": {
        "tenants": "SELECT",
        "api_keys": "SELECT, UPDATE",
        "enrollments": "SELECT",
        "devices": "SELECT",
        "webhook_deliveries": "SELECT, UPDATE",
    },
}

FUNCTIONS = {
    # Who is calling? Revoked and expired keys are for the caller to judge, by the database's clock.
    "find_api_key(hash bytea)": (
        "pc_lookup",
        """
        RETURNS TABLE (
            tenant_id uuid, key_id uuid, name text, scopes text[], alive boolean, expires_at timestamptz, plan text
        )
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public
        AS $$
            SELECT k.tenant_id, k.id, k.name, k.scopes,
                   k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()), k.expires_at, t.plan
            FROM public.api_keys k JOIN public.tenants t ON t.id = k.tenant_id
            WHERE k.hash = find_api_key.hash
        $$""",
    ),
    # Which of these keys have died? One question for every open socket.
    "dead_api_keys(ids uuid[])": (
        "pc_lookup",
        """
        RETURNS TABLE (key_id uuid)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public
        AS $$
            SELECT asked.id FROM unnest(ids) AS asked(id) LEFT JOIN public.api_keys k ON k.id = asked.id
            WHERE k.id IS NULL OR k.revoked_at <= now() OR k.expires_at <= now()
        $$""",
    ),
    "touch_api_keys(ids uuid[])": (
        "pc_lookup",
        """
        RETURNS void
        LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public
        AS $$
            -- A row that someone else is writing is left alone: two processes never wait for each other here.
            WITH stale AS MATERIALIZED (
                SELECT k.id FROM public.api_keys k
                WHERE k.id = ANY (ids) AND (k.last_used_at IS NULL OR k.last_used_at < now() - interval '30 seconds')
                FOR NO KEY UPDATE SKIP LOCKED
            )
            UPDATE public.api_keys k SET last_used_at = now() FROM stale WHERE k.id = stale.id
        $$""",
    ),
    # Whose address is this? By the hash of a URL's token or of a host's label.
    "find_enrollment(hash bytea)": (
        "pc_lookup",
        """
        RETURNS TABLE (tenant_id uuid)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public
        AS $$
            SELECT e.tenant_id FROM public.enrollments e
            WHERE (e.token_hash = find_enrollment.hash OR e.label_hash = find_enrollment.hash)
              AND (e.expires_at IS NULL OR e.expires_at > now())
        $$""",
    ),
    # Whose serial is this on the shared address? The tenant it is bound to; else, where approval decides, the only
    # tenant that registered it, or the only tenant there is.
    "find_shared_serial(serial text, approve boolean)": (
        "pc_lookup",
        """
        RETURNS TABLE (tenant_id uuid)
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public
        AS $$
        DECLARE
            found_tenants uuid[];
        BEGIN
            SELECT array_agg(d.tenant_id) INTO found_tenants FROM public.devices d
            WHERE d.serial_number = serial AND d.status <> 'RETIRED' AND 'shared' = ANY (d.bound_addresses);
            IF found_tenants IS NULL AND approve THEN
                SELECT array_agg(d.tenant_id) INTO found_tenants FROM public.devices d
                WHERE d.serial_number = serial AND d.status <> 'RETIRED' AND d.registered;
                IF found_tenants IS NULL THEN
                    SELECT array_agg(few.id) INTO found_tenants FROM (SELECT t.id FROM public.tenants t LIMIT 2) AS few;
                END IF;
            END IF;
            IF cardinality(found_tenants) = 1 THEN
                RETURN QUERY SELECT found_tenants[1];
            END IF;
        END
        $$""",
    ),
    # Take up to n due deliveries for the length of a lease. Every later write must match the token. `posts` says how
    # many the caller has under way for each endpoint in `busy`; with these, no endpoint gets more than `most`.
    "claim_deliveries(n integer, lease interval, most integer, busy uuid[], posts integer[])": (
        "pc_worker",
        """
        RETURNS TABLE (tenant_id uuid, id uuid, claim_token uuid)
        LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public
        AS $$
            -- By row address: the planner does not know n, and might read the whole table to find the few rows again.
            WITH held AS MATERIALIZED (
                SELECT h.endpoint_id, h.n FROM unnest(busy, posts) AS h (endpoint_id, n)
            ), due AS MATERIALIZED (
                SELECT d.ctid AS address, d.endpoint_id, d.due_at FROM public.webhook_deliveries d
                WHERE d.status = 'PENDING' AND d.due_at <= now()
                  AND d.endpoint_id <> ALL (ARRAY (SELECT held.endpoint_id FROM held WHERE held.n >= most))
                ORDER BY d.due_at LIMIT claim_deliveries.n FOR UPDATE SKIP LOCKED
            ), placed AS (
                SELECT due.address, coalesce(held.n, 0)
                     + row_number() OVER (PARTITION BY due.endpoint_id ORDER BY due.due_at) AS place
                FROM due LEFT JOIN held ON held.endpoint_id = due.endpoint_id
            ), batch AS MATERIALIZED (SELECT gen_random_uuid() AS token)
            UPDATE public.webhook_deliveries d
            SET status = 'SENDING', claim_token = batch.token, lease_until = now() + lease,
                attempt_count = d.attempt_count + 1
            FROM batch WHERE d.ctid = ANY (ARRAY (SELECT placed.address FROM placed WHERE placed.place <= most))
            RETURNING d.tenant_id, d.id, d.claim_token
        $$""",
    ),
    # Give back what a dead worker held.
    "reap_deliveries(n integer)": (
        "pc_worker",
        """
        RETURNS integer
        LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public
        AS $$
            WITH lost AS MATERIALIZED (
                SELECT d.ctid AS address FROM public.webhook_deliveries d
                WHERE d.status = 'SENDING' AND d.lease_until < now()
                ORDER BY d.lease_until LIMIT n FOR UPDATE SKIP LOCKED
            ), freed AS (
                UPDATE public.webhook_deliveries d
                SET status = 'PENDING', claim_token = NULL, lease_until = NULL, due_at = now()
                WHERE d.ctid = ANY (ARRAY (SELECT lost.address FROM lost))
                RETURNING 1
            )
            SELECT count(*)::integer FROM freed
        $$""",
    ),
    # Seconds until the next delivery is due; negative when one is late, null when nothing waits.
    "next_delivery_due()": (
        "pc_worker",
        """
        RETURNS double precision
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public
        AS $$
            SELECT extract(epoch FROM min(d.due_at) - now())::double precision
            FROM public.webhook_deliveries d WHERE d.status = 'PENDING'
        $$""",
    ),
}


# gen_random_uuid() scatters; ids sort by time. PostgreSQL has one of its own only since 18. No setting of its own: a
# function with one cannot be expanded in place, and this is called for every delivery.
UUID7 = """
CREATE FUNCTION uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE
AS $$
    SELECT pg_catalog.encode(pg_catalog.set_bit(pg_catalog.set_bit(overlay(
        pg_catalog.uuid_send(pg_catalog.gen_random_uuid())
        PLACING substring(pg_catalog.int8send((extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::bigint) FROM 3)
        FROM 1 FOR 6
    ), 52, 1), 53, 1), 'hex')::uuid
$$
"""


def upgrade() -> None:
    for role in ROLES:
        # Roles belong to the cluster: another database here, or another migrator just now, may have made it.
        op.execute(f"""
            DO $$ BEGIN
                CREATE ROLE {role} NOLOGIN NOINHERIT;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
            END $$""")
        op.execute(f"""
            DO $$ BEGIN
                IF current_setting('server_version_num')::int >= 160000 THEN
                    EXECUTE 'GRANT {role} TO CURRENT_USER WITH INHERIT FALSE, SET TRUE';
                ELSE
                    EXECUTE 'GRANT {role} TO CURRENT_USER';
                END IF;
            END $$""")
        op.execute(f"GRANT USAGE ON SCHEMA public TO {role}")

    for table in TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    for role, tables in GRANTS.items():
        for table, privileges in tables.items():
            op.execute(f"GRANT {privileges} ON {table} TO {role}")
            scope = SCOPE[role].format(column="id" if table == "tenants" else "tenant_id")
            op.execute(f"CREATE POLICY {role} ON {table} TO {role} USING ({scope}) WITH CHECK ({scope})")

    op.execute(UUID7)
    op.execute("GRANT CREATE ON SCHEMA public TO pc_definer")
    for signature, (role, definition) in FUNCTIONS.items():
        op.execute(f"CREATE FUNCTION {signature} {definition}")
        op.execute(f"ALTER FUNCTION {signature} OWNER TO pc_definer")
        op.execute("SET LOCAL ROLE pc_definer")
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO {role}")
        op.execute("RESET ROLE")
    op.execute("REVOKE CREATE ON SCHEMA public FROM pc_definer")


def downgrade() -> None:
    op.execute("DROP FUNCTION uuid7()")
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    for role, tables in GRANTS.items():
        for table in tables:
            op.execute(f"DROP POLICY {role} ON {table}")
            op.execute(f"REVOKE ALL ON {table} FROM {role}")
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
