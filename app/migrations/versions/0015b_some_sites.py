"""A role that reads a few sites of a tenant and nothing else of it: for the browsers of those sites"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op

revision: str = "0015b"
down_revision: str | None = "0013b"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

ROLE = "pc_stream"
TENANT = "{column} = nullif(current_setting('app.tenant_id', true), '')::uuid"
THERE = "{column} = ANY ((SELECT nullif(current_setting('app.site_ids', true), '')::uuid[])::uuid[])"
# Devices are asked for under their own policy, so these are the ones that stand there now.
OF_DEVICES = "device_id IN (SELECT d.id FROM devices d)"

#: table -> what besides the tenant must hold
POLICIES = {
    "tenants": None,
    "api_keys": None,
    "employees": None,
    "sites": THERE.format(column="id"),
    "devices": THERE.format(column="site_id"),
    "punches": OF_DEVICES,
    "device_commands": OF_DEVICES,
    "rejected_records": OF_DEVICES,
    "terminal_users": OF_DEVICES,
    "placements": OF_DEVICES,
    "reconciliations": OF_DEVICES,
}


def upgrade() -> None:
    op.execute(f"""
        DO $$ BEGIN
            CREATE ROLE {ROLE} NOLOGIN NOINHERIT;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END $$""")
    op.execute(f"""
        DO $$ BEGIN
            IF current_setting('server_version_num')::int >= 160000 THEN
                EXECUTE 'GRANT {ROLE} TO CURRENT_USER WITH INHERIT FALSE, SET TRUE';
            ELSE
                EXECUTE 'GRANT {ROLE} TO CURRENT_USER';
            END IF;
        END $$""")
    op.execute(f"GRANT USAGE ON SCHEMA public TO {ROLE}")
    for table, besides in POLICIES.items():
        scope = TENANT.format(column="id" if table == "tenants" else "tenant_id")
        scope = f"{scope} AND {besides}" if besides else scope
        op.execute(f"GRANT SELECT ON {table} TO {ROLE}")
        op.execute(f"CREATE POLICY {ROLE} ON {table} TO {ROLE} USING ({scope}) WITH CHECK (false)")


def downgrade() -> None:
    for table in POLICIES:
        op.execute(f"DROP POLICY {ROLE} ON {table}")
        op.execute(f"REVOKE ALL ON {table} FROM {ROLE}")
    op.execute(f"REVOKE USAGE ON SCHEMA public FROM {ROLE}")
