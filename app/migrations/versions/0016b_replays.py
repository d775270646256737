"""A period of events can be sent again, and finished deliveries are removed in time"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0016b"
down_revision: str | None = "0012"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

_ONE = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"
_MANY = "tenant_id = ANY ((SELECT nullif(current_setting('app.tenant_ids', true), '')::uuid[])::uuid[])"
GRANTS = {
    "pc_api": ("SELECT, INSERT", _ONE),
    "pc_worker": ("SELECT, UPDATE", _MANY),
    "pc_definer": ("SELECT, DELETE", "true"),
}

FUNCTIONS = {
    # Whose replays wait for their next step? Their rows are then read under the tenant's own policy.
    "running_replays(n integer)": """
        RETURNS TABLE (tenant_id uuid, id uuid)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public
        AS $$
            SELECT r.tenant_id, r.id FROM public.webhook_replays r
            WHERE r.status = 'RUNNING' ORDER BY r.paced_at LIMIT n
        $$""",
    # Remove up to n deliveries of each tenant that ended so long ago, with their attempts, and as many replays. Ids are
    # made in the order of time, so what is old enough is at one end of each tenant's.
    "forget_deliveries(n integer, older interval)": """
        RETURNS integer
        LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, public
        AS $$
        DECLARE
            moment timestamptz := now() - older;
            bound uuid := (
                lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '70008000000000000000'
            )::uuid;
            removed integer := 0;
            more integer;
            whose uuid;
            old uuid[];
        BEGIN
            FOR whose IN SELECT t.id FROM public.tenants t LOOP
                old := ARRAY (
                    SELECT d.id FROM public.webhook_deliveries d
                    WHERE d.tenant_id = whose AND d.id < bound AND d.completed_at < moment
                      AND d.status IN ('DELIVERED', 'EXHAUSTED', 'CANCELLED')
                    ORDER BY d.id LIMIT n FOR UPDATE SKIP LOCKED
                );
                CONTINUE WHEN old = '{}';
                DELETE FROM public.webhook_attempts a WHERE a.tenant_id = whose AND a.delivery_id = ANY (old);
                DELETE FROM public.webhook_deliveries d WHERE d.tenant_id = whose AND d.id = ANY (old);
                GET DIAGNOSTICS more = ROW_COUNT;
                removed := removed + more;
            END LOOP;
            DELETE FROM public.webhook_replays r WHERE r.status <> 'RUNNING' AND r.completed_at < moment;
            RETURN removed;
        END
        $$""",
}


def upgrade() -> None:
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "webhook_replays",
        sa.Column("since", moment, nullable=False),
        sa.Column("until", moment, nullable=False),
        sa.Column("event_types", postgresql.ARRAY(sa.String()), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("last_position", sa.BigInteger(), nullable=False),
        sa.Column("paced_at", moment, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("completed_at", moment, nullable=True),
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("only_undelivered", sa.Boolean(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=True),
        sa.Column("dealt", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.CheckConstraint("status IN ('RUNNING', 'COMPLETED', 'CANCELLED')", name=op.f("ck_webhook_replays_status")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "endpoint_id"],
            ["webhook_endpoints.tenant_id", "webhook_endpoints.id"],
            name=op.f("fk_webhook_replays_tenant_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_webhook_replays")),
    )
    op.create_index(
        "ix_webhook_replays_running",
        "webhook_replays",
        ["paced_at"],
        postgresql_where=sa.text("status = 'RUNNING'"),
    )
    op.add_column("webhook_deliveries", sa.Column("replay_id", sa.Uuid(), nullable=True))
    op.create_index(
        "ix_webhook_deliveries_replay",
        "webhook_deliveries",
        ["tenant_id", "replay_id"],
        postgresql_where=sa.text("replay_id IS NOT NULL AND status IN ('PENDING', 'SENDING')"),
    )
    op.create_index("ix_webhook_deliveries_position", "webhook_deliveries", ["tenant_id", "position"])
    op.execute("ALTER TABLE webhook_replays ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE webhook_replays FORCE ROW LEVEL SECURITY")
    for role, (privileges, scope) in GRANTS.items():
        op.execute(f"GRANT {privileges} ON webhook_replays TO {role}")
        op.execute(f"CREATE POLICY {role} ON webhook_replays TO {role} USING ({scope}) WITH CHECK ({scope})")
    op.execute("GRANT DELETE ON webhook_deliveries TO pc_definer")
    op.execute("GRANT SELECT, DELETE ON webhook_attempts TO pc_definer")
    op.execute("CREATE POLICY pc_definer ON webhook_attempts TO pc_definer USING (true) WITH CHECK (true)")
    op.execute("GRANT CREATE ON SCHEMA public TO pc_definer")
    for signature, definition in FUNCTIONS.items():
        op.execute(f"CREATE FUNCTION {signature} {definition}")
        op.execute(f"ALTER FUNCTION {signature} OWNER TO pc_definer")
        op.execute("SET LOCAL ROLE pc_definer")
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO pc_worker")
        op.execute("RESET ROLE")
    op.execute("REVOKE CREATE ON SCHEMA public FROM pc_definer")


def downgrade() -> None:
    raise NotImplementedError("Replays that run would be lost.")
