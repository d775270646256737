"""Commands for devices"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0011"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

ONE = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"
MANY = "tenant_id = ANY ((SELECT nullif(current_setting('app.tenant_ids', true), '')::uuid[])::uuid[])"
#: role -> privileges, and the rows it sees
GRANTS = {
    "pc_api": ("SELECT, INSERT, UPDATE", ONE),
    "pc_ingest": ("SELECT, INSERT, UPDATE", MANY),
    "pc_ops": ("SELECT", "true"),
}
OPEN = sa.text("status IN ('QUEUED', 'SENT')")


def upgrade() -> None:
    op.create_table(
        "device_commands",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("device_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("arguments", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("return_code", sa.Integer(), nullable=True),
        sa.Column("output", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status IN ('QUEUED', 'SENT', 'SUCCEEDED', 'FAILED', 'EXPIRED', 'CANCELLED')",
            name=op.f("ck_device_commands_status"),
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_device_commands_tenant_id")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "device_id"],
            ["devices.tenant_id", "devices.id"],
            name=op.f("fk_device_commands_tenant_id_device_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_device_commands")),
    )
    op.create_index(
        op.f("ix_device_commands_tenant_id_device_id_id"), "device_commands", ["tenant_id", "device_id", "id"]
    )
    op.create_index("uq_device_commands_number", "device_commands", ["tenant_id", "device_id", "number"], unique=True)
    op.create_index(
        "ix_device_commands_open", "device_commands", ["tenant_id", "device_id", "id"], postgresql_where=OPEN
    )
    op.create_index("ix_device_commands_expires", "device_commands", ["expires_at"], postgresql_where=OPEN)
    op.create_index(op.f("ix_device_commands_tenant_id_moved_at"), "device_commands", ["tenant_id", "moved_at"])
    op.execute("ALTER TABLE device_commands ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE device_commands FORCE ROW LEVEL SECURITY")
    for role, (privileges, scope) in GRANTS.items():
        op.execute(f"GRANT {privileges} ON device_commands TO {role}")
        op.execute(f"CREATE POLICY {role} ON device_commands TO {role} USING ({scope}) WITH CHECK ({scope})")


def downgrade() -> None:
    op.drop_table("device_commands")
