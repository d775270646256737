"""Punches and their events in one call

An employee's snapshot is written with the employee, an event is stored without its cursor, and one function of the
database appends punches, events and deliveries.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import sqlalchemy as sa
from alembic import op

from app import ids

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# What the verbs of ingest and of the outbox do in the database, in one call: each round trip that an upload waits for
# costs more than the work itself. They run with the caller's rights, so row-level security holds inside.
VERBS = {
    # Give the tenants' events the next positions, in the order in which they come, and owe each endpoint that wants one
    # a delivery. The feed heads are locked in tenant order, before anything else is read: people are looked up as they
    # are under that lock, and their snapshot takes the place of the mark U+0001 in the body (JSON escapes any other).
    #
    # A delivery is due even when the endpoint is paused, as the status read here may be changing: the worker parks what
    # it may not send, under the endpoint's lock, and a resume finds it there. Parked here, it could slip past for ever.
    "log_events(tenant_ids uuid[], ids uuid[], types text[], pins text[], bodies text[], moments timestamptz[])": (
        ("pc_api", "pc_ingest"),
        """
        RETURNS TABLE (tenant_id uuid, "position" bigint, id uuid, type text, body text)
        LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, public
        AS $$
        #variable_conflict use_column
        DECLARE
            wanted uuid[] := ARRAY (SELECT DISTINCT t FROM unnest(tenant_ids) AS u (t));
            held bigint;
        BEGIN
            SELECT count(*) INTO held FROM (
                SELECT 1 FROM feed_heads h WHERE h.tenant_id = ANY (wanted) ORDER BY h.tenant_id FOR NO KEY UPDATE
            ) AS locked;
            IF held <> cardinality(wanted) THEN
                RAISE EXCEPTION 'A tenant without a feed head cannot have events.' USING ERRCODE = 'no_data_found';
            END IF;
            RETURN QUERY
            WITH happened AS MATERIALIZED (
                SELECT u.*, row_number() OVER (PARTITION BY u.tenant_id ORDER BY u.place) AS n
                FROM unnest(tenant_ids, ids, types, pins, bodies, moments) WITH ORDINALITY
                    AS u (tenant_id, id, type, pin, body, moment, place)
            ), head AS (
                UPDATE feed_heads h SET position = h.position + c.n
                FROM (SELECT p.tenant_id, count(*) AS n FROM happened p GROUP BY p.tenant_id) AS c
                WHERE h.tenant_id = c.tenant_id RETURNING h.tenant_id, h.position - c.n AS base
            ), logged AS (
                INSERT INTO events (tenant_id, position, id, type, body, created_at)
                SELECT p.tenant_id, head.base + p.n, p.id, p.type, CASE
                           WHEN p.pin IS NULL THEN p.body
                           ELSE replace(p.body, chr(1), coalesce(e.snapshot, 'null'))
                       END, p.moment
                FROM happened p JOIN head ON head.tenant_id = p.tenant_id
                LEFT JOIN employees e ON e.tenant_id = p.tenant_id AND e.pin = p.pin
                RETURNING events.tenant_id, events.position, events.id, events.type, events.body
            ), owed AS (
                INSERT INTO webhook_deliveries (
                    tenant_id, id, endpoint_id, position, event_id, event_type, status, attempt_count, due_at,
                    created_at
                )
                SELECT l.tenant_id, uuid7(), e.id, l.position, l.id, l.type, 'PENDING', 0, now(), now()
                FROM logged l JOIN webhook_endpoints e ON e.tenant_id = l.tenant_id
                WHERE e.deleted_at IS NULL AND e.status <> 'DISABLED'
                  AND (e.event_types = '{}' OR l.type = ANY (e.event_types))
                ORDER BY l.tenant_id, l.position
            )
            SELECT l.tenant_id, l.position, l.id, l.type::text, l.body::text FROM logged l
            ORDER BY l.tenant_id, l.position;
        END
        $$""",
    ),
    # Insert punches of many tenants, skip what is already there, and log an event for each that is new. Sorted by the
    # whole unique key: two writers with the same records never wait for each other in a circle.
    #
    # With `speak_for` the call is a transaction by itself and takes its role and tenants itself, so that an upload does
    # not wait for BEGIN and COMMIT to travel. Anybody may call it, as it has no rights but its caller's.
    "append_punches(tenant_ids uuid[], ids uuid[], device_ids uuid[], pins text[], local_times timestamp[], "
    "time_zones text[], punched timestamptz[], received timestamptz[], directions smallint[], state_codes integer[], "
    "verify_modes smallint[], verify_codes integer[], work_codes text[], temperatures float8[], masks boolean[], "
    "late boolean[], flag_lists text[], raws bytea[], event_ids uuid[], event_type text, bodies text[], "
    "speak_for uuid[])": (
        ("PUBLIC",),
        """
        RETURNS TABLE (tenant_id uuid, "position" bigint, id uuid, type text, body text)
        LANGUAGE plpgsql VOLATILE SECURITY INVOKER SET search_path = pg_catalog, public
        AS $$
        #variable_conflict use_column
        DECLARE
            fresh uuid[];
        BEGIN
            IF speak_for IS NOT NULL THEN
                PERFORM set_config('role', 'pc_ingest', true),
                        set_config('app.tenant_ids', speak_for::text, true),
                        set_config('lock_timeout', '5s', true);
            END IF;
            WITH stored AS (
                INSERT INTO punches (
                    tenant_id, id, device_id, pin, local_time, time_zone, punched_at, received_at, direction,
                    state_code, verify_mode, verify_code, work_code, temperature_celsius, mask_worn, buffered, flags,
                    raw
                )
                SELECT u.tenant_id, u.id, u.device_id, u.pin, u.local_time, u.time_zone, u.punched_at, u.received_at,
                       u.direction, u.state_code, u.verify_mode, u.verify_code, u.work_code, u.temperature_celsius,
                       u.mask_worn, u.buffered, string_to_array(u.flags, ','), u.raw
                FROM unnest(
                    tenant_ids, ids, device_ids, pins, local_times, time_zones, punched, received, directions,
                    state_codes, verify_modes, verify_codes, work_codes, temperatures, masks, late, flag_lists, raws
                ) AS u (
                    tenant_id, id, device_id, pin, local_time, time_zone, punched_at, received_at, direction,
                    state_code, verify_mode, verify_code, work_code, temperature_celsius, mask_worn, buffered, flags,
                    raw
                )
                ORDER BY u.tenant_id, u.device_id, u.pin, u.local_time, u.state_code
                ON CONFLICT DO NOTHING
                RETURNING punches.id
            )
            SELECT array_agg(s.id ORDER BY s.id) INTO fresh FROM stored s;
            IF fresh IS NULL THEN
                RETURN;
            END IF;
            -- By binary search: a plan made without knowing how many there are compares each with each.
            IF cardinality(fresh) < cardinality(ids) THEN
                SELECT array_agg(u.tenant_id), array_agg(u.event_id), array_agg(u.pin), array_agg(u.body),
                       array_agg(u.received_at)
                INTO tenant_ids, event_ids, pins, bodies, received
                FROM unnest(tenant_ids, ids, event_ids, pins, bodies, received)
                    AS u (tenant_id, id, event_id, pin, body, received_at)
                WHERE fresh[width_bucket(u.id, fresh)] = u.id;
            END IF;
            RETURN QUERY SELECT l.* FROM log_events(
                tenant_ids, event_ids, array_fill(event_type, ARRAY[cardinality(event_ids)]), pins, bodies, received
            ) AS l;
        END
        $$""",
    ),
}

# Row-level security is forced on the owner too, who has no policy.
_BARE = (
    "ALTER TABLE events NO FORCE ROW LEVEL SECURITY",
    'UPDATE events SET body = regexp_replace(body, \'"feed_cursor":"[^"]*",\', \'\')',
    "ALTER TABLE events FORCE ROW LEVEL SECURITY",
)


def upgrade() -> None:
    op.drop_column("feed_heads", "roster")
    op.add_column("employees", sa.Column("snapshot", sa.String(), nullable=False, server_default=""))
    op.execute("ALTER TABLE employees NO FORCE ROW LEVEL SECURITY")
    people = op.get_bind()
    for tenant_id, employee_id, name, external_id in people.execute(
        sa.text("SELECT tenant_id, id, name, external_id FROM employees")
    ).all():
        shown = orjson.dumps({"id": ids.show("emp", employee_id), "name": name, "external_id": external_id}).decode()
        people.execute(
            sa.text("UPDATE employees SET snapshot = :shown WHERE tenant_id = :tenant AND id = :id"),
            {"shown": shown, "tenant": tenant_id, "id": employee_id},
        )
    op.execute("ALTER TABLE employees FORCE ROW LEVEL SECURITY")
    op.alter_column("employees", "snapshot", server_default=None)
    for statement in _BARE:
        op.execute(statement)
    for signature, (roles, definition) in VERBS.items():
        op.execute(f"CREATE FUNCTION {signature} {definition}")
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO {', '.join(roles)}")


def downgrade() -> None:
    # Events keep their bodies without a cursor: the version before would send them so.
    for signature in reversed(VERBS):
        op.execute(f"DROP FUNCTION {signature}")
    op.drop_column("employees", "snapshot")
    op.add_column("feed_heads", sa.Column("roster", sa.BigInteger(), server_default="0", nullable=False))
