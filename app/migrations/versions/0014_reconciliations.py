"""Reconciliations: what terminals count, beside what is stored"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0014"
down_revision: str | None = "0019"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

ONE = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"
MANY = "tenant_id = ANY ((SELECT nullif(current_setting('app.tenant_ids', true), '')::uuid[])::uuid[])"
#: role -> privileges, and the rows it sees
GRANTS = {"pc_api": ("SELECT", ONE), "pc_ingest": ("SELECT, INSERT, UPDATE", MANY)}


def upgrade() -> None:
    op.create_table(
        "reconciliations",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("device_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("command_id", sa.Uuid(), nullable=True),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("round", postgresql.JSONB(), nullable=True),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("again", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("window_start", sa.DateTime(), nullable=True),
        sa.Column("window_end", sa.DateTime(), nullable=True),
        sa.Column("reported", sa.Integer(), nullable=True),
        sa.Column("stored", sa.Integer(), nullable=True),
        sa.Column("remainders", postgresql.JSONB(), server_default="[]", nullable=False),
        sa.Column("excess", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("reconciled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('UNKNOWN', 'COMPLETE', 'CHECKING', 'MISSING', 'NOT_COUNTED')",
            name=op.f("ck_reconciliations_state"),
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_reconciliations_tenant_id")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "device_id"],
            ["devices.tenant_id", "devices.id"],
            name=op.f("fk_reconciliations_tenant_id_device_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "device_id", name=op.f("pk_reconciliations")),
    )
    op.execute("ALTER TABLE reconciliations ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE reconciliations FORCE ROW LEVEL SECURITY")
    for role, (privileges, scope) in GRANTS.items():
        op.execute(f"GRANT {privileges} ON reconciliations TO {role}")
        op.execute(f"CREATE POLICY {role} ON reconciliations TO {role} USING ({scope}) WITH CHECK ({scope})")


def downgrade() -> None:
    op.drop_table("reconciliations")
