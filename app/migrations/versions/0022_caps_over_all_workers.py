"""No endpoint and no tenant has more than so many posts under way, over all workers

What others hold counts when a claim is dealt. A claim is a transaction by itself, so that nobody waits for a worker
that stands still in the middle of one.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

_OLD = "claim_deliveries(integer, interval, integer, integer, uuid[], uuid[], integer[], interval)"

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

# What all the others hold, which may be under way, by endpoint. Who lives renews its leases long before half of one is
# over, and no post takes that long: what was not renewed is a dead worker's, and ends nothing by waiting.
_OTHERS = """
                SELECT array_agg(o.tenant_id), array_agg(o.endpoint_id), array_agg(o.n)
                INTO other_tenants, others, other_posts FROM (
                    SELECT d.tenant_id, d.endpoint_id, count(*)::integer AS n FROM public.webhook_deliveries d
                    WHERE d.status = 'SENDING' AND d.lease_until > now() + lease / 2
                      AND d.claim_token <> ALL (own)
                    GROUP BY d.tenant_id, d.endpoint_id
                ) AS o;
"""

FUNCTIONS = {
    # Take up to n due deliveries for the length of a lease. Every later write must match the token.
    #
    # The caller says how many posts it has under way for which endpoints: with these no endpoint gets more than `most`
    # and no tenant more than `most_of_tenant`. It also says how many it holds that have not ended, and under which
    # tokens (`own`): with these and with what all others hold, no endpoint gets more than `in_flight`, no tenant more
    # than `in_flight_of_tenant`. (What it claims ahead waits with it and does not count where its share alone, which it
    # keeps to, stays within what others leave.) Two that claim for one tenant at once do so one after the other; so the
    # call has to be a transaction by itself, or end soon. Among the rest tenants take turns, and so do the endpoints of
    # a tenant.
    # An endpoint whose breaker is open gets nothing; once its time is over it gets one, and the breaker closes for
    # `probe` again. What somebody waits for at a screen (`urgent`) goes before all that.
    "claim_deliveries(n integer, lease interval, most integer, most_of_tenant integer, in_flight integer, "
    "in_flight_of_tenant integer, busy_tenants uuid[], busy uuid[], posts integer[], held integer[], own uuid[], "
    "probe interval)": (
        "pc_worker",
        """
        RETURNS TABLE (tenant_id uuid, id uuid, claim_token uuid)
        LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public
        SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off
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
            capped boolean := least(in_flight, in_flight_of_tenant) < 2147483647;
            other_tenants uuid[];
            others uuid[];
            other_posts integer[];
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

            IF capped AND lanes IS NOT NULL THEN
                @OTHERS
            END IF;
            WITH mine AS MATERIALIZED (
                SELECT h.* FROM unnest(busy_tenants, busy, posts, held) AS h (tenant_id, endpoint_id, n, held)
            ), theirs AS MATERIALIZED (
                SELECT o.* FROM unnest(other_tenants, others, other_posts) AS o (tenant_id, endpoint_id, n)
            ), lane AS MATERIALIZED (
                SELECT l.tenant_id, l.endpoint_id, e.breaker_until IS NOT NULL AS trial, coalesce(mine.n, 0) AS held,
                       least(
                           CASE WHEN e.breaker_until IS NULL THEN rest ELSE 1 END, most - coalesce(mine.n, 0),
                           CASE
                               WHEN most <= in_flight - coalesce(theirs.n, 0) THEN rest
                               ELSE in_flight - coalesce(mine.held, 0) - coalesce(theirs.n, 0)
                           END
                       ) AS room
                FROM unnest(lane_tenants, lanes) AS l (tenant_id, endpoint_id)
                JOIN public.webhook_endpoints e ON e.tenant_id = l.tenant_id AND e.id = l.endpoint_id
                LEFT JOIN mine ON mine.endpoint_id = l.endpoint_id
                LEFT JOIN theirs ON theirs.endpoint_id = l.endpoint_id
                WHERE e.breaker_until IS NULL OR e.breaker_until <= now()
            ), waiting AS MATERIALIZED (
                SELECT lane.*, w.due_at, row_number() OVER (PARTITION BY lane.endpoint_id ORDER BY w.due_at) AS place
                FROM lane, LATERAL (
                    SELECT d.due_at FROM public.webhook_deliveries d
                    WHERE d.tenant_id = lane.tenant_id AND d.endpoint_id = lane.endpoint_id
                      AND d.status = 'PENDING' AND d.due_at <= now()
                    ORDER BY d.due_at LIMIT greatest(lane.room, 0)
                ) AS w
            ), tenant AS MATERIALIZED (
                SELECT l.tenant_id, coalesce((SELECT sum(m.n) FROM mine m WHERE m.tenant_id = l.tenant_id), 0) AS posts,
                       coalesce((SELECT sum(m.held) FROM mine m WHERE m.tenant_id = l.tenant_id), 0) AS held,
                       in_flight_of_tenant
                       - coalesce((SELECT sum(o.n) FROM theirs o WHERE o.tenant_id = l.tenant_id), 0) AS of_tenant
                FROM (SELECT DISTINCT lane.tenant_id FROM lane) AS l
            ), turns AS (
                SELECT w.*, t.posts + row_number() OVER turn AS turn, t.held + row_number() OVER turn AS reached,
                       t.of_tenant
                FROM waiting w JOIN tenant t ON t.tenant_id = w.tenant_id
                WINDOW turn AS (PARTITION BY w.tenant_id ORDER BY w.held + w.place, w.due_at)
            ), dealt AS (
                SELECT t.* FROM turns t WHERE t.turn <= most_of_tenant
                  AND (t.reached <= t.of_tenant OR most_of_tenant <= t.of_tenant)
                ORDER BY t.turn, t.due_at LIMIT rest
            ), summed AS (
                SELECT t.tenant_id, t.endpoint_id, t.trial, count(*)::integer AS n FROM dealt t GROUP BY 1, 2, 3
            )
            SELECT array_agg(s.tenant_id), array_agg(s.endpoint_id), array_agg(s.n),
                   array_agg(s.endpoint_id) FILTER (WHERE s.trial)
            INTO lane_tenants, lanes, quotas, probing FROM summed s;

            -- What was dealt may have been dealt by another at the same time: so once more, one after the other.
            IF capped AND lanes IS NOT NULL THEN
                PERFORM pg_advisory_xact_lock(k.key) FROM (
                    SELECT DISTINCT hashtextextended(t::text, 6) AS key FROM unnest(lane_tenants) AS t ORDER BY 1
                ) AS k;
                @OTHERS
                WITH mine AS MATERIALIZED (
                    SELECT h.* FROM unnest(busy_tenants, busy, held) AS h (tenant_id, endpoint_id, n)
                ), theirs AS MATERIALIZED (
                    SELECT o.* FROM unnest(other_tenants, others, other_posts) AS o (tenant_id, endpoint_id, n)
                ), room AS (
                    SELECT q.tenant_id, q.endpoint_id, q.n,
                           coalesce((SELECT sum(m.n) FROM mine m WHERE m.endpoint_id = q.endpoint_id), 0) AS held,
                           in_flight
                           - coalesce((SELECT sum(o.n) FROM theirs o WHERE o.endpoint_id = q.endpoint_id), 0) AS ours,
                           coalesce((SELECT sum(m.n) FROM mine m WHERE m.tenant_id = q.tenant_id), 0) AS of_tenant,
                           in_flight_of_tenant - coalesce(
                               (SELECT sum(o.n) FROM theirs o WHERE o.tenant_id = q.tenant_id), 0
                           ) AS ours_of_tenant
                    FROM unnest(lane_tenants, lanes, quotas) AS q (tenant_id, endpoint_id, n)
                ), cut AS (
                    SELECT r.*, CASE WHEN most <= r.ours THEN r.n ELSE least(r.n, r.ours - r.held) END AS fits
                    FROM room r
                ), filled AS (
                    SELECT c.tenant_id, c.endpoint_id, CASE
                               WHEN most_of_tenant <= c.ours_of_tenant THEN c.fits
                               ELSE least(
                                   c.fits, c.ours_of_tenant - c.of_tenant + c.fits
                                   - sum(c.fits) OVER (PARTITION BY c.tenant_id ORDER BY c.endpoint_id)
                               )
                           END::integer AS n
                    FROM cut c WHERE c.fits > 0
                )
                SELECT array_agg(f.tenant_id), array_agg(f.endpoint_id), array_agg(f.n)
                INTO lane_tenants, lanes, quotas FROM filled f WHERE f.n > 0;
            END IF;

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
}

