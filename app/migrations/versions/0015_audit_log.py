"""Who did what: a log that the application may add to and read, and not change"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0015"
down_revision: str | None = "0014c"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

_ONE = "tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid"
# Nobody of the application may update or delete. pc_definer, as which no process connects, may remove what is old: the
# owner becomes it by hand.
GRANTS = {
    "pc_api": ("SELECT, INSERT", _ONE),
    "pc_ops": ("INSERT", "true"),
    "pc_definer": ("SELECT, DELETE", "true"),
}
INDEXES = {"target": "target_id", "key": "key_id", "action": "action"}


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("target_kind", sa.String(), nullable=True),
        sa.Column("target_id", sa.Uuid(), nullable=True),
        sa.Column("detail", postgresql.JSONB(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("source IN ('API', 'DASHBOARD', 'CLI', 'SIGNUP')", name=op.f("ck_audit_entries_source")),
        sa.CheckConstraint("(target_kind IS NULL) = (target_id IS NULL)", name=op.f("ck_audit_entries_target")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_audit_entries_tenant_id")),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_audit_entries")),
    )
    for name, column in INDEXES.items():
        op.create_index(f"ix_audit_entries_{name}", "audit_entries", ["tenant_id", column, "id"])
    op.execute("ALTER TABLE audit_entries ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE audit_entries FORCE ROW LEVEL SECURITY")
    for role, (privileges, scope) in GRANTS.items():
        op.execute(f"GRANT {privileges} ON audit_entries TO {role}")
        op.execute(f"CREATE POLICY {role} ON audit_entries TO {role} USING ({scope}) WITH CHECK ({scope})")


def downgrade() -> None:
    raise NotImplementedError("The log would be lost.")
