"""People on terminals: who shall be there, who is, and who registered a finger"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0011b"
down_revision: str | None = "0016"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

ONE = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"
MANY = "tenant_id = ANY ((SELECT nullif(current_setting('app.tenant_ids', true), '')::uuid[])::uuid[])"
SCOPE = {"pc_api": ONE, "pc_ingest": MANY}
#: table -> role -> privileges
GRANTS = {
    "placements": {"pc_api": "SELECT, INSERT, UPDATE, DELETE", "pc_ingest": "SELECT, UPDATE, DELETE"},
    "terminal_users": {"pc_api": "SELECT", "pc_ingest": "SELECT, INSERT, UPDATE, DELETE"},
    "biometric_enrollments": {"pc_ingest": "SELECT, INSERT"},
}


def _of_device(table: str) -> list[sa.Constraint]:
    return [
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f(f"fk_{table}_tenant_id")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "device_id"],
            ["devices.tenant_id", "devices.id"],
            name=op.f(f"fk_{table}_tenant_id_device_id"),
        ),
    ]


def upgrade() -> None:
    op.create_table(
        "placements",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("device_id", sa.Uuid(), nullable=False),
        sa.Column("pin", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("due", sa.String(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("acknowledged", sa.Boolean(), nullable=False),
        sa.Column("written", postgresql.JSONB(), nullable=True),
        sa.Column("command_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('WANTED', 'CONFIRMED', 'REMOVING', 'FAILED')", name=op.f("ck_placements_state")),
        sa.CheckConstraint("due IN ('WRITE', 'READ')", name=op.f("ck_placements_due")),
        *_of_device("placements"),
        sa.PrimaryKeyConstraint("tenant_id", "device_id", "pin", name=op.f("pk_placements")),
    )
    op.create_index(op.f("ix_placements_tenant_id_pin"), "placements", ["tenant_id", "pin"])
    op.create_index(
        "ix_placements_due",
        "placements",
        ["tenant_id", "device_id", "due", "pin"],
        postgresql_where=sa.text("due IS NOT NULL"),
    )
    op.create_table(
        "terminal_users",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("device_id", sa.Uuid(), nullable=False),
        sa.Column("pin", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("card", sa.String(), nullable=True),
        sa.Column("privilege", sa.String(), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        *_of_device("terminal_users"),
        sa.PrimaryKeyConstraint("tenant_id", "device_id", "pin", name=op.f("pk_terminal_users")),
    )
    op.create_table(
        "biometric_enrollments",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("device_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("pin", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("local_time", sa.DateTime(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        *_of_device("biometric_enrollments"),
        sa.PrimaryKeyConstraint("tenant_id", "device_id", "digest", name=op.f("pk_biometric_enrollments")),
    )
    for table, roles in GRANTS.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        for role, privileges in roles.items():
            op.execute(f"GRANT {privileges} ON {table} TO {role}")
            op.execute(f"CREATE POLICY {role} ON {table} TO {role} USING ({SCOPE[role]}) WITH CHECK ({SCOPE[role]})")


def downgrade() -> None:
    for table in reversed(GRANTS):
        op.drop_table(table)