VERBS = {
    # The same as a transaction by itself, which takes its role itself. A claim that a crash of the database forgets is
    # one that nobody has acted on, or a duplicate at worst: not worth the wait for the disk between an event and its
    # receiver. Anybody may call it, as it has no rights but its caller's.
    "take_deliveries(n integer, lease interval, most integer, most_of_tenant integer, in_flight integer, "
    "in_flight_of_tenant integer, busy_tenants uuid[], busy uuid[], posts integer[], held integer[], own uuid[], "
    "probe interval)": """
        RETURNS TABLE (tenant_id uuid, id uuid, claim_token uuid)
        LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, public
        AS $$
        BEGIN
            PERFORM set_config('role', 'pc_worker', true), set_config('synchronous_commit', 'off', true),
                    set_config('lock_timeout', '5s', true);
            RETURN QUERY SELECT * FROM public.claim_deliveries(
                n, lease, most, most_of_tenant, in_flight, in_flight_of_tenant, busy_tenants, busy, posts, held, own,
                probe
            );
        END
        $$""",
}


def upgrade() -> None:
    op.execute(f"DROP FUNCTION {_OLD}")
    op.execute("GRANT CREATE ON SCHEMA public TO pc_definer")
    for signature, (role, definition) in FUNCTIONS.items():
        text = definition.replace("@LANES", _LANES).replace("@OTHERS", _OTHERS)
        op.execute(f"CREATE FUNCTION {signature} {text}")
        op.execute(f"ALTER FUNCTION {signature} OWNER TO pc_definer")
        op.execute("SET LOCAL ROLE pc_definer")
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO {role}")
        op.execute("RESET ROLE")
    op.execute("REVOKE CREATE ON SCHEMA public FROM pc_definer")
    for signature, definition in VERBS.items():
        op.execute(f"CREATE FUNCTION {signature} {definition}")


def downgrade() -> None:
    raise NotImplementedError("The claims before this know nothing of what other workers hold.")
