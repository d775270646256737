"""Packets of answers wait in the database until the answer is whole"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0021"
down_revision: str | None = "0020"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

MANY = "tenant_id = ANY ((SELECT nullif(current_setting('app.tenant_ids', true), '')::uuid[])::uuid[])"
#: role -> privileges, and the rows it sees
GRANTS = {"pc_ingest": ("SELECT, INSERT, UPDATE, DELETE", MANY), "pc_ops": ("SELECT, DELETE", "true")}


def upgrade() -> None:
    op.create_table(
        "answer_packets",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("device_id", sa.Uuid(), nullable=False),
        sa.Column("answer", sa.String(), nullable=False),
        sa.Column("table_name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('WAITING', 'LEFT', 'READ')", name=op.f("ck_answer_packets_state")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_answer_packets_tenant_id")),
        sa.ForeignKeyConstraint(
            ["tenant_id", "device_id"],
            ["devices.tenant_id", "devices.id"],
            name=op.f("fk_answer_packets_tenant_id_device_id"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_answer_packets")),
    )
    op.create_index(
        "uq_answer_packets_number",
        "answer_packets",
        ["tenant_id", "device_id", "answer", "table_name", "number"],
        unique=True,
        postgresql_where=sa.text("state <> 'LEFT'"),
    )
    op.create_index(
        "ix_answer_packets_device",
        "answer_packets",
        ["tenant_id", "device_id"],
        postgresql_where=sa.text("state <> 'READ'"),
    )
    op.create_index(
        "ix_answer_packets_read", "answer_packets", ["received_at"], postgresql_where=sa.text("state = 'READ'")
    )
    op.execute("ALTER TABLE answer_packets ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE answer_packets FORCE ROW LEVEL SECURITY")
    for role, (privileges, scope) in GRANTS.items():
        op.execute(f"GRANT {privileges} ON answer_packets TO {role}")
        op.execute(f"CREATE POLICY {role} ON answer_packets TO {role} USING ({scope}) WITH CHECK ({scope})")


def downgrade() -> None:
    raise NotImplementedError("Packets that wait would be lost.")
