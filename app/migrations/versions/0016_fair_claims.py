"""Tenants take turns, and an endpoint that fails is left alone for a while

Claims are dealt out tenant by tenant and, within a tenant, endpoint by endpoint. Endpoints know how they fare.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0016"
down_revision: str | None = "0011"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

_OLD = {
    "claim_deliveries(integer, interval, integer, uuid[], integer[])",
    "next_delivery_due()",
}

# Every endpoint with something waiting, by one look into the index for each: however much waits for it.
_LANES = """
    WITH RECURSIVE lane AS (
        (
            SELECT d.tenant_id, d.endpoint_id, d.due_at FROM public.webhook_deliveries d WHERE d.status = 'PENDING'
            ORDER BY d.tenant_id, d.endpoint_id, d.due_at LIMIT 1
        )
        UNION ALL
        SELECT following.* FROM lane, LATERAL (
            SELECT d.tenant_id, d.endpoint_id, d.due_at FROM public.webhook_deliveries d
            WHERE d.status = 'PENDING' AND (d.tenant_id, d.endpoint_id) > (lane.tenant_id, lane.endpoint_id)
            ORDER BY d.tenant_id, d.endpoint_id, d.due_at LIMIT 1
        ) AS following
    )
"""

FUNCTIONS = {
    # Take up to n due deliveries for the length of a lease. Every later write must match the token.
    #
    # The caller says how many posts it has under way for which endpoints: with these no endpoint gets more than `most`
    # and no tenant more than `most_of_tenant`. Among the rest tenants take turns, and so do the endpoints of a tenant.
    # An endpoint whose breaker is open gets nothing; once its time is over it gets one, and the breaker closes for
    # `probe` again. What somebody waits for at a screen (`urgent`) goes before all that.
    "claim_deliveries(n integer, lease interval, most integer, most_of_tenant integer, busy_tenants uuid[], "
    "busy uuid[], posts integer[], probe interval)": (
        "pc_worker",
        """
        RETURNS TABLE (tenant_id uuid, id uuid, claim_token uuid)
        LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public
        SET enable_seqscan = off SET enable_bitmapscan = off
        AS $$
        #variable_conflict use_column
        DECLARE
            token uuid := gen_random_uuid();
            first tid[] := ARRAY (
                SELECT d.ctid FROM public.webhook_deliveries d
                WHERE d.status = 'PENDING' AND d.urgent AND d.due_at <= now()
                ORDER BY d.due_at LIMIT greatest(1, n / 4) FOR UPDATE SKIP LOCKED
            );
            rest integer := n - cardinality(first);
            seen integer;
            lane_tenants uuid[];
            lanes uuid[];
            quotas integer[];
            probing uuid[];
            probed uuid[];
        BEGIN
            -- Usually little is due. A look at all of it tells which endpoints that is for.
            WITH due AS MATERIALIZED (
                SELECT d.tenant_id, d.endpoint_id FROM public.webhook_deliveries d
                WHERE d.status = 'PENDING' AND d.due_at <= now() ORDER BY d.due_at LIMIT 4 * n
            )
            SELECT (SELECT count(*) FROM due), array_agg(l.tenant_id), array_agg(l.endpoint_id)
            INTO seen, lane_tenants, lanes FROM (SELECT DISTINCT due.tenant_id, due.endpoint_id FROM due) AS l;
            -- Behind a backlog there may be others.
            IF seen = 4 * n THEN
                SELECT array_agg(l.tenant_id), array_agg(l.endpoint_id) INTO lane_tenants, lanes
                FROM (@LANES SELECT lane.tenant_id, lane.endpoint_id FROM lane WHERE lane.due_at <= now()) AS l;
            END IF;

            WITH held AS MATERIALIZED (
                SELECT h.* FROM unnest(busy_tenants, busy, posts) AS h (tenant_id, endpoint_id, n)
            ), lane AS MATERIALIZED (
                SELECT l.tenant_id, l.endpoint_id, e.breaker_until IS NOT NULL AS trial, coalesce(held.n, 0) AS held,
                       least(CASE WHEN e.breaker_until IS NULL THEN rest ELSE 1 END, most - coalesce(held.n, 0)) AS room
                FROM unnest(lane_tenants, lanes) AS l (tenant_id, endpoint_id)
                JOIN public.webhook_endpoints e ON e.tenant_id = l.tenant_id AND e.id = l.endpoint_id
                LEFT JOIN held ON held.endpoint_id = l.endpoint_id
                WHERE e.breaker_until IS NULL OR e.breaker_until <= now()
            ), waiting AS MATERIALIZED (
                SELECT lane.*, w.due_at, row_number() OVER (PARTITION BY lane.endpoint_id ORDER BY w.due_at) AS place
                FROM lane, LATERAL (
                    SELECT d.due_at FROM public.webhook_deliveries d
                    WHERE d.tenant_id = lane.tenant_id AND d.endpoint_id = lane.endpoint_id
                      AND d.status = 'PENDING' AND d.due_at <= now()
                    ORDER BY d.due_at LIMIT greatest(lane.room, 0)
                ) AS w
            ), turns AS (
                SELECT w.*, coalesce((SELECT sum(h.n) FROM held h WHERE h.tenant_id = w.tenant_id), 0)
                     + row_number() OVER (PARTITION BY w.tenant_id ORDER BY w.held + w.place, w.due_at) AS turn
                FROM waiting w
            ), dealt AS (
                SELECT t.* FROM turns t WHERE t.turn <= most_of_tenant ORDER BY t.turn, t.due_at LIMIT rest
            ), summed AS (
                SELECT t.tenant_id, t.endpoint_id, t.trial, count(*)::integer AS n FROM dealt t GROUP BY 1, 2, 3
            )
            SELECT array_agg(s.tenant_id), array_agg(s.endpoint_id), array_agg(s.n),
                   array_agg(s.endpoint_id) FILTER (WHERE s.trial)
            INTO lane_tenants, lanes, quotas, probing FROM summed s;

            IF probing IS NOT NULL THEN
                -- Nobody is waited for: another worker that holds such an endpoint is trying it.
                WITH free AS MATERIALIZED (
                    SELECT e.tenant_id, e.id FROM public.webhook_endpoints e
                    JOIN unnest(lane_tenants, lanes) AS l (tenant_id, endpoint_id)
                      ON l.tenant_id = e.tenant_id AND l.endpoint_id = e.id
                    WHERE e.id = ANY (probing) AND e.breaker_until <= now()
                    FOR NO KEY UPDATE OF e SKIP LOCKED
                ), closed AS (
                    UPDATE public.webhook_endpoints e SET breaker_until = now() + probe
                    FROM free WHERE e.tenant_id = free.tenant_id AND e.id = free.id RETURNING e.id
                )
                SELECT coalesce(array_agg(c.id), '{}') INTO probed FROM closed c;
            END IF;

            RETURN QUERY
            WITH due AS MATERIALIZED (
                SELECT d.address FROM unnest(lane_tenants, lanes, quotas) AS q (tenant_id, endpoint_id, n), LATERAL (
                    SELECT d.ctid AS address FROM public.webhook_deliveries d
                    WHERE d.tenant_id = q.tenant_id AND d.endpoint_id = q.endpoint_id
                      AND d.status = 'PENDING' AND d.due_at <= now()
                    ORDER BY d.due_at LIMIT q.n FOR UPDATE SKIP LOCKED
                ) AS d
                WHERE probing IS NULL OR q.endpoint_id <> ALL (probing) OR q.endpoint_id = ANY (probed)
            )
            -- By row address: the planner might read the whole table to find the few rows again.
            UPDATE public.webhook_deliveries d
            SET status = 'SENDING', claim_token = token, lease_until = now() + lease,
                attempt_count = d.attempt_count + 1, urgent = false
            WHERE d.ctid = ANY (first || ARRAY (SELECT due.address FROM due))
            RETURNING d.tenant_id, d.id, d.claim_token;
        END
        $$""",
    ),
    # Seconds until something may be claimed; negative when that is late, null when nothing waits. What waits for an
    # endpoint's breaker is not due before it opens.
    "next_delivery_due()": (
        "pc_worker",
        """
        RETURNS double precision
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public
        SET enable_seqscan = off SET enable_bitmapscan = off
        AS $$
        DECLARE
            soonest timestamptz := (SELECT min(d.due_at) FROM public.webhook_deliveries d WHERE d.status = 'PENDING');
        BEGIN
            IF soonest <= now() THEN
                @LANES
                SELECT min(greatest(lane.due_at, e.breaker_until)) INTO soonest
                FROM lane JOIN public.webhook_endpoints e ON e.tenant_id = lane.tenant_id AND e.id = lane.endpoint_id
                WHERE lane.due_at IS NOT NULL;
            END IF;
            RETURN extract(epoch FROM soonest - now());
        END
        $$""",
    ),
    # What operators watch: how late the oldest is that nothing holds back, how many are due, held back by a breaker,
    # leased, and leased longer than they should be.
    "count_deliveries()": (
        "pc_worker",
        """
        RETURNS TABLE (oldest double precision, due bigint, held_back bigint, leased bigint, expired bigint)
        LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public
        SET enable_seqscan = off SET enable_bitmapscan = off
        AS $$
        DECLARE
            held_tenants uuid[];
            held uuid[];
        BEGIN
            @LANES
            SELECT extract(epoch FROM now() - min(lane.due_at) FILTER (WHERE e.breaker_until IS NULL)),
                   array_agg(lane.tenant_id) FILTER (WHERE e.breaker_until IS NOT NULL),
                   array_agg(lane.endpoint_id) FILTER (WHERE e.breaker_until IS NOT NULL)
            INTO oldest, held_tenants, held
            FROM lane JOIN public.webhook_endpoints e ON e.tenant_id = lane.tenant_id AND e.id = lane.endpoint_id
            WHERE lane.due_at <= now();
            due := (SELECT count(*) FROM public.webhook_deliveries d WHERE d.status = 'PENDING' AND d.due_at <= now());
            held_back := (
                SELECT coalesce(sum(w.n), 0) FROM unnest(held_tenants, held) AS h (tenant_id, endpoint_id), LATERAL (
                    SELECT count(*) AS n FROM public.webhook_deliveries d
                    WHERE d.tenant_id = h.tenant_id AND d.endpoint_id = h.endpoint_id
                      AND d.status = 'PENDING' AND d.due_at <= now()
                ) AS w
            );
            SELECT count(*), count(*) FILTER (WHERE d.lease_until < now()) INTO leased, expired
            FROM public.webhook_deliveries d WHERE d.status = 'SENDING';
            RETURN NEXT;
        END
        $$""",
    ),
}

#: What a worker needs to say that it disabled an endpoint.
GRANTS = {"feed_heads": "SELECT, UPDATE", "employees": "SELECT", "events": "INSERT", "webhook_deliveries": "INSERT"}
_MANY = "tenant_id = ANY ((SELECT nullif(current_setting('app.tenant_ids', true), '')::uuid[])::uuid[])"
_LOG = "log_events(uuid[], uuid[], text[], text[], text[], timestamptz[])"


def upgrade() -> None:
    op.add_column("webhook_endpoints", sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("webhook_endpoints", sa.Column("failing_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("webhook_endpoints", sa.Column("breaker_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("webhook_deliveries", sa.Column("urgent", sa.Boolean(), nullable=False, server_default="false"))
    op.create_index(
        "ix_webhook_deliveries_waiting",
        "webhook_deliveries",
        ["tenant_id", "endpoint_id", "due_at"],
        postgresql_where=sa.text("status = 'PENDING'"),
    )
    op.create_index(
        "ix_webhook_deliveries_urgent",
        "webhook_deliveries",
        ["due_at"],
        postgresql_where=sa.text("status = 'PENDING' AND urgent"),
    )
    # A queue: its indexes are walked from the front, where the dead are.
    op.execute("ALTER TABLE webhook_deliveries SET (autovacuum_vacuum_scale_factor = 0.02)")
    for table, privileges in GRANTS.items():
        op.execute(f"GRANT {privileges} ON {table} TO pc_worker")
    for table in ("feed_heads", "employees"):
        op.execute(f"CREATE POLICY pc_worker ON {table} TO pc_worker USING ({_MANY}) WITH CHECK ({_MANY})")
    op.execute(f"GRANT EXECUTE ON FUNCTION {_LOG} TO pc_worker")
    op.execute("GRANT SELECT, UPDATE ON webhook_endpoints TO pc_definer")
    op.execute("CREATE POLICY pc_definer ON webhook_endpoints TO pc_definer USING (true) WITH CHECK (true)")
    for signature in _OLD:
        op.execute(f"DROP FUNCTION {signature}")
    op.execute("GRANT CREATE ON SCHEMA public TO pc_definer")
    for signature, (role, definition) in FUNCTIONS.items():
        op.execute(f"CREATE FUNCTION {signature} {definition.replace('@LANES', _LANES)}")
        op.execute(f"ALTER FUNCTION {signature} OWNER TO pc_definer")
        op.execute("SET LOCAL ROLE pc_definer")
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO {role}")
        op.execute("RESET ROLE")
    op.execute("REVOKE CREATE ON SCHEMA public FROM pc_definer")


def downgrade() -> None:
    raise NotImplementedError("The claims before this cannot leave a failing endpoint alone.")
