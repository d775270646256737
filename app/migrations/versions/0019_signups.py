"""Who started a trial by themselves"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0019"
down_revision: str | None = "0012c"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "signups",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("address_hash", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_signups_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_signups")),
    )
    op.create_index(op.f("ix_signups_created_at"), "signups", ["created_at"])
    op.execute("ALTER TABLE signups ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE signups FORCE ROW LEVEL SECURITY")
    op.execute("GRANT SELECT, INSERT, UPDATE ON signups TO pc_ops")
    op.execute("CREATE POLICY pc_ops ON signups TO pc_ops USING (true) WITH CHECK (true)")


def downgrade() -> None:
    op.drop_table("signups")
