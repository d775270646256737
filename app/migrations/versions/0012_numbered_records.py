"""The security dialect: a record's number tells it from another

Where a unit numbers its records, two that agree in everything else are two punches.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011b"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

RECORD = ["tenant_id", "device_id", "pin", "local_time", "state_code"]
# As before, with the numbers. None at all pads with nulls: most batches hold none. A server of the version before,
# which does not name them, calls this one too.
APPEND = """
CREATE FUNCTION append_punches(
    tenant_ids uuid[], ids uuid[], device_ids uuid[], pins text[], local_times timestamp[], time_zones text[],
    punched timestamptz[], received timestamptz[], directions smallint[], state_codes integer[],
    verify_modes smallint[], verify_codes integer[], work_codes text[], temperatures float8[], masks boolean[],
    late boolean[], flag_lists text[], raws bytea[], event_ids uuid[], event_type text, bodies text[],
    speak_for uuid[] DEFAULT NULL, indices bigint[] DEFAULT NULL
)
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
                    raw, record_index
                )
                SELECT u.tenant_id, u.id, u.device_id, u.pin, u.local_time, u.time_zone, u.punched_at, u.received_at,
                       u.direction, u.state_code, u.verify_mode, u.verify_code, u.work_code, u.temperature_celsius,
                       u.mask_worn, u.buffered, string_to_array(u.flags, ','), u.raw, u.record_index
                FROM unnest(
                    tenant_ids, ids, device_ids, pins, local_times, time_zones, punched, received, directions,
                    state_codes, verify_modes, verify_codes, work_codes, temperatures, masks, late, flag_lists, raws,
                    indices
                ) AS u (
                    tenant_id, id, device_id, pin, local_time, time_zone, punched_at, received_at, direction,
                    state_code, verify_mode, verify_code, work_code, temperature_celsius, mask_worn, buffered, flags,
                    raw, record_index
                )
                ORDER BY u.tenant_id, u.device_id, u.pin, u.local_time, u.state_code, u.record_index
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
        $$
"""


def upgrade() -> None:
    op.add_column("punches", sa.Column("record_index", sa.BigInteger(), nullable=True))
    op.drop_index("uq_punches_record", table_name="punches")
    op.create_index(
        "uq_punches_record", "punches", [*RECORD, "record_index"], unique=True, postgresql_nulls_not_distinct=True
    )
    op.execute("DROP FUNCTION append_punches")
    op.execute(APPEND)
    # It runs with the caller's rights, and takes its role itself: who may call it does not matter.
    op.execute("GRANT EXECUTE ON FUNCTION append_punches TO PUBLIC")


def downgrade() -> None:
    raise NotImplementedError("Punches that differ in their number alone would be lost.")
